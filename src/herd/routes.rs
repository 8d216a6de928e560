//! Routing: the trees along which records are forwarded, so that each node receives each record
//! about once.
//!
//! Every node advertises its established links (link state, as in OSPF, RFC 2328). All nodes
//! therefore know the same graph, compute the same shortest-path tree for every origin, with the
//! same tie-breaking, and forward a record only along the tree of its origin. In any doubt, records
//! are flooded over all links instead: shortly after the graph has changed, if the origin is not
//! reachable, or if a record did not arrive along its tree.

use core::time::Duration;
use std::collections::VecDeque;

use crate::ids::NodeId;
use crate::time::Instant;

/// Time from the last change of the graph until trees are used again: long enough for the change to
/// reach every node, even in a busy herd.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Maximum sequence number that is accepted: no node changes its links that often.
const MAX_SEQUENCE: u64 = u64::MAX / 2;

/// Minimum interval between two advertisements of a node's own links. Changes within it are
/// combined: otherwise, when a dense herd starts, each node would send one link state per link over
/// every edge. The first change is advertised at once, and the last well before [`SETTLE`].
pub const LINKS_PAUSE: Duration = Duration::from_millis(100);

/// The links that a node advertises.
#[derive(Clone, Debug, Default)]
struct LinkState {
    sequence: u64,
    up: Vec<NodeId>,
}

/// The graph of the herd as known to this node, and the trees derived from it.
pub struct Routes {
    me: NodeId,
    states: Vec<LinkState>,
    /// The time from which trees may be used again; `None` while they are in use.
    settles_at: Option<Instant>,
    /// The graph from which trees are computed; `None` while unsettled.
    edges: Option<Edges>,
    /// Trees by origin, computed when the first record of an origin arrives, because computing a
    /// thousand trees at once would delay the event loop.
    trees: Vec<Option<Tree>>,
}

/// The position of this node in the tree of one origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The node from which records arrive; `None` at the origin, or if it is not reachable.
    pub parent: Option<NodeId>,
    /// The nodes to which records are forwarded.
    pub children: Vec<NodeId>,
    /// True if the origin is reachable.
    pub reachable: bool,
}

/// The outcome of a received link state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LsaOutcome {
    /// Already known, or older than the known one.
    Stale,
    /// New: must be forwarded to all neighbors except the sender.
    Accepted {
        /// True if the graph has lost an edge.
        lost_edge: bool,
    },
    /// A link state of this node from before its restart: this node has chosen a higher sequence
    /// number and must advertise its links to all neighbors.
    Own,
}

impl Routes {
    /// Creates a graph of `nodes` nodes without edges.
    #[must_use]
    pub fn new(me: NodeId, nodes: usize, now: Instant) -> Self {
        let mut states = vec![LinkState::default(); nodes];
        states[me.index()].sequence = 1;
        Self { me, states, settles_at: Some(now + SETTLE), edges: None, trees: vec![None; nodes] }
    }

    /// Returns the sequence number and links of `node`.
    #[must_use]
    pub fn state(&self, node: NodeId) -> (u64, &[NodeId]) {
        let state = &self.states[node.index()];
        (state.sequence, &state.up)
    }

    /// Nodes whose link state is known.
    pub fn known(&self) -> impl Iterator<Item = NodeId> {
        let known = (0..).map(NodeId).zip(&self.states).filter(|(_, state)| state.sequence > 0);
        known.map(|(node, _)| node)
    }

    /// Sets the links of this node. Returns whether an edge was lost.
    pub fn set_own_links(&mut self, up: Vec<NodeId>, now: Instant) -> bool {
        let mine = &mut self.states[self.me.index()];
        let lost = mine.up.iter().any(|node| !up.contains(node));
        mine.up = up;
        mine.sequence = mine.sequence.saturating_add(1);
        self.unsettle(now);
        lost
    }

    /// Returns whether a link state with this sequence number is already known, so that it need not
    /// be parsed. This is the common case, since a link state arrives over every edge.
    #[must_use]
    pub fn knows(&self, origin: NodeId, sequence: u64) -> bool {
        origin != self.me && sequence <= self.state(origin).0
    }

    /// Applies a link state of `origin` that was received from a neighbor.
    pub fn apply_link_state(
        &mut self,
        origin: NodeId,
        sequence: u64,
        up: Vec<NodeId>,
        now: Instant,
    ) -> LsaOutcome {
        if sequence > MAX_SEQUENCE {
            return LsaOutcome::Stale; // otherwise no newer one could follow
        }
        let state = &mut self.states[origin.index()];
        if origin == self.me {
            if sequence < state.sequence || (sequence == state.sequence && up == state.up) {
                return LsaOutcome::Stale;
            }
            // The herd remembers the state from before a restart: use a higher sequence number.
            state.sequence = sequence.saturating_add(1);
            return LsaOutcome::Own;
        }
        if self.knows(origin, sequence) {
            return LsaOutcome::Stale;
        }
        let state = &mut self.states[origin.index()];
        let lost_edge = state.up.iter().any(|node| !up.contains(node));
        let changed = state.up != up;
        *state = LinkState { sequence, up };
        if changed {
            self.unsettle(now);
        }
        LsaOutcome::Accepted { lost_edge }
    }

