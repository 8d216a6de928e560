//! Single rules of flooding and links, and in submodules of anti-entropy, each on one or two cores that
//! are driven by hand. A schedule would reach these cases too, but the herd as a whole makes up for the
//! mistake.

mod anti_entropy;
mod digest_key;

use std::collections::BTreeMap;
use std::time::Duration;

use proxy_herd::herd::digest::Leaf;
use proxy_herd::herd::digest_key::{DigestKey, Seeds};
use proxy_herd::herd::flood::FORWARD_FREELY;
use proxy_herd::herd::link::REDIAL_MIN;
use proxy_herd::herd::link_states::{HOLD, LINKS_PAUSE};
use proxy_herd::herd::{Action, CloseReason, Herd, Origin};
use proxy_herd::ids::{ConnectionId, LinkId, NodeId};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::testing::{KEYS, connected, identity, timing};
use proxy_herd::time::{Instant, Now, Wall};

use crate::world;

/// Trees are used again this long after the last change of the graph.
const SETTLE: Duration = Duration::from_secs(1);

const WALL: Wall = Wall(10 * SECOND);
const MILLISECOND: Duration = Duration::from_millis(1);

/// One core. Its neighbors are what the test says they are.
struct Core {
    herd: Herd,
    now: Instant,
}

impl Core {
    /// Node `me` of the herd A, B, C, D.
    fn new(me: u16, neighbors: &[u16], legacy_peers: &[u16]) -> Self {
        Self::with_key(me, neighbors, legacy_peers, KEYS.digest)
    }

    /// The same, but the node proposes this key of the digests.
    fn with_key(me: u16, neighbors: &[u16], legacy_peers: &[u16], digest: DigestKey) -> Self {
        let identity = identity(&["A", "B", "C", "D"], me, neighbors);
        let legacy_peers: Vec<_> = legacy_peers.iter().copied().map(NodeId).collect();
        let keys = Seeds { digest, ..KEYS };
        Self {
            herd: Herd::new(identity, &legacy_peers, timing(), keys, Instant::START),
            now: Instant::START,
        }
    }

    /// The same, but the directory holds at most `max_clients`.
    fn with_cap(me: u16, neighbors: &[u16], max_clients: u32) -> Self {
        let mut identity = identity(&["A", "B", "C", "D"], me, neighbors);
        identity.rules.max_clients = max_clients;
        let herd = Herd::new(identity, &[], timing(), KEYS, Instant::START);
        Self { herd, now: Instant::START }
    }

    fn connection(peer: u16) -> ConnectionId {
        ConnectionId(100 + u64::from(peer))
    }

    fn link_up(&mut self, peer: u16, dialed: bool) {
        let boot = 7 + u64::from(peer);
        let origin = if dialed { Origin::Dialed } else { Origin::Accepted };
        let connected = connected(Self::connection(peer).0, peer, boot, origin);
        self.herd.handle_connected(connected, self.now);
    }

    /// The peer announces the key that all nodes of these tests use.
    fn agree(&mut self, peer: u16) {
        self.receive(peer, "KEY 3 4");
        self.sent(peer);
    }

    fn link_down(&mut self, peer: u16) {
        let link = self.herd.link_to(NodeId(peer)).unwrap();
        self.herd.handle_disconnected(link, Self::connection(peer), self.now);
    }

    fn dial_failed(&mut self, peer: u16) {
        let link = self.herd.link_to(NodeId(peer)).unwrap();
        self.herd.handle_dial_failed(link, self.now);
    }

    /// An update of `client` from a client of this node. Returns its AT line.
    fn update(&mut self, client: &str) -> String {
        let identity = self.herd.identity();
        let name = identity.name(identity.me).escape_ascii().to_string();
        self.store(&name, client)
    }

    /// Stores and floods a record of `client` that `server` received. Returns its AT line.
    fn store(&mut self, server: &str, client: &str) -> String {
        let line = format!("AT {server} +0.000000000 {client} +1-1 5");
        self.herd.apply_local_update(&Record::parse(line.as_bytes()).unwrap(), WALL);
        line
    }

