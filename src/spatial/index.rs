//! A quadtree over the slots of the directory.
//!
//! A leaf holds up to [`SPLIT`] slots with their positions, side by side in blocks, so that a search
//! follows few pointers. Each slot knows its block, so entering and removing a slot takes constant time
//! however many clients share one place. A slot that moves within its leaf costs one comparison, and one
//! that moves to a leaf nearby a few steps up and down the tree. The index stores positions in units of
//! 10⁻⁷ degrees, which suffice to exclude slots; exact distances are computed from the records.

use core::hint::black_box;

use super::blocks::{Blocks, Entry, NONE, PLACES, Place};
use super::rect::{Cell, MAX_DEPTH, Units};
use crate::geo::Point;
use crate::ids::Slot;

/// Slots in a leaf at which it is divided: those of four blocks.
const SPLIT: u32 = 4 * PLACES as u32;

/// Slots in four sibling leaves at which they are united: few enough that a client that moves back and
/// forth does not divide and unite a leaf again and again, and so many that small leaves, whose blocks are
/// half empty, do not last.
const UNITE: u32 = 32;

/// A leaf that has lost a slot and has at most this many counts its siblings every time. Of four leaves that
/// can be united, at least one is this small.
const FEW: u32 = UNITE / 4;

/// A larger leaf counts its siblings only at a multiple of this length. So the divisions around a place end
/// before a crowd has left it, if the siblings are nearly empty.
const SOME: u32 = UNITE / 2;

/// Moves whose cache misses overlap: about as many as a core can wait for at once.
const BATCH: usize = 16;

/// The index of the root in [`Index::nodes`].
const ROOT: u32 = 0;

/// A node of the tree.
#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    /// The first of four consecutive children, or the first block of a leaf.
    first: u32,
    /// Number of slots of a leaf, or [`DIVIDED`].
    len: u32,
    depth: u8,
    /// Increases, modulo 65,536, whenever the node ends or its quarters are united: its blocks may be
    /// others then.
    revision: u16,
}

/// The length of a node that has children.
const DIVIDED: u32 = u32::MAX;

const EMPTY: Node = Node { parent: NONE, first: NONE, len: 0, depth: 0, revision: 0 };

impl Node {
    /// Returns the first of four consecutive children, if the node has any.
    const fn children(&self) -> Option<u32> {
        if self.len == DIVIDED { Some(self.first) } else { None }
    }

    /// Returns the place of the last entry in the first block of a leaf. All other blocks are full.
    const fn last(&self) -> Place {
        Place::new(self.first, self.len.wrapping_sub(1) as usize % PLACES)
    }
}

/// The positions of clients.
pub struct Index {
    /// The place of each slot.
    places: Vec<Place>,
    blocks: Blocks,
    nodes: Vec<Node>,
    /// First children of groups of four nodes that are not in use.
    free: Vec<u32>,
    len: usize,
    /// Increases whenever a node ends, so that its number may stand for another one.
    revision: u64,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            blocks: Blocks::default(),
            nodes: vec![EMPTY],
            free: Vec::new(),
            len: 0,
            revision: 0,
        }
    }
}

impl Index {
    /// Returns the number of slots in the index.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no slot is in the index.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Removes all slots and releases their memory.
    pub fn clear(&mut self) {
        *self = Self { revision: self.revision + 1, ..Self::default() };
    }

    /// Sets the locations of slots, one after the other. A slot without one is removed.
    pub fn set(&mut self, changes: impl Iterator<Item = (Slot, Option<Point>)>) {
        let mut batch = [Move::default(); BATCH];
        let mut count = 0;
        for (Slot(slot), location) in changes {
            if let Some(location) = location {
                batch[count] = Move { slot, to: Units::of(location), below: ROOT };
                count += 1;
            }
            if count == BATCH || location.is_none() {
                self.apply(&mut batch[..count]);
                count = 0;
            }
            if location.is_none() {
                self.remove(slot);
            }
        }
        self.apply(&mut batch[..count]);
    }

