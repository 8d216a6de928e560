//! Line framing and commands. The input is what a client sends.
//!
//! - However the input is cut into reads, the same lines come out, and they are its lines.
//! - What is held for a partial line never exceeds the limit, nor does a line.
//! - A record that is printed parses, and is the same then.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_herd::protocol::command::{Command, Iamat};
use proxy_herd::protocol::framing::{Framed, Framing};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{MAX_SECONDS, Nanos, SECOND};
use proxy_herd::protocol::{is_space, trim};
use proxy_herd_fuzz::splits;

/// Short, so that inputs of a few hundred bytes reach it.
const MAX_LINE: usize = 128;

/// How much of an overlong line its reply shows.
const SHOWN: usize = 64;

fuzz_target!(|input: &[u8]| {
    let expected = expected(input);
    for reads in splits(input) {
        assert_eq!(frame(input, &reads), expected);
    }
    for line in expected {
        if !line.overlong {
            command(&input[line.at..line.at + line.length]);
            record(&input[line.at..line.at + line.length]);
        }
    }
});

/// A line, as a part of the input.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    at: usize,
    /// Of an overlong line, what its reply shows.
    length: usize,
    overlong: bool,
}

/// The lines of `reads` as a connection gets them: what is not consumed is offered again.
fn frame(input: &[u8], reads: &[&[u8]]) -> Vec<Line> {
    let mut framing = Framing::new(MAX_LINE);
    let mut seen = Vec::new();
    // What is held is what has been read and not consumed.
    let (mut consumed, mut read) = (0, 0);
    for bytes in reads {
        read += bytes.len();
        loop {
            let at = consumed;
            match framing.next(&input[at..read], read == input.len()) {
                Framed::Line(line, taken) => {
                    let length = line.len();
                    assert!(length <= MAX_LINE && (length..=length + 1).contains(&taken));
                    assert_eq!(line, &input[at..at + length]);
                    seen.push(Line { at, length, overlong: false });
                    consumed += taken;
                }
                Framed::Overlong(line) => {
                    // It is told at once, not after more has been held.
                    assert!(line.len() > MAX_LINE && read - bytes.len() <= at + MAX_LINE);
                    assert!(input[at..].starts_with(line));
                    seen.push(Line { at, length: SHOWN, overlong: true });
                    return seen;
                }
                Framed::Partial => break,
            }
        }
        let held = read - consumed;
        assert!(held <= MAX_LINE, "{held} bytes are held");
    }
    assert_eq!(consumed, input.len(), "bytes are left at the end of the stream");
    seen
}

/// The same by the standard library: LF ends a line, and the end of the stream ends the last one.
fn expected(input: &[u8]) -> Vec<Line> {
    let (mut seen, mut at) = (Vec::new(), 0);
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        let length = line.strip_suffix(b"\n").unwrap_or(line).len();
        if length > MAX_LINE {
            seen.push(Line { at, length: SHOWN, overlong: true });
            break;
        }
        seen.push(Line { at, length, overlong: false });
        at += line.len();
    }
    seen
}

/// A command borrows fields of its own line, within bounds; a record made of it is what it was.
fn command(line: &[u8]) {
    assert_eq!(kind(trim(line)), kind(line), "white space at either end counts");
    match Command::parse(line) {
        Command::Iamat(iamat) => {
            for field in [iamat.client, iamat.location, iamat.time] {
                assert!(!field.is_empty() && !field.iter().any(|&byte| is_space(byte)));
            }
            assert!(iamat.time_nanos.unsigned_abs() <= u128::from(MAX_SECONDS) * 1_000_000_000);
            for received in [0, iamat.time_nanos, 1_621_464_828_223_371_889, -SECOND / 3] {
                round_trip(b"Clark", &iamat, received);
            }
        }
        Command::Whatsat(whatsat) => {
            assert!((0.0..=50_000.0).contains(&whatsat.radius_m) && whatsat.max_results <= 20);
        }
        Command::Unknown => {}
    }
}

fn kind(line: &[u8]) -> std::mem::Discriminant<Command<'_>> {
    std::mem::discriminant(&Command::parse(line))
}

/// Prints a record, and parses what was printed.
fn round_trip(server: &[u8], iamat: &Iamat<'_>, received: Nanos) {
    let mut line = b"before".to_vec();
    Record::emit(&mut line, server, iamat, received);
    let line = line.strip_prefix(b"before").expect("what was there is left alone");
    let record = Record::parse(line).expect("what is printed parses");
    assert_eq!(record, Record::emitted(line, server, iamat, received));
    assert_eq!((record.server, record.client), (server, iamat.client));
    assert_eq!((record.time, record.received), (iamat.time_nanos, received));
    assert!(record.cmp(&record, 5 * SECOND).is_eq());
    assert!(record.location().is_some());
}

/// A line as a peer sends it: if it is a record, printing it again loses nothing of it.
fn record(line: &[u8]) {
    let Some(record) = Record::parse(line) else { return };
    assert_eq!(record.line, line);
    let said: Vec<&[u8]> = record.said().split(|&byte| byte == b' ').collect();
    let [b"", location, time] = said[..] else { panic!("not a location and a time") };
    let iamat = Iamat { client: record.client, location, time, time_nanos: record.time };
    round_trip(record.server, &iamat, record.received);
}
