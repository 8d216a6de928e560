//! Addresses that have sent wrong tokens.

use core::time::Duration;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use crate::endpoint::network_of_forwarded;
use crate::time::Instant;

/// Failures within [`WINDOW`] after which an address is blocked.
pub const MAX_FAILURES: usize = 10;

/// Time within which failures are counted, and for which an address is blocked.
pub const WINDOW: Duration = Duration::from_mins(1);

/// Addresses in each half of the table. Together they take 4 MiB, if addresses attack in such numbers;
/// more of them push the oldest out.
const MAX_ADDRESSES: usize = 8192;

/// The failures of the last minute, by address. Bounded: entries are not removed one by one, but half
/// of the table is dropped when the other half is full or a minute old.
#[derive(Default)]
pub struct Failures {
    recent: HashMap<u64, Record>,
    former: HashMap<u64, Record>,
    /// The time since which `recent` is filled.
    since: Instant,
    keys: RandomState,
}

/// The last failures of an address, in a ring.
#[derive(Clone, Copy, Default)]
struct Record {
    times: [Instant; MAX_FAILURES],
    count: usize,
    blocked_until: Option<Instant>,
}

impl Failures {
    /// Returns the key of an address that a proxy has written: that of its network, or that of the text
    /// if it is not an address.
    #[must_use]
    pub fn key(&self, address: &str) -> u64 {
        match network_of_forwarded(address) {
            Some(network) => self.keys.hash_one(network),
            None => self.keys.hash_one(address),
        }
    }

    /// Returns the time until which an address is blocked.
    #[must_use]
    pub fn blocked_until(&self, address: u64, now: Instant) -> Option<Instant> {
        let record = self.recent.get(&address).or_else(|| self.former.get(&address))?;
        record.blocked_until.filter(|&until| now < until)
    }

    /// Records a failure of an address that is not blocked.
    pub fn record(&mut self, address: u64, now: Instant) {
        if self.recent.len() >= MAX_ADDRESSES || now.since(self.since) >= WINDOW {
            self.former = std::mem::take(&mut self.recent);
            self.since = now;
        }
        let former = &self.former;
        let record = self
            .recent
            .entry(address)
            .or_insert_with(|| former.get(&address).copied().unwrap_or_default());
        record.times[record.count % MAX_FAILURES] = now;
        record.count += 1;
        if record.count >= MAX_FAILURES {
            // The one that the next would overwrite: the first of the last ten.
            let first = record.times[record.count % MAX_FAILURES];
            if now.since(first) < WINDOW {
                *record = Record { blocked_until: Some(now + WINDOW), ..Record::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::at(Duration::from_secs(seconds))
    }

    #[test]
    fn ten_failures_within_a_minute_block_an_address_for_a_minute() {
        let mut failures = Failures::default();
        for second in 0..9 {
            failures.record(7, at(second));
            assert_eq!(failures.blocked_until(7, at(second)), None);
        }
        failures.record(7, at(59));
        assert_eq!(failures.blocked_until(7, at(59)), Some(at(119)));
        assert_eq!(failures.blocked_until(7, at(118)), Some(at(119)));
        assert_eq!(failures.blocked_until(7, at(119)), None);
        assert_eq!(failures.blocked_until(8, at(60)), None);
        failures.record(7, at(119));
        assert_eq!(failures.blocked_until(7, at(119)), None, "it begins again");
    }

    #[test]
    fn slower_failures_do_not_block() {
        let mut failures = Failures::default();
        for n in 0..100 {
            failures.record(7, at(7 * n));
            assert_eq!(failures.blocked_until(7, at(7 * n)), None, "{n}");
        }
        // The window slides: nine of these are less than a minute old.
        failures.record(7, at(694));
        assert!(failures.blocked_until(7, at(694)).is_some());
    }

    #[test]
    fn any_number_of_addresses_is_bounded() {
        let mut failures = Failures::default();
        for address in 0..4 * MAX_ADDRESSES as u64 {
            failures.record(address, at(1));
            assert!(failures.recent.len() + failures.former.len() <= 2 * MAX_ADDRESSES);
        }
        // An address keeps its failures while others come.
        for _ in 0..9 {
            failures.record(u64::MAX, at(2));
        }
        (0..MAX_ADDRESSES as u64 / 2).for_each(|address| failures.record(1 << 40 | address, at(3)));
        failures.record(u64::MAX, at(4));
        assert!(failures.blocked_until(u64::MAX, at(4)).is_some());
    }
}
