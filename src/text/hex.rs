//! Hexadecimal digits, in lower case.

/// Returns the digit of a number below 16. Higher bits are ignored.
#[must_use]
pub const fn digit(nibble: u8) -> u8 {
    b"0123456789abcdef"[(nibble & 15) as usize]
}

/// Returns all digits of a number. Converts them all at once.
#[must_use]
pub const fn eight_digits(number: u32) -> [u8; 8] {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    // One digit in each byte, the first one in the highest.
    let mut digits = number as u64;
    digits = (digits | digits << 16) & 0x0000_ffff_0000_ffff;
    digits = (digits | digits << 8) & 0x00ff_00ff_00ff_00ff;
    digits = (digits | digits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let letters = (digits + 6 * EACH) >> 4 & EACH;
    (digits + EACH * b'0' as u64 + letters * (b'a' - b'0' - 10) as u64).to_be_bytes()
}

/// Returns the two digits of a byte.
#[must_use]
pub const fn digits(byte: u8) -> [u8; 2] {
    [digit(byte >> 4), digit(byte)]
}

/// Appends two digits per byte.
pub fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(bytes.iter().flat_map(|&byte| digits(byte)));
}

/// Parses two digits per byte, in either case. Returns `None` for an odd number of digits and for
/// anything else than digits.
#[must_use]
pub fn parse(text: &[u8]) -> Option<Vec<u8>> {
    let value = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some((value(high)? << 4 | value(low)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_pairs_of_digits_are_parsed() {
        assert_eq!(parse(b"").unwrap(), b"");
        assert_eq!(parse(b"00fFA0").unwrap(), [0, 0xff, 0xa0]);
        for bad in ["0", "000", "0g", "+1", " 1", "0x"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn eight_digits_are_those_of_the_standard_library(number: u32) {
            let expected = format!("{number:08x}");
            prop_assert_eq!(&eight_digits(number)[..], expected.as_bytes());
        }

        #[test]
        fn bytes_survive_the_round_trip(bytes: Vec<u8>) {
            let mut text = Vec::new();
            push(&mut text, &bytes);
            prop_assert_eq!(parse(&text), Some(bytes));
        }
    }
}
