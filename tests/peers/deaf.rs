//! A peer that is alive but does not read: the memory used for it is bounded, and when it reads
//! again it receives the newest records in the order in which they were queued.
//!
//! `DEAF_SECONDS` sets for how long it does not read; measurements are printed.

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::PAIR;
use crate::common::{Client, DEADLINE, Herd, eventually, lines};
use crate::peer::hello;

/// Number of clients, in addition to one that is updated far more often.
const CLIENTS: usize = 300;

/// Minimum number of updates: far more bytes than a node may buffer for a peer.
const UPDATES: usize = 16_000;

/// The default of `peers.max_send_buffer`, plus the minimum receive buffer of this end.
const BUFFERED: usize = 1_048_576 + 64 * 1024;

/// Number of pipelined updates.
const BATCH: usize = 100;

/// Updates of all clients in turn, alternating with updates of the client `hot`.
fn update(count: usize) -> (String, String) {
    let name = match count % 2 {
        0 => format!("{:0>1000}", count / 2 % CLIENTS),
        _ => format!("{:0>1000}", "hot"),
    };
    let command = format!("IAMAT {name} +1+1 {count}");
    (name, command)
}

fn name_of(line: &[u8]) -> String {
    String::from_utf8(line.split(|&byte| byte == b' ').nth(3).unwrap().to_vec()).unwrap()
}

/// Sends updates `from` to `to` and records the newest line of each client.
fn load(client: &mut Client, from: usize, to: usize, newest: &mut HashMap<String, Vec<u8>>) {
    let (names, commands): (Vec<_>, Vec<_>) = (from..to).map(update).unzip();
    client.send(&lines(commands));
    for name in names {
        newest.insert(name, client.line());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_peer_that_stops_reading_uses_little_memory_and_then_receives_the_newest_records() {
    let seconds = std::env::var("DEAF_SECONDS").map_or(2, |text| text.parse().unwrap());
    let mut herd = Herd::with_level(&PAIR, "WARNING", "");
    // This test is the node Right.
    let _right = TcpListener::bind(herd.address("Right")).unwrap();
    herd.start("Left");
    let mut newest = HashMap::new();
    let mut client = herd.client("Left");
    for from in (0..2 * CLIENTS).step_by(BATCH) {
        load(&mut client, from, from + BATCH, &mut newest);
    }

    let mut peer = Client::connect_narrow(herd.address("Left"));
    peer.send(&[&hello("Right", "Left", 1, false)[..], b"\n"].concat());
    assert!(peer.line().starts_with(b"HERD 2 Left Right "));
    let before = herd.resident_kib("Left");
    let done = AtomicBool::new(false);
    let mut stream = peer.stream().try_clone().unwrap();
    let (grown, count) = thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                // Keep the link alive.
                let _ = std::io::Write::write_all(&mut stream, b"PING 1 -\n");
                thread::sleep(Duration::from_millis(200));
            }
        });
        let start = Instant::now();
        let (mut count, mut max) = (2 * CLIENTS, before);
        while count < UPDATES || start.elapsed() < Duration::from_secs(seconds) {
            load(&mut client, count, count + BATCH, &mut newest);
            count += BATCH;
            max = max.max(herd.resident_kib("Left"));
        }
        done.store(true, Ordering::SeqCst);
        (max.saturating_sub(before), count)
    });

    // The peer reads until it has the newest record of each client.
    let mut received: Vec<Vec<u8>> = Vec::new();
    let mut missing: HashSet<&Vec<u8>> = newest.values().collect();
    let start = Instant::now();
    while !missing.is_empty() {
        assert!(start.elapsed() < 3 * DEADLINE, "{} records are missing", missing.len());
        let line = peer.line();
        if line.starts_with(b"AT ") {
            missing.remove(&line);
            received.push(line);
        }
    }
    let bytes: usize = received.iter().map(Vec::len).sum();
    println!(
        "{count} updates in {seconds} s or more: {grown} KiB of growth, {bytes} bytes received"
    );
    assert!(grown < 4 * 1024, "{grown} KiB of growth");
    let all_records = (CLIENTS + 1) * 1_100;
    assert!(bytes < BUFFERED + all_records, "{bytes} bytes: superseded records were sent");
    assert!(bytes < count * 1_000 / 4, "too few updates to test anything");

    // The records sent after it started to read: each client once, and the busiest not last.
    let tail = &received[received.len() - CLIENTS - 1..];
    let names: Vec<String> = tail.iter().map(|line| name_of(line)).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), CLIENTS + 1, "duplicate clients");
    let hot = names.iter().position(|name| name.ends_with("hot")).unwrap();
    assert!(hot < CLIENTS / 2, "the busiest client was number {hot}");
    // The link is still up and accepts records.
    peer.send(b"AT Right +0.500000000 fence +1+1 1\n");
    eventually("the link is up", DEADLINE, || herd.held("Left", "fence"));
}
