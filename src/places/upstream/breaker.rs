//! The circuit breaker: a provider that keeps failing is left alone for a while.

use std::sync::Arc;
use std::time::Duration;

use crate::places::answer::{Fault, Refusal};
use crate::places::limits::{BREAKER_MAX_PAUSE, BREAKER_MIN_PAUSE, BREAKER_THRESHOLD};
use crate::rng::Rng;

/// Closed until failures follow each other, then open for a pause, then half open: one question is
/// let through to probe. Pauses double, with jitter, so that the nodes of a herd that lost one
/// provider do not come back at once.
#[derive(Debug)]
pub(super) struct Breaker {
    state: State,
    /// How often in a row it has opened.
    openings: u32,
    random: Rng,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration, refusal: Arc<Refusal> },
    HalfOpen { refusal: Arc<Refusal> },
}

/// Whether a question may be put to the provider.
#[derive(Debug)]
pub(super) enum Admission {
    /// As any other.
    Pass,
    /// As the one that finds out whether the provider is back. Its outcome must be reported.
    Probe,
    /// Not now.
    Refuse(Arc<Refusal>),
}

impl Breaker {
    /// A closed breaker. `seed` varies its pauses.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: State::Closed { failures: 0 }, openings: 0, random: Rng::new(seed) }
    }

    /// Whether a question may be put to the provider now.
    pub(super) fn admit(&mut self, now: Duration) -> Admission {
        match &self.state {
            State::Closed { .. } => Admission::Pass,
            State::Open { until, refusal } if *until <= now => {
                self.state = State::HalfOpen { refusal: refusal.clone() };
                Admission::Probe
            }
            State::Open { refusal, .. } | State::HalfOpen { refusal } => {
                Admission::Refuse(refusal.clone())
            }
        }
    }

    /// The provider has answered.
    pub(super) fn succeeded(&mut self) {
        self.state = State::Closed { failures: 0 };
        self.openings = 0;
    }

    /// The provider has failed, in the way that `cause` tells. `probe` says that the question was
    /// the one that was to find out. Returns the refusal for all that wait, if the breaker has
    /// opened now.
    pub(super) fn failed(
        &mut self,
        cause: &Refusal,
        probe: bool,
        now: Duration,
    ) -> Option<Arc<Refusal>> {
        let asked_for = match cause.fault {
            Fault::Provider { pause } => pause,
            Fault::Question | Fault::Nobody => return None,
        };
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < BREAKER_THRESHOLD && asked_for.is_none() {
                    return None;
                }
            }
            State::HalfOpen { .. } if probe => {}
            // Stragglers from before it opened say nothing new.
            State::HalfOpen { .. } | State::Open { .. } => return None,
        }
        let pause = self.pause().max(asked_for.unwrap_or_default());
        self.openings = self.openings.saturating_add(1);
        let refusal = Arc::new(Refusal {
            status: cause.status,
            message: format!(
                "the provider keeps failing and is left alone for {} s: {}",
                pause.as_secs_f64().ceil(),
                cause.message
            ),
            fault: Fault::Nobody,
        });
        self.state = State::Open { until: now + pause, refusal: refusal.clone() };
        Some(refusal)
    }

    /// The probe was given up before it found out: the next question probes.
    pub(super) fn probe_lost(&mut self) {
        if let State::HalfOpen { refusal } = &self.state {
            self.state = State::Open { until: Duration::ZERO, refusal: refusal.clone() };
        }
    }

    /// Whether the provider is left alone now. Once the pause has run out it is not, though nobody
    /// has asked yet: who waits for this to end before asking must not wait for ever.
    pub(super) fn is_open(&self, now: Duration) -> bool {
        matches!(self.state, State::Open { until, .. } if until > now)
    }

    /// The next pause: doubled each time, and between half and all of that.
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

    fn failure(pause: Option<u64>) -> Refusal {
        Refusal {
            status: Status::UnknownError,
            message: "the host is away".into(),
            fault: Fault::Provider { pause: pause.map(Duration::from_secs) },
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Opens a breaker at `now`.
    fn opened(now: Duration) -> Breaker {
        let mut breaker = Breaker::new(7);
        for i in 1..=BREAKER_THRESHOLD {
            let opened = breaker.failed(&failure(None), false, now).is_some();
            assert_eq!(opened, i == BREAKER_THRESHOLD);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::new(1);
        for _ in 0..100 {
            for _ in 1..BREAKER_THRESHOLD {
                assert!(breaker.failed(&failure(None), false, secs(0)).is_none());
            }
            breaker.succeeded();
        }
        assert!(matches!(breaker.admit(secs(0)), Admission::Pass));
        let mut breaker = opened(secs(0));
        let Admission::Refuse(refusal) = breaker.admit(secs(0)) else { panic!("not refused") };
        assert_eq!(refusal.status, Status::UnknownError);
        assert!(refusal.message.contains("the host is away"));
    }

    #[test]
    fn one_question_probes_and_decides() {
        let mut breaker = opened(secs(0));
        assert!(matches!(breaker.admit(secs(1)), Admission::Probe));
        assert!(matches!(breaker.admit(secs(1)), Admission::Refuse(_)));
        // A straggler is not the probe.
        assert!(breaker.failed(&failure(None), false, secs(1)).is_none());
        assert!(breaker.failed(&failure(None), true, secs(1)).is_some());
        assert!(matches!(breaker.admit(secs(1)), Admission::Refuse(_)));
        assert!(matches!(breaker.admit(secs(3)), Admission::Probe));
        breaker.succeeded();
        assert!(matches!(breaker.admit(secs(3)), Admission::Pass));
    }

    #[test]
    fn pauses_begin_anew_once_the_provider_is_back() {
        let mut breaker = opened(secs(0));
        let mut now = secs(0);
        for _ in 0..6 {
            now += BREAKER_MAX_PAUSE;
            assert!(matches!(breaker.admit(now), Admission::Probe));
            assert!(breaker.failed(&failure(None), true, now).is_some());
        }
        assert!(matches!(breaker.admit(now + BREAKER_MIN_PAUSE), Admission::Refuse(_)));
        breaker.succeeded();
        for _ in 0..BREAKER_THRESHOLD {
            breaker.failed(&failure(None), false, now);
        }
        assert!(matches!(breaker.admit(now), Admission::Refuse(_)));
        assert!(matches!(breaker.admit(now + BREAKER_MIN_PAUSE), Admission::Probe));
    }

    #[test]
    fn a_probe_that_is_lost_is_repeated() {
        let mut breaker = opened(secs(0));
        assert!(matches!(breaker.admit(secs(1)), Admission::Probe));
        breaker.probe_lost();
        assert!(matches!(breaker.admit(secs(1)), Admission::Probe));
    }

    #[test]
    fn pauses_double_up_to_a_cap_and_vary() {
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
    fn a_provider_that_asks_for_a_pause_gets_it_at_once() {
        let mut breaker = Breaker::new(1);
        assert!(breaker.failed(&failure(Some(30)), false, secs(0)).is_some());
        assert!(matches!(breaker.admit(secs(29)), Admission::Refuse(_)));
        assert!(matches!(breaker.admit(secs(30)), Admission::Probe));
    }
}
