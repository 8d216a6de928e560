//! Decimals compared exactly: no float ever decides what the protocol accepts.

use core::cmp::Ordering;

use super::{EACH, word_at};

/// An unsigned decimal, `digits [ . [digits] ]` or `. digits`: a view of the client's bytes.
#[derive(Clone, Copy, Debug)]
pub struct Decimal<'a> {
    /// Digits before the point.
    whole: &'a [u8],
    /// What they are worth; [`u64::MAX`] stands for everything that large.
    value: u64,
    /// Digits behind the point. What they are worth is looked at where it matters.
    fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    /// The decimal that is all of `bytes`. No sign, exponent, underscore or comma.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (decimal, end) = Self::parse_at(bytes, 0)?;
        (end == bytes.len()).then_some(decimal)
    }

    /// The longest decimal in `bytes` from `at` on, and where it ends.
    #[must_use]
    #[inline]
    pub fn parse_at(bytes: &'a [u8], at: usize) -> Option<(Self, usize)> {
        let (count, value) = digits(bytes, at);
        let point = at + count;
        let (start, end) = match bytes.get(point) {
            Some(b'.') => (point + 1, skip_digits(bytes, point + 1)),
            _ => (point, point),
        };
        let (whole, fraction) = (bytes.get(at..point)?, bytes.get(start..end)?);
        (count + fraction.len() > 0).then_some((Self { whole, value, fraction }, end))
    }

    /// How this value compares with a whole number below [`u64::MAX`], exactly, however many
    /// digits it has.
    #[must_use]
    pub fn cmp_whole(&self, bound: u64) -> Ordering {
        match self.value.cmp(&bound) {
            Ordering::Equal if self.fraction.iter().any(|&b| b != b'0') => Ordering::Greater,
            other => other,
        }
    }

    /// The value in billionths; digits past the ninth decimal are ignored. `None` where the whole
    /// part is 10^18 or more: callers bound the value first.
    #[must_use]
    pub fn billionths(&self) -> Option<i128> {
        if self.value >= 10u64.pow(18) {
            return None;
        }
        let counted = &self.fraction[..self.fraction.len().min(9)];
        let fraction = nine_digits(counted) * POWERS_OF_TEN[9 - counted.len()];
        // Until the year 2500 that is a 64-bit product.
        Some(match self.value.checked_mul(1_000_000_000).and_then(|v| v.checked_add(fraction)) {
            Some(small) => i128::from(small),
            None => i128::from(self.value) * 1_000_000_000 + i128::from(fraction),
        })
    }

    /// The value times 10^`power`, for geometry. The nearest float for up to 15 digits: two floats
    /// that are exact are divided once (Clinger 1990). Digits past the 18th are ignored.
    #[must_use]
    pub fn to_f64(&self, power: i32) -> f64 {
        let mut mantissa = 0u64;
        let mut exponent = power;
        let zeros = self.whole.iter().take_while(|&&b| b == b'0').count();
        let whole = self.whole[zeros..].iter().take(18);
        let kept = self.fraction.len().min(18 - whole.len());
        for digit in whole.chain(&self.fraction[..kept]) {
            mantissa = mantissa * 10 + u64::from(digit - b'0');
        }
        exponent -= kept as i32;
        if exponent < 0 {
            mantissa as f64 / 10f64.powi(-exponent)
        } else {
            mantissa as f64 * 10f64.powi(exponent)
        }
    }
}

/// A sign and what is behind it; `true` is minus.
#[must_use]
pub fn split_sign(bytes: &[u8]) -> Option<(bool, &[u8])> {
    match bytes.split_first() {
        Some((b'+', rest)) => Some((false, rest)),
        Some((b'-', rest)) => Some((true, rest)),
        _ => None,
    }
}

const POWERS_OF_TEN: [u64; 10] =
    [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// How many digits stand in `bytes` from `at` on, and what they are worth: [`u64::MAX`] for that and
/// more. Looks at eight bytes at a time.
fn digits(bytes: &[u8], at: usize) -> (usize, u64) {
    let mut value = 0u64;
    let mut count = 0;
    loop {
        let word = word_at(bytes, at + count) ^ ZEROS;
        let found = leading_digits(word);
        if found == 0 {
            return (count, value);
        }
        let worth = eight_digits(word << (8 * (8 - found)));
        value = if count == 0 {
            worth
        } else {
            value.saturating_mul(POWERS_OF_TEN[found]).saturating_add(worth)
        };
        count += found;
        if found < 8 {
            return (count, value);
        }
    }
}

/// What `digits` are worth, nine of them at the most.
fn nine_digits(digits: &[u8]) -> u64 {
    let (eight, rest) = match digits.split_first_chunk() {
        Some((eight, rest)) => (eight_digits(u64::from_le_bytes(*eight) ^ ZEROS), rest),
        None => (0, digits),
    };
    rest.iter().fold(eight, |value, digit| value * 10 + u64::from(digit & 0xf))
}

/// Where the digits end that stand in `bytes` from `at` on.
fn skip_digits(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let found = leading_digits(word_at(bytes, at) ^ ZEROS);
        at += found;
        if found < 8 {
            return at;
        }
    }
}

