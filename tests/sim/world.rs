//! The simulated world: nodes, wires, one clock, one source of chance.
//!
//! Each node is the real core, driven with bytes and instants as the shell drives it. What the
//! shell does is in [`World::turn`] and below it; what the world does to it, in [`World::step`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::Hasher;
use std::time::Duration;

use proxy_herd::herd::anti_entropy::GRACE;
use proxy_herd::herd::directory::Keys;
use proxy_herd::herd::handshake::{Identity, Transport};
use proxy_herd::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use proxy_herd::herd::routes::{LINKS_PAUSE, NodeId, SETTLE};
use proxy_herd::herd::{Action, Counters, Herd, LinkId};
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::node::{Handled, Input, LineSession, Next, Node};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::time::{Instant, Now, Wall};
use ring::hmac;
use siphasher::sip::SipHasher13;

use crate::network::{End, Packet, Wire};
use crate::oracle::{Oracle, RecordId, Told};
use crate::schedule::{Cut, MILLISECOND, SECONDS, Schedule, Step, Time, When};
use crate::trace::Trace;
use proxy_herd::rng::Rng;

/// When virtual time begins, in seconds since the epoch.
const EPOCH: Nanos = 1_700_000_000;

/// The herd-wide key of digests in all worlds.
pub const DIGEST_KEY: (u64, u64) = (0x5eed, 0x00d1_6e57);

/// A message that is not a record, and what `fill` may exceed its limit by.
const LONGEST_MESSAGE: usize = 4500;

/// More events than any schedule needs: a world that goes on has a loop in it.
const MOST_EVENTS: u64 = 10_000_000;

/// The hash of a client that decides its leaf, and ties in eviction; and the digest of a record.
pub fn herd_hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(DIGEST_KEY.0, DIGEST_KEY.1);
    hasher.write(bytes);
    hasher.finish()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A step of the schedule.
    Step(usize),
    /// The faults are over.
    Quiet,
    /// A connection attempt reaches the other machine.
    Syn(usize),
    /// And its answer comes back.
    SynAck(usize),
    /// Something reaches this end of a wire.
    Arrive(usize, usize),
    /// The handshake of this end must be over.
    Deadline(usize, usize),
    /// A node's timer.
    Timer(usize),
    /// A record must be on all nodes.
    Due(RecordId),
    /// Time to ask the oracle whether all is well again.
    Ask,
}

/// A machine and the node that runs on it.
pub struct Host {
    pub node: Option<Node>,
    /// Dead for good.
    gone: bool,
    /// Edges of its node.
    degree: u64,
    /// Powered: answers what belongs to no connection with a reset.
    powered: bool,
    started: Time,
    pub clock_offset: Nanos,
    frozen_until: Time,
    wires: Vec<usize>,
    /// When a timer is due to fire.
    timer: Time,
    writer: Option<LineSession>,
    /// Sum of the counters that move when the directory changes, when it was last looked at.
    changes: u64,
    /// Links made and lost, likewise.
    pub relinks: u64,
    graph: Graph,
}

/// What a node knows of the graph of the herd.
#[derive(Default)]
struct Graph {
    /// Sum of the sequence numbers of all link states.
    sequences: u64,
    states: Vec<Vec<NodeId>>,
    changed_at: Time,
}

/// How the end of a schedule is gone about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Faults,
    Converging,
    /// All are equal; now the links and routes are to come to rest.
    Settling {
        since: Time,
    },
    /// An update was told at this moment, and all have sent so many records and repairs before.
    Probing {
        until: Time,
        floods: u64,
        repairs: u64,
        record: RecordId,
    },
    Done,
}

/// What a schedule that held came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    pub events: u64,
    pub updates: u64,
    pub repairs: u64,
    /// From the end of the faults until all nodes were equal.
    pub converged_after: Time,
    /// How much of what the bound allows that was, in percent.
    pub bound_used_percent: u64,
    pub probes: u64,
}

pub struct World {
    pub schedule: Schedule,
    pub now: Time,
    pub hosts: Vec<Host>,
    pub wires: Vec<Wire>,
    pub oracle: Oracle,
    pub trace: Trace,
    pub report: Report,
    rng: Rng,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    order: u64,
    /// One-way delay of each edge, by its nodes in ascending order.
    delays: BTreeMap<(usize, usize), Time>,
    /// Until when nothing passes from one node to another.
    blocked: BTreeMap<(usize, usize), Time>,
    phase: Phase,
    last_relink: Time,
    /// Location and time that each client told last.
    words: Vec<Option<(String, Nanos)>>,
    places: u32,
    probes_left: u32,
    failure: Option<String>,
}

