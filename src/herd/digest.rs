//! The digest tree: 65,536 leaves, each the sum of the keyed hashes of its records, below four
//! inner levels with a fanout of 16. Comparing such trees is anti-entropy as in Demers et al.,
//! "Epidemic algorithms for replicated database maintenance" (1987); the tree follows Merkle
//! (1987), with sums in place of hashes of hashes, so that an update needs no other record.
//!
//! Only the leaves and one inner level are stored; other sums are computed on demand. An update
//! changes two sums, and a comparison reads at most 2 KiB.

/// The inner level whose sums are stored.
const KEPT_LEVEL: u8 = 2;

/// Number of children of an inner node.
pub const FANOUT: usize = 16;

/// Level of the leaves; the root is level 0.
pub const LEAF_LEVEL: u8 = 4;

/// A leaf: the clients whose herd-wide hash starts with these 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leaf(pub u16);

impl Leaf {
    /// Number of leaves.
    pub const COUNT: usize = 1 << 16;

    /// Returns the leaf of a client with this hash.
    #[must_use]
    pub const fn of(client_hash: u64) -> Self {
        Self((client_hash >> 48) as u16)
    }

    /// Returns the leaf as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A node of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Level: 0 for the root, [`LEAF_LEVEL`] for a leaf.
    pub level: u8,
    /// Index within the level, 0..16^level.
    pub index: u16,
}

impl Branch {
    /// The root.
    pub const ROOT: Self = Self { level: 0, index: 0 };

    /// Returns the branch with this level and index, or `None` if they are out of range.
    #[must_use]
    pub fn new(level: u8, index: u64) -> Option<Self> {
        (level <= LEAF_LEVEL && index < 1 << (4 * u32::from(level)))
            .then_some(Self { level, index: index as u16 })
    }

    /// Returns child `i`, 0..16.
    #[must_use]
    pub const fn child(self, i: usize) -> Self {
        Self { level: self.level + 1, index: self.index << 4 | i as u16 }
    }

    /// Returns the range of leaves below this branch, or of itself if it is a leaf.
    #[must_use]
    pub fn leaves(self) -> core::ops::Range<usize> {
        let width = 1usize << (4 * u32::from(LEAF_LEVEL - self.level));
        let start = usize::from(self.index) * width;
        start..start + width
    }
}

/// The sums of all branches.
pub struct Sums {
    leaves: Box<[u64]>,
    kept: Box<[u64]>,
}

impl Default for Sums {
    fn default() -> Self {
        let zeros = |level: u8| vec![0; 1 << (4 * level)].into_boxed_slice();
        Self { leaves: zeros(LEAF_LEVEL), kept: zeros(KEPT_LEVEL) }
    }
}

impl Sums {
    /// Replaces the digest of a record in `leaf`; 0 stands for no record.
    pub fn replace(&mut self, leaf: Leaf, old: u64, new: u64) {
        let kept = leaf.index() >> (4 * (LEAF_LEVEL - KEPT_LEVEL));
        for sum in [&mut self.leaves[leaf.index()], &mut self.kept[kept]] {
            *sum = sum.wrapping_sub(old).wrapping_add(new);
        }
    }

    /// Sets all sums to 0.
    pub fn clear(&mut self) {
        self.leaves.fill(0);
        self.kept.fill(0);
    }

    /// Returns the sum of one leaf.
    #[must_use]
    pub fn leaf(&self, leaf: Leaf) -> u64 {
        self.leaves[leaf.index()]
    }

    /// Returns the sum over `branch`.
    #[must_use]
    pub fn of(&self, branch: Branch) -> u64 {
        let below = if branch.level > KEPT_LEVEL {
            &self.leaves[branch.leaves()]
        } else {
            let width = 1usize << (4 * (KEPT_LEVEL - branch.level));
            let start = usize::from(branch.index) * width;
            &self.kept[start..start + width]
        };
        below.iter().fold(0, |sum, more| sum.wrapping_add(*more))
    }

    /// Returns the sums of the children of an inner branch.
    #[must_use]
    pub fn children(&self, branch: Branch) -> [u64; FANOUT] {
        core::array::from_fn(|i| self.of(branch.child(i)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_partition_their_parent() {
        let branch = Branch::new(2, 0x3a).unwrap();
        assert_eq!(branch.leaves(), 0x3a00..0x3b00);
        let mut at = branch.leaves().start;
        for i in 0..FANOUT {
            assert_eq!(branch.child(i).leaves().start, at);
            at = branch.child(i).leaves().end;
        }
        assert_eq!(at, branch.leaves().end);
        assert_eq!(Branch::ROOT.leaves(), 0..Leaf::COUNT);
        assert_eq!(Branch::new(4, 0xffff).unwrap().leaves(), 0xffff..0x10000);
    }

    #[test]
    fn branches_out_of_range_are_rejected() {
        assert!(Branch::new(0, 1).is_none());
        assert!(Branch::new(1, 16).is_none());
        assert!(Branch::new(4, 1 << 16).is_none());
        assert!(Branch::new(5, 0).is_none());
    }

    #[test]
    fn sums_follow_the_records() {
        let mut sums = Sums::default();
        sums.replace(Leaf(0x1234), 0, 7);
        sums.replace(Leaf(0x1235), 0, u64::MAX);
        assert_eq!(sums.of(Branch::ROOT), 6);
        for (level, index) in [(1, 0x1), (2, 0x12), (3, 0x123)] {
            assert_eq!(sums.of(Branch::new(level, index).unwrap()), 6);
            assert_eq!(sums.of(Branch::new(level, index + 1).unwrap()), 0);
        }
        assert_eq!(sums.children(Branch::new(3, 0x123).unwrap())[4], 7);
        sums.replace(Leaf(0x1234), 7, 0);
        sums.replace(Leaf(0x1235), u64::MAX, 0);
        assert_eq!(sums.of(Branch::ROOT), 0);
    }
}
