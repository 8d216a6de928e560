//! Link states: which links each node advertises, and how the herd learns of changes.
//!
//! A link state is flooded: a node that receives a new one forwards it to its neighbors, except the
//! sender and those that are linked with the sender, which send it to each other. In a full mesh a
//! link state therefore costs one message per node. Whether two neighbors are linked follows from the
//! link states themselves, which may be outdated at that moment, so this can leave a node out. It is
//! found by its pings: they carry a hash of all link states, and if the hashes of the two ends of a link
//! differ for longer than a moment, both send everything.

use core::time::Duration;
use std::collections::VecDeque;

use super::graph::Bits;
use super::link::Link;
use super::message::{LinkState, Purpose};
use super::queue::IdSet;
use super::routes::{Adjacency, Received, SETTLE};
use super::vertices::Vertex;
use super::{Event, Herd};
use crate::ids::{LinkId, NodeId};
use crate::time::Instant;

/// Time from a change of the links of this node until it is advertised: links that come up together
/// are advertised together.
pub const ADVERTISE_DELAY: Duration = Duration::from_millis(20);

/// Minimum interval between two advertisements of a node's own links. Changes within it are
/// combined: otherwise, when a dense herd starts, each node would send one link state per link over
/// every edge. The last one is advertised well before [`SETTLE`].
pub const LINKS_PAUSE: Duration = Duration::from_millis(100);

/// Time for which a link state is held back for a neighbor that only one end of the link to the
/// sender advertises so far. The advertisement of the other end arrives within it.
pub const HOLD: Duration = Duration::from_millis(150);

/// Minimum interval between two comparisons of all records on all links. When a node of a dense herd
/// stops, all its neighbors report a lost edge.
const RESYNC_PAUSE: Duration = Duration::from_millis(100);

/// The initial pause between two repairs of link states on a link. It doubles up to [`REPAIR_MAX`]
/// as long as they do not help.
const REPAIR_MIN: Duration = Duration::from_secs(2);

/// See [`REPAIR_MIN`].
const REPAIR_MAX: Duration = Duration::from_mins(1);

/// The advertisement of this node's own links, at most one per [`LINKS_PAUSE`].
#[derive(Default)]
pub(super) struct Advertisement {
    /// The time of the next one; `None` if nothing has changed.
    due: Option<Instant>,
    /// The time of the last one.
    last: Option<Instant>,
}

impl Advertisement {
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Schedules an advertisement at least `pause` after the last one.
    fn schedule(&mut self, pause: Duration, now: Instant) {
        let soon = now + ADVERTISE_DELAY;
        let at = self.last.map_or(soon, |last| soon.max(last + pause));
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// Claims the advertisement that is due at `now`, if one is.
    fn take(&mut self, now: Instant) -> bool {
        let is_due = self.due.take_if(|due| *due <= now).is_some();
        if is_due {
            self.last = Some(now);
        }
        is_due
    }
}

/// The comparisons of all records that are due, at most one per [`RESYNC_PAUSE`].
#[derive(Default)]
pub(super) struct Resync {
    due: Option<Instant>,
    /// The ends of a link that start it.
    ends: Ends,
    not_before: Option<Instant>,
}

/// The ends of a link that start a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ends {
    /// The one with the lesser name: both ends learn of the reason, a lost edge.
    #[default]
    Lesser,
    /// This end, which alone knows the reason.
    This,
}

impl Resync {
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Requests a comparison at the next timeout, which is due at once.
    pub(super) fn request(&mut self, ends: Ends) {
        self.schedule(ends, Instant::START);
        self.due = Some(Instant::START);
    }

    fn schedule(&mut self, ends: Ends, now: Instant) {
        let at = self.not_before.map_or(now, |not_before| not_before.max(now));
        self.due.get_or_insert(at);
        if ends == Ends::This {
            self.ends = ends;
        }
    }

    fn take(&mut self, now: Instant) -> Option<Ends> {
        self.due.take_if(|due| *due <= now)?;
        self.not_before = Some(now + RESYNC_PAUSE);
        Some(core::mem::take(&mut self.ends))
    }
}

/// The exchange of link states on one link.
#[derive(Default)]
pub(super) struct Exchange {
    /// Nodes whose link state is queued for the peer.
    pending: IdSet,
    /// Nodes whose current link state the peer has: it was sent or received on this connection.
    has: Bits,
    /// Nodes whose link state the peer probably receives from another node, and when that is decided.
    held: VecDeque<(Instant, Vertex)>,
    /// The same nodes as a set.
    is_held: Bits,
    /// The hashes of the two ends, and since when they have been these and different.
    differs: Option<(u64, u64, Instant)>,
    /// The last repair, and the pause after it.
    repaired: Option<(Instant, Duration)>,
}

