//! Following a change of the rules, a little at a time.
//!
//! Another Δ changes the ranks of the stored records, and with them the tournament of eviction. A lower
//! cap evicts clients. Both take seconds for a million clients, so they are divided into steps.
//! Meanwhile a client whose rank is outdated gets it renewed when it is updated. Until the least
//! record is known, a full directory stores new clients nevertheless, and evicts the excess afterwards.
//! A time to live needs nothing of this: whether a record has expired is decided when it is read.

use super::{Directory, Rules, order};
use crate::herd::eviction::Tournament;
use crate::herd::slots::Stored;
use crate::ids::Slot;
use crate::time::Wall;

/// Slots that one step gives their new rank. A step then takes about a microsecond, like an eviction.
const RANKS_PER_STEP: u32 = 16;

/// Steps that a new client pays for in a full directory whose least record is not known yet. The
/// excess stays below a hundredth of the clients, since 16 groups of 16 slots enter meanwhile.
const STEPS_PER_CLIENT: u32 = 16;

/// The progress of an adaptation.
#[derive(Default)]
pub struct Adaptation {
    /// True until everything follows the rules in force.
    is_active: bool,
    /// The slots from this one on may have the rank of an earlier Δ; `None` if none has.
    outdated_from: Option<Slot>,
}

impl Adaptation {
    /// Returns whether the rank of this slot may be that of an earlier Δ.
    pub fn is_outdated(&self, slot: Slot) -> bool {
        self.outdated_from.is_some_and(|from| slot >= from)
    }

    /// Returns whether the ranks of all slots are those of Δ.
    pub const fn has_ranks(&self) -> bool {
        self.outdated_from.is_none()
    }
}

impl Directory {
    /// Changes the rules. [`Directory::adapt`] must be called while [`Directory::is_adapting`].
    pub fn set_rules(&mut self, rules: Rules) {
        if rules.max_clock_offset != self.rules.max_clock_offset {
            self.adaptation.outdated_from = Some(Slot(0));
            self.tournament = Tournament::default();
        }
        self.rules = rules;
        self.adaptation.is_active = self.is_incomplete();
    }

    /// Returns whether stored records do not follow the rules yet.
    #[must_use]
    pub const fn is_adapting(&self) -> bool {
        self.adaptation.is_active
    }

    /// Performs up to `steps` steps of the adaptation.
    pub fn adapt(&mut self, steps: u32, now: Wall) {
        for _ in 0..steps {
            if !self.adapt_once(now) {
                break;
            }
        }
        self.adaptation.is_active = self.is_incomplete();
    }

    fn is_incomplete(&self) -> bool {
        !self.adaptation.has_ranks() || self.len > self.rules.max_clients || self.needs_tournament()
    }

    fn adapt_once(&mut self, now: Wall) -> bool {
        if let Some(from) = self.adaptation.outdated_from {
            let end = from.0.saturating_add(RANKS_PER_STEP).min(self.slots.used());
            (from.0..end).for_each(|slot| self.renew_rank(Slot(slot)));
            self.adaptation.outdated_from = (end < self.slots.used()).then_some(Slot(end));
        } else if self.needs_tournament() {
            self.tournament.enter(order(&self.slots, &self.rules));
        } else if self.len > self.rules.max_clients
            && let Some(least) = self.tournament.least()
        {
            self.evict(least, now);
        } else {
            return false;
        }
        true
    }

    /// Returns whether the directory is nearly full and its least record is not known.
    fn needs_tournament(&self) -> bool {
        self.is_nearly_full() && self.tournament.entered() < self.slots.used()
    }

    /// Returns whether a new client is stored although the directory is full, because the least record
    /// is not known yet.
    pub(super) fn admits_excess(&mut self, now: Wall) -> bool {
        if self.adaptation.is_active {
            self.adapt(STEPS_PER_CLIENT, now);
        }
        !self.adaptation.has_ranks() || self.needs_tournament()
    }

