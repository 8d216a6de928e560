//! Deadlines of connections.

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::BinaryHeap;

use mio::Token;

/// A heap of deadlines. An entry is a reminder to look, not a promise that something is due: a
/// deadline that moves later, or a connection that has gone, costs nothing until its entry is up.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Duration, usize)>>,
}

impl Timers {
    /// Reminds of `token` at `when`.
    pub fn set(&mut self, when: Duration, token: Token) {
        self.heap.push(Reverse((when, token.0)));
    }

    /// Reminders, those of connections that have gone included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Forgets reminders that `wanted` does not want.
    pub fn retain(&mut self, wanted: impl Fn(Duration, Token) -> bool) {
        self.heap.retain(|Reverse((when, token))| wanted(*when, Token(*token)));
    }

    /// The next reminder.
    #[must_use]
    pub fn next(&self) -> Option<Duration> {
        self.heap.peek().map(|Reverse((when, _))| *when)
    }

    /// Takes a reminder that is up.
    pub fn pop(&mut self, now: Duration) -> Option<(Duration, Token)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse((when, token))| (when, Token(token)))
    }
}
