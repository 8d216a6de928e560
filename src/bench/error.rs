//! Kinds of errors that the benchmark detects, and their counters.

/// A failure of a request or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// No reply arrived within the timeout, or the connection ended before it.
    Missing,
    /// The reply does not match the request.
    Wrong,
    /// The reply arrived after the reply to a later request.
    OutOfOrder,
    /// A WHATSAT returned an older location than one that the node had acknowledged.
    Stale,
    /// The node could not get places from its provider.
    NoPlaces,
    /// A reply arrived while no request was outstanding.
    Unsolicited,
    /// The connection was lost.
    Disconnected,
    /// A request of the open loop was not sent within the timeout: its connection was down or stalled,
    /// or the rate is too high.
    Unsent,
    /// A record was not seen on another node within the timeout.
    NotPropagated,
}

impl RequestError {
    /// All kinds with their names in the report. The names are part of the JSON format.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Missing, "missing"),
        (Self::Wrong, "wrong"),
        (Self::OutOfOrder, "out of order"),
        (Self::Stale, "stale"),
        (Self::NoPlaces, "without places"),
        (Self::Unsolicited, "unasked"),
        (Self::Disconnected, "connections lost"),
        (Self::Unsent, "not sent"),
        (Self::NotPropagated, "not spread"),
    ];
}

/// Number of errors of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts([u64; RequestError::ALL.len()]);

impl ErrorCounts {
    /// Counts `count` errors of one kind.
    pub fn add(&mut self, error: RequestError, count: u64) {
        self.0[error as usize] += count;
    }

    /// Adds the counts of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (count, other) in self.0.iter_mut().zip(other.0) {
            *count += other;
        }
    }

    /// Number of errors of all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The nonzero counts, with the names of their kinds.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RequestError::ALL
            .iter()
            .zip(self.0)
            .map(|(kind, count)| (kind.1, count))
            .filter(|&(_, count)| count > 0)
    }
}
