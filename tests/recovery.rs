//! Recovery of a returning node, and records that are not sent to it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use common::{At, DEADLINE, FIVE, Herd, Whatsat, eventually, lines, seconds, show, wall_ns};

const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

/// Sends updates on one connection and returns the AT line of each client.
fn update(herd: &Herd, name: &str, updates: &[(String, String)]) -> BTreeMap<String, Vec<u8>> {
    let mut client = herd.client(name);
    let iamat = |(id, time): &(String, String)| format!("IAMAT {id} +34.07-118.45 {time}");
    let sender = client.send_in_background(lines(updates.iter().map(iamat)));
    let line_of = |(id, time): &(String, String)| {
        let line = client.line();
        let own = format!("{id} +34.07-118.45 {time}");
        assert!(At::parse(&line).own == own.as_bytes(), "{} for {own}", show(&line));
        (id.clone(), line)
    };
    let held = updates.iter().map(line_of).collect();
    sender.join().unwrap();
    held
}

/// Waits until a node stores exactly these lines.
fn wait_until_all_held(herd: &Herd, name: &str, records: &BTreeMap<String, Vec<u8>>) {
    let mut missing: Vec<_> = records.iter().collect();
    eventually(&format!("{name} stores {} records", records.len()), 3 * DEADLINE, || {
        let mut client = herd.client(name);
        let queries = lines(missing.iter().map(|(id, _)| format!("WHATSAT {id} 0 0")));
        let sender = client.send_in_background(queries);
        missing.retain(|(_, record)| {
            let line = client.line();
            if !line.starts_with(b"? ") {
                Whatsat::parse(&[&line[..], &client.until(b"\n\n")].concat());
            }
            line != **record
        });
        sender.join().unwrap();
        missing.is_empty().then_some(())
    });
}

fn links_with(herd: &Herd, name: &str, neighbor: &str) -> usize {
    let linked = format!(" linked with {neighbor}");
    herd.log_lines(name).iter().filter(|line| line.contains(&linked)).count()
}

/// Right is stopped, Left stores a record and dies, and Right continues after the timeout of its links.
fn stop_longer_than_the_timeout(herd: &mut Herd, timeout: Duration, meanwhile: impl FnOnce()) {
    herd.signal("Right", "STOP");
    meanwhile();
    let line = herd.client("Left").iamat("kiwi", "+1+1", &seconds(wall_ns()));
    let sent = format!("Right > {}", line.trim_ascii_end().escape_ascii());
    eventually("Left has sent the record", DEADLINE, || {
        herd.log_lines("Left").iter().any(|logged| logged.ends_with(&sent)).then_some(())
    });
    // Left must not dial again: a new connection would replace the old one, which is closed even if
    // it is unread.
    herd.kill("Left");
    thread::sleep(timeout);
    herd.signal("Right", "CONT");
    herd.wait_until_held(&["Right".to_owned()], "kiwi", &line);
}

