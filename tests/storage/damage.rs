//! Every truncation and every flipped bit of small files, and folders that are not whole.

use std::collections::BTreeSet;

use proxy_herd::herd::directory::Source;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{
    DamageKind, DiskError, FileName, Gate, MAX_NUMBER, Recovered, Recovery, Refusal, SyncMode,
};
use proxy_herd::testing::KEYS;
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

use crate::node::{self, Node};

const WALL: Wall = Wall(1_000_000 * SECOND);

/// A folder with a snapshot of two records and a segment with two more, after a kill. Returns the
/// lines in the snapshot and in the segment.
fn folder() -> (Disk, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut disk, mut rng) = (Disk::default(), Rng::new(1));
    let old = lines(0..2);
    let mut node = start(&mut disk, &mut rng);
    write(&mut node, &mut disk, &old);
    drop(node);
    // A start after a kill writes a snapshot.
    let mut node = start(&mut disk, &mut rng);
    node.settle(&mut disk, Instant::START, &mut rng);
    let new = lines(2..4);
    write(&mut node, &mut disk, &new);
    (disk, old, new)
}

fn lines(clients: std::ops::Range<i64>) -> Vec<Vec<u8>> {
    let line = |i| node::line("Clark", &format!("c{i}"), 999_000 + i, WALL.0 + Nanos::from(i));
    clients.map(line).collect()
}

fn start(disk: &mut Disk, rng: &mut Rng) -> Node {
    let (directory, recovered) = node::load(disk, node::rules(100, 0), WALL, rng).unwrap();
    let settings = node::settings(SyncMode::Interval(std::time::Duration::from_secs(1)), 1 << 30);
    Node::start(directory, recovered, settings, disk, Instant::START, rng, 1000).unwrap()
}

fn write(node: &mut Node, disk: &mut Disk, lines: &[Vec<u8>]) {
    for line in lines {
        let position = node.apply(line, Source::Client, WALL).unwrap();
        node.commit(disk, Instant::START, &mut Rng::new(1));
        assert_eq!(node.storage.gate(position), Gate::Open);
    }
}

/// Loads the folder, checks that every start succeeds, and returns the lines and the reports.
fn load(disk: &Disk) -> (BTreeSet<Vec<u8>>, Recovered) {
    let mut rng = Rng::new(7);
    let loaded = node::load(disk, node::rules(100, 0), WALL, &mut rng);
    let (directory, recovered) = loaded.unwrap_or_else(|why| panic!("{why}"));
    (node::lines(&directory).into_iter().collect(), recovered)
}

/// Checks that a node starts from the folder, that the damage is gone afterwards, and that nothing
/// was lost on the way.
fn check_restart(disk: &Disk, expected: &BTreeSet<Vec<u8>>) {
    let (mut disk, mut rng) = (disk.clone(), Rng::new(3));
    let mut node = start(&mut disk, &mut rng);
    assert!(node.lines().iter().all(|line| expected.contains(line)));
    node.settle(&mut disk, Instant::START, &mut rng);
    let (lines, recovered) = load(&disk);
    assert_eq!((&lines, recovered.damage), (expected, Vec::new()));
}

/// A file, and the lines in it.
type File = (FileName, Vec<Vec<u8>>);

/// The files with records.
fn files() -> (Disk, Vec<File>) {
    let (disk, old, new) = folder();
    let mut names = disk.names();
    names.retain(|name| FileName::parse(name).is_some_and(|file| file.number().is_some()));
    let content = |name: &String| {
        let file = FileName::parse(name).unwrap();
        let text = disk.read(file).unwrap();
        let has = |line: &&Vec<u8>| memchr::memmem::find(&text, line).is_some();
        (file, old.iter().chain(&new).filter(has).cloned().collect())
    };
    let files: Vec<_> = names.iter().map(content).collect();
    (disk, files)
}

#[test]
fn the_folder_is_loaded_and_visible_to_grep() {
    let (disk, old, new) = folder();
    let (lines, recovered) = load(&disk);
    assert_eq!(lines, old.iter().chain(&new).cloned().collect());
    assert_eq!((recovered.damage, recovered.records), (Vec::new(), 4));
    let files = files().1;
    assert!(files.iter().any(|(file, lines)| *file == FileName::Snapshot(2) && *lines == old));
    assert!(files.iter().any(|(file, lines)| *file == FileName::Segment(2) && *lines == new));
    check_restart(&disk, &lines);
}

