//! The fences that the directory keeps up to date.

use std::sync::Arc;

use super::{Directory, Slots, Stored};
use crate::fences::machine::Records;
use crate::fences::{FenceSet, Fences, Reason};
use crate::ids::Slot;
use crate::time::{Instant, Now, Wall};

/// Clients that one turn evaluates for fences that have changed, which takes about a millisecond.
const EVALUATED_PER_TURN: usize = 1_000;

impl Records for Slots {
    fn line(&self, slot: Slot) -> Option<&[u8]> {
        self.get(slot).map(Stored::line)
    }
}

impl Directory {
    /// Attaches fences. The clients held so far are evaluated by [`Directory::evaluate_fences`].
    pub fn set_fences(&mut self, mut fences: Fences) {
        fences.begin_evaluation(self.slots.used());
        self.fences = Some(Box::new(fences));
    }

    /// Returns the fences, if there are any.
    #[must_use]
    pub fn fences(&self) -> Option<&Fences> {
        self.fences.as_deref()
    }

    /// Replaces the fences by others. Does nothing if none are attached.
    pub fn install_fences(&mut self, set: Arc<FenceSet>, now: Wall) {
        if let Some(fences) = &mut self.fences {
            fences.install(set, self.slots.used(), now);
        }
    }

    /// Evaluates clients for fences that have changed, one per unit of `work`. Returns whether all have
    /// been evaluated.
    pub fn evaluate_fences(&mut self, work: &mut usize) -> bool {
        self.fences.as_mut().is_none_or(|fences| fences.evaluate(&self.slots, work))
    }

    /// Returns when [`Directory::handle_fences`] must be called next.
    pub(in crate::herd) fn poll_fences(&self) -> Option<Instant> {
        let fences = self.fences.as_ref()?;
        if fences.is_evaluating() { Some(Instant::START) } else { fences.poll_timeout() }
    }

    /// Reports changes that have lasted long enough, and evaluates some clients.
    pub(in crate::herd) fn handle_fences(&mut self, now: &Now) {
        if let Some(fences) = &mut self.fences {
            fences.evaluate(&self.slots, &mut { EVALUATED_PER_TURN });
            fences.handle_timeout(&self.slots, now);
        }
    }

    /// Takes note that the client in `slot` is about to be removed.
    pub(super) fn leave_fences(&mut self, slot: Slot, reason: Reason, now: Wall) {
        if let Some(fences) = &mut self.fences {
            fences.handle_removed(slot, self.slots[slot].line(), reason, now);
        }
    }
}
