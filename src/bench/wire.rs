//! Wire formats: encodes requests, finds the ends of replies and checks replies. Does no I/O.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;

use super::clients::{self, Payload, Range};
use super::error::RequestError;
use crate::protocol::record::Record;
use crate::protocol::{fields, trim};
use crate::text::digits::push_digits;

/// Protocol of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The herd's protocol.
    Herd,
    /// An echo server: IAMAT lines, returned unchanged.
    Echo,
    /// Memcached: `set` of location and time under the client's name.
    Memcached,
    /// Redis: `SET` of the same, as an inline command.
    RedisSet,
    /// Redis: `GEOADD` of the client's position to one sorted set.
    RedisGeo,
}

impl Protocol {
    /// All protocols with their names on the command line.
    pub const NAMES: [(&str, Self); 5] = [
        ("herd", Self::Herd),
        ("echo", Self::Echo),
        ("memcached", Self::Memcached),
        ("redis-set", Self::RedisSet),
        ("redis-geo", Self::RedisGeo),
    ];
}

/// The herd's two commands. Requests of other protocols count as [`CommandKind::Iamat`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandKind {
    /// Reports a client's location.
    Iamat,
    /// Queries a client's location and the places near it.
    Whatsat,
}

/// A request, with what is needed to check its reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The command.
    pub command: CommandKind,
    /// Number of the client that is reported or queried.
    pub client: u32,
    /// Timestamp of an IAMAT, or the timestamp of the oldest location that a WHATSAT may return. In
    /// nanoseconds since the Unix epoch.
    pub time: u64,
    /// Scheduled send time in nanoseconds of the benchmark's clock, from which latency is measured.
    pub due: u64,
    payload: Payload,
}

impl Request {
    /// A request of a client that moves within `range`, scheduled for `due`.
    pub fn new(command: CommandKind, client: u32, time: u64, due: u64, range: Range) -> Self {
        Self { command, client, time, due, payload: clients::payload(client, time, range) }
    }
}

/// Result of checking a reply against a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A valid reply to the request.
    Valid,
    /// A reply to the request, but an incorrect one.
    Invalid(RequestError),
    /// Not a reply to this request.
    Unrelated,
}

/// Wire format of a protocol, and the parameters and valid results of WHATSATs.
#[derive(Debug)]
pub struct Wire {
    protocol: Protocol,
    /// Radius and result limit of a WHATSAT, each preceded by a space.
    query: Vec<u8>,
    /// Most results that a WHATSAT may return; 0 if the query needs no places provider.
    max_results: usize,
    /// Names of all nodes: the record that a node returns may have been received by any other.
    herd: HashSet<Vec<u8>>,
    /// The range in which each client moves.
    range: Range,
}

/// The checked fields of a Nearby Search document.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow)]
    results: Vec<Place<'a>>,
    #[serde(rename = "html_attributions")]
    _attributions: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Place<'a> {
    #[serde(borrow, rename = "name")]
    _name: Cow<'a, str>,
    #[serde(borrow, rename = "vicinity")]
    _vicinity: Cow<'a, str>,
}

impl Wire {
    /// The wire format of `protocol`. WHATSATs request `max_results` places within `radius_km`, a
    /// decimal; `herd` contains the names of all nodes.
    pub fn new(
        protocol: Protocol,
        radius_km: &str,
        max_results: u8,
        herd: HashSet<Vec<u8>>,
    ) -> Self {
        let query = format!(" {radius_km} {max_results}").into_bytes();
        // A node answers a query with radius 0 without places.
        let is_zero = radius_km.bytes().all(|byte| b"0.".contains(&byte));
        let max_results = if is_zero { 0 } else { max_results.into() };
        Self { protocol, query, max_results, herd, range: Range::AREA }
    }

    /// The same wire format for clients that move within a range.
    #[must_use]
    pub fn with_range(self, range: Range) -> Self {
        Self { range, ..self }
    }

    /// The range in which each client moves.
    pub const fn range(&self) -> Range {
        self.range
    }

    /// The same wire format with WHATSATs that request no places, for probe clients, which move in the
    /// whole area.
    #[must_use]
    pub fn without_places(&self) -> Self {
        Self::new(self.protocol, "0", 0, self.herd.clone())
    }

