//! A node: the herd, the places and what clients are told of them. Pure.
//!
//! The shell owns sockets and clocks. It keeps a [`LineSession`] per connection, hands it the bytes
//! that came and gets the bytes to send appended to a buffer; it asks [`Node::poll_answer`] for
//! replies that had to wait, and [`Node::herd`] for what links owe and what is to be dialled.

mod legacy;
mod replies;
mod session;
#[cfg(test)]
pub(crate) mod tests;

use core::time::Duration;
use std::collections::HashMap;

use ring::hmac;

pub use session::{Caller, LineSession, Next, Stall};

use crate::counters::counters;
use crate::herd::Herd;
use crate::herd::handshake::Nonce;
use crate::herd::link::ConnectionId;
use crate::histogram::Histogram;
use crate::limits::Limits;
use crate::message_log::MessageLog;
use crate::places::document::{Status, write_failure};
use crate::places::{Asked, Places, Question, Ticket};
use crate::protocol::record::Record;
use crate::protocol::time::Nanos;

/// What both clocks say, read once for all that one event brings.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since the node started; never goes back.
    pub elapsed: Duration,
    /// Nanoseconds since the epoch; may be set.
    pub clock: Nanos,
}

counters! {
    /// Monotonic counters of client commands and peer handshakes since start-up.
    Counters {
        commands_total: "Commands of clients, by kind and outcome." {
            iamat_stored (command = "iamat", result = "stored"):
                "IAMATs that were stored and flooded.",
            iamat_stale (command = "iamat", result = "stale"):
                "IAMATs dropped because a newer record is held.",
            iamat_repeat (command = "iamat", result = "repeat"):
                "IAMATs dropped because the same record is held.",
            iamat_over_cap (command = "iamat", result = "over_cap"):
                "IAMATs dropped because the directory is full of newer clients.",
            iamat_expired (command = "iamat", result = "expired"):
                "IAMATs dropped because their time to live had passed.",
            newcomers_refused (command = "iamat", result = "newcomer_refused"):
                "IAMATs dropped because their address had added too many new clients.",
            whatsat (command = "whatsat", result = "asked"): "Valid WHATSATs for a known client.",
            unknown (command = "unknown", result = "refused"):
                "Lines that are not a valid command.",
            overlong (command = "overlong", result = "refused"): "Lines over the length limit.",
            http_requests (command = "http", result = "refused"):
                "Connections closed because they began with an HTTP request.",
        }
        updates_received_total: "Records received, by source." {
            iamat (source = "client"): "Valid IAMATs received from clients.",
        }
        handshakes_refused_total: "Peer handshakes refused." { handshakes_refused }
        link_errors_total: "Links closed because the peer violated the protocol." { link_errors }
    }
    derived {
        updates_stored_total: "Records received that were new and stored, by source." {
            (source = "client"): "Records from clients that were stored."
                = |counters| counters.iamat_stored,
        }
        updates_stale_total: "Records received that were not new, by source." {
            (source = "client"): "Valid IAMATs that were not stored, for any reason."
                = |counters| counters.iamat - counters.iamat_stored,
        }
    }
}

/// The core of a node.
pub struct Node {
    /// Its part of the herd.
    pub herd: Herd,
    /// Who knows what is near.
    pub places: Places,
    /// The messages that are to be logged.
    pub message_log: MessageLog,
    /// Monotonic counters since start-up.
    pub counters: Counters,
    /// Time that replies waited for places; replies that did not wait are not counted.
    pub places_wait: Histogram,
    name: Box<[u8]>,
    limits: Limits,
    nonces: Nonces,
    newcomers: Newcomers,
    /// WHATSATs that wait for places, and the connection each belongs to.
    waiting: HashMap<Ticket, Waiting>,
    next_ticket: u64,
    /// A document that has come, on its way into a session.
    document: Vec<u8>,
}

