//! Replies of the client protocol, parsed and checked against the specification.

use std::time::{SystemTime, UNIX_EPOCH};

/// The fields of an AT line.
pub struct At {
    pub server: String,
    /// The clock difference as received.
    pub diff: String,
    /// The clock difference in nanoseconds.
    pub diff_ns: i128,
    /// The bytes copied from the IAMAT: client, location and time.
    pub own: Vec<u8>,
}

impl At {
    /// Parses an AT line and checks its fields against the specification.
    pub fn parse(line: &[u8]) -> Self {
        let body = line.strip_suffix(b"\n").expect("an AT line ends with LF");
        let fields: Vec<&[u8]> = body.splitn(4, |&byte| byte == b' ').collect();
        assert!(fields.len() == 4 && fields[0] == b"AT", "not an AT line: {}", show(line));
        let diff = str::from_utf8(fields[2]).expect("the difference is ASCII").to_owned();
        let digits = diff.strip_prefix(['+', '-']).unwrap_or_else(|| panic!("no sign: {diff}"));
        let (whole, fraction) =
            digits.split_once('.').unwrap_or_else(|| panic!("no decimal point: {diff}"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        assert!(all_digits(whole) && all_digits(fraction), "not a decimal: {diff}");
        assert!(fraction.len() == 9, "not nine decimals: {diff}");
        assert!(whole == "0" || !whole.starts_with('0'), "leading zeros: {diff}");
        let size: i128 = format!("{whole}{fraction}").parse().unwrap();
        assert!(diff != "-0.000000000", "negative zero: {diff}");
        let diff_ns = if diff.starts_with('-') { -size } else { size };
        let server = str::from_utf8(fields[1]).unwrap().to_owned();
        Self { server, diff, diff_ns, own: fields[3].to_vec() }
    }
}

/// A reply to WHATSAT.
pub struct Whatsat {
    /// The AT line, including LF.
    pub at: Vec<u8>,
    pub document: serde_json::Value,
}

impl Whatsat {
    /// Parses a reply and checks its format against the specification.
    pub fn parse(reply: &[u8]) -> Self {
        let body = reply.strip_suffix(b"\n\n").expect("the reply ends with two LFs");
        let end =
            body.iter().position(|&byte| byte == b'\n').expect("a document after the AT line");
        let (at, json) = (&body[..=end], &body[end + 1..]);
        At::parse(at);
        assert!(!json.ends_with(b"\n") && !json.starts_with(b"\n"), "{}", show(reply));
        assert!(
            find(json, b"\n\n").is_none(),
            "an empty line within the document: {}",
            show(reply)
        );
        let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
        assert!(
            !json.split(|&b| b == b'\n').any(blank),
            "a blank line within the document: {}",
            show(reply)
        );
        assert!(json.contains(&b'\n'), "not pretty-printed: {}", show(reply));
        let document: serde_json::Value = serde_json::from_slice(json)
            .unwrap_or_else(|error| panic!("{error} in {}", show(reply)));
        assert!(document["html_attributions"].is_array(), "{document}");
        assert!(document["results"].is_array(), "{document}");
        assert!(document["status"].is_string(), "{document}");
        Self { at: at.to_vec(), document }
    }

    pub fn status(&self) -> &str {
        self.document["status"].as_str().unwrap()
    }

    pub fn results(&self) -> &[serde_json::Value] {
        self.document["results"].as_array().unwrap()
    }

    pub fn names(&self) -> Vec<&str> {
        self.results().iter().map(|place| place["name"].as_str().unwrap()).collect()
    }
}

/// The default of `max_clock_offset` (Δ) in nanoseconds.
pub const DELTA: i128 = 5_000_000_000;

/// The key by which records are ordered; the greater record is the newer one.
pub type Key = (i128, i128, i128, String, Vec<u8>);

/// The key of an AT line with the client time `time_ns`.
pub fn key(line: &[u8], time_ns: i128) -> Key {
    let at = At::parse(line);
    let received = time_ns + at.diff_ns;
    (time_ns.min(received + DELTA), time_ns, received, at.server, line.to_vec())
}

/// The reply to an invalid command; `line` must be trimmed.
pub fn refused(line: &[u8]) -> Vec<u8> {
    [b"? ", line, b"\n"].concat()
}

/// Joins commands, each terminated by LF.
pub fn lines(commands: impl IntoIterator<Item = String>) -> Vec<u8> {
    commands.into_iter().flat_map(|command| (command + "\n").into_bytes()).collect()
}

/// Escapes bytes for messages.
pub fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Asserts that byte strings are equal; escapes them in the failure message.
#[track_caller]
pub fn assert_bytes(got: &[u8], expected: &[u8]) {
    assert!(got == expected, "\n     got: {}\nexpected: {}", show(got), show(expected));
}

/// The position of `needle` in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// The wall clock in nanoseconds since the epoch.
pub fn wall_ns() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Formats nanoseconds as the decimal seconds of a time field.
pub fn seconds(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}
