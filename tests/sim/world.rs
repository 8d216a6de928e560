//! The simulated world: nodes, wires, one clock, one random number generator.
//!
//! Each node is the real core, driven with bytes and instants as the event loop drives it. The part of
//! the event loop starts at [`World::turn`]; the schedule acts on the world in [`World::step`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::hash::Hasher;
use std::time::Duration;

use proxy_herd::herd::anti_entropy::GRACE;
use proxy_herd::herd::digest_key::{DigestKey, Seeds};
use proxy_herd::herd::handshake::{Identity, Transport};
use proxy_herd::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use proxy_herd::herd::link_states::LINKS_PAUSE;
use proxy_herd::herd::routes::SETTLE;
use proxy_herd::herd::{Action, Counters, Herd, LegacySender};
use proxy_herd::ids::{BootId, ConnectionId, LinkId, NodeId};
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::node::{Handled, Input, LineSession, Next, Node};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::time::{Instant, Now, Wall};
use ring::hmac;
use siphasher::sip::SipHasher13;

use crate::fences::{self, Changes, Stay};
use crate::graph::Graph;
use crate::network::{End, Packet, Wire};
use crate::oracle::{Answered, Oracle, RecordId};
use crate::original::OriginalServer;
use crate::rolling::Version;
use crate::schedule::{Cut, MILLISECOND, SECONDS, Schedule, Step, Time, When};
use crate::trace::Trace;
use crate::work::Work;
use proxy_herd::rng::Rng;

/// The start of virtual time, in seconds since the Unix epoch.
pub const EPOCH: Nanos = 1_700_000_000;

/// The length of the longest message that is not a record; output may exceed its limit by that.
const LONGEST_MESSAGE: usize = 4500;

/// The time for which nodes keep records that are too far ahead: shorter than in the program.
const AHEAD_PATIENCE: Duration = Duration::from_secs(1);

/// More events than any schedule needs. A world that exceeds them does not terminate.
const MOST_EVENTS: u64 = 10_000_000;

/// The keyed hash: of a client, for its leaf; of an AT line, its digest.
pub fn herd_hash(key: (u64, u64), bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(key.0, key.1);
    hasher.write(bytes);
    hasher.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A step of the schedule.
    Step(usize),
    /// The end of the faults.
    Quiet,
    /// A connection attempt reaches the other machine.
    Syn(usize),
    /// The answer to a connection attempt arrives.
    SynAck(usize),
    /// A packet reaches this end of a wire.
    Arrive(usize, usize),
    /// The deadline of the handshake of this end.
    Deadline(usize, usize),
    /// A node's timer fires.
    Timer(usize),
    /// All nodes must hold the record, which was stored at this time.
    Due(RecordId, Time),
    /// The oracle decides whether the herd has recovered.
    Poll,
}

/// A machine and the node that runs on it.
pub struct Host {
    pub node: Option<Node>,
    /// Dead for good, or not yet part of the herd.
    pub gone: bool,
    /// Number of edges of its node.
    degree: u64,
    /// The machine runs: packets for unknown connections are answered with a reset.
    powered: bool,
    started: Time,
    /// The key of the digests that the node proposed when it started.
    proposed: Option<DigestKey>,
    pub clock_offset: Nanos,
    frozen_until: Time,
    wires: Vec<usize>,
    /// The time at which the timer fires.
    timer: Time,
    writer: Option<LineSession>,
    /// Sum of the counters that count changes of the directory, at the last observation.
    changes: u64,
    /// Number of links established and lost, at the last observation.
    pub relinks: u64,
    pub graph: Graph,
    /// The version of the configuration with which the node runs, or will start.
    pub version: Version,
    pub work: Work,
    /// Records recovered by syncs, at the last observation.
    synced: u64,
}

/// The phases of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Faults,
    Converging,
    /// All nodes hold the same; links and routes must come to rest.
    Settling {
        since: Time,
    },
    /// An update was sent. The other fields are sums over all nodes before it.
    Probing {
        since: Time,
        until: Time,
        floods: u64,
        repairs: u64,
        bytes: u64,
        record: RecordId,
    },
    Done,
}

