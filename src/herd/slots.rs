//! Where records lie in memory.
//!
//! A slot is a number and two lines of cache: an AT line, where the client stands in it, and its
//! digest. Slots come in chunks that never move, so that growth copies nothing, and a slot that was
//! freed is the next to be taken.

use core::ops::{Index, IndexMut};

use crate::protocol::location::Location;
use crate::protocol::next_field;
use crate::protocol::record::Record;

/// Where a record lives. Slots are reused: a number held across an eviction may name another
/// client, which is harmless to a reader that wants "the newest record in this slot".
pub type Slot = u32;

/// The longest line a record may have: its parts are counted in 16 bits.
pub const MAX_RECORD: usize = u16::MAX as usize;

/// Slots are allocated this many at a time.
const CHUNK: usize = 4096;

/// Longest line that lives in its slot. With it a slot is two lines of cache, and the common record
/// (a name of thirty bytes, a difference of years, six decimals of a degree) fits.
const INLINE: usize = 103;

/// All slots there are.
#[derive(Default)]
pub struct Slots {
    chunks: Vec<Box<[Stored]>>,
    free: Vec<Slot>,
    /// Slots ever handed out.
    used: Slot,
}

impl Slots {
    /// One more than the highest slot ever in use.
    #[must_use]
    pub const fn used(&self) -> Slot {
        self.used
    }

    /// What is stored in `slot`; `None` when the slot is free.
    #[must_use]
    pub fn get(&self, slot: Slot) -> Option<&Stored> {
        let stored = self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?;
        (stored.len > 0).then_some(stored)
    }

    /// A free slot, which [`Stored::set`] is to fill.
    pub fn take(&mut self) -> Slot {
        self.free.pop().unwrap_or_else(|| {
            if self.used as usize == self.chunks.len() * CHUNK {
                self.chunks.push(vec![Stored::default(); CHUNK].into_boxed_slice());
            }
            self.used += 1;
            self.used - 1
        })
    }

    /// Frees `slot`.
    pub fn release(&mut self, slot: Slot) {
        self[slot] = Stored::default();
        self.free.push(slot);
    }
}

/// Of a slot that is known to have been taken.
impl Index<Slot> for Slots {
    type Output = Stored;

    fn index(&self, slot: Slot) -> &Stored {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

impl IndexMut<Slot> for Slots {
    fn index_mut(&mut self, slot: Slot) -> &mut Stored {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
}

/// What is in a slot. Aligned, so that it is found and read with two misses of the cache at the
/// most.
#[derive(Clone)]
#[repr(align(64))]
pub struct Stored {
    digest: u64,
    time: i64,
    text: Text,
    len: u16,
    client_at: u16,
    client_len: u16,
}

/// The bytes of a line.
#[derive(Clone)]
enum Text {
    Inline([u8; INLINE]),
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Stored>() == 128);

/// See [`Stored::time`].
pub const NO_TIME: i64 = i64::MIN;

impl Default for Stored {
    fn default() -> Self {
        let text = Text::Inline([0; INLINE]);
        Self { digest: 0, time: NO_TIME, text, len: 0, client_at: 0, client_len: 0 }
    }
}

impl Stored {
    /// The digest of the line.
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// The client's time, where that alone is the record's rank: enough to tell nearly always which
    /// of two records is newer, without reading the line again. [`NO_TIME`] elsewhere.
    #[must_use]
    pub const fn time(&self) -> i64 {
        self.time
    }

    /// The AT line, without LF.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        let text = match &self.text {
            Text::Inline(text) => text.as_slice(),
            Text::Long(text) => text,
        };
        &text[..self.len.into()]
    }

    /// The name of the client.
    #[must_use]
    pub fn client(&self) -> &[u8] {
        let at = usize::from(self.client_at);
        &self.line()[at..at + usize::from(self.client_len)]
    }

    /// Location and time, as [`Record::said`].
    #[must_use]
    pub fn said(&self) -> &[u8] {
        &self.line()[usize::from(self.client_at) + usize::from(self.client_len)..]
    }

    /// Where the client is.
    #[must_use]
    pub fn location(&self) -> Option<Location<'_>> {
        Location::parse(next_field(self.said())?.0)
    }

    /// The line as a record.
    #[must_use]
    pub fn record(&self) -> Option<Record<'_>> {
        Record::known(self.line(), self.client_at.into(), self.client_len.into())
    }

    /// Something of each of its two cache lines.
    #[must_use]
    pub fn touch(&self) -> u64 {
        let text = match &self.text {
            Text::Inline(text) => text[0] ^ text[INLINE / 2] ^ text[INLINE - 1],
            Text::Long(_) => 0,
        };
        self.digest ^ u64::from(text)
    }

    /// Stores a record of at most [`MAX_RECORD`] bytes. For `time` see [`Stored::time`].
    pub fn set(&mut self, record: &Record<'_>, time: i64, digest: u64) {
        let line = record.line;
        if line.len() > INLINE {
            self.text = Text::Long(line.into());
        } else if let Text::Inline(text) = &mut self.text {
            text[..line.len()].copy_from_slice(line);
        } else {
            let mut text = [0; INLINE];
            text[..line.len()].copy_from_slice(line);
            self.text = Text::Inline(text);
        }
        self.digest = digest;
        self.time = time;
        self.len = line.len() as u16;
        self.client_at = record.client_at as u16;
        self.client_len = record.client.len() as u16;
    }
}
