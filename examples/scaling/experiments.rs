//! What is measured, each thing by one function.

use std::time::{Duration, Instant};

use proxy_herd::herd::routes::{NodeId, Routes, SETTLE};

use crate::graphs::Family;
use crate::world::{Count, MILLISECOND, Time, Traffic, Update, World};
use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::Edge;

/// The delay of every edge where nothing else is said.
pub const DELAY: Time = 5 * MILLISECOND;

const SECOND: Time = 1000 * MILLISECOND;

/// Origins that flooding is measured from.
const FLOODS: usize = 10;

/// Origins that the trees are measured from in a herd too large to do it from all.
const ORIGINS: usize = 100;

/// What an update costs.
pub struct Cost {
    pub family: Family,
    pub nodes: usize,
    pub edges: usize,
    /// Copies of an update that arrive while the routes are unsettled, at most.
    pub flooding: u64,
    /// Bytes sent for it, on average.
    pub flooding_bytes: f64,
    /// Along the trees, at most.
    pub trees: u64,
    pub trees_bytes: f64,
    /// From the origin to a node, on average.
    pub hops: f64,
    /// To the last node, from the worst origin.
    pub diameter: f64,
    /// Records over an edge in one direction, when every node has told one: most against average.
    /// `None` where not every node has.
    pub edge_peak: Option<f64>,
    /// Records that a node sends, likewise.
    pub node_peak: Option<f64>,
    /// Link states until the herd has settled after its start.
    pub start: Count,
    /// What it costs that one edge is lost.
    pub lost: Traffic,
    /// And that it comes back two seconds later.
    pub back: Traffic,
}

/// The seed of a graph: all that is measured on it sees the same one.
fn graph(family: Family, nodes: usize) -> (Vec<Edge>, Rng) {
    let mut rng = Rng::new(nodes as u64);
    (family.edges(nodes, &mut rng), rng)
}

/// A herd with equal delays that has been linked a moment ago. Neighbours have compared their
/// empty directories; a record among these comparisons would be one of the things they bring.
fn linked(nodes: usize, edges: &[Edge]) -> World {
    let mut world = World::new(nodes, edges, || DELAY);
    world.run_until(8 * DELAY);
    assert!(world.is_linked());
    world
}

/// Lets the link states come to rest and the trees into use.
fn settle(world: &mut World) {
    loop {
        let before = world.traffic.links.messages;
        world.run_until(world.now + SETTLE.as_nanos() as Time + SECOND / 2);
        if world.traffic.links.messages == before {
            return;
        }
    }
}

/// Lets a record come to the end of any herd of this size.
fn pass(world: &mut World, nodes: usize) {
    world.run_until(world.now + (nodes + 2) as Time * DELAY);
}

pub fn cost(family: Family, nodes: usize) -> Cost {
    let (edges, mut rng) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    let floods = FLOODS.min(nodes);
    for _ in 0..floods {
        world.tell(rng.index(nodes));
    }
    pass(&mut world, nodes);
    let flooding = world.traffic;
    settle(&mut world);
    let (start, before, told) = (world.traffic, world.records(), world.updates.len());
    let all = nodes <= 300;
    let origins: Vec<usize> =
        if all { (0..nodes).collect() } else { (0..ORIGINS).map(|_| rng.index(nodes)).collect() };
    for &node in &origins {
        world.tell(node);
    }
    pass(&mut world, nodes);
    let trees = (world.traffic - start).records;
    let (unsettled, settled) = world.updates.split_at(told);
    let most = |updates: &[Update]| updates.iter().map(|update| update.copies).max().unwrap_or(0);
    assert!(world.updates.iter().all(|update| update.news.len() == nodes), "a node was left out");
    assert_eq!(world.sum(|counters| counters.antientropy_repairs), 0);

    let delays: Vec<Time> =
        settled.iter().flat_map(|update| update.news.iter().map(|at| at - update.told)).collect();
    let sent: Vec<Vec<u64>> = world
        .records()
        .iter()
        .zip(&before)
        .map(|(after, before)| after.iter().zip(before).map(|(after, before)| after - before))
        .map(Iterator::collect)
        .collect();
    let directions = sent.concat();
    let by_node: Vec<u64> = sent.iter().map(|links| links.iter().sum()).collect();
    let (trees_most, flooding_most) = (most(settled), most(unsettled));
    let (lost, back) = flap(&mut world, rng.index(edges.len()));
    Cost {
        family,
        nodes,
        edges: edges.len(),
        flooding: flooding_most,
        flooding_bytes: flooding.records.bytes as f64 / floods as f64,
        trees: trees_most,
        trees_bytes: trees.bytes as f64 / origins.len() as f64,
        // The origin itself is no hop away and does not count.
        hops: delays.iter().sum::<Time>() as f64
            / DELAY as f64
            / (origins.len() * (nodes - 1)) as f64,
        diameter: delays.iter().max().map_or(0.0, |&most| most as f64 / DELAY as f64),
        edge_peak: all.then(|| peak(&directions)),
        node_peak: all.then(|| peak(&by_node)),
        start: start.links,
        lost,
        back,
    }
}

