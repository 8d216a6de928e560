//! Identifiers of nodes, links, connections and slots.
//!
//! Each is a number that only its owner gives out. The types keep them apart: a link is not a node,
//! and neither indexes a connection.

/// A node of the herd: its position in the list of names, which is the same in every node that has
/// the same configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// An edge of this node: its position in [`Herd::links`](crate::herd::Herd::links).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub usize);

/// The event loop's name for a connection. The core only hands it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One life of a node: random, and different after every restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

/// A position in the directory. It is reused after its client was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl NodeId {
    /// The id as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl LinkId {
    /// The id as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0
    }
}

impl Slot {
    /// The slot as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
