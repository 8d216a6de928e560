//! Spelling and style of the text in the repository: American spelling, and no literal translations
//! that a reader has to decode. Identifiers, comments, messages and documents are all checked.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, helpers are part of them")]

use std::fs;
use std::path::{Path, PathBuf};

/// Words and phrases that hide the subject or the meaning of a sentence, and are rarely used in
/// technical English.
const MARKERS: &[&str] = &[
    "nobody",
    "somebody",
    "whoever",
    "whom",
    "anew",
    "for ever",
    "is told",
    "tells of",
    "at the most",
    "at the latest",
];

/// The number of markers in the whole repository that is tolerated.
const TOLERATED: usize = 4;

/// Beginnings of words in British spelling.
const BRITISH: &[&str] = &[
    "neighbour",
    "dialled",
    "centre",
    "licence",
    "colour",
    "behaviour",
    "cancelled",
    "honour",
    "favour",
    "normalis",
    "serialis",
    "recognis",
    "organisation",
    "metres",
    "kilometres",
    "grey",
    "programme ",
    "programmes",
    "whilst",
    "artefact",
];

/// Names that others chose, in which British spelling is correct.
const NAMES: &[&str] = &[
    "licences.txt",
    "community_centre",
    "arts_centre",
    "fitness_centre",
    "\"cancelled\"",
    "places_cancelled_total",
];

/// The files and folders that are checked, in addition to the documents at the top.
const CHECKED: &[&str] = &[
    "src",
    "tests",
    "fuzz",
    "examples",
    "scripts",
    "docs",
    "conf",
    "packaging",
    "web/src",
    "web/build.mjs",
    "Cargo.toml",
    "deny.toml",
];

/// Folders with data or generated files, and this file, which lists the words.
const SKIPPED: &[&str] = &[
    "src/places/data",
    "src/http/assets",
    "fuzz/corpus",
    "fuzz/artifacts",
    "fuzz/target",
    "tests/language.rs",
];

const EXTENSIONS: &[&str] = &[
    "rs", "md", "sh", "py", "c", "js", "mjs", "css", "html", "toml", "yml", "service", "1", "5",
    "dict", "json",
];

#[test]
fn the_text_avoids_obscure_phrases() {
    let found: Vec<String> = texts().iter().flat_map(|text| text.find_all(MARKERS)).collect();
    assert!(found.len() <= TOLERATED, "rephrase these:\n{}", found.join("\n"));
}

#[test]
fn spelling_is_american() {
    let found: Vec<String> = texts().iter().flat_map(Text::british).collect();
    assert!(found.is_empty(), "use American spelling:\n{}", found.join("\n"));
}

/// The checks find words at any position, across line breaks and within identifiers.
#[test]
fn planted_words_are_found() {
    let text = Text::parse("a.rs", "/// At the\n    /// most one. Nobody!\nlet whom_ = 1;\n");
    assert_eq!(text.find_all(MARKERS), ["a.rs:1: at the most", "a.rs:2: nobody", "a.rs:3: whom"]);
    let text = Text::parse("a.md", "whomever is anewed\nforever\nprogrammer, licences.txt\n");
    assert!(text.find_all(MARKERS).is_empty());
    assert!(text.british().is_empty());
    let text = Text::parse("a.rs", "fn max_neighbours() {} struct ReColoured;\n");
    assert_eq!(text.british(), ["a.rs:1: neighbour", "a.rs:1: colour"]);
}

/// A file as one line of lower-case text, without the markers of comments.
struct Text {
    path: String,
    content: String,
    /// The offset at which each line begins.
    lines: Vec<usize>,
}

impl Text {
    fn parse(path: &str, source: &str) -> Self {
        let (mut content, mut lines) = (String::from(" "), Vec::new());
        for line in source.lines() {
            lines.push(content.len());
            let is_marker = |c: char| c.is_ascii_whitespace() || matches!(c, '/' | '!' | '#' | '*');
            content += line.trim_start_matches(is_marker).trim_end();
            content.push(' ');
        }
        content.make_ascii_lowercase();
        Self { path: path.to_owned(), content, lines }
    }

    /// The occurrences of whole words or phrases.
    fn find_all(&self, phrases: &[&str]) -> Vec<String> {
        let is_letter = |at: usize| self.content.as_bytes()[at].is_ascii_alphabetic();
        let mut found = self.occurrences(phrases);
        found.retain(|&(at, phrase)| !is_letter(at - 1) && !is_letter(at + phrase.len()));
        self.report(&found)
    }

    /// The occurrences of British spelling.
    fn british(&self) -> Vec<String> {
        let mut found = self.occurrences(BRITISH);
        found.retain(|&(at, _)| {
            !NAMES.iter().any(|name| {
                let first = at.saturating_sub(name.len());
                self.content.get(first..at + name.len()).is_some_and(|around| around.contains(name))
            })
        });
        self.report(&found)
    }

    fn occurrences<'p>(&self, phrases: &[&'p str]) -> Vec<(usize, &'p str)> {
        let mut found: Vec<_> = phrases
            .iter()
            .flat_map(|phrase| self.content.match_indices(phrase).map(move |(at, _)| (at, *phrase)))
            .collect();
        found.sort_unstable();
        found
    }

    fn report(&self, found: &[(usize, &str)]) -> Vec<String> {
        let describe = |&(at, phrase): &(usize, &str)| {
            let line = self.lines.partition_point(|&start| start <= at);
            format!("{}:{line}: {}", self.path, phrase.trim())
        };
        found.iter().map(describe).collect()
    }
}

/// The files that are checked.
fn texts() -> Vec<Text> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let documents = top.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut pending: Vec<PathBuf> =
        documents.chain(CHECKED.iter().map(|path| root.join(path))).collect();
    let mut texts = Vec::new();
    while let Some(path) = pending.pop() {
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if let Some(extension) = path.extension()
            && EXTENSIONS.iter().any(|known| extension == *known)
        {
            texts.push(Text::parse(&name, &fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(texts.len() > 100, "only {} files were found", texts.len());
    texts
}
