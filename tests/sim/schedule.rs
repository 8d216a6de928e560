//! What happens in a simulated world: all of it drawn from one seed before anything runs.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use proxy_herd::herd::Timing;
use proxy_herd::herd::digest::Leaf;
use proxy_herd::herd::directory::Rules;
use proxy_herd::protocol::time::{Nanos, SECOND};

use crate::rng::Rng;
use crate::topology::{Edge, Shape, diameter};
use crate::world::client_hash;

/// Nanoseconds of virtual time since the world began.
pub type Time = u64;

pub const MILLISECOND: Time = 1_000_000;
pub const SECONDS: Time = 1000 * MILLISECOND;

/// A world and what will be done to it.
#[derive(Clone, Debug)]
pub struct Schedule {
    pub seed: u64,
    pub shape: Shape,
    pub nodes: usize,
    pub edges: Vec<Edge>,
    pub diameter: usize,
    pub rules: Rules,
    pub timing: Timing,
    pub secret: bool,
    pub max_line: usize,
    pub network: Network,
    pub clients: Vec<String>,
    /// How far each node's wall clock is off at first.
    pub clocks: Vec<Nanos>,
    /// Whether anything breaks: what must hold without faults is checked when nothing does.
    pub calm: bool,
    pub steps: Vec<(Time, Step)>,
    /// When the last fault is over and everything is healed.
    pub quiet_at: Time,
}

/// What the network is like.
#[derive(Clone, Debug)]
pub struct Network {
    /// One-way delay of an edge: each draws its own from this range.
    pub latency: (Time, Time),
    /// Added to it, from 0 to this, anew for every packet; a connection still keeps its order.
    pub jitter: Time,
    pub cut: Cut,
    /// Most bytes on their way in one direction of a connection.
    pub window: usize,
    /// Most bytes that a node prepares for a peer beyond the window.
    pub send_limit: usize,
}

/// Where the bytes of a connection are cut into packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Nowhere,
    Anywhere,
}

/// Something that is done to the world.
#[derive(Clone, Debug)]
pub enum Step {
    /// A client tells a node where it is.
    Update { node: usize, client: usize, when: When },
    /// The node dies. If `silent`, its machine does: nobody is told.
    Kill { node: usize, silent: bool },
    /// It comes back empty.
    Start { node: usize },
    /// The link of an edge breaks. An end that is spared does not notice.
    Reset { edge: usize, spared: Option<bool> },
    /// From now on all that is sent on the edge's connection vanishes.
    Blackhole { edge: usize },
    /// Nothing passes from the first to the second of these nodes for a while.
    Block { ways: Vec<(usize, usize)>, until: Time },
    /// The node does nothing for a while.
    Freeze { node: usize, until: Time },
    /// The node's wall clock is set.
    Clock { node: usize, offset: Nanos },
}

/// What time a client claims.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// The true time and this.
    Off(Nanos),
    /// This time.
    At(Nanos),
    /// The time it said last, from another place.
    Again,
    /// Exactly what it said last.
    Repeat,
}

/// Which faults a schedule has. Each schedule has a few kinds only (swarm testing, Groce et al.
/// 2012): what one kind hides, another seed shows.
const FAULTS: [Fault; 7] = [
    Fault::Kill,
    Fault::Reset,
    Fault::Blackhole,
    Fault::Partition,
    Fault::Stall,
    Fault::Freeze,
    Fault::Clock,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Reset,
    Blackhole,
    Partition,
    Stall,
    Freeze,
    Clock,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, shape, nodes, edges, rules, timing, network, .. } = self;
        let Self { secret, max_line, clocks, calm, .. } = self;
        writeln!(f, "seed {seed}: {nodes} nodes, {shape:?}, edges {edges:?}, calm: {calm}")?;
        writeln!(f, "{rules:?}\n{timing:?}\n{network:?}")?;
        writeln!(f, "secret: {secret}, max_line: {max_line}, clocks: {clocks:?}")?;
        write!(f, "quiet from {} s", self.quiet_at as f64 / 1e9)?;
        for (at, step) in &self.steps {
            write!(f, "\n  {:.6} {step:?}", *at as f64 / 1e9)?;
        }
        Ok(())
    }
}

