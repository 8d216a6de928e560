//! A disk that is slow, fails or refuses, under a real node. `disk.c` injects the faults.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod devices;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};

use common::faults::Faults;
use common::{At, Client, DEADLINE, Herd, assert_bytes, eventually, free_port, seconds, wall_ns};

const EIO: i64 = 5;
const EACCES: i64 = 13;
const EMFILE: i64 = 24;
const ENOSPC: i64 = 28;

/// The fields of the faults of `disk.c`, in order.
#[derive(Clone, Copy)]
enum Fault {
    Hold,
    SyncErrno,
    SyncTimes,
    WriteErrno,
    WriteTimes,
    OpenErrno,
    Waiting,
}

/// Values of [`Fault::Hold`].
const NOTHING: i64 = 0;
const SYNCS: i64 = 1;
const SNAPSHOTS: i64 = 2;

/// A node `Solo` on a disk with faults.
struct Machine {
    herd: Herd,
    http: u16,
    faults: Faults,
}

impl Machine {
    fn new(storage: &str, extra: &str) -> Self {
        let http = free_port();
        let section = format!(
            "storage: {{directory: data, {storage}}}\nhttp: {{ports: {{Solo: {http}}}}}\n{extra}"
        );
        let mut herd = Herd::new(&[("Solo", &[])], &section);
        let faults = Faults::inject(&mut herd, "disk_faults/disk.c");
        Self { herd, http, faults }
    }

    fn start(storage: &str, extra: &str) -> Self {
        let mut machine = Self::new(storage, extra);
        machine.herd.start("Solo");
        machine
    }

    fn set(&self, fault: Fault, value: i64) {
        self.faults.set(fault as usize, value);
    }

    fn get(&self, fault: Fault) -> i64 {
        self.faults.get(fault as usize)
    }

    /// Waits until a sync is held.
    fn wait_for_sync(&self) {
        eventually("a sync is under way", DEADLINE, || {
            (self.get(Fault::Waiting) > 0).then_some(())
        });
    }

    /// Waits until the spare segment has been prepared, which would otherwise meet the next fault.
    fn wait_for_spare(&self) {
        let spare = self.folder().join("0000000002.log");
        eventually("the spare segment has its first line", DEADLINE, || {
            fs::read(&spare).is_ok_and(|bytes| bytes.ends_with(b"\n")).then_some(())
        });
    }

    fn client(&self) -> Client {
        self.herd.client("Solo")
    }

    fn restart(&mut self, signal: &str) {
        self.herd.signal("Solo", signal);
        self.herd.wait("Solo", DEADLINE);
        self.herd.start("Solo");
    }

