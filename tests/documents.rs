//! The documents agree with the tree: relative links lead somewhere, every dependency is documented,
//! docs/tour.md names functions that exist, and every warning of a node has an entry in
//! docs/troubleshooting.md.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, helpers are part of them")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Directories that hold no documents of this project.
const SKIPPED: &[&str] = &["target", "node_modules", "logs", "run", "certs", "corpus"];

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let broken: Vec<String> = files(&root(), "md").iter().flat_map(|it| broken_links(it)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_dependency_is_documented_and_counted() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let (_, section) = manifest.split_once("\n[dependencies]\n").unwrap();
    let (section, _) = section.split_once("\n[").unwrap();
    let names: Vec<&str> =
        section.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
    let document = fs::read_to_string(root().join("docs/dependencies.md")).unwrap();
    let words: BTreeSet<&str> =
        document.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c))).collect();
    let missing: Vec<&&str> = names.iter().filter(|name| !words.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/dependencies.md does not mention {missing:?}");
    let count = format!("{} that `Cargo.toml` names", names.len());
    assert!(document.contains(&count), "docs/dependencies.md must say: {count}");
}

/// The longest part of a message between two placeholders identifies it.
#[test]
fn every_warning_and_error_of_a_node_is_explained() {
    let document = fs::read_to_string(root().join("docs/troubleshooting.md")).unwrap();
    let mut checked = 0;
    for path in files(&root().join("src"), "rs") {
        let source = fs::read_to_string(&path).unwrap();
        for message in log_messages(&source) {
            let parts = message.split(['{', '}']).step_by(2).map(str::trim);
            let part = parts.max_by_key(|part| part.len()).unwrap();
            assert!(
                document.contains(part),
                "{}: docs/troubleshooting.md does not explain {message:?}: {part:?} is missing",
                path.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 10, "only {checked} messages found in src");
}

/// A row names one or more functions, and their file or one file for each.
#[test]
fn the_tour_names_functions_that_exist() {
    let tour = fs::read_to_string(root().join("docs/tour.md")).unwrap();
    let mut checked = 0;
    for row in tour.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let files: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        for (at, function) in cells[0].split('`').skip(1).step_by(2).enumerate() {
            let file = files.get(at).unwrap_or(&files[0]);
            let source = fs::read_to_string(root().join(file)).unwrap_or_default();
            let name = function.rsplit("::").next().unwrap();
            let is_there = ["(", "<"].iter().any(|it| source.contains(&format!("fn {name}{it}")));
            assert!(is_there, "docs/tour.md: {file} has no function {function}");
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} functions found in docs/tour.md");
}

#[test]
fn headings_and_messages_are_read_as_they_are_written() {
    assert_eq!(anchor("Which record is newer"), "which-record-is-newer");
    assert_eq!(anchor("`/api/herd`"), "apiherd");
    assert_eq!(anchor("TLS and secrets"), "tls-and-secrets");
    let source = "log::warn!(\n \"{name}: one \\\n  two {}\",\n 1); log::info!(\"no\"); \
                  log::error!(target: X, \"three\");  log::warn!(\"{warning}\");";
    assert_eq!(log_messages(source), ["{name}: one two {}", "three", "{warning}"]);
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The files below `folder` with this extension.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|it| it == extension) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn broken_links(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut broken = Vec::new();
    for target in links(&text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = target.split_once('#').unwrap_or((target, ""));
        let linked =
            if file.is_empty() { path.to_owned() } else { path.parent().unwrap().join(file) };
        if !linked.exists() {
            broken.push(format!("{}: {target} does not exist", path.display()));
        } else if !heading.is_empty() && linked.extension().is_some_and(|it| it == "md") {
            let headings = headings(&fs::read_to_string(linked).unwrap());
            if !headings.contains(heading) {
                broken.push(format!("{}: {target} has no such heading", path.display()));
            }
        }
    }
    broken
}

/// The targets of inline links and images, outside code blocks.
fn links(text: &str) -> Vec<&str> {
    let prose = text.split("```").step_by(2);
    prose
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| Some(rest.split_once(')')?.0))
        .collect()
}

fn headings(text: &str) -> BTreeSet<String> {
    let lines = text.split("```").step_by(2).flat_map(str::lines);
    lines
        .filter(|line| line.starts_with('#'))
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

/// The anchor of a heading, as GitHub forms it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The format strings of `log::warn!` and `log::error!`, with line continuations removed.
fn log_messages(source: &str) -> Vec<String> {
    let calls = ["log::warn!(", "log::error!("];
    let mut found: Vec<(usize, String)> = Vec::new();
    for (at, call) in calls.iter().flat_map(|call| source.match_indices(call)) {
        let (_, rest) = source[at + call.len()..].split_once('"').unwrap();
        let (literal, _) = rest.split_once('"').unwrap();
        let lines = literal.split("\\\n").map(str::trim_start);
        found.push((at, lines.collect::<String>()));
    }
    found.sort();
    found.into_iter().map(|(_, message)| message).collect()
}
