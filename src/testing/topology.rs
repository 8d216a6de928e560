//! Graphs of neighbors.

use std::collections::{BTreeSet, VecDeque};

use crate::rng::Rng;

/// An edge between two nodes, the smaller number first.
pub type Edge = (usize, usize);

/// A family of connected graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A path.
    Line,
    /// A cycle.
    Ring,
    /// A random hub linked with every other node.
    Star,
    /// A random tree.
    Tree,
    /// A random graph of average degree 4, or complete if it is too small for that.
    Random,
    /// The five nodes of the default configuration.
    Five,
    /// The complete graph.
    Mesh,
}

impl Shape {
    /// The shapes that exist for any number of nodes.
    pub const ANY_SIZE: [Self; 6] =
        [Self::Line, Self::Ring, Self::Star, Self::Tree, Self::Random, Self::Mesh];

    /// The edges of this shape with `nodes` nodes: connected and without duplicates.
    #[must_use]
    pub fn edges(self, nodes: usize, rng: &mut Rng) -> Vec<Edge> {
        let line = || (1..nodes).map(|i| (i - 1, i));
        match self {
            Self::Line => line().collect(),
            Self::Ring => line().chain((nodes > 2).then_some((0, nodes - 1))).collect(),
            Self::Star => {
                let hub = rng.index(nodes);
                (0..nodes).filter(|&i| i != hub).map(|i| (i.min(hub), i.max(hub))).collect()
            }
            Self::Tree => (1..nodes).map(|i| (rng.index(i), i)).collect(),
            Self::Random => with_degree(nodes, 4, rng),
            // Bailey, Bona, Campbell, Clark, Jaquez.
            Self::Five => vec![(0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 4)],
            Self::Mesh => (0..nodes).flat_map(|i| (0..i).map(move |j| (j, i))).collect(),
        }
    }
}

/// A connected random graph of average degree `degree`, or the complete graph if that has fewer
/// edges.
pub fn with_degree(nodes: usize, degree: usize, rng: &mut Rng) -> Vec<Edge> {
    let mut edges: BTreeSet<Edge> = (1..nodes).map(|i| (rng.index(i), i)).collect();
    let wanted = (nodes * degree / 2).min(nodes * (nodes - 1) / 2);
    while edges.len() < wanted {
        let (a, b) = (rng.index(nodes), rng.index(nodes));
        if a != b {
            edges.insert((a.min(b), a.max(b)));
        }
    }
    edges.into_iter().collect()
}

/// The largest number of hops between any two of `nodes`, or `None` if they are not connected.
#[must_use]
pub fn diameter(nodes: &[usize], edges: &[Edge]) -> Option<usize> {
    let size = nodes.iter().max().map_or(0, |most| most + 1);
    let mut neighbors = vec![Vec::new(); size];
    for &(a, b) in edges.iter().filter(|(a, b)| nodes.contains(a) && nodes.contains(b)) {
        neighbors[a].push(b);
        neighbors[b].push(a);
    }
    let farthest = |&from: &usize| {
        let hops = hops(from, &neighbors);
        nodes.iter().map(|&to| hops[to]).max()
    };
    nodes.iter().filter_map(farthest).max().filter(|&most| most < usize::MAX)
}

fn hops(from: usize, neighbors: &[Vec<usize>]) -> Vec<usize> {
    let mut hops = vec![usize::MAX; neighbors.len()];
    hops[from] = 0;
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for &next in &neighbors[node] {
            if hops[next] == usize::MAX {
                hops[next] = hops[node] + 1;
                queue.push_back(next);
            }
        }
    }
    hops
}