impl Schedule {
    /// The schedule of `seed`.
    pub fn new(seed: u64) -> Self {
        let rng = &mut Rng::new(seed);
        let (shape, nodes) = size(rng);
        let edges = shape.edges(nodes, rng);
        let diameter = diameter(nodes, &edges);
        let calm = rng.percent(30);
        let network = network(calm, diameter, rng);
        let timing = timing(&network, rng);
        let crowded = rng.percent(3) && nodes < 8;
        let clients = clients(crowded, rng);
        let rules = rules(calm, clients.len(), rng);
        // Nodes whose clocks differ differ about what has expired, and so about what a cap leaves.
        let expiring = rules.client_ttl > 0;
        let capped = (rules.max_clients as usize) < clients.len();
        let skewed = rng.percent(60) && !(expiring && (calm || capped));
        let longest = if rng.percent(30) { 12_000 } else { 3000 };
        let clocks = (0..nodes).map(|_| if skewed { clock(rng) } else { 0 }).collect();
        let mut schedule = Self {
            seed,
            shape,
            nodes,
            edges,
            diameter,
            rules,
            timing,
            secret: rng.percent(20),
            max_line: if rng.percent(10) { 128 } else { 4096 },
            network,
            clients,
            clocks,
            calm,
            steps: Vec::new(),
            quiet_at: rng.range(300, longest) * MILLISECOND,
        };
        schedule.updates(crowded, rng);
        if !calm {
            schedule.faults(rng);
        }
        schedule.steps.sort_by_key(|(at, _)| *at); // stable: what was drawn first comes first
        schedule
    }

    /// The longest a record needs from one end of the herd to the other when nothing is in its way.
    pub fn flood_time(&self) -> Time {
        self.diameter as Time * (self.network.latency.1 + self.network.jitter)
    }

    /// Whether there are more clients than a node may hold.
    pub fn is_capped(&self) -> bool {
        (self.rules.max_clients as usize) < self.clients.len()
    }

    fn updates(&mut self, crowded: bool, rng: &mut Rng) {
        if crowded {
            // Both sides of every later comparison hold much in one leaf.
            let node = rng.index(self.nodes);
            for client in 0..self.clients.len() {
                self.steps.push((0, Step::Update { node, client, when: When::Off(0) }));
            }
        }
        let poisoned = rng.percent(25);
        let count = if rng.percent(10) { rng.range(40, 200) } else { rng.range(1, 30) };
        for _ in 0..count {
            let at = rng.below(self.quiet_at);
            let (node, client) = (rng.index(self.nodes), rng.index(self.clients.len()));
            let when = when(poisoned, rng);
            self.steps.push((at, Step::Update { node, client, when }));
            if rng.percent(15) {
                // The same words to another node, at the same moment or a little later.
                let (node, at) = (rng.index(self.nodes), at + rng.below(50) * MILLISECOND);
                let when = if rng.percent(50) { When::Repeat } else { When::Again };
                self.steps.push((at.min(self.quiet_at - 1), Step::Update { node, client, when }));
            }
        }
    }

    fn faults(&mut self, rng: &mut Rng) {
        let one_clock = self.is_capped() && self.rules.client_ttl > 0;
        let kinds: Vec<Fault> = FAULTS
            .into_iter()
            .filter(|&kind| rng.percent(35) && !(one_clock && kind == Fault::Clock))
            .collect();
        if kinds.is_empty() {
            return;
        }
        for _ in 0..rng.range(1, 10) {
            let at = rng.below(self.quiet_at);
            let fault = rng.pick(&kinds);
            self.fault(fault, at, rng);
        }
    }