impl Exchange {
    /// Returns whether there is something to send.
    pub(super) const fn has_output(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Returns whether the peer has been sent everything.
    pub(super) fn is_complete(&self) -> bool {
        self.pending.is_empty() && self.held.is_empty()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.held.front().map(|(due, _)| *due)
    }

    /// Returns the next node whose link state is to be sent.
    pub(super) fn pop(&mut self) -> Option<Vertex> {
        let vertex = self.pending.pop()?;
        self.has.insert(vertex);
        Some(Vertex(vertex as u16))
    }

    /// The peer has sent the link state that is current here.
    fn peer_has(&mut self, vertex: Vertex) {
        self.pending.remove(vertex.index());
        self.has.insert(vertex.index());
    }

    fn push(&mut self, vertex: Vertex) {
        if !self.has.contains(vertex.index()) {
            self.pending.insert(vertex.index());
        }
    }

    fn hold(&mut self, vertex: Vertex, now: Instant) {
        let index = vertex.index();
        if !self.has.contains(index) && !self.is_held.contains(index) {
            self.is_held.insert(index);
            self.held.push_back((now + HOLD, vertex));
        }
    }

    /// Returns the next node whose link state has been held back for long enough.
    fn release(&mut self, now: Instant) -> Option<Vertex> {
        let (_, vertex) = self.held.pop_front_if(|(due, _)| *due <= now)?;
        self.is_held.remove(vertex.index());
        Some(vertex)
    }

    /// Compares the hash of the peer with that of this node. Returns whether they have differed for so
    /// long that the link states must be sent again.
    fn compare(&mut self, theirs: u64, ours: u64, now: Instant) -> bool {
        if theirs == ours {
            (self.differs, self.repaired) = (None, None);
            return false;
        }
        let since = match self.differs {
            Some((before, own, since)) if (before, own) == (theirs, ours) => since,
            _ => now,
        };
        self.differs = Some((theirs, ours, since));
        let pause = self.repaired.map_or(REPAIR_MIN, |(_, pause)| (pause * 2).min(REPAIR_MAX));
        let is_soon = self.repaired.is_some_and(|(at, pause)| now < at + pause);
        let repairs = since + SETTLE <= now && !is_soon;
        if repairs {
            self.repaired = Some((now, pause));
        }
        repairs
    }
}

impl Herd {
    /// Handles a link state received on `link`.
    pub(super) fn handle_link_state(&mut self, link: LinkId, state: &LinkState<'_>, now: Instant) {
        let peer = self.link(link).peer;
        let received = self.routes.receive(state, peer, now);
        let Some(up) = self.links[link.index()].herd_peer() else { return };
        match received {
            Received::Ignored => {}
            Received::Known(origin) => up.states.peer_has(origin),
            // If the newer one has been sent already, it is on its way.
            Received::Older(origin) => up.states.push(origin),
            Received::New { origin, lost_edge, changed } => {
                self.spread(origin, Some(link), now);
                self.handle_announcement(state.next);
                if lost_edge {
                    self.resync(Ends::Lesser, now);
                } else if changed && self.is_repairing(now) {
                    self.resync(Ends::This, now);
                }
            }
            Received::Contested(version) => {
                self.contest.handle_claim(version);
                self.advertisement.schedule(self.contest.pause(now), now);
            }
        }
    }

    /// Compares the hash of the link states of a neighbor with that of this node.
    pub(super) fn handle_hash(&mut self, link: LinkId, theirs: Option<u64>, now: Instant) {
        let Some(up) = self.links[link.index()].herd_peer() else { return };
        let (Some(theirs), Some(ours)) = (theirs, self.routes.hash()) else { return };
        if !up.states.is_complete() || !up.states.compare(theirs, ours, now) {
            return;
        }
        self.counters.link_state_repairs += 1;
        up.states.has = Bits::default();
        self.routes.offered(now).into_iter().for_each(|vertex| up.states.push(vertex));
        // Trees of different graphs may have left nodes out.
        self.repairing_until = Some(now + SETTLE * 5);
        self.resync(Ends::This, now);
    }

    /// Returns whether link states may still arrive that were sent because the graphs of two nodes
    /// differed.
    fn is_repairing(&self, now: Instant) -> bool {
        self.repairing_until.is_some_and(|until| now < until)
    }

