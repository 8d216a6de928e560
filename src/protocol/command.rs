//! Commands of clients: IAMAT and WHATSAT.

use core::cmp::Ordering;

use super::decimal::{Decimal, plain_billionths_at};
use super::location::Location;
use super::time::{Nanos, parse_time};
use super::{fields, find_space, is_space, next_field};

/// Maximum radius of a WHATSAT in kilometers.
pub const MAX_RADIUS_KM: u64 = 50;

/// Maximum number of results that a WHATSAT may request.
pub const MAX_RESULTS: u8 = 20;

/// The beginning of an IAMAT with a single space.
const IAMAT: &[u8] = b"IAMAT ";

/// A parsed line of a client. Borrowed fields are views of the line.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// A location report of a client.
    Iamat(Iamat<'a>),
    /// A query for the location of a client and the places near it.
    Whatsat(Whatsat<'a>),
    /// Any other line.
    Unknown,
}

/// A valid `IAMAT <client> <location> <time>`.
#[derive(Clone, Copy, Debug)]
pub struct Iamat<'a> {
    /// Client name: a non-empty sequence of bytes without white space.
    pub client: &'a [u8],
    /// Location, verbatim.
    pub location: &'a [u8],
    /// Time, verbatim.
    pub time: &'a [u8],
    /// All three, verbatim, if single spaces separate them in the line, as in its AT line.
    pub report: Option<&'a [u8]>,
    /// `time` in nanoseconds since the epoch.
    pub time_nanos: Nanos,
}

/// A valid `WHATSAT <client> <radius_km> <max_results>`. The client may be unknown.
#[derive(Clone, Copy, Debug)]
pub struct Whatsat<'a> {
    /// Client name.
    pub client: &'a [u8],
    /// Radius in meters, 0..=50,000, converted from kilometers by shifting the decimal point.
    pub radius_m: f64,
    /// Maximum number of results, 0..=20.
    pub max_results: u8,
}

impl<'a> Command<'a> {
    /// Parses a line without its LF. Leading and trailing white space is ignored.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Self {
        if let Some(iamat) = plain_iamat(line) {
            return Command::Iamat(iamat);
        }
        let parsed = match fields::<4>(line) {
            Some([b"IAMAT", client, location, time]) => iamat(client, location, time),
            Some([b"WHATSAT", client, radius, bound]) => whatsat(client, radius, bound),
            _ => None,
        };
        parsed.unwrap_or(Command::Unknown)
    }
}

/// Returns the client name in a line that has the form of an IAMAT, WHATSAT or AT, even if invalid.
#[must_use]
pub fn client_of(line: &[u8]) -> Option<&[u8]> {
    if line.starts_with(IAMAT) {
        let end = find_space(line, IAMAT.len());
        if end > IAMAT.len() {
            return Some(&line[IAMAT.len()..end]);
        }
    }
    let (word, mut rest) = next_field(line)?;
    if word == b"AT" {
        (_, rest) = next_field(rest)?;
        (_, rest) = next_field(rest)?;
    }
    Some(next_field(rest)?.0)
}

/// Parses an IAMAT as nearly all clients send it: with single spaces, without white space at either end,
/// and with numbers of not too many digits. Returns `None` for all other lines, which may be valid. The
/// fields need not be found first: a location and a time end where their syntax ends.
#[inline]
fn plain_iamat(line: &[u8]) -> Option<Iamat<'_>> {
    if !line.starts_with(IAMAT) {
        return None;
    }
    let client_end = find_space(line, IAMAT.len());
    let location_end = Location::plain_end(line, client_end + 1)?;
    let (time_nanos, end) = plain_billionths_at(line, location_end + 1)?;
    let is_plain = client_end > IAMAT.len()
        && line[client_end] == b' '
        && line[location_end] == b' '
        && end == line.len();
    if !is_plain {
        return None;
    }
    Some(Iamat {
        client: &line[IAMAT.len()..client_end],
        location: &line[client_end + 1..location_end],
        time: &line[location_end + 1..],
        report: Some(&line[IAMAT.len()..]),
        time_nanos: time_nanos.into(),
    })
}

fn iamat<'a>(client: &'a [u8], location: &'a [u8], time: &'a [u8]) -> Option<Command<'a>> {
    Location::parse(location)?;
    let time_nanos = parse_time(time)?;
    Some(Command::Iamat(Iamat { client, location, time, report: None, time_nanos }))
}

fn whatsat<'a>(client: &'a [u8], radius: &'a [u8], bound: &'a [u8]) -> Option<Command<'a>> {
    let radius = Decimal::parse(radius.strip_prefix(b"+").unwrap_or(radius))?;
    if radius.cmp_integer(MAX_RADIUS_KM) == Ordering::Greater {
        return None;
    }
    let bound = bound.strip_prefix(b"+").unwrap_or(bound);
    // An integer is a decimal without a point.
    if !bound.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let bound = Decimal::parse(bound)?;
    let max_results =
        (0..=MAX_RESULTS).find(|&n| bound.cmp_integer(n.into()) == Ordering::Equal)?;
    Some(Command::Whatsat(Whatsat { client, radius_m: radius.to_f64(3), max_results }))
}

/// Returns whether `line` is an HTTP request line (RFC 9112 §3): method token, target, `HTTP/d.d`.
/// As the first line of a connection, it indicates cross-protocol request forgery through a
/// browser.
#[must_use]
pub fn is_http_request_line(line: &[u8]) -> bool {
    let Some([method, _target, version]) = fields::<3>(line) else { return false };
    let version = matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
        if major.is_ascii_digit() && minor.is_ascii_digit());
    version && method.iter().all(|&b| is_token(b))
}

