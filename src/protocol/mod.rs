//! The wire protocol: framing, commands, records. Pure, and independent of all other modules.
//!
//! Parsers return borrowed views of their input, and replies are appended to the caller's buffer.
//! Nothing else is allocated.

pub mod command;
pub mod decimal;
pub mod framing;
pub mod location;
pub mod record;
pub mod refusal;
pub mod reply;
pub mod time;

/// Returns whether `byte` is white space in the protocol: SP, TAB, CR, LF, FF or VT. All other
/// bytes, including NBSP and 0x1c–0x1f, are ordinary bytes.
#[must_use]
pub const fn is_space(byte: u8) -> bool {
    const SPACES: u64 = 1 << b' ' | 1 << b'\t' | 1 << b'\r' | 1 << b'\n' | 1 << 0x0c | 1 << 0x0b;
    byte <= b' ' && SPACES >> byte & 1 == 1
}

/// Returns `bytes` without leading and trailing white space.
#[must_use]
pub fn trim(bytes: &[u8]) -> &[u8] {
    let Some(start) = bytes.iter().position(|&b| !is_space(b)) else { return &[] };
    let end = bytes.iter().rposition(|&b| !is_space(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// Returns the next field of `rest` and the bytes after it, or `None` if only white space is left.
#[must_use]
pub fn next_field(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = rest.iter().position(|&byte| !is_space(byte))?;
    let end = find_space(rest, start);
    Some((&rest[start..end], &rest[end..]))
}

/// A word with the value 1 in each byte.
const EACH: u64 = u64::from_ne_bytes([1; 8]);

/// Loads eight bytes from `at` in little-endian order, padded with zeros beyond the end. Lines are
/// scanned a word at a time.
#[inline]
fn word_at(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(word) => u64::from_le_bytes(*word),
        None => last_word(bytes, at),
    }
}

/// As [`word_at`], for the last word. A function of its own, to keep the other one small.
#[inline(never)]
fn last_word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    match bytes.last_chunk() {
        // The last bytes of this word are those from `at` on.
        Some(last) => {
            let shift = 8 * (8 - rest.len() as u32);
            u64::from_le_bytes(*last).checked_shr(shift).unwrap_or(0)
        }
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

/// Marks the bytes of a word that may be white space by their highest bit: all bytes below 0x21,
/// and sometimes a `!` that follows one. (The `hasless` macro of Bit Twiddling Hacks, S. E.
/// Anderson.)
const fn may_be_space(word: u64) -> u64 {
    word.wrapping_sub(EACH * 0x21) & !word & (EACH * 0x80)
}

/// Returns the position of the first white space from `at` on, or the length if there is none.
fn find_space(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        let mut marked = may_be_space(word_at(bytes, at));
        while marked != 0 {
            let position = at + marked.trailing_zeros() as usize / 8;
            match bytes.get(position) {
                Some(&byte) if is_space(byte) => return position,
                _ => marked &= marked - 1,
            }
        }
        at += 8;
    }
    bytes.len()
}

/// Returns the positions of all white space from `at` on.
fn spaces(bytes: &[u8], mut at: usize) -> impl Iterator<Item = usize> {
    let mut marked = may_be_space(word_at(bytes, at));
    core::iter::from_fn(move || {
        loop {
            while marked == 0 {
                at += 8;
                if at >= bytes.len() {
                    return None;
                }
                marked = may_be_space(word_at(bytes, at));
            }
            let position = at + marked.trailing_zeros() as usize / 8;
            marked &= marked - 1;
            if is_space(*bytes.get(position)?) {
                return Some(position);
            }
        }
    })
}

/// Splits `line` into exactly `N` fields. Returns `None` if it has fewer or more.
#[must_use]
pub fn fields<const N: usize>(line: &[u8]) -> Option<[&[u8]; N]> {
    let mut found = [&line[..0]; N];
    let (mut count, mut start) = (0, 0);
    let mut field = |end: usize| {
        if start < end {
            *found.get_mut(count)? = &line[start..end];
            count += 1;
        }
        start = end + 1;
        Some(())
    };
    for space in spaces(line, 0) {
        field(space)?;
    }
    field(line.len())?;
    (count == N).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn white_space_is_exactly_six_bytes() {
        let spaces: Vec<u8> = (0..=255).filter(|&b| is_space(b)).collect();
        assert_eq!(spaces, [b'\t', b'\n', 0x0b, 0x0c, b'\r', b' ']);
    }

    #[test]
    fn trim_leaves_inner_bytes_alone() {
        assert_eq!(trim(b" \t a  b\r"), b"a  b");
        assert_eq!(trim(b"\x0b\x0c \r"), b"");
        assert_eq!(trim(b"\xc2\xa0"), b"\xc2\xa0");
    }

    proptest! {
        #[test]
        fn white_space_is_found_at_any_position(
            bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(0x1c), Just(b' '), any::<u8>()], 0..40),
        ) {
            for at in 0..=bytes.len() {
                let found = bytes[at..].iter().position(|&b| is_space(b));
                prop_assert_eq!(find_space(&bytes, at), found.map_or(bytes.len(), |n| at + n));
            }
        }
    }

    #[test]
    fn fields_count_exactly() {
        assert_eq!(fields::<2>(b" a \t b "), Some([&b"a"[..], b"b"]));
        assert_eq!(fields::<2>(b"a"), None);
        assert_eq!(fields::<2>(b"a b c"), None);
        assert_eq!(fields::<0>(b" \n"), Some([]));
    }

    proptest! {
        #[test]
        fn fields_are_separated_by_white_space(
            line in proptest::collection::vec(
                prop_oneof![3 => Just(b'a'), 3 => Just(b' '), 1 => Just(b'!'), 1 => any::<u8>()], 0..40),
        ) {
            let expected: Vec<&[u8]> =
                line.split(|&b| is_space(b)).filter(|field| !field.is_empty()).collect();
            let mut found = Vec::new();
            let mut rest = &line[..];
            while let Some((field, after)) = next_field(rest) {
                prop_assert!(!field.is_empty());
                found.push(field);
                rest = after;
            }
            prop_assert_eq!(&found, &expected);
            prop_assert_eq!(fields::<3>(&line).map(|it| it.to_vec()), Some(expected).filter(|it| it.len() == 3));
        }
    }
}
