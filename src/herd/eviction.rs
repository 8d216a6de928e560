//! Who goes when the directory is full.
//!
//! The clients kept are the top K by (order of records, client): a function of the records alone,
//! so nodes that have seen the same records keep the same clients. Least-recently-used would not
//! converge.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use super::slots::Slot;
use crate::protocol::time::Nanos;

/// A client as it stood when it was entered. Its record only ever moves up, so an entry is a lower
/// bound; one that turns out to be outdated is entered again where it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate {
    /// `min(time, received + Δ)`.
    pub rank: Nanos,
    /// The client's time.
    pub time: Nanos,
    /// The receiving node's time.
    pub received: Nanos,
    /// Herd-wide hash of the client: the tie between clients, alike on all nodes.
    pub client_hash: u64,
    /// Where it is here.
    pub slot: Slot,
}

/// A heap of candidates, least first. An update of a client does not touch it.
#[derive(Default)]
pub struct Candidates {
    heap: BinaryHeap<Reverse<Candidate>>,
    /// Slots below this one have been entered.
    pub indexed: Slot,
}

impl Candidates {
    /// Entries, outdated ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Enters a candidate.
    pub fn push(&mut self, candidate: Candidate) {
        self.heap.push(Reverse(candidate));
    }

    /// The least entry, outdated or not.
    #[must_use]
    pub fn least(&self) -> Option<Candidate> {
        self.heap.peek().map(|Reverse(candidate)| *candidate)
    }

    /// Drops the least entry.
    pub fn pop(&mut self) {
        self.heap.pop();
    }
}
