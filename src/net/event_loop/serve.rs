//! One connection: what its events mean, what it may do in a turn, and how it ends.

use crate::herd::LinkId;
use crate::http::Context;
use crate::limits::{
    CLIENT_BYTES_PER_TURN, EVENTS_PER_TURN, LOG_BUFFER, READ_CHUNK, READS_PER_TURN, TURN_BYTES,
};
use crate::net::connection::{Deadline, ReadOutcome, Security, Stage};
use crate::net::log_file::clock;
use crate::net::metrics::LoopStats;
use crate::node::{Next, Now, Stall};
use crate::protocol::reply::TOO_MANY_CONNECTIONS;
use mio::Token;
use mio::event::Event;
use std::collections::VecDeque;
use std::io;

use super::{EventLoop, Fate, become_link, farewell, key, send, uncount};

impl EventLoop {
    pub(super) fn handle_event(&mut self, token: Token, event: &Event, now: &Now) {
        // None: it has gone in this very turn.
        let Some(connection) = self.get(token) else { return };
        connection.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        connection.writable |= event.is_writable() || event.is_error();
        connection.read_closed |= event.is_read_closed() || event.is_error();
        // Both directions are dead: whoever it was has hung up on what it asked for.
        let gone = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        if matches!(&connection.stage, Stage::Open(session) if gone && session.is_waiting()) {
            return self.close(token, now, "it hung up");
        }
        // Whoever is in the run queue has a share of this turn already, or has had it.
        if connection.is_client() && (connection.queued || self.given >= TURN_BYTES) {
            return self.enqueue(token);
        }
        self.serve(token, now);
    }

    /// Serves those that had more to say than the turn before allowed, until clients have been given
    /// what this one allows; those that are left come first in the next. What events brought does
    /// not count, or new requests could keep these waiting for ever.
    pub(super) fn serve_queued(&mut self, due: VecDeque<Token>, now: &Now) {
        self.given = 0;
        self.http.begin_queue();
        let mut left = VecDeque::new();
        for token in due {
            let is_over = self.given >= TURN_BYTES;
            let Some(connection) = self.get(token) else { continue };
            if is_over && connection.is_client() {
                left.push_back(token);
                continue;
            }
            connection.queued = false;
            self.serve(token, now);
        }
        left.append(&mut self.run);
        self.run = left;
    }

    /// Does what can be done for a connection now.
    pub(super) fn serve(&mut self, token: Token, now: &Now) {
        let Some(connection) = self.get(token) else { return };
        let dialled = matches!(connection.stage, Stage::Dialling(_));
        let fate = match &connection.stage {
            Stage::Dialling(_) => self.finish_dial(token, now),
            Stage::Open(_) => self.exchange(token, now),
            Stage::Draining => self.swallow(token),
        };
        match fate {
            Ok(Fate::Keep) => self.remind(token),
            Ok(Fate::Close) => self.close(token, now, "the other end ended it"),
            Ok(Fate::Drain) => {
                let verdict = self.get(token).and_then(|connection| connection.verdict);
                self.drain(token, now, verdict.unwrap_or("the node ended it"));
            }
            Err(error) => {
                let why = error.to_string();
                self.counters.connection_errors += u64::from(!dialled);
                self.close(token, now, &why);
            }
        }
        if self.node.message_log.lines().len() >= LOG_BUFFER {
            self.write_log(now.elapsed);
        }
    }