    /// Appends `request` to `out`.
    pub fn encode(&self, out: &mut Vec<u8>, request: &Request) {
        let payload = &request.payload;
        let client = clients::name(payload);
        let (location, time) = clients::location_and_time(payload);
        match (self.protocol, request.command) {
            (Protocol::Herd, CommandKind::Whatsat) => {
                push_all(out, &[b"WHATSAT ", client, &self.query]);
            }
            (Protocol::Herd | Protocol::Echo, _) => push_all(out, &[b"IAMAT", payload]),
            (Protocol::Memcached, _) => {
                push_all(out, &[b"set ", client, b" 0 0 "]);
                push_digits(out, (location.len() + 1 + time.len()) as u64, 1);
                push_all(out, &[b"\r\n", location, b"/", time, b"\r"]);
            }
            (Protocol::RedisSet, _) => {
                push_all(out, &[b"SET ", client, b" ", location, b"/", time, b"\r"]);
            }
            (Protocol::RedisGeo, _) => {
                let (latitude, longitude) = location.split_at(location.len() / 2);
                out.extend_from_slice(b"*5");
                for word in [b"GEOADD", &b"fleet"[..], longitude, &latitude[1..], client] {
                    out.extend_from_slice(b"\r\n$");
                    push_digits(out, word.len() as u64, 1);
                    push_all(out, &[b"\r\n", word]);
                }
                out.push(b'\r');
            }
        }
        out.push(b'\n');
    }

    /// Length of the reply at the start of `input`, or `None` if it is incomplete. `next` is the
    /// command of the next outstanding request. The first `searched` bytes do not contain the end.
    pub fn reply_length(
        &self,
        input: &[u8],
        next: Option<CommandKind>,
        searched: usize,
    ) -> Option<usize> {
        let line = memchr::memchr(b'\n', input)? + 1;
        if self.protocol != Protocol::Herd || !input.starts_with(b"AT ") {
            return Some(line);
        }
        match input.get(line) {
            // No reply starts with a brace: this document belongs to the AT line before it.
            Some(b'{') => {
                let from = searched.saturating_sub(1).max(line);
                memchr::memmem::find(&input[from..], b"\n\n").map(|at| from + at + 2)
            }
            None if next == Some(CommandKind::Whatsat) => None,
            _ => Some(line),
        }
    }

    /// Checks `reply` against `request`. `prefix` is the start of the AT lines of the server.
    pub fn check(&self, reply: &[u8], request: &Request, prefix: &[u8]) -> Verdict {
        let valid_if = |is_valid: bool| {
            if is_valid { Verdict::Valid } else { Verdict::Invalid(RequestError::Wrong) }
        };
        match (self.protocol, request.command) {
            (Protocol::Herd, CommandKind::Iamat) => check_iamat(reply, &request.payload, prefix),
            (Protocol::Herd, CommandKind::Whatsat) => self.check_whatsat(reply, request),
            (Protocol::Echo, _) => valid_if(
                reply.strip_prefix(b"IAMAT").and_then(|rest| rest.strip_suffix(b"\n"))
                    == Some(&request.payload),
            ),
            (Protocol::Memcached, _) => valid_if(reply == b"STORED\r\n"),
            (Protocol::RedisSet, _) => valid_if(reply == b"+OK\r\n"),
            (Protocol::RedisGeo, _) => valid_if(reply == b":0\r\n" || reply == b":1\r\n"),
        }
    }

    fn check_whatsat(&self, reply: &[u8], request: &Request) -> Verdict {
        let client = clients::name(&request.payload);
        let refusal = reply.strip_prefix(b"? ");
        if let Some([b"WHATSAT", name, ..]) = refusal.and_then(|line| fields::<4>(line)) {
            return if name == client {
                Verdict::Invalid(RequestError::Wrong)
            } else {
                Verdict::Unrelated
            };
        }
        let line = memchr::memchr(b'\n', reply).unwrap_or(reply.len());
        let (line, document) = reply.split_at(line);
        let document = trim(document);
        let record = Record::parse(line).filter(|record| record.client == client);
        let Some(record) = record.filter(|_| !document.is_empty()) else {
            return Verdict::Unrelated;
        };
        match clients::sent_at(&record, client, self.range) {
            Some(_) if !self.herd.contains(record.server) => Verdict::Invalid(RequestError::Wrong),
            Some(time) if time < request.time => Verdict::Invalid(RequestError::Stale),
            Some(_) => self.check_document(document),
            None => Verdict::Invalid(RequestError::Wrong),
        }
    }

