//! The simulator: many cores under one seeded virtual clock and network.
//!
//! `cargo test --test sim` runs the schedules of seeds 0 to 299. The variables of
//! `tests/common/seeds.rs` change that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod change;
mod clocks;
mod every_order;
mod fences;
mod graph;
mod network;
mod oracle;
mod original;
mod rolling;
mod rules;
mod schedule;
mod trace;
mod twin;
mod work;
mod world;

#[path = "../common/seeds.rs"]
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use schedule::Schedule;
use trace::Trace;
use world::{Report, World};

/// Schedules that the test suite runs.
const SHORT_RUN: u64 = 300;

/// Runs the schedule of `seed`, and prints what happens if it is `traced`.
fn attempt(seed: u64, traced: bool) -> Result<Report, String> {
    if !traced {
        return world::run(seed);
    }
    let mut world = World::new(Schedule::new(seed), Trace::on());
    let result = catch_unwind(AssertUnwindSafe(|| world.run()));
    for line in world.trace.lines() {
        println!("{line}");
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

#[test]
fn schedules_converge() {
    let run = seeds::Run { binary: "sim", schedules: SHORT_RUN };
    if let Some((schedules, report)) = run.execute(attempt, Report::add) {
        assert!(schedules < 100 || report.transitions > 0, "no client has stayed with one node");
    }
}