/// Statistics of a run that passed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub events: u64,
    pub updates: u64,
    pub repairs: u64,
    /// Time from the end of the faults until all nodes held the same.
    pub converged_after: Time,
    /// That time in percent of its bound.
    pub bound_used_percent: u64,
    /// Time from the end of the faults until all nodes knew the true graph.
    pub graph_true_after: Time,
    pub probes: u64,
    /// Transitions of clients that stayed with one node.
    pub transitions: u64,
    /// Bytes of all messages between nodes.
    pub bytes: u64,
    /// Times that a node sent all link states because a neighbor knew others.
    pub link_state_repairs: u64,
}

pub struct World {
    pub schedule: Schedule,
    pub now: Time,
    pub hosts: Vec<Host>,
    pub wires: Vec<Wire>,
    pub oracle: Oracle,
    pub originals: Vec<OriginalServer>,
    pub trace: Trace,
    pub report: Report,
    rng: Rng,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    order: u64,
    /// One-way delay of each edge, by its nodes in ascending order.
    delays: BTreeMap<(usize, usize), Time>,
    /// Per pair of nodes, the time until which nothing passes from the first to the second.
    blocked: BTreeMap<(usize, usize), Time>,
    phase: Phase,
    pub last_relink: Time,
    /// The last time at which a sync recovered a record.
    pub last_synced: Time,
    /// Location and time of each client's last update.
    last_updates: Vec<Option<(String, Nanos)>>,
    places: u32,
    probes_left: u32,
    /// The client that stays with one node.
    stay: Stay,
    /// The time of the last update.
    updated_at: Time,
    failure: Option<String>,
}

/// Runs the schedule of `seed`.
pub fn run(seed: u64) -> Result<Report, String> {
    World::new(Schedule::new(seed), Trace::off()).run()
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.updates += other.updates;
        self.repairs += other.repairs;
        self.probes += other.probes;
        self.transitions += other.transitions;
        self.converged_after = self.converged_after.max(other.converged_after);
        self.bound_used_percent = self.bound_used_percent.max(other.bound_used_percent);
        self.graph_true_after = self.graph_true_after.max(other.graph_true_after);
        self.bytes += other.bytes;
        self.link_state_repairs += other.link_state_repairs;
    }
}

impl World {
    pub fn new(schedule: Schedule, trace: Trace) -> Self {
        let mut rng = Rng::new(schedule.seed ^ 0xface);
        let (low, high) = schedule.network.latency;
        let delays = schedule
            .edges
            .iter()
            .map(|&edge| {
                let farthest = low.max(high >> rng.below(6));
                (edge, rng.range(low, farthest))
            })
            .collect();
        let (rules, is_volatile) = (schedule.rules, schedule.is_volatile());
        let (clients, nodes) = (&schedule.clients, schedule.twin() + 1);
        let oracle = Oracle::new(rules, is_volatile, clients, nodes, schedule.leaf_bits);
        let mut world = Self {
            now: 0,
            hosts: Vec::new(),
            wires: Vec::new(),
            oracle,
            originals: schedule.originals.iter().map(|_| OriginalServer::default()).collect(),
            trace,
            report: Report::default(),
            rng,
            events: BinaryHeap::new(),
            order: 0,
            delays,
            blocked: BTreeMap::new(),
            phase: Phase::Faults,
            last_relink: 0,
            last_synced: 0,
            last_updates: vec![None; schedule.clients.len()],
            places: 0,
            probes_left: 2,
            stay: Stay::default(),
            updated_at: 0,
            failure: None,
            schedule,
        };
        for at in 0..=world.schedule.twin() {
            let clock_offset = world.schedule.clocks.get(at).copied().unwrap_or(0);
            let node = world.schedule.named(at);
            let edges = world.schedule.edges.iter().filter(|(a, b)| *a == node || *b == node);
            let (edges, gone) = (edges.count(), world.schedule.starts_later(at));
            let originals = world.schedule.originals_at(node);
            world.hosts.push(Host {
                node: None,
                gone,
                degree: (edges + originals) as u64,
                powered: true,
                started: 0,
                proposed: None,
                clock_offset,
                frozen_until: 0,
                wires: Vec::new(),
                timer: Time::MAX,
                writer: None,
                changes: 0,
                relinks: 0,
                graph: Graph::new(0),
                version: Version::Old,
                work: Work::default(),
                synced: 0,
            });
        }
        world
    }