    fn fault(&mut self, fault: Fault, at: Time, rng: &mut Rng) {
        let longest = rng.pick(&[50, 1000, 8000]) * MILLISECOND;
        let until = (at + rng.range(1, longest)).min(self.quiet_at);
        let (node, edge) = (rng.index(self.nodes), rng.index(self.edges.len()));
        let step = match fault {
            Fault::Kill => {
                self.steps.push((until, Step::Start { node }));
                Step::Kill { node, silent: rng.percent(30) }
            }
            Fault::Reset => {
                let spared = rng.percent(30).then(|| rng.percent(50));
                Step::Reset { edge, spared }
            }
            Fault::Blackhole => Step::Blackhole { edge },
            Fault::Stall => {
                let (a, b) = self.edges[edge];
                let ways = vec![if rng.percent(50) { (a, b) } else { (b, a) }];
                Step::Block { ways, until }
            }
            Fault::Partition => {
                let side: Vec<bool> = (0..self.nodes).map(|_| rng.percent(50)).collect();
                let one_way = rng.percent(40);
                let ways = self
                    .edges
                    .iter()
                    .flat_map(|&(a, b)| [(a, b), (b, a)])
                    .filter(|&(from, to)| side[from] != side[to] && !(one_way && side[from]))
                    .collect();
                Step::Block { ways, until }
            }
            Fault::Freeze => Step::Freeze { node, until },
            Fault::Clock => Step::Clock { node, offset: clock(rng) },
        };
        self.steps.push((at, step));
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

fn timing(network: &Network, rng: &mut Rng) -> Timing {
    // Silence may last for a keepalive, a way there and back, and a delay on top.
    let slow = network.latency.1 + network.jitter > 100 * MILLISECOND;
    let keepalive = if slow { 1000 } else { rng.pick(&[200, 500, 1000]) };
    Timing {
        keepalive: Duration::from_millis(keepalive),
        timeout: Duration::from_millis(keepalive * rng.range(4, 6)),
        redial_max: Duration::from_millis(rng.pick(&[100, 500, 2000])),
        antientropy_interval: Duration::from_secs(rng.pick(&[1, 2, 10])),
    }
}

fn network(calm: bool, diameter: usize, rng: &mut Rng) -> Network {
    let slowest = rng.pick(&[1, 1, 5, 5, 5, 30, 30, 60, 60, 250]) * MILLISECOND;
    let mut latency = (rng.range(slowest / 50, slowest), slowest);
    let mut jitter = if rng.percent(60) { rng.below(slowest * 3 / 5) } else { 0 };
    if calm {
        // A check takes for lost what needs longer than its grace of a second: that counts as a
        // fault.
        let most = 300 * MILLISECOND / diameter as Time;
        latency = (latency.0.min(most / 2), latency.1.min(most / 2));
        jitter = jitter.min(most / 2);
    }
    let narrow = !calm && rng.percent(25);
    Network {
        latency,
        jitter,
        cut: if rng.percent(60) { Cut::Anywhere } else { Cut::Nowhere },
        window: if narrow {
            // So slow that a handshake of a few hundred bytes takes seconds is no link at all.
            let least = 5 * (latency.1 + jitter) / MILLISECOND;
            rng.range(60, 600).max(least) as usize
        } else {
            65_536
        },
        send_limit: if rng.percent(30) { rng.range(256, 2048) as usize } else { 65_536 },
    }
}

fn rules(calm: bool, clients: usize, rng: &mut Rng) -> Rules {
    let capped = rng.percent(25);
    let expiring = rng.percent(25) && !(calm && capped);
    Rules {
        max_clock_offset: Nanos::from(rng.pick(&[1, 5, 60])) * SECOND,
        max_clients: if capped { rng.range(1, clients.min(8) as u64) as u32 } else { 1_000_000 },
        client_ttl: if expiring { Nanos::from(rng.pick(&[1, 2, 10, 43_200])) * SECOND } else { 0 },
    }
}

/// How far a clock is off: a little, more than Δ, a day.
fn clock(rng: &mut Rng) -> Nanos {
    let most = rng.pick(&[0, 1, 10, 100, 86_400]);
    let offset = Nanos::from(rng.range(0, most * 1_000_000_000));
    if rng.percent(50) { offset } else { -offset }
}

fn when(poisoned: bool, rng: &mut Rng) -> When {
    let seconds = |s: i64| Nanos::from(s) * SECOND;
    match rng.below(100) {
        0..8 => When::Again,
        8..16 => When::Repeat,
        16..40 if poisoned => rng.pick(&[
            When::At(seconds(253_402_300_799)),
            When::At(seconds(-253_402_300_799)),
            When::At(0),
            When::At(-SECOND / 2),
            When::Off(seconds(86_400)),
            When::Off(seconds(-86_400)),
            When::Off(seconds(400_000_000)),
        ]),
        40..60 => When::Off(Nanos::from(rng.range(0, 20_000)) * SECOND / 1000 - 10 * SECOND),
        _ => When::Off(0),
    }
}

fn clients(crowded: bool, rng: &mut Rng) -> Vec<String> {
    if crowded {
        return one_leaf().to_vec();
    }
    let count = if rng.percent(10) { rng.range(20, 60) } else { rng.range(1, 10) };
    (0..count).map(|i| format!("c{i}")).collect()
}

/// Clients that share a leaf of the digest tree, more than a line of a listing holds. In the field
/// that takes millions of clients.
fn one_leaf() -> &'static [String] {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let mut names = Vec::new();
        for i in 0u32.. {
            let name = i.to_string();
            if Leaf::of(client_hash(&name)) == Leaf(0x1234) {
                names.push(name);
            }
            if names.len() == 130 {
                break;
            }
        }
        names
    })
}