impl Node {
    /// A node around its `herd`. `seed` is random and secret: nonces come from it.
    #[must_use]
    pub fn new(
        herd: Herd,
        places: Places,
        message_log: MessageLog,
        limits: Limits,
        seed: &[u8; 32],
    ) -> Self {
        let identity = herd.identity();
        Self {
            name: identity.name(identity.me).into(),
            herd,
            places,
            message_log,
            counters: Counters::default(),
            places_wait: Histogram::default(),
            limits,
            nonces: Nonces { key: hmac::Key::new(hmac::HMAC_SHA256, seed), count: 0 },
            newcomers: Newcomers::default(),
            waiting: HashMap::new(),
            next_ticket: 0,
            document: Vec::new(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// What clients may ask.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A reply that had to wait: whose, and which. Its document is with the node until
    /// [`LineSession::answer`] takes it.
    pub fn poll_answer(&mut self, now: Duration) -> Option<(ConnectionId, Ticket)> {
        loop {
            self.document.clear();
            let ticket = self.places.poll_answer(&mut self.document)?;
            if let Some(Waiting { connection, since }) = self.waiting.remove(&ticket) {
                self.places_wait.observe(now.saturating_sub(since));
                return Some((connection, ticket));
            }
        }
    }

    /// Gives up waiting for one reply: its document says that the node is stopping. To be taken
    /// like what [`Node::poll_answer`] returns.
    pub fn give_up(&mut self) -> Option<(ConnectionId, Ticket)> {
        let (&ticket, &Waiting { connection, .. }) = self.waiting.iter().next()?;
        self.cancel(ticket);
        self.document.clear();
        let message = "this node is stopping; ask again, or ask another one";
        write_failure(&mut self.document, Status::UnknownError, message);
        Some((connection, ticket))
    }

    /// Whether as many WHATSATs of all connections wait as may.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.waiting.len() >= self.limits.max_pending_whatsat
    }

    /// Whether connections that wait for room may go on.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.is_crowded()
    }

    /// Asks for places. A document that is known at once is appended to `out`; otherwise the ticket
    /// that comes back waits, and [`Node::poll_answer`] will name `connection` with it.
    pub fn ask(
        &mut self,
        connection: ConnectionId,
        question: Question,
        max_results: u8,
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Option<Ticket> {
        let ticket = Ticket(self.next_ticket);
        match self.places.ask(ticket, question, max_results, now, out) {
            Asked::Answered => None,
            Asked::Waiting => {
                self.next_ticket += 1;
                self.waiting.insert(ticket, Waiting { connection, since: now });
                Some(ticket)
            }
        }
    }

    /// The document that [`Node::poll_answer`] has brought.
    #[must_use]
    pub fn document(&self) -> &[u8] {
        &self.document
    }

    /// Nobody waits for the answer to `ticket` any more.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.places.cancel(ticket);
    }
}

/// Who waits for places, and since when.
struct Waiting {
    connection: ConnectionId,
    since: Duration,
}

/// How many clients that were not known each address has brought in this second. At most one
/// entry per address that is connected.
#[derive(Default)]
struct Newcomers {
    second: u64,
    brought: HashMap<u64, u32>,
}

impl Newcomers {
    /// Whether `address` may bring the client of `record`, of at most `most` new ones a second.
    fn admit(
        &mut self,
        herd: &Herd,
        record: &Record<'_>,
        address: u64,
        most: u32,
        now: &Now,
    ) -> bool {
        if herd.directory.get(record.client, now.clock).is_some() {
            return true;
        }
        if self.second != now.elapsed.as_secs() {
            self.second = now.elapsed.as_secs();
            self.brought.clear();
        }
        let brought = self.brought.entry(address).or_default();
        if *brought >= most {
            return false;
        }
        *brought += 1;
        true
    }
}

/// Numbers used once: an HMAC of a counter under a random key is not to be told from random.
struct Nonces {
    key: hmac::Key,
    count: u64,
}

impl Nonces {
    fn next(&mut self) -> Nonce {
        self.count += 1;
        let tag = hmac::sign(&self.key, &self.count.to_be_bytes());
        let mut nonce = Nonce::default();
        nonce.copy_from_slice(&tag.as_ref()[..size_of::<Nonce>()]);
        nonce
    }
}
