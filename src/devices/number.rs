//! Numbers as devices write them, converted digit by digit into the decimals of the line protocol.

use core::cmp::Ordering;

use crate::protocol::decimal::{Decimal, split_sign};

/// Longest decimal that is produced, in bytes. The smallest double of Java, `4.9E-324`, expands to
/// fewer.
pub const MAX_DECIMAL: usize = 400;

/// A number: `[sign] digits [. digits] [e [sign] digits]`, as a view of the input.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    negative: bool,
    /// Digits before the point.
    integer: &'a [u8],
    /// Digits after the point.
    fraction: &'a [u8],
    /// True if there is a point.
    has_point: bool,
    /// Power of ten; `None` if there is no exponent.
    exponent: Option<i64>,
}

impl<'a> Number<'a> {
    /// Parses all of `text`, without the white space around it. `NaN`, infinities, hexadecimal digits
    /// and decimal commas are not accepted.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let (negative, rest) = split_sign(text).unwrap_or((false, text));
        let (integer, rest) = split_digits(rest);
        let has_point = rest.first() == Some(&b'.');
        let (fraction, rest) = split_digits(if has_point { &rest[1..] } else { rest });
        if integer.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest.split_first() {
            None => None,
            Some((b'e' | b'E', rest)) => Some(parse_exponent(rest)?),
            Some(_) => return None,
        };
        Some(Self { negative, integer, fraction, has_point, exponent })
    }

    /// Returns whether the number has a minus sign; zero may have one.
    #[must_use]
    pub const fn is_negative(&self) -> bool {
        self.negative
    }

    /// Appends the absolute value times 10^`shift` as a decimal, exactly. Without an exponent and a
    /// shift, these are the digits of the device. Returns `None` if the result would be longer
    /// than [`MAX_DECIMAL`]; what it has appended then is not valid.
    #[must_use]
    pub fn push_magnitude(&self, shift: i64, out: &mut Vec<u8>) -> Option<()> {
        let digits = self.integer.len() + self.fraction.len();
        if digits > MAX_DECIMAL {
            return None;
        }
        if self.exponent.is_none() && shift == 0 {
            out.extend_from_slice(self.integer);
            if self.has_point {
                out.push(b'.');
                out.extend_from_slice(self.fraction);
            }
            return Some(());
        }
        // The point follows this many of the digits.
        let point = self.exponent.unwrap_or(0) + shift + self.integer.len() as i64;
        let all = || self.integer.iter().chain(self.fraction);
        let longest = MAX_DECIMAL as i64;
        if !(-longest..=longest).contains(&point) {
            let is_zero = all().all(|&digit| digit == b'0');
            return is_zero.then(|| out.push(b'0'));
        }
        if point <= 0 {
            if digits + point.unsigned_abs() as usize + 2 > MAX_DECIMAL {
                return None;
            }
            out.extend_from_slice(b"0.");
            out.resize(out.len() + point.unsigned_abs() as usize, b'0');
            out.extend(all());
            return Some(());
        }
        let point = point as usize;
        let given = point.min(digits);
        let zeros = all().take(given).take_while(|&&digit| digit == b'0').count();
        let start = out.len();
        if zeros == given {
            out.push(b'0');
        } else {
            out.extend(all().take(point).skip(zeros));
            out.resize(out.len() + point - given, b'0');
        }
        if digits > point {
            out.push(b'.');
            out.extend(all().skip(point));
        }
        debug_assert!(out.len() - start <= MAX_DECIMAL + 1);
        Some(())
    }

    /// Appends the number with a sign, as in a location.
    #[must_use]
    pub fn push_signed(&self, out: &mut Vec<u8>) -> Option<()> {
        out.push(if self.negative { b'-' } else { b'+' });
        self.push_magnitude(0, out)
    }

    /// Returns whether the number is 0, with any sign and exponent.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.integer.iter().chain(self.fraction).all(|&digit| digit == b'0')
    }

    /// Compares the absolute value with an integer, exactly. `None` if the number is too long.
    #[must_use]
    pub fn cmp_integer(&self, bound: u64) -> Option<Ordering> {
        let mut digits = Vec::new();
        self.push_magnitude(0, &mut digits)?;
        Some(Decimal::parse(&digits)?.cmp_integer(bound))
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

/// Returns the value of an exponent, saturated far outside of what can be expanded. In a form, a `+` that
/// was not encoded arrives as a space.
fn parse_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix(b" ") {
        Some(digits) => (false, digits),
        None => split_sign(text).unwrap_or((false, text)),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |value: i64, digit: &u8| (value * 10 + i64::from(digit - b'0')).min(1_000_000_000);
    let value = digits.iter().fold(0, add);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn signed(text: &str) -> Option<String> {
        let mut out = Vec::new();
        Number::parse(text.as_bytes())?.push_signed(&mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn digits_are_kept_and_exponents_expanded() {
        for (text, expected) in [
            ("48.8584", "+48.8584"),
            ("+48.85840", "+48.85840"),
            ("-0.0", "-0.0"),
            (" 7 ", "+7"),
            (".5", "+.5"),
            ("5.", "+5."),
            ("007.10", "+007.10"),
            ("1.0E-4", "+0.00010"),
            ("-2.5e-05", "-0.000025"),
            ("1.25E1", "+12.5"),
            ("1.25e+2", "+125"),
            ("1.25e 2", "+125"),
            ("1.25E3", "+1250"),
            ("12.5E0", "+12.5"),
            ("0.05E1", "+0.5"),
            ("0.5E1", "+5"),
            ("000.5E2", "+50"),
            ("5.E1", "+50"),
            (".5E1", "+5"),
            ("0E5", "+0"),
            ("0.0E1", "+0"),
            ("0E-3", "+0.000"),
            ("0e999999999999999999999", "+0"),
            ("-0E-999999999", "-0"),
            ("123E-2", "+1.23"),
        ] {
            assert_eq!(signed(text).as_deref(), Some(expected), "{text}");
        }
        let least = signed("4.9E-324").unwrap();
        assert_eq!(least, format!("+0.{}49", "0".repeat(323)));
        let many = "1".repeat(MAX_DECIMAL);
        assert_eq!(signed(&many), Some(format!("+{many}")));
        for bad in [
            "",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "1e1.5",
            "1 2",
            "1,5",
            "--1",
            "1e -5",
            "1e  5",
            "1e ",
            "NaN",
            "nan",
            "Infinity",
            "-inf",
            "0x10",
            "1f",
            "1e5e5",
            "null",
            "1e401",
            "1e-401",
            "1e99999999999",
            "\u{661}",
        ] {
            assert_eq!(signed(bad), None, "{bad}");
        }
        assert_eq!(signed(&"1".repeat(MAX_DECIMAL + 1)), None);
    }

    #[test]
    fn numbers_are_compared_exactly() {
        let cmp = |text: &str, bound| Number::parse(text.as_bytes()).unwrap().cmp_integer(bound);
        assert_eq!(cmp("5E1", 50), Some(Ordering::Equal));
        assert_eq!(cmp("50.0000000000000000001", 50), Some(Ordering::Greater));
        assert_eq!(cmp("-4.9999999E1", 50), Some(Ordering::Less));
        assert_eq!(cmp("2147483646.999", 2_147_483_647), Some(Ordering::Less));
        assert_eq!(cmp("1e999", 50), None);
    }

    /// Returns an integer `m` and a power `p` with the value `m` × 10^`p`, in the simplest form: no
    /// trailing zeros in `m`.
    fn simplest(digits: &str, power: i64) -> (String, i64) {
        let significant = digits.trim_start_matches('0');
        let trimmed = significant.trim_end_matches('0');
        if trimmed.is_empty() {
            return ("0".to_owned(), 0);
        }
        (trimmed.to_owned(), power + (significant.len() - trimmed.len()) as i64)
    }

    proptest! {
        #[test]
        fn the_value_is_the_same(
            integer in "[0-9]{0,20}",
            fraction in "[0-9]{0,20}",
            exponent in -60i64..60,
            shift in -3i64..4,
        ) {
            prop_assume!(!integer.is_empty() || !fraction.is_empty());
            let text = format!("{integer}.{fraction}E{exponent}");
            let mut out = Vec::new();
            Number::parse(text.as_bytes()).unwrap().push_magnitude(shift, &mut out).unwrap();
            let out = String::from_utf8(out).unwrap();
            prop_assert!(Decimal::parse(out.as_bytes()).is_some(), "{}", out);
            let (whole, part) = out.split_once('.').unwrap_or((&out, ""));
            let ours = simplest(&format!("{whole}{part}"), -(part.len() as i64));
            let power = exponent + shift - fraction.len() as i64;
            prop_assert_eq!(ours, simplest(&format!("{integer}{fraction}"), power), "{}", out);
        }

        #[test]
        fn doubles_keep_their_value(value in -180f64..180.0) {
            // The shortest form that reads back, with an exponent.
            let text = format!("{value:e}");
            let expanded: f64 = signed(&text).unwrap().parse().unwrap();
            prop_assert_eq!(expanded.to_bits(), value.to_bits(), "{}", text);
        }

        #[test]
        fn any_bytes_are_a_number_or_not(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(number) = Number::parse(&text) {
                let mut out = Vec::new();
                let _ = number.push_magnitude(-3, &mut out);
            }
        }
    }
}
