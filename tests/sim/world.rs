//! The simulated world: nodes, wires, one clock, one random number generator.
//!
//! Each node is the real core, driven with bytes and instants as the event loop drives it. The part of
//! the event loop is in `event_loop`; `steps` is how the schedule acts on the world, and `recovery` what is
//! expected of the herd afterwards.

mod event_loop;
mod recovery;
mod steps;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::Hasher;
use std::time::Duration;

use proxy_herd::herd::digest_key::DigestKey;
use proxy_herd::ids::NodeId;
use proxy_herd::node::{LineSession, Node};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use ring::hmac;
use siphasher::sip::SipHasher13;

use crate::fences::Stay;
use crate::graph::Graph;
use crate::network::Wire;
use crate::oracle::{Oracle, RecordId};
use crate::original::OriginalServer;
use crate::rolling::Version;
use crate::schedule::{Schedule, Time};
use crate::trace::Trace;
use crate::work::Work;

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
