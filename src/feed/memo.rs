//! The memory of a feed: the file `FEED` in the folder of the node.
//!
//! ```text
//! proxy-herd feed 1
//! cursor 1764327374000-36028797018965001
//! sent 1764327374000-36028797018964001
//! raise 0 0
//! crc 99baf792
//! ```

use core::fmt::Write as _;

use super::id::{Id, Raise};

/// Largest file.
pub const MAX_MEMO: usize = 4096;

const FIRST_LINE: &str = "proxy-herd feed 1\n";

/// What a feed remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memo {
    /// The place up to which every entry has been delivered or filtered out.
    pub cursor: Id,
    /// The id of the last entry that the engine has accepted, as it was sent.
    pub sent: Id,
    /// How ids are raised.
    pub raise: Raise,
    /// The place after the batch that is being sent to an HTTP collector: it is sent again as it was.
    pub batch: Option<Id>,
}

impl Memo {
    /// Returns whether nothing has been remembered yet.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.cursor == Id::ZERO && self.sent == Id::ZERO
    }

    /// Returns the content of the file.
    #[must_use]
    pub fn to_text(&self) -> Vec<u8> {
        let Self { cursor, sent, raise, batch } = self;
        let mut text = FIRST_LINE.to_owned();
        // Writing to a string cannot fail.
        let _ = write!(text, "cursor {cursor}\nsent {sent}\nraise {} {}\n", raise.from, raise.by);
        if let Some(batch) = batch {
            let _ = writeln!(text, "batch {batch}");
        }
        let checksum = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc {checksum:08x}");
        text.into_bytes()
    }

    /// Parses the content of the file. Returns `None` if it is damaged. Lines that begin with another
    /// word are ignored.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (content, last) =
            text.split_at_checked(text.len().checked_sub("crc 00000000\n".len())?)?;
        let expected = format!("crc {:08x}\n", crc32fast::hash(content));
        if last != expected.as_bytes() || text.len() > MAX_MEMO {
            return None;
        }
        let mut memo = Self::default();
        for line in str::from_utf8(content).ok()?.strip_prefix(FIRST_LINE)?.lines() {
            let (word, value) = line.split_once(' ')?;
            match word {
                "cursor" => memo.cursor = Id::parse(value.as_bytes())?,
                "sent" => memo.sent = Id::parse(value.as_bytes())?,
                "batch" => memo.batch = Some(Id::parse(value.as_bytes())?),
                "raise" => {
                    let (from, by) = value.split_once(' ')?;
                    memo.raise = Raise { from: from.parse().ok()?, by: by.parse().ok()? };
                }
                _ => {}
            }
        }
        Some(memo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memo_survives_the_round_trip_and_damage_is_noticed() {
        let id = |millis| Id { millis, sequence: u64::MAX };
        let raise = Raise { from: 3, by: 4 };
        let memo = Memo { cursor: id(7), sent: id(6), raise, batch: Some(id(8)) };
        let text = memo.to_text();
        assert!(text.len() <= MAX_MEMO);
        assert_eq!(Memo::parse(&text), Some(memo));
        for length in 0..text.len() {
            assert_eq!(Memo::parse(&text[..length]), None);
        }
        for bit in 0..8 * text.len() {
            let mut text = text.clone();
            text[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Memo::parse(&text), None, "bit {bit}");
        }
    }
}
