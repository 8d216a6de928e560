//! Claims on leaves, which keep a node from fetching the same records from several neighbors.
//!
//! A node that returns empty lacks the same records compared with each neighbor. What it has
//! requested from one, it does not request from another until the first is done, disconnected or
//! slow. Claims only delay requests. Requests of others are always answered, so nodes cannot wait
//! for each other.
//!
//! A node whose clock is wrong may refuse what it has fetched, as not alive: then what it lacks from one
//! neighbor it would refuse from every other one, too. A fetch of which it has refused more than it has
//! stored was of no use, and is not repeated with another neighbor. A record that ranks too low for a full
//! directory does not count as refused, since those that another neighbor has may rank higher. Neighbors
//! have the same cap, and drop such a record once they have received what this node stores, so it is
//! fetched from each of them at most once.

use core::ops::Range;
use core::time::Duration;

use super::digest::Leaf;
use super::directory::Applied;
use crate::ids::NodeId;
use crate::time::Instant;

/// Interval at which a neighbor that records were claimed from is checked: if it has sent fewer than
/// [`FETCH_LEAST`] since the last check, what is still missing may be claimed from other neighbors.
/// Longer than an answer takes on any but the longest routes, and short compared with a fetch of
/// many records. Too short an interval costs nothing but records that arrive twice.
pub const FETCH_PATIENCE: Duration = Duration::from_millis(500);

/// Fewest records per [`FETCH_PATIENCE`]: 200 kB per second. A slower neighbor may be in trouble
/// and must not delay what a healthy one would send.
pub const FETCH_LEAST: u32 = 1000;

/// Marks a leaf that is not being fetched.
const UNCLAIMED: NodeId = NodeId(u16::MAX);

/// The leaves of the digest tree that are being fetched, and from which neighbors.
#[derive(Default)]
pub struct FetchClaims {
    /// Claiming neighbor by leaf; empty while there are no sources.
    claimed_by: Vec<NodeId>,
    sources: Vec<Source>,
}

/// A neighbor from which records are being fetched.
struct Source {
    node: NodeId,
    /// Records that it has sent since the last check and that were not held already.
    received: u32,
    /// Records that it has sent since it was claimed from, by what happened to them. Those that ranked
    /// too low are neither.
    stored: u32,
    refused: u32,
    /// Time of the next check.
    due: Instant,
}

/// What follows from the release of claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Links that have left records to another link compare again.
    Resume,
    /// They wait for the next check: this node has refused most of what it has fetched.
    GiveUp,
}

impl Source {
    const fn is_of_use(&self) -> bool {
        self.refused <= self.stored
    }
}

impl FetchClaims {
    /// Claims `leaves` for `node`. Returns false if another neighbor holds a claim on one of them.
    pub fn claim(&mut self, node: NodeId, leaves: Range<usize>, now: Instant) -> bool {
        if self.claimed_by.is_empty() {
            self.claimed_by.resize(Leaf::COUNT, UNCLAIMED);
        }
        let claimed_by = &mut self.claimed_by[leaves];
        if claimed_by.iter().any(|&of| of != UNCLAIMED && of != node) {
            return false;
        }
        claimed_by.fill(node);
        if !self.sources.iter().any(|source| source.node == node) {
            self.sources.push(Source {
                node,
                received: 0,
                stored: 0,
                refused: 0,
                due: now + FETCH_PATIENCE,
            });
        }
        true
    }

    /// Takes note of a record that `node` has sent, unless this node held it or a newer one already.
    pub fn handle_received(&mut self, node: NodeId, applied: Applied) {
        let Some(source) = self.sources.iter_mut().find(|source| source.node == node) else {
            return;
        };
        source.received = source.received.saturating_add(1);
        match applied {
            Applied::Stored(_) => source.stored = source.stored.saturating_add(1),
            Applied::OverCapacity => {}
            _ => source.refused = source.refused.saturating_add(1),
        }
    }

    /// Releases the claims of `node`. Returns whether it had any.
    pub fn release(&mut self, node: NodeId) -> bool {
        let before = self.sources.len();
        self.sources.retain(|source| source.node != node);
        if self.sources.len() == before {
            return false;
        }
        if self.sources.is_empty() {
            self.claimed_by = Vec::new();
        }
        for of in self.claimed_by.iter_mut().filter(|of| **of == node) {
            *of = UNCLAIMED;
        }
        true
    }

