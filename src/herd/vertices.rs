//! The vertices of the graph of the herd: the names of its nodes, those of the configuration and
//! those learned from link states.

use crate::ids::NodeId;
use crate::limits::{MAX_NODE_NAME, MAX_NODES};

/// Most names that are learned in addition to those of the configuration: a whole herd may be
/// renamed while it runs.
pub const MAX_LEARNED: usize = MAX_NODES;

/// A vertex of the graph. The configured nodes come first and have the numbers of their
/// [`NodeId`]s. The number of a learned name is reused after the name has been dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vertex(pub u16);

impl Vertex {
    /// The vertex as an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl From<NodeId> for Vertex {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

/// The names of all vertices.
pub struct Vertices {
    /// Names by vertex; `None` if the number is free.
    names: Vec<Option<Box<[u8]>>>,
    /// All vertices in the order of their names.
    sorted: Vec<Vertex>,
    configured: usize,
}

impl Vertices {
    /// The vertices of the configured nodes, whose names are sorted.
    #[must_use]
    pub fn new(names: &[Box<[u8]>]) -> Self {
        Self {
            names: names.iter().cloned().map(Some).collect(),
            sorted: (0..names.len() as u16).map(Vertex).collect(),
            configured: names.len(),
        }
    }

    /// Returns the number of numbers in use: all vertices are below it.
    #[must_use]
    pub const fn numbers(&self) -> usize {
        self.names.len()
    }

    /// Returns the name of a vertex. It is empty if the vertex has been dropped.
    #[must_use]
    pub fn name(&self, vertex: Vertex) -> &[u8] {
        self.names.get(vertex.index()).and_then(|name| name.as_deref()).unwrap_or_default()
    }

    /// Returns the configured node of a vertex, if it is one.
    #[must_use]
    pub const fn configured(&self, vertex: Vertex) -> Option<NodeId> {
        if vertex.index() < self.configured { Some(NodeId(vertex.0)) } else { None }
    }

    /// All vertices in the order of their names, in which every node sorts them.
    #[must_use]
    pub fn sorted(&self) -> &[Vertex] {
        &self.sorted
    }

    /// Returns the vertex with this name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<Vertex> {
        self.position(name).ok().map(|at| self.sorted[at])
    }

    /// Returns whether no further name can be learned.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.sorted.len() == self.configured + MAX_LEARNED
    }

    /// Returns the vertex with this name, which is learned if it is new. Returns `None` if the name
    /// is too long or there are too many.
    pub fn learn(&mut self, name: &[u8]) -> Option<Vertex> {
        let at = match self.position(name) {
            Ok(at) => return Some(self.sorted[at]),
            Err(at) => at,
        };
        if self.is_full() || name.is_empty() || name.len() > MAX_NODE_NAME {
            return None;
        }
        let free = self.names.iter().position(Option::is_none).unwrap_or(self.names.len());
        if free == self.names.len() {
            self.names.push(None);
        }
        self.names[free] = Some(name.into());
        self.sorted.insert(at, Vertex(free as u16));
        Some(Vertex(free as u16))
    }

    /// Drops the learned names for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(Vertex) -> bool) {
        let Self { names, sorted, configured } = self;
        sorted.retain(|&vertex| {
            let kept = vertex.index() < *configured || keep(vertex);
            if !kept {
                names[vertex.index()] = None;
            }
            kept
        });
    }

    fn position(&self, name: &[u8]) -> Result<usize, usize> {
        self.sorted.binary_search_by(|&vertex| self.name(vertex).cmp(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn learned_names_are_sorted_among_the_configured_ones_and_bounded() {
        let mut vertices = Vertices::new(&[b"B"[..].into(), b"D"[..].into()]);
        let learned = vertices.learn(b"C").unwrap();
        assert_eq!((vertices.learn(b"C"), vertices.find(b"C")), (Some(learned), Some(learned)));
        let names = |vertices: &Vertices| -> Vec<Vec<u8>> {
            vertices.sorted().iter().map(|&vertex| vertices.name(vertex).to_vec()).collect()
        };
        assert_eq!(names(&vertices), [b"B", b"C", b"D"]);
        assert_eq!(vertices.configured(learned), None);
        assert_eq!(vertices.configured(Vertex(1)), Some(NodeId(1)));
        for number in 1..MAX_LEARNED {
            vertices.learn(format!("n{number}").as_bytes()).unwrap();
        }
        assert_eq!(vertices.learn(b"E"), None);
        vertices.retain(|vertex| vertex != learned);
        assert_eq!(vertices.learn(b"E"), Some(learned), "the number is used again");
        vertices.retain(|_| false);
        assert_eq!(names(&vertices), [b"B", b"D"]);
        assert_eq!(vertices.learn(&[b'x'; MAX_NODE_NAME + 1]), None);
        assert_eq!(vertices.learn(b""), None);
    }
}
