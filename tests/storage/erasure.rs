//! Clients that were erased leave the files within a day, and old files are not loaded.

use std::time::Duration;

use proxy_herd::herd::directory::Source;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{FileName, Kind, SyncMode};
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

use crate::node::{self, Node};

const WALL: Wall = Wall(1_000_000_000 * SECOND);
const HOUR: u64 = 3600;

fn start(disk: &mut Disk, wall: Wall) -> Node {
    let mut rng = Rng::new(1);
    let (directory, recovered) = node::load(disk, node::rules(1_000, 0), wall, &mut rng).unwrap();
    let settings = node::settings(SyncMode::Interval(Duration::from_secs(1)), 4 << 30);
    Node::start(directory, recovered, settings, disk, Instant::START, &mut rng, 1000).unwrap()
}

fn at(hours: u64) -> Instant {
    Instant::at(Duration::from_secs(hours * HOUR))
}

fn after(hours: u64) -> Wall {
    Wall(WALL.0 + Nanos::from(hours * HOUR) * SECOND)
}

/// Erases a client as a node does that was asked to.
fn erase(node: &mut Node, client: &str, wall: Wall) {
    let mut line = Vec::new();
    let tombstone = Record::emit_tombstone(&mut line, b"Clark", client.as_bytes(), wall.0).unwrap();
    node.directory.apply(&tombstone, Source::Client, wall);
    node.storage.append(Kind::FORGET, &line);
}

