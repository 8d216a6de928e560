//! The clients inside each fence.

use std::collections::{BTreeMap, BTreeSet};

use super::set::FenceId;
use crate::ids::Slot;

/// Successive numbers of fences that share an allocation.
const SHARD: u32 = 4096;

/// Most clients in an array, which is two cache lines on average.
const MOST_IN_ARRAY: usize = 64;

/// A set of slots for each fence.
#[derive(Default)]
pub struct Inside {
    /// The sets of [`SHARD`] successive numbers each.
    shards: BTreeMap<u32, Shard>,
}

struct Shard {
    groups: Box<[Group]>,
    /// Number of slots in all groups.
    len: usize,
}

/// The clients in one fence.
#[derive(Clone)]
enum Group {
    /// In ascending order.
    Few(Vec<Slot>),
    Many(BTreeSet<Slot>),
}

impl Default for Shard {
    fn default() -> Self {
        Self { groups: vec![Group::EMPTY; SHARD as usize].into(), len: 0 }
    }
}

impl Inside {
    /// Adds a slot that is not in the set of the fence.
    pub fn insert(&mut self, fence: FenceId, slot: Slot) {
        let shard = self.shards.entry(fence.0 / SHARD).or_default();
        shard.groups[(fence.0 % SHARD) as usize].insert(slot);
        shard.len += 1;
    }

    /// Removes a slot from the set of the fence, which it is in.
    pub fn remove(&mut self, fence: FenceId, slot: Slot) {
        if let Some(shard) = self.shards.get_mut(&(fence.0 / SHARD)) {
            shard.groups[(fence.0 % SHARD) as usize].remove(slot);
            shard.len -= 1;
        }
    }

    /// Frees memory of fences that are gone.
    pub fn trim(&mut self) {
        self.shards.retain(|_, shard| shard.len > 0);
    }

    /// Returns the slots of a fence from `from` on, in ascending order.
    pub fn of(&self, fence: FenceId, from: Slot) -> impl Iterator<Item = Slot> {
        let shard = self.shards.get(&(fence.0 / SHARD));
        shard.into_iter().flat_map(move |it| it.groups[(fence.0 % SHARD) as usize].from(from))
    }

    /// Returns all fences and slots from this one on, in ascending order.
    pub fn all(&self, (fence, slot): (FenceId, Slot)) -> impl Iterator<Item = (FenceId, Slot)> {
        let shards = self.shards.range(fence.0 / SHARD..).filter(|(_, shard)| shard.len > 0);
        shards.flat_map(move |(number, shard)| {
            let first = number * SHARD;
            let skipped = fence.0.saturating_sub(first);
            let groups = shard.groups[skipped as usize..].iter().zip(first + skipped..=u32::MAX);
            groups.flat_map(move |(group, id)| {
                let from = if id == fence.0 { slot } else { Slot(0) };
                group.from(from).map(move |slot| (FenceId(id), slot))
            })
        })
    }
}

impl Group {
    const EMPTY: Self = Self::Few(Vec::new());

    fn insert(&mut self, slot: Slot) {
        match self {
            Self::Few(slots) if slots.len() < MOST_IN_ARRAY => {
                if let Err(at) = slots.binary_search(&slot) {
                    slots.insert(at, slot);
                }
            }
            Self::Few(slots) => {
                let mut many: BTreeSet<Slot> = slots.iter().copied().collect();
                many.insert(slot);
                *self = Self::Many(many);
            }
            Self::Many(slots) => {
                slots.insert(slot);
            }
        }
    }

    fn remove(&mut self, slot: Slot) {
        match self {
            Self::Few(slots) => {
                if let Ok(at) = slots.binary_search(&slot) {
                    slots.remove(at);
                }
            }
            Self::Many(slots) => {
                slots.remove(&slot);
                // Not before, so that a client that goes to and fro costs no conversions.
                if slots.len() <= MOST_IN_ARRAY / 2 {
                    *self = Self::Few(slots.iter().copied().collect());
                }
            }
        }
    }

    fn from(&self, from: Slot) -> impl Iterator<Item = Slot> {
        let (few, many) = match self {
            Self::Few(slots) => (&slots[slots.partition_point(|slot| *slot < from)..], None),
            Self::Many(slots) => (&[][..], Some(slots.range(from..))),
        };
        few.iter().chain(many.into_iter().flatten()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// In few fences there are many clients, and the numbers are far apart.
        #[test]
        fn slots_are_listed_in_order_from_any_one_on(
            moves in proptest::collection::vec((0..4_u32, 0..150_u32, 0..2_u32), 1..900),
            from in (0..4_u32, 0..150_u32),
        ) {
            let id = |n: u32| FenceId([0, 1, SHARD * 3 - 1, u32::MAX][n as usize]);
            let (mut inside, mut model) = (Inside::default(), BTreeSet::new());
            for (fence, slot, rare) in moves {
                let (fence, slot) = (id(fence), Slot(if fence == 0 { slot } else { slot % 3 + rare }));
                if model.insert((fence, slot)) {
                    inside.insert(fence, slot);
                } else if slot.0 % 3 != 0 {
                    model.remove(&(fence, slot));
                    inside.remove(fence, slot);
                }
                inside.trim();
            }
            for _ in 0..2 {
                let from = (id(from.0), Slot(from.1));
                prop_assert!(inside.all(from).eq(model.range(from..).copied()));
                let of_fence = model.range(from..=(from.0, Slot(u32::MAX))).map(|(_, slot)| *slot);
                prop_assert!(inside.of(from.0, from.1).eq(of_fence));
                // Most of them leave.
                for (fence, slot) in model.extract_if(.., |(_, slot)| slot.0 % 7 != 0) {
                    inside.remove(fence, slot);
                }
            }
        }
    }
}
