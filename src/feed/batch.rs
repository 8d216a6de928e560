//! A batch: the part of the history that an engine is sent at once.

use super::id::Id;

/// A part of the history, as it is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The number of entries. 0 if nothing up to `cursor` is wanted.
    pub entries: u32,
    /// The number of entries that gaps in it report.
    pub missing: u64,
    /// The id of the first entry.
    pub first: Id,
    /// The id of the last entry.
    pub last: Id,
    /// The place after the batch.
    pub cursor: Id,
    /// The segment that contains it.
    pub segment: u64,
    /// True if the next batch may be available at once.
    pub has_more: bool,
    /// True if nothing more is added.
    pub(super) is_full: bool,
}
