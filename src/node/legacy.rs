//! The dialect of the original Python server: bare AT lines, with numbers as Python prints them.

use super::Node;
use super::observer::Observers;
use crate::herd::LegacySender;
use crate::protocol::fields;
use crate::protocol::record::Record;
use crate::time::Now;

/// Largest negative exponent of a double.
const LEAST_EXPONENT: usize = 324;

/// Applies a bare AT line of an original server, which may print the difference in another form and
/// leave white space at the end. `label` is the address of its connection. Returns true if the line
/// is one.
pub fn take_record(
    node: &mut Node,
    sender: LegacySender,
    label: &[u8],
    line: &[u8],
    now: &Now,
) -> bool {
    let Some((canonical, _)) = canonical(line) else { return false };
    let Some(record) = Record::parse(&canonical) else { return false };
    let Node { herd, message_log: log, store, .. } = node;
    let mut observers = Observers { log, store: store.as_mut() };
    herd.apply_legacy_record(sender, label, &record, now.wall, &mut observers);
    true
}

/// Returns the server of a bare AT line of an original server, or `None` if the line is not one.
pub fn server_of_record(line: &[u8]) -> Option<&[u8]> {
    let (canonical, server) = canonical(line)?;
    Record::parse(&canonical).map(|_| server)
}

/// Returns an AT line in the form of a record, and its server.
fn canonical(line: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let Some([b"AT", server, difference, client, location, time]) = fields::<6>(line) else {
        return None;
    };
    let plain = without_exponent(difference);
    let difference = plain.as_deref().unwrap_or(difference);
    Some(([b"AT", server, difference, client, location, time].join(&b' '), server))
}

/// Rewrites a number that Python prints as `-5.25e-05` without an exponent, as `-0.0000525`. Returns
/// `None` if there is nothing to rewrite: Python uses an exponent only for numbers below one
/// ten-thousandth, and for large ones that a difference never reaches.
fn without_exponent(number: &[u8]) -> Option<Vec<u8>> {
    let at = number.iter().position(|&byte| byte == b'e')?;
    let (mantissa, exponent) = (&number[..at], number[at + 1..].strip_prefix(b"-")?);
    let exponent: usize = core::str::from_utf8(exponent).ok()?.parse().ok()?;
    let (sign, digits) = mantissa.split_at_checked(1)?;
    let (integer, fraction) = digits.split_at_checked(1)?;
    if !(1..=LEAST_EXPONENT).contains(&exponent) {
        return None;
    }
    let fraction = fraction.strip_prefix(b".").unwrap_or(fraction);
    Some([sign, b"0.", &vec![b'0'; exponent - 1], integer, fraction].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_of_python_become_plain_decimals() {
        for (python, plain) in [
            ("+5.25e-05", "+0.0000525"),
            ("-9.5367431640625e-07", "-0.00000095367431640625"),
            ("+1e-05", "+0.00001"),
        ] {
            assert_eq!(without_exponent(python.as_bytes()).as_deref(), Some(plain.as_bytes()));
        }
        // None of these is part of a valid record.
        for other in ["", "e", "+", "+e-05", "+1e", "+1e-", "+1e-0", "+1e-999", "+1e+05", "+1e--5"]
        {
            assert_eq!(without_exponent(other.as_bytes()), None, "{other}");
        }
    }
}
