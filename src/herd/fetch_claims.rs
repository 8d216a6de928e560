//! Claims on leaves, which keep a node from fetching the same records from several neighbors.
//!
//! A node that returns empty lacks the same records compared with each neighbor. What it has
//! requested from one, it does not request from another until the first is done, disconnected or
//! slow. Claims only delay requests. Requests of others are always answered, so nodes cannot wait
//! for each other.

use core::ops::Range;
use core::time::Duration;

use super::digest::Leaf;
use super::routes::NodeId;

/// Interval at which a neighbor that was asked for records is checked: if it has sent fewer than
/// [`FETCH_LEAST`] since the last check, other neighbors may be asked for what is still missing.
/// Longer than an answer takes on any but the longest routes, and short compared with a fetch of
/// many records. Too short an interval costs nothing but records that arrive twice.
pub const FETCH_PATIENCE: Duration = Duration::from_millis(500);

/// Fewest records per [`FETCH_PATIENCE`]: 200 kB per second. A slower neighbor may be in trouble
/// and must not delay what a healthy one would send.
pub const FETCH_LEAST: u32 = 1000;

/// Marks a leaf that is not being fetched.
const UNCLAIMED: NodeId = NodeId::MAX;

/// The leaves of the digest tree that are being fetched, and from which neighbors.
#[derive(Default)]
pub struct Fetches {
    /// Claiming neighbor by leaf; empty while there are no sources.
    asked: Vec<NodeId>,
    sources: Vec<Source>,
}

/// A neighbor from which records are being fetched.
struct Source {
    node: NodeId,
    /// New records that it has sent since the last check.
    brought: u32,
    /// Time of the next check.
    due: Duration,
}

impl Fetches {
    /// Claims `leaves` for `node`. Returns false if another neighbor holds a claim on one of them.
    pub fn ask(&mut self, node: NodeId, leaves: Range<usize>, now: Duration) -> bool {
        if self.asked.is_empty() {
            self.asked.resize(Leaf::COUNT, UNCLAIMED);
        }
        let asked = &mut self.asked[leaves];
        if asked.iter().any(|&of| of != UNCLAIMED && of != node) {
            return false;
        }
        asked.fill(node);
        if !self.sources.iter().any(|source| source.node == node) {
            self.sources.push(Source { node, brought: 0, due: now + FETCH_PATIENCE });
        }
        true
    }

    /// Records that `node` has sent a new record.
    pub fn brought(&mut self, node: NodeId) {
        if let Some(source) = self.sources.iter_mut().find(|source| source.node == node) {
            source.brought += 1;
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
            self.asked = Vec::new();
        }
        for of in self.asked.iter_mut().filter(|of| **of == node) {
            *of = UNCLAIMED;
        }
        true
    }

    /// Returns when [`Fetches::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.sources.iter().map(|source| source.due).min()
    }

    /// Releases the claims of neighbors that have sent few records since the last check: they are
    /// done, slow or stalled. Returns whether there were any.
    pub fn handle_timeout(&mut self, now: Duration) -> bool {
        let is_over = |source: &&Source| source.due <= now && source.brought < FETCH_LEAST;
        let over: Vec<NodeId> =
            self.sources.iter().filter(is_over).map(|source| source.node).collect();
        for &node in &over {
            self.release(node);
        }
        for source in self.sources.iter_mut().filter(|source| source.due <= now) {
            (source.brought, source.due) = (0, now + FETCH_PATIENCE);
        }
        !over.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_lasts_until_its_holder_sends_few_records() {
        let mut fetches = Fetches::default();
        assert!(fetches.ask(1, 0..16, Duration::ZERO));
        assert!(fetches.ask(1, 8..32, Duration::ZERO), "the holder may extend its claim");
        assert!(!fetches.ask(2, 31..40, Duration::ZERO));
        assert!(fetches.ask(2, 32..40, Duration::ZERO), "unclaimed leaves may be claimed");
        assert_eq!(fetches.poll_timeout(), Some(FETCH_PATIENCE));
        (0..FETCH_LEAST).for_each(|_| fetches.brought(1));
        assert!(fetches.handle_timeout(FETCH_PATIENCE), "2 has sent nothing");
        assert!(!fetches.ask(3, 31..40, FETCH_PATIENCE), "1 has sent enough");
        assert!(fetches.ask(3, 32..40, FETCH_PATIENCE));
        assert!(fetches.release(3) && !fetches.release(3));
        assert!(fetches.handle_timeout(2 * FETCH_PATIENCE), "1 is done or has stalled");
        assert_eq!(fetches.poll_timeout(), None);
        assert!(fetches.ask(2, 0..Leaf::COUNT, 2 * FETCH_PATIENCE));
    }
}
