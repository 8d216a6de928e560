//! Serving connections, in the phases of a turn: receive, execute, commit, send.

use std::collections::VecDeque;
use std::io;

use mio::Token;
use mio::event::Event;

use super::batch::{Batch, Entry};
use super::close::BY_PEER;
use super::{EventLoop, become_link};
use crate::http::Context;
use crate::net::connection::{Admission, Held, Security, Stage};
use crate::net::limits::{BATCH_BYTES, HANDSHAKE_BYTES, LOG_BUFFER, READ_CHUNK, TURN_BYTES};
use crate::net::session::Session;
use crate::net::token::{key, token_of};
use crate::node::store::Gated;
use crate::node::{self, Blocked, Input, Next};
use crate::time::Now;

/// The fate of a connection that has been served.
pub(super) enum Disposition {
    Keep,
    /// Everything is sent and nothing more comes.
    Close,
    /// The last reply is sent: shut down the sending side and discard input for a moment.
    Drain,
}

impl EventLoop {
    /// Sets the readiness flags of the connection that an event is about, and adds it to `fresh`
    /// unless it is in the run queue already: such a connection has a share of this turn.
    pub(super) fn handle_event(
        &mut self,
        token: Token,
        event: &Event,
        fresh: &mut VecDeque<Token>,
        now: &Now,
    ) {
        // None: it was closed in this very turn.
        let Some(connection) = self.get(token) else { return };
        let readiness = &mut connection.readiness;
        readiness.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        readiness.writable |= event.is_writable() || event.is_error();
        readiness.read_closed |= event.is_read_closed() || event.is_error();
        let reset = event.is_error() || (event.is_read_closed() && event.is_write_closed());
        if matches!(&connection.stage, Stage::Open(session) if reset && session.is_waiting()) {
            return self.close(token, now, "connection reset by peer");
        }
        if !std::mem::replace(&mut connection.queued, true) {
            fresh.push_back(token);
        }
    }

    /// Serves connections in batches until clients have used up what a turn allows. Returns the
    /// clients that are left. Neighbors, and connections that may turn out to be neighbors, are
    /// served in any case.
    pub(super) fn serve(&mut self, tokens: VecDeque<Token>, now: &Now) -> VecDeque<Token> {
        let mut left = VecDeque::new();
        for token in tokens {
            let spent = self.run.spent >= TURN_BYTES;
            let Some(connection) = self.get(token) else { continue };
            if spent && connection.is_client() {
                left.push_back(token);
                continue;
            }
            connection.queued = false;
            self.receive(token, now);
            if self.batch.is_full() {
                self.finish_batch();
            }
        }
        self.finish_batch();
        left
    }

    /// Phase 1: brings the input of a connection into the batch.
    fn receive(&mut self, token: Token, now: &Now) {
        let Some(connection) = self.get(token) else { return };
        let dialing = matches!(connection.stage, Stage::Dialing(_));
        let received = match connection.stage {
            Stage::Dialing(_) => self.finish_dial(token, now),
            Stage::Open(_) => self.read(token, now),
            Stage::Draining => return self.discard_input(token, now),
        };
        match received {
            // Those in the batch have their timers set once their replies are sent.
            Ok(()) if self.batch.contains_last(token) => {}
            Ok(()) => self.set_timer(token),
            Err(error) => {
                self.telemetry.counters.connection_errors += u64::from(!dialing);
                self.close(token, now, &error);
            }
        }
    }

