//! Marks: the place of a segment in the history of the node.
//!
//! With a feed, the first frame after the header of a segment is its mark. From it, each own frame in
//! the segment has a place that does not depend on anything else, and that is greater than all places
//! before it.

use super::frame::{Kind, Parsed, Salt, parse_frame};
use crate::text::digits::push_digits;

/// The place of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The time at which the segment was begun, in milliseconds since the Unix epoch, and more than that
    /// of the segment before in any case.
    pub millis: u64,
    /// The number of own frames in the log before it. It wraps around.
    pub ordinal: u32,
}

impl Mark {
    /// Appends the payload of the frame.
    pub fn push(self, out: &mut Vec<u8>) {
        push_digits(out, self.millis, 1);
        out.push(b' ');
        push_digits(out, u64::from(self.ordinal), 1);
    }

    /// Parses the payload of the frame.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let (millis, ordinal) = str::from_utf8(payload).ok()?.split_once(' ')?;
        let is_number = |text: &str| !text.starts_with('+');
        if !is_number(millis) || !is_number(ordinal) {
            return None;
        }
        Some(Self { millis: millis.parse().ok()?, ordinal: ordinal.parse().ok()? })
    }

    /// Returns the mark at the beginning of a segment and the offset after it. `start` is its beginning.
    #[must_use]
    pub fn find(start: &[u8], salt: &Salt) -> Option<(Self, u64)> {
        let Parsed::Frame(Kind::HEADER, _, header) = parse_frame(start, salt) else { return None };
        let rest = start.get(header..)?;
        let Parsed::Frame(Kind::MARK, payload, length) = parse_frame(rest, salt) else {
            return None;
        };
        Some((Self::parse(payload)?, (header + length) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::FileName;
    use super::super::frame::push_frame;
    use super::*;

    #[test]
    fn a_mark_is_found_behind_the_header_only() {
        let salt = &Salt::of(FileName::Segment(7));
        let mark = Mark { millis: 1_764_327_374_000, ordinal: u32::MAX };
        let mut payload = Vec::new();
        mark.push(&mut payload);
        assert_eq!(payload, b"1764327374000 4294967295");
        let mut start = Vec::new();
        push_frame(&mut start, salt, Kind::HEADER, b"proxy-herd storage 1 node A boot 1");
        let header = start.len();
        push_frame(&mut start, salt, Kind::MARK, &payload);
        assert_eq!(Mark::find(&start, salt), Some((mark, start.len() as u64)));
        assert_eq!(Mark::find(&start[..header], salt), None);
        assert_eq!(Mark::find(&start[header..], salt), None);
        for damaged in ["", "1", "1 ", " 1", "+1 2", "1 4294967296", "1 2 3", "\u{ff}"] {
            assert_eq!(Mark::parse(damaged.as_bytes()), None, "{damaged:?}");
        }
    }
}
