//! Records on disk: real processes that are killed, restarted, and given damaged or foreign folders.
//!
//! `STORAGE_ROUNDS` and `STORAGE_SEED` set the number of kills of a whole herd and select their moments;
//! see `scripts/storage.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{At, DEADLINE, FIVE, Herd, eventually, seconds, wall_ns};

const STORAGE: &str = "storage: {directory: data, sync: interval}";

fn folder(herd: &Herd, name: &str) -> PathBuf {
    herd.directory().join("data").join(name)
}

/// The segments and snapshots of a folder that contain a record.
fn files_with_records(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| common::find(&fs::read(file).unwrap(), b" AT ").is_some());
    files.sort();
    files
}

/// Clients that send updates until they are stopped or their node is gone, and note each AT line that they
/// have received.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    acknowledged: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

impl Load {
    fn start(herd: &Herd, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeMap::new()));
        let names = herd.names();
        let threads = (0..clients)
            .map(|number| {
                let address = herd.address(&names[number % names.len()]);
                let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
                thread::spawn(move || {
                    let mut socket = std::net::TcpStream::connect(address).unwrap();
                    socket.set_read_timeout(Some(DEADLINE)).unwrap();
                    let mut step = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        let client = format!("van-{number}-{}", step % 20);
                        let line =
                            format!("IAMAT {client} +34.{step:06}-118.4 {}\n", seconds(wall_ns()));
                        step += 1;
                        thread::sleep(Duration::from_millis(5)); // the log should remain small
                        if let Some(reply) = exchange(&mut socket, line.as_bytes()) {
                            acknowledged.lock().unwrap().insert(client, reply);
                            continue;
                        }
                        // The update was refused, or the node has been killed.
                        let Ok(again) = std::net::TcpStream::connect(address) else { return };
                        again.set_read_timeout(Some(DEADLINE)).unwrap();
                        socket = again;
                    }
                })
            })
            .collect();
        Self { stop, threads, acknowledged }
    }

    /// Waits until this many clients have an acknowledged record.
    fn wait_for(&self, clients: usize) {
        eventually("updates are acknowledged", DEADLINE, || {
            (self.acknowledged.lock().unwrap().len() >= clients).then_some(())
        });
    }

    /// Returns the last AT line that each client has received.
    fn finish(self) -> BTreeMap<String, Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::into_inner(self.acknowledged).unwrap().into_inner().unwrap()
    }
}

/// Sends one line and returns the reply, or `None` if the connection breaks before it is complete.
fn exchange(socket: &mut std::net::TcpStream, line: &[u8]) -> Option<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    socket.write_all(line).ok()?;
    let mut reply = Vec::new();
    let mut byte = [0; 256];
    while reply.last() != Some(&b'\n') {
        match socket.read(&mut byte) {
            Ok(0) | Err(_) => return None,
            Ok(read) => reply.extend_from_slice(&byte[..read]),
        }
    }
    Some(reply)
}

/// Asserts that every node holds each of these records, or a newer one of the same client: the last
/// update before the kill may have been stored and not acknowledged.
fn assert_nothing_lost(herd: &Herd, acknowledged: &BTreeMap<String, Vec<u8>>) {
    for name in herd.names() {
        let mut missing: Vec<_> = acknowledged.iter().collect();
        eventually(&format!("{name} holds every acknowledged record"), 3 * DEADLINE, || {
            let mut client = herd.client(&name);
            missing.retain(|(id, line)| {
                let held = client.held(id.as_bytes());
                held.is_none_or(|held| time(&held) < time(line))
            });
            missing.is_empty().then_some(())
        });
    }
}

/// The client's time, the last field. All have the same number of digits, so they compare as text.
fn time(line: &[u8]) -> &[u8] {
    line.trim_ascii_end().rsplit(|&byte| byte == b' ').next().unwrap()
}

