//! What it costs two nodes to become alike, in bytes on the link and in time: the core alone, on
//! links in memory.
//!
//! `RECOVERY_CLIENTS` says how many clients there are (20,000); the figures are printed:
//! `RECOVERY_CLIENTS=1000000 cargo test --release --test recovery_cost -- --nocapture`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

use std::time::{Duration, Instant};

use proxy_herd::herd::anti_entropy::FETCH_FREELY;
use proxy_herd::herd::directory::Source;
use proxy_herd::herd::fetch_claims::FETCH_PATIENCE;
use proxy_herd::herd::routes::NodeId;
use proxy_herd::herd::{Herd, LinkId};
use proxy_herd::limits::LINK_BUFFER;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::protocol::command::Command;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::testing::{herd, identity};

/// What every clock says all the time.
const CLOCK: Nanos = 1_700_000_000 * SECOND;

/// Bytes of a record of these tests on a link that anti-entropy brings: two lines.
const RECORD: u64 = 95;

fn clients() -> u32 {
    std::env::var("RECOVERY_CLIENTS").map_or(20_000, |text| text.parse().unwrap())
}

/// Nodes that are all neighbours of node 0, and of nobody else.
struct Star {
    nodes: Vec<Herd>,
    now: Duration,
    message_log: MessageLog,
    /// Bytes from node 0, and to it.
    sent: u64,
    received: u64,
    /// Records to node 0 that anti-entropy brought.
    fetched: u64,
    /// A node that sends only so many bytes in a millisecond.
    slow: Option<(usize, usize)>,
}

fn node(me: usize, nodes: usize, boot: u64) -> Herd {
    let neighbours: Vec<NodeId> = if me == 0 { (1..nodes as NodeId).collect() } else { vec![0] };
    let names: Vec<String> = (0..nodes).map(|node| format!("N{node}")).collect();
    let mut identity = identity(&names, me as NodeId, &neighbours);
    identity.rules.max_clients = 10_000_000; // none of RECOVERY_CLIENTS is evicted
    identity.boot = boot;
    herd(identity)
}

/// The line of a client that `node` has heard at this time.
fn line(node: &[u8], client: u32, time: i64) -> Vec<u8> {
    let text = format!("IAMAT vehicle-{client:07}.fleet.example +34.068930-118.445127 {time}");
    let Command::Iamat(iamat) = Command::parse(text.as_bytes()) else { panic!("{text}") };
    let mut line = Vec::new();
    Record::emit(&mut line, node, &iamat, CLOCK);
    line
}

/// The node holds the record of this client at this time, wherever it has it from.
fn tell(herd: &mut Herd, client: u32, time: i64) {
    let line = line(b"N0", client, time);
    herd.directory.offer(&Record::parse(&line).unwrap(), Source::Peer, CLOCK);
}

impl Star {
    fn new(nodes: usize) -> Self {
        Self {
            nodes: (0..nodes).map(|me| node(me, nodes, me as u64 + 1)).collect(),
            now: Duration::ZERO,
            message_log: MessageLog::new(false, Format::default(), "N0"),
            sent: 0,
            received: 0,
            fetched: 0,
            slow: None,
        }
    }

    /// All links come up, as if they had not been there.
    fn link(&mut self) {
        (self.sent, self.received, self.fetched) = (0, 0, 0);
        (1..self.nodes.len()).for_each(|leaf| self.link_leaf(leaf));
    }

    fn link_leaf(&mut self, leaf: usize) {
        let connection = self.now.as_nanos() as u64 + 1;
        let boot = |nodes: &Vec<Herd>, node: usize| nodes[node].identity().boot;
        let (of_hub, of_leaf) = (boot(&self.nodes, 0), boot(&self.nodes, leaf));
        self.nodes[0].established(connection, leaf as NodeId, of_leaf, true, self.now).unwrap();
        self.nodes[leaf].established(connection, 0, of_hub, false, self.now).unwrap();
    }

    fn unlink(&mut self) {
        for node in 0..self.nodes.len() {
            for link in 0..self.nodes[node].links().len() {
                if let Some(up) = &self.nodes[node].links()[link].up {
                    let connection = up.connection;
                    self.nodes[node].closed(link, connection, self.now);
                }
            }
        }
    }

    /// Carries lines back and forth until nothing but keepalives has moved for three seconds, of
    /// virtual time. Returns how long this machine took for it.
    fn settle(&mut self) -> Duration {
        let start = Instant::now();
        let mut quiet = 0;
        while quiet < 30 {
            let moved = self.step();
            if moved == 0 {
                self.now += Duration::from_millis(99);
                quiet += 1;
            } else if moved > 200 {
                quiet = 0;
            }
        }
        start.elapsed()
    }

    /// A millisecond: what every link owes is carried, as far as a buffer goes. Returns how much.
    fn step(&mut self) -> u64 {
        self.now += Duration::from_millis(1);
        let mut moved = 0;
        for leaf in 1..self.nodes.len() {
            let there = self.carry((0, leaf - 1), (leaf, 0));
            let back = self.carry((leaf, 0), (0, leaf - 1));
            self.sent += there;
            self.received += back;
            moved += there + back;
        }
        for node in &mut self.nodes {
            node.handle_timeout(self.now, CLOCK);
            while node.poll_action().is_some() {}
        }
        moved
    }

