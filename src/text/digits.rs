//! Decimal digits.

/// Appends `value` in decimal, padded with zeros to at least `width` digits (at most 20).
pub fn push_digits(out: &mut Vec<u8>, value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let start = put_digits(&mut digits, value).min(digits.len() - width);
    out.extend_from_slice(&digits[start..]);
}

/// Writes `value` in decimal, right-aligned, over the end of `digits`, which must have room for
/// it. Returns the index of the first digit: `digits.len()` for 0, which has none.
pub fn put_digits(digits: &mut [u8], mut value: u64) -> usize {
    // Two digits at a time halve the number of divisions.
    let mut at = digits.len();
    while value >= 10 {
        let pair = (value % 100) as usize;
        value /= 100;
        at -= 2;
        digits[at..at + 2].copy_from_slice(&PAIRS[pair]);
    }
    if value > 0 {
        at -= 1;
        digits[at] = b'0' + value as u8;
    }
    at
}

/// Returns a number below 100,000,000 as eight digits. Divides all halves of the digits at once: first
/// into twice four, then four times two, then eight.
#[must_use]
pub const fn eight_digits(value: u32) -> [u8; 8] {
    const DIGITS: u64 = u64::from_ne_bytes([b'0'; 8]);
    let fours = (value / 10_000) as u64 | ((value % 10_000) as u64) << 32;
    // Exact for numbers below 10,000 and 100: the quotients are fractions of a power of two, rounded up.
    let hundreds = ((fours * 10_486) >> 20) & 0x0000_007f_0000_007f;
    let twos = hundreds | (fours - 100 * hundreds) << 16;
    let tens = ((twos * 103) >> 10) & 0x000f_000f_000f_000f;
    (tens | (twos - 10 * tens) << 8).wrapping_add(DIGITS).to_le_bytes()
}

/// Returns the value of nine digits, or `None` if they are not all digits.
#[must_use]
#[inline]
pub const fn nine_digits(digits: &[u8; 9]) -> Option<u64> {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let [rest @ .., last] = digits;
    let word = u64::from_le_bytes(*rest);
    // The high half of each byte is 3, and still is after 6 has been added.
    let high = EACH * 0xf0;
    if word & high != EACH * 0x30
        || (word + EACH * 0x06) & high != EACH * 0x30
        || !last.is_ascii_digit()
    {
        return None;
    }
    // Neighbors are combined: digits, then pairs, then quadruples.
    let pairs = ((word & (EACH * 0x0f)).wrapping_mul(10 * 0x100 + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul(100 * 0x1_0000 + 1) >> 16) & 0x0000_ffff_0000_ffff;
    let eight = fours.wrapping_mul(10_000 * 0x1_0000_0000 + 1) >> 32;
    Some(eight * 10 + (*last - b'0') as u64)
}

/// `00` to `99`.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        n += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_has_no_digits_unless_it_is_padded() {
        assert_eq!(put_digits(&mut [b'0'; 3], 0), 3);
        let mut out = Vec::new();
        push_digits(&mut out, 0, 1);
        push_digits(&mut out, u64::MAX, 1);
        assert_eq!(out, b"018446744073709551615");
    }

    #[test]
    fn all_quotients_are_exact() {
        for value in 0..10_000 {
            for value in [value, value * 10_000 + 9_999, 99_990_000 + value] {
                assert_eq!(str::from_utf8(&eight_digits(value)).unwrap(), format!("{value:08}"));
            }
        }
    }

    #[test]
    fn only_digits_have_a_value() {
        assert_eq!(nine_digits(b"000000000"), Some(0));
        assert_eq!(nine_digits(b"123456789"), Some(123_456_789));
        assert_eq!(nine_digits(b"999999999"), Some(999_999_999));
        for at in 0..9 {
            for byte in (0..=u8::MAX).filter(|byte| !byte.is_ascii_digit()) {
                let mut digits = *b"999999999";
                digits[at] = byte;
                assert_eq!(nine_digits(&digits), None, "{}", digits.escape_ascii());
            }
        }
    }

    proptest! {
        #[test]
        fn nine_digits_are_parsed(value in 0u64..1_000_000_000) {
            let text = format!("{value:09}");
            prop_assert_eq!(nine_digits(text.as_bytes().try_into().unwrap()), Some(value));
        }

        #[test]
        fn digits_match_the_standard_library(value: u64, shift in 0u32..64, width in 0usize..=20) {
            let value = value >> shift;
            let mut out = Vec::new();
            push_digits(&mut out, value, width.max(1));
            let expected = format!("{value:0>width$}", width = width.max(1));
            prop_assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