/// Returns a number of the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The mode changes from round to round, on the same folders. In some rounds, one of these comes before the
/// kill: the disk fills up and is emptied, another process tries to use a folder, or a folder is given to
/// another node.
#[test]
fn a_herd_whose_nodes_are_all_killed_keeps_every_acknowledged_record() {
    let rounds = setting("STORAGE_ROUNDS").unwrap_or(4);
    let seed = setting("STORAGE_SEED").unwrap_or(1);
    let mut rng = Rng::new(seed);
    let mut herd = Herd::new(&FIVE, STORAGE);
    let data = herd.directory().join("data");
    let disk = SmallDisk::mount(&data, 128 << 20);
    let original = fs::read_to_string(herd.config()).unwrap();
    let mut expected = BTreeMap::new();
    let (mut kills, mut full, mut foreign, mut second) = (0, 0, 0, 0);
    let mut clean = 0;
    for round in 0..rounds {
        let mode = ["always", "interval", "never"][round as usize % 3];
        let config = original.replace("sync: interval", &format!("sync: {mode}"));
        fs::write(herd.config(), config).unwrap();
        let names = herd.names();
        let chosen = &names[rng.below(names.len() as u64) as usize];
        let other = &names[(names.iter().position(|it| it == chosen).unwrap() + 1) % names.len()];
        let event = rng.below(4);
        if event == 0 && round > 0 {
            foreign += 1;
            refuses_the_folder_of_another_node(&herd, chosen, other);
        }
        herd.start_all();
        assert_nothing_lost(&herd, &expected);
        let load = Load::start(&herd, 10);
        load.wait_for(expected.len().min(100) + 20);
        if event == 1 {
            second += 1;
            let output = herd.run(&[chosen]);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(text.contains("in use by another process"), "{text}");
        }
        if let Some(disk) = disk.as_ref().filter(|_| event == 2) {
            full += 1;
            disk.fill_and_empty(&herd, &mut rng);
        }
        thread::sleep(Duration::from_millis(rng.below(500))); // until the moment of the kill
        if rng.below(8) == 0 {
            clean += 1;
            for name in &names {
                herd.signal(name, "TERM");
            }
            for name in &names {
                assert!(herd.wait(name, DEADLINE).success());
            }
        } else {
            kills += 1;
            for name in &names {
                herd.signal(name, "KILL");
            }
            for name in &names {
                herd.wait(name, DEADLINE);
            }
        }
        expected.extend(load.finish());
    }
    herd.start_all();
    assert_nothing_lost(&herd, &expected);
    for name in herd.names() {
        assert_eq!(herd.counter(&name, "storage_damaged_bytes_total"), 0, "a kill damages nothing");
    }
    println!(
        "seed {seed}: {kills} kills and {clean} stops of all nodes, {} clients; the disk was full {full} \
         times, a folder of another node was refused {foreign} times and a second process {second} times; \
         no acknowledged record was lost",
        expected.len()
    );
}

/// A small generator (`SplitMix64`).
struct Rng(u64);

impl Rng {
    const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }
}

/// Copies the folder of `owner` over that of `node`, which refuses to start, and undoes it.
fn refuses_the_folder_of_another_node(herd: &Herd, node: &str, owner: &str) {
    let (own, kept) = (folder(herd, node), herd.directory().join("data/kept"));
    fs::rename(&own, &kept).unwrap();
    fs::create_dir(&own).unwrap();
    for file in fs::read_dir(folder(herd, owner)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), own.join(file.file_name())).unwrap();
    }
    let output = herd.run(&[node]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&format!("belongs to the node {owner}")), "{text}");
    fs::remove_dir_all(&own).unwrap();
    fs::rename(&kept, &own).unwrap();
}

#[test]
fn a_node_alone_answers_whatsat_after_a_restart_with_the_same_bytes() {
    let mut herd = Herd::new(&[("Solo", &[])], STORAGE);
    herd.start("Solo");
    let time = seconds(wall_ns());
    let line = herd.client("Solo").iamat("kiwi", "+34.068930-118.445127", &time);
    for signal in ["KILL", "TERM"] {
        herd.signal("Solo", signal);
        herd.wait("Solo", DEADLINE);
        herd.start("Solo");
        assert_eq!(herd.held("Solo", "kiwi"), Some(line.clone()), "after SIG{signal}");
    }
    let file = &files_with_records(&folder(&herd, "Solo"))[0];
    let text = fs::read(file).unwrap();
    assert!(common::find(&text, line.trim_ascii_end()).is_some(), "visible to grep");
}

#[test]
fn without_the_section_nothing_is_stored() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    herd.start("Solo");
    herd.client("Solo").iamat("kiwi", "+1-1", "5");
    herd.kill("Solo");
    assert!(!herd.directory().join("data").exists());
    herd.start("Solo");
    assert_eq!(herd.held("Solo", "kiwi"), None);
}

