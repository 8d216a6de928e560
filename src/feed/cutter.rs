//! Cutting the log into batches, on a thread of its own.
//!
//! ```text
//! segment   H I U R U F … │ H I U U …
//!             ▲     ▲         ▲
//!             mark  place     a gap if this mark is ahead of the frames before it
//! ```

use std::collections::BTreeMap;
use std::io;

use super::batch::Batch;
use super::entry::{Entry, Filter};
use super::form::Form;
use super::id::{Id, Raise};
use super::memo::Memo;
use super::redis::Top;
use crate::storage::frame::{MAX_FRAME, Parsed, Salt, parse_frame};
use crate::storage::{FileName, Kind, Mark, Segment};

/// Bytes of the log that one call examines at most, so that a log with few entries does not take long.
const EXAMINED: u64 = 16 << 20;

/// Bytes read from a file at once; more than a frame.
const CHUNK: usize = 128 * 1024;

/// Bytes at the beginning of a segment that contain its header and its mark.
const HEAD: usize = 512;

/// Number of times that a place is read again after an error, before it is skipped.
const MAX_FAILURES: u32 = 5;

/// The files of the log.
pub trait Source {
    /// Appends at most `most` bytes of the segment from `offset` on. Returns fewer only at its end.
    ///
    /// # Errors
    ///
    /// As the file system: [`io::ErrorKind::NotFound`] if the segment has been deleted.
    fn read(&mut self, segment: u64, offset: u64, most: usize, out: &mut Vec<u8>)
    -> io::Result<()>;
}

/// The cutter.
pub struct Cutter {
    filter: Filter,
    form: Form,
    raise: Raise,
    /// The place after the last frame that was examined.
    place: Id,
    /// True if the ordinal of the place is known, so that a gap can be recognized.
    is_counted: bool,
    /// The place at which the next batch ends, if it has been sent before.
    end: Option<Id>,
    /// The marks of segments.
    marks: BTreeMap<u64, Found>,
    /// Bytes of the segment from the place on.
    buffer: Vec<u8>,
    /// Failures at this place.
    failures: u32,
}

/// A mark and the offset after it, or that there is none.
type Found = Option<(Mark, u64)>;

impl Cutter {
    /// A cutter. [`Cutter::resume`] or [`Cutter::start`] tells it where to begin.
    #[must_use]
    pub const fn new(filter: Filter, form: Form) -> Self {
        Self {
            filter,
            form,
            raise: Raise { from: 0, by: 0 },
            place: Id::ZERO,
            is_counted: false,
            end: None,
            marks: BTreeMap::new(),
            buffer: Vec::new(),
            failures: 0,
        }
    }

    /// Decides where to continue, from the last id of the stream and what is remembered. `first` is the
    /// number of the first segment of this process; it is `None` if the place was decided before in this
    /// process. Returns what is to be remembered, before anything is sent.
    ///
    /// # Errors
    ///
    /// If the log cannot be read.
    pub fn resume(
        &mut self,
        top: Top,
        memo: Memo,
        segments: &[Segment],
        first: Option<u64>,
        source: &mut impl Source,
    ) -> io::Result<Memo> {
        self.buffer.clear();
        self.find_marks(segments, source)?;
        let mut next = memo;
        let place = memo.raise.undo(top.id);
        let times = || self.marks.values().flatten().map(|(mark, _)| mark.millis);
        let oldest = times().min();
        let is_explained = oldest.is_none_or(|oldest| place.millis < oldest)
            || times().any(|time| time == place.millis);
        self.is_counted = true;
        if top.id == memo.sent {
            // The frames between the last entry and the cursor are filtered out.
        } else if top.id < memo.sent {
            next.cursor = place; // the stream has lost entries
            self.is_counted = top.is_ours;
        } else if is_explained {
            self.is_counted = top.is_ours || memo.cursor > place;
            next.cursor = place.max(memo.cursor);
        } else if let Some((mark, _)) = self.mark_of(first).filter(|_| top.is_ours) {
            // The folder is older than the stream: what it held has been sent already.
            next.cursor = Id::new(mark.millis.saturating_sub(1), u64::MAX, mark.ordinal);
            self.is_counted = false;
            if memo.raise.apply(Id { millis: mark.millis, sequence: 0 }).millis <= top.id.millis {
                next.raise = Raise { from: mark.millis, by: (top.id.millis - mark.millis) + 1 };
            }
        } else {
            // Another program writes to the stream.
            let is_later = |time: &u64| *time >= memo.cursor.millis;
            let from = times().filter(is_later).min().unwrap_or(memo.cursor.millis);
            let by = top.id.millis.saturating_sub(from).saturating_add(1);
            next.raise = Raise { from, by };
        }
        next.sent = top.id;
        (self.place, self.raise) = (next.cursor, next.raise);
        Ok(next)
    }

