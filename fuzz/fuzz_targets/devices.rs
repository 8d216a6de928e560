//! A connection to the listener for phones and trackers. The first byte of the input selects the
//! settings; the rest is what arrives.
//!
//! - The responses, the records and the counters do not depend on how the input is split into reads.
//! - Every record that is reported is a record, and every report of a device is answered.
//! - The output is a sequence of HTTP responses. Neither it nor the log contains a token.
//! - The memory of the session is bounded, and freed at its end.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy_herd::devices::counters::Counters;
use proxy_herd::devices::tokens::Tokens;
use proxy_herd::devices::{Context, DeviceInfo, DeviceSession, Devices, NullIsland, Settings};
use proxy_herd::herd::directory::Rules;
use proxy_herd::ids::ConnectionId;
use proxy_herd::limits::Limits;
use proxy_herd::node::{Handled, Input, Next, Node};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::time::{Instant, Now, Wall};
use proxy_herd_fuzz::cuts;
use proxy_herd_fuzz::node::{self, ME};

/// Saturday 2026-11-28, 00:16:40 UTC.
const NOW: Now =
    Now { instant: Instant::at(Duration::from_secs(100)), wall: Wall(1_795_825_000_000_000_000) };

const RULES: Rules =
    Rules { max_clock_offset: 5 * SECOND, max_clients: 4, client_ttl: 0, forget_keep: SECOND };

/// The tokens. The log and the responses must not contain CANARY.
const TOKENS: &[u8] = b"CANARY-van1-000000 van1\nCANARY-fleet-00000 fleet/*\n";

/// The longest head, or line of a chunked body, that is offered again.
const MAX_KEPT: usize = 8192 + 2;

/// The observable outcome of a connection.
#[derive(Debug, PartialEq)]
struct Outcome {
    sent: Vec<u8>,
    message_log: Vec<u8>,
    counters: Counters,
    next: Next,
}

fuzz_target!(|input: &[u8]| {
    let Some((&setting, stream)) = input.split_first() else { return };
    let whole = run(setting, stream, &mut std::iter::once(stream.len()));
    let again = run(setting, stream, &mut cuts(stream));
    assert_eq!(without_interim(&whole), without_interim(&again));
    check_responses(&whole.sent);
});

/// Executes `stream` in reads that end at `ends`.
fn run(setting: u8, stream: &[u8], ends: &mut dyn Iterator<Item = usize>) -> Outcome {
    let bit = |at: u8| setting >> at & 1 == 1;
    let tokens = bit(0).then(|| Tokens::parse(TOKENS).expect("valid tokens"));
    let mut devices = Devices::new(Settings {
        tokens,
        max_accuracy_m: bit(1).then_some(50),
        null_island: if bit(2) { NullIsland::Keep } else { NullIsland::Drop },
        max_body: if bit(3) { 100 } else { 1 << 20 },
        max_output: 1 << 16,
    });
    let mut node =
        node::node(node::identity(ME, None, RULES), &[], node::offline(), Limits::default());
    let info = DeviceInfo {
        label: (*b"127.0.0.1:9").into(),
        address_key: 7,
        network_key: 7,
        is_local: bit(4),
    };
    let mut session = DeviceSession::accepted(&mut devices, ConnectionId(7), info);
    let (mut held, mut sent, mut message_log) = (Vec::new(), Vec::new(), Vec::new());
    let (mut at, mut next) = (0, Next::NeedInput);
    // The end of the stream is a read of its own.
    for end in ends.map(Some).chain([None]) {
        if let Some(end) = end {
            held.extend_from_slice(&stream[std::mem::replace(&mut at, end)..end]);
        }
        let mut out = Vec::new();
        next = serve(&mut session, &mut devices, &mut node, &mut held, end.is_none(), &mut out);
        sent.append(&mut out);
        message_log.extend_from_slice(node.message_log.lines());
        check_log(&mut node, bit(0));
        if next != Next::NeedInput {
            break;
        }
    }
    assert!(session.received().is_none() && !session.is_waiting());
    let counters = devices.counters;
    session.handle_closed(&mut devices);
    assert_eq!(devices.connections, 0);
    Outcome { sent, message_log, counters, next }
}

