//! Responses of a places provider. The first byte of the input selects the provider, and whether the
//! rest is a complete response or the body of one, in one of the three framings.
//!
//! - The result does not depend on how the response is split into reads.
//! - A body has exactly the bytes that its framing defines.
//! - A truncated response is a failure, never a shorter answer.
//! - Every question gets one document: JSON with the documented members, without the API key.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_herd::geo::Point;
use proxy_herd::limits::PlacesLimits;
use proxy_herd::places::Question;
use proxy_herd::places::http::{Eof, Exchange, HttpError, Progress, Response};
use proxy_herd::places::limits::MAX_DOCUMENT_BYTES;
use proxy_herd::places::providers::Provider;
use proxy_herd::places::upstream::{ApiKey, Asked, Client, Settings, Ticket};
use proxy_herd::time::Instant;
use proxy_herd_fuzz::cuts;
use serde_json::Value;

/// Must not appear in any document. Its `/` has to be percent-encoded.
const KEY: &str = "canary/Key-0123";

const MAX_RESULTS: u8 = 3;

const QUESTION: Question =
    Question { center: Point { lat: 34.068_93, lng: -118.445_127 }, radius_m: 10_000.0 };

fuzz_target!(|input: &[u8]| {
    let Some((&mode, rest)) = input.split_first() else { return };
    // Letters from A on keep seed inputs readable.
    let mode = mode.wrapping_sub(b'A');
    let provider =
        [Provider::Google, Provider::GoogleLegacy, Provider::Overpass][usize::from(mode) % 3];
    let wire = framed(mode / 3 % 4, rest);
    exchange(&wire);
    answer(provider, &wire);
});

fn framed(framing: u8, body: &[u8]) -> Vec<u8> {
    let head = match framing {
        0 => return body.to_vec(),
        1 => format!("Content-Length: {}\r\n", body.len()),
        2 => "Transfer-Encoding: chunked\r\n".to_owned(),
        _ => String::new(),
    };
    let mut wire = format!("HTTP/1.1 200 OK\r\n{head}\r\n").into_bytes();
    if framing != 2 {
        wire.extend_from_slice(body);
        return wire;
    }
    let mut start = 0;
    for end in cuts(body) {
        wire.extend_from_slice(format!("{:x}\r\n", end - start).as_bytes());
        wire.extend_from_slice(&body[start..end]);
        wire.extend_from_slice(b"\r\n");
        start = end;
    }
    wire.extend_from_slice(b"0\r\n\r\n");
    wire
}

/// Feeds `wire` and its end to an exchange. Returns its result, and whether the result was known
/// before the end.
fn feed(
    wire: &[u8],
    reads: impl Iterator<Item = usize>,
    eof: Eof,
) -> (Result<Response, HttpError>, bool) {
    let (mut exchange, mut at) = (Exchange::new(), 0);
    for end in reads {
        match exchange.handle_input(&wire[at..end]) {
            Ok(Progress::Pending) => at = end,
            Ok(Progress::Done(mut response)) => {
                // Further bytes arrive on an idle connection, which closes it.
                response.reusable &= end == wire.len();
                return (Ok(response), true);
            }
            Err(error) => return (Err(error), true),
        }
    }
    (exchange.handle_eof(eof), false)
}

fn exchange(wire: &[u8]) {
    let (complete, at_once) = feed(wire, [wire.len()].into_iter(), Eof::Clean);
    assert_eq!(feed(wire, 1..=wire.len(), Eof::Clean), (complete.clone(), at_once));
    assert_eq!(feed(wire, cuts(wire), Eof::Clean), (complete.clone(), at_once));
    let (cut, _) = feed(wire, [wire.len()].into_iter(), Eof::Abrupt);
    if at_once {
        assert_eq!(cut, complete, "the response was complete before the end of the stream");
    } else {
        assert!(matches!(cut, Err(HttpError::Truncated | HttpError::NoResponse)));
    }
    let Ok(response) = complete else { return };
    assert_eq!(
        Some((response.status, &response.body)),
        decode(wire).as_ref().map(|(s, b)| (*s, b))
    );
    for end in cuts(wire).filter(|&end| end < wire.len()) {
        let (part, _) = feed(&wire[..end], [end].into_iter(), Eof::Clean);
        match part {
            // The remaining bytes were not part of the response.
            Ok(part) if at_once => {
                assert_eq!((part.status, part.body), (response.status, response.body.clone()));
            }
            // A body that ends with the stream is a prefix.
            Ok(part) => assert!(response.body.starts_with(&part.body)),
            Err(error) => assert!(matches!(error, HttpError::Truncated | HttpError::NoResponse)),
        }
    }
}