/// Runs the schedule of a seed to its end.
pub fn run(seed: u64) -> Result<Report, String> {
    World::new(Schedule::new(seed), Trace::off()).run()
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.updates += other.updates;
        self.repairs += other.repairs;
        self.probes += other.probes;
        self.converged_after = self.converged_after.max(other.converged_after);
        self.bound_used_percent = self.bound_used_percent.max(other.bound_used_percent);
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
        let oracle = Oracle::new(schedule.rules, &schedule.clients, schedule.nodes);
        let mut world = Self {
            now: 0,
            hosts: Vec::new(),
            wires: Vec::new(),
            oracle,
            trace,
            report: Report::default(),
            rng,
            events: BinaryHeap::new(),
            order: 0,
            delays,
            blocked: BTreeMap::new(),
            phase: Phase::Faults,
            last_relink: 0,
            words: vec![None; schedule.clients.len()],
            places: 0,
            probes_left: 2,
            failure: None,
            schedule,
        };
        for at in 0..world.schedule.nodes {
            let clock_offset = world.schedule.clocks[at];
            world.hosts.push(Host {
                node: None,
                gone: false,
                degree: world.schedule.edges.iter().filter(|(a, b)| *a == at || *b == at).count()
                    as u64,
                powered: true,
                started: 0,
                clock_offset,
                frozen_until: 0,
                wires: Vec::new(),
                timer: Time::MAX,
                writer: None,
                changes: 0,
                relinks: 0,
                graph: Graph::default(),
            });
        }
        world
    }

    /// Runs the world to the end of its schedule and on until all is well again.
    pub fn run(&mut self) -> Result<Report, String> {
        let schedule = &self.schedule;
        self.trace.line(0, || schedule.to_string());
        for i in 0..self.schedule.steps.len() {
            self.at(self.schedule.steps[i].0, Event::Step(i));
        }
        self.at(self.schedule.quiet_at, Event::Quiet);
        for host in 0..self.hosts.len() {
            self.start(host);
        }
        while self.phase != Phase::Done && self.failure.is_none() {
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.now = at;
            self.report.events += 1;
            self.handle(event);
            if self.report.events > MOST_EVENTS {
                self.fail("it does not come to rest".to_owned());
            }
        }
        self.report.repairs = self.repairs();
        match self.failure.take() {
            None => Ok(self.report),
            Some(why) => {
                self.trace.line(self.now, || format!("FAILED: {why}"));
                Err(format!("at {:.6} s: {why}", self.now as f64 / 1e9))
            }
        }
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
            Event::Due(record) => self.due(record),
            Event::Ask => self.ask(),
        }
    }

    // What is done to the world.

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Update { node, client, when } => {
                self.update(node, client, when);
            }
            Step::Kill { node, silent, for_good } => {
                self.hosts[node].gone |= for_good;
                self.kill(node, silent);
            }
            Step::Start { node } => self.start(node),
            Step::Reset { edge, spared, orderly } => self.reset(edge, spared, orderly),
            Step::Blackhole { edge } => {
                if let Some(wire) = self.wire_of(edge) {
                    self.trace.line(self.now, || format!("wire {wire} leads nowhere from now on"));
                    self.wires[wire].black = true;
                }
            }
            Step::Block { ref ways, until } => {
                self.trace.line(self.now, || format!("blocked until {}: {ways:?}", seconds(until)));
                for &way in ways {
                    let blocked = self.blocked.entry(way).or_insert(0);
                    *blocked = until.max(*blocked);
                }
            }
            Step::Freeze { node, until } => {
                self.trace.line(self.now, || format!("n{node:02} freezes to {}", seconds(until)));
                let host = &mut self.hosts[node];
                host.frozen_until = until.max(host.frozen_until);
                self.wake(node, until);
            }
            Step::Clock { node, offset } => {
                self.trace.line(self.now, || format!("n{node:02} sets its clock {offset} ns off"));
                self.hosts[node].clock_offset = offset;
            }
        }
    }

    /// A client tells a node where it is. Returns the record, if it was news.
    pub fn update(&mut self, node: usize, client: usize, when: When) -> Option<RecordId> {
        if self.hosts[node].node.is_none() || self.is_frozen(node) {
            return None;
        }
        let told_before = self.words[client].clone();
        let true_time = EPOCH * SECOND + Nanos::from(self.now);
        let (place, time) = match (when, told_before) {
            (When::Repeat, Some(words)) => words,
            (When::Again, Some((_, time))) | (When::At(time), _) => (self.place(), time),
            (When::Off(off), _) => (self.place(), true_time + off),
            (When::Again | When::Repeat, None) => (self.place(), true_time),
        };
        self.words[client] = Some((place.clone(), time));
        let name = &self.schedule.clients[client];
        let line = format!("IAMAT {name} {place} {}\n", decimal(time));
        self.tell(node, client, time, line.as_bytes())
    }

    /// Another place each time, so that every record is another.
    fn place(&mut self) -> String {
        self.places += 1;
        format!("+34.{:06}-118.445127", self.places)
    }

    fn tell(&mut self, node: usize, client: usize, time: Nanos, line: &[u8]) -> Option<RecordId> {
        let now = self.clocks(node);
        let cut = self.rng.index(line.len() + 1);
        let host = &mut self.hosts[node];
        let (Some(core), Some(writer)) = (&mut host.node, &mut host.writer) else { return None };
        let stored_before = core.counters.iamat_stored;
        let held =
            core.herd.directory.get(self.schedule.clients[client].as_bytes(), now.wall.nanos());
        let said = &line[..line.len() - 1];
        // Location and time are the last two fields of both lines.
        let repeat = held.is_some_and(|held| last_two(held) == last_two(said));
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
            let news = if stored { "" } else { " (not stored)" };
            format!("n{node:02} is told {}{news}", reply.escape_ascii())
        });
        let clock = now.wall.nanos();
        let told = Told { client, repeat, time, node, clock, line: reply, stored };
        let record = match self.oracle.told(&told) {
            Ok(record) => record,
            Err(why) => {
                self.fail(why);
                None
            }
        };
        let at_once = self.is_calm_now();
        self.turn(node);
        if let Some(record) = record.filter(|_| at_once) {
            self.at(self.now + self.busy_flood_time() + MILLISECOND, Event::Due(record));
        }
        record
    }

    /// Whether a record that is told now must reach everybody with no delay but the network's.
    fn is_calm_now(&self) -> bool {
        let rules = &self.schedule.rules;
        let latest = self.schedule.network.latency.1 + self.schedule.network.jitter;
        self.schedule.calm
            && rules.client_ttl == 0
            && !self.schedule.is_capped()
            && self.now > self.last_relink + 4 * latest + MILLISECOND
            && self.is_linked()
    }

    /// Whether both ends of every edge are linked, by the same connection, and it carries bytes.
    ///
    /// What is cut for good must be known to be.
    fn is_linked(&self) -> bool {
        let remaining: Vec<_> = self.schedule.remaining_edges().collect();
        self.schedule.edges.iter().all(|&(a, b)| {
            let (one, other) = (self.link(a, b), self.link(b, a));
            if remaining.contains(&(a, b)) {
                one == other && one.is_some_and(|wire| !self.wires[wire].black)
            } else {
                one.is_none() && other.is_none()
            }
        })
    }

    /// The connection by which a node thinks that it is linked with another.
    fn link(&self, at: usize, peer: usize) -> Option<usize> {
        let herd = &self.hosts[at].node.as_ref()?.herd;
        let up = herd.links()[herd.link_to(peer as NodeId)?].up.as_ref()?;
        Some(up.connection as usize)
    }

    fn due(&mut self, record: RecordId) {
        for node in self.schedule.remaining() {
            if !self.oracle.has(node, record) {
                let record = self.oracle.show(record);
                return self.fail(format!("L1: {record} has not come to n{node:02}"));
            }
        }
    }

    fn kill(&mut self, at: usize, silent: bool) {
        if self.hosts[at].node.take().is_none() {
            return;
        }
        self.trace.line(self.now, || {
            format!("n{at:02} is killed{}", if silent { " with its machine" } else { "" })
        });
        self.hosts[at].powered = !silent;
        self.hosts[at].writer = None;
        self.hosts[at].timer = Time::MAX;
        self.oracle.forget(at);
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
        if self.hosts[at].node.is_some() || self.hosts[at].gone {
            return;
        }
        self.trace.line(self.now, || format!("n{at:02} starts"));
        let schedule = &self.schedule;
        let mut neighbours: Vec<NodeId> = schedule
            .edges
            .iter()
            .filter_map(|&(a, b)| if a == at { Some(b) } else { (b == at).then_some(a) })
            .map(|peer| peer as NodeId)
            .collect();
        neighbours.sort_unstable();
        let identity = Identity {
            names: (0..schedule.nodes).map(|i| name(i).into_boxed_slice()).collect(),
            me: at as NodeId,
            neighbours,
            rules: schedule.rules,
            secret: schedule.secret.then(|| hmac::Key::new(hmac::HMAC_SHA256, b"secret")),
            tls: false,
            boot: self.rng.bits(),
        };
        let keys = Keys { index: (self.rng.bits(), self.rng.bits()), digest: DIGEST_KEY };
        let timing = schedule.timing.clone();
        let herd = Herd::new(identity, &[], timing, keys, Duration::ZERO);
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
            u64::MAX,
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
        host.changes = 0;
        host.graph = Graph { changed_at: self.now, ..Graph::default() };
        self.turn(at);
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

    /// The connection that an edge is linked by, as one of its ends sees it.
    fn wire_of(&self, edge: usize) -> Option<usize> {
        let (a, b) = self.schedule.edges[edge];
        self.link(a, b).or_else(|| self.link(b, a))
    }

    /// The last fault is over: everything is powered and lets everything through.
    fn quiet(&mut self) {
        self.trace.line(self.now, || "the faults are over".to_owned());
        self.blocked.retain(|_, until| *until == Time::MAX);
        for host in 0..self.hosts.len() {
            self.start(host);
            if self.schedule.rules.client_ttl > 0 && !self.schedule.calm {
                // While clocks differ nodes disagree about what has expired, and so about who is
                // kept of the others.
                self.hosts[host].clock_offset = 0;
            }
        }
        self.oracle.quiet();
        self.phase = Phase::Converging;
        self.at(self.now, Event::Ask);
    }

    /// The bound of L2: a reconnect and an exchange of digests.
    fn convergence_bound(&self) -> Time {
        let Schedule { timing, network, .. } = &self.schedule;
        let millis = |duration: Duration| duration.as_nanos() as Time;
        // A dead link is noticed, redialled, an attempt may fail in a handshake.
        let reconnect = millis(timing.timeout)
            + millis(DIAL_TIMEOUT + HANDSHAKE_TIMEOUT)
            + millis(timing.redial_max)
            + 4 * self.schedule.flood_time();
        // The longest way of an exchange: down four levels, listing, asking, bringing, and on to
        // the far end of the herd.
        let hops = 12 + self.schedule.diameter as Time;
        let mut exchange = 2 * hops * (network.latency.1 + network.jitter);
        if self.schedule.rules.client_ttl > 0 {
            // What a clock that was wrong called expired is only brought by the next check.
            exchange += millis(timing.antientropy_interval + GRACE);
            let ttl = self.schedule.rules.client_ttl as Time;
            if ttl <= 10 * SECONDS {
                // What replaced an older record where a clock was wrong, and expires now, leaves
                // nothing there; the next check brings the older one from those who kept it.
                exchange += ttl + millis(timing.antientropy_interval + GRACE);
            }
            if self.schedule.is_capped() {
                // And a place that an expired record leaves is not free at the same moment
                // everywhere.
                exchange += self.schedule.rules.client_ttl as Time;
            }
        }
        let volume = self.schedule.clients.len() as Time * 400 + self.schedule.nodes as Time * 2000;
        let per_second =
            network.window as Time * SECONDS / (network.latency.1 + network.jitter).max(1);
        let transfer = volume * SECONDS / per_second.max(1);
        // And something may have been told a moment ago.
        let told = self.schedule.told_at.saturating_sub(self.schedule.quiet_at);
        reconnect + exchange + 4 * transfer + SECONDS + told
    }

    fn ask(&mut self) {
        let since = self.now - self.schedule.quiet_at;
        match self.phase {
            Phase::Converging if self.now <= self.schedule.told_at => {}
            Phase::Converging => {
                let remaining = self.schedule.remaining();
                let nodes: Vec<(usize, Nanos)> =
                    remaining.into_iter().map(|at| (at, self.clocks(at).wall.nanos())).collect();
                match self.oracle.converged(&nodes) {
                    Ok(()) => {
                        self.trace.line(self.now, || "all nodes are equal".to_owned());
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
        self.at(self.now + 50 * MILLISECOND, Event::Ask);
    }

    /// Waits until links and routes rest, then tells an update that is counted.
    fn settle(&mut self, since: Time) {
        let timing = &self.schedule.timing;
        // The herd may be told of the last change a pause after it.
        let settle = (SETTLE + LINKS_PAUSE).as_nanos() as Time
            + 3 * (self.schedule.flood_time() + self.narrow_delay())
            + 50 * MILLISECOND;
        let reconnect = timing.timeout + DIAL_TIMEOUT + HANDSHAKE_TIMEOUT + timing.redial_max;
        // What was held up until the faults were over may be news of links as well.
        let moved = self.last_relink.max(self.schedule.quiet_at);
        if self.now < moved + settle || !self.is_linked() {
            let relinked = self.schedule.quiet_at + reconnect.as_nanos() as Time;
            if self.now > since.max(relinked) + 2 * settle {
                let linked = self.is_linked();
                self.fail(format!("links do not come to rest, all linked: {linked}"));
            }
            return;
        }
        if self.schedule.calm && self.repairs() > 0 {
            return self.fail(format!("{} repairs without a fault", self.repairs()));
        }
        if self.probes_left == 0 {
            let ping = timing.keepalive.as_nanos() as Time;
            if self.now > moved + 2 * ping + self.clock_tolerance() {
                self.look_at_rest();
                self.phase = Phase::Done;
            }
            return;
        }
        self.probes_left -= 1;
        let node = self.rng.pick(&self.schedule.remaining());
        let client = self.rng.index(self.schedule.clients.len());
        let (floods, repairs) = (self.floods(), self.repairs());
        let until = self.now + self.schedule.flood_time() + self.narrow_delay() + MILLISECOND;
        if let Some(record) = self.update(node, client, When::Off(0)) {
            self.phase = Phase::Probing { until, floods, repairs, record };
            self.at(until, Event::Ask);
        }
    }

    /// What a small window adds to the time a record takes.
    fn narrow_delay(&self) -> Time {
        if self.schedule.network.window >= 4096 {
            return 0;
        }
        let hop = self.schedule.network.latency.1 + self.schedule.network.jitter;
        hop * 20 * self.schedule.diameter as Time
    }

    /// Everything rests: no connection is left that is not a link, clocks that are off are known,
    /// and every node knows the true graph.
    fn look_at_rest(&mut self) {
        let mut graph = vec![Vec::new(); self.schedule.nodes];
        for (a, b) in self.schedule.remaining_edges() {
            graph[a].push(b as NodeId);
            graph[b].push(a as NodeId);
        }
        graph.iter_mut().for_each(|neighbors| neighbors.sort_unstable());
        let graph_is_certain = !self.schedule.restarts();
        for at in self.schedule.remaining() {
            let host = &self.hosts[at];
            let Some(node) = &host.node else { continue };
            // The states of two nodes that died together stay; no tree leads to either of them.
            let known = node.herd.routes().edges();
            let wrong = |&node: &usize| known[node] != graph[node];
            if let Some(wrong) = self.schedule.remaining().into_iter().find(wrong)
                && graph_is_certain
            {
                let (known, links) = (&known[wrong], &graph[wrong]);
                return self.fail(format!(
                    "n{at:02} believes that n{wrong:02} is linked with {known:?}, not {links:?}"
                ));
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
                let theirs = self.hosts[usize::from(link.peer)].clock_offset;
                let off = (theirs - host.clock_offset).abs();
                let (most, about) =
                    (self.schedule.rules.max_clock_offset / 2, Nanos::from(self.clock_tolerance()));
                let wrong = if up.clock_is_off { off < most - about } else { off > most + about };
                if wrong {
                    let peer = link.peer;
                    let thinks = up.clock_is_off;
                    let why =
                        format!("n{at:02} and n{peer:02} are {off} ns apart, it is said: {thinks}");
                    return self.fail(why);
                }
            }
        }
    }

    /// How wrong a node may be about another's clock: as long as an answer takes.
    fn clock_tolerance(&self) -> Time {
        let way = self.schedule.network.latency.1 + self.schedule.network.jitter;
        2 * way + 2 * self.narrow_delay() + 10 * MILLISECOND
    }

    /// The longest that a record takes to be everywhere while nothing fails: L1. At each hop it may
    /// wait for what has been put together for the peer already, for every other client, and for
    /// what is not a record.
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

    /// The update is everywhere, came to each node once, and not by repair.
    fn judge_probe(&mut self) {
        let Phase::Probing { floods, repairs, record, .. } = self.phase else { return };
        self.report.probes += 1;
        self.phase = Phase::Settling { since: self.now };
        let rules = self.schedule.rules;
        if rules.client_ttl == 0 && !self.schedule.is_capped() {
            self.due(record);
        }
        let (sent, repaired) = (self.floods() - floods, self.repairs() - repairs);
        let expected = self.schedule.remaining().len() as u64 - 1;
        // A record may expire on its way.
        let lasts = rules.client_ttl == 0 || rules.client_ttl > Nanos::from(10 * SECONDS);
        if sent != expected && lasts {
            self.fail(format!("an update was sent {sent} times, not {expected}"));
        }
        if repaired > 0 && rules.client_ttl == 0 {
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

    // What a node's shell does.

    /// What the clocks of a node show.
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

    /// One turn of a node's event loop, after its input has been handed to it.
    pub fn turn(&mut self, at: usize) {
        if self.is_frozen(at) {
            return self.wake(at, self.hosts[at].frozen_until);
        }
        let now = self.clocks(at);
        for _ in 0..1000 {
            let Some(node) = &mut self.hosts[at].node else { return };
            if node.herd.poll_timeout().is_some_and(|due| due <= now.instant.uptime()) {
                node.herd.handle_timeout(now.instant.uptime(), now.wall.nanos());
            }
            let Some(action) = node.herd.poll_action() else {
                if !self.flush_links(at) {
                    return self.rest(at);
                }
                continue;
            };
            match action {
                Action::Dial(link) => self.dial(at, link),
                Action::Close(connection) => {
                    let wire = connection as usize;
                    self.close(wire, self.end_of(wire, at), Packet::Fin);
                }
            }
        }
        self.fail(format!("n{at:02} has always something more to do"));
    }

    /// What is left to do when all else is done: timers, and the oracle's look.
    fn rest(&mut self, at: usize) {
        let now = self.clocks(at);
        let host = &mut self.hosts[at];
        let Some(node) = &mut host.node else { return };
        let due =
            node.herd.poll_timeout().map_or(Time::MAX, |due| host.started + due.as_nanos() as Time);
        if due <= self.now {
            let why = format!("n{at:02} wants to be called again at once");
            return self.fail(why);
        }
        let herd = &node.herd.counters;
        let changes = herd.floods_received - herd.floods_duplicate
            + herd.link_sync_records
            + herd.antientropy_repairs
            + node.herd.directory.counters.expired
            + node.counters.iamat_stored;
        let news_of_peers =
            changes - node.herd.directory.counters.expired - node.counters.iamat_stored;
        let most = node.counters.iamat_stored * host.degree + news_of_peers * (host.degree - 1);
        if herd.floods_sent > most {
            let why = format!("n{at:02} sent {} records, {most} at most", herd.floods_sent);
            return self.fail(why);
        }
        if self.schedule.calm && herd.links_established > 2 * host.degree {
            let why = format!("n{at:02} was linked {} times", herd.links_established);
            return self.fail(why);
        }
        let relinks = herd.links_established + herd.links_lost;
        if relinks != host.relinks {
            host.relinks = relinks;
            self.last_relink = self.now;
        }
        if let Err(why) = host.graph.look(node, self.now) {
            return self.fail(format!("n{at:02}: {why}"));
        }
        if let Some(peer) = self.forgotten_dial(at) {
            return self.fail(format!("n{at:02} believes that it is dialing n{peer:02}"));
        }
        let host = &mut self.hosts[at];
        let Some(node) = &mut host.node else { return };
        if changes != host.changes {
            host.changes = changes;
            if let Err(why) = self.oracle.look(at, &node.herd.directory, now.wall.nanos()) {
                self.fail(format!("n{at:02}: {why}"));
                return;
            }
        }
        self.wake(at, due);
    }

    /// A neighbor that a node believes it is dialing, although no attempt is under way.
    fn forgotten_dial(&self, at: usize) -> Option<usize> {
        let host = &self.hosts[at];
        let links = host.node.as_ref()?.herd.links().iter().filter(|link| link.dialling);
        links.map(|link| usize::from(link.peer)).find(|&peer| {
            !host.wires.iter().map(|&wire| &self.wires[wire].ends).any(|[dialer, listener]| {
                dialer.host == at && listener.host == peer && dialer.is_open()
            })
        })
    }

    /// The node has a turn then, if not before.
    fn wake(&mut self, at: usize, due: Time) {
        if due < self.hosts[at].timer {
            self.hosts[at].timer = due;
            self.at(due, Event::Timer(at));
        }
    }

    fn dial(&mut self, at: usize, link: LinkId) {
        let Some(node) = &self.hosts[at].node else { return };
        let peer = usize::from(node.herd.links()[link].peer);
        let wire = self.wires.len();
        self.trace.line(self.now, || format!("n{at:02} dials n{peer:02}: wire {wire}"));
        self.wires.push(Wire::new(at, link, peer));
        self.hosts[at].wires.push(wire);
        let delay = self.delay(at, peer);
        self.at(self.now + delay, Event::Syn(wire));
        self.at(self.now + DIAL_TIMEOUT.as_nanos() as Time, Event::Deadline(wire, 0));
    }

    fn syn(&mut self, wire: usize) {
        let [dialler, listener] = [0, 1].map(|end| self.wires[wire].ends[end].host);
        if let Some(until) = self.held_up(dialler, listener) {
            return self.at(until, Event::Syn(wire));
        }
        if self.hosts[listener].node.is_none() {
            if self.hosts[listener].powered {
                self.push(wire, 0, Packet::Reset);
            }
            return;
        }
        let transport = Transport { loopback: true, certified: None };
        let session = LineSession::accepted(
            wire as u64,
            proxy_herd::node::PeerInfo {
                label: b"peer"[..].into(),
                transport,
                ..proxy_herd::node::PeerInfo::default()
            },
        );
        self.wires[wire].ends[1].session = Some(session);
        self.hosts[listener].wires.push(wire);
        let delay = self.delay(listener, dialler);
        self.at(self.now + delay, Event::SynAck(wire));
        self.shake(wire, 1);
    }

    /// The handshake of this end must be over in time.
    fn shake(&mut self, wire: usize, end: usize) {
        self.at(self.now + HANDSHAKE_TIMEOUT.as_nanos() as Time, Event::Deadline(wire, end));
    }

    fn syn_ack(&mut self, wire: usize) {
        let [dialler, listener] = [0, 1].map(|end| self.wires[wire].ends[end].host);
        if let Some(until) = self.held_up(listener, dialler) {
            return self.at(until, Event::SynAck(wire));
        }
        let now = self.clocks(dialler);
        let End { dialling, out, session, .. } = &mut self.wires[wire].ends[0];
        let (Some(link), Some(node)) = (dialling.take(), &mut self.hosts[dialler].node) else {
            // Whoever dialled has given up.
            return self.push(wire, 1, Packet::Reset);
        };
        let transport = Transport { loopback: true, certified: None };
        let label = b"peer"[..].into();
        *session =
            Some(LineSession::dialed(node, wire as u64, label, link, transport, now.instant, out));
        self.shake(wire, 0);
        self.send(wire, 0);
        self.turn(dialler);
    }

    /// Until when something from one node cannot reach the other, if it cannot.
    fn held_up(&self, from: usize, to: usize) -> Option<Time> {
        let blocked = self.blocked.get(&(from, to)).copied().unwrap_or(0);
        let until = blocked.max(self.hosts[to].frozen_until);
        (until > self.now).then_some(until)
    }

    fn deadline(&mut self, wire: usize, end: usize) {
        let [host, other] = [end, 1 - end].map(|end| self.wires[wire].ends[end].host);
        if let Some(until) = self.held_up(host, host) {
            return self.at(until, Event::Deadline(wire, end));
        }
        let this = &mut self.wires[wire].ends[end];
        if let Some(link) = this.dialling.take() {
            let now = self.clocks(host);
            if let Some(node) = &mut self.hosts[host].node {
                self.trace.line(self.now, || format!("n{host:02} gives n{other:02} up"));
                node.herd.dial_failed(link, now.instant.uptime());
                self.hosts[host].wires.retain(|&held| held != wire);
                self.turn(host);
            }
        } else if this.session.as_ref().is_some_and(LineSession::is_handshaking) {
            self.close(wire, end, Packet::Fin);
            self.turn(host);
        }
    }

    /// Something has reached an end of a wire: it is read, and the node has its turn.
    pub fn arrive(&mut self, wire: usize, end: usize) {
        let [to, from] = [end, 1 - end].map(|end| self.wires[wire].ends[end].host);
        if self.wires[wire].black {
            self.wires[wire].pipes[end].packets.clear(); // never acknowledged: `bytes` stays
            return;
        }
        if let Some(until) = self.held_up(from, to) {
            return self.at(until, Event::Arrive(wire, end));
        }
        while !self.wires[wire].ends[end].waiting {
            let Some(packet) = self.wires[wire].pipes[end].pop(self.now) else { break };
            self.take(wire, end, packet);
        }
        self.turn(to);
        if std::mem::take(&mut self.wires[wire].pipes[end].full) && !self.is_frozen(from) {
            if self.wires[wire].ends[1 - end].is_open() {
                self.send(wire, 1 - end);
            }
            self.turn(from);
        }
    }

    /// One packet reaches an end of a wire.
    pub fn take(&mut self, wire: usize, end: usize, packet: Packet) {
        let host = self.wires[wire].ends[end].host;
        let this = &mut self.wires[wire].ends[end];
        if let Packet::Bytes(bytes) = &packet {
            self.trace.line(self.now, || {
                format!("n{host:02} gets {} on wire {wire}", bytes.escape_ascii())
            });
        } else {
            self.trace.line(self.now, || format!("n{host:02} sees {packet:?} on wire {wire}"));
        }
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

    /// Hands a session what has come.
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
            let why = format!("n{host:02} keeps {} bytes of wire {wire}", this.input.len());
            return self.fail(why);
        }
        match next {
            Next::NeedInput | Next::Yielded | Next::Blocked(_) => {}
            Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => {
                if session.link().is_some() {
                    return self.close(wire, end, Packet::Fin);
                }
                this.ending = true;
            }
        }
        self.send(wire, end);
    }

    /// Sends what all links of a node owe. Returns whether something came of it that is to be done.
    fn flush_links(&mut self, at: usize) -> bool {
        let links = self.hosts[at].node.as_ref().map_or(0, |node| node.herd.links().len());
        let mut more = false;
        for link in 0..links {
            let Some(node) = &self.hosts[at].node else { return false };
            let Some(up) = &node.herd.links()[link].up else { continue };
            let wire = up.connection as usize;
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
                herd.fill(link, now.wall.nanos(), &mut this.out, limit, message_log);
            }
            let herd = &self.hosts[at].node.as_ref().map(|node| &node.herd);
            let slots = herd.map_or(0, |herd| herd.directory.slots() as usize);
            let up = herd.and_then(|herd| herd.links()[link].up.as_ref());
            let queued = up.map_or(0, |up| up.flood.len().max(up.exchange.repairs.len()));
            let owed = this.out.len();
            if queued > slots || owed > limit + LONGEST_MESSAGE {
                self.fail(format!(
                    "n{at:02} owes {owed} bytes and {queued} records of {slots} on wire {wire}"
                ));
                return false;
            }
            let owes_more = up.is_some_and(proxy_herd::herd::link::Up::has_output);
            if !self.send(wire, end) {
                return false; // the network takes no more for now
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
        self.fail(format!("n{at:02} fills wire {wire} without an end"));
        false
    }

    /// Gives the network what it takes. Returns whether that was everything.
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
        if all && self.wires[wire].ends[end].ending {
            self.close(wire, end, Packet::Fin);
        }
        all
    }

    /// Puts a packet on its way to an end.
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

    /// A node closes a connection of its own accord.
    fn close(&mut self, wire: usize, end: usize, last: Packet) {
        if self.wires[wire].ends[end].is_open() {
            self.forget(wire, end);
            self.push(wire, 1 - end, last);
        }
    }

    /// A connection is over for this end.
    fn forget(&mut self, wire: usize, end: usize) {
        let host = self.wires[wire].ends[end].host;
        let now = self.clocks(host);
        self.hosts[host].wires.retain(|&held| held != wire);
        let this = &mut self.wires[wire].ends[end];
        let dialling = this.dialling;
        let session = this.forget();
        let Some(node) = &mut self.hosts[host].node else { return };
        if let Some(link) = dialling {
            node.herd.dial_failed(link, now.instant.uptime());
        }
        if let Some(mut session) = session {
            session.handle_closed(node, now.instant);
        }
    }

    fn end_of(&self, wire: usize, host: usize) -> usize {
        usize::from(self.wires[wire].ends[0].host != host)
    }
}

impl Graph {
    /// Looks at what `node` knows now. Trees must not be used until a second after the last change:
    /// until then other nodes may still compute from the former graph.
    fn look(&mut self, node: &Node, now: Time) -> Result<(), String> {
        let routes = node.herd.routes();
        let nodes = 0..node.herd.identity().names.len() as NodeId;
        let sequences =
            nodes.clone().fold(0u64, |sum, node| sum.wrapping_add(routes.state(node).0));
        if sequences != self.sequences {
            self.sequences = sequences;
            let states: Vec<_> = nodes.map(|node| routes.state(node).1.to_vec()).collect();
            if states != self.states {
                (self.states, self.changed_at) = (states, now);
            }
        }
        let uses_trees = node.herd.links().iter().any(|link| routes.has_edge(link.peer));
        if uses_trees && now < self.changed_at + SECONDS {
            let since = seconds(now - self.changed_at);
            return Err(format!("trees are in use {since} after a change of the graph"));
        }
        Ok(())
    }
}

/// Nobody asks for places here.
fn places() -> Places {
    Places::Offline(Offline::gazetteer().expect("the gazetteer is sound"))
}

/// The name of a node: in the order of numbers.
pub fn name(node: usize) -> Vec<u8> {
    format!("n{node:02}").into_bytes()
}

fn last_two(line: &[u8]) -> Vec<&[u8]> {
    let fields: Vec<&[u8]> = line.split(|&b| b == b' ').collect();
    fields[fields.len() - 2..].to_vec()
}

/// Nanoseconds as a client writes seconds.
fn decimal(nanos: Nanos) -> String {
    let (sign, nanos) = if nanos < 0 { ("-", -nanos) } else { ("", nanos) };
    format!("{sign}{}.{:09}", nanos / SECOND, nanos % SECOND)
}

/// Virtual time for people.
pub fn seconds(time: Time) -> String {
    format!("{:.6} s", time as f64 / 1e9)
}
