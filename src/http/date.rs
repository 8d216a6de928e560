//! The header field `Date` (RFC 9110, section 6.6.1).

use crate::protocol::time::{MAX_SECONDS, Nanos, SECOND};
use crate::text::digits::push_digits;
use crate::time::Wall;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"]; // from 1970-01-01
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Appends the field with its CR LF. Times outside the years 1970 to 9999 are clamped.
pub fn push_date(out: &mut Vec<u8>, wall: Wall) {
    let seconds = wall.nanos().div_euclid(SECOND).clamp(0, Nanos::from(MAX_SECONDS)) as u64;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    out.extend_from_slice(b"Date: ");
    out.extend_from_slice(DAYS[(days % 7) as usize].as_bytes());
    out.extend_from_slice(b", ");
    push_digits(out, day, 2);
    out.push(b' ');
    out.extend_from_slice(MONTHS[month].as_bytes());
    for (number, separator, width) in [
        (year, b' ', 4),
        (of_day / 3600, b' ', 2),
        (of_day / 60 % 60, b':', 2),
        (of_day % 60, b':', 2),
    ] {
        out.push(separator);
        push_digits(out, number, width);
    }
    out.extend_from_slice(b" GMT\r\n");
}

/// Returns the year, the month from 0 and the day of the month, `days` after 1970-01-01, by the
/// algorithm `civil_from_days` of H. Hinnant. Its years begin in March, so that a leap day is last.
const fn civil(days: u64) -> (u64, usize, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let of_year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * of_year + of_year / 4 - of_year / 100);
    let month = (5 * day_of_year + 2) / 153; // from March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = (month + 2) % 12; // from January
    (era * 400 + of_year + (month < 2) as u64, month as usize, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_have_the_format_of_the_standard() {
        let date = |seconds: i128| {
            let mut out = Vec::new();
            push_date(&mut out, Wall(seconds * SECOND + 999_999_999));
            String::from_utf8(out).unwrap()
        };
        for (seconds, expected) in [
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (253_402_300_800, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(date(seconds), format!("Date: {expected}\r\n"), "{seconds}");
        }
    }
}
