//! Who forwards what to whom, so that each node receives each record about once.
//!
//! Every node tells the herd which of its links are up (link state, as in OSPF, RFC 2328). All
//! nodes then see the same graph and compute, for every origin, the same tree of shortest paths
//! with the same ties, and forward a record only along its origin's tree. Plain flooding is the
//! rule whenever that is not certain: while the graph has changed a moment ago, for an origin that
//! is not reachable, for a record that came by another way than its tree.

use core::time::Duration;
use std::collections::VecDeque;

/// A node: its number among the herd's names in sorted order, the same everywhere.
pub type NodeId = u16;

/// How long after the last change of the graph trees are used again: long enough for the news of
/// the change to have reached every node, even through a busy herd.
pub const SETTLE: Duration = Duration::from_secs(1);

/// The highest sequence that is believed: no node changes its links that often.
const MAX_SEQUENCE: u64 = u64::MAX / 2;

/// Between two times a node tells of its own links. What changes meanwhile is told together: when
/// the nodes of a dense herd start, each would otherwise send as many link states over every edge
/// as it has links. The first change is told at once, and all are well before [`SETTLE`].
pub const LINKS_PAUSE: Duration = Duration::from_millis(100);

/// The links a node says it has.
#[derive(Clone, Debug, Default)]
struct LinkState {
    sequence: u64,
    up: Vec<NodeId>,
}

/// The graph of the herd as this node knows it, and the trees that follow from it.
pub struct Routes {
    me: NodeId,
    states: Vec<LinkState>,
    /// Trees may be used from this instant on; `None` when they are in use.
    settles_at: Option<Duration>,
    /// The graph that trees are computed from. `None` while unsettled.
    edges: Option<Edges>,
    /// Per origin: my parent in its tree, and my children; computed when its first record comes,
    /// because a thousand trees at once would hold up the event loop.
    trees: Vec<Option<Tree>>,
}

/// This node's place in the tree of one origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// From whom its records come; `None` at the origin itself, or when it cannot be reached.
    pub parent: Option<NodeId>,
    /// To whom they are forwarded.
    pub children: Vec<NodeId>,
    /// Whether the origin is reachable at all.
    pub reachable: bool,
}

/// What a link state was to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Known already, or older than what is known.
    Old,
    /// New: to be told to all neighbours but the sender. `lost`: an edge is gone with it.
    New {
        /// Whether an edge of the graph has gone.
        lost: bool,
    },
    /// It is about this node and from a former life: this node's own state has been renewed and
    /// is to be told to all neighbours.
    Mine,
}

impl Routes {
    /// The graph of `nodes` nodes in which nothing is linked yet.
    #[must_use]
    pub fn new(me: NodeId, nodes: usize, now: Duration) -> Self {
        let mut states = vec![LinkState::default(); nodes];
        states[usize::from(me)].sequence = 1;
        Self { me, states, settles_at: Some(now + SETTLE), edges: None, trees: vec![None; nodes] }
    }

    /// Sequence and links of `node`.
    #[must_use]
    pub fn state(&self, node: NodeId) -> (u64, &[NodeId]) {
        let state = &self.states[usize::from(node)];
        (state.sequence, &state.up)
    }

    /// This node's links are now `up`. Returns whether an edge has gone with that.
    pub fn set_mine(&mut self, up: Vec<NodeId>, now: Duration) -> bool {
        let mine = &mut self.states[usize::from(self.me)];
        let lost = mine.up.iter().any(|node| !up.contains(node));
        mine.up = up;
        mine.sequence = mine.sequence.saturating_add(1);
        self.unsettle(now);
        lost
    }

    /// Whether what is said of `origin` under this number is old: its links need not be looked at.
    /// A state comes over every edge, so nearly all are.
    #[must_use]
    pub fn knows(&self, origin: NodeId, sequence: u64) -> bool {
        origin != self.me && sequence <= self.state(origin).0
    }

    /// A neighbour tells of the links of `origin`.
    pub fn hear(&mut self, origin: NodeId, sequence: u64, up: Vec<NodeId>, now: Duration) -> Heard {
        if sequence > MAX_SEQUENCE {
            return Heard::Old; // nothing newer could ever be said
        }
        let state = &mut self.states[usize::from(origin)];
        if origin == self.me {
            if sequence < state.sequence || (sequence == state.sequence && up == state.up) {
                return Heard::Old;
            }
            // The herd remembers a former life of this node. Speak above it.
            state.sequence = sequence.saturating_add(1);
            return Heard::Mine;
        }
        if self.knows(origin, sequence) {
            return Heard::Old;
        }
        let state = &mut self.states[usize::from(origin)];
        let lost = state.up.iter().any(|node| !up.contains(node));
        let changed = state.up != up;
        *state = LinkState { sequence, up };
        if changed {
            self.unsettle(now);
        }
        Heard::New { lost }
    }