    /// Applies some moves. Each follows a chain of pointers, from its slot to two leaves, so all of them take
    /// each step together first, and their cache misses overlap.
    fn apply(&mut self, moves: &mut [Move]) {
        for each in &*moves {
            self.prefetch_entry(self.place_of(each.slot));
        }
        let top = self.top(moves);
        for each in &mut *moves {
            each.below = self.leaf_that_stays(each).unwrap_or(top);
        }
        self.descend_together(moves);
        let revision = self.revision;
        for each in &*moves {
            // The node may have ended, for one of the moves before.
            let below = if self.revision == revision { each.below } else { ROOT };
            self.put(each.slot, each.to, below);
        }
    }

    /// Returns the smallest node that contains all new positions, which are often in one region.
    fn top(&self, moves: &[Move]) -> u32 {
        let Some(one) = moves.first() else { return ROOT };
        let depth = moves.iter().map(|other| one.to.common_depth(other.to)).min();
        self.descend(one.to, ROOT, depth.unwrap_or(0))
    }

    /// Returns the leaf of a slot if it contains the new position, too. Otherwise, loads the block that
    /// will fill the gap.
    fn leaf_that_stays(&self, each: &Move) -> Option<u32> {
        let place = self.place_of(each.slot);
        let block = self.blocks.get(place.block())?;
        let leaf = &self.nodes[block.leaf as usize];
        if block.entries[place.at()].position.common_depth(each.to) >= leaf.depth {
            return Some(block.leaf);
        }
        self.prefetch_entry(leaf.last());
        None
    }

    /// Loads an entry into the processor's cache.
    fn prefetch_entry(&self, place: Place) {
        black_box(self.blocks.entry(place).map(|entry| entry.slot));
    }

    /// Follows the tree to the leaves of the new positions, level by level.
    fn descend_together(&self, moves: &mut [Move]) {
        let mut has_moved = true;
        while has_moved {
            has_moved = false;
            for each in &mut *moves {
                let node = &self.nodes[each.below as usize];
                let quarter = node.first.wrapping_add(each.to.quarter(node.depth) as u32);
                let is_divided = node.len == DIVIDED;
                // Without a branch, which could not be predicted.
                each.below = if is_divided { quarter } else { each.below };
                has_moved |= is_divided;
            }
        }
    }

    /// Returns the place of a slot.
    fn place_of(&self, slot: u32) -> Place {
        self.places.get(slot as usize).copied().unwrap_or(Place::NONE)
    }

    /// Sets the position of a slot, which is below `node`.
    fn put(&mut self, slot: u32, position: Units, node: u32) {
        let mut leaf = self.descend(position, node, MAX_DEPTH);
        if slot as usize >= self.places.len() {
            self.places.resize(slot as usize + 1, Place::NONE);
        }
        let mut old = NONE;
        let place = self.places[slot as usize];
        if place == Place::NONE {
            self.len += 1;
        } else {
            let block = &mut self.blocks[place.block()];
            if block.leaf == leaf {
                block.entries[place.at()].position = position;
                return;
            }
            old = self.unlink(place);
        }
        let mut depth = self.nodes[leaf as usize].depth;
        while self.nodes[leaf as usize].len >= SPLIT && depth < MAX_DEPTH {
            leaf = self.divide(leaf) + position.quarter(depth) as u32;
            depth += 1;
        }
        self.link(Entry { slot, position }, leaf);
        if old != NONE {
            self.unite_around(old);
        }
    }

    fn remove(&mut self, slot: u32) {
        let place = self.place_of(slot);
        if place != Place::NONE {
            let leaf = self.unlink(place);
            self.places[slot as usize] = Place::NONE;
            self.len -= 1;
            self.unite_around(leaf);
        }
    }

    /// Follows the tree from `node` towards `position`, to a leaf or to `depth`.
    fn descend(&self, position: Units, mut node: u32, depth: u8) -> u32 {
        let mut reached = self.nodes[node as usize].depth;
        while reached < depth
            && let Some(children) = self.nodes[node as usize].children()
        {
            node = children + position.quarter(reached) as u32;
            reached += 1;
        }
        node
    }

