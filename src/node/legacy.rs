//! What the original Python server says to a neighbour: bare AT lines, with numbers as Python
//! prints them.

use super::{Node, Now};
use crate::herd::LinkId;
use crate::protocol::fields;
use crate::protocol::record::Record;

/// Smallest exponent that a difference may have: a double has none below.
const LEAST_EXPONENT: usize = 324;

/// Takes a bare AT of a server of the seed, which may print its difference otherwise and leave
/// white space at the end. Returns whether it was one.
pub fn take_record(node: &mut Node, link: LinkId, line: &[u8], now: &Now) -> bool {
    let Some([b"AT", server, difference, client, location, time]) = fields::<6>(line) else {
        return false;
    };
    let plain = without_exponent(difference);
    let difference = plain.as_deref().unwrap_or(difference);
    let canonical = [b"AT", server, difference, client, location, time].join(&b' ');
    let Some(record) = Record::parse(&canonical) else { return false };
    let Node { herd, message_log, .. } = node;
    herd.receive_record(link, &record, None, now.clock, message_log);
    true
}

/// A number that Python prints as `-5.25e-05` as the same in plain digits, `-0.0000525`. `None`
/// where there is nothing to rewrite: it writes numbers from a ten-thousandth on without exponent,
/// and a difference is never so large that it would again.
fn without_exponent(number: &[u8]) -> Option<Vec<u8>> {
    let at = number.iter().position(|&byte| byte == b'e')?;
    let (mantissa, exponent) = (&number[..at], number[at + 1..].strip_prefix(b"-")?);
    let exponent: usize = core::str::from_utf8(exponent).ok()?.parse().ok()?;
    let (sign, digits) = mantissa.split_at_checked(1)?;
    let (whole, fraction) = digits.split_at_checked(1)?;
    if !(1..=LEAST_EXPONENT).contains(&exponent) {
        return None;
    }
    let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
    Some([sign, b"0.", &vec![b'0'; exponent - 1], whole, fraction].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pythons_small_numbers_in_plain_digits() {
        for (python, plain) in [
            ("+5.25e-05", "+0.0000525"),
            ("-9.5367431640625e-07", "-0.00000095367431640625"),
            ("+1e-05", "+0.00001"),
        ] {
            assert_eq!(without_exponent(python.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
        // Whatever comes of these, a record is none with them.
        for other in ["", "e", "+", "+e-05", "+1e", "+1e-", "+1e-0", "+1e-999", "+1e+05", "+1e--5"]
        {
            assert_eq!(without_exponent(other.as_bytes()), None, "{other}");
        }
    }
}