    /// Returns when [`FetchClaims::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sources.iter().map(|source| source.due).min()
    }

    /// Releases the claims of neighbors that have sent few records since the last check: they are
    /// done, slow or stalled. Returns what follows, if anything.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Release> {
        let is_slow = |source: &&Source| source.due <= now && source.received < FETCH_LEAST;
        let slow: Vec<(NodeId, bool)> = self
            .sources
            .iter()
            .filter(is_slow)
            .map(|source| (source.node, source.is_of_use()))
            .collect();
        for &(node, _) in &slow {
            self.release(node);
        }
        for source in self.sources.iter_mut().filter(|source| source.due <= now) {
            (source.received, source.due) = (0, now + FETCH_PATIENCE);
        }
        match slow[..] {
            [] => None,
            _ if slow.iter().any(|(_, is_of_use)| *is_of_use) => Some(Release::Resume),
            // The end of the last fetch decides.
            _ => self.sources.is_empty().then_some(Release::GiveUp),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Slot;

    const STORED: Applied = Applied::Stored(Slot(0));

    fn at(patiences: u32) -> Instant {
        Instant::START + FETCH_PATIENCE * patiences
    }

    #[test]
    fn a_claim_lasts_until_its_holder_sends_few_records() {
        let mut claims = FetchClaims::default();
        assert!(claims.claim(NodeId(1), 0..16, Instant::START));
        assert!(claims.claim(NodeId(1), 8..32, Instant::START), "the holder may extend its claim");
        assert!(!claims.claim(NodeId(2), 31..40, Instant::START));
        assert!(claims.claim(NodeId(2), 32..40, Instant::START), "unclaimed leaves may be claimed");
        assert_eq!(claims.poll_timeout(), Some(at(1)));
        (0..FETCH_LEAST).for_each(|_| claims.handle_received(NodeId(1), STORED));
        assert_eq!(claims.handle_timeout(at(1)), Some(Release::Resume), "2 has sent nothing");
        assert!(!claims.claim(NodeId(3), 31..40, at(1)), "1 has sent enough");
        assert!(claims.claim(NodeId(3), 32..40, at(1)));
        assert!(claims.release(NodeId(3)) && !claims.release(NodeId(3)));
        assert_eq!(claims.handle_timeout(at(2)), Some(Release::Resume), "1 is done or has stalled");
        assert_eq!(claims.poll_timeout(), None);
        assert!(claims.claim(NodeId(2), 0..Leaf::COUNT, at(2)));
    }

    #[test]
    fn a_fetch_of_which_most_was_refused_is_not_repeated() {
        let mut claims = FetchClaims::default();
        let mut fetch = |node, stored, refused, from: u32| {
            assert!(claims.claim(NodeId(node), 0..16, at(from)));
            (0..stored).for_each(|_| claims.handle_received(NodeId(node), STORED));
            (0..refused).for_each(|_| claims.handle_received(NodeId(node), Applied::Expired));
            let busy = stored + refused >= FETCH_LEAST;
            if busy {
                assert_eq!(claims.handle_timeout(at(from + 1)), None, "it goes on");
            }
            claims.handle_timeout(at(from + 1 + u32::from(busy)))
        };
        assert_eq!(fetch(1, 0, 5000, 0), Some(Release::GiveUp));
        assert_eq!(fetch(2, 1, 2, 10), Some(Release::GiveUp));
        assert_eq!(fetch(1, 5000, 5000, 20), Some(Release::Resume));
        assert_eq!(fetch(1, 0, 0, 30), Some(Release::Resume), "a stalled neighbor");
        assert!(claims.claim(NodeId(1), 0..16, at(40)));
        assert!(claims.claim(NodeId(2), 16..32, at(41)));
        claims.handle_received(NodeId(1), Applied::Ahead);
        assert_eq!(claims.handle_timeout(at(41)), None, "another fetch is in progress");
        assert_eq!(claims.handle_timeout(at(42)), Some(Release::Resume));
    }

    /// The records of another neighbor may rank higher than those that a full directory has refused.
    #[test]
    fn records_that_rank_too_low_do_not_make_a_fetch_useless() {
        let mut claims = FetchClaims::default();
        let mut fetch = |others: &[Applied], from: u32| {
            assert!(claims.claim(NodeId(1), 0..16, at(from)));
            (0..FETCH_LEAST).for_each(|_| claims.handle_received(NodeId(1), Applied::OverCapacity));
            for &applied in others {
                claims.handle_received(NodeId(1), applied);
            }
            assert_eq!(claims.handle_timeout(at(from + 1)), None, "it goes on");
            claims.handle_timeout(at(from + 2))
        };
        assert_eq!(fetch(&[], 0), Some(Release::Resume));
        assert_eq!(fetch(&[Applied::Expired], 10), Some(Release::GiveUp));
        assert_eq!(fetch(&[Applied::Expired, STORED], 20), Some(Release::Resume));
    }
}
