//! The circuit breaker: stops requests to a provider that keeps failing.

use std::sync::Arc;
use std::time::Duration;

use crate::places::limits::{BREAKER_MAX_PAUSE, BREAKER_MIN_PAUSE, BREAKER_THRESHOLD};
use crate::places::providers::failure::{Blame, Failure};
use crate::rng::Rng;
use crate::time::Instant;

/// Closed until a number of consecutive failures, then open for a pause, then half-open: one
/// question is admitted as a probe. Pauses double, with jitter, so that the nodes of a herd do not
/// return to a failed provider at the same moment.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// The number of openings since the last success.
    openings: u32,
    random: Rng,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, failure: Arc<Failure> },
    HalfOpen { failure: Arc<Failure> },
}

/// The role of an admitted question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The breaker is closed.
    Regular,
    /// The question finds out whether the provider has recovered. Its outcome must be reported.
    Probe,
}

impl Breaker {
    /// Creates a closed breaker. `seed` determines the jitter of its pauses.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: State::Closed { failures: 0 }, openings: 0, random: Rng::new(seed) }
    }

    /// Admits a question, or returns the failure to answer it with.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Role, Arc<Failure>> {
        match &self.state {
            State::Closed { .. } => Ok(Role::Regular),
            State::Open { until, failure } if *until <= now => {
                self.state = State::HalfOpen { failure: failure.clone() };
                Ok(Role::Probe)
            }
            State::Open { failure, .. } | State::HalfOpen { failure } => Err(failure.clone()),
        }
    }

    /// Reports that the provider has answered, and closes the breaker. Returns true if it was not
    /// closed.
    pub(super) fn succeeded(&mut self) -> bool {
        self.state = State::Closed { failures: 0 };
        std::mem::take(&mut self.openings) > 0
    }

    /// Returns true if the breaker has opened once since the last success: the provider has begun to
    /// fail. Later openings follow failed probes.
    pub(super) const fn has_just_failed(&self) -> bool {
        self.openings == 1
    }

    /// Reports the failure of a question. If the breaker opens, returns the failure to answer all
    /// queued questions with.
    pub(super) fn failed(
        &mut self,
        cause: &Failure,
        role: Role,
        now: Instant,
    ) -> Option<Arc<Failure>> {
        let retry_after = match cause.blame {
            Blame::Provider { retry_after } => retry_after,
            Blame::Question | Blame::Node => return None,
        };
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < BREAKER_THRESHOLD && retry_after.is_none() {
                    return None;
                }
            }
            State::HalfOpen { .. } if role == Role::Probe => {}
            // Requests from before it opened prove nothing.
            State::HalfOpen { .. } | State::Open { .. } => return None,
        }
        let pause = self.pause().max(retry_after.unwrap_or_default());
        self.openings = self.openings.saturating_add(1);
        let failure = Arc::new(Failure {
            status: cause.status,
            message: format!(
                "the provider keeps failing, and the circuit breaker is open for {} s: {}",
                pause.as_secs_f64().ceil(),
                cause.message
            ),
            blame: Blame::Node,
        });
        self.state = State::Open { until: now + pause, failure: failure.clone() };
        Some(failure)
    }

    /// Reports that the probe was abandoned without an outcome: the next question is the probe.
    pub(super) fn probe_lost(&mut self) {
        if let State::HalfOpen { failure } = &self.state {
            self.state = State::Open { until: Instant::START, failure: failure.clone() };
        }
    }

    /// Returns true during a pause. At its end the breaker counts as closed even before the probe:
    /// a load balancer that waits for this before it sends questions would wait indefinitely.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { until, .. } if until > now)
    }

    /// Returns the next pause: it doubles with each opening, and is reduced by up to half at random.
    fn pause(&mut self) -> Duration {
        let doubled = BREAKER_MIN_PAUSE.saturating_mul(1 << self.openings.min(16));
        let full = doubled.min(BREAKER_MAX_PAUSE);
        full / 2 + full.mul_f64(self.random.unit() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::document::Status;

    fn failure(retry_after: Option<u64>) -> Failure {
        Failure {
            status: Status::UnknownError,
            message: "the host is unreachable".into(),
            blame: Blame::Provider { retry_after: retry_after.map(Duration::from_secs) },
        }
    }

    fn secs(seconds: u64) -> Instant {
        Instant::at(Duration::from_secs(seconds))
    }

    /// Opens a breaker at `now`.
    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(7);
        for i in 1..=BREAKER_THRESHOLD {
            let opened = breaker.failed(&failure(None), Role::Regular, now).is_some();
            assert_eq!(opened, i == BREAKER_THRESHOLD);
        }
        breaker
    }

    #[test]
    fn it_opens_only_after_consecutive_failures() {
        let mut breaker = Breaker::new(1);
        for _ in 0..100 {
            for _ in 1..BREAKER_THRESHOLD {
                assert!(breaker.failed(&failure(None), Role::Regular, secs(0)).is_none());
            }
            breaker.succeeded();
        }
        assert!(matches!(breaker.admit(secs(0)), Ok(Role::Regular)));
        let mut breaker = opened(secs(0));
        let failure = breaker.admit(secs(0)).unwrap_err();
        assert_eq!(failure.status, Status::UnknownError);
        assert!(failure.message.contains("the host is unreachable"));
    }

    #[test]
    fn the_outcome_of_the_probe_decides() {
        let mut breaker = opened(secs(0));
        assert!(matches!(breaker.admit(secs(1)), Ok(Role::Probe)));
        assert!(breaker.admit(secs(1)).is_err());
        // An older request is not the probe.
        assert!(breaker.failed(&failure(None), Role::Regular, secs(1)).is_none());
        assert!(breaker.failed(&failure(None), Role::Probe, secs(1)).is_some());
        assert!(breaker.admit(secs(1)).is_err());
        assert!(matches!(breaker.admit(secs(3)), Ok(Role::Probe)));
        breaker.succeeded();
        assert!(matches!(breaker.admit(secs(3)), Ok(Role::Regular)));
    }

    #[test]
    fn pauses_start_over_after_a_recovery() {
        let mut breaker = opened(secs(0));
        let mut now = secs(0);
        for _ in 0..6 {
            now += BREAKER_MAX_PAUSE;
            assert!(matches!(breaker.admit(now), Ok(Role::Probe)));
            assert!(breaker.failed(&failure(None), Role::Probe, now).is_some());
        }
        assert!(breaker.admit(now + BREAKER_MIN_PAUSE).is_err());
        breaker.succeeded();
        for _ in 0..BREAKER_THRESHOLD {
            breaker.failed(&failure(None), Role::Regular, now);
        }
        assert!(breaker.admit(now).is_err());
        assert!(matches!(breaker.admit(now + BREAKER_MIN_PAUSE), Ok(Role::Probe)));
    }

    #[test]
    fn a_lost_probe_is_repeated() {
        let mut breaker = opened(secs(0));
        assert!(matches!(breaker.admit(secs(1)), Ok(Role::Probe)));
        breaker.probe_lost();
        assert!(matches!(breaker.admit(secs(1)), Ok(Role::Probe)));
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_vary() {
        let mut seen = Vec::new();
        for seed in 0..50 {
            let mut breaker = Breaker::new(seed);
            let mut nominal = BREAKER_MIN_PAUSE;
            for _ in 0..12 {
                let pause = breaker.pause();
                assert!(pause >= nominal / 2 && pause <= nominal, "{pause:?} for {nominal:?}");
                breaker.openings += 1;
                nominal = (nominal * 2).min(BREAKER_MAX_PAUSE);
                seen.push(pause);
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert!(seen.len() > 550, "{}", seen.len());
    }

    #[test]
    fn a_requested_pause_opens_it_immediately() {
        let mut breaker = Breaker::new(1);
        assert!(breaker.failed(&failure(Some(30)), Role::Regular, secs(0)).is_some());
        assert!(breaker.admit(secs(29)).is_err());
        assert!(matches!(breaker.admit(secs(30)), Ok(Role::Probe)));
    }
}
