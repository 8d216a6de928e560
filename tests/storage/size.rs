//! The size of the folder, and the time of a start.

use std::collections::BTreeMap;
use std::time::Duration;

use proxy_herd::herd::directory::{Directory, Source};
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{Event, FileName, Recovery, SyncMode};
use proxy_herd::testing::KEYS;
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

use crate::node::{self, Node};

const WALL: Wall = Wall(1_000_000_000 * SECOND);

fn start(disk: &mut Disk, max_bytes: u64, keeps_segments: bool) -> Node {
    let mut rng = Rng::new(1);
    let (directory, recovered) =
        node::load(disk, node::rules(1_000_000, 0), WALL, &mut rng).unwrap();
    let mut settings = node::settings(SyncMode::Interval(Duration::from_secs(1)), max_bytes);
    settings.keeps_segments = keeps_segments;
    Node::start(directory, recovered, settings, disk, Instant::START, &mut rng, 1000).unwrap()
}

/// Updates `clients` clients in turn, whose names have `name` digits. Returns the number of snapshots and the largest size.
fn update(node: &mut Node, disk: &mut Disk, clients: i64, updates: i64, name: usize) -> (u64, u64) {
    let (mut rng, mut largest, mut compactions) = (Rng::new(2), 0, 0);
    for i in 1..=updates {
        let client = format!("vehicle-{:0name$}", i % clients);
        let line = node::line("Clark", &client, 1_000_000 + i, WALL.0 + Nanos::from(i));
        node.apply(&line, Source::Client, WALL).expect("a newer record");
        if i % 500 == 0 {
            node.settle(disk, Instant::at(Duration::from_secs(i as u64)), &mut rng);
            largest = largest.max(disk.used());
            while let Some(event) = node.storage.poll_event() {
                match event {
                    Event::Compacted { .. } => compactions += 1,
                    Event::GivenUp { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    (compactions, largest)
}

/// Three times the live records plus 64 MiB, while the snapshot that replaces the others is written.
#[test]
fn the_folder_stays_within_its_bound_and_is_rarely_compacted() {
    let mut disk = Disk::default();
    let mut node = start(&mut disk, 4 << 30, false);
    let (compactions, largest) = update(&mut node, &mut disk, 6_000, 190_000, 400);
    let live = node.directory.bytes() + u64::from(node.directory.len());
    let bound = 3 * live + (64 << 20);
    assert!(largest <= bound, "{largest} of {bound} bytes");
    let written = node.storage.written().0;
    assert!((1..=written / (32 << 20)).contains(&compactions), "{compactions} for {written} bytes");
}

/// The folder is not compacted if that would hardly make it smaller.
#[test]
fn live_records_near_the_limit_are_not_written_over_and_over() {
    let mut disk = Disk::default();
    let max_bytes = 1 << 20;
    let mut node = start(&mut disk, max_bytes, false);
    let (compactions, largest) = update(&mut node, &mut disk, 4_000, 40_000, 12);
    assert!(largest <= max_bytes, "{largest}");
    let written = node.storage.written().0;
    assert!(compactions <= written / (64 << 10), "{compactions} for {written} bytes");
}

/// Segments that a cursor has not read are kept up to the limit, over a restart as well.
#[test]
fn segments_are_kept_for_a_cursor() {
    let mut disk = Disk::default();
    let mut node = start(&mut disk, 2 << 20, true);
    update(&mut node, &mut disk, 100, 40_000, 12);
    let segments = |disk: &Disk| {
        let names = disk.names();
        let number = |name: &String| match FileName::parse(name) {
            Some(FileName::Segment(number)) => Some(number),
            _ => None,
        };
        names.iter().filter_map(number).min()
    };
    let oldest = segments(&disk).unwrap();
    assert!(oldest > 1, "the oldest are given up at the limit");
    assert!(disk.used() > 3 << 19, "most of the space is used for what is kept: {}", disk.used());
    drop(node);
    let mut node = start(&mut disk, 2 << 20, true);
    node.settle(&mut disk, Instant::START, &mut Rng::new(1));
    assert!(segments(&disk).unwrap() <= oldest + 3, "{:?}", disk.names());
    node.storage.keep_from(u64::MAX);
    node.settle(&mut disk, Instant::START, &mut Rng::new(1));
    assert!(disk.used() < 1 << 20, "{}", disk.used());
    drop(node);
    let node = start(&mut disk, 2 << 20, false);
    assert_eq!(node.directory.len(), 100);
}

/// Measures a start with many records: `cargo test --release --test storage million -- --nocapture`.
#[test]
fn a_million_records_load_in_two_seconds() {
    let clients = if cfg!(debug_assertions) { 20_000 } else { 1_000_000 };
    let mut disk = Disk::default();
    let mut node = start(&mut disk, 4 << 30, false);
    update(&mut node, &mut disk, clients, clients, 12);
    let took = load(&disk, clients);
    assert!(cfg!(debug_assertions) || took < Duration::from_secs(2), "{took:?}");
    // After a restart, they are in a snapshot.
    drop(node);
    let mut node = start(&mut disk, 4 << 30, false);
    node.settle(&mut disk, Instant::START, &mut Rng::new(1));
    let took = load(&disk, clients);
    assert!(cfg!(debug_assertions) || took < Duration::from_secs(1), "{took:?}");
}

/// Loads the folder and measures that.
fn load(disk: &Disk, clients: i64) -> Duration {
    let names = disk.names();
    let read = |name: &String| FileName::parse(name).map(|file| (file, disk.read(file).unwrap()));
    let files: BTreeMap<FileName, Vec<u8>> = names.iter().filter_map(read).collect();
    let bytes: usize = files.values().map(Vec::len).sum();
    let began = processor_time();
    let mut directory = Directory::new(node::rules(1_000_000, 0), KEYS.keys(None));
    let (names, manifest) = (names.iter().map(String::as_str), files.get(&FileName::Manifest));
    let mut recovery = Recovery::new(node::NAME, names, manifest.map(Vec::as_slice)).unwrap();
    while let Some(file) = recovery.poll_file() {
        let content = &files[&file];
        let (mut at, mut end) = (0, 0);
        while end < content.len() {
            end = (end + (256 << 10)).min(content.len());
            let ended = end == content.len();
            at += recovery.handle_input(&content[at..end], ended, &mut directory, WALL).unwrap();
        }
    }
    let (recovered, took) = (recovery.finish(), processor_time().saturating_sub(began));
    assert_eq!(i64::from(directory.len()), clients);
    println!("{} records in {} MB took {took:.2?}", recovered.records, bytes >> 20);
    took
}

/// The processor time of this thread: other processes do not disturb the measurement.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}
