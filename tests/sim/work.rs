//! The work of a herd: messages and bytes, by kind.

use std::collections::HashSet;
use std::ops::{Add, Sub};

use proxy_herd::herd::flood::FORWARD_FREELY;
use proxy_herd::herd::message::Message;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::testing::topology::Shape;

use crate::schedule::{MILLISECOND, SECONDS, Schedule, When};
use crate::trace::Trace;
use crate::world::World;

/// Messages of one kind and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub messages: u64,
    pub bytes: u64,
}

/// Messages between nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Flooded records.
    pub records: Count,
    /// Link states.
    pub links: Count,
    pub keepalives: Count,
    /// Comparisons of digests and the records that they recover.
    pub anti_entropy: Count,
}

/// What a node has sent to its neighbors.
#[derive(Clone, Debug, Default)]
pub struct Work {
    pub traffic: Traffic,
    /// The next record is a repair.
    repair: bool,
    /// Per connection, the link states sent on it.
    sent: HashSet<(usize, Vec<u8>)>,
    repeated: Option<Vec<u8>>,
}

impl Work {
    /// The node starts. Its counter of repairs, which explain repetitions, begins at zero.
    pub fn start(&mut self) {
        *self = Self { traffic: self.traffic, ..Self::default() };
    }

    /// Counts the messages in `bytes`, which were sent on connection `wire`.
    pub fn count(&mut self, wire: usize, bytes: &[u8]) {
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let text = line.strip_suffix(b"\n").expect("complete lines are sent");
            let Some(message) = Message::parse(text) else { continue }; // a line of the handshake
            let is_repair =
                std::mem::replace(&mut self.repair, matches!(message, Message::Repair(_)));
            let kind = match message {
                Message::Record(_) if !is_repair => &mut self.traffic.records,
                Message::Ping(..) | Message::Pong(..) | Message::Moved => {
                    &mut self.traffic.keepalives
                }
                Message::Links(_) => &mut self.traffic.links,
                _ => &mut self.traffic.anti_entropy,
            };
            kind.messages += 1;
            kind.bytes += line.len() as u64;
            if matches!(message, Message::Links(_)) && !self.sent.insert((wire, text.to_vec())) {
                self.repeated = Some(text.to_vec());
            }
        }
    }

    /// Work that was not necessary: a connection carries each link state once, unless `repairs` says that
    /// all were sent again.
    pub fn excess(&self, repairs: u64) -> Option<String> {
        let repeated = self.repeated.as_ref().filter(|_| repairs == 0)?;
        Some(format!("{} was sent twice on one connection", repeated.escape_ascii()))
    }
}

impl Traffic {
    /// Bytes of all kinds.
    pub const fn bytes(&self) -> u64 {
        self.records.bytes + self.links.bytes + self.keepalives.bytes + self.anti_entropy.bytes
    }

    fn each(self, other: Self, of: impl Fn(u64, u64) -> u64) -> Self {
        let count = |a: Count, b: Count| Count {
            messages: of(a.messages, b.messages),
            bytes: of(a.bytes, b.bytes),
        };
        Self {
            records: count(self.records, other.records),
            links: count(self.links, other.links),
            keepalives: count(self.keepalives, other.keepalives),
            anti_entropy: count(self.anti_entropy, other.anti_entropy),
        }
    }
}

impl Add for Traffic {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.each(other, u64::wrapping_add)
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self.each(other, u64::wrapping_sub)
    }
}

impl World {
    /// Work of a node that was not necessary, and conflicts that it reports without reason.
    pub fn needless_work(&self, at: usize) -> Option<String> {
        let host = &self.hosts[at];
        let herd = &host.node.as_ref()?.herd;
        let repairs = herd.counters.link_state_repairs;
        if self.schedule.calm && repairs > 0 {
            return Some(format!("{repairs} repairs of link states without a fault"));
        }
        if herd.counters.name_conflicts > 0 && self.schedule.twin_of.is_none() {
            return Some("reports two processes with one name".to_owned());
        }
        host.work.excess(repairs)
    }

    /// Returns whether a node may hold records that it forwards only after a pause, because a sync has
    /// recovered many.
    pub fn is_catching_up(&self) -> bool {
        let many = self.schedule.clients.len() > FORWARD_FREELY as usize;
        many && self.now < self.last_synced.max(self.last_relink) + SECONDS
    }

