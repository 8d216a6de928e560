//! The storage on a simulated disk: random operations, faults, crashes and restarts, each followed by
//! a comparison with what was promised; and every truncation and every flipped bit of small files.
//!
//! `cargo test --test storage` runs the schedules of seeds 0 to 499. These variables change that:
//! - `SIM_SEED=N` replays the schedule of seed N and prints what happens in it;
//! - `SIM_SCHEDULES=N` runs N schedules;
//! - `SIM_FIRST=N` starts at seed N.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod damage;
mod erasure;
mod node;
mod rules;
mod schedule;
mod size;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use schedule::{Report, Schedule};

/// Schedules that the test suite runs.
const SHORT_RUN: u64 = 500;

/// Failures after which a run stops.
const MAX_FAILURES: usize = 10;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")))
}

fn attempt(seed: u64, traced: bool) -> Result<Report, String> {
    catch_unwind(|| Schedule::new(seed, traced).run()).map_err(|panic| {
        panic.downcast_ref::<String>().cloned().unwrap_or_else(|| {
            panic.downcast_ref::<&str>().map_or("panicked".to_owned(), |text| (*text).to_owned())
        })
    })
}

#[test]
fn schedules_keep_what_was_promised() {
    if let Some(seed) = variable("SIM_SEED") {
        let report = attempt(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!("seed {seed} passed: {report:?}");
        return;
    }
    let first = variable("SIM_FIRST").unwrap_or(0);
    let count = variable("SIM_SCHEDULES").unwrap_or(SHORT_RUN);
    let next = AtomicU64::new(first);
    let (failures, total) = (Mutex::new(Vec::new()), Mutex::new(Report::default()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failures.lock().unwrap().len() < MAX_FAILURES {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        break;
                    }
                    match attempt(seed, false) {
                        Ok(report) => total.lock().unwrap().add(&report),
                        Err(why) => failures.lock().unwrap().push((seed, why)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    for (seed, why) in &failures {
        println!("seed {seed}: {why}");
    }
    if let Some((seed, _)) = failures.first() {
        println!("replay: SIM_SEED={seed} cargo test --test storage schedules -- --nocapture");
    }
    assert!(failures.is_empty(), "at least {} of {count} schedules failed", failures.len());
    let total = total.into_inner().unwrap();
    println!("{count} schedules: {total:?}");
    if count >= SHORT_RUN {
        total.check_coverage();
    }
}