/// A frame that is cut off is lost, the others are not. Only the LF may be missing.
#[test]
fn every_truncation_loses_only_what_it_cuts_off() {
    let (disk, files) = files();
    let (all, _) = load(&disk);
    for (file, _) in &files {
        let content = disk.read(*file).unwrap();
        for length in 0..content.len() {
            let mut disk = disk.clone();
            disk.set(*file, Some(content[..length].to_vec()));
            let (lines, recovered) = load(&disk);
            let is_cut = |line: &&Vec<u8>| {
                memchr::memmem::find(&content, line).is_some_and(|at| at + line.len() > length)
            };
            let expected: BTreeSet<_> = all.iter().filter(|line| !is_cut(line)).cloned().collect();
            assert_eq!(lines, expected, "{file} cut at {length}");
            assert_eq!(recovered.damaged as usize, recovered.damage.len());
            for damage in &recovered.damage {
                assert_eq!(damage.file, *file);
                let after = damage.offset + damage.length;
                let is_tail = damage.kind == DamageKind::TornTail && after == length as u64;
                let is_rest = damage.kind == DamageKind::Missing && after == content.len() as u64;
                assert!(is_tail || is_rest, "{file} cut at {length}: {damage:?}");
            }
            // A snapshot has a known length, so every cut is noticed.
            let is_snapshot = matches!(file, FileName::Snapshot(_));
            assert!(!is_snapshot || recovered.damaged == 1, "{file} cut at {length}");
        }
        let mut disk = disk.clone();
        disk.set(*file, Some(content[..content.len() * 2 / 3].to_vec()));
        check_restart(&disk, &load(&disk).0);
        disk.set(*file, None);
        check_restart(&disk, &load(&disk).0);
    }
}

/// A flipped bit costs the frame that it is in, or nothing if it is in the LF or in a header.
#[test]
fn every_flipped_bit_costs_one_frame_at_most() {
    let (disk, files) = files();
    let (all, _) = load(&disk);
    for (file, _) in &files {
        let content = disk.read(*file).unwrap();
        for bit in 0..8 * content.len() {
            let mut damaged = content.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let mut disk = disk.clone();
            disk.set(*file, Some(damaged));
            let (lines, recovered) = load(&disk);
            let start = memchr::memrchr(b'\n', &content[..bit / 8]).map_or(0, |at| at + 1);
            let end = start + memchr::memchr(b'\n', &content[start..]).unwrap();
            let frame = &content[start..end];
            let is_line_feed = bit / 8 == end;
            let expected: BTreeSet<_> =
                all.iter().filter(|line| is_line_feed || !frame.ends_with(line)).cloned().collect();
            assert_eq!(lines, expected, "{file}, bit {bit}");
            let is_reported = matches!(&recovered.damage[..], [it]
                if it.file == *file && it.offset == start as u64
                    && it.length == (end + 1 - start) as u64);
            assert_eq!(is_reported, !is_line_feed, "{file}, bit {bit}: {:?}", recovered.damage);
        }
        let mut damaged = content.clone();
        damaged[content.len() / 2] ^= 1;
        let mut disk = disk.clone();
        disk.set(*file, Some(damaged));
        check_restart(&disk, &load(&disk).0);
    }
}

/// Without an intact manifest, all files are loaded.
#[test]
fn a_damaged_or_missing_manifest_is_rebuilt() {
    let (disk, _) = files();
    let (all, _) = load(&disk);
    let text = disk.read(FileName::Manifest).unwrap();
    let truncations = (0..text.len()).map(|length| text[..length].to_vec());
    let flips = (0..8 * text.len()).map(|bit| {
        let mut text = text.clone();
        text[bit / 8] ^= 1 << (bit % 8);
        text
    });
    for (at, manifest) in truncations.chain(flips).map(Some).chain([None]).enumerate() {
        let mut disk = disk.clone();
        let kind = if manifest.is_some() { DamageKind::Corrupt } else { DamageKind::Missing };
        disk.set(FileName::Manifest, manifest);
        let (lines, recovered) = load(&disk);
        assert_eq!(lines, all);
        assert!(matches!(&recovered.damage[..], [it]
            if it.file == FileName::Manifest && it.kind == kind));
        let shown = recovered.damage[0].to_string();
        assert_eq!(shown.contains("neighbors restore"), kind == DamageKind::Corrupt, "{shown}");
        if at % 97 == 0 {
            check_restart(&disk, &all);
        }
    }
    let mut disk = disk.clone();
    disk.set(FileName::Manifest, None);
    let mut rng = Rng::new(0);
    let node = start(&mut disk, &mut rng);
    assert_eq!(node.storage.boot(), 3, "the headers of the files state how often the node started");
}

