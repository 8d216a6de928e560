//! The execution of one request: its positions are read, sorted by time, and reported to the node, a
//! bounded number per call.

use serde_json::value::RawValue;

use super::Settings;
use super::counters::{Counters, Dialect, PositionResult, RequestResult};
use super::dialect::{Content, Kind, List, Origin, Reply, of_element};
use super::fix::{Fixes, Raw, Texts};
use super::tokens::{Grant, Login};
use crate::herd::directory::Applied;
use crate::node::store::Gated;
use crate::node::{Node, Source, Updated};
use crate::protocol::command::Command;
use crate::protocol::is_space;
use crate::protocol::time::push_time;
use crate::storage::Position;
use crate::time::Now;

/// Bytes of JSON that are read at the cost of one more position.
const BYTES_PER_UNIT: usize = 1024;

/// The state of a request that is being executed. The body is passed to each call.
#[derive(Default)]
pub struct Batch {
    fixes: Fixes,
    elements: Option<Elements>,
    /// The next position to report.
    next: usize,
    summary: Summary,
}

/// The elements of an array that have not been read yet: a part of the body.
#[derive(Clone, Copy)]
struct Elements {
    kind: Kind,
    at: usize,
    end: usize,
}

/// What the response depends on.
#[derive(Clone, Copy)]
pub struct Summary {
    /// The dialect of the last message.
    pub dialect: Dialect,
    /// Body of the response.
    pub reply: Reply,
    /// True if a position is held now, or is not new.
    taken: bool,
    /// True if the device must send the request again.
    failed: bool,
    /// The greatest position in the storage that must be durable before the response.
    durable: Option<Position>,
}

/// What the execution of a request works with.
pub struct Env<'e> {
    /// The node.
    pub node: &'e mut Node,
    /// Configuration.
    pub settings: &'e Settings,
    /// Counters.
    pub counters: &'e mut Counters,
    /// Buffers for the IAMAT of a position and for its AT line.
    pub buffers: &'e mut (Vec<u8>, Vec<u8>),
    /// The connection.
    pub source: Source<'e>,
    /// The token of the request; `None` if none are configured.
    pub login: Option<&'e Login>,
    /// Current time.
    pub now: &'e Now,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            dialect: Dialect::Unknown,
            reply: Reply::Array,
            taken: false,
            failed: false,
            durable: None,
        }
    }
}

impl Summary {
    /// Returns the result of the request, and what its response, which begins at `from` in the output,
    /// must wait for.
    #[must_use]
    pub fn finish(&self, node: &Node, from: usize) -> (RequestResult, Option<Gated>) {
        let gated = self.durable.zip(node.store.as_ref());
        let gated = gated.and_then(|(position, store)| store.acknowledge_later(position, from));
        if self.failed || gated.is_some_and(|gated| gated.is_refused) {
            return (RequestResult::Unavailable, None);
        }
        let result = if self.taken { RequestResult::Taken } else { RequestResult::Ignored };
        (result, gated)
    }
}

impl Batch {
    /// Begins the execution of a request.
    pub fn begin(&mut self, body: &[u8], origin: &Origin<'_>, env: &mut Env<'_>) {
        self.fixes.begin(body.len());
        (self.elements, self.next, self.summary) = (None, 0, Summary::default());
        match Content::of(body, origin.query.as_bytes()) {
            Content::Nothing(dialect, reply) => {
                (self.summary.dialect, self.summary.reply) = (dialect, reply);
            }
            Content::Position(dialect, reply, raw) => {
                self.summary.reply = reply;
                self.set_device(None, origin);
                self.push(&raw, dialect, env);
            }
            Content::List(List { kind, reply, array, device, current }) => {
                if kind == Kind::Features {
                    self.summary.dialect = Dialect::Overland;
                }
                self.summary.reply = reply;
                self.set_device(device.as_deref(), origin);
                if let Some(current) = current {
                    self.read(kind, current, env);
                }
                // The array is the part of the body after its first bracket.
                let at = array.as_ptr() as usize - body.as_ptr() as usize;
                self.elements = Some(Elements { kind, at: at + 1, end: at + array.len() });
            }
        }
    }

    /// Continues the execution until `work` is used up: one unit for each position read or reported.
    /// Returns true once the request is executed.
    pub fn advance(&mut self, body: &[u8], env: &mut Env<'_>, work: &mut usize) -> bool {
        self.check_disk(env.node);
        while let Some(elements) = self.elements {
            if *work == 0 {
                return false;
            }
            let Some((element, end)) = element(body, elements) else {
                self.elements = None;
                self.fixes.sort();
                break;
            };
            *work = work.saturating_sub(1 + (end - elements.at) / BYTES_PER_UNIT);
            self.read(elements.kind, element, env);
            self.elements = Some(Elements { at: end, ..elements });
        }
        while self.next < self.fixes.len() {
            if *work == 0 {
                return false;
            }
            *work -= 1;
            self.report(env);
            self.next += 1;
        }
        true
    }

