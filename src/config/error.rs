//! Errors in a configuration.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error in a configuration.
///
/// It is displayed as `FILE:LINE: field `ports.Bona`: what is wrong; what to do` and never contains
/// a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    location: Location,
    message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Location {
    File { file: PathBuf, line: Option<u64> },
    Field { file: PathBuf, line: u64, field: String },
    Environment { variable: &'static str },
}

impl Error {
    /// An error about a file as a whole, or about one of its lines.
    pub(super) fn file(file: &Path, line: Option<u64>, message: impl Into<String>) -> Self {
        let location = Location::File { file: file.to_owned(), line };
        Self { location, message: message.into() }
    }

    /// An error about `field`, which is a path from the root of the document.
    pub(super) fn field(file: &Path, line: u64, field: &str, message: impl Into<String>) -> Self {
        let location = Location::Field { file: file.to_owned(), line, field: field.to_owned() };
        Self { location, message: message.into() }
    }

    /// An error about an environment variable.
    pub(super) fn environment(variable: &'static str, message: impl Into<String>) -> Self {
        Self { location: Location::Environment { variable }, message: message.into() }
    }

    /// Returns this error with `map` applied to the texts that may originate in the file.
    pub(super) fn map_texts(mut self, map: impl Fn(&str) -> String) -> Self {
        if let Location::Field { field, .. } = &mut self.location {
            *field = map(field);
        }
        self.message = map(&self.message);
        self
    }

    /// Returns the line in the configuration file, counted from 1, if the error concerns one.
    pub fn line(&self) -> Option<u64> {
        match self.location {
            Location::File { line, .. } => line,
            Location::Field { line, .. } => Some(line),
            Location::Environment { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.location {
            Location::File { file, line: None } => write!(f, "{}: ", file.display())?,
            Location::File { file, line: Some(line) } => write!(f, "{}:{line}: ", file.display())?,
            Location::Field { file, line, field } => {
                write!(f, "{}:{line}: field `{}`: ", file.display(), shown(field))?;
            }
            Location::Environment { variable } => write!(f, "environment variable {variable}: ")?,
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Returns a name as an error may show it: up to the first colon. A misplaced quote makes the lines
/// that follow part of the name, and these may contain a secret.
pub(super) fn shown(name: &str) -> String {
    let (before, more) = name.split_once(':').map_or((name, ""), |(before, _)| (before, "…"));
    format!("{}{more}", before.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_begins_with_its_location() {
        let file = Path::new("conf/config.yml");
        let shown = |error: Error| error.to_string();
        assert_eq!(
            shown(Error::field(file, 3, "ports.Bona", "is wrong; write it right")),
            "conf/config.yml:3: field `ports.Bona`: is wrong; write it right"
        );
        assert_eq!(shown(Error::file(file, Some(7), "no")), "conf/config.yml:7: no");
        assert_eq!(shown(Error::file(file, None, "no")), "conf/config.yml: no");
        assert_eq!(
            shown(Error::environment("HERD_SECRET", "is empty")),
            "environment variable HERD_SECRET: is empty"
        );
    }

    #[test]
    fn a_field_name_cannot_forge_terminal_output() {
        let error = Error::field(Path::new("f"), 1, "a\u{1b}[2J\nb", "x");
        assert_eq!(error.to_string(), "f:1: field `a\\u{1b}[2J\\nb`: x");
    }
}
