//! A node: the herd, the places, and the sessions of its connections. Pure.
//!
//! The shell owns sockets and clocks. It keeps a [`LineSession`] per connection and, in this order
//! in each turn:
//!
//! 1. calls [`LineSession::handle_input`] with the input; replies are appended to a buffer;
//! 2. handles every [`Node::poll_event`], which names the connections that became links;
//! 3. sends the replies;
//! 4. passes each [`Node::poll_answer`] to the session that waits for it;
//! 5. drives [`Node::herd`]: sends the output of links and dials neighbors.
//!
//! A session that has closed is reported with [`LineSession::handle_closed`]; no answer names its
//! connection afterwards, but an event from before may still be queued.

mod legacy;
mod observer;
mod replies;
mod session;
pub mod store;
#[cfg(test)]
pub(crate) mod tests;
mod update;

use std::collections::{HashMap, VecDeque};

use ring::hmac;

pub use session::{Blocked, Handled, Input, LineSession, Next, PeerInfo};
pub use update::{Source, Updated};

use crate::counters::counters;
use crate::herd::Herd;
use crate::herd::handshake::Nonce;
use crate::histogram::Histogram;
use crate::ids::{BootId, ConnectionId, LinkId, NodeId};
use crate::limits::Limits;
use crate::message_log::MessageLog;
use crate::places::document::{Status, write_failure};
use crate::places::{Asked, Places, Question, Ticket};
use crate::protocol::record::Record;
use crate::time::{Instant, Now};
use store::Store;

/// Budget of one client per turn, in bytes of commands and replies; one reply may exceed it. This is
/// enough for a pipeline of 256 IAMATs with long names or twenty of the longest WHATSATs, which is
/// some hundreds of microseconds of work. Commands count because an empty line has no reply.
pub const CLIENT_BYTES_PER_TURN: usize = 128 * 1024;

/// Number of clients whose records, 128 bytes each, fit into the CPU cache. With fewer, prefetching
/// gains nothing.
const FITS_THE_CACHE: u32 = 4096;

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
            forgotten (command = "forget", result = "forgotten"):
                "Clients that administrators have erased.",
            forget_unknown (command = "forget", result = "unknown"):
                "Requests to erase a client that this node does not hold.",
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

/// An event on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The first line of an accepted connection has begun the handshake of a link.
    HandshakeStarted {
        /// The connection.
        connection: ConnectionId,
    },
    /// The connection has become a link. It no longer counts as a client's.
    Linked {
        /// The connection.
        connection: ConnectionId,
        /// The link that it carries.
        link: LinkId,
    },
    /// A first line looked like a neighbor's and is not. The connection is treated as a client's.
    NotANeighbor {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The mismatch and its fix.
        reason: String,
    },
    /// The handshake of an administrator was refused.
    AdministratorRefused {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The reason, for the administrator.
        reason: String,
    },
    /// A handshake was refused by one of the two nodes.
    HandshakeFailed {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The link to the neighbor.
        link: LinkId,
        /// The mismatch and its fix.
        reason: String,
    },
    /// A link does not move to the peer's port for links only, because one of the two nodes has refused
    /// the handshake there.
    NotMoved {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The link.
        link: LinkId,
        /// The mismatch.
        reason: String,
    },
    /// A client sends records in the manner of an original server, but is not declared as one. Emitted
    /// once for each node that the records name as their server.
    UndeclaredLegacy {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The server that the record names.
        server: Box<[u8]>,
    },
    /// A handshake has succeeded for a neighbor that is linked by a connection that is preferred.
    AlreadyLinked {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The neighbor's name.
        peer: Box<[u8]>,
    },
    /// Two processes have the name of a neighbor and are alive. Emitted once for each.
    Namesake {
        /// Address and port of the one that is refused.
        label: Box<[u8]>,
        /// The neighbor's name.
        peer: Box<[u8]>,
        /// Boot id of the one that is refused.
        refused: BootId,
        /// Boot id of the one that is linked.
        linked: BootId,
    },
    /// A peer has violated the protocol; its link is closed.
    LinkFailed {
        /// Address and port of the other end.
        label: Box<[u8]>,
        /// The neighbor's name.
        peer: Box<[u8]>,
        /// The violation.
        reason: String,
    },
    /// A line of a peer exceeds the limit; its connection is closed.
    PeerLineTooLong {
        /// Address and port of the other end.
        label: Box<[u8]>,
    },
}

/// Places that a reply has waited for.
pub struct Answer {
    /// The connection that waits.
    pub connection: ConnectionId,
    /// The question.
    pub ticket: Ticket,
    /// The JSON document.
    pub document: Vec<u8>,
}

/// The core of a node.
pub struct Node {
    /// This node's part of the herd.
    pub herd: Herd,
    /// The source of places.
    pub places: Places,
    /// Messages for the log.
    pub message_log: MessageLog,
    /// The storage, if records survive a restart.
    pub store: Option<Store>,
    /// Monotonic counters since start-up.
    pub counters: Counters,
    /// Time that replies waited for places; replies that did not wait are not counted.
    pub places_wait: Histogram,
    name: Box<[u8]>,
    limits: Limits,
    nonces: Nonces,
    new_clients: NewClientLimiter,
    /// WHATSATs that wait for places.
    waiting: HashMap<Ticket, Waiting>,
    next_ticket: u64,
    /// The last reason for which each link is down; `None` while it is up.
    link_failures: Vec<Option<Box<str>>>,
    /// The nodes that [`Event::UndeclaredLegacy`] has been emitted for; `None` for all other names.
    undeclared: Vec<Option<NodeId>>,
    /// At most two for each connection served since the last [`Node::poll_event`], without
    /// [`Event::UndeclaredLegacy`], of which there is one for each node in all.
    events: VecDeque<Event>,
}

