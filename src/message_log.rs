//! The lines of the message log: every command and reply, every flood. Pure: it appends bytes, the
//! shell writes them to a file.
//!
//! The time and the rest of the format are rendered once per millisecond, not per line, so that a
//! line costs little more than copying it.

use crate::config::{LogFormat, Piece};
use crate::protocol::time::Nanos;
use crate::text::digits::push_digits;
use crate::text::hex;

/// Lines waiting to be written.
pub struct MessageLog {
    enabled: bool,
    format: LogFormat,
    name: String,
    /// What stands before and behind the message, as of `stamped`.
    before: Vec<u8>,
    behind: Vec<u8>,
    /// The millisecond that `before` and `behind` show.
    stamped: Option<Nanos>,
    lines: Vec<u8>,
}

impl MessageLog {
    /// A message_log for the node `name`. One that is not `enabled` keeps nothing.
    #[must_use]
    pub fn new(enabled: bool, format: LogFormat, name: &str) -> Self {
        Self {
            enabled,
            format,
            name: name.to_owned(),
            before: Vec::new(),
            behind: Vec::new(),
            stamped: None,
            lines: Vec::new(),
        }
    }

    /// Whether lines are kept: ask before going to any length to make one.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    /// The wall clock of the lines that follow.
    pub fn set_clock(&mut self, now: Nanos) {
        let millisecond = now.div_euclid(1_000_000);
        if self.enabled && self.stamped != Some(millisecond) {
            self.stamped = Some(millisecond);
            self.before.clear();
            self.behind.clear();
            push_format(&self.format, &self.name, "INFO", now, &mut self.before, &mut self.behind);
        }
    }

    /// Adds a line made of `parts`, put together; bytes that do not print are escaped.
    pub fn line(&mut self, parts: &[&[u8]]) {
        if self.enabled {
            self.lines.extend_from_slice(&self.before);
            for part in parts {
                push_escaped(&mut self.lines, part);
            }
            self.lines.extend_from_slice(&self.behind);
            self.lines.push(b'\n');
        }
    }

    /// What has been kept and not been cleared yet.
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Forgets the lines: they have been written.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
}

/// Appends what a line of the log has before its message to `before`, and what it has behind it to
/// `behind`.
pub fn push_format(
    format: &LogFormat,
    name: &str,
    level: &str,
    now: Nanos,
    before: &mut Vec<u8>,
    behind: &mut Vec<u8>,
) {
    let mut seen_message = false;
    for piece in format.pieces() {
        let out = if seen_message { &mut *behind } else { &mut *before };
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::Time => push_timestamp(out, now),
            Piece::Level => out.extend_from_slice(level.as_bytes()),
            Piece::Name => out.extend_from_slice(name.as_bytes()),
            Piece::Message => seen_message = true,
        }
    }
}

/// Appends `bytes` with everything but printable ASCII as `\n`, `\r`, `\t` or `\xNN`: no line of
/// the log can be forged, and no terminal driven, by what a client sends.
pub fn push_escaped(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let plain = plain_prefix(bytes);
        out.extend_from_slice(&bytes[..plain]);
        let Some((&byte, rest)) = bytes[plain..].split_first() else { return };
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => {
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&hex::digits(byte));
            }
        }
        bytes = rest;
    }
}

/// How many bytes in front need no escape: nearly always all of them, so many are looked at at once.
fn plain_prefix(bytes: &[u8]) -> usize {
    let are_plain = |chunk: &&[u8]| chunk.iter().fold(true, |all, &byte| all & is_plain(byte));
    let whole = 32 * bytes.chunks_exact(32).take_while(are_plain).count();
    let rest = bytes[whole..].iter().position(|&byte| !is_plain(byte));
    rest.map_or(bytes.len(), |found| whole + found)
}

const fn is_plain(byte: u8) -> bool {
    byte.wrapping_sub(b' ') < 0x7f - b' ' && byte != b'\\'
}

/// Appends a time as Python's logging writes `asctime`, in UTC: `2026-11-23 15:41:48,123`.
fn push_timestamp(out: &mut Vec<u8>, now: Nanos) {
    // A clock outside these years is wrong anyway; the line is still written.
    let seconds = i64::try_from(now.div_euclid(1_000_000_000)).unwrap_or(0);
    let millis = now.rem_euclid(1_000_000_000) / 1_000_000;
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    for (number, width, behind) in [
        (year.max(0), 4, b'-'),
        (month, 2, b'-'),
        (day, 2, b' '),
        (time / 3600, 2, b':'),
        (time / 60 % 60, 2, b':'),
        (time % 60, 2, b','),
    ] {
        push_digits(out, number as u64, width);
        out.push(behind);
    }
    push_digits(out, millis as u64, 3);
}

/// Year, month and day of the `day`th day since 1970-01-01 in the Gregorian calendar. Years begin
/// in March here, so that the leap day is the last of its year.
fn civil(day: i64) -> (i64, i64, i64) {
    const DAYS_IN_400_YEARS: i64 = 146_097;
    let day = day + 719_468; // from 0000-03-01
    let (era, day) = (day.div_euclid(DAYS_IN_400_YEARS), day.rem_euclid(DAYS_IN_400_YEARS));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_seeds_format() {
        let mut message_log = MessageLog::new(true, LogFormat::default(), "Clark");
        message_log.set_clock(1_621_464_827_959_498_503);
        message_log.line(&[b"127.0.0.1:5 < ", b"IAMAT x"]);
        let line: &[u8] = b"2021-05-19 22:53:47,959 - INFO - 127.0.0.1:5 < IAMAT x\n";
        assert_eq!(message_log.lines(), line);
        message_log.clear();
        let mut off = MessageLog::new(false, LogFormat::default(), "Clark");
        off.line(&[b"x"]);
        assert!(off.lines().is_empty());
    }

    #[test]
    fn nothing_unprintable_gets_through() {
        let mut out = Vec::new();
        push_escaped(&mut out, b"a\x1b[2J\nb\\\xff\x00 c\r\t\x7f");
        let expected: &[u8] = b"a\\x1b[2J\\nb\\\\\\xff\\x00 c\\r\\t\\x7f";
        assert_eq!(out, expected);
        for byte in 0..=255u8 {
            for at in 0..70 {
                let mut bytes = [b'a'; 70];
                bytes[at] = byte;
                out.clear();
                push_escaped(&mut out, &bytes);
                assert!(out.iter().all(|b| (0x20..0x7f).contains(b)), "{byte}");
                assert!(out.len() >= 70 && out.starts_with(&bytes[..at]));
            }
        }
    }

    #[test]
    fn dates() {
        let at = |seconds: i64| {
            let mut out = Vec::new();
            push_timestamp(&mut out, Nanos::from(seconds) * 1_000_000_000);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(at(0), "1970-01-01 00:00:00,000");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00,000");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59,000");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00,000");
        assert_eq!(at(253_402_300_799), "9999-12-31 23:59:59,000");
        assert_eq!(at(-1), "1969-12-31 23:59:59,000");
    }
}
