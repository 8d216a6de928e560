//! The handshake and the shared secret: only a neighbor that knows the secret becomes a peer.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use proxy_herd::herd::link::HANDSHAKE_TIMEOUT;
use proxy_herd::net::limits::MAX_PROBATIONS;

use crate::common::{DEADLINE, Herd, assert_bytes, eventually, find, refused, show};
use crate::peer::{Peer, hello, proof, with_fake_neighbor};
use crate::{PAIR, SECRET};

/// A record that is accepted only from a peer.
const FORGED: &[u8] = b"AT False +0.263873386 evil +34.068930-118.445127 1621464827.959498503";

/// Returns whether node `A` stores a record of `client`.
fn stores(herd: &Herd, client: &str) -> bool {
    herd.held("A", client).is_some()
}

fn refusals(herd: &Herd) -> u64 {
    herd.counter("A", "handshakes_refused_total")
}

#[test]
fn nodes_with_the_same_secret_link_whether_from_a_file_or_the_environment() {
    let mut herd = Herd::new(&PAIR, "");
    let file = herd.directory().join("herd.secret");
    fs::write(&file, format!("{SECRET}\n")).unwrap();
    let from_file = format!("peers: {{secret_file: {}}}", file.display());
    herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], &from_file);
    herd.start("Right");
    herd.set_environment("HERD_SECRET", SECRET);
    herd.start("Left");
    herd.wait_until_connected(&herd.names());
    for name in herd.names() {
        let log = herd.log(&name);
        assert!(find(&log, SECRET.as_bytes()).is_none(), "{name} logs the secret");
        assert!(find(&log, b"no secret is set").is_none());
    }
}

#[test]
fn without_a_secret_the_log_states_that_only_loopback_peers_are_accepted() {
    let herd = Herd::solo();
    herd.wait_for_log("Solo", &["no secret is set", "loopback addresses only", "HERD_SECRET"]);
}

/// Each side logs the reason.
#[test]
fn a_peer_with_a_different_secret_or_none_is_refused_and_both_sides_log_the_reason() {
    let with = |secret: &str| (secret.to_owned(), "its proof is wrong");
    for (secret_of_right, why) in [with("another one"), (String::new(), "has a secret")] {
        let mut herd = Herd::new(&PAIR, "");
        for (name, secret) in [("Left", SECRET), ("Right", &*secret_of_right)] {
            let file = herd.directory().join(format!("{name}.secret"));
            fs::write(&file, secret).unwrap();
            let setting = format!("peers: {{secret_file: {}}}", file.display());
            let setting = if secret.is_empty() { "" } else { &*setting };
            herd.set_host(name, Ipv4Addr::LOCALHOST, &[], setting);
        }
        herd.start_all();
        for (name, other) in [("Left", "Right"), ("Right", "Left")] {
            herd.client(name).iamat(name, "+1+1", "1");
            herd.wait_for_log(name, &[&format!("{other} is not linked"), why]);
            assert!(herd.counter(name, "handshakes_refused_total") > 0);
            assert_eq!(herd.counter(name, "links_established_total"), 0);
        }
        for (name, other) in [("Left", "Right"), ("Right", "Left")] {
            assert_eq!(herd.held(name, other), None);
        }
    }
}

/// The control for the other tests, which would pass if no peer were ever accepted.
#[test]
fn a_neighbor_that_knows_the_secret_becomes_a_peer() {
    let (herd, listener) = with_fake_neighbor(Some(SECRET), "");
    let mut peer = Peer::dial(&herd);
    peer.handshake(SECRET, 1);
    peer.send(&[FORGED]);
    eventually("the record of a peer is stored", DEADLINE, || stores(&herd, "evil").then_some(()));
    drop(peer);
    // When the node dials, it sends its proof first and then verifies the answer.
    let mut peer = Peer::accept(&listener);
    let (theirs, mine) = (peer.line(), hello("False", "A", 2, true));
    peer.send(&[&mine]);
    assert_eq!(peer.line(), proof(SECRET, "dialler", &theirs, &mine));
    let mine = proof(SECRET, "listener", &theirs, &mine);
    peer.send(&[&mine, b"AT False +0.263873386 second +1+1 1"]);
    eventually("the record on the dialed link is stored", DEADLINE, || {
        stores(&herd, "second").then_some(())
    });
    assert_eq!(refusals(&herd), 0);
}

