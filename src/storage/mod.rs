//! Storage: records survive a restart. Pure; the shell owns the files and the disk thread.
//!
//! [`Storage`] is a state machine that is driven like all of this crate. docs/storage.md specifies the
//! files, and ARCHITECTURE.md the design.
//!
//! # Start
//!
//! 1. The shell creates and locks the folder, lists it, and reads the manifest: [`Recovery::new`].
//! 2. For each file that [`Recovery::poll_file`] returns, it passes the content to
//!    [`Recovery::handle_input`], in chunks, or an error to [`Recovery::handle_failed`].
//! 3. [`Recovery::finish`] returns what was found, and [`Storage::new`] takes it.
//! 4. The shell executes tasks, on its own thread, until [`Storage::is_ready`]. If a task has failed
//!    before that, the folder cannot be written, and the node does not start.
//!
//! Then the node listens.
//!
//! # A turn
//!
//! | in | when |
//! |---|---|
//! | [`Storage::append`] | the directory has stored a record |
//! | [`Storage::handle_written`] | a write has succeeded, at least in part, or failed |
//! | [`Storage::handle_task_done`] | the disk thread has reported the end of a task |
//! | [`Storage::handle_directory`] | once per turn, after the replies have been sent |
//! | [`Storage::handle_timeout`] | the time of [`Storage::poll_timeout`] has come |
//! | [`Storage::handle_shutdown`] | the node is about to stop |
//!
//! | out | meaning |
//! |---|---|
//! | [`Storage::poll_write`] | in the commit phase, until it returns nothing: a write to the log |
//! | [`Storage::gate`] | whether a reply that waits for a position may leave |
//! | [`Storage::poll_task`] | a task for the disk thread; after everything else that was handled |
//! | [`Storage::poll_event`] | an event for the log |
//! | [`Storage::poll_timeout`] | the next deadline, after everything else |
//!
//! Promises:
//!
//! - Each lane has at most one task at a time, and a task is not repeated: one that fails is replaced
//!   by another later. Tasks that are lost because the process dies may have been executed in part.
//! - With [`SyncMode::Interval`] and [`SyncMode::Never`], every reply may leave once [`Storage::poll_write`]
//!   returns nothing: records have been written, or the disk has failed and that has been reported.
//!   [`Storage::gate`] then returns [`Gate::Open`].
//! - With [`SyncMode::Always`], a position goes from [`Gate::Wait`] to [`Gate::Open`] or
//!   [`Gate::Refused`], and from [`Gate::Refused`] to [`Gate::Open`] once a snapshot contains it. The
//!   gates can only have changed after [`Storage::handle_written`] and
//!   [`Storage::handle_task_done`].
//! - Memory is bounded: by the records appended in one batch, and two buffers of [`CHUNK`] bytes.

mod event;
mod file;
pub mod frame;
mod task;

use core::time::Duration;

pub use event::{Cause, Condition, Event, Problem};
pub use file::{FileName, LOCK, MAX_NUMBER};
pub use frame::Kind;
pub use task::{DiskError, Failed, Lane, Op, Purpose, Task, Write};

use crate::herd::directory::Directory;
use crate::time::{Instant, Wall};

/// Bytes of a snapshot that are collected in one turn and written by one task: about 0.2 ms of the
/// loop.
pub const CHUNK: usize = 128 * 1024;

/// The settings of the storage of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name of the node.
    pub node: Box<str>,
    /// When the log is synced.
    pub sync: SyncMode,
    /// Upper bound for the size of the folder.
    pub max_bytes: u64,
    /// Whether segments that a cursor has not read are kept over a restart; see
    /// [`Storage::keep_from`].
    pub keeps_segments: bool,
}

/// When the log is synced, which determines what a power cut can lose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMode {
    /// Before the AT line of a record is sent.
    Always,
    /// So that a record is durable this long after it was acknowledged, if the disk takes no more than
    /// half of that.
    Interval(Duration),
    /// When the kernel decides.
    Never,
}

/// A position in the log: the number of bytes appended in this process before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Whether a reply may leave that reveals the records up to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The reply may leave.
    Open,
    /// The reply waits.
    Wait,
    /// The record cannot be made durable at present. An IAMAT gets no AT line, and its connection is
    /// closed; a WHATSAT is answered.
    Refused,
}

/// The storage of one node.
pub struct Storage {
    settings: Settings,
    appended: u64,
}

impl Storage {
    /// The storage after a recovery.
    #[must_use]
    pub fn new(settings: Settings, recovered: Recovered, now: Instant) -> Self {
        let _ = (recovered, now);
        Self { settings, appended: 0 }
    }

