//! How many requests may be made: in a second, and in a day.

use std::time::Duration;

/// The hours that a day's requests are counted in. One more than a day has, so that any 24 hours
/// lie within what is remembered.
const HOURS: usize = 25;

/// One hour.
const HOUR: Duration = Duration::from_hours(1);

/// Both budgets.
///
/// The one per second is a token bucket that holds one second's worth, kept as the generic cell
/// rate algorithm does: a single point in time, the one at which the bucket will be full again.
///
/// The one per day holds for any 24 hours in a row, counted by the hour on the monotonic clock: a
/// calendar day would let twice the budget through around midnight, and would follow every step
/// of the wall clock. A restart forgets it.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: Option<u32>,
    per_day: Option<u32>,
    full_at: Duration,
    hours: [u32; HOURS],
    hour: u64,
    today: u32,
}

/// Which budget is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    PerSecond,
    PerDay,
}

impl Exhausted {
    /// What happened, and what to do.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::PerSecond => {
                "more questions than places.requests_per_second allows; ask again in a second, or \
                 raise it"
            }
            Self::PerDay => {
                "more questions in 24 hours than places.requests_per_day allows; ask again later, \
                 or raise it"
            }
        }
    }
}

impl Budget {
    /// Budgets; `None` is no limit.
    pub(super) fn new(per_second: Option<u32>, per_day: Option<u32>) -> Self {
        Self { per_second, per_day, full_at: Duration::ZERO, hours: [0; HOURS], hour: 0, today: 0 }
    }

    /// Whether one more request will be affordable behind `waiting` others that were let in and
    /// have not been made yet.
    pub(super) fn admits(&mut self, waiting: usize, now: Duration) -> Result<(), Exhausted> {
        self.roll(now);
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(1);
        if self.per_day.is_some_and(|max| self.today.saturating_add(wanted) > max) {
            return Err(Exhausted::PerDay);
        }
        if let Some(rate) = self.per_second {
            let full_at = self.full_at.max(now) + tokens(wanted, rate);
            // One token's worth of rounding may be missing from the sum of many.
            if full_at > now + Duration::from_secs(1) {
                return Err(Exhausted::PerSecond);
            }
        }
        Ok(())
    }

    /// Pays for one request, if it is affordable.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Exhausted> {
        self.admits(0, now)?;
        if let Some(rate) = self.per_second {
            self.full_at = self.full_at.max(now) + tokens(1, rate);
        }
        let slot = self.slot();
        self.hours[slot] = self.hours[slot].saturating_add(1);
        self.today = self.today.saturating_add(1);
        Ok(())
    }

    /// Forgets the hours that are more than a day ago.
    fn roll(&mut self, now: Duration) {
        let hour = now.as_secs() / HOUR.as_secs();
        while self.hour < hour {
            if hour - self.hour > HOURS as u64 {
                self.hour = hour - HOURS as u64;
            }
            self.hour += 1;
            let slot = self.slot();
            self.today -= std::mem::take(&mut self.hours[slot]);
        }
    }

    fn slot(&self) -> usize {
        (self.hour % HOURS as u64) as usize
    }
}

/// The time in which `count` tokens drip in. Rounded down, so that a second's worth is never more
/// than a second.
fn tokens(count: u32, rate: u32) -> Duration {
    Duration::from_nanos(u64::from(count) * 1_000_000_000 / u64::from(rate.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_second_has_its_tokens_and_no_more() {
        let mut budget = Budget::new(Some(3), None);
        for _ in 0..3 {
            assert_eq!(budget.take(at(10.0)), Ok(()));
        }
        assert_eq!(budget.take(at(10.0)), Err(Exhausted::PerSecond));
        assert_eq!(budget.take(at(10.3)), Err(Exhausted::PerSecond));
        assert_eq!(budget.take(at(10.34)), Ok(()));
        assert_eq!(budget.take(at(10.34)), Err(Exhausted::PerSecond));
        // What is not used is not saved up beyond one second's worth.
        for _ in 0..3 {
            assert_eq!(budget.take(at(1000.0)), Ok(()));
        }
        assert_eq!(budget.take(at(1000.0)), Err(Exhausted::PerSecond));
    }

    #[test]
    fn those_that_wait_are_counted() {
        let mut budget = Budget::new(Some(3), None);
        assert_eq!(budget.admits(2, at(0.0)), Ok(()));
        assert_eq!(budget.admits(3, at(0.0)), Err(Exhausted::PerSecond));
        let mut budget = Budget::new(None, Some(3));
        assert_eq!(budget.take(at(0.0)), Ok(()));
        assert_eq!(budget.admits(1, at(0.0)), Ok(()));
        assert_eq!(budget.admits(2, at(0.0)), Err(Exhausted::PerDay));
        assert_eq!(budget.admits(usize::MAX, at(0.0)), Err(Exhausted::PerDay));
    }

    #[test]
    fn no_limit_is_no_limit() {
        let mut budget = Budget::new(None, None);
        for _ in 0..10_000 {
            assert_eq!(budget.take(at(0.0)), Ok(()));
        }
    }

    proptest! {
        /// No window of 24 hours, wherever it begins, has more requests than a day may have.
        #[test]
        fn any_day_is_within_its_budget(
            steps in prop::collection::vec((0u64..20_000, 1usize..8), 1..200),
            max in 1u32..40,
        ) {
            let mut budget = Budget::new(None, Some(max));
            let mut now = Duration::ZERO;
            let mut made: Vec<Duration> = Vec::new();
            for (pause, tries) in steps {
                now += Duration::from_secs(pause);
                for _ in 0..tries {
                    if budget.take(now).is_ok() {
                        made.push(now);
                    }
                }
                let day = made.iter().filter(|&&then| now < then + 24 * HOUR).count();
                prop_assert!(day <= max as usize);
                // And what was used comes back.
                if made.last().is_none_or(|&last| now > last + 25 * HOUR) {
                    prop_assert_eq!(budget.admits(0, now), Ok(()));
                }
            }
        }
    }
}