/// Returns whether `byte` is a `tchar` of RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    debug_assert!(!is_space(byte));
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parses any form of a line.
    fn any_form(line: &[u8]) -> Option<Iamat<'_>> {
        let Some([b"IAMAT", client, location, time]) = fields::<4>(line) else { return None };
        match super::iamat(client, location, time) {
            Some(Command::Iamat(iamat)) => Some(iamat),
            _ => None,
        }
    }

    proptest! {
        #[test]
        fn the_plain_form_is_one_of_all_forms(
            client in "[a-z!\\x0b\\t ]{0,12}",
            location in "[+-][0-9]{1,3}[.]?[0-9]{0,8}[+-][0-9]{1,3}[.]?[0-9]{0,8}[/ x]?",
            time in "[+-]?[0-9]{1,12}[.]?[0-9]{0,11}[ \\r]?",
            spaces in proptest::collection::vec("[ \\t]{0,3}| ", 3),
        ) {
            let [a, b, c] = spaces.as_slice() else { panic!("three") };
            let line = format!("IAMAT{a}{client}{b}{location}{c}{time}");
            let expected = any_form(line.as_bytes());
            let fields = |it: Iamat<'_>| [it.client, it.location, it.time].map(<[u8]>::to_vec);
            if let Some(plain) = plain_iamat(line.as_bytes()) {
                let expected = expected.expect("a plain form is valid");
                prop_assert_eq!(plain.time_nanos, expected.time_nanos);
                prop_assert_eq!(fields(plain), fields(expected));
                prop_assert_eq!(plain.report, line.as_bytes().get(6..));
            }
        }
    }

    fn kind(line: &str) -> &'static str {
        match Command::parse(line.as_bytes()) {
            Command::Iamat(_) => "IAMAT",
            Command::Whatsat(_) => "WHATSAT",
            Command::Unknown => "?",
        }
    }

    #[test]
    fn what_clients_send_is_plain() {
        for line in [
            "IAMAT kiwi.example +34.068930-118.445127 1621464827.959498503",
            "IAMAT kiwi +34-118/ 1621464827",
            "IAMAT \u{a0} -0.1234567+9.5 1621464827.",
            "IAMAT kiwi +34.06-118.4 1621464827.959",
            "IAMAT kiwi +34.06-118.4 1621464827.95949850",
        ] {
            assert!(plain_iamat(line.as_bytes()).is_some(), "{line}");
        }
    }

    #[test]
    fn iamat() {
        assert_eq!(kind("IAMAT kiwi +34.068930-118.445127 1621464827.959498503"), "IAMAT");
        assert_eq!(kind("\t IAMAT  kiwi\x0b+12-118/ \x0c-.5\r"), "IAMAT");
        assert_eq!(kind("IAMAT \u{a0}\u{85} +12-118 0"), "IAMAT");
        for bad in [
            "iamat kiwi +12-118 0",
            "IAMAT kiwi +12-118",
            "IAMAT kiwi +12-118 0 0",
            "IAMAT kiwi +91-118 0",
            "IAMAT kiwi +12-118 now",
            "IAMATkiwi +12-118 0",
            "IAMAT kiwi +12 -118 0",
        ] {
            assert_eq!(kind(bad), "?", "{bad}");
        }
    }

    #[test]
    fn whatsat() {
        for good in [
            "WHATSAT kiwi 10 5",
            "WHATSAT kiwi 50.000 20",
            "WHATSAT kiwi +.5 +5",
            "WHATSAT kiwi 0 0",
            "WHATSAT kiwi 10. 0000000000000000000000020",
        ] {
            assert_eq!(kind(good), "WHATSAT", "{good}");
        }
        for bad in [
            "WHATSAT kiwi 10",
            "WHATSAT kiwi 50.0000000000000001 5",
            "WHATSAT kiwi 51 5",
            "WHATSAT kiwi -1 5",
            "WHATSAT kiwi -0 5",
            "WHATSAT kiwi 10 21",
            "WHATSAT kiwi 10 5.0",
            "WHATSAT kiwi 10 -0",
            "WHATSAT kiwi 10 +",
            "WHATSAT kiwi ++1 5",
            "WHATSAT kiwi 1e1 5",
            "WHATSAT kiwi nan 5",
        ] {
            assert_eq!(kind(bad), "?", "{bad}");
        }
    }

    #[test]
    fn values() {
        let Command::Whatsat(whatsat) = Command::parse(b"WHATSAT kiwi +10.5 020") else {
            panic!("not a WHATSAT")
        };
        assert_eq!((whatsat.client, whatsat.max_results), (&b"kiwi"[..], 20));
        assert!((whatsat.radius_m - 10_500.0).abs() < 1e-12);
    }

    #[test]
    fn http_request_lines() {
        for yes in ["POST /x HTTP/1.1\r", "GET / HTTP/1.0", "PRI * HTTP/2.0", "X-y / HTTP/1.1"] {
            assert!(is_http_request_line(yes.as_bytes()), "{yes}");
        }
        for no in ["GET /", "GET / http/1.1", "GET / HTTP/11", "G@T / HTTP/1.1", "GET / x HTTP/1.1"]
        {
            assert!(!is_http_request_line(no.as_bytes()), "{no}");
        }
    }
}