/// What all nodes send because an edge is lost, and because it comes back two seconds later.
fn flap(world: &mut World, edge: usize) -> (Traffic, Traffic) {
    let before = world.traffic;
    let back = world.now + 2 * SECOND;
    world.cut(edge, back);
    world.run_until(back);
    let lost = world.traffic;
    settle(world);
    assert!(world.is_linked() && world.is_equal());
    (lost - before, world.traffic - lost)
}

fn peak(counts: &[u64]) -> f64 {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().max().map_or(0.0, |&most| most as f64 / mean)
}

/// What the herd says when nothing happens.
pub struct Quiet {
    pub nodes: usize,
    pub links: usize,
    pub seconds: u64,
    pub traffic: Traffic,
}

pub fn quiet(family: Family, nodes: usize) -> Quiet {
    let (edges, mut rng) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    settle(&mut world);
    for _ in 0..1000 {
        world.tell(rng.index(nodes));
    }
    world.run_until(20 * SECOND);
    let before = world.traffic;
    let seconds = 60;
    world.run_until(world.now + seconds * SECOND);
    Quiet { nodes, links: edges.len(), seconds, traffic: world.traffic - before }
}

/// How an edge fails.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Its connection is reset; it is dialled again at once.
    Reset,
    /// Nothing passes for ten seconds, and nobody is told.
    Silent,
}

/// A herd under load that loses the busiest edge of node 0.
pub struct Failed {
    /// When each update was told, in seconds since the failure, and the copies of it that arrived.
    pub copies: Vec<(f64, u64)>,
    /// How long updates took to the last node: before the failure, and the longest of all.
    pub usual: Time,
    pub longest: Time,
    /// Updates that took longer than the usual.
    pub late: usize,
    /// From the failure to the first update that came along the trees again and all after it did.
    pub recovered: f64,
    pub sync_records: u64,
    pub repairs: u64,
}

pub fn failure(family: Family, nodes: usize, per_second: u64, failure: Failure) -> Failed {
    let (edges, mut rng) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    settle(&mut world);
    // Not all at once: the first checks of digests would meet them on their way.
    let mut load = |world: &mut World, seconds: u64| {
        for _ in 0..seconds * per_second {
            world.run_until(world.now + SECOND / per_second);
            world.tell(rng.index(nodes));
        }
    };
    load(&mut world, 3);
    // Not between two turns: something is on its way.
    world.run_until(world.now + DELAY / 2);
    let began = world.now;
    let edge = edges.iter().position(|&(a, _)| a == 0).unwrap_or(0);
    match failure {
        Failure::Reset => world.cut(edge, world.now),
        Failure::Silent => world.silence(edge, true),
    }
    load(&mut world, 10);
    world.silence(edge, false);
    load(&mut world, 5);
    settle(&mut world);
    pass(&mut world, nodes);
    world.run_until(world.now + 15 * SECOND);
    assert!(world.is_linked() && world.is_equal());

    let took = |update: &Update| {
        assert_eq!(update.news.len(), nodes, "a node was left out");
        update.news.iter().max().map_or(0, |last| last - update.told)
    };
    let before = world.updates.iter().filter(|update| update.told + took(update) < began);
    let usual = before.map(took).max().unwrap_or(0);
    let copies: Vec<(f64, u64)> = world
        .updates
        .iter()
        .map(|update| ((update.told as f64 - began as f64) / SECOND as f64, update.copies))
        .collect();
    let last_flood = copies.iter().rfind(|&&(_, copies)| copies != nodes as u64 - 1);
    Failed {
        usual,
        longest: world.updates.iter().map(took).max().unwrap_or(0),
        late: world.updates.iter().filter(|update| took(update) > usual).count(),
        recovered: last_flood.map_or(0.0, |&(at, _)| at),
        copies,
        sync_records: world.sum(|counters| counters.link_sync_records),
        repairs: world.sum(|counters| counters.antientropy_repairs),
    }
}