/// Returns whether any file contains the text.
fn contains(disk: &Disk, text: &str) -> bool {
    let names = disk.names();
    let mut files = names.iter().filter_map(|name| FileName::parse(name));
    files.any(|file| {
        let content = disk.read(file).unwrap();
        content.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

/// Performs what is due at this time.
fn pass(node: &mut Node, disk: &mut Disk, now: Instant) {
    node.storage.handle_timeout(now);
    node.settle(disk, now, &mut Rng::new(3));
}

#[test]
fn the_records_of_an_erased_client_leave_the_files_within_a_day() {
    let mut disk = Disk::default();
    let mut node = start(&mut disk, WALL);
    for client in ["kiwi", "plum"] {
        node.apply(&node::line("Clark", client, 999_999_957, WALL.0), Source::Client, WALL);
    }
    let place = "kiwi +57.5";
    erase(&mut node, "kiwi", after(1));
    pass(&mut node, &mut disk, at(1));
    assert!(contains(&disk, place), "a compaction is not worth it yet");
    pass(&mut node, &mut disk, at(2)); // the sync
    assert_eq!(
        node.storage.poll_timeout(),
        Some(at(23)),
        "it is due an hour before a day has passed"
    );
    pass(&mut node, &mut disk, at(22));
    assert!(contains(&disk, place));
    node.storage.handle_shutdown(at(22));
    node.settle(&mut disk, at(22), &mut Rng::new(3));
    drop(node);
    // After a restart, the time runs from the command.
    let mut node = start(&mut disk, after(11));
    assert_eq!(node.directory.tombstones(), 1);
    pass(&mut node, &mut disk, at(12));
    assert!(contains(&disk, place));
    pass(&mut node, &mut disk, at(13));
    assert!(!contains(&disk, place) && contains(&disk, "plum"), "{:?}", disk.names());
    // Nothing remains to be done.
    assert!(node.storage.poll_timeout().is_none_or(|due| due < at(15)));
    drop(node);
    let node = start(&mut disk, after(30));
    assert_eq!((node.directory.clients(), node.directory.tombstones()), (1, 1));
    assert!(node.directory.get(b"kiwi", after(30)).is_none());
}

#[test]
fn files_that_are_older_than_tombstones_live_are_not_loaded() {
    let keep = Nanos::from(100 * HOUR) * SECOND;
    let mut disk = Disk::default();
    let mut node = start(&mut disk, WALL);
    node.apply(&node::line("Clark", "kiwi", 1_000, WALL.0), Source::Client, WALL);
    node.storage.append_time(after(50));
    pass(&mut node, &mut disk, at(1));
    drop(node);
    let load = |disk: &Disk, hours| {
        node::load(disk, node::rules(10, 0), after(hours), &mut Rng::new(1)).unwrap()
    };
    let (_, recovered) = load(&disk, 150);
    assert!(!recovered.is_outdated(keep, after(150)), "the mark counts, not the record");
    let (mut directory, mut recovered) = load(&disk, 151);
    assert!(recovered.is_outdated(keep, after(151)));
    recovered.set_aside(keep, after(151));
    directory.clear();
    assert_eq!((directory.len(), directory.bytes()), (0, 0));
    let settings = node::settings(SyncMode::Never, 4 << 30);
    let (now, mut rng) = (Instant::START, Rng::new(1));
    let mut node =
        Node::start(directory, recovered, settings, &mut disk, now, &mut rng, 1000).unwrap();
    node.storage.handle_wall(after(151));
    pass(&mut node, &mut disk, at(1));
    assert!(contains(&disk, "kiwi"), "they are set aside: {:?}", disk.names());
    drop(node);
    // They are not loaded at the next start either, unless the manifest is deleted.
    let (directory, recovered) = load(&disk, 160);
    assert_eq!(directory.len(), 0);
    // A compaction follows, since the node was killed.
    let settings = node::settings(SyncMode::Interval(Duration::from_secs(1)), 4 << 30);
    let mut node =
        Node::start(directory, recovered, settings, &mut disk, now, &mut rng, 1000).unwrap();
    node.storage.handle_wall(after(160));
    pass(&mut node, &mut disk, at(13));
    assert_eq!(node.storage.counters.compactions, 1);
    assert!(contains(&disk, "kiwi"), "it is an hour too early: {:?}", disk.names());
    let mut copy = disk.clone();
    copy.set(FileName::Manifest, None);
    assert_eq!(load(&copy, 151).0.len(), 1);
    pass(&mut node, &mut disk, at(14));
    assert!(!contains(&disk, "kiwi"), "{:?}", disk.names());
    drop(node);
    assert_eq!(load(&disk, 180).1.damaged, 0);
    // Without a mark, the newest record tells the age.
    let mut disk = Disk::default();
    let mut node = start(&mut disk, WALL);
    node.apply(&node::line("Clark", "kiwi", 1_000, WALL.0), Source::Client, WALL);
    pass(&mut node, &mut disk, at(1));
    assert!(!load(&disk, 100).1.is_outdated(keep, after(100)));
    assert!(load(&disk, 101).1.is_outdated(keep, after(101)));
}

/// No compaction makes files smaller that are set aside, so they cause none.
#[test]
fn large_files_that_are_set_aside_cause_no_compaction() {
    const CLIENTS: u32 = 2_400; // whose records exceed what a folder may take beyond its live records
    let (mut disk, mut rng, now) = (Disk::default(), Rng::new(1), Instant::START);
    let name = |client: u32| format!("{client:030000}");
    let load = |disk: &Disk, hours| {
        node::load(disk, node::rules(CLIENTS, 0), after(hours), &mut Rng::new(1)).unwrap()
    };
    let start = |(directory, recovered), disk: &mut Disk| {
        let settings = node::settings(SyncMode::Never, 4 << 30);
        Node::start(directory, recovered, settings, disk, now, &mut Rng::new(1), 1000).unwrap()
    };
    let mut node = start(load(&disk, 0), &mut disk);
    for client in 0..CLIENTS {
        node.apply(&node::line("Clark", &name(client), 1, WALL.0), Source::Client, WALL);
        node.settle(&mut disk, now, &mut rng);
    }
    drop(node);
    let (mut directory, mut recovered) = load(&disk, 200);
    recovered.set_aside(Nanos::from(100 * HOUR) * SECOND, after(200));
    directory.clear();
    let mut node = start((directory, recovered), &mut disk);
    node.storage.handle_wall(after(200));
    // Garbage that is worth a compaction, if it is due.
    for time in 0..300 {
        node.apply(&node::line("Clark", &name(0), time, after(200).0), Source::Client, after(200));
        node.settle(&mut disk, now, &mut rng);
    }
    assert_eq!(node.storage.counters.compactions, 0);
}

/// A node is killed right after a compaction, which has removed the marks of the log.
#[test]
fn a_snapshot_has_a_mark() {
    let mut disk = Disk::default();
    let mut node = start(&mut disk, WALL);
    node.apply(&node::line("Clark", "kiwi", 1_000, WALL.0), Source::Client, WALL);
    erase(&mut node, "plum", WALL);
    node.storage.append_time(WALL);
    pass(&mut node, &mut disk, at(1));
    node.storage.handle_wall(after(23));
    pass(&mut node, &mut disk, at(23));
    assert_eq!(node.storage.counters.compactions, 1);
    drop(node);
    let load =
        |hours| node::load(&disk, node::rules(10, 0), after(hours), &mut Rng::new(1)).unwrap().1;
    let keep = Nanos::from(100 * HOUR) * SECOND;
    assert!(!load(123).is_outdated(keep, after(123)));
    assert!(load(124).is_outdated(keep, after(124)));
}

/// The clock was ahead for a while, or until the end.
#[test]
fn a_clock_that_was_ahead_does_not_make_files_younger() {
    let keep = Nanos::from(100 * HOUR) * SECOND;
    for marks in [&[50, 120, 51][..], &[50, 51, 10_000]] {
        let mut disk = Disk::default();
        let mut node = start(&mut disk, WALL);
        for &hours in marks {
            node.storage.append_time(after(hours));
            pass(&mut node, &mut disk, at(1));
        }
        drop(node);
        for (hours, is_outdated) in [(150, false), (152, true)] {
            let wall = after(hours);
            let recovered =
                node::load(&disk, node::rules(10, 0), wall, &mut Rng::new(1)).unwrap().1;
            assert_eq!(recovered.is_outdated(keep, wall), is_outdated, "{marks:?}, {hours}");
        }
    }
}

/// The clock is behind, over several starts and a compaction. The files tell until it is right.
#[test]
fn the_newest_time_survives_a_clock_that_is_behind() {
    let mut disk = Disk::default();
    let mut node = start(&mut disk, after(100));
    node.storage.append_time(after(100));
    pass(&mut node, &mut disk, at(1));
    drop(node);
    let load = |disk: &Disk, hours| {
        node::load(disk, node::rules(10, 0), after(hours), &mut Rng::new(1)).unwrap().1
    };
    for hours in [10, 20] {
        assert_eq!(load(&disk, hours).newest(), Some(after(100)));
        let mut node = start(&mut disk, after(hours));
        node.storage.append_time(after(hours));
        erase(&mut node, "plum", after(hours));
        pass(&mut node, &mut disk, at(1));
        node.storage.handle_wall(after(hours + 1));
        pass(&mut node, &mut disk, at(23));
        assert_eq!(node.storage.counters.compactions, 1);
        // The mark of the snapshot is not the last one.
        node.storage.append_time(after(hours + 2));
        pass(&mut node, &mut disk, at(23));
    }
    assert_eq!(load(&disk, 30).newest(), Some(after(100)));
    assert!(!load(&disk, 199).is_outdated(Nanos::from(100 * HOUR) * SECOND, after(199)));
    let mut node = start(&mut disk, after(110));
    node.storage.append_time(after(110));
    pass(&mut node, &mut disk, at(1));
    node.storage.append_time(after(50));
    pass(&mut node, &mut disk, at(2));
    drop(node);
    assert_eq!(load(&disk, 110).newest(), Some(after(50)), "it was set while the node ran");
}
