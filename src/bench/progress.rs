//! The progress line on a terminal.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use super::limits::PROGRESS_INTERVAL;
use super::stats::ServerStats;

/// A status line that overwrites itself on standard error, if that is a terminal.
pub struct ProgressLine {
    is_terminal: bool,
    /// Time of the last update, in nanoseconds since the start of the phase.
    updated: u64,
    /// Requests completed by then.
    requests: u64,
}

impl ProgressLine {
    /// Detects whether standard error is a terminal. Shows nothing yet.
    pub fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), updated: 0, requests: 0 }
    }

    /// Shows the progress of a phase, `elapsed` nanoseconds after its start. Returns without output
    /// if the last update was less than [`PROGRESS_INTERVAL`] ago.
    pub fn show(
        &mut self,
        phase: &str,
        elapsed: u64,
        length: Option<Duration>,
        stats: &[ServerStats],
    ) {
        if elapsed < self.updated {
            (self.updated, self.requests) = (0, 0);
        }
        let interval = elapsed - self.updated;
        if !self.is_terminal || u128::from(interval) < PROGRESS_INTERVAL.as_nanos() {
            return;
        }
        let latencies = stats.iter().flat_map(|server| &server.latencies);
        let requests: u64 = latencies.map(hdrhistogram::Histogram::len).sum();
        let errors: u64 = stats.iter().map(|server| server.all_errors().total()).sum();
        let rate = (requests - self.requests.min(requests)) as f64 * 1e9 / interval as f64;
        let of = length.map_or_else(String::new, |it| format!(" of {:.0}", it.as_secs_f64()));
        let line = format!(
            "{phase}: {:.0}{of} s, {requests} requests, {rate:.0} req/s, {errors} errors",
            elapsed as f64 / 1e9
        );
        let _ = write!(io::stderr().lock(), "\r{line}\x1b[K"); // progress is optional
        (self.updated, self.requests) = (elapsed, requests);
    }

    /// Erases the line.
    pub fn clear(&mut self) {
        (self.updated, self.requests) = (0, 0);
        if self.is_terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
