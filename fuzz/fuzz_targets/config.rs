//! The files that a person writes: a configuration, or a places file. The first line of the input
//! is the name of the file, the rest is what it holds; a name with `key` in it comes with an API
//! key and a secret in the environment.
//!
//! - Whatever is in it, a file is read or refused, in words that name a line that it has.
//! - A configuration that is read can be shown, is a graph, and keeps its secrets to itself.
//! - Places that are read can be searched, and shown in JSON.

#![no_main]

use std::ffi::OsString;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use proxy_herd::cli;
use proxy_herd::config::Config;
use proxy_herd::limits::{self, MAX_NODE_NAME, MAX_NODES};
use proxy_herd::places::geo::Point;
use proxy_herd::places::limits::MAX_PLACE_TEXT;
use proxy_herd::places::offline::Offline;
use proxy_herd::places::offline::places_file::{self, Format};
use proxy_herd::protocol::is_space;

/// No word of a message, and no name in a seed.
const CANARY: &str = "canary-0123";

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (name, content) = input.split_at(end);
    let (Ok(name), Some(content)) = (str::from_utf8(name), content.get(1..)) else { return };
    if name.ends_with(".yml") {
        configuration(name, content);
    } else {
        places(name, content);
    }
});

fn configuration(name: &str, content: &[u8]) {
    // Files that it names are looked for where there are none.
    let path = Path::new("/nowhere/herd.yml");
    let keyed = name.contains("key");
    let environment = |_: &str| keyed.then(|| OsString::from(CANARY));
    match Config::from_bytes(path, content, &environment) {
        Ok(config) => {
            let shown = cli::summary(&config) + &config.warnings.join("\n");
            assert!(!shown.contains(CANARY) && !format!("{config:?}").contains(CANARY));
            graph(&config);
        }
        Err(error) => refused(&error, error.line(), content),
    }
}

fn graph(config: &Config) {
    let nodes = &config.nodes;
    assert!((1..=MAX_NODES).contains(&nodes.len()));
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(config.node(&node.name), Some(at), "a name twice");
        assert!((1..=MAX_NODE_NAME).contains(&node.name.len()) && node.port > 0);
        assert!(!node.name.bytes().any(is_space));
        assert!(node.neighbors.is_sorted_by(|a, b| a < b) && !node.neighbors.contains(&at));
        assert!(node.neighbors.iter().all(|&it| nodes[it].neighbors.contains(&at)));
    }
    for setting in limits::Limits::TABLE {
        assert!(setting.limit.allows((setting.get)(&config.limits)), "{}", setting.limit.key);
    }
}

fn places(name: &str, content: &[u8]) {
    match places_file::parse(content, Format::of(name, content)) {
        Ok(places) => {
            let (count, mut document) = (places.len(), Vec::new());
            assert!(count > 0);
            let mut places = Offline::own(places);
            places.answer(Point { lat: 0.0, lng: 0.0 }, 20_100_000.0, 20, &mut document);
            let document: serde_json::Value = serde_json::from_slice(&document).expect("JSON");
            let results = document["results"].as_array().expect("results");
            assert_eq!(results.len(), count.min(20), "half the girth of the earth holds them all");
            for result in results {
                let [name, vicinity] = ["name", "vicinity"].map(|it| result[it].as_str().unwrap());
                assert!((1..=MAX_PLACE_TEXT).contains(&name.len()));
                assert!(vicinity.len() <= MAX_PLACE_TEXT);
            }
        }
        Err(error) => refused(&error, Some(error.line()), content),
    }
}

fn refused(error: &dyn std::error::Error, line: Option<u64>, content: &[u8]) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n') && !text.contains(CANARY), "{text}");
    // To YAML, CR ends a line as well.
    let lines = 1 + content.iter().filter(|byte| b"\n\r".contains(byte)).count() as u64;
    assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{text}, of {lines} lines");
}