    fn receive(&mut self, peer: u16, line: &str) {
        let link = self.herd.link_to(NodeId(peer)).unwrap();
        let now = Now { instant: self.now, wall: WALL };
        let connection = Self::connection(peer);
        self.herd.handle_line(link, connection, line.as_bytes(), &now, &mut ()).unwrap();
    }

    /// The lines that one turn with room for `limit` bytes sends to `peer`.
    fn turn(&mut self, peer: u16, limit: usize) -> Vec<String> {
        let link = self.herd.link_to(NodeId(peer)).unwrap();
        let mut out = Vec::new();
        let now = Now { instant: self.now, wall: WALL };
        self.herd.poll_transmit(link, &now, &mut out, limit, &mut ());
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    /// Everything that is queued for `peer`.
    fn sent(&mut self, peer: u16) -> Vec<String> {
        let link = self.herd.link_to(NodeId(peer)).unwrap();
        let mut lines = Vec::new();
        while self.herd.has_output(link) {
            lines.extend(self.turn(peer, 4096));
        }
        lines
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.herd.handle_timeout(&Now { instant: self.now, wall: WALL }, self.now);
    }

    /// Lets the links be advertised and the graph settle.
    fn settle(&mut self) {
        self.pass(LINKS_PAUSE);
        self.pass(SETTLE);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.herd.poll_action()).collect()
    }

    fn holds(&self, client: &str) -> bool {
        self.herd.directory.get(client.as_bytes(), WALL).is_some()
    }
}

/// B in the herd whose edges are A–B, A–C, B–C and B–D, with all trees in use.
fn b_in_a_settled_herd() -> Core {
    let mut b = Core::new(1, &[0, 2, 3], &[]);
    for peer in [0, 2, 3] {
        b.link_up(peer, true);
    }
    b.receive(0, "LINKS A 7 2 - B C");
    b.receive(2, "LINKS C 9 2 - A B");
    b.receive(3, "LINKS D a 2 - B");
    b.settle();
    for peer in [0, 2, 3] {
        b.sent(peer);
    }
    b
}

/// Two linked cores, A and B, after the sync that a new link begins with.
fn a_and_b() -> [Core; 2] {
    let mut cores = [Core::new(0, &[1], &[]), Core::new(1, &[0], &[])];
    link(&mut cores);
    cores
}

fn link(cores: &mut [Core; 2]) {
    for (me, core) in cores.iter_mut().enumerate() {
        core.link_up(1 - me as u16, me == 0);
    }
    exchange(cores);
}

/// Delivers everything until neither core has anything to send. No time passes.
fn exchange(cores: &mut [Core; 2]) {
    loop {
        let mut quiet = true;
        for me in 0..2 {
            for line in cores[me].sent(1 - me as u16) {
                cores[1 - me].receive(me as u16, &line);
                quiet = false;
            }
        }
        if quiet {
            return;
        }
    }
}

/// Lets both cores run for `time`, with nothing in the way.
fn run(cores: &mut [Core; 2], time: Duration) {
    for _ in 0..time.as_millis() / 100 {
        for core in &mut *cores {
            core.pass(100 * MILLISECOND);
        }
        exchange(cores);
    }
}

fn herd_hash(bytes: &[u8]) -> u64 {
    world::herd_hash(KEYS.digest.derive(None), bytes)
}

/// Groups of at least `size` clients that share a leaf of the digest tree.
fn leaf_mates(size: usize) -> Vec<Vec<String>> {
    let mut leaves: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for i in 0..20_000 {
        let client = format!("c{i}");
        leaves.entry(Leaf::of(herd_hash(client.as_bytes())).0).or_default().push(client);
    }
    leaves.into_values().filter(|clients| clients.len() >= size).collect()
}

fn leaf_of(client: &str) -> u16 {
    Leaf::of(herd_hash(client.as_bytes())).0
}

