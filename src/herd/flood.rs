//! Flooding: how a record travels from the node that received it to all others.

use core::time::Duration;

use super::Herd;
use super::directory::{Applied, Source};
use super::expiry::Life;
use super::link::{LegacySender, Link};
use super::message::Purpose;
use super::observer::Observer;
use super::queue::SlotQueue;
use super::relay::Admission;
use super::vertices::Vertex;
use crate::ids::{LinkId, Slot};
use crate::protocol::record::Record;
use crate::time::{Instant, Now, Wall};

/// Number of records recovered by syncs in succession that are forwarded at once.
pub const FORWARD_FREELY: u32 = 64;

/// Time without a recovered record after which a fetch is considered complete.
const CATCH_UP_QUIET: Duration = Duration::from_millis(200);

/// Maximum time until neighbors are compared with, while a fetch goes on.
const CATCH_UP_MOST: Duration = Duration::from_secs(5);

/// Records recovered by syncs, which other neighbors may lack as well. Neighbors usually have most of
/// them, so forwarding all would send the data of a node that returns empty once over each of its
/// links. A few are forwarded; after many, this node compares with all neighbors instead.
#[derive(Default)]
pub(super) struct CatchUp {
    /// Recovered records since the last pause.
    count: u32,
    /// The time of the first of them.
    since: Option<Instant>,
    /// The end of the pause that follows.
    due: Option<Instant>,
}

impl CatchUp {
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Counts a recovered record. Returns whether it is one of many.
    fn count(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        self.due = Some((now + CATCH_UP_QUIET).min(since + CATCH_UP_MOST));
        self.count > FORWARD_FREELY
    }

    /// Returns whether this node must now compare with all neighbors.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.due.is_none_or(|due| due > now) {
            return false;
        }
        core::mem::take(self).count > FORWARD_FREELY
    }
}

/// A part of the node that follows the changes of the directory. Each has a conflating queue of slots,
/// like a link; an update costs one check while there is no follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follower {
    /// The events that browsers subscribe to.
    Events,
    /// The index of positions.
    Positions,
}

/// A record to be forwarded.
#[derive(Clone, Copy)]
pub(super) enum Item<'a> {
    /// It is stored in this slot.
    Stored(Slot),
    /// It is not stored, see [`super::relay`].
    Relayed(&'a Record<'a>),
}

/// The path by which a record reached this node.
#[derive(Clone, Copy)]
enum Arrival {
    /// A local client has sent it.
    Local,
    /// A peer has flooded it.
    Flooded(LinkId),
    /// An original server has flooded it.
    Legacy(LegacySender),
    /// A peer has sent it because a comparison of digests showed that this node lacks it.
    Repaired {
        /// The link to the peer.
        link: LinkId,
        /// It is one of many, which are not forwarded one by one.
        of_many: bool,
    },
}

impl Herd {
    /// Applies an update received from a local client, and floods it if it is newer.
    pub fn apply_local_update(&mut self, record: &Record<'_>, wall: Wall) -> Applied {
        let applied = self.apply(record, Source::Client, wall);
        if let Applied::Stored(slot) = applied {
            self.forward(Item::Stored(slot), Some(self.identity.me.into()), Arrival::Local);
        }
        applied
    }

    /// Erases `client` if it is held: stores and floods a tombstone that is newer than its record.
    /// Appends the line of the tombstone, without LF, to `out` and returns its slot.
    ///
    /// A record that is too far ahead is held, too. It is invisible here, but to other nodes it is not
    /// if it is this node's clock that is behind, and neither is its tombstone.
    pub fn forget(&mut self, client: &[u8], wall: Wall, out: &mut Vec<u8>) -> Option<Slot> {
        let held = Record::parse(self.directory.line(self.directory.slot(client)?)?)?;
        let source = match Life::of(held.received, self.directory.rules().client_ttl, wall) {
            _ if held.is_tombstone() => return None,
            Life::Expired => return None,
            Life::Alive => Source::Client,
            Life::Ahead => Source::File,
        };
        let rank = held.rank(self.identity.rules.max_clock_offset);
        let oldest = self.directory.oldest_time();
        let time = wall.nanos().max(rank + 1).max(oldest.map_or(0, |oldest| oldest + 1));
        let server = self.identity.name(self.identity.me);
        let tombstone = Record::emit_tombstone(out, server, client, time)?;
        match self.directory.apply(&tombstone, source, wall) {
            Applied::Stored(slot) => {
                self.forward(Item::Stored(slot), Some(self.identity.me.into()), Arrival::Local);
                Some(slot)
            }
            _ => None,
        }
    }

