//! Routing: the trees along which records are forwarded, so that each node receives each record
//! about once.
//!
//! Every node advertises its established links (link state, as in OSPF, RFC 2328). All nodes
//! therefore know the same graph, compute the same shortest-path tree for every origin, with the
//! same tie-breaking, and forward a record only along the tree of its origin. In any doubt, records
//! are flooded over all links instead: shortly after the graph has changed, if the origin is not
//! reachable, or if a record did not arrive along its tree.
//!
//! The vertices of the graph are names. While the configuration is changed, nodes with different
//! lists of nodes run side by side, so link states are stored and forwarded as they are, and the
//! names that the configuration lacks are learned from them ([`Vertices`]).

mod forgetting;

use core::hash::Hasher;
use core::time::Duration;
use std::collections::BTreeMap;

use siphasher::sip::SipHasher13;

use self::forgetting::START_OVER_AFTER;
pub use self::forgetting::{FORGET_AFTER, OFFER_FOR};
use super::graph::{Bits, Graph};
use super::message::{LinkState, Version, push_links};
use super::vertices::{Vertex, Vertices};
use crate::ids::{BootId, NodeId};
use crate::time::Instant;

/// Time from the last change of the graph until trees are used again: long enough for the change to
/// reach every node, even in a busy herd.
pub const SETTLE: Duration = Duration::from_secs(1);

/// The last sequence number. No node changes its links that often, but a broken peer may use it in the
/// name of another node, which could not exceed it. A link state with this number is therefore forgotten
/// [`FORGET_AFTER`] its receipt, and its node starts over, as in OSPF (RFC 2328, 12.1.6).
pub const LAST_SEQUENCE: u64 = u64::MAX / 2;

/// Time for which the graph is regarded as unknown after a link state was ignored because there are more
/// than [`MAX_LEARNED`](super::vertices::MAX_LEARNED) other names. Meanwhile records are flooded, and link
/// states are not compared with those of neighbors: sending them again would not help.
pub const INCOMPLETE_FOR: Duration = Duration::from_mins(10);

/// The graph of the herd as known to this node, and the trees derived from it.
pub struct Routes {
    vertices: Vertices,
    me: Vertex,
    /// The last link state of each vertex.
    states: Vec<Option<State>>,
    /// The time from which trees may be used again; `None` while they are in use.
    settles_at: Option<Instant>,
    /// The graph from which trees are computed; `None` while unsettled.
    settled: Option<Settled>,
    /// Trees by origin, computed when the first record of an origin arrives, because computing a
    /// thousand trees at once would delay the event loop.
    trees: Vec<Option<Tree>>,
    /// The next time at which a link state may have to be forgotten.
    forget_at: Option<Instant>,
    /// Nodes whose link states with the last number are ignored, and until when.
    ignored: BTreeMap<Vertex, Instant>,
    /// The time until which the graph is regarded as unknown, see [`INCOMPLETE_FOR`].
    incomplete_until: Option<Instant>,
}

/// The link state of a node.
struct State {
    version: Version,
    next: Box<[u8]>,
    /// Its linked neighbors, in the order in which it has listed them.
    up: Vec<Vertex>,
    /// The same as a set.
    links: Bits,
    /// Hash of the whole state.
    hash: u64,
    /// The neighbor from which it was received; `None` for this node.
    source: Option<NodeId>,
    /// The time since which its node has been neither configured nor reachable.
    unreachable_since: Option<Instant>,
    /// The time at which it is forgotten because its number is the last one.
    ends_at: Option<Instant>,
}

