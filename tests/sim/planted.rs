//! That the simulator can fail: each bug that can be planted is caught, and by no fault of the
//! simulator's own, since the seed that catches it holds without it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proxy_herd::planted::{Bug, plant};

use crate::attempt;

/// Seeds that a bug may take to be caught.
const SEEDS: u64 = 1000;

/// The first seed that fails with `bug`, and why.
fn catch(bug: Bug) -> Option<(u64, String)> {
    plant(Some(bug));
    let caught = (0..SEEDS).find_map(|seed| Some((seed, attempt(seed).err()?)));
    plant(None);
    caught
}

fn judge(bug: Bug) -> Result<String, String> {
    let Some((seed, why)) = catch(bug) else {
        return Err(format!("{bug:?}: not caught by {SEEDS} seeds"));
    };
    match attempt(seed) {
        Ok(_) => Ok(format!("{bug:?}: SIM_SEED={seed}: {why}")),
        Err(why) => Err(format!("{bug:?}: seed {seed} fails without it as well: {why}")),
    }
}

#[test]
fn planted_bugs_are_caught() {
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    crate::on_all_processors(|| {
        while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
            match judge(bug) {
                Ok(caught) => println!("{caught}"),
                Err(why) => missed.lock().unwrap().push(why),
            }
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
