//! The cost of synchronizing nodes in bytes and time, measured on the core with links in memory.
//!
//! `RECOVERY_CLIENTS` sets the number of clients (default: 20,000). Measurements are printed:
//! `RECOVERY_CLIENTS=1000000 cargo test --release --test recovery_cost -- --nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

use std::time::{Duration, Instant};

use proxy_herd::herd::anti_entropy::{FETCH_FREELY, GRACE, MAX_SUSPECTS, RECORDS_PER_CALL};
use proxy_herd::herd::directory::{Rules, Source};
use proxy_herd::herd::fetch_claims::FETCH_PATIENCE;
use proxy_herd::herd::flood::FORWARD_FREELY;
use proxy_herd::herd::{Herd, Origin};
use proxy_herd::ids::{BootId, LinkId};
use proxy_herd::net::limits::LINK_BUFFER;
use proxy_herd::protocol::command::Command;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::testing::{connected, herd, identity, timing};
use proxy_herd::time::{self, Now, Wall};

/// The wall clock of all nodes at the start.
const CLOCK: Wall = Wall(1_700_000_000 * SECOND);

/// Bytes on the link of a record sent by anti-entropy: two lines.
const RECORD: u64 = 95;

fn clients() -> u32 {
    std::env::var("RECOVERY_CLIENTS").map_or(20_000, |text| text.parse().unwrap())
}

/// Node 0 and its neighbors, which are not linked with each other.
struct Star {
    nodes: Vec<Herd>,
    now: time::Instant,
    /// Bytes from and to node 0.
    sent: u64,
    received: u64,
    /// Records sent to node 0 by anti-entropy.
    fetched: u64,
    /// A node with limited bandwidth, and its bytes per millisecond.
    slow: Option<(usize, usize)>,
    /// The error of node 0's clock, in nanoseconds.
    clock_error: Nanos,
    /// The largest number of records that one call has examined.
    most_examined: u64,
    /// Lines transferred that are not keepalives.
    lines: u64,
}

const RULES: Rules = Rules {
    max_clock_offset: 5 * SECOND,
    max_clients: 10_000_000, // none of RECOVERY_CLIENTS is evicted
    client_ttl: 0,
    forget_keep: 0,
};

fn node(me: usize, nodes: usize, boot: u64, rules: Rules) -> Herd {
    let neighbors: Vec<u16> = if me == 0 { (1..nodes as u16).collect() } else { vec![0] };
    let names: Vec<String> = (0..nodes).map(|node| format!("N{node}")).collect();
    let mut identity = identity(&names, me as u16, &neighbors);
    identity.rules = rules;
    identity.boot = BootId(boot);
    herd(identity)
}

/// The record of a client that reported to `node` with this time.
fn line(node: &[u8], client: u32, time: i64) -> Vec<u8> {
    let text = format!("IAMAT vehicle-{client:07}.fleet.example +34.068930-118.445127 {time}");
    let Command::Iamat(iamat) = Command::parse(text.as_bytes()) else { panic!("{text}") };
    let mut line = Vec::new();
    Record::emit(&mut line, node, &iamat, CLOCK.nanos());
    line
}

/// Stores the record of a client that a node whose clock is days behind has received.
fn store_outdated(herd: &mut Herd, client: u32, days: Nanos) {
    let text = format!("IAMAT vehicle-{client:07}.fleet.example +34.068930-118.445127 1600000000");
    let Command::Iamat(iamat) = Command::parse(text.as_bytes()) else { panic!("{text}") };
    let (mut line, clock) = (Vec::new(), Wall(CLOCK.nanos() - days * 86_400 * SECOND));
    Record::emit(&mut line, b"N0", &iamat, clock.nanos());
    herd.directory.apply(&Record::parse(&line).unwrap(), Source::Peer, clock);
}

/// Stores the record of a client with this time in a node.
fn store(herd: &mut Herd, client: u32, time: i64) {
    let line = line(b"N0", client, time);
    herd.directory.apply(&Record::parse(&line).unwrap(), Source::Peer, CLOCK);
}

impl Star {
    fn new(nodes: usize) -> Self {
        Self::with_rules(nodes, RULES)
    }

    fn with_rules(nodes: usize, rules: Rules) -> Self {
        Self {
            nodes: (0..nodes).map(|me| node(me, nodes, me as u64 + 1, rules)).collect(),
            now: time::Instant::START,
            sent: 0,
            received: 0,
            fetched: 0,
            slow: None,
            clock_error: 0,
            most_examined: 0,
            lines: 0,
        }
    }

