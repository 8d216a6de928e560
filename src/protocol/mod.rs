//! The wire contract: lines, commands, records. Pure, and unaware of everything above it.
//!
//! Bytes come in, borrowed views of the same bytes come out; replies are appended to the caller's
//! buffer. Nothing here allocates.

pub mod command;
pub mod decimal;
pub mod framing;
pub mod location;
pub mod record;
pub mod reply;
pub mod time;

/// White space of the protocol: exactly SP, TAB, CR, LF, FF and VT. Every other byte, NBSP and
/// 0x1c–0x1f included, is an ordinary one.
#[must_use]
pub const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0c | 0x0b)
}

/// `bytes` without the white space at either end.
#[must_use]
pub fn trim(bytes: &[u8]) -> &[u8] {
    let Some(start) = bytes.iter().position(|&b| !is_space(b)) else { return &[] };
    let end = bytes.iter().rposition(|&b| !is_space(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// The next field of `rest` and what is behind it, or `None` when only white space is left.
#[must_use]
pub fn next_field(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = rest.iter().position(|&b| !is_space(b))?;
    let rest = &rest[start..];
    Some(rest.split_at(find_space(rest)))
}

/// Where the first white space is, or the length where there is none. Looks at eight bytes at a
/// time: most of a line is not white space.
fn find_space(bytes: &[u8]) -> usize {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        // The lowest bit set marks the first byte below 0x21; white space is among those.
        let low = word.wrapping_sub(EACH * 0x21) & !word & (EACH * 0x80);
        if low != 0 {
            at += low.trailing_zeros() as usize / 8;
            if is_space(bytes[at]) {
                return at;
            }
            at += 1; // an ordinary control character
        } else {
            at += 8;
        }
    }
    bytes[at..].iter().position(|&b| is_space(b)).map_or(bytes.len(), |found| at + found)
}

/// Exactly `N` fields, or `None` when `rest` holds fewer or more.
#[must_use]
pub fn fields<const N: usize>(mut rest: &[u8]) -> Option<[&[u8]; N]> {
    let mut found = [&rest[..0]; N];
    for slot in &mut found {
        let (field, tail) = next_field(rest)?;
        *slot = field;
        rest = tail;
    }
    next_field(rest).is_none().then_some(found)
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
        fn white_space_is_found_wherever_it_is(
            bytes in proptest::collection::vec(prop_oneof![Just(b'a'), Just(0x1c), Just(b' '), any::<u8>()], 0..40),
        ) {
            let expected = bytes.iter().position(|&b| is_space(b)).unwrap_or(bytes.len());
            prop_assert_eq!(find_space(&bytes), expected);
        }
    }

    #[test]
    fn fields_count_exactly() {
        assert_eq!(fields::<2>(b" a \t b "), Some([&b"a"[..], b"b"]));
        assert_eq!(fields::<2>(b"a"), None);
        assert_eq!(fields::<2>(b"a b c"), None);
    }
}
