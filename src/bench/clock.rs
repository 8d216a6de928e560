//! The benchmark's clocks.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The benchmark's clocks: one that only goes forward, and what clients say the time is.
pub struct Clock {
    start: Instant,
    wall: u64,
    told: u64,
}

impl Clock {
    /// Begins now.
    pub fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { start: Instant::now(), wall: since_1970.as_nanos() as u64, told: 0 }
    }

    /// Nanoseconds since the benchmark began.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The time in nanoseconds since 1970 for an IAMAT that is sent at `now`. None is told twice.
    pub fn tell(&mut self, now: u64) -> u64 {
        self.told = (self.wall + now).max(self.told + 1);
        self.told
    }
}
