//! Fuzzes the parsers of files that users write: the configuration, the places file and the fence file.
//!
//! The first line of the input is the file name, the rest is the content. If the name contains `key`,
//! an API key and a secret are in the environment.
//!
//! - Every file is either accepted or rejected with an error that refers to an existing line.
//! - An accepted configuration can be displayed, is a valid graph and does not reveal its secrets.
//! - Accepted places can be searched and written as JSON.
//! - Accepted fences are the same when they are written and read again, and their index finds those that
//!   contain a point.

#![no_main]

use std::ffi::OsString;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use proxy_herd::cli;
use proxy_herd::config::Config;
use proxy_herd::fences::{FenceSet, file};
use proxy_herd::geo::Point;
use proxy_herd::limits::{self, MAX_NODE_NAME, MAX_NODES};
use proxy_herd::places::limits::MAX_PLACE_TEXT;
use proxy_herd::places::offline::Offline;
use proxy_herd::places::offline::places_file::{self, Format};
use proxy_herd::protocol::is_space;

/// A secret that occurs in no message and in no seed of the corpus.
const CANARY: &str = "canary-0123";

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|&byte| byte == b'\n').unwrap_or(input.len());
    let (name, content) = input.split_at(end);
    let (Ok(name), Some(content)) = (str::from_utf8(name), content.get(1..)) else { return };
    if name.ends_with(".yml") {
        configuration(name, content);
    } else if name.starts_with("fences") {
        fences(content);
    } else {
        places(name, content);
    }
});

fn configuration(name: &str, content: &[u8]) {
    // Files that the configuration refers to are in a directory that does not exist.
    let path = Path::new("/nowhere/herd.yml");
    let keyed = name.contains("key");
    let environment = |_: &str| keyed.then(|| OsString::from(CANARY));
    match Config::from_bytes(path, content, &environment) {
        Ok(config) => {
            let shown = cli::summary(&config) + &config.warnings.join("\n");
            assert!(!shown.contains(CANARY) && !format!("{config:?}").contains(CANARY));
            check_graph(&config);
        }
        Err(error) => check_error(&error, error.line(), content),
    }
}

fn check_graph(config: &Config) {
    let nodes = &config.nodes;
    assert!((1..=MAX_NODES).contains(&nodes.len()));
    for (at, node) in nodes.iter().enumerate() {
        assert_eq!(config.node(&node.name), Some(at), "a duplicate name");
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
            assert_eq!(results.len(), count.min(20), "half the circumference of the earth");
            for result in results {
                let [name, vicinity] = ["name", "vicinity"].map(|it| result[it].as_str().unwrap());
                assert!((1..=MAX_PLACE_TEXT).contains(&name.len()));
                assert!(vicinity.len() <= MAX_PLACE_TEXT);
            }
        }
        Err(error) => check_error(&error, Some(error.line()), content),
    }
}

fn fences(content: &[u8]) {
    let set = match file::parse(content, &FenceSet::default()) {
        Ok(set) => set,
        Err(error) => return check_error(&error, Some(error.line), content),
    };
    let mut document = br#"{"type":"FeatureCollection","features":["#.to_vec();
    for (at, fence) in set.fences().iter().enumerate() {
        document.extend_from_slice(if at == 0 { b"" } else { b"," });
        document.extend_from_slice(&fence.feature);
        document.extend_from_slice(b"0}}");
    }
    document.extend_from_slice(b"]}");
    let again = file::parse(&document, &set).expect("it was read before");
    assert!(again.hash() == set.hash() && !again.has_new() && again.retired().is_empty());
    let mut found = Vec::new();
    let spots = set.fences().iter().flat_map(|fence| fence.shape.bounds());
    let corners = spots.take(8).flat_map(|[west, south, east, north]| {
        [(west, south), (east, north), ((west + east) / 2.0, (south + north) / 2.0)]
    });
    for (lng, lat) in corners.chain([(180.0, 0.0), (-180.0, 90.0)]) {
        let point = Point { lat: lat.clamp(-90.0, 90.0), lng: lng.clamp(-180.0, 180.0) };
        set.containing(point, &mut found);
        for (at, fence) in (0..).zip(set.fences()) {
            assert_eq!(
                found.contains(&at),
                fence.shape.contains(point),
                "{point:?} in {}",
                fence.name
            );
        }
    }
}

fn check_error(error: &dyn std::error::Error, line: Option<u64>, content: &[u8]) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n') && !text.contains(CANARY), "{text}");
    // In YAML, CR is a line break as well.
    let lines = 1 + content.iter().filter(|byte| b"\n\r".contains(byte)).count() as u64;
    assert!(line.is_none_or(|line| (1..=lines).contains(&line)), "{text}, of {lines} lines");
}
