//! What the event loop of the program does, in virtual time: turns, timers, and connections between hosts.

use std::time::Duration;

use proxy_herd::herd::Action;
use proxy_herd::herd::handshake::Transport;
use proxy_herd::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use proxy_herd::ids::{ConnectionId, LinkId};
use proxy_herd::node::{Handled, Input, LineSession, Next, Node};
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::time::{Instant, Now, Wall};

use super::{EPOCH, Event, LONGEST_MESSAGE, World, named_host};
use crate::fences::{self, Changes};
use crate::network::{End, Packet, Wire};
use crate::schedule::{Cut, MILLISECOND, SECONDS, Schedule, Time};

impl World {
    /// The wall clock of a node.
    pub fn clock(&self, at: usize) -> Nanos {
        self.clocks(at).wall.nanos()
    }

    /// The time on a node.
    pub(super) fn clocks(&self, at: usize) -> Now {
        let host = &self.hosts[at];
        Now {
            instant: Instant::at(Duration::from_nanos(self.now - host.started)),
            wall: Wall(EPOCH * SECOND + Nanos::from(self.now) + host.clock_offset),
        }
    }

    pub(super) fn is_frozen(&self, at: usize) -> bool {
        self.hosts[at].frozen_until > self.now
    }

    /// One turn of a node's event loop, after its input.
    pub fn turn(&mut self, at: usize) {
        if self.is_frozen(at) {
            return self.wake(at, self.hosts[at].frozen_until);
        }
        let now = self.clocks(at);
        for _ in 0..1000 {
            let Some(node) = &mut self.hosts[at].node else { return };
            if node.herd.poll_timeout().is_some_and(|due| due <= now.instant) {
                // Expired records, for which others were evicted, are about to be removed.
                self.observe_each_record(at);
                let Some(node) = &mut self.hosts[at].node else { return };
                node.herd.handle_timeout(&now, now.instant);
            }
            let Some(node) = &mut self.hosts[at].node else { return };
            let Some(action) = node.herd.poll_action() else {
                if !self.flush_links(at) {
                    return self.end_turn(at);
                }
                continue;
            };
            match action {
                Action::Dial(link) => self.dial(at, link, None),
                Action::Move { link, connection, .. } => self.dial(at, link, Some(connection)),
                Action::Finish(connection) => {
                    let wire = connection.0 as usize;
                    let end = self.end_of(wire, at);
                    self.wires[wire].ends[end].ending = true;
                    self.send(wire, end);
                }
                Action::Resume(connection) => {
                    let wire = connection.0 as usize;
                    let end = self.end_of(wire, at);
                    self.wires[wire].ends[end].waiting = false;
                    self.at(self.now, Event::Arrive(wire, end));
                    self.read(wire, end);
                }
                Action::Close { connection, .. } => {
                    let wire = connection.0 as usize;
                    self.close(wire, self.end_of(wire, at), Packet::Fin);
                }
            }
        }
        self.fail(format!("a turn of n{at:02} does not end"));
    }

