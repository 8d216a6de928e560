//! The jobs of the thread: when a batch is cut, what is remembered, and which segments are kept.

use core::time::Duration;

use super::{Engine, Feed, SAVE_EVERY, Stage};
use crate::feed::Event;
use crate::feed::batch::Batch;
use crate::feed::worker::{Done, Job};
use crate::storage::Storage;
use crate::time::Instant;

/// Pause before the log is read again after an error.
const READ_RETRY: Duration = Duration::from_secs(1);

/// Time for which entries gather before they are read from the log, so that a batch has several.
const GATHER: Duration = Duration::from_millis(5);

/// The same while many arrive, so that a batch has hundreds and costs little for each.
const GATHER_MANY: Duration = Duration::from_millis(20);

/// Entries of a batch that are many.
pub(super) const MANY: u32 = 64;

/// The same for an HTTP collector, for which each batch is a change of the memory on disk.
const GATHER_HTTP: Duration = Duration::from_millis(50);

/// Time for which segments are kept after they were delivered, since a Redis that crashes loses its last
/// second.
pub(super) const KEEP_FOR: Duration = Duration::from_secs(5);

impl Feed {
    /// Returns the next job for the thread, if it has none.
    pub fn poll_job(&mut self, storage: &Storage, now: Instant) -> Option<Job> {
        if self.is_busy {
            return None;
        }
        let attempt = self.attempt;
        let job = if !self.is_loaded {
            Job::Load
        } else if let Stage::Asked(top) = self.stage {
            self.stage = Stage::Resuming;
            let first = (!self.has_resumed).then(|| storage.first_segment());
            Job::Resume { attempt, top, memo: self.memo, segments: storage.segments(), first }
        } else if self.stage == Stage::Connected {
            self.stage = Stage::Resuming;
            Job::Start(self.memo)
        } else if self.memo.batch != self.saved.batch {
            Job::Save(self.memo) // what a batch contains is known before it is sent
        } else if self.wants_batch(storage) && self.cut_at <= now {
            self.reached = storage.log_end();
            let room = core::mem::take(&mut self.room);
            Job::Cut { attempt, segments: storage.segments(), room }
        } else if self.memo != self.saved && self.save_at <= now {
            self.save_at = now + SAVE_EVERY;
            Job::Save(self.memo)
        } else {
            return None;
        };
        self.is_busy = true;
        Some(job)
    }

    /// Handles a job that is done.
    pub fn handle_job_done(&mut self, done: Done, now: Instant) {
        self.is_busy = false;
        match done {
            Done::Loaded(memo, flaw) => {
                (self.memo, self.saved, self.is_loaded) = (memo, memo, true);
                if let Some(flaw) = flaw {
                    self.push_event(Event::Forgotten(flaw));
                }
            }
            Done::Started => {
                let is_up = self.connection.established().is_some();
                self.stage = if is_up { Stage::Sending } else { Stage::Asking };
                (self.has_resumed, self.is_exhausted, self.cut_at) = (true, false, now);
                if self.error.is_none() {
                    self.push_event(Event::Connected);
                }
            }
            Done::Resumed(attempt, _) | Done::Cut(attempt, ..) if attempt != self.attempt => {}
            Done::Resumed(_, Ok(memo)) => {
                if memo.raise != self.memo.raise {
                    self.saved = memo;
                    self.push_event(Event::Raised(memo.sent));
                }
                self.memo = memo;
                self.stage = Stage::Sending;
                let is_first = !core::mem::replace(&mut self.has_resumed, true);
                (self.is_exhausted, self.cut_at) = (false, now);
                if self.error.take().is_some() || is_first {
                    self.push_event(Event::Connected);
                }
            }
            Done::Cut(_, Ok(batch)) => {
                self.is_exhausted = !batch.has_more;
                if self.is_read_error {
                    (self.error, self.is_read_error) = (None, false);
                }
                let gather = match self.engine {
                    Engine::Redis(..) if batch.entries >= MANY => GATHER_MANY,
                    Engine::Redis(..) => GATHER,
                    Engine::Http(..) => GATHER_HTTP,
                };
                self.cut_at = if batch.has_more { now } else { now + gather };
                if batch.entries > 0 {
                    self.ready = Some(batch);
                    self.send(now);
                } else if let Some(flight) = self.flight.as_mut().or(self.again.as_mut()) {
                    (flight.cursor, flight.segment) = (batch.cursor, batch.segment);
                } else {
                    self.pass(&batch, now);
                }
            }
            Done::Resumed(_, Err(error)) => {
                self.fail(format!("the log cannot be read: {error}"), now);
            }
            Done::Cut(_, Err(error)) => {
                self.cut_at = now + READ_RETRY;
                self.is_read_error = true;
                self.set_error(format!("the log cannot be read: {error}"));
            }
            Done::Saved(memo, Ok(())) => {
                (self.saved, self.cannot_save) = (memo, false);
                self.send(now);
            }
            Done::Saved(memo, Err(error)) => {
                self.saved = memo; // the next change is saved
                self.send(now);
                if !core::mem::replace(&mut self.cannot_save, true) {
                    self.push_event(Event::NotSaved(error));
                }
            }
        }
    }

    /// Begins nothing more, and has the memory saved.
    pub const fn handle_shutdown(&mut self, now: Instant) {
        self.is_stopping = true;
        self.save_at = now;
    }

    /// Returns whether the process may end after [`Feed::handle_shutdown`].
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_busy && self.memo == self.saved
    }

    /// Returns the number of the first segment that the storage must keep, when it has changed.
    pub fn poll_keep(&mut self, now: Instant) -> Option<u64> {
        let mut keep = None;
        while let Some(&(since, segment)) = self.passed.front()
            && since + KEEP_FOR <= now
        {
            keep = Some(segment);
            self.passed.pop_front();
        }
        keep
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Moves the cursor past a batch.
    pub(super) fn pass(&mut self, batch: &Batch, now: Instant) {
        self.memo.cursor = batch.cursor;
        if batch.segment != 0 && self.passed.back().is_none_or(|(_, last)| *last != batch.segment) {
            self.passed.push_back((now, batch.segment));
        }
    }

    /// Whether a batch is to be cut: the log has grown since the last one, and there is room.
    pub(super) fn wants_batch(&self, storage: &Storage) -> bool {
        let is_over = self.is_exhausted && self.reached == storage.log_end();
        let may_cut = match self.engine {
            Engine::Redis(..) => self.is_connected(),
            Engine::Http(..) => self.has_resumed,
        };
        may_cut && self.ready.is_none() && !is_over && !self.is_stopping
    }
}
