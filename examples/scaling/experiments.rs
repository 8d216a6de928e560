//! The measurements, one function each.

use std::time::{Duration, Instant};

use proxy_herd::herd::message::{LinkState, Version};
use proxy_herd::herd::routes::{Routes, SETTLE};
use proxy_herd::herd::vertices::Vertex;
use proxy_herd::ids::{BootId, NodeId};
use proxy_herd::time;

use crate::graphs::Family;
use crate::world::{Count, MILLISECOND, Time, Traffic, Update, World, name};
use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::Edge;

/// Default delay of an edge.
pub const DELAY: Time = 5 * MILLISECOND;

const SECOND: Time = 1000 * MILLISECOND;

/// Origins from which flooding is measured.
const FLOODS: usize = 10;

/// Origins from which trees are measured in a herd too large to measure all of them.
const ORIGINS: usize = 100;

/// Cost of an update.
pub struct Cost {
    pub family: Family,
    pub nodes: usize,
    pub edges: usize,
    /// Maximum number of copies of an update while the routes are unsettled.
    pub flooding: u64,
    /// Mean number of bytes sent per update while the routes are unsettled.
    pub flooding_bytes: f64,
    /// Maximum number of copies of an update along the trees.
    pub trees: u64,
    /// Mean number of bytes sent per update along the trees.
    pub trees_bytes: f64,
    /// Mean number of hops from an origin to a node.
    pub hops: f64,
    /// Hops to the last node from the worst origin.
    pub diameter: f64,
    /// Records over the busiest edge (in one direction) relative to the mean, with one update from
    /// every node. `None` if only some nodes are origins.
    pub edge_peak: Option<f64>,
    /// Records sent by the busiest node relative to the mean, too.
    pub node_peak: Option<f64>,
    /// Link states sent until the herd has settled after start-up.
    pub start: Count,
    /// Traffic caused by the loss of an edge.
    pub lost: Traffic,
    /// Traffic caused by its return two seconds later.
    pub back: Traffic,
}

/// The graph of this family and size, the same in all measurements, and the generator for further
/// random choices.
fn graph(family: Family, nodes: usize) -> (Vec<Edge>, Rng) {
    let mut rng = Rng::new(nodes as u64);
    (family.edges(nodes, &mut rng), rng)
}

/// Starts a herd with equal delays and runs it until all links are up and neighbors have compared
/// their empty directories. An earlier record would be counted as part of those comparisons.
fn linked(nodes: usize, edges: &[Edge]) -> World {
    let mut world = World::new(nodes, edges, || DELAY);
    world.run_until(8 * DELAY);
    assert!(world.is_linked());
    world
}

/// Runs until no more link states are sent and the trees are in use.
fn settle(world: &mut World) {
    loop {
        let before = world.traffic.links.messages;
        world.run_until(world.now + SETTLE.as_nanos() as Time + SECOND / 2);
        if world.traffic.links.messages == before {
            return;
        }
    }
}

/// Runs long enough for a record to cross any herd of this size.
fn drain(world: &mut World, nodes: usize) {
    world.run_until(world.now + (nodes + 2) as Time * DELAY);
}

