//! The shared secret: who knows it is a peer, and nobody else is.

use std::fs;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use proxy_herd::herd::link::HANDSHAKE_TIMEOUT;
use proxy_herd::limits::MAX_PROBATIONS;

use crate::common::{DEADLINE, Herd, assert_bytes, eventually, find, refused, show};
use crate::peer::{Peer, beside_a_false_neighbour, hello, proof};
use crate::{PAIR, SECRET};

/// A record that nobody but a peer may bring.
const FORGED: &[u8] = b"AT False +0.263873386 evil +34.068930-118.445127 1621464827.959498503";

/// A record is where it should not be, or where it should.
fn holds(herd: &Herd, client: &str) -> bool {
    herd.held("A", client).is_some()
}

fn refusals(herd: &Herd) -> u64 {
    herd.counter("A", "handshakes_refused_total")
}

#[test]
fn nodes_with_the_same_secret_link_wherever_they_have_it_from() {
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
fn without_a_secret_the_log_says_who_is_let_in() {
    let herd = Herd::solo();
    herd.wait_for_log("Solo", &["no secret is set", "loopback only", "HERD_SECRET"]);
}

/// Started in both orders, so that either dials the other; each says what is wrong.
#[test]
fn another_secret_or_none_is_refused_and_told_on_both_sides() {
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

/// The rest of these tests would pass if nobody were let in: this one is.
#[test]
fn whoever_knows_the_secret_and_is_a_neighbour_is_a_peer() {
    let (herd, listener) = beside_a_false_neighbour(Some(SECRET), "");
    let mut peer = Peer::dial(&herd);
    peer.introduce(SECRET, 1);
    peer.say(&[FORGED]);
    eventually("the record of a peer is kept", DEADLINE, || holds(&herd, "evil").then_some(()));
    drop(peer);
    // And when the node dials: it proves itself first, and checks who answers.
    let mut peer = Peer::accept(&listener);
    let (theirs, mine) = (peer.line(), hello("False", "A", 2, true));
    peer.say(&[&mine]);
    assert_eq!(peer.line(), proof(SECRET, "dialler", &theirs, &mine));
    let mine = proof(SECRET, "listener", &theirs, &mine);
    peer.say(&[&mine, b"AT False +0.263873386 second +1+1 1"]);
    eventually("and when the node has dialled", DEADLINE, || holds(&herd, "second").then_some(()));
    assert_eq!(refusals(&herd), 0);
}

#[test]
fn a_recorded_handshake_opens_no_link() {
    let (herd, _listener) = beside_a_false_neighbour(Some(SECRET), "");
    let mut peer = Peer::dial(&herd);
    let [hello, proof] = peer.introduce(SECRET, 1);
    drop(peer);
    let mut thief = Peer::dial(&herd);
    thief.say(&[&hello, &proof, FORGED]);
    let said = thief.rest();
    assert!(!said.windows(5).any(|w| w == b"PROOF"), "nothing is proven to it: {}", show(&said));
    herd.wait_for_log("A", &["False is not linked", "its proof is wrong"]);
    assert_eq!(refusals(&herd), 1);
    assert!(!holds(&herd, "evil"));
}

/// What is said in place of a proof to a node that has said this.
type Attempt<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

#[test]
fn what_is_no_proof_opens_no_link() {
    let (herd, _listener) = beside_a_false_neighbour(Some(SECRET), "");
    let mine = hello("False", "A", 1, true);
    let attempts: [Attempt; 6] = [
        &|_| FORGED.to_vec(), // no proof at all
        &|_| b"PROOF".to_vec(),
        &|_| b"PROOF 00".to_vec(),
        &|_| [b"PROOF ", &[b'0'; 64][..]].concat(),
        &|theirs| proof("", "dialler", &mine, theirs),
        // What the node itself would say.
        &|theirs| proof(SECRET, "listener", &mine, theirs),
    ];
    for (count, attempt) in attempts.iter().enumerate() {
        let mut peer = Peer::dial(&herd);
        peer.say(&[&mine]);
        let theirs = peer.line();
        let attempt = attempt(&theirs);
        peer.say(&[&attempt, FORGED]);
        let said = peer.rest();
        assert_bytes(&said, b""); // nothing is said to it
        assert_eq!(refusals(&herd), count as u64 + 1, "{}", show(&attempt));
    }
    assert!(!holds(&herd, "evil"));
}

/// Somebody at the neighbour's address who gives the node's own words back to it.
#[test]
fn a_proof_that_is_given_back_opens_no_link() {
    let (herd, listener) = beside_a_false_neighbour(Some(SECRET), "");
    let mut peer = Peer::accept(&listener);
    let theirs = peer.line();
    // The same nonce as the node's own.
    let text = String::from_utf8(theirs).unwrap();
    let mine = text.replace(" A False ", " False A ");
    peer.say(&[mine.as_bytes()]);
    let proof = peer.line();
    assert!(proof.starts_with(b"PROOF "));
    peer.say(&[&proof, FORGED]);
    assert_bytes(&peer.rest(), b"");
    herd.wait_for_log("A", &["False is not linked", "its proof is wrong"]);
    assert!(!holds(&herd, "evil"));
}

/// With and without a secret: a name that is nobody's, that of a node which is no neighbour, the
/// node's own, and a neighbour who wanted somebody else. They are clients, and the log tells why.
#[test]
fn a_name_that_is_no_neighbours_is_a_clients() {
    for secret in [None, Some(SECRET)] {
        let (herd, _listener) = beside_a_false_neighbour(secret, "");
        for (count, (from, to, why)) in [
            ("Nobody", "A", "is not in this herd"),
            ("Far", "A", "is no neighbour of this node"),
            ("A", "A", "is no neighbour of this node"),
            ("False", "Far", "dialled another node"),
        ]
        .into_iter()
        .enumerate()
        {
            let mut peer = Peer::dial(&herd);
            let mine = hello(from, to, 1, secret.is_some());
            peer.say(&[&mine, FORGED]);
            assert_bytes(&peer.end(), &[refused(&mine), refused(FORGED)].concat());
            herd.wait_for_log("A", &[from, why]);
            assert_eq!(refusals(&herd), count as u64 + 1);
        }
        assert!(!holds(&herd, "evil"));
        assert_eq!(herd.counter("A", "links_established_total"), 0);
    }
}

/// Whoever answers at a neighbour's address must be that neighbour.
#[test]
fn an_answer_under_another_name_is_refused() {
    let (herd, listener) = beside_a_false_neighbour(None, "");
    for (name, why) in [("Far", "answers at its address"), ("A", "answers at its address")] {
        let mut peer = Peer::accept(&listener);
        peer.line();
        peer.say(&[&hello(name, "A", 1, false), FORGED]);
        assert_bytes(&peer.rest(), b"");
        herd.wait_for_log("A", &["False is not linked", &format!("{name:?}"), why]);
    }
    assert!(!holds(&herd, "evil"));
}

/// What a link carries is no command, and nobody is answered on it.
#[test]
fn a_link_serves_no_client() {
    for line in [&b"IAMAT evil +1+1 1"[..], b"WHATSAT kiwi 10 5", b"hello", b"AT False evil"] {
        let (herd, _listener) = beside_a_false_neighbour(Some(SECRET), "");
        herd.client("A").iamat("kiwi", "+34.07-118.45", "1");
        let mut peer = Peer::dial(&herd);
        peer.introduce(SECRET, 1);
        peer.say(&[line, FORGED]);
        let said = peer.rest();
        let about = |word: &[u8]| said.split(|&b| b == b'\n').any(|line| line.starts_with(word));
        assert!(!about(b"?") && !about(b"AT False") && !about(b"{"), "{}", show(&said));
        herd.wait_for_log("A", &["False", "no message", "the link is closed"]);
        assert!(!holds(&herd, "evil"));
    }
}

/// Before somebody has proven who they are, they have little time and little room.
/// The time of a handshake runs from its first byte, however long nothing came before.
#[test]
fn a_handshake_that_begins_late_has_all_its_time() {
    let (herd, _listener) = beside_a_false_neighbour(Some(SECRET), "");
    let mut late = Peer::dial(&herd);
    thread::sleep(HANDSHAKE_TIMEOUT); // says nothing
    late.introduce(SECRET, 7);
    late.say(&[FORGED]); // by a peer it is none
    eventually("the record of a peer is taken", DEADLINE, || holds(&herd, "evil").then_some(()));
}

#[test]
fn a_handshake_has_a_deadline_and_a_small_buffer() {
    let (herd, listener) = beside_a_false_neighbour(Some(SECRET), "");
    drop(listener); // or what the node dials itself would be late as well
    let start = Instant::now();
    let mut peer = Peer::dial(&herd);
    peer.say(&[&hello("False", "A", 1, true)]);
    peer.line();
    assert_bytes(&peer.rest(), b"");
    assert!(start.elapsed() >= Duration::from_secs(1), "it had no time at all");
    herd.wait_for_log("A", &["its handshake took too long"]);
    assert_eq!(herd.counter("A", r#"timeouts_total{deadline="handshake"}"#), 1);

    let mut peer = Peer::dial(&herd);
    peer.say(&[&hello("False", "A", 1, true)]);
    peer.line();
    peer.say(&[&vec![b'x'; 4 << 20]]);
    peer.rest();
    herd.wait_for_log("A", &["a line of a peer is too long"]);
    // Whatever else is wrong, the node serves.
    assert_bytes(&herd.client("A").ask(b"hello"), &refused(b"hello"));
}

/// A node has no place left, and silent connections from the neighbour's own address have taken
/// every one in which it might be heard. It is heard at once: the oldest of them makes room.
#[test]
fn silent_connections_over_the_limit_do_not_keep_a_neighbour_away() {
    let (herd, _listener) = beside_a_false_neighbour(Some(SECRET), "limits: {max_connections: 2}");
    let _served = herd.crowd("A", 2);
    let silent: Vec<_> = (0..2 * MAX_PROBATIONS).map(|_| herd.client("A")).collect();
    Peer::dial(&herd).introduce(SECRET, 7);
    drop(silent); // they were there until then
}