/// Calls the session until it needs more input or has ended.
fn serve(
    session: &mut DeviceSession,
    devices: &mut Devices,
    node: &mut Node,
    held: &mut Vec<u8>,
    ended: bool,
    sent: &mut Vec<u8>,
) -> Next {
    let mut idle = 0;
    loop {
        devices.begin_turn(NOW.wall);
        let mut out = Vec::new();
        let mut cx = Context { devices, node, now: &NOW };
        let input = Input { bytes: held, ended, unsent: 0 };
        let Handled { consumed, next } = session.handle_input(&mut cx, input, &mut out);
        held.drain(..consumed);
        sent.append(&mut out);
        match next {
            Next::Yielded | Next::Blocked(_) => {
                // A megabyte of elements of two bytes, 256 in a turn, and then as many positions.
                idle = if consumed > 0 { 0 } else { idle + 1 };
                assert!(idle < 10_000, "it makes no progress");
            }
            Next::NeedInput => {
                assert!(!ended && held.len() <= MAX_KEPT, "{} bytes are kept", held.len());
                return next;
            }
            Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => {
                assert!(held.is_empty());
                return next;
            }
        }
    }
}

/// Checks that the log contains records and no token, and clears it.
fn check_log(node: &mut Node, has_tokens: bool) {
    let log = node.message_log.lines();
    // A device that has this token may use the other one as its name.
    let shows_token = has_tokens && memchr(log, b"CANARY-fleet-00000").is_some();
    assert!(!shows_token, "a token in the log");
    for line in log.split(|&byte| byte == b'\n') {
        let Some(at) = memchr(line, b"127.0.0.1:9 > ") else { continue };
        // Names are escaped in the log, but remain names.
        let record = &line[at + 14..];
        // A name may begin with a parenthesis, too.
        let note = record.windows(2).rposition(|it| it == b" (");
        let record = match note {
            Some(at) if record.ends_with(b" not stored)") => &record[..at],
            _ => record,
        };
        assert!(Record::parse(record).is_some(), "{}", record.escape_ascii());
    }
    node::check(node);
}

/// Checks that `sent` is a sequence of responses, of which only the last closes the connection.
fn check_responses(mut sent: &[u8]) {
    assert!(memchr(sent, b"CANARY").is_none(), "a token in a response");
    while !sent.is_empty() {
        let end = memchr(sent, b"\r\n\r\n").expect("a complete head") + 4;
        let (head, rest) = sent.split_at(end);
        let head = std::str::from_utf8(head).expect("a head of text");
        let status = head.strip_prefix("HTTP/1.1 ").expect("a status line");
        if status.starts_with("100") {
            sent = rest;
            continue;
        }
        let length = head.split_once("\r\nContent-Length: ").expect("a length").1;
        let length: usize = length.split_once("\r\n").unwrap().0.parse().expect("a number");
        let closes = head.contains("\r\nConnection: close\r\n");
        // The response to HEAD has the length of a body and none.
        let is_head = rest.is_empty() || rest.starts_with(b"HTTP/1.1 ");
        sent = if is_head && length > 0 { rest } else { &rest[length..] };
        assert!(!closes || sent.is_empty(), "something follows the last response");
    }
}

/// The outcome without interim responses, which are not sent if the body has come with the head.
fn without_interim(outcome: &Outcome) -> Outcome {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
    let (mut sent, mut rest) = (Vec::new(), &outcome.sent[..]);
    while let Some(at) = memchr(rest, interim) {
        sent.extend_from_slice(&rest[..at]);
        rest = &rest[at + interim.len()..];
    }
    sent.extend_from_slice(rest);
    let Outcome { ref message_log, counters, next, .. } = *outcome;
    Outcome { sent, message_log: message_log.clone(), counters, next }
}

/// Returns the position of `needle` in `text`.
fn memchr(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|it| it == needle)
}
