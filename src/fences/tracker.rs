//! The changes of one client and one fence: those that are pending, and those that are reported.

use super::members::Membership;
use super::pending::Pending;
use super::set::Fence;
use super::transitions::{Reason, Transitions};
use crate::geo::Point;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::time::Wall;

/// Decides what a record, a timer or the end of a client means for a membership.
#[derive(Default)]
pub struct Tracker {
    /// Changes that have not lasted for the dwell time of their fence yet.
    pub pending: Pending,
    /// The log.
    pub transitions: Transitions,
}

/// A record that is about to be stored.
pub struct Change<'a> {
    pub slot: Slot,
    pub point: Point,
    /// The line of the client so far.
    pub old: &'a [u8],
    pub record: &'a Record<'a>,
}

impl Tracker {
    /// Returns the membership of a client that had none in this fence and is now in it.
    pub fn enter(&mut self, change: &Change<'_>, fence: &Fence) -> Membership {
        let is_inside = fence.dwell == 0;
        if is_inside {
            self.transitions.push(None, fence, change.slot, change.record.line);
        } else {
            self.pending.begin(change.slot, fence, change.record.received);
        }
        Membership { fence: fence.id, is_inside, was_inside: true }
    }

    /// Updates a membership for a change. Returns whether it remains.
    pub fn follow(
        &mut self,
        change: &Change<'_>,
        fence: &Fence,
        contains: bool,
        membership: &mut Membership,
    ) -> bool {
        let is_held = || {
            membership.was_inside
                && fence.hysteresis_m > 0.0
                && !fence.shape.is_beyond(change.point, fence.hysteresis_m)
        };
        let is_inside = contains || is_held();
        let (slot, record) = (change.slot, change.record);
        // A change that had lasted long enough when this record was received.
        if self.pending.had_lasted(slot, fence, record.received) {
            let line = if is_inside == membership.was_inside { record.line } else { change.old };
            self.confirm(slot, fence, membership, line);
        }
        if is_inside != membership.was_inside {
            membership.was_inside = is_inside;
            if membership.is_inside == is_inside {
                self.pending.cancel(slot, fence.id);
            } else if fence.dwell == 0 {
                self.confirm(slot, fence, membership, record.line);
            } else {
                self.pending.begin(slot, fence, record.received);
            }
        }
        membership.is_inside || membership.was_inside
    }

    /// Reports that a client is now where its last record says.
    pub fn confirm(&mut self, slot: Slot, fence: &Fence, membership: &mut Membership, line: &[u8]) {
        self.pending.cancel(slot, fence.id);
        membership.is_inside = membership.was_inside;
        let left = (!membership.is_inside).then_some(Reason::Moved);
        self.transitions.push(left, fence, slot, line);
    }

    /// Ends a membership at `now` for a reason other than a move.
    pub fn leave(
        &mut self,
        slot: Slot,
        fence: &Fence,
        mut membership: Membership,
        line: &[u8],
        (reason, now): (Reason, Wall),
    ) {
        if self.pending.is_due(slot, fence.id, now) {
            self.confirm(slot, fence, &mut membership, line);
        }
        self.pending.cancel(slot, fence.id);
        if membership.is_inside {
            self.transitions.push(Some(reason), fence, slot, line);
        }
    }
}
