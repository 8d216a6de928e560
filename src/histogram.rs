//! A duration histogram with fixed buckets.

use core::time::Duration;

/// Upper bounds of the buckets, in microseconds. They grow by a factor of about three, from a turn of
/// an idle loop to the longest wait for places.
pub const BOUNDS_US: [u64; 14] = [
    10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000,
    10_000_000, 30_000_000,
];

/// Durations counted by bucket. An observation is cheap enough for every turn of the loop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// One count per bound, and one for durations above all bounds.
    counts: [u64; BOUNDS_US.len() + 1],
    sum_ns: u64,
}

impl Histogram {
    /// Counts `duration`. A duration equal to a bound belongs to the bucket of that bound.
    pub fn observe(&mut self, duration: Duration) {
        let micros = duration.as_nanos().div_ceil(1000);
        let bucket = BOUNDS_US.partition_point(|&bound| u128::from(bound) < micros);
        self.counts[bucket] += 1;
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns = self.sum_ns.saturating_add(nanos);
    }

    /// For each bound in microseconds, the number of durations up to it.
    pub fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        let mut total = 0;
        BOUNDS_US.iter().zip(&self.counts).map(move |(&bound, &count)| {
            total += count;
            (bound, total)
        })
    }

    /// Number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all durations in nanoseconds.
    #[must_use]
    pub const fn sum_ns(&self) -> u64 {
        self.sum_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let mut histogram = Histogram::default();
        for micros in [0, 10, 11, 30_000_000, 30_000_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        histogram.observe(Duration::from_nanos(10_001)); // just above the bound of 10 µs
        let cumulative: Vec<_> = histogram.cumulative().collect();
        assert_eq!(cumulative[0], (10, 2));
        assert_eq!(cumulative[1], (30, 4));
        assert_eq!(cumulative.last(), Some(&(30_000_000, 5)));
        assert_eq!((histogram.count(), histogram.sum_ns()), (6, 60_000_022_000 + 10_001));
    }
}
