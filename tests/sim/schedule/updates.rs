//! The clients of a schedule, and their updates.

use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;

use super::{MILLISECOND, SECONDS, Schedule, Step, When};

impl Schedule {
    pub(super) fn updates(&mut self, crowded: bool, rng: &mut Rng) {
        if crowded {
            // Both sides of every later comparison hold many records in one leaf.
            let node = rng.index(self.nodes);
            for client in 0..self.clients.len() {
                self.steps.push((0, Step::Update { node, client, when: When::Off(0) }));
            }
        }
        let wrong_times = rng.percent(25);
        let count = if rng.percent(10) { rng.range(40, 200) } else { rng.range(1, 30) };
        // Some updates are sent while the herd recovers.
        let latest = self.quiet_at + if rng.percent(30) { SECONDS } else { 0 };
        for _ in 0..count {
            let at = rng.below(latest);
            let (node, client) = (rng.index(self.nodes), rng.index(self.clients.len()));
            let when = when(wrong_times, rng);
            self.steps.push((at, Step::Update { node, client, when }));
            if rng.percent(15) {
                // The same update to another node, at the same moment or a little later.
                let (node, at) = (rng.index(self.nodes), at + rng.below(50) * MILLISECOND);
                let when = if rng.percent(50) { When::Repeat } else { When::SameTime };
                self.steps.push((at.min(latest - 1), Step::Update { node, client, when }));
            }
        }
    }

    /// One client moves faster than its records can be sent, and the others keep the links busy.
    pub(super) fn burst(&mut self, rng: &mut Rng) {
        let node = rng.index(self.nodes);
        let pause = rng.range(1, 3) * MILLISECOND;
        let mut at = rng.below(self.quiet_at);
        let end = at + rng.range(400, 900) * MILLISECOND;
        while at < end {
            let other = rng.index(self.clients.len());
            for (client, at) in [(0, at), (other, at + pause / 2)] {
                self.steps.push((at, Step::Update { node, client, when: When::Off(0) }));
            }
            at += pause;
        }
    }

    /// All clients move all the time.
    pub(super) fn steady_updates(&mut self, rng: &mut Rng) {
        let pause = rng.range(3, 15) * MILLISECOND;
        let mut at = 0;
        while at < self.quiet_at.min(2500 * MILLISECOND) {
            let (node, client) = (rng.index(self.nodes), rng.index(self.clients.len()));
            self.steps.push((at, Step::Update { node, client, when: When::Off(0) }));
            at += pause;
        }
    }
}

pub(super) fn when(wrong_times: bool, rng: &mut Rng) -> When {
    let seconds = |s: i64| Nanos::from(s) * SECOND;
    match rng.below(100) {
        0..8 => When::SameTime,
        8..16 => When::Repeat,
        16..40 if wrong_times => rng.pick(&[
            When::At(seconds(253_402_300_799)),
            When::At(seconds(-253_402_300_799)),
            When::At(0),
            When::At(-SECOND / 2),
            When::Off(seconds(86_400)),
            When::Off(seconds(-86_400)),
            When::Off(seconds(400_000_000)),
        ]),
        40..60 => When::Off(Nanos::from(rng.range(0, 20_000)) * SECOND / 1000 - 10 * SECOND),
        _ => When::Off(0),
    }
}

pub(super) fn clients(crowded: bool, hot: bool, busy: bool, rng: &mut Rng) -> Vec<String> {
    if crowded {
        // More than one line of a listing holds.
        return (0..130).map(|i| format!("c{i}")).collect();
    }
    if hot {
        return (0..rng.range(8, 12)).map(|i| format!("c{i}")).collect();
    }
    if rng.percent(25) {
        return (0..rng.range(2, 12)).map(|i| format!("c{i}")).collect();
    }
    let count = if busy || rng.percent(10) { rng.range(20, 60) } else { rng.range(1, 10) };
    (0..count).map(|i| format!("c{i}")).collect()
}
