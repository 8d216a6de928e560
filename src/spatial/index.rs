//! A quadtree over the slots of the directory.
//!
//! Each leaf holds up to [`SPLIT`] slots in an intrusive list, so that entering and removing a slot
//! takes constant time however many clients share one place. A slot that moves within its leaf costs
//! one comparison, and one that moves to a leaf nearby a few steps up and down the tree. The index stores positions in units of 10⁻⁷ degrees, which suffice to exclude
//! slots; exact distances are computed from the records.

use core::hint::black_box;

use super::rect::{Cell, MAX_DEPTH, Units};
use crate::geo::Point;
use crate::ids::Slot;

/// Slots in a leaf at which it is divided.
const SPLIT: u32 = 32;

/// Slots in four sibling leaves at which they are united: low enough that a client that moves back
/// and forth does not divide and unite a leaf again and again.
const UNITE: u32 = 12;

/// Levels that a slot may ascend in the tree when it moves to another leaf. Beyond, the way from the root
/// is faster: its upper part is in the processor's cache.
const CLIMB: u8 = 4;

/// The absence of a slot or a node.
const NONE: u32 = u32::MAX;

/// The index of the root in [`Index::nodes`].
const ROOT: u32 = 0;

/// The position of a slot and its neighbors in the list of its leaf.
#[derive(Clone, Copy)]
struct Entry {
    position: Units,
    /// [`NONE`] if the slot is not in the index.
    leaf: u32,
    previous: u32,
    next: u32,
}

const ABSENT: Entry = Entry { position: Units([0, 0]), leaf: NONE, previous: NONE, next: NONE };

/// A node of the tree.
#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    /// The first of four consecutive children, or [`NONE`] for a leaf.
    children: u32,
    /// First slot of a leaf.
    first: u32,
    /// Number of slots of a leaf.
    len: u32,
    depth: u8,
}

const EMPTY: Node = Node { parent: NONE, children: NONE, first: NONE, len: 0, depth: 0 };

/// The positions of clients.
pub struct Index {
    entries: Vec<Entry>,
    nodes: Vec<Node>,
    /// First children of groups of four nodes that are not in use.
    free: Vec<u32>,
    len: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { entries: Vec::new(), nodes: vec![EMPTY], free: Vec::new(), len: 0 }
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

    /// Sets the location of `slot`, or removes the slot if there is none.
    pub fn set(&mut self, slot: Slot, location: Option<Point>) {
        let Some(location) = location else { return self.remove(slot) };
        let position = Units::of(location);
        if slot.index() >= self.entries.len() {
            self.entries.resize(slot.index() + 1, ABSENT);
        }
        let old = self.entries[slot.index()];
        self.entries[slot.index()].position = position;
        if old.leaf == NONE {
            self.len += 1;
            return self.insert(slot, position, ROOT);
        }
        let depth = self.nodes[old.leaf as usize].depth;
        let above = depth.saturating_sub(old.position.common_depth(position));
        if above == 0 {
            return;
        }
        let common = if above <= CLIMB { self.ancestor(old.leaf, above) } else { ROOT };
        self.unlink(old);
        self.insert(slot, position, common);
        self.unite_around(old.leaf);
    }

    /// Loads what moving these slots needs into the processor's cache. Changes nothing.
    pub fn prefetch(&self, slots: &[Slot]) {
        let entries = || slots.iter().filter_map(|slot| self.entries.get(slot.index()));
        entries().for_each(|entry| {
            black_box(entry.leaf);
        });
        for entry in entries() {
            let of = |slot: u32| self.entries.get(slot as usize).map(|entry| entry.leaf);
            let leaf = self.nodes.get(entry.leaf as usize).map(|leaf| leaf.first);
            black_box((of(entry.previous), of(entry.next), leaf));
        }
    }

    /// Returns the node that is this many levels above `node`.
    fn ancestor(&self, node: u32, levels: u8) -> u32 {
        (0..levels).fold(node, |node, _| self.nodes[node as usize].parent)
    }

    /// Puts `slot` into the leaf of its position, which is below `node`.
    fn insert(&mut self, slot: Slot, position: Units, node: u32) {
        let (mut leaf, mut depth) = self.descend(position, node, MAX_DEPTH);
        while self.nodes[leaf as usize].len >= SPLIT && depth < MAX_DEPTH {
            self.divide(leaf);
            leaf = self.nodes[leaf as usize].children + position.quarter(depth) as u32;
            depth += 1;
        }
        self.link(slot.0, leaf);
    }

    fn remove(&mut self, slot: Slot) {
        let Some(old) = self.entries.get(slot.index()).copied() else { return };
        if old.leaf == NONE {
            return;
        }
        self.unlink(old);
        self.entries[slot.index()] = ABSENT;
        self.len -= 1;
        self.unite_around(old.leaf);
    }

    /// Follows the tree from `node` towards `position`, to a leaf or to `depth`. Returns the node that was
    /// reached and its depth.
    fn descend(&self, position: Units, mut node: u32, depth: u8) -> (u32, u8) {
        let mut reached = self.nodes[node as usize].depth;
        while self.nodes[node as usize].children != NONE && reached < depth {
            node = self.nodes[node as usize].children + position.quarter(reached) as u32;
            reached += 1;
        }
        (node, reached)
    }

