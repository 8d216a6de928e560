//! The log when it grows, when much is said, and when it cannot be written.

#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod common;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{DEADLINE, Herd, assert_bytes, eventually};

/// The rotated logs, the newest first.
fn rotated(herd: &Herd) -> Vec<PathBuf> {
    let log = herd.log_path("Solo");
    let numbered = (1..).map(|n| PathBuf::from(format!("{}.{n}", log.display())));
    numbered.take_while(|path| path.exists()).collect()
}

#[test]
fn the_log_is_rotated_and_the_oldest_goes() {
    let herd = Herd::solo_with("limits: {log_max_bytes: 65536, log_keep: 2}");
    let mut client = herd.client("Solo");
    let line = "x".repeat(1_000);
    for i in 0..400 {
        client.ask(format!("{i} {line}").as_bytes()); // 2 KiB of log each, 800 KiB in all
    }
    herd.wait_for_log("Solo", &["> ? 399 "]);
    let files = rotated(&herd);
    assert_eq!(files.len(), 2, "{files:?}");
    for file in files.iter().chain([&herd.log_path("Solo")]) {
        let text = fs::read(file).unwrap();
        // One write of what is buffered may be the first of its file.
        assert!(text.len() <= 65_536, "{} holds {} bytes", file.display(), text.len());
        assert!(text.ends_with(b"\n"), "{} ends within a line", file.display());
    }
    assert!(herd.counter("Solo", "log_rotations_total") >= 10);
}

#[test]
fn a_log_of_which_none_is_kept_starts_anew() {
    let herd = Herd::solo_with("limits: {log_max_bytes: 65536, log_keep: 0}");
    let mut client = herd.client("Solo");
    for i in 0..100 {
        client.ask(format!("{i} {}", "x".repeat(1_000)).as_bytes());
    }
    herd.wait_for_log("Solo", &["> ? 99 "]);
    assert_eq!(rotated(&herd).len(), 0);
    assert!(herd.log("Solo").len() <= 65_536);
}

/// What anybody can cause a thousand times is said a few times, and how often it was not said is
/// told when the second is over, without anything else happening.
#[test]
fn diagnostics_of_one_kind_are_counted_rather_than_repeated() {
    let herd = Herd::solo_with("limits: {max_log_lines_per_second: 3, max_connections: 1}");
    let _served = eventually("the one place is taken", DEADLINE, || {
        let mut client = herd.client("Solo"); // the one that looked whether it accepts may count
        (client.ask(b"hello") == b"? hello\n").then_some(client)
    });
    let start = Instant::now();
    for _ in 0..200 {
        assert_bytes(&herd.client("Solo").rest(), b"? too many connections\n");
    }
    herd.wait_for_log("Solo", &["diagnostic lines were suppressed"]);
    eventually("all of them are told or counted", DEADLINE, || {
        let log = herd.log_lines("Solo");
        let told = log.iter().filter(|line| line.contains("is refused")).count() as u64;
        let counted: u64 = log
            .iter()
            .filter_map(|line| line.strip_suffix(" diagnostic lines were suppressed"))
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum();
        let refused = herd.counter("Solo", "connections_refused_total");
        let seconds = start.elapsed().as_secs() + 2; // those before included
        assert!(told <= 3 * seconds, "{told} were told in {seconds} s");
        (told + counted == refused).then_some(())
    });
    assert!(herd.counter("Solo", "log_lines_suppressed_total") > 100);
}

/// A file that cannot be moved away goes on growing, which is told once, and is no rotation.
#[test]
fn a_log_that_cannot_be_rotated_goes_on() {
    let mut herd = Herd::solo_with("limits: {log_max_bytes: 65536, log_keep: 1}");
    let in_the_way = herd.log_path("Solo").with_extension("log.1");
    fs::create_dir_all(in_the_way.join("not-empty")).unwrap();
    let mut client = herd.client("Solo");
    let start = Instant::now();
    for i in 0.. {
        client.iamat("vehicle", "+34.068930-118.445127", &i.to_string());
        // Long enough for several tries, and many lines.
        if start.elapsed() > Duration::from_millis(2_500) && i > 2_000 {
            break;
        }
    }
    assert_eq!(herd.stderr("Solo").matches("cannot be moved").count(), 1);
    assert_eq!(herd.counter("Solo", "log_rotations_total"), 0);
    assert!(herd.log("Solo").len() > 65_536);
    fs::remove_dir_all(&in_the_way).unwrap();
    eventually("it is rotated once it can be", DEADLINE, || {
        client.iamat("vehicle", "+34.068930-118.445127", "1");
        in_the_way.is_file().then_some(())
    });
    herd.signal("Solo", "TERM");
    assert_eq!(herd.wait("Solo", DEADLINE).code(), Some(0));
}