    /// The response to a request, head included.
    fn get_http(&self, path: &str) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.http)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn folder(&self) -> PathBuf {
        self.herd.directory().join("data/Solo")
    }

    fn files(&self) -> Vec<String> {
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let names = fs::read_dir(self.folder()).unwrap().map(name);
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Asserts that nothing has arrived, and the connection is open.
fn assert_silent(client: &Client) {
    let stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let found = stream.peek(&mut [0; 100]);
    stream.set_nonblocking(false).unwrap();
    let error = found.expect_err("a reply was not held, or the connection has ended");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

fn update(client: &str) -> Vec<u8> {
    format!("IAMAT {client} +34.07-118.45 {}\n", seconds(wall_ns())).into_bytes()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

// Slow

#[test]
fn replies_that_wait_keep_their_order_and_delay_no_other_connection() {
    let machine = Machine::start("sync: always", "");
    let old = machine.client().iamat("old", "+1-1", &seconds(wall_ns()));
    machine.set(Fault::Hold, SYNCS);
    let mut pipeline = machine.client();
    let kiwi = update("kiwi");
    pipeline.send(&[b"hello\n", &kiwi[..], b"WHATSAT kiwi 0 0\nbye\n"].concat());
    pipeline.half_close();
    assert_bytes(&pipeline.line(), b"? hello\n");
    machine.wait_for_sync();
    let [mut repeat, mut curious, mut stale] = [(); 3].map(|()| machine.client());
    repeat.send(&kiwi);
    curious.send(b"WHATSAT kiwi 0 0\n");
    stale.send(b"IAMAT kiwi +2-2 5\n");
    let mut gone = machine.client();
    gone.send(&update("gone"));
    gone.reset_when_dropped();
    drop(gone);

    // Everything that reveals nothing new is served meanwhile.
    let mut other = machine.client();
    assert_bytes(&other.ask(b"hi"), b"? hi\n");
    assert_eq!(other.held(b"old"), Some(old));
    assert!(machine.get_http("/healthz").starts_with("HTTP/1.1 200"));
    for waiting in [&pipeline, &repeat, &curious, &stale] {
        assert_silent(waiting);
    }
    machine.set(Fault::Hold, NOTHING);
    let rest = pipeline.rest();
    let at = rest.split_inclusive(|&byte| byte == b'\n').next().unwrap().to_vec();
    assert!(At::parse(&at).own.starts_with(b"kiwi "));
    assert!(rest[at.len()..].starts_with(&at), "the reply to WHATSAT");
    assert!(rest.ends_with(b"\n\n? bye\n"));
    assert!(At::parse(&repeat.line()).own.starts_with(b"kiwi "));
    assert!(curious.until(b"\n\n").starts_with(&at));
    assert!(At::parse(&stale.line()).own.starts_with(b"kiwi "));
    assert!(At::parse(&repeat.ask(update("fig").trim_ascii_end())).own.starts_with(b"fig "));
}

#[test]
fn in_the_other_modes_no_reply_waits_for_a_sync() {
    let machine = Machine::start("sync: interval, sync_interval_ms: 10", "");
    machine.set(Fault::Hold, SYNCS);
    let mut client = machine.client();
    client.ask(update("first").trim_ascii_end());
    machine.wait_for_sync();
    for number in 0..100 {
        client.ask(update(&format!("van-{number}")).trim_ascii_end());
    }
    assert!(machine.get(Fault::Waiting) > 0);
    machine.set(Fault::Hold, NOTHING);
}

#[test]
fn the_time_that_the_disk_takes_counts_against_no_client() {
    let limits = "limits: {line_timeout_s: 1, idle_timeout_s: 3}";
    let machine = Machine::start("sync: always", limits);
    let [mut partial, mut waiting] = [(); 2].map(|()| machine.client());
    for client in [&mut partial, &mut waiting] {
        assert_bytes(&client.ask(b"hi"), b"? hi\n"); // the first line is executed alone
    }
    machine.set(Fault::Hold, SYNCS);
    partial.send(&[&update("kiwi")[..], b"IAM"].concat());
    waiting.send(&update("fig"));
    machine.wait_for_sync();
    // Clients that came later and do not wait for the disk.
    let [mut slow, mut idle] = [(); 2].map(|()| machine.client());
    slow.send(b"IAM");
    assert_bytes(&slow.rest(), b"");
    assert_bytes(&idle.ask(b"hi"), b"? hi\n");
    assert_bytes(&idle.rest(), b"");
    machine.set(Fault::Hold, NOTHING);
    for mut client in [partial, waiting] {
        assert!(client.line().starts_with(b"AT Solo "));
        client.send(b"...\n");
        assert!(client.line().ends_with(b"...\n"));
    }
}

#[test]
fn replies_that_wait_for_the_disk_are_sent_before_the_node_stops() {
    let mut machine = Machine::start("sync: always", "");
    machine.set(Fault::Hold, SYNCS);
    let mut client = machine.client();
    client.send(&update("kiwi"));
    machine.wait_for_sync();
    machine.herd.signal("Solo", "TERM");
    machine.herd.wait_for_log("Solo", &["stopping"]);
    machine.set(Fault::Hold, NOTHING);
    let rest = client.rest();
    assert!(At::parse(&rest).own.starts_with(b"kiwi "));
    assert!(machine.herd.wait("Solo", DEADLINE).success());
    machine.herd.start("Solo");
    assert_eq!(machine.herd.held("Solo", "kiwi"), Some(rest));
}

#[test]
fn a_disk_that_hangs_does_not_prevent_the_node_from_stopping() {
    for mode in ["sync: always", "sync: interval, sync_interval_ms: 10"] {
        let mut machine = Machine::start(mode, "");
        machine.set(Fault::Hold, SYNCS);
        let mut client = machine.client();
        client.send(&update("kiwi"));
        machine.wait_for_sync();
        machine.herd.signal("Solo", "TERM");
        assert!(machine.herd.wait("Solo", DEADLINE).success());
        machine.set(Fault::Hold, NOTHING);
        let acknowledged = client.rest();
        assert_eq!(acknowledged.is_empty(), mode == "sync: always");
        machine.herd.start("Solo");
        assert!(machine.herd.held("Solo", "kiwi").is_some());
    }
}

// Failing

#[test]
fn with_always_an_update_whose_sync_fails_gets_no_at_line() {
    let mut machine = Machine::start("sync: always", "");
    // The snapshot that closes the hole does not come yet.
    machine.set(Fault::Hold, SNAPSHOTS);
    machine.set(Fault::SyncErrno, EIO);
    machine.set(Fault::SyncTimes, 1);
    let kiwi = update("kiwi");
    let mut refused = machine.client();
    // Far more input than the node reads at once: unread bytes must not turn into a reset, which would
    // destroy the first reply.
    let sent =
        refused.send_in_background([b"hello\n", &kiwi[..], &b"? \n".repeat(200_000)].concat());
    assert_bytes(&refused.rest(), b"? hello\n");
    sent.join().unwrap();
    assert_eq!(machine.herd.counter("Solo", "updates_refused_total"), 1);
    machine.herd.wait_for_log("Solo", &["INFO", "closed: the update cannot be stored"]);

    // The log continues in another segment. What the disk lacks is still refused, before a newer update
    // too.
    let mut client = machine.client();
    let fig = client.ask(update("fig").trim_ascii_end());
    assert!(At::parse(&fig).own.starts_with(b"fig "));
    assert!(client.held(b"kiwi").is_some(), "WHATSAT keeps working");
    client.send(&[&kiwi[..], &update("plum")].concat());
    assert_bytes(&client.rest(), b"");

    let problem = "updates are refused until the disk accepts writes again";
    assert!(machine.get_http("/api/herd").contains(problem));
    let status = machine.herd.run(&["--status"]);
    assert!(text(&status).contains(problem), "{}", text(&status));
    machine.set(Fault::Hold, NOTHING);
    eventually("the problem has ended", DEADLINE, || {
        (!machine.get_http("/api/herd").contains(problem)).then_some(())
    });
    let status = machine.herd.run(&["--status"]);
    assert!(!text(&status).contains("storage"), "{}", text(&status));
    let kiwi = machine.client().ask(kiwi.trim_ascii_end());
    assert!(At::parse(&kiwi).own.starts_with(b"kiwi "));
    let reports = |line: &&String| line.contains("ERROR") && line.contains(problem);
    assert_eq!(machine.herd.log_lines("Solo").iter().filter(reports).count(), 1);
    machine.restart("KILL");
    for client in ["kiwi", "fig", "plum"] {
        assert!(machine.herd.held("Solo", client).is_some(), "{client}");
    }
}

/// A command that the disk did not take is not confirmed, however often it is repeated, until the disk
/// accepts writes again.
#[test]
fn with_always_a_client_is_forgotten_once_the_tombstone_is_durable() {
    let mut machine = Machine::start("sync: always", "");
    machine.client().ask(update("kiwi").trim_ascii_end());
    machine.set(Fault::Hold, SNAPSHOTS);
    machine.set(Fault::SyncErrno, EIO);
    machine.set(Fault::SyncTimes, 1);
    for _ in 0..2 {
        let output = machine.herd.run(&["--forget", "kiwi"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("has not confirmed the command"), "{}", text(&output));
    }
    machine.set(Fault::Hold, NOTHING);
    eventually("the problem has ended", DEADLINE, || {
        (!machine.get_http("/api/herd").contains("updates are refused")).then_some(())
    });
    let output = machine.herd.run(&["--forget", "kiwi"]);
    assert!(text(&output).contains("does not know the client"), "it is erased: {}", text(&output));
    machine.restart("KILL");
    assert_eq!(machine.herd.held("Solo", "kiwi"), None);
}

#[test]
fn without_always_the_node_serves_from_memory_and_writes_what_is_missing() {
    for (mode, errno, times) in [
        ("sync: never", Fault::WriteErrno, Fault::WriteTimes),
        ("sync: interval, sync_interval_ms: 10", Fault::SyncErrno, Fault::SyncTimes),
    ] {
        let mut machine = Machine::start(mode, "");
        machine.wait_for_spare();
        machine.set(Fault::Hold, SNAPSHOTS);
        machine.set(errno, if mode == "sync: never" { ENOSPC } else { EIO });
        machine.set(times, 1);
        let kiwi = machine.client().ask(update("kiwi").trim_ascii_end());
        let problem = "serves from memory";
        eventually("the problem is shown", DEADLINE, || {
            machine.get_http("/api/herd").contains(problem).then_some(())
        });
        let fig = machine.client().ask(update("fig").trim_ascii_end());
        machine.set(Fault::Hold, NOTHING);
        machine.herd.wait_for_log("Solo", &["INFO", "accepts writes again"]);
        assert!(!machine.get_http("/api/herd").contains(problem));
        let reports = |line: &&String| line.contains("ERROR") && line.contains(problem);
        assert_eq!(machine.herd.log_lines("Solo").iter().filter(reports).count(), 1);
        machine.restart("KILL");
        assert_eq!(machine.herd.held("Solo", "kiwi"), Some(kiwi));
        assert_eq!(machine.herd.held("Solo", "fig"), Some(fig));
    }
}

#[test]
fn a_node_that_stops_while_the_disk_lacks_records_says_so() {
    let mut machine = Machine::start("sync: never", "");
    machine.set(Fault::WriteErrno, ENOSPC);
    machine.set(Fault::WriteTimes, i64::MAX);
    machine.client().ask(update("kiwi").trim_ascii_end());
    machine.herd.wait_for_log("Solo", &["ERROR", "serves from memory"]);
    machine.herd.signal("Solo", "TERM");
    assert!(machine.herd.wait("Solo", DEADLINE).success());
    machine.herd.wait_for_log("Solo", &["ERROR", "the node stops, and the disk lacks records"]);
}

#[test]
fn a_loaded_file_that_cannot_be_synced_does_not_prevent_the_start() {
    for mode in ["sync: always", "sync: interval"] {
        let mut machine = Machine::start(mode, "");
        let kiwi = machine.client().ask(update("kiwi").trim_ascii_end());
        machine.herd.kill("Solo");
        machine.set(Fault::SyncErrno, EIO);
        machine.set(Fault::SyncTimes, 1);
        machine.herd.start("Solo");
        assert_eq!(machine.get(Fault::SyncTimes), 0, "{mode}: the sync has failed");
        assert_eq!(machine.herd.held("Solo", "kiwi"), Some(kiwi), "{mode}");
        machine.herd.wait_for_log("Solo", &["INFO", "accepts writes again"]);
        let fig = machine.client().ask(update("fig").trim_ascii_end());
        machine.restart("KILL");
        assert_eq!(machine.herd.held("Solo", "fig"), Some(fig), "{mode}");
    }
}

// Refusing

/// The node would start without the records, and replace the file.
#[test]
fn files_that_may_not_be_opened_prevent_the_start() {
    let mut machine = Machine::start("sync: interval", "");
    let kiwi = machine.client().ask(update("kiwi").trim_ascii_end());
    machine.herd.kill("Solo");
    let files = machine.files();
    for (errno, file) in
        [(EACCES, "0000000001.log"), (EMFILE, "0000000001.log"), (-EACCES, "MANIFEST")]
    {
        machine.set(Fault::OpenErrno, errno);
        let output = machine.herd.run(&["Solo"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let reason = format!("cannot open {file}");
        assert!(text(&output).contains(&reason), "{}", text(&output));
        assert_eq!(machine.files(), files);
        if file == "MANIFEST" {
            // A warning: the nodes may run as another user.
            let output = machine.herd.run(&["--check"]);
            assert!(text(&output).contains(&reason), "{}", text(&output));
        }
    }
    machine.set(Fault::OpenErrno, 0);
    machine.herd.start("Solo");
    assert_eq!(machine.herd.held("Solo", "kiwi"), Some(kiwi));
}

#[test]
fn a_start_on_a_port_that_is_taken_leaves_the_files_alone() {
    for web in [false, true] {
        let machine = Machine::new("sync: interval", "");
        let port = if web { machine.http } else { machine.herd.port("Solo") };
        let _other = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        let output = machine.herd.run(&["Solo"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("Solo cannot listen on"), "{}", text(&output));
        assert_eq!(machine.files(), ["LOCK"]);
    }
}

#[test]
fn check_examines_the_folders_and_leaves_nothing_behind() {
    let mut machine = Machine::new("sync: interval", "");
    let check = |machine: &Machine, code: i32, part: &str| {
        let output = machine.herd.run(&["--check"]);
        assert_eq!(output.status.code(), Some(code), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
        assert!(code != 0 || !text(&output).contains("cannot use"), "{}", text(&output));
    };
    check(&machine, 0, "");
    assert!(!machine.herd.directory().join("data").exists());
    machine.herd.start("Solo");
    let files = ["0000000001.log", "0000000002.log", "LOCK", "MANIFEST"];
    eventually("the files of a start exist", DEADLINE, || (machine.files() == files).then_some(()));
    check(&machine, 0, "");
    assert_eq!(machine.files(), files);
    machine.herd.kill("Solo");

    let manifest = machine.folder().join("MANIFEST");
    let content = "proxy-herd storage 2\n";
    let checksum = crc32fast::hash(content.as_bytes());
    fs::write(&manifest, format!("{content}crc {checksum:08x}\n")).unwrap();
    check(&machine, 1, "written by a newer release");
    fs::remove_dir_all(machine.folder()).unwrap();
    let mut other = Herd::new(&[("Other", &[])], "storage: {directory: data}");
    other.start("Other");
    other.kill("Other");
    fs::rename(other.directory().join("data/Other"), machine.folder()).unwrap();
    check(&machine, 1, "belongs to the node Other");

    fs::remove_dir_all(machine.folder()).unwrap();
    fs::write(machine.folder(), "a file").unwrap();
    let output = machine.herd.run(&["--check"]);
    assert!(text(&output).contains("cannot use the storage data/Solo"), "{}", text(&output));
}

#[test]
fn a_read_only_file_system_prevents_the_start_and_check_says_so() {
    let machine = Machine::new("sync: interval", "");
    let data = machine.herd.directory().join("data");
    fs::create_dir(&data).unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "ro,size=1m", "tmpfs"]).arg(&data);
    if !mount.output().is_ok_and(|output| output.status.success()) {
        println!("NOT TESTED: a read-only file system (this user cannot mount a tmpfs)");
        return;
    }
    let (start, check) = (machine.herd.run(&["Solo"]), machine.herd.run(&["--check"]));
    let _ = Command::new("umount").arg("-l").arg(&data).status();
    for output in [&start, &check] {
        assert!(text(output).contains("cannot use the storage data/Solo"), "{}", text(output));
        assert!(text(output).contains("Read-only file system"), "{}", text(output));
    }
    assert_eq!(start.status.code(), Some(1));
}

// Rules

#[test]
fn expiry_and_eviction_apply_to_loaded_records() {
    let mut machine = Machine::start("sync: interval", "");
    let mut client = machine.client();
    for number in 0..20 {
        client.ask(update(&format!("van-{number}")).trim_ascii_end());
    }
    client.ask(b"IAMAT expired +1-1 5");
    machine.herd.signal("Solo", "TERM");
    machine.herd.wait("Solo", DEADLINE);
    let config = fs::read_to_string(machine.herd.config()).unwrap();
    let limits = "limits: {max_clients: 10, client_ttl_s: 100000}\n";
    fs::write(machine.herd.config(), config + limits).unwrap();
    for signal in ["KILL", "TERM"] {
        machine.herd.start("Solo");
        let mut client = machine.client();
        assert_eq!(client.held(b"expired"), None);
        let held =
            (0..20).filter(|number| client.held(format!("van-{number}").as_bytes()).is_some());
        assert_eq!(held.count(), 10);
        machine.herd.signal("Solo", signal);
        machine.herd.wait("Solo", DEADLINE);
    }
}
