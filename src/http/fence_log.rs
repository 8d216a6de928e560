//! Up to where subscribers may read the log of transitions.

use super::limits::EVENT_FLUSH;
use crate::fences::Fences;
use crate::time::Instant;

/// The part of the log of transitions that subscribers may read.
#[derive(Default)]
pub struct FenceLog {
    /// Number of subscribers.
    subscribers: usize,
    /// The end of the published transitions.
    published: u64,
    flush_at: Instant,
}

impl FenceLog {
    /// Returns the end of the transitions that subscribers may read.
    pub(super) const fn published(&self) -> u64 {
        self.published
    }

    pub(super) fn handle_subscribed(&mut self, end: u64) {
        if self.subscribers == 0 {
            self.published = end;
        }
        self.subscribers += 1;
    }

    pub(super) const fn handle_unsubscribed(&mut self) {
        self.subscribers -= 1;
    }

    pub(super) fn poll_timeout(&self, fences: Option<&Fences>) -> Option<Instant> {
        (self.subscribers > 0 && self.published < end(fences)).then_some(self.flush_at)
    }

    /// Publishes the transitions so far if it is time to. Returns whether there are any.
    pub(super) fn publish(&mut self, fences: Option<&Fences>, now: Instant) -> bool {
        let is_due = self.poll_timeout(fences).is_some_and(|at| at <= now);
        if is_due {
            self.published = end(fences);
            self.flush_at = now + EVENT_FLUSH;
        }
        is_due
    }
}

fn end(fences: Option<&Fences>) -> u64 {
    fences.map_or(0, |fences| fences.transitions().end())
}
