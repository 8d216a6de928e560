//! Line framing, commands and records. The input is what a client or a peer sends.
//!
//! - The lines do not depend on how the input is split into reads.
//! - Neither a line nor what is kept of a partial line exceeds the limit.
//! - Commands, their values and records agree with a second parser, written independently.
//! - A record that is printed parses to the same record.
//!
//! The target does not allocate, so that it runs more than a hundred thousand times per second.

#![no_main]

use std::cell::RefCell;
use std::cmp::Ordering;

use libfuzzer_sys::fuzz_target;
use proxy_herd::protocol::command::{Command, Iamat, Whatsat};
use proxy_herd::protocol::framing::{Framed, Framing};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::protocol::trim;
use proxy_herd_fuzz::cuts;

/// Short, so that inputs of a few hundred bytes exceed it.
const MAX_LINE: usize = 96;

fuzz_target!(|input: &[u8]| {
    frame(input, [input.len()].into_iter());
    frame(input, 1..=input.len());
    frame(input, cuts(input));
    for line in lines(input).take_while(|line| line.len() <= MAX_LINE) {
        command(line);
        record(line);
    }
});

/// The lines of `input`. LF ends a line, and the end of the stream ends the last one.
fn lines(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input
        .split_inclusive(|&byte| byte == b'\n')
        .map(|line| line.strip_suffix(b"\n").unwrap_or(line))
}

/// Frames `input` like a connection, which passes unconsumed bytes again with the next read.
fn frame(input: &[u8], reads: impl Iterator<Item = usize>) {
    let mut framing = Framing::new(MAX_LINE);
    let mut expected = lines(input);
    let (mut consumed, mut read) = (0, 0);
    for end in reads {
        let before = std::mem::replace(&mut read, end);
        loop {
            match framing.next(&input[consumed..read], read == input.len()) {
                Framed::Line(line, taken) => {
                    assert_eq!(Some(line), expected.next());
                    assert!(line.len() <= MAX_LINE);
                    consumed += taken;
                    let ends_here = taken == line.len() && consumed == input.len();
                    assert!(taken == line.len() + 1 || ends_here);
                }
                Framed::Overlong(line) => {
                    assert!(expected.next().is_some_and(|all| all.starts_with(line)));
                    // It is reported as soon as the limit is exceeded.
                    assert!(line.len() > MAX_LINE && before.saturating_sub(consumed) <= MAX_LINE);
                    return;
                }
                Framed::Partial => break,
            }
        }
        assert!(read - consumed <= MAX_LINE, "{} bytes are kept", read - consumed);
    }
    assert_eq!(consumed, input.len(), "bytes are left at the end of the stream");
    assert_eq!(expected.next(), None);
}

/// Compares a command with the second parser.
fn command(line: &[u8]) {
    let parsed = Command::parse(line);
    match (expected_command(line), parsed) {
        (Some(Expected::Iamat(client, location, time)), Command::Iamat(iamat)) => {
            assert_eq!((iamat.client, iamat.location, iamat.time), (client, location, time));
            assert_eq!(iamat.time_nanos, nanos(time));
            for received in [iamat.time_nanos, 1_621_464_828_223_371_889] {
                round_trip(b"Clark", &iamat, received);
            }
        }
        (Some(Expected::Whatsat(client, meters, bound)), Command::Whatsat(whatsat)) => {
            let Whatsat { radius_m, max_results, .. } = whatsat;
            assert_eq!((whatsat.client, u64::from(max_results)), (client, bound));
            assert!((0.0..=50_000.0).contains(&radius_m) && (radius_m - meters).abs() < 1e-6);
        }
        (None, Command::Unknown) => {}
        (_, parsed) => panic!("{parsed:?}"),
    }
    // Most lines have none; comparing them again would take time.
    let trimmed = trim(line);
    if trimmed.len() < line.len() {
        let kind = |line| std::mem::discriminant(&Command::parse(line));
        assert_eq!(kind(trimmed), kind(line), "white space at either end matters");
    }
}

