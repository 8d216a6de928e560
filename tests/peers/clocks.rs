//! Clock comparison between nodes, since the order of records depends on their clocks.

use crate::common::{DEADLINE, Herd, eventually, wall_ns};
use crate::peer::{Peer, hello, with_fake_neighbor};

const SECOND: i128 = 1_000_000_000;

fn warnings(herd: &Herd) -> u64 {
    herd.counter("A", "clock_offset_warnings_total")
}

/// The id of a ping.
fn ping(line: &str) -> Option<&str> {
    line.strip_prefix("PING ")?.split(' ').next()
}

/// Answers `count` pings with a clock that is `offset` ahead.
fn answer_pings(peer: &mut Peer, count: u32, offset: i128) {
    let mut answered = 0;
    while answered < count {
        let line = String::from_utf8(peer.line()).unwrap();
        if let Some(id) = ping(&line) {
            peer.send(&[format!("PONG {id} {}", wall_ns() + offset).as_bytes()]);
            answered += 1;
        }
    }
}

/// An offset of more than half of Δ is logged once, however long it lasts; a smaller one is not
/// logged.
#[test]
fn a_clock_offset_is_logged_and_counted_once() {
    for (offset, is_off) in
        [(2 * SECOND, false), (-2 * SECOND, false), (4 * SECOND, true), (-86_400 * SECOND, true)]
    {
        let (herd, _listener) = with_fake_neighbor(None, "peers: {keepalive_ms: 100}");
        let mut peer = Peer::dial(&herd);
        peer.send(&[&hello("False", "A", 1, false)]);
        answer_pings(&mut peer, 4, offset);
        if is_off {
            eventually("the warning is counted", DEADLINE, || (warnings(&herd) == 1).then_some(()));
            let apart = format!("{:.1} s apart", offset as f64 / SECOND as f64);
            let apart = apart.split('.').next().unwrap();
            herd.wait_for_log("A", &["WARNING", "the clocks of False and this node are", apart]);
        } else {
            assert_eq!(warnings(&herd), 0);
        }
    }
}

/// A late PONG determines the offset less precisely but is still evaluated, even if more pings have
/// been sent since.
#[test]
fn a_late_pong_is_evaluated_within_its_uncertainty() {
    for (offset, expected) in [(0, 0), (60 * SECOND, 1)] {
        let extra = "peers: {keepalive_ms: 50, max_clock_offset: 1}";
        let (herd, _listener) = with_fake_neighbor(None, extra);
        let mut peer = Peer::dial(&herd);
        let with_default = String::from_utf8(hello("False", "A", 1, false)).unwrap();
        let hello =
            with_default.replace(&format!("{:016x}", 5 * SECOND), &format!("{SECOND:016x}"));
        peer.send(&[hello.as_bytes()]);
        let mut pings = Vec::new();
        while pings.len() < 40 {
            let line = String::from_utf8(peer.line()).unwrap();
            if let Some(id) = ping(&line) {
                pings.push(format!("PONG {id} {}", wall_ns() + offset).into_bytes());
                peer.send(&[b"PING 1 -"]); // keeps the link up
            }
        }
        // The first ping is two seconds old, which is four times half of Δ.
        peer.send(&[&pings[0], b"AT False +0.500000000 fence +1+1 1"]);
        eventually("the PONG has been processed", DEADLINE, || herd.held("A", "fence"));
        assert_eq!(warnings(&herd), expected);
    }
}

/// A peer that reads two pings at once answers only the last, which answers both.
#[test]
fn a_pong_to_a_later_ping_answers_the_earlier_ones() {
    let (herd, _listener) = with_fake_neighbor(None, "peers: {keepalive_ms: 50}");
    let mut peer = Peer::dial(&herd);
    peer.send(&[&hello("False", "A", 1, false)]);
    let mut pings = 0;
    while pings < 2 {
        pings += u32::from(peer.line().starts_with(b"PING "));
        peer.send(&[b"PING 1 -"]); // keeps the link up
    }
    let id = format!("{pings:x}");
    peer.send(&[format!("PONG {id} {}", wall_ns() + 60 * SECOND).as_bytes()]);
    eventually("the warning is counted", DEADLINE, || (warnings(&herd) == 1).then_some(()));
}
