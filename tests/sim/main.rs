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
use std::path::Path;
use std::process::Command;

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

/// The commands of the documents are the same, and do what they promise.
#[test]
fn a_failed_seed_can_be_replayed_as_documented() {
    let commands = ["scripts/sim.sh", "docs/testing.md"].map(|path| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let text = std::fs::read_to_string(path).unwrap();
        let (_, command) = text.split_once("SIM_SEED=").unwrap();
        let (_, command) = command.lines().next().unwrap().split_once(' ').unwrap();
        command.to_owned()
    });
    assert_eq!(commands[0], commands[1]);
    let arguments = commands[0].strip_prefix("cargo test --test sim ").unwrap();
    // Cargo passes both to the test binary, which is this one: the filter, and what follows `--`.
    let arguments = arguments.split(' ').filter(|&argument| argument != "--");
    let replay = Command::new(std::env::current_exe().unwrap())
        .args(arguments)
        .env("SIM_SEED", "7")
        .output()
        .unwrap();
    let printed = String::from_utf8(replay.stdout).unwrap();
    assert!(replay.status.success(), "{printed}");
    assert!(printed.contains("running 1 test\n") && printed.contains("\nseed 7 passed: "));
    let schedule = Schedule::new(7).to_string();
    assert!(printed.contains(&schedule), "the trace begins with the schedule:\n{schedule}");
    assert!(printed.lines().count() > 100, "only {} lines of trace", printed.lines().count());
}
