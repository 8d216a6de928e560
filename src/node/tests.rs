//! The core from the point of view of a client, without a socket.

use core::time::Duration;

use proptest::prelude::*;

use super::CLIENT_BYTES_PER_TURN;
use super::{Blocked, Handled, Input, LineSession, Next, Node, PeerInfo};
use crate::herd::handshake::Transport;
use crate::ids::{ConnectionId, Slot};
use crate::limits::{Limits, PlacesLimits};
use crate::message_log::{Format, MessageLog};
use crate::places::Places;
use crate::places::offline::Offline;
use crate::places::providers::Provider;
use crate::places::upstream::{Client, Settings};
use crate::protocol::time::SECOND;
use crate::testing::{herd, identity};
use crate::time::{Instant, Now, Wall};

const NOW: Now =
    Now { instant: Instant::at(Duration::from_secs(3)), wall: Wall(1_621_464_828 * SECOND) };

/// Clark, whose neighbor Bona is not linked.
pub(crate) fn node(limits: Limits) -> Node {
    node_with(Places::Offline(Offline::gazetteer().unwrap()), limits)
}

/// The same node with a provider that is never reached, so that every WHATSAT waits.
pub(crate) fn node_with_provider(limits: Limits) -> Node {
    let settings = Settings {
        provider: Provider::Google,
        url: "https://a.example".parse().unwrap(),
        key: None,
        limits: PlacesLimits::default(),
        seed: 1,
    };
    node_with(Places::Upstream(Box::new(Client::new(settings))), limits)
}

fn node_with(places: Places, limits: Limits) -> Node {
    let herd = herd(identity(&["Bona", "Clark"], 1, &[0]));
    let message_log = MessageLog::new(true, Format::default(), "Clark");
    Node::new(herd, places, message_log, limits, &[7; 32])
}

/// An accepted connection from a loopback address.
fn session() -> LineSession {
    let transport = Transport { loopback: true, certified: None };
    LineSession::accepted(ConnectionId(7), PeerInfo { transport, ..PeerInfo::default() })
}

/// Passes `bytes` to the session of a client that sends more later.
fn handle(
    session: &mut LineSession,
    node: &mut Node,
    bytes: &[u8],
    unsent: usize,
    out: &mut Vec<u8>,
) -> Handled {
    session.handle_input(node, Input { bytes, ended: false, unsent }, &NOW, out)
}

