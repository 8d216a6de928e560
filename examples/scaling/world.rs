//! A herd in memory: real cores, one virtual clock, and a queue of bytes in flight.
//!
//! Bytes take the delay of their edge; bandwidth and computing time are not modeled. A handshake takes
//! four delays, and its bytes are not counted. Times are therefore lower bounds, while message counts
//! are exact.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Sub;
use std::time::Duration;

use proxy_herd::herd::directory::Source;
use proxy_herd::herd::message::{Message, Purpose};
use proxy_herd::herd::{Action, Connected, Counters, Herd, Origin};
use proxy_herd::ids::{BootId, ConnectionId, LinkId, NodeId};
use proxy_herd::net::limits::LINK_BUFFER;
use proxy_herd::protocol::command::Command;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};

use proxy_herd::testing;
use proxy_herd::testing::topology::Edge;
use proxy_herd::time::{Instant, Now, Wall};

/// Virtual time since the herd was started, in nanoseconds.
pub type Time = u64;

pub const MILLISECOND: Time = 1_000_000;

/// Unix time at which virtual time starts, in seconds.
const EPOCH: Nanos = 1_700_000_000;

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive {
        node: usize,
        link: LinkId,
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    /// One end of an edge learns that its connection is closed.
    Closed {
        node: usize,
        link: LinkId,
        connection: ConnectionId,
    },
    /// A stopped node starts.
    Start {
        node: usize,
    },
    /// An attempt of `dialer` to connect an edge has succeeded or failed.
    Dialed {
        edge: usize,
        dialer: usize,
    },
    Timer {
        node: usize,
    },
}

struct Host {
    herd: Herd,
    /// The edge of each link.
    edges: Vec<usize>,
    /// Records sent over each link, including repairs.
    records: Vec<u64>,
    timer: Time,
    /// The node is stopped.
    stopped: bool,
}

struct Line {
    ends: [usize; 2],
    delay: Time,
    /// All bytes are dropped, without an error at either end.
    silent: bool,
    /// Dialing fails before this time.
    cut_until: Time,
    /// A dial attempt is in progress.
    dialing: bool,
}

/// Messages of one kind and their bytes.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub messages: u64,
    pub bytes: u64,
}

/// Traffic sent by all nodes, by kind.
#[derive(Clone, Copy, Default)]
pub struct Traffic {
    pub records: Count,
    pub links: Count,
    pub keepalives: Count,
    /// Comparisons after a link came up or an edge was lost, and the records they recover.
    pub syncs: Count,
    /// Regular comparisons, and the records they recover.
    pub checks: Count,
}

/// An update and its progress through the herd.
pub struct Update {
    pub sent_at: Time,
    /// Copies received by any node.
    pub copies: u64,
    /// Time of the first arrival at each node that it has reached.
    pub arrivals: Vec<Time>,
}

/// The simulated herd.
pub struct World {
    pub now: Time,
    pub traffic: Traffic,
    pub updates: Vec<Update>,
    hosts: Vec<Host>,
    lines: Vec<Line>,
    events: BinaryHeap<Reverse<(Time, u64, Event)>>,
    order: u64,
    connections: u64,
}

impl World {
    /// Starts a herd of `nodes` nodes with these edges; `delay` is called once per edge.
    pub fn new(nodes: usize, edges: &[Edge], mut delay: impl FnMut() -> Time) -> Self {
        let lines: Vec<Line> = edges
            .iter()
            .map(|&(a, b)| Line {
                ends: [a, b],
                delay: delay(),
                silent: false,
                cut_until: 0,
                dialing: false,
            })
            .collect();
        let mut world = Self {
            now: 0,
            traffic: Traffic::default(),
            updates: Vec::new(),
            hosts: Vec::new(),
            lines,
            events: BinaryHeap::new(),
            order: 0,
            connections: 0,
        };
        let mut ends: Vec<Vec<(usize, usize)>> = vec![Vec::new(); nodes];
        for (edge, &(a, b)) in edges.iter().enumerate() {
            ends[a].push((b, edge));
            ends[b].push((a, edge));
        }
        for (me, mut ends) in ends.into_iter().enumerate() {
            ends.sort_unstable();
            let neighbors: Vec<_> = ends.iter().map(|&(peer, _)| peer as u16).collect();
            let herd = herd(me, nodes, &neighbors, me as u64, Instant::START);
            world.hosts.push(Host {
                herd,
                edges: ends.iter().map(|&(_, edge)| edge).collect(),
                records: vec![0; ends.len()],
                timer: Time::MAX,
                stopped: false,
            });
        }
        for node in 0..nodes {
            world.turn(node);
        }
        world
    }

