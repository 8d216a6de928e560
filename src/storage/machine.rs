//! The state machine: decides what is written, synced, created and deleted, and when.

mod compaction;
mod files;
mod problems;

use core::time::Duration;
use std::collections::VecDeque;
use std::io;

use super::erasure::{Aside, Erasure, push_mark};
use super::event::{Cause, Event, Problem};
use super::file::FileName;
use super::folder::Folder;
use super::frame::{HEAD, Kind, frame_len};
use super::journal::{Journal, Segment, Target};
use super::recovery::{self, Recovered};
use super::snapshot::Snapshot;
use super::task::{DiskError, Failed, Lane, Op, Purpose, Task, Write};
use super::{Counters, Gate, Mark, Position, Settings, SyncMode, transition};
use crate::herd::directory::Directory;
use crate::protocol::time::Nanos;
use crate::time::{Instant, Wall};
use problems::RETRY;

/// Bytes in the payload of a time mark, at most: two times.
const MARK_BYTES: usize = 2 * 22;

/// The storage of one node.
pub struct Storage {
    settings: Settings,
    boot: u64,
    /// The payload of the first frame of each file.
    header: Vec<u8>,
    journal: Journal,
    folder: Folder,
    /// A segment that exists and has not been used, and the length of its header.
    spare: Option<(u64, u64)>,
    /// The snapshot in progress.
    snapshot: Option<Snapshot>,
    /// The number of the last snapshot that was begun. A number is not used twice.
    attempted: u64,
    /// True if a snapshot is due regardless of the size of the folder.
    rewrite: bool,
    erasure: Erasure,
    /// Files that are too old, if there are any.
    aside: Option<Aside>,
    /// The newest time in the files, while the clock is behind it.
    newest: Option<Nanos>,
    /// Files that have been loaded and may not be durable.
    unsynced: Vec<FileName>,
    manifest: ManifestState,
    /// True while the disk thread has a task of the lane [`Lane::Files`].
    is_busy: bool,
    /// True if space cannot be reserved.
    cannot_reserve: bool,
    /// A buffer for the next part of a snapshot.
    part: Vec<u8>,
    /// The time before which no further task of [`Lane::Files`] begins, after a failure.
    retry_at: Option<Instant>,
    /// The pause after the next failure.
    pause: Duration,
    /// The number of the first segment to keep for a cursor.
    keep_from: Option<u64>,
    /// The mark of the current segment; its ordinal is that of the next own frame.
    mark: Mark,
    /// The number of the first segment of this process; 0 if there is none.
    first: u64,
    /// The wall clock.
    wall: Wall,
    /// Bytes of a snapshot of the directory, when last examined.
    live: u64,
    behind: Option<Problem>,
    growing: Option<(Purpose, Problem)>,
    events: VecDeque<Event>,
    now: Instant,
    /// True once the first segment of this process exists.
    has_started: bool,
    is_stopping: bool,
    /// True once the manifest states that everything is durable, or is about to.
    is_closed: bool,
    /// Counters of the storage.
    pub counters: Counters,
}

/// Whether the manifest on disk is up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ManifestState {
    /// A start or a snapshot requires a new one.
    Outdated,
    /// The disk thread writes it.
    Publishing,
    Current,
}

impl Storage {
    /// The storage after a recovery.
    #[must_use]
    pub fn new(settings: Settings, recovered: Recovered, now: Instant) -> Self {
        let boot = recovered.boot + 1;
        let counters = Counters {
            records_loaded: recovered.records,
            damaged_places: recovered.damaged,
            damaged_bytes: recovered.damaged_bytes,
            ..Counters::default()
        };
        let erasure = Erasure::new(recovered.erase_in, now);
        let aside = recovered.aside_until.map(|until| Aside::new(until, now));
        let newest = recovered.newest().map(Wall::nanos);
        let Recovered { files, obsolete, truncate, highest, rewrite, clean, mark, .. } = recovered;
        let mut journal = Journal::new(settings.sync);
        let mut unsynced = Vec::new();
        if !clean && !files.is_empty() && settings.sync != SyncMode::Never {
            // The last process was killed before it synced them, or after a sync had failed: then they
            // cannot be synced any more, and a snapshot of what was read from them is required.
            unsynced = files.iter().map(|it| it.file).collect();
            journal.open_hole();
        }
        let mut folder = Folder::new(files, obsolete, truncate, highest);
        if !settings.keeps_segments {
            folder.release_kept(u64::MAX);
        }
        Self {
            header: recovery::header(&settings.node, boot),
            journal,
            keep_from: settings.keeps_segments.then_some(0),
            settings,
            boot,
            folder,
            spare: None,
            snapshot: None,
            attempted: 0,
            rewrite,
            erasure,
            aside,
            newest,
            unsynced,
            manifest: ManifestState::Outdated,
            is_busy: false,
            cannot_reserve: false,
            part: Vec::new(),
            retry_at: None,
            pause: RETRY.0,
            mark,
            first: 0,
            wall: Wall(0),
            live: 0,
            behind: None,
            growing: None,
            events: VecDeque::new(),
            now,
            has_started: false,
            is_stopping: false,
            is_closed: false,
            counters,
        }
    }