#[test]
fn a_replayed_handshake_is_refused() {
    let (herd, _listener) = with_fake_neighbor(Some(SECRET), "");
    let mut peer = Peer::dial(&herd);
    let [hello, proof] = peer.handshake(SECRET, 1);
    drop(peer);
    let mut attacker = Peer::dial(&herd);
    attacker.send(&[&hello, &proof, FORGED]);
    let received = attacker.rest();
    assert!(!received.windows(5).any(|w| w == b"PROOF"), "{}", show(&received));
    herd.wait_for_log("A", &["False is not linked", "its proof is wrong"]);
    assert_eq!(refusals(&herd), 1);
    assert!(!stores(&herd, "evil"));
}

/// Computes the line to send in place of a proof, given the first line of the node.
type Attempt<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

#[test]
fn an_invalid_proof_is_refused() {
    let (herd, _listener) = with_fake_neighbor(Some(SECRET), "");
    let mine = hello("False", "A", 1, true);
    let attempts: [Attempt; 6] = [
        &|_| FORGED.to_vec(), // not a proof
        &|_| b"PROOF".to_vec(),
        &|_| b"PROOF 00".to_vec(),
        &|_| [b"PROOF ", &[b'0'; 64][..]].concat(),
        &|theirs| proof("", "dialler", &mine, theirs),
        // The proof of the node itself.
        &|theirs| proof(SECRET, "listener", &mine, theirs),
    ];
    for (count, attempt) in attempts.iter().enumerate() {
        let mut peer = Peer::dial(&herd);
        peer.send(&[&mine]);
        let theirs = peer.line();
        let attempt = attempt(&theirs);
        peer.send(&[&attempt, FORGED]);
        assert_bytes(&peer.rest(), b"");
        assert_eq!(refusals(&herd), count as u64 + 1, "{}", show(&attempt));
    }
    assert!(!stores(&herd, "evil"));
}

/// A reflection attack: an attacker at the neighbor's address returns the node's own nonce and
/// proof.
#[test]
fn a_reflected_proof_is_refused() {
    let (herd, listener) = with_fake_neighbor(Some(SECRET), "");
    let mut peer = Peer::accept(&listener);
    let theirs = peer.line();
    // The same nonce as the node's own.
    let text = String::from_utf8(theirs).unwrap();
    let mine = text.replace(" A False ", " False A ");
    peer.send(&[mine.as_bytes()]);
    let proof = peer.line();
    assert!(proof.starts_with(b"PROOF "));
    peer.send(&[&proof, FORGED]);
    assert_bytes(&peer.rest(), b"");
    herd.wait_for_log("A", &["False is not linked", "its proof is wrong"]);
    assert!(!stores(&herd, "evil"));
}

/// With and without a secret: an unknown name, a node that is not a neighbor, the node's own name,
/// and a neighbor that dialed a different node are treated as clients, and the reason is logged.
#[test]
fn a_handshake_under_any_other_name_is_treated_as_a_client() {
    for secret in [None, Some(SECRET)] {
        let (herd, _listener) = with_fake_neighbor(secret, "");
        for (count, (from, to, why)) in [
            ("Unknown", "A", "is not in this herd"),
            ("Far", "A", "is not a neighbor of this node"),
            ("A", "A", "is not a neighbor of this node"),
            ("False", "Far", "dialed a different node"),
        ]
        .into_iter()
        .enumerate()
        {
            let mut peer = Peer::dial(&herd);
            let mine = hello(from, to, 1, secret.is_some());
            peer.send(&[&mine, FORGED]);
            assert_bytes(&peer.half_close(), &[refused(&mine), refused(FORGED)].concat());
            herd.wait_for_log("A", &[from, why]);
            assert_eq!(refusals(&herd), count as u64 + 1);
        }
        assert!(!stores(&herd, "evil"));
        assert_eq!(herd.counter("A", "links_established_total"), 0);
    }
}

/// The node that answers at the address of a neighbor must be that neighbor.
#[test]
fn an_answer_under_a_different_name_is_refused() {
    let (herd, listener) = with_fake_neighbor(None, "");
    for (name, why) in [("Far", "answers at its address"), ("A", "answers at its address")] {
        let mut peer = Peer::accept(&listener);
        peer.line();
        peer.send(&[&hello(name, "A", 1, false), FORGED]);
        assert_bytes(&peer.rest(), b"");
        herd.wait_for_log("A", &["False is not linked", &format!("{name:?}"), why]);
    }
    assert!(!stores(&herd, "evil"));
}