    /// The summary of a request that is executed.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// A record that an earlier call has appended may have been refused since, and the disk may have
    /// recovered before the next one.
    fn check_disk(&mut self, node: &Node) {
        if let (Some(position), Some(store)) = (self.summary.durable, &node.store) {
            let gated = store.acknowledge_later(position, 0);
            self.summary.failed |= gated.is_some_and(|gated| gated.is_refused);
        }
    }

    fn set_device(&mut self, device: Option<&[u8]>, origin: &Origin<'_>) {
        match device {
            Some(device) => self.fixes.set_device(device),
            None => {
                if let Some(device) = origin.device() {
                    self.fixes.set_device(&device);
                }
            }
        }
    }

    fn read(&mut self, kind: Kind, element: &RawValue, env: &mut Env<'_>) {
        let (dialect, raw) = of_element(kind, element);
        match raw {
            Some(raw) => self.push(&raw, dialect, env),
            None if dialect == Dialect::Unknown => {}
            None => self.summary.dialect = dialect,
        }
    }

    fn push(&mut self, raw: &Raw<'_>, dialect: Dialect, env: &mut Env<'_>) {
        self.summary.dialect = dialect;
        if let Err((dialect, result)) = self.fixes.push(raw, dialect, env.settings, env.now) {
            self.summary.dialect = dialect;
            env.counters.count_position(dialect, result);
        }
    }

    /// Reports the next position as an IAMAT.
    fn report(&mut self, env: &mut Env<'_>) {
        let Some((fix, texts)) = self.fixes.get(self.next) else { return };
        self.summary.dialect = fix.dialect;
        // A token, or a URL with it, that was entered as the name of a device must not be published.
        if let Some(Login { grant: Grant::Prefix(_), token }) = env.login
            && memchr::memmem::find(texts.device, token).is_some()
        {
            return env.counters.count_position(fix.dialect, PositionResult::Unusable);
        }
        let (line, reply) = &mut *env.buffers;
        line.clear();
        reply.clear();
        let is_named = push_iamat(line, env.login.map(|login| &login.grant), &texts, env.now);
        let fits = line.len() <= env.node.limits().max_line;
        let iamat = match Command::parse(line) {
            Command::Iamat(iamat) if is_named && fits => iamat,
            _ => return env.counters.count_position(fix.dialect, PositionResult::Unusable),
        };
        let (updated, gated) = env.node.update(env.source, line, &iamat, env.now, 0, reply);
        if let Some(gated) = gated {
            self.summary.failed |= gated.is_refused;
            self.summary.durable = self.summary.durable.max(Some(gated.position));
        }
        let ahead = env.node.herd.identity().rules.max_clock_offset;
        let result = match updated {
            Updated::Applied(Applied::Stored(_)) if fix.time > env.now.wall.nanos() + ahead => {
                PositionResult::Ahead
            }
            Updated::Applied(Applied::Stored(_)) => PositionResult::Stored,
            Updated::Applied(Applied::Duplicate) => PositionResult::Repeat,
            Updated::Applied(Applied::Stale) => PositionResult::Stale,
            Updated::Applied(_) => PositionResult::OverLimit,
            Updated::TooManyNewClients => {
                self.summary.failed = true; // the next second has room
                PositionResult::OverLimit
            }
        };
        self.summary.taken |= result != PositionResult::OverLimit;
        env.counters.count_position(fix.dialect, result);
    }
}

/// Returns the next element of an array and the position of its end, or `None` if there is none. The
/// array is known to be valid.
fn element(body: &[u8], elements: Elements) -> Option<(&RawValue, usize)> {
    let rest = body.get(elements.at..elements.end)?;
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == b',';
    let start = rest.iter().position(|byte| !blank(byte))?;
    let mut stream = serde_json::Deserializer::from_slice(&rest[start..]).into_iter();
    let element = stream.next()?.ok()?;
    Some((element, elements.at + start + stream.byte_offset()))
}

/// Appends the IAMAT for a position. Returns false if it has no name.
fn push_iamat(line: &mut Vec<u8>, grant: Option<&Grant>, texts: &Texts<'_>, now: &Now) -> bool {
    line.extend_from_slice(b"IAMAT ");
    let device = match grant {
        Some(Grant::Client(client)) => {
            line.extend_from_slice(client);
            None
        }
        Some(Grant::Prefix(prefix)) => {
            line.extend_from_slice(prefix);
            Some(texts.device)
        }
        None => Some(texts.device),
    };
    if let Some(device) = device {
        push_name(line, device);
    }
    line.push(b' ');
    line.extend_from_slice(texts.location);
    line.push(b' ');
    if texts.seconds.is_empty() {
        push_time(line, now.wall.nanos().max(0));
    } else {
        line.extend_from_slice(texts.seconds);
    }
    device != Some(b"")
}

/// Appends the name of a device, with white space percent-encoded: a client's name has none.
fn push_name(out: &mut Vec<u8>, device: &[u8]) {
    for &byte in device {
        if is_space(byte) {
            out.extend_from_slice(percent_encoding::percent_encode_byte(byte).as_bytes());
        } else {
            out.push(byte);
        }
    }
}
