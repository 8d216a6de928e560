//! The digest tree of a directory: the key of the digests, the sums, and the records of each leaf.
//!
//! The key can change while the node runs. That takes a hash or two per record, so it is done a few
//! slots at a time: slots below a cursor have digests under the new key and are part of the tree, and
//! the others are not part of it.

use siphasher::sip::SipHasher13;

use super::digest::{Leaf, Sums};
use super::leaves::Leaves;
use super::slots::{Slots, Stored};
use crate::ids::{LinkId, Slot};

/// The key, the sums, and the chains of slots.
pub struct DigestTree {
    key: (u64, u64),
    sums: Sums,
    leaves: Leaves,
    /// Bits of a leaf's number that are used; all, except in tests.
    pub leaf_bits: u16,
    /// Slots below this one are part of the tree: all, except while the key changes.
    summed: u32,
}

impl DigestTree {
    /// Creates the tree of an empty directory.
    pub fn new(key: (u64, u64)) -> Self {
        let (sums, leaves) = (Sums::default(), Leaves::default());
        Self { key, sums, leaves, leaf_bits: u16::MAX, summed: u32::MAX }
    }

    /// Returns the key of the digests.
    pub const fn key(&self) -> (u64, u64) {
        self.key
    }

    /// Returns the sums.
    pub const fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Returns whether the key is being changed.
    pub const fn is_rekeying(&self) -> bool {
        self.summed < u32::MAX
    }

    /// Returns whether the record in `slot` is part of the tree.
    pub const fn is_summed(&self, slot: Slot) -> bool {
        slot.0 < self.summed
    }

    /// Adds the record that has been stored in `slot`.
    pub fn insert(&mut self, slots: &mut Slots, slot: Slot) {
        if self.is_summed(slot) {
            self.enter(slots, slot);
        }
    }

    /// Replaces the digest of `stored`, the record in `slot`, by that of `line`, which it returns.
    pub fn replace(&mut self, slot: Slot, stored: &Stored, line: &[u8]) -> u64 {
        if !self.is_summed(slot) {
            return 0; // computed when the cursor reaches the slot
        }
        let digest = keyed_hash(self.key, line);
        self.sums.replace(stored.leaf, stored.digest(), digest);
        digest
    }

    /// Removes the record in `slot`.
    pub fn remove(&mut self, slots: &mut Slots, slot: Slot) {
        if self.is_summed(slot) {
            self.sums.replace(slots[slot].leaf, slots[slot].digest(), 0);
            self.leaves.remove(slots, slot);
        }
    }

    /// Returns digest and slot of every record in `leaf`.
    pub fn leaf(&self, slots: &Slots, leaf: Leaf) -> impl Iterator<Item = (u64, Slot)> {
        self.leaves.of(leaf).map(|slot| (slots[slot].digest(), slot))
    }

    /// Fills `found` with digests and slots of up to `most` records of `leaf`; see [`Leaves::walk`].
    pub fn walk(
        &mut self,
        slots: &Slots,
        (link, resume): (LinkId, bool),
        leaf: Leaf,
        most: usize,
        found: &mut Vec<(u64, Slot)>,
    ) -> bool {
        found.clear();
        let finished = self.leaves.walk(link, leaf, resume, most, |slot| found.push((0, slot)));
        // Separately, so that the cache misses of different records overlap.
        for (digest, slot) in found {
            *digest = slots[*slot].digest();
        }
        finished
    }

    /// Starts to use another key.
    pub fn start_rekey(&mut self, key: (u64, u64), is_empty: bool) {
        self.key = key;
        if is_empty {
            self.summed = u32::MAX; // all sums are 0 under any key
            return;
        }
        self.sums.clear();
        self.leaves.clear();
        self.summed = 0;
    }

    /// Adds the next `budget` slots under the new key. Returns whether all have been added.
    pub fn continue_rekey(&mut self, slots: &mut Slots, budget: u32) -> bool {
        if !self.is_rekeying() {
            return true;
        }
        let end = self.summed.saturating_add(budget).min(slots.used());
        for slot in (self.summed..end).map(Slot) {
            if slots.get(slot).is_some() {
                self.enter(slots, slot);
            }
        }
        let finished = end == slots.used();
        self.summed = if finished { u32::MAX } else { end };
        finished
    }

    fn enter(&mut self, slots: &mut Slots, slot: Slot) {
        let stored = &mut slots[slot];
        let digest = keyed_hash(self.key, stored.line());
        stored.leaf = Leaf(Leaf::of(keyed_hash(self.key, stored.client())).0 & self.leaf_bits);
        stored.set_digest(digest);
        self.sums.replace(stored.leaf, 0, digest);
        self.leaves.insert(slots, slot);
    }
}

/// SipHash-1-3, whose collisions cannot be found without the key.
pub fn keyed_hash((k0, k1): (u64, u64), bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(k0, k1).hash(bytes)
}
