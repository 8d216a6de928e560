//! Wrong clocks and forged records: what nodes disagree on while their clocks differ, and what they
//! must agree on once the clocks are right.

use proxy_herd::herd::directory::Rules;
use proxy_herd::herd::expiry::FUTURE_LIMIT;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::testing::timing;
use proxy_herd::testing::topology::{Edge, Shape};

use crate::oracle::Answered;
use crate::schedule::{Cut, MILLISECOND, Network, SECONDS, Schedule, Step, Time, When};
use crate::trace::Trace;
use crate::world::{EPOCH, World, decimal, name};

const HOUR: Nanos = 3600 * SECOND;

/// Draws whether clocks may be wrong by days, independently of everything else. In a herd without
/// faults, clocks stay wrong, and only records that expire are expected to be missing somewhere.
pub fn are_wild(seed: u64, calm: bool, rules: &Rules) -> bool {
    let rng = &mut Rng::new(seed ^ 0xc10c);
    rng.percent(20) && (!calm || rules.client_ttl > 0)
}

/// The error of a clock: small, larger than Δ, up to half of [`FUTURE_LIMIT`], or up to days. No record
/// reaches the limit by itself while the herd recovers.
pub fn clock(wild: bool, rng: &mut Rng) -> Nanos {
    let most = rng.pick(&[0, 1, 10, 100, if wild { 345_600 } else { 39_600 }]);
    let offset = off_limit(Nanos::from(rng.range(0, most * 1_000_000_000)));
    if rng.percent(50) { offset } else { -offset }
}

/// Moves a time away from [`FUTURE_LIMIT`].
fn off_limit(ahead: Nanos) -> Nanos {
    if (ahead - FUTURE_LIMIT).abs() < HOUR { ahead - 2 * HOUR } else { ahead }
}

/// Draws whether records are forged, independently of everything else.
pub fn is_forged(seed: u64, calm: bool) -> bool {
    Rng::new(seed ^ 0xf04d).percent(20) && !calm
}

impl Schedule {
    /// Returns whether records may disappear because of a clock.
    pub const fn is_volatile(&self) -> bool {
        self.expires() || self.wild_clocks || self.forged
    }

    /// Returns whether all clocks are right once the faults are over.
    pub const fn are_clocks_set(&self) -> bool {
        self.is_volatile() && !self.calm
    }

    /// Adds forged records, independently of everything else.
    pub fn forgeries(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0xf04e);
        for _ in 0..rng.range(1, 4) {
            let (mut node, mut peer) = rng.pick(&self.edges);
            if rng.percent(50) {
                (node, peer) = (peer, node);
            }
            if !self.originals.is_empty() && rng.percent(50) {
                let original = rng.index(self.originals.len());
                (node, peer) = (self.nodes + original, self.originals[original][0]);
            }
            let day = Nanos::from(86_400 * SECOND);
            let when = rng.pick(&[
                When::At(253_402_300_799 * SECOND),
                When::Off(2 * day),
                When::Off(FUTURE_LIMIT + HOUR),
                When::Off(FUTURE_LIMIT - HOUR),
                When::Off(-day),
                When::At(0),
            ]);
            let (server, client) = (rng.index(self.nodes), rng.index(self.clients.len()));
            let step = Step::Forge { node, peer, server, client, when };
            self.steps.push((rng.below(self.quiet_at), step));
        }
    }
}

impl World {
    /// A node or an original server sends its neighbor a record that no client has reported.
    pub fn forge(&mut self, step: &Step) {
        let &Step::Forge { node, peer, server, client, when } = step else { return };
        let time = match when {
            When::At(time) => time,
            When::Off(off) => EPOCH * SECOND + Nanos::from(self.now) + off,
            When::SameTime | When::Repeat => return,
        };
        let (place, time_text) = (self.next_place(), decimal(time));
        let (client_name, server_name) = (&self.schedule.clients[client], name(server));
        let line = format!(
            "AT {} +0.000000000 {client_name} {place} {time_text}",
            server_name.escape_ascii()
        );
        let line = line.as_bytes();
        if self.is_original(node) {
            self.originals[node - self.schedule.nodes].forge(line);
            self.flood_from_original(node, line);
        } else {
            let Some(wire) = self.link(node, peer) else { return };
            let [one, other] = &mut self.wires[wire].ends;
            let end = if one.host == node { one } else { other };
            end.out.extend_from_slice(line);
            end.out.push(b'\n');
        }
        self.trace.line(self.now, || format!("n{node:02} forges {}", line.escape_ascii()));
        let update =
            Answered { client, repeat: false, time, node: server, clock: time, line, stored: true };
        self.oracle.flooded_by_original(&update);
        if !self.is_original(node) {
            self.turn(node);
        }
    }
}

