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
//! | [`Storage::append_transition`] | with a feed, a record of this node has caused a transition |
//! | [`Storage::append_time`] | at the start, at the end, and every ten minutes |
//! | [`Storage::handle_wall`] | before anything else of a turn |
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

mod damage;
mod erasure;
mod event;
mod file;
mod folder;
pub mod frame;
mod growth;
mod journal;
mod machine;
mod manifest;
mod mark;
mod reader;
mod recovery;
mod snapshot;
mod task;
mod transition;

use core::time::Duration;

pub use damage::{Damage, DamageKind, Refusal};
pub use event::{Cause, Condition, Event, Problem};
pub use file::{FileName, LOCK, MAX_NUMBER};
pub use frame::Kind;
pub use machine::Storage;
pub use manifest::{MAX_MANIFEST, VERSION};
pub use mark::Mark;
pub use recovery::{Recovered, Recovery};
pub use task::{DiskError, Failed, Lane, Op, Purpose, Task, Write};
pub use transition::Transition;

use crate::counters::counters;

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
    /// Key material to keep in the manifest; see [`Recovery::key`].
    pub key: Option<[u8; 16]>,
    /// Whether there is a feed: each segment has a [`Mark`], and those that the feed has not read are
    /// kept over a restart; see [`Storage::keep_from`].
    pub keeps_segments: bool,
}

/// A segment of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number.
    pub number: u64,
    /// The bytes in it that the kernel has.
    pub length: u64,
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

counters! {
    /// Monotonic counters of the storage since start-up.
    Counters {
        storage_records_total: "Records passed to the storage, by what happened to them." {
            records_loaded (source = "files"): "Records read from files at the start.",
            records_appended (source = "log"): "Records appended to the log.",
        }
        storage_written_bytes_total: "Bytes written to the log." { bytes_written }
        storage_syncs_total: "Successful syncs of the log." { syncs }
        storage_compactions_total: "Snapshots that have replaced older files." { compactions }
        storage_errors_total: "Failed operations on the folder." { errors }
        storage_damaged_places_total: "Damaged places found in files at the start." {
            damaged_places
        }
        storage_damaged_bytes_total: "Bytes in these places." { damaged_bytes }
    }
}
