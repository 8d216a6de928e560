//! The time up to which the loop has collected all events.
//!
//! The process may be stopped at any point, by a signal or with its machine. A peer or client must not
//! be given up for silence while what it has sent is unread, so deadlines of silence are compared with
//! this time and not with the present one.

use crate::net::limits::EVENTS_PER_TURN;
use crate::time::Instant;

/// The time up to which the polls of the loop have reported all events.
#[derive(Default)]
pub struct Collected {
    until: Instant,
    /// The series of polls that had no room for more events: the time before the first, and their number.
    series: Option<(Instant, usize)>,
}

impl Collected {
    /// Everything that happened before this time has been reported.
    #[must_use]
    pub const fn until(&self) -> Instant {
        self.until
    }

    /// Records a poll that began at `start` and returned `events`, while there were `connections`.
    ///
    /// If more is ready than a poll has room for, successive polls go round all that is ready
    /// (`epoll_wait(2)`). After as many as have room for all connections, they have reported what was ready
    /// before the first of them.
    pub fn handle_poll(&mut self, start: Instant, events: usize, connections: usize) {
        if events < EVENTS_PER_TURN {
            (self.until, self.series) = (start, None);
            return;
        }
        let (first, polls) = self.series.map_or((start, 1), |(first, polls)| (first, polls + 1));
        // The division rounds down; one more has room for the rest, and for listeners and signals.
        if polls > connections / EVENTS_PER_TURN {
            (self.until, self.series) = (first, None);
        } else {
            self.series = Some((first, polls));
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    const FULL: usize = EVENTS_PER_TURN;

    fn at(second: u64) -> Instant {
        Instant::at(Duration::from_secs(second))
    }

    /// Returns the seconds of [`Collected::until`] after polls at 1, 2, 3 … s.
    fn after(polls: impl IntoIterator<Item = usize>, connections: usize) -> Vec<u64> {
        let mut collected = Collected::default();
        let mut until = Vec::new();
        for (poll, events) in (1..).zip(polls) {
            collected.handle_poll(at(poll), events, connections);
            until.push(collected.until().uptime().as_secs());
        }
        until
    }

    #[test]
    fn a_poll_with_room_for_more_reports_everything_before_it() {
        assert_eq!(after([0, FULL - 1, 3], 10 * FULL), [1, 2, 3]);
        assert_eq!(after([FULL, FULL, 0], 10 * FULL), [0, 0, 3]);
    }

    #[test]
    fn full_polls_report_what_was_ready_before_as_many_as_have_room_for_all() {
        assert_eq!(after([FULL; 3], FULL - 1), [1, 2, 3], "one has room for all");
        assert_eq!(after([FULL; 7], 2 * FULL), [0, 0, 1, 1, 1, 4, 4]);
    }
}
