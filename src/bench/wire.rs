//! What is written for a request, where its reply ends, and whether it is the right one. Pure.

use std::borrow::Cow;
use std::collections::HashSet;

use serde::Deserialize;

use super::clients::{self, Said};
use super::fault::Fault;
use crate::protocol::record::Record;
use crate::protocol::{fields, trim};
use crate::text::digits::push_digits;

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// That of the herd.
    Herd,
    /// An echo server: sends IAMAT lines and expects them back.
    Echo,
    /// `set` of location and time under the client's name.
    Memcached,
    /// `SET` of the same, as an inline command.
    RedisSet,
    /// `GEOADD` of the client's position to one sorted set.
    RedisGeo,
}

impl Protocol {
    /// Each with the name that the command line has for it.
    pub const NAMES: [(&str, Self); 5] = [
        ("herd", Self::Herd),
        ("echo", Self::Echo),
        ("memcached", Self::Memcached),
        ("redis-set", Self::RedisSet),
        ("redis-geo", Self::RedisGeo),
    ];
}

/// The two commands; with the other protocols all are of the first kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A client says where it is.
    Iamat,
    /// Somebody asks what is near it.
    Whatsat,
}

/// A request and what its reply is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which command it is.
    pub kind: Kind,
    /// Which client says something or is asked about.
    pub client: u32,
    /// The time in an IAMAT. Of a WHATSAT: the time of a location that the node is known to hold;
    /// nothing older may come back. Both in nanoseconds since 1970.
    pub time: u64,
    /// When it was to be sent, in nanoseconds of the benchmark's own clock.
    pub due: u64,
    said: Said,
}

impl Request {
    /// A request that is to be sent at `due`.
    pub fn new(kind: Kind, client: u32, time: u64, due: u64) -> Self {
        Self { kind, client, time, due, said: clients::said(client, time) }
    }
}

/// What a reply is to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Its reply, as it must be.
    Right,
    /// Its reply, and something is wrong with it.
    Faulty(Fault),
    /// No reply to this request.
    Foreign,
}

/// One side's knowledge of the wire: the protocol, and what a WHATSAT asks and may answer.
#[derive(Debug)]
pub struct Wire {
    /// What is spoken.
    pub protocol: Protocol,
    /// What a WHATSAT asks for behind the client's name.
    question: Vec<u8>,
    /// Results that it may bring; 0 where nothing is asked of any source of places.
    max_results: usize,
    /// The names of all nodes: any may have received what another tells.
    herd: HashSet<Vec<u8>>,
}

