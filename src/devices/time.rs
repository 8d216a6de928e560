//! The time of a fix, as devices write it: seconds, milliseconds, or a date (ISO 8601).

use core::cmp::Ordering;

use super::number::{MAX_DECIMAL, Number};
use crate::protocol::time::{Nanos, SECOND, parse_time};
use crate::text::digits::push_digits;

/// Numbers from this one on are milliseconds, by the convention of the `OsmAnd` protocol.
const FIRST_MILLISECONDS: u64 = 2_147_483_647;

/// Appends the time as seconds since the Unix epoch, exactly, and returns it. Returns -1 for times
/// before 1970, and `None` if `text` is not a time, or after the year 9999; what it has appended then
/// is not valid.
#[must_use]
pub fn push_seconds(text: &[u8], out: &mut Vec<u8>) -> Option<Nanos> {
    let (text, start) = (text.trim_ascii(), out.len());
    if text.get(4) == Some(&b'-') && text[..4].iter().all(u8::is_ascii_digit) {
        let date = Date::parse(text)?;
        if date.seconds < 0 {
            return Some(-1);
        }
        date.push(out)?;
    } else {
        let number = Number::parse(text)?;
        if number.is_negative() && !number.is_zero() {
            return Some(-1);
        }
        let is_seconds = number.cmp_integer(FIRST_MILLISECONDS)? == Ordering::Less;
        number.push_magnitude(if is_seconds { 0 } else { -3 }, out)?;
    }
    parse_time(&out[start..])
}

/// A date and time of day: `YYYY-MM-DDThh:mm[:ss[.fraction]][offset]`. A space may stand for the `T`;
/// without an offset, it is UTC.
struct Date<'a> {
    /// Seconds since the Unix epoch.
    seconds: i64,
    fraction: &'a [u8],
}

impl<'a> Date<'a> {
    fn parse(text: &'a [u8]) -> Option<Self> {
        let mut rest = Cursor(text);
        let year = rest.number(4)?;
        rest.expect(b"-")?;
        let month = rest.number(2)?;
        rest.expect(b"-")?;
        let day = rest.number(2)?;
        rest.expect(b"Tt ")?;
        let hour = rest.number(2)?;
        rest.expect(b":")?;
        let minute = rest.number(2)?;
        let second = if rest.expect(b":").is_some() { rest.number(2)? } else { 0 };
        let fraction = if rest.expect(b".,").is_some() { rest.digits()? } else { &[] };
        let offset = rest.offset()?;
        // A leap second is the first of the next minute.
        let is_valid = (1..=12).contains(&month)
            && (1..=days_of_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second <= 60;
        let of_day = hour * 3600 + minute * 60 + second;
        let seconds = days_from_civil(year, month, day) * 86_400 + of_day - offset;
        is_valid.then_some(Self { seconds, fraction })
    }

    fn push(&self, out: &mut Vec<u8>) -> Option<()> {
        if self.fraction.len() > MAX_DECIMAL {
            return None;
        }
        push_digits(out, self.seconds as u64, 1);
        if !self.fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(self.fraction);
        }
        Some(())
    }
}

/// The rest of a text.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Consumes exactly `count` digits.
    fn number(&mut self, count: usize) -> Option<i64> {
        let (digits, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        digits.iter().try_fold(0, |value, digit| {
            digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0'))
        })
    }

    /// Consumes one of these bytes, and returns it.
    fn expect(&mut self, bytes: &[u8]) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        bytes.contains(&first).then(|| {
            self.0 = rest;
            first
        })
    }

    /// Consumes one or more digits.
    fn digits(&mut self) -> Option<&'a [u8]> {
        let count = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        (count > 0).then_some(digits)
    }

    /// Consumes the rest, which must be nothing, `Z` or an offset such as `+01:00`, `+0100` or `+01`.
    /// Returns the offset in seconds. In a form, a `+` that was not encoded arrives as a space.
    fn offset(&mut self) -> Option<i64> {
        let offset = match self.expect(b"Zz+- ") {
            None | Some(b'Z' | b'z') => 0,
            Some(sign) => {
                let hours = self.number(2)?;
                let _ = self.expect(b":");
                let minutes = if self.0.is_empty() { 0 } else { self.number(2)? };
                let seconds =
                    (hours < 24 && minutes < 60).then_some(hours * 3600 + minutes * 60)?;
                if sign == b'-' { -seconds } else { seconds }
            }
        };
        self.0.is_empty().then_some(offset)
    }
}

const fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Returns the days from 1970-01-01 to a date, by the algorithm of that name of H. Hinnant. Its years
/// begin in March, so that a leap day is last.
const fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Seconds from the Unix epoch to 2001-01-01, the epoch of Apple's systems.
pub const APPLE_EPOCH: Nanos = 978_307_200 * SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(text: &str) -> Option<String> {
        let mut out = Vec::new();
        push_seconds(text.as_bytes(), &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn seconds_milliseconds_and_dates_are_converted_exactly() {
        for (text, expected) in [
            ("1795824000", "1795824000"),
            ("1795824000.5", "1795824000.5"),
            ("+1795824000", "1795824000"),
            ("1.795824E9", "1795824000"),
            ("2147483646", "2147483646"),
            ("2147483646.999", "2147483646.999"),
            ("2147483647", "2147483.647"),
            ("1795824000125", "1795824000.125"),
            ("1795824000125.5", "1795824000.1255"),
            ("1.795824000125E12", "1795824000.125"),
            ("0", "0"),
            ("-0", "0"),
            ("2026-11-28T00:00:00Z", "1795824000"),
            ("2026-11-28T00:00:00.125Z", "1795824000.125"),
            ("2026-11-28T01:00:00.1250000001+01:00", "1795824000.1250000001"),
            ("2026-11-27T16:00:00-0800", "1795824000"),
            ("2026-11-28T05:30+0530", "1795824000"),
            ("2026-11-28T05:30:00 05:30", "1795824000"),
            ("2026-11-28t01:00:00+01", "1795824000"),
            ("2026-11-28 00:00:00", "1795824000"),
            ("2026-11-28T00:00:00", "1795824000"),
            ("2026-11-28T00:00:00,5z", "1795824000.5"),
            ("1970-01-01T00:00:00Z", "0"),
            ("2000-02-29T12:00:00Z", "951825600"),
            ("2016-12-31T23:59:60Z", "1483228800"),
            ("9999-12-31T23:59:59Z", "253402300799"),
        ] {
            assert_eq!(seconds(text).as_deref(), Some(expected), "{text}");
        }
        for bad in [
            "",
            "now",
            "NaN",
            "1e99",
            "9999-12-31T23:59:59.001Z",
            "99999999999999999",
            "2026-11-28",
            "2026-11-28T",
            "2026-11-28T00",
            "2026-11-28T00:00:00.Z",
            "2026-11-28T00:00:00ZZ",
            "2026-11-28T24:00:00Z",
            "2026-11-28T00:60:00Z",
            "2026-11-28T00:00:61Z",
            "2026-11-28T00:00:00+24:00",
            "2026-11-28T00:00:00+1",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-11-31T00:00:00Z",
            "2026-11-00T00:00:00Z",
            "2026-1-28T00:00:00Z",
            "2026-11-28X00:00:00Z",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_before_1970_are_negative() {
        for text in ["-1", "-0.5", "-1e3", "1969-12-31T23:59:59.9Z", "0001-01-01T00:00:00Z"] {
            assert_eq!(push_seconds(text.as_bytes(), &mut Vec::new()), Some(-1), "{text}");
        }
    }

    #[test]
    fn days_are_counted_like_a_calendar_does() {
        let mut days = 0;
        for year in 1970..2200 {
            for month in 1..=12 {
                for day in 1..=days_of_month(year, month) {
                    assert_eq!(days_from_civil(year, month, day), days, "{year}-{month}-{day}");
                    days += 1;
                }
            }
        }
    }

    proptest! {
        #[test]
        fn dates_and_numbers_agree(
            second in 0i64..4_000_000_000,
            fraction in "[0-9]{0,9}",
            offset in -1439i64..1440,
            colon: bool,
        ) {
            // The inverse of the conversion, by counting days.
            let local = second + offset * 60;
            prop_assume!(local >= 0);
            let (mut days, of_day) = (local / 86_400, local % 86_400);
            let (mut year, mut month) = (1970, 1);
            while days >= days_of_month(year, month) {
                days -= days_of_month(year, month);
                (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
            }
            let sign = if offset < 0 { '-' } else { '+' };
            let (hours, minutes) = (offset.abs() / 60, offset.abs() % 60);
            let colon = if colon { ":" } else { "" };
            let point = if fraction.is_empty() { "" } else { "." };
            let text = format!(
                "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}{point}{fraction}{sign}{hours:02}{colon}{minutes:02}",
                days + 1, of_day / 3600, of_day / 60 % 60, of_day % 60,
            );
            prop_assert_eq!(seconds(&text), Some(format!("{second}{point}{fraction}")), "{}", text);
        }

        #[test]
        fn milliseconds_are_thousandths(value in FIRST_MILLISECONDS..253_402_300_799_000) {
            let (whole, part) = (value / 1000, value % 1000);
            prop_assert_eq!(seconds(&value.to_string()), Some(format!("{whole}.{part:03}")));
        }

        #[test]
        fn any_bytes_are_a_time_or_not(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut out = Vec::new();
            let _ = push_seconds(&text, &mut out);
        }
    }
}
