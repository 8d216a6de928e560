//! Every order of events in a small herd: three nodes in a line, three updates, and an edge that is
//! cut and linked again, at every point.
//!
//! The state of a node is a function of its inputs, in their order. All orders in which each node has
//! the same inputs lead to the same state, so each state is explored once, and the orders that pass
//! through it are counted without being run.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use proxy_herd::herd::{Herd, Origin, Timing};
use proxy_herd::ids::{BootId, ConnectionId, NodeId};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::SECOND;

use crate::world::name;
use proxy_herd::testing::{KEYS, connected, identity};
use proxy_herd::time::{Instant, Now, Wall};

const NODES: usize = 3;
const EDGES: [(usize, usize); 2] = [(0, 1), (1, 2)];

/// The edge that is cut.
const CUT: usize = 0;

/// The updates: the node that receives each, and the record. The third has the same time as the
/// second, so that the order of nodes decides.
const UPDATES: [(usize, &[u8]); 3] = [
    (0, b"AT n00 +0.000000000 k +1-1 5"),
    (2, b"AT n02 +0.000000000 k +2-2 6"),
    (1, b"AT n01 +0.000000000 k +3-3 6"),
];
const NEWEST: &[u8] = UPDATES[1].1;

const CLOCK: Wall = Wall(6 * SECOND);

/// The start of all orders. The trees are in use then.
const BEGIN: Instant = Instant::at(Duration::from_secs(3));

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Act {
    /// One of [`UPDATES`].
    Update(usize),
    /// The next packet arrives at this end of this edge.
    Deliver(usize, usize),
    Cut,
    /// This end of the edge detects the cut.
    Notice(usize),
    Relink,
}

/// Everything that the future depends on: the inputs of each node, the updates so far, and the state
/// of the edge.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Per node, a hash of its inputs.
    inputs: [u64; NODES],
    updated: [bool; UPDATES.len()],
    cut: bool,
    noticed: [bool; 2],
    relinked: bool,
}

struct Small {
    herds: Vec<Herd>,
    /// `pipes[edge][end]` leads to that end.
    pipes: [[VecDeque<Vec<u8>>; 2]; EDGES.len()],
    key: Key,
}

/// The state of the search.
#[derive(Default)]
struct Search {
    /// Number of orders from each state to an end.
    orders: HashMap<Key, u128>,
    path: Vec<Act>,
    failure: Option<String>,
}

impl Small {
    fn new() -> Self {
        let herds = (0..NODES).map(|me| {
            let ends = |&(a, b): &(usize, usize)| (a == me).then_some(b).or((b == me).then_some(a));
            let names: Vec<_> = (0..NODES).map(name).collect();
            let neighbors: Vec<_> = EDGES.iter().filter_map(ends).map(|peer| peer as u16).collect();
            let mut identity = identity(&names, me as u16, &neighbors);
            identity.boot = BootId(me as u64 + 1);
            let never = Duration::from_hours(24);
            let timing = Timing {
                keepalive: never,
                timeout: never,
                redial_max: never,
                antientropy_interval: never,
            };
            Herd::new(identity, &[], timing, KEYS, Instant::START)
        });
        let key = Key {
            inputs: [0; NODES],
            updated: [false; UPDATES.len()],
            cut: false,
            noticed: [false; 2],
            relinked: false,
        };
        let mut small = Self { herds: herds.collect(), pipes: Default::default(), key };
        for edge in 0..EDGES.len() {
            small.establish(edge, Instant::START);
        }
        small.run(Instant::START, BEGIN);
        small
    }

    /// The id of the connection of an edge.
    fn connection(&self, edge: usize) -> ConnectionId {
        let relinked = edge == CUT && self.key.relinked;
        ConnectionId(edge as u64 + if relinked { 10 } else { 0 })
    }

    fn establish(&mut self, edge: usize, now: Instant) {
        let (a, b) = EDGES[edge];
        let connection = self.connection(edge);
        for (me, peer) in [(a, b), (b, a)] {
            let boot = peer as u64 + 1;
            let origin = if me < peer { Origin::Dialed } else { Origin::Accepted };
            let connected = connected(connection.0, peer as u16, boot, origin);
            self.herds[me].handle_connected(connected, now);
        }
    }

    fn end(edge: usize, end: usize) -> usize {
        if end == 0 { EDGES[edge].0 } else { EDGES[edge].1 }
    }

    /// Sends the output of all nodes, in one packet per link. Packets into the cut edge are lost.
    fn flush(&mut self, now: Instant) {
        let now = Now { instant: now, wall: CLOCK };
        for edge in 0..EDGES.len() {
            for end in 0..2 {
                let (me, peer) = (Self::end(edge, end), Self::end(edge, 1 - end));
                let link = self.herds[me].link_to(NodeId(peer as u16)).expect("they are neighbors");
                let mut packet = Vec::new();
                while self.herds[me].has_output(link) {
                    self.herds[me].poll_transmit(link, &now, &mut packet, usize::MAX, &mut ());
                }
                let is_lost = edge == CUT && self.key.cut && !self.key.relinked;
                if !packet.is_empty() && !is_lost {
                    self.pipes[edge][1 - end].push_back(packet);
                }
            }
        }
    }

    fn deliver(&mut self, edge: usize, end: usize, now: Instant) {
        let Some(packet) = self.pipes[edge][end].pop_front() else { return };
        let (me, peer) = (Self::end(edge, end), Self::end(edge, 1 - end));
        let link = self.herds[me].link_to(NodeId(peer as u16)).expect("they are neighbors");
        let connection = self.connection(edge);
        for line in
            packet.strip_suffix(b"\n").expect("complete lines are sent").split(|&b| b == b'\n')
        {
            self.herds[me]
                .handle_line(link, connection, line, &Now { instant: now, wall: CLOCK }, &mut ())
                .expect("the messages are valid");
        }
    }

