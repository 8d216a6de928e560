//! A subscriber of `/events`, which follows clients or fences.

use super::OutputSlice;
use super::events::Events;
use super::fence_events::FenceSubscription;
use super::subscription::Subscription;
use crate::herd::directory::Directory;
use crate::ids::ConnectionId;
use crate::time::{Instant, Now};

/// The subscriber of one connection.
pub enum Subscriber {
    /// It follows clients.
    Clients(Subscription),
    /// It follows fences.
    Fences(FenceSubscription),
}

impl Subscriber {
    /// Key of its seat.
    pub(super) const fn key(&self) -> usize {
        match self {
            Self::Clients(subscription) => subscription.key(),
            Self::Fences(subscription) => subscription.key(),
        }
    }

    /// Returns whether anything is due.
    pub(super) const fn is_due(&self, events: &Events) -> bool {
        match self {
            Self::Clients(subscription) => subscription.is_due(events),
            Self::Fences(subscription) => subscription.is_due(events),
        }
    }

    /// Appends output, as far as `slice` allows.
    pub(super) fn advance(
        &mut self,
        directory: &mut Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) {
        match self {
            Self::Clients(subscription) => subscription.advance(directory, events, now, slice),
            Self::Fences(subscription) => subscription.advance(directory, events, now, slice),
        }
    }

    /// Releases its seat, unless it has lost it.
    pub(super) fn leave(&self, events: &mut Events, connection: ConnectionId, now: Instant) {
        match self {
            Self::Clients(_) => events.unsubscribe(self.key(), connection, now),
            Self::Fences(_) => events.unsubscribe_from_fences(self.key(), connection),
        }
    }
}
