//! Valid, unusual and malformed responses, each fed in many ways: the result must be the expected
//! one, and must not depend on how the input is split.

mod bodies;
mod chunked;
mod heads;
mod lengths;

use super::*;
use crate::places::limits::MAX_BODY_BYTES;
use crate::rng::Rng;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// The end of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// The connection stays open.
    Open,
    /// The peer announces the end.
    Clean,
    /// The connection breaks off.
    Abrupt,
}

/// The expected result.
#[derive(Clone, Debug, PartialEq)]
enum Want {
    /// Status, body, and true if the connection is reusable.
    Complete(u16, Vec<u8>, bool),
    /// The response is rejected for this reason.
    Bad(HttpError),
    /// httparse rejects the response.
    Malformed,
    /// The response is incomplete.
    Pending,
}

#[derive(Clone, Debug)]
struct Case {
    name: String,
    bytes: Vec<u8>,
    end: End,
    want: Want,
}

fn case(name: impl Into<String>, bytes: impl Into<Vec<u8>>, end: End, want: Want) -> Case {
    Case { name: name.into(), bytes: bytes.into(), end, want }
}

fn complete(status: u16, body: &[u8], reusable: bool) -> Want {
    Want::Complete(status, body.to_vec(), reusable)
}

/// The result of an exchange.
#[derive(Clone, Debug, PartialEq)]
enum Got {
    Complete(Response),
    Bad(HttpError),
    Pending,
}

fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, end: End) -> Got {
    let mut exchange = Exchange::new();
    let mut pieces = pieces.into_iter();
    for piece in pieces.by_ref() {
        match exchange.handle_input(piece) {
            Ok(Progress::Pending) => {}
            Ok(Progress::Done(mut response)) => {
                // Further bytes arrive on an idle connection, which closes it.
                response.reusable &= pieces.all(<[u8]>::is_empty);
                return Got::Complete(response);
            }
            Err(error) => return Got::Bad(error),
        }
    }
    let ended = match end {
        End::Open => return Got::Pending,
        End::Clean => exchange.handle_eof(Eof::Clean),
        End::Abrupt => exchange.handle_eof(Eof::Abrupt),
    };
    ended.map_or_else(Got::Bad, Got::Complete)
}

