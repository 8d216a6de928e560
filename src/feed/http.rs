//! The dialogue with an HTTP collector on one connection: a POST for each batch.

use core::fmt;
use core::time::Duration;

use super::batch::Batch;
use super::entry::{Entry, Field, Value};
use super::id::Id;
use super::shown::shown;
use crate::endpoint::Url;
use crate::places::http::{Eof, Exchange, Method, Progress, RequestWriter, Response};
use crate::text::json::push_text;
use crate::text::percent::{push_encoded, push_id};

/// Bytes of the body of a request, at most.
pub const MAX_BODY: usize = 1 << 20;

/// Entries of a request, at most.
pub const MAX_ENTRIES: u32 = 1000;

/// How to deliver to a collector.
#[derive(Clone)]
pub struct Settings {
    /// The URL.
    pub url: Url,
    /// What follows the prefix of the URL in the target of requests, such as a query.
    pub end: Box<str>,
    /// The bearer token.
    pub token: Option<Box<str>>,
    /// The name of the stream, which makes keys of different nodes different.
    pub stream: Box<[u8]>,
}

impl Settings {
    /// The token.
    pub(super) fn secret(&self) -> Option<&[u8]> {
        self.token.as_deref().map(str::as_bytes)
    }
}

/// Omits the token.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("url", &self.url).finish_non_exhaustive()
    }
}

/// The reason why a batch was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A sentence for people.
    pub reason: String,
    /// The time after which the collector wants to be asked again.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), retry_after: None }
    }
}

/// The dialogue on one connection.
#[derive(Debug, Default)]
pub struct Session {
    exchange: Option<Exchange>,
}

impl Session {
    /// Appends the request that delivers a batch.
    pub fn send(&mut self, settings: &Settings, batch: &Batch, out: &mut Vec<u8>) {
        let mut writer = RequestWriter::new(out, Method::Post, &settings.url, &settings.end)
            .header("Idempotency-Key", &key(&settings.stream, batch));
        if let Some(token) = &settings.token {
            writer = writer.header("Authorization", &format!("Bearer {token}"));
        }
        writer.body("application/x-ndjson", &batch.bytes);
        self.exchange = Some(Exchange::new());
    }

    /// Handles bytes of a response. Returns whether the batch was accepted, and whether the connection
    /// can be used again; `None` if the response is not complete.
    ///
    /// # Errors
    ///
    /// If the batch was not accepted, or the bytes are not a response.
    pub fn handle_input(
        &mut self,
        settings: &Settings,
        bytes: &[u8],
    ) -> Result<Option<bool>, Refusal> {
        let Some(exchange) = &mut self.exchange else {
            return Err(Refusal::new("the collector has sent a response to nothing"));
        };
        match exchange.handle_input(bytes) {
            Ok(Progress::Pending) => Ok(None),
            Ok(Progress::Done(response)) => {
                self.exchange = None;
                judge(&response, settings).map(|()| Some(response.reusable))
            }
            Err(error) => Err(Refusal::new(format!(
                "the response is not valid: {error}; correct the port or the scheme of feed.url"
            ))),
        }
    }

    /// Handles the end of the stream, which may be the end of a response.
    ///
    /// # Errors
    ///
    /// If the batch was not accepted.
    pub fn handle_eof(&mut self, settings: &Settings, eof: Eof) -> Result<(), Refusal> {
        let Some(exchange) = &mut self.exchange else { return Ok(()) };
        match exchange.handle_eof(eof) {
            Ok(response) => judge(&response, settings),
            Err(error) => Err(Refusal::new(format!("the response is not complete: {error}"))),
        }
    }
}

/// Returns the key of a batch, which is the same whenever it is sent: stream, first and last id.
fn key(stream: &[u8], batch: &Batch) -> String {
    let mut key = Vec::new();
    push_encoded(&mut key, stream);
    let key = String::from_utf8_lossy(&key).into_owned();
    format!("{key}/{}/{}", batch.first, batch.last)
}

/// Returns an error unless the response accepts the batch.
fn judge(response: &Response, settings: &Settings) -> Result<(), Refusal> {
    let status = response.status;
    let reason = match status {
        200..=299 => return Ok(()),
        300..=399 => match &response.location {
            Some(location) => {
                let address = shown(location.as_bytes(), settings.secret());
                format!("the collector redirects to {address}; enter that address in feed.url")
            }
            None => format!("the collector redirects (HTTP {status}); correct feed.url"),
        },
        401 | 403 => format!(
            "the collector refuses access (HTTP {status}); correct the token in feed.password_file"
        ),
        404 | 405 | 410 => {
            format!("the collector accepts nothing at this path (HTTP {status}); correct feed.url")
        }
        413 => {
            "the collector finds a batch too large (HTTP 413); raise its limit to 1 MiB".to_owned()
        }
        408 | 425 | 429 => format!("the collector wants to be asked later (HTTP {status})"),
        400..=499 => format!(
            "the collector refuses the batch (HTTP {status}), and will do so again; see its log"
        ),
        _ => format!("the collector has failed (HTTP {status})"),
    };
    Err(Refusal { reason, retry_after: response.retry_after })
}

