//! The steps of the schedule, as they act on the world.

use std::collections::BTreeSet;

use proxy_herd::herd::digest_key::{DigestKey, Seeds};
use proxy_herd::herd::handshake::{Identity, Transport};
use proxy_herd::herd::{Herd, LegacySender};
use proxy_herd::ids::{BootId, ConnectionId, LinkId, NodeId};
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::node::{Input, LineSession, Node};
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::time::{Instant, Wall};
use ring::hmac;

use super::{AHEAD_PATIENCE, EPOCH, Event, World, decimal, last_two, name, places, seconds};
use crate::fences;
use crate::graph::Graph;
use crate::network::{Packet, Wire};
use crate::oracle::{Answered, RecordId};
use crate::original::OriginalServer;
use crate::schedule::{MILLISECOND, Step, Time, When};

impl World {
    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Update { node, client, when } => {
                self.update(node, client, when);
            }
            Step::Forge { .. } => self.forge(step),
            Step::Forget { node, client } => self.erase(node, client),
            Step::RestartOriginal { original } => self.restart_original(original),
            Step::Kill { node, silent, for_good } => {
                self.hosts[node].gone |= for_good;
                self.kill(node, silent);
            }
            Step::Start { node } => self.start(node),
            Step::Reconfigure { node } => self.reconfigure(node),
            Step::StartTwin => self.start_twin(),
            Step::Reset { edge, spared, orderly } => self.reset(edge, spared, orderly),
            Step::Blackhole { edge } => {
                if let Some(wire) = self.wire_of(edge) {
                    self.trace
                        .line(self.now, || format!("wire {wire} loses everything from now on"));
                    self.wires[wire].black = true;
                }
            }
            Step::Block { ref ways, until } => {
                self.block(ways, until);
            }
            Step::Freeze { node, until } => {
                self.trace
                    .line(self.now, || format!("n{node:02} is stopped until {}", seconds(until)));
                let host = &mut self.hosts[node];
                host.frozen_until = until.max(host.frozen_until);
                self.wake(node, until);
            }
            Step::Clock { node, offset } => {
                self.trace
                    .line(self.now, || format!("the clock of n{node:02} is off by {offset} ns"));
                self.hosts[node].clock_offset = offset;
                self.stay.disturbed(node);
            }
        }
    }

    /// Lets nothing pass from the first to the second node of each pair.
    pub fn block(&mut self, ways: &[(usize, usize)], until: Time) {
        self.trace.line(self.now, || format!("blocked until {}: {ways:?}", seconds(until)));
        for &way in ways {
            let blocked = self.blocked.entry(way).or_insert(0);
            *blocked = until.max(*blocked);
        }
    }

    /// Sends an update to a node. Returns the record if the node stored it.
    pub fn update(&mut self, node: usize, client: usize, when: When) -> Option<RecordId> {
        let is_original = self.is_original(node);
        if (self.hosts[node].node.is_none() && !is_original) || self.is_frozen(node) {
            return None;
        }
        let previous = self.last_updates[client].clone();
        let true_time = EPOCH * SECOND + Nanos::from(self.now);
        let (place, time) = match (when, previous) {
            (When::Repeat, Some(previous)) => previous,
            (When::SameTime, Some((_, time))) | (When::At(time), _) => (self.next_place(), time),
            (When::Off(off), _) => (self.next_place(), true_time + off),
            (When::SameTime | When::Repeat, None) => (self.next_place(), true_time),
        };
        self.last_updates[client] = Some((place.clone(), time));
        self.updated_at = self.now;
        let name = &self.schedule.clients[client];
        if is_original {
            let clock = self.clocks(node).wall.nanos();
            let [server, name] = [&self::name(node)[..], name.as_bytes()];
            let (difference, place) = (decimal(clock - time), place.as_bytes());
            let sign: &[u8] = if clock < time { b"" } else { b"+" };
            let difference = [sign, difference.as_bytes()].concat();
            let stamp = decimal(time);
            let line = [b"AT", server, &difference, name, place, stamp.as_bytes()].join(&b' ');
            return self.submit_to_original(node, client, time, &line);
        }
        let line = format!("IAMAT {name} {place} {}\n", decimal(time));
        let record = self.submit(node, client, time, line.as_bytes())?;
        let clock = self.clocks(node).wall.nanos();
        self.stay.updated(node, &self.schedule.clients[client], &place, clock);
        Some(record)
    }

    /// Has a node erase a client.
    fn erase(&mut self, node: usize, client: usize) {
        let now = self.clocks(node);
        let is_frozen = self.is_frozen(node);
        let Some(core) = self.hosts[node].node.as_mut().filter(|_| !is_frozen) else { return };
        let (name, mut line) = (self.schedule.clients[client].as_bytes(), Vec::new());
        let slot = core.herd.forget(name, now.wall, &mut line);
        core.counters.forgotten += u64::from(slot.is_some());
        let line = slot.map(|_| &line[..]);
        self.trace.line(self.now, || {
            let answer =
                line.map_or_else(|| "nothing".to_owned(), |it| it.escape_ascii().to_string());
            format!("n{node:02} erases c{client}: {answer}")
        });
        let record = match self.oracle.forgotten(node, client, now.wall.nanos(), line) {
            Ok(record) => record,
            Err(why) => return self.fail(why),
        };
        if record.is_some() {
            self.stay.erased(node, &self.schedule.clients[client], now.wall.nanos());
        }
        let is_calm = self.is_calm_now();
        self.turn(node);
        if let Some(record) = record.filter(|&record| is_calm && !self.oracle.is_outdone(record)) {
            let due = self.now + self.busy_flood_time() + MILLISECOND;
            self.at(due, Event::Due(record, self.now));
        }
    }

    /// Returns a new location each time, so that no two records are equal.
    pub fn next_place(&mut self) -> String {
        self.places += 1;
        fences::place(self.places)
    }

    fn submit(&mut self, node: usize, client: usize, time: Nanos, line: &[u8]) -> Option<RecordId> {
        let now = self.clocks(node);
        let cut = self.rng.index(line.len() + 1);
        let host = &mut self.hosts[node];
        let (Some(core), Some(writer)) = (&mut host.node, &mut host.writer) else { return None };
        let stored_before = core.counters.iamat_stored;
        let held = core.herd.directory.get(self.schedule.clients[client].as_bytes(), now.wall);
        let command = &line[..line.len() - 1];
        // Location and time are the last two fields of both lines.
        let repeat = held.is_some_and(|held| last_two(held) == last_two(command));
        let mut reply = Vec::new();
        let more = |bytes| Input { bytes, ended: false, unsent: 0 };
        let handled = writer.handle_input(core, more(&line[..cut]), &now, &mut reply);
        writer.handle_input(core, more(&line[handled.consumed..]), &now, &mut reply);
        let stored = core.counters.iamat_stored > stored_before;
        self.report.updates += 1;
        let Some(reply) = reply.strip_suffix(b"\n").filter(|reply| reply.starts_with(b"AT "))
        else {
            self.fail(format!("{} got {}", line.escape_ascii(), reply.escape_ascii()));
            return None;
        };
        self.trace.line(self.now, || {
            let note = if stored { "" } else { " (not stored)" };
            format!("n{node:02} replies {}{note}", reply.escape_ascii())
        });
        let clock = now.wall.nanos();
        let update = Answered { client, repeat, time, node, clock, line: reply, stored };
        let record = match self.oracle.answered(&update) {
            Ok(record) => record,
            Err(why) => {
                self.fail(why);
                None
            }
        };
        let is_calm = self.is_calm_now();
        self.observe_each_record(node);
        self.turn(node);
        if let Some(record) = record.filter(|&record| is_calm && !self.oracle.is_outdone(record)) {
            let due = self.now + self.busy_flood_time() + MILLISECOND;
            self.at(due, Event::Due(record, self.now));
        }
        record
    }

    /// An update of a client of an original server.
    fn submit_to_original(
        &mut self,
        host: usize,
        client: usize,
        time: Nanos,
        line: &[u8],
    ) -> Option<RecordId> {
        let is_newer = self.originals[host - self.schedule.nodes].update(line);
        self.trace.line(self.now, || {
            let note = if is_newer { "" } else { " (not stored)" };
            format!("n{host:02}, an original server, replies {}{note}", line.escape_ascii())
        });
        if !is_newer {
            return None;
        }
        let clock = self.clocks(host).wall.nanos();
        let update =
            Answered { client, repeat: false, time, node: host, clock, line, stored: true };
        let record = self.oracle.flooded_by_original(&update);
        let is_connected = self.schedule.originals[host - self.schedule.nodes]
            .iter()
            .any(|neighbor| self.schedule.remaining().contains(neighbor));
        if self.is_calm_now() && is_connected && !self.oracle.is_outdone(record) {
            // A connection, and the record on it.
            let hop = 3 * (MILLISECOND + self.schedule.network.jitter);
            let due = self.now + self.busy_flood_time() + hop + MILLISECOND;
            self.at(due, Event::Due(record, self.now));
        }
        self.flood_from_original(host, line);
        Some(record)
    }

    /// An original server sends a record to all its neighbors.
    pub fn flood_from_original(&mut self, host: usize, line: &[u8]) {
        for neighbor in self.schedule.originals[host - self.schedule.nodes].clone() {
            let wire = self.wires.len();
            self.wires.push(Wire::from_original(host, neighbor, [line, b"\n"].concat()));
            self.at(self.now + self.delay(host, neighbor), Event::Syn(wire));
        }
    }

    /// The original server loses its state and all connections.
    fn restart_original(&mut self, original: usize) {
        let host = self.schedule.nodes + original;
        self.trace.line(self.now, || format!("n{host:02}, an original server, restarts"));
        self.originals[original] = OriginalServer::default();
        for wire in 0..self.wires.len() {
            let Some(end) = (0..2).find(|&end| self.wires[wire].ends[end].host == host) else {
                continue;
            };
            self.wires[wire].pipes[end].clear();
            self.wires[wire].pipes[end].broken = true;
            self.wires[wire].ends[end].out.clear();
            if self.wires[wire].ends[1 - end].is_open() {
                self.push(wire, 1 - end, Packet::Reset);
            }
        }
    }

    /// Returns whether a record that is stored now must reach all nodes without any delay except
    /// that of the network.
    fn is_calm_now(&self) -> bool {
        let latest = self.schedule.network.latency.1 + self.schedule.network.jitter;
        self.schedule.calm
            && !self.schedule.is_capped()
            && self.now > self.last_relink + 4 * latest + MILLISECOND
            && !self.is_catching_up()
            && self.is_linked()
    }

    /// Returns whether both ends of every remaining edge are linked by the same working connection,
    /// and no end of an edge that is cut for good is.
    pub(super) fn is_linked(&self) -> bool {
        let remaining: Vec<_> = self.schedule.remaining_edges().collect();
        let mut links = self.links_to_originals();
        links.all(|(node, original)| self.link(node, original).is_some())
            && self.schedule.edges.iter().all(|&(a, b)| {
                let (one, other) = (self.link(a, b), self.link(b, a));
                if remaining.contains(&(a, b)) {
                    one == other && one.is_some_and(|wire| !self.wires[wire].black)
                } else {
                    one.is_none() && other.is_none()
                }
            })
    }

    /// The connection that a node's link to another node runs on.
    pub fn link(&self, at: usize, peer: usize) -> Option<usize> {
        let herd = &self.hosts[at].node.as_ref()?.herd;
        let peer = herd.identity().node(&name(peer))?;
        let up = herd.link(herd.link_to(peer)?).up.as_ref()?;
        Some(up.connection.0 as usize)
    }

    pub(super) fn due(&mut self, record: RecordId, since: Time) {
        let since = Nanos::from(self.now - since);
        for node in self.schedule.remaining() {
            let clock = self.clocks(node).wall.nanos();
            if !self.oracle.has(node, record) && self.oracle.is_due(record, clock, since) {
                let record = self.oracle.show(record);
                return self.fail(format!("L1: {record} has not reached n{node:02}"));
            }
        }
    }

    pub fn kill(&mut self, at: usize, silent: bool) {
        if self.hosts[at].node.take().is_none() {
            return;
        }
        self.trace.line(self.now, || {
            format!("n{at:02} is killed{}", if silent { " and its machine fails" } else { "" })
        });
        self.hosts[at].powered = !silent;
        self.hosts[at].writer = None;
        self.hosts[at].timer = Time::MAX;
        self.oracle.forget(at);
        self.stay.disturbed(at);
        for wire in std::mem::take(&mut self.hosts[at].wires) {
            let end = self.end_of(wire, at);
            if self.wires[wire].ends[end].is_open() {
                self.wires[wire].ends[end].forget();
                if !silent {
                    let last = if self.rng.percent(50) { Packet::Fin } else { Packet::Reset };
                    self.push(wire, 1 - end, last);
                }
            }
        }
    }

    pub fn start(&mut self, at: usize) {
        if self.hosts[at].node.is_some() || self.hosts[at].gone || self.is_original(at) {
            return;
        }
        self.trace.line(self.now, || format!("n{at:02} starts"));
        self.hosts[at].work.start();
        let schedule = &self.schedule;
        let (names, me, neighbors) = schedule.configuration(at, self.hosts[at].version);
        let id_of = |node: &usize| names.binary_search(node).map(|id| NodeId(id as u16));
        let originals: Vec<NodeId> =
            schedule.original_hosts().filter_map(|node| id_of(&node).ok()).collect();
        let identity = Identity {
            me: id_of(&me).expect("a node is part of its herd"),
            neighbors: neighbors.iter().filter_map(|node| id_of(node).ok()).collect(),
            names: names.iter().map(|&node| name(node).into_boxed_slice()).collect(),
            rules: schedule.rules,
            next: None,
            link_port: schedule.link_port(),
            secret: schedule.secret.then(|| hmac::Key::new(hmac::HMAC_SHA256, b"secret")),
            tls: false,
            boot: BootId(self.rng.bits()),
        };
        let born = self.clocks(at).wall.nanos();
        let random = u128::from(self.rng.bits()) << 64 | u128::from(self.rng.bits());
        let digest = DigestKey { born: u64::try_from(born).unwrap_or(0), random };
        let seeds = Seeds { index: (self.rng.bits(), self.rng.bits()), digest };
        let schedule = &self.schedule;
        let timing = schedule.timing.clone();
        let mut herd = Herd::new(identity, &originals, timing, seeds, Instant::START);
        herd.directory.set_ahead_patience(AHEAD_PATIENCE);
        herd.directory.use_few_leaves(schedule.leaf_bits);
        herd.directory.set_fences(fences::fences(Wall(born)));
        herd.directory.evaluate_fences(&mut { usize::MAX });
        let message_log = MessageLog::new(false, Format::default(), "sim");
        let limits = Limits {
            max_line: schedule.max_line,
            max_output_buffer: schedule.network.send_limit.max(1024),
            ..Limits::default()
        };
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.rng.bits().to_be_bytes());
        let node = Node::new(herd, places(), message_log, limits, &seed);
        let transport = Transport { loopback: true, certified: None };
        let writer = LineSession::accepted(
            ConnectionId(u64::MAX),
            proxy_herd::node::PeerInfo {
                label: b"client"[..].into(),
                transport,
                ..proxy_herd::node::PeerInfo::default()
            },
        );
        let host = &mut self.hosts[at];
        host.node = Some(node);
        host.writer = Some(writer);
        host.powered = true;
        host.started = self.now;
        host.proposed = Some(digest);
        host.changes = 0;
        host.synced = 0;
        host.graph = Graph::new(self.now);
        self.turn(at);
    }

    /// Returns whether this is the machine of an original server.
    pub fn is_original(&self, host: usize) -> bool {
        self.schedule.original_hosts().contains(&host)
    }

    /// A record that an original server should have received and has not.
    pub(super) fn missing_in_original(&self) -> Option<String> {
        let linked: BTreeSet<_> = self.links_to_originals().map(|(_, original)| original).collect();
        linked.into_iter().find_map(|host| {
            let original = &self.originals[host - self.schedule.nodes];
            let missing = self.oracle.newest_lines().find(|line| !original.has(line))?;
            Some(format!("n{host:02}, an original server, lacks {}", missing.escape_ascii()))
        })
    }

    /// A record that goes round in circles. Without faults, each neighbor sends each record to an
    /// original server once, and once more if it is refilled after it has restarted.
    pub(super) fn bounced_record(&self) -> Option<String> {
        (self.schedule.nodes..).zip(&self.originals).find_map(|(host, original)| {
            let neighbors = self.schedule.originals[host - self.schedule.nodes].len();
            let (line, count) = original.repeated(neighbors)?;
            Some(format!("n{host:02} has received {} {count} times", line.escape_ascii()))
        })
    }

    /// The links between nodes and original servers when there are no faults.
    pub(super) fn links_to_originals(&self) -> impl Iterator<Item = (usize, usize)> {
        let remaining = self.schedule.remaining();
        let originals = (self.schedule.nodes..).zip(&self.schedule.originals);
        let links =
            originals.flat_map(|(host, neighbors)| neighbors.iter().map(move |&node| (node, host)));
        links.filter(move |(node, _)| remaining.contains(node))
    }

    /// The original server that a node takes for the sender of what `host` sends.
    pub(super) fn legacy_sender(&self, node: usize, host: usize) -> Option<LegacySender> {
        let herd = &self.hosts[node].node.as_ref()?.herd;
        let link = herd.link_to(herd.identity().node(&name(host))?)?;
        let is_shared = self.schedule.one_address && self.schedule.originals_at(node) > 1;
        self.is_original(host).then_some(if is_shared {
            LegacySender::Unknown
        } else {
            LegacySender::Neighbor(link)
        })
    }

    fn reset(&mut self, edge: usize, spared: Option<bool>, orderly: bool) {
        let Some(wire) = self.wire_of(edge) else { return };
        self.trace.line(self.now, || {
            format!("wire {wire} breaks, spared: {spared:?}, orderly: {orderly}")
        });
        for end in 0..2 {
            let pipe = &mut self.wires[wire].pipes[end];
            if orderly {
                pipe.cut_short(&mut self.rng);
            } else {
                pipe.clear();
            }
            pipe.broken = true;
            if spared != Some(end == 0) {
                self.push(wire, end, if orderly { Packet::Fin } else { Packet::Reset });
            }
        }
    }

    /// The connection that the link of an edge runs on, as one of its ends knows it.
    fn wire_of(&self, edge: usize) -> Option<usize> {
        let (a, b) = self.schedule.edges[edge];
        self.link(a, b).or_else(|| self.link(b, a))
    }

    /// Lets a node receive a line on its first link, as from a broken peer.
    pub fn receive_forged(&mut self, at: usize, line: &str) {
        let now = self.clocks(at);
        if let Some(Node { herd, message_log, .. }) = &mut self.hosts[at].node {
            let link = LinkId(0);
            let connection = herd.link(link).up.as_ref().expect("it is up").connection;
            herd.handle_line(link, connection, line.as_bytes(), &now, message_log).expect("valid");
        }
        self.turn(at);
    }
}
