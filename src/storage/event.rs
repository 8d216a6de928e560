//! Events of the storage, and the conditions that they report, worded for people.

use core::fmt;
use core::time::Duration;

use super::file::FileName;
use super::task::DiskError;

/// An event for the log. A condition is reported once when it begins and once when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A condition has begun.
    Began(Problem),
    /// A condition has ended.
    Ended(Condition),
    /// A snapshot has replaced older files.
    Compacted {
        /// Records in the snapshot.
        records: u64,
        /// Bytes in the folder before.
        before: u64,
        /// Bytes in the folder after.
        after: u64,
        /// Time from the decision until the snapshot was in force.
        took: Duration,
    },
    /// Segments that a cursor had not read were given up, because `max_bytes` was reached.
    GivenUp {
        /// Number of the first segment given up.
        first: u64,
        /// Number of the last segment given up.
        last: u64,
    },
}

/// A condition that persists until it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The disk lacks records that the node has in memory.
    Behind,
    /// Every record is written, but the log cannot be compacted or continued in a new segment, so it
    /// grows.
    Growing,
}

/// A condition and the failed operation that is its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The condition.
    pub condition: Condition,
    /// True if updates are refused meanwhile: the mode is `always`, and the disk is behind.
    pub refuses: bool,
    /// The cause.
    pub cause: Cause,
}

/// The cause of a problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An operation failed.
    Failed {
        /// What failed, as a verb: "write", "sync", "create".
        action: &'static str,
        /// The file; `None` stands for the folder.
        file: Option<FileName>,
        /// The error.
        error: DiskError,
    },
    /// The folder has reached `max_bytes`.
    Limit {
        /// The limit.
        max_bytes: u64,
    },
}

/// The sentence for the log, `problems` and `--status`. It does not name the folder; the shell does.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; ", self.cause)?;
        f.write_str(match (self.condition, self.refuses) {
            (Condition::Behind, true) => {
                "updates are refused until the disk accepts writes again"
            }
            (Condition::Behind, false) => {
                "the node serves from memory, and writes what is missing once the disk accepts writes \
                 again"
            }
            (Condition::Growing, _) => {
                "records are still written, but old files are not removed; the node retries"
            }
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { action, file: Some(file), error } => {
                write!(f, "cannot {action} {file}: {error}")
            }
            Self::Failed { action, file: None, error } => write!(f, "cannot {action}: {error}"),
            Self::Limit { max_bytes } => {
                write!(f, "the folder has reached storage.max_bytes ({max_bytes})")
            }
        }
    }
}
