//! Forgetting link states: those of nodes that are gone, and those with the last sequence number.

use core::time::Duration;

use super::Routes;
use crate::herd::graph::Bits;
use crate::herd::vertices::Vertex;
use crate::time::Instant;

/// Time for which the link state of a node that is neither configured nor reachable is kept: the
/// number of learned names is bounded, but a node that is away for a moment is not forgotten.
pub const FORGET_AFTER: Duration = Duration::from_mins(1);

/// Time for which the link state of such a node is offered to neighbors whose link comes up. The nodes
/// have forgotten it at different times, so it would otherwise return to those that have, and stay as
/// long as links come up.
pub const OFFER_FOR: Duration = Duration::from_secs(10);

/// Time from the advertisement of the last sequence number until its node starts over: all nodes have
/// forgotten it by then.
pub(super) const START_OVER_AFTER: Duration = FORGET_AFTER.saturating_add(Duration::from_secs(30));

/// Time for which a link state with the last number is ignored after one of the same node has been
/// forgotten. Nodes that have received it later offer it for a while.
pub(super) const IGNORE_LAST_FOR: Duration = Duration::from_mins(10);

impl Routes {
    /// Vertices whose link state is offered to neighbors: all known ones, except those of nodes that have
    /// been neither configured nor reachable for [`OFFER_FOR`].
    #[must_use]
    pub fn offered(&self, now: Instant) -> Vec<Vertex> {
        let is_gone = |&vertex: &Vertex| {
            let since = self.state(vertex).and_then(|state| state.unreachable_since);
            since.is_some_and(|since| since + OFFER_FOR <= now)
        };
        let (gone, mut offered): (Vec<Vertex>, Vec<Vertex>) = self.known().partition(is_gone);
        if !gone.is_empty() {
            let reachable = self.reachable(); // some may have returned since the graph settled
            offered.extend(gone.into_iter().filter(|vertex| reachable.contains(vertex.index())));
        }
        offered
    }

    /// Forgets the nodes that have been neither configured nor reachable for long enough, and link states
    /// whose number is the last one. Returns whether that of this node was one.
    pub(super) fn forget(&mut self, now: Instant) -> bool {
        self.forget_at = None;
        self.ignored.retain(|_, until| now < *until);
        let reachable = self.reachable(); // some may have returned since the graph settled
        let mut starts_over = false;
        for vertex in (0..self.states.len()).map(|index| Vertex(index as u16)) {
            let Some(state) = &mut self.states[vertex.index()] else { continue };
            if reachable.contains(vertex.index()) {
                state.unreachable_since = None;
            }
            let forget_at = state.unreachable_since.map(|since| since + FORGET_AFTER);
            let ends_at = state.ends_at;
            let ends = ends_at.is_some_and(|at| at <= now);
            if ends && vertex == self.me {
                state.version.sequence = 1;
                state.ends_at = None;
                starts_over = true;
            } else if ends {
                self.states[vertex.index()] = None;
                self.ignored.insert(vertex, now + IGNORE_LAST_FOR);
                self.unsettle(now);
            } else if forget_at.is_some_and(|at| at <= now) {
                self.states[vertex.index()] = None;
            } else {
                self.forget_by(forget_at);
                self.forget_by(ends_at);
            }
        }
        self.forget_by(self.ignored.values().min().copied());
        if starts_over {
            self.hash_own();
        }
        self.drop_unused_names();
        starts_over
    }

    /// Schedules [`Routes::forget`].
    pub(super) fn forget_by(&mut self, at: Option<Instant>) {
        self.forget_at = self.forget_at.into_iter().chain(at).min();
    }

    /// Drops learned names that no link state contains.
    pub(super) fn drop_unused_names(&mut self) {
        let mut used = Bits::default();
        self.ignored.keys().for_each(|vertex| used.insert(vertex.index()));
        for (vertex, state) in self.states.iter().enumerate() {
            if let Some(state) = state {
                used.insert(vertex);
                state.up.iter().for_each(|peer| used.insert(peer.index()));
            }
        }
        self.vertices.retain(|vertex| used.contains(vertex.index()));
    }
}
