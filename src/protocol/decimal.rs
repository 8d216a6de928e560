//! Decimals that are compared exactly, so that no rounding decides what the protocol accepts.

use core::cmp::Ordering;
use std::io::Write as _;

use super::{EACH, word_at};

/// An unsigned decimal, `digits [ . [digits] ]` or `. digits`, as a view of the input.
#[derive(Clone, Copy, Debug)]
pub struct Decimal<'a> {
    /// Digits before the point.
    integer: &'a [u8],
    /// Their value, saturated at [`u64::MAX`].
    value: u64,
    /// Digits after the point, evaluated only when needed.
    fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    /// Parses all of `bytes`. Signs, exponents, underscores and commas are not accepted.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (decimal, end) = Self::parse_at(bytes, 0)?;
        (end == bytes.len()).then_some(decimal)
    }

    /// Parses the longest decimal that starts at `at`, and returns it with the position of its end.
    #[must_use]
    #[inline]
    pub fn parse_at(bytes: &'a [u8], at: usize) -> Option<(Self, usize)> {
        let (count, value) = digits(bytes, at);
        let point = at + count;
        let (start, end) = match bytes.get(point) {
            Some(b'.') => (point + 1, skip_digits(bytes, point + 1)),
            _ => (point, point),
        };
        let (integer, fraction) = (bytes.get(at..point)?, bytes.get(start..end)?);
        (count + fraction.len() > 0).then_some((Self { integer, value, fraction }, end))
    }

    /// Compares the value with an integer below [`u64::MAX`], exactly for any number of digits.
    #[must_use]
    pub fn cmp_integer(&self, bound: u64) -> Ordering {
        match self.value.cmp(&bound) {
            Ordering::Equal if self.fraction.iter().any(|&b| b != b'0') => Ordering::Greater,
            other => other,
        }
    }

    /// Returns the value in billionths, truncated after the ninth decimal, or `None` if it is 10^18
    /// or more.
    #[must_use]
    pub fn billionths(&self) -> Option<i128> {
        if self.value >= 10u64.pow(18) {
            return None;
        }
        let decimals = &self.fraction[..self.fraction.len().min(9)];
        let fraction = up_to_nine_digits(decimals) * POWERS_OF_TEN[9 - decimals.len()];
        // For times until the year 2500, the product fits in 64 bits.
        Some(match self.value.checked_mul(1_000_000_000).and_then(|v| v.checked_add(fraction)) {
            Some(small) => i128::from(small),
            None => i128::from(self.value) * 1_000_000_000 + i128::from(fraction),
        })
    }

    /// Appends the value with all its decimals, as a JSON number without a sign.
    pub fn push(&self, out: &mut Vec<u8>) {
        let zeros = self.integer.iter().take_while(|&&digit| digit == b'0').count();
        match &self.integer[zeros..] {
            [] => out.push(b'0'),
            digits => out.extend_from_slice(digits),
        }
        if !self.fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(self.fraction);
        }
    }

    /// Returns the value times 10^`power`, for geometry, correctly rounded.
    #[must_use]
    pub fn to_f64(&self, power: i32) -> f64 {
        let zeros = self.integer.iter().take_while(|&&b| b == b'0').count();
        let integer = &self.integer[zeros..];
        let exponent = power - self.fraction.len() as i32;
        if integer.len() + self.fraction.len() > EXACT_DIGITS || exponent.abs() > EXACT_POWER {
            return self.many_digits_to_f64(power);
        }
        let digits = integer.iter().chain(self.fraction);
        let mantissa = digits.fold(0u64, |value, digit| value * 10 + u64::from(digit - b'0'));
        // Both operands are exact, so that the result is rounded once (Clinger 1990).
        if exponent < 0 {
            mantissa as f64 / 10f64.powi(-exponent)
        } else {
            mantissa as f64 * 10f64.powi(exponent)
        }
    }

    /// As [`Decimal::to_f64`], by the parser of the standard library. It is given as many digits as can
    /// matter: a digit that is not zero stands for the rest.
    #[cold]
    fn many_digits_to_f64(&self, power: i32) -> f64 {
        const KEPT: usize = 60;
        let digits = || self.integer.iter().chain(self.fraction).copied();
        let zeros = digits().take_while(|&digit| digit == b'0').count();
        let mut text = [0; KEPT + 24];
        let mut length = 0;
        for digit in digits().skip(zeros).take(KEPT) {
            text[length] = digit;
            length += 1;
        }
        let mut cut = digits().skip(zeros + KEPT);
        let mut exponent = power - self.fraction.len() as i32 + cut.clone().count() as i32;
        if cut.any(|digit| digit != b'0') {
            text[length] = b'1';
            (length, exponent) = (length + 1, exponent - 1);
        }
        if length == 0 {
            return 0.0;
        }
        let mut rest = &mut text[length..];
        let room = rest.len();
        // There is room for any exponent.
        let _ = write!(rest, "e{exponent}");
        length += room - rest.len();
        let number = str::from_utf8(&text[..length]).ok().and_then(|text| text.parse().ok());
        number.unwrap_or_default()
    }
}

