//! Commands of clients: IAMAT and WHATSAT.

use core::cmp::Ordering;

use super::decimal::Decimal;
use super::location::Location;
use super::time::{Nanos, parse_time};
use super::{fields, is_space, next_field};

/// Maximum radius of a WHATSAT in kilometers.
pub const MAX_RADIUS_KM: u64 = 50;

/// Maximum number of results that a WHATSAT may request.
pub const MAX_RESULTS: u8 = 20;

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
    let (word, mut rest) = next_field(line)?;
    if word == b"AT" {
        (_, rest) = next_field(rest)?;
        (_, rest) = next_field(rest)?;
    }
    Some(next_field(rest)?.0)
}

fn iamat<'a>(client: &'a [u8], location: &'a [u8], time: &'a [u8]) -> Option<Command<'a>> {
    Location::parse(location)?;
    let time_nanos = parse_time(time)?;
    Some(Command::Iamat(Iamat { client, location, time, time_nanos }))
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

    fn kind(line: &str) -> &'static str {
        match Command::parse(line.as_bytes()) {
            Command::Iamat(_) => "IAMAT",
            Command::Whatsat(_) => "WHATSAT",
            Command::Unknown => "?",
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