    /// The messages sent by all nodes since the start.
    pub fn traffic(&self) -> Traffic {
        let each = self.hosts.iter().map(|host| host.work.traffic);
        each.fold(Traffic::default(), Traffic::add)
    }
}

/// The traffic of the whole herd when a node is killed and returns empty a second later, and the size of
/// the records that all nodes hold.
fn restart(shape: Shape, nodes: usize, node: usize) -> (Traffic, u64) {
    let mut world = World::new(Schedule::by_hand(shape, nodes, 300), Trace::off());
    world.begin();
    world.pass(3 * SECONDS);
    let clients = 0..world.schedule.clients.len();
    let updates = clients.map(|client| world.update(client % nodes, client, When::Off(0)));
    let records: Vec<_> = updates.collect();
    world.pass(3 * SECONDS);
    let size = |record| world.oracle.line(record).len() as u64 + 1;
    let data = records.into_iter().flatten().map(size).sum();
    let before = world.traffic();
    world.kill(node, false);
    world.pass(SECONDS);
    world.start(node);
    world.pass(5 * SECONDS);
    let clocks: Vec<_> = (0..nodes).map(|at| (at, world.clock(at))).collect();
    world.oracle.converged(&clocks).unwrap();
    assert_eq!(world.wrong_graph(), None);
    let traffic = world.traffic() - before;
    println!("{shape:?}, {nodes} nodes, {data} bytes of records: {traffic:?}");
    (traffic, data)
}

/// The node receives every record and every link state about once, for any number of neighbors,
/// and every other node a few link states.
#[test]
fn a_restart_costs_a_small_multiple_of_the_data() {
    for (shape, nodes) in [(Shape::Mesh, 30), (Shape::Star, 30), (Shape::Five, 5), (Shape::Line, 9)]
    {
        let hub = if shape == Shape::Star { hub(nodes) } else { 1 };
        let (traffic, data) = restart(shape, nodes, hub);
        let edges = Schedule::by_hand(shape, nodes, 0).edges.len() as u64;
        let (nodes, sums) = (nodes as u64, 300);
        let record = data / 300 + 1;
        // Each link is compared a few times: after the loss of an edge, its return, and the fetch.
        assert!(traffic.anti_entropy.bytes < 2 * data + 14 * edges * sums, "{traffic:?}");
        assert!(traffic.records.bytes <= u64::from(FORWARD_FREELY) * nodes * record, "{traffic:?}");
        // Each neighbor of the node advertises its loss and its return to all nodes.
        assert!(traffic.links.messages < 3 * nodes * nodes, "{traffic:?}");
    }
}

/// In a mesh of four, one node's clock is two days behind. It refuses what it fetches, and the herd
/// goes on at a bounded cost; all others hold the same.
#[test]
fn a_node_with_a_slow_clock_does_not_fetch_everything_over_and_over() {
    const DAY: Nanos = 86_400 * SECOND;
    let mut schedule = Schedule::by_hand(Shape::Mesh, 4, 300);
    schedule.clocks[2] = -2 * DAY;
    schedule.wild_clocks = true;
    let mut world = World::new(schedule, Trace::off());
    world.begin();
    world.pass(3 * SECONDS);
    let clients = 0..world.schedule.clients.len();
    for client in clients {
        world.update([0, 1, 3][client % 3], client, When::Off(0));
        world.pass(MILLISECOND);
    }
    world.pass(3 * SECONDS);
    world.kill(2, false);
    world.pass(SECONDS);
    world.start(2);
    world.pass(15 * SECONDS);
    let before = world.traffic();
    world.pass(60 * SECONDS);
    let bytes = (world.traffic() - before).bytes();
    // Each of six checks on three links costs a sum per branch, the digests, and the records once.
    assert!(bytes < 6 * 3 * 300 * (300 + 100 + 100), "{bytes} bytes in a minute");
    let clocks: Vec<_> = [0, 1, 3].map(|at| (at, world.clock(at))).to_vec();
    world.oracle.converged(&clocks).unwrap();
}

/// The node of a star that is linked with all others.
fn hub(nodes: usize) -> usize {
    let edges = Schedule::by_hand(Shape::Star, nodes, 0).edges;
    (0..nodes).find(|hub| edges.iter().all(|(a, b)| a == hub || b == hub)).expect("a hub")
}
