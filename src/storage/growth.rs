//! How many clients a start finds, so that the index has its size before they are loaded: while it grows, it
//! moves all entries again and again.

use super::file::FileName;
use super::manifest::Entry;

/// Length of a typical frame in bytes, from which the number of records is estimated.
const TYPICAL_FRAME: u64 = 96;

/// Length of a typical segment, for those whose length the manifest does not state.
const TYPICAL_SEGMENT: u64 = 8 << 20;

/// The growth of the directory while files are loaded.
#[derive(Default)]
pub(super) struct Growth {
    /// The length of the last file, and the number of records when it began.
    last: (u64, u32),
}

impl Growth {
    /// Returns how many new clients to make room for, when a file begins and there are `held` records. The
    /// files `pending` follow.
    pub(super) fn expect<'e>(
        &mut self,
        entry: &Entry,
        pending: impl IntoIterator<Item = &'e Entry>,
        held: u32,
    ) -> u32 {
        let length = length_of(entry);
        let (last_length, last_held) = core::mem::replace(&mut self.last, (length, held));
        if matches!(entry.file, FileName::Snapshot(_)) {
            return u32::try_from(length / TYPICAL_FRAME).unwrap_or(u32::MAX);
        }
        // As many as in the last file, in proportion to the lengths. Clients that come in at once and are
        // updated from then on are not many more than there are already.
        let after = pending.into_iter().map(|entry| u128::from(length_of(entry)));
        let left = u128::from(length) + after.sum::<u128>();
        let new = u128::from(held.saturating_sub(last_held));
        let expected = new * left / u128::from(last_length.max(1));
        u32::try_from(expected).unwrap_or(u32::MAX).min(held.saturating_mul(3))
    }
}

/// The length of a file, or an estimate.
fn length_of(entry: &Entry) -> u64 {
    entry.length.unwrap_or(TYPICAL_SEGMENT)
}

#[cfg(test)]
mod tests {
    use super::super::manifest::Usage;
    use super::*;

    fn segment(number: u64, length: Option<u64>) -> Entry {
        Entry { file: FileName::Segment(number), length, usage: Usage::Load }
    }

    #[test]
    fn segments_are_expected_to_go_on_like_the_last_one() {
        let mut growth = Growth::default();
        let files: Vec<Entry> = (1..=4).map(|number| segment(number, Some(1000))).collect();
        assert_eq!(growth.expect(&files[0], &files[1..], 0), 0, "nothing is known");
        assert_eq!(growth.expect(&files[1], &files[2..], 10), 30, "three more with ten each");
        assert_eq!(growth.expect(&files[2], &files[3..], 12), 4, "mostly updates");
        assert_eq!(growth.expect(&files[3], &[], 12), 0);
    }

    #[test]
    fn the_expectation_is_bounded() {
        let mut growth = Growth::default();
        let files: Vec<Entry> = (1..=1000).map(|number| segment(number, None)).collect();
        growth.expect(&segment(0, Some(1)), &files, 0);
        assert_eq!(growth.expect(&files[0], &files[1..], 100), 300);
        let huge =
            Entry { file: FileName::Snapshot(1), length: Some(u64::MAX), usage: Usage::Load };
        assert_eq!(growth.expect(&huge, &[], 0), u32::MAX);
        let endless = vec![segment(7, Some(u64::MAX)); 1000];
        assert_eq!(growth.expect(&endless[0], &endless, u32::MAX), u32::MAX);
    }

    #[test]
    fn a_snapshot_holds_as_many_clients_as_its_length_says() {
        let file = FileName::Snapshot(1);
        let entry = Entry { file, length: Some(9600), usage: Usage::Load };
        assert_eq!(Growth::default().expect(&entry, &[segment(1, None)], 5), 100);
    }
}