#[test]
fn a_folder_that_cannot_be_used_prevents_the_start_with_one_line() {
    let mut herd = Herd::new(&[("Left", &["Right"]), ("Right", &[])], STORAGE);
    let refused = |herd: &Herd, name: &str, parts: &[&str]| {
        let output = herd.run(&[name]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let errors: Vec<&str> = text.lines().filter(|line| line.contains("storage")).collect();
        assert_eq!(errors.len(), 1, "{text}");
        for part in parts {
            assert!(errors[0].contains(part), "{text} lacks {part}");
        }
    };
    herd.start("Left");
    herd.client("Left").iamat("kiwi", "+1-1", "5");
    // The port is taken as well, but the folder is examined first.
    refused(&herd, "Left", &["in use by another process", "data/Left"]);
    herd.kill("Left");

    fs::rename(folder(&herd, "Left"), folder(&herd, "Right")).unwrap();
    refused(&herd, "Right", &["belongs to the node Left", "data/Right"]);
    fs::rename(folder(&herd, "Right"), folder(&herd, "Left")).unwrap();

    let manifest = folder(&herd, "Left").join("MANIFEST");
    let original = fs::read(&manifest).unwrap();
    fs::remove_dir_all(herd.directory().join("data")).unwrap();
    fs::write(herd.directory().join("data"), "a file").unwrap();
    refused(&herd, "Left", &["cannot use the storage", "data/Left", "correct storage.directory"]);
    assert!(original.starts_with(b"proxy-herd storage 1\n"));
}

/// `--check` reports them as the start does.
#[test]
fn a_special_file_in_place_of_the_lock_or_the_manifest_prevents_the_start() {
    let herd = Herd::new(&[("Solo", &[])], STORAGE);
    fs::create_dir_all(folder(&herd, "Solo")).unwrap();
    let make = |program: &str, path: &Path| {
        assert!(Command::new(program).arg(path).status().unwrap().success());
    };
    for (name, program) in
        [("MANIFEST", "mkdir"), ("MANIFEST.tmp", "mkdir"), ("MANIFEST.tmp", "mkfifo")]
    {
        let path = folder(&herd, "Solo").join(name);
        make(program, &path);
        for arguments in [["Solo"], ["--check"]] {
            let output = herd.run(&arguments);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{arguments:?} {name}: {text}");
            let expected = format!("data/Solo: {name} is not a regular file; move it away\n");
            assert!(text.ends_with(&expected), "{arguments:?}: {text}");
        }
        make(if program == "mkdir" { "rmdir" } else { "rm" }, &path);
    }
    // Another user may be able to open this one, so it is only a warning.
    let lock = folder(&herd, "Solo").join("LOCK");
    fs::remove_file(&lock).unwrap();
    make("mkfifo", &lock);
    for (arguments, code) in [(["Solo"], 1), (["--check"], 0)] {
        let output = herd.run(&arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
        assert!(text.contains("cannot use the storage data/Solo: "), "{arguments:?}: {text}");
    }
}

#[test]
fn damage_is_reported_and_the_rest_is_served() {
    let mut herd = Herd::new(&[("Solo", &[])], STORAGE);
    herd.start("Solo");
    let mut client = herd.client("Solo");
    for number in 0..10 {
        client.iamat(&format!("van-{number}"), "+34.07-118.45", &seconds(wall_ns()));
    }
    herd.kill("Solo");
    let files = files_with_records(&folder(&herd, "Solo"));
    let log = files.last().unwrap();
    let text = fs::read(log).unwrap();
    let damaged = common::find(&text, b"van-3").unwrap() as u64;
    let file = fs::File::options().write(true).open(log).unwrap();
    file.write_all_at(b"X", damaged).unwrap();
    let last = common::find(&text, b"van-9").unwrap() as u64;
    file.set_len(last + 2).unwrap();
    herd.start("Solo");
    let mut client = herd.client("Solo");
    for number in 0..10 {
        let held = client.held(format!("van-{number}").as_bytes());
        assert_eq!(held.is_none(), number == 3 || number == 9, "van-{number}");
    }
    let name = log.file_name().unwrap().to_str().unwrap();
    let corrupt = herd.wait_for_log("Solo", &["WARNING", name, "damaged at offset", "length"]);
    let torn = herd.wait_for_log("Solo", &["WARNING", name, "half-written", "offset", "length"]);
    assert_ne!(corrupt, torn);
    assert_eq!(herd.counter("Solo", "storage_damaged_places_total"), 2);
}

/// Neighbors restore a lost record.
#[test]
fn neighbors_restore_what_was_lost() {
    let mut herd = Herd::new(&[("Left", &["Right"]), ("Right", &[])], STORAGE);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let line = herd.client("Left").iamat("kiwi", "+1-1", &seconds(wall_ns()));
    herd.wait_until_held(&herd.names(), "kiwi", &line);
    herd.kill("Left");
    for file in fs::read_dir(folder(&herd, "Left")).unwrap() {
        let path = file.unwrap().path();
        let length = fs::metadata(&path).unwrap().len();
        fs::write(path, vec![0xff; length as usize]).unwrap();
    }
    herd.start("Left");
    herd.wait_until_held(&herd.names(), "kiwi", &line);
}

/// A tmpfs on the folder, which is unmounted at the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Returns `None` if this user cannot mount file systems.
    fn mount(path: &Path, bytes: u32) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("NOT TESTED: a full disk (this user cannot mount a tmpfs)");
        }
        mounted.then(|| Self(path.to_owned()))
    }
}