    /// The wall clock of a node.
    fn wall(&self, node: usize) -> Wall {
        let elapsed = self.now.uptime().as_nanos() as Nanos;
        Wall(CLOCK.nanos() + elapsed + if node == 0 { self.clock_error } else { 0 })
    }

    /// Records examined by anti-entropy on all nodes.
    fn examined(&self) -> u64 {
        self.nodes.iter().map(|node| node.directory.counters.examined).sum()
    }

    /// Reconnects all links.
    fn link(&mut self) {
        (self.sent, self.received, self.fetched) = (0, 0, 0);
        (1..self.nodes.len()).for_each(|leaf| self.link_leaf(leaf));
    }

    fn link_leaf(&mut self, leaf: usize) {
        let connection = self.now.uptime().as_nanos() as u64 + 1;
        let boot = |nodes: &Vec<Herd>, node: usize| nodes[node].identity().boot.0;
        let (of_hub, of_leaf) = (boot(&self.nodes, 0), boot(&self.nodes, leaf));
        self.nodes[0]
            .handle_connected(connected(connection, leaf as u16, of_leaf, Origin::Dialed), self.now)
            .unwrap();
        self.nodes[leaf]
            .handle_connected(connected(connection, 0, of_hub, Origin::Accepted), self.now)
            .unwrap();
    }

    fn unlink(&mut self) {
        for node in 0..self.nodes.len() {
            for link in (0..self.nodes[node].links().len()).map(LinkId) {
                if let Some(up) = &self.nodes[node].link(link).up {
                    let connection = up.connection;
                    self.nodes[node].handle_disconnected(link, connection, self.now);
                }
            }
        }
    }

    /// Transfers lines until only keepalives have been sent for three seconds of virtual time.
    /// Returns the elapsed real time.
    fn settle(&mut self) -> Duration {
        let start = Instant::now();
        let mut quiet = 0;
        while quiet < 30 {
            let before = self.lines;
            self.step();
            if self.is_busy() || self.lines > before {
                quiet = 0; // a step may only look at records
            } else {
                self.now += Duration::from_millis(99);
                quiet += 1;
            }
        }
        start.elapsed()
    }

    /// Returns whether a node compares or sends records.
    fn is_busy(&self) -> bool {
        let mut links = self.nodes.iter().flat_map(Herd::links);
        links.any(|link| link.up.as_ref().is_some_and(|up| up.anti_entropy.has_output()))
    }

    /// Transfers lines for `time`, ten milliseconds per step.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
            self.now += Duration::from_millis(9);
        }
    }

    /// Simulates a millisecond, in which every link transfers at most one buffer.
    fn step(&mut self) {
        self.now += Duration::from_millis(1);
        for leaf in 1..self.nodes.len() {
            let there = self.carry((0, LinkId(leaf - 1)), (leaf, LinkId(0)));
            let back = self.carry((leaf, LinkId(0)), (0, LinkId(leaf - 1)));
            self.sent += there;
            self.received += back;
        }
        for node in 0..self.nodes.len() {
            let now = Now { instant: self.now, wall: self.wall(node) };
            self.nodes[node].handle_timeout(&now, now.instant);
            while self.nodes[node].poll_action().is_some() {}
        }
    }

    fn carry(&mut self, from: (usize, LinkId), to: (usize, LinkId)) -> u64 {
        let (wall, now) = (self.wall(from.0), Now { instant: self.now, wall: self.wall(to.0) });
        let Self { nodes, slow, fetched, most_examined, lines, .. } = self;
        let limit =
            slow.filter(|(node, _)| *node == from.0).map_or(LINK_BUFFER, |(_, bytes)| bytes);
        let mut bytes = Vec::new();
        let before = nodes[from.0].directory.counters.examined;
        nodes[from.0].poll_transmit(
            from.1,
            &Now { instant: now.instant, wall },
            &mut bytes,
            limit,
            &mut (),
        );
        let examined = nodes[from.0].directory.counters.examined - before;
        *most_examined = examined.max(*most_examined);
        let Some(up) = &nodes[to.0].link(to.1).up else { return 0 };
        let connection = up.connection;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap();
            let is_keepalive = line.starts_with(b"PING ") || line.starts_with(b"PONG ");
            *lines += u64::from(!is_keepalive);
            *fetched += u64::from(to.0 == 0 && line.starts_with(b"REPAIR "));
            nodes[to.0].handle_line(to.1, connection, line, &now, &mut ()).unwrap();
        }
        bytes.len() as u64
    }

    fn assert_same(&self) {
        use proxy_herd::herd::digest::Branch;
        let of = |herd: &Herd| (herd.directory.len(), herd.directory.sums().of(Branch::ROOT));
        for node in &self.nodes {
            assert_eq!(of(node), of(&self.nodes[0]));
        }
    }

    fn assert_identical(&self) {
        self.assert_same();
        for node in &self.nodes {
            assert_eq!(node.counters.antientropy_repairs, 0);
        }
    }
}