/// Appends an entry as a line of JSON. Names are text; bytes that are not UTF-8 become U+FFFD, and
/// `client_id` has them percent-encoded.
pub fn push_entry(out: &mut Vec<u8>, scratch: &mut Vec<u8>, entry: &Entry<'_>, id: Id) {
    out.extend_from_slice(b"{\"id\":\"");
    id.push(out);
    out.push(b'"');
    entry.fields(id, scratch, |field, value| {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(field.name().as_bytes());
        out.extend_from_slice(b"\":");
        match value {
            Value::Number(number) => out.extend_from_slice(number),
            Value::Text(text) => push_text(out, text),
        }
        if let (Field::Client, Value::Text(client)) = (field, value) {
            out.extend_from_slice(b",\"client_id\":\"");
            push_id(out, client);
            out.push(b'"');
        }
    });
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Kind;
    use serde_json::json;

    fn batch() -> Batch {
        let (first, last) = (Id { millis: 7, sequence: 8 }, Id { millis: 7, sequence: 9 });
        Batch { bytes: b"{}\n".to_vec(), entries: 1, first, last, ..Batch::default() }
    }

    fn settings() -> Settings {
        Settings {
            url: "http://a:8080/in".parse().unwrap(),
            end: "?x=1".into(),
            token: Some("canary".into()),
            stream: b"herd:A b"[..].into(),
        }
    }

    #[test]
    fn a_batch_is_a_post_with_a_key() {
        let mut out = Vec::new();
        Session::default().send(&settings(), &batch(), &mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("POST /in?x=1 HTTP/1.1\r\nHost: a:8080\r\n"), "{head}");
        for field in [
            "Idempotency-Key: herd%3AA%20b/7-8/7-9",
            "Authorization: Bearer canary",
            "Content-Type: application/x-ndjson",
            "Content-Length: 3",
        ] {
            assert!(head.lines().any(|line| line == field), "{field}: {head}");
        }
        assert_eq!(body, "{}\n");
        assert!(!format!("{:?}", settings()).contains("canary"));
    }

    #[test]
    fn every_split_of_a_response_has_the_same_outcome() {
        for (response, outcome) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Ok(Some(true))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", Ok(Some(true))),
            ("HTTP/1.1 202 A\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Ok(Some(false))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Ok(Some(true))),
            ("HTTP/1.1 500 E\r\nContent-Length: 0\r\n\r\n", Err("has failed (HTTP 500)")),
            ("HTTP/1.1 401 E\r\nContent-Length: 0\r\n\r\n", Err("feed.password_file")),
            ("HTTP/1.1 400 E\r\nContent-Length: 0\r\n\r\n", Err("will do so again")),
            ("HTTP/1.1 301 M\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n", Err("redirects to /b")),
            (
                "HTTP/1.1 301 M\r\nLocation: /?t=can%61ry\r\nContent-Length: 0\r\n\r\n",
                Err("redirects to …;"),
            ),
            ("+OK\r\n", Err("is not valid")),
        ] {
            for split in 0..=response.len() {
                let mut session = Session::default();
                session.send(&settings(), &batch(), &mut Vec::new());
                let (first, second) = response.as_bytes().split_at(split);
                let found = match session.handle_input(&settings(), first) {
                    Ok(None) => session.handle_input(&settings(), second),
                    found => found,
                };
                match outcome {
                    Ok(expected) => assert_eq!(found, Ok(expected), "{response} {split}"),
                    Err(part) => {
                        let error = found.unwrap_err();
                        assert!(error.reason.contains(part), "{response} {split}: {error:?}");
                    }
                }
            }
        }
        let mut session = Session::default();
        session.send(&settings(), &batch(), &mut Vec::new());
        assert_eq!(session.handle_input(&settings(), b"HTTP/1.0 200 OK\r\n\r\nok"), Ok(None));
        assert_eq!(session.handle_eof(&settings(), Eof::Clean), Ok(()));
        session.send(&settings(), &batch(), &mut Vec::new());
        assert!(session.handle_eof(&settings(), Eof::Clean).is_err());
    }

    #[test]
    fn entries_are_lines_of_json() {
        let mut out = Vec::new();
        let line = b"AT A +0.500000000 k\xff\"/ +01.50-.5 1621464827.5";
        let id = Id { millis: 7, sequence: 8 };
        push_entry(&mut out, &mut Vec::new(), &Entry::of(Kind::UPDATE, line).unwrap(), id);
        push_entry(&mut out, &mut Vec::new(), &Entry::Gap { from: Id::ZERO, count: 3 }, id);
        assert_eq!(out.split_inclusive(|&byte| byte == b'\n').count(), 2);
        let mut lines = out.split(|&byte| byte == b'\n');
        let mut next =
            || serde_json::from_slice::<serde_json::Value>(lines.next().unwrap()).unwrap();
        assert_eq!(
            next(),
            json!({
                "id": "7-8", "type": "at",
                "line": "AT A +0.500000000 k\u{fffd}\"/ +01.50-.5 1621464827.5",
                "client": "k\u{fffd}\"/", "client_id": "k%FF%22%2F", "lon": -0.5, "lat": 1.5,
                "time": 1_621_464_827.5, "received": 1_621_464_828.0,
            })
        );
        assert_eq!(
            next(),
            json!({"id": "7-8", "type": "gap", "from": "0-0", "to": "7-8", "count": 3})
        );
    }
}
