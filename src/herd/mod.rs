//! Replication: stores the newest record of every client and exchanges records with other nodes.
//! Pure.
//!
//! [`Herd`] is a state machine that is driven like all of this crate. The event loop calls
//! `handle_*` when something has happened, and then `poll_*` until nothing more comes out:
//!
//! | in | when |
//! |---|---|
//! | [`Herd::apply_local_update`] | a local client has sent an IAMAT |
//! | [`Herd::forget`] | an administrator erases a client |
//! | [`Herd::handle_connected`] | the handshake on a connection has succeeded |
//! | [`Herd::handle_offer`] | and it has become the link |
//! | [`Herd::handle_line`] | a link has received a line |
//! | [`Herd::handle_link_port`] | the peer of a new link has named its port for links only |
//! | [`Herd::handle_moved`] | the handshake on a connection to such a port has succeeded |
//! | [`Herd::handle_disconnected`] | a connection of a link has closed |
//! | [`Herd::handle_dial_failed`] | a dial or its handshake has failed |
//! | [`Herd::handle_timeout`] | the time of [`Herd::poll_timeout`] has come, with the time up to which all input has been handled |
//!
//! | out | meaning |
//! |---|---|
//! | [`Herd::poll_action`] | a neighbor to dial, a connection to close, to end or to resume |
//! | [`Herd::poll_event`] | an event for the log |
//! | [`Herd::poll_transmit`] | bytes to send on a link, while [`Herd::has_output`] |
//! | [`Herd::poll_changed`] | slots whose record has changed, for a [`Follower`] |
//! | [`Herd::poll_timeout`] | the next deadline, after everything else |
//!
//! Promises:
//!
//! - Each link has at most one connection, and while it moves, two. Lines and the end of a connection
//!   that has been replaced are ignored, so the event loop may report them late.
//! - After [`Action::Dial`] no further dial of that link is requested until
//!   [`Herd::handle_connected`] or [`Herd::handle_dial_failed`] is called for it.
//! - After [`Action::Close`] the link no longer uses the connection.
//! - No queue grows without bound if nothing is polled: each holds at most a few entries per link,
//!   client or node.

pub mod administrator;
pub mod anti_entropy;
mod connections;
pub mod digest;
pub mod digest_key;
mod digest_tree;
pub mod directory;
pub mod eviction;
pub mod expiry;
pub mod fetch_claims;
pub mod flood;
pub mod graph;
mod handover;
pub mod handshake;
pub mod keepalive;
mod leaf_jobs;
mod leaves;
pub mod link;
pub mod link_states;
pub mod message;
pub mod namesakes;
pub mod observer;
pub mod queue;
pub mod relay;
pub mod routes;
mod slots;
pub mod takeover;
#[cfg(test)]
mod tests;
mod timeouts;
mod transmit;
pub mod vertices;

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;

use digest_key::{OwnKey, Seeds};
use directory::{Directory, Rules};
use fetch_claims::FetchClaims;
pub use flood::Follower;
use handshake::Identity;
pub use link::{Connected, LegacySender, Origin};
use link::{Established, Link, PeerKind};
use message::Message;
use namesakes::Contest;
pub use observer::Observer;
use queue::SlotQueue;
use relay::Relayed;
use routes::Routes;
use takeover::Offer;

use crate::counters::counters;
use crate::ids::{BootId, ConnectionId, LinkId, NodeId};
use crate::protocol::time::Nanos;
use crate::rng::Rng;
use crate::time::{Instant, Now, Wall};

/// Events per link, and of the node itself, that wait to be polled. Further ones are dropped.
const EVENTS_PER_LINK: usize = 4;

/// Timing of links.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Interval between pings.
    pub keepalive: Duration,
    /// Silence after which a link is closed.
    pub timeout: Duration,
    /// Maximum pause between redials.
    pub redial_max: Duration,
    /// Interval between digest checks on a link.
    pub antientropy_interval: Duration,
}