    /// Advances time to `end`. Everything that arrives at a node at one instant is one turn of its
    /// loop.
    pub fn run_until(&mut self, end: Time) {
        while let Some(&Reverse((at, ..))) = self.events.peek()
            && at <= end
        {
            self.now = at;
            let mut awake = BTreeSet::new();
            while self.events.peek().is_some_and(|Reverse((due, ..))| *due == at) {
                let Some(Reverse((_, _, event))) = self.events.pop() else { break };
                self.handle(event, &mut awake);
            }
            for node in awake {
                self.turn(node);
            }
        }
        self.now = end;
    }

    /// Sends an IAMAT from a new client to a node.
    pub fn update(&mut self, node: usize) {
        let command = format!(
            "IAMAT vehicle-{:06} +34.068930-118.445127 {}.{:09}",
            self.updates.len(),
            EPOCH + Nanos::from(self.now / 1_000_000_000),
            self.now % 1_000_000_000
        );
        let Command::Iamat(iamat) = Command::parse(command.as_bytes()) else { panic!("{command}") };
        let wall = self.now().wall;
        let herd = &mut self.hosts[node].herd;
        let mut line = Vec::new();
        let server = herd.identity().name(NodeId(node as u16)).to_vec();
        let record = Record::emit(&mut line, &server, &iamat, wall.nanos());
        herd.apply_local_update(&record, wall);
        self.updates.push(Update { sent_at: self.now, copies: 0, arrivals: vec![self.now] });
        self.turn(node);
    }

    /// Stores the records of this many clients on all nodes. Returns their size.
    pub fn fill(&mut self, clients: usize) -> u64 {
        let mut bytes = 0;
        for client in 0..clients {
            let line = format!("AT n0000 +0.0 resident-{client:07} +34.068930-118.445127 {EPOCH}");
            bytes += line.len() as u64 + 1;
            let record = Record::parse(line.as_bytes()).expect("the record is valid");
            for host in &mut self.hosts {
                host.herd.directory.apply(&record, Source::Peer, Wall(EPOCH * SECOND));
            }
        }
        bytes
    }

    /// Stops a node, which its neighbors notice, and starts it again, empty, at `until`.
    pub fn restart(&mut self, node: usize, until: Time) {
        self.hosts[node].stopped = true;
        for edge in self.hosts[node].edges.clone() {
            self.cut(edge, until);
        }
        self.at(until, Event::Start { node });
    }

    /// Breaks the connection of an edge, which both ends notice; redialing fails until `until`.
    pub fn cut(&mut self, edge: usize, until: Time) {
        self.lines[edge].cut_until = until;
        for node in self.lines[edge].ends {
            let link = self.link(node, edge);
            if let Some(up) = &self.hosts[node].herd.link(link).up {
                let connection = up.connection;
                self.at(self.now, Event::Closed { node, link, connection });
            }
        }
    }

    /// Sets whether all bytes sent over an edge are dropped without an error at either end.
    pub fn silence(&mut self, edge: usize, silent: bool) {
        self.lines[edge].silent = silent;
    }

    /// Records sent since the start, by node and link.
    pub fn records(&self) -> Vec<Vec<u64>> {
        self.hosts.iter().map(|host| host.records.clone()).collect()
    }

    /// Sum of one counter over all nodes.
    pub fn sum(&self, counter: impl Fn(&Counters) -> u64) -> u64 {
        self.hosts.iter().map(|host| counter(&host.herd.counters)).sum()
    }

    /// Returns whether all edges are linked at both ends.
    pub fn is_linked(&self) -> bool {
        self.hosts.iter().all(|host| host.herd.links().iter().all(|link| link.up.is_some()))
    }

    /// Returns whether all nodes hold the same records.
    pub fn is_equal(&self) -> bool {
        let sums = |host: &Host| {
            let root = proxy_herd::herd::digest::Branch::ROOT;
            (host.herd.directory.len(), host.herd.directory.sums().children(root))
        };
        self.hosts.iter().all(|host| sums(host) == sums(&self.hosts[0]))
    }