/// Commands on a link are protocol errors and are not answered.
#[test]
fn a_command_on_a_link_closes_it() {
    for line in [&b"IAMAT evil +1+1 1"[..], b"WHATSAT kiwi 10 5", b"hello", b"AT False evil"] {
        let (herd, _listener) = with_fake_neighbor(Some(SECRET), "");
        herd.client("A").iamat("kiwi", "+34.07-118.45", "1");
        let mut peer = Peer::dial(&herd);
        peer.handshake(SECRET, 1);
        peer.send(&[line, FORGED]);
        let received = peer.rest();
        let has = |word: &[u8]| received.split(|&b| b == b'\n').any(|line| line.starts_with(word));
        assert!(!has(b"?") && !has(b"AT False") && !has(b"{"), "{}", show(&received));
        herd.wait_for_log("A", &["False", "not a valid message", "link closed"]);
        assert!(!stores(&herd, "evil"));
    }
}

/// The handshake timeout starts with the first byte, not with the connection.
#[test]
fn the_handshake_timeout_starts_with_the_first_byte() {
    let (herd, _listener) = with_fake_neighbor(Some(SECRET), "");
    let mut late = Peer::dial(&herd);
    thread::sleep(HANDSHAKE_TIMEOUT); // idle
    late.handshake(SECRET, 7);
    late.send(&[FORGED]);
    eventually("the record of a peer is stored", DEADLINE, || stores(&herd, "evil").then_some(()));
}

#[test]
fn a_handshake_has_a_deadline_and_a_small_buffer() {
    let (herd, listener) = with_fake_neighbor(Some(SECRET), "");
    drop(listener); // otherwise the handshakes that the node itself starts would time out as well
    let start = Instant::now();
    let mut peer = Peer::dial(&herd);
    peer.send(&[&hello("False", "A", 1, true)]);
    peer.line();
    assert_bytes(&peer.rest(), b"");
    assert!(start.elapsed() >= Duration::from_secs(1), "the handshake was closed too early");
    herd.wait_for_log("A", &["handshake timeout"]);
    assert_eq!(herd.counter("A", r#"timeouts_total{deadline="handshake"}"#), 1);

    let mut peer = Peer::dial(&herd);
    peer.send(&[&hello("False", "A", 1, true)]);
    peer.line();
    peer.send(&[&vec![b'x'; 4 << 20]]);
    peer.rest();
    herd.wait_for_log("A", &["a line from a peer is too long"]);
    // The node still serves clients.
    assert_bytes(&herd.client("A").ask(b"hello"), &refused(b"hello"));
}

/// The node is full, and silent connections from the neighbor's address use all probation slots.
/// The neighbor is accepted at once, because the oldest connection on probation is closed.
#[test]
fn silent_connections_over_the_limit_do_not_block_a_neighbor() {
    let (herd, _listener) = with_fake_neighbor(Some(SECRET), "limits: {max_connections: 2}");
    let _served = herd.crowd("A", 2);
    let silent: Vec<_> = (0..2 * MAX_PROBATIONS).map(|_| herd.client("A")).collect();
    Peer::dial(&herd).handshake(SECRET, 7);
    drop(silent); // open until here
}

/// The reasons differ only by a number or a quoted text, and each kind is logged once.
#[test]
fn a_refused_handshake_is_reported_once_for_each_kind_of_reason() {
    let (herd, listener) = with_fake_neighbor(None, "");
    for attempt in 0..3 {
        let mut peer = Peer::accept(&listener);
        peer.line();
        let limit = format!("{:016x}", 500 + u32::from(attempt));
        let hello = String::from_utf8(hello("False", "A", attempt, false)).unwrap();
        peer.send(&[hello.replace("00000000000f4240", &limit).as_bytes()]);
        peer.rest();
    }
    for attempt in 0..3 {
        let mut peer = Peer::accept(&listener);
        peer.line();
        peer.send(&[format!("? HERD {attempt}").as_bytes()]);
        peer.rest();
    }
    herd.wait_for_log(
        "A",
        &["False is not linked", "it answered", "list it in peers.seed_compatible"],
    );
    assert!(refusals(&herd) >= 6);
    let lines = herd.log_lines("A");
    let of = |what: &str| {
        lines
            .iter()
            .filter(|line| line.contains("False is not linked") && line.contains(what))
            .count()
    };
    assert_eq!((of("max_clients is"), of("it answered")), (1, 1), "{lines:#?}");
}