    /// Takes the entry out of a place, and fills the gap with the last one of the leaf's first block.
    /// Returns the leaf.
    fn unlink(&mut self, gap: Place) -> u32 {
        let leaf = self.blocks[gap.block()].leaf;
        let node = &mut self.nodes[leaf as usize];
        let last = node.last();
        let moved = self.blocks[last.block()].entries[last.at()];
        node.len -= 1;
        if last.at() == 0 {
            node.first = self.blocks.release(last.block());
        }
        self.blocks[gap.block()].entries[gap.at()] = moved;
        self.places[moved.slot as usize] = gap;
        leaf
    }

    /// Puts an entry into a leaf.
    fn link(&mut self, entry: Entry, leaf: u32) {
        let node = &mut self.nodes[leaf as usize];
        if (node.len as usize).is_multiple_of(PLACES) {
            node.first = self.blocks.take(leaf, node.first);
        }
        node.len += 1;
        let place = node.last();
        self.blocks[place.block()].entries[place.at()] = entry;
        self.places[entry.slot as usize] = place;
    }

    /// Puts all slots of a former leaf into those that `leaf` returns for their positions.
    fn distribute(&mut self, former: Node, leaf: impl Fn(Units) -> u32) {
        let (mut number, mut count) = (former.first, former.last().at() + 1);
        while number != NONE {
            let block = self.blocks[number];
            number = self.blocks.release(number);
            for &entry in &block.entries[..count] {
                self.link(entry, leaf(entry.position));
            }
            count = PLACES;
        }
    }

    /// Divides a leaf into four. Returns the first of them.
    fn divide(&mut self, leaf: u32) -> u32 {
        let children = self.free.pop().unwrap_or_else(|| {
            self.nodes.extend([EMPTY; 4]);
            self.nodes.len() as u32 - 4
        });
        let former = self.nodes[leaf as usize];
        self.nodes[leaf as usize] = Node { first: children, len: DIVIDED, ..former };
        for node in &mut self.nodes[children as usize..children as usize + 4] {
            let Node { revision, .. } = *node;
            *node = Node { parent: leaf, depth: former.depth + 1, revision, ..EMPTY };
        }
        self.distribute(former, |position| children + position.quarter(former.depth) as u32);
        children
    }

    /// Unites a leaf that has lost a slot with its siblings if they have few slots together, and so on
    /// upward.
    fn unite_around(&mut self, leaf: u32) {
        let Node { parent: mut node, len, .. } = self.nodes[leaf as usize];
        if len > FEW && !len.is_multiple_of(SOME) {
            return;
        }
        while node != NONE {
            let Node { parent, first: children, .. } = self.nodes[node as usize];
            let quarters = children as usize..children as usize + 4;
            // That of a node with children is greater than any.
            let len = self.nodes[quarters.clone()]
                .iter()
                .fold(0_u32, |len, quarter| len.saturating_add(quarter.len));
            if len > UNITE {
                return;
            }
            let united = &mut self.nodes[node as usize];
            let revision = united.revision.wrapping_add(1);
            *united = Node { first: NONE, len: 0, revision, ..*united };
            for quarter in quarters {
                self.distribute(self.nodes[quarter], |_| node);
                let ended = &mut self.nodes[quarter].revision;
                *ended = ended.wrapping_add(1);
            }
            self.free.push(children);
            self.revision += 1;
            node = parent;
        }
    }
}

/// Access for searches, which may pause while the index changes.
impl Index {
    /// Returns a number that changes when each [`Region`] must be found again before its content is read.
    pub(super) const fn revision(&self) -> u64 {
        self.revision
    }

    /// Returns a region whose node may have ended. If it has not, the search continues at the same block:
    /// it would never end if it began a large leaf again whenever clients elsewhere move.
    pub(super) fn find_again(&self, region: Region) -> Region {
        let node = self.descend(region.cell.corner(), ROOT, region.cell.depth());
        let found = self.new_region(region.cell, node);
        let is_same = (found.node, found.revision) == (region.node, region.revision);
        if is_same { region } else { found }
    }

    fn new_region(&self, cell: Cell, node: u32) -> Region {
        Region { cell, node, revision: self.nodes[node as usize].revision, block: NONE }
    }