// Flooding

#[test]
fn a_seed_compatible_neighbor_receives_records_while_trees_are_in_use() {
    let mut b = Core::new(1, &[0, 2], &[2]);
    b.link_up(0, true);
    b.link_up(2, true);
    b.receive(0, "LINKS A 7 2 - B");
    b.settle();
    assert!(b.herd.routes().has_edge(NodeId(0)), "trees are in use");
    b.sent(0);
    let own = b.update("own");
    assert_eq!(b.sent(2), std::slice::from_ref(&own));
    assert_eq!(b.sent(0), [own]);
    let forwarded = "AT A +0.000000000 forwarded +1-1 5";
    b.receive(0, forwarded);
    assert_eq!(b.sent(2), [forwarded]);
}

#[test]
fn a_flooded_record_follows_its_tree_and_a_repaired_one_goes_to_every_neighbor() {
    let mut b = b_in_a_settled_herd();
    let flooded = "AT A +0.000000000 flooded +1-1 5";
    b.receive(0, flooded);
    assert_eq!([b.sent(0), b.sent(2), b.sent(3)], [vec![], vec![], vec![flooded.to_owned()]]);
    let repaired = "AT A +0.000000000 repaired +1-1 5";
    b.receive(0, "REPAIR C");
    b.receive(0, repaired);
    assert_eq!(b.sent(0), [""; 0]);
    for peer in [2, 3] {
        assert_eq!(b.sent(peer), [repaired], "C is not below B in A's tree, but may lack it too");
    }
}

#[test]
fn of_many_records_recovered_by_a_sync_few_are_forwarded_and_all_neighbors_are_compared_with() {
    for records in [FORWARD_FREELY, 3 * FORWARD_FREELY] {
        let mut b = Core::new(1, &[0, 2, 3], &[3]);
        for peer in [0, 2, 3] {
            b.link_up(peer, true);
        }
        for peer in [0, 2] {
            b.agree(peer);
        }
        b.sent(3);
        for i in 0..records {
            b.receive(0, "REPAIR S");
            b.receive(0, &format!("AT A +0.000000000 c{i} +1-1 5"));
        }
        let count = |lines: &[String], word: &str| {
            lines.iter().filter(|line| line.starts_with(word)).count() as u32
        };
        let sent = [0, 2, 3].map(|peer| count(&b.sent(peer), "AT "));
        assert_eq!(sent, [0, FORWARD_FREELY, records], "an original server cannot compare");
        b.pass(SETTLE / 2);
        let compares = u32::from(records > FORWARD_FREELY);
        assert_eq!([0, 2].map(|peer| count(&b.sent(peer), "SUMS S 0 0")), [compares; 2]);
    }
}

#[test]
fn a_link_state_is_forwarded_to_the_other_neighbors() {
    let mut b = b_in_a_settled_herd();
    let state = "LINKS A 7 3 - C".to_owned();
    b.receive(0, &state);
    assert!(!b.sent(0).contains(&state));
    assert!(!b.sent(2).contains(&state), "C is linked with A");
    assert!(b.sent(3).contains(&state));
    // Node E is not configured, and A claims a link with D that D does not claim.
    let state = "LINKS E 7 2 - unknown A".to_owned();
    b.receive(0, "LINKS A 7 4 - C D");
    b.receive(0, &state);
    assert!(!b.sent(3).contains(&state), "it may come from A");
    b.pass(HOLD);
    assert!(b.sent(3).contains(&state) && !b.sent(2).contains(&state));
}

#[test]
fn an_older_link_state_is_answered_with_the_newer_one() {
    let mut b = b_in_a_settled_herd();
    b.receive(0, "LINKS A 7 3 - B");
    b.receive(3, "LINKS A 9 2 - B C");
    assert_eq!(b.sent(3).iter().filter(|line| *line == "LINKS A 7 3 - B").count(), 1);
    b.receive(3, "LINKS A 6 3 - B C");
    assert!(b.sent(3).is_empty(), "the newer one is on its way");
    b.receive(2, "LINKS A 6 3 - B C");
    assert_eq!(b.sent(2)[0], "LINKS A 7 3 - B", "of equal numbers the process decides");
}

