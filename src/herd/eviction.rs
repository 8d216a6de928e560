//! Eviction from a full directory.
//!
//! The directory keeps the top K clients by the order of records. This is a function of the records
//! alone, so nodes that have received the same records keep the same clients. Eviction of the least
//! recently used client would not converge.
//!
//! The least record is found by a tournament: the least of sixteen slots, of sixteen such winners,
//! and so on. An update raises the rank of its client, so it changes nothing unless the client was
//! the winner of its sixteen; only then are they compared again. The work per update and per
//! eviction is therefore bounded by sixteen comparisons per round at any number of clients, and is
//! about one on average. (A heap of lower bounds, which updates do not touch at all, must re-enter
//! all clients before one eviction if all have moved.) A winner takes four bytes, a client a quarter
//! of a byte.

use core::cmp::Ordering;

use super::slots::Slots;
use crate::ids::Slot;
use crate::protocol::time::Nanos;

/// Number of slots, or of winners of the previous round, in a group.
const GROUP: usize = 1 << GROUP_BITS;
const GROUP_BITS: usize = 4;

/// The winner of a group of free slots.
const NONE: Slot = Slot(u32::MAX);

/// The order of the stored records.
#[derive(Clone, Copy)]
pub struct Order<'a> {
    /// The records, whose ranks are those of this Δ.
    pub slots: &'a Slots,
    /// Δ.
    pub max_clock_offset: Nanos,
}

impl Order<'_> {
    /// Compares the records in two slots. A free slot is greater than any record.
    fn cmp(&self, a: Slot, b: Slot) -> Ordering {
        self.slots.rank(a).cmp(&self.slots.rank(b)).then_with(|| {
            match (self.slots.get(a), self.slots.get(b)) {
                // Stored lines are valid records.
                (Some(a), Some(b)) => a
                    .record()
                    .zip(b.record())
                    .map_or(Ordering::Equal, |(a, b)| a.cmp(&b, self.max_clock_offset)),
                (a, b) => a.is_none().cmp(&b.is_none()),
            }
        })
    }

    fn least(&self, slots: impl Iterator<Item = Slot> + Clone) -> Slot {
        // Nearly always, one of them has the least rank.
        let rank = slots.clone().map(|slot| self.slots.rank(slot)).min();
        let least = slots
            .filter(|&slot| Some(self.slots.rank(slot)) == rank)
            .min_by(|&a, &b| self.cmp(a, b));
        least.filter(|&slot| self.slots.get(slot).is_some()).unwrap_or(NONE)
    }
}

/// Finds the least record. Groups of slots enter one at a time.
#[derive(Default)]
pub struct Tournament {
    /// The winners, round by round. The last round has one.
    rounds: Vec<Vec<Slot>>,
    /// Number of slots and winners that have been compared.
    compared: u64,
}