/// The graph after it has settled.
struct Settled {
    /// Its vertices are numbered in the order of their names.
    graph: Graph,
    /// Vertex by number.
    vertices: Vec<Vertex>,
    /// Number by vertex, for those that existed when the graph settled.
    numbers: Vec<Option<u16>>,
    reachable: Bits,
    /// Sum of the hashes of the link states of all reachable nodes.
    hash: u64,
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
pub enum Received {
    /// Invalid, or its names are too many.
    Ignored,
    /// The same as the known one.
    Known(Vertex),
    /// Older than the known one, which the sender lacks.
    Older(Vertex),
    /// New: to be forwarded.
    New {
        /// Its node.
        origin: Vertex,
        /// True if the graph has lost an edge, or may have lost and regained one.
        lost_edge: bool,
        /// True if the links of the node have changed.
        changed: bool,
    },
    /// A link state of this node's name that another process has advertised, and that is not older
    /// than this node's own: this node must exceed it.
    Contested(Version),
}

/// The certainty with which two nodes are linked according to their link states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjacency {
    /// Both advertise the link.
    Linked,
    /// One of them advertises it.
    Unsure,
    /// Neither does.
    Apart,
}

/// A node of the herd as this node sees it.
pub struct Member<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// True if a path of established links leads to it.
    pub reachable: bool,
    /// Names of the nodes that it is linked with, in ascending order.
    pub links: Vec<&'a [u8]>,
}

impl Routes {
    /// A graph without edges. `names` are those of the configured nodes, sorted, and `next` what
    /// this node announces in its link state.
    #[must_use]
    pub fn new(me: NodeId, boot: BootId, next: &[u8], names: &[Box<[u8]>], now: Instant) -> Self {
        let mut states: Vec<Option<State>> = names.iter().map(|_| None).collect();
        states[me.index()] = Some(State {
            version: Version { sequence: 1, boot },
            next: next.into(),
            up: Vec::new(),
            links: Bits::default(),
            hash: 0,
            source: None,
            unreachable_since: None,
            ends_at: None,
        });
        let mut routes = Self {
            vertices: Vertices::new(names),
            me: me.into(),
            trees: vec![None; states.len()],
            states,
            settles_at: Some(now + SETTLE),
            settled: None,
            forget_at: None,
            ignored: BTreeMap::new(),
            incomplete_until: None,
        };
        routes.hash_own();
        routes
    }

    /// Returns the vertex of the node named `name`.
    #[must_use]
    pub fn vertex(&self, name: &[u8]) -> Option<Vertex> {
        self.vertices.find(name)
    }

    /// Returns the version of the known link state of a vertex.
    #[must_use]
    pub fn version(&self, vertex: Vertex) -> Option<Version> {
        Some(self.state(vertex)?.version)
    }

    /// Returns the neighbor from which the link state of a vertex was received.
    #[must_use]
    pub fn source(&self, vertex: Vertex) -> Option<NodeId> {
        self.state(vertex)?.source
    }

    /// Returns what the node named `name` announces for the future, as it is sent; `None` if its
    /// link state is not known.
    #[must_use]
    pub fn next(&self, name: &[u8]) -> Option<&[u8]> {
        Some(&self.state(self.vertex(name)?)?.next)
    }

    /// Returns the names of the nodes whose link state announces anything else than `next`.
    #[must_use]
    pub fn dissenters(&self, next: &[u8]) -> Vec<&[u8]> {
        let dissents = |&vertex: &Vertex| self.state(vertex).is_some_and(|it| *it.next != *next);
        self.known().filter(dissents).map(|vertex| self.vertices.name(vertex)).collect()
    }

    /// Vertices whose link state is known.
    pub fn known(&self) -> impl Iterator<Item = Vertex> {
        let known = (0..).map(Vertex).zip(&self.states).filter(|(_, state)| state.is_some());
        known.map(|(vertex, _)| vertex)
    }

    /// Appends the link state of a vertex, if it is known.
    pub fn push_state(&self, vertex: Vertex, out: &mut Vec<u8>) {
        if let Some(state) = self.state(vertex) {
            let names = state.up.iter().map(|&peer| self.vertices.name(peer));
            push_links(out, self.vertices.name(vertex), state.version, &state.next, names);
        }
    }

