//! What came of the requests: latencies and faults, node by node.

use hdrhistogram::Histogram;

use super::fault::{Fault, Faults};
use super::limits::MAX_LATENCY;
use super::wire::Kind;

/// What came of the requests to one node.
#[derive(Clone, Debug)]
pub struct NodeTally {
    /// Latencies of the right replies in nanoseconds, IAMAT before WHATSAT.
    pub latencies: [Histogram<u64>; 2],
    /// What was wrong, IAMAT before WHATSAT.
    pub faults: [Faults; 2],
}

impl NodeTally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { latencies: [histogram(), histogram()], faults: Default::default() }
    }

    /// A right reply came `nanoseconds` after its request was due.
    pub fn right(&mut self, kind: Kind, nanoseconds: u64) {
        self.latencies[kind as usize].saturating_record(nanoseconds);
    }

    /// Something is wrong.
    pub fn fault(&mut self, kind: Kind, fault: Fault) {
        self.faults[kind as usize].add(fault, 1);
    }

    /// Faults of both kinds of request.
    pub fn all_faults(&self) -> Faults {
        let mut all = self.faults[0].clone();
        all.merge(&self.faults[1]);
        all
    }
}

/// A histogram of nanoseconds, exact to three digits.
pub fn histogram() -> Histogram<u64> {
    let longest = MAX_LATENCY.as_nanos() as u64;
    // The bounds are right whatever the constant: any other would be a bug to be told at once.
    #[expect(clippy::expect_used, reason = "fails at the first call or never")]
    Histogram::new_with_bounds(1, longest, 3).expect("bounds of the histogram")
}
