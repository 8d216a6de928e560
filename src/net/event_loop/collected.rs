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
    /// A series of polls that have no room for more events: the time before the first, and how many more
    /// it takes.
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
        // The division rounds down; one more has room for the rest, and for listeners and upstreams. The
        // number stays the same for the series: connections that are reported first may close during it.
        let more = connections / EVENTS_PER_TURN + 1;
        let (first, left) = self.series.unwrap_or((start, more));
        if left == 0 {
            (self.until, self.series) = (first, None);
        } else {
            self.series = Some((first, left - 1));
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

    /// Returns the seconds of [`Collected::until`] after polls at 1, 2, 3 … s, each of which returns so
    /// many events while there are so many connections.
    fn after(polls: &[(usize, usize)]) -> Vec<u64> {
        let mut collected = Collected::default();
        let mut until = Vec::new();
        for (poll, &(events, connections)) in (1..).zip(polls) {
            collected.handle_poll(at(poll), events, connections);
            until.push(collected.until().uptime().as_secs());
        }
        until
    }

    #[test]
    fn a_poll_with_room_for_more_reports_everything_before_it() {
        let many = 10 * FULL;
        assert_eq!(after(&[(0, many), (FULL - 1, many), (3, many)]), [1, 2, 3]);
        assert_eq!(after(&[(FULL, many), (FULL, many), (0, many)]), [0, 0, 3]);
    }

    #[test]
    fn full_polls_report_what_was_ready_before_as_many_as_have_room_for_all() {
        assert_eq!(after(&[(FULL, FULL - 1); 5]), [0, 1, 1, 3, 3], "some are not of connections");
        assert_eq!(after(&[(FULL, 2 * FULL); 8]), [0, 0, 0, 1, 1, 1, 1, 5]);
        // Those that are reported first close.
        let closing = [3 * FULL, 2 * FULL, FULL, 0, 0].map(|connections| (FULL, connections));
        assert_eq!(after(&closing), [0, 0, 0, 0, 1]);
    }
}