    /// When [`Routes::handle_timeout`] wants to be called.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Duration> {
        self.settles_at
    }

    /// Uses trees again once the graph has settled.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.settles_at.is_some_and(|at| at <= now) {
            self.settles_at = None;
            self.edges = Some(Edges::of(&self.states));
        }
    }

    /// This node's place in the tree of `origin`, or `None`: flood.
    #[must_use]
    pub fn tree(&mut self, origin: NodeId) -> Option<&Tree> {
        let edges = self.edges.as_ref()?;
        let tree = self.trees.get_mut(usize::from(origin))?;
        let tree = tree.get_or_insert_with(|| edges.tree(origin, self.me));
        tree.reachable.then_some(tree)
    }

    /// Whether trees are in use and reckon with the edge to `peer`. A neighbour may be linked and
    /// not have said so yet: no tree leads to it.
    #[must_use]
    pub fn has_edge(&self, peer: NodeId) -> bool {
        self.edges.as_ref().is_some_and(|edges| {
            edges.rows[usize::from(self.me) * edges.words + usize::from(peer) / 64] & bit(peer) != 0
        })
    }

    fn unsettle(&mut self, now: Duration) {
        self.settles_at = Some(now + SETTLE);
        if self.edges.take().is_some() {
            self.trees.fill(None);
        }
    }

    /// The nodes that each node is linked with, in ascending order.
    #[must_use]
    pub fn edges(&self) -> Vec<Vec<NodeId>> {
        let edges = Edges::of(&self.states);
        let row = |row: &[u64]| (0..).zip(row).flat_map(|(at, &word)| ones(at, word)).collect();
        edges.rows.chunks(edges.words).map(row).collect()
    }
}

/// The graph as a row of bits per node. A search strikes a node's neighbours off the unseen 64 at a
/// time, so it costs no more in a full mesh, with half a million edges for a thousand nodes, than
/// in a sparse herd.
struct Edges {
    words: usize,
    rows: Vec<u64>,
}

impl Edges {
    /// An edge stands when both ends say so.
    fn of(states: &[LinkState]) -> Self {
        let words = states.len().div_ceil(64);
        let mut said = vec![0; words * states.len()];
        for (state, row) in states.iter().zip(said.chunks_mut(words)) {
            for &node in state.up.iter().filter(|&&node| usize::from(node) < states.len()) {
                row[usize::from(node) / 64] |= bit(node);
            }
        }
        let mut rows = said.clone();
        for (node, row) in (0..).zip(rows.chunks_mut(words)) {
            for (word, held) in row.iter_mut().enumerate() {
                for other in ones(word, *held) {
                    if said[usize::from(other) * words + usize::from(node) / 64] & bit(node) == 0 {
                        *held &= !bit(other);
                    }
                }
            }
        }
        Self { words, rows }
    }

    /// The place of `me` in the tree of `origin`: a breadth-first search as far as the children of
    /// `me`. The order of neighbours decides ties, alike everywhere.
    fn tree(&self, origin: NodeId, me: NodeId) -> Tree {
        let mut tree = Tree { reachable: origin == me, ..Tree::default() };
        let mut unseen = vec![u64::MAX; self.words];
        unseen[usize::from(origin) / 64] &= !bit(origin);
        let mut queue = VecDeque::from([origin]);
        while let Some(node) = queue.pop_front() {
            self.take(node, &mut unseen, |next| {
                queue.push_back(next);
                if node == me {
                    tree.children.push(next);
                } else if next == me {
                    tree.parent = Some(node);
                    tree.reachable = true;
                }
            });
            if node == me {
                break;
            }
        }
        tree
    }

    /// Takes the neighbours of `node` out of `unseen` and hands them to `found` in ascending order.
    fn take(&self, node: NodeId, unseen: &mut [u64], mut found: impl FnMut(NodeId)) {
        let row = &self.rows[usize::from(node) * self.words..];
        for (word, (unseen, row)) in unseen.iter_mut().zip(row).enumerate() {
            let new = *unseen & row;
            *unseen ^= new;
            ones(word, new).for_each(&mut found);
        }
    }
}

/// Where a node stands in its word of a row.
const fn bit(node: NodeId) -> u64 {
    1 << (node % 64)
}

