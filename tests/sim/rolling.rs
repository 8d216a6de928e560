//! A rolling change of the configuration: the nodes restart one by one with a configuration that has one
//! node or one edge more, or less. Meanwhile, and for good if the change is not completed, nodes with
//! different lists of nodes run side by side.

use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::{Edge, diameter};

use crate::schedule::{MILLISECOND, Schedule, Step};
use crate::world::World;

/// The version of the configuration that a node runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Old,
    New,
}

/// A change of the configuration.
#[derive(Clone, Debug)]
pub struct Rolling {
    change: Change,
    /// The nodes that have the new configuration in the end.
    rolled: Vec<usize>,
}

/// A node with all of its edges, or an edge, and the version that contains it.
#[derive(Clone, Copy, Debug)]
struct Change {
    what: Part,
    only_in: Version,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Node(usize),
    Edge(Edge),
}

impl Change {
    fn contains_node(self, version: Version, node: usize) -> bool {
        version == self.only_in || !matches!(self.what, Part::Node(part) if part == node)
    }

    fn contains_edge(self, version: Version, (a, b): Edge) -> bool {
        self.contains_node(version, a)
            && self.contains_node(version, b)
            && (version == self.only_in || !matches!(self.what, Part::Edge(part) if part == (a, b)))
    }
}

impl Rolling {
    fn version(&self, node: usize) -> Version {
        if self.rolled.contains(&node) { Version::New } else { Version::Old }
    }

    /// The node that does not run in the end, because it has been removed or not yet added.
    pub fn stopped(&self) -> Option<usize> {
        let Part::Node(node) = self.change.what else { return None };
        (self.version(node) != self.change.only_in).then_some(node)
    }

    /// Returns whether both ends of an edge know it in the end.
    pub fn is_known(&self, edge: Edge) -> bool {
        [edge.0, edge.1].iter().all(|&end| {
            self.change.contains_edge(self.version(end), edge) && self.stopped() != Some(end)
        })
    }
}

impl Schedule {
    /// Draws a rolling change of the configuration, independently of everything else.
    pub fn roll(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x0011_c0f1);
        if !self.cut_for_good.is_empty() || !self.dead_for_good.is_empty() || !rng.percent(40) {
            return;
        }
        let what = if rng.percent(60) {
            Part::Node(rng.index(self.nodes))
        } else {
            Part::Edge(rng.pick(&self.edges))
        };
        let only_in = rng.pick(&[Version::Old, Version::New]);
        let complete = rng.percent(60);
        let mut order: Vec<usize> = (0..self.nodes).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, rng.index(last + 1));
        }
        let rolled = if complete { self.nodes } else { rng.index(self.nodes) };
        let rolling =
            Rolling { change: Change { what, only_in }, rolled: order[..rolled].to_vec() };
        self.rolling = Some(rolling);
        let edges: Vec<Edge> = self.remaining_edges().collect();
        let Some(diameter) = diameter(&self.remaining(), &edges).filter(|&most| most > 0) else {
            self.rolling = None; // the herd would fall apart
            return;
        };
        self.diameter = diameter;
        let longest = self.quiet_at / (rolled as u64 + 1);
        let mut at = rng.below(longest);
        for &node in &order[..rolled] {
            self.steps.push((at, Step::Reconfigure { node }));
            let pause = rng.below(300) * MILLISECOND;
            self.steps.push(((at + pause).min(self.quiet_at), Step::Start { node }));
            at += rng.range(1, longest);
        }
    }

    /// The nodes of the configuration of a host, its own number among them, and its neighbors. The
    /// original servers are part of every configuration.
    pub fn configuration(&self, host: usize, version: Version) -> (Vec<usize>, usize, Vec<usize>) {
        let me = self.named(host);
        let change = self.rolling.as_ref().map(|rolling| rolling.change);
        let has_node =
            |&node: &usize| change.is_none_or(|change| change.contains_node(version, node));
        let has_edge =
            |&&edge: &&Edge| change.is_none_or(|change| change.contains_edge(version, edge));
        let nodes = (0..self.twin()).filter(has_node).collect();
        let edges = self.edges.iter().filter(has_edge);
        let ends =
            edges.filter_map(|&(a, b)| if a == me { Some(b) } else { (b == me).then_some(a) });
        let originals = self.original_hosts().zip(&self.originals);
        let originals = originals.filter(|(_, neighbors)| neighbors.contains(&me));
        let mut neighbors: Vec<usize> = ends.chain(originals.map(|(host, _)| host)).collect();
        neighbors.sort_unstable();
        (nodes, me, neighbors)
    }

    /// Returns whether a host does not run from the beginning.
    pub fn starts_later(&self, host: usize) -> bool {
        let is_added = self.rolling.as_ref().is_some_and(|rolling| {
            matches!(rolling.change, Change { what: Part::Node(node), only_in: Version::New } if node == host)
        });
        is_added || host == self.twin()
    }
}

impl World {
    /// Stops a node, which then starts with the new configuration. A node that is added can start from
    /// now on, one that is removed cannot.
    pub fn reconfigure(&mut self, node: usize) {
        let Some(rolling) = &self.schedule.rolling else { return };
        let is_part = rolling.change.contains_node(Version::New, node);
        self.trace.line(self.now, || format!("n{node:02} has a new configuration"));
        self.kill(node, false);
        self.hosts[node].gone = !is_part;
        self.hosts[node].version = Version::New;
    }
}
