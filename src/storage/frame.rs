//! Frames: the lines of which segments and snapshots consist.
//!
//! ```text
//! f88a8304 004d U AT Clark +0.563873386 kiwi.example +34.068930-118.445127 1621464827.959498503
//! ```
//!
//! A frame is a line: checksum (8 lower-case hexadecimal digits), length of the payload (4), kind (one
//! letter), payload, LF, separated by single spaces. The checksum is the CRC-32 of zlib over the name
//! of the file, such as `0000000007.log`, followed by the frame from its length to the end of its
//! payload.

use crc32fast::Hasher;

use super::file::FileName;
use crate::text::hex::eight_digits;

/// Bytes before the payload.
pub const HEAD: usize = 16;

/// Longest payload. Records are never longer.
pub const MAX_PAYLOAD: usize = 0xffff;

/// Longest frame, with its LF.
pub const MAX_FRAME: usize = HEAD + MAX_PAYLOAD + 1;

/// Offset of the first byte that the checksum covers.
const COVERED: usize = 9;

/// The kind of a frame: a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    /// Identification of the file, which is its first frame.
    pub const HEADER: Self = Self(b'H');
    /// A record that a client gave to this node and that was newer than the one held.
    pub const UPDATE: Self = Self(b'U');
    /// A tombstone that an administrator caused on this node.
    pub const FORGET: Self = Self(b'F');
    /// A record received from a neighbor.
    pub const RECEIVED: Self = Self(b'R');
    /// The wall clock of the node, so that the age of the files is known.
    pub const TIME: Self = Self(b'T');
    /// A record in a snapshot.
    pub const SNAPSHOT: Self = Self(b'S');
    /// A client has entered a fence; see [`Transition`](super::Transition).
    pub const ENTER: Self = Self(b'E');
    /// A client has left a fence.
    pub const LEAVE: Self = Self(b'L');
    /// The place of the segment in the history of the node; see [`Mark`](super::Mark).
    pub const MARK: Self = Self(b'I');

    /// Returns the kind of this letter, which may be unknown.
    #[must_use]
    pub const fn of(letter: u8) -> Self {
        Self(letter)
    }

    /// Returns whether the frame is part of the history of the node, which a feed delivers.
    #[must_use]
    pub const fn is_own(self) -> bool {
        matches!(self, Self::UPDATE | Self::FORGET | Self::ENTER | Self::LEAVE)
    }

    /// Returns whether the payload is a record.
    #[must_use]
    pub const fn is_record(self) -> bool {
        matches!(self, Self::UPDATE | Self::FORGET | Self::RECEIVED | Self::SNAPSHOT)
    }
}

/// The start of every checksum in a file, which depends on its name.
#[derive(Clone, Debug)]
pub struct Salt(Hasher);

impl Salt {
    /// Returns the salt of a file.
    #[must_use]
    pub fn of(file: FileName) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(file.to_string().as_bytes());
        Self(hasher)
    }

    fn checksum(&self, covered: &[u8]) -> u32 {
        let mut hasher = self.0.clone();
        hasher.update(covered);
        hasher.finalize()
    }
}

/// Returns the length of the frame of a payload.
#[must_use]
pub const fn frame_len(payload: usize) -> usize {
    HEAD + payload + 1
}

/// Appends a frame. `payload` has at most [`MAX_PAYLOAD`] bytes and no LF; otherwise nothing is
/// appended.
pub fn push_frame(out: &mut Vec<u8>, salt: &Salt, kind: Kind, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD && !payload.contains(&b'\n'));
    if payload.len() > MAX_PAYLOAD {
        return;
    }
    let start = out.len();
    let length = payload.len();
    let mut head = [b' '; HEAD];
    head[COVERED..COVERED + 4].copy_from_slice(&eight_digits(length as u32)[4..]);
    head[COVERED + 5] = kind.0;
    out.reserve(frame_len(length));
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    let checksum = salt.checksum(&out[start + COVERED..]);
    out[start..start + 8].copy_from_slice(&eight_digits(checksum));
    out.push(b'\n');
}

/// The beginning of some bytes, read as a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// An intact frame: its kind, payload and length, which includes the LF even if the bytes end
    /// before it.
    Frame(Kind, &'a [u8], usize),
    /// The beginning of what may be a frame.
    Partial,
    /// Not an intact frame.
    Damaged,
}

/// Reads the frame at the beginning of `bytes`. The LF at its end is not examined: if it is damaged,
/// nothing is lost.
#[must_use]
pub fn parse_frame<'b>(bytes: &'b [u8], salt: &Salt) -> Parsed<'b> {
    let Some(head) = bytes.first_chunk::<HEAD>() else { return Parsed::Partial };
    if head[8] != b' ' || head[13] != b' ' || head[15] != b' ' {
        return Parsed::Damaged;
    }
    let (Some(checksum), Some(length)) = (number(&head[..8]), number(&head[9..13])) else {
        return Parsed::Damaged;
    };
    let end = HEAD + length as usize;
    if bytes.len() < end {
        return Parsed::Partial;
    }
    if salt.checksum(&bytes[COVERED..end]) != checksum {
        return Parsed::Damaged;
    }
    Parsed::Frame(Kind(head[14]), &bytes[HEAD..end], end + 1)
}

/// Returns the length of the frame at the beginning of `bytes`, without checking anything else.
pub(super) fn length_of(bytes: &[u8]) -> Option<usize> {
    let payload = number(bytes.get(9..13)?)?;
    Some(frame_len(payload as usize))
}

/// Parses lower-case hexadecimal digits, at most eight.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u32::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: FileName = FileName::Segment(7);

    fn frame(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        push_frame(&mut out, &Salt::of(FILE), Kind::UPDATE, payload);
        out
    }

    /// The checksum was computed with zlib in Python, as a reader in another language would.
    #[test]
    fn a_frame_is_a_line_with_the_checksum_of_zlib() {
        assert_eq!(frame(b"AT A +1 k +1-1 2"), b"4e4d8668 0010 U AT A +1 k +1-1 2\n");
    }

    #[test]
    fn frames_survive_the_round_trip_and_belong_to_one_file() {
        for length in [0, 1, 75, 4096, MAX_PAYLOAD] {
            let payload = vec![b'x'; length];
            let bytes = frame(&payload);
            assert_eq!(bytes.len(), frame_len(length));
            let parsed = parse_frame(&bytes, &Salt::of(FILE));
            assert_eq!(parsed, Parsed::Frame(Kind::UPDATE, &payload, bytes.len()));
            for other in [FileName::Segment(8), FileName::Snapshot(7)] {
                assert_eq!(parse_frame(&bytes, &Salt::of(other)), Parsed::Damaged);
            }
        }
    }

    #[test]
    fn every_flipped_bit_except_in_the_line_feed_is_noticed() {
        let intact = frame(b"AT A +1 k +1-1 2");
        for bit in 0..8 * intact.len() {
            let mut bytes = intact.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let is_intact = matches!(parse_frame(&bytes, &Salt::of(FILE)), Parsed::Frame(..));
            assert_eq!(is_intact, bit / 8 == intact.len() - 1, "bit {bit}");
        }
    }

    #[test]
    fn a_frame_without_its_end_is_partial() {
        let intact = frame(b"AT A +1 k +1-1 2");
        for length in 0..intact.len() - 1 {
            assert_eq!(parse_frame(&intact[..length], &Salt::of(FILE)), Parsed::Partial);
        }
    }
}
