//! Storage of records.
//!
//! A slot is two cache lines: an AT line, the position of the client name in it, its digest, and its
//! place in the digest tree. Slots are allocated in chunks that never move, so that growth copies
//! nothing. Freed slots are reused first.

use core::ops::{Index, IndexMut};

use super::digest::Leaf;
use crate::ids::Slot;
use crate::protocol::location::{self, Location};
use crate::protocol::next_field;
use crate::protocol::record::{Record, is_tombstone};

/// Maximum length of a record in bytes, since its parts are measured in 16 bits.
pub const MAX_RECORD: usize = u16::MAX as usize;

/// Number of slots per allocation.
pub const CHUNK: usize = 4096;

/// Longest line that is stored inline. It makes a slot two cache lines, and typical records fit (a
/// name of thirty bytes, a clock difference of months, six decimals of a degree).
const INLINE: usize = 102;

/// All slots.
#[derive(Default)]
pub struct Slots {
    chunks: Vec<Box<[Stored]>>,
    free: Vec<Slot>,
    /// Number of slots ever used.
    used: u32,
}

impl Slots {
    /// Returns the number of slots ever used, which is one more than the highest slot.
    #[must_use]
    pub const fn used(&self) -> u32 {
        self.used
    }

    /// Returns the content of `slot`, or `None` if it is free.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Stored> {
        let stored = self.chunks.get(slot.index() / CHUNK)?.get(slot.index() % CHUNK)?;
        (!stored.is_free()).then_some(stored)
    }

    /// Returns [`Stored::rank`] of `slot`. Of the two cache lines of the slot, it reads one.
    #[must_use]
    pub fn rank(&self, slot: Slot) -> i64 {
        let stored =
            self.chunks.get(slot.index() / CHUNK).map(|chunk| &chunk[slot.index() % CHUNK]);
        stored.map_or(i64::MAX, Stored::rank)
    }

    /// Allocates a slot, which must be filled with [`Stored::set`].
    pub fn take(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            if self.used as usize == self.chunks.len() * CHUNK {
                self.chunks.push(vec![Stored::default(); CHUNK].into_boxed_slice());
            }
            self.used += 1;
            Slot(self.used - 1)
        })
    }

    /// Frees `slot`.
    pub fn release(&mut self, slot: Slot) {
        self[slot] = Stored::default();
        self.free.push(slot);
    }
}

/// Access to a slot that has been allocated.
impl Index<Slot> for Slots {
    type Output = Stored;

    fn index(&self, slot: Slot) -> &Stored {
        &self.chunks[slot.index() / CHUNK][slot.index() % CHUNK]
    }
}

impl IndexMut<Slot> for Slots {
    fn index_mut(&mut self, slot: Slot) -> &mut Stored {
        &mut self.chunks[slot.index() / CHUNK][slot.index() % CHUNK]
    }
}

/// The content of a slot, aligned so that reading it causes at most two cache misses.
#[derive(Clone)]
#[repr(align(64))]
pub struct Stored {
    digest: u64,
    rank: i64,
    text: Text,
    /// The slot before this one in the chain of its leaf; see [`Leaves`](super::leaves::Leaves).
    pub previous: Slot,
    /// The leaf of the client, once the digest is part of the sums.
    pub leaf: Leaf,
    /// Position and length of the client name in an inline line.
    client_at: u8,
    client_len: u8,
}

/// The storage of a line.
#[derive(Clone)]
enum Text {
    Inline { len: u8, line: [u8; INLINE] },
    Long { line: Box<[u8]>, client_at: u16, client_len: u16 },
}

const _: () = assert!(size_of::<Stored>() == 128);

impl Default for Stored {
    fn default() -> Self {
        Self {
            digest: 0,
            rank: i64::MAX,
            text: Text::Inline { len: 0, line: [0; INLINE] },
            previous: Slot(0),
            leaf: Leaf(0),
            client_at: 0,
            client_len: 0,
        }
    }
}

impl Stored {
    const fn is_free(&self) -> bool {
        matches!(self.text, Text::Inline { len: 0, .. })
    }