/// How long an update takes to the last node when delays differ, on average, in milliseconds.
pub struct Stretch {
    pub family: Family,
    pub nodes: usize,
    pub flooding: f64,
    pub trees: f64,
}

pub fn stretch(family: Family, nodes: usize, delays: (u64, u64)) -> Stretch {
    let (edges, mut rng) = graph(family, nodes);
    let mut drawn = rng.clone();
    let mut world = World::new(nodes, &edges, || drawn.range(delays.0, delays.1) * MILLISECOND);
    world.run_until(5 * delays.1 * MILLISECOND);
    assert!(world.is_linked());
    let origins: Vec<usize> = (0..50).map(|_| rng.index(nodes)).collect();
    let probe = |world: &mut World| {
        let told = world.updates.len();
        for &node in &origins {
            world.tell(node);
        }
        world.run_until(world.now + SECOND / 2);
        let last = |update: &Update| {
            assert_eq!(update.news.len(), nodes);
            update.news.iter().max().map_or(0, |last| last - update.told)
        };
        let took: Time = world.updates[told..].iter().map(last).sum();
        took as f64 / origins.len() as f64 / MILLISECOND as f64
    };
    let flooding = probe(&mut world);
    settle(&mut world);
    let trees = probe(&mut world);
    Stretch { family, nodes, flooding, trees }
}

/// What the routes alone cost a node, and what they say when all nodes have settled.
pub struct RoutesCost {
    pub family: Family,
    pub nodes: usize,
    /// What the event loop does when the routes have settled.
    pub settle: Duration,
    /// And when the first record of an origin comes, on average.
    pub tree: Duration,
    /// Resident memory of one node's link states and trees, in bytes.
    pub memory: f64,
}

pub fn routes_cost(family: Family, nodes: usize) -> RoutesCost {
    let states = states(&graph(family, nodes).0, nodes);
    let before = resident();
    let mut all = Vec::new();
    let (mut settle, mut tree) = (Duration::MAX, Duration::MAX);
    for me in 0..50 {
        let mut routes = heard(&states, me as NodeId);
        let began = Instant::now();
        routes.handle_timeout(SETTLE);
        settle = settle.min(began.elapsed());
        let began = processor_time();
        for origin in 0..nodes as NodeId {
            assert!(routes.tree(origin).is_some());
        }
        tree = tree.min(processor_time().saturating_sub(began) / nodes as u32);
        all.push(routes);
    }
    let memory = (resident() - before) / all.len() as f64;
    RoutesCost { family, nodes, settle, tree, memory }
}

/// Messages per update along the trees, from the routes of all nodes alone: for herds whose start
/// is too much to simulate.
pub fn tree_messages(family: Family, nodes: usize) -> usize {
    let states = states(&graph(family, nodes).0, nodes);
    let mut messages = 0;
    let mut reached = 0;
    for me in 0..nodes as NodeId {
        let mut routes = heard(&states, me);
        routes.handle_timeout(SETTLE);
        for origin in 0..nodes as NodeId {
            let tree = routes.tree(origin).expect("all nodes are reachable");
            messages += tree.children.len();
            reached += usize::from(tree.parent.is_some());
        }
    }
    assert_eq!(messages, reached, "each message has somebody who waits for it");
    assert_eq!(messages % nodes, 0, "not all origins cost the same");
    messages / nodes
}

fn states(edges: &[Edge], nodes: usize) -> Vec<Vec<NodeId>> {
    let mut up = vec![Vec::new(); nodes];
    for &(a, b) in edges {
        up[a].push(b as NodeId);
        up[b].push(a as NodeId);
    }
    up
}

/// The routes of a node that has heard of all links.
fn heard(states: &[Vec<NodeId>], me: NodeId) -> Routes {
    let mut routes = Routes::new(me, states.len(), Duration::ZERO);
    for (node, up) in (0..).zip(states) {
        if node == me {
            routes.set_mine(up.clone(), Duration::ZERO);
        } else {
            routes.hear(node, 1, up.clone(), Duration::ZERO);
        }
    }
    routes
}

/// What this thread has had of a processor so far: a busy machine does not add to it. Zero where
/// the system does not tell.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = told.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Resident memory of this process in bytes; 0 where the system does not tell.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes = line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
    kilobytes * 1024.0
}
