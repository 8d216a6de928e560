//! Claims on leaves, which keep a node from fetching the same records from several neighbors.
//!
//! A node that returns empty lacks the same records compared with each neighbor. What it has
//! requested from one, it does not request from another until the first is done, disconnected or
//! slow. Claims only delay requests. Requests of others are always answered, so nodes cannot wait
//! for each other.

use core::ops::Range;
use core::time::Duration;

use super::digest::Leaf;
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
    /// New records that it has sent since the last check.
    received: u32,
    /// Time of the next check.
    due: Instant,
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
            self.sources.push(Source { node, received: 0, due: now + FETCH_PATIENCE });
        }
        true
    }

    /// Records that `node` has sent a new record.
    pub fn count_received(&mut self, node: NodeId) {
        if let Some(source) = self.sources.iter_mut().find(|source| source.node == node) {
            source.received += 1;
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
    /// done, slow or stalled. Returns whether there were any.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_slow = |source: &&Source| source.due <= now && source.received < FETCH_LEAST;
        let slow: Vec<NodeId> =
            self.sources.iter().filter(is_slow).map(|source| source.node).collect();
        for &node in &slow {
            self.release(node);
        }
        for source in self.sources.iter_mut().filter(|source| source.due <= now) {
            (source.received, source.due) = (0, now + FETCH_PATIENCE);
        }
        !slow.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        (0..FETCH_LEAST).for_each(|_| claims.count_received(NodeId(1)));
        assert!(claims.handle_timeout(at(1)), "2 has sent nothing");
        assert!(!claims.claim(NodeId(3), 31..40, at(1)), "1 has sent enough");
        assert!(claims.claim(NodeId(3), 32..40, at(1)));
        assert!(claims.release(NodeId(3)) && !claims.release(NodeId(3)));
        assert!(claims.handle_timeout(at(2)), "1 is done or has stalled");
        assert_eq!(claims.poll_timeout(), None);
        assert!(claims.claim(NodeId(2), 0..Leaf::COUNT, at(2)));
    }
}
