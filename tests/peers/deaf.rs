//! A peer that is alive and does not read: what a node holds for it is bounded, and what it is told
//! in the end is the newest, in the order in which it became due.
//!
//! `DEAF_SECONDS` says for how long it does not read; the figures are printed.

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::PAIR;
use crate::common::{Client, DEADLINE, Herd, eventually, lines};
use crate::peer::hello;

/// Clients that move, beside one that moves all the time.
const CLIENTS: usize = 300;

/// Updates at the least: far more bytes than a node may hold for a peer.
const UPDATES: usize = 16_000;

/// `peers.max_send_buffer` by default, and what the smallest buffer of this side takes.
const HELD: usize = 1_048_576 + 64 * 1024;

/// Updates that are sent before their replies are read.
const BATCH: usize = 100;

/// An update of each client in turn, each followed by one of the client that moves all the time.
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

/// Updates `from` to `to`; keeps the newest line of each client.
fn load(client: &mut Client, from: usize, to: usize, newest: &mut HashMap<String, Vec<u8>>) {
    let (names, commands): (Vec<_>, Vec<_>) = (from..to).map(update).unzip();
    client.send(&lines(commands));
    for name in names {
        newest.insert(name, client.line());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_deaf_peer_costs_little_and_is_told_the_newest_in_fair_order() {
    let seconds = std::env::var("DEAF_SECONDS").map_or(2, |text| text.parse().unwrap());
    let mut herd = Herd::with_level(&PAIR, "WARNING", "");
    // Nobody but this test is Right.
    let _right = TcpListener::bind(herd.address("Right")).unwrap();
    herd.start("Left");
    let mut newest = HashMap::new();
    let mut client = herd.client("Left");
    for from in (0..2 * CLIENTS).step_by(BATCH) {
        load(&mut client, from, from + BATCH, &mut newest);
    }

    let mut peer = Client::connect_narrow(herd.address("Left"));
    peer.send(&[&hello("Right", "Left", 1, false)[..], b"\n"].concat());
    assert!(peer.line().starts_with(b"HERD 1 Left Right "));
    let before = herd.resident_kib("Left");
    let over = AtomicBool::new(false);
    let mut stream = peer.stream().try_clone().unwrap();
    let (grown, count) = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                // It is alive, and says so.
                let _ = std::io::Write::write_all(&mut stream, b"PING 1\n");
                thread::sleep(Duration::from_millis(200));
            }
        });
        let start = Instant::now();
        let (mut count, mut most) = (2 * CLIENTS, before);
        while count < UPDATES || start.elapsed() < Duration::from_secs(seconds) {
            load(&mut client, count, count + BATCH, &mut newest);
            count += BATCH;
            most = most.max(herd.resident_kib("Left"));
        }
        over.store(true, Ordering::SeqCst);
        (most.saturating_sub(before), count)
    });

    // It reads at last: until it has the newest of all.
    let mut told: Vec<Vec<u8>> = Vec::new();
    let mut missing: HashSet<&Vec<u8>> = newest.values().collect();
    let start = Instant::now();
    while !missing.is_empty() {
        assert!(start.elapsed() < 3 * DEADLINE, "{} are not told", missing.len());
        let line = peer.line();
        if line.starts_with(b"AT ") {
            missing.remove(&line);
            told.push(line);
        }
    }
    let bytes: usize = told.iter().map(Vec::len).sum();
    println!("{count} updates in {seconds} s or more: {grown} KiB more, {bytes} bytes told");
    assert!(grown < 4 * 1024, "{grown} KiB more than before");
    let all_of_them = (CLIENTS + 1) * 1_100;
    assert!(bytes < HELD + all_of_them, "{bytes} bytes: old records were kept for it");
    assert!(bytes < count * 1_000 / 4, "there was too little to be held");

    // What was put together when it read: each client once, the busiest not behind all others.
    let tail = &told[told.len() - CLIENTS - 1..];
    let names: Vec<String> = tail.iter().map(|line| name_of(line)).collect();
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), CLIENTS + 1, "one was told twice");
    let hot = names.iter().position(|name| name.ends_with("hot")).unwrap();
    assert!(hot < CLIENTS / 2, "the busiest client was told as number {hot}");
    // And the link has stood all the time: what it says is still heard.
    peer.send(b"AT Right +0.500000000 heard +1+1 1\n");
    eventually("the link stands", DEADLINE, || herd.held("Left", "heard"));
}