    /// Continues after the cursor. The next batch ends where the one that was sent last has ended.
    pub fn start(&mut self, memo: Memo) {
        self.buffer.clear();
        (self.place, self.raise) = (memo.cursor, memo.raise);
        self.is_counted = memo.cursor != Id::ZERO;
        self.end = memo.batch;
    }

    /// Cuts the next batch. `segments` are those of the log; nothing more is written to those before the
    /// last. Whether the batch has entries or not, its cursor is the place to which it leads. `room` is the
    /// memory for its bytes, usually that of an earlier batch.
    ///
    /// # Errors
    ///
    /// If the log cannot be read. A later call tries again.
    pub fn cut(
        &mut self,
        segments: &[Segment],
        mut room: Vec<u8>,
        source: &mut impl Source,
    ) -> io::Result<Batch> {
        self.find_marks(segments, source)?;
        room.clear();
        let mut batch = Batch { bytes: room, cursor: self.place, ..Batch::default() };
        let mut examined = 0;
        let last = segments.last().map(|segment| segment.number);
        loop {
            let here = segments.iter().find(|segment| {
                self.mark_of(Some(segment.number))
                    .is_some_and(|(mark, _)| mark.millis == self.place.millis)
            });
            if let Some(&segment) = here {
                batch.segment = segment.number;
                let is_last = Some(segment.number) == last;
                examined += self.cut_segment(segment, is_last, &mut batch, source)?;
                batch.cursor = self.place;
                if batch.is_full || examined >= EXAMINED {
                    batch.has_more = true;
                    break;
                }
                if self.place.offset() < length(segment) || is_last {
                    break;
                }
            }
            let next = segments.iter().find_map(|segment| {
                let (mark, offset) = self.mark_of(Some(segment.number))?;
                (mark.millis > self.place.millis).then_some((segment.number, mark, offset))
            });
            let Some((number, mark, offset)) = next else { break };
            if batch.entries > 0 {
                batch.has_more = true; // a batch is of one segment
                break;
            }
            self.enter(mark, offset, &mut batch);
            (batch.cursor, batch.segment) = (self.place, number);
        }
        if batch.entries > 0 {
            self.form.end(&mut batch.bytes);
        }
        self.end = self.end.filter(|&end| end > self.place);
        Ok(batch)
    }

    /// Continues at the beginning of a segment.
    fn enter(&mut self, mark: Mark, offset: u64, batch: &mut Batch) {
        let from = self.raise.apply(self.place);
        let missing = mark.ordinal.wrapping_sub(self.place.ordinal());
        self.place = Id::new(mark.millis, offset, mark.ordinal);
        self.buffer.clear();
        let is_counted = core::mem::replace(&mut self.is_counted, true);
        // Less than nothing is missing if the end of the log was lost after it had been sent.
        if is_counted && missing > 0 && missing <= u32::MAX / 2 {
            // There is room for the first entry of a batch.
            self.push_entry(&Entry::Gap { from, count: missing }, batch);
            batch.missing += u64::from(missing);
        }
    }

    /// Examines a segment from the place on. Returns the number of bytes examined.
    fn cut_segment(
        &mut self,
        segment: Segment,
        is_last: bool,
        batch: &mut Batch,
        source: &mut impl Source,
    ) -> io::Result<u64> {
        let salt = &Salt::of(FileName::Segment(segment.number));
        let (start, end) = (self.place.offset(), length(segment));
        while self.place.offset() < end && !batch.is_full && self.place.offset() - start < EXAMINED
        {
            let left = end - self.place.offset();
            if !self.fill(segment.number, left, source)? {
                self.skip_to(end);
                break;
            }
            let buffer = core::mem::take(&mut self.buffer);
            let ends = !is_last && buffer.len() as u64 >= left;
            let used = self.cut_frames(&buffer, ends, salt, batch);
            self.buffer = buffer;
            self.buffer.drain(..used);
            if used == 0 {
                // A full batch may have no room for the first frame of the buffer.
                if !is_last && !batch.is_full {
                    self.skip_to(end); // the file is shorter than it should be
                }
                break;
            }
        }
        Ok(self.place.offset() - start)
    }

