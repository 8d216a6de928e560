//! The graph of the herd and shortest-path trees in it.

use std::collections::VecDeque;

/// A set of small numbers, as bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// Adds a number.
    pub fn insert(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit(number);
    }

    /// Removes a number.
    pub fn remove(&mut self, number: usize) {
        if let Some(word) = self.0.get_mut(number / 64) {
            *word &= !bit(number);
        }
    }

    /// Returns whether a number is in the set.
    #[must_use]
    pub fn contains(&self, number: usize) -> bool {
        self.0.get(number / 64).is_some_and(|word| word & bit(number) != 0)
    }
}

/// An undirected graph as an adjacency matrix of bits. A search removes a vertex's neighbors from the
/// unvisited vertices 64 at a time, so it costs no more in a full mesh, with half a million edges for
/// a thousand vertices, than in a sparse graph.
pub struct Graph {
    words: usize,
    rows: Vec<u64>,
}

/// The place of one vertex in the tree of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The vertex before it; `None` for the root, or if the root is not reachable.
    pub parent: Option<usize>,
    /// The vertices after it, in ascending order.
    pub children: Vec<usize>,
    /// True if the root is reachable.
    pub reachable: bool,
}

impl Graph {
    /// The graph of `vertices` vertices that contains an edge if both of its ends advertise it:
    /// `advertise` passes the pairs of a vertex and a neighbor that it advertises to its argument.
    pub fn new(vertices: usize, advertise: impl FnOnce(&mut dyn FnMut(usize, usize))) -> Self {
        let words = vertices.div_ceil(64);
        let mut advertised = vec![0; words * vertices];
        advertise(&mut |vertex, neighbor| {
            advertised[vertex * words + neighbor / 64] |= bit(neighbor);
        });
        let mut rows = advertised.clone();
        for (vertex, row) in rows.chunks_mut(words.max(1)).enumerate() {
            for (word, held) in row.iter_mut().enumerate() {
                for other in ones(word, *held) {
                    if advertised[other * words + vertex / 64] & bit(vertex) == 0 {
                        *held &= !bit(other);
                    }
                }
            }
        }
        Self { words, rows }
    }

    /// Returns whether the graph contains this edge.
    #[must_use]
    pub fn has_edge(&self, a: usize, b: usize) -> bool {
        self.rows[a * self.words + b / 64] & bit(b) != 0
    }

    /// Returns the neighbors of a vertex in ascending order.
    pub fn neighbors(&self, vertex: usize) -> impl Iterator<Item = usize> {
        let row = &self.rows[vertex * self.words..(vertex + 1) * self.words];
        row.iter().enumerate().flat_map(|(word, &bits)| ones(word, bits))
    }

    /// Returns the vertices that are reachable from `origin`, itself among them.
    #[must_use]
    pub fn reachable(&self, origin: usize) -> Bits {
        let mut reached = Bits::default();
        self.search(origin, None, |_, next| reached.insert(next));
        reached.insert(origin);
        reached
    }

    /// Returns the place of `me` in the tree of `origin`, by a breadth-first search that ends with the
    /// children of `me`. Ties are broken in favor of the lesser number.
    #[must_use]
    pub fn place(&self, origin: usize, me: usize) -> Place {
        let mut place = Place { reachable: origin == me, ..Place::default() };
        self.search(origin, Some(me), |vertex, next| {
            if vertex == me {
                place.children.push(next);
            } else if next == me {
                place.parent = Some(vertex);
                place.reachable = true;
            }
        });
        place
    }

    /// Searches breadth first and passes each edge of the tree to `found`, up to the children of `last`.
    fn search(&self, origin: usize, last: Option<usize>, mut found: impl FnMut(usize, usize)) {
        let mut unseen = vec![u64::MAX; self.words];
        unseen[origin / 64] &= !bit(origin);
        let mut queue = VecDeque::from([origin]);
        while let Some(vertex) = queue.pop_front() {
            let row = &self.rows[vertex * self.words..];
            for (word, (unseen, row)) in unseen.iter_mut().zip(row).enumerate() {
                let new = *unseen & row;
                *unseen ^= new;
                for next in ones(word, new) {
                    queue.push_back(next);
                    found(vertex, next);
                }
            }
            if last == Some(vertex) {
                return;
            }
        }
    }
}

/// Returns the bit of a number in its word.
const fn bit(number: usize) -> u64 {
    1 << (number % 64)
}

/// Returns the numbers whose bits are set in the word with this index.
fn ones(word: usize, mut bits: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let number = (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)?;
        bits &= bits - 1;
        Some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_needs_both_ends() {
        let graph = Graph::new(70, |advertise| {
            for (vertex, neighbor) in [(0, 1), (1, 0), (0, 69), (2, 1)] {
                advertise(vertex, neighbor);
            }
        });
        assert!(graph.has_edge(0, 1) && graph.has_edge(1, 0));
        for (a, b) in [(0, 69), (69, 0), (1, 2), (2, 1)] {
            assert!(!graph.has_edge(a, b), "{a} {b}");
        }
        assert_eq!(graph.neighbors(0).collect::<Vec<_>>(), [1]);
        assert!(graph.reachable(0).contains(1) && !graph.reachable(0).contains(69));
        assert!(!graph.place(0, 69).reachable);
    }

    #[test]
    fn numbers_can_be_removed_from_a_set() {
        let mut bits = Bits::default();
        bits.insert(100);
        bits.remove(1000);
        assert!(bits.contains(100) && !bits.contains(99));
        bits.remove(100);
        assert!(!bits.contains(100));
    }
}
