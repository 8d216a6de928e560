//! Request budgets: per second and per day.

use std::time::Duration;

use crate::time::Instant;

/// The number of hours for which requests are counted. It is one more than a day has, so that it
/// covers any period of 24 hours.
const HOURS: usize = 25;

const HOUR: Duration = Duration::from_hours(1);

/// The budgets for requests to the provider.
///
/// The budget per second is a token bucket with a capacity of one second's worth, implemented as
/// the generic cell rate algorithm (GCRA, ITU-T I.371): its state is the instant at which the bucket
/// will be full.
///
/// The budget per day applies to any period of 24 hours, counted by the hour on the monotonic
/// clock. A calendar day would permit twice the budget around midnight, and would be affected by
/// changes of the wall clock. It is not kept across restarts.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: Option<u32>,
    per_day: Option<u32>,
    full_at: Instant,
    hours: [u32; HOURS],
    hour: u64,
    today: u32,
}

/// The budget that is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhausted {
    PerSecond,
    PerDay,
}

impl Exhausted {
    /// Returns the cause and the remedy.
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
    /// Creates budgets; `None` is unlimited.
    pub(super) fn new(per_second: Option<u32>, per_day: Option<u32>) -> Self {
        Self { per_second, per_day, full_at: Instant::START, hours: [0; HOURS], hour: 0, today: 0 }
    }

    /// Checks that the budgets cover one more request after `waiting` others that were admitted
    /// but not sent yet.
    pub(super) fn check(&mut self, waiting: usize, now: Instant) -> Result<(), Exhausted> {
        self.roll(now);
        let wanted = u32::try_from(waiting).unwrap_or(u32::MAX).saturating_add(1);
        if self.per_day.is_some_and(|max| self.today.saturating_add(wanted) > max) {
            return Err(Exhausted::PerDay);
        }
        if let Some(rate) = self.per_second {
            let full_at = self.full_at.max(now) + tokens(wanted, rate);
            // The sum of many tokens may be short by one rounding error each.
            if full_at > now + Duration::from_secs(1) {
                return Err(Exhausted::PerSecond);
            }
        }
        Ok(())
    }

    /// Takes one request from the budgets, if they cover it.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Exhausted> {
        self.check(0, now)?;
        if let Some(rate) = self.per_second {
            self.full_at = self.full_at.max(now) + tokens(1, rate);
        }
        let slot = self.slot();
        self.hours[slot] = self.hours[slot].saturating_add(1);
        self.today = self.today.saturating_add(1);
        Ok(())
    }

    /// Drops the hours that are more than a day old.
    fn roll(&mut self, now: Instant) {
        let hour = now.uptime().as_secs() / HOUR.as_secs();
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

/// Returns the time that `count` tokens take to accrue, rounded down, so that a second's worth never
/// takes more than a second.
fn tokens(count: u32, rate: u32) -> Duration {
    Duration::from_nanos(u64::from(count) * 1_000_000_000 / u64::from(rate.max(1)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Instant {
        Instant::at(Duration::from_secs_f64(seconds))
    }

    #[test]
    fn a_second_has_a_limited_number_of_tokens() {
        let mut budget = Budget::new(Some(3), None);
        for _ in 0..3 {
            assert_eq!(budget.take(at(10.0)), Ok(()));
        }
        assert_eq!(budget.take(at(10.0)), Err(Exhausted::PerSecond));
        assert_eq!(budget.take(at(10.3)), Err(Exhausted::PerSecond));
        assert_eq!(budget.take(at(10.34)), Ok(()));
        assert_eq!(budget.take(at(10.34)), Err(Exhausted::PerSecond));
        // Unused tokens accumulate up to one second's worth.
        for _ in 0..3 {
            assert_eq!(budget.take(at(1000.0)), Ok(()));
        }
        assert_eq!(budget.take(at(1000.0)), Err(Exhausted::PerSecond));
    }

    #[test]
    fn waiting_questions_are_counted() {
        let mut budget = Budget::new(Some(3), None);
        assert_eq!(budget.check(2, at(0.0)), Ok(()));
        assert_eq!(budget.check(3, at(0.0)), Err(Exhausted::PerSecond));
        let mut budget = Budget::new(None, Some(3));
        assert_eq!(budget.take(at(0.0)), Ok(()));
        assert_eq!(budget.check(1, at(0.0)), Ok(()));
        assert_eq!(budget.check(2, at(0.0)), Err(Exhausted::PerDay));
        assert_eq!(budget.check(usize::MAX, at(0.0)), Err(Exhausted::PerDay));
    }

    #[test]
    fn without_limits_every_request_is_admitted() {
        let mut budget = Budget::new(None, None);
        for _ in 0..10_000 {
            assert_eq!(budget.take(at(0.0)), Ok(()));
        }
    }

    proptest! {
        /// No period of 24 hours contains more requests than the budget.
        #[test]
        fn any_24_hours_stay_within_the_budget(
            steps in prop::collection::vec((0u64..20_000, 1usize..8), 1..200),
            max in 1u32..40,
        ) {
            let mut budget = Budget::new(None, Some(max));
            let mut now = Instant::START;
            let mut made: Vec<Instant> = Vec::new();
            for (pause, tries) in steps {
                now += Duration::from_secs(pause);
                for _ in 0..tries {
                    if budget.take(now).is_ok() {
                        made.push(now);
                    }
                }
                let day = made.iter().filter(|&&then| now < then + 24 * HOUR).count();
                prop_assert!(day <= max as usize);
                // The budget recovers.
                if made.last().is_none_or(|&last| now > last + 25 * HOUR) {
                    prop_assert_eq!(budget.check(0, now), Ok(()));
                }
            }
        }
    }
}
