//! The reason why a line is not a valid command, for the log. The reply never contains it.

use core::cmp::Ordering;

use super::command::{MAX_RADIUS_KM, MAX_RESULTS, is_http_request_line};
use super::decimal::{Decimal, split_sign};
use super::next_field;

/// Returns the field of `line` that is not valid, and the rule that it violates. For a line that is
/// valid, which is a WHATSAT, the reason is that this node does not hold the client.
#[must_use]
pub fn refusal(line: &[u8]) -> &'static str {
    let mut rest = line;
    let fields: Vec<&[u8]> = core::iter::from_fn(|| {
        let (field, after) = next_field(rest)?;
        rest = after;
        Some(field)
    })
    .take(5)
    .collect();
    match fields.as_slice() {
        [b"IAMAT", _, location, time] => {
            location_refusal(location).unwrap_or_else(|| time_refusal(time))
        }
        [b"IAMAT", ..] if fields.len() < 4 => "a field is missing: IAMAT CLIENT LOCATION TIME",
        [b"IAMAT", ..] => "there are too many fields: IAMAT CLIENT LOCATION TIME",
        [b"WHATSAT", _, radius, results] => radius_refusal(radius)
            .or_else(|| results_refusal(results))
            .unwrap_or("client: this node holds no record of it"),
        [b"WHATSAT", ..] if fields.len() < 4 => "a field is missing: WHATSAT CLIENT RADIUS RESULTS",
        [b"WHATSAT", ..] => "there are too many fields: WHATSAT CLIENT RADIUS RESULTS",
        [word, ..] if is_command(&word.to_ascii_uppercase()) => "command: it must be in upper case",
        [b"AT", ..] => "command: AT is for peers, and this connection is that of a client",
        [b"HERD", ..] => "command: HERD is for neighbors, and this peer is not one",
        _ if is_http_request_line(line) => "command: this is an HTTP request; see http.ports",
        [word, ..] if !word.is_ascii() || word.iter().any(u8::is_ascii_control) => {
            "command: it contains bytes that are not printable; the connection may be of another protocol"
        }
        _ => "command: it must be IAMAT or WHATSAT",
    }
}

fn is_command(word: &[u8]) -> bool {
    matches!(word, b"IAMAT" | b"WHATSAT")
}

fn location_refusal(field: &[u8]) -> Option<&'static str> {
    let is_sign = |at: usize| matches!(field.get(at), Some(b'+' | b'-'));
    if !is_sign(0) {
        return Some("location: the latitude must begin with + or -");
    }
    let Some((latitude, end)) = Decimal::parse_at(field, 1) else {
        return Some("location: the latitude must be a decimal number of degrees");
    };
    if !is_sign(end) {
        return Some("location: the longitude must follow the latitude and begin with + or -");
    }
    let Some((longitude, end)) = Decimal::parse_at(field, end + 1) else {
        return Some("location: the longitude must be a decimal number of degrees");
    };
    if !matches!(field.get(end..), Some(b"" | b"/")) {
        return Some("location: the longitude must be the last part, optionally followed by /");
    }
    if latitude.cmp_integer(90) == Ordering::Greater {
        return Some("location: the latitude must be from -90 to +90");
    }
    let beyond = longitude.cmp_integer(180) == Ordering::Greater;
    beyond.then_some("location: the longitude must be from -180 to +180")
}

/// The reason for a time, if the location is valid.
fn time_refusal(field: &[u8]) -> &'static str {
    let (_, digits) = split_sign(field).unwrap_or((false, field));
    if Decimal::parse(digits).is_none() {
        "time: it must be a decimal number of seconds since 1970, without an exponent"
    } else {
        "time: it must be at most 253402300799, the end of the year 9999"
    }
}

