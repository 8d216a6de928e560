//! The log: rotation, rate limit, and errors when writing it.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, Herd, assert_bytes, eventually, free_port};

/// Returns the rotated log files, newest first.
fn rotated(herd: &Herd) -> Vec<PathBuf> {
    let log = herd.log_path("Solo");
    let numbered = (1..).map(|n| PathBuf::from(format!("{}.{n}", log.display())));
    numbered.take_while(|path| path.exists()).collect()
}

#[test]
fn the_log_is_rotated_and_the_oldest_file_is_deleted() {
    let herd = Herd::solo_with("limits: {log_max_bytes: 65536, log_keep: 2}");
    let mut client = herd.client("Solo");
    let line = "x".repeat(1_000);
    for i in 0..400 {
        client.ask(format!("{i} {line}").as_bytes()); // 2 KiB of log each, 800 KiB in total
    }
    herd.wait_for_log("Solo", &["> ? 399 "]);
    let files = rotated(&herd);
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files.iter().chain([&herd.log_path("Solo")]) {
        let text = fs::read(file).unwrap();
        // A flush of the whole buffer may be the first write to a file.
        assert!(text.len() <= 65_536, "{} has {} bytes", file.display(), text.len());
        assert!(text.ends_with(b"\n"), "{} ends with an incomplete line", file.display());
    }
    assert!(herd.counter("Solo", "log_rotations_total") >= 10);
}

#[test]
fn with_log_keep_0_the_log_is_deleted_and_recreated() {
    let herd = Herd::solo_with("limits: {log_max_bytes: 65536, log_keep: 0}");
    let mut client = herd.client("Solo");
    for i in 0..100 {
        client.ask(format!("{i} {}", "x".repeat(1_000)).as_bytes());
    }
    herd.wait_for_log("Solo", &["> ? 99 "]);
    assert_eq!(rotated(&herd).len(), 0);
    assert!(herd.log("Solo").len() <= 65_536);
}

