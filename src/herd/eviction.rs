//! Eviction from a full directory.
//!
//! The directory keeps the top K clients by (order of records, client). This is a function of the
//! records alone, so nodes that have received the same records keep the same clients. Eviction of
//! the least recently used client would not converge.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::ids::Slot;
use crate::protocol::time::Nanos;

/// A client and its sort key when it was entered. Records are only replaced by newer ones, so an
/// entry is a lower bound. An outdated entry is replaced when it reaches the top of the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// `min(time, received + Δ)`.
    pub rank: Nanos,
    /// Time given by the client.
    pub time: Nanos,
    /// Wall clock of the receiving node.
    pub received: Nanos,
    /// Herd-wide hash of the client, the tie-breaker, which is identical on all nodes.
    pub client_hash: u64,
    /// Slot of the client on this node.
    pub slot: Slot,
}

/// A min-heap of candidates. Updates of clients do not modify it.
#[derive(Default)]
pub struct Candidates {
    heap: BinaryHeap<Reverse<Candidate>>,
    /// Slots below this one have been entered.
    pub indexed: u32,
}

impl Candidates {
    /// Returns the number of entries, including outdated ones.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Returns whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Adds a candidate.
    pub fn push(&mut self, candidate: Candidate) {
        self.heap.push(Reverse(candidate));
    }

    /// Returns the least entry, which may be outdated.
    #[must_use]
    pub fn least(&self) -> Option<Candidate> {
        self.heap.peek().map(|Reverse(candidate)| *candidate)
    }

    /// Removes the least entry.
    pub fn pop(&mut self) {
        self.heap.pop();
    }
}
