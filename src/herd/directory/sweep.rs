//! The sweep, which removes records that are not alive, in slices.

use core::time::Duration;

use super::Directory;
use crate::herd::expiry::{BUSY_INTERVAL, IDLE_INTERVAL, Life, REMOVAL, SWEEP_INTERVAL};
use crate::herd::slots::Stored;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::time::{Now, Wall};

impl Directory {
    /// Sets the time for which records are kept that are too far ahead, for tests.
    pub const fn set_ahead_patience(&mut self, patience: Duration) {
        self.sweep.patience = patience;
    }

    /// Keeps records that are too far ahead while the clock is less than `least_clock`, a time that the
    /// clock of this node has had before.
    pub const fn set_least_clock(&mut self, least_clock: Wall) {
        self.sweep.least_clock = least_clock;
    }

    /// Removes records that are not alive. Examines at most `budget` slots, and calls `removed` with
    /// each record before it is removed. Returns the pause until the next call.
    pub fn sweep(
        &mut self,
        now: &Now,
        mut budget: u32,
        mut removed: impl FnMut(Slot, &Record<'_>),
    ) -> Duration {
        self.sweep_tombstones(now.wall, &mut removed);
        let removes_ahead = self.sweep.removes_ahead(now);
        if self.rules.client_ttl == 0 && !removes_ahead {
            return if self.tombstones.is_empty() { IDLE_INTERVAL } else { SWEEP_INTERVAL };
        }
        while budget > 0 {
            let slot = Slot(self.sweep.next);
            if slot.0 >= self.slots.used() {
                self.sweep.handle_end();
                return SWEEP_INTERVAL;
            }
            self.sweep.next += 1;
            budget -= 1;
            let Some(record) = self.slots.get(slot).and_then(Stored::record) else { continue };
            let life = self.life(&record, now.wall);
            if life == Life::Alive || (life == Life::Ahead && !removes_ahead) {
                let received = record.received;
                self.sweep.handle_stored(received);
            } else {
                removed(slot, &record);
                self.expire(slot, now.wall);
                budget = budget.saturating_sub(REMOVAL);
                if budget == 0 {
                    return BUSY_INTERVAL;
                }
            }
        }
        SWEEP_INTERVAL
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Applied, Keys, Rules, Source};
    use super::*;
    use crate::herd::expiry::{AHEAD_PATIENCE, FUTURE_LIMIT};
    use crate::protocol::time::{Nanos, SECOND};
    use crate::time::Instant;

    const DAY: Nanos = FUTURE_LIMIT / SECOND;

    fn directory(max_clients: u32, ttl: Nanos) -> Directory {
        let (max_clock_offset, client_ttl) = (5 * SECOND, ttl * SECOND);
        let rules = Rules { max_clock_offset, max_clients, client_ttl, forget_keep: 0 };
        Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) })
    }

    /// Applies a record of `client` with this time, received at `received`, both in seconds.
    fn apply(
        directory: &mut Directory,
        client: &str,
        (time, received): (Nanos, Nanos),
        source: Source,
        now: Nanos,
    ) -> Applied {
        let line = format!("AT A {:+}.000000000 {client} +1-1 {time}", received - time);
        directory.apply(&Record::parse(line.as_bytes()).unwrap(), source, Wall(now * SECOND))
    }

    fn holds(directory: &Directory, client: &str, now: Nanos) -> bool {
        directory.get(client.as_bytes(), Wall(now * SECOND)).is_some()
    }

    fn sweep(directory: &mut Directory, now: Nanos, uptime: Duration, budget: u32) -> Duration {
        let now = Now { instant: Instant::at(uptime), wall: Wall(now * SECOND) };
        directory.sweep(&now, budget, |_, _| {})
    }

    #[test]
    fn a_record_from_the_far_future_is_rejected_and_does_not_outrank_others() {
        for ttl in [0, 60] {
            let mut d = directory(10, ttl);
            let end = 253_402_300_799;
            let applied = apply(&mut d, "k", (end, end), Source::Peer, 1000);
            assert_eq!(applied, Applied::Ahead);
            let applied = apply(&mut d, "k", (1000, 1000), Source::Peer, 1000);
            assert!(matches!(applied, Applied::Stored(_)));
            assert!(holds(&d, "k", 1000));
        }
    }

    /// The clock was two days ahead for a while.
    #[test]
    fn a_record_of_a_clock_that_was_ahead_disappears_when_the_clock_is_right() {
        for ttl in [0, 60] {
            let mut d = directory(10, ttl);
            let wrong = 1000 + 2 * DAY;
            for client in ["k", "other"] {
                let applied = apply(&mut d, client, (1000, wrong), Source::Client, wrong);
                assert!(matches!(applied, Applied::Stored(_)));
            }
            assert!(holds(&d, "k", wrong) && !holds(&d, "k", 1000));
            assert!(d.record(Slot(0), Wall(1000 * SECOND)).is_none());
            // A true record replaces it, although it ranks lower.
            let applied = apply(&mut d, "k", (900, 1000), Source::Peer, 1000);
            assert!(matches!(applied, Applied::Stored(_)));
            assert!(holds(&d, "k", 1000));
            sweep(&mut d, 1000, Duration::ZERO, 100);
            assert_eq!(d.len(), 2, "the clock may be set back");
            sweep(&mut d, 1000, AHEAD_PATIENCE, 100);
            assert_eq!((d.len(), d.counters.expired), (1, 2));
            if ttl == 0 {
                let pause = sweep(&mut d, 1000, AHEAD_PATIENCE, 100);
                assert_eq!(pause, SWEEP_INTERVAL, "a new record may have been in this pass");
                let pause = sweep(&mut d, 1000, AHEAD_PATIENCE, 100);
                assert_eq!(pause, IDLE_INTERVAL, "nothing else can be ahead");
            }
        }
    }

    /// A machine without a battery starts in 1970, and its clock is set right a little later.
    #[test]
    fn a_clock_that_is_behind_for_a_moment_loses_nothing() {
        let right = 20_000 * DAY;
        let mut d = directory(10, 0);
        for (time, received) in [(right, right), (right - 5, right - 2 * DAY)] {
            apply(&mut d, "k", (time, received), Source::File, 0);
        }
        apply(&mut d, "m", (5, 5), Source::File, 10);
        assert_eq!(apply(&mut d, "m", (right, right), Source::File, 10), Applied::Ahead);
        sweep(&mut d, 10, Duration::ZERO, 100);
        sweep(&mut d, 300, AHEAD_PATIENCE.saturating_sub(Duration::from_secs(1)), 100);
        assert!(!holds(&d, "k", 300) && holds(&d, "m", 300));
        let line = d.get(b"k", Wall(right * SECOND)).unwrap();
        assert!(line.ends_with(right.to_string().as_bytes()), "the newer of two");
        // Patience starts again.
        sweep(&mut d, right, AHEAD_PATIENCE, 100);
        sweep(&mut d, 10, AHEAD_PATIENCE * 3 / 2, 100);
        assert_eq!(d.len(), 2);
    }

    /// The whole herd is on one machine, and no neighbor has the records.
    #[test]
    fn a_clock_that_is_behind_the_files_for_long_loses_nothing() {
        let right = 20_000 * DAY;
        let slow = right - 2 * DAY;
        for ttl in [0, 1000 * DAY] {
            let mut d = directory(10, ttl);
            d.set_least_clock(Wall(right * SECOND));
            apply(&mut d, "k", (right, right), Source::File, slow);
            apply(&mut d, "m", (right, right), Source::File, slow);
            for hours in 0..20 {
                sweep(&mut d, slow + 1, Duration::from_hours(hours), 100);
            }
            assert_eq!(d.len(), 2);
            // Its client reports again.
            assert!(matches!(
                apply(&mut d, "k", (slow, slow), Source::Client, slow),
                Applied::Stored(_)
            ));
            assert!(holds(&d, "k", slow) && !holds(&d, "m", slow));
            assert!(holds(&d, "m", right), "the clock was set right");
            // What is ahead of a clock that is right is removed.
            apply(&mut d, "n", (right, right + 3 * DAY), Source::File, right);
            let now = Duration::from_hours(20);
            sweep(&mut d, right, now, 100);
            assert_eq!(d.len(), 3, "patience begins when the clock is right");
            sweep(&mut d, right, now + AHEAD_PATIENCE, 100);
            assert_eq!(d.len(), 2);
        }
    }

    #[test]
    fn a_sweep_is_bounded_by_its_budget_however_many_records_have_expired() {
        let mut d = directory(100_000, 60);
        for i in 0..5000 {
            apply(&mut d, &i.to_string(), (1000, 1000), Source::Peer, 1000);
        }
        let mut removed = 0;
        while !d.is_empty() {
            let pause = sweep(&mut d, 2000, Duration::ZERO, 1100);
            assert!(d.counters.expired - removed <= 100);
            removed = d.counters.expired;
            assert!(pause == BUSY_INTERVAL || d.is_empty());
        }
    }
}
