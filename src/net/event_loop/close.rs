//! The end of connections: deadlines, draining, closing.

use mio::Token;

use super::EventLoop;
use super::reason::Reason;
use crate::herd::CloseReason;
use crate::ids::LinkId;
use crate::net::connection::{Admission, Deadline, Dial, Security, Stage};
use crate::net::limits::{DISCARD_BYTES_PER_TURN, EVENTS_PER_TURN};
use crate::net::session::Session;
use crate::net::token::key;
use crate::node::Next;
use crate::time::Now;

/// Bytes that one read of a draining connection discards.
const DISCARD_CHUNK: usize = 16 * 1024;

/// The close reason of a connection that the peer has closed, as the log shows it after `closed: `.
pub(super) const BY_PEER: &str = "by the peer";

/// The same reason for a link that is down.
const CLOSED_BY_PEER: &str = "the peer closed the connection";

impl EventLoop {
    /// Begins the graceful shutdown of a connection: nothing more is executed, and pending output
    /// is sent. This happens in the next turn.
    pub(super) fn begin_shutdown(&mut self, token: Token, reason: &'static str, now: &Now) {
        let mut out = Vec::new();
        let Some(connection) = self.get(token) else { return };
        if matches!(connection.security, Security::Handshaking(_) | Security::Expected) {
            return self.close(token, now, reason); // it cannot be sent a line yet
        }
        let Stage::Open(session) = &mut connection.stage else { return };
        session.begin_shutdown(&mut out);
        if matches!(connection.security, Security::Unknown) {
            connection.security = Security::Plain; // no byte has come that could begin TLS
        }
        connection.close_reason = Some(reason);
        connection.next = Next::Yielded; // so that the session is called again
        match connection.send(&out, now.instant) {
            Ok(()) => self.enqueue(token),
            Err(error) => self.close(token, now, &error),
        }
    }

    /// Shuts down the sending side, after the last reply, and discards input from then on.
    pub(super) fn drain(&mut self, token: Token, now: &Now) {
        let Some(connection) = self.connections.get_mut(key(token).0) else { return };
        let admission = connection.admission;
        let on_probation = admission == Admission::Probation;
        let default =
            if on_probation { Deadline::Probation.reason() } else { "closed by this node" };
        let reason = connection.close_reason.unwrap_or(default);
        connection.shut_down();
        connection.times.since = now.instant;
        connection.input = Vec::new();
        if on_probation {
            connection.admission = Admission::Refused; // it turned out not to be a peer's
        }
        let address = connection.address;
        if let Stage::Open(mut session) = std::mem::replace(&mut connection.stage, Stage::Draining)
        {
            self.on_closed(&mut session, now, reason);
            if on_probation || session.is_refused() {
                self.log_refusal(address);
            }
        }
        if admission == Admission::Reserve {
            if self.admissions.is_flooded() {
                return self.close(token, now, reason);
            }
            self.leave_reserve(token);
        }
        self.discard_input(token, now);
    }

    /// Makes room in the reserve: a connection that has its response counts as refused while it is
    /// drained.
    fn leave_reserve(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(key(token).0) else { return };
        let (address, refused) = (connection.address.ip(), Admission::Refused);
        self.admissions.leave(std::mem::replace(&mut connection.admission, refused), address);
        self.admissions.enter(refused, address, &self.limits);
    }

    /// Discards the input of a draining connection, and closes it at the end of the stream.
    pub(super) fn discard_input(&mut self, token: Token, now: &Now) {
        let Some(connection) = self.connections.get_mut(key(token).0) else { return };
        let mut discarded = [0; DISCARD_CHUNK];
        for _ in 0..DISCARD_BYTES_PER_TURN / DISCARD_CHUNK {
            match connection.read(&mut discarded) {
                Err(error) => {
                    self.telemetry.counters.connection_errors += 1;
                    return self.close(token, now, &error);
                }
                Ok(_) if connection.readiness.ended => {
                    return self.close(token, now, Deadline::Drain.reason());
                }
                Ok(_) if !connection.readiness.readable => return self.set_timer(token),
                Ok(_) => {}
            }
        }
        self.enqueue(token);
        self.set_timer(token);
    }