/// An action that the event loop must perform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial the neighbor of this link.
    Dial(LinkId),
    /// Dial the peer of `connection` at its port for links only, if it is on this machine.
    Move {
        /// The link.
        link: LinkId,
        /// The connection that carries it, and that the new one will replace.
        connection: ConnectionId,
        /// The port.
        port: u16,
    },
    /// Send the output of this connection, which its link has left, and close it.
    Finish(ConnectionId),
    /// Continue with this connection, whose lines were held.
    Resume(ConnectionId),
    /// Close this connection.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// The reason, for the log.
        reason: CloseReason,
    },
}

/// The reason for which the herd closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The link uses another connection now.
    Superseded,
    /// Nothing was received for [`Timing::timeout`].
    KeepaliveTimeout,
    /// The link has moved to another connection.
    Moved,
    /// The link was moving from or to this connection, and the other one broke.
    MoveFailed,
}

impl CloseReason {
    /// The reason as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Superseded => "superseded by another connection",
            Self::KeepaliveTimeout => "keepalive timeout",
            Self::Moved => "it has moved to another connection",
            Self::MoveFailed => "the link was lost while it moved to another connection",
        }
    }
}

/// An event for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A peer's clock was found to differ by more than half of Δ.
    ClockSkew {
        /// The link to the peer.
        link: LinkId,
        /// The peer's clock minus this node's, in nanoseconds.
        offset: Nanos,
    },
    /// Another process advertises links under the name of this node.
    NameTaken {
        /// Its boot id.
        boot: BootId,
    },
    /// A link was taken down because nothing was received.
    PeerSilent {
        /// The link.
        link: LinkId,
        /// The time for which nothing was received.
        silence: Duration,
    },
    /// The announced rules have been taken over.
    RulesTakenOver {
        /// The rules that were in force.
        before: Rules,
        /// The rules in force now.
        rules: Rules,
    },
}

/// A violation of the link protocol, which requires closing the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The line is not a message.
    InvalidMessage,
    /// The peer has taken over rules that this node does not announce.
    OtherRules,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidMessage => f.write_str("it sent a line that is not a valid message"),
            Self::OtherRules => {
                f.write_str("it has taken over settings that limits.next does not announce here")
            }
        }
    }
}

impl core::error::Error for ProtocolError {}

counters! {
    /// Monotonic counters of the herd since start-up.
    Counters {
        updates_flooded_total: "Records sent to peers because they were new." { floods_sent }
        updates_received_total: "Records received, by source." {
            floods_received (source = "peer"):
                "Records received from peers, without those that anti-entropy recovered.",
        }
        updates_stale_total: "Records received that were not new, by source." {
            floods_duplicate (source = "peer"):
                "Records from peers that were already held, or older than the one held, or that are \
                 not alive by this node's clock.",
        }
        updates_repaired_total: "Records recovered by a digest comparison, by kind of round." {
            antientropy_repairs (round = "check"):
                "Records recovered by a periodic comparison; stays 0 without faults.",
            link_sync_records (round = "sync"):
                "Records recovered after a link came up or routes changed.",
        }
        updates_relayed_total:
            "Records forwarded but not stored, because they are not alive by this node's clock." {
            relayed
        }
        relayed_updates_dropped_total: "Records that were not relayed, by reason." {
            relays_dropped (reason = "queue"):
                "Records that were not relayed to a peer, because too many waited for it.",
            relays_refused (reason = "memory"):
                "Records that were relayed to no peer, because too many had been relayed within five \
                 seconds to recognize another one if it comes back.",
        }
        links_established_total: "Links established." { links_established }
        links_lost_total: "Links lost. A link that a new connection replaces is not counted." { links_lost }
        links_timed_out_total: "Links closed because the peer was silent for too long." {
            links_timed_out
        }
        link_states_sent_total: "Link states sent to peers." { link_states_sent }
        link_state_repairs_total:
            "Times that all link states were sent to a peer because it knew others." {
            link_state_repairs
        }
        name_conflicts_total: "Times that two processes with the name of one node were found." {
            name_conflicts
        }
        clock_offset_warnings_total:
            "Times that a peer's clock was found to be off by more than half of Δ." {
            clock_offset_warnings
        }
    }
    derived {
        updates_stored_total: "Records received that were new and stored, by source." {
            (source = "peer"): "Records from peers that were stored."
                = |counters| counters.floods_received - counters.floods_duplicate,
        }
    }
}

