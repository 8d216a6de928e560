//! The clocks of the benchmark.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock for intervals, and a source of unique timestamps for IAMATs.
pub struct Clock {
    start: Instant,
    /// Wall clock at `start`, in nanoseconds since the Unix epoch.
    wall_at_start: u64,
    last_timestamp: u64,
}

impl Clock {
    /// Starts the clock.
    pub fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_at_start = since_epoch.as_nanos() as u64;
        Self { start: Instant::now(), wall_at_start, last_timestamp: 0 }
    }

    /// Nanoseconds since the clock was started.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Returns the timestamp for an IAMAT sent at `now`, in nanoseconds since the Unix epoch. Each is
    /// greater than all before it, so that a timestamp identifies an update.
    pub fn next_timestamp(&mut self, now: u64) -> u64 {
        self.last_timestamp = (self.wall_at_start + now).max(self.last_timestamp + 1);
        self.last_timestamp
    }
}
