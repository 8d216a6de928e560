//! Seats: the permits for long responses, that is, listings and subscriptions to events.
//!
//! Their number is bounded, so one reader could take all of them. If all are taken, a newcomer gets
//! the seat of a connection that has not read its output for [`STALL`], or else one of the address
//! with the most seats, provided that this address keeps more than that of the newcomer.

use core::cmp::Reverse;
use std::collections::HashMap;

use slab::Slab;

use super::limits::STALL;
use crate::ids::ConnectionId;
use crate::time::Instant;

/// The connections that have a seat.
#[derive(Default)]
pub struct Seats {
    seats: Slab<Seat>,
}

struct Seat {
    connection: ConnectionId,
    /// Key of the address of the connection.
    address: u64,
    /// Time since which output waits for the socket.
    stalled_since: Option<Instant>,
}

/// A seat that was taken.
pub(super) struct Taken {
    /// Key of the seat.
    pub key: usize,
    /// The connection that had it before. It must be closed.
    pub evicted: Option<ConnectionId>,
}

impl Seats {
    /// Number of seats that are taken.
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    /// All connections that have a seat.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.seats.iter().map(|(_, seat)| seat.connection)
    }

    /// Takes one of `limit` seats. Returns `None` if all are taken and none has to be given up.
    pub(super) fn take(
        &mut self,
        limit: usize,
        connection: ConnectionId,
        address: u64,
        now: Instant,
    ) -> Option<Taken> {
        let evicted = if self.seats.len() < limit {
            None
        } else {
            let key = self.stalled(now).or_else(|| self.unfair(address, now))?;
            Some(self.seats.remove(key).connection)
        };
        let key = self.seats.insert(Seat { connection, address, stalled_since: None });
        Some(Taken { key, evicted })
    }

    /// Releases the seat of `connection`, unless it has been given to another one.
    pub(super) fn leave(&mut self, key: usize, connection: ConnectionId) {
        if self.seats.get(key).is_some_and(|seat| seat.connection == connection) {
            self.seats.remove(key);
        }
    }

    /// Records whether output of `connection` waits for the socket.
    pub(super) fn set_stalled(
        &mut self,
        key: usize,
        connection: ConnectionId,
        stalled: bool,
        now: Instant,
    ) {
        let Some(seat) = self.seats.get_mut(key).filter(|it| it.connection == connection) else {
            return;
        };
        seat.stalled_since = stalled.then(|| seat.stalled_since.unwrap_or(now));
    }

    /// The seat that has been stalled for the longest time, if that is [`STALL`] or more.
    fn stalled(&self, now: Instant) -> Option<usize> {
        let stalled = self.seats.iter().filter_map(|(key, seat)| Some((seat.stalled_since?, key)));
        stalled.min().filter(|(since, _)| *since + STALL <= now).map(|(_, key)| key)
    }

    /// A seat of the address that has the most, if it has at least two more than `newcomer`: the
    /// one that is stalled for the longest time, if any is.
    fn unfair(&self, newcomer: u64, now: Instant) -> Option<usize> {
        let mut seats_of: HashMap<u64, usize> = HashMap::new();
        for (_, seat) in &self.seats {
            *seats_of.entry(seat.address).or_default() += 1;
        }
        let own = seats_of.get(&newcomer).copied().unwrap_or(0);
        let (&address, _) =
            seats_of.iter().filter(|it| *it.1 > own + 1).max_by_key(|it| (*it.1, *it.0))?;
        let of_address = self.seats.iter().filter(|(_, seat)| seat.address == address);
        let (key, _) = of_address
            .min_by_key(|(key, seat)| (seat.stalled_since.unwrap_or(now), Reverse(*key)))?;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: usize = 4;
    const START: Instant = Instant::START;

    fn take(seats: &mut Seats, connection: u64, address: u64, now: Instant) -> Option<Taken> {
        seats.take(FULL, ConnectionId(connection), address, now)
    }

    fn full(addresses: [u64; FULL]) -> Seats {
        let mut seats = Seats::default();
        for (connection, address) in (0..).zip(addresses) {
            assert!(take(&mut seats, connection, address, START).unwrap().evicted.is_none());
        }
        seats
    }

    #[test]
    fn one_address_cannot_keep_all_seats() {
        let mut seats = full([7; FULL]);
        assert!(take(&mut seats, 10, 7, START).is_none(), "it would only replace itself");
        let evicted = take(&mut seats, 11, 8, START).unwrap().evicted;
        assert_eq!(evicted, Some(ConnectionId(3)), "the newest seat of the address with the most");
        assert_eq!(take(&mut seats, 12, 8, START).unwrap().evicted, Some(ConnectionId(2)));
        assert!(
            take(&mut seats, 13, 8, START).is_none() && take(&mut seats, 13, 7, START).is_none()
        );
        let last = take(&mut seats, 14, 9, START).expect("two against none");
        assert_eq!(seats.len(), FULL);
        seats.leave(3, ConnectionId(3)); // its seat belongs to another connection
        assert_eq!(seats.len(), FULL);
        seats.leave(last.key, ConnectionId(14));
        assert_eq!(seats.len(), FULL - 1);
    }

    #[test]
    fn a_stalled_connection_gives_way_even_to_its_own_address() {
        let mut seats = full([7; FULL]);
        seats.set_stalled(1, ConnectionId(1), true, START + STALL);
        seats.set_stalled(2, ConnectionId(2), true, START);
        seats.set_stalled(2, ConnectionId(2), true, START + STALL); // since the first time
        seats.set_stalled(3, ConnectionId(3), true, START);
        seats.set_stalled(3, ConnectionId(3), false, START);
        assert!(take(&mut seats, 10, 7, START + STALL / 2).is_none(), "not yet");
        assert_eq!(take(&mut seats, 10, 7, START + STALL).unwrap().evicted, Some(ConnectionId(2)));
        assert!(take(&mut seats, 11, 7, START + STALL).is_none());
        assert_eq!(
            take(&mut seats, 11, 7, START + STALL + STALL).unwrap().evicted,
            Some(ConnectionId(1))
        );
    }
}