fn figures(what: &str, star: &Star, took: Duration) {
    let Star { sent, received, fetched, .. } = star;
    println!("{what}: {sent} bytes from it, {received} to it, {fetched} records, {took:.2?}");
}

#[test]
fn a_reconnect_of_identical_nodes_costs_kilobytes_and_differences_cost_their_size() {
    let mut star = Star::new(2);
    let clients = clients();
    for herd in &mut star.nodes {
        (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
    }
    star.link();
    let took = star.settle();
    figures(&format!("{clients} clients, all alike"), &star, took);
    star.assert_identical();
    assert!(star.sent + star.received < 8 * 1024);

    // A thousand scattered differences, half of them newer on either node.
    star.unlink();
    let step = clients / 1000;
    for i in 0..1000 {
        store(&mut star.nodes[i as usize % 2], i * step, 1_700_000_001);
    }
    star.link();
    let took = star.settle();
    figures(&format!("{clients} clients, 1000 of them differ"), &star, took);
    star.assert_identical();
    // For each, one record, the listing of its leaf and the sums of two levels above it.
    let leaf = u64::from(clients) / 65_536 * 17 * 2;
    assert!(star.sent + star.received < 1000 * (RECORD + 2 * 17 * 17 + leaf + 200));
}

/// A node that returns empty requests every record once, for any number of neighbors. It
/// forwards a few of the records to its other neighbors, which may lack them, and then compares with
/// them.
#[test]
fn a_node_that_returns_empty_receives_every_record_once() {
    let clients = clients();
    for neighbors in [1, 3] {
        let mut star = Star::new(1 + neighbors);
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
        }
        star.link();
        let took = star.settle();
        figures(&format!("{clients} clients, empty with {neighbors} neighbors"), &star, took);
        star.assert_identical();
        let all = u64::from(clients) * RECORD;
        let neighbors = neighbors as u64;
        assert!(star.received < all * 21 / 20 + neighbors * 64 * 1024);
        let forwarded = u64::from(FORWARD_FREELY) * RECORD * (neighbors - 1);
        assert!(star.sent < forwarded + neighbors * 32 * 1024);
    }
}

/// As above, for a node whose records are all outdated. It compares all leaves with every neighbor,
/// since these may lack records too.
#[test]
fn an_outdated_node_receives_every_record_once() {
    let clients = clients();
    for neighbors in [1, 3] {
        let mut star = Star::new(1 + neighbors);
        (0..clients).for_each(|client| store(&mut star.nodes[0], client, 1_600_000_000));
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
        }
        star.link();
        let took = star.settle();
        figures(&format!("{clients} clients, outdated with {neighbors} neighbors"), &star, took);
        star.assert_identical();
        let freely = u64::from(2 * FETCH_FREELY) * neighbors as u64;
        assert!(star.fetched < u64::from(clients) * 21 / 20 + freely);
    }
}

/// A neighbor that stalls or slows down during a fetch delays it only briefly: other neighbors take
/// over long before its link times out.
#[test]
fn a_fetch_continues_when_a_neighbor_stalls() {
    let clients = clients();
    for dribbles in [false, true] {
        let mut star = Star::new(3);
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
        }
        star.link_leaf(1);
        while star.nodes[0].directory.len() < clients / 10 {
            star.step();
        }
        star.slow = Some((1, if dribbles { 1000 } else { 0 }));
        star.link_leaf(2);
        let since = star.now;
        while star.nodes[0].directory.len() < clients {
            star.step();
            assert!(star.now < since + 2 * FETCH_PATIENCE + Duration::from_secs(1));
        }
        assert!(star.nodes[0].link(LinkId(0)).up.is_some(), "the link has timed out");
    }
}

