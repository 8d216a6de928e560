//! What is told while it runs, to a person at a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use super::limits::PROGRESS;
use super::tally::NodeTally;

/// A line on standard error that is written over, if that is a terminal.
pub struct Progress {
    is_terminal: bool,
    shown: u64,
    requests: u64,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), shown: 0, requests: 0 }
    }

    /// Shows how far `what` is, `elapsed` nanoseconds after it began, from time to time.
    pub fn show(
        &mut self,
        what: &str,
        elapsed: u64,
        length: Option<Duration>,
        tallies: &[NodeTally],
    ) {
        if elapsed < self.shown {
            (self.shown, self.requests) = (0, 0);
        }
        let pause = elapsed - self.shown;
        if !self.is_terminal || u128::from(pause) < PROGRESS.as_nanos() {
            return;
        }
        let latencies = tallies.iter().flat_map(|tally| &tally.latencies);
        let requests: u64 = latencies.map(hdrhistogram::Histogram::len).sum();
        let faults: u64 = tallies.iter().map(|tally| tally.all_faults().total()).sum();
        let rate = (requests - self.requests.min(requests)) as f64 * 1e9 / pause as f64;
        let of = length.map_or_else(String::new, |it| format!(" of {:.0}", it.as_secs_f64()));
        let line = format!(
            "{what}: {:.0}{of} s, {requests} requests, {rate:.0} a second, {faults} errors",
            elapsed as f64 / 1e9
        );
        let _ = write!(io::stderr().lock(), "\r{line}\x1b[K"); // nobody misses it
        (self.shown, self.requests) = (elapsed, requests);
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        (self.shown, self.requests) = (0, 0);
        if self.is_terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