    /// Reads on, unless the buffer has a frame in any case. `left` is the number of bytes from the place to
    /// the end of the segment. Returns false if the rest of the segment cannot be read.
    fn fill(&mut self, segment: u64, left: u64, source: &mut impl Source) -> io::Result<bool> {
        if self.buffer.len() as u64 >= left.min(MAX_FRAME as u64) {
            return Ok(true);
        }
        let most = left.min(CHUNK as u64) as usize - self.buffer.len();
        let from = self.place.offset() + self.buffer.len() as u64;
        match source.read(segment, from, most, &mut self.buffer) {
            Ok(()) => {
                self.failures = 0;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => {
                self.buffer.clear();
                self.failures += 1;
                if self.failures < MAX_FAILURES {
                    return Err(error);
                }
                self.failures = 0;
                Ok(false)
            }
        }
    }

    /// Takes frames from the buffer until the batch is full. Returns the number of bytes used. `ends` is
    /// true if nothing follows the buffer in the segment.
    fn cut_frames(&mut self, buffer: &[u8], ends: bool, salt: &Salt, batch: &mut Batch) -> usize {
        let mut at = 0;
        while at < buffer.len() && !batch.is_full {
            let rest = &buffer[at..];
            match parse_frame(rest, salt) {
                Parsed::Frame(kind, payload, length) if length <= rest.len() => {
                    let before = self.place;
                    self.advance(length, kind.is_own());
                    if kind.is_own() && !self.push_frame(kind, payload, batch) {
                        self.place = before;
                        break;
                    }
                    at += length;
                    batch.is_full |= self.end.is_some_and(|end| end <= self.place);
                }
                Parsed::Frame(..) | Parsed::Partial if !ends => break,
                Parsed::Frame(..) | Parsed::Partial | Parsed::Damaged => {
                    let line = memchr::memchr(b'\n', rest).map_or(rest.len(), |end| end + 1);
                    at += line;
                    self.advance(line, false);
                }
            }
        }
        at
    }

    fn advance(&mut self, length: usize, is_own: bool) {
        let Id { millis, .. } = self.place;
        let ordinal = self.place.ordinal().wrapping_add(u32::from(is_own));
        self.place = Id::new(millis, self.place.offset() + length as u64, ordinal);
    }

    fn skip_to(&mut self, offset: u64) {
        self.place = Id::new(self.place.millis, offset, self.place.ordinal());
        self.buffer.clear();
    }

    /// Appends the entry of a frame, if it is one that is wanted. Returns false if the batch has no room for
    /// it.
    fn push_frame(&mut self, kind: Kind, payload: &[u8], batch: &mut Batch) -> bool {
        if kind == Kind::UPDATE && self.filter != Filter::Fences {
            return self.push(batch, |form, out, id, is_first| {
                form.push_update(out, payload, id, is_first)
            });
        }
        match Entry::of(kind, payload) {
            Some(entry) if self.filter.wants(&entry) => self.push_entry(&entry, batch),
            _ => true,
        }
    }

    fn push_entry(&mut self, entry: &Entry<'_>, batch: &mut Batch) -> bool {
        self.push(batch, |form, out, id, is_first| {
            form.push(out, entry, id, is_first);
            true
        })
    }

    /// Appends what `write` does as the entry at the present place, unless it returns false. Returns false
    /// if the batch has no room for it.
    fn push(
        &mut self,
        batch: &mut Batch,
        write: impl FnOnce(&mut Form, &mut Vec<u8>, Id, bool) -> bool,
    ) -> bool {
        let (id, length) = (self.raise.apply(self.place), batch.bytes.len());
        if batch.entries == 0 {
            self.form.begin(&mut batch.bytes);
        }
        if !write(&mut self.form, &mut batch.bytes, id, batch.entries == 0) {
            batch.bytes.truncate(length);
            return true;
        }
        let limits = self.form.limits();
        if batch.entries > 0 && batch.bytes.len() > limits.bytes {
            batch.bytes.truncate(length);
            batch.is_full = true;
            return false;
        }
        if batch.entries == 0 {
            batch.first = id;
        }
        batch.last = id;
        batch.entries += 1;
        batch.is_full = batch.entries >= limits.entries || batch.bytes.len() >= limits.bytes;
        true
    }

    /// Finds the marks of segments that were not known, and forgets those of segments that are gone.
    fn find_marks(&mut self, segments: &[Segment], source: &mut impl Source) -> io::Result<()> {
        self.marks.retain(|number, _| segments.iter().any(|segment| segment.number == *number));
        let mut start = Vec::new();
        for (at, segment) in segments.iter().enumerate() {
            if self.marks.contains_key(&segment.number) {
                continue;
            }
            start.clear();
            let most = segment.length.min(HEAD as u64) as usize;
            match source.read(segment.number, 0, most, &mut start) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            let found = Mark::find(&start, &Salt::of(FileName::Segment(segment.number)));
            // The mark of the last segment may not have been written yet.
            if found.is_some() || at + 1 < segments.len() {
                self.marks.insert(segment.number, found);
            }
        }
        Ok(())
    }

    fn mark_of(&self, segment: Option<u64>) -> Found {
        self.marks.get(&segment?).copied().flatten()
    }
}

/// The length of a segment, as far as ids reach.
fn length(segment: Segment) -> u64 {
    segment.length.min(u64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