    /// Reads, executes and replies, until the socket has nothing more, the client must wait or it
    /// has had its share of the turn.
    pub(super) fn exchange(&mut self, token: Token, now: &Now) -> io::Result<Fate> {
        let Self {
            connections,
            node,
            http,
            counters,
            log,
            turns,
            inbound,
            outbound,
            limits,
            peer_tls,
            clients,
            clients_at,
            refusals,
            link_buffer,
            neighbours,
            given,
            ..
        } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Ok(Fate::Keep) };
        if !matches!(connection.security, Security::Plain | Security::Tls(_)) {
            let names = node.herd.identity().names.iter().map(|name| &**name);
            if !connection.secure(peer_tls.as_ref(), names, now.elapsed)? {
                return Ok(Fate::Keep);
            }
        }
        connection.flush(now.elapsed)?;
        let mut share = 0;
        for _ in 0..READS_PER_TURN {
            let held = connection.input.len();
            let room = match connection.link() {
                Some(_) => held + READ_CHUNK,
                None => limits.max_input_buffer,
            };
            inbound[..held].copy_from_slice(&connection.input);
            let read = match connection.next {
                Next::Wait => 0,
                Next::Read if connection.ended => 0,
                Next::Read if connection.readable => {
                    match connection.read(&mut inbound[held..room])? {
                        ReadOutcome::Some(read) => read,
                        ReadOutcome::End => 0,
                        ReadOutcome::Blocked => break,
                    }
                }
                Next::Read | Next::Finish | Next::HangUp => break,
            };
            counters.received_bytes += read as u64;
            let was_link = connection.link().is_some();
            let Stage::Open(session) = &mut connection.stage else { break };
            let was_shaking = session.is_shaking();
            if connection.next == Next::Wait && session.is_full(node, http, connection.output.len())
            {
                break;
            }
            // What the socket has not taken stays in front.
            let mut backlog = std::mem::take(&mut connection.output);
            let out = if backlog.is_empty() { &mut *outbound } else { &mut backlog };
            let received = Now { elapsed: now.elapsed, clock: clock() };
            let input = &inbound[..held + read];
            let shell = LoopStats { counters, clients: *clients, turns, log };
            let mut cx = Context { node, http, shell: &shell, now: &received };
            let owed = out.len();
            let (consumed, next) = session.receive(&mut cx, input, connection.ended, out);
            let had = consumed + out.len() - owed;
            connection.next = next;
            if session.is_shaking() && !was_shaking {
                connection.since = now.elapsed;
            }
            if next == Next::Read {
                connection.stall = None;
            }
            connection.active = now.elapsed;
            connection.keep_input(&input[consumed..], consumed > 0, now.elapsed);
            connection.output = backlog;
            if connection.output.is_empty() {
                send(connection, outbound, now)?;
            } else {
                connection.flush(now.elapsed)?;
            }
            if let (false, Some(link)) = (was_link, connection.link()) {
                neighbours[link].told = None;
                become_link(connection, limits, *link_buffer);
                if std::mem::take(&mut connection.counted) {
                    *clients -= 1;
                    uncount(clients_at, connection.address.ip());
                }
                *refusals -= usize::from(std::mem::take(&mut connection.refusal));
                connection.verdict = None;
            }
            if connection.is_client() {
                (share, *given) = (share + had, *given + had);
            }
            if next == Next::Wait || share >= CLIENT_BYTES_PER_TURN {
                break;
            }
        }
        Ok(self.settle(token))
    }

    /// What becomes of a connection that has been read from as far as it may be.
    fn settle(&mut self, token: Token) -> Fate {
        let Self { connections, node, http, counters, run, .. } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Fate::Keep };
        counters.sent_bytes += std::mem::take(&mut connection.sent);
        let Stage::Open(session) = &connection.stage else { return Fate::Keep };
        if connection.read_closed && session.only_listens() {
            // It came with the request or later; nothing more will be said either way.
            return Fate::Close;
        }
        let settled = connection.is_settled();
        match connection.next {
            Next::Finish if settled => Fate::Close,
            Next::HangUp if settled => Fate::Drain,
            Next::Finish | Next::HangUp => Fate::Keep,
            Next::Read => {
                if connection.readable && !connection.queued {
                    connection.queued = true;
                    run.push_back(token);
                }
                Fate::Keep
            }
            Next::Wait => {
                let stall = session.stall(node, connection.output.len());
                match stall.filter(|_| connection.stall.is_none()) {
                    Some(Stall::Output) => counters.output_stalls += 1,
                    Some(Stall::Whatsats) => counters.whatsat_stalls += 1,
                    None => {}
                }
                connection.stall = stall.or(connection.stall);
                let full = session.is_full(node, http, connection.output.len());
                if !full && !connection.queued {
                    connection.queued = true;
                    run.push_back(token);
                } else if session.is_starved(node) && !connection.starved {
                    connection.starved = true;
                    self.starved.push_back(token);
                }
                Fate::Keep
            }
        }
    }

    /// Reads on for a moment, and forgets what it reads.
    pub(super) fn swallow(&mut self, token: Token) -> io::Result<Fate> {
        let Self { connections, inbound, .. } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Ok(Fate::Keep) };
        for _ in 0..READS_PER_TURN {
            if !connection.readable {
                return Ok(Fate::Keep);
            }
            if let ReadOutcome::End = connection.read(&mut inbound[..READ_CHUNK])? {
                return Ok(Fate::Close);
            }
        }
        self.enqueue(token);
        Ok(Fate::Keep)
    }

    /// The node has said its last word on a connection.
    pub(super) fn drain(&mut self, token: Token, now: &Now, why: &str) {
        let Some(connection) = self.connections.get_mut(key(token).0) else { return };
        connection.shut_down();
        connection.since = now.elapsed;
        connection.input = Vec::new();
        let refused = connection.refusal.then_some(connection.address);
        if let Stage::Open(mut session) = std::mem::replace(&mut connection.stage, Stage::Draining)
        {
            farewell(&mut self.node, &mut self.http, &mut session, now, why);
            if let Some(address) = refused {
                self.tell_refusal(address); // it turned out to be no peer
            }
        }
        self.serve(token, now);
    }

    pub(super) fn close(&mut self, token: Token, now: &Now, why: &str) {
        if self.get(token).is_none() {
            return;
        }
        let connection = self.connections.remove(key(token).0);
        let address = connection.address;
        self.counters.sent_bytes += connection.sent;
        match connection.stage {
            Stage::Open(mut session) => {
                let dialling = session.dialling(&self.node);
                farewell(&mut self.node, &mut self.http, &mut session, now, why);
                // A neighbour may end it because another connection has become the link.
                let is_up = |link: LinkId| self.node.herd.links()[link].up.is_some();
                if let Some(link) = dialling.filter(|&link| !is_up(link) && self.stop_at.is_none())
                {
                    self.tell_absence(link, why);
                }
            }
            Stage::Dialling(link) => self.dial_failed(link, now, why),
            Stage::Draining => {}
        }
        if connection.counted {
            self.clients -= 1;
            uncount(&mut self.clients_at, address.ip());
        }
        self.refusals -= usize::from(connection.refusal);
        // A descriptor is free: whoever waits may come.
        if let Some(at) = &mut self.accept_at {
            *at = now.elapsed;
        }
    }

    /// Sees to it that the connection is looked at when its deadline is up.
    pub(super) fn remind(&mut self, token: Token) {
        let limits = &self.limits;
        let Some(connection) = self.connections.get_mut(key(token).0) else { return };
        if let Some((when, _)) = connection.deadline(limits)
            && connection.reminder.is_none_or(|reminder| when < reminder)
        {
            connection.reminder = Some(when);
            self.timers.set(when, token);
        }
        if self.timers.len() > 2 * self.connections.len() + EVENTS_PER_TURN {
            // Mostly of connections that have gone.
            let connections = &self.connections;
            self.timers.retain(|when, token| {
                connections.get(key(token).0).is_some_and(|connection| {
                    connection.generation == key(token).1 && connection.reminder == Some(when)
                })
            });
        }
    }

    pub(super) fn handle_reminders(&mut self, now: &Now) {
        while let Some((when, token)) = self.timers.pop(now.elapsed) {
            let Some(connection) = self.get(token) else { continue };
            if connection.reminder != Some(when) {
                continue; // an earlier one took its place
            }
            connection.reminder = None;
            match self.connections[key(token).0].deadline(&self.limits) {
                Some((due, what)) if due <= now.elapsed => self.expire(token, what, now),
                _ => self.remind(token),
            }
        }
    }

    /// The time of a connection is up. What is owed is still sent to whoever reads it.
    pub(super) fn expire(&mut self, token: Token, what: Deadline, now: &Now) {
        self.counters.count_deadline(what);
        let why = what.reason();
        let Some(connection) = self.get(token) else { return };
        if what == Deadline::Drain {
            return self.close(token, now, why);
        }
        let stalled = connection.stalled_since.is_some();
        let refused = connection.refusal;
        let shaking = matches!(connection.security, Security::Shaking(_)); // understands no word
        match &mut connection.stage {
            Stage::Open(session)
                if session.link().is_none() && !session.is_shaking() && !stalled && !shaking =>
            {
                connection.next = session.hang_up();
                connection.verdict = Some(why);
                let told = if refused {
                    connection.send(TOO_MANY_CONNECTIONS, now.elapsed)
                } else {
                    Ok(())
                };
                let settled = connection.is_settled();
                match told {
                    Err(error) => self.close(token, now, &error.to_string()),
                    Ok(()) if settled => self.drain(token, now, why),
                    Ok(()) => self.serve(token, now), // when what is owed has left
                }
            }
            _ => self.close(token, now, why),
        }
    }
}