    /// Returns the content of a region that was found in this revision.
    pub(super) fn content(&self, region: Region) -> Content<'_> {
        let Region { cell, node: number, block, .. } = region;
        let node = &self.nodes[number as usize];
        if let Some(children) = node.children() {
            let quarter = |quarter| {
                let node = children + quarter as u32;
                let is_empty = self.nodes[node as usize].len == 0;
                (!is_empty).then(|| self.new_region(cell.quarter(quarter), node))
            };
            return Content::Quarters([0, 1, 2, 3].map(quarter));
        }
        let resumed = self.blocks.get(block).filter(|block| block.leaf == number);
        let block = if resumed.is_some() { block } else { node.first };
        let count = if block == node.first { node.last().at() + 1 } else { PLACES };
        let is_within = node.depth == cell.depth();
        let region = Region { block, ..self.new_region(cell, number) };
        Content::Slots(Slots { index: self, region, count, is_within })
    }

    /// Loads the first slots of a region into the processor's cache.
    pub(super) fn prefetch(&self, region: Region) {
        let node = &self.nodes[region.node as usize];
        if node.children().is_none() {
            self.prefetch_block(node.first);
        }
    }

    /// Loads both cache lines of a block.
    fn prefetch_block(&self, number: u32) {
        for at in [0, PLACES - 1] {
            self.prefetch_entry(Place::new(number, at));
        }
    }
}

/// A change of a position.
#[derive(Clone, Copy, Default)]
struct Move {
    slot: u32,
    to: Units,
    /// A node that contains the new position.
    below: u32,
}

/// A cell that a search has still to examine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Region {
    pub cell: Cell,
    /// The node of the cell, or a leaf around it, unless [`Index::revision`] has changed.
    node: u32,
    /// The revision of the node.
    revision: u16,
    /// The block of the leaf at which to continue, or [`NONE`] for the first one.
    block: u32,
}

impl Region {
    /// Everything. Its node never ends.
    pub const ROOT: Self = Self { cell: Cell::ROOT, node: ROOT, revision: 0, block: NONE };
}

/// The content of a region.
pub(super) enum Content<'i> {
    /// The quarters that are not empty.
    Quarters([Option<Region>; 4]),
    /// Slots and their positions.
    Slots(Slots<'i>),
}

/// The slots of a leaf, block by block.
///
/// The search may pause between two blocks. A slot that stays in the leaf is not missed then: it is moved
/// only from the first block to one behind it.
pub(super) struct Slots<'i> {
    index: &'i Index,
    region: Region,
    /// Number of slots in the next block.
    count: usize,
    /// Whether everything in the leaf is within the cell.
    is_within: bool,
}