    fn carry(&mut self, from: (usize, LinkId), to: (usize, LinkId)) -> u64 {
        let Self { nodes, message_log, now, slow, fetched, .. } = self;
        let limit =
            slow.filter(|(node, _)| *node == from.0).map_or(LINK_BUFFER, |(_, bytes)| bytes);
        let mut bytes = Vec::new();
        nodes[from.0].fill(from.1, CLOCK, &mut bytes, limit, message_log);
        let Some(up) = &nodes[to.0].links()[to.1].up else { return 0 };
        let connection = up.connection;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap();
            *fetched += u64::from(to.0 == 0 && line.starts_with(b"REPAIR "));
            nodes[to.0].receive(to.1, connection, line, *now, CLOCK, message_log).unwrap();
        }
        bytes.len() as u64
    }

    fn assert_alike(&self) {
        use proxy_herd::herd::digest::Branch;
        let of = |herd: &Herd| (herd.directory.len(), herd.directory.sums().of(Branch::ROOT));
        for node in &self.nodes {
            assert_eq!(of(node), of(&self.nodes[0]));
            assert_eq!(node.counters.antientropy_repairs, 0);
        }
    }
}

fn figures(what: &str, star: &Star, took: Duration) {
    let Star { sent, received, fetched, .. } = star;
    println!("{what}: {sent} bytes from it, {received} to it, {fetched} records, {took:.2?}");
}

#[test]
fn a_relink_of_equal_nodes_costs_kilobytes_and_differences_cost_themselves() {
    let mut star = Star::new(2);
    let clients = clients();
    for herd in &mut star.nodes {
        (0..clients).for_each(|client| tell(herd, client, 1_700_000_000));
    }
    star.link();
    let took = star.settle();
    figures(&format!("{clients} clients, all alike"), &star, took);
    star.assert_alike();
    assert!(star.sent + star.received < 8 * 1024);

    // A thousand, scattered: half of them newer here, half of them there.
    star.unlink();
    let step = clients / 1000;
    for i in 0..1000 {
        tell(&mut star.nodes[i as usize % 2], i * step, 1_700_000_001);
    }
    star.link();
    let took = star.settle();
    figures(&format!("{clients} clients, 1000 of them differ"), &star, took);
    star.assert_alike();
    // A line for each, and for each its listing of a leaf and the sums of two levels above it.
    let leaf = u64::from(clients) / 65_536 * 17 * 2;
    assert!(star.sent + star.received < 1000 * (RECORD + 2 * 17 * 17 + leaf + 200));
}

/// A node that comes back with nothing asks for everything once, however many neighbours could
/// bring it. What one has told goes on to the others, which may lack it.
#[test]
fn a_node_that_returns_empty_is_told_everything_once() {
    let clients = clients();
    for neighbours in [1, 3] {
        let mut star = Star::new(1 + neighbours);
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| tell(herd, client, 1_700_000_000));
        }
        star.link();
        let took = star.settle();
        figures(&format!("{clients} clients, empty beside {neighbours}"), &star, took);
        star.assert_alike();
        let all = u64::from(clients) * RECORD;
        let neighbours = neighbours as u64;
        assert!(star.received < all * 21 / 20 + neighbours * 64 * 1024);
        assert!(star.sent < all * (neighbours - 1) + neighbours * 64 * 1024);
    }
}

/// The same for one that is far behind. It compares all leaves with each neighbour, which may lack
/// something, too.
#[test]
fn a_node_that_is_far_behind_is_told_everything_once() {
    let clients = clients();
    for neighbours in [1, 3] {
        let mut star = Star::new(1 + neighbours);
        (0..clients).for_each(|client| tell(&mut star.nodes[0], client, 1_600_000_000));
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| tell(herd, client, 1_700_000_000));
        }
        star.link();
        let took = star.settle();
        figures(&format!("{clients} clients, far behind beside {neighbours}"), &star, took);
        star.assert_alike();
        let freely = u64::from(2 * FETCH_FREELY) * neighbours as u64;
        assert!(star.fetched < u64::from(clients) * 21 / 20 + freely);
    }
}

/// A neighbour that stalls in the middle of a fetch holds it up for a moment only, long before its
/// link is given up; and so does one that only dribbles.
#[test]
fn a_fetch_goes_on_beside_a_neighbour_that_stalls() {
    let clients = clients();
    for dribbles in [false, true] {
        let mut star = Star::new(3);
        for herd in &mut star.nodes[1..] {
            (0..clients).for_each(|client| tell(herd, client, 1_700_000_000));
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
        assert!(star.nodes[0].links()[0].up.is_some(), "it has not been given up");
    }
}

/// Updates on all nodes all the time, and digests compared all the while: what is on its way is not
/// taken for missing. A client moves every seven seconds, so that what is missing stays so for longer
/// than a check waits for it.
#[test]
fn without_faults_nothing_has_to_be_repaired_under_load() {
    let mut star = Star::new(4);
    star.link();
    for turn in 0..35_000_u32 {
        for more in 0..3 {
            let update = turn * 3 + more;
            let node = update as usize % star.nodes.len();
            let name = format!("N{node}");
            let line =
                line(name.as_bytes(), update * 7_919 % 20_000, 1_600_000_000 + i64::from(update));
            star.nodes[node].hear(&Record::parse(&line).unwrap(), CLOCK);
        }
        star.step();
    }
    let repairs: Vec<_> = star.nodes.iter().map(|node| node.counters.antientropy_repairs).collect();
    assert_eq!(repairs, [0; 4]);
    star.settle();
    star.assert_alike();
}