    /// Queues everything that a neighbor may lack after its link has come up.
    pub(super) fn offer_link_states(&mut self, link: LinkId, now: Instant) {
        let me = self.identity.me.into();
        for vertex in self.routes.offered(now).into_iter().filter(|&vertex| vertex != me) {
            self.offer_link_state(link, vertex, now);
        }
    }

    /// Queues the new link state of `origin` for the neighbors, except that of `sender`.
    fn spread(&mut self, origin: Vertex, sender: Option<LinkId>, now: Instant) {
        for (_, up) in self.herd_peers() {
            up.states.has.remove(origin.index());
        }
        for link in (0..self.links.len()).map(LinkId) {
            if sender != Some(link) {
                self.offer_link_state(link, origin, now);
            } else if let Some(up) = self.links[link.index()].herd_peer() {
                up.states.peer_has(origin);
            }
        }
    }

    /// Queues the link state of `origin` for a neighbor, unless the node from which it was received is
    /// linked with that neighbor and sends it as well.
    fn offer_link_state(&mut self, link: LinkId, origin: Vertex, now: Instant) {
        let adjacency = self.adjacency_of(link, self.routes.source(origin));
        let Some(up) = self.links[link.index()].herd_peer() else { return };
        match adjacency {
            Adjacency::Linked => {}
            Adjacency::Unsure => up.states.hold(origin, now),
            Adjacency::Apart => up.states.push(origin),
        }
    }

    /// Returns whether the neighbor of a link is linked with `other`.
    fn adjacency_of(&self, link: LinkId, other: Option<NodeId>) -> Adjacency {
        let link = self.link(link);
        match (other, &link.up) {
            (Some(other), Some(up)) => self.routes.adjacency(other, link.peer, up.boot),
            _ => Adjacency::Apart,
        }
    }

    /// Decides about link states that were held back.
    pub(super) fn release_held(&mut self, link: LinkId, now: Instant) {
        while let Some(origin) =
            self.links[link.index()].herd_peer().and_then(|up| up.states.release(now))
        {
            let adjacency = self.adjacency_of(link, self.routes.source(origin));
            if adjacency != Adjacency::Linked
                && let Some(up) = self.links[link.index()].herd_peer()
            {
                up.states.push(origin);
            }
        }
    }

    /// Schedules an advertisement after a change of the links of this node.
    pub(super) fn links_changed(&mut self, now: Instant) {
        self.routes.unsettle(now);
        self.advertisement.schedule(self.contest.pause_of_change(now), now);
    }

    /// Advertises the links of this node if they have changed.
    pub(super) fn advertise_changes(&mut self, now: Instant) {
        if !self.advertisement.take(now) {
            return;
        }
        let (contested, other) = self.contest.take_claim(now);
        if let Some(boot) = other {
            self.counters.name_conflicts += 1;
            self.emit(Event::NameTaken { boot });
        }
        // A link that was replaced or came up again is advertised as lost first: the other nodes then
        // compare their records, since some may have been lost with the connection.
        let is_up = |link: &&Link| link.up.is_some() && !link.is_legacy() && !link.was_lost;
        let up: Vec<NodeId> = self.links.iter().filter(is_up).map(|link| link.peer).collect();
        let mut hides_some = false;
        for link in &mut self.links {
            hides_some |= core::mem::take(&mut link.was_lost) && link.up.is_some();
        }
        if self.routes.set_own_links(&up, contested, now) {
            self.spread(self.identity.me.into(), None, now);
        }
        if hides_some {
            self.advertisement.schedule(self.contest.pause_of_change(now), now);
        }
    }

    /// Advertises the links of this node once more under a sequence number that starts over.
    pub(super) fn advertise_again(&mut self, now: Instant) {
        self.spread(self.identity.me.into(), None, now);
    }

    /// Schedules a sync on all links. After the loss of an edge, which may have had records in flight,
    /// every node of the herd does so.
    pub(super) fn resync(&mut self, ends: Ends, now: Instant) {
        self.resync.schedule(ends, now);
        self.resync_if_due(now);
    }

    /// Starts the sync that is due, if one is.
    pub(super) fn resync_if_due(&mut self, now: Instant) {
        let Some(ends) = self.resync.take(now) else { return };
        let me = self.identity.me;
        for link in &mut self.links {
            let starts = ends == Ends::This || me < link.peer;
            if let Some(up) = link.herd_peer().filter(|_| starts)
                && self.own_key.agrees(&up.key_exchange)
            {
                up.anti_entropy.open(Purpose::Sync);
            }
        }
    }
}