    /// Sets the links that this node advertises. The sequence number exceeds `contested`, if another
    /// process has used that. Returns whether there is something new to advertise.
    pub fn set_own_links(&mut self, up: &[NodeId], contested: Option<u64>, now: Instant) -> bool {
        let Some(mine) = &mut self.states[self.me.index()] else { return false };
        let up: Vec<Vertex> = up.iter().map(|&peer| peer.into()).collect();
        let changed = mine.up != up;
        if changed {
            mine.links = set_of(&up);
            mine.up = up;
            self.unsettle(now);
        }
        let is_new = changed || contested.is_some();
        if is_new {
            self.raise(contested, now);
        }
        is_new
    }

    /// Applies a link state that was received from the neighbor `source`.
    pub fn receive(&mut self, state: &LinkState<'_>, source: NodeId, now: Instant) -> Received {
        let version = state.version;
        if version.sequence > LAST_SEQUENCE {
            return Received::Ignored;
        }
        let known = self.vertex(state.origin);
        let is_last = version.sequence == LAST_SEQUENCE;
        // This node cannot exceed it, and waits until the others have forgotten it.
        if is_last && known.is_some_and(|it| it == self.me || self.ignored.contains_key(&it)) {
            return Received::Ignored;
        }
        // A link state arrives over several edges, so it is usually known and not parsed further.
        if let Some(origin) = known
            && let Some(held) = self.version(origin)
        {
            if version == held {
                return Received::Known(origin);
            } else if version < held {
                return Received::Older(origin);
            } else if origin == self.me {
                return Received::Contested(version);
            }
        }
        let Some((origin, up)) = self.learn(state) else {
            if self.vertices.is_full() {
                self.incomplete_until = Some(now + INCOMPLETE_FOR);
                self.unsettle(now);
            }
            self.drop_unused_names();
            return Received::Ignored;
        };
        let links = set_of(&up);
        let before = self.states[origin.index()].as_ref();
        let is_next = before.is_none_or(|before| {
            let Version { sequence, boot } = before.version;
            (sequence + 1, boot) == (version.sequence, version.boot)
        });
        // If a version was not seen, an edge may have been lost in it.
        let lost_edge = !is_next
            || before.is_some_and(|it| it.up.iter().any(|peer| !links.contains(peer.index())));
        let changed = before.is_none_or(|before| before.links != links);
        let hash = self.hash_of(origin, version, state.next, &up);
        let (next, source) = (state.next.into(), Some(source));
        let was = before.map_or(0, |before| before.hash);
        // If the links have changed, the node may have returned.
        let unreachable_since =
            before.filter(|_| !changed).and_then(|before| before.unreachable_since);
        let ends_at = is_last.then_some(now + FORGET_AFTER);
        self.forget_by(ends_at);
        let state = State { version, next, up, links, hash, source, unreachable_since, ends_at };
        self.states[origin.index()] = Some(state);
        if changed {
            self.unsettle(now);
        } else {
            self.update_hash(origin, was, hash);
        }
        Received::New { origin, lost_edge, changed }
    }

    /// Returns whether the neighbor `peer` is linked with `other` according to the link states.
    /// Only a link state that the process `boot` of the neighbor has advertised counts.
    #[must_use]
    pub fn adjacency(&self, other: NodeId, peer: NodeId, boot: BootId) -> Adjacency {
        let advertises = |state: Option<&State>, node: NodeId| {
            state.is_some_and(|state| state.links.contains(node.index()))
        };
        let theirs = self.state(peer.into()).filter(|state| state.version.boot == boot);
        match (advertises(theirs, other), advertises(self.state(other.into()), peer)) {
            (true, true) => Adjacency::Linked,
            (false, false) => Adjacency::Apart,
            _ => Adjacency::Unsure,
        }
    }

