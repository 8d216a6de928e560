//! The end of the log: what has been appended, what the kernel has, and what is durable.
//!
//! ```text
//!            durable        written   appended
//!               │              │         │
//! ━━━━━━━━━━━━━━┿━━━━━━━━━━━━━━┿━━━━━━━━━┥          positions
//!    on disk        in kernel     buffer
//! ```
//!
//! A failed write or sync leaves a hole between what was certainly written or durable and what has
//! been appended. The hole grows until there is a segment to continue in, and is closed by a snapshot.

use std::collections::VecDeque;

use super::file::FileName;
use super::frame::{self, Kind, Salt, frame_len, push_frame};
use super::task::Write;
use super::{Gate, SyncMode};
use crate::time::Instant;

/// The end of the log.
pub(super) struct Journal {
    mode: SyncMode,
    /// Position after everything that was appended.
    appended: u64,
    /// Frames for the current segment that the kernel may not have.
    buffer: Vec<u8>,
    /// Bytes of the buffer that the kernel has.
    taken: usize,
    /// The segment that is written. `None` after a failure, until there is another.
    current: Option<Segment>,
    /// Segments that are complete and not durable yet, oldest first.
    unsynced: VecDeque<Segment>,
    /// Positions up to this one are durable, except for the hole.
    synced: u64,
    hole: Option<Hole>,
    /// The position that the present round of syncs must reach.
    round: Option<u64>,
    /// The sync that the disk thread executes.
    in_flight: Option<Target>,
    /// The time at which the kernel received the first bytes that no round of syncs covers.
    dirty_since: Option<Instant>,
    shutdown: bool,
}

/// A segment in this process.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// Its number.
    pub(super) number: u64,
    salt: Salt,
    /// The position at which it begins.
    start: u64,
    /// The length of its header.
    header: u64,
    /// Bytes of frames that the kernel has.
    written: u64,
}

impl Segment {
    /// The position after what the kernel has.
    const fn end(&self) -> u64 {
        self.start + self.written
    }

    /// The length of the file.
    pub(super) const fn length(&self) -> u64 {
        self.header + self.written
    }
}

/// Positions from `from`, exclusive, to `to`, inclusive, which the disk may lack.
#[derive(Clone, Copy, Debug)]
struct Hole {
    from: u64,
    to: u64,
}

/// What a sync makes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) segment: u64,
    pub(super) position: u64,
}

impl Journal {
    /// A journal without a segment.
    pub(super) const fn new(mode: SyncMode) -> Self {
        Self {
            mode,
            appended: 0,
            buffer: Vec::new(),
            taken: 0,
            current: None,
            unsynced: VecDeque::new(),
            synced: 0,
            hole: None,
            round: None,
            in_flight: None,
            dirty_since: None,
            shutdown: false,
        }
    }

    /// Appends a frame. Returns the position after it.
    pub(super) fn append(&mut self, kind: Kind, payload: &[u8]) -> u64 {
        let from = self.appended;
        self.appended += frame_len(payload.len()) as u64;
        match (&self.current, &mut self.hole) {
            (Some(segment), _) => push_frame(&mut self.buffer, &segment.salt, kind, payload),
            (None, Some(hole)) => hole.to = self.appended,
            (None, None) => self.hole = Some(Hole { from, to: self.appended }),
        }
        self.appended
    }