/// Returns the integer part and the end of the longest decimal that starts at `at`, if it has one to seven
/// digits before the point and at most seven after it. Most degrees do.
#[inline]
pub(super) fn plain_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let (value, point) = plain_integer_at(bytes, at)?;
    if bytes.get(point) != Some(&b'.') {
        return Some((value, point));
    }
    let decimals = leading_digits(word_at(bytes, point + 1) ^ ZEROS);
    (decimals < 8).then_some((value, point + 1 + decimals))
}

/// As [`plain_at`], with the value of all digits, correctly rounded.
#[inline]
pub(super) fn plain_value_at(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let (integer, point) = plain_integer_at(bytes, at)?;
    if bytes.get(point) != Some(&b'.') {
        return Some((integer as i64 as f64, point));
    }
    let word = word_at(bytes, point + 1) ^ ZEROS;
    let decimals = leading_digits(word);
    if decimals == 8 {
        return None;
    }
    // At most fourteen digits, which are exact like the power, so that the quotient is rounded once (Clinger
    // 1990). The processor converts signed numbers only.
    let digits = (integer * POWERS_OF_TEN[decimals] + few_digits(word, decimals)) as i64;
    Some((digits as f64 / EXACT_POWERS[decimals], point + 1 + decimals))
}

/// Returns the integer part of the decimal that starts at `at`, if it has one to seven digits, and the
/// place of the point, if there is one.
#[inline]
fn plain_integer_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let word = word_at(bytes, at) ^ ZEROS;
    let count = leading_digits(word);
    if count == 0 || count == 8 {
        return None;
    }
    Some((few_digits(word, count), at + count))
}

/// Returns the value in billionths and the end of the longest decimal that starts at `at`, if it has
/// eight to ten digits before the point and at most nine after it. Most times do, since the year 1970.
#[inline]
pub(super) fn plain_billionths_at(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = word_at(bytes, at) ^ ZEROS;
    let second = word_at(bytes, at + 8) ^ ZEROS;
    let count = leading_digits(second);
    if leading_digits(first) < 8 || count > 2 {
        return None;
    }
    let integer = eight_digits(first) * POWERS_OF_TEN[count] + few_digits(second, count);
    // Less than 10^19, which fits.
    let billions = integer * 1_000_000_000;
    let point = at + 8 + count;
    if bytes.get(point) != Some(&b'.') {
        return Some((billions, point));
    }
    let third = word_at(bytes, point + 1) ^ ZEROS;
    let decimals = leading_digits(third);
    if decimals < 8 {
        let fraction = few_digits(third, decimals) * POWERS_OF_TEN[9 - decimals];
        return Some((billions + fraction, point + 1 + decimals));
    }
    let digit = |at: usize| bytes.get(at).filter(|byte| byte.is_ascii_digit());
    let ninth = digit(point + 9);
    if ninth.is_some() && digit(point + 10).is_some() {
        return None;
    }
    let fraction = 10 * eight_digits(third) + ninth.map_or(0, |digit| u64::from(digit - b'0'));
    Some((billions + fraction, point + 9 + usize::from(ninth.is_some())))
}

/// Most decimal digits of an integer that is exact in 53 bits, for any digits.
const EXACT_DIGITS: usize = 15;

/// The greatest power of ten that is exact.
const EXACT_POWER: i32 = 22;

/// Splits a sign off. Returns whether it is a minus, and the bytes after it.
#[must_use]
pub fn split_sign(bytes: &[u8]) -> Option<(bool, &[u8])> {
    match bytes.split_first() {
        Some((b'+', rest)) => Some((false, rest)),
        Some((b'-', rest)) => Some((true, rest)),
        _ => None,
    }
}

const EXACT_POWERS: [f64; 8] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];

const POWERS_OF_TEN: [u64; 10] =
    [1, 10, 100, 1000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];

/// Returns the number of digits from `at` on and their value, saturated at [`u64::MAX`]. Processes
/// eight bytes at a time.
#[inline]
fn digits(bytes: &[u8], at: usize) -> (usize, u64) {
    let word = word_at(bytes, at) ^ ZEROS;
    let found = leading_digits(word);
    if found < 8 { (found, few_digits(word, found)) } else { many_digits(bytes, at, word) }
}

/// As [`digits`], if the first eight bytes are digits, which are given as a word XOR [`ZEROS`].
#[inline(never)] // keeps the common case small
fn many_digits(bytes: &[u8], at: usize, first: u64) -> (usize, u64) {
    let (mut count, mut value) = (8, eight_digits(first));
    loop {
        let word = word_at(bytes, at + count) ^ ZEROS;
        let found = leading_digits(word);
        let chunk = if found < 8 { few_digits(word, found) } else { eight_digits(word) };
        value = value.saturating_mul(POWERS_OF_TEN[found]).saturating_add(chunk);
        count += found;
        if found < 8 {
            return (count, value);
        }
    }
}