/// The Nearby Search document, as far as it is checked.
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
    /// WHATSATs ask for `max_results` within `radius_km`, a decimal; `herd` are all nodes' names.
    pub fn new(
        protocol: Protocol,
        radius_km: &str,
        max_results: u8,
        herd: HashSet<Vec<u8>>,
    ) -> Self {
        let question = format!(" {radius_km} {max_results}").into_bytes();
        let nowhere = radius_km.bytes().all(|byte| b"0.".contains(&byte));
        let max_results = if nowhere { 0 } else { max_results.into() };
        Self { protocol, question, max_results, herd }
    }

    /// The same for WHATSATs that ask for no places.
    #[must_use]
    pub fn without_places(&self) -> Self {
        Self::new(self.protocol, "0", 0, self.herd.clone())
    }

    /// Appends `request` to `out`.
    pub fn push(&self, out: &mut Vec<u8>, request: &Request) {
        let said = &request.said;
        let client = clients::name(said);
        let (place, time) = clients::place_and_time(said);
        match (self.protocol, request.kind) {
            (Protocol::Herd, Kind::Whatsat) => {
                push_all(out, &[b"WHATSAT ", client, &self.question]);
            }
            (Protocol::Herd | Protocol::Echo, _) => push_all(out, &[b"IAMAT", said]),
            (Protocol::Memcached, _) => {
                push_all(out, &[b"set ", client, b" 0 0 "]);
                push_digits(out, (place.len() + 1 + time.len()) as u64, 1);
                push_all(out, &[b"\r\n", place, b"/", time, b"\r"]);
            }
            (Protocol::RedisSet, _) => {
                push_all(out, &[b"SET ", client, b" ", place, b"/", time, b"\r"]);
            }
            (Protocol::RedisGeo, _) => {
                let (latitude, longitude) = place.split_at(place.len() / 2);
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

    /// The length of the reply at the start of `input`, if all of it is there. `first` is the
    /// request that is to be answered next. `searched` bytes are known not to hold its end.
    pub fn reply_length(
        &self,
        input: &[u8],
        first: Option<Kind>,
        searched: usize,
    ) -> Option<usize> {
        let line = memchr::memchr(b'\n', input)? + 1;
        if self.protocol != Protocol::Herd || !input.starts_with(b"AT ") {
            return Some(line);
        }
        match input.get(line) {
            // No reply begins with a brace: this is what belongs to the AT line before it.
            Some(b'{') => {
                let from = searched.saturating_sub(1).max(line);
                memchr::memmem::find(&input[from..], b"\n\n").map(|at| from + at + 2)
            }
            None if first == Some(Kind::Whatsat) => None,
            _ => Some(line),
        }
    }

    /// What `reply`, of the node whose AT lines begin with `prefix`, is to `request`.
    pub fn judge(&self, reply: &[u8], request: &Request, prefix: &[u8]) -> Judgement {
        let right = |is: bool| {
            if is { Judgement::Right } else { Judgement::Faulty(Fault::Wrong) }
        };
        match (self.protocol, request.kind) {
            (Protocol::Herd, Kind::Iamat) => judge_iamat(reply, &request.said, prefix),
            (Protocol::Herd, Kind::Whatsat) => self.judge_whatsat(reply, request),
            (Protocol::Echo, _) => right(
                reply.strip_prefix(b"IAMAT").and_then(|rest| rest.strip_suffix(b"\n"))
                    == Some(&request.said),
            ),
            (Protocol::Memcached, _) => right(reply == b"STORED\r\n"),
            (Protocol::RedisSet, _) => right(reply == b"+OK\r\n"),
            (Protocol::RedisGeo, _) => right(reply == b":0\r\n" || reply == b":1\r\n"),
        }
    }

    fn judge_whatsat(&self, reply: &[u8], request: &Request) -> Judgement {
        let client = clients::name(&request.said);
        let refusal = reply.strip_prefix(b"? ");
        if let Some([b"WHATSAT", name, ..]) = refusal.and_then(|line| fields::<4>(line)) {
            return if name == client {
                Judgement::Faulty(Fault::Wrong)
            } else {
                Judgement::Foreign
            };
        }
        let line = memchr::memchr(b'\n', reply).unwrap_or(reply.len());
        let (line, document) = reply.split_at(line);
        let document = trim(document);
        let record = Record::parse(line).filter(|record| record.client == client);
        let Some(record) = record.filter(|_| !document.is_empty()) else {
            return Judgement::Foreign;
        };
        match clients::said_at(&record, client) {
            Some(_) if !self.herd.contains(record.server) => Judgement::Faulty(Fault::Wrong),
            Some(time) if time < request.time => Judgement::Faulty(Fault::Stale),
            Some(_) => self.judge_document(document),
            None => Judgement::Faulty(Fault::Wrong),
        }
    }

    fn judge_document(&self, document: &[u8]) -> Judgement {
        let Ok(Document { status, results, .. }) = serde_json::from_slice(document) else {
            return Judgement::Faulty(Fault::Wrong);
        };
        match &*status {
            "OK" if (1..=self.max_results).contains(&results.len()) => Judgement::Right,
            "ZERO_RESULTS" if results.is_empty() => Judgement::Right,
            "UNKNOWN_ERROR" | "OVER_QUERY_LIMIT" | "REQUEST_DENIED"
                if results.is_empty() && self.max_results > 0 =>
            {
                Judgement::Faulty(Fault::NoPlaces)
            }
            _ => Judgement::Faulty(Fault::Wrong),
        }
    }
}

fn push_all(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn judge_iamat(reply: &[u8], said: &Said, prefix: &[u8]) -> Judgement {
    let line = reply.strip_suffix(b"\n").unwrap_or(reply);
    if let Some(head) = line.strip_suffix(said) {
        return match head.strip_prefix(prefix) {
            Some(difference) if is_difference(difference) => Judgement::Right,
            _ => Judgement::Faulty(Fault::Wrong),
        };
    }
    // Client and time tell whose reply it is, whatever else became of it.
    let (_, time) = clients::place_and_time(said);
    let about = match (fields::<5>(line), fields::<6>(line)) {
        (Some([b"?", b"IAMAT", client, _, at]), _) | (_, Some([b"AT", _, _, client, _, at])) => {
            Some((client, at))
        }
        _ => None,
    };
    let ours = about == Some((clients::name(said), time));
    if ours { Judgement::Faulty(Fault::Wrong) } else { Judgement::Foreign }
}

/// A sign, digits, a point and nine digits.
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
    fn the_other_protocols_get_the_same_record_and_their_own_replies() {
        let request = Request::new(Kind::Iamat, 7, 1_621_464_827_959_498_503, 0);
        let said = String::from_utf8(request.said.to_vec()).unwrap();
        let fields: Vec<&str> = said.split_whitespace().collect();
        let [client, place, time] = fields[..] else { panic!("{said}") };
        let (latitude, longitude) = (&place[1..10], &place[10..]);
        for (protocol, sent, replies) in [
            (Protocol::Echo, format!("IAMAT{said}\n"), vec![format!("IAMAT{said}\n")]),
            (
                Protocol::Memcached,
                format!("set {client} 0 0 42\r\n{place}/{time}\r\n"),
                vec!["STORED\r\n".to_owned()],
            ),
            (
                Protocol::RedisSet,
                format!("SET {client} {place}/{time}\r\n"),
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
            wire.push(&mut out, &request);
            assert_eq!(String::from_utf8(out).unwrap(), sent);
            for reply in replies {
                assert_eq!(wire.judge(reply.as_bytes(), &request, b""), Judgement::Right);
            }
            let error = wire.judge(b"-ERR\r\n", &request, b"");
            assert_eq!(error, Judgement::Faulty(Fault::Wrong), "{protocol:?}");
        }
    }
}