/// The replication state of this node.
pub struct Herd {
    identity: Identity,
    timing: Timing,
    /// The stored records.
    pub directory: Directory,
    own_key: OwnKey,
    routes: Routes,
    links: Vec<Link>,
    claims: FetchClaims,
    relayed: Relayed,
    /// Slots that changed since [`Herd::poll_changed`] last returned them, for each follower.
    followers: Vec<(Follower, SlotQueue)>,
    /// Link by node, for neighbors.
    link_to: Vec<Option<LinkId>>,
    /// Original servers, neighbors or not.
    legacy_nodes: Vec<NodeId>,
    /// Time of the next look at the announcements of all nodes, while this node waits for them.
    recheck_at: Instant,
    /// The time until which the directory keeps what either rules keep.
    lenient_until: Option<Instant>,
    actions: VecDeque<Action>,
    events: VecDeque<Event>,
    /// Counters of replication.
    pub counters: Counters,
    advertisement: link_states::Advertisement,
    resync: link_states::Resync,
    catch_up: flood::CatchUp,
    /// The time until which link states may arrive that other nodes knew before.
    repairing_until: Option<Instant>,
    contest: Contest,
    /// The time of the last deadline or message of anti-entropy, for what follows from it later.
    now: Instant,
    /// Time of the next sweep for records that are not alive.
    sweep_at: Instant,
    /// Time of the next slice of an adaptation of the directory.
    adapt_at: Instant,
    /// Jitter of redials.
    jitter: Rng,
}

impl Herd {
    /// The state of the node `identity`, which dials all neighbors at once. `legacy_nodes` are the
    /// nodes that are original servers.
    #[must_use]
    pub fn new(
        identity: Identity,
        legacy_nodes: &[NodeId],
        timing: Timing,
        seeds: Seeds,
        now: Instant,
    ) -> Self {
        let mut link_to = vec![None; identity.names.len()];
        let mut links = Vec::with_capacity(identity.neighbors.len());
        for &peer in &identity.neighbors {
            let is_legacy = legacy_nodes.contains(&peer);
            let kind = if is_legacy { PeerKind::Legacy } else { PeerKind::Herd };
            link_to[peer.index()] = Some(LinkId(links.len()));
            links.push(Link::new(peer, kind, now));
        }
        let rules_at_start = Offer { rules: identity.rules, next: identity.next }.lenient();
        let keys = seeds.keys(identity.secret.as_ref());
        let mut herd = Self {
            timing,
            legacy_nodes: legacy_nodes.to_vec(),
            recheck_at: now + takeover::RECHECK_INTERVAL,
            lenient_until: identity.next.map(|_| now + takeover::LENIENCE),
            directory: Directory::new(rules_at_start, keys),
            own_key: OwnKey::new(seeds.digest),
            routes: Routes::new(
                identity.me,
                identity.boot,
                &identity.announcement(),
                &identity.names,
                now,
            ),
            links,
            claims: FetchClaims::default(),
            relayed: Relayed::new(keys.index, now),
            followers: Vec::new(),
            link_to,
            actions: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            advertisement: link_states::Advertisement::default(),
            resync: link_states::Resync::default(),
            catch_up: flood::CatchUp::default(),
            repairing_until: None,
            contest: Contest::default(),
            now,
            sweep_at: now,
            adapt_at: now,
            jitter: Rng::new(identity.boot.0),
            identity,
        };
        herd.take_over_if_unanimous(); // a herd of one node
        herd
    }

    /// Returns the identity of this node.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sets the port of this node's listener for links only.
    pub const fn set_link_port(&mut self, port: u16) {
        self.identity.link_port = port;
    }

    /// Returns the links to all neighbors; a [`LinkId`] is an index into this list.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Returns one link.
    #[must_use]
    pub fn link(&self, link: LinkId) -> &Link {
        &self.links[link.index()]
    }