    /// Takes an entry out of the list of its leaf.
    fn unlink(&mut self, entry: Entry) {
        let leaf = &mut self.nodes[entry.leaf as usize];
        leaf.len -= 1;
        match entry.previous {
            NONE => leaf.first = entry.next,
            previous => self.entries[previous as usize].next = entry.next,
        }
        if entry.next != NONE {
            self.entries[entry.next as usize].previous = entry.previous;
        }
    }

    /// Puts `slot` at the head of the list of `leaf`.
    fn link(&mut self, slot: u32, leaf: u32) {
        let node = &mut self.nodes[leaf as usize];
        let next = std::mem::replace(&mut node.first, slot);
        node.len += 1;
        if next != NONE {
            self.entries[next as usize].previous = slot;
        }
        let entry = &mut self.entries[slot as usize];
        (entry.leaf, entry.previous, entry.next) = (leaf, NONE, next);
    }

    /// Divides a leaf into four.
    fn divide(&mut self, leaf: u32) {
        let children = self.free.pop().unwrap_or_else(|| {
            self.nodes.extend([EMPTY; 4]);
            self.nodes.len() as u32 - 4
        });
        let node = &mut self.nodes[leaf as usize];
        let Node { parent, first: mut slot, depth, .. } = *node;
        *node = Node { parent, children, depth, ..EMPTY };
        let empty = Node { parent: leaf, depth: depth + 1, ..EMPTY };
        self.nodes[children as usize..children as usize + 4].fill(empty);
        while slot != NONE {
            let Entry { position, next, .. } = self.entries[slot as usize];
            self.link(slot, children + position.quarter(depth) as u32);
            slot = next;
        }
    }

    /// Unites a leaf that has lost a slot with its siblings if they have few slots together, and so on
    /// upward.
    fn unite_around(&mut self, leaf: u32) {
        let Node { parent: mut node, len, .. } = self.nodes[leaf as usize];
        if len > UNITE {
            return;
        }
        while node != NONE {
            let Node { parent, children, .. } = self.nodes[node as usize];
            let quarters = children as usize..children as usize + 4;
            let leaves = self.nodes[quarters.clone()].iter().all(|child| child.children == NONE);
            let len: u32 = self.nodes[quarters.clone()].iter().map(|child| child.len).sum();
            if !leaves || len > UNITE {
                return;
            }
            self.nodes[node as usize].children = NONE;
            for child in quarters {
                let mut slot = self.nodes[child].first;
                while slot != NONE {
                    let next = self.entries[slot as usize].next;
                    self.link(slot, node);
                    slot = next;
                }
            }
            self.free.push(children);
            node = parent;
        }
    }

    /// Returns the content of `cell` as it is now.
    pub(super) fn content(&self, cell: Cell) -> Content<'_> {
        let (node, depth) = self.descend(cell.corner(), ROOT, cell.depth());
        let Node { children, first, .. } = self.nodes[node as usize];
        if children != NONE {
            return Content::Divided;
        }
        // The leaf may have become larger than the cell.
        Content::Slots(Slots {
            entries: &self.entries,
            next: first,
            within: (cell, depth < cell.depth()),
        })
    }
}

/// The content of a cell.
pub(super) enum Content<'i> {
    /// The cell has quarters.
    Divided,
    /// The slots in the cell, and their positions.
    Slots(Slots<'i>),
}

/// The slots of a leaf.
pub(super) struct Slots<'i> {
    entries: &'i [Entry],
    next: u32,
    /// The cell, and whether the leaf is larger than it.
    within: (Cell, bool),
}

impl Iterator for Slots<'_> {
    type Item = (Slot, Units);

    fn next(&mut self) -> Option<(Slot, Units)> {
        loop {
            if self.next == NONE {
                return None;
            }
            let (slot, entry) = (self.next, &self.entries[self.next as usize]);
            self.next = entry.next;
            let (cell, is_larger) = self.within;
            if !is_larger || cell.contains(entry.position) {
                return Some((Slot(slot), entry.position));
            }
        }
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
        let mut cells = vec![Cell::ROOT];
        while let Some(cell) = cells.pop() {
            match index.content(cell) {
                Content::Divided => cells.extend((0..4).map(|quarter| cell.quarter(quarter))),
                Content::Slots(slots) => {
                    for (slot, position) in slots {
                        assert!(cell.contains(position));
                        assert_eq!(found.insert(slot.0, position), None);
                    }
                }
            }
        }
        let expected: BTreeMap<_, _> = model.iter().map(|(&s, &p)| (s, Units::of(p))).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_tree_holds_what_was_set_through_divisions_and_unions() {
        let mut rng = Rng::new(1);
        let (mut index, mut model) = (Index::default(), BTreeMap::new());
        let mut most_nodes = 0;
        for round in 0..6 {
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
                    index.set(Slot(slot), None);
                    model.remove(&slot);
                } else {
                    index.set(Slot(slot), Some(location));
                    model.insert(slot, location);
                }
                if step % 500 == 0 {
                    check(&index, &model);
                }
            }
            check(&index, &model);
            most_nodes = most_nodes.max(index.nodes.len());
        }
        for &slot in model.keys() {
            index.set(Slot(slot), None);
        }
        assert!(index.is_empty());
        assert_eq!(index.nodes[0].children, NONE, "everything is united");
        assert_eq!(index.free.len(), (index.nodes.len() - 1) / 4, "and reusable");
        assert!(most_nodes > 100, "{most_nodes}");
    }

    #[test]
    fn entries_and_nodes_are_small() {
        assert_eq!((size_of::<Entry>(), size_of::<Node>()), (20, 20));
    }
}
