//! The core as a client sees it, without a socket.

use core::time::Duration;

use proptest::prelude::*;

use super::{Caller, LineSession, Next, Node, Now};
use crate::herd::handshake::Transport;
use crate::limits::{CLIENT_BYTES_PER_TURN, Limits};
use crate::message_log::{Format, MessageLog};
use crate::places::Places;
use crate::places::offline::Offline;
use crate::protocol::time::SECOND;
use crate::testing::{herd, identity};

const NOW: Now = Now { elapsed: Duration::from_secs(3), clock: 1_621_464_828 * SECOND };

/// Clark, whose neighbour Bona is not linked.
pub(crate) fn node(limits: Limits) -> Node {
    let herd = herd(identity(&["Bona", "Clark"], 1, &[0]));
    let message_log = MessageLog::new(true, Format::default(), "Clark");
    let places = Places::Offline(Offline::gazetteer().unwrap());
    Node::new(herd, places, message_log, limits, &[7; 32])
}

/// What a client that sends `pieces` and then ends its side is told, what is logged of it, and how
/// the connection ends.
fn converse(limits: &Limits, pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Next) {
    let mut node = node(limits.clone());
    let caller =
        Caller { transport: Transport { loopback: true, certified: None }, ..Caller::default() };
    let mut session = LineSession::accepted(&node, 7, caller);
    let (mut told, mut held, mut next) = (Vec::new(), Vec::new(), Next::Read);
    for (at, piece) in pieces.iter().enumerate() {
        held.extend_from_slice(piece);
        let end = at + 1 == pieces.len();
        loop {
            // The socket takes everything at once.
            let mut out = Vec::new();
            let (consumed, now) = session.receive(&mut node, &held, end, &NOW, &mut out);
            held.drain(..consumed);
            told.extend_from_slice(&out);
            next = now;
            if next != Next::Wait {
                break;
            }
        }
        // A link's lines may be longer by what AT adds.
        assert!(held.len() <= limits.max_line + 512, "{} bytes are held", held.len());
    }
    (told, node.message_log.lines().to_vec(), next)
}

fn text(told: &[u8]) -> String {
    String::from_utf8_lossy(told).into_owned()
}

#[test]
fn one_reply_a_line_in_order() {
    let (told, _, next) = converse(
        &Limits::default(),
        &[b"IAMAT k +34.068930-118.445127 1621464827.5\n\n \t\nWHATSAT k 10 0\nWHATSAT j 10 5\nno such"],
    );
    let expected = "AT Clark +0.500000000 k +34.068930-118.445127 1621464827.5\n\
        AT Clark +0.500000000 k +34.068930-118.445127 1621464827.5\n\
        {\n  \"html_attributions\": [],\n  \"results\": [],\n  \"status\": \"ZERO_RESULTS\"\n}\n\n\
        ? WHATSAT j 10 5\n? no such\n";
    assert_eq!((text(&told).as_str(), next), (expected, Next::Finish));
}

#[test]
fn an_http_request_ends_the_connection() {
    let (told, _, next) = converse(&Limits::default(), &[b"POST /x HTTP/1.1\r\nIAMAT k +1-1 5\n"]);
    assert_eq!((text(&told).as_str(), next), ("? POST /x HTTP/1.1\n", Next::HangUp));
    let (told, _, next) = converse(&Limits::default(), &[b"x\nPOST /x HTTP/1.1\r\n"]);
    assert_eq!((text(&told).as_str(), next), ("? x\n? POST /x HTTP/1.1\n", Next::Finish));
}

#[test]
fn an_address_brings_so_many_new_clients_a_second() {
    let limits = Limits { new_clients_per_second_per_address: Some(1), ..Limits::default() };
    let (told, log, _) = converse(
        &limits,
        &[b"IAMAT a +1-1 5\nIAMAT b +1-1 5\nIAMAT a +2-2 6\nWHATSAT a 0 0\nWHATSAT b 0 0\n"],
    );
    let told = text(&told);
    assert_eq!(told.matches("AT Clark ").count(), 4, "every IAMAT is answered: {told}");
    assert!(told.ends_with("? WHATSAT b 0 0\n"), "{told}");
    assert_eq!(text(&log).matches("over a limit on clients, not stored").count(), 1);
}