/// A diagnostic that is caused many times is logged a few times per second. The number of suppressed
/// lines is logged when the second is over, without a further event.
#[test]
fn repeated_diagnostics_are_suppressed_and_counted() {
    let herd = Herd::solo_with("limits: {max_log_lines_per_second: 3, max_connections: 1}");
    let _served = eventually("the only connection is taken", DEADLINE, || {
        let mut client = herd.client("Solo"); // the start-up probe may still be connected
        (client.ask(b"hello") == b"? hello\n").then_some(client)
    });
    let start = Instant::now();
    for _ in 0..200 {
        assert_bytes(&herd.client("Solo").rest(), b"? too many connections\n");
    }
    herd.wait_for_log("Solo", &["diagnostic lines were suppressed"]);
    eventually("all refusals are logged or counted", DEADLINE, || {
        let log = herd.log_lines("Solo");
        let logged = log.iter().filter(|line| line.contains(" refused: ")).count() as u64;
        let counted: u64 = log
            .iter()
            .filter_map(|line| line.strip_suffix(" diagnostic lines were suppressed"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        let refused = herd.counter("Solo", "connections_refused_total");
        let seconds = start.elapsed().as_secs() + 2; // those before included
        assert!(logged <= 3 * seconds, "{logged} were logged in {seconds} s");
        (logged + counted == refused).then_some(())
    });
    assert!(herd.counter("Solo", "log_lines_suppressed_total") > 100);
}

/// If the file cannot be renamed, the node reports it once, keeps writing and does not count a
/// rotation.
#[test]
fn a_log_that_cannot_be_rotated_keeps_growing() {
    let mut herd = Herd::solo_with("limits: {log_max_bytes: 65536, log_keep: 1}");
    let in_the_way = herd.log_path("Solo").with_extension("log.1");
    fs::create_dir_all(in_the_way.join("not-empty")).unwrap();
    let mut client = herd.client("Solo");
    let start = Instant::now();
    for i in 0.. {
        client.iamat("vehicle", "+34.068930-118.445127", &i.to_string());
        // Long enough for several retries and many lines.
        if start.elapsed() > Duration::from_millis(2_500) && i > 2_000 {
            break;
        }
    }
    assert_eq!(herd.stderr("Solo").matches("cannot rotate the log").count(), 1);
    assert_eq!(herd.counter("Solo", "log_rotations_total"), 0);
    assert!(herd.log("Solo").len() > 65_536);
    fs::remove_dir_all(&in_the_way).unwrap();
    eventually("the log is rotated when possible again", DEADLINE, || {
        client.iamat("vehicle", "+34.068930-118.445127", "1");
        in_the_way.is_file().then_some(())
    });
    herd.signal("Solo", "TERM");
    assert_eq!(herd.wait("Solo", DEADLINE).code(), Some(0));
}

/// The rate limit of diagnostics does not apply to the counters.
#[test]
fn counters_are_written_for_every_request() {
    let herd = Herd::solo_with("limits: {max_log_lines_per_second: 1}");
    for _ in 0..5 {
        assert_eq!(herd.counter("Solo", "log_lines_suppressed_total"), 0);
    }
}

fn write_error_reports(herd: &Herd) -> usize {
    herd.stderr("Solo").matches("cannot write the log").count()
}

/// A node keeps serving clients if its log is on a full disk.
#[test]
fn a_full_disk_affects_only_the_log() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    let log = herd.log_path("Solo");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    symlink("/dev/full", &log).unwrap();
    herd.start("Solo");
    let mut client = herd.client("Solo");
    client.iamat("before", "+1+1", "1");
    eventually("the error is reported", DEADLINE, || {
        (write_error_reports(&herd) > 0).then_some(())
    });
    // Long enough for several retries.
    let start = Instant::now();
    for i in 0.. {
        client.iamat("meanwhile", "+1+1", &i.to_string());
        if start.elapsed() > Duration::from_millis(2_500) {
            break;
        }
    }
    assert_eq!(write_error_reports(&herd), 1, "{}", herd.stderr("Solo"));
    // The directory is missing for a while, so the log cannot be reopened.
    let (directory, aside) = (log.parent().unwrap(), herd.directory().join("aside"));
    fs::rename(directory, &aside).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2_500) {
        client.iamat("meanwhile", "+2+2", "1");
    }
    assert_eq!(write_error_reports(&herd), 1, "{}", herd.stderr("Solo"));
    fs::create_dir(directory).unwrap();
    eventually("the log exists again", DEADLINE, || {
        client.iamat("after", "+1+1", "1");
        log.exists().then_some(())
    });
    herd.wait_for_log("Solo", &["bytes of the log could not be written"]);
    client.iamat("later", "+1+1", "1");
    herd.wait_for_log("Solo", &["< IAMAT later +1+1 1"]);
    assert!(herd.counter("Solo", "log_write_errors_total") >= 3);
    assert!(herd.counter("Solo", "log_lost_bytes_total") > 0);
    assert!(client.held(b"before").is_some());
}