    /// Returns when [`Routes::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.settles_at.into_iter().chain(self.forget_at).min()
    }

    /// Enables trees once the graph has settled, and forgets nodes that are gone. Returns whether this
    /// node must advertise its links again.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let starts_over = self.forget_at.is_some_and(|at| at <= now) && self.forget(now);
        if self.settles_at.is_some_and(|at| at <= now) {
            self.settles_at = None;
            self.settle(now);
        }
        starts_over
    }

    /// Returns the position of this node in the tree of `origin`, or `None` if records must be
    /// flooded.
    #[must_use]
    pub fn tree(&mut self, origin: Vertex) -> Option<&Tree> {
        let Self { settled, vertices, trees, me, .. } = self;
        let settled = settled.as_ref()?;
        let tree = trees.get_mut(origin.index())?;
        if tree.is_none() {
            *tree = settled.tree(origin, *me, vertices);
        }
        tree.as_ref().filter(|tree| tree.reachable)
    }

    /// Returns whether trees are in use and the graph contains the edge to `peer`. A neighbor that
    /// is linked but has not advertised the link yet is not part of any tree.
    #[must_use]
    pub fn has_edge(&self, peer: NodeId) -> bool {
        self.settled.as_ref().is_some_and(|settled| {
            let numbers = settled.number(self.me).zip(settled.number(peer.into()));
            numbers.is_some_and(|(me, peer)| settled.graph.has_edge(me, peer))
        })
    }

    /// Returns the hash of the link states of all reachable nodes, which is the same on the nodes that
    /// are linked with each other, directly or not. `None` until the graph has settled.
    #[must_use]
    pub fn hash(&self) -> Option<u64> {
        self.settled.as_ref().map(|settled| settled.hash)
    }

    /// All nodes in the order of their names: those of the configuration, and others that are
    /// reachable.
    #[must_use]
    pub fn members(&self) -> Vec<Member<'_>> {
        let (graph, order, _) = self.graph();
        let me = order.iter().position(|&vertex| vertex == self.me).unwrap_or_default();
        let reachable = graph.reachable(me);
        let name = |number: usize| self.vertices.name(order[number]);
        let member = |number| Member {
            name: name(number),
            reachable: reachable.contains(number),
            links: graph.neighbors(number).map(name).collect(),
        };
        let is_member = |&number: &usize| {
            reachable.contains(number) || self.vertices.configured(order[number]).is_some()
        };
        (0..order.len()).filter(is_member).map(member).collect()
    }

    fn state(&self, vertex: Vertex) -> Option<&State> {
        self.states.get(vertex.index())?.as_ref()
    }

    /// Makes the own sequence number greater than before, and than `contested`. After the last one, this
    /// node waits until the others have forgotten it.
    fn raise(&mut self, contested: Option<u64>, now: Instant) {
        if let Some(mine) = &mut self.states[self.me.index()] {
            let least = mine.version.sequence.max(contested.unwrap_or(0));
            mine.version.sequence = least.saturating_add(1).min(LAST_SEQUENCE);
            if mine.version.sequence == LAST_SEQUENCE {
                let ends_at = *mine.ends_at.get_or_insert(now + START_OVER_AFTER);
                self.forget_by(Some(ends_at));
            }
        }
        self.hash_own();
    }

    fn hash_own(&mut self) {
        let Some(mine) = self.state(self.me) else { return };
        let (was, hash) = (mine.hash, self.hash_of(self.me, mine.version, &mine.next, &mine.up));
        if let Some(mine) = &mut self.states[self.me.index()] {
            mine.hash = hash;
        }
        self.update_hash(self.me, was, hash);
    }

    /// Finds the vertices of all names in a link state. A state is known completely or not at all.
    fn learn(&mut self, state: &LinkState<'_>) -> Option<(Vertex, Vec<Vertex>)> {
        let origin = self.vertices.learn(state.origin)?;
        let up = state.names().map(|name| self.vertices.learn(name)).collect::<Option<_>>()?;
        self.states.resize_with(self.vertices.numbers(), || None);
        self.trees.resize(self.vertices.numbers(), None);
        Some((origin, up))
    }

    /// Hash of a link state as it is sent. The keys are public: peers are trusted.
    fn hash_of(&self, origin: Vertex, version: Version, next: &[u8], up: &[Vertex]) -> u64 {
        let mut line = Vec::new();
        let names = up.iter().map(|&peer| self.vertices.name(peer));
        push_links(&mut line, self.vertices.name(origin), version, next, names);
        let mut hasher = SipHasher13::new();
        hasher.write(&line);
        hasher.finish()
    }

    fn update_hash(&mut self, vertex: Vertex, was: u64, is: u64) {
        if let Some(settled) = &mut self.settled
            && settled.number(vertex).is_some_and(|number| settled.reachable.contains(number))
        {
            settled.hash = settled.hash.wrapping_sub(was).wrapping_add(is);
        }
    }

    /// Disables trees until the graph has been quiet for [`SETTLE`].
    pub fn unsettle(&mut self, now: Instant) {
        self.settles_at = Some(now + SETTLE);
        if self.settled.take().is_some() {
            self.trees.fill(None);
        }
    }

    /// The graph, its vertices by number and its numbers by vertex.
    fn graph(&self) -> (Graph, Vec<Vertex>, Vec<Option<u16>>) {
        let order = self.vertices.sorted().to_vec();
        let mut numbers = vec![None; self.vertices.numbers()];
        for (number, vertex) in (0..).zip(&order) {
            numbers[vertex.index()] = Some(number);
        }
        let graph = Graph::new(order.len(), |advertise| {
            for (number, &vertex) in order.iter().enumerate() {
                for peer in self.state(vertex).map_or(&[][..], |state| &state.up) {
                    if let Some(peer) = numbers[peer.index()] {
                        advertise(number, peer.into());
                    }
                }
            }
        });
        (graph, order, numbers)
    }

    /// Returns the vertices that are reachable in the graph of this moment, settled or not.
    fn reachable(&self) -> Bits {
        let (graph, order, numbers) = self.graph();
        let me = numbers[self.me.index()].unwrap_or_default();
        let reachable = graph.reachable(me.into());
        let mut vertices = Bits::default();
        for (number, vertex) in order.iter().enumerate() {
            if reachable.contains(number) {
                vertices.insert(vertex.index());
            }
        }
        vertices
    }

    fn settle(&mut self, now: Instant) {
        let (graph, vertices, numbers) = self.graph();
        let me = numbers[self.me.index()].unwrap_or_default();
        let reachable = graph.reachable(me.into());
        let mut hash = 0u64;
        for (number, vertex) in vertices.iter().enumerate() {
            let Some(state) = &mut self.states[vertex.index()] else { continue };
            if reachable.contains(number) {
                hash = hash.wrapping_add(state.hash);
                state.unreachable_since = None;
            } else if self.vertices.configured(*vertex).is_none() {
                let since = *state.unreachable_since.get_or_insert(now);
                self.forget_by(Some(since + FORGET_AFTER));
            }
        }
        match self.incomplete_until.filter(|&until| now < until) {
            Some(until) => self.settles_at = Some(until),
            None => self.settled = Some(Settled { graph, vertices, numbers, reachable, hash }),
        }
    }
}

impl Settled {
    fn number(&self, vertex: Vertex) -> Option<usize> {
        self.numbers.get(vertex.index()).copied().flatten().map(usize::from)
    }

    fn tree(&self, origin: Vertex, me: Vertex, vertices: &Vertices) -> Option<Tree> {
        let place = self.graph.place(self.number(origin)?, self.number(me)?);
        // This node advertises configured neighbors only.
        let node = |number: usize| vertices.configured(self.vertices[number]);
        Some(Tree {
            parent: place.parent.and_then(node),
            children: place.children.into_iter().filter_map(node).collect(),
            reachable: place.reachable,
        })
    }
}

fn set_of(vertices: &[Vertex]) -> Bits {
    let mut set = Bits::default();
    for vertex in vertices {
        set.insert(vertex.index());
    }
    set
}

#[cfg(test)]
mod tests;
