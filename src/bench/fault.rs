//! What can go wrong with a request, counted by kind.

/// What can be wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// None came in time, or the connection ended before it.
    Missing,
    /// It is not what the request must get.
    Wrong,
    /// It came after that to a later request.
    OutOfOrder,
    /// A WHATSAT told an older location than the node had acknowledged.
    Stale,
    /// A WHATSAT could not tell the places.
    NoPlaces,
    /// There was no request for it.
    Unasked,
    /// The server ended the connection.
    Disconnected,
    /// The request could not be sent while it was due: the rate cannot be held.
    Unsent,
    /// The record was not seen on the other node in time.
    NotSpread,
}

/// How many of each fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults([u64; Fault::ALL.len()]);

impl Fault {
    /// Each with its name in the report.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Missing, "missing"),
        (Self::Wrong, "wrong"),
        (Self::OutOfOrder, "out of order"),
        (Self::Stale, "stale"),
        (Self::NoPlaces, "without places"),
        (Self::Unasked, "unasked"),
        (Self::Disconnected, "connections lost"),
        (Self::Unsent, "not sent"),
        (Self::NotSpread, "not spread"),
    ];
}

impl Faults {
    /// One more, or several.
    pub fn add(&mut self, fault: Fault, count: u64) {
        self.0[fault as usize] += count;
    }

    /// These as well.
    pub fn merge(&mut self, others: &Self) {
        for (count, other) in self.0.iter_mut().zip(others.0) {
            *count += other;
        }
    }

    /// Of all kinds together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The kinds that there are, with their names.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Fault::ALL.iter().zip(self.0).map(|(kind, count)| (kind.1, count)).filter(|it| it.1 > 0)
    }
}