    /// Ends a turn: checks the node and sets its timer.
    fn end_turn(&mut self, at: usize) {
        let now = self.clocks(at);
        let host = &mut self.hosts[at];
        let Some(node) = &mut host.node else { return };
        let due = node
            .herd
            .poll_timeout()
            .map_or(Time::MAX, |due| host.started + due.uptime().as_nanos() as Time);
        if due <= self.now {
            let why = format!("a timer of n{at:02} is due again at once");
            return self.fail(why);
        }
        let (herd, directory) = (&node.herd.counters, &node.herd.directory.counters);
        let own = node.counters.iamat_stored + node.counters.forgotten;
        let expired = directory.expired + directory.tombstones_expired;
        let changes = herd.floods_received - herd.floods_duplicate
            + herd.link_sync_records
            + herd.antientropy_repairs
            + own
            + expired;
        let news_of_peers = changes - expired - own;
        let forwarded = news_of_peers + herd.relayed;
        // The sender of a record is not left out if it is one of several original servers.
        let senders = self.schedule.originals_at(at);
        let spared = u64::from(!(self.schedule.one_address && senders > 1));
        let mut most = own * host.degree + forwarded * (host.degree - spared);
        // No original server connects to a twin, but a twin links to those of the node whose name it has.
        let originals = self.schedule.originals_at(self.schedule.named(at));
        if originals > 0 {
            // A link to an original server begins with everything that is stored.
            most +=
                originals as u64 * herd.links_established * u64::from(node.herd.directory.slots());
        }
        if herd.floods_sent > most {
            let why =
                format!("n{at:02} sent {} records, expected at most {most}", herd.floods_sent);
            return self.fail(why);
        }
        // A record that is not stored is forwarded once, and again if it comes back after seconds.
        let uptime = (self.now - host.started) / (5 * SECONDS);
        let most = self.oracle.facts.len() as u64 * (1 + uptime);
        if herd.relayed > most {
            let why = format!("n{at:02} relayed {} records, expected at most {most}", herd.relayed);
            return self.fail(why);
        }
        if self.schedule.calm && herd.links_established > 2 * host.degree {
            let why = format!("n{at:02} was linked {} times", herd.links_established);
            return self.fail(why);
        }
        // Nodes that dial each other at the same time replace a link, and lose none.
        if self.schedule.calm && herd.links_lost > 0 {
            let why = format!("n{at:02} lost {} links", herd.links_lost);
            return self.fail(why);
        }
        if herd.link_sync_records != host.synced {
            host.synced = herd.link_sync_records;
            self.last_synced = self.now;
        }
        let relinks = herd.links_established + herd.links_lost;
        if relinks != host.relinks {
            host.relinks = relinks;
            self.last_relink = self.now;
        }
        if let Err(why) = host.graph.observe(node, self.now) {
            return self.fail(format!("n{at:02}: {why}"));
        }
        if let Some(why) = self.needless_work(at) {
            return self.fail(format!("n{at:02}: {why}"));
        }
        if let Some(peer) = self.forgotten_dial(at) {
            return self.fail(format!("n{at:02} believes that it is dialing n{peer:02}"));
        }
        let host = &mut self.hosts[at];
        let Some(node) = &mut host.node else { return };
        if changes != host.changes {
            host.changes = changes;
            if let Err(why) = self.oracle.observe(at, &node.herd.directory, now.wall.nanos()) {
                self.fail(format!("n{at:02}: {why}"));
                return;
            }
            if let Err(why) = fences::check(&node.herd.directory, Changes::Recent) {
                return self.fail(format!("n{at:02}: {why}"));
            }
        }
        self.wake(at, due);
    }

    /// A neighbor that a node believes it is dialing, although no attempt is under way.
    fn forgotten_dial(&self, at: usize) -> Option<usize> {
        let host = &self.hosts[at];
        let node = host.node.as_ref()?;
        let links = node.herd.links().iter().filter(|link| link.is_dialing());
        links.map(|link| named_host(node, link.peer)).find(|&peer| {
            !host.wires.iter().map(|&wire| &self.wires[wire]).any(|wire| {
                let [dialer, listener] = &wire.ends;
                let is_open = dialer.host == at && listener.host == peer && dialer.is_open();
                is_open && wire.replaces.is_none()
            })
        })
    }

    /// Schedules a turn of the node at `due`, unless it has one before.
    pub(super) fn wake(&mut self, at: usize, due: Time) {
        if due < self.hosts[at].timer {
            self.hosts[at].timer = due;
            self.at(due, Event::Timer(at));
        }
    }

    /// Dials a neighbor, to move the link from the connection that this one `replaces` if given.
    fn dial(&mut self, at: usize, link: LinkId, replaces: Option<ConnectionId>) {
        let Some(node) = &self.hosts[at].node else { return };
        let peer = named_host(node, node.herd.link(link).peer);
        let wire = self.wires.len();
        self.trace.line(self.now, || format!("n{at:02} dials n{peer:02}: wire {wire}"));
        self.wires.push(Wire::new(at, link, peer, replaces));
        self.hosts[at].wires.push(wire);
        let delay = self.delay(at, peer);
        self.at(self.now + delay, Event::Syn(wire));
        self.at(self.now + DIAL_TIMEOUT.as_nanos() as Time, Event::Deadline(wire, 0));
    }

    pub(super) fn syn(&mut self, wire: usize) {
        let [dialer, listener] = [0, 1].map(|end| self.wires[wire].ends[end].host);
        if let Some(until) = self.blocked_until(dialer, listener) {
            return self.at(until, Event::Syn(wire));
        }
        if self.is_original(listener) {
            let delay = self.delay(listener, dialer);
            return self.at(self.now + delay, Event::SynAck(wire));
        }
        if self.hosts[listener].node.is_none() {
            if self.hosts[listener].powered {
                self.push(wire, 0, Packet::Reset);
            }
            return;
        }
        let transport = Transport { loopback: true, certified: None };
        let session = LineSession::accepted(
            ConnectionId(wire as u64),
            proxy_herd::node::PeerInfo {
                label: b"peer"[..].into(),
                transport,
                legacy: self.legacy_sender(listener, dialer),
                links_only: self.wires[wire].replaces.is_some(),
                ..proxy_herd::node::PeerInfo::default()
            },
        );
        self.wires[wire].ends[1].session = Some(session);
        self.hosts[listener].wires.push(wire);
        let delay = self.delay(listener, dialer);
        self.at(self.now + delay, Event::SynAck(wire));
        self.limit_handshake(wire, 1);
    }

