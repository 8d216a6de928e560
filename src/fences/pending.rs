//! Changes that have not lasted for the dwell time of their fence yet, and their timers.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::set::{Fence, FenceId};
use crate::ids::Slot;
use crate::protocol::time::Nanos;
use crate::time::{Instant, Now, Wall};

/// The changes that are pending. There is at most one for each client and fence.
#[derive(Default)]
pub struct Pending {
    changes: BTreeMap<(Slot, FenceId), Change>,
    /// Those of them that have no timer yet.
    begun: BTreeSet<(Slot, FenceId)>,
    timers: BTreeSet<(Instant, Slot, FenceId)>,
}

/// A change that counts once it has lasted.
struct Change {
    /// The receive time of the record that began it.
    since: Nanos,
    /// The time, by the wall clock of this node, from which it counts without a further record.
    deadline: Nanos,
    /// The key of its timer, if it has one.
    due: Option<Instant>,
}

impl Pending {
    /// Begins a change with a record that was received at `since`.
    pub fn begin(&mut self, slot: Slot, fence: &Fence, since: Nanos) {
        let change = Change { since, deadline: since + fence.dwell, due: None };
        self.changes.insert((slot, fence.id), change);
        self.begun.insert((slot, fence.id));
    }

    /// Ends a change that has been reverted, or is being reported.
    pub fn cancel(&mut self, slot: Slot, fence: FenceId) {
        if self.changes.is_empty() {
            return;
        }
        if let Some(change) = self.changes.remove(&(slot, fence)) {
            self.begun.remove(&(slot, fence));
            if let Some(due) = change.due {
                self.timers.remove(&(due, slot, fence));
            }
        }
    }

    /// Returns whether a change had lasted long enough when a further record was received.
    pub fn had_lasted(&self, slot: Slot, fence: &Fence, received: Nanos) -> bool {
        let change = self.changes.get(&(slot, fence.id));
        change.is_some_and(|change| change.since + fence.dwell <= received)
    }

    /// Returns whether a change has lasted long enough at `now` if there is no further record, whether or
    /// not its timer has fired.
    pub fn is_due(&self, slot: Slot, fence: FenceId, now: Wall) -> bool {
        let change = self.changes.get(&(slot, fence));
        change.is_some_and(|change| change.deadline <= now.nanos())
    }

    /// Returns when the timer of a change fires.
    pub fn due(&self, slot: Slot, fence: FenceId) -> Option<Instant> {
        self.changes.get(&(slot, fence))?.due
    }

    /// Returns when [`Pending::start_timers`] and [`Pending::pop`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.begun.is_empty() {
            return Some(Instant::START);
        }
        self.timers.first().map(|(due, ..)| *due)
    }

    /// Starts the timers of changes that have begun.
    pub fn start_timers(&mut self, dwell: impl Fn(FenceId) -> Nanos, now: &Now) {
        while let Some((slot, fence)) = self.begun.pop_first() {
            let dwell = dwell(fence);
            if let Some(change) = self.changes.get_mut(&(slot, fence)) {
                // The record was received by a node whose clock may be ahead or behind.
                let left = (change.since + dwell - now.wall.nanos()).clamp(0, dwell);
                change.deadline = change.deadline.min(now.wall.nanos() + dwell);
                let left = u64::try_from(left).unwrap_or(u64::MAX);
                let due = now.instant + Duration::from_nanos(left);
                change.due = Some(due);
                self.timers.insert((due, slot, fence));
            }
        }
    }

    /// Removes and returns a timer that is due.
    pub fn pop(&mut self, now: Instant) -> Option<(Slot, FenceId)> {
        let &(_, slot, fence) = self.timers.first().filter(|(due, ..)| *due <= now)?;
        self.timers.pop_first();
        Some((slot, fence))
    }
}
