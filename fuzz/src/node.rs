//! A node to fuzz, and its invariants.

use std::collections::BTreeMap;
use std::hash::Hasher;

use proxy_herd::herd::Herd;
use proxy_herd::herd::digest::{Branch, LEAF_LEVEL, Leaf};
use proxy_herd::herd::directory::{Directory, Rules};
use proxy_herd::herd::handshake::Identity;
use proxy_herd::herd::queue::SlotQueue;
use proxy_herd::ids::{BootId, NodeId, Slot};
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{self, MessageLog};
use proxy_herd::node::Node;
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::places::offline::places_file::{self, Format};
use proxy_herd::protocol::record::Record;
use proxy_herd::testing::{self, KEYS};
use proxy_herd::time::{Instant, Wall};
use ring::hmac;
use siphasher::sip::SipHasher13;

/// The herd. Clark is the node that is fuzzed; Campbell is not its neighbor.
pub const NAMES: [&str; 5] = ["Bailey", "Bona", "Campbell", "Clark", "Jaquez"];

/// Clark.
pub const ME: u16 = 3;

/// Two with a lesser name and one with a greater, since behavior depends on which end dials.
pub const NEIGHBORS: [u16; 3] = [0, 1, 4];

/// The identity of a node.
pub fn identity(me: u16, secret: Option<&[u8]>, rules: Rules) -> Identity {
    let neighbors: &[u16] = if me == ME { &NEIGHBORS } else { &[ME] };
    Identity {
        rules,
        secret: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret)),
        boot: BootId(u64::from(me) + 1),
        ..testing::identity(&NAMES, me, neighbors)
    }
}

/// The node itself.
pub fn node(
    identity: Identity,
    seed_compatible: &[NodeId],
    places: Places,
    limits: Limits,
) -> Node {
    let herd = Herd::new(identity, seed_compatible, testing::timing(), KEYS, Instant::START);
    let message_log = MessageLog::new(true, message_log::Format::default(), NAMES[usize::from(ME)]);
    Node::new(herd, places, message_log, limits, &[7; 32])
}

/// One place, at 0, 0.
pub fn offline() -> Places {
    // Parsing it as a table would take longer than everything else.
    let file = br#"{"type":"FeatureCollection","features":[{"type":"Feature",
        "properties":{"name":"Null Island"},"geometry":{"type":"Point","coordinates":[0,0]}}]}"#;
    Places::Offline(Offline::own(places_file::parse(file, Format::GeoJson).expect("a place")))
}

/// The hash of a client or of a record under the key that a directory uses.
pub fn hash(directory: &Directory, bytes: &[u8]) -> u64 {
    let (k0, k1) = directory.digest_key();
    let mut hasher = SipHasher13::new_with_keys(k0, k1);
    hasher.write(bytes);
    hasher.finish()
}

/// The leaf of a client.
pub fn leaf(directory: &Directory, client: &[u8]) -> Leaf {
    Leaf::of(hash(directory, client))
}

/// Checks the invariants of a node, which hold between any two events.
pub fn check(node: &mut Node) {
    directory(&node.herd.directory);
    let slots = node.herd.directory.slots();
    for up in node.herd.links().iter().filter_map(|link| link.up.as_ref()) {
        for queue in [&up.flood, &up.anti_entropy.repairs] {
            queued_once(queue, slots);
        }
    }
    let printable = |&byte: &u8| byte == b'\n' || (0x20..0x7f).contains(&byte);
    assert!(node.message_log.lines().iter().all(printable), "the log is printable");
    node.message_log.clear();
}

/// Checks that the index finds every stored record, and that the sums equal those computed from
/// scratch.
fn directory(directory: &Directory) {
    let mut sums = BTreeMap::from([((0, 0), 0u64)]);
    let mut clients = 0;
    for slot in (0..directory.slots()).map(Slot) {
        let Some(line) = directory.line(slot) else { continue };
        clients += 1;
        let record = Record::parse(line).expect("what is stored is a record");
        assert_eq!(directory.get(record.client, Wall(record.received)), Some(line));
        if !directory.is_summed(slot) {
            continue; // its digest under a new key has not been computed yet
        }
        let (leaf, digest) = (leaf(directory, record.client), hash(directory, line));
        assert_eq!(directory.leaf(leaf).filter(|&held| held == (digest, slot)).count(), 1);
        for level in 0..=LEAF_LEVEL {
            let index = leaf.index() >> (4 * (LEAF_LEVEL - level));
            let sum = sums.entry((level, index as u16)).or_default();
            *sum = sum.wrapping_add(digest);
        }
    }
    assert_eq!(directory.len(), clients);
    assert!(directory.slots() <= directory.rules().max_clients);
    for ((level, index), expected) in sums {
        let branch = Branch { level, index };
        assert_eq!(directory.sums().of(branch), expected, "{branch:?}");
        if level < LEAF_LEVEL {
            let children = directory.sums().children(branch);
            assert_eq!(children.into_iter().fold(0, u64::wrapping_add), expected, "{branch:?}");
        }
    }
}

fn queued_once(queue: &SlotQueue, slots: u32) {
    let queued = (0..slots).filter(|&slot| queue.contains(Slot(slot))).count();
    assert_eq!(queue.len(), queued, "a slot that is none, or one twice");
}
