//! The schedule of a simulated world, drawn from one seed before anything runs.

mod faults;
mod updates;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use proxy_herd::herd::Timing;
use proxy_herd::herd::directory::Rules;
use proxy_herd::protocol::time::{Nanos, SECOND};

use self::faults::{permanent_losses, remaining_diameter};
use self::updates::{clients, when};
use crate::clocks::{self, clock};
use crate::rolling::Rolling;
use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::{Edge, Shape};
use proxy_herd::{limits::Limits, testing};

/// Nanoseconds of virtual time since the start of the world.
pub type Time = u64;

pub const MILLISECOND: Time = 1_000_000;
pub const SECONDS: Time = 1000 * MILLISECOND;

/// The default of the time for which tombstones live.
pub const FORGET_KEEP: Nanos = 604_800 * SECOND;

/// Makes the generator of forgets independent of that of everything else.
const FORGETS: u64 = 0x00f0_46e7;

/// A world and the events in it.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub shape: Shape,
    pub nodes: usize,
    pub edges: Vec<Edge>,
    /// Largest number of hops between two nodes that remain after the faults.
    pub diameter: usize,
    /// Edges that are cut and nodes that die for good. The remaining nodes must agree without them.
    pub cut_for_good: Vec<Edge>,
    pub dead_for_good: Vec<usize>,
    pub rules: Rules,
    pub timing: Timing,
    pub secret: bool,
    pub max_line: usize,
    pub network: Network,
    pub clients: Vec<String>,
    /// The bits of leaf numbers that are in use: all, or so few that records crowd in few leaves.
    pub leaf_bits: u16,
    /// The neighbors of each original server. Original servers are further hosts after the nodes, and
    /// may be neighbors of each other.
    pub originals: Vec<Vec<usize>>,
    /// All original servers connect from one address, so that a node with several of them does not know
    /// which one has sent a record.
    pub one_address: bool,
    /// A change of the configuration, with which the nodes restart one by one.
    pub rolling: Option<Rolling>,
    /// The node whose name a second process uses for a while. That process is one more host, after the
    /// original servers.
    pub twin_of: Option<usize>,
    /// Initial error of each node's wall clock.
    pub clocks: Vec<Nanos>,
    /// Clocks may be wrong by days, so that nodes consider records of others too far ahead.
    pub wild_clocks: bool,
    /// Some records were reported by no client.
    pub forged: bool,
    /// No faults: properties that hold only without faults are checked.
    pub calm: bool,
    pub steps: Vec<(Time, Step)>,
    /// The end of the last fault.
    pub quiet_at: Time,
    /// The last step, if it is later: updates may follow the last fault.
    pub last_step_at: Time,
}

/// Properties of the network.
#[derive(Clone, Debug)]
pub struct Network {
    /// Range from which each edge draws its one-way delay.
    pub latency: (Time, Time),
    /// Largest additional delay of a packet. The packets of a connection are never reordered.
    pub jitter: Time,
    pub cut: Cut,
    /// Maximum number of bytes in transit in one direction of a connection.
    pub window: usize,
    /// Maximum number of bytes that a node has ready for a peer beyond the window.
    pub send_limit: usize,
}

/// The positions at which the bytes of a connection are split into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nowhere,
    Anywhere,
}

