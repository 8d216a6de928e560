//! The storage on a simulated disk: random operations, faults, crashes and restarts, each followed by
//! a comparison with what was promised; and every truncation and every flipped bit of small files.
//!
//! `cargo test --test storage` runs the schedules of seeds 0 to 499. The variables of
//! `tests/common/seeds.rs` change that.

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

#[path = "../common/seeds.rs"]
mod seeds;

use schedule::{Report, Schedule};

/// Schedules that the test suite runs.
const SHORT_RUN: u64 = 500;

#[test]
fn schedules_keep_what_was_promised() {
    let run = seeds::Run { binary: "storage", schedules: SHORT_RUN };
    let attempt = |seed, traced| Ok(Schedule::new(seed, traced).run());
    if let Some((count, total)) = run.execute(attempt, Report::add)
        && count >= SHORT_RUN
    {
        total.check_coverage();
    }
}
