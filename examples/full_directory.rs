//! The longest time that a full directory takes to store one record.
//!
//! All clients move, in random order, and then a new one arrives, for which the least must be evicted;
//! and so on. Times are CPU time, since a busy machine interrupts the process.
//!
//! Usage: `full_directory CLIENTS`.

#![allow(clippy::expect_used, reason = "a developer tool may panic on an invalid argument")]

use std::time::Duration;

use proxy_herd::herd::directory::{Directory, Rules, Source};
use proxy_herd::protocol::record::Record;
use proxy_herd::rng::Rng;
use proxy_herd::testing::{KEYS, identity};
use proxy_herd::time::Wall;

const ROUNDS: u32 = 3;

/// Clients that arrive in a row.
const NEW: u64 = 1000;

struct Load {
    directory: Directory,
    /// Time of the last record, in microseconds.
    time: u64,
}

impl Load {
    fn apply(&mut self, client: u64) {
        self.time += 1;
        let (seconds, micros) = (self.time / 1_000_000, self.time % 1_000_000);
        let line = format!(
            "AT A +0.263873386 client{client:08}.example.org +34.068930-118.445127 {seconds}.{micros:06}"
        );
        let record = Record::parse(line.as_bytes()).expect("the line is a record");
        self.directory.apply(&record, Source::Peer, Wall(record.received));
    }
}

fn main() {
    let argument = std::env::args().nth(1).expect("usage: full_directory CLIENTS");
    let clients: u64 = argument.parse().expect("CLIENTS is a number");
    let rules = Rules { max_clients: clients as u32, ..identity(&["A"], 0, &[]).rules };
    let mut load =
        Load { directory: Directory::new(rules, KEYS.keys(None)), time: 1_621_464_828_000_000 };
    let mut living: Vec<u64> = (0..clients).collect();
    for &client in &living {
        load.apply(client);
    }
    let mut rng = Rng::new(1);
    let (mut moves, mut first, mut all) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for round in 1..=ROUNDS {
        for i in (1..living.len()).rev() {
            living.swap(i, rng.index(i + 1));
        }
        let start = cpu_time();
        for &client in &living {
            load.apply(client);
        }
        moves += cpu_time().saturating_sub(start);
        let new: Vec<u64> = (0..NEW).map(|i| u64::from(round) * 10_000_000 + i).collect();
        let start = cpu_time();
        load.apply(new[0]);
        first = first.max(cpu_time().saturating_sub(start));
        for &client in &new[1..] {
            load.apply(client);
        }
        all += cpu_time().saturating_sub(start);
        living.splice(..NEW as usize, new);
    }
    println!(
        "{clients} clients: {:?} per move, {:?} per new client, {first:?} for the first after all have moved",
        moves / ROUNDS / clients as u32,
        all / ROUNDS / NEW as u32,
    );
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs is mounted");
    status.lines().filter(|line| line.starts_with("VmHWM")).for_each(|line| println!("{line}"));
}

/// The time that this thread has been executed.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("procfs is mounted");
    let nanos = text.split(' ').next().expect("the first field");
    Duration::from_nanos(nanos.parse().expect("nanoseconds"))
}