    /// Applies a record that an original server has flooded as a bare AT line. `label` is the address
    /// of its connection, for the log.
    pub fn apply_legacy_record(
        &mut self,
        sender: LegacySender,
        label: &[u8],
        record: &Record<'_>,
        wall: Wall,
        observer: &mut impl Observer,
    ) {
        let applied = self.apply(record, Source::Peer, wall);
        self.count_flooded(applied);
        if observer.enabled() {
            let sender = match sender {
                LegacySender::Neighbor(link) => self.peer_name(link),
                LegacySender::Unknown => label,
            };
            observer.record_received(sender, record.line, applied);
        }
        self.forward_flooded(record, applied, Arrival::Legacy(sender));
    }

    /// Applies a record received on `link`; `repair` is set if anti-entropy sent it.
    pub(super) fn apply_peer_record(
        &mut self,
        link: LinkId,
        record: &Record<'_>,
        repair: Option<Purpose>,
        now: &Now,
        observer: &mut impl Observer,
    ) {
        let applied = self.apply(record, Source::Peer, now.wall);
        let is_new = matches!(applied, Applied::Stored(_));
        let counters = &mut self.counters;
        match repair {
            None => self.count_flooded(applied),
            Some(Purpose::Sync) => counters.link_sync_records += u64::from(is_new),
            Some(Purpose::Check) => counters.antientropy_repairs += u64::from(is_new),
        }
        if observer.enabled() {
            observer.record_received(self.peer_name(link), record.line, applied);
        }
        if let Some(purpose) = repair {
            self.count_repair(link, purpose, applied);
            let Applied::Stored(slot) = applied else { return };
            let of_many = purpose == Purpose::Sync && self.catch_up.count(now.instant);
            let origin = self.routes.vertex(record.server);
            self.forward(Item::Stored(slot), origin, Arrival::Repaired { link, of_many });
        } else {
            self.forward_flooded(record, applied, Arrival::Flooded(link));
        }
    }

    /// Takes note of a record that anti-entropy has recovered, unless this node holds it or a newer
    /// one already.
    fn count_repair(&mut self, link: LinkId, purpose: Purpose, applied: Applied) {
        let is_stored = match applied {
            Applied::Stored(_) => true,
            Applied::Duplicate | Applied::Stale => return,
            Applied::OverCapacity | Applied::Expired | Applied::Ahead | Applied::TooLong => false,
        };
        let Link { peer, up, .. } = &mut self.links[link.index()];
        if let Some(up) = up {
            up.anti_entropy.handle_recovered(purpose, is_stored);
        }
        self.claims.handle_received(*peer, applied);
    }

    /// Forwards a flooded record if it was new to this node. Forwarding does not depend on this node's
    /// clock: a record that is not alive by it is new unless it was relayed recently.
    fn forward_flooded(&mut self, record: &Record<'_>, applied: Applied, arrival: Arrival) {
        let item = match applied {
            Applied::Stored(slot) => Item::Stored(slot),
            Applied::Expired | Applied::Ahead => match self.relayed.admit(record.line) {
                Admission::New => {
                    self.counters.relayed += 1;
                    Item::Relayed(record)
                }
                Admission::Known => return,
                Admission::Full => {
                    self.counters.relays_refused += 1;
                    return;
                }
            },
            _ => return,
        };
        self.forward(item, self.routes.vertex(record.server), arrival);
    }

    fn count_flooded(&mut self, applied: Applied) {
        self.counters.floods_received += 1;
        self.counters.floods_duplicate += u64::from(!matches!(applied, Applied::Stored(_)));
    }

