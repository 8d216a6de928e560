//! Identifiers of nodes, links, connections and slots.
//!
//! Each is a number assigned by one owner. The types keep them apart: the id of a link cannot be
//! used as that of a node or a connection.

/// A node of the herd: its position in the list of names, which is the same in every node that has
/// the same configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// An edge of this node: its position in [`Herd::links`](crate::herd::Herd::links).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub usize);

/// A connection, as the event loop numbers it. Opaque to the core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A node process: random, and different after every restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootId(pub u64);

/// A position in the directory, reused after its client has been removed.
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
