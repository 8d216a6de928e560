//! The graph of the herd: what each node knows of it, and whether that is true.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proxy_herd::herd::message::{Message, Version};
use proxy_herd::herd::namesakes::CONTEST_MAX;
use proxy_herd::herd::routes::{LAST_SEQUENCE, SETTLE};
use proxy_herd::herd::vertices::Vertex;
use proxy_herd::node::Node;
use proxy_herd::testing::topology::Shape;

use crate::schedule::{SECONDS, Schedule, Time};
use crate::trace::Trace;
use crate::world::{World, name, seconds};

/// The linked neighbors of each node, by name.
type Edges = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

/// The graph of the herd as known to a node.
pub struct Graph {
    versions: Vec<(Vertex, Version)>,
    /// Each link state as it is sent, without its sequence number.
    states: Vec<Vec<u8>>,
    pub changed_at: Time,
}

impl Graph {
    pub const fn new(now: Time) -> Self {
        Self { versions: Vec::new(), states: Vec::new(), changed_at: now }
    }

    /// Checks the graph that `node` knows. Trees must not be used until a second after its last change,
    /// because other nodes may still use the previous graph.
    pub fn observe(&mut self, node: &Node, now: Time) -> Result<(), String> {
        let routes = node.herd.routes();
        let version = |vertex| Some((vertex, routes.version(vertex)?));
        if !routes.known().filter_map(version).eq(self.versions.iter().copied()) {
            self.versions = routes.known().filter_map(version).collect();
            let states: Vec<_> = routes.known().map(|vertex| links(node, vertex)).collect();
            // A node that is gone may be forgotten at any time: no tree leads to it.
            if !states.iter().all(|state| self.states.contains(state)) {
                self.changed_at = now;
            }
            self.states = states;
        }
        let uses_trees = node.herd.links().iter().any(|link| routes.has_edge(link.peer));
        if uses_trees && now < self.changed_at + SECONDS {
            let since = seconds(now - self.changed_at);
            return Err(format!("trees are in use {since} after a change of the graph"));
        }
        Ok(())
    }
}

/// The names in the link state of a vertex: that of the node and those of its neighbors.
fn links(node: &Node, vertex: Vertex) -> Vec<u8> {
    let mut line = Vec::new();
    node.herd.routes().push_state(vertex, &mut line);
    let Some(Message::Links(state)) = Message::parse(line.trim_ascii_end()) else {
        panic!("a link state is a valid message")
    };
    [state.origin, state.up].concat()
}

/// The graph from which a node computes its trees.
fn known(node: &Node) -> Edges {
    let links = |names: Vec<&[u8]>| names.into_iter().map(<[u8]>::to_vec).collect();
    let members = node.herd.routes().members().into_iter();
    members.map(|member| (member.name.to_vec(), links(member.links))).collect()
}

impl World {
    /// The first error in the graphs that the nodes know, after the faults.
    pub fn wrong_graph(&self) -> Option<String> {
        let mut graph: Edges = BTreeMap::new();
        for (a, b) in self.schedule.remaining_edges() {
            graph.entry(name(a)).or_default().insert(name(b));
            graph.entry(name(b)).or_default().insert(name(a));
        }
        let none = BTreeSet::new();
        for at in self.schedule.remaining() {
            let known = known(self.hosts[at].node.as_ref()?);
            // Only nodes that run are compared: two nodes that died together seem linked for good. No
            // tree leads to them.
            for node in self.schedule.remaining() {
                let [known, true_links] =
                    [&known, &graph].map(|graph| graph.get(&name(node)).unwrap_or(&none));
                if known != true_links {
                    let show = |links: &BTreeSet<Vec<u8>>| {
                        let links: Vec<_> =
                            links.iter().map(|name| name.escape_ascii().to_string()).collect();
                        links.join(" ")
                    };
                    return Some(format!(
                        "L3: n{at:02} believes that n{node:02} is linked with [{}], not [{}]",
                        show(known),
                        show(true_links)
                    ));
                }
            }
        }
        None
    }

    /// The last time at which the graph of any node that runs after the faults changed.
    pub fn graph_changed_at(&self) -> Time {
        let changes =
            self.schedule.remaining().into_iter().map(|at| self.hosts[at].graph.changed_at);
        changes.max().unwrap_or(0)
    }

    /// The time in which a node that has missed a link state receives it: the hashes in a few pings
    /// differ for a second, and the link state that is sent then crosses the herd. If two processes have
    /// had one name, the remaining one waits before it advertises its links again.
    pub fn graph_repair_bound(&self) -> Time {
        let keepalive = self.schedule.timing.keepalive;
        let contest = if self.schedule.twin_of.is_some() { CONTEST_MAX } else { Duration::ZERO };
        (SETTLE + keepalive * 3 + contest).as_nanos() as Time
    }
}

/// It has used the last sequence number, or the last but one, in the name of another node.
#[test]
fn a_node_that_a_broken_peer_has_silenced_is_heard_again() {
    for (sequence, is_silenced) in [(LAST_SEQUENCE, true), (LAST_SEQUENCE - 1, false)] {
        let schedule = Schedule::by_hand(Shape::Five, 5, 1);
        let mut world = World::new(schedule, Trace::off());
        world.begin();
        world.pass(5 * SECONDS);
        assert_eq!(world.wrong_graph(), None);
        world.receive_forged(0, &format!("LINKS n04 {:x} {sequence:x} -", u64::MAX));
        world.pass(10 * SECONDS);
        assert_eq!(world.wrong_graph().is_some(), is_silenced);
        world.pass(40 * SECONDS);
        assert_eq!(world.wrong_graph().is_some(), is_silenced);
        world.pass(120 * SECONDS);
        assert_eq!(world.wrong_graph(), None);
        world.kill(4, false);
        world.pass(10 * SECONDS);
        world.start(4);
        world.pass(10 * SECONDS);
        assert_eq!(world.wrong_graph(), None);
    }
}