/// A file that was put there by hand has the highest number that is considered. The node counts on from
/// it, and finds its own files again.
#[test]
fn a_file_with_the_highest_number_costs_nothing() {
    let (mut disk, _) = files();
    let (all, _) = load(&disk);
    disk.set(FileName::Segment(MAX_NUMBER), Some(b"nothing\n".to_vec()));
    disk.set(FileName::Segment(MAX_NUMBER + 1), Some(b"nothing\n".to_vec()));
    for starts in 1..4 {
        let mut rng = Rng::new(starts);
        assert_eq!(load(&disk).0, all, "{starts}: {:?}", disk.names());
        let mut node = start(&mut disk, &mut rng);
        node.settle(&mut disk, Instant::START, &mut rng);
    }
}

/// What was in a damaged snapshot may still be in an older file that was not deleted in time.
#[test]
fn leftovers_help_if_something_is_damaged_and_are_deleted_otherwise() {
    let (mut disk, old, _) = folder();
    let (all, _) = load(&disk);
    let mut other = Disk::default();
    let mut node = start(&mut other, &mut Rng::new(1));
    write(&mut node, &mut other, &old);
    disk.set(FileName::Segment(1), other.read(FileName::Segment(1)));
    disk.set(FileName::Snapshot(1), Some(b"nothing\n".to_vec()));
    disk.set(FileName::NewManifest, Some(b"nothing\n".to_vec()));
    let mut rng = Rng::new(5);
    let mut intact = disk.clone();
    let mut node = start(&mut intact, &mut rng);
    node.settle(&mut intact, Instant::START, &mut rng);
    assert!(intact.read(FileName::Segment(1)).is_none(), "{:?}", intact.names());
    assert!(intact.read(FileName::NewManifest).is_none());

    // One that holds nothing that the others lack is not kept.
    let mut useless = disk.clone();
    useless.set(FileName::Segment(2), None);
    let mut node = start(&mut useless, &mut rng);
    assert!(useless.read(FileName::Segment(1)).is_none(), "{:?}", useless.names());
    assert!(!node.lines().is_empty());
    node.settle(&mut useless, Instant::START, &mut rng);

    disk.set(FileName::Snapshot(2), None);
    let (lines, recovered) = load(&disk);
    assert_eq!(lines, all);
    assert_eq!(recovered.damaged, 1);
    check_restart(&disk, &all);
}

#[test]
fn zeros_and_noise_are_skipped() {
    let (disk, files) = files();
    let (all, _) = load(&disk);
    let (file, _) = files.iter().find(|(file, _)| *file == FileName::Segment(2)).unwrap();
    let content = disk.read(*file).unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut content = content.clone();
        change(&mut content);
        let mut disk = disk.clone();
        disk.set(*file, Some(content));
        load(&disk)
    };
    // Reserved space.
    let (lines, recovered) = with(&|content| content.resize(content.len() + 100_000, 0));
    assert_eq!((&lines, recovered.damage), (&all, Vec::new()));
    // Noise behind the last frame, with line feeds and without.
    for noise in [&b"\nabc\n\n"[..], &vec![0xff; 70_000], b"00000000 ffff U "] {
        let (lines, recovered) = with(&|content| content.extend_from_slice(noise));
        assert_eq!(lines, all);
        let [damage] = &recovered.damage[..] else { panic!("{:?}", recovered.damage) };
        assert_eq!(damage.kind, DamageKind::TornTail);
        assert_eq!((damage.offset, damage.length), (content.len() as u64, noise.len() as u64));
    }
    // Zeros in the middle, as if a block had not been written.
    let (lines, recovered) = with(&|content| content[70..90].fill(0));
    assert_eq!(lines.len(), all.len() - 1);
    assert_eq!(recovered.damage[0].kind, DamageKind::Corrupt);
    // A block of another segment is not taken for one of this.
    let (mut other, mut rng) = (Disk::default(), Rng::new(1));
    let mut node = start(&mut other, &mut rng);
    write(&mut node, &mut other, &lines_of_other());
    let stale = other.read(FileName::Segment(1)).unwrap();
    let (lines, recovered) = with(&|content| content.extend_from_slice(&stale));
    assert_eq!(lines, all);
    assert_eq!(recovered.damage[0].length, stale.len() as u64);
}