    fn link(&self, node: usize, edge: usize) -> LinkId {
        let [a, b] = self.lines[edge].ends;
        let peer = if a == node { b } else { a };
        self.hosts[node].herd.link_to(NodeId(peer as u16)).expect("each edge of a node has a link")
    }

    fn now(&self) -> Now {
        let wall = Wall(EPOCH * SECOND + Nanos::from(self.now));
        Now { instant: Instant::at(Duration::from_nanos(self.now)), wall }
    }

    fn at(&mut self, at: Time, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn handle(&mut self, event: Event, awake: &mut BTreeSet<usize>) {
        let now = self.now().instant;
        match event {
            Event::Arrive { node, link, connection, bytes } => {
                awake.insert(node);
                self.arrive(node, link, connection, &bytes);
            }
            Event::Closed { node, link, connection } => {
                awake.insert(node);
                self.hosts[node].herd.handle_disconnected(link, connection, now);
            }
            Event::Start { node } => {
                awake.insert(node);
                let host = &mut self.hosts[node];
                let identity = host.herd.identity();
                let neighbors: Vec<u16> = identity.neighbors.iter().map(|peer| peer.0).collect();
                let (nodes, boot) =
                    (identity.names.len(), identity.boot.0 + identity.names.len() as u64);
                host.herd = herd(node, nodes, &neighbors, boot, now);
                host.stopped = false;
            }
            Event::Dialed { edge, dialer } => {
                let stopped = self.lines[edge].ends.iter().any(|&end| self.hosts[end].stopped);
                let line = &self.lines[edge];
                let linked = line.cut_until <= self.now && !line.silent && !stopped;
                self.lines[edge].dialing = false;
                self.connections += 1;
                for node in self.lines[edge].ends {
                    awake.insert(node);
                    let link = self.link(node, edge);
                    let herd = &mut self.hosts[node].herd;
                    if herd.link(link).is_dialing() && !(linked && node == dialer) {
                        herd.handle_dial_failed(link, now);
                    }
                    if linked {
                        let peer = herd.link(link).peer;
                        let boot = self.hosts[peer.index()].herd.identity().boot;
                        let herd = &mut self.hosts[node].herd;
                        let connection = ConnectionId(self.connections);
                        let origin = if node == dialer { Origin::Dialed } else { Origin::Accepted };
                        herd.handle_connected(Connected { connection, peer, boot, origin }, now);
                    }
                }
            }
            Event::Timer { node } => {
                if self.hosts[node].timer <= self.now && !self.hosts[node].stopped {
                    awake.insert(node);
                }
            }
        }
    }

    fn arrive(&mut self, node: usize, link: LinkId, connection: ConnectionId, bytes: &[u8]) {
        let now = self.now();
        for line in bytes.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            let herd = &mut self.hosts[node].herd;
            // Bytes in flight are lost with their connection.
            if herd.link(link).up.as_ref().is_none_or(|up| up.connection != connection) {
                return;
            }
            let before = new_records(&herd.counters);
            herd.handle_line(link, connection, line, &now, &mut ())
                .expect("messages between nodes are valid");
            if let Some(update) = update_of(line) {
                let update = &mut self.updates[update];
                update.copies += 1;
                if new_records(&herd.counters) > before {
                    update.arrivals.push(self.now);
                }
            }
        }
    }

    /// One turn of a node's loop after its input.
    fn turn(&mut self, node: usize) {
        let now = self.now();
        while !self.hosts[node].stopped {
            let herd = &mut self.hosts[node].herd;
            if herd.poll_timeout().is_some_and(|due| due <= now.instant) {
                herd.handle_timeout(&now, now.instant);
            }
            while let Some(action) = self.hosts[node].herd.poll_action() {
                self.act(node, &action);
            }
            for link in (0..self.hosts[node].edges.len()).map(LinkId) {
                while self.hosts[node].herd.has_output(link) {
                    self.send(node, link, &now);
                }
            }
            let host = &mut self.hosts[node];
            let due =
                host.herd.poll_timeout().map_or(Time::MAX, |due| due.uptime().as_nanos() as Time);
            if due > self.now {
                if host.timer <= self.now || due < host.timer {
                    host.timer = due;
                    self.at(due, Event::Timer { node });
                }
                return;
            }
        }
    }