    /// Gives a slot the rank of Δ, if it may have another.
    pub(super) fn renew_rank(&mut self, slot: Slot) {
        if self.adaptation.is_outdated(slot)
            && let Some(record) = self.slots.get(slot).and_then(Stored::record)
        {
            let rank = self.rank(&record);
            self.slots[slot].set_rank(rank);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::herd::digest::Branch;
    use crate::herd::directory::{Applied, Keys, Source};
    use crate::protocol::record::Record;
    use crate::protocol::time::{Nanos, SECOND};

    const NOW: Wall = Wall(0);

    fn rules(max_clients: u32, offset: Nanos) -> Rules {
        Rules { max_clock_offset: offset * SECOND, max_clients, client_ttl: 0, forget_keep: SECOND }
    }

    fn directory(rules: Rules) -> Directory {
        Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) })
    }

    fn line(client: &str, time: i64, difference: i64) -> Vec<u8> {
        format!("AT A {difference:+}.000000000 {client} +1-1 {time}").into_bytes()
    }

    fn apply(directory: &mut Directory, line: &[u8]) -> Applied {
        directory.apply(&Record::parse(line).unwrap(), Source::Peer, NOW)
    }

    fn lines(directory: &Directory) -> Vec<Vec<u8>> {
        let slots = (0..directory.slots()).map(Slot);
        let mut lines: Vec<_> =
            slots.filter_map(|slot| directory.line(slot)).map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    }

    fn finish(directory: &mut Directory) {
        for _ in 0..100_000 {
            if !directory.is_adapting() {
                return;
            }
            directory.adapt(1, NOW);
        }
        panic!("the adaptation does not end");
    }

    #[test]
    fn a_lower_cap_evicts_the_least_in_bounded_steps() {
        let mut d = directory(rules(100_000, 5));
        for i in 0..10_000 {
            apply(&mut d, &line(&format!("c{i}"), (i * 7919) % 10_000, 0));
        }
        d.set_rules(rules(1_000, 5));
        assert_eq!(d.len(), 10_000);
        let mut most = 0;
        while d.is_adapting() {
            let (len, compared) = (d.len(), d.compared());
            d.adapt(1, NOW);
            assert!(len - d.len() <= 1);
            most = most.max(d.compared() - compared);
        }
        assert!(most <= 200, "{most} comparisons in one step");
        assert_eq!((d.len(), d.counters.evicted), (1_000, 9_000));
        let time = |line: &Vec<u8>| Record::parse(line).unwrap().time / SECOND;
        assert!(lines(&d).iter().all(|line| time(line) >= 9_000));
        assert_eq!(apply(&mut d, &line("late", 8_999, 0)), Applied::OverCapacity);
    }

    #[test]
    fn a_higher_cap_and_a_time_to_live_need_no_steps() {
        let mut d = directory(rules(2, 5));
        for i in 0..2 {
            apply(&mut d, &line(&format!("c{i}"), i, 0));
        }
        d.set_rules(Rules { client_ttl: 10 * SECOND, ..rules(100, 5) });
        assert!(!d.is_adapting());
        assert!(matches!(apply(&mut d, &line("c2", 2, 0)), Applied::Stored(_)));
        assert!(d.get(b"c2", Wall(12 * SECOND)).is_some());
        assert!(d.get(b"c1", Wall(12 * SECOND)).is_none());
    }

    #[test]
    fn the_excess_is_small_while_the_least_record_is_not_known() {
        let cap = 20_000;
        let mut d = directory(rules(cap, 5));
        for i in 0..cap.into() {
            apply(&mut d, &line(&format!("c{i}"), i, 0));
        }
        d.set_rules(rules(cap, 4));
        let mut most = 0;
        for i in 0..5_000 {
            apply(&mut d, &line(&format!("d{i}"), 1_000_000 + i, 0));
            most = most.max(d.len());
        }
        assert!(most < cap + cap / 100, "{most} clients");
        finish(&mut d);
        assert_eq!(d.len(), cap);
    }

    proptest! {
        /// Whenever the rules change, and with any records in between, the directory ends with the
        /// newest record of each client by the new order, and with the top K clients.
        #[test]
        fn the_outcome_is_that_of_the_new_rules(
            before in proptest::collection::vec((0u8..40, 0i64..40, -30i64..30), 0..80),
            after in proptest::collection::vec((0u8..60, 0i64..40, -30i64..30, 0u32..4), 0..60),
            caps in (1u32..40, 1u32..40),
            offsets in (0i128..20, 0i128..20),
        ) {
            let text = |client: u8, time, difference| line(&format!("c{client}"), time, difference);
            let mut d = directory(rules(caps.0, offsets.0));
            for &(client, time, difference) in &before {
                apply(&mut d, &text(client, time, difference));
            }
            let mut newest: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let new = rules(caps.1, offsets.1);
            let delta = new.max_clock_offset;
            let mut expect = |line: Vec<u8>| {
                let record = Record::parse(&line).unwrap();
                let client = record.client.to_vec();
                let older = newest.get(&client).is_some_and(|held| {
                    record.cmp(&Record::parse(held).unwrap(), delta).is_le()
                });
                if !older {
                    newest.insert(client, line);
                }
            };
            lines(&d).into_iter().for_each(&mut expect);
            d.set_rules(new);
            for &(client, time, difference, steps) in &after {
                d.adapt(steps, NOW);
                apply(&mut d, &text(client, time, difference));
                expect(text(client, time, difference));
            }
            finish(&mut d);
            let mut expected: Vec<_> = newest.into_values().collect();
            expected.sort_by(|a, b| {
                Record::parse(b).unwrap().cmp(&Record::parse(a).unwrap(), delta)
            });
            expected.truncate(caps.1 as usize);
            expected.sort();
            prop_assert_eq!(lines(&d), expected.clone());
            let mut fresh = directory(new);
            for line in &expected {
                apply(&mut fresh, line);
            }
            prop_assert_eq!(d.sums().of(Branch::ROOT), fresh.sums().of(Branch::ROOT));
        }
    }
}