/// An event that the schedule causes.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client sends an IAMAT to a node or to an original server.
    Update { node: usize, client: usize, when: When },
    /// An administrator has a node erase a client.
    Forget { node: usize, client: usize },
    /// The original server with this index restarts and has lost everything.
    RestartOriginal { original: usize },
    /// The node dies. If `silent`, its machine fails, so that connections are not reset.
    Kill { node: usize, silent: bool, for_good: bool },
    /// The node starts empty.
    Start { node: usize },
    /// The node restarts with the changed configuration. A node that is added starts, one that is removed
    /// stops.
    Reconfigure { node: usize },
    /// A second process with the name of [`Schedule::twin_of`] starts. It is a host like a node, so
    /// [`Step::Kill`] ends it.
    StartTwin,
    /// The link of an edge breaks. The end `spared` does not notice. `orderly`: a relay between the
    /// two nodes closes both connections as if the other node had finished.
    Reset { edge: usize, spared: Option<bool>, orderly: bool },
    /// Everything sent on the edge's connection from now on is lost.
    Blackhole { edge: usize },
    /// Nothing passes from the first to the second node of each pair.
    Block { ways: Vec<(usize, usize)>, until: Time },
    /// The node is stopped.
    Freeze { node: usize, until: Time },
    /// The node's wall clock jumps.
    Clock { node: usize, offset: Nanos },
    /// A compromised node or original server sends its neighbor a record that claims to have been
    /// received by `server` at this time, which is also that of the client.
    Forge { node: usize, peer: usize, server: usize, client: usize, when: When },
}

/// The time in an IAMAT.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// The true time plus this.
    Off(Nanos),
    /// This time.
    At(Nanos),
    /// The time of the client's last IAMAT, with another location.
    SameTime,
    /// The client's last IAMAT again.
    Repeat,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, shape, nodes, edges, rules, timing, network, .. } = self;
        let Self { secret, max_line, clocks, calm, cut_for_good, dead_for_good, .. } = self;
        writeln!(f, "seed {seed}: {nodes} nodes, {shape:?}, edges {edges:?}, calm: {calm}")?;
        writeln!(f, "{rules:?}\n{timing:?}\n{network:?}")?;
        let wild = if self.wild_clocks { ", wild" } else { "" };
        writeln!(f, "secret: {secret}, max_line: {max_line}, clocks: {clocks:?}{wild}")?;
        writeln!(f, "for good: cut {cut_for_good:?}, dead {dead_for_good:?}")?;
        let (originals, one_address) = (&self.originals, self.one_address);
        writeln!(f, "neighbors of original servers: {originals:?}, one address: {one_address}")?;
        writeln!(f, "{:?}, twin of {:?}", self.rolling, self.twin_of)?;
        write!(f, "faults end at {} s", self.quiet_at as f64 / 1e9)?;
        for (at, step) in &self.steps {
            write!(f, "\n  {:.6} {step:?}", *at as f64 / 1e9)?;
        }
        Ok(())
    }
}

impl Schedule {
    /// The port for links of every node, in half of the schedules.
    pub const fn link_port(&self) -> u16 {
        self.seed.is_multiple_of(2) as u16
    }

    /// The schedule of `seed`.
    pub fn new(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let (shape, nodes) = size(rng);
        let edges = shape.edges(nodes, rng);
        let calm = rng.percent(30);
        let (cut_for_good, dead_for_good) = if !calm && rng.percent(25) {
            permanent_losses(nodes, &edges, rng)
        } else {
            Default::default()
        };
        let diameter = remaining_diameter(nodes, &edges, &cut_for_good, &dead_for_good)
            .expect("the remaining nodes are connected");
        // A few clients send more updates than the links can carry.
        let hot = nodes <= 10 && rng.percent(if calm { 20 } else { 10 });
        // Records are in transit at all times.
        let busy = !hot && nodes <= 10 && rng.percent(if calm { 25 } else { 5 });
        let network = network(calm, hot, diameter, rng);
        let crowded = rng.percent(3) && nodes < 8 && !hot;
        let clients = clients(crowded, hot, busy, rng);
        let rules = rules(calm, hot, clients.len(), rng);
        let wild_clocks = clocks::are_wild(seed, calm, &rules);
        let forged = clocks::is_forged(seed, calm);
        let checked = rules.client_ttl > 0 || wild_clocks || forged;
        let timing = timing(calm, &network, checked, rng);
        let clocks_differ = rng.percent(60);
        let longest = if rng.percent(30) { 12_000 } else { 3000 };
        let clocks = (0..nodes).map(|_| if clocks_differ { clock(wild_clocks, rng) } else { 0 });
        let clocks = clocks.collect();
        let mut schedule = Self {
            seed,
            shape,
            nodes,
            edges,
            diameter,
            cut_for_good,
            dead_for_good,
            rules,
            timing,
            secret: rng.percent(20),
            max_line: if rng.percent(10) { 128 } else { 4096 },
            network,
            clients,
            leaf_bits: leaf_bits(crowded, seed),
            originals: Vec::new(),
            one_address: false,
            rolling: None,
            twin_of: None,
            clocks,
            wild_clocks,
            forged,
            calm,
            steps: Vec::new(),
            quiet_at: rng.range(300, longest) * MILLISECOND,
            last_step_at: 0,
        };
        schedule.forgets();
        schedule.original_servers();
        schedule.updates(crowded, rng);
        if hot {
            schedule.burst(rng);
        }
        if busy {
            schedule.steady_updates(rng);
        }
        if !calm {
            schedule.faults(rng);
            schedule.permanent_faults(rng);
            if forged {
                schedule.forgeries();
            }
            schedule.roll();
            schedule.add_twin();
        }
        schedule.stays();
        schedule.steps.sort_by_key(|(at, _)| *at); // stable: drawn first, executed first
        schedule.last_step_at = schedule.steps.last().map_or(0, |(at, _)| *at);
        schedule
    }

