//! What is wrong with a configuration, where, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration that cannot be used.
///
/// Shown as `FILE:LINE: field `ports.Bona`: what is wrong; what to do`. No secret is ever part
/// of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    place: Place,
    message: String,
}

/// Where the error is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    File { file: PathBuf, line: Option<u64> },
    Field { file: PathBuf, line: u64, field: String },
    Environment { variable: &'static str },
}

impl Error {
    /// About a file as a whole, or one of its lines.
    pub(super) fn file(file: &Path, line: Option<u64>, message: impl Into<String>) -> Self {
        let place = Place::File { file: file.to_owned(), line };
        Self { place, message: message.into() }
    }

    /// About the value of `field`, written as its path from the root of the document.
    pub(super) fn field(file: &Path, line: u64, field: &str, message: impl Into<String>) -> Self {
        let place = Place::Field { file: file.to_owned(), line, field: field.to_owned() };
        Self { place, message: message.into() }
    }

    /// About an environment variable.
    pub(super) fn environment(variable: &'static str, message: impl Into<String>) -> Self {
        Self { place: Place::Environment { variable }, message: message.into() }
    }

    /// The line of the configuration file, counted from 1, where the error is on one.
    pub fn line(&self) -> Option<u64> {
        match self.place {
            Place::File { line, .. } => line,
            Place::Field { line, .. } => Some(line),
            Place::Environment { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.place {
            Place::File { file, line: None } => write!(f, "{}: ", file.display())?,
            Place::File { file, line: Some(line) } => write!(f, "{}:{line}: ", file.display())?,
            Place::Field { file, line, field } => {
                write!(f, "{}:{line}: field `{}`: ", file.display(), shown(field))?;
            }
            Place::Environment { variable } => write!(f, "environment variable {variable}: ")?,
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// A name as an error may show it: up to the first colon. A quote in the wrong place makes the lines
/// behind it part of a name, and the value of a key among them may be a secret.
pub(super) fn shown(name: &str) -> String {
    let (before, more) = name.split_once(':').map_or((name, ""), |(before, _)| (before, "…"));
    format!("{}{more}", before.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_where() {
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