/// Whoever asks for the counters gets them each time: they are no diagnostics that come too often.
#[test]
fn counters_are_written_as_often_as_they_are_asked_for() {
    let herd = Herd::solo_with("limits: {max_log_lines_per_second: 1}");
    for _ in 0..5 {
        assert_eq!(herd.counter("Solo", "log_lines_suppressed_total"), 0);
    }
}

fn complaints(herd: &Herd) -> usize {
    herd.stderr("Solo").matches("cannot be written").count()
}

/// A node whose log goes to a full disk from the start, and a client that it serves.
#[test]
fn a_full_disk_stops_the_log_and_nothing_else() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    let log = herd.log_path("Solo");
    fs::create_dir_all(log.parent().unwrap()).unwrap();
    symlink("/dev/full", &log).unwrap();
    herd.start("Solo");
    let mut client = herd.client("Solo");
    client.iamat("before", "+1+1", "1");
    eventually("it complains", DEADLINE, || (complaints(&herd) > 0).then_some(()));
    // Longer than until it has tried again.
    let start = Instant::now();
    for i in 0.. {
        client.iamat("meanwhile", "+1+1", &i.to_string());
        if start.elapsed() > Duration::from_millis(2_500) {
            break;
        }
    }
    assert_eq!(complaints(&herd), 1, "{}", herd.stderr("Solo"));
    // The directory itself is gone for a while: nothing can be opened.
    let (directory, aside) = (log.parent().unwrap(), herd.directory().join("aside"));
    fs::rename(directory, &aside).unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(2_500) {
        client.iamat("meanwhile", "+2+2", "1");
    }
    assert_eq!(complaints(&herd), 1, "{}", herd.stderr("Solo"));
    fs::create_dir(directory).unwrap();
    eventually("the log is there again", DEADLINE, || {
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

/// A disk that fills within a line, and has room again: what is written then begins a line of its
/// own, and what was lost is told.
#[cfg(target_os = "linux")]
#[test]
fn a_line_that_a_full_disk_cut_short_has_its_end() {
    use rlimit::{INFINITY, Resource, prlimit};
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.ask(b"before");
    herd.wait_for_log("Solo", &["closed"]); // the one that looked whether the node accepts
    herd.wait_for_log("Solo", &["> ? before"]);
    let whole = herd.log("Solo");
    let room = whole.len() as u64 + 20; // less than a time and a level
    let pid = i32::try_from(herd.pid("Solo")).unwrap();
    prlimit(pid, Resource::FSIZE, Some((room, INFINITY)), None).unwrap();
    client.ask(b"cut short");
    eventually("it complains", DEADLINE, || (complaints(&herd) > 0).then_some(()));
    let cut = herd.log("Solo");
    assert_eq!((&cut[..whole.len()], cut.len() as u64), (&whole[..], room));
    prlimit(pid, Resource::FSIZE, Some((INFINITY, INFINITY)), None).unwrap();
    eventually("the log goes on", DEADLINE, || {
        client.ask(b"after");
        herd.log("Solo").ends_with(b"> ? after\n").then_some(())
    });
    let log = herd.log("Solo");
    let (torn, rest) = log[whole.len()..].split_at(20);
    assert_bytes(torn, &cut[whole.len()..]);
    let rest = str::from_utf8(rest).unwrap();
    let (note, rest) = rest.strip_prefix("\n… ").unwrap().split_once('\n').unwrap();
    let lost = note.strip_suffix(" bytes of the log could not be written").unwrap();
    assert_eq!(lost.parse(), Ok(herd.counter("Solo", "log_lost_bytes_total")));
    assert!(rest.contains(" < after\n") && !rest.contains("cut short"), "{rest}");
}

/// `ulimit -f`: the write that goes over it fails, and without more the signal would end the node.
#[test]
fn a_limit_on_the_size_of_files_is_like_a_full_disk() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    // 4 KiB, or 8 where the shell counts in kilobytes.
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
    eventually("it complains", DEADLINE, || (complaints(&herd) > 0).then_some(()));
    // Somebody makes room.
    fs::rename(herd.log_path("Solo"), herd.directory().join("full.log")).unwrap();
    eventually("the log goes on", DEADLINE, || {
        client.ask(b"hello");
        let log = String::from_utf8(herd.log("Solo")).ok()?;
        log.contains("bytes of the log could not be written").then_some(())
    });
    assert!(herd.log("Solo").starts_with("… ".as_bytes()), "the file that was cut short is away");
    assert!(herd.is_running("Solo"));
}