/// Eight times the digit 0: with exclusive or, it makes digits 0..=9.
const ZEROS: u64 = EACH * 0x30;

/// How many of the lowest bytes of a word are digits, as 0..=9.
const fn leading_digits(word: u64) -> usize {
    // The lowest bit set marks the first byte that is none; what it carries is above it.
    let others = (word.wrapping_add(EACH * 0x76) | word) & (EACH * 0x80);
    others.trailing_zeros() as usize / 8
}

/// What eight digits are worth, one a byte, the first in the lowest: pairs are put together, then
/// pairs of pairs, then both halves.
const fn eight_digits(word: u64) -> u64 {
    let pairs = (word.wrapping_mul((10 << 8) + 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let fours = (pairs.wrapping_mul((100 << 16) + 1) >> 16) & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul((10_000 << 32) + 1) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grammar() {
        for good in ["0", "12", "12.", "12.5", ".5", "000", "00.100"] {
            assert!(Decimal::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in ["", ".", "+1", "-1", "1e3", "1_0", "1,0", "0x1", "nan", "inf", "1.2.3", "1 "] {
            assert!(Decimal::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn bounds_are_exact() {
        let cmp = |text: &str| Decimal::parse(text.as_bytes()).unwrap().cmp_whole(50);
        assert_eq!(cmp("50"), Ordering::Equal);
        assert_eq!(cmp("0050.000"), Ordering::Equal);
        assert_eq!(cmp("50.0000000000000001"), Ordering::Greater);
        assert_eq!(cmp("49.9999999999999999999999"), Ordering::Less);
        assert_eq!(cmp("9".repeat(400).as_str()), Ordering::Greater);
        assert_eq!(cmp(&format!("{}50", "0".repeat(400))), Ordering::Equal);
    }

    #[test]
    fn billionths_ignore_what_is_past_the_ninth() {
        let value = |text: &str| Decimal::parse(text.as_bytes()).unwrap().billionths();
        assert_eq!(value("1.9999999999"), Some(1_999_999_999));
        assert_eq!(value(".5"), Some(500_000_000));
        assert_eq!(value("7."), Some(7_000_000_000));
        assert_eq!(value(&"9".repeat(19)), None);
    }

    proptest! {
        #[test]
        fn digits_are_counted_and_worth_what_they_say(text in "[0-9]{0,22}[ -~]{0,10}", at in 0usize..9) {
            let at = at.min(text.len());
            let expected: String = text[at..].chars().take_while(char::is_ascii_digit).collect();
            let worth = if expected.is_empty() { 0 } else { expected.parse().unwrap_or(u64::MAX) };
            prop_assert_eq!(digits(text.as_bytes(), at), (expected.len(), worth));
            prop_assert_eq!(skip_digits(text.as_bytes(), at), at + expected.len());
        }

        #[test]
        fn agrees_with_integers(whole in 0u64..u64::MAX, bound in 0u64..u64::MAX) {
            let text = whole.to_string();
            prop_assert_eq!(Decimal::parse(text.as_bytes()).unwrap().cmp_whole(bound), whole.cmp(&bound));
        }

        #[test]
        fn float_is_the_text(whole in 0u32..1000, fraction in "[0-9]{0,12}", power in 0i32..4) {
            let text = format!("{whole}.{fraction}");
            let ours = Decimal::parse(text.as_bytes()).unwrap().to_f64(power);
            let std: f64 = format!("{text}e{power}").parse().unwrap();
            prop_assert_eq!(ours.to_bits(), std.to_bits(), "{}: {} against {}", text, ours, std);
        }

        #[test]
        fn float_of_many_digits_is_near(whole in 0u32..1000, fraction in "[0-9]{13,30}") {
            let text = format!("{whole}.{fraction}");
            let ours = Decimal::parse(text.as_bytes()).unwrap().to_f64(0);
            let std: f64 = text.parse().unwrap();
            prop_assert!((ours - std).abs() <= std * 4e-16, "{text}: {ours} against {std}");
        }
    }
}