/// However many records share a leaf, a turn examines a bounded number of records, and all turns
/// together examine each a few times: no step searches the leaf for one record or one line.
#[test]
fn the_work_is_linear_even_if_all_records_are_in_one_leaf() {
    let clients = clients();
    let outdated = 1_600_000_000;
    let mut examined = Vec::new();
    for clients in [clients / 4, clients] {
        for (what, behind) in [("empty", 0), ("outdated", clients), ("half", clients / 2)] {
            let mut star = Star::new(3);
            for node in &mut star.nodes {
                node.directory.use_few_leaves(0);
            }
            (0..behind).for_each(|client| store(&mut star.nodes[0], client, outdated));
            for herd in &mut star.nodes[1..] {
                (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
            }
            star.link();
            let took = star.settle();
            figures(&format!("{clients} clients in one leaf, {what}"), &star, took);
            star.assert_identical();
            println!("examined {}, at most {} per call", star.examined(), star.most_examined);
            assert!(star.most_examined <= RECORDS_PER_CALL as u64);
            assert!(star.examined() <= 20 * u64::from(clients), "{what}: {}", star.examined());
            examined.push(star.examined());
        }
    }
    let (few, many) = examined.split_at(3);
    for (few, many) in few.iter().zip(many) {
        assert!(*many <= 5 * few, "four times the clients: {many} instead of {few}");
    }
}

/// A node whose clock is ahead loses what its time to live demands. Once the clock is right, the next
/// check finds out, and everything is fetched at once.
#[test]
fn a_clock_that_was_ahead_costs_one_fetch() {
    let clients = clients().max(6 * MAX_SUSPECTS as u32);
    let rules = Rules { client_ttl: 3600 * SECOND, ..RULES };
    let mut star = Star::with_rules(2, rules);
    for herd in &mut star.nodes {
        (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
    }
    star.link();
    star.settle();
    star.clock_error = 86_400 * SECOND;
    star.run(Duration::from_secs(20));
    assert_eq!(star.nodes[0].directory.len(), 0, "everything has expired");
    // Checks request a sample, find that it is of no use, and leave it at that.
    assert!(star.fetched <= 2 * MAX_SUSPECTS as u64, "{} records for nothing", star.fetched);
    star.clock_error = 0;
    let interval = timing().antientropy_interval;
    star.run(interval + GRACE + Duration::from_secs(1));
    assert_eq!(star.nodes[0].directory.len(), clients);
}

/// A node whose clock is days behind, or ahead by the time to live, refuses what it fetches from its
/// neighbors. It fetches it once or twice, and then a sample with each check.
#[test]
fn a_node_that_refuses_what_it_fetches_soon_stops() {
    let (clients, neighbors) = (clients() / 4, 3);
    let rules = Rules { client_ttl: 86_400 * SECOND, ..RULES };
    for (days, is_empty) in [(-2, true), (-2, false), (2, true)] {
        let mut star = Star::with_rules(1 + neighbors, rules);
        if !is_empty {
            (0..clients).for_each(|client| store_outdated(&mut star.nodes[0], client, 2));
        }
        star.clock_error = days * 86_400 * SECOND;
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| store(herd, client, 1_700_000_000));
        }
        star.link();
        star.run(Duration::from_secs(5));
        println!("{days} days: {} records at first", star.fetched);
        assert!(star.fetched <= u64::from(2 * clients), "{} records for nothing", star.fetched);
        let mut rounds = Vec::new();
        for _ in 0..3 {
            let before = star.fetched;
            star.run(timing().antientropy_interval);
            rounds.push(star.fetched - before);
        }
        println!("{days} days: {rounds:?} records with each check");
        // A link that has left everything to another has not learned yet that it would be refused.
        let sample = u64::from(2 * FETCH_FREELY);
        assert!(rounds[0] <= neighbors as u64 * MAX_SUSPECTS as u64);
        assert!(rounds[1..].iter().all(|round| *round <= neighbors as u64 * sample));
        assert_eq!(star.nodes[0].directory.len(), if is_empty { 0 } else { clients });
        // Once its clock is right, it catches up with the next check.
        star.clock_error = 0;
        star.run(timing().antientropy_interval + GRACE + Duration::from_secs(2));
        star.settle();
        star.assert_same();
    }
}

/// With continuous updates on all nodes while digests are compared, records in flight are not
/// mistaken for missing ones. Each client is updated every seven seconds, so that a missing record
/// would stay missing for longer than a check waits for it.
#[test]
fn without_faults_no_record_is_repaired_under_load() {
    let mut star = Star::new(4);
    star.link();
    for turn in 0..35_000_u32 {
        for more in 0..3 {
            let update = turn * 3 + more;
            let node = update as usize % star.nodes.len();
            let name = format!("N{node}");
            let line =
                line(name.as_bytes(), update * 7_919 % 20_000, 1_600_000_000 + i64::from(update));
            star.nodes[node].apply_local_update(&Record::parse(&line).unwrap(), CLOCK);
        }
        star.step();
    }
    let repairs: Vec<_> = star.nodes.iter().map(|node| node.counters.antientropy_repairs).collect();
    assert_eq!(repairs, [0; 4]);
    star.settle();
    star.assert_identical();
}