/// Returns the value of up to nine digits.
fn up_to_nine_digits(digits: &[u8]) -> u64 {
    let (eight, rest) = match digits.split_first_chunk() {
        Some((eight, rest)) => (eight_digits(u64::from_le_bytes(*eight) ^ ZEROS), rest),
        None => (0, digits),
    };
    rest.iter().fold(eight, |value, digit| value * 10 + u64::from(digit & 0xf))
}

/// Returns the position after the digits that start at `at`.
#[inline]
fn skip_digits(bytes: &[u8], at: usize) -> usize {
    let found = leading_digits(word_at(bytes, at) ^ ZEROS);
    if found < 8 { at + found } else { skip_many_digits(bytes, at + found) }
}

#[inline(never)] // keeps the common case small
fn skip_many_digits(bytes: &[u8], mut at: usize) -> usize {
    loop {
        let found = leading_digits(word_at(bytes, at) ^ ZEROS);
        at += found;
        if found < 8 {
            return at;
        }
    }
}

/// Eight ASCII zeros: XOR with this maps digits to 0..=9.
const ZEROS: u64 = EACH * 0x30;

/// Returns the number of leading bytes of a word that are digits, given the word XOR [`ZEROS`].
const fn leading_digits(word: u64) -> usize {
    // The lowest bit set marks the first byte that is not a digit. Carries only affect higher
    // bytes.
    let others = (word.wrapping_add(EACH * 0x76) | word) & (EACH * 0x80);
    others.trailing_zeros() as usize / 8
}

/// Returns the value of the first `count` bytes of a word, fewer than eight digits.
const fn few_digits(word: u64, count: usize) -> u64 {
    eight_digits(word << (56 - 8 * count) << 8)
}

/// Returns the value of eight digits, the most significant in the lowest byte. Combines pairs, then
/// pairs of pairs, then both halves (Lemire, "Quickly parsing eight digits", 2018).
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
        let cmp = |text: &str| Decimal::parse(text.as_bytes()).unwrap().cmp_integer(50);
        assert_eq!(cmp("50"), Ordering::Equal);
        assert_eq!(cmp("0050.000"), Ordering::Equal);
        assert_eq!(cmp("50.0000000000000001"), Ordering::Greater);
        assert_eq!(cmp("49.9999999999999999999999"), Ordering::Less);
        assert_eq!(cmp("9".repeat(400).as_str()), Ordering::Greater);
        assert_eq!(cmp(&format!("{}50", "0".repeat(400))), Ordering::Equal);
    }

    #[test]
    fn billionths_are_truncated_after_the_ninth_decimal() {
        let value = |text: &str| Decimal::parse(text.as_bytes()).unwrap().billionths();
        assert_eq!(value("1.9999999999"), Some(1_999_999_999));
        assert_eq!(value(".5"), Some(500_000_000));
        assert_eq!(value("7."), Some(7_000_000_000));
        assert_eq!(value(&"9".repeat(19)), None);
    }

    proptest! {
        #[test]
        fn digits_are_counted_and_evaluated(text in "[0-9]{0,22}[ -~]{0,10}", at in 0usize..9) {
            let at = at.min(text.len());
            let expected: String = text[at..].chars().take_while(char::is_ascii_digit).collect();
            let value = if expected.is_empty() { 0 } else { expected.parse().unwrap_or(u64::MAX) };
            prop_assert_eq!(digits(text.as_bytes(), at), (expected.len(), value));
            prop_assert_eq!(skip_digits(text.as_bytes(), at), at + expected.len());
        }

        #[test]
        fn agrees_with_integers(whole in 0u64..u64::MAX, bound in 0u64..u64::MAX) {
            let text = whole.to_string();
            prop_assert_eq!(Decimal::parse(text.as_bytes()).unwrap().cmp_integer(bound), whole.cmp(&bound));
        }

        #[test]
        fn floats_are_correctly_rounded(whole in 0u32..1000, fraction in "[0-9]{0,12}", power in 0i32..4) {
            let text = format!("{whole}.{fraction}");
            let ours = Decimal::parse(text.as_bytes()).unwrap().to_f64(power);
            let std: f64 = format!("{text}e{power}").parse().unwrap();
            prop_assert_eq!(ours.to_bits(), std.to_bits(), "{}: {} against {}", text, ours, std);
        }

        #[test]
        fn floats_of_many_digits_are_correctly_rounded(
            whole in "[0-9]{0,30}", fraction in "[0-9]{0,90}", zeros in 0usize..30, power in -5i32..5,
        ) {
            let text = format!("{whole}0.{}{fraction}", "0".repeat(zeros));
            let ours = Decimal::parse(text.as_bytes()).unwrap().to_f64(power);
            let std: f64 = format!("{text}e{power}").parse().unwrap();
            prop_assert_eq!(ours.to_bits(), std.to_bits(), "{}: {} against {}", text, ours, std);
        }
    }
}