/// The nodes that stand in the word of that number.
fn ones(word: usize, mut bits: u64) -> impl Iterator<Item = NodeId> {
    core::iter::from_fn(move || {
        let node = (bits != 0).then(|| (word * 64) as NodeId + bits.trailing_zeros() as NodeId)?;
        bits &= bits - 1;
        Some(node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What each node of a graph computes, when all have heard all.
    fn settled(nodes: usize, edges: &[(NodeId, NodeId)]) -> Vec<Routes> {
        let up = |node: NodeId| -> Vec<NodeId> {
            edges
                .iter()
                .filter_map(|&(a, b)| if a == node { Some(b) } else { (b == node).then_some(a) })
                .collect()
        };
        (0..nodes as NodeId)
            .map(|me| {
                let mut routes = Routes::new(me, nodes, Duration::ZERO);
                for other in 0..nodes as NodeId {
                    if other == me {
                        routes.set_mine(up(me), Duration::ZERO);
                    } else {
                        routes.hear(other, 1, up(other), Duration::ZERO);
                    }
                }
                routes.handle_timeout(SETTLE);
                routes
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Forwarding along the trees brings a record to every reachable node exactly once, on a
        /// shortest path.
        #[test]
        fn each_reachable_node_gets_one_copy(
            nodes in prop_oneof![1usize..12, 60usize..70],
            pairs in proptest::collection::btree_set((0u16..70, 0u16..70), 0..200),
        ) {
            let last = nodes as NodeId;
            let edges: std::collections::BTreeSet<_> = pairs.into_iter()
                .map(|(a, b)| (a % last, b % last)).filter(|&(a, b)| a < b).collect();
            let edges = Vec::from_iter(edges);
            let mut routes = settled(nodes, &edges);
            for origin in 0..last {
                let mut copies = vec![0; nodes];
                let mut depths = vec![None; nodes];
                let mut queue = VecDeque::from([(None, origin, 0i32)]);
                while let Some((from, node, depth)) = queue.pop_front() {
                    copies[usize::from(node)] += 1;
                    depths[usize::from(node)] = Some(depth);
                    let tree = routes[usize::from(node)].tree(origin).unwrap();
                    prop_assert_eq!(tree.parent, from);
                    queue.extend(tree.children.iter().map(|&child| (Some(node), child, depth + 1)));
                }
                for (node, copies) in copies.into_iter().enumerate() {
                    let reachable = routes[node].tree(origin).is_some();
                    prop_assert_eq!(copies, usize::from(reachable), "node {} of origin {}", node, origin);
                }
                for &(a, b) in &edges {
                    let [a, b] = [a, b].map(|node| depths[usize::from(node)]);
                    prop_assert_eq!(a.is_some(), b.is_some(), "one end of an edge is not reached");
                    prop_assert!(a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= 1), "a detour");
                }
            }
        }
    }

    #[test]
    fn trees_wait_until_the_graph_has_settled() {
        let mut routes = settled(2, &[(0, 1)]).remove(0);
        assert!(routes.tree(1).is_some());
        assert!(routes.set_mine(vec![], SETTLE * 2));
        assert!(routes.tree(0).is_none() && routes.tree(1).is_none());
        routes.handle_timeout(SETTLE * 2 + SETTLE / 2);
        assert!(routes.tree(0).is_none());
        routes.handle_timeout(SETTLE * 3);
        assert!(routes.tree(0).is_some());
        assert!(routes.tree(1).is_none(), "not reachable any more");
    }

    #[test]
    fn an_edge_needs_both_ends() {
        for (mine, theirs) in [(vec![1], vec![]), (vec![], vec![0])] {
            let mut routes = Routes::new(0, 2, Duration::ZERO);
            routes.set_mine(mine, Duration::ZERO);
            routes.hear(1, 1, theirs, Duration::ZERO);
            routes.handle_timeout(SETTLE);
            assert!(!routes.has_edge(1));
            assert!(routes.tree(0).unwrap().children.is_empty());
            assert!(routes.tree(1).is_none());
            assert!(routes.edges().iter().all(Vec::is_empty));
        }
    }

    #[test]
    fn a_former_life_is_outspoken() {
        let mut routes = Routes::new(0, 3, Duration::ZERO);
        assert_eq!(routes.hear(0, 40, vec![1, 2], Duration::ZERO), Heard::Mine);
        assert_eq!(routes.state(0).0, 41);
        assert_eq!(routes.hear(0, 40, vec![1, 2], Duration::ZERO), Heard::Old);
        assert_eq!(routes.hear(1, 5, vec![0], Duration::ZERO), Heard::New { lost: false });
        assert_eq!(routes.hear(1, 5, vec![0], Duration::ZERO), Heard::Old);
        assert_eq!(routes.hear(1, 6, vec![], Duration::ZERO), Heard::New { lost: true });
    }
}