    /// Returns whether the first segment exists, so that the node may listen.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        true
    }

    /// Returns how often the node has started with this folder, this start included. A folder that was
    /// restored from a copy counts from there.
    #[must_use]
    pub const fn boot(&self) -> u64 {
        1
    }

    /// Appends a record that the directory has stored. `line` has no LF. Returns the position after
    /// it, which [`Storage::gate`] takes.
    pub fn append(&mut self, kind: Kind, line: &[u8]) -> Position {
        let _ = kind;
        self.appended += frame::frame_len(line.len()) as u64;
        Position(self.appended)
    }

    /// Returns what must be written to the log now.
    pub const fn poll_write(&mut self) -> Option<Write<'_>> {
        None
    }

    /// Handles the end of a write: the number of bytes written, which may be less than all.
    pub fn handle_written(&mut self, result: Result<usize, DiskError>, now: Instant) {
        let _ = (result, now);
    }

    /// Returns the next task, of a lane that has none.
    pub const fn poll_task(&mut self) -> Option<Task> {
        None
    }

    /// Handles the end of a task. Takes the task back, whose buffers are used again.
    pub fn handle_task_done(&mut self, task: Task, result: Result<(), Failed>, now: Instant) {
        let _ = (task, result, now);
    }

    /// Decides whether a compaction is due, and collects the next part of its snapshot.
    pub const fn handle_directory(&mut self, directory: &Directory, now: Instant) {
        let _ = (directory, now);
    }

    /// Handles the time of [`Storage::poll_timeout`].
    pub const fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// Returns the time of the next [`Storage::handle_timeout`]. A time that has passed means that
    /// [`Storage::handle_directory`] has more to do in the next turn, which should come at once.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Returns the next event.
    pub const fn poll_event(&mut self) -> Option<Event> {
        None
    }

    /// Syncs what has been appended, whatever the mode, and starts nothing else. The shell goes on
    /// with writes and tasks until [`Storage::is_idle`].
    pub const fn handle_shutdown(&mut self, now: Instant) {
        let _ = now;
    }

    /// Returns whether nothing is being written, synced or executed.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        true
    }

    /// Returns whether the reply that waits for `position` may leave.
    #[must_use]
    pub fn gate(&self, position: Position) -> Gate {
        let _ = position;
        if self.settings.sync == SyncMode::Always { Gate::Wait } else { Gate::Open }
    }

    /// Returns the position after everything that was appended. A reply that reveals a record of
    /// unknown position may wait for this one.
    #[must_use]
    pub const fn appended(&self) -> Position {
        Position(self.appended)
    }

    /// Returns the position up to which the kernel has everything.
    #[must_use]
    pub const fn written(&self) -> Position {
        Position(self.appended)
    }

    /// Returns the position up to which everything is durable. Behind it there may be a hole; see
    /// [`Storage::gate`].
    #[must_use]
    pub const fn durable(&self) -> Position {
        Position(self.appended)
    }

    /// Returns the most severe condition that persists, for `problems`.
    #[must_use]
    pub const fn problem(&self) -> Option<&Problem> {
        None
    }

    /// Keeps the segments from this number on until they have been read, as far as `max_bytes`
    /// permits; `None` keeps none.
    pub const fn keep_from(&mut self, segment: Option<u64>) {
        let _ = segment;
    }
}

/// The result of a recovery.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Records read, including those that a newer one replaced or that had expired.
    pub records: u64,
    /// The first damaged places, each for one WARNING.
    pub damage: Vec<Damage>,
    /// The number of damaged places.
    pub damaged: u64,
    /// Bytes in all damaged places.
    pub damaged_bytes: u64,
}

/// A damaged place in a file, which was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: FileName,
    /// Offset of the first damaged byte.
    pub offset: u64,
    /// Number of damaged bytes.
    pub length: u64,
    /// What was found.
    pub kind: DamageKind,
}

/// The kind of a damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The end of a segment that was being written when the node died. It is truncated.
    TornTail,
    /// Frames that are not intact. Those behind them are.
    Corrupt,
    /// The file is shorter than the manifest says, or missing.
    Missing,
    /// The file cannot be read.
    Unreadable(DiskError),
}

/// The reason not to start with a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The folder belongs to another node.
    OtherNode(Box<str>),
    /// The folder was written in a newer format.
    NewerFormat(u64),
}

/// Loading the records of a folder into a directory.
pub struct Recovery {
    recovered: Recovered,
}

impl Recovery {
    /// Begins a recovery of the folder of `node` that contains the files `names`, others included.
    /// `manifest` is the content of [`FileName::Manifest`], or `None` if there is none or it cannot be
    /// read; at most [`MAX_MANIFEST`] bytes matter.
    ///
    /// # Errors
    ///
    /// If the manifest is intact, but that of another node or of a newer version.
    pub fn new<'n>(
        node: &str,
        names: impl IntoIterator<Item = &'n str>,
        manifest: Option<&[u8]>,
    ) -> Result<Self, Refusal> {
        let _ = (node, names.into_iter().count(), manifest);
        Ok(Self { recovered: Recovered::default() })
    }

    /// Returns the next file to read, from its beginning. The previous one has ended or failed.
    pub const fn poll_file(&mut self) -> Option<FileName> {
        None
    }

    /// Handles the next bytes of the file. Returns the number consumed; the rest is passed again with
    /// the bytes that follow, so the buffer must hold more than [`frame::MAX_FRAME`] bytes. `ended` is
    /// true if the file ends after `input`; everything is consumed then.
    ///
    /// # Errors
    ///
    /// If the manifest was damaged and the file belongs to another node or a newer version.
    pub fn handle_input(
        &mut self,
        input: &[u8],
        ended: bool,
        directory: &mut Directory,
        now: Wall,
    ) -> Result<usize, Refusal> {
        let _ = (ended, directory, now);
        Ok(input.len())
    }

    /// Handles a file that cannot be opened, or not be read from here on.
    pub fn handle_failed(&mut self, error: DiskError) {
        self.recovered.damage.push(Damage {
            file: FileName::Manifest,
            offset: 0,
            length: 0,
            kind: DamageKind::Unreadable(error),
        });
    }

    /// Ends the recovery. [`Recovery::poll_file`] has returned nothing.
    #[must_use]
    pub fn finish(self) -> Recovered {
        self.recovered
    }
}

/// Largest manifest. It has a line of less than fifty bytes per file.
pub const MAX_MANIFEST: usize = 4 << 20;