    /// Closes a connection at once. `reason` goes to the log.
    pub(super) fn close(&mut self, token: Token, now: &Now, reason: impl Into<Reason>) {
        let reason = &reason.into();
        if self.get(token).is_none() {
            return;
        }
        let mut connection = self.connections.remove(key(token).0);
        if connection.is_client() {
            connection.end_tls();
        }
        self.telemetry.counters.sent_bytes += connection.sent;
        match connection.stage {
            Stage::Open(mut session) => {
                let dialing = session.dialing(&self.node);
                self.on_closed(&mut session, now, reason.text());
                // A neighbor may close it because another connection has become the link.
                let is_up = |link: LinkId| self.node.herd.link(link).up.is_some();
                if let Some(link) = dialing.filter(|&link| !is_up(link) && self.stop_at.is_none()) {
                    let by_peer = reason.text() == BY_PEER;
                    let closed = Reason::from(CLOSED_BY_PEER);
                    self.log_unreachable(link, if by_peer { &closed } else { reason });
                }
            }
            Stage::Dialing(Dial { link, replaces: None }) => {
                if self.links_are_mixed() && matches!(connection.security, Security::Handshaking(_))
                {
                    self.neighbors[link.index()].over_tls = false; // it may not speak TLS any longer
                }
                self.on_dial_failed(link, now, reason);
            }
            Stage::Dialing(Dial { link, .. }) => {
                self.log_not_moved(link, &connection.address.to_string(), reason.text());
            }
            Stage::Draining => {}
        }
        self.admissions.leave(connection.admission, connection.address.ip());
        // A descriptor is free: an accept that failed for want of one may succeed.
        if let Some(at) = &mut self.accept_at {
            *at = now.instant;
        }
    }

    /// Informs the session that its connection has closed, and logs it, unless its kind is not logged.
    fn on_closed(&mut self, session: &mut Session, now: &Now, reason: &str) {
        let Self { node, http, devices, .. } = self;
        let devices = devices.as_mut().map(|devices| &mut devices.shared);
        let link = session.link().map(|link| (link, node.herd.peer_name(link).to_vec()));
        session.handle_closed(node, http, devices, now.instant);
        match link {
            Some((link, peer)) => {
                // Another connection may carry the link by now.
                let is_up = node.herd.link(link).up.is_some();
                let by_peer = if is_up { CloseReason::Moved.as_str() } else { CLOSED_BY_PEER };
                let reason = if reason == BY_PEER { by_peer } else { reason };
                if !is_up {
                    node.set_link_failure(link, Some(reason));
                }
                let closed =
                    [session.label(), b" closed, the link with ", &peer, b": ", reason.as_bytes()];
                node.message_log.line(&closed);
            }
            None if matches!(session, Session::Http(_) | Session::Device(_)) => {}
            None => node.message_log.line(&[session.label(), b" closed: ", reason.as_bytes()]),
        }
    }

    /// Sets a timer for the next deadline of a connection, unless an earlier one is set.
    pub(super) fn set_timer(&mut self, token: Token) {
        let limits = &self.limits;
        let Some(connection) = self.connections.get_mut(key(token).0) else { return };
        if let Some((when, _)) = connection.deadline(limits)
            && connection.times.timer.is_none_or(|timer| when < timer)
        {
            connection.times.timer = Some(when);
            self.timers.set(when, token);
        }
        if self.timers.len() > 2 * self.connections.len() + EVENTS_PER_TURN {
            // Most are of connections that have closed.
            let connections = &self.connections;
            self.timers.retain(|when, token| {
                connections.get(key(token).0).is_some_and(|connection| {
                    connection.generation == key(token).1 && connection.times.timer == Some(when)
                })
            });
        }
    }

    /// Handles the deadlines that had passed before events were last collected.
    pub(super) fn handle_deadlines(&mut self, now: &Now) {
        let collected = self.collected.until();
        while let Some((when, token)) = self.timers.pop(collected) {
            let Some(connection) = self.get(token) else { continue };
            if connection.times.timer != Some(when) {
                continue; // an earlier one took its place
            }
            connection.times.timer = None;
            match self.connections[key(token).0].deadline(&self.limits) {
                Some((due, deadline)) if due <= collected => self.expire(token, deadline, now),
                _ => self.set_timer(token),
            }
        }
    }

    /// Ends a connection that has missed `deadline`. Replies are still sent to a client that reads.
    pub(super) fn expire(&mut self, token: Token, deadline: Deadline, now: &Now) {
        self.telemetry.counters.count_deadline(deadline);
        let Some(connection) = self.get(token) else { return };
        let stalled = connection.times.stalled_since.is_some();
        match &connection.stage {
            Stage::Open(session)
                if session.link().is_none() && !session.is_handshaking() && !stalled =>
            {
                self.begin_shutdown(token, deadline.reason(), now);
            }
            _ => self.close(token, now, deadline.reason()),
        }
    }
}
