//! Deadlines of connections.

use core::cmp::Reverse;
use std::collections::BinaryHeap;

use mio::Token;

use crate::time::Instant;

/// A heap of timers. A timer is a reminder to check, not a promise that something is due: a deadline
/// that moves later, or a connection that closes, costs nothing until the timer fires.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Timers {
    /// Sets a timer for `token`.
    pub fn set(&mut self, when: Instant, token: Token) {
        self.heap.push(Reverse((when, token.0)));
    }

    /// The number of timers, those of closed connections included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Retains only the timers for which `keep` returns true.
    pub fn retain(&mut self, keep: impl Fn(Instant, Token) -> bool) {
        self.heap.retain(|Reverse((when, token))| keep(*when, Token(*token)));
    }

    /// The earliest timer.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }

    /// Takes a timer that has fired.
    pub fn pop(&mut self, now: Instant) -> Option<(Instant, Token)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((when, token))| (when, Token(token)))
    }
}