/// If the disk fills up within a line and has room again later, the log continues on a new line with
/// the number of lost bytes.
#[cfg(target_os = "linux")]
#[test]
fn a_line_that_was_cut_short_is_terminated() {
    use rlimit::{INFINITY, Resource, prlimit};
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.ask(b"before");
    herd.wait_for_log("Solo", &["closed"]); // the start-up probe
    herd.wait_for_log("Solo", &["> ? before"]);
    let complete = herd.log("Solo");
    let room = complete.len() as u64 + 20; // less than a timestamp and a level
    let pid = i32::try_from(herd.pid("Solo")).unwrap();
    prlimit(pid, Resource::FSIZE, Some((room, INFINITY)), None).unwrap();
    client.ask(b"cut short");
    eventually("the error is reported", DEADLINE, || {
        (write_error_reports(&herd) > 0).then_some(())
    });
    let cut = herd.log("Solo");
    assert_eq!((&cut[..complete.len()], cut.len() as u64), (&complete[..], room));
    prlimit(pid, Resource::FSIZE, Some((INFINITY, INFINITY)), None).unwrap();
    eventually("the log continues", DEADLINE, || {
        client.ask(b"after");
        herd.log("Solo").ends_with(b"> ? after\n").then_some(())
    });
    let log = herd.log("Solo");
    let (torn, rest) = log[complete.len()..].split_at(20);
    assert_bytes(torn, &cut[complete.len()..]);
    let rest = str::from_utf8(rest).unwrap();
    let (note, rest) = rest.strip_prefix("\n… ").unwrap().split_once('\n').unwrap();
    let lost = note.strip_suffix(" bytes of the log could not be written").unwrap();
    assert_eq!(lost.parse(), Ok(herd.counter("Solo", "log_lost_bytes_total")));
    assert!(rest.contains(" < after\n") && !rest.contains("cut short"), "{rest}");
}

/// A write beyond `ulimit -f` fails with an error, because the node ignores SIGXFSZ, which would end
/// it.
#[test]
fn a_limit_on_the_file_size_is_like_a_full_disk() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    // 4 KiB, or 8 KiB in shells that count in kilobytes.
    let limited = ["sh", "-c", "ulimit -f 8 && exec \"$0\" \"$@\""];
    herd.set_host("Solo", Ipv4Addr::LOCALHOST, &limited, "");
    herd.start("Solo");
    let mut client = herd.client("Solo");
    for i in 0..200 {
        assert_bytes(
            &client.ask(format!("hello {i}").as_bytes()),
            format!("? hello {i}\n").as_bytes(),
        );
    }
    eventually("the error is reported", DEADLINE, || {
        (write_error_reports(&herd) > 0).then_some(())
    });
    // The file is moved away, which makes room.
    fs::rename(herd.log_path("Solo"), herd.directory().join("full.log")).unwrap();
    eventually("the log continues", DEADLINE, || {
        client.ask(b"hello");
        let log = String::from_utf8(herd.log("Solo")).ok()?;
        log.contains("bytes of the log could not be written").then_some(())
    });
    assert!(
        herd.log("Solo").starts_with("… ".as_bytes()),
        "the new file does not begin with the rest of a line"
    );
    assert!(herd.is_running("Solo"));
}

/// Creates the log of the node before it starts, in the way that `make` does.
fn herd_with_log(extra: &str, make: impl FnOnce(&Path)) -> Herd {
    let mut herd = Herd::new(&[("Solo", &[])], extra);
    let log = herd.log_path("Solo");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    make(&log);
    herd.start("Solo");
    herd
}

/// Writes several times `log_max_bytes` to the log.
fn write_much(herd: &Herd) {
    let mut client = herd.client("Solo");
    for i in 0..200 {
        client.ask(format!("{i} {}", "x".repeat(1_000)).as_bytes());
    }
}

