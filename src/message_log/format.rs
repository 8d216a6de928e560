//! The format of a log line, in the %-style of Python's `logging`.

use std::fmt;
use std::str::FromStr;

use crate::protocol::time::Nanos;
use crate::text::digits::push_digits;

/// A parsed format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Format(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    /// `%(asctime)s`
    Time,
    /// `%(levelname)s`
    Level,
    /// `%(message)s`
    Message,
    /// `%(name)s`: the node's name.
    Name,
}

impl Format {
    /// Appends the part of a line that precedes the message to `before`, and the part that follows
    /// it to `after`.
    pub fn render(
        &self,
        name: &str,
        level: &str,
        wall: Nanos,
        before: &mut Vec<u8>,
        after: &mut Vec<u8>,
    ) {
        let mut seen_message = false;
        for piece in &self.0 {
            let out = if seen_message { &mut *after } else { &mut *before };
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Time => push_timestamp(out, wall),
                Piece::Level => out.extend_from_slice(level.as_bytes()),
                Piece::Name => out.extend_from_slice(name.as_bytes()),
                Piece::Message => seen_message = true,
            }
        }
    }
}

/// `%(asctime)s - %(levelname)s - %(message)s`, the format of the original server.
impl Default for Format {
    fn default() -> Self {
        let dash = || Piece::Text(" - ".to_owned());
        Self(vec![Piece::Time, dash(), Piece::Level, dash(), Piece::Message])
    }
}

/// The reason that a text is not a valid [`Format`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FormatError {
    /// A `%` does not begin a supported field.
    UnknownField(String),
    /// The format contains a control character, so a log line could span several lines.
    ControlCharacter,
    /// `%(message)s` is missing.
    NoMessage,
}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::UnknownField(field) => write!(
                f,
                "`{}` is not a supported field; use %(asctime)s, %(levelname)s, %(name)s, \
                 %(message)s, or %% for a percent sign",
                field.escape_debug()
            ),
            Self::ControlCharacter => {
                f.write_str("contains a control character; write the format as one line of text")
            }
            Self::NoMessage => f.write_str("does not contain %(message)s; add it"),
        }
    }
}

impl FromStr for Format {
    type Err = FormatError;

    fn from_str(format: &str) -> Result<Self, FormatError> {
        const FIELDS: [(&str, Piece); 4] = [
            ("%(asctime)s", Piece::Time),
            ("%(levelname)s", Piece::Level),
            ("%(message)s", Piece::Message),
            ("%(name)s", Piece::Name),
        ];
        if format.contains(|c: char| c.is_control() && c != '\t') {
            return Err(FormatError::ControlCharacter);
        }
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("%%") {
                text.push('%');
                rest = after;
                continue;
            }
            let Some((spelling, piece)) = FIELDS.iter().find(|(it, _)| rest.starts_with(it)) else {
                return Err(FormatError::UnknownField(field_at_start(rest)));
            };
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(piece.clone());
            rest = &rest[spelling.len()..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if !pieces.contains(&Piece::Message) {
            return Err(FormatError::NoMessage);
        }
        Ok(Self(pieces))
    }
}

/// The text at the start of `text` that looks like a field: `%(name)` and one more character.
fn field_at_start(text: &str) -> String {
    let until = if text.starts_with("%(") { text.find(')').unwrap_or(1) } else { 0 };
    text.chars().take(text[..until].chars().count() + 2).collect()
}

/// Python's name for a level, as `%(levelname)s` shows it.
pub fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "ERROR",
        log::Level::Warn => "WARNING",
        log::Level::Info => "INFO",
        log::Level::Debug | log::Level::Trace => "DEBUG",
    }
}

/// Returns a time in UTC, given in seconds since the Unix epoch: `2026-11-23 15:41:48 UTC`.
pub fn utc(seconds: i64) -> String {
    let mut out = Vec::new();
    push_seconds(&mut out, seconds);
    out.extend_from_slice(b" UTC");
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends a time in UTC as Python's `logging` formats `asctime`: `2026-11-23 15:41:48,123`.
fn push_timestamp(out: &mut Vec<u8>, wall: Nanos) {
    // A clock outside the range of i64 seconds is wrong anyway; the line is still written.
    let seconds = i64::try_from(wall.div_euclid(1_000_000_000)).unwrap_or(0);
    let millis = wall.rem_euclid(1_000_000_000) / 1_000_000;
    push_seconds(out, seconds);
    out.push(b',');
    push_digits(out, millis as u64, 3);
}

/// Appends a time in UTC without fractions of a second.
fn push_seconds(out: &mut Vec<u8>, seconds: i64) {
    let (year, month, day) = civil_from_days(seconds.div_euclid(86_400));
    let time = seconds.rem_euclid(86_400);
    for (number, width, separator) in [
        (year.max(0), 4, &b"-"[..]),
        (month, 2, b"-"),
        (day, 2, b" "),
        (time / 3600, 2, b":"),
        (time / 60 % 60, 2, b":"),
        (time % 60, 2, b""),
    ] {
        push_digits(out, number as u64, width);
        out.extend_from_slice(separator);
    }
}

/// Year, month and day of the day `day` days after 1970-01-01 in the proleptic Gregorian calendar.
///
/// This is `civil_from_days` of Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".
/// Internally, years begin on March 1, so that a leap day is the last day of its year.
fn civil_from_days(day: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097; // 400 years
    let day = day + 719_468; // days since 0000-03-01
    let (era, day) = (day.div_euclid(DAYS_PER_ERA), day.rem_euclid(DAYS_PER_ERA));
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

    fn pieces(format: &str) -> Vec<Piece> {
        format.parse::<Format>().unwrap().0
    }

    #[test]
    fn the_default_is_the_format_of_the_original_server() {
        let original = "%(asctime)s - %(levelname)s - %(message)s";
        assert_eq!(original.parse(), Ok(Format::default()));
    }

    #[test]
    fn formats_consist_of_fields_text_and_percent_signs() {
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(pieces("%(message)s"), [Piece::Message]);
        assert_eq!(
            pieces("[%(name)s] 100%% %(message)s!"),
            [text("["), Piece::Name, text("] 100% "), Piece::Message, text("!")]
        );
        assert_eq!(pieces("%%(name)s%(message)s"), [text("%(name)s"), Piece::Message]);
        assert_eq!(pieces("ü\t%(message)s"), [text("ü\t"), Piece::Message]);
    }

    #[test]
    fn invalid_formats_are_rejected() {
        let error = |format: &str| format.parse::<Format>().unwrap_err();
        let unknown = |field: &str| FormatError::UnknownField(field.to_owned());
        assert_eq!(error("%(lineno)d %(message)s"), unknown("%(lineno)d"));
        assert_eq!(error("%(levelname)-8s %(message)s"), unknown("%(levelname)-"));
        assert_eq!(error("%(message)s %"), unknown("%"));
        assert_eq!(error("%(message)s %d"), unknown("%d"));
        assert_eq!(error("%(message"), unknown("%(m"));
        assert_eq!(error("{message}"), FormatError::NoMessage);
        assert_eq!(error(""), FormatError::NoMessage);
        assert_eq!(error("%(message)s\n"), FormatError::ControlCharacter);
        assert!(unknown("%d").to_string().contains("%(asctime)s"));
    }

    #[test]
    fn levels_have_pythons_names() {
        let names = log::Level::iter().map(level_name).collect::<Vec<_>>();
        assert_eq!(names, ["ERROR", "WARNING", "INFO", "DEBUG", "DEBUG"]);
    }

    #[test]
    fn timestamps_follow_the_gregorian_calendar() {
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