    /// Sets the deadline of the handshake of this end.
    fn limit_handshake(&mut self, wire: usize, end: usize) {
        self.at(self.now + HANDSHAKE_TIMEOUT.as_nanos() as Time, Event::Deadline(wire, end));
    }

    pub(super) fn syn_ack(&mut self, wire: usize) {
        let [dialer, listener] = [0, 1].map(|end| self.wires[wire].ends[end].host);
        if let Some(until) = self.blocked_until(listener, dialer) {
            return self.at(until, Event::SynAck(wire));
        }
        if self.is_original(dialer) {
            let line = std::mem::take(&mut self.wires[wire].ends[0].out);
            self.push(wire, 1, Packet::Bytes(line));
            return self.push(wire, 1, Packet::Fin);
        }
        let now = self.clocks(dialer);
        let replaces = self.wires[wire].replaces;
        let End { dialing, out, session, .. } = &mut self.wires[wire].ends[0];
        let (Some(link), Some(node)) = (dialing.take(), &mut self.hosts[dialer].node) else {
            // The dialer has given up.
            return self.push(wire, 1, Packet::Reset);
        };
        let transport = Transport { loopback: true, certified: None };
        let (id, label, at) = (ConnectionId(wire as u64), b"peer"[..].into(), now.instant);
        *session = Some(match replaces {
            None => LineSession::dialed(node, id, label, link, transport, at, out),
            Some(old) => LineSession::moving(node, id, label, link, old, transport, out),
        });
        self.limit_handshake(wire, 0);
        self.send(wire, 0);
        self.turn(dialer);
    }

    /// The time until which packets from one node do not reach the other, if they do not now.
    fn blocked_until(&self, from: usize, to: usize) -> Option<Time> {
        let blocked = self.blocked.get(&(from, to)).copied().unwrap_or(0);
        let until = blocked.max(self.hosts[to].frozen_until);
        (until > self.now).then_some(until)
    }

    pub(super) fn deadline(&mut self, wire: usize, end: usize) {
        let [host, other] = [end, 1 - end].map(|end| self.wires[wire].ends[end].host);
        if let Some(until) = self.blocked_until(host, host) {
            return self.at(until, Event::Deadline(wire, end));
        }
        let moves = self.wires[wire].replaces.is_some();
        let this = &mut self.wires[wire].ends[end];
        if let Some(link) = this.dialing.take() {
            let now = self.clocks(host);
            if let Some(node) = &mut self.hosts[host].node {
                self.trace.line(self.now, || format!("n{host:02} stops dialing n{other:02}"));
                if !moves {
                    node.herd.handle_dial_failed(link, now.instant);
                }
                self.hosts[host].wires.retain(|&held| held != wire);
                self.turn(host);
            }
        } else if this.session.as_ref().is_some_and(LineSession::is_handshaking) {
            self.close(wire, end, Packet::Fin);
            self.turn(host);
        }
    }

    /// Reads the input that has reached an end of a wire, and runs a turn of the node.
    pub fn arrive(&mut self, wire: usize, end: usize) {
        let [to, from] = [end, 1 - end].map(|end| self.wires[wire].ends[end].host);
        if self.wires[wire].black {
            self.wires[wire].pipes[end].packets.clear(); // `bytes` stays: they are never acknowledged
            return;
        }
        if let Some(until) = self.blocked_until(from, to) {
            return self.at(until, Event::Arrive(wire, end));
        }
        while !self.wires[wire].ends[end].waiting {
            let Some(packet) = self.wires[wire].pipes[end].pop(self.now) else { break };
            self.handle_packet(wire, end, packet);
        }
        self.turn(to);
        if std::mem::take(&mut self.wires[wire].pipes[end].full) && !self.is_frozen(from) {
            if self.wires[wire].ends[1 - end].is_open() {
                self.send(wire, 1 - end);
            }
            self.turn(from);
        }
    }