/// Returns the status and the body of a valid response, by a simple decoder.
fn decode(mut wire: &[u8]) -> Option<(u16, Vec<u8>)> {
    loop {
        let end = find(wire, b"\r\n\r\n")? + 4;
        let head = std::str::from_utf8(&wire[..end]).map_or_else(
            |_| String::from_utf8_lossy(&wire[..end]).to_ascii_lowercase(),
            str::to_ascii_lowercase,
        );
        let head = head.replace("\r\n ", "   ").replace("\r\n\t", "   "); // unfolded
        let (status, body) = (head[9..12].parse().ok()?, &wire[end..]);
        wire = body;
        let field = |name: &str| {
            let line = head.split("\r\n").find(|line| line.starts_with(&format!("{name}:")))?;
            Some(line[name.len() + 1..].trim().to_owned())
        };
        return Some(match status {
            100..200 => continue,
            204 | 304 => (status, Vec::new()),
            _ if field("transfer-encoding").is_some() => (status, unchunk(body)?),
            _ => {
                let length = field("content-length").map(|it| it.parse().unwrap());
                (status, body[..length.unwrap_or(body.len())].to_vec())
            }
        });
    }
}

fn unchunk(mut wire: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = find(wire, b"\r\n")?;
        let digits = wire.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let size = usize::from_str_radix(std::str::from_utf8(&wire[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&wire[line + 2..][..size]);
        wire = &wire[line + 2 + size + 2..];
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Checks the answers to a WHATSAT when the provider sends `wire`.
fn answer(provider: Provider, wire: &[u8]) {
    let complete = ask(provider, wire, [wire.len()].into_iter());
    assert_eq!(ask(provider, wire, cuts(wire)), complete);
    let status = check(provider, &complete);
    for end in cuts(wire).take(4).filter(|&end| end < wire.len()) {
        let part = ask(provider, &wire[..end], [end].into_iter());
        let is_failure = !matches!(check(provider, &part).as_str(), "OK" | "ZERO_RESULTS");
        let is_failure_of_all = !matches!(status.as_str(), "OK" | "ZERO_RESULTS");
        assert!(
            part == complete || is_failure || is_failure_of_all,
            "a truncated response was accepted"
        );
    }
}

fn ask(provider: Provider, wire: &[u8], reads: impl Iterator<Item = usize>) -> Vec<u8> {
    const START: Instant = Instant::START;
    let (mut client, mut document) = (client(provider), Vec::new());
    let asked = client.ask(Ticket(1), QUESTION, MAX_RESULTS, START, &mut document);
    assert_eq!(asked, Asked::Waiting);
    let connection = client.poll_connect().expect("the first question opens a connection");
    client.handle_connected(connection, START);
    assert_eq!(client.poll_output(&mut Vec::new()), Some(connection));
    let mut at = 0;
    for end in reads {
        client.handle_input(connection, &wire[std::mem::replace(&mut at, end)..end], START);
    }
    client.handle_eof(connection, Eof::Clean, START);
    assert_eq!(client.poll_answer(&mut document), Some(Ticket(1)));
    assert_eq!(client.poll_answer(&mut Vec::new()), None);
    document
}

fn client(provider: Provider) -> Client {
    thread_local! {
        static KEYED: ApiKey = ApiKey::parse(KEY.as_bytes()).unwrap();
    }
    let key = (provider != Provider::Overpass).then(|| KEYED.with(ApiKey::clone));
    let url = "https://places.example".parse().unwrap();
    Client::new(Settings { provider, url, key, limits: PlacesLimits::default(), seed: 1 })
}

/// Checks a document against its documentation. Returns its status.
fn check(provider: Provider, document: &[u8]) -> String {
    let text = std::str::from_utf8(document).expect("UTF-8");
    assert!(!text.contains("\n\n") && !text.ends_with('\n'), "{text}");
    assert!(text.len() <= 2 * MAX_DOCUMENT_BYTES);
    let document: Value = serde_json::from_str(text).expect("JSON");
    // Both the text and the parsed JSON must be free of the key. Overpass has none.
    let texts = [text, &document.to_string()];
    for text in texts.into_iter().filter(|_| provider != Provider::Overpass) {
        let percent = text.contains("canary%2FKey-0123") || text.contains("canary%2fKey-0123");
        assert!(!text.contains(KEY) && !percent, "{text}");
    }
    let results = document["results"].as_array().expect("results");
    let is_text = |value: &Value| value.as_str().is_some();
    assert!(results.len() <= usize::from(MAX_RESULTS), "{text}");
    assert!(results.iter().all(|it| is_text(&it["name"]) && is_text(&it["vicinity"])), "{text}");
    assert!(document["html_attributions"].is_array(), "{text}");
    let status = document["status"].as_str().expect("status");
    match status {
        "OK" => assert!(!results.is_empty(), "{text}"),
        "ZERO_RESULTS" => assert!(results.is_empty(), "{text}"),
        "UNKNOWN_ERROR" | "OVER_QUERY_LIMIT" | "REQUEST_DENIED" => {
            assert!(results.is_empty() && is_text(&document["error_message"]), "{text}");
        }
        _ => panic!("{text}"),
    }
    status.to_owned()
}
