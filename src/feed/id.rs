//! Ids of entries: the place of a frame in the history of the node.

use core::fmt;

use crate::text::digits::push_digits;

/// The id of an entry. In the log it is the place after a frame: the time of the mark of the segment, the
/// offset in the segment, and the ordinal of the frame. In a stream, the time may have been raised; see
/// [`Raise`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The time in milliseconds since the Unix epoch.
    pub millis: u64,
    /// Offset and ordinal.
    pub sequence: u64,
}

impl Id {
    /// The id before all others.
    pub const ZERO: Self = Self { millis: 0, sequence: 0 };

    /// The place after the frame that ends at `offset`, with this many own frames up to there.
    #[must_use]
    pub fn new(millis: u64, offset: u64, ordinal: u32) -> Self {
        // A segment of 4 GiB exists only if none could be created for as long. Ordinals still increase.
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        Self { millis, sequence: u64::from(offset) << 32 | u64::from(ordinal) }
    }

    /// The offset after the frame.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.sequence >> 32
    }

    /// The number of own frames in the log up to this one. It wraps around.
    #[must_use]
    pub const fn ordinal(self) -> u32 {
        self.sequence as u32
    }

    /// Appends `<time>-<sequence>`, the form of a stream.
    #[inline]
    pub fn push(self, out: &mut Vec<u8>) {
        push_digits(out, self.millis, 1);
        out.push(b'-');
        push_digits(out, self.sequence, 1);
    }

    /// Parses `<time>-<sequence>`, the form of a stream.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (millis, sequence) = str::from_utf8(text).ok()?.split_once('-')?;
        if millis.starts_with('+') || sequence.starts_with('+') {
            return None;
        }
        Some(Self { millis: millis.parse().ok()?, sequence: sequence.parse().ok()? })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.millis, self.sequence)
    }
}

/// What is added to the times of places to get the ids in the stream, because the stream contained a
/// greater id than those would have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Raise {
    /// The first time that is raised.
    pub from: u64,
    /// What is added to it and to all later ones.
    pub by: u64,
}

impl Raise {
    /// Returns the id in the stream for a place.
    #[must_use]
    pub const fn apply(self, place: Id) -> Id {
        let by = if place.millis >= self.from { self.by } else { 0 };
        Id { millis: place.millis.saturating_add(by), ..place }
    }

    /// Returns the place for an id in the stream.
    #[must_use]
    pub const fn undo(self, id: Id) -> Id {
        let is_raised = id.millis >= self.from.saturating_add(self.by);
        Id { millis: id.millis - if is_raised { self.by } else { 0 }, ..id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_holds_offset_and_ordinal_and_is_ordered_by_the_place() {
        let id = Id::new(1_764_327_374_000, 8_388_700, u32::MAX);
        assert_eq!((id.offset(), id.ordinal()), (8_388_700, u32::MAX));
        assert_eq!(Id::parse(id.to_string().as_bytes()), Some(id));
        for id in [id, Id::ZERO, Id { millis: u64::MAX, sequence: u64::MAX }] {
            let mut text = Vec::new();
            id.push(&mut text);
            assert_eq!(text, id.to_string().as_bytes());
        }
        assert!(id < Id::new(1_764_327_374_000, 8_388_800, 0), "the ordinal wraps around");
        assert!(id < Id::new(1_764_327_374_001, 60, 0));
        assert!(Id::new(1, u64::MAX, 1) < Id::new(1, u64::MAX, 2));
        for bad in ["", "1", "-1", "1-", "+1-1", "1-+1", "1-1-1", "1-18446744073709551616", "a-b"] {
            assert_eq!(Id::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_raise_is_undone() {
        let raise = Raise { from: 100, by: 50 };
        for (place, id) in [(99, 99), (100, 150), (200, 250)] {
            let (place, id) = (Id { millis: place, sequence: 7 }, Id { millis: id, sequence: 7 });
            assert_eq!(raise.apply(place), id);
            assert_eq!(raise.undo(id), place);
        }
        assert_eq!(Raise::default().undo(Id::ZERO), Id::ZERO);
        let most = Id { millis: u64::MAX, sequence: 0 };
        assert_eq!(raise.apply(most).millis, u64::MAX);
    }
}