    /// Handles a packet that has reached an end of a wire.
    pub fn handle_packet(&mut self, wire: usize, end: usize, packet: Packet) {
        let host = self.wires[wire].ends[end].host;
        if let Packet::Bytes(bytes) = &packet {
            self.trace.line(self.now, || {
                format!("n{host:02} reads {} from wire {wire}", bytes.escape_ascii())
            });
        } else {
            self.trace.line(self.now, || format!("n{host:02} sees {packet:?} on wire {wire}"));
        }
        if self.is_original(host) {
            let original = &mut self.originals[host - self.schedule.nodes];
            for line in original.handle_packet(wire, &packet) {
                self.flood_from_original(host, &line);
            }
            return;
        }
        let this = &mut self.wires[wire].ends[end];
        if !this.is_open() {
            if self.hosts[host].powered && matches!(packet, Packet::Bytes(_)) {
                self.push(wire, 1 - end, Packet::Reset);
            }
            return;
        }
        match packet {
            Packet::Bytes(bytes) => this.input.extend_from_slice(&bytes),
            Packet::Fin => this.eof = true,
            Packet::Reset => return self.forget(wire, end),
        }
        self.read(wire, end);
    }

    /// Passes the input to the session.
    fn read(&mut self, wire: usize, end: usize) {
        let host = self.wires[wire].ends[end].host;
        // The last line of the previous packet may have come without a turn since.
        if self.observe_each_record(host) {
            while self.failure.is_none() && self.read_line(wire, end) {}
        }
        let now = self.clocks(host);
        let this = &mut self.wires[wire].ends[end];
        let (Some(session), Some(node)) = (&mut this.session, &mut self.hosts[host].node) else {
            return;
        };
        if this.ending {
            return;
        }
        let input = Input { bytes: &this.input, ended: this.eof, unsent: this.out.len() };
        let Handled { consumed, next } = session.handle_input(node, input, &now, &mut this.out);
        this.input.drain(..consumed);
        this.waiting = matches!(next, Next::Yielded | Next::Blocked(_));
        if next == Next::NeedInput && this.input.len() > LONGEST_MESSAGE {
            let why = format!("n{host:02} keeps {} unread bytes of wire {wire}", this.input.len());
            return self.fail(why);
        }
        match next {
            Next::NeedInput | Next::Yielded | Next::Blocked(_) => {}
            Next::CloseWhenFlushed if session.link().is_some() => this.ending = true,
            Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => {
                if session.link().is_some() {
                    return self.close(wire, end, Packet::Fin);
                }
                this.ending = true;
            }
        }
        self.send(wire, end);
    }

    /// Passes the next line to the session if more follows, and checks the records of the node. Returns
    /// whether the session has taken it and needs more.
    fn read_line(&mut self, wire: usize, end: usize) -> bool {
        let this = &mut self.wires[wire].ends[end];
        let host = this.host;
        let length = this.input.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        if this.ending || length == 0 || length == this.input.len() {
            return false;
        }
        let now = self.clocks(host);
        let this = &mut self.wires[wire].ends[end];
        let (Some(session), Some(node)) = (&mut this.session, &mut self.hosts[host].node) else {
            return false;
        };
        let input = Input { bytes: &this.input[..length], ended: false, unsent: this.out.len() };
        let Handled { consumed, next } = session.handle_input(node, input, &now, &mut this.out);
        this.input.drain(..consumed);
        self.observe(host);
        consumed == length && next == Next::NeedInput
    }

    /// Checks the records of a node if that is required after each record, and returns whether it is.
    pub(super) fn observe_each_record(&mut self, at: usize) -> bool {
        let is_required = self.oracle.needs_each_record();
        if is_required {
            self.observe(at);
        }
        is_required
    }

    /// Checks the records of a node.
    pub(super) fn observe(&mut self, at: usize) {
        let clock = self.clock(at);
        let Some(node) = &self.hosts[at].node else { return };
        if let Err(why) = self.oracle.observe(at, &node.herd.directory, clock) {
            self.fail(format!("n{at:02}: {why}"));
        }
    }

    /// Sends the output of all links of a node. Returns whether that caused more work.
    fn flush_links(&mut self, at: usize) -> bool {
        let links = self.hosts[at].node.as_ref().map_or(0, |node| node.herd.links().len());
        let mut more = false;
        for link in (0..links).map(LinkId) {
            let Some(node) = &self.hosts[at].node else { return false };
            let Some(up) = &node.herd.link(link).up else { continue };
            let wire = up.connection.0 as usize;
            let end = self.end_of(wire, at);
            if self.wires[wire].ends[end].out.is_empty() && !up.has_output() {
                continue;
            }
            more |= self.flush(at, link, wire, end);
        }
        more
    }