    /// Returns the graph of the herd.
    #[must_use]
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Returns the name of the neighbor of a link.
    #[must_use]
    pub fn peer_name(&self, link: LinkId) -> &[u8] {
        self.identity.name(self.link(link).peer)
    }

    /// Returns the link to the node `peer`, if it is a neighbor.
    #[must_use]
    pub fn link_to(&self, peer: NodeId) -> Option<LinkId> {
        self.link_to[peer.index()]
    }

    /// Handles a line received on a link.
    ///
    /// # Errors
    ///
    /// If the peer has violated the protocol. The connection must then be closed.
    pub fn handle_line(
        &mut self,
        link: LinkId,
        connection: ConnectionId,
        line: &[u8],
        now: &Now,
        observer: &mut impl Observer,
    ) -> Result<(), ProtocolError> {
        let up = &mut self.links[link.index()].up;
        // Another connection may have replaced this one in the meantime.
        let Some(up) = up.as_mut().filter(|up| up.receives_on == connection) else {
            return Ok(());
        };
        up.keepalive.handle_line(now.instant);
        let message = Message::parse(line).ok_or(ProtocolError::InvalidMessage)?;
        let repair = up.announced_repair.take();
        match message {
            Message::Record(record) => {
                self.apply_peer_record(link, &record, repair, now, observer);
            }
            Message::Key(theirs) => self.handle_key(link, theirs, now.instant),
            Message::Repair(purpose) => up.announced_repair = Some(purpose),
            Message::Moved => self.handle_peer_moved(link),
            Message::Rules(rules) => self.handle_rules(rules)?,
            Message::Ping(id, hash) => {
                up.keepalive.handle_ping(id);
                self.handle_hash(link, hash, now.instant);
            }
            Message::Pong(id, theirs) => self.handle_pong(link, id, theirs, now.wall),
            Message::Links(state) => self.handle_link_state(link, &state, now.instant),
            // Digests under another key say nothing about the records here.
            _ if !self.own_key.agrees(&up.key_exchange) => {}
            other => {
                self.now = now.instant;
                if let Some((anti_entropy, mut context)) = self.anti_entropy(link) {
                    anti_entropy.handle_message(&other, &mut context);
                }
            }
        }
        Ok(())
    }

    /// Handles a pong: compares the sums that were sent before its ping, and the clocks.
    fn handle_pong(&mut self, link: LinkId, id: u64, theirs: Wall, now: Wall) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        let Some(offset) = up.keepalive.handle_pong(id, theirs, now) else { return };
        if let Some(rival) = &mut up.rival {
            rival.handle_pong(id);
        }
        up.anti_entropy.handle_pong(id);
        let was_off = up.clock_is_off;
        up.clock_is_off = offset.exceeds(self.identity.rules.max_clock_offset / 2);
        if up.clock_is_off && !was_off {
            self.counters.clock_offset_warnings += 1;
            self.emit(Event::ClockSkew { link, offset: offset.estimate });
        }
    }

    /// Established links to neighbors that use the herd protocol.
    fn herd_peers(&mut self) -> impl Iterator<Item = (LinkId, &mut Established)> {
        let links = (0..).map(LinkId).zip(&mut self.links);
        links.filter_map(|(id, link)| Some((id, link.herd_peer()?)))
    }

    /// Releases the fetch claims of `peer` after its connection has changed.
    fn release_claims(&mut self, peer: NodeId) {
        if self.claims.release(peer) {
            self.resume_fetches();
        }
    }

    /// Resumes links that have left records to another link.
    fn resume_fetches(&mut self) {
        self.herd_peers().for_each(|(_, up)| up.anti_entropy.resume());
    }

    /// Returns the next action for the event loop. Only a few per link are ever queued.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns the next event for the log.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn emit(&mut self, event: Event) {
        if self.events.len() < EVENTS_PER_LINK * (self.links.len() + 1) {
            self.events.push_back(event);
        }
    }
}
