//! The faults of a schedule.

use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::{Edge, diameter};

use super::{MILLISECOND, Schedule, Step, Time};
use crate::clocks::clock;

/// The kinds of faults. Each schedule has only a few of them (swarm testing, Groce et al. 2012),
/// because one kind can mask another.
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

impl Schedule {
    /// Cuts edges and kills nodes for good, at some time before the end of the other faults.
    pub(super) fn permanent_faults(&mut self, rng: &mut Rng) {
        for (a, b) in self.cut_for_good.clone() {
            let ways = vec![(a, b), (b, a)];
            self.steps.push((rng.below(self.quiet_at), Step::Block { ways, until: Time::MAX }));
        }
        for node in self.dead_for_good.clone() {
            let step = Step::Kill { node, silent: rng.percent(30), for_good: true };
            self.steps.push((rng.below(self.quiet_at), step));
        }
    }

    pub(super) fn faults(&mut self, rng: &mut Rng) {
        let kinds: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.percent(35)).collect();
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
                Step::Kill { node, silent: rng.percent(30), for_good: false }
            }
            Fault::Reset => {
                let spared = rng.percent(30).then(|| rng.percent(50));
                Step::Reset { edge, spared, orderly: rng.percent(50) }
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
            Fault::Clock => Step::Clock { node, offset: clock(self.wild_clocks, rng) },
        };
        self.steps.push((at, step));
    }
}

/// Draws the edges and nodes that are lost for good, such that the others stay connected.
pub(super) fn permanent_losses(
    nodes: usize,
    edges: &[Edge],
    rng: &mut Rng,
) -> (Vec<Edge>, Vec<usize>) {
    let (mut cut, mut dead) = (Vec::new(), Vec::new());
    for _ in 0..rng.range(1, 4) {
        let (mut more_cut, mut more_dead) = (cut.clone(), dead.clone());
        if rng.percent(60) {
            more_cut.push(rng.pick(edges));
        } else {
            more_dead.push(rng.index(nodes));
        }
        let is_new = !cut.ends_with(&more_cut) || !dead.ends_with(&more_dead);
        let left = remaining_diameter(nodes, edges, &more_cut, &more_dead);
        if is_new && left.is_some_and(|most| most > 0) {
            (cut, dead) = (more_cut, more_dead);
        }
    }
    (cut, dead)
}

pub(super) fn remaining_diameter(
    nodes: usize,
    edges: &[Edge],
    cut: &[Edge],
    dead: &[usize],
) -> Option<usize> {
    let nodes: Vec<usize> = (0..nodes).filter(|node| !dead.contains(node)).collect();
    let edges: Vec<Edge> = edges.iter().copied().filter(|edge| !cut.contains(edge)).collect();
    diameter(&nodes, &edges)
}