    /// A herd without faults and steps, on a fast network. A test drives it by hand.
    pub fn by_hand(shape: Shape, nodes: usize, clients: usize) -> Self {
        let rng = &mut Rng::new(nodes as u64);
        let edges = shape.edges(nodes, rng);
        let limits = Limits::default();
        Self {
            seed: 0,
            shape,
            nodes,
            diameter: remaining_diameter(nodes, &edges, &[], &[]).expect("the herd is connected"),
            edges,
            cut_for_good: Vec::new(),
            dead_for_good: Vec::new(),
            rules: Rules {
                max_clock_offset: 5 * SECOND,
                max_clients: limits.max_clients as u32,
                client_ttl: 0,
                forget_keep: 604_800 * SECOND,
            },
            timing: testing::timing(),
            secret: false,
            max_line: limits.max_line,
            network: Network {
                latency: (MILLISECOND, 2 * MILLISECOND),
                jitter: 0,
                cut: Cut::Nowhere,
                window: 65_536,
                send_limit: 65_536,
            },
            clients: (0..clients).map(|client| format!("c{client}")).collect(),
            leaf_bits: u16::MAX,
            originals: Vec::new(),
            one_address: false,
            rolling: None,
            twin_of: None,
            clocks: vec![0; nodes],
            wild_clocks: false,
            forged: false,
            calm: false,
            steps: Vec::new(),
            quiet_at: Time::MAX,
            last_step_at: 0,
        }
    }

    /// The nodes that run after the faults.
    pub fn remaining(&self) -> Vec<usize> {
        let stopped = self.rolling.as_ref().and_then(Rolling::stopped);
        let gone = |node| self.dead_for_good.contains(&node) || stopped == Some(node);
        (0..self.nodes).filter(|&node| !gone(node)).collect()
    }

    /// The edges between them that are not cut, and that both ends know.
    pub fn remaining_edges(&self) -> impl Iterator<Item = Edge> {
        let dead = |node| self.dead_for_good.contains(&node);
        let is_known = |edge| self.rolling.as_ref().is_none_or(|rolling| rolling.is_known(edge));
        self.edges
            .iter()
            .copied()
            .filter(move |edge| !self.cut_for_good.contains(edge) && !dead(edge.0) && !dead(edge.1))
            .filter(move |&edge| is_known(edge))
    }

    /// The original servers, as numbers of their machines.
    pub fn original_hosts(&self) -> Range<usize> {
        self.nodes..self.nodes + self.originals.len()
    }

    /// The machine of the second process with the name of [`Schedule::twin_of`].
    pub const fn twin(&self) -> usize {
        self.nodes + self.originals.len()
    }

    /// The node whose name the process on a host has.
    pub fn named(&self, host: usize) -> usize {
        self.twin_of.filter(|_| host == self.twin()).unwrap_or(host)
    }

