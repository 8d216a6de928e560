//! Hostile clients and a machine that fails, against the real binary: crowds, clients that do not
//! read, storms of connects, noise, more clients than the cap, floods, and errors of the system.
//!
//! As part of `cargo test` every crowd is small and nothing is timed. `scripts/hostile.sh` runs
//! the same at full size on a release build, prints the figures and holds latency to its promise.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod crowd;
mod deaf;
mod flood;
mod ids;
mod kernel;
mod machine;
mod noise;
mod peers;
mod storm;

use std::time::{Duration, Instant};

use common::Client;

/// `full` at the size that the tests promise, `part` in the suite.
fn size(full: usize, part: usize) -> usize {
    if is_full() { full } else { part }
}

/// Whether this is the run at full size.
fn is_full() -> bool {
    std::env::var_os("HOSTILE").is_some_and(|size| size == "full")
}

/// The 99th percentile of `count` questions that each wait for their answer: the best of five
/// rounds, since whatever else the machine does makes them only longer.
fn p99(client: &mut Client, count: usize) -> Duration {
    let mut round = || {
        let mut took: Vec<Duration> = (0..count)
            .map(|i| {
                let asked = Instant::now();
                client.iamat("healthy", "+34.07-118.45", &format!("{i}"));
                asked.elapsed()
            })
            .collect();
        took.sort_unstable();
        took[count * 99 / 100]
    };
    (0..5).map(|_| round()).min().unwrap()
}