    /// Returns the digest of the line.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Returns the first part of the key of the order, [`Record::rank`], limited to 64 bits. Of two
    /// records with different ranks, the one with the greater rank is newer; the stored line need
    /// not be parsed then. That of a free slot is `i64::MAX`.
    #[must_use]
    pub const fn rank(&self) -> i64 {
        self.rank
    }

    /// Replaces the rank, which depends on Δ.
    pub const fn set_rank(&mut self, rank: i64) {
        self.rank = rank;
    }

    /// Returns the AT line, without LF.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        match &self.text {
            Text::Inline { len, line } => &line[..usize::from(*len)],
            Text::Long { line, .. } => line,
        }
    }

    /// Returns position and length of the client name in the line.
    fn client_at(&self) -> (usize, usize) {
        match &self.text {
            Text::Inline { .. } => (self.client_at.into(), self.client_len.into()),
            Text::Long { client_at, client_len, .. } => ((*client_at).into(), (*client_len).into()),
        }
    }

    /// Returns the name of the client.
    #[must_use]
    pub fn client(&self) -> &[u8] {
        match &self.text {
            Text::Inline { line, .. } => {
                let at = usize::from(self.client_at);
                &line[at..at + usize::from(self.client_len)]
            }
            Text::Long { line, client_at, client_len } => {
                let at = usize::from(*client_at);
                &line[at..at + usize::from(*client_len)]
            }
        }
    }

    /// Returns location and time, like [`Record::report`].
    #[must_use]
    pub fn report(&self) -> &[u8] {
        match &self.text {
            Text::Inline { len, line } => {
                &line[usize::from(self.client_at) + usize::from(self.client_len)..usize::from(*len)]
            }
            Text::Long { line, client_at, client_len } => {
                &line[usize::from(*client_at) + usize::from(*client_len)..]
            }
        }
    }

    /// Returns whether the record erases the client. False if the slot is free.
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        is_tombstone(self.report())
    }

    /// Returns the location of the client.
    #[must_use]
    pub fn location(&self) -> Option<Location<'_>> {
        Location::parse(next_field(self.report())?.0)
    }

    /// Returns latitude and longitude of the client in degrees.
    #[must_use]
    pub fn degrees(&self) -> Option<(f64, f64)> {
        location::degrees(self.report().strip_prefix(b" ")?)
    }

    /// Returns the line as a record.
    #[must_use]
    pub fn record(&self) -> Option<Record<'_>> {
        let (at, len) = self.client_at();
        Record::known(self.line(), at, len)
    }

    /// Reads from both cache lines, to load them.
    #[must_use]
    pub fn prefetch(&self) -> u64 {
        let text = match &self.text {
            Text::Inline { line, .. } => line[0] ^ line[INLINE / 2] ^ line[INLINE - 1],
            Text::Long { .. } => 0,
        };
        self.digest ^ u64::from(text)
    }

    /// Stores a record of at most [`MAX_RECORD`] bytes; see [`Stored::rank`] for `rank`.
    pub fn set(&mut self, record: &Record<'_>, rank: i64, digest: u64) {
        let line = record.line;
        if line.len() > INLINE {
            let (client_at, client_len) = (record.client_at as u16, record.client.len() as u16);
            self.text = Text::Long { line: line.into(), client_at, client_len };
        } else {
            // An inline line is at most 102 bytes long.
            let length = line.len() as u8;
            (self.client_at, self.client_len) = (record.client_at as u8, record.client.len() as u8);
            if let Text::Inline { len, line: text } = &mut self.text {
                text[..line.len()].copy_from_slice(line);
                *len = length;
            } else {
                let mut text = [0; INLINE];
                text[..line.len()].copy_from_slice(line);
                self.text = Text::Inline { len: length, line: text };
            }
        }
        self.digest = digest;
        self.rank = rank;
    }

    /// Replaces the digest.
    pub const fn set_digest(&mut self, digest: u64) {
        self.digest = digest;
    }
}