impl SmallDisk {
    /// Fills the disk under load and, a little later, empties it. Returns once no node lacks anything on it.
    fn fill_and_empty(&self, herd: &Herd, rng: &mut Rng) {
        let ballast = self.0.join("ballast");
        let mut filler = fs::File::create(&ballast).unwrap();
        let full = Duration::from_millis(200 + rng.below(800));
        let start = std::time::Instant::now();
        while start.elapsed() < full {
            while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
            thread::sleep(Duration::from_millis(5)); // the nodes may have freed something
        }
        drop(filler);
        fs::remove_file(&ballast).unwrap();
        for name in herd.names() {
            eventually(&format!("{name} has written what was missing"), 3 * DEADLINE, || {
                let lines = herd.log_lines(&name);
                let last = |part: &str| {
                    lines.iter().rposition(|line| line.contains("storage") && line.contains(part))
                };
                let began = last("ERROR");
                (began <= last("nothing is missing").max(last("old files are removed again")))
                    .then_some(())
            });
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_reported_once_and_what_was_missed_is_written_later() {
    let mut herd = Herd::new(&[("Solo", &[])], STORAGE);
    let Some(disk) = SmallDisk::mount(&herd.directory().join("data"), 8 << 20) else { return };
    herd.start("Solo");
    let mut filler = fs::File::create(disk.0.join("ballast")).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    drop(filler);
    // More than the node has reserved.
    let mut client = herd.client("Solo");
    let mut held = BTreeMap::new();
    let mut number = 0;
    let reported = |line: &String| line.contains("ERROR") && line.contains("serves from memory");
    while !herd.log_lines("Solo").iter().any(reported) {
        for _ in 0..500 {
            number += 1;
            let id = format!("van-{}", number % 5000);
            let line = client.iamat(&id, "+34.07-118.45", &seconds(wall_ns()));
            held.insert(id, line);
        }
        assert!(number < 1_000_000, "the disk never filled up");
    }
    fs::remove_file(disk.0.join("ballast")).unwrap();
    herd.wait_for_log("Solo", &["INFO", "storage", "accepts writes again"]);
    assert_eq!(herd.log_lines("Solo").iter().filter(|line| reported(line)).count(), 1);
    herd.kill("Solo");
    herd.start("Solo");
    assert_nothing_lost(&herd, &held);
}

#[test]
fn with_always_an_update_that_cannot_be_stored_gets_no_at_line() {
    let extra = "storage: {directory: data, sync: always}";
    let mut herd = Herd::new(&[("Solo", &[])], extra);
    let Some(disk) = SmallDisk::mount(&herd.directory().join("data"), 256 * 1024) else { return };
    herd.start("Solo");
    let first = herd.client("Solo").iamat("first", "+1-1", &seconds(wall_ns()));
    let mut filler = fs::File::create(disk.0.join("ballast")).unwrap();
    while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
    let mut acknowledged = BTreeMap::new();
    let mut number = 0;
    // What the node has reserved is used up first.
    eventually("an update is refused", 3 * DEADLINE, || {
        let mut socket = std::net::TcpStream::connect(herd.address("Solo")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        for _ in 0..1000 {
            number += 1;
            let id = format!("van-{number}");
            let line = format!("IAMAT {id} +34.07-118.45 {}\n", seconds(wall_ns()));
            match exchange(&mut socket, line.as_bytes()) {
                Some(reply) => {
                    assert!(At::parse(&reply).own.starts_with(id.as_bytes()));
                    acknowledged.insert(id, reply);
                }
                None => return Some(()), // closed without an AT line
            }
        }
        None
    });
    assert_eq!(herd.held("Solo", "first"), Some(first.clone()), "WHATSAT keeps working");
    fs::remove_file(disk.0.join("ballast")).unwrap();
    drop(filler);
    eventually("updates are stored again", 3 * DEADLINE, || {
        let mut socket = std::net::TcpStream::connect(herd.address("Solo")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let line = format!("IAMAT last +2-2 {}\n", seconds(wall_ns()));
        let reply = exchange(&mut socket, line.as_bytes())?;
        acknowledged.insert("last".to_owned(), reply);
        Some(())
    });
    acknowledged.insert("first".to_owned(), first);
    herd.kill("Solo");
    herd.start("Solo");
    assert_nothing_lost(&herd, &acknowledged);
}
