//! Topologies of the report: those of the simulator and two random families.

use std::collections::BTreeSet;
use std::fmt;

use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::{Edge, Shape};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Plain(Shape),
    /// A random graph in which every node has this many neighbors.
    Regular(usize),
    /// A ring in which each node is linked to the next two on either side, with a tenth of the edges
    /// rewired.
    SmallWorld,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(Shape::Line) => f.write_str("line"),
            Self::Plain(Shape::Ring) => f.write_str("ring"),
            Self::Plain(Shape::Star) => f.write_str("star"),
            Self::Plain(Shape::Tree) => f.write_str("random tree"),
            Self::Plain(Shape::Five) => f.write_str("the default five"),
            Self::Plain(Shape::Mesh) => f.write_str("full mesh"),
            Self::Plain(shape) => write!(f, "{shape:?}"),
            Self::Regular(degree) => write!(f, "random, degree {degree}"),
            Self::SmallWorld => f.write_str("small world, degree 4"),
        }
    }
}

impl Family {
    /// Draws graphs of this family until one is connected.
    pub fn edges(self, nodes: usize, rng: &mut Rng) -> Vec<Edge> {
        loop {
            let edges = match self {
                Self::Plain(shape) => return shape.edges(nodes, rng),
                Self::Regular(degree) => regular(nodes, degree, rng),
                Self::SmallWorld => Some(small_world(nodes, rng)),
            };
            if let Some(edges) = edges.filter(|edges| is_connected(nodes, edges)) {
                return edges;
            }
        }
    }
}

/// Draws a simple random graph by pairing free ends, without loops or parallel edges (Steger and
/// Wormald 1999). `None` if the drawing reaches a dead end.
fn regular(nodes: usize, degree: usize, rng: &mut Rng) -> Option<Vec<Edge>> {
    let mut ends: Vec<usize> = (0..nodes).flat_map(|node| vec![node; degree]).collect();
    let mut edges = BTreeSet::new();
    while !ends.is_empty() {
        let mut tries = 0..1000;
        let (i, j, edge) = loop {
            tries.next()?;
            let (i, j) = (rng.index(ends.len()), rng.index(ends.len()));
            let edge = (ends[i].min(ends[j]), ends[i].max(ends[j]));
            if edge.0 != edge.1 && !edges.contains(&edge) {
                break (i, j, edge);
            }
        };
        edges.insert(edge);
        ends.swap_remove(i.max(j));
        ends.swap_remove(i.min(j));
    }
    Some(edges.into_iter().collect())
}

/// Draws a small-world graph with four neighbors per node (Watts and Strogatz 1998).
fn small_world(nodes: usize, rng: &mut Rng) -> Vec<Edge> {
    let ordered = |a: usize, b: usize| (a.min(b), a.max(b));
    let mut edges: BTreeSet<Edge> =
        (0..nodes).flat_map(|a| [1, 2].map(|step| ordered(a, (a + step) % nodes))).collect();
    for (a, b) in edges.clone() {
        let edge = ordered(a, rng.index(nodes));
        if rng.percent(10) && edge.0 != edge.1 && !edges.contains(&edge) {
            edges.remove(&(a, b));
            edges.insert(edge);
        }
    }
    edges.into_iter().collect()
}

fn is_connected(nodes: usize, edges: &[Edge]) -> bool {
    let mut group: Vec<usize> = (0..nodes).collect();
    for &(a, b) in edges {
        let (a, b) = (root(&group, a), root(&group, b));
        group[a.max(b)] = a.min(b);
    }
    (0..nodes).all(|node| root(&group, node) == 0)
}

fn root(group: &[usize], mut node: usize) -> usize {
    while group[node] != node {
        node = group[node];
    }
    node
}
