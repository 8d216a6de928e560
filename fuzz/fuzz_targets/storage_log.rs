//! A segment of the log with any content, read at a start.
//!
//! The first byte selects how the input is used, and which of the slower checks are made. Either it is
//! the content itself, or it is a script from which a segment is written that is then damaged: three
//! bytes each select a byte to change.
//!
//! - A start succeeds, and consumes the file, however it is split into reads.
//! - The records that are found are those that a second reader finds, which searches for frames at
//!   every line.
//! - The damaged places do not overlap, and lie within the file.
//! - Frames that were not changed are found.
//! - A node that starts from the file writes a folder from which the same records are loaded, without
//!   damage.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use proxy_herd::herd::directory::{Directory, Rules};
use proxy_herd::ids::Slot;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::rng::Rng;
use proxy_herd::storage::frame::{Kind, MAX_FRAME, Salt, push_frame};
use proxy_herd::storage::{FileName, Recovered, Recovery, Settings, Storage, SyncMode};
use proxy_herd::testing::KEYS;
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};
use proxy_herd_fuzz::cuts;

const FILE: FileName = FileName::Segment(7);
const NAME: &str = "0000000007.log";
const WALL: Wall = Wall(1_621_464_828_223_371_889);
const RULES: Rules =
    Rules { max_clock_offset: 5 * SECOND, max_clients: 1000, client_ttl: 0, forget_keep: SECOND };

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let (content, unchanged) = if kind & 1 == 0 { (rest.to_vec(), vec![]) } else { damaged(rest) };

    let expected = newest(&content);
    let Some((directory, recovered)) = load(&content, &mut core::iter::once(content.len())) else {
        return assert_eq!(expected, None, "the folder is refused");
    };
    let lines = lines(&directory);
    assert_eq!(Some(&lines), expected.as_ref());
    for line in &unchanged {
        assert!(lines.contains(line), "{} was not changed", line.escape_ascii());
    }
    let mut end = 0;
    for damage in recovered.damage.iter().filter(|damage| damage.file == FILE) {
        assert!(damage.offset >= end && damage.length > 0);
        end = damage.offset + damage.length;
        assert!(end <= content.len() as u64);
    }
    if kind & 2 != 0 {
        let (again, other) = load(&content, &mut cuts(&content)).expect("the same result");
        assert_eq!((self::lines(&again), &other.damage), (lines.clone(), &recovered.damage));
    }
    if kind & 4 == 0 {
        return;
    }
    let mut disk = Disk::default();
    disk.set(FILE, Some(content));
    start(&mut disk, directory, recovered);
    let names = disk.names();
    let manifest = disk.read(FileName::Manifest);
    let names = names.iter().map(String::as_str);
    let mut recovery = Recovery::new("Clark", names, manifest.as_deref()).expect("its folder");
    let mut directory = Directory::new(RULES, KEYS.keys(None));
    while let Some(file) = recovery.poll_file() {
        let content = disk.read(file).expect("a file");
        recovery.handle_input(&content, true, &mut directory, WALL).expect("its file");
    }
    assert_eq!(self::lines(&directory), lines);
    assert_eq!(recovery.finish().damage, []);
});

/// Writes one record per byte of the script, and changes bytes of the result. Returns the content and
/// the records whose frames were not changed; each has a client of its own.
fn damaged(script: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let (count, changes) = script.split_first().map_or((0, script), |(&count, rest)| (count, rest));
    let (mut content, mut frames) = (Vec::new(), Vec::new());
    for i in 0..count % 16 {
        let line = format!("AT Clark +0.5 client{i} +34.0-118.4 16214648{i:02}").into_bytes();
        let start = content.len();
        push_frame(&mut content, &Salt::of(FILE), Kind::UPDATE, &line);
        frames.push((start..content.len(), line));
    }
    let mut changed = BTreeSet::new();
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if at < content.len() && change[2] != 0 && changed.insert(at) {
            content[at] ^= change[2];
        }
    }
    // Behind a damaged frame, a reader looks for the line feed before this one.
    frames.retain(|(range, _)| {
        changed.range(range.start.saturating_sub(1)..range.end).next().is_none()
    });
    (content, frames.into_iter().map(|(_, line)| line).collect())
}

