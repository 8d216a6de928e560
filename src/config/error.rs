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

/// The candidate that someone who wrote `word` most likely meant, if any is close.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters wrong is a slip; more is another word.
    let tolerance = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= tolerance && distance < word.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean `…`?` where there is a [`nearest`] candidate, else nothing.
pub(super) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    nearest(word, candidates).map_or_else(String::new, |it| format!("; did you mean `{it}`?"))
}

/// Edits from `a` to `b`, not counting case: insertions, deletions, substitutions and swaps of
/// neighbours (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let lower = |s: &str| s.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    let (a, b) = (lower(a), lower(b));
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before_last[j - 2] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
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

    #[test]
    fn slips_of_the_pen_are_recognised() {
        let names = ["Bailey", "Bona", "Campbell", "Clark", "Jaquez"];
        assert_eq!(nearest("bona", names), Some("Bona"));
        assert_eq!(nearest("Jacquez", names), Some("Jaquez"));
        assert_eq!(nearest("Cambpell", names), Some("Campbell"));
        assert_eq!(nearest("Clarks", names), Some("Clark"));
        assert_eq!(nearest("Goloman", names), None);
        assert_eq!(nearest("", names), None);
        assert_eq!(nearest("B", ["A"]), None, "another word, not a slip");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("abc", "abc"), 0);
        assert_eq!(distance("abc", "acb"), 1);
        assert_eq!(distance("abc", "ab"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