impl Tournament {
    /// Returns whether any group has entered.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        !self.rounds.is_empty()
    }

    /// Returns the number of slots that have entered, which are the lowest.
    #[must_use]
    pub fn entered(&self) -> u32 {
        self.rounds.first().map_or(0, |winners| winners.len() * GROUP) as u32
    }

    /// Returns the slot of the least record among those that have entered.
    #[must_use]
    pub fn least(&self) -> Option<Slot> {
        let &winner = self.rounds.last()?.first()?;
        (winner != NONE).then_some(winner)
    }

    /// Returns the number of slots and winners that have been compared so far, a measure of work.
    #[must_use]
    pub const fn compared(&self) -> u64 {
        self.compared
    }

    /// Enters the next group of slots.
    pub fn enter(&mut self, order: Order<'_>) {
        let mut at = self.entered() as usize / GROUP;
        for round in 0.. {
            if round == self.rounds.len() {
                self.rounds.push(Vec::new());
            }
            let winner = self.play(round, at, order);
            let winners = &mut self.rounds[round];
            match winners.get_mut(at) {
                Some(held) => *held = winner,
                None => winners.push(winner),
            }
            if winners.len() == 1 {
                return;
            }
            at >>= GROUP_BITS;
        }
    }

    /// Takes note of a record in a slot that was free.
    pub fn handle_added(&mut self, slot: Slot, order: Order<'_>) {
        let mut at = slot.index();
        for winners in &mut self.rounds {
            at >>= GROUP_BITS;
            let Some(winner) = winners.get_mut(at) else { return };
            self.compared += 1;
            if order.cmp(slot, *winner) != Ordering::Less {
                return;
            }
            *winner = slot;
        }
    }

    /// Takes note that a slot has a greater record now, or is free.
    #[inline]
    pub fn handle_raised(&mut self, slot: Slot, order: Order<'_>) {
        if self.is_active() {
            self.replay(slot, order);
        }
    }

    fn replay(&mut self, slot: Slot, order: Order<'_>) {
        let mut at = slot.index();
        for round in 0..self.rounds.len() {
            at >>= GROUP_BITS;
            if self.rounds[round].get(at) != Some(&slot) {
                return;
            }
            self.rounds[round][at] = self.play(round, at, order);
        }
    }

    /// Returns the winner of a group.
    fn play(&mut self, round: usize, at: usize, order: Order<'_>) -> Slot {
        self.compared += GROUP as u64;
        let first = at * GROUP;
        if round == 0 {
            return order.least((first..first + GROUP).map(|slot| Slot(slot as u32)));
        }
        let winners = &self.rounds[round - 1];
        order.least(winners[first..winners.len().min(first + GROUP)].iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use crate::herd::directory::{Applied, Directory, Keys, Rules, Source};
    use crate::protocol::record::Record;
    use crate::protocol::time::SECOND;
    use crate::rng::Rng;
    use crate::time::Wall;

    /// After all receive times.
    const NOW: Wall = Wall(1_000_000 * SECOND);

    fn directory(max_clients: u32) -> Directory {
        let rules =
            Rules { max_clock_offset: 5 * SECOND, max_clients, client_ttl: 0, forget_keep: 0 };
        // The digest key of a herd without a secret.
        Directory::new(rules, Keys { index: (1, 2), digest: (0, 0) })
    }

    fn apply(directory: &mut Directory, client: &str, time: u64) {
        let line = format!("AT A +0.000000000 {client} +1-1 {time}");
        let record = Record::parse(line.as_bytes()).unwrap();
        let applied = directory.apply(&record, Source::Peer, NOW);
        assert!(matches!(applied, Applied::Stored(_)), "{line}: {applied:?}");
    }

    fn holds(directory: &Directory, client: &str) -> bool {
        directory.get(client.as_bytes(), NOW).is_some()
    }

    /// The least record is found in a bounded number of comparisons, however many clients have moved
    /// since the last eviction, and however many there are.
    #[test]
    fn eviction_examines_few_slots_at_any_number_of_clients() {
        for cap in [100, 2_000, 30_000] {
            let mut directory = directory(cap);
            let mut rng = Rng::new(u64::from(cap));
            let (mut most, mut time) = (0, 0);
            let mut apply = |directory: &mut Directory, client: u64| {
                time += 1;
                let before = directory.compared();
                apply(directory, &client.to_string(), time);
                most = most.max(directory.compared() - before);
            };
            let mut living: Vec<u64> = (0..cap.into()).collect();
            for &client in &living {
                apply(&mut directory, client);
            }
            for round in 1..=3 {
                // All clients move, in random order, and nothing is evicted.
                for i in (1..living.len()).rev() {
                    living.swap(i, rng.index(i + 1));
                }
                for &client in &living {
                    apply(&mut directory, client);
                }
                // Then, for each new client, the one that has not moved for the longest time is.
                let new: Vec<u64> = (0..10).map(|i| round * 1_000_000 + i).collect();
                for (&client, gone) in new.iter().zip(&living) {
                    apply(&mut directory, client);
                    assert!(!holds(&directory, &gone.to_string()));
                    assert_eq!(directory.len(), cap);
                }
                assert_eq!(directory.counters.evicted, round * 10);
                living.splice(..10, new);
            }
            assert!(most <= 200, "{most} of {cap} slots were examined for one record");
        }
    }

    /// The herd-wide hash does not distinguish these two clients, and their records differ in
    /// nothing else.
    #[test]
    fn the_client_itself_decides_between_equal_records() {
        let [a, b] = ["fc90312a6f5a92e2", "bd43951dab386841"];
        for order in [[a, b], [b, a]] {
            let mut directory = directory(2);
            for client in order {
                apply(&mut directory, client, 5);
            }
            apply(&mut directory, "newer", 6);
            assert!(holds(&directory, a) && !holds(&directory, b), "{order:?}");
        }
    }
}
