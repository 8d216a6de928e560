//! The architecture, enforced: which module may import which, what the core must not use, and that
//! the documentation shows the same limits as the program.
//!
//! The sources are read as tokens, not compiled: paths count wherever they occur, in `use`, in an
//! expression or in the arguments of a macro.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, helpers are part of them")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The siblings that each top-level module may use: net → {http, devices} → node → {storage → herd, places}
/// → protocol.
/// `config` is for the programs and for `net`, which assembles the core from it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("text", &[]),
    ("rng", &[]),
    ("endpoint", &[]),
    ("protocol", &["text"]),
    ("limits", &[]),
    ("histogram", &[]),
    ("counters", &[]),
    ("ids", &[]),
    ("time", &["protocol"]),
    ("geo", &["text"]),
    ("spatial", &["geo", "ids", "rng"]),
    ("fences", &["text", "counters", "spatial", "geo", "protocol", "ids", "time"]),
    ("testing", &["storage", "feed", "herd", "rng", "protocol", "limits", "ids", "time"]),
    ("message_log", &["text", "protocol"]),
    ("herd", &["text", "counters", "fences", "rng", "protocol", "limits", "ids", "time"]),
    ("config", &["text", "endpoint", "message_log", "limits"]),
    ("places", &["text", "counters", "rng", "endpoint", "geo", "time", "limits"]),
    ("storage", &["text", "counters", "herd", "protocol", "ids", "time"]),
    ("feed", &["text", "counters", "rng", "endpoint", "places", "storage", "protocol", "time"]),
    (
        "node",
        &[
            "fences",
            "storage",
            "herd",
            "places",
            "message_log",
            "counters",
            "histogram",
            "geo",
            "protocol",
            "limits",
            "ids",
            "time",
        ],
    ),
    (
        "http",
        &[
            "text", "endpoint", "node", "storage", "spatial", "fences", "herd", "places",
            "counters", "geo", "protocol", "limits", "ids", "time",
        ],
    ),
    (
        "devices",
        &[
            "http", "node", "storage", "herd", "counters", "protocol", "endpoint", "text", "ids",
            "time",
        ],
    ),
    (
        "net",
        &[
            "devices",
            "endpoint",
            "http",
            "node",
            "feed",
            "storage",
            "fences",
            "herd",
            "places",
            "message_log",
            "counters",
            "histogram",
            "geo",
            "protocol",
            "config",
            "limits",
            "ids",
            "time",
        ],
    ),
    ("cli", &["http", "config", "message_log", "limits"]),
    ("bench", &["text", "rng", "cli", "protocol", "config"]),
];

/// The modules that are pure functions of their input.
const CORE: &[&str] = &[
    "text",
    "rng",
    "protocol",
    "counters",
    "histogram",
    "ids",
    "time",
    "herd",
    "storage",
    "feed",
    "places",
    "geo",
    "spatial",
    "fences",
    "node",
    "http",
    "devices",
    "message_log",
];

/// Paths that the core must not use: sockets, files, threads, clocks, the environment, randomness,
/// the global logger.
const IMPURE: &[&str] = &[
    "std::net",
    "std::fs",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "std::sync::mpsc",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::time::UNIX_EPOCH",
    "std::io::stdin",
    "std::io::stdout",
    "std::io::stderr",
    "core::net",
    "ring::rand",
    "mio",
    "rustls",
    "socket2",
    "signal_hook",
    "rlimit",
    "webpki_roots",
    "env_logger",
    "log::error",
    "log::warn",
    "log::info",
    "log::debug",
    "log::trace",
    "log::log",
    "log::logger",
];

