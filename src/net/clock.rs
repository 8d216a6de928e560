//! The system's clocks.

use std::time::{self, SystemTime, UNIX_EPOCH};

use crate::protocol::time::Nanos;
use crate::time::{Instant, Now, Wall};

/// Reads both clocks; the monotonic one counts from its creation.
#[derive(Clone, Copy)]
pub struct Clock {
    started: time::Instant,
}

impl Clock {
    /// A clock that starts now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: time::Instant::now() }
    }

    /// The monotonic clock.
    #[must_use]
    pub fn instant(&self) -> Instant {
        Instant::at(self.started.elapsed())
    }

    /// Both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { instant: self.instant(), wall: wall() }
    }
}

/// The wall clock.
#[must_use]
pub fn wall() -> Wall {
    Wall(match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_nanos() as Nanos,
        Err(before) => -(before.duration().as_nanos() as Nanos),
    })
}
