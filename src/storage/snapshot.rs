//! A snapshot in progress: a walk over the slots of the directory, a bounded part per turn.

use super::CHUNK;
use super::file::FileName;
use super::frame::{Kind, Salt, push_frame};
use super::task::Op;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::time::Instant;

/// Slots examined in one turn. Free ones take less time than a record, but are not free.
const SLOTS_PER_TURN: u32 = 8192;

/// Bytes after which the snapshot is synced while it is being written, so that the last sync does not
/// take long and the kernel does not hold much that is dirty.
const SYNC_BYTES: u64 = 8 << 20;

/// A snapshot in progress.
pub(super) struct Snapshot {
    /// Number of the first segment that it does not replace.
    pub(super) number: u64,
    /// It holds all records up to this position.
    pub(super) covered: u64,
    /// The time at which it was begun.
    pub(super) began: Instant,
    /// Bytes in the folder at that time.
    pub(super) before: u64,
    /// Records collected so far.
    pub(super) records: u64,
    /// Bytes that tasks have been given to write.
    pub(super) length: u64,
    salt: Salt,
    /// The slots from `next` up to `end` have not been visited. Later ones are in the log.
    next: u32,
    end: u32,
    /// Frames that have not been given to a task.
    chunk: Vec<u8>,
    /// Bytes since the last sync.
    unsynced: u64,
    /// True if the last part has been given to a task.
    is_complete: bool,
}

impl Snapshot {
    /// Begins a snapshot of `directory` that replaces all segments before `number`. Everything up to
    /// the position `covered` has been applied to the directory.
    pub(super) fn new(
        number: u64,
        covered: u64,
        header: &[u8],
        directory: &Directory,
        before: u64,
        now: Instant,
    ) -> Self {
        let salt = Salt::of(FileName::Snapshot(number));
        let mut chunk = Vec::with_capacity(CHUNK);
        push_frame(&mut chunk, &salt, Kind::HEADER, header);
        Self {
            number,
            covered,
            began: now,
            before,
            records: 0,
            length: 0,
            salt,
            next: 0,
            end: directory.slots(),
            chunk,
            unsynced: 0,
            is_complete: false,
        }
    }

    /// Adds a time mark.
    pub(super) fn push_time(&mut self, mark: &[u8]) {
        push_frame(&mut self.chunk, &self.salt, Kind::TIME, mark);
    }

    /// Its file.
    pub(super) const fn file(&self) -> FileName {
        FileName::Snapshot(self.number)
    }

    /// Whether there is room for more records in this part.
    pub(super) const fn wants_records(&self) -> bool {
        self.next < self.end && self.chunk.len() < CHUNK
    }

    /// Whether all parts have been given to tasks.
    pub(super) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Collects the records of further slots.
    pub(super) fn collect(&mut self, directory: &Directory) {
        let last = self.end.min(self.next.saturating_add(SLOTS_PER_TURN));
        while self.next < last && self.chunk.len() < CHUNK {
            if let Some(line) = directory.line(Slot(self.next)) {
                push_frame(&mut self.chunk, &self.salt, Kind::SNAPSHOT, line);
                self.records += 1;
            }
            self.next += 1;
        }
    }

    /// Returns the operations that write the next part, if it is ready, and whether it is the last.
    /// The part after it is collected in `buffer`, which is empty.
    pub(super) fn poll_part(&mut self, buffer: &mut Vec<u8>) -> Option<(Vec<Op>, bool)> {
        let last = self.next >= self.end;
        if self.is_complete || (self.chunk.len() < CHUNK && !last) {
            return None;
        }
        let (file, offset) = (self.file(), self.length);
        let bytes = core::mem::replace(&mut self.chunk, core::mem::take(buffer));
        self.length += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        let mut ops = Vec::with_capacity(4);
        if offset == 0 {
            ops.push(Op::Create { file, size: 0 });
        }
        ops.push(Op::Write { file, offset, bytes });
        if last || self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            ops.push(Op::Sync { file });
        }
        if last {
            ops.push(Op::SyncFolder);
            self.is_complete = true;
        }
        Some((ops, last))
    }
}