/// Only a regular file with its own name in the directory is rotated. A link, a FIFO or a device has
/// been put there on purpose, and renaming it would redirect the log to an ordinary file.
#[test]
fn only_a_regular_file_is_rotated() {
    for keep in [0, 2] {
        let extra = format!("limits: {{log_max_bytes: 65536, log_keep: {keep}}}");
        // A link to a device.
        let herd = herd_with_log(&extra, |log| symlink("/dev/null", log).unwrap());
        write_much(&herd);
        assert_eq!(fs::read_link(herd.log_path("Solo")).unwrap(), Path::new("/dev/null"));
        assert_eq!(rotated(&herd).len(), 0);
        assert_eq!(herd.stderr("Solo"), "");
        // A link to standard output, here a file.
        let herd = herd_with_log(&extra, |log| symlink("/dev/stdout", log).unwrap());
        write_much(&herd);
        let stdout = herd.directory().join("Solo.stdout");
        eventually("the log arrives on standard output", DEADLINE, || {
            String::from_utf8_lossy(&fs::read(&stdout).unwrap()).contains("> ? 199 ").then_some(())
        });
        assert_eq!(fs::read_link(herd.log_path("Solo")).unwrap(), Path::new("/dev/stdout"));
        assert_eq!(rotated(&herd).len(), 0);
        // A link to a file elsewhere.
        let mut elsewhere = PathBuf::new();
        let herd = herd_with_log(&extra, |log| {
            elsewhere = log.parent().unwrap().parent().unwrap().join("elsewhere.log");
            symlink(&elsewhere, log).unwrap();
        });
        write_much(&herd);
        herd.wait_for_log("Solo", &["> ? 199 "]);
        assert_eq!(herd.counter("Solo", "log_rotations_total"), 0);
        assert!(fs::read(&elsewhere).unwrap().len() > 3 * 65_536);
        assert_eq!(fs::read_link(herd.log_path("Solo")).unwrap(), elsewhere);
        assert_eq!(rotated(&herd).len(), 0);
    }
}

#[test]
fn a_fifo_is_not_rotated() {
    use std::os::unix::fs::FileTypeExt as _;
    let received = Arc::new(Mutex::new(Vec::new()));
    let herd = herd_with_log("limits: {log_max_bytes: 65536}", |log| {
        assert!(Command::new("mkfifo").arg(log).status().unwrap().success());
        let (log, received) = (log.to_owned(), Arc::clone(&received));
        thread::spawn(move || {
            let mut fifo = fs::File::open(log).unwrap();
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = fifo.read(&mut chunk) {
                received.lock().unwrap().extend_from_slice(&chunk[..read]);
            }
        });
    });
    write_much(&herd);
    eventually("all lines arrive through the FIFO", DEADLINE, || {
        String::from_utf8_lossy(&received.lock().unwrap()).contains("> ? 199 ").then_some(())
    });
    assert!(fs::metadata(herd.log_path("Solo")).unwrap().file_type().is_fifo());
    assert_eq!(rotated(&herd).len(), 0);
}

/// After SIGHUP the log cannot be opened by its name. The node writes to the file that is still open,
/// and opens the new one when that is possible.
#[test]
fn a_failed_reopening_is_retried() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.ask(b"before");
    herd.wait_for_log("Solo", &["> ? before"]);
    let log = herd.log_path("Solo");
    let (directory, aside) = (log.parent().unwrap(), herd.directory().join("aside"));
    fs::rename(directory, &aside).unwrap();
    herd.signal("Solo", "HUP");
    eventually("the error is reported", DEADLINE, || {
        (write_error_reports(&herd) > 0).then_some(())
    });
    client.ask(b"meanwhile");
    eventually("the open file takes the line", DEADLINE, || {
        let text = fs::read(aside.join("Solo.log")).unwrap();
        String::from_utf8_lossy(&text).contains("> ? meanwhile").then_some(())
    });
    fs::create_dir(directory).unwrap();
    eventually("the log is opened without a line to write", DEADLINE, || {
        log.exists().then_some(())
    });
    client.ask(b"after");
    eventually("the log is opened by its name", DEADLINE, || {
        String::from_utf8_lossy(&herd.log("Solo")).contains("> ? after").then_some(())
    });
    assert_eq!(write_error_reports(&herd), 1, "{}", herd.stderr("Solo"));
    let log = String::from_utf8_lossy(&herd.log("Solo")).into_owned();
    assert!(!log.contains("could not be written"), "nothing was lost: {log}");
}