    /// Returns when [`Routes::handle_timeout`] must be called next.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.settles_at
    }

    /// Enables trees once the graph has settled.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.settles_at.is_some_and(|at| at <= now) {
            self.settles_at = None;
            self.edges = Some(Edges::of(&self.states));
        }
    }

    /// Returns the position of this node in the tree of `origin`, or `None` if records must be
    /// flooded.
    #[must_use]
    pub fn tree(&mut self, origin: NodeId) -> Option<&Tree> {
        let edges = self.edges.as_ref()?;
        let tree = self.trees.get_mut(origin.index())?;
        let tree = tree.get_or_insert_with(|| edges.tree(origin, self.me));
        tree.reachable.then_some(tree)
    }

    /// Returns whether trees are in use and the graph contains the edge to `peer`. A neighbor that
    /// is linked but has not advertised the link yet is not part of any tree.
    #[must_use]
    pub fn has_edge(&self, peer: NodeId) -> bool {
        self.edges.as_ref().is_some_and(|edges| {
            edges.rows[self.me.index() * edges.words + peer.index() / 64] & bit(peer) != 0
        })
    }

    fn unsettle(&mut self, now: Instant) {
        self.settles_at = Some(now + SETTLE);
        if self.edges.take().is_some() {
            self.trees.fill(None);
        }
    }

    /// Returns the neighbors of each node, in ascending order.
    #[must_use]
    pub fn edges(&self) -> Vec<Vec<NodeId>> {
        let edges = Edges::of(&self.states);
        let row = |row: &[u64]| (0..).zip(row).flat_map(|(at, &word)| ones(at, word)).collect();
        edges.rows.chunks(edges.words).map(row).collect()
    }
}

/// The graph as an adjacency matrix of bits. A search removes a node's neighbors from the unvisited
/// nodes 64 at a time, so it costs no more in a full mesh, with half a million edges for a thousand
/// nodes, than in a sparse graph.
struct Edges {
    words: usize,
    rows: Vec<u64>,
}

impl Edges {
    /// Builds the graph. It contains an edge only if both ends advertise it.
    fn of(states: &[LinkState]) -> Self {
        let words = states.len().div_ceil(64);
        let mut advertised = vec![0; words * states.len()];
        for (state, row) in states.iter().zip(advertised.chunks_mut(words)) {
            for &node in state.up.iter().filter(|&&node| node.index() < states.len()) {
                row[node.index() / 64] |= bit(node);
            }
        }
        let mut rows = advertised.clone();
        for (node, row) in (0..).map(NodeId).zip(rows.chunks_mut(words)) {
            for (word, held) in row.iter_mut().enumerate() {
                for other in ones(word, *held) {
                    if advertised[other.index() * words + node.index() / 64] & bit(node) == 0 {
                        *held &= !bit(other);
                    }
                }
            }
        }
        Self { words, rows }
    }

