//! The feed against a model of Redis: random faults of both, of the network and of the clock. After each
//! schedule, the stream is compared with the history of the node, entry by entry.
//!
//! `cargo test --test feed_model` runs the schedules of seeds 0 to 29. These variables change that:
//! - `FEED_SEED=N` replays the schedule of seed N;
//! - `FEED_SCHEDULES=N` runs N schedules.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

#[path = "../storage/node.rs"]
#[allow(dead_code, reason = "shared with the tests of the storage")]
mod node;
mod redis;
mod schedule;

use std::time::Duration;

use proxy_herd::feed::entry::Filter;
use proxy_herd::feed::id::Id;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::time::Wall;
use schedule::World;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")))
}

#[test]
fn the_stream_equals_the_history_after_any_faults() {
    if let Some(seed) = variable("FEED_SEED") {
        let mut world = World::new(seed);
        world.traced = true;
        world.run();
        println!("{} entries in gaps", world.compare());
        return;
    }
    run(variable("FEED_SCHEDULES").unwrap_or(30), |seed| {
        let mut world = World::new(seed);
        world.run();
        assert_eq!(world.compare(), 0, "no entry is lost while there is room");
    });
}

/// A collector gets everything at least once and in order, and a batch that is repeated is the same.
#[test]
fn a_collector_gets_the_history_after_any_faults() {
    run(variable("FEED_SCHEDULES").unwrap_or(30), |seed| {
        for filter in [Filter::All, Filter::Updates] {
            let mut world = World::with_collector(seed, filter);
            world.run();
            let mut batches: Vec<(String, Vec<u8>)> = Vec::new();
            for (key, body) in world.server.collected.as_ref().unwrap() {
                assert!(body.len() <= 1 << 20);
                if let Some((_, first)) = batches.iter().find(|(other, _)| other == key) {
                    assert!(first == body, "seed {seed}: the batches of {key} are equal");
                    continue;
                }
                batches.push((key.clone(), body.clone()));
            }
            let mut found = Vec::new();
            for (_, body) in &batches {
                let lines: Vec<&[u8]> = body.split_inclusive(|&byte| byte == b'\n').collect();
                assert!((1..=1000).contains(&lines.len()));
                for line in lines {
                    let entry: serde_json::Value = serde_json::from_slice(line).unwrap();
                    found.push(format!("{} {}", entry["type"], entry["line"]).replace('"', ""));
                }
            }
            assert_eq!(found, world.expected(), "seed {seed}");
        }
    });
}

/// What is not wanted moves the cursor, but leaves no id in the stream.
#[test]
fn entries_that_are_not_wanted_cause_no_gaps() {
    run(variable("FEED_SCHEDULES").unwrap_or(50), |seed| {
        for filter in [Filter::Updates, Filter::Fences] {
            let mut world = World::with(seed, filter);
            world.run();
            assert_eq!(world.entries(), world.expected(), "{filter:?}");
            assert!(world.server.stream.iter().all(|added| added.field("type") != b"gap"));
            if seed % 10 > 0 {
                continue;
            }
            // Segments without a wanted entry are given up.
            let length = world.server.stream.len();
            for _ in 0..40 {
                world.update_plainly(300);
                world.heal();
                for _ in 0..60 {
                    world.turn();
                    world.work(false);
                    world.serve();
                    world.pass(Duration::from_millis(20));
                }
            }
            assert_eq!(filter == Filter::Fences, world.server.stream.len() == length);
            let updates = world.server.stream.len();
            world.kill();
            world.start();
            world.heal();
            assert_eq!(world.server.stream.len(), updates, "{filter:?}: no gap, and none twice");
        }
    });
}

fn run(count: u64, schedule: impl Fn(u64) + std::panic::RefUnwindSafe) {
    for seed in 0..count {
        let result = std::panic::catch_unwind(|| schedule(seed));
        assert!(result.is_ok(), "seed {seed} fails");
    }
}

