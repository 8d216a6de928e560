//! The form of a batch on the wire.

use super::entry::Entry;
use super::id::Id;
use super::{http, xadd};
use crate::storage::Kind;

/// The form of a batch.
pub enum Form {
    /// A transaction of XADDs.
    Redis(xadd::Writer),
    /// Lines of JSON.
    Json {
        /// A buffer.
        scratch: Vec<u8>,
    },
}

/// What a batch has at most.
pub(super) struct Limits {
    pub entries: u32,
    /// Bytes, if it has more than one entry.
    pub bytes: usize,
}

impl Form {
    /// Lines of JSON.
    #[must_use]
    pub const fn json() -> Self {
        Self::Json { scratch: Vec::new() }
    }

    pub(super) const fn limits(&self) -> Limits {
        match self {
            Self::Redis(_) => Limits { entries: xadd::MAX_ENTRIES, bytes: xadd::MAX_BATCH },
            Self::Json { .. } => Limits { entries: http::MAX_ENTRIES, bytes: http::MAX_BODY },
        }
    }

    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        if let Self::Redis(writer) = self {
            writer.begin(out);
        }
    }

    pub(super) fn push(&mut self, out: &mut Vec<u8>, entry: &Entry<'_>, id: Id, is_first: bool) {
        match self {
            Self::Redis(writer) => writer.push(out, entry, id, is_first),
            Self::Json { scratch } => http::push_entry(out, scratch, entry, id),
        }
    }

    /// Appends the entry of an update with this line. Returns false if the line is not that of a record.
    pub(super) fn push_update(
        &mut self,
        out: &mut Vec<u8>,
        line: &[u8],
        id: Id,
        is_first: bool,
    ) -> bool {
        if let Self::Redis(writer) = self
            && writer.push_line(out, line, id, is_first)
        {
            return true;
        }
        let Some(entry) = Entry::of(Kind::UPDATE, line) else { return false };
        self.push(out, &entry, id, is_first);
        true
    }

    pub(super) fn end(&self, out: &mut Vec<u8>) {
        if let Self::Redis(writer) = self {
            writer.end(out);
        }
    }
}
