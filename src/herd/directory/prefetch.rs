//! The records that the next commands need: loaded into the processor's cache together, and found once.

use super::{Directory, shard_of};
use crate::herd::slots::{Slots, Stored};
use crate::ids::Slot;

/// Number of clients that are prefetched together: about as many cache misses as a core can
/// overlap.
pub const PREFETCH_BATCH: usize = 16;

/// Most slots that are expected: more than one batch of connections has.
const MOST_EXPECTED: usize = 4096;

/// Expected slots that are compared with a client. More than one only if commands came in between that
/// need no slot, or that are not valid.
const LOOK_AHEAD: usize = 4;

/// The slots that the last [`Directory::prefetch`] has found, in order. They are hints: one is used only if
/// it still holds the record of the client.
#[derive(Default)]
pub(super) struct Expected {
    slots: Vec<Slot>,
    next: usize,
}

impl Expected {
    /// Takes the slot of `client`, if it is one of the next.
    #[inline]
    pub fn take(&mut self, slots: &Slots, client: &[u8]) -> Option<Slot> {
        let ahead = self.slots.get(self.next..)?;
        let is_held = |&slot: &Slot| slots.get(slot).is_some_and(|held| held.client() == client);
        let at = ahead.iter().take(LOOK_AHEAD).position(is_held)?;
        self.next += at + 1;
        Some(ahead[at])
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.next = 0;
    }
}

impl Directory {
    /// Loads the data of these clients into the processor's cache, and expects them to be used in this
    /// order: [`Directory::apply`] does not look them up again. Changes no record.
    ///
    /// Clients arrive in random order, so each update incurs several dependent cache misses, which
    /// dominate its cost. Since the clients of pipelined commands, and of the connections that are served
    /// together, are known in advance, their misses can overlap.
    pub fn prefetch<'c>(&mut self, clients: impl Iterator<Item = &'c [u8]>) {
        self.expected.clear();
        let mut clients = clients.peekable();
        while clients.peek().is_some() && self.expected.slots.len() < MOST_EXPECTED {
            self.prefetch_batch(clients.by_ref().take(PREFETCH_BATCH));
        }
    }

    /// Loads the records in these slots into the processor's cache, so that their misses overlap.
    pub fn prefetch_slots(&self, slots: &[Slot]) {
        for &slot in slots {
            core::hint::black_box(self.slots.get(slot).map(Stored::prefetch));
        }
    }

    fn prefetch_batch<'c>(&mut self, clients: impl Iterator<Item = &'c [u8]>) {
        let mut hashes = [0; PREFETCH_BATCH];
        let mut count = 0;
        for (hash, client) in hashes.iter_mut().zip(clients) {
            *hash = self.index_hash(client);
            count += 1;
        }
        let first = self.expected.slots.len();
        for &hash in &hashes[..count] {
            // The first entry with this hash, without comparing names: nearly always the right one.
            let found = self.shards[shard_of(hash)].find(hash, |_| true);
            self.expected.slots.extend(found);
        }
        let found = &self.expected.slots[first..];
        for &slot in found {
            core::hint::black_box(self.slots[slot].prefetch());
        }
        for &slot in found {
            core::hint::black_box(self.sums().leaf(self.slots[slot].leaf));
        }
        if let Some(fences) = &self.fences {
            fences.prefetch(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::super::tests::{apply, contents, directory, line};
    use crate::time::Wall;
    use proptest::prelude::*;

    #[test]
    fn an_expected_slot_is_not_used_for_another_client() {
        let mut d = directory(1, 0);
        apply(&mut d, &line("A", "k", 1, 100, 100), Source::Client);
        d.prefetch([&b"k"[..], b"k"].into_iter());
        // The slot is that of j afterwards, and that of k again.
        for (client, other, time) in [("j", "k", 101), ("k", "j", 102)] {
            apply(&mut d, &line("A", client, 1, time, time), Source::Client);
            let is_held = |client: &str| d.get(client.as_bytes(), Wall(0)).is_some();
            assert!(is_held(client) && !is_held(other));
        }
    }

    proptest! {
        #[test]
        fn what_is_prefetched_changes_nothing(
            steps in proptest::collection::vec(
                (proptest::collection::vec("[a-f]", 0..20), "[a-f]", 0i64..20), 1..60),
        ) {
            let (mut with, mut without) = (directory(4, 0), directory(4, 0));
            for (prefetched, client, time) in steps {
                // Often, the next steps are others than those expected.
                if prefetched.len() > 5 {
                    with.prefetch(prefetched.iter().map(String::as_bytes));
                }
                let line = line("A", &client, 1, time, time);
                let applied = apply(&mut with, &line, Source::Peer);
                prop_assert_eq!(applied, apply(&mut without, &line, Source::Peer));
            }
            prop_assert_eq!(contents(&with), contents(&without));
        }
    }
}