/// Loads a folder with this segment and no manifest. `ends` are the ends of the reads. Returns `None`
/// if the folder is refused.
fn load(content: &[u8], ends: &mut dyn Iterator<Item = usize>) -> Option<(Directory, Recovered)> {
    let mut directory = Directory::new(RULES, KEYS.keys(None));
    let mut recovery = Recovery::new("Clark", [NAME, "LOCK"], None).expect("no manifest");
    assert_eq!(recovery.poll_file(), Some(FILE));
    let mut at = 0;
    for end in ends {
        let (end, ended) = (end.max(at), end == content.len());
        at += recovery.handle_input(&content[at..end], ended, &mut directory, WALL).ok()?;
        assert!(end - at <= MAX_FRAME);
    }
    if content.is_empty() {
        recovery.handle_input(&[], true, &mut directory, WALL).ok()?;
    }
    assert_eq!(at, content.len());
    assert_eq!(recovery.poll_file(), None);
    Some((directory, recovery.finish()))
}

/// Starts a node, lets it do what follows from the start, and kills it.
fn start(disk: &mut Disk, directory: Directory, recovered: Recovered) {
    let (sync, mut rng, now) = (SyncMode::Always, Rng::new(1), Instant::START);
    let settings = Settings {
        node: "Clark".into(),
        sync,
        max_bytes: 1 << 30,
        key: None,
        keeps_segments: false,
    };
    let mut storage = Storage::new(settings, recovered, now);
    for _ in 0..1000 {
        storage.handle_directory(&directory, now);
        let Some(task) = storage.poll_task() else {
            if storage.poll_timeout().is_none() {
                assert!(storage.is_ready() && storage.problem().is_none());
                return;
            }
            continue;
        };
        for op in &task.ops {
            disk.execute(op, &mut rng).expect("a disk without faults");
        }
        storage.handle_task_done(task, Ok(()), now);
    }
    panic!("the storage does not come to rest");
}

fn lines(directory: &Directory) -> BTreeSet<Vec<u8>> {
    (0..directory.slots()).filter_map(|it| directory.line(Slot(it))).map(<[u8]>::to_vec).collect()
}

/// The newest record of each client by an independent reader: it tries every position that follows a
/// line feed or an intact frame. Returns `None` if a header is that of another node.
fn newest(content: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    let mut directory = Directory::new(RULES, KEYS.keys(None));
    let mut at = 0;
    while at < content.len() {
        match frame(&content[at..]) {
            Some((b'H', payload)) if is_foreign(payload) => return None,
            Some((kind, payload)) => {
                if b"FURS".contains(&kind)
                    && let Some(record) = Record::parse(payload)
                {
                    let source = proxy_herd::herd::directory::Source::Peer;
                    directory.apply(&record, source, WALL);
                }
                at += 16 + payload.len() + 1;
            }
            None => {
                let line = content[at..].iter().position(|&byte| byte == b'\n');
                at = line.map_or(content.len(), |end| at + end + 1);
            }
        }
    }
    Some(lines(&directory))
}

/// The kind and the payload of the frame at the beginning of `bytes`.
fn frame(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let digits = |range: core::ops::Range<usize>| {
        let digits = bytes.get(range)?;
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if !digits.iter().all(is_digit) {
            return None;
        }
        usize::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (checksum, length) = (digits(0..8)?, digits(9..13)?);
    let frame = bytes.get(..16 + length)?;
    if [8, 13, 15].iter().any(|&at| frame[at] != b' ') {
        return None;
    }
    let mut covered = NAME.as_bytes().to_vec();
    covered.extend_from_slice(&frame[9..]);
    (crc(&covered) as usize == checksum).then(|| (frame[14], &frame[16..]))
}

/// CRC-32, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// Whether a header belongs to another node or a newer version, so that the folder is refused.
fn is_foreign(payload: &[u8]) -> bool {
    Recovery::new("Clark", [NAME], None).is_ok_and(|mut recovery| {
        recovery.poll_file();
        let mut content = Vec::new();
        push_frame(&mut content, &Salt::of(FILE), Kind::HEADER, payload);
        let mut directory = Directory::new(RULES, KEYS.keys(None));
        recovery.handle_input(&content, true, &mut directory, WALL).is_err()
    })
}
