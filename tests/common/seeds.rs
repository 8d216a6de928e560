//! Runs of random schedules, each drawn from a seed: the variables that select them, and their execution on
//! all processors.
//!
//! - `SIM_SEED=N` replays the schedule of seed N and prints what happens in it;
//! - `SIM_SCHEDULES=N` runs N schedules;
//! - `SIM_FIRST=N` starts at seed N.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Failures after which a run stops.
const MAX_FAILURES: usize = 10;

/// What is run.
pub struct Run {
    /// The name of the test binary, for the hint how to replay a failure.
    pub binary: &'static str,
    /// Schedules that the test suite runs.
    pub schedules: u64,
}

impl Run {
    /// Runs the schedules that the environment selects. `attempt` runs that of a seed and prints what happens
    /// if the second argument is true; `add` adds a report to a sum. Returns the number of schedules and the
    /// sum of their reports, or `None` after a replay. A failure or a panic of a schedule fails the test.
    pub fn execute<R: Default + Send + std::fmt::Debug>(
        &self,
        attempt: impl Fn(u64, bool) -> Result<R, String> + Sync,
        add: impl Fn(&mut R, &R) + Sync,
    ) -> Option<(u64, R)> {
        let attempt = |seed, traced| {
            catch_unwind(AssertUnwindSafe(|| attempt(seed, traced)))
                .unwrap_or_else(|panic| Err(text_of(&*panic)))
        };
        if let Some(seed) = variable("SIM_SEED") {
            let report = attempt(seed, true).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
            println!("seed {seed} passed: {report:?}");
            return None;
        }
        let first = variable("SIM_FIRST").unwrap_or(0);
        let count = variable("SIM_SCHEDULES").unwrap_or(self.schedules);
        let began = Instant::now();
        let next = AtomicU64::new(first);
        let (failures, total) = (Mutex::new(Vec::new()), Mutex::new(R::default()));
        on_all_processors(|| {
            while failures.lock().unwrap().len() < MAX_FAILURES {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    break;
                }
                match attempt(seed, false) {
                    Ok(report) => add(&mut total.lock().unwrap(), &report),
                    Err(why) => failures.lock().unwrap().push((seed, why)),
                }
            }
        });
        let mut failures = failures.into_inner().unwrap();
        failures.sort();
        for (seed, why) in &failures {
            println!("seed {seed}: {why}");
        }
        if let Some((seed, _)) = failures.first() {
            let binary = self.binary;
            println!("replay: SIM_SEED={seed} cargo test --test {binary} schedules -- --nocapture");
        }
        assert!(failures.is_empty(), "at least {} of {count} schedules failed", failures.len());
        let (total, took) = (total.into_inner().unwrap(), began.elapsed().as_secs_f64());
        let rate = count as f64 / took;
        println!("{count} schedules in {took:.1} s, {rate:.0} per second: {total:?}");
        Some((count, total))
    }
}

pub fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, not a number")))
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

/// The message of a panic.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked".to_owned())
}
