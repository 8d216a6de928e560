//! Conditions that persist: each is reported when it begins and when it ends.

use core::time::Duration;

use super::Storage;
use crate::storage::SyncMode;
use crate::storage::event::{Cause, Condition, Event, Problem};
use crate::storage::task::Purpose;

/// Pauses after a failure: the first, and the longest after several in a row.
pub(super) const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));

/// Events that wait to be polled. Further ones are dropped; [`Storage::problem`] is up to date.
const MAX_EVENTS: usize = 64;

impl Storage {
    pub(super) fn begin_behind(&mut self, cause: Cause) {
        if self.behind.is_some() {
            return self.pause_files();
        }
        let refuses = self.settings.sync == SyncMode::Always;
        let problem = Problem { condition: Condition::Behind, refuses, cause };
        self.behind = Some(problem.clone());
        self.push_event(Event::Began(problem));
    }

    pub(super) fn fail_files(&mut self, purpose: Purpose, cause: Cause) {
        self.pause_files();
        if self.behind.is_none() && self.growing.is_none() {
            let problem = Problem { condition: Condition::Growing, refuses: false, cause };
            self.growing = Some((purpose, problem.clone()));
            self.push_event(Event::Began(problem));
        }
    }

    pub(super) fn end_growing(&mut self, purpose: Purpose) {
        if self.growing.take_if(|(failed, _)| purpose.settles(*failed)).is_some() {
            self.pause = RETRY.0;
            self.push_event(Event::Ended(Condition::Growing));
        }
    }

    pub(super) fn pause_files(&mut self) {
        self.retry_at = Some(self.now + self.pause);
        self.pause = (2 * self.pause).min(RETRY.1);
    }

    pub(super) fn push_event(&mut self, event: Event) {
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        }
    }
}