    /// The longest time that a record takes through the whole herd if no queue delays it.
    pub fn flood_time(&self) -> Time {
        self.diameter as Time * (self.network.latency.1 + self.network.jitter)
    }

    /// Returns whether there are more clients than a node may store.
    pub fn is_capped(&self) -> bool {
        (self.rules.max_clients as usize) < self.clients.len()
    }

    /// Draws clients that are erased, independently of everything else. In some schedules tombstones
    /// expire during the faults, so that a node may be away for longer.
    ///
    /// There are none if a node cannot store a tombstone of each client, at an eighth of its records:
    /// then some are removed early, and the client may return from another node.
    fn forgets(&mut self) {
        let rng = &mut Rng::new(self.seed ^ FORGETS);
        if (self.rules.max_clients as usize) < 8 * self.clients.len() || !rng.percent(40) {
            return;
        }
        if !self.calm && rng.percent(30) {
            self.rules.forget_keep = Nanos::from(rng.pick(&[1, 2, 10])) * SECOND;
            self.timing.antientropy_interval = Duration::from_secs(rng.pick(&[1, 2, 10]));
        }
        for _ in 0..rng.range(1, 12) {
            let late = if rng.percent(20) { SECONDS } else { 0 };
            let at = rng.below(self.quiet_at + late);
            let (node, client) = (rng.index(self.nodes), rng.index(self.clients.len()));
            self.steps.push((at, Step::Forget { node, client }));
            if rng.percent(30) {
                // An update that is older, or newer by a little.
                let (at, node) = (at + rng.below(100) * MILLISECOND, rng.index(self.nodes));
                let off = rng.pick(&[-10, 0, 0]) * SECOND;
                self.steps.push((at, Step::Update { node, client, when: When::Off(off) }));
            }
        }
    }

    /// Returns whether records or tombstones expire during the schedule.
    pub const fn expires(&self) -> bool {
        self.rules.client_ttl > 0 || self.rules.forget_keep < FORGET_KEEP
    }

    /// Draws original servers and what happens to them, independently of everything else. They receive
    /// every record only if none is evicted or expires, and in time only through wide links.
    fn original_servers(&mut self) {
        let rng = &mut Rng::new(!self.seed);
        let is_lossless = !self.expires() && !self.wild_clocks && !self.is_capped();
        if !is_lossless || self.network.window < 4096 || !rng.percent(30) {
            return;
        }
        let count = rng.pick(&[1, 1, 2, 2, 3]);
        self.one_address = rng.percent(75);
        let middle = rng.index(self.nodes);
        for original in 0..count {
            // Often several at one node.
            let first = if rng.percent(70) { middle } else { rng.index(self.nodes) };
            let mut neighbors = vec![first];
            if rng.percent(30) {
                neighbors.push(rng.index(self.nodes));
            }
            if original > 0 && rng.percent(20) {
                neighbors.push(self.nodes + rng.index(original));
            }
            neighbors.sort_unstable();
            neighbors.dedup();
            self.originals.push(neighbors);
        }
        for original in 0..count {
            for neighbor in self.originals[original].clone() {
                if neighbor >= self.nodes {
                    self.originals[neighbor - self.nodes].push(self.nodes + original);
                }
            }
        }
        for _ in 0..rng.range(1, 20) {
            let (at, node) = (rng.below(self.quiet_at), self.nodes + rng.index(count));
            let (client, when) = (rng.index(self.clients.len()), when(false, rng));
            self.steps.push((at, Step::Update { node, client, when }));
        }
        if !self.calm && rng.percent(30) {
            let (at, original) = (rng.below(self.quiet_at), rng.index(count));
            self.steps.push((at, Step::RestartOriginal { original }));
        }
    }

    /// Number of original servers among the neighbors of a node.
    pub fn originals_at(&self, node: usize) -> usize {
        self.originals.iter().filter(|neighbors| neighbors.contains(&node)).count()
    }
}

