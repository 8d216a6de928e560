//! The records of each leaf of the digest tree, as chains of slots.
//!
//! A chain is linked in both directions, so a record enters and leaves it in constant time, however
//! many records share its leaf. The slots that follow are stored apart from the records, densely, so
//! that a walk can read ahead; the preceding ones are stored in the slots, where they cost nothing.
//! Together with the first slot of each leaf that is 4 bytes per client and 256 KiB.

use super::digest::Leaf;
use super::slots::{CHUNK, Slots};
use crate::ids::{LinkId, Slot};

/// The end of a chain.
const NONE: Slot = Slot(u32::MAX);

/// The chains of all leaves.
pub struct Leaves {
    /// First slot by leaf.
    first: Box<[Slot]>,
    /// Next slot by slot, in chunks that never move.
    next: Vec<Box<[Slot]>>,
    /// Per link, the slot at which its walk continues.
    walks: Vec<Slot>,
}

impl Default for Leaves {
    fn default() -> Self {
        Self { first: vec![NONE; Leaf::COUNT].into(), next: Vec::new(), walks: Vec::new() }
    }
}

impl Leaves {
    /// Adds `slot` to the chain of its leaf.
    pub fn insert(&mut self, slots: &mut Slots, slot: Slot) {
        while self.next.len() <= slot.index() / CHUNK {
            self.next.push(vec![NONE; CHUNK].into());
        }
        let first = &mut self.first[slots[slot].leaf.index()];
        let after = core::mem::replace(first, slot);
        self.next[slot.index() / CHUNK][slot.index() % CHUNK] = after;
        slots[slot].previous = NONE;
        if after != NONE {
            slots[after].previous = slot;
        }
    }

    /// Removes `slot` from the chain of its leaf. A walk that would continue there continues with the
    /// next slot.
    pub fn remove(&mut self, slots: &mut Slots, slot: Slot) {
        let (leaf, before) = (slots[slot].leaf, slots[slot].previous);
        let after = self.after(slot);
        if before == NONE {
            self.first[leaf.index()] = after;
        } else {
            self.next[before.index() / CHUNK][before.index() % CHUNK] = after;
        }
        if after != NONE {
            slots[after].previous = before;
        }
        for at in self.walks.iter_mut().filter(|at| **at == slot) {
            *at = after;
        }
    }

    /// Removes all slots from all chains.
    pub fn clear(&mut self) {
        self.first.fill(NONE);
        self.walks.fill(NONE);
    }

    /// Returns the slots in `leaf`.
    pub fn of(&self, leaf: Leaf) -> impl Iterator<Item = Slot> {
        let at = |slot: Slot| (slot != NONE).then_some(slot);
        core::iter::successors(at(self.first[leaf.index()]), move |&slot| at(self.after(slot)))
    }

    /// Calls `each` with up to `most` slots of `leaf`: from the first slot on, or, if `resume`, from
    /// where the last walk for `link` stopped. Returns whether that was the end of the chain.
    ///
    /// A slot that is in the leaf all the time is returned exactly once, even if others enter and
    /// leave between the calls.
    pub fn walk(
        &mut self,
        link: LinkId,
        leaf: Leaf,
        resume: bool,
        most: usize,
        mut each: impl FnMut(Slot),
    ) -> bool {
        if self.walks.len() <= link.index() {
            self.walks.resize(link.index() + 1, NONE);
        }
        let mut at = if resume { self.walks[link.index()] } else { self.first[leaf.index()] };
        for _ in 0..most {
            if at == NONE {
                break;
            }
            each(at);
            at = self.after(at);
        }
        self.walks[link.index()] = at;
        at == NONE
    }

    fn after(&self, slot: Slot) -> Slot {
        self.next[slot.index() / CHUNK][slot.index() % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LINK: LinkId = LinkId(1);

    proptest! {
        /// Slots come and go between the steps of a walk. The chains always contain the slots that
        /// are in them, and the walk returns each slot that stays once.
        #[test]
        fn a_walk_sees_each_record_that_stays_once(
            events in proptest::collection::vec((0u32..40, 0u16..2, 0usize..4), 1..200),
        ) {
            let (mut slots, mut leaves) = (Slots::default(), Leaves::default());
            (0..40).for_each(|slot| assert_eq!(slots.take(), Slot(slot)));
            let mut leaf_of = [None; 40];
            let mut found = Vec::new();
            let (mut stayed, mut finished) = (BTreeSet::new(), false);
            leaves.walk(LINK, Leaf(0), false, 0, |_| {});
            for (number, leaf, steps) in events {
                let slot = Slot(number);
                match &mut leaf_of[slot.index()] {
                    Some(_) => {
                        leaves.remove(&mut slots, slot);
                        leaf_of[slot.index()] = None;
                        stayed.remove(&slot);
                    }
                    none => {
                        slots[slot].leaf = Leaf(leaf);
                        leaves.insert(&mut slots, slot);
                        *none = Some(leaf);
                    }
                }
                for leaf in 0..2 {
                    let expected: BTreeSet<Slot> =
                        (0..40).map(Slot).filter(|it| leaf_of[it.index()] == Some(leaf)).collect();
                    let chain: Vec<Slot> = leaves.of(Leaf(leaf)).collect();
                    prop_assert_eq!(chain.len(), expected.len());
                    prop_assert_eq!(chain.into_iter().collect::<BTreeSet<_>>(), expected);
                }
                let before = found.len();
                if !finished {
                    finished = leaves.walk(LINK, Leaf(0), true, steps, |slot| found.push(slot));
                }
                for slot in &found[before..] {
                    prop_assert_eq!(leaf_of[slot.index()], Some(0));
                }
                if finished {
                    for stayed in &stayed {
                        prop_assert_eq!(found.iter().filter(|slot| *slot == stayed).count(), 1);
                    }
                    found.clear();
                    stayed = leaves.of(Leaf(0)).collect();
                    finished = leaves.walk(LINK, Leaf(0), false, 0, |_| {});
                }
            }
        }
    }
}