#[test]
fn link_states_are_sent_again_if_the_hashes_of_two_nodes_differ_for_a_second() {
    let mut b = b_in_a_settled_herd();
    let hash = b.herd.routes().hash().unwrap();
    let is_repaired = |b: &mut Core| {
        let states = b.sent(0).iter().filter(|line| line.starts_with("LINKS ")).count();
        assert!(states == 0 || states == 4, "all of them");
        states > 0
    };
    b.receive(0, &format!("PING 1 {:x}", !hash));
    assert!(!is_repaired(&mut b));
    b.pass(SETTLE);
    for other in [format!("{:x}", hash ^ 1), "-".to_owned(), format!("{hash:x}")] {
        b.receive(0, &format!("PING 2 {other}"));
        assert!(!is_repaired(&mut b), "{other}");
    }
    for (pause, repaired) in [(0, false), (1, true), (1, false), (1, true), (3, false), (1, true)] {
        b.pass(SETTLE * pause);
        for peer in [2, 3] {
            b.receive(peer, "PING 3 -");
        }
        b.receive(0, &format!("PING 3 {:x}", !hash));
        assert_eq!(is_repaired(&mut b), repaired);
    }
    assert_eq!(b.herd.counters.link_state_repairs, 3);
}

#[test]
fn every_change_of_the_graph_restarts_the_settling_time() {
    let mut b = b_in_a_settled_herd();
    b.receive(0, "LINKS A 7 3 - B");
    b.pass(SETTLE * 3 / 4);
    b.receive(2, "LINKS C 9 3 - B");
    b.pass(SETTLE / 2);
    assert!(!b.herd.routes().has_edge(NodeId(0)), "half a settling time after the second change");
    b.pass(SETTLE / 2);
    assert!(b.herd.routes().has_edge(NodeId(0)));
}

// Links

#[test]
fn any_line_keeps_a_link_alive() {
    let timeout = timing().timeout;
    let mut b = Core::new(1, &[0], &[]);
    b.link_up(0, false);
    for i in 0..8 {
        b.pass(timeout / 2);
        b.receive(0, &format!("AT A +0.000000000 c{i} +1-1 5"));
    }
    assert_eq!(b.actions(), []);
    b.pass(timeout.saturating_sub(MILLISECOND));
    assert_eq!(b.actions(), []);
    b.pass(MILLISECOND);
    let (connection, reason) = (Core::connection(0), CloseReason::KeepaliveTimeout);
    assert_eq!(b.actions(), [Action::Close { connection, reason }]);
}

#[test]
fn a_ping_is_answered_before_queued_records() {
    let [mut a, mut b] = a_and_b();
    (0..100).for_each(|i| drop(b.update(&format!("c{i}"))));
    a.pass(timing().keepalive);
    for line in a.sent(1) {
        b.receive(0, &line);
    }
    let lines = b.turn(0, 500);
    assert!(lines[0].starts_with("PONG "), "{lines:?}");
    assert!(lines.len() < 100, "one turn is not enough for the records");
}

#[test]
fn a_lost_link_is_dialed_again() {
    for dialed in [true, false] {
        let mut b = Core::new(1, &[0], &[]);
        b.pass(Duration::ZERO);
        assert_eq!(b.actions(), [Action::Dial(LinkId(0))]);
        if !dialed {
            b.dial_failed(0);
        }
        b.link_up(0, dialed);
        b.link_down(0);
        let mut pause = REDIAL_MIN * 2;
        for _ in 0..3 {
            b.pass(pause);
            assert_eq!(b.actions(), [Action::Dial(LinkId(0))], "dialed: {dialed}");
            b.dial_failed(0);
            pause *= 2;
        }
    }
}
