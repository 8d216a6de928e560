//! The section `logging`, with the names that Python's logging gives things.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::document::{Field, Section};
use super::error::Error;

/// What a node logs, where, and how a line looks.
#[derive(Debug, Clone)]
pub struct Logging {
    /// The least grave lines that are logged.
    pub level: log::LevelFilter,
    /// How a line of the log is put together.
    pub format: LogFormat,
    /// Where each node keeps its `NAME.log`, relative to the working directory.
    pub directory: PathBuf,
    /// The seed's `filename`: the log of its benchmark, which no node writes.
    pub benchmark_filename: Option<PathBuf>,
}

impl Logging {
    pub(super) const KEYS: &[&str] = &["level", "filename", "format", "directory"];

    pub(super) fn read(section: &Section) -> Result<Self, Error> {
        let parsed = |key| section.get(key).map(Field::parse::<LogFormat>).transpose();
        let path = |key| section.get(key).map(path).transpose();
        Ok(Self {
            level: section.get("level").map_or(Ok(log::LevelFilter::Info), level)?,
            format: parsed("format")?.unwrap_or_default(),
            directory: path("directory")?.unwrap_or_else(|| "logs".into()),
            benchmark_filename: path("filename")?,
        })
    }
}

/// A level by the name that Python gives it. A node knows nothing graver than an error, so
/// CRITICAL is the same as ERROR.
fn level(field: &Field) -> Result<log::LevelFilter, Error> {
    Ok(match field.text()?.to_ascii_uppercase().as_str() {
        "DEBUG" => log::LevelFilter::Debug,
        "INFO" => log::LevelFilter::Info,
        "WARNING" | "WARN" => log::LevelFilter::Warn,
        "ERROR" | "CRITICAL" => log::LevelFilter::Error,
        _ => {
            let message = "is no level; write DEBUG, INFO, WARNING, ERROR or CRITICAL";
            return Err(field.error(message));
        }
    })
}

fn path(field: &Field) -> Result<PathBuf, Error> {
    match field.text()? {
        "" => Err(field.error("is empty; name a path or remove the line")),
        path if path.contains('\0') => Err(field.error("holds a NUL, which no path can")),
        path => Ok(path.into()),
    }
}

/// The name that Python's logging gives a level, for `%(levelname)s`.
pub fn level_name(level: log::Level) -> &'static str {
    match level {
        log::Level::Error => "ERROR",
        log::Level::Warn => "WARNING",
        log::Level::Info => "INFO",
        log::Level::Debug | log::Level::Trace => "DEBUG",
    }
}

/// A format of Python's logging, in its %-style, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFormat(Vec<Piece>);

/// A part of a line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Text(String),
    /// `%(asctime)s`: when.
    Time,
    /// `%(levelname)s`: how grave, by its [`level_name`].
    Level,
    /// `%(message)s`: what.
    Message,
    /// `%(name)s`: which node.
    Name,
}

impl LogFormat {
    /// The parts of a line, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.0
    }
}

/// The seed's.
impl Default for LogFormat {
    fn default() -> Self {
        let dash = || Piece::Text(" - ".to_owned());
        Self(vec![Piece::Time, dash(), Piece::Level, dash(), Piece::Message])
    }
}

/// Why a text is no [`LogFormat`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAFormat {
    /// A `%` begins nothing that is known.
    UnknownField(String),
    /// A line of the log would not be one line.
    ControlCharacter,
    /// A line would not say what happened.
    NoMessage,
}

impl fmt::Display for NotAFormat {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::UnknownField(what) => write!(
                f,
                "`{}` is no field; there are %(asctime)s, %(levelname)s, %(name)s and \
                 %(message)s, and %% is a percent sign",
                what.escape_debug()
            ),
            Self::ControlCharacter => {
                f.write_str("holds a control character; a line of the log is one line of text")
            }
            Self::NoMessage => f.write_str("has no %(message)s; add it"),
        }
    }
}

impl FromStr for LogFormat {
    type Err = NotAFormat;

    fn from_str(format: &str) -> Result<Self, NotAFormat> {
        const FIELDS: [(&str, Piece); 4] = [
            ("%(asctime)s", Piece::Time),
            ("%(levelname)s", Piece::Level),
            ("%(message)s", Piece::Message),
            ("%(name)s", Piece::Name),
        ];
        if format.contains(|c: char| c.is_control() && c != '\t') {
            return Err(NotAFormat::ControlCharacter);
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
                return Err(NotAFormat::UnknownField(spelling_of_field(rest)));
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
            return Err(NotAFormat::NoMessage);
        }
        Ok(Self(pieces))
    }
}

/// What someone took for a field at the start of `text`: `%(name)`, and one more character.
fn spelling_of_field(text: &str) -> String {
    let until = if text.starts_with("%(") { text.find(')').unwrap_or(1) } else { 0 };
    text.chars().take(text[..until].chars().count() + 2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(format: &str) -> Vec<Piece> {
        format.parse::<LogFormat>().unwrap().pieces().to_vec()
    }

    #[test]
    fn the_seeds_format_is_the_default() {
        let seeds = "%(asctime)s - %(levelname)s - %(message)s";
        assert_eq!(seeds.parse(), Ok(LogFormat::default()));
    }

    #[test]
    fn fields_text_and_percent_signs() {
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
    fn what_is_no_format() {
        let error = |format: &str| format.parse::<LogFormat>().unwrap_err();
        let unknown = |what: &str| NotAFormat::UnknownField(what.to_owned());
        assert_eq!(error("%(lineno)d %(message)s"), unknown("%(lineno)d"));
        assert_eq!(error("%(levelname)-8s %(message)s"), unknown("%(levelname)-"));
        assert_eq!(error("%(message)s %"), unknown("%"));
        assert_eq!(error("%(message)s %d"), unknown("%d"));
        assert_eq!(error("%(message"), unknown("%(m"));
        assert_eq!(error("{message}"), NotAFormat::NoMessage);
        assert_eq!(error(""), NotAFormat::NoMessage);
        assert_eq!(error("%(message)s\n"), NotAFormat::ControlCharacter);
        assert!(unknown("%d").to_string().contains("%(asctime)s"));
    }

    #[test]
    fn levels_have_pythons_names() {
        let names = log::Level::iter().map(level_name).collect::<Vec<_>>();
        assert_eq!(names, ["ERROR", "WARNING", "INFO", "DEBUG", "DEBUG"]);
    }
}