/// Each change of the provider's availability is one line, with the reason of the failure.
#[test]
fn a_failing_places_provider_and_its_recovery_are_logged_once() {
    let port = free_port();
    let herd = Herd::solo_with(&format!(
        "places: {{provider: overpass, url: \"http://127.0.0.1:{port}/api\"}}"
    ));
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+34.068930-118.445127", "1");
    let mut radius = 0;
    let mut ask = || {
        radius += 1; // each question is another one
        client.whatsat("kiwi", &format!("0.{radius:04}"), "5")
    };
    for _ in 0..12 {
        ask();
    }
    herd.wait_for_log("Solo", &["WARNING", "circuit breaker is open", "refused"]);
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let body = "{\"elements\": []}";
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + body).as_bytes());
        }
    });
    eventually("the provider has recovered", DEADLINE, || {
        ask();
        let log = String::from_utf8_lossy(&herd.log("Solo")).into_owned();
        log.contains("circuit breaker is closed").then_some(())
    });
    let lines = herd.log_lines("Solo");
    let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    assert_eq!((of("circuit breaker is open until"), of("circuit breaker is closed")), (1, 1));
}

/// The reply to a line that is not valid is the same as always; the log has the reason.
#[test]
fn the_log_gives_the_reason_why_a_line_had_no_effect() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for (line, reason) in [
        ("IAMAT kiwi +91-118 1", "location: the latitude must be from -90 to +90"),
        ("IAMAT kiwi +34-118 now", "time: it must be a decimal number"),
        ("WHATSAT kiwi 51 5", "radius: it must be at most 50"),
        ("WHATSAT nobody 10 5", "client: this node holds no record of it"),
        ("iamat kiwi +34-118 1", "command: it must be in upper case"),
    ] {
        assert_bytes(&client.ask(line.as_bytes()), format!("? {line}\n").as_bytes());
        herd.wait_for_log("Solo", &[&format!(" invalid: {reason}")]);
    }
    for time in ["2", "2", "1"] {
        client.iamat("kiwi", "+34-118", time);
    }
    herd.wait_for_log("Solo", &[" > AT Solo ", "kiwi +34-118 2 (repeat, not stored)"]);
    herd.wait_for_log("Solo", &[" > AT Solo ", "kiwi +34-118 1 (stale, not stored)"]);
    // Without messages there are no reasons either.
    let mut herd = Herd::with_level(&[("Solo", &[])], "WARNING", "");
    herd.start("Solo");
    herd.client("Solo").ask(b"hello");
    assert_eq!(herd.counter("Solo", "log_lost_bytes_total"), 0); // after all lines
    assert!(!String::from_utf8_lossy(&herd.log("Solo")).contains("invalid"));
}

/// A FIFO without a reader cannot be opened without waiting for one. The node does not wait, and
/// continues the log when there is a reader again.
#[test]
fn a_fifo_that_loses_its_reader_affects_only_the_log() {
    let herd = herd_with_log("", |path| {
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
        let path = path.to_owned();
        thread::spawn(move || {
            let mut first = [0; 1];
            fs::File::open(path).unwrap().read_exact(&mut first).unwrap();
        });
    });
    let mut client = herd.client("Solo");
    eventually("the error is reported", DEADLINE, || {
        client.iamat("kiwi", "+1+1", "1");
        (write_error_reports(&herd) > 0).then_some(())
    });
    let start = Instant::now(); // long enough for a retry
    while start.elapsed() < Duration::from_millis(1_500) {
        client.iamat("kiwi", "+1+1", "2");
    }
    let mut reader = fs::File::open(herd.log_path("Solo")).unwrap(); // waits until the node opens it
    let mut text = Vec::new();
    client.iamat("later", "+1+1", "1");
    while !String::from_utf8_lossy(&text).contains("< IAMAT later") {
        let mut chunk = [0; 4096];
        let read = reader.read(&mut chunk).unwrap();
        text.extend_from_slice(&chunk[..read]);
    }
    assert!(String::from_utf8_lossy(&text).contains("bytes of the log could not be written"));
}