#[test]
fn imports_point_one_way() {
    let wrong: Vec<String> = sources().iter().flat_map(wrong_imports).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_knows_no_sockets_files_threads_or_clocks() {
    let wrong: Vec<String> = sources().iter().flat_map(impurities).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_rule() {
    let modules: BTreeSet<String> = sources().into_iter().map(|file| file.layer).collect();
    let ruled: BTreeSet<String> = MAY_USE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(modules, ruled, "src/ and MAY_USE name different modules");
}

#[test]
fn the_documentation_shows_the_limits_of_the_program() {
    let document = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let (_, after) = document.split_once("<!-- limits: proxy-herd --limits -->\n\n").unwrap();
    let (table, _) = after.split_once("<!-- /limits -->").unwrap();
    let actual = proxy_herd::limits::markdown();
    assert_eq!(table, actual, "put the output of proxy-herd --limits between the markers");
}

/// The checks find what they forbid, however it is written.
#[test]
fn violations_are_found_in_every_spelling() {
    for (path, code) in [
        ("places/google.rs", "use crate::herd::Herd;"),
        ("places/google.rs", "use crate::config::Config;"),
        ("herd/mod.rs", "fn f() { crate::places::ask() }"),
        ("protocol/record.rs", "use super::super::herd::Herd;"),
        ("protocol/record.rs", "mod tests { use super::super::super::node; }"),
        ("message_log.rs", "use crate::{protocol, net::run as walk};"),
        ("message_log.rs", "fn f() { log::info!(\"{}\", crate::net::clock()) }"),
        ("config/mod.rs", "pub(in crate::config) use super::{protocol::time::*};"),
        ("node/session.rs", "pub use crate::net;"),
        ("herd/mod.rs", "use crate::testing::identity;"),
    ] {
        assert_eq!(wrong_imports(&Source::parse(path, code)).len(), 1, "{path}: {code}");
    }
    for (path, code) in [
        ("places/google.rs", "use std::{fmt, time::{Duration, Instant}};"),
        ("herd/mod.rs", "fn f() { let _ = std::time::SystemTime::now(); }"),
        ("protocol/mod.rs", "use std::time; fn f() { time::Instant::now(); }"),
        ("node/mod.rs", "use ::mio::net::TcpStream;"),
        ("herd/mod.rs", "fn f() { log::warn!(\"x\") }"),
        ("message_log.rs", "use std::fs as files;"),
        ("places/offline.rs", "fn f() { dbg!(std::fs::read(\"x\")); }"),
        ("places/mod.rs", "use std::*;"),
    ] {
        assert_eq!(impurities(&Source::parse(path, code)).len(), 1, "{path}: {code}");
    }
    for (path, code) in [
        ("places/google.rs", "// use crate::herd;\n/* use mio; /* nested */ std::fs */ fn f() {}"),
        (
            "places/google.rs",
            r##"const A: &str = r#"use crate::herd::"x";"#; const B: char = '"';"##,
        ),
        ("herd/link.rs", "use super::directory; use crate::protocol::record::Record;"),
        ("herd/link.rs", "mod tests { use super::*; use super::super::Herd; }"),
        ("herd/mod.rs", "fn f<'a>(x: &'a str) { self::link::up(); std::time::Duration::ZERO; }"),
        ("net/mod.rs", "use std::net::TcpStream; use crate::node::Node;"),
        ("herd/mod.rs", "mod tests { use crate::testing; }"),
        ("herd/tests.rs", "use crate::testing::identity;"),
    ] {
        let file = Source::parse(path, code);
        assert_eq!(wrong_imports(&file).len() + impurities(&file).len(), 0, "{path}: {code}");
    }
}

fn wrong_imports(file: &Source) -> Vec<String> {
    let allowed = MAY_USE.iter().find(|(name, _)| *name == file.layer).map_or(&[][..], |it| it.1);
    let mut wrong: BTreeSet<String> = BTreeSet::new();
    for path in &file.paths {
        if let ["crate", layer, ..] = path.iter().map(String::as_str).collect::<Vec<_>>()[..]
            && layer != file.layer
            && !allowed.contains(&layer)
        {
            let path = path.join("::");
            wrong.insert(format!("src/{}: {} must not use {path}", file.path, file.layer));
        }
    }
    wrong.into_iter().collect()
}

fn impurities(file: &Source) -> Vec<String> {
    if !CORE.contains(&file.layer.as_str()) {
        return Vec::new();
    }
    let mut wrong: BTreeSet<String> = BTreeSet::new();
    for path in file.paths.iter().map(|path| path.join("::")) {
        let is = |name: &&&str| path == **name || path.starts_with(&format!("{name}::"));
        let globs = |name: &&&str| path.strip_suffix('*').is_some_and(|it| name.starts_with(it));
        if let Some(name) = IMPURE.iter().find(|name| is(name) || globs(name)) {
            wrong.insert(format!("src/{}: the core must not know {name} ({path})", file.path));
        }
    }
    wrong.into_iter().collect()
}

/// A file of `src` and every path in it.
struct Source {
    /// Relative to `src`.
    path: String,
    /// The top-level module that it belongs to.
    layer: String,
    /// Absolute if they begin with `crate`, `self` or `super`, or are imported by a `use` of this file.
    paths: Vec<Vec<String>>,
}

impl Source {
    fn parse(path: &str, text: &str) -> Self {
        let module = module_of(path);
        let paths = Paths::of(&tokens(text), &module);
        Self { path: path.to_owned(), layer: module[1].clone(), paths }
    }
}

/// The crate roots: that of the library only lists the modules.
const ROOTS: &[&str] = &["lib.rs", "main.rs", "bin/herd-bench.rs"];

/// All files of the library except its root.
fn sources() -> Vec<Source> {
    let src = root().join("src");
    let mut folders = vec![src.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let name = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                if !ROOTS.contains(&name.as_str()) {
                    files.push(Source::parse(&name, &fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    files
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// `places/http/head.rs` is `crate::places::http::head`.
fn module_of(path: &str) -> Vec<String> {
    let path = path.strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("/mod").unwrap_or(path);
    std::iter::once("crate").chain(path.split('/')).map(str::to_owned).collect()
}

/// Identifiers, `::` and single punctuation marks, without comments, strings and lifetimes.
fn tokens(text: &str) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let is_word = |byte: u8| byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80;
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if is_word(bytes[at]) {
            let length = rest.bytes().take_while(|&byte| is_word(byte)).count();
            tokens.push(&rest[..length]);
            length
        } else if rest.starts_with("::") {
            tokens.push("::");
            2
        } else {
            if !bytes[at].is_ascii_whitespace() {
                tokens.push(&rest[..1]);
            }
            1
        };
        at += length;
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of the string, byte string, raw string, character or lifetime at the start of `text`.
fn literal(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""].into_iter().find(|it| text.starts_with(it))?;
    let body = &text[prefix.len()..];
    let hashes = body.bytes().take_while(|&byte| byte == b'#').count();
    if prefix.ends_with('r') && body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = prefix.len() + hashes + 1;
        return Some(start + text[start..].find(&end)? + end.len());
    }
    let quote = body.chars().next().filter(|it| matches!(it, '"' | '\''))?;
    if quote == '\'' {
        let mut inner = body[1..].chars();
        let first = inner.next()?;
        // 'a is a lifetime, 'a' a character.
        if first != '\\' && inner.next() != Some('\'') {
            let name = body[1..].bytes().take_while(|&b| b == b'_' || b.is_ascii_alphanumeric());
            return Some(prefix.len() + 1 + name.count());
        }
    }
    let mut escaped = false;
    let end = body[1..].bytes().position(|byte| {
        let ends = !escaped && byte == quote as u8;
        escaped = !escaped && byte == b'\\';
        ends
    })?;
    Some(prefix.len() + 1 + end + 1)
}

/// Finds the paths in tokens.
struct Paths<'t> {
    tokens: &'t [&'t str],
    at: usize,
    /// The module of the token at `at`, with a brace depth for each inline one.
    module: Vec<String>,
    inline: Vec<usize>,
    depth: usize,
    found: Vec<Vec<String>>,
    /// The names that a `use` of this file defines, and their paths.
    names: Vec<(String, Vec<String>)>,
}

impl<'t> Paths<'t> {
    fn of(tokens: &'t [&'t str], module: &[String]) -> Vec<Vec<String>> {
        let mut paths = Paths {
            tokens,
            at: 0,
            module: module.to_vec(),
            inline: Vec::new(),
            depth: 0,
            found: Vec::new(),
            names: Vec::new(),
        };
        while paths.at < tokens.len() {
            paths.step();
        }
        let Paths { mut found, names, .. } = paths;
        for path in &mut found {
            if let Some((_, whole)) = names.iter().find(|(name, _)| *name == path[0]) {
                path.splice(..1, whole.iter().cloned());
            }
        }
        found
    }

    fn peek(&self, ahead: usize) -> &'t str {
        self.tokens.get(self.at + ahead).copied().unwrap_or("")
    }

    fn step(&mut self) {
        match self.peek(0) {
            "mod" if self.peek(2) == "{" => {
                self.module.push(self.peek(1).to_owned());
                self.inline.push(self.depth);
                self.at += 2;
            }
            // `use<'a>` in a bound is not an import.
            "use" if self.peek(1) != "<" => {
                self.at += 1;
                self.use_tree(&[]);
            }
            "{" => {
                self.depth += 1;
                self.at += 1;
            }
            "}" => {
                self.depth -= 1;
                self.at += 1;
                if self.inline.pop_if(|depth| *depth == self.depth).is_some() {
                    self.module.pop();
                }
            }
            word if is_name(word) && self.peek(1) == "::" => {
                let mut path = Vec::new();
                while is_name(self.peek(0)) {
                    path.push(self.peek(0).to_owned());
                    self.at += 1;
                    if self.peek(0) != "::" || !is_name(self.peek(1)) {
                        break;
                    }
                    self.at += 1;
                }
                let path = self.absolute(path);
                self.record(path);
            }
            _ => self.at += 1,
        }
    }

    /// Reads what follows `use`, or is in its braces after `prefix`.
    fn use_tree(&mut self, prefix: &[String]) {
        let mut path = prefix.to_vec();
        loop {
            match self.peek(0) {
                "::" => self.at += 1,
                "{" => {
                    self.at += 1;
                    while !matches!(self.peek(0), "}" | "") {
                        self.use_tree(&path);
                        if self.peek(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" => {
                    self.at += 1;
                    path.push("*".to_owned());
                }
                "as" => {
                    let name = self.peek(1).to_owned();
                    self.at += 2;
                    return self.import(path, Some(name));
                }
                "self" if !path.is_empty() => self.at += 1,
                word if is_name(word) => {
                    path.push(word.to_owned());
                    self.at += 1;
                }
                _ => return self.import(path, None),
            }
        }
    }

    fn import(&mut self, path: Vec<String>, name: Option<String>) {
        let path = self.absolute(path);
        let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
        // A module of std is followed by its name; the path of a type is complete here.
        if path[0] == "std" || path[0] == "core" {
            self.names.push((name, path.clone()));
        }
        self.record(path);
    }

    /// Records a path, unless it is that of the fixtures in a test module, which may use them.
    fn record(&mut self, path: Vec<String>) {
        let is_fixture = path.starts_with(&["crate".to_owned(), "testing".to_owned()]);
        if !(is_fixture && self.module.iter().any(|name| name == "tests")) {
            self.found.push(path);
        }
    }

    fn absolute(&self, path: Vec<String>) -> Vec<String> {
        let mut module = self.module.clone();
        let supers = path.iter().take_while(|word| matches!(&***word, "self" | "super")).count();
        if supers == 0 {
            return path;
        }
        for word in &path[..supers] {
            if word == "super" {
                module.pop();
            }
        }
        module.extend_from_slice(&path[supers..]);
        module
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c == '_' || c.is_alphabetic())
}
