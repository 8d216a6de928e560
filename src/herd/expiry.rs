//! Expiry: which records are alive, and the sweep that removes the others.
//!
//! A record is alive while its age, the node's clock minus the receive time of the record, is from
//! −[`FUTURE_LIMIT`] to the time to live. It follows that no record, from a compromised node or one
//! whose clock is wrong, outranks those of a client for longer than [`FUTURE_LIMIT`] and Δ.
//!
//! Expiry is the only thing that the clock of a node decides. It is symmetric: once the clock is
//! right, the node holds what it would hold if the clock had always been right, as soon as it has
//! fetched what it removed or rejected meanwhile.

use core::time::Duration;

use crate::protocol::time::{Nanos, SECOND};
use crate::time::{Instant, Now, Wall};

/// The most that a record's receive time may be ahead of a node's clock: 24 hours. The same on all
/// nodes, and part of the protocol between nodes.
pub const FUTURE_LIMIT: Nanos = 86_400 * SECOND;

/// The time for which records that are too far ahead are kept, invisible. A clock that is behind, as
/// on a machine without a battery after a start, is usually set right sooner. If the files of the node
/// are from a later time than its clock, it is, and they are kept until it is set right.
pub const AHEAD_PATIENCE: Duration = Duration::from_mins(5);

/// Pause between two sweeps: a directory of a million clients is examined in five seconds.
pub(super) const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// Pause after a sweep that has used its budget for more than examining slots.
pub(super) const BUSY_INTERVAL: Duration = Duration::from_millis(10);

/// Pause while no record can be dead.
pub(super) const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// The cost of removing a record, in slots examined.
pub(super) const REMOVAL: u32 = 10;

/// The age of a record in relation to what is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Within both bounds.
    Alive,
    /// Older than the time to live.
    Expired,
    /// Received further ahead of this node's clock than [`FUTURE_LIMIT`].
    Ahead,
}

impl Life {
    /// The life of a record that a node received at `received`. A `client_ttl` of 0 means that
    /// records do not expire.
    #[must_use]
    pub const fn of(received: Nanos, client_ttl: Nanos, now: Wall) -> Self {
        let age = now.nanos() - received;
        if age < -FUTURE_LIMIT {
            Self::Ahead
        } else if client_ttl > 0 && age > client_ttl {
            Self::Expired
        } else {
            Self::Alive
        }
    }
}

/// The progress of the sweep.
pub struct Sweep {
    /// The next slot to examine.
    pub next: u32,
    /// No stored record has a later receive time.
    latest: Nanos,
    /// The same of the records that this pass has examined or that were stored during it.
    latest_of_pass: Nanos,
    /// The clock is behind as long as it is less than this.
    pub least_clock: Wall,
    /// The time since which a stored record may have been too far ahead.
    ahead_since: Option<Instant>,
    /// [`AHEAD_PATIENCE`], except in tests.
    pub patience: Duration,
}

impl Default for Sweep {
    fn default() -> Self {
        let (latest, latest_of_pass) = (Nanos::MIN, Nanos::MIN);
        let least_clock = Wall(Nanos::MIN);
        let patience = AHEAD_PATIENCE;
        Self { next: 0, latest, latest_of_pass, least_clock, ahead_since: None, patience }
    }
}

impl Sweep {
    /// Takes note of a record that is stored.
    pub fn handle_stored(&mut self, received: Nanos) {
        if received > self.latest_of_pass {
            self.latest_of_pass = received;
            self.latest = self.latest.max(received);
        }
    }

    /// Returns whether any stored record may be dead.
    #[must_use]
    pub const fn may_find(&self, client_ttl: Nanos, now: Wall) -> bool {
        client_ttl > 0 || self.may_be_ahead(now)
    }

    const fn may_be_ahead(&self, now: Wall) -> bool {
        self.latest > now.nanos() + FUTURE_LIMIT
    }

    /// Returns whether records that are too far ahead must be removed.
    pub fn removes_ahead(&mut self, now: &Now) -> bool {
        if now.wall < self.least_clock || !self.may_be_ahead(now.wall) {
            self.ahead_since = None;
            return false;
        }
        let since = *self.ahead_since.get_or_insert(now.instant);
        now.instant.since(since) >= self.patience
    }

    /// Starts over after the last slot.
    pub const fn handle_end(&mut self) {
        self.next = 0;
        self.latest = std::mem::replace(&mut self.latest_of_pass, Nanos::MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lives_from_a_day_ahead_until_its_time_to_live_has_passed() {
        let day = FUTURE_LIMIT;
        for (ttl, age, life) in [
            (0, -day - 1, Life::Ahead),
            (0, -day, Life::Alive),
            (0, Nanos::from(i64::MAX), Life::Alive),
            (5, -day - 1, Life::Ahead),
            (5, -day, Life::Alive),
            (5, 5, Life::Alive),
            (5, 6, Life::Expired),
        ] {
            let now = 1_700_000_000 * SECOND;
            assert_eq!(Life::of(now - age, ttl, Wall(now)), life, "ttl {ttl}, age {age}");
        }
    }

    #[test]
    fn without_a_time_to_live_only_records_from_the_future_cause_a_sweep() {
        let mut sweep = Sweep::default();
        assert!(!sweep.may_find(0, Wall(-FUTURE_LIMIT)));
        sweep.handle_stored(7);
        assert!(!sweep.may_find(0, Wall(7 - FUTURE_LIMIT)));
        assert!(sweep.may_find(0, Wall(6 - FUTURE_LIMIT)));
        sweep.handle_end();
        assert!(sweep.may_find(0, Wall(6 - FUTURE_LIMIT)), "stored during the pass");
        sweep.handle_end();
        assert!(!sweep.may_find(0, Wall(6 - FUTURE_LIMIT)), "not examined in a whole pass");
        assert!(sweep.may_find(1, Wall(0)));
    }
}
