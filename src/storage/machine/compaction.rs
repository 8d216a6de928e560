//! Compaction: when a snapshot is due, and the bounds on the size of the folder.

use super::problems::RETRY;
use super::{ManifestState, Storage};
use crate::herd::directory::Directory;
use crate::storage::erasure::push_mark;
use crate::storage::event::{Condition, Event};
use crate::storage::snapshot::Snapshot;

/// Size at which writing continues in a new segment.
const SEGMENT: u64 = 8 << 20;

/// What the folder may take beyond three times the live records.
const ALLOWANCE: u64 = 64 << 20;

/// Garbage that a compaction must remove at least: less is not worth its cost.
const LEAST_GARBAGE: u64 = 4 << 20;

/// Files to load at the next start, at most. Every start adds one.
const MAX_FILES: u64 = 1000;

impl Storage {
    /// Whether a snapshot should be begun.
    pub(super) fn is_due(&self, directory: &Directory) -> bool {
        if !self.has_room_for_snapshot() {
            return false;
        }
        let (sizes, max) = (self.folder.sizes(), self.settings.max_bytes);
        if self.rewrite || self.journal.has_hole() || self.erasure.is_due(self.now) {
            return true;
        }
        let lines = directory.bytes() + u64::from(directory.len());
        let garbage = sizes.content.saturating_sub(self.live);
        let segment = self.segment_bytes();
        let compactable = sizes.total - sizes.kept - sizes.aside;
        let exceeds_bound = compactable + self.live + segment > 3 * lines + ALLOWANCE
            && garbage >= LEAST_GARBAGE.max(self.live / 4);
        let exceeds_limit = sizes.total + self.live + 4 * segment > max && garbage >= segment;
        exceeds_bound || exceeds_limit || sizes.live_files > MAX_FILES
    }

    pub(super) fn begin_snapshot(&mut self, directory: &Directory) {
        let Some(current) = self.journal.current().map(|segment| segment.number) else { return };
        // What was appended to a fresh segment need not be written again.
        let is_fresh =
            self.journal.has_hole() && current > self.attempted && !self.erasure.is_pending();
        if !is_fresh && !self.rotate() {
            return;
        }
        let Some(number) = self.journal.current().map(|segment| segment.number) else { return };
        self.attempted = number;
        let covered = self.journal.appended();
        let before = self.bytes();
        let mut snapshot =
            Snapshot::new(number, covered, &self.header, directory, before, self.now);
        if self.wall.nanos() > 0 {
            let mut mark = Vec::new();
            push_mark(&mut mark, self.wall, self.newest);
            snapshot.push_time(&mark);
        }
        self.snapshot.insert(snapshot).collect(directory);
    }

    /// Handles a manifest on disk that lists `snapshot`.
    pub(super) fn put_in_force(&mut self, snapshot: &Snapshot) {
        self.folder.put_in_force(snapshot.number, self.keep_from);
        self.journal.handle_covered(snapshot.covered);
        self.rewrite = false;
        self.erasure.handle_snapshot();
        self.part = Vec::new();
        self.counters.compactions += 1;
        self.push_event(Event::Compacted {
            records: snapshot.records,
            before: snapshot.before,
            after: self.folder.sizes().content + self.folder.sizes().kept,
            took: self.now.since(snapshot.began),
        });
        if !self.journal.has_hole() && self.behind.take().is_some() {
            self.pause = RETRY.0;
            self.push_event(Event::Ended(Condition::Behind));
        }
    }

    /// Gives up segments that are kept for a cursor, oldest first, if there is no room for them.
    pub(super) fn give_up_kept(&mut self) {
        let sizes = self.folder.sizes();
        let needed = sizes.content + sizes.kept + self.live + 5 * self.segment_bytes();
        if sizes.kept == 0 || needed <= self.settings.max_bytes {
            return;
        }
        let oldest = self.folder.oldest_kept().unwrap_or(0);
        if let Some((first, last)) = self.folder.release_kept(oldest + 1) {
            self.push_event(Event::GivenUp { first, last });
        }
    }

    /// Gives up the files that are set aside once their time has passed or there is no room for them.
    pub(super) fn give_up_aside(&mut self) {
        let Some(aside) = &self.aside else { return };
        let needed = self.folder.sizes().total + self.live + 5 * self.segment_bytes();
        let is_over = aside.is_over(self.now) || needed > self.settings.max_bytes;
        if is_over && self.manifest == ManifestState::Current {
            self.aside = None;
            self.folder.release_aside();
            // It lists them.
            self.manifest = ManifestState::Outdated;
        }
    }

    /// Whether `more` bytes in the log would leave no room for the next snapshot, in which they may be
    /// new clients. The size of two segments remains free, so that a start always finds room.
    pub(super) fn is_over_limit(&self, more: u64) -> bool {
        let written = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.length);
        let needed = 2 * more + self.live.saturating_sub(written) + 2 * self.segment_bytes();
        self.folder.sizes().total + needed > self.settings.max_bytes
    }

    fn has_room_for_snapshot(&self) -> bool {
        self.folder.sizes().total + self.live <= self.settings.max_bytes
    }

    /// Whether there is no room for another segment. The first one of a process is always created, as
    /// the limit may have been lowered, and so is one that is needed to close a hole.
    pub(super) fn must_wait(&self) -> bool {
        let mends = self.journal.has_hole() && self.has_room_for_snapshot();
        self.has_started && self.is_over_limit(0) && !mends
    }

    /// Size of a segment. A small folder has smaller ones.
    pub(super) fn segment_bytes(&self) -> u64 {
        (self.settings.max_bytes / 32).min(SEGMENT)
    }
}
