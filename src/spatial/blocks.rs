//! Blocks of positions: what the leaves of the quadtree are made of.

use core::ops::{Index, IndexMut};

use super::rect::Units;

/// Places in a block, which fill two cache lines.
pub const PLACES: usize = 10;

/// Blocks per allocation: 512 KiB, which take some ten microseconds to initialize.
const CHUNK: usize = 4096;

/// The absence of a block, a node or a slot.
pub const NONE: u32 = u32::MAX;

/// The number of a block and a place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place(u32);

impl Place {
    /// The place of a slot that is in no block.
    pub const NONE: Self = Self(NONE);

    /// The place `at` of a block. There is room for 268 million blocks.
    pub const fn new(block: u32, at: usize) -> Self {
        Self(block << 4 | at as u32)
    }

    /// Returns the number of the block.
    pub const fn block(self) -> u32 {
        self.0 >> 4
    }

    /// Returns the place in the block.
    pub const fn at(self) -> usize {
        self.0 as usize % 16
    }
}

/// A slot and its position.
#[derive(Clone, Copy)]
pub struct Entry {
    pub slot: u32,
    pub position: Units,
}

/// Some entries of a leaf.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub struct Block {
    /// The leaf that the block belongs to, or [`NONE`] if it is not in use.
    pub leaf: u32,
    /// The next block of the leaf, or of those that are not in use.
    pub next: u32,
    pub entries: [Entry; PLACES],
}

const _: () = assert!(size_of::<Block>() == 128);

const EMPTY: Block = Block {
    leaf: NONE,
    next: NONE,
    entries: [Entry { slot: NONE, position: Units([0, 0]) }; PLACES],
};

/// All blocks, in chunks that never move, so that growth copies nothing.
pub struct Blocks {
    chunks: Vec<Box<[Block]>>,
    /// Number of blocks ever used.
    used: u32,
    /// The first block that is not in use.
    free: u32,
}

impl Default for Blocks {
    fn default() -> Self {
        Self { chunks: Vec::new(), used: 0, free: NONE }
    }
}

impl Blocks {
    /// Allocates a block for `leaf`, before the block `next`.
    pub fn take(&mut self, leaf: u32, next: u32) -> u32 {
        let number = self.free;
        let number = if number == NONE {
            if self.used as usize == self.chunks.len() * CHUNK {
                self.chunks.push(vec![EMPTY; CHUNK].into_boxed_slice());
            }
            self.used += 1;
            self.used - 1
        } else {
            self.free = self[number].next;
            number
        };
        let block = &mut self[number];
        (block.leaf, block.next) = (leaf, next);
        number
    }

    /// Frees a block. Returns the one that followed it.
    pub fn release(&mut self, number: u32) -> u32 {
        let free = core::mem::replace(&mut self.free, number);
        let block = &mut self[number];
        block.leaf = NONE;
        core::mem::replace(&mut block.next, free)
    }

    /// Returns a block, or `None` for a number that no block ever had.
    pub fn get(&self, number: u32) -> Option<&Block> {
        self.chunks.get(number as usize / CHUNK)?.get(number as usize % CHUNK)
    }

    /// Returns the entry in a place, or `None` if there is no such block.
    pub fn entry(&self, place: Place) -> Option<&Entry> {
        self.get(place.block())?.entries.get(place.at())
    }

    /// Returns the number of blocks that are in use.
    #[cfg(test)]
    pub fn in_use(&self) -> u32 {
        let free = core::iter::successors(Some(self.free), |&block| Some(self.get(block)?.next));
        self.used - free.take_while(|&block| block != NONE).count() as u32
    }
}

/// Access to a block in use.
impl Index<u32> for Blocks {
    type Output = Block;

    fn index(&self, number: u32) -> &Block {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}

impl IndexMut<u32> for Blocks {
    fn index_mut(&mut self, number: u32) -> &mut Block {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}