/// A node that was stopped for longer than the timeout of its links reads what has arrived meanwhile
/// before it gives them up: the neighbor that has acknowledged it may have died since.
#[test]
fn a_node_that_was_stopped_reads_its_links_before_it_gives_them_up() {
    let mut herd = Herd::new(&PAIR, "peers: {timeout_ms: 2000, keepalive_ms: 200}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    stop_longer_than_the_timeout(&mut herd, Duration::from_secs(2), || {});
}

/// The same with more clients that have sent something meanwhile than the kernel reports at once.
#[test]
fn a_link_is_read_in_time_behind_a_crowd_of_clients() {
    let crowd = 1500; // a poll returns 1,024 events
    rlimit::increase_nofile_limit(crowd + 1000).unwrap();
    // Left must not send a ping before the crowd has sent its updates.
    let mut herd = Herd::new(&PAIR, "peers: {timeout_ms: 5000, keepalive_ms: 2500}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let mut clients: Vec<_> = (0..crowd).map(|_| herd.client("Right")).collect();
    for client in &mut clients {
        client.iamat("idle", "+1+1", &seconds(wall_ns()));
    }
    stop_longer_than_the_timeout(&mut herd, Duration::from_secs(5), || {
        for client in &mut clients {
            client.send(b"IAMAT crowd +1+1 1\n");
        }
    });
}

/// What a dead neighbor has sent is read to the end, also if output for it fails in between.
#[test]
fn a_link_whose_output_fails_is_read_to_its_end() {
    let line = [("Left", &["Middle"][..]), ("Middle", &["Right"]), ("Right", &[])];
    let mut herd = Herd::new(&line, "peers: {timeout_ms: 60000}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    herd.signal("Middle", "STOP");
    // Both fit into the socket buffers of Middle, which reads them in several turns, and sends Left
    // in each of them what it has read from Right.
    let updates = |node: &str| (0..3000).map(|i| (format!("{node}{i}"), i.to_string())).collect();
    let mut records = update(&herd, "Left", &Vec::from_iter::<Vec<_>>(updates("left")));
    records.extend(update(&herd, "Right", &Vec::from_iter::<Vec<_>>(updates("right"))));
    herd.kill("Left");
    herd.signal("Middle", "CONT");
    wait_until_all_held(&herd, "Middle", &records);
}

/// The limit on client lines does not apply to links, whose listings are longer.
#[test]
fn the_line_limit_of_clients_does_not_apply_to_links() {
    // A long timeout, so that no link is lost on a slow machine.
    let limits = "limits: {max_line: 128}\npeers: {antientropy_interval_s: 1, timeout_ms: 60000}";
    let mut herd = Herd::new(&PAIR, limits);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let name = "n".repeat(70);
    let updates: Vec<_> = (0..500).map(|i| (format!("{name}{i}"), i.to_string())).collect();
    let records = update(&herd, "Left", &updates);
    wait_until_all_held(&herd, "Right", &records);

    herd.kill("Right");
    herd.start("Right");
    wait_until_all_held(&herd, "Right", &records);
    // The link stays up while digests are compared three more times. In the first second, one link
    // may replace another if both ends have dialed.
    let start = Instant::now();
    let mut before = None;
    for i in 0.. {
        if start.elapsed() > Duration::from_secs(1) {
            before.get_or_insert_with(|| links_with(&herd, "Left", "Right"));
        }
        let line = herd.client("Right").iamat("later", "+1+1", &i.to_string());
        herd.wait_until_held(&["Left".to_owned()], "later", &line);
        if start.elapsed() > Duration::from_millis(4_500) {
            break;
        }
        thread::sleep(Duration::from_millis(50)); // request interval of this client
    }
    assert_eq!(before, Some(links_with(&herd, "Left", "Right")), "the link was replaced");
    for name in herd.names() {
        let log = herd.log_lines(&name);
        assert!(!log.iter().any(|line| line.contains("too long")), "{name}: {log:#?}");
    }
}

/// Expired records are removed without being queried, and are not sent to a returning neighbor.
#[test]
fn expired_records_are_removed_and_not_sent() {
    let mut herd =
        Herd::new(&PAIR, "limits: {client_ttl_s: 2}\npeers: {antientropy_interval_s: 1}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let now = wall_ns();
    let updates: Vec<_> = (0..200).map(|i| (format!("c{i}"), seconds(now + i))).collect();
    update(&herd, "Left", &updates);
    // Right returns shortly before the records expire.
    herd.kill("Right");
    herd.start("Right");
    herd.wait_for_log("Left", &["closed, the link with Right"]);
    for name in herd.names() {
        eventually(&format!("{name} has removed all records"), DEADLINE, || {
            (herd.counter(&name, "clients") == 0).then_some(())
        });
    }
    assert!(herd.counter("Left", "clients_expired_total") >= 200);
    for name in herd.names() {
        let replies = herd.exchange(&name, b"WHATSAT c0 10 5\nWHATSAT c199 0 0\n");
        assert_eq!(show(&replies), "? WHATSAT c0 10 5\\n? WHATSAT c199 0 0\\n");
    }

    let sent = |herd: &Herd| {
        let of_them = |line: &&String| line.contains(" > AT ") && line.contains(" c1");
        herd.log_lines("Left").iter().filter(of_them).count()
    };
    let before = sent(&herd);
    herd.kill("Right");
    herd.start("Right");
    let start = Instant::now();
    for i in 0.. {
        // New records are stored and flooded as usual while digests are compared.
        herd.wait_until_connected(&herd.names());
        let replies = herd.exchange("Right", format!("WHATSAT c{} 0 0\n", i % 200).as_bytes());
        assert!(replies.starts_with(b"? "), "{}", show(&replies));
        if start.elapsed() > Duration::from_millis(3_500) {
            break;
        }
        thread::sleep(Duration::from_millis(50)); // request interval of this client
    }
    assert_eq!(sent(&herd), before, "Left sends expired records");
    for name in herd.names() {
        assert!(herd.counter(&name, "clients") <= 2, "only the probes are stored");
    }
}

/// A node that returns empty receives all records. Without a failure, no record has to be repaired.
#[test]
fn a_node_that_returns_empty_recovers_all_records() {
    let mut herd = Herd::new(&FIVE, "peers: {antientropy_interval_s: 1}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let mut records = BTreeMap::new();
    for (part, name) in herd.names().iter().enumerate() {
        let first = part * 400;
        let updates: Vec<_> =
            (first..first + 400).map(|i| (format!("c{i}"), "1".to_owned())).collect();
        records.append(&mut update(&herd, name, &updates));
    }
    for name in herd.names() {
        wait_until_all_held(&herd, &name, &records);
    }
    thread::sleep(Duration::from_millis(1_500)); // longer than antientropy_interval_s
    for name in herd.names() {
        assert_eq!(
            herd.counter(&name, r#"updates_repaired_total{round="check"}"#),
            0,
            "{name}: repaired without a failure"
        );
        assert_eq!(herd.counter(&name, "clients"), 2_005, "{name}: 2,000 clients and five probes");
    }

    herd.kill("Campbell");
    for (part, name) in ["Bailey", "Jaquez"].iter().enumerate() {
        let first = part * 250;
        let updates: Vec<_> =
            (first..first + 250).map(|i| (format!("c{}", i * 3), "2".to_owned())).collect();
        records.append(&mut update(&herd, name, &updates));
    }
    herd.start("Campbell");
    let back = Instant::now();
    for name in herd.names() {
        wait_until_all_held(&herd, &name, &records);
    }
    println!("all nodes store all records {:?} after the return", back.elapsed());
    let synced = herd.counter("Campbell", r#"updates_repaired_total{round="sync"}"#);
    assert!(synced > 1_000, "only {synced} records came with the synchronization of links");
}

/// More clients than the limit are reported to all nodes while one is down. All nodes keep the same
/// clients: the newest.
#[test]
fn above_max_clients_all_nodes_keep_the_newest_clients() {
    let cap = 300;
    let mut herd = Herd::new(&FIVE, &format!("limits: {{max_clients: {cap}}}"));
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    herd.kill("Campbell");
    let writers = ["Bailey", "Bona", "Clark", "Jaquez"];
    let records: BTreeMap<String, Vec<u8>> = thread::scope(|scope| {
        let herd = &herd;
        let write = |(first, name): (usize, &'static str)| {
            let mine = (0..250).map(|i| (i * 4 + first).to_string());
            let updates: Vec<_> = mine.map(|number| (format!("c{number}"), number)).collect();
            scope.spawn(move || update(herd, name, &updates))
        };
        let writing: Vec<_> = writers.into_iter().enumerate().map(write).collect();
        writing.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
    });
    herd.start("Campbell");
    // The probes of wait_until_connected are newer than all of these.
    let probes = writers.len() + 1;
    let is_kept = |id: &str| id[1..].parse::<usize>().unwrap() >= 1_000 - (cap - probes);
    let (mut kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
        records.into_iter().partition(|(id, _)| is_kept(id));
    // An evicted client returns with a newer time and displaces the oldest kept one.
    kept.append(&mut update(&herd, "Clark", &[("c0".to_owned(), "2000".to_owned())]));
    kept.remove(&format!("c{}", 1_000 - (cap - probes)));
    for name in herd.names() {
        wait_until_all_held(&herd, &name, &kept);
        eventually(&format!("{name} stores max_clients records"), DEADLINE, || {
            (herd.counter(&name, "clients") == cap as u64).then_some(())
        });
        for id in gone.keys().filter(|id| *id != "c0") {
            assert_eq!(herd.held(&name, id), None, "{name} stores {id}");
        }
    }
}