    /// Queues `item` for the neighbors to which this node must forward it.
    ///
    /// A record that arrived along the tree of its origin is forwarded along that tree, and any
    /// other record to all neighbors except the sender. Original servers, and neighbors that have
    /// not advertised their link yet, are not part of any tree and receive every record.
    ///
    /// If a sync recovers many records, as in a node that returns empty, only the first of them are
    /// forwarded. The neighbors probably have them, and this node compares with them afterwards
    /// ([`CatchUp`]).
    ///
    /// If the record may have come from any of several original servers, all of them receive it. The
    /// one that sent it ignores it, since it is not newer than the record that it holds.
    fn forward(&mut self, item: Item<'_>, origin: Option<Vertex>, arrival: Arrival) {
        match item {
            Item::Stored(slot) => {
                self.mark_changed(slot);
                self.for_receivers(origin, arrival, |link| link.enqueue(slot));
            }
            Item::Relayed(record) => {
                let mut dropped = 0;
                self.for_receivers(origin, arrival, |link| dropped += link.enqueue_line(record));
                self.counters.relays_dropped += dropped;
            }
        }
    }

    /// Calls `enqueue` with each link on which a record must be forwarded.
    fn for_receivers(
        &mut self,
        origin: Option<Vertex>,
        arrival: Arrival,
        mut enqueue: impl FnMut(&mut Link),
    ) {
        let (sender, along_tree) = match arrival {
            Arrival::Local => (None, true),
            Arrival::Flooded(link) => (Some(link), true),
            Arrival::Legacy(LegacySender::Unknown) => (None, false),
            Arrival::Legacy(LegacySender::Neighbor(link)) | Arrival::Repaired { link, .. } => {
                (Some(link), false)
            }
        };
        let parent = sender.map(|link| self.link(link).peer);
        let tree = match origin {
            Some(origin) if along_tree => self.routes.tree(origin),
            _ => None,
        };
        let tree = tree.filter(|tree| tree.parent == parent);
        if let Some(tree) = tree {
            for &child in &tree.children {
                if let Some(link) = self.link_to[child.index()] {
                    enqueue(&mut self.links[link.index()]);
                }
            }
        }
        let to_all = tree.is_none();
        let is_one_of_many = matches!(arrival, Arrival::Repaired { of_many: true, .. });
        for (id, link) in (0..).map(LinkId).zip(&mut self.links) {
            let outside = link.is_legacy() || !self.routes.has_edge(link.peer);
            let is_compared = is_one_of_many && !link.is_legacy();
            if (to_all || outside) && sender != Some(id) && !is_compared {
                enqueue(link);
            }
        }
    }

    /// Starts to record for a follower which slots change.
    pub fn follow(&mut self, follower: Follower) {
        self.unfollow(follower);
        self.followers.push((follower, SlotQueue::default()));
    }

    /// Stops recording changes for a follower and drops those that were not polled.
    pub fn unfollow(&mut self, follower: Follower) {
        self.followers.retain(|(held, _)| *held != follower);
    }

    /// Returns whether changes are recorded for a follower.
    #[must_use]
    pub fn is_followed(&self, follower: Follower) -> bool {
        self.followers.iter().any(|(held, _)| *held == follower)
    }

    /// Number of slots that [`Herd::poll_changed`] will return.
    #[must_use]
    pub fn changed(&self, follower: Follower) -> usize {
        self.followers
            .iter()
            .find(|(held, _)| *held == follower)
            .map_or(0, |(_, queue)| queue.len())
    }

    /// Returns the next slot that has changed, each once however often it has changed since.
    pub fn poll_changed(&mut self, follower: Follower) -> Option<Slot> {
        self.followers.iter_mut().find(|(held, _)| *held == follower)?.1.pop()
    }

    /// Records a change of `slot` for all followers.
    pub(crate) fn mark_changed(&mut self, slot: Slot) {
        for (_, changed) in &mut self.followers {
            changed.push(slot);
        }
    }
}
