//! What the thread of a feed does: it reads the log, and keeps the memory of the feed.

use std::io;

use super::batch::Batch;
use super::cutter::{Cutter, Source};
use super::memo::{MAX_MEMO, Memo};
use super::redis::Top;
use crate::storage::Segment;

/// The files of a feed.
pub trait Files: Source {
    /// Returns at most `most` bytes of `FEED`, or nothing if it does not exist.
    ///
    /// # Errors
    ///
    /// As the file system.
    fn load(&mut self, most: usize) -> io::Result<Vec<u8>>;

    /// Replaces `FEED` atomically.
    ///
    /// # Errors
    ///
    /// As the file system.
    fn save(&mut self, text: &[u8]) -> io::Result<()>;
}

/// A job for the thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// Load the memory.
    Load,
    /// Decide where to continue; see [`Cutter::resume`].
    Resume {
        /// The attempt, which is returned.
        attempt: u64,
        /// The last id of the stream.
        top: Top,
        /// What is remembered.
        memo: Memo,
        /// The segments of the log.
        segments: Vec<Segment>,
        /// The first segment of this process, until the place has been decided once.
        first: Option<u64>,
    },
    /// Continue after the cursor; see [`Cutter::start`].
    Start(Memo),
    /// Cut the next batch.
    Cut {
        /// The attempt, which is returned.
        attempt: u64,
        /// The segments of the log.
        segments: Vec<Segment>,
        /// The memory for its bytes.
        room: Vec<u8>,
    },
    /// Save the memory.
    Save(Memo),
}

/// A job that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// The memory, and whether it was damaged or could not be read.
    Loaded(Memo, Option<String>),
    /// The cutter continues after the cursor.
    Started,
    /// The place has been decided, or the log cannot be read.
    Resumed(u64, Result<Memo, String>),
    /// The next batch, or the log cannot be read.
    Cut(u64, Result<Batch, String>),
    /// The memory has been saved, or not.
    Saved(Memo, Result<(), String>),
}

/// Executes jobs in their order.
pub struct Worker {
    cutter: Cutter,
}

impl Worker {
    /// A worker with this cutter.
    #[must_use]
    pub const fn new(cutter: Cutter) -> Self {
        Self { cutter }
    }

    /// Executes a job. May take as long as the disk does.
    pub fn execute(&mut self, job: Job, files: &mut impl Files) -> Done {
        match job {
            Job::Load => {
                let (memo, flaw) = match files.load(MAX_MEMO + 1) {
                    Ok(text) if text.is_empty() => (Some(Memo::default()), None),
                    Ok(text) => (Memo::parse(&text), Some("it is damaged".to_owned())),
                    Err(error) => (None, Some(error.to_string())),
                };
                let flaw = flaw.filter(|_| memo.is_none());
                Done::Loaded(memo.unwrap_or_default(), flaw)
            }
            Job::Resume { attempt, top, memo, segments, first } => {
                let resumed = self.cutter.resume(top, memo, &segments, first, files);
                // Raised ids are remembered before one of them is used.
                let resumed = resumed.and_then(|next| {
                    if next.raise != memo.raise {
                        files.save(&next.to_text())?;
                    }
                    Ok(next)
                });
                Done::Resumed(attempt, resumed.map_err(|error| error.to_string()))
            }
            Job::Start(memo) => {
                self.cutter.start(memo);
                Done::Started
            }
            Job::Cut { attempt, segments, room } => {
                let batch = self.cutter.cut(&segments, room, files);
                Done::Cut(attempt, batch.map_err(|error| error.to_string()))
            }
            Job::Save(memo) => {
                let saved = files.save(&memo.to_text()).map_err(|error| error.to_string());
                Done::Saved(memo, saved)
            }
        }
    }
}