    /// Runs the schedule, and then on until the herd has recovered.
    pub fn run(&mut self) -> Result<Report, String> {
        self.begin();
        while self.phase != Phase::Done && self.failure.is_none() && self.next_event(Time::MAX) {}
        self.report.repairs = self.repairs();
        self.report.link_state_repairs =
            self.counters().map(|counters| counters.link_state_repairs).sum();
        self.report.bytes = self.traffic().bytes();
        self.result().map(|()| self.report)
    }

    /// Starts all nodes and schedules all steps.
    pub fn begin(&mut self) {
        let schedule = &self.schedule;
        self.trace.line(0, || schedule.to_string());
        for i in 0..self.schedule.steps.len() {
            self.at(self.schedule.steps[i].0, Event::Step(i));
        }
        self.at(self.schedule.quiet_at, Event::Quiet);
        for host in 0..self.hosts.len() {
            self.start(host);
        }
    }

    /// Lets time pass, in a world that a test drives by hand.
    pub fn pass(&mut self, time: Time) {
        let until = self.now + time;
        while self.failure.is_none() && self.next_event(until) {}
        self.now = until;
        self.result().unwrap_or_else(|why| panic!("{why}"));
    }

    /// Handles the next event, unless it is later than `until`. Returns whether there was one.
    fn next_event(&mut self, until: Time) -> bool {
        let Some(&Reverse((at, _, event))) = self.events.peek() else { return false };
        if at > until {
            return false;
        }
        self.events.pop();
        self.now = at;
        self.report.events += 1;
        self.handle(event);
        if self.report.events > MOST_EVENTS {
            self.fail("the world does not come to rest".to_owned());
        }
        true
    }

