//! The two clocks of a node.
//!
//! [`Instant`] measures intervals and never goes back; every deadline is one. [`Wall`] is a reading
//! of the system's clock, which may be set at any time; it determines receive times and expiry, and
//! nothing else. They are separate types, so that one cannot be mistaken for the other.

use core::ops::{Add, AddAssign, Sub};
use core::time::Duration;

use crate::protocol::time::Nanos;

/// A reading of the monotonic clock: the time since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

/// A reading of the wall clock: nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wall(pub Nanos);

/// Both clocks, read once for everything that one event causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For intervals and deadlines.
    pub instant: Instant,
    /// For receive times and expiry.
    pub wall: Wall,
}

impl Instant {
    /// The start of the node.
    pub const START: Self = Self(Duration::ZERO);

    /// The instant at which the node has run for `uptime`.
    #[must_use]
    pub const fn at(uptime: Duration) -> Self {
        Self(uptime)
    }

    /// The time since the node started.
    #[must_use]
    pub const fn uptime(self) -> Duration {
        self.0
    }

    /// The time since `earlier`; zero if `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `duration` before this one; `None` if that is before the start.
    #[must_use]
    pub fn checked_sub(self, duration: Duration) -> Option<Self> {
        self.0.checked_sub(duration).map(Self)
    }
}

/// Saturates: a deadline beyond the end of time is never reached.
impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Wall {
    /// The reading in nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn nanos(self) -> Nanos {
        self.0
    }
}

/// The signed interval between two readings, in nanoseconds.
impl Sub for Wall {
    type Output = Nanos;

    fn sub(self, earlier: Self) -> Nanos {
        self.0 - earlier.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate_at_both_ends() {
        let late = Instant::at(Duration::from_secs(2));
        assert_eq!(late.since(Instant::START), Duration::from_secs(2));
        assert_eq!(Instant::START.since(late), Duration::ZERO);
        assert_eq!(Instant::START.checked_sub(Duration::from_secs(1)), None);
        assert_eq!(late.checked_sub(Duration::from_secs(2)), Some(Instant::START));
        assert_eq!((late + Duration::MAX).uptime(), Duration::MAX);
    }

    #[test]
    fn a_wall_clock_may_go_back() {
        assert_eq!(Wall(5) - Wall(7), -2);
    }
}