impl Slots<'_> {
    /// Calls `found` with the slots of the next block. Returns their number, 0 at the end.
    pub fn visit(&mut self, mut found: impl FnMut(Slot, Units)) -> usize {
        let Some(block) = self.index.blocks.get(self.region.block) else { return 0 };
        let count = core::mem::replace(&mut self.count, PLACES);
        self.region.block = block.next;
        self.index.prefetch_block(block.next);
        for &Entry { slot, position } in &block.entries[..count] {
            if self.is_within || self.region.cell.contains(position) {
                found(Slot(slot), position);
            }
        }
        count
    }

    /// Returns the region of the blocks that were not visited, if there are any.
    pub fn rest(&self) -> Option<Region> {
        (self.region.block != NONE).then_some(self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use std::collections::BTreeMap;

    fn check(index: &Index, model: &BTreeMap<u32, Point>) {
        assert_eq!(index.len(), model.len());
        let mut found = BTreeMap::new();
        let mut regions = vec![Region::ROOT];
        let mut blocks = 0;
        while let Some(region) = regions.pop() {
            match index.content(region) {
                Content::Quarters(quarters) => regions.extend(quarters.into_iter().flatten()),
                Content::Slots(mut slots) => loop {
                    let block = slots.region.block;
                    let see = |slot: Slot, position| {
                        assert!(region.cell.contains(position));
                        assert_eq!(index.places[slot.index()].block(), block);
                        assert_eq!(found.insert(slot.0, position), None);
                    };
                    if slots.visit(see) == 0 {
                        break;
                    }
                    blocks += 1;
                },
            }
        }
        let expected: BTreeMap<_, _> = model.iter().map(|(&s, &p)| (s, Units::of(p))).collect();
        assert_eq!(found, expected);
        assert_eq!(index.blocks.in_use(), blocks, "no block is lost");
    }

    #[test]
    fn the_tree_holds_what_was_set_through_divisions_and_unions() {
        let mut rng = Rng::new(1);
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        let mut most_nodes = 0;
        for round in 0..6 {
            let mut changes = Vec::new();
            for step in 0..3000 {
                let slot = rng.below(2000) as u32;
                // Odd rounds mostly remove. Some clients share one place.
                let remove = rng.below(10) < if round % 2 == 1 { 8 } else { 1 };
                let spread = [0, 1_000, 900_000_000][rng.index(3)];
                let mut near = |limit: f64| {
                    let offset = if spread == 0 { 0 } else { rng.below(spread) };
                    (offset as f64 / 1e7 - 10.0).clamp(-limit, limit)
                };
                let location = Point { lat: near(90.0), lng: near(180.0) };
                if remove {
                    model.remove(&slot);
                } else {
                    model.insert(slot, location);
                }
                changes.push((Slot(slot), (!remove).then_some(location)));
                // Often, a batch contains a slot twice.
                if rng.percent(10) {
                    index.set(changes.drain(..));
                }
                if step % 500 == 0 {
                    index.set(changes.drain(..));
                    check(&index, &model);
                }
            }
            index.set(changes.drain(..));
            check(&index, &model);
            most_nodes = most_nodes.max(index.nodes.len());
        }
        index.set(model.keys().map(|&slot| (Slot(slot), None)));
        assert!(index.is_empty());
        assert_eq!(index.nodes[0].children(), None, "everything is united");
        assert_eq!(index.free.len(), (index.nodes.len() - 1) / 4, "and reusable");
        assert_eq!(index.blocks.in_use(), 0);
        assert!(most_nodes > 100, "{most_nodes}");
    }

    /// Of the moves of one batch, the first causes a union, and the second goes to one of the leaves that
    /// were united.
    #[test]
    fn a_move_may_end_the_leaf_that_another_one_goes_to() {
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        let at = |lat: f64, lng: f64| Point { lat, lng };
        // Slots 0 to 39 in one quarter of the tree, and 40 to 83 in all quarters of another.
        model.extend((0..40).map(|slot| (slot, at(0.0, 100.0 + f64::from(slot)))));
        let quarter =
            |slot: u32| at([-80.0, 0.0][slot as usize % 2], [-100.0, 0.0][slot as usize / 2 % 2]);
        model.extend((40..84).map(|slot| (slot, quarter(slot))));
        index.set(model.iter().map(|(&slot, &at)| (Slot(slot), Some(at))));
        // Of these, 33 remain, 9 of them in the first quarter.
        for slot in 73..84 {
            model.remove(&slot);
            index.set([(Slot(slot), None)].into_iter());
        }
        check(&index, &model);
        let before = index.revision;
        let moves = [(40, at(0.0, 90.0)), (0, quarter(3))];
        model.extend(moves);
        index.set(moves.into_iter().map(|(slot, at)| (Slot(slot), Some(at))));
        assert!(index.revision > before, "leaves were united");
        check(&index, &model);
    }

    #[test]
    fn a_place_that_most_clients_have_left_is_not_divided() {
        for staying in 1..=UNITE {
            let mut index = Index::default();
            let place = Point { lat: 10.0, lng: 20.0 };
            index.set((0..=SPLIT).map(|slot| (Slot(slot), Some(place))));
            assert!(index.nodes[0].children().is_some());
            index.set((staying..=SPLIT).map(|slot| (Slot(slot), None)));
            assert_eq!(index.nodes[0].children(), None, "{staying} stay");
        }
    }

    #[test]
    fn nodes_are_small() {
        assert_eq!(size_of::<Node>(), 16);
    }
}
