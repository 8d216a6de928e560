//! Latencies and errors, per server and command.

use hdrhistogram::Histogram;

use super::error::{ErrorCounts, RequestError};
use super::limits::MAX_LATENCY;
use super::wire::CommandKind;

/// Results of the requests to one server.
#[derive(Clone, Debug)]
pub struct ServerStats {
    /// Latencies of the valid replies in nanoseconds, by [`CommandKind`].
    pub latencies: [Histogram<u64>; 2],
    /// Errors, by [`CommandKind`].
    pub errors: [ErrorCounts; 2],
}

impl ServerStats {
    /// Empty statistics.
    pub fn new() -> Self {
        Self { latencies: [histogram(), histogram()], errors: Default::default() }
    }

    /// Records a valid reply, `latency` nanoseconds after its request was due.
    pub fn record_reply(&mut self, command: CommandKind, latency: u64) {
        self.latencies[command as usize].saturating_record(latency);
    }

    /// Counts an error.
    pub fn record_error(&mut self, command: CommandKind, error: RequestError) {
        self.errors[command as usize].add(error, 1);
    }

    /// Errors of both commands.
    pub fn all_errors(&self) -> ErrorCounts {
        let mut all = self.errors[0].clone();
        all.merge(&self.errors[1]);
        all
    }
}

/// An empty histogram of nanoseconds with three significant digits.
pub fn histogram() -> Histogram<u64> {
    let longest = MAX_LATENCY.as_nanos() as u64;
    #[expect(
        clippy::expect_used,
        reason = "the bounds are constants: the first call shows an error"
    )]
    Histogram::new_with_bounds(1, longest, 3).expect("the bounds of the histogram are valid")
}
