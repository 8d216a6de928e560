//! A quadtree over the slots of the directory.
//!
//! Each leaf holds up to [`SPLIT`] slots in an intrusive list, so that entering and removing a slot
//! takes constant time however many clients share one place. A slot that moves within its leaf costs
//! one comparison. The index stores positions in units of 10⁻⁷ degrees, which suffice to exclude
//! slots; exact distances are computed from the records.

use super::rect::{Cell, MAX_DEPTH, Units};
use crate::geo::Point;
use crate::ids::Slot;

/// Slots in a leaf at which it is divided.
const SPLIT: u32 = 32;

/// Slots in four sibling leaves at which they are united: low enough that a client that moves back
/// and forth does not divide and unite a leaf again and again.
const UNITE: u32 = 12;

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
    depth: u32,
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
        let entry = self.entries[slot.index()];
        if entry.leaf != NONE {
            if entry.position == position {
                return;
            }
            if entry.position.shares_cell(position, self.nodes[entry.leaf as usize].depth) {
                self.entries[slot.index()].position = position;
                return;
            }
            self.remove(slot);
        }
        self.insert(slot, position);
    }

    fn insert(&mut self, slot: Slot, position: Units) {
        let (mut leaf, mut cell) = self.descend(position, MAX_DEPTH);
        while self.nodes[leaf as usize].len >= SPLIT && cell.depth() < MAX_DEPTH {
            self.divide(leaf, cell);
            let quarter = cell.quarter_of(position);
            leaf = self.nodes[leaf as usize].children + quarter as u32;
            cell = cell.quarter(quarter);
        }
        self.entries[slot.index()].position = position;
        self.link(slot.0, leaf);
        self.len += 1;
    }

    fn remove(&mut self, slot: Slot) {
        let Some(entry) = self.entries.get(slot.index()).copied() else { return };
        if entry.leaf == NONE {
            return;
        }
        match entry.previous {
            NONE => self.nodes[entry.leaf as usize].first = entry.next,
            previous => self.entries[previous as usize].next = entry.next,
        }
        if entry.next != NONE {
            self.entries[entry.next as usize].previous = entry.previous;
        }
        self.entries[slot.index()] = ABSENT;
        self.nodes[entry.leaf as usize].len -= 1;
        self.len -= 1;
        self.unite(self.nodes[entry.leaf as usize].parent);
    }

    /// Follows the tree towards `position`, to a leaf or to `depth`. Returns the node and its cell.
    fn descend(&self, position: Units, depth: u8) -> (u32, Cell) {
        let (mut node, mut cell) = (ROOT, Cell::ROOT);
        while self.nodes[node as usize].children != NONE && cell.depth() < depth {
            let quarter = cell.quarter_of(position);
            node = self.nodes[node as usize].children + quarter as u32;
            cell = cell.quarter(quarter);
        }
        (node, cell)
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
    fn divide(&mut self, leaf: u32, cell: Cell) {
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
            self.link(slot, children + cell.quarter_of(position) as u32);
            slot = next;
        }
    }

    /// Unites the children of `node` if they are leaves with few slots, and then its parents.
    fn unite(&mut self, mut node: u32) {
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
        let (node, found) = self.descend(cell.corner(), cell.depth());
        let Node { children, first, .. } = self.nodes[node as usize];
        if children != NONE {
            return Content::Divided;
        }
        // The leaf may have become larger than the cell.
        Content::Slots(Slots { entries: &self.entries, next: first, within: (cell, found != cell) })
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