/// Measures updates by flooding and along trees, and then the loss and return of an edge.
pub fn cost(family: Family, nodes: usize) -> Cost {
    let (edges, mut rng) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    let floods = FLOODS.min(nodes);
    for _ in 0..floods {
        world.update(rng.index(nodes));
    }
    drain(&mut world, nodes);
    let flooding = world.traffic;
    settle(&mut world);
    let (start, before, already_sent) = (world.traffic, world.records(), world.updates.len());
    let all = nodes <= 300;
    let origins: Vec<usize> =
        if all { (0..nodes).collect() } else { (0..ORIGINS).map(|_| rng.index(nodes)).collect() };
    for &node in &origins {
        world.update(node);
    }
    drain(&mut world, nodes);
    let trees = (world.traffic - start).records;
    let (unsettled, settled) = world.updates.split_at(already_sent);
    assert!(
        world.updates.iter().all(|update| update.arrivals.len() == nodes),
        "every node receives every update"
    );
    assert_eq!(world.sum(|counters| counters.antientropy_repairs), 0);

    let delays: Vec<Time> = settled
        .iter()
        .flat_map(|update| update.arrivals.iter().map(|at| at - update.sent_at))
        .collect();
    let sent = difference(&world.records(), &before);
    let directions = sent.concat();
    let by_node: Vec<u64> = sent.iter().map(|links| links.iter().sum()).collect();
    let (flooding_copies, trees_copies) = (most_copies(unsettled), most_copies(settled));
    let (lost, back) = flap(&mut world, rng.index(edges.len()));
    Cost {
        family,
        nodes,
        edges: edges.len(),
        flooding: flooding_copies,
        flooding_bytes: flooding.records.bytes as f64 / floods as f64,
        trees: trees_copies,
        trees_bytes: trees.bytes as f64 / origins.len() as f64,
        // The origin itself is not counted.
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

fn most_copies(updates: &[Update]) -> u64 {
    updates.iter().map(|update| update.copies).max().unwrap_or(0)
}

/// Records sent over each link of each node between two readings.
fn difference(after: &[Vec<u64>], before: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let links = |(after, before): (&Vec<u64>, &Vec<u64>)| {
        after.iter().zip(before).map(|(after, before)| after - before).collect()
    };
    after.iter().zip(before).map(links).collect()
}

/// Traffic of all nodes caused by the loss of an edge and by its return two seconds later.
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

/// Ratio of the maximum to the mean.
fn peak(counts: &[u64]) -> f64 {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    counts.iter().max().map_or(0.0, |&most| most as f64 / mean)
}

/// Traffic of an idle herd.
pub struct Quiet {
    pub nodes: usize,
    pub links: usize,
    pub seconds: u64,
    pub traffic: Traffic,
}

/// Measures an idle herd for a minute.
pub fn quiet(family: Family, nodes: usize) -> Quiet {
    let (edges, mut rng) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    settle(&mut world);
    for _ in 0..1000 {
        world.update(rng.index(nodes));
    }
    world.run_until(20 * SECOND);
    let before = world.traffic;
    let seconds = 60;
    world.run_until(world.now + seconds * SECOND);
    Quiet { nodes, links: edges.len(), seconds, traffic: world.traffic - before }
}

/// Traffic of all nodes caused by the restart of one.
pub struct Restart {
    pub family: Family,
    pub nodes: usize,
    /// Size of the records that every node holds.
    pub data: u64,
    /// The total, without keepalives.
    pub traffic: Traffic,
    /// Time from the start of the node until it holds all records.
    pub complete: Time,
}

/// Measures a node that returns empty after a second, in a herd that holds this many clients.
pub fn restart(family: Family, nodes: usize, clients: usize) -> Restart {
    let (edges, _) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    settle(&mut world);
    let data = world.fill(clients);
    let before = world.traffic;
    let back = world.now + SECOND;
    world.restart(0, back);
    world.run_until(back + MILLISECOND);
    while !world.is_equal() {
        assert!(world.now < back + 60 * SECOND, "the node does not recover");
        world.run_until(world.now + MILLISECOND);
    }
    let complete = world.now - back;
    settle(&mut world);
    world.run_until(world.now + 2 * SECOND);
    assert!(world.is_linked() && world.is_equal());
    Restart { family, nodes, data, traffic: world.traffic - before, complete }
}

/// Kind of edge failure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The connection is reset and redialed at once.
    Reset,
    /// All packets are dropped for ten seconds, without an error at either end.
    Silent,
}

/// Effects of the failure of an edge of node 0 on a herd under load.
pub struct FailureReport {
    /// For each update: when it was sent, in seconds since the failure, and the copies that arrived.
    pub copies: Vec<(f64, u64)>,
    /// Longest time to the last node before the failure.
    pub usual: Time,
    /// Longest time to the last node overall.
    pub longest: Time,
    /// Number of updates that took longer than `usual`.
    pub late: usize,
    /// Seconds from the failure to the last update that was flooded.
    pub recovered: f64,
    /// Records recovered by comparisons after a link event.
    pub sync_records: u64,
    /// Records recovered by regular checks.
    pub repairs: u64,
}

/// Measures the failure of an edge under a load of `per_second` updates per second.
pub fn failure(family: Family, nodes: usize, per_second: u64, failure: Failure) -> FailureReport {
    let (edges, mut rng) = graph(family, nodes);
    let mut world = linked(nodes, &edges);
    settle(&mut world);
    // Spread out in time: the first digest checks would otherwise meet records in flight.
    let mut load = |world: &mut World, seconds: u64| {
        for _ in 0..seconds * per_second {
            world.run_until(world.now + SECOND / per_second);
            world.update(rng.index(nodes));
        }
    };
    load(&mut world, 3);
    // The failure hits while records are in flight.
    world.run_until(world.now + DELAY / 2);
    let start = world.now;
    let edge = edges.iter().position(|&(a, _)| a == 0).unwrap_or(0);
    match failure {
        Failure::Reset => world.cut(edge, world.now),
        Failure::Silent => world.silence(edge, true),
    }
    load(&mut world, 10);
    world.silence(edge, false);
    load(&mut world, 5);
    settle(&mut world);
    drain(&mut world, nodes);
    world.run_until(world.now + 15 * SECOND);
    assert!(world.is_linked() && world.is_equal());

    let time_to_last = |update: &Update| {
        assert_eq!(update.arrivals.len(), nodes, "every node receives every update");
        update.arrivals.iter().max().map_or(0, |last| last - update.sent_at)
    };
    let before =
        world.updates.iter().filter(|update| update.sent_at + time_to_last(update) < start);
    let usual = before.map(time_to_last).max().unwrap_or(0);
    let copies: Vec<(f64, u64)> = world
        .updates
        .iter()
        .map(|update| ((update.sent_at as f64 - start as f64) / SECOND as f64, update.copies))
        .collect();
    let last_flood = copies.iter().rfind(|&&(_, copies)| copies != nodes as u64 - 1);
    FailureReport {
        usual,
        longest: world.updates.iter().map(time_to_last).max().unwrap_or(0),
        late: world.updates.iter().filter(|update| time_to_last(update) > usual).count(),
        recovered: last_flood.map_or(0.0, |&(at, _)| at),
        copies,
        sync_records: world.sum(|counters| counters.link_sync_records),
        repairs: world.sum(|counters| counters.antientropy_repairs),
    }
}

/// Mean time of an update to the last node when edge delays differ, in milliseconds.
pub struct Latency {
    pub family: Family,
    pub nodes: usize,
    pub flooding: f64,
    pub trees: f64,
}

/// Measures updates with edge delays drawn from `delays`, in milliseconds.
pub fn latency(family: Family, nodes: usize, delays: (u64, u64)) -> Latency {
    let (edges, mut rng) = graph(family, nodes);
    let mut drawn = rng.clone();
    let mut world = World::new(nodes, &edges, || drawn.range(delays.0, delays.1) * MILLISECOND);
    world.run_until(5 * delays.1 * MILLISECOND);
    assert!(world.is_linked());
    let origins: Vec<usize> = (0..50).map(|_| rng.index(nodes)).collect();
    let probe = |world: &mut World| {
        let already_sent = world.updates.len();
        for &node in &origins {
            world.update(node);
        }
        world.run_until(world.now + SECOND / 2);
        let last = |update: &Update| {
            assert_eq!(update.arrivals.len(), nodes);
            update.arrivals.iter().max().map_or(0, |last| last - update.sent_at)
        };
        let total: Time = world.updates[already_sent..].iter().map(last).sum();
        total as f64 / origins.len() as f64 / MILLISECOND as f64
    };
    let flooding = probe(&mut world);
    settle(&mut world);
    let trees = probe(&mut world);
    Latency { family, nodes, flooding, trees }
}

/// Cost of the routes for one node.
pub struct RoutesCost {
    pub family: Family,
    pub nodes: usize,
    /// Time the event loop spends once when the routes settle.
    pub settle: Duration,
    /// Mean time to compute the tree of an origin, when its first record arrives.
    pub tree: Duration,
    /// Resident memory of the link states and trees of one node, in bytes.
    pub memory: f64,
}

/// Measures the routes of 50 nodes: minimum times and mean memory.
pub fn routes_cost(family: Family, nodes: usize) -> RoutesCost {
    let states = states(&graph(family, nodes).0, nodes);
    let before = resident();
    let mut all = Vec::new();
    let (mut settle, mut tree) = (Duration::MAX, Duration::MAX);
    for me in 0..50 {
        let mut routes = routes_of(&states, NodeId(me));
        let start = Instant::now();
        routes.handle_timeout(time::Instant::at(SETTLE));
        settle = settle.min(start.elapsed());
        let start = cpu_time();
        for origin in (0..nodes as u16).map(Vertex) {
            assert!(routes.tree(origin).is_some());
        }
        tree = tree.min(cpu_time().saturating_sub(start) / nodes as u32);
        all.push(routes);
    }
    let memory = (resident() - before) / all.len() as f64;
    RoutesCost { family, nodes, settle, tree, memory }
}

/// Messages per update along the trees, computed from the routes of all nodes without a simulation:
/// for herds that are too large to simulate.
pub fn tree_messages(family: Family, nodes: usize) -> usize {
    let states = states(&graph(family, nodes).0, nodes);
    let mut messages = 0;
    let mut reached = 0;
    for me in (0..nodes as u16).map(NodeId) {
        let mut routes = routes_of(&states, me);
        routes.handle_timeout(time::Instant::at(SETTLE));
        for origin in (0..nodes as u16).map(Vertex) {
            let tree = routes.tree(origin).expect("all nodes are reachable");
            messages += tree.children.len();
            reached += usize::from(tree.parent.is_some());
        }
    }
    assert_eq!(messages, reached, "each message has a receiver that expects it");
    assert_eq!(messages % nodes, 0, "all origins cost the same");
    messages / nodes
}

/// The neighbors of each node.
fn states(edges: &[Edge], nodes: usize) -> Vec<Vec<NodeId>> {
    let mut up = vec![Vec::new(); nodes];
    for &(a, b) in edges {
        up[a].push(NodeId(b as u16));
        up[b].push(NodeId(a as u16));
    }
    up
}

/// The routes of a node that knows all links.
fn routes_of(states: &[Vec<NodeId>], me: NodeId) -> Routes {
    let names: Vec<_> = (0..states.len()).map(|node| name(node).into_bytes().into()).collect();
    let start = time::Instant::START;
    let mut routes = Routes::new(me, BootId(1), b"-", &names, start);
    for (node, up) in (0..).map(NodeId).zip(states) {
        if node == me {
            routes.set_own_links(up, None, start);
            continue;
        }
        let neighbors: Vec<&[u8]> = up.iter().map(|peer| &*names[peer.index()]).collect();
        let version = Version { sequence: 2, boot: BootId(1) };
        let state = LinkState {
            origin: &names[node.index()],
            version,
            next: b"-",
            up: &neighbors.join(&b' '),
        };
        routes.receive(&state, node, start);
    }
    routes
}

/// CPU time of this thread, which excludes other load on the machine. Zero if /proc is unavailable.
fn cpu_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = schedstat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// Resident memory of this process in bytes. Zero if /proc is unavailable.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes = line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0);
    kilobytes * 1024.0
}