/// A herd without faults, with a time to live of a minute and these clocks.
fn schedule(edges: &[Edge], clocks: &[Nanos], steps: Vec<(Time, Step)>) -> Schedule {
    Schedule {
        seed: 0,
        shape: Shape::Line,
        nodes: clocks.len(),
        edges: edges.to_vec(),
        diameter: clocks.len() - 1,
        cut_for_good: Vec::new(),
        dead_for_good: Vec::new(),
        rules: Rules {
            max_clock_offset: 5 * SECOND,
            max_clients: 1_000_000,
            client_ttl: 60 * SECOND,
            forget_keep: 604_800 * SECOND,
        },
        timing: timing(),
        secret: false,
        max_line: 4096,
        network: Network {
            latency: (MILLISECOND, MILLISECOND),
            jitter: 0,
            cut: Cut::Nowhere,
            window: 65_536,
            send_limit: 65_536,
        },
        // The updates that end a run are of one of the others.
        clients: (0..50).map(|i| format!("c{i}")).collect(),
        leaf_bits: u16::MAX,
        originals: Vec::new(),
        one_address: false,
        rolling: None,
        twin_of: None,
        clocks: clocks.to_vec(),
        wild_clocks: false,
        forged: false,
        calm: true,
        last_step_at: steps.last().map_or(0, |(at, _)| *at),
        quiet_at: 5 * SECONDS,
        steps,
    }
}

const UPDATE: Step = Step::Update { node: 0, client: 0, when: When::Off(0) };

/// The simulator checks that each record reaches every node for which it is alive, as fast as the
/// network carries it.
#[test]
fn records_pass_through_a_node_whose_clock_is_wrong() {
    let line = [(0, 1), (1, 2), (2, 3)];
    let ring = [(0, 1), (1, 2), (2, 3), (0, 3)];
    for edges in [&line[..], &ring] {
        // One and two nodes on the way, behind and ahead, by more than the time to live or a day.
        for off in [HOUR, -HOUR, 48 * HOUR, -48 * HOUR] {
            for clocks in [[0, off, 0, 0], [0, off, off, 0], [0, off, -off, 0]] {
                // While the graph settles, records are flooded; then they travel along trees.
                let steps = [400, 2000, 3000].map(|at| (at * MILLISECOND, UPDATE));
                let mut world = World::new(schedule(edges, &clocks, steps.to_vec()), Trace::off());
                world.run().unwrap_or_else(|why| panic!("clocks {clocks:?}, {edges:?}: {why}"));
            }
        }
    }
}

/// A record that was acknowledged more than a second ago, in a herd with a time to live and no other
/// fault, must have left its node. If a node on the only way did not forward it because of its clock,
/// the record would be lost with its node.
#[test]
fn a_record_survives_its_node_if_its_tree_leads_through_a_wrong_clock() {
    for off in [HOUR, -48 * HOUR] {
        let kill = Step::Kill { node: 0, silent: false, for_good: true };
        let steps = vec![(2000 * MILLISECOND, UPDATE), (3500 * MILLISECOND, kill)];
        let mut schedule = schedule(&[(0, 1), (1, 2)], &[0, off, 0], steps);
        (schedule.calm, schedule.dead_for_good, schedule.diameter) = (false, vec![0], 1);
        let mut world = World::new(schedule, Trace::off());
        world.run().unwrap_or_else(|why| panic!("clock {off}: {why}"));
        // Once the clocks are right, both remaining nodes hold it.
        assert!([1, 2].iter().all(|&node| world.oracle.has(node, 0)), "clock {off}");
    }
}