    /// Returns whether the manifest and the first segment have been written, so that the node may
    /// listen.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        self.journal.current().is_some()
    }

    /// Returns how often the node has started with this folder, this start included. A folder that was
    /// restored from a copy counts from there.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        self.boot
    }

    /// Appends a record that the directory has stored. `line` has no LF. Returns the position after
    /// it, which [`Storage::gate`] takes.
    pub fn append(&mut self, kind: Kind, line: &[u8]) -> Position {
        self.counters.records_appended += 1;
        if kind.is_own() {
            self.mark.ordinal = self.mark.ordinal.wrapping_add(1);
        }
        self.erasure.handle_appended(kind, line, self.snapshot.is_some(), self.now);
        Position(self.journal.append(kind, line))
    }

    /// Appends that a client has entered the fence of this name, or has left it for the reason `left`.
    /// `line` is the AT line that caused it. Without a feed, nothing is appended.
    pub fn append_transition(&mut self, fence: &str, left: Option<&str>, line: &[u8]) {
        if !self.settings.keeps_segments {
            return;
        }
        let mut payload = Vec::new();
        transition::push(&mut payload, fence.as_bytes(), left, line);
        let kind = if left.is_none() { Kind::ENTER } else { Kind::LEAVE };
        self.mark.ordinal = self.mark.ordinal.wrapping_add(1);
        self.journal.append(kind, &payload);
    }

    /// Appends the wall clock.
    pub fn append_time(&mut self, wall: Wall) {
        self.handle_wall(wall);
        let mut payload = Vec::new();
        push_mark(&mut payload, wall, self.newest);
        self.journal.append(Kind::TIME, &payload);
    }

    /// Handles the present wall clock, from which marks are made.
    pub fn handle_wall(&mut self, wall: Wall) {
        self.wall = wall;
        self.newest = self.newest.filter(|newest| *newest > wall.nanos());
        if let Some(aside) = &mut self.aside {
            aside.handle_wall(wall, self.now);
        }
    }

    /// Returns what must be written to the log now.
    pub fn poll_write(&mut self) -> Option<Write<'_>> {
        if !self.journal.is_flushed() && self.is_over_limit(self.journal.buffered()) {
            self.fail_write(Cause::Limit { max_bytes: self.settings.max_bytes });
        }
        self.journal.poll_write()
    }

    /// Handles the end of a write: the number of bytes written, which may be less than all.
    pub fn handle_written(&mut self, result: Result<usize, DiskError>, now: Instant) {
        self.now = now;
        let error = match result {
            Ok(count) if count > 0 => {
                self.counters.bytes_written += count as u64;
                self.journal.handle_written(count, now);
                if let Some(segment) = self.journal.current() {
                    self.folder.set_length(segment.number, segment.length());
                    if segment.length() >= self.segment_bytes() {
                        self.rotate();
                    }
                }
                return;
            }
            Ok(_) => DiskError::from(&io::Error::from(io::ErrorKind::WriteZero)),
            Err(error) => error,
        };
        self.counters.errors += 1;
        let file = self.journal.current().map(|segment| FileName::Segment(segment.number));
        self.fail_write(Cause::Failed { action: "write", file, error });
        self.continue_log();
    }

    /// Returns the next task, of a lane that has none.
    pub fn poll_task(&mut self) -> Option<Task> {
        if let Some(Target { segment, position }) = self.journal.poll_sync(self.now) {
            let ops = vec![Op::Sync { file: FileName::Segment(segment) }];
            return Some(Task {
                lane: Lane::Sync,
                ops,
                purpose: Purpose::Sync { segment, position },
            });
        }
        if self.is_busy {
            return None;
        }
        let (purpose, ops) = if self.is_stopping {
            self.last_task()?
        } else if self.retry_at.is_none() {
            self.next_files_task()?
        } else {
            return None;
        };
        self.is_busy = true;
        Some(Task { lane: Lane::Files, ops, purpose })
    }

    /// Handles the end of a task. Takes the task back, whose buffers are used again.
    pub fn handle_task_done(&mut self, task: Task, result: Result<(), Failed>, now: Instant) {
        self.now = now;
        let Task { ops, purpose, .. } = task;
        let cause = result.err().map(|failed| cause_of(&ops, failed));
        if let Purpose::Sync { segment, position } = purpose {
            return self.handle_sync_done(Target { segment, position }, cause);
        }
        self.counters.errors += u64::from(cause.is_some());
        self.is_busy = false;
        match purpose {
            Purpose::Sync { .. } => {}
            Purpose::Create { segment, header, reserved } => {
                self.folder.add_segment(segment, header, reserved);
                if cause.is_none() {
                    self.spare = Some((segment, header));
                } else {
                    self.folder.give_up(FileName::Segment(segment));
                }
            }
            Purpose::Snapshot { last } => {
                self.handle_part_done(ops, last, cause.is_some());
            }
            Purpose::Publish => {
                let is_done = cause.is_none();
                self.manifest =
                    if is_done { ManifestState::Current } else { ManifestState::Outdated };
                if let Some(snapshot) = self.snapshot.take_if(|it| is_done && it.is_complete()) {
                    self.put_in_force(&snapshot);
                }
            }
            Purpose::Delete => {
                let file = |op| if let Op::Delete { file } = op { Some(file) } else { None };
                for file in ops.into_iter().filter_map(file) {
                    if cause.is_none() {
                        self.folder.remove(file);
                    } else {
                        self.folder.put_back(file);
                    }
                }
            }
            Purpose::SyncLoaded => {
                if let Some(cause) = cause {
                    self.begin_behind(cause);
                }
                return;
            }
            // They save space and time, and nothing depends on them.
            Purpose::Truncate => return self.continue_log(),
            Purpose::Reserve { segment, size } => {
                self.cannot_reserve |= cause.is_some();
                if cause.is_none() {
                    self.folder.set_reserved(segment, size);
                }
                return;
            }
        }
        match cause {
            Some(cause) => self.fail_files(purpose, cause),
            None => self.end_growing(purpose),
        }
        self.continue_log();
    }

    /// Decides whether a compaction is due, and collects the next part of its snapshot.
    pub fn handle_directory(&mut self, directory: &Directory, now: Instant) {
        self.now = now;
        let frames = u64::from(directory.len()) * (HEAD as u64 + 1);
        let header = frame_len(self.header.len()) + frame_len(MARK_BYTES);
        self.live = directory.bytes() + frames + header as u64;
        if let Some(snapshot) = &mut self.snapshot {
            if snapshot.wants_records() {
                snapshot.collect(directory);
            }
            return;
        }
        self.continue_log();
        self.give_up_kept();
        self.give_up_aside();
        let can_begin = self.manifest == ManifestState::Current
            && self.retry_at.is_none()
            && !self.is_stopping
            && self.journal.is_flushed();
        if can_begin && self.is_due(directory) {
            self.begin_snapshot(directory);
        }
    }

    /// Handles the time of [`Storage::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.retry_at = self.retry_at.filter(|&at| at > now);
    }

    /// Returns the time of the next [`Storage::handle_timeout`]. A time that has passed means that
    /// [`Storage::handle_directory`] has more to do in the next turn, which should come at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let collects = self.snapshot.as_ref().is_some_and(Snapshot::wants_records);
        let collect_at = (collects && !self.is_stopping).then_some(self.now);
        let erase_at = self.erasure.poll_timeout(self.now);
        let delete_at = self.aside.as_ref().and_then(|aside| aside.poll_timeout(self.now));
        let others = [self.retry_at, collect_at, erase_at, delete_at];
        others.into_iter().chain([self.journal.sync_at()]).flatten().min()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Syncs what has been appended, in all modes, and begins nothing else. The shell continues to
    /// execute writes and tasks until [`Storage::is_idle`].
    pub fn handle_shutdown(&mut self, now: Instant) {
        self.now = now;
        self.is_stopping = true;
        self.journal.handle_shutdown(now);
    }

    /// Returns whether the shell may end the process after [`Storage::handle_shutdown`]: nothing is
    /// left to do, or the disk has failed.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        let is_done = self.is_closed || self.journal.has_hole() || !self.is_published();
        self.journal.is_idle() && !self.is_busy && is_done
    }

    const fn is_published(&self) -> bool {
        matches!(self.manifest, ManifestState::Current)
    }

    /// Returns whether the reply that waits for `position` may leave.
    #[must_use]
    pub fn gate(&self, position: Position) -> Gate {
        self.journal.gate(position.0)
    }

    /// Returns the position after everything that was appended. A reply that reveals a record of
    /// unknown position may wait for this one.
    #[must_use]
    pub const fn appended(&self) -> Position {
        Position(self.journal.appended())
    }

    /// Returns the position up to which the kernel has everything.
    #[must_use]
    pub const fn written(&self) -> Position {
        Position(self.journal.written())
    }

    /// Returns the position up to which everything is durable. Behind it there may be a hole; see
    /// [`Storage::gate`].
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.journal.durable())
    }

    /// Returns whether the disk may lack records that were appended.
    #[must_use]
    pub const fn is_behind(&self) -> bool {
        self.journal.has_hole()
    }

    /// Returns the most severe condition that persists, for `problems`.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.behind.as_ref().or(self.growing.as_ref().map(|(_, problem)| problem))
    }

    /// Returns the number of bytes in the files of the folder.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.folder.sizes().total
    }

    /// Keeps the segments from this number on until they have been read, as far as `max_bytes`
    /// permits. With [`Settings::keeps_segments`], all are kept until the first call.
    pub fn keep_from(&mut self, segment: u64) {
        self.keep_from = Some(segment);
        self.folder.release_kept(segment);
    }

    /// Returns the segments that can be read, oldest first. Nothing more is written to those before the
    /// last.
    #[must_use]
    pub fn segments(&self) -> Vec<super::Segment> {
        let spare = self.spare.map(|(number, _)| number);
        self.folder.segments().filter(|it| Some(it.number) != spare).collect()
    }

    /// Returns the segment that is written, if any, and its length.
    #[must_use]
    pub fn log_end(&self) -> Option<super::Segment> {
        let segment = self.journal.current()?;
        Some(super::Segment { number: segment.number, length: segment.length() })
    }

    /// Returns the number of own frames that have been appended so far, in earlier processes as well. It
    /// wraps around.
    #[must_use]
    pub const fn ordinal(&self) -> u32 {
        self.mark.ordinal
    }

    /// Returns the number of the first segment of this process. There is one once
    /// [`Storage::is_ready`].
    #[must_use]
    pub const fn first_segment(&self) -> u64 {
        self.first
    }

    /// Continues the log in the spare segment, if there is none at present.
    fn continue_log(&mut self) {
        if self.journal.current().is_none()
            && !self.is_stopping
            && !self.must_wait()
            && let Some((number, header)) = self.spare.take()
        {
            self.has_started = true;
            self.journal.install(number, header);
            self.append_mark(number);
        }
    }

    /// Continues the log in the spare segment. Returns false if there is none yet, or the kernel does
    /// not have everything yet.
    fn rotate(&mut self) -> bool {
        if !self.journal.is_flushed() {
            return false;
        }
        let Some((number, header)) = self.spare.take() else { return false };
        if let Some(previous) = self.journal.install(number, header) {
            self.seal(&previous);
        }
        self.append_mark(number);
        true
    }

    /// Appends the mark of the segment in which the log continues.
    fn append_mark(&mut self, segment: u64) {
        if !self.settings.keeps_segments {
            return;
        }
        if self.first == 0 {
            self.first = segment;
        }
        let wall = u64::try_from(self.wall.nanos() / MILLISECOND).unwrap_or(0);
        self.mark.millis = wall.max(self.mark.millis.saturating_add(1));
        let mut payload = Vec::new();
        self.mark.push(&mut payload);
        self.journal.append(Kind::MARK, &payload);
    }

    fn seal(&mut self, segment: &Segment) {
        self.folder.seal(segment.number, segment.length());
    }

    fn fail_write(&mut self, cause: Cause) {
        if let Some(segment) = self.journal.handle_write_failed() {
            self.seal(&segment);
        }
        self.begin_behind(cause);
    }

    fn handle_sync_done(&mut self, target: Target, cause: Option<Cause>) {
        let Some(cause) = cause else {
            self.counters.syncs += 1;
            return self.journal.handle_synced(target);
        };
        let folder = &mut self.folder;
        let seal = |segment: &Segment| folder.seal(segment.number, segment.length());
        if self.journal.handle_sync_failed(target, seal) {
            self.counters.errors += 1;
            self.begin_behind(cause);
        }
        self.continue_log();
    }
}

/// Nanoseconds in a millisecond.
const MILLISECOND: Nanos = 1_000_000;

fn cause_of(ops: &[Op], failed: Failed) -> Cause {
    let (action, file) = ops.get(failed.op).map_or(("use", None), Op::describe);
    Cause::Failed { action, file, error: failed.error }
}