#[test]
fn replies_wait_when_too_much_is_owed() {
    let limits = Limits { max_output_buffer: 16_384, ..Limits::default() };
    let mut node = node(limits);
    let mut session = LineSession::accepted(&node, 7, Caller::default());
    let mut out = Vec::new();
    session.receive(&mut node, b"hello\n", false, &NOW, &mut out);
    let input = b"IAMAT k +34.068930-118.445127 5\n".repeat(1000);
    let (consumed, next) = session.receive(&mut node, &input, false, &NOW, &mut out);
    assert_eq!(next, Next::Wait);
    assert!(out.len() < 16_384 + 100 && consumed < input.len(), "{} of {consumed}", out.len());
    let told = out.len();
    let (more, next) = session.receive(&mut node, &input[consumed..], false, &NOW, &mut out);
    assert_eq!((more, next, out.len()), (0, Next::Wait, told), "nothing has left");
}

/// However long its pipeline is, a client gets its share of a turn, and then others have theirs;
/// whoever has only just come gets one line.
#[test]
fn a_pipeline_is_answered_in_shares() {
    let reply = b"AT Clark +1621464823.000000000 k +34.068930-118.445127 5\n";
    let mut node = node(Limits::default());
    let mut session = LineSession::accepted(&node, 7, Caller::default());
    let line = b"IAMAT k +34.068930-118.445127 5\n";
    let input = line.repeat(3000);
    let (mut at, mut told, mut shares) = (0, Vec::new(), Vec::new());
    while at < input.len() {
        let mut out = Vec::new(); // the socket takes everything at once
        let (consumed, next) = session.receive(&mut node, &input[at..], false, &NOW, &mut out);
        at += consumed;
        let then = if at < input.len() { Next::Wait } else { Next::Read };
        assert_eq!((next, session.is_full(&node, 0)), (then, false));
        shares.push(out.len() / reply.len());
        told.extend_from_slice(&out);
    }
    assert!(told == reply.repeat(3000), "{}", text(&told));
    let whole = CLIENT_BYTES_PER_TURN.div_ceil(line.len() + reply.len());
    assert_eq!(shares, [1, whole, whole, 2999 - 2 * whole]);
    // Lines that have no reply are no way around it.
    let input = b"\n".repeat(CLIENT_BYTES_PER_TURN + 1);
    let taken = session.receive(&mut node, &input, false, &NOW, &mut Vec::new());
    assert_eq!(taken, (CLIENT_BYTES_PER_TURN, Next::Wait));
}

#[test]
fn the_first_line_of_a_client_is_no_longer_than_any_other() {
    let limits = Limits { max_line: 64, ..Limits::default() };
    for line in [[b'x'; 65].to_vec(), [b"HERD ".to_vec(), vec![b'x'; 60]].concat()] {
        let (told, _, next) = converse(&limits, &[&line, b"\nIAMAT k +1-1 5\n"]);
        let expected = format!("? {}...\n", text(&line[..64]));
        assert_eq!((text(&told), next), (expected, Next::HangUp));
    }
    let hello = "HERD 1 Bona Clark 1 00000000000000000000000000000000 12a05f200 64 0 open\n";
    let (told, _, _) = converse(&limits, &[hello.as_bytes()]);
    assert!(told.starts_with(b"HERD 1 Clark Bona "), "{}", text(&told));
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let client = prop_oneof![Just("k"), Just("\u{a0}j")];
    let end = prop_oneof![Just("\n"), Just("\r\n"), Just(" \t\n"), Just("\n\n")];
    prop_oneof![
        4 => (client.clone(), 0u8..3, 0u32..4, end.clone()).prop_map(|(client, place, time, end)|
            format!("IAMAT {client} +{place}-1 {time}{end}").into_bytes()),
        2 => (client, 0u8..60, 0u8..3, end.clone()).prop_map(|(client, radius, bound, end)|
            format!("WHATSAT {client} {radius} {bound}{end}").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..30),
        1 => Just(b"GET / HTTP/1.1\r\n".to_vec()),
        1 => Just(b"HERD 1 Bona Clark 1 00000000000000000000000000000000 12a05f200 64 0 open\n".to_vec()),
        1 => (120usize..140).prop_map(|length| [vec![b'x'; length], b"\n".to_vec()].concat()),
    ]
}

proptest! {
    /// The same bytes get the same replies and the same log, cut anywhere, and byte by byte.
    #[test]
    fn any_split_gets_the_same_replies(lines in proptest::collection::vec(line(), 0..6)) {
        let limits = Limits { max_line: 128, ..Limits::default() };
        let input = lines.concat();
        let whole = converse(&limits, &[&input]);
        for cut in 0..=input.len() {
            prop_assert_eq!(&converse(&limits, &[&input[..cut], &input[cut..]]), &whole, "cut at {}", cut);
        }
        let bytes: Vec<&[u8]> = input.chunks(1).chain([&b""[..]]).collect();
        prop_assert_eq!(&converse(&limits, &bytes), &whole);
    }
}