    fn flush(&mut self, at: usize, link: LinkId, wire: usize, end: usize) -> bool {
        let now = self.clocks(at);
        let limit = self.schedule.network.send_limit;
        for _ in 0..100_000 {
            let Some(node) = &mut self.hosts[at].node else { return false };
            let Node { herd, message_log, .. } = node;
            let this = &mut self.wires[wire].ends[end];
            if this.out.is_empty() && herd.has_output(link) {
                herd.poll_transmit(link, &now, &mut this.out, limit, message_log);
                self.hosts[at].work.count(wire, &this.out);
            }
            let herd = &self.hosts[at].node.as_ref().map(|node| &node.herd);
            let slots = herd.map_or(0, |herd| herd.directory.slots() as usize);
            let up = herd.and_then(|herd| herd.link(link).up.as_ref());
            let queued = up.map_or(0, |up| up.flood.len().max(up.anti_entropy.repairs.len()));
            let owed = this.out.len();
            if queued > slots || owed > limit + LONGEST_MESSAGE {
                self.fail(format!(
                    "n{at:02} has {owed} bytes and {queued} records of {slots} queued for wire {wire}"
                ));
                return false;
            }
            let owes_more = up.is_some_and(proxy_herd::herd::link::Established::has_output);
            let has_moved = up.is_some_and(|up| up.connection.0 as usize != wire);
            if has_moved {
                self.send(wire, end);
                return true; // what follows is sent on the other connection
            }
            if !self.send(wire, end) {
                return false; // the network accepts no more for now
            }
            let this = &mut self.wires[wire].ends[end];
            if this.waiting {
                this.waiting = false;
                self.at(self.now, Event::Arrive(wire, end));
                self.read(wire, end);
                return true;
            }
            if !owes_more {
                return false;
            }
        }
        self.fail(format!("the output of n{at:02} for wire {wire} does not end"));
        false
    }

    /// Passes output to the network. Returns whether it accepted all of it.
    fn send(&mut self, wire: usize, end: usize) -> bool {
        let Schedule { network, .. } = &self.schedule;
        let (window, cut) = (network.window, network.cut);
        let Wire { ends, pipes, .. } = &mut self.wires[wire];
        let (this, pipe) = (&mut ends[end], &mut pipes[1 - end]);
        let room = window.saturating_sub(pipe.bytes);
        let all = this.out.len() <= room;
        pipe.full |= !all;
        let rest = this.out.split_off(this.out.len().min(room));
        let mut bytes = std::mem::replace(&mut this.out, rest);
        while !bytes.is_empty() {
            let length = match cut {
                Cut::Anywhere if self.rng.percent(60) => 1 + self.rng.index(bytes.len()),
                Cut::Anywhere | Cut::Nowhere => bytes.len(),
            };
            let rest = bytes.split_off(length);
            self.push(wire, 1 - end, Packet::Bytes(bytes));
            bytes = rest;
        }
        let this = &mut self.wires[wire].ends[end];
        if all && this.ending {
            self.close(wire, end, Packet::Fin);
        }
        all
    }

    /// Sends a packet to an end of a wire.
    pub(super) fn push(&mut self, wire: usize, to: usize, packet: Packet) {
        let [receiver, sender] = [to, 1 - to].map(|end| self.wires[wire].ends[end].host);
        let mut at = self.now + self.delay(sender, receiver);
        if self.schedule.network.jitter > 0 {
            at += self.rng.below(self.schedule.network.jitter + 1);
        }
        let at = self.wires[wire].pipes[to].push(at, packet);
        self.at(at, Event::Arrive(wire, to));
    }

    pub(super) fn delay(&self, a: usize, b: usize) -> Time {
        self.delays.get(&(a.min(b), a.max(b))).copied().unwrap_or(MILLISECOND)
    }

    /// Closes a connection on the initiative of the node.
    fn close(&mut self, wire: usize, end: usize, last: Packet) {
        if self.wires[wire].ends[end].is_open() {
            self.forget(wire, end);
            self.push(wire, 1 - end, last);
        }
    }

    /// Ends a connection for this end.
    pub(super) fn forget(&mut self, wire: usize, end: usize) {
        let host = self.wires[wire].ends[end].host;
        let now = self.clocks(host);
        self.hosts[host].wires.retain(|&held| held != wire);
        let this = &mut self.wires[wire].ends[end];
        let dialing = this.dialing;
        let session = this.forget();
        let moves = self.wires[wire].replaces.is_some();
        let Some(node) = &mut self.hosts[host].node else { return };
        if let Some(link) = dialing.filter(|_| !moves) {
            node.herd.handle_dial_failed(link, now.instant);
        }
        if let Some(mut session) = session {
            session.handle_closed(node, now.instant);
        }
    }

    pub(super) fn end_of(&self, wire: usize, host: usize) -> usize {
        usize::from(self.wires[wire].ends[0].host != host)
    }
}