    /// The bytes that the kernel must receive next.
    pub(super) fn poll_write(&self) -> Option<Write<'_>> {
        let segment = self.current.as_ref()?;
        let bytes = &self.buffer[self.taken..];
        let (file, offset) = (FileName::Segment(segment.number), segment.length());
        (!bytes.is_empty()).then_some(Write { file, offset, bytes })
    }

    /// Handles a write of `count` bytes.
    pub(super) fn handle_written(&mut self, count: usize, now: Instant) {
        let Some(segment) = &mut self.current else { return };
        let count = count.min(self.buffer.len() - self.taken);
        self.taken += count;
        segment.written += count as u64;
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
            if self.buffer.capacity() > KEPT_BUFFER {
                self.buffer.shrink_to(KEPT_BUFFER);
            }
        }
        self.dirty_since.get_or_insert(now);
    }

    /// Handles a failed write: what the kernel does not have is in the hole. Returns the segment,
    /// which ends with its last complete frame.
    pub(super) fn handle_write_failed(&mut self) -> Option<Segment> {
        let mut segment = self.current.take()?;
        let partial = self.taken - complete_frames(&self.buffer[..self.taken]);
        segment.written -= partial as u64;
        self.widen_hole(segment.end());
        self.discard_buffer();
        self.unsynced.push_back(segment.clone());
        Some(segment)
    }

    /// Takes `segment`, which exists and has a header of `header` bytes, as the current one. Returns
    /// the previous one, which is complete. The buffer is empty.
    pub(super) fn install(&mut self, segment: u64, header: u64) -> Option<Segment> {
        debug_assert!(self.buffer.is_empty());
        let salt = Salt::of(FileName::Segment(segment));
        let next = Segment { number: segment, salt, start: self.appended, header, written: 0 };
        let previous = self.current.replace(next)?;
        self.unsynced.push_back(previous.clone());
        Some(previous)
    }

    /// Returns the next sync that is due, unless one is being executed.
    pub(super) fn poll_sync(&mut self, now: Instant) -> Option<Target> {
        if self.in_flight.is_some() {
            return None;
        }
        self.round = self.round.filter(|&round| round > self.synced);
        if self.round.is_none() && self.sync_at().is_some_and(|at| at <= now) {
            self.round = Some(self.written());
            self.dirty_since = None;
        }
        self.round?;
        self.unsynced.retain(|segment| segment.end() > self.synced);
        let target = match (self.unsynced.front(), &self.current) {
            (Some(segment), _) => Target { segment: segment.number, position: segment.end() },
            (None, Some(segment)) if segment.written > 0 && segment.end() > self.synced => {
                Target { segment: segment.number, position: segment.end() }
            }
            _ => {
                self.round = None;
                return None;
            }
        };
        self.in_flight = Some(target);
        Some(target)
    }

    /// The time at which a round of syncs should begin.
    pub(super) fn sync_at(&self) -> Option<Instant> {
        let since = self.dirty_since?;
        match self.mode {
            _ if self.in_flight.is_some() || self.round.is_some() => None,
            _ if self.shutdown => Some(since),
            SyncMode::Always => Some(since),
            // The other half is for the disk.
            SyncMode::Interval(interval) => Some(since + interval / 2),
            SyncMode::Never => None,
        }
    }

    /// Handles the success of a sync.
    pub(super) fn handle_synced(&mut self, target: Target) {
        if self.in_flight.take() == Some(target) {
            self.synced = self.synced.max(target.position);
        }
    }

    /// Handles a failed sync: nothing that the kernel has of the segment is durable, nor will be by a
    /// repetition. Returns false if a snapshot has covered all of it in the meantime. If it was the
    /// current segment, nothing more is written to it, and `sealed` is called with it.
    pub(super) fn handle_sync_failed(
        &mut self,
        target: Target,
        sealed: impl FnOnce(&Segment),
    ) -> bool {
        self.in_flight = None;
        let segments = self.unsynced.iter().chain(&self.current);
        let matters = |it: &Segment| it.number == target.segment && it.end() > self.synced;
        if !segments.into_iter().any(matters) {
            return false;
        }
        self.round = None;
        self.widen_hole(self.synced);
        self.unsynced.clear();
        if let Some(poisoned) = self.current.take_if(|it| it.number == target.segment) {
            self.discard_buffer();
            sealed(&poisoned);
        }
        true
    }

    /// Ends the log: nothing is written any more. Returns the current segment.
    pub(super) const fn close(&mut self) -> Option<Segment> {
        self.current.take()
    }

    /// Takes note that the disk may lack records that were loaded.
    pub(super) fn open_hole(&mut self) {
        self.widen_hole(self.synced);
    }

    /// Handles a snapshot in force that holds all records up to `position`.
    pub(super) fn handle_covered(&mut self, position: u64) {
        self.synced = self.synced.max(position);
        self.hole = self.hole.filter(|hole| hole.to > position);
        self.unsynced.retain(|segment| segment.end() > position);
    }

    /// Syncs what has been appended, in all modes.
    pub(super) const fn handle_shutdown(&mut self, now: Instant) {
        self.shutdown = true;
        if self.dirty_since.is_none() && self.synced < self.written() {
            self.dirty_since = Some(now);
        }
    }

    /// Whether everything that can be durable is.
    pub(super) const fn is_idle(&self) -> bool {
        self.buffer.is_empty()
            && self.in_flight.is_none()
            && self.round.is_none()
            && self.dirty_since.is_none()
    }

    /// Whether the reply that waits for `position` may leave.
    pub(super) fn gate(&self, position: u64) -> Gate {
        let hole = self.hole.filter(|hole| position <= hole.to);
        let is_open = match self.mode {
            SyncMode::Always if hole.is_some_and(|hole| position > hole.from) => {
                return Gate::Refused;
            }
            SyncMode::Always => position <= self.synced,
            SyncMode::Interval(_) | SyncMode::Never => hole.is_some() || position <= self.written(),
        };
        if is_open { Gate::Open } else { Gate::Wait }
    }

    /// Position after everything that was appended.
    pub(super) const fn appended(&self) -> u64 {
        self.appended
    }

    /// Position up to which the kernel has everything, except for a hole.
    pub(super) const fn written(&self) -> u64 {
        match (&self.current, self.hole) {
            (Some(segment), _) => segment.end(),
            (None, Some(hole)) => hole.from,
            (None, None) => self.appended,
        }
    }

    /// Position up to which everything is durable.
    pub(super) fn durable(&self) -> u64 {
        self.hole.map_or(self.synced, |hole| self.synced.min(hole.from))
    }

    /// The segment that is written.
    pub(super) const fn current(&self) -> Option<&Segment> {
        self.current.as_ref()
    }

    /// Whether the disk may lack records.
    pub(super) const fn has_hole(&self) -> bool {
        self.hole.is_some()
    }

    /// Whether the kernel has everything that was appended.
    pub(super) const fn is_flushed(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Bytes that the kernel has not received.
    pub(super) const fn buffered(&self) -> u64 {
        (self.buffer.len() - self.taken) as u64
    }

    fn widen_hole(&mut self, from: u64) {
        let from = self.hole.map_or(from, |hole| hole.from.min(from));
        self.hole = Some(Hole { from, to: self.appended });
    }

    fn discard_buffer(&mut self) {
        self.buffer.clear();
        self.taken = 0;
    }
}

/// Capacity that the buffer keeps. A batch of commands is smaller.
const KEPT_BUFFER: usize = 1 << 20;

/// Returns the number of bytes in the complete frames at the beginning of `bytes`.
fn complete_frames(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(length) = frame::length_of(&bytes[at..]).filter(|it| at + it <= bytes.len()) {
        at += length;
    }
    at
}