impl Node {
    /// A node around its `herd`. `nonce_key` is random and secret.
    #[must_use]
    pub fn new(
        herd: Herd,
        places: Places,
        message_log: MessageLog,
        limits: Limits,
        nonce_key: &[u8; 32],
    ) -> Self {
        let identity = herd.identity();
        Self {
            name: identity.name(identity.me).into(),
            herd,
            places,
            message_log,
            store: None,
            counters: Counters::default(),
            places_wait: Histogram::default(),
            limits,
            nonces: Nonces { key: hmac::Key::new(hmac::HMAC_SHA256, nonce_key), count: 0 },
            new_clients: NewClientLimiter::default(),
            waiting: HashMap::new(),
            next_ticket: 0,
            link_failures: Vec::new(),
            undeclared: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The limits on clients.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Records the reason why a link is down, or `None` while it is up.
    pub fn set_link_failure(&mut self, link: LinkId, reason: Option<&str>) {
        self.link_failures.resize(self.herd.links().len(), None);
        self.link_failures[link.index()] = reason.map(Into::into);
    }

    /// The last reason for which a link is down, if it is down.
    #[must_use]
    pub fn link_failure(&self, link: LinkId) -> Option<&str> {
        self.link_failures.get(link.index())?.as_deref()
    }

    /// Emits [`Event::UndeclaredLegacy`] if `line` is a record, at most once for each node.
    fn note_undeclared_legacy(&mut self, label: &[u8], line: &[u8]) {
        let Some(server) = legacy::server_of_record(line) else { return };
        let id = self.herd.identity().node(server);
        if !self.undeclared.contains(&id) {
            self.undeclared.push(id);
            let (label, server) = (label.into(), server.into());
            self.events.push_back(Event::UndeclaredLegacy { label, server });
        }
    }

    /// The next event of a connection.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next reply that no longer waits, for [`LineSession::handle_answer`].
    pub fn poll_answer(&mut self, now: Instant) -> Option<Answer> {
        loop {
            let mut document = Vec::new();
            let ticket = self.places.poll_answer(&mut document)?;
            if let Some(Waiting { connection, since }) = self.waiting.remove(&ticket) {
                self.places_wait.observe(now.since(since));
                return Some(Answer { connection, ticket, document });
            }
        }
    }

    /// Cancels one question that waits, and returns an answer to it: the node is stopping.
    pub fn give_up(&mut self) -> Option<Answer> {
        let (&ticket, &Waiting { connection, .. }) = self.waiting.iter().next()?;
        self.cancel(ticket);
        let mut document = Vec::new();
        let message = "this node is stopping; ask again, or ask another one";
        write_failure(&mut document, Status::UnknownError, message);
        Some(Answer { connection, ticket, document })
    }

    /// Returns true if as many WHATSATs of all connections wait for places as are allowed to.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.waiting.len() >= self.limits.max_pending_whatsat
    }

    /// Asks for places. Appends the document to `out` if it is known at once. Otherwise returns the
    /// ticket that [`Node::poll_answer`] will return for `connection`.
    pub fn ask(
        &mut self,
        connection: ConnectionId,
        question: Question,
        max_results: u8,
        now: Instant,
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

    /// Cancels the question of `ticket`.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.waiting.remove(&ticket);
        self.places.cancel(ticket);
    }

    /// Returns true if prefetching records is worthwhile.
    #[must_use]
    pub fn prefetches(&self) -> bool {
        self.herd.directory.len() >= FITS_THE_CACHE
    }

    /// Brings the records of `clients` into the processor's cache, so that their cache misses overlap.
    /// Changes none of them.
    pub fn prefetch<'c>(&mut self, clients: impl Iterator<Item = &'c [u8]>) {
        self.herd.directory.prefetch(clients);
    }
}

/// A WHATSAT that waits for places.
struct Waiting {
    connection: ConnectionId,
    since: Instant,
}

/// Limits the number of new clients that each address may add per second. Holds at most one entry
/// per address that is connected.
#[derive(Default)]
struct NewClientLimiter {
    second: u64,
    added: HashMap<u64, u32>,
}

impl NewClientLimiter {
    /// Returns true if the client of `record` is known, or `address` has added fewer than `most` new
    /// ones in this second.
    fn admit(
        &mut self,
        herd: &Herd,
        record: &Record<'_>,
        address: u64,
        most: u32,
        now: &Now,
    ) -> bool {
        if herd.directory.get(record.client, now.wall).is_some() {
            return true;
        }
        let second = now.instant.uptime().as_secs();
        if self.second != second {
            self.second = second;
            self.added.clear();
        }
        let added = self.added.entry(address).or_default();
        if *added >= most {
            return false;
        }
        *added += 1;
        true
    }
}

/// Numbers used once: an HMAC of a counter under a random key is indistinguishable from random.
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
