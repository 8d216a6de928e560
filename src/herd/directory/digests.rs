//! The digest tree of the directory: the records of a leaf, and the key of the digests.

use super::Directory;
use crate::herd::digest::Leaf;
use crate::ids::{LinkId, Slot};

impl Directory {
    /// Returns digest and slot of every record in `leaf`, in arbitrary order.
    pub fn leaf(&self, leaf: Leaf) -> impl Iterator<Item = (u64, Slot)> {
        self.tree.leaf(&self.slots, leaf)
    }

    /// Examines up to `most` records of `leaf`: from the first one on, or, if `resume`, from where
    /// the last walk for `link` stopped. Fills `found` with their digests and slots, and returns
    /// whether they are the last ones.
    ///
    /// A record that is stored all the time is found once, even if others change between two calls.
    pub fn walk(
        &mut self,
        link: LinkId,
        leaf: Leaf,
        resume: bool,
        most: usize,
        found: &mut Vec<(u64, Slot)>,
    ) -> bool {
        let finished = self.tree.walk(&self.slots, (link, resume), leaf, most, found);
        self.counters.examined += found.len() as u64;
        finished
    }

    /// Starts to compute all digests with another key. [`Directory::continue_rekey`] must be called
    /// until it is done; until then, the sums are those of a part of the records.
    pub fn start_rekey(&mut self, digest_key: (u64, u64)) {
        self.tree.start_rekey(digest_key, self.is_empty());
    }

    /// Computes the digests of the next `budget` slots with the new key. Returns whether all are
    /// done.
    pub fn continue_rekey(&mut self, budget: u32) -> bool {
        self.tree.continue_rekey(&mut self.slots, budget)
    }

    /// Returns whether the key of the digests is being changed.
    #[must_use]
    pub const fn is_rekeying(&self) -> bool {
        self.tree.is_rekeying()
    }

    /// Returns whether the record in `slot` is part of the sums. All are, except while the key of the
    /// digests changes.
    #[must_use]
    pub const fn is_summed(&self, slot: Slot) -> bool {
        self.tree.is_summed(slot)
    }

    /// Returns the key of the digests.
    #[must_use]
    pub const fn digest_key(&self) -> (u64, u64) {
        self.tree.key()
    }

    /// Uses only the leaves whose numbers have no other bits than `bits`. Tests crowd many records
    /// into few leaves with it. All nodes of a herd must use the same leaves, and the directory must
    /// be empty.
    pub fn use_few_leaves(&mut self, bits: u16) {
        debug_assert!(self.is_empty(), "records keep their leaves");
        self.tree.leaf_bits = bits;
    }
}