    /// Computes the position of `me` in the tree of `origin` by a breadth-first search that ends
    /// with the children of `me`. Ties are broken by node id, identically on all nodes.
    fn tree(&self, origin: NodeId, me: NodeId) -> Tree {
        let mut tree = Tree { reachable: origin == me, ..Tree::default() };
        let mut unseen = vec![u64::MAX; self.words];
        unseen[origin.index() / 64] &= !bit(origin);
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

    /// Removes the neighbors of `node` from `unseen` and passes them to `found` in ascending order.
    fn take(&self, node: NodeId, unseen: &mut [u64], mut found: impl FnMut(NodeId)) {
        let row = &self.rows[node.index() * self.words..];
        for (word, (unseen, row)) in unseen.iter_mut().zip(row).enumerate() {
            let new = *unseen & row;
            *unseen ^= new;
            ones(word, new).for_each(&mut found);
        }
    }
}

/// Returns the bit of a node in its word of a row.
const fn bit(node: NodeId) -> u64 {
    1 << (node.0 % 64)
}

/// Returns the nodes whose bits are set in the word with this index.
fn ones(word: usize, mut bits: u64) -> impl Iterator<Item = NodeId> {
    core::iter::from_fn(move || {
        let node =
            (bits != 0).then(|| NodeId((word * 64) as u16 + bits.trailing_zeros() as u16))?;
        bits &= bits - 1;
        Some(node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(nodes: &[u16]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// The routes of each node once all link states have reached all nodes.
    fn settled(nodes: usize, edges: &[(u16, u16)]) -> Vec<Routes> {
        let up = |node: u16| -> Vec<NodeId> {
            edges
                .iter()
                .filter_map(|&(a, b)| if a == node { Some(b) } else { (b == node).then_some(a) })
                .map(NodeId)
                .collect()
        };
        (0..nodes as u16)
            .map(|me| {
                let mut routes = Routes::new(NodeId(me), nodes, Instant::START);
                for other in 0..nodes as u16 {
                    if other == me {
                        routes.set_own_links(up(me), Instant::START);
                    } else {
                        routes.apply_link_state(NodeId(other), 1, up(other), Instant::START);
                    }
                }
                routes.handle_timeout(Instant::START + SETTLE);
                routes
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Forwarding along the trees delivers a record to every reachable node exactly once, on a
        /// shortest path.
        #[test]
        fn each_reachable_node_receives_one_copy(
            nodes in prop_oneof![1usize..12, 60usize..70],
            pairs in proptest::collection::btree_set((0u16..70, 0u16..70), 0..200),
        ) {
            let last = nodes as u16;
            let edges: std::collections::BTreeSet<_> = pairs.into_iter()
                .map(|(a, b)| (a % last, b % last)).filter(|&(a, b)| a < b).collect();
            let edges = Vec::from_iter(edges);
            let mut routes = settled(nodes, &edges);
            for origin in (0..last).map(NodeId) {
                let mut copies = vec![0; nodes];
                let mut depths = vec![None; nodes];
                let mut queue = VecDeque::from([(None, origin, 0i32)]);
                while let Some((from, node, depth)) = queue.pop_front() {
                    copies[node.index()] += 1;
                    depths[node.index()] = Some(depth);
                    let tree = routes[node.index()].tree(origin).unwrap();
                    prop_assert_eq!(tree.parent, from);
                    queue.extend(tree.children.iter().map(|&child| (Some(node), child, depth + 1)));
                }
                for (node, copies) in copies.into_iter().enumerate() {
                    let reachable = routes[node].tree(origin).is_some();
                    prop_assert_eq!(copies, usize::from(reachable), "node {} of {:?}", node, origin);
                }
                for &(a, b) in &edges {
                    let [a, b] = [a, b].map(|node| depths[usize::from(node)]);
                    prop_assert_eq!(a.is_some(), b.is_some(), "only one end of an edge is reached");
                    prop_assert!(a.zip(b).is_none_or(|(a, b)| (a - b).abs() <= 1), "a detour");
                }
            }
        }
    }

    #[test]
    fn trees_wait_until_the_graph_has_settled() {
        let mut routes = settled(2, &[(0, 1)]).remove(0);
        assert!(routes.tree(NodeId(1)).is_some());
        assert!(routes.set_own_links(vec![], Instant::START + SETTLE * 2));
        assert!(routes.tree(NodeId(0)).is_none() && routes.tree(NodeId(1)).is_none());
        routes.handle_timeout(Instant::START + SETTLE * 5 / 2);
        assert!(routes.tree(NodeId(0)).is_none());
        routes.handle_timeout(Instant::START + SETTLE * 3);
        assert!(routes.tree(NodeId(0)).is_some());
        assert!(routes.tree(NodeId(1)).is_none(), "no longer reachable");
    }

    #[test]
    fn an_edge_needs_both_ends() {
        for (mine, theirs) in [(&[1][..], &[][..]), (&[], &[0])] {
            let mut routes = Routes::new(NodeId(0), 2, Instant::START);
            routes.set_own_links(ids(mine), Instant::START);
            routes.apply_link_state(NodeId(1), 1, ids(theirs), Instant::START);
            routes.handle_timeout(Instant::START + SETTLE);
            assert!(!routes.has_edge(NodeId(1)));
            assert!(routes.tree(NodeId(0)).unwrap().children.is_empty());
            assert!(routes.tree(NodeId(1)).is_none());
            assert!(routes.edges().iter().all(Vec::is_empty));
        }
    }

    #[test]
    fn a_link_state_from_before_a_restart_is_superseded() {
        let mut routes = Routes::new(NodeId(0), 3, Instant::START);
        assert_eq!(
            routes.apply_link_state(NodeId(0), 40, ids(&[1, 2]), Instant::START),
            LsaOutcome::Own
        );
        assert_eq!(routes.state(NodeId(0)).0, 41);
        assert_eq!(
            routes.apply_link_state(NodeId(0), 40, ids(&[1, 2]), Instant::START),
            LsaOutcome::Stale
        );
        assert_eq!(
            routes.apply_link_state(NodeId(1), 5, ids(&[0]), Instant::START),
            LsaOutcome::Accepted { lost_edge: false }
        );
        assert_eq!(
            routes.apply_link_state(NodeId(1), 5, ids(&[0]), Instant::START),
            LsaOutcome::Stale
        );
        assert_eq!(
            routes.apply_link_state(NodeId(1), 6, ids(&[]), Instant::START),
            LsaOutcome::Accepted { lost_edge: true }
        );
    }
}
