//! POSIX times as exact nanoseconds.

use core::cmp::Ordering;

use super::decimal::{Decimal, plain_billionths_at, split_sign};
use crate::text::digits::{eight_digits, push_digits, put_digits};

/// Nanoseconds since the POSIX epoch, or between two times. Valid times need 69 bits.
pub type Nanos = i128;

/// Nanoseconds per second.
pub const SECOND: Nanos = 1_000_000_000;

/// Maximum absolute value of a client time in seconds: 9999-12-31T23:59:59Z.
pub const MAX_SECONDS: u64 = 253_402_300_799;

/// Parses a client time: a decimal with an optional sign and an absolute value of at most
/// [`MAX_SECONDS`], compared exactly. The result is truncated after the ninth decimal.
#[must_use]
pub fn parse_time(field: &[u8]) -> Option<Nanos> {
    match plain_billionths_at(field, 0) {
        Some((nanos, end)) if end == field.len() => Some(nanos.into()),
        _ => parse_any_time(field),
    }
}

fn parse_any_time(field: &[u8]) -> Option<Nanos> {
    let (negative, digits) = split_sign(field).unwrap_or((false, field));
    let decimal = Decimal::parse(digits)?;
    if decimal.cmp_integer(MAX_SECONDS) == Ordering::Greater {
        return None;
    }
    decimal.billionths().map(|nanos| if negative { -nanos } else { nanos })
}

/// Parses the clock difference of an AT line: a sign and a decimal below 10^18 seconds.
#[must_use]
pub fn parse_difference(field: &[u8]) -> Option<Nanos> {
    let (negative, digits) = split_sign(field)?;
    let nanos = Decimal::parse(digits)?.billionths()?;
    Some(if negative { -nanos } else { nanos })
}

/// Appends a clock difference as a field of an AT line, with a space on either side. It always has a
/// sign and nine decimals.
pub fn push_difference(out: &mut Vec<u8>, difference: Nanos) {
    let magnitude = difference.unsigned_abs();
    // 64-bit divisions when possible, since 128-bit divisions would dominate the cost of a reply.
    let (seconds, nanos) = if let Ok(small) = u64::try_from(magnitude) {
        (small / 1_000_000_000, small % 1_000_000_000)
    } else {
        let seconds = magnitude / 1_000_000_000;
        (seconds as u64, (magnitude % 1_000_000_000) as u64)
    };
    // Fill the buffer from its end, so that it is appended in one piece.
    let mut field = [b'0'; 34];
    let (point, last) = (field.len() - 11, field.len() - 1);
    field[point + 1] = b'0' + (nanos / 100_000_000) as u8;
    field[point + 2..last].copy_from_slice(&eight_digits((nanos % 100_000_000) as u32));
    field[point] = b'.';
    let start = put_digits(&mut field[..point], seconds).min(point - 1);
    field[start - 2] = b' ';
    field[start - 1] = if difference < 0 { b'-' } else { b'+' };
    field[last] = b' ';
    out.extend_from_slice(&field[start - 2..]);
}

/// Appends a time that is not negative, with nine decimals.
pub fn push_time(out: &mut Vec<u8>, time: Nanos) {
    push_digits(out, (time / SECOND) as u64, 1);
    out.push(b'.');
    push_digits(out, (time % SECOND) as u64, 9);
}

/// Appends a time in seconds as a JSON number with `decimals` decimals (at most nine), truncated.
pub fn push_seconds(out: &mut Vec<u8>, nanos: Nanos, decimals: u32) {
    if nanos < 0 {
        out.push(b'-');
    }
    let magnitude = nanos.unsigned_abs();
    // A 128-bit division takes longer than everything else here.
    let (seconds, fraction) = if let Ok(small) = u64::try_from(magnitude) {
        (small / 1_000_000_000, small % 1_000_000_000)
    } else {
        let second = SECOND.unsigned_abs();
        ((magnitude / second) as u64, (magnitude % second) as u64)
    };
    push_digits(out, seconds, 1);
    out.push(b'.');
    push_digits(out, fraction / 10u64.pow(9 - decimals), decimals as usize);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepted_times() {
        assert_eq!(parse_time(b"1621464827.959498503"), Some(1_621_464_827_959_498_503));
        assert_eq!(parse_time(b"1621464827"), Some(1_621_464_827 * SECOND));
        assert_eq!(parse_time(b"1621464827."), Some(1_621_464_827 * SECOND));
        assert_eq!(parse_time(b".5"), Some(SECOND / 2));
        assert_eq!(parse_time(b"-1.5"), Some(-3 * SECOND / 2));
        assert_eq!(parse_time(b"+1"), Some(SECOND));
        assert_eq!(parse_time(b"-1.9999999999"), Some(-1_999_999_999));
        assert_eq!(parse_time(b"253402300799"), Some(253_402_300_799 * SECOND));
        assert_eq!(parse_time(b"-253402300799.000"), Some(-253_402_300_799 * SECOND));
    }

    #[test]
    fn refused_times() {
        for bad in
            ["", "+", "--1", "1e9", "253402300799.0000000000001", "253402300800", "1 ", "0x1"]
        {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn differences_print_nine_decimals() {
        let text = |nanos| {
            let mut out = Vec::new();
            push_difference(&mut out, nanos);
            String::from_utf8(out.trim_ascii().to_vec()).unwrap()
        };
        assert_eq!(text(263_873_386), "+0.263873386");
        assert_eq!(text(-2 * SECOND), "-2.000000000");
        assert_eq!(text(0), "+0.000000000");
        assert_eq!(text(-1), "-0.000000001");
        assert_eq!(text(506_804_601_598 * SECOND + 7), "+506804601598.000000007");
    }

    proptest! {
        #[test]
        fn a_plain_time_is_read_as_any_other(time in "[0-9]{7,11}[.]?[0-9]{0,11}[ +]?") {
            let time = time.as_bytes();
            if let Some((nanos, end)) = plain_billionths_at(time, 0) {
                prop_assert_eq!(parse_any_time(&time[..end]), Some(nanos.into()));
                prop_assert!(end == time.len() || parse_any_time(&time[..=end]).is_none());
            }
        }

        #[test]
        fn a_difference_reads_back(nanos in -600_000_000_000i128 * SECOND..600_000_000_000 * SECOND) {
            let mut out = Vec::new();
            push_difference(&mut out, nanos);
            prop_assert_eq!(parse_difference(out.trim_ascii()), Some(nanos));
        }
    }
}