fn radius_refusal(field: &[u8]) -> Option<&'static str> {
    if field.starts_with(b"-") {
        return Some("radius: it must not be negative");
    }
    match Decimal::parse(field.strip_prefix(b"+").unwrap_or(field)) {
        None => Some("radius: it must be a decimal number of kilometers, without an exponent"),
        Some(radius) if radius.cmp_integer(MAX_RADIUS_KM) == Ordering::Greater => {
            Some("radius: it must be at most 50 kilometers")
        }
        Some(_) => None,
    }
}

fn results_refusal(field: &[u8]) -> Option<&'static str> {
    if field.starts_with(b"-") {
        return Some("results: the number must not be negative");
    }
    let digits = field.strip_prefix(b"+").unwrap_or(field);
    match Decimal::parse(digits) {
        Some(number) if digits.iter().all(u8::is_ascii_digit) => {
            let too_many = number.cmp_integer(MAX_RESULTS.into()) == Ordering::Greater;
            too_many.then_some("results: the number must be at most 20")
        }
        _ => Some("results: the number must be an integer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::command::Command;
    use proptest::prelude::*;

    #[test]
    fn the_field_and_the_rule_are_named() {
        for (line, reason) in [
            ("IAMAT kiwi 34-118 0", "latitude must begin"),
            ("IAMAT kiwi +x-118 0", "latitude must be a decimal"),
            ("IAMAT kiwi +34 0", "longitude must follow"),
            ("IAMAT kiwi +34-x 0", "longitude must be a decimal"),
            ("IAMAT kiwi +34-118+5 0", "longitude must be the last"),
            ("IAMAT kiwi +90.1-118 0", "latitude must be from -90"),
            ("IAMAT kiwi +34-180.0001 0", "longitude must be from -180"),
            ("IAMAT kiwi +34-118 now", "time: it must be a decimal"),
            ("IAMAT kiwi +34-118 1e9", "time: it must be a decimal"),
            ("IAMAT kiwi +34-118 253402300800", "time: it must be at most"),
            ("IAMAT kiwi +34-118", "a field is missing: IAMAT"),
            ("IAMAT", "a field is missing: IAMAT"),
            ("IAMAT kiwi +34 -118 0", "too many fields: IAMAT"),
            ("WHATSAT kiwi 51 5", "radius: it must be at most 50"),
            ("WHATSAT kiwi -1 5", "radius: it must not be negative"),
            ("WHATSAT kiwi x 5", "radius: it must be a decimal"),
            ("WHATSAT kiwi 10 21", "results: the number must be at most 20"),
            ("WHATSAT kiwi 10 5.0", "results: the number must be an integer"),
            ("WHATSAT kiwi 10 -5", "results: the number must not be negative"),
            ("WHATSAT kiwi 10 5", "client: this node holds no record"),
            ("WHATSAT kiwi 10", "a field is missing: WHATSAT"),
            ("WHATSAT kiwi 10 5 x", "too many fields: WHATSAT"),
            ("iamat kiwi +34-118 0", "upper case"),
            ("Whatsat kiwi 10 5", "upper case"),
            ("AT Bona +0.1 kiwi +34-118 0", "AT is for peers"),
            ("HERD 1 a b", "HERD is for neighbors"),
            ("GET / HTTP/1.1", "HTTP request"),
            ("hello", "must be IAMAT or WHATSAT"),
            ("\u{feff}IAMAT kiwi +34-118 0", "not printable"),
        ] {
            let shown = refusal(line.as_bytes());
            assert!(shown.contains(reason), "{shown} for {line}");
        }
    }

    proptest! {
        /// A reason about a field is given exactly if that field is not valid.
        #[test]
        fn a_reason_about_a_field_agrees_with_the_parser(
            line in "(IAMAT|WHATSAT) k [-+0-9./e]{1,8} [-+0-9./e]{1,14}",
        ) {
            let reason = refusal(line.as_bytes());
            match Command::parse(line.as_bytes()) {
                Command::Unknown => prop_assert!(!reason.starts_with("client"), "{} {}", reason, line),
                Command::Whatsat(_) => prop_assert!(reason.starts_with("client"), "{} {}", reason, line),
                Command::Iamat(_) => {}
            }
        }
    }
}