    fn check_document(&self, document: &[u8]) -> Verdict {
        let Ok(Document { status, results, .. }) = serde_json::from_slice(document) else {
            return Verdict::Invalid(RequestError::Wrong);
        };
        match &*status {
            "OK" if (1..=self.max_results).contains(&results.len()) => Verdict::Valid,
            "ZERO_RESULTS" if results.is_empty() => Verdict::Valid,
            "UNKNOWN_ERROR" | "OVER_QUERY_LIMIT" | "REQUEST_DENIED"
                if results.is_empty() && self.max_results > 0 =>
            {
                Verdict::Invalid(RequestError::NoPlaces)
            }
            _ => Verdict::Invalid(RequestError::Wrong),
        }
    }
}

fn push_all(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn check_iamat(reply: &[u8], payload: &Payload, prefix: &[u8]) -> Verdict {
    let line = reply.strip_suffix(b"\n").unwrap_or(reply);
    if let Some(head) = line.strip_suffix(payload) {
        return match head.strip_prefix(prefix) {
            Some(difference) if is_difference(difference) => Verdict::Valid,
            _ => Verdict::Invalid(RequestError::Wrong),
        };
    }
    // Client and time identify the request, even if something else is wrong with the reply.
    let (_, time) = clients::location_and_time(payload);
    let subject = match (fields::<5>(line), fields::<6>(line)) {
        (Some([b"?", b"IAMAT", client, _, at]), _) | (_, Some([b"AT", _, _, client, _, at])) => {
            Some((client, at))
        }
        _ => None,
    };
    let is_ours = subject == Some((clients::name(payload), time));
    if is_ours { Verdict::Invalid(RequestError::Wrong) } else { Verdict::Unrelated }
}

/// Returns whether `field` is a clock difference: a sign, digits, a point and nine digits.
fn is_difference(field: &[u8]) -> bool {
    let [b'+' | b'-', digits @ ..] = field else { return false };
    let Some(point) = digits.len().checked_sub(10).filter(|&point| point > 0) else { return false };
    digits[point] == b'.'
        && digits[..point].iter().chain(&digits[point + 1..]).all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_protocols_send_the_same_record_and_expect_their_own_replies() {
        let request =
            Request::new(CommandKind::Iamat, 7, 1_621_464_827_959_498_503, 0, Range::AREA);
        let payload = String::from_utf8(request.payload.to_vec()).unwrap();
        let fields: Vec<&str> = payload.split_whitespace().collect();
        let [client, location, time] = fields[..] else { panic!("{payload}") };
        let (latitude, longitude) = (&location[1..10], &location[10..]);
        for (protocol, sent, replies) in [
            (Protocol::Echo, format!("IAMAT{payload}\n"), vec![format!("IAMAT{payload}\n")]),
            (
                Protocol::Memcached,
                format!("set {client} 0 0 42\r\n{location}/{time}\r\n"),
                vec!["STORED\r\n".to_owned()],
            ),
            (
                Protocol::RedisSet,
                format!("SET {client} {location}/{time}\r\n"),
                vec!["+OK\r\n".to_owned()],
            ),
            (
                Protocol::RedisGeo,
                format!(
                    "*5\r\n$6\r\nGEOADD\r\n$5\r\nfleet\r\n$11\r\n{longitude}\r\n\
                     $9\r\n{latitude}\r\n$28\r\n{client}\r\n"
                ),
                vec![":0\r\n".to_owned(), ":1\r\n".to_owned()],
            ),
        ] {
            let wire = Wire::new(protocol, "10", 5, HashSet::new());
            let mut out = Vec::new();
            wire.encode(&mut out, &request);
            assert_eq!(String::from_utf8(out).unwrap(), sent);
            for reply in replies {
                assert_eq!(wire.check(reply.as_bytes(), &request, b""), Verdict::Valid);
            }
            let error = wire.check(b"-ERR\r\n", &request, b"");
            assert_eq!(error, Verdict::Invalid(RequestError::Wrong), "{protocol:?}");
        }
    }
}
