//! What the shell does for the storage: writes on the loop, tasks on the disk thread.

use core::fmt;
use std::io;

use super::file::FileName;

/// One write to the current segment, which the shell performs on the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write<'a> {
    /// The segment. It exists: the task that created it has been reported as done.
    pub file: FileName,
    /// The offset in the file.
    pub offset: u64,
    /// The bytes, at least one.
    pub bytes: &'a [u8],
}

/// A list of operations that the disk thread executes in order until one fails.
#[derive(Debug, PartialEq, Eq)]
pub struct Task {
    /// The lane of the task. Tasks of different lanes may run at the same time.
    pub lane: Lane,
    /// The operations, at least one.
    pub ops: Vec<Op>,
    /// The reason, which the shell need not know.
    pub purpose: Purpose,
}

/// A queue of tasks. Each lane has at most one task at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Syncing the log: replies may be waiting.
    Sync,
    /// Everything else.
    Files,
}

/// A primitive operation on the folder of the node. Each is one system call or a few; it either
/// succeeds as a whole or has failed.
#[derive(Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates the file, or empties it if it exists, and reserves `size` bytes for it, like
    /// [`Op::Reserve`]. The operation succeeds even if the space cannot be reserved.
    Create {
        /// The file.
        file: FileName,
        /// Bytes to reserve.
        size: u64,
    },
    /// Writes all `bytes`.
    Write {
        /// The file, which exists.
        file: FileName,
        /// The offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Reserves space for the file up to `size` bytes: reading what has not been written returns
    /// zeros. If the file system cannot do so, this is an error or nothing at all.
    Reserve {
        /// The file, which exists.
        file: FileName,
        /// The size of the file afterwards.
        size: u64,
    },
    /// `fdatasync`.
    Sync {
        /// The file, which exists.
        file: FileName,
    },
    /// `fsync` of the folder, after a file in it was created, renamed or deleted.
    SyncFolder,
    /// Gives `from` the name `to`, and replaces `to` if it exists.
    Rename {
        /// The present name.
        from: FileName,
        /// The new name.
        to: FileName,
    },
    /// Sets the size of the file. The file may be shorter already; then it remains as it is.
    Truncate {
        /// The file.
        file: FileName,
        /// The new size.
        length: u64,
    },
    /// Deletes the file. A file that does not exist is a success.
    Delete {
        /// The file.
        file: FileName,
    },
}

impl Op {
    /// Returns what the operation does and to which file, for messages: "write", "sync", "create".
    #[must_use]
    pub const fn describe(&self) -> (&'static str, Option<FileName>) {
        match *self {
            Self::Create { file, .. } => ("create", Some(file)),
            Self::Write { file, .. } => ("write", Some(file)),
            Self::Reserve { file, .. } => ("reserve space for", Some(file)),
            Self::Sync { file } => ("sync", Some(file)),
            Self::SyncFolder => ("sync the folder", None),
            Self::Rename { to, .. } => ("replace", Some(to)),
            Self::Truncate { file, .. } => ("truncate", Some(file)),
            Self::Delete { file } => ("delete", Some(file)),
        }
    }
}

/// The reason for a task, for the state machine alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A sync of the log.
    Sync {
        /// The segment.
        segment: u64,
        /// Positions up to this one are durable afterwards.
        position: u64,
    },
    /// A sync of the files that have been loaded.
    SyncLoaded,
    /// A new segment.
    Create {
        /// Its number.
        segment: u64,
        /// The length of its header.
        header: u64,
        /// Bytes reserved for it.
        reserved: u64,
    },
    /// A part of the snapshot in progress.
    Snapshot {
        /// Whether this is the last part, which also syncs the snapshot.
        last: bool,
    },
    /// A new manifest.
    Publish,
    /// Deletion of files that are no longer needed.
    Delete,
    /// Release of the space that a sealed segment does not use.
    Truncate,
    /// Reservation of space ahead of the log.
    Reserve {
        /// The segment.
        segment: u64,
        /// Its size afterwards.
        size: u64,
    },
}

impl Purpose {
    /// Whether the success of a task with this purpose shows that what made `failed` fail is over.
    pub(super) const fn settles(self, failed: Self) -> bool {
        match failed {
            Self::Create { .. } => matches!(self, Self::Create { .. }),
            Self::Snapshot { .. } => matches!(self, Self::Snapshot { last: true }),
            Self::Publish => matches!(self, Self::Publish),
            Self::Delete => matches!(self, Self::Delete),
            Self::Sync { .. } | Self::SyncLoaded | Self::Truncate | Self::Reserve { .. } => true,
        }
    }
}

/// An operation of a task that failed. The operations before it have succeeded, and those after it
/// were not executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Index of the operation in [`Task::ops`].
    pub op: usize,
    /// The error.
    pub error: DiskError,
}

/// An error of the file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// Its kind.
    pub kind: io::ErrorKind,
    /// Its text, as the system words it.
    pub text: Box<str>,
}

impl DiskError {
    /// Returns whether the file system, the quota or the largest file size has no room left.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        matches!(
            self.kind,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }
}

impl From<&io::Error> for DiskError {
    fn from(error: &io::Error) -> Self {
        Self { kind: error.kind(), text: error.to_string().into() }
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