/// Prints a record and parses it again.
fn round_trip(server: &[u8], iamat: &Iamat<'_>, received: Nanos) {
    thread_local! {
        static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LINE.with_borrow_mut(|line| {
        line.clear();
        line.extend_from_slice(b"before");
        let record = Record::emit(line, server, iamat, received);
        assert_eq!(Record::parse(record.line), Some(record), "a printed record parses");
        let line = record.line;
        assert_eq!(Some(record), Record::known(line, record.client_at, record.client.len()));
        assert_eq!((record.server, record.client), (server, iamat.client));
        assert_eq!((record.time, record.received), (iamat.time_nanos, received));
        assert!(record.cmp(&record, 5 * SECOND).is_eq() && record.location().is_some());
    });
}

/// Compares a record of a peer with the second parser, and prints it again.
fn record(line: &[u8]) {
    let expected = expected_record(line);
    let Some(record) = Record::parse(line) else { return assert!(expected.is_none()) };
    let (server, received, iamat) = expected.expect("the second parser rejects the record");
    assert_eq!((record.line, record.server, record.client), (line, server, iamat.client));
    assert_eq!((record.time, record.received), (iamat.time_nanos, received));
    let mut fields = record.report().split(|&byte| byte == b' ');
    assert_eq!([fields.next(), fields.next()], [Some(&b""[..]), Some(iamat.location)]);
    assert_eq!([fields.next(), fields.next()], [Some(iamat.time), None]);
    round_trip(server, &iamat, received);
}

// The second parser

enum Expected<'a> {
    Iamat(&'a [u8], &'a [u8], &'a [u8]),
    /// Client, radius in meters, maximum number of results.
    Whatsat(&'a [u8], f64, u64),
}

fn expected_command(line: &[u8]) -> Option<Expected<'_>> {
    let mut fields =
        line.split(|byte| b" \t\r\n\x0b\x0c".contains(byte)).filter(|it| !it.is_empty());
    let mut field = || fields.next();
    let (word, client, third, fourth) = (field()?, field()?, field()?, field()?);
    if field().is_some() {
        return None;
    }
    match word {
        b"IAMAT" => (is_location(third) && is_time(fourth))
            .then_some(Expected::Iamat(client, third, fourth)),
        b"WHATSAT" => {
            let radius = third.strip_prefix(b"+").unwrap_or(third);
            let bound = fourth.strip_prefix(b"+").unwrap_or(fourth);
            let is_integer = bound.iter().all(u8::is_ascii_digit);
            (is_integer && is_at_most(radius, b"50") && is_at_most(bound, b"20")).then(|| {
                let kilometers: f64 = str::from_utf8(radius).unwrap().parse().unwrap();
                Expected::Whatsat(client, kilometers * 1000.0, value(bound))
            })
        }
        _ => None,
    }
}

/// Server, time of receipt, and the IAMAT of a record.
fn expected_record(line: &[u8]) -> Option<(&[u8], Nanos, Iamat<'_>)> {
    let mut fields = line.split(|&byte| byte == b' ');
    let mut field = || {
        let field = fields.next()?;
        (!field.is_empty() && !field.iter().any(|it| b"\t\r\n\x0b\x0c".contains(it)))
            .then_some(field)
    };
    let (word, server, difference, client) = (field()?, field()?, field()?, field()?);
    let (location, time) = (field()?, field()?);
    let is_record = word == b"AT"
        && fields.next().is_none()
        && matches!(difference[0], b'+' | b'-')
        && is_decimal(&difference[1..])
        && compare(parts(&difference[1..]).0, b"999999999999999999").is_le()
        && is_location(location)
        && is_time(time);
    is_record.then(|| {
        let time_nanos = nanos(time);
        (
            server,
            time_nanos + nanos(difference),
            Iamat { client, location, time, report: None, time_nanos },
        )
    })
}

fn is_location(field: &[u8]) -> bool {
    let is_sign = |byte: &u8| matches!(byte, b'+' | b'-');
    let field = field.strip_suffix(b"/").unwrap_or(field);
    let Some((first, rest)) = field.split_first() else { return false };
    let Some(second) = rest.iter().position(is_sign) else { return false };
    is_sign(first) && is_at_most(&rest[..second], b"90") && is_at_most(&rest[second + 1..], b"180")
}

fn is_time(field: &[u8]) -> bool {
    is_at_most(unsigned(field), b"253402300799")
}

fn unsigned(field: &[u8]) -> &[u8] {
    field.strip_prefix(b"+").or(field.strip_prefix(b"-")).unwrap_or(field)
}

fn is_decimal(field: &[u8]) -> bool {
    let (integer, fraction) = parts(field);
    let mut digits = integer.iter().chain(fraction);
    digits.all(u8::is_ascii_digit) && integer.len() + fraction.len() > 0
}

/// Returns whether the field is a decimal of at most `bound`.
fn is_at_most(field: &[u8], bound: &[u8]) -> bool {
    let (integer, fraction) = parts(field);
    let order = compare(integer, bound);
    is_decimal(field) && (order.is_lt() || order.is_eq() && fraction.iter().all(|&it| it == b'0'))
}

/// Compares integers by their digits.
fn compare(number: &[u8], bound: &[u8]) -> Ordering {
    let zeros = number.iter().take_while(|&&digit| digit == b'0').count();
    let number = &number[zeros..];
    number.len().cmp(&bound.len()).then_with(|| number.cmp(bound))
}

/// The digits before and after the decimal point.
fn parts(field: &[u8]) -> (&[u8], &[u8]) {
    let point = field.iter().position(|&byte| byte == b'.');
    point.map_or((field, &[]), |at| (&field[..at], &field[at + 1..]))
}

/// The value of a valid signed decimal, in billionths.
fn nanos(field: &[u8]) -> Nanos {
    let (integer, fraction) = parts(unsigned(field));
    let mut nanos = Nanos::from(value(integer));
    for at in 0..9 {
        nanos = nanos * 10 + fraction.get(at).map_or(0, |digit| Nanos::from(digit - b'0'));
    }
    if field[0] == b'-' { -nanos } else { nanos }
}

fn value(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit - b'0'))
}