fn size(rng: &mut Rng) -> (Shape, usize) {
    if rng.percent(15) {
        return (Shape::Five, 5);
    }
    let nodes = match rng.below(1000) {
        0..150 => 2,
        150..500 => 3,
        500..700 => 4,
        700..850 => 5,
        850..970 => rng.range(6, 10),
        970..995 => rng.range(11, 20),
        _ => rng.range(21, 50),
    };
    (rng.pick(&Shape::ANY_SIZE), nodes as usize)
}

fn timing(calm: bool, network: &Network, checked: bool, rng: &mut Rng) -> Timing {
    // A healthy peer may be silent for a keepalive interval, a round trip and a delay.
    let slow = network.latency.1 + network.jitter > 100 * MILLISECOND;
    let keepalive = if slow { 1000 } else { rng.pick(&[200, 500, 1000]) };
    Timing {
        keepalive: Duration::from_millis(keepalive),
        timeout: Duration::from_millis(keepalive * rng.range(4, 6)),
        redial_max: Duration::from_millis(rng.pick(&[100, 500, 2000])),
        antientropy_interval: Duration::from_secs(if calm {
            rng.pick(&[1, 1, 2, 10]) // frequent checks must find nothing either
        } else if checked {
            // Records are recovered that no node has lost: their fate depends on a clock or a liar.
            rng.pick(&[1, 2, 10])
        } else {
            // Convergence must not depend on regular checks, so there are often none.
            rng.pick(&[1, 2, 10, 3600, 3600, 3600])
        }),
    }
}

fn network(calm: bool, hot: bool, diameter: usize, rng: &mut Rng) -> Network {
    let slowest = rng.pick(&[1, 1, 5, 5, 5, 30, 30, 60, 60, 250]) * MILLISECOND;
    let mut latency = (rng.range(slowest / 50, slowest), slowest);
    let mut jitter = if rng.percent(60) { rng.below(slowest * 3 / 5) } else { 0 };
    if calm {
        // A record that takes longer than the grace period of a check counts as lost, which would be a
        // fault.
        let most = 300 * MILLISECOND / diameter as Time;
        latency = (latency.0.min(most / 2), latency.1.min(most / 2));
        jitter = jitter.min(most / 2);
    }
    if calm && hot {
        // A record still reaches every node within the grace period, in spite of the queues.
        latency.1 = latency.1.min(12 * MILLISECOND / diameter as Time);
        latency.0 = latency.1 / 2;
        jitter = jitter.min(latency.1 / 2);
    }
    let narrow = hot || (!calm && rng.percent(25));
    Network {
        latency,
        jitter,
        cut: if rng.percent(60) { Cut::Anywhere } else { Cut::Nowhere },
        window: if narrow {
            // On a slower link, a handshake of a few hundred bytes would take seconds.
            let least = 5 * (latency.1 + jitter) / MILLISECOND;
            rng.range(60, if hot { 250 } else { 600 }).max(least) as usize
        } else {
            65_536
        },
        send_limit: if hot {
            rng.range(80, 160) as usize
        } else if rng.percent(30) {
            rng.range(256, 2048) as usize
        } else {
            65_536
        },
    }
}

fn rules(calm: bool, hot: bool, clients: usize, rng: &mut Rng) -> Rules {
    // The latency of records is checked only if nothing but the links determines it.
    let capped = !hot && rng.percent(25);
    let expiring = !hot && rng.percent(25) && !(calm && capped);
    Rules {
        max_clock_offset: Nanos::from(rng.pick(&[1, 5, 60])) * SECOND,
        max_clients: if capped { rng.range(1, clients.min(8) as u64) as u32 } else { 1_000_000 },
        client_ttl: if expiring { Nanos::from(rng.pick(&[1, 2, 10, 43_200])) * SECOND } else { 0 },
        forget_keep: FORGET_KEEP,
    }
}

/// Draws the leaves that are in use, independently of everything else.
fn leaf_bits(crowded: bool, seed: u64) -> u16 {
    let rng = &mut Rng::new(seed ^ 0x1eaf);
    if crowded || rng.percent(25) { rng.pick(&[0, 0, 1, 0x8001]) } else { u16::MAX }
}