fn check(case: &Case) {
    let bytes = &case.bytes[..];
    let at_once = feed([bytes], case.end);
    let agrees = match (&at_once, &case.want) {
        (Got::Complete(got), Want::Complete(status, body, reusable)) => {
            (got.status, &got.body, got.reusable) == (*status, body, *reusable)
        }
        (Got::Bad(got), Want::Bad(want)) => got == want,
        (Got::Bad(HttpError::Malformed(_)), Want::Malformed) | (Got::Pending, Want::Pending) => {
            true
        }
        _ => false,
    };
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
    assert!(agrees, "{}: {:?} is not {:?}\n{shown:?}", case.name, at_once, case.want);
    let same = |got: Got, how: &str| {
        assert_eq!(got, at_once, "{} fed {how}\n{shown:?}", case.name);
    };
    same(feed(bytes.chunks(1), case.end), "byte by byte");
    let every_split = bytes.len() <= 2000;
    let splits: Vec<usize> = if every_split {
        (0..=bytes.len()).collect()
    } else {
        let mut random = Rng::new(bytes.len() as u64);
        (0..64).map(|_| random.bits() as usize % (bytes.len() + 1)).collect()
    };
    for at in splits {
        let (left, right) = bytes.split_at(at);
        same(feed([left, right], case.end), &format!("in two at {at}"));
    }
    let mut random = Rng::new(7);
    for _ in 0..8 {
        let mut cuts: Vec<usize> =
            (0..4).map(|_| random.bits() as usize % (bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let starts = std::iter::once(0).chain(cuts.iter().copied());
        let ends = cuts.iter().copied().chain([bytes.len()]);
        let pieces = starts.zip(ends).map(|(start, end)| &bytes[start..end]);
        same(feed(pieces, case.end), &format!("cut at {cuts:?}"));
    }
}

fn check_all(cases: &[Case]) {
    for case in cases {
        check(case);
    }
}

#[test]
fn there_are_more_than_a_thousand_cases() {
    let tables = [
        bodies::valid(),
        heads::status_lines(),
        heads::fields(),
        heads::folded(),
        heads::line_ends(),
        lengths::lengths(),
        chunked::encodings(),
        chunked::chunks(),
        chunked::trailers(),
        heads::interim(),
        bodies::truncated(),
        bodies::limits(),
    ];
    let mut cases: Vec<(Vec<u8>, End)> =
        tables.concat().into_iter().map(|case| (case.bytes, case.end)).collect();
    cases.sort_unstable();
    cases.dedup();
    assert!(cases.len() > 1000, "{}", cases.len());
}

/// These are too large for all splits; a few show that the limit is exact.
#[test]
fn the_limit_for_bodies_is_exact() {
    let largest = vec![b'x'; MAX_BODY_BYTES];
    let by_length = format!("HTTP/1.1 200 OK\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n");
    let until_close = "HTTP/1.1 200 OK\r\n\r\n".to_owned();
    let halves = largest.split_at(MAX_BODY_BYTES / 2);
    let chunk = format!("{:x}\r\n", MAX_BODY_BYTES / 2);
    let chunked = [
        CHUNKED.as_bytes(),
        chunk.as_bytes(),
        halves.0,
        b"\r\n",
        chunk.as_bytes(),
        halves.1,
        b"\r\n0\r\n\r\n",
    ];
    for pieces in [
        vec![by_length.as_bytes(), &largest],
        vec![until_close.as_bytes(), halves.0, halves.1],
        chunked.to_vec(),
    ] {
        let Got::Complete(response) = feed(pieces, End::Clean) else { panic!("rejected") };
        assert_eq!(response.body.len(), MAX_BODY_BYTES);
    }
    let too_long = Got::Bad(HttpError::BodyTooLong);
    assert_eq!(feed([until_close.as_bytes(), &largest, b"x"], End::Clean), too_long);
    let one_more = [CHUNKED.as_bytes(), b"1\r\nx\r\n400000\r\n"];
    assert_eq!(feed(one_more, End::Clean), too_long);
}

#[test]
fn retry_after_and_location_are_read() {
    let with = |fields: &str| {
        let text = format!("HTTP/1.1 503 x\r\n{fields}Content-Length: 0\r\n\r\n");
        let Got::Complete(response) = feed([text.as_bytes()], End::Open) else {
            panic!("{fields}")
        };
        response
    };
    let wait = |fields| with(fields).retry_after.map(|wait| wait.as_secs());
    assert_eq!(wait("Retry-After: 120\r\n"), Some(120));
    assert_eq!(wait("Retry-After: 0\r\n"), Some(0));
    assert_eq!(wait("Retry-After: 99999999999999999999999999\r\n"), Some(600));
    for none in ["", "Retry-After: +5\r\n", "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n"] {
        assert_eq!(wait(none), None, "{none}");
    }
    assert_eq!(
        with("Location: https://a.example/b?c\r\n").location.as_deref(),
        Some("https://a.example/b?c")
    );
    assert_eq!(with("").location, None);
}

/// No input makes an exchange panic, or its result depend on the splits.
mod any_bytes {
    use proptest::prelude::*;

    use super::*;

    fn responses() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"HTTP/1.1 200 OK\r\n".to_vec()),
            Just(b"HTTP/1.1 100 \r\n\r\n".to_vec()),
            Just(b"Content-Length: 5\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"hello".to_vec()),
            Just(b"5\r\nhello\r\n".to_vec()),
            Just(b"0\r\n\r\n".to_vec()),
            Just(b"A: b\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..4),
        ];
        prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_result_does_not_depend_on_the_splits(bytes in responses(), clean: bool, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let end = if clean { End::Clean } else { End::Abrupt };
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let starts = std::iter::once(0).chain(cuts.iter().copied());
            let ends = cuts.iter().copied().chain([bytes.len()]);
            let pieces = starts.zip(ends).map(|(start, end)| &bytes[start..end]);
            let at_once = feed([&bytes[..]], end);
            prop_assert_eq!(feed(pieces, end), at_once.clone());
            prop_assert_eq!(feed(bytes.chunks(1), end), at_once);
        }
    }
}
