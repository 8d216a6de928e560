//! Nodes compare their clocks, since the order of records depends on them.

use crate::common::{DEADLINE, Herd, eventually, wall_ns};
use crate::peer::{Peer, beside_a_false_neighbour, hello};

const SECOND: i128 = 1_000_000_000;

fn warnings(herd: &Herd) -> u64 {
    herd.counter("A", "clock_offset_warnings_total")
}

/// Answers `count` pings as a node whose clock is `offset` ahead.
fn answer_pings(peer: &mut Peer, count: u32, offset: i128) {
    let mut answered = 0;
    while answered < count {
        let line = String::from_utf8(peer.line()).unwrap();
        if let Some(id) = line.strip_prefix("PING ") {
            peer.say(&[format!("PONG {id} {}", wall_ns() + offset).as_bytes()]);
            answered += 1;
        }
    }
}

/// More than half of Δ is warned about once, however long it lasts, and less is not.
#[test]
fn a_clock_that_is_off_is_warned_about_and_counted() {
    for (offset, off) in
        [(2 * SECOND, false), (-2 * SECOND, false), (4 * SECOND, true), (-86_400 * SECOND, true)]
    {
        let (herd, _listener) = beside_a_false_neighbour(None, "peers: {keepalive_ms: 100}");
        let mut peer = Peer::dial(&herd);
        peer.say(&[&hello("False", "A", 1, false)]);
        answer_pings(&mut peer, 4, offset);
        if off {
            eventually("the warning is counted", DEADLINE, || (warnings(&herd) == 1).then_some(()));
            let apart = format!("{:.1} s apart", offset as f64 / SECOND as f64);
            let apart = apart.split('.').next().unwrap();
            herd.wait_for_log("A", &["WARNING", "the clocks of False and this node are", apart]);
        } else {
            assert_eq!(warnings(&herd), 0);
        }
    }
}

/// An answer that comes late says less about the clock of whoever gave it, but it says something,
/// however many pings have been sent since.
#[test]
fn a_slow_answer_counts_for_what_it_tells() {
    for (offset, expected) in [(0, 0), (60 * SECOND, 1)] {
        let extra = "peers: {keepalive_ms: 50, max_clock_offset: 1}";
        let (herd, _listener) = beside_a_false_neighbour(None, extra);
        let mut peer = Peer::dial(&herd);
        let with_default = String::from_utf8(hello("False", "A", 1, false)).unwrap();
        let hello =
            with_default.replace(&format!("{:016x}", 5 * SECOND), &format!("{SECOND:016x}"));
        peer.say(&[hello.as_bytes()]);
        let mut pings = Vec::new();
        while pings.len() < 40 {
            let line = String::from_utf8(peer.line()).unwrap();
            if let Some(id) = line.strip_prefix("PING ") {
                pings.push(format!("PONG {id} {}", wall_ns() + offset).into_bytes());
                peer.say(&[b"PING 1"]); // alive it is
            }
        }
        // The first is two seconds old, four times half of Δ, and read from the clock when it came.
        peer.say(&[&pings[0], b"AT False +0.500000000 heard +1+1 1"]);
        eventually("what came after the answer is heard", DEADLINE, || herd.held("A", "heard"));
        assert_eq!(warnings(&herd), expected);
    }
}

/// A peer that reads two pings at once answers the last of them, and that is an answer to both.
#[test]
fn a_ping_that_is_passed_over_does_not_end_the_comparison() {
    let (herd, _listener) = beside_a_false_neighbour(None, "peers: {keepalive_ms: 50}");
    let mut peer = Peer::dial(&herd);
    peer.say(&[&hello("False", "A", 1, false)]);
    let mut pings = 0;
    while pings < 2 {
        pings += u32::from(peer.line().starts_with(b"PING "));
        peer.say(&[b"PING 1"]); // alive it is
    }
    let id = format!("{pings:x}");
    peer.say(&[format!("PONG {id} {}", wall_ns() + 60 * SECOND).as_bytes()]);
    eventually("the warning is counted", DEADLINE, || (warnings(&herd) == 1).then_some(()));
}
