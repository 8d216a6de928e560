//! Hostile clients and system failures, tested against the real binary: many connections, clients
//! that do not read, bursts of connects and resets, random bytes, too many client ids, request
//! floods, and failing system calls.
//!
//! As part of `cargo test`, the scale is small and latency is not checked. `scripts/hostile.sh`
//! runs the tests at full scale on a release build, prints measurements and checks latency.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
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

/// `full` at full scale, otherwise `part`.
fn size(full: usize, part: usize) -> usize {
    if is_full() { full } else { part }
}

/// Returns whether the tests run at full scale.
fn is_full() -> bool {
    std::env::var_os("HOSTILE").is_some_and(|size| size == "full")
}

/// The 99th percentile of the latency of `count` sequential requests: the minimum of five rounds,
/// since other load on the machine can only increase it.
fn p99(client: &mut Client, count: usize) -> Duration {
    let mut round = || {
        let mut latencies: Vec<Duration> = (0..count)
            .map(|i| {
                let sent = Instant::now();
                client.iamat("healthy", "+34.07-118.45", &format!("{i}"));
                sent.elapsed()
            })
            .collect();
        latencies.sort_unstable();
        latencies[count * 99 / 100]
    };
    (0..5).map(|_| round()).min().unwrap()
}