    /// Reads what the session needs. The connection has an entry in the batch afterwards, unless its
    /// TLS handshake is under way or it has failed.
    pub(super) fn read(&mut self, token: Token, now: &Now) -> io::Result<()> {
        let Self { connections, node, devices, batch, telemetry, limits, peer_tls, run, .. } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Ok(()) };
        if !matches!(connection.security, Security::Plain | Security::Tls(_)) {
            let names = node.herd.identity().names.iter().map(|name| &**name);
            let is_client = connection.is_client();
            let accept = || match (devices, peer_tls) {
                (Some(devices), _) if is_client => {
                    run.spent += HANDSHAKE_BYTES;
                    devices.accept()
                }
                (_, Some(peer_tls)) => peer_tls.accept(),
                _ => Err(io::ErrorKind::Unsupported.into()),
            };
            if !connection.secure(accept, names, now.instant)? {
                return Ok(());
            }
        }
        connection.flush(now.instant)?;
        if connection.held.is_some() {
            batch.push_idle(token);
            return Ok(());
        }
        let held = connection.input.len();
        let read = match connection.next {
            Next::NeedInput if connection.readiness.readable => {
                let room = match connection.link() {
                    Some(_) => held + READ_CHUNK,
                    None => limits.max_input_buffer,
                };
                connection.read(&mut batch.free()[held..room])?
            }
            _ => 0,
        };
        telemetry.counters.received_bytes += read as u64;
        let runs = match connection.next {
            Next::NeedInput => read > 0 || connection.readiness.ended,
            Next::Yielded | Next::Blocked(_) => true,
            Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => false,
        };
        if runs {
            batch.free()[..held].copy_from_slice(&connection.input);
            batch.push(token, held + read);
        } else {
            batch.push_idle(token);
        }
        Ok(())
    }

    /// Phases 2 to 4 for the connections in the batch. Replies leave as soon as they fill
    /// [`BATCH_BYTES`], so that they are still in the processor's cache when they are sent.
    fn finish_batch(&mut self) {
        if self.batch.entries.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        // Commands count as received when their batch is executed.
        let now = self.clock.now();
        self.node.message_log.set_clock(now.wall.nanos());
        self.prefetch(&batch);
        let mut first = 0;
        for at in 0..batch.entries.len() {
            self.execute(&mut batch, at, &now);
            if batch.outbound.len() >= BATCH_BYTES {
                self.commit(&now);
                self.send(&mut batch, first..at + 1, &now);
                first = at + 1;
            }
        }
        self.commit(&now);
        let rest = first..batch.entries.len();
        self.send(&mut batch, rest, &now);
        batch.clear();
        self.batch = batch;
        if self.node.message_log.lines().len() >= LOG_BUFFER {
            self.write_log(now.instant);
        }
    }

    /// Brings the records that the first command of each connection needs into the processor's
    /// cache, all at once, so that the misses overlap. Changes nothing.
    fn prefetch(&mut self, batch: &Batch) {
        if batch.entries.len() < 2 || !self.node.prefetches() {
            return;
        }
        let Self { connections, node, .. } = self;
        let first_client = |entry: &Entry| {
            let Stage::Open(session) = &connections.get(key(entry.token).0)?.stage else {
                return None;
            };
            session.first_client(&batch.inbound[entry.input.clone()?])
        };
        node.prefetch(batch.entries.iter().filter_map(first_client));
    }

    /// Phase 2: executes the input of one entry. Replies are appended to the batch.
    fn execute(&mut self, batch: &mut Batch, at: usize, now: &Now) {
        let Self { connections, node, http, devices, feed, .. } = self;
        let Self { telemetry, admissions, run, reload, .. } = self;
        let entry = &mut batch.entries[at];
        let Some(range) = entry.input.clone() else { return };
        let Some(connection) = connections.get_mut(key(entry.token).0) else { return };
        let bytes = &batch.inbound[range];
        let is_client = connection.is_client();
        if is_client && run.spent >= TURN_BYTES {
            connection.next = Next::Yielded;
            return connection.keep_input(bytes, false, None, now.instant);
        }
        let ended = connection.readiness.ended;
        let Stage::Open(session) = &mut connection.stage else { return };
        let devices = devices.as_mut().map(|devices| &mut devices.shared);
        // A session of devices reads no statistics, and all others do not change the devices.
        let (changed, read) = match (&session, devices) {
            (Session::Device(_), devices) => (devices, None),
            (_, devices) => (None, devices.map(|devices| &*devices)),
        };
        let stats = telemetry.stats(admissions.clients(), read, reload, feed.as_ref());
        let mut cx = Context { node, http, shell: &stats, now };
        let input = Input { bytes, ended, unsent: connection.output.len() };
        let start = batch.outbound.len();
        let handled = session.handle_input(&mut cx, changed, input, &mut batch.outbound);
        let received = session.received();
        entry.output = start..batch.outbound.len();
        entry.gated = session.take_gated();
        connection.next = handled.next;
        connection.times.active = now.instant;
        connection.stall_counted &= handled.next != Next::NeedInput;
        let rest = &bytes[handled.consumed..];
        connection.keep_input(rest, handled.consumed > 0, received, now.instant);
        if is_client || connection.is_client() {
            run.spent += handled.consumed + entry.output.len();
        }
    }

    /// Phase 3: everything that must have happened before a reply may leave, once for all
    /// connections whose replies are sent next.
    fn commit(&mut self, now: &Now) {
        while let Some(event) = self.node.poll_event() {
            self.handle_node_event(&event, now);
        }
        if let (Some(disk), Some(store)) = (&self.disk, &mut self.node.store) {
            disk.write(&mut store.storage, now.instant);
        }
    }

    fn handle_node_event(&mut self, event: &node::Event, now: &Now) {
        match *event {
            node::Event::HandshakeFailed { link, ref label, ref reason } => {
                self.log_handshake_failure(link, label, reason);
            }
            node::Event::HandshakeStarted { connection } => {
                if let Some(connection) = self.get(token_of(connection)) {
                    connection.times.since = now.instant;
                }
            }
            node::Event::Linked { connection, link } => {
                // None: a dialed connection failed at its first write or read.
                let token = token_of(connection);
                let Some(connection) = self.get(token) else { return };
                let admission = std::mem::replace(&mut connection.admission, Admission::Exempt);
                let address = connection.address.ip();
                let is_tls = matches!(connection.security, Security::Tls(_));
                self.admissions.leave(admission, address);
                if self.links_are_mixed() {
                    self.neighbors[link.index()].over_tls = is_tls;
                }
                let Self { connections, node, limits, neighbors, link_buffer, .. } = self;
                become_link(&connections[key(token).0], limits, *link_buffer);
                neighbors[link.index()].reported.clear();
                node.set_link_failure(link, None);
            }
            node::Event::NotMoved { link, ref label, ref reason } => {
                self.log_not_moved(link, &String::from_utf8_lossy(label), reason);
            }
            _ => super::report::log_event(event),
        }
    }

    /// Phase 4: sends the replies of some entries, and decides what to do with their connections.
    fn send(&mut self, batch: &mut Batch, range: core::ops::Range<usize>, now: &Now) {
        for entry in &batch.entries[range] {
            let Some(connection) = self.get(entry.token) else { continue };
            let end = entry.gated.map_or(entry.output.end, |gated| gated.from);
            let output = &batch.outbound[entry.output.start..end];
            let sent =
                if output.is_empty() { Ok(()) } else { connection.send(output, now.instant) };
            match (entry.gated, &sent) {
                (Some(Gated { is_refused: true, .. }), Ok(())) => {
                    self.refuse_update(entry.token, now);
                }
                (Some(Gated { position, is_update, .. }), Ok(())) => {
                    let bytes = batch.outbound[end..entry.output.end].to_vec();
                    self.hold(entry.token, Held { is_update, bytes }, position);
                }
                _ => {}
            }
            match sent.map(|()| self.settle(entry.token)) {
                Ok(Disposition::Keep) => self.set_timer(entry.token),
                Ok(Disposition::Close) => self.close(entry.token, now, BY_PEER),
                Ok(Disposition::Drain) => self.drain(entry.token, now),
                Err(error) => {
                    self.telemetry.counters.connection_errors += 1;
                    self.close(entry.token, now, &error);
                }
            }
        }
        batch.outbound.clear();
    }

    /// Decides what to do with a connection after its replies have been sent as far as possible.
    fn settle(&mut self, token: Token) -> Disposition {
        let Self { connections, telemetry, run, .. } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Disposition::Keep };
        let counters = &mut telemetry.counters;
        counters.sent_bytes += std::mem::take(&mut connection.sent);
        let unsent = connection.has_unsent();
        let goes_on = match connection.next {
            _ if connection.held.is_some() => false,
            Next::CloseWhenFlushed if !unsent => return Disposition::Close,
            Next::ShutdownWhenFlushed if !unsent => return Disposition::Drain,
            // The subscriber has half-closed: the session ends the stream.
            Next::Blocked(Blocked::Events) if connection.readiness.read_closed => {
                connection.readiness.ended = true;
                true
            }
            Next::NeedInput => connection.readiness.readable,
            Next::Yielded => true,
            // The socket has taken everything at once.
            Next::Blocked(Blocked::Output) => !unsent,
            Next::Blocked(_) | Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => false,
        };
        let stalls = match connection.next {
            _ if connection.held.is_some() => None,
            Next::Blocked(Blocked::Output) if unsent => Some(&mut counters.output_stalls),
            Next::Blocked(Blocked::Places | Blocked::Crowded) => Some(&mut counters.whatsat_stalls),
            _ => None,
        };
        if let Some(stalls) = stalls {
            *stalls += u64::from(!std::mem::replace(&mut connection.stall_counted, true));
        }
        if goes_on {
            run.push(connection, token);
        } else if connection.next == Next::Blocked(Blocked::Crowded) && connection.held.is_none() {
            run.starve(connection, token);
        }
        Disposition::Keep
    }
}
