//! The simulator: many cores under one seeded virtual clock and network.
//!
//! `cargo test --test sim` runs the schedules of seeds 0 to 299. These variables change that:
//! - `SIM_SEED=N` replays the schedule of seed N and prints what happens in it;
//! - `SIM_SCHEDULES=N` runs N schedules instead of 300;
//! - `SIM_FIRST=N` starts at seed N.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod clocks;
mod every_order;
mod network;
mod oracle;
mod original;
mod rules;
mod schedule;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use schedule::Schedule;
use trace::Trace;
use world::{Report, World};

/// Schedules that the test suite runs.
const SHORT_RUN: u64 = 300;

/// Failures after which a run stops.
const MAX_FAILURES: usize = 10;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")))
}

/// Runs the schedule of `seed`. A panic of the core is a failure like any other.
fn attempt(seed: u64) -> Result<Report, String> {
    catch_unwind(|| world::run(seed)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| "panicked".to_owned()))
    })
}

/// Runs `work` on each processor and waits for all of them.
fn on_all_processors(work: impl Fn() + Sync) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(&work);
        }
    });
}

/// Runs `count` seeds from `first` on all processors, but none after [`MAX_FAILURES`] failures.
/// Returns the failures and the sum of the reports.
fn run_all(first: u64, count: u64) -> (Vec<(u64, String)>, Report) {
    let next = AtomicU64::new(first);
    let failures = Mutex::new(Vec::new());
    let total = Mutex::new(Report::default());
    on_all_processors(|| {
        while failures.lock().unwrap().len() < MAX_FAILURES {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            match attempt(seed) {
                Ok(report) => total.lock().unwrap().add(&report),
                Err(why) => failures.lock().unwrap().push((seed, why)),
            }
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    (failures, total.into_inner().unwrap())
}

/// Runs the schedule of `seed` once more and prints what happens.
fn replay(seed: u64) -> Result<Report, String> {
    let mut world = World::new(Schedule::new(seed), Trace::on());
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    for line in world.trace.lines() {
        println!("{line}");
    }
    result.unwrap_or_else(|_| Err("panicked".to_owned()))
}

#[test]
fn schedules_converge() {
    if let Some(seed) = variable("SIM_SEED") {
        let report = replay(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        println!("seed {seed} passed: {report:?}");
        return;
    }
    let (first, count) =
        (variable("SIM_FIRST").unwrap_or(0), variable("SIM_SCHEDULES").unwrap_or(SHORT_RUN));
    let began = Instant::now();
    let (failures, total) = run_all(first, count);
    for (seed, why) in &failures {
        println!("seed {seed}: {why}");
    }
    if let Some((seed, _)) = failures.first() {
        println!("replay: SIM_SEED={seed} cargo test --test sim schedules -- --nocapture");
    }
    assert!(failures.is_empty(), "at least {} of {count} schedules failed", failures.len());
    let took = began.elapsed().as_secs_f64();
    println!("{count} schedules in {took:.1} s, {:.0} per second: {total:?}", count as f64 / took);
}