    fn act(&mut self, node: usize, action: &Action) {
        match *action {
            Action::Dial(link) => {
                let edge = self.hosts[node].edges[link.index()];
                let line = &mut self.lines[edge];
                if !std::mem::replace(&mut line.dialing, true) {
                    let at = self.now + 4 * line.delay;
                    self.at(at, Event::Dialed { edge, dialer: node });
                }
            }
            // No node of this world has a port for links only.
            Action::Move { .. } | Action::Finish(_) | Action::Resume(_) => {}
            Action::Close { connection, .. } => {
                // The peer notices unless the edge drops everything.
                for link in (0..self.hosts[node].edges.len()).map(LinkId) {
                    let line = &self.lines[self.hosts[node].edges[link.index()]];
                    let peer = line.ends[usize::from(line.ends[0] == node)];
                    let edge = self.hosts[node].edges[link.index()];
                    let theirs = self.link(peer, edge);
                    let up = self.hosts[peer].herd.link(theirs).up.as_ref();
                    if !line.silent && up.is_some_and(|up| up.connection == connection) {
                        let at = self.now + line.delay;
                        self.at(at, Event::Closed { node: peer, link: theirs, connection });
                    }
                }
            }
        }
    }

    fn send(&mut self, node: usize, link: LinkId, now: &Now) {
        let mut bytes = Vec::new();
        let host = &mut self.hosts[node];
        let Some(up) = &host.herd.link(link).up else { return };
        let connection = up.connection;
        host.herd.poll_transmit(link, now, &mut bytes, LINK_BUFFER, &mut ());
        host.records[link.index()] += self.traffic.count(&bytes);
        let edge = host.edges[link.index()];
        let line = &self.lines[edge];
        if line.silent {
            return;
        }
        let at = self.now + line.delay;
        let peer = line.ends[usize::from(line.ends[0] == node)];
        let link = self.link(peer, edge);
        self.at(at, Event::Arrive { node: peer, link, connection, bytes });
    }
}

impl Traffic {
    /// Counts the messages in `bytes`. Returns the number of records among them.
    fn count(&mut self, bytes: &[u8]) -> u64 {
        let mut records = 0;
        let mut repair = None;
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            let message =
                Message::parse(&line[..line.len() - 1]).expect("nodes send valid messages");
            let purpose = match message {
                Message::Sums(purpose, ..) | Message::Repair(purpose) => Some(purpose),
                Message::Listing(list) | Message::Offers(list) | Message::Wants(list) => {
                    Some(list.purpose)
                }
                Message::Pull(_) => Some(Purpose::Sync),
                Message::Record(_) => repair,
                Message::Key(_)
                | Message::Links(_)
                | Message::Rules(_)
                | Message::Moved
                | Message::Ping(..)
                | Message::Pong(..) => None,
            };
            let kind = match (message, purpose) {
                (_, Some(Purpose::Sync)) => &mut self.syncs,
                (_, Some(Purpose::Check)) => &mut self.checks,
                (Message::Links(_), None) => &mut self.links,
                (Message::Record(_), None) => &mut self.records,
                (_, None) => &mut self.keepalives,
            };
            kind.messages += 1;
            kind.bytes += line.len() as u64;
            records += u64::from(matches!(message, Message::Record(_)));
            repair = if let Message::Repair(purpose) = message { Some(purpose) } else { None };
        }
        records
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { messages: self.messages - other.messages, bytes: self.bytes - other.bytes }
    }
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            records: self.records - other.records,
            links: self.links - other.links,
            keepalives: self.keepalives - other.keepalives,
            syncs: self.syncs - other.syncs,
            checks: self.checks - other.checks,
        }
    }
}

/// A node with default settings.
fn herd(me: usize, nodes: usize, neighbors: &[u16], boot: u64, now: Instant) -> Herd {
    let names: Vec<String> = (0..nodes).map(name).collect();
    let mut identity = testing::identity(&names, me as u16, neighbors);
    identity.boot = BootId(boot);
    Herd::new(identity, &[], testing::timing(), testing::KEYS, now)
}

/// The name of a node. Names sort like numbers.
pub fn name(node: usize) -> String {
    format!("n{node:04}")
}

/// Records received from other nodes that were new.
fn new_records(counters: &Counters) -> u64 {
    counters.floods_received - counters.floods_duplicate
        + counters.link_sync_records
        + counters.antientropy_repairs
}

/// The update that a line carries, if any.
fn update_of(line: &[u8]) -> Option<usize> {
    let client = line.starts_with(b"AT ").then(|| Record::parse(line))??.client;
    std::str::from_utf8(client.strip_prefix(b"vehicle-")?).ok()?.parse().ok()
}