    /// Lets time pass without faults.
    fn run(&mut self, from: Instant, until: Instant) {
        let mut now = from;
        while now <= until {
            for herd in &mut self.herds {
                herd.handle_timeout(&Now { instant: now, wall: CLOCK }, now);
                while herd.poll_action().is_some() {}
            }
            self.flush(now);
            while self.pipes.iter().flatten().any(|pipe| !pipe.is_empty()) {
                for edge in 0..EDGES.len() {
                    (0..2).for_each(|end| self.deliver(edge, end, now));
                }
                self.flush(now);
            }
            now += Duration::from_millis(250);
        }
    }

    fn acts(&self) -> Vec<Act> {
        let Key { updated, cut, noticed, relinked, .. } = self.key;
        let mut acts: Vec<Act> =
            (0..UPDATES.len()).filter(|&i| !updated[i]).map(Act::Update).collect();
        let ways = (0..EDGES.len()).flat_map(|edge| [(edge, 0), (edge, 1)]);
        acts.extend(
            ways.filter(|&(edge, end)| !self.pipes[edge][end].is_empty())
                .map(|(edge, end)| Act::Deliver(edge, end)),
        );
        acts.extend((!cut).then_some(Act::Cut));
        acts.extend((0..2).filter(|&end| cut && !noticed[end]).map(Act::Notice));
        acts.extend((noticed == [true; 2] && !relinked).then_some(Act::Relink));
        acts
    }

    /// The state after `act`.
    fn key_after(&self, act: Act) -> Key {
        let mut key = self.key;
        let mut input = |node: usize, what: &[u8]| {
            let mut hasher = DefaultHasher::new();
            (key.inputs[node], what).hash(&mut hasher);
            key.inputs[node] = hasher.finish();
        };
        match act {
            Act::Update(i) => input(UPDATES[i].0, UPDATES[i].1),
            Act::Deliver(edge, end) => input(Self::end(edge, end), &self.pipes[edge][end][0]),
            Act::Cut => {}
            Act::Notice(end) => input(Self::end(CUT, end), b"cut"),
            Act::Relink => (0..2).for_each(|end| input(Self::end(CUT, end), b"linked")),
        }
        match act {
            Act::Update(i) => key.updated[i] = true,
            Act::Deliver(..) => {}
            Act::Cut => key.cut = true,
            Act::Notice(end) => key.noticed[end] = true,
            Act::Relink => key.relinked = true,
        }
        key
    }

    fn act(&mut self, act: Act) {
        let key = self.key_after(act);
        match act {
            Act::Update(i) => {
                let record = Record::parse(UPDATES[i].1).expect("the record is valid");
                self.herds[UPDATES[i].0].apply_local_update(&record, CLOCK);
            }
            Act::Deliver(edge, end) => self.deliver(edge, end, BEGIN),
            Act::Cut => self.pipes[CUT].iter_mut().for_each(VecDeque::clear),
            Act::Notice(end) => {
                let (me, peer) = (Self::end(CUT, end), Self::end(CUT, 1 - end));
                let link = self.herds[me].link_to(NodeId(peer as u16)).expect("they are neighbors");
                let connection = self.connection(CUT);
                self.herds[me].handle_disconnected(link, connection, BEGIN);
            }
            Act::Relink => {}
        }
        self.key = key;
        if act == Act::Relink {
            self.establish(CUT, BEGIN);
        }
        self.flush(BEGIN);
    }

    /// Checks that all nodes hold the newest record after the last event.
    fn check(mut self) -> Result<(), String> {
        self.run(BEGIN, BEGIN + Duration::from_secs(1));
        for (node, herd) in self.herds.iter().enumerate() {
            let held = herd.directory.get(b"k", CLOCK).unwrap_or_default();
            if held != NEWEST {
                return Err(format!("n{node:02} holds {}", held.escape_ascii()));
            }
        }
        Ok(())
    }
}

impl Search {
    /// Explores all orders from the state of `live`. Returns their number.
    fn explore(&mut self, mut live: Option<Small>) -> u128 {
        let Some(small) = &live else { return 0 };
        let (key, acts) = (small.key, small.acts());
        if acts.is_empty() {
            if let Some(Err(why)) = live.map(Small::check) {
                self.failure.get_or_insert(why);
            }
            return 1;
        }
        let next: Vec<(Act, Key)> = acts.iter().map(|&act| (act, small.key_after(act))).collect();
        let mut orders = 0;
        for (act, key) in next {
            if self.failure.is_some() {
                return 0;
            }
            if let Some(&known) = self.orders.get(&key) {
                orders += known;
                continue;
            }
            // The first event continues with the herd as it is; the others need a copy.
            let mut next = live.take().unwrap_or_else(|| self.rebuild());
            next.act(act);
            self.path.push(act);
            orders += self.explore(Some(next));
            self.path.pop();
        }
        self.orders.insert(key, orders);
        orders
    }

    /// Builds a herd in the current state.
    fn rebuild(&self) -> Small {
        let mut small = Small::new();
        self.path.iter().for_each(|&act| small.act(act));
        small
    }
}

/// Tries every order. Returns the number of orders and of states.
fn search() -> Result<(u128, usize), String> {
    let mut search = Search::default();
    let orders = search.explore(Some(Small::new()));
    search.failure.map_or(Ok((orders, search.orders.len())), Err)
}

#[test]
fn every_order_converges() {
    let (orders, states) = search().unwrap_or_else(|why| panic!("{why}"));
    println!("{orders} orders through {states} states");
}