/// At the bound, the oldest entries are given up, and a gap says how many.
#[test]
fn a_gap_accounts_for_what_was_given_up() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        world.update(200);
        world.heal();
        world.crash();
        for _ in 0..200 {
            world.update(100);
            for _ in 0..8 {
                world.turn();
                world.work(false);
            }
            world.pass(Duration::from_millis(100));
            if world.rng.percent(2) {
                world.kill();
                world.start();
            }
        }
        assert!(world.disk.used() <= world.max_bytes, "{} bytes", world.disk.used());
        world.heal();
        assert!(world.compare() > 1000, "seed {seed}");
    }
}

/// A stream that has lost everything gets what is still held.
#[test]
fn an_empty_stream_gets_what_is_held_and_a_gap() {
    let mut world = World::new(1);
    for _ in 0..200 {
        world.update(100);
        world.heal();
        world.pass(Duration::from_secs(1));
    }
    world.crash();
    world.server.lose(0);
    world.heal();
    let missing = world.compare();
    assert!(missing > 5000 && missing < world.history.len() - 500, "{missing}");
}

/// Another program has added an entry whose id is greater than those of the next ones.
#[test]
fn entries_of_another_program_do_not_stop_the_feed() {
    let mut world = World::new(2);
    for round in 0..5 {
        world.update(300);
        world.heal();
        let id = Id { millis: world.server.last.millis + 1_000_000 * (round + 1), sequence: 7 };
        world.server.add_foreign(id);
        world.update(300);
        world.heal();
        assert_eq!(world.compare(), 0);
        world.pass(Duration::from_secs(2));
        world.turn();
        world.work(false);
        world.update(10);
        world.kill();
        world.start();
        world.heal();
        assert_eq!(world.compare(), 0, "round {round}");
    }
}

/// The folder is lost, and the clock was set back.
#[test]
fn ids_are_above_those_of_the_stream_after_the_folder_was_lost() {
    for back in [-1_000_000, 1_000_000] {
        let mut world = World::new(3);
        world.update(300);
        world.heal();
        world.kill();
        world.disk = proxy_herd::testing::disk::Disk::default();
        world.memo.clear();
        world.wall = Wall(world.wall.0 + back * SECOND);
        world.start();
        world.update(300);
        world.heal();
        assert_eq!(world.compare(), 0);
        // With the same ids as before.
        world.kill();
        world.start();
        world.update(300);
        world.heal();
        assert_eq!(world.compare(), 0);
    }
}

/// The folder is replaced by an older copy. What it holds has been delivered, and is not sent again.
#[test]
fn an_old_copy_of_the_folder_repeats_nothing() {
    for back in [-1_000_000, 1_000] {
        let mut world = World::new(4);
        world.update(300);
        world.heal();
        world.update(100);
        let (disk, memo) = (world.disk.clone(), world.memo.clone());
        world.update(300);
        world.heal();
        world.kill();
        world.start(); // in another segment
        world.update(300);
        world.heal();
        world.kill();
        (world.disk, world.memo) = (disk, memo);
        world.wall = Wall(world.wall.0 + back * SECOND);
        world.start();
        world.update(300);
        world.heal();
        assert_eq!(world.compare(), 0);
    }
}

/// A power cut takes the end of the log, which has been delivered.
#[test]
fn no_id_is_used_twice_after_a_power_cut() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.update(300);
            world.heal();
            world.kill();
            let mut rng = world.rng.clone();
            world.disk.cut_power(&mut rng);
            world.start();
        }
        world.update(300);
        world.heal();
        let stream = &world.server.stream;
        assert!(stream.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(world.entries(), world.expected(), "seed {seed}");
    }
}

/// The disk was full: what it lacks is reported.
#[test]
fn a_hole_in_the_log_is_a_gap() {
    let mut world = World::new(5);
    world.update(100);
    world.heal();
    world.disk.capacity = Some(world.disk.used());
    let before = world.history.len();
    world.update(50);
    let missing = world.history.len() - before;
    world.turn();
    world.disk.capacity = None;
    for _ in 0..100 {
        world.turn();
        world.pass(Duration::from_millis(100));
    }
    world.update(100);
    world.heal();
    assert_eq!(world.compare(), missing);
}