    fn result(&mut self) -> Result<(), String> {
        let Some(why) = self.failure.take() else { return Ok(()) };
        self.trace.line(self.now, || format!("FAILED: {why}"));
        Err(format!("at {:.6} s: {why}", self.now as f64 / 1e9))
    }

    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at.max(self.now), self.order, event)));
    }

    pub fn fail(&mut self, why: String) {
        self.failure.get_or_insert(why);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Step(i) => {
                let step = self.schedule.steps[i].1.clone();
                self.step(&step);
            }
            Event::Quiet => self.quiet(),
            Event::Syn(wire) => self.syn(wire),
            Event::SynAck(wire) => self.syn_ack(wire),
            Event::Arrive(wire, end) => self.arrive(wire, end),
            Event::Deadline(wire, end) => self.deadline(wire, end),
            Event::Timer(host) => {
                if self.hosts[host].timer <= self.now {
                    self.hosts[host].timer = Time::MAX;
                    self.turn(host);
                }
            }
            Event::Due(record, since) => self.due(record, since),
            Event::Poll => self.poll(),
        }
    }

    // The schedule

    fn step(&mut self, step: &Step) {
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
    fn is_linked(&self) -> bool {
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

    fn due(&mut self, record: RecordId, since: Time) {
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
    fn missing_in_original(&self) -> Option<String> {
        let linked: BTreeSet<_> = self.links_to_originals().map(|(_, original)| original).collect();
        linked.into_iter().find_map(|host| {
            let original = &self.originals[host - self.schedule.nodes];
            let missing = self.oracle.newest_lines().find(|line| !original.has(line))?;
            Some(format!("n{host:02}, an original server, lacks {}", missing.escape_ascii()))
        })
    }

    /// A record that goes round in circles. Without faults, each neighbor sends each record to an
    /// original server once, and once more if it is refilled after it has restarted.
    fn bounced_record(&self) -> Option<String> {
        (self.schedule.nodes..).zip(&self.originals).find_map(|(host, original)| {
            let neighbors = self.schedule.originals[host - self.schedule.nodes].len();
            let (line, count) = original.repeated(neighbors)?;
            Some(format!("n{host:02} has received {} {count} times", line.escape_ascii()))
        })
    }

    /// The links between nodes and original servers when there are no faults.
    fn links_to_originals(&self) -> impl Iterator<Item = (usize, usize)> {
        let remaining = self.schedule.remaining();
        let originals = (self.schedule.nodes..).zip(&self.schedule.originals);
        let links =
            originals.flat_map(|(host, neighbors)| neighbors.iter().map(move |&node| (node, host)));
        links.filter(move |(node, _)| remaining.contains(node))
    }

    /// The original server that a node takes for the sender of what `host` sends.
    fn legacy_sender(&self, node: usize, host: usize) -> Option<LegacySender> {
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

    /// Ends all faults: every machine runs and every edge that is not cut for good works.
    fn quiet(&mut self) {
        self.trace.line(self.now, || "the faults are over".to_owned());
        self.blocked.retain(|_, until| *until == Time::MAX);
        for host in 0..self.hosts.len() {
            self.start(host);
            if self.schedule.are_clocks_set() {
                // Nodes with different clocks disagree about which records are alive.
                self.hosts[host].clock_offset = 0;
            }
        }
        self.oracle.quiet(EPOCH * SECOND + Nanos::from(self.now));
        self.phase = Phase::Converging;
        self.at(self.now, Event::Poll);
    }

    /// The bound of property L2: a reconnect and an exchange of digests.
    fn convergence_bound(&self) -> Time {
        let Schedule { timing, network, .. } = &self.schedule;
        let millis = |duration: Duration| duration.as_nanos() as Time;
        // A dead link is detected and dialed again, and an attempt may fail in the handshake.
        let reconnect = millis(timing.timeout)
            + millis(DIAL_TIMEOUT + HANDSHAKE_TIMEOUT)
            + millis(timing.redial_max)
            + 4 * self.schedule.flood_time();
        // The longest exchange: down four levels, a listing, a request, the records, and their flood
        // to the far end of the herd.
        // Before that, an older key of the digests may come from the far end.
        let hops = 14 + 2 * self.schedule.diameter as Time;
        let mut exchange = 2 * hops * (network.latency.1 + network.jitter);
        if self.schedule.is_volatile() {
            // What is not alive is removed by a sweep. What was rejected, or what the sender does not
            // hold, is recovered by the next check only.
            let sweep = 2 * SECONDS + AHEAD_PATIENCE.as_nanos() as Time;
            exchange += sweep + millis(timing.antientropy_interval + GRACE);
        }
        if self.schedule.expires() {
            let rules = &self.schedule.rules;
            let times = [rules.client_ttl, rules.forget_keep].map(|time| time as Time);
            for ttl in times.into_iter().filter(|&ttl| ttl <= 10 * SECONDS) {
                // A record may have replaced an older one on a node with a wrong clock and expire now.
                // The next check recovers the older one from the nodes that kept it.
                exchange += ttl + millis(timing.antientropy_interval + GRACE);
            }
            if self.schedule.is_capped() {
                // An expired record does not make room on all nodes at the same moment.
                exchange += self.schedule.rules.client_ttl as Time;
            }
        }
        let volume = self.schedule.clients.len() as Time * 400 + self.schedule.nodes as Time * 2000;
        let per_second =
            network.window as Time * SECONDS / (network.latency.1 + network.jitter).max(1);
        let transfer = volume * SECONDS / per_second.max(1);
        // Updates may follow the last fault.
        let updates = self.schedule.last_step_at.saturating_sub(self.schedule.quiet_at);
        reconnect + exchange + 4 * transfer + SECONDS + updates
    }

    fn poll(&mut self) {
        let since = self.now - self.schedule.quiet_at;
        match self.phase {
            Phase::Converging if self.now <= self.schedule.last_step_at => {}
            Phase::Converging => {
                let remaining = self.schedule.remaining();
                let nodes: Vec<(usize, Nanos)> =
                    remaining.into_iter().map(|at| (at, self.clocks(at).wall.nanos())).collect();
                let converged = self
                    .oracle
                    .converged(&nodes)
                    .and_then(|()| self.missing_in_original().map_or(Ok(()), Err));
                match converged {
                    Ok(()) => {
                        self.trace.line(self.now, || "all nodes hold the same".to_owned());
                        self.report.converged_after = since;
                        self.report.bound_used_percent = since * 100 / self.convergence_bound();
                        self.phase = Phase::Settling { since: self.now };
                    }
                    Err(why) if since > self.convergence_bound() => {
                        self.fail(format!("L2: {} after the faults: {why}", seconds(since)));
                    }
                    Err(_) => {}
                }
            }
            Phase::Settling { since } => self.settle(since),
            Phase::Probing { until, .. } if self.now >= until => self.judge_probe(),
            Phase::Probing { .. } | Phase::Faults | Phase::Done => {}
        }
        self.at(self.now + 50 * MILLISECOND, Event::Poll);
    }

    /// Waits until links and routes are at rest, then sends an update whose messages are counted.
    fn settle(&mut self, since: Time) {
        let timing = &self.schedule.timing;
        // A link state may be advertised a pause after the last change.
        let settle = (SETTLE + LINKS_PAUSE).as_nanos() as Time
            + 3 * (self.schedule.flood_time() + self.narrow_delay())
            + 50 * MILLISECOND;
        let reconnect = timing.timeout + DIAL_TIMEOUT + HANDSHAKE_TIMEOUT + timing.redial_max;
        // Link states may have been delayed until the end of the faults.
        let moved = self.last_relink.max(self.schedule.quiet_at).max(self.graph_changed_at());
        let relinked = self.schedule.quiet_at + reconnect.as_nanos() as Time;
        let wrong = self.wrong_graph();
        if self.now < moved + settle || !self.is_linked() || wrong.is_some() {
            if self.now > since.max(relinked) + 2 * settle + self.graph_repair_bound() {
                let linked = self.is_linked();
                self.fail(
                    wrong.unwrap_or_else(|| {
                        format!("links do not come to rest; all linked: {linked}")
                    }),
                );
            }
            return;
        }
        // Where a record has expired earlier than elsewhere, an older one with a later receive time takes its
        // place.
        if self.schedule.calm && !self.schedule.is_volatile() && self.repairs() > 0 {
            return self.fail(format!("{} repairs without a fault", self.repairs()));
        }
        if self.schedule.calm
            && let Some(why) = self.bounced_record()
        {
            return self.fail(why);
        }
        if self.probes_left == 0 {
            let ping = timing.keepalive.as_nanos() as Time;
            let rested = self.updated_at + self.schedule.flood_time() + fences::REST;
            if self.now > rested.max(moved + 2 * ping + self.clock_tolerance()) {
                self.check_at_rest();
                self.phase = Phase::Done;
            }
            return;
        }
        self.report.graph_true_after =
            self.graph_changed_at().saturating_sub(self.schedule.quiet_at);
        self.probes_left -= 1;
        let node = self.rng.pick(&self.schedule.remaining());
        let client = self.rng.index(self.schedule.clients.len());
        let (floods, repairs, bytes) =
            (self.floods(), self.repairs(), self.traffic().records.bytes);
        // The way to an original server is one hop more.
        let hop = MILLISECOND + self.schedule.network.jitter;
        let until = self.now + self.schedule.flood_time() + self.narrow_delay() + hop + MILLISECOND;
        if let Some(record) = self.update(node, client, When::Off(0)) {
            let since = self.now;
            self.phase = Phase::Probing { since, until, floods, repairs, bytes, record };
            self.at(until, Event::Poll);
        }
    }

    /// The additional delay of a record caused by a small window.
    fn narrow_delay(&self) -> Time {
        if self.schedule.network.window >= 4096 {
            return 0;
        }
        let hop = self.schedule.network.latency.1 + self.schedule.network.jitter;
        hop * 20 * self.schedule.diameter as Time
    }

    /// Checks a herd at rest: every connection is a link, and wrong clocks have been detected.
    fn check_at_rest(&mut self) {
        if let Err(why) = self.check_keys() {
            return self.fail(why);
        }
        for at in self.schedule.remaining() {
            let now = self.clocks(at);
            let clock = now.wall.nanos();
            let host = &self.hosts[at];
            let Some(node) = &host.node else { continue };
            let directory = &node.herd.directory;
            let stayed = directory.fences().map_or(Ok(0), |it| self.stay.check(at, it, clock));
            let stays_wrong = self.schedule.calm && self.schedule.is_volatile();
            let changes = if stays_wrong { Changes::Repaired(now.instant) } else { Changes::Over };
            match fences::check(directory, changes).and(stayed) {
                Ok(transitions) => self.report.transitions += transitions,
                Err(why) => return self.fail(format!("n{at:02}: {why}")),
            }
            let links = node.herd.links().iter().filter(|link| link.up.is_some()).count();
            let is_link = |&&wire: &&usize| {
                let end = &self.wires[wire].ends[self.end_of(wire, at)];
                end.session.as_ref().is_some_and(|session| session.link().is_some())
            };
            let open = host.wires.iter().filter(is_link).count();
            if open != links {
                return self.fail(format!("n{at:02} has {open} connections for {links} links"));
            }
            for (link, up) in node.herd.links().iter().filter_map(|l| Some((l, l.up.as_ref()?))) {
                if link.is_legacy() {
                    continue;
                }
                let peer = named_host(node, link.peer);
                let moved = self.wires[up.connection.0 as usize].replaces.is_some();
                if self.schedule.calm && moved != (self.schedule.link_port() != 0) {
                    return self.fail(format!("the link of n{at:02} and n{peer:02} has not moved"));
                }
                let theirs = self.hosts[peer].clock_offset;
                let off = (theirs - host.clock_offset).abs();
                let (most, about) =
                    (self.schedule.rules.max_clock_offset / 2, Nanos::from(self.clock_tolerance()));
                let wrong = if up.clock_is_off() { off < most - about } else { off > most + about };
                if wrong {
                    let reported = up.clock_is_off();
                    let why = format!(
                        "the clocks of n{at:02} and n{peer:02} differ by {off} ns, reported: {reported}"
                    );
                    return self.fail(why);
                }
            }
        }
    }

    /// Checks that all nodes use the same key of the digests, that no node has proposed an older one,
    /// and that all links compare digests under it.
    fn check_keys(&self) -> Result<(), String> {
        let remaining = self.schedule.remaining();
        let hosts: Vec<_> = remaining.iter().map(|&at| (at, &self.hosts[at])).collect();
        let herds: Vec<&Herd> =
            hosts.iter().filter_map(|(_, host)| Some(&host.node.as_ref()?.herd)).collect();
        let key = herds[0].digest_key();
        let derived = derived(key, self.schedule.secret);
        for ((at, host), herd) in hosts.iter().zip(&herds) {
            let directory = &herd.directory;
            if directory.is_rekeying() || directory.digest_key() != derived {
                return Err(format!("n{at:02} does not use the key of its herd"));
            }
            if herd.digest_key() != key || host.proposed.is_none_or(|own| own < key) {
                let own = herd.digest_key();
                return Err(format!("n{at:02} uses {own:?} and has proposed {:?}", host.proposed));
            }
            let links = herd.links().iter().filter(|link| !link.is_legacy());
            let mut up = links.filter_map(|link| link.up.as_ref());
            if up.any(|up| up.anti_entropy.is_equal().is_none()) {
                return Err(format!("n{at:02} has not compared digests with a neighbor"));
            }
            self.oracle.check_digests(*at, directory)?;
        }
        Ok(())
    }

    /// The error of a node's estimate of another clock: up to a round trip.
    fn clock_tolerance(&self) -> Time {
        let way = self.schedule.network.latency.1 + self.schedule.network.jitter;
        2 * way + 2 * self.narrow_delay() + 10 * MILLISECOND
    }

    /// The bound of property L1: the time until all nodes hold a record if nothing fails. At each hop,
    /// it may wait for the output that is ready already, for a record of every other client, and for
    /// other messages.
    fn busy_flood_time(&self) -> Time {
        let Schedule { network, clients, .. } = &self.schedule;
        if network.window >= 4096 {
            return self.schedule.flood_time();
        }
        let records = clients.len() * 110;
        let waiting = records + records.min(network.send_limit + 110) + 700;
        let windows = 2 + waiting.div_ceil(network.window) as Time;
        self.schedule.flood_time() * windows
    }

    /// Checks that the update reached every node, each once, and none by a repair.
    fn judge_probe(&mut self) {
        let Phase::Probing { since, floods, repairs, bytes, record, .. } = self.phase else {
            return;
        };
        self.report.probes += 1;
        self.phase = Phase::Settling { since: self.now };
        let rules = self.schedule.rules;
        if !self.schedule.is_capped() {
            self.due(record, since);
        }
        let (sent, repaired) = (self.floods() - floods, self.repairs() - repairs);
        let nodes = self.schedule.remaining().len() - 1;
        let expected = (nodes + self.links_to_originals().count()) as u64;
        // An original server may be faster than the tree, and the record is then flooded.
        let is_bridged = self.schedule.originals.iter().any(|neighbors| neighbors.len() > 1);
        let most: u64 = self.hosts.iter().map(|host| host.degree).sum();
        if let Some(why) = self.missing_in_original() {
            self.fail(why);
        }
        // The record may expire in transit.
        let lasts = rules.client_ttl == 0 || rules.client_ttl > Nanos::from(10 * SECONDS);
        let as_expected = if is_bridged { sent <= most } else { sent == expected };
        if !as_expected && lasts {
            self.fail(format!("an update was sent {sent} times, not {expected}"));
        }
        let line = self.oracle.line(record).len() as u64 + 1;
        // A record that a check recovered just before, because another expired, may be forwarded meanwhile.
        if self.traffic().records.bytes - bytes != sent * line && repaired == 0 && lasts {
            let bytes = self.traffic().records.bytes - bytes;
            self.fail(format!("an update of {line} bytes cost {bytes} bytes"));
        }
        if repaired > 0 && !self.schedule.is_volatile() {
            self.fail(format!("{repaired} repairs long after the last fault"));
        }
    }

    fn counters(&self) -> impl Iterator<Item = Counters> {
        self.hosts.iter().filter_map(|host| Some(host.node.as_ref()?.herd.counters))
    }

    fn floods(&self) -> u64 {
        self.counters().map(|counters| counters.floods_sent).sum()
    }

    fn repairs(&self) -> u64 {
        self.counters().map(|counters| counters.antientropy_repairs).sum()
    }

    // The event loop

    /// The wall clock of a node.
    pub fn clock(&self, at: usize) -> Nanos {
        self.clocks(at).wall.nanos()
    }

    /// The time on a node.
    fn clocks(&self, at: usize) -> Now {
        let host = &self.hosts[at];
        Now {
            instant: Instant::at(Duration::from_nanos(self.now - host.started)),
            wall: Wall(EPOCH * SECOND + Nanos::from(self.now) + host.clock_offset),
        }
    }

    fn is_frozen(&self, at: usize) -> bool {
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
                node.herd.handle_timeout(&now);
            }
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
        let originals = self.schedule.originals_at(at);
        // The sender of a record is not left out if it is one of several original servers.
        let spared = u64::from(!(self.schedule.one_address && originals > 1));
        let mut most = own * host.degree + forwarded * (host.degree - spared);
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
    fn wake(&mut self, at: usize, due: Time) {
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

    fn syn(&mut self, wire: usize) {
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

    fn syn_ack(&mut self, wire: usize) {
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

    fn deadline(&mut self, wire: usize, end: usize) {
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
        let this = &mut self.wires[wire].ends[end];
        let host = this.host;
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
                herd.poll_transmit(link, now.wall, &mut this.out, limit, message_log);
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
    fn push(&mut self, wire: usize, to: usize, packet: Packet) {
        let [receiver, sender] = [to, 1 - to].map(|end| self.wires[wire].ends[end].host);
        let mut at = self.now + self.delay(sender, receiver);
        if self.schedule.network.jitter > 0 {
            at += self.rng.below(self.schedule.network.jitter + 1);
        }
        let at = self.wires[wire].pipes[to].push(at, packet);
        self.at(at, Event::Arrive(wire, to));
    }

    fn delay(&self, a: usize, b: usize) -> Time {
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
    fn forget(&mut self, wire: usize, end: usize) {
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

    fn end_of(&self, wire: usize, host: usize) -> usize {
        usize::from(self.wires[wire].ends[0].host != host)
    }
}

/// The hash key that follows from what the nodes have agreed on.
fn derived(key: DigestKey, secret: bool) -> (u64, u64) {
    let secret: &[u8] = if secret { b"secret" } else { b"" };
    let material = [&b"digests"[..], &key.born.to_be_bytes(), &key.random.to_be_bytes()].concat();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &material);
    let (words, _) = tag.as_ref().as_chunks();
    (u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]))
}

/// The gazetteer. No client requests places.
fn places() -> Places {
    Places::Offline(Offline::gazetteer().expect("the gazetteer is valid"))
}

/// The name of a node. Names sort like numbers.
pub fn name(node: usize) -> Vec<u8> {
    format!("n{node:02}").into_bytes()
}

/// The host that a node's neighbor runs on, according to its name.
pub fn named_host(node: &Node, peer: NodeId) -> usize {
    let name = node.herd.identity().name(peer);
    std::str::from_utf8(&name[1..]).ok().and_then(|number| number.parse().ok()).expect("a name")
}

fn last_two(line: &[u8]) -> Vec<&[u8]> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    fields[fields.len() - 2..].to_vec()
}

/// Seconds in the format of clients.
pub fn decimal(nanos: Nanos) -> String {
    let (sign, nanos) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
    format!("{sign}{}.{:09}", nanos / SECOND, nanos % SECOND)
}

/// Virtual time in a readable format.
pub fn seconds(time: Time) -> String {
    format!("{:.6} s", time as f64 / 1e9)
}
