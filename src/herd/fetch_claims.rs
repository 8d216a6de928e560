//! Of whom a node fetches what it lacks.
//!
//! A node that comes back empty beside three neighbours lacks the same of all three. What it has
//! asked one for it does not ask another for, until that one is done, gone or slow. Only asking is
//! held back by this: a node answers whoever asks, so no two nodes can wait for each other.

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

/// The leaf is not being fetched.
const NOBODY: NodeId = NodeId::MAX;

/// Which leaves of the digest tree are being fetched, and of whom.
#[derive(Default)]
pub struct Fetches {
    /// By leaf; empty while there are no sources.
    asked: Vec<NodeId>,
    sources: Vec<Source>,
}

/// A neighbour that has been asked.
struct Source {
    node: NodeId,
    /// Records that it has brought since it was last looked at.
    brought: u32,
    /// When it is looked at again.
    due: Duration,
}

impl Fetches {
    /// Whether `node` may be asked for `leaves`: not if another is being asked for some of them.
    pub fn ask(&mut self, node: NodeId, leaves: Range<usize>, now: Duration) -> bool {
        if self.asked.is_empty() {
            self.asked.resize(Leaf::COUNT, NOBODY);
        }
        let asked = &mut self.asked[leaves];
        if asked.iter().any(|&of| of != NOBODY && of != node) {
            return false;
        }
        asked.fill(node);
        if !self.sources.iter().any(|source| source.node == node) {
            self.sources.push(Source { node, brought: 0, due: now + FETCH_PATIENCE });
        }
        true
    }

    /// `node` has brought a record that was news.
    pub fn brought(&mut self, node: NodeId) {
        if let Some(source) = self.sources.iter_mut().find(|source| source.node == node) {
            source.brought += 1;
        }
    }

    /// Others may be asked for what `node` was. Returns whether it was asked for anything.
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
            *of = NOBODY;
        }
        true
    }

    /// When [`Fetches::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.sources.iter().map(|source| source.due).min()
    }

    /// Releases whoever has brought little for a while: it is done, or slow, or stalled. Returns
    /// whether that was anybody.
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
    fn one_is_asked_at_a_time_until_it_brings_little() {
        let mut fetches = Fetches::default();
        assert!(fetches.ask(1, 0..16, Duration::ZERO));
        assert!(fetches.ask(1, 8..32, Duration::ZERO), "the same may be asked again");
        assert!(!fetches.ask(2, 31..40, Duration::ZERO));
        assert!(fetches.ask(2, 32..40, Duration::ZERO), "and another for what is left");
        assert_eq!(fetches.poll_timeout(), Some(FETCH_PATIENCE));
        (0..FETCH_LEAST).for_each(|_| fetches.brought(1));
        assert!(fetches.handle_timeout(FETCH_PATIENCE), "the other has brought nothing");
        assert!(!fetches.ask(3, 31..40, FETCH_PATIENCE), "who brings much goes on");
        assert!(fetches.ask(3, 32..40, FETCH_PATIENCE));
        assert!(fetches.release(3) && !fetches.release(3));
        assert!(fetches.handle_timeout(2 * FETCH_PATIENCE), "it is done, or has stalled");
        assert_eq!(fetches.poll_timeout(), None);
        assert!(fetches.ask(2, 0..Leaf::COUNT, 2 * FETCH_PATIENCE));
    }
}