fn lines_of_other() -> Vec<Vec<u8>> {
    lines(50..52)
}

#[test]
fn unknown_kinds_are_no_damage() {
    let (disk, files) = files();
    let (all, _) = load(&disk);
    let (file, _) = files.iter().find(|(file, _)| *file == FileName::Segment(2)).unwrap();
    let mut content = disk.read(*file).unwrap();
    let salt = &proxy_herd::storage::frame::Salt::of(*file);
    for kind in [b'E', b'Z', b'?'] {
        let kind = proxy_herd::storage::Kind::of(kind);
        proxy_herd::storage::frame::push_frame(&mut content, salt, kind, b"AT nonsense");
    }
    let mut disk = disk.clone();
    disk.set(*file, Some(content));
    let (lines, recovered) = load(&disk);
    assert_eq!((lines, recovered.damage), (all, Vec::new()));
}

#[test]
fn a_file_that_cannot_be_read_does_not_prevent_a_start() {
    let (disk, _) = files();
    let names = disk.names();
    let manifest = disk.read(FileName::Manifest);
    let names = names.iter().map(String::as_str);
    let mut recovery = Recovery::new(node::NAME, names, manifest.as_deref()).unwrap();
    let rules = node::rules(100, 0);
    let mut directory = proxy_herd::herd::directory::Directory::new(rules, KEYS.keys(None));
    let error = || DiskError::from(&std::io::Error::from(std::io::ErrorKind::Other));
    while let Some(file) = recovery.poll_file() {
        if matches!(file, FileName::Snapshot(_)) {
            recovery.handle_failed(error());
        } else {
            let content = disk.read(file).unwrap();
            recovery.handle_input(&content, true, &mut directory, WALL).unwrap();
        }
    }
    let recovered = recovery.finish();
    assert_eq!(directory.len(), 2);
    let [damage] = &recovered.damage[..] else { panic!("{:?}", recovered.damage) };
    assert!(matches!(damage.kind, DamageKind::Unreadable(_)));
    assert!(damage.length > 0, "the manifest states the length");
    assert!(
        damage.to_string().starts_with("0000000002.snap cannot be read from offset 0, length "),
        "{damage}"
    );
}

#[test]
fn folders_of_other_nodes_and_newer_versions_are_refused() {
    let (mut disk, _) = files();
    let load_as = |name, disk: &Disk| {
        node::load_as(name, disk, node::rules(100, 0), WALL, &mut Rng::new(1)).map(|_| ())
    };
    assert_eq!(load_as("Clark", &disk), Ok(()));
    let other = Err(Refusal::OtherNode("Clark".into()));
    assert_eq!(load_as("Bona", &disk), other);
    // The files state their node as well.
    disk.set(FileName::Manifest, None);
    assert_eq!(load_as("Bona", &disk), other);
    assert_eq!(load_as("Clark", &disk), Ok(()));

    let text = "proxy-herd storage 2\nfiles: many\n";
    let checksum = crc32fast::hash(text.as_bytes());
    disk.set(FileName::Manifest, Some(format!("{text}crc {checksum:08x}\n").into_bytes()));
    let refusal = load_as("Clark", &disk).unwrap_err();
    assert_eq!(refusal, Refusal::NewerFormat(2));
    assert_eq!(
        refusal.to_string(),
        "it was written by a newer release (format 2); run that release, or move the folder away: the \
         neighbors have the records"
    );
}
