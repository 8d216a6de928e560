//! The documents agree with the tree: relative links lead somewhere, every dependency is documented,
//! docs/tour.md names functions that exist, every warning of a node has an entry in
//! docs/troubleshooting.md, the figures of the README were measured, and the changelog and the manual
//! pages are complete.

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

/// CONTRIBUTING.md asks for an entry there with every change that users notice.
#[test]
fn the_changelog_begins_with_unreleased_changes_and_the_present_version() {
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    let sections: Vec<&str> =
        changelog.lines().filter_map(|line| line.strip_prefix("## [")?.split(']').next()).collect();
    assert_eq!(sections[..2], ["Unreleased", env!("CARGO_PKG_VERSION")]);
}

/// Every figure of the README's part about performance is in docs/performance.md: those of a row of its
/// table in a row about the same server, the others anywhere.
#[test]
fn every_figure_of_the_readme_is_in_the_measurements() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let measured = fs::read_to_string(root().join("docs/performance.md")).unwrap();
    let missing = missing_figures(&readme, &measured);
    assert!(missing.is_empty(), "not in docs/performance.md: {missing:?}");
    let section =
        measured.split_once("\n<!-- figures: ").map(|(_, figures)| figures.lines().next());
    assert_eq!(section, Some(Some("scripts/bench.sh -->")), "the command that measures");
}

#[test]
fn planted_figures_are_found() {
    let measured = "| a | 1,200 · 0.5 |\n| b | 300 · 0.9 |\n\n141 bytes";
    let readme = |text: &str| format!("# X\n\n## Performance\n\n{text}\n\n## Limits\n\n77 more\n");
    for good in
        ["| a | 1,200 | 0.5 µs |\n| b | 300 | 0.9 µs |", "A client costs 141 bytes, or 0.5."]
    {
        assert_eq!(missing_figures(&readme(good), measured), [""; 0]);
    }
    // Another figure, one of another server, and a part of a figure.
    for (bad, found) in [("| a | 1,200 | 0.6 |", "0.6"), ("| a | 300 |", "300"), ("14 bytes", "14")]
    {
        assert_eq!(missing_figures(&readme(bad), measured), [found]);
    }
}

/// The figures in the section "Performance" of `readme` that `measured` does not contain.
fn missing_figures(readme: &str, measured: &str) -> Vec<String> {
    let (_, section) = readme.split_once("\n## Performance\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let server = |line: &str| {
        line.strip_prefix("| ").and_then(|row| row.split_once(" | ")).map(|it| it.0.to_owned())
    };
    let mut missing = Vec::new();
    for line in section.lines() {
        let name = server(line)
            .filter(|name| measured.lines().any(|row| server(row).as_ref() == Some(name)));
        let places = measured.lines().filter(|row| name.is_none() || server(row) == name);
        let known: BTreeSet<&str> = places.flat_map(figures).collect();
        missing.extend(figures(line).filter(|it| !known.contains(it)).map(str::to_owned));
    }
    missing
}

/// The numbers in a text, with their separators.
fn figures(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || ".,".contains(c)));
    words
        .map(|word| word.trim_matches(['.', ',']))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_digit()))
}

/// proxy-herd.yml(5) has an entry for each key of docs/configuration.md, and for no other.
#[test]
fn the_manual_page_of_the_configuration_describes_every_key() {
    let document = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let manual = fs::read_to_string(root().join("packaging/man/proxy-herd.yml.5")).unwrap();
    let documented: BTreeSet<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(key, _)| key)
        // Properties of a fence, and what one may announce.
        .filter(|key| !["name", "radius", "hysteresis", "dwell"].contains(key))
        .filter(|key| !key.starts_with("limits.next."))
        .chain(["limits.next"])
        .collect();
    let described: BTreeSet<&str> = manual
        .split("\n.TP\n.B ")
        .skip(1)
        .filter_map(|entry| entry.split_once('\n'))
        .filter(|(_, text)| text.len() > 10)
        .map(|(key, _)| key)
        .collect();
    assert!(documented.len() > 70, "{}", documented.len());
    assert_eq!(described, documented);
}

/// proxy-herd(1) and docs/cli.md name the same environment variables and signals.
#[test]
fn the_manual_page_names_every_environment_variable() {
    let guide = fs::read_to_string(root().join("docs/cli.md")).unwrap();
    let manual = fs::read_to_string(root().join("packaging/man/proxy-herd.1")).unwrap();
    let (_, table) = guide.split_once("| Environment variable |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let variables: Vec<&str> =
        table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert!(variables.len() > 4, "{variables:?}");
    for name in variables {
        assert!(manual.contains(&format!("\n.B {name}\n")), "{name}");
    }
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