/// Sends `pieces` as a client that then half-closes. Returns the replies, the message log, and how
/// the connection ends.
fn converse(limits: &Limits, pieces: &[&[u8]]) -> (Vec<u8>, Vec<u8>, Next) {
    let mut node = node(limits.clone());
    let mut session = session();
    let (mut replies, mut held, mut next) = (Vec::new(), Vec::new(), Next::NeedInput);
    for (at, piece) in pieces.iter().enumerate() {
        held.extend_from_slice(piece);
        let ended = at + 1 == pieces.len();
        loop {
            // The socket takes everything at once.
            let mut out = Vec::new();
            let input = Input { bytes: &held, ended, unsent: 0 };
            let handled = session.handle_input(&mut node, input, &NOW, &mut out);
            held.drain(..handled.consumed);
            replies.extend_from_slice(&out);
            next = handled.next;
            if !matches!(next, Next::Yielded | Next::Blocked(_)) {
                break;
            }
        }
        // Lines of a link may be longer by what AT adds.
        assert!(held.len() <= limits.max_line + 512, "{} bytes are held", held.len());
    }
    (replies, node.message_log.lines().to_vec(), next)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn each_line_gets_one_reply_in_order() {
    let (replies, _, next) = converse(
        &Limits::default(),
        &[b"IAMAT k +34.068930-118.445127 1621464827.5\n\n \t\nWHATSAT k 10 0\nWHATSAT j 10 5\nno such"],
    );
    let expected = "AT Clark +0.500000000 k +34.068930-118.445127 1621464827.5\n\
        AT Clark +0.500000000 k +34.068930-118.445127 1621464827.5\n\
        {\n  \"html_attributions\": [],\n  \"results\": [],\n  \"status\": \"ZERO_RESULTS\"\n}\n\n\
        ? WHATSAT j 10 5\n? no such\n";
    assert_eq!((text(&replies).as_str(), next), (expected, Next::CloseWhenFlushed));
}

#[test]
fn an_http_request_ends_the_connection() {
    let (replies, _, next) =
        converse(&Limits::default(), &[b"POST /x HTTP/1.1\r\nIAMAT k +1-1 5\n"]);
    assert_eq!(
        (text(&replies).as_str(), next),
        ("? POST /x HTTP/1.1\n", Next::ShutdownWhenFlushed)
    );
    let (replies, _, next) = converse(&Limits::default(), &[b"x\nPOST /x HTTP/1.1\r\n"]);
    assert_eq!(
        (text(&replies).as_str(), next),
        ("? x\n? POST /x HTTP/1.1\n", Next::CloseWhenFlushed)
    );
}

#[test]
fn new_clients_per_address_and_second_are_limited() {
    let limits = Limits { new_clients_per_second_per_address: Some(1), ..Limits::default() };
    let (replies, log, _) = converse(
        &limits,
        &[b"IAMAT a +1-1 5\nIAMAT b +1-1 5\nIAMAT a +2-2 6\nWHATSAT a 0 0\nWHATSAT b 0 0\n"],
    );
    let replies = text(&replies);
    assert_eq!(replies.matches("AT Clark ").count(), 4, "every IAMAT is answered: {replies}");
    assert!(replies.ends_with("? WHATSAT b 0 0\n"), "{replies}");
    assert_eq!(text(&log).matches("over a limit on clients, not stored").count(), 1);
}

#[test]
fn a_client_is_not_read_while_too_much_is_unsent() {
    let limits = Limits { max_output_buffer: 16_384, ..Limits::default() };
    let mut node = node(limits);
    let mut session = session();
    let mut out = Vec::new();
    handle(&mut session, &mut node, b"hello\n", 0, &mut out);
    let input = b"IAMAT k +34.068930-118.445127 5\n".repeat(1000);
    let first = handle(&mut session, &mut node, &input, out.len(), &mut out);
    assert_eq!(first.next, Next::Blocked(Blocked::Output));
    assert!(out.len() < 16_384 + 100 && first.consumed < input.len(), "{}", out.len());
    let unsent = out.len();
    let second = handle(&mut session, &mut node, &input[first.consumed..], unsent, &mut out);
    let blocked = Handled { consumed: 0, next: Next::Blocked(Blocked::Output) };
    assert_eq!((second, out.len()), (blocked, unsent), "the socket has taken nothing");
}

/// Replies that are held back for places do not leave when the socket takes something.
#[test]
fn a_client_whose_held_back_replies_reach_the_limit_waits_for_places() {
    let limits = Limits { max_output_buffer: 16_384, ..Limits::default() };
    let mut node = node_with_provider(limits);
    let mut session = session();
    let mut out = Vec::new();
    handle(&mut session, &mut node, b"IAMAT k +1-1 5\n", 0, &mut out);
    handle(&mut session, &mut node, b"WHATSAT k 10 5\n", 0, &mut out);
    let input = b"IAMAT k +34.068930-118.445127 5\n".repeat(1000);
    let first = handle(&mut session, &mut node, &input, 0, &mut Vec::new());
    assert_eq!(first.next, Next::Blocked(Blocked::Places));
    let answer = node.give_up().unwrap();
    session.handle_answer(&mut node, &answer, &mut out);
    assert!(out.len() > 16_384, "{}", out.len());
    let rest = &input[first.consumed..];
    let second = handle(&mut session, &mut node, rest, out.len(), &mut Vec::new());
    assert_eq!(second.next, Next::Blocked(Blocked::Output));
    let third = handle(&mut session, &mut node, rest, 0, &mut Vec::new());
    assert!(third.consumed > 0, "the socket has taken everything");
}

/// A client that has half-closed is not read in any case: waiting for places delays no input of it.
#[test]
fn the_last_replies_of_a_session_wait_for_places() {
    for ended in [true, false] {
        let mut node = node_with_provider(Limits::default());
        let mut session = session();
        let mut out = Vec::new();
        handle(&mut session, &mut node, b"IAMAT k +1-1 5\n", 0, &mut out);
        let input = Input { bytes: b"WHATSAT k 10 5\n", ended, unsent: 0 };
        let mut next = session.handle_input(&mut node, input, &NOW, &mut out).next;
        if !ended {
            assert_eq!(next, Next::NeedInput);
            session.begin_shutdown(&mut out);
            next = handle(&mut session, &mut node, b"", 0, &mut out).next;
        }
        assert_eq!(next, Next::Blocked(Blocked::LastReplies));
        let answer = node.give_up().unwrap();
        session.handle_answer(&mut node, &answer, &mut out);
        assert!(out.ends_with(b"}\n\n"), "{}", text(&out));
        let expected = if ended { Next::CloseWhenFlushed } else { Next::ShutdownWhenFlushed };
        assert_eq!(handle(&mut session, &mut node, b"", 0, &mut out).next, expected);
    }
}

/// A client gets its share of a turn however long its pipeline is; a new connection gets one line.
#[test]
fn a_pipeline_is_answered_in_shares() {
    let reply = b"AT Clark +1621464823.000000000 k +34.068930-118.445127 5\n";
    let mut node = node(Limits::default());
    let mut session = session();
    let line = b"IAMAT k +34.068930-118.445127 5\n";
    let input = line.repeat(3000);
    let (mut at, mut replies, mut shares) = (0, Vec::new(), Vec::new());
    while at < input.len() {
        let mut out = Vec::new(); // the socket takes everything at once
        let handled = handle(&mut session, &mut node, &input[at..], 0, &mut out);
        at += handled.consumed;
        let expected = if at < input.len() { Next::Yielded } else { Next::NeedInput };
        assert_eq!(handled.next, expected);
        shares.push(out.len() / reply.len());
        replies.extend_from_slice(&out);
    }
    assert!(replies == reply.repeat(3000), "{}", text(&replies));
    let full = CLIENT_BYTES_PER_TURN.div_ceil(line.len() + reply.len());
    assert_eq!(shares, [1, full, full, 2999 - 2 * full]);
    // Lines without a reply count as well.
    let input = b"\n".repeat(CLIENT_BYTES_PER_TURN + 1);
    let handled = handle(&mut session, &mut node, &input, 0, &mut Vec::new());
    assert_eq!(handled, Handled { consumed: CLIENT_BYTES_PER_TURN, next: Next::Yielded });
}

/// With many clients, the lines of a pipeline are found and their records prefetched before they are
/// executed.
#[test]
fn a_pipeline_over_many_clients_is_answered_like_its_lines() {
    let clients = (0..5000).map(|client| format!("IAMAT k{client} +1-1 5\n"));
    let pipeline = (0..200).map(|turn| {
        let (old, new) = (turn * 7919 % 5000, 5000 + turn);
        match turn % 8 {
            0 => format!("IAMAT k{new} +1-1 6\n"),
            1 => format!(" IAMAT\tk{old}  +2-2/ 6.{turn}\r\n"),
            2 => format!("IAMAT k{old} +2-2 {turn}\nIAMAT k{old} +3-3 99{turn}\n"),
            3 => format!("WHATSAT k{old} 0 0\n"),
            4 => format!("IAMAT k{old} +91-2 7\nno such k{old}\n\n"),
            _ => format!("IAMAT k{old} +12.345678-118.5 1621464827.{turn:09}\n"),
        }
    });
    let run = |inputs: &mut dyn Iterator<Item = &[u8]>| {
        let (mut node, mut session) = (node(Limits::default()), session());
        let mut replies = Vec::new();
        for input in inputs {
            let mut at = 0;
            while at < input.len() {
                at += handle(&mut session, &mut node, &input[at..], 0, &mut replies).consumed;
            }
        }
        let directory = &node.herd.directory;
        let lines =
            (0..directory.slots()).map(|slot| directory.line(Slot(slot)).map(<[u8]>::to_vec));
        (text(&replies), lines.collect::<Vec<_>>())
    };
    let all = [clients.collect::<Vec<_>>().concat(), pipeline.collect::<Vec<_>>().concat()];
    let all = [all[0].as_bytes(), all[1].as_bytes()];
    let lines = all.iter().flat_map(|bytes| bytes.split_inclusive(|&byte| byte == b'\n'));
    let single = run(&mut lines.collect::<Vec<_>>().into_iter());
    assert!(single == run(&mut all.into_iter()));
}

#[test]
fn the_first_line_of_a_client_is_no_longer_than_any_other() {
    let limits = Limits { max_line: 64, ..Limits::default() };
    for line in [[b'x'; 65].to_vec(), [b"HERD ".to_vec(), vec![b'x'; 60]].concat()] {
        let (replies, _, next) = converse(&limits, &[&line, b"\nIAMAT k +1-1 5\n"]);
        let expected = format!("? {}...\n", text(&line[..64]));
        assert_eq!((text(&replies), next), (expected, Next::ShutdownWhenFlushed));
    }
    let hello = "HERD 2 Bona Clark 1 00000000000000000000000000000000 open 12a05f200 64 0 1 0 -\n";
    let (replies, _, _) = converse(&limits, &[hello.as_bytes()]);
    assert!(replies.starts_with(b"HERD 2 Clark Bona "), "{}", text(&replies));
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
        1 => Just(b"HERD 2 Bona Clark 1 00000000000000000000000000000000 open 12a05f200 64 0 1 0 -\n".to_vec()),
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
