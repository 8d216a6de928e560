//! Flights: distinct questions in progress, and their waiters (single-flight request coalescing).

use std::collections::{BTreeMap, BTreeSet};

use super::Ticket;
use super::breaker::Role;
use crate::places::question::{Key, Question};
use crate::time::Instant;

/// The identifier of a flight. Flights are numbered in the order in which they start, which is also
/// the order of their deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightId(u64);

/// A distinct question in progress, with any number of waiters.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) question: Question,
    /// The time at which it fails.
    pub(super) deadline: Instant,
    pub(super) role: Role,
    /// True if the request was already sent once, on a connection that turned out to be stale.
    pub(super) retried: bool,
}

/// A ticket that waits for a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) max_results: u8,
    /// The time by which it must be answered. It is later than that of the flight if the ticket
    /// joined a flight in progress.
    pub(super) deadline: Instant,
}

/// All flights, queued or on a connection, and their waiters.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_id: BTreeMap<FlightId, Flight>,
    by_key: BTreeMap<Key, FlightId>,
    queue: BTreeSet<FlightId>,
    waiters: BTreeMap<Ticket, (FlightId, Waiter)>,
    by_flight: BTreeSet<(FlightId, Ticket)>,
    by_deadline: BTreeSet<(Instant, Ticket)>,
    last: u64,
}

impl Flights {
    /// Adds a flight to the queue.
    pub(super) fn add(&mut self, flight: Flight) -> FlightId {
        self.last += 1;
        let id = FlightId(self.last);
        self.by_key.insert(flight.question.key(), id);
        self.by_id.insert(id, flight);
        self.queue.insert(id);
        id
    }

    /// Returns the flight of an identical question.
    pub(super) fn find(&self, key: Key) -> Option<FlightId> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&self, id: FlightId) -> Option<&Flight> {
        self.by_id.get(&id)
    }

    /// The number of flights.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The number of queued flights.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_queued(&self, id: FlightId) -> bool {
        self.queue.contains(&id)
    }

    /// The oldest queued flight.
    pub(super) fn oldest_queued(&self) -> Option<FlightId> {
        self.queue.first().copied()
    }

    /// The oldest queued flight that may use a connection that has been idle.
    pub(super) fn oldest_queued_first_try(&self) -> Option<FlightId> {
        self.queue.iter().copied().find(|id| self.get(*id).is_some_and(|flight| !flight.retried))
    }

    /// Removes a flight from the queue, to send its request.
    pub(super) fn dispatch(&mut self, id: FlightId) {
        self.queue.remove(&id);
    }

    /// Returns a flight to the queue for its only retry.
    pub(super) fn retry(&mut self, id: FlightId) {
        if let Some(flight) = self.by_id.get_mut(&id) {
            flight.retried = true;
            self.queue.insert(id);
        }
    }

    /// The flight with the earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<(FlightId, Instant)> {
        self.by_id.first_key_value().map(|(&id, flight)| (id, flight.deadline))
    }

    /// Removes a flight and its waiters.
    pub(super) fn end(&mut self, id: FlightId) -> Option<(Flight, Vec<Waiter>)> {
        let flight = self.by_id.remove(&id)?;
        self.by_key.remove(&flight.question.key());
        self.queue.remove(&id);
        let mut from_here = self.by_flight.split_off(&(id, Ticket(0)));
        let mut later = from_here.split_off(&(FlightId(id.0 + 1), Ticket(0)));
        self.by_flight.append(&mut later);
        let mut waiters = Vec::with_capacity(from_here.len());
        for (_, ticket) in from_here {
            if let Some((_, waiter)) = self.waiters.remove(&ticket) {
                self.by_deadline.remove(&(waiter.deadline, ticket));
                waiters.push(waiter);
            }
        }
        Some((flight, waiters))
    }

    /// Adds a waiter to a flight.
    pub(super) fn join(&mut self, waiter: Waiter, id: FlightId) {
        self.waiters.insert(waiter.ticket, (id, waiter));
        self.by_flight.insert((id, waiter.ticket));
        self.by_deadline.insert((waiter.deadline, waiter.ticket));
    }

    /// The earliest deadline of a waiter, and its ticket.
    pub(super) fn next_wait(&self) -> Option<(Instant, Ticket)> {
        self.by_deadline.first().copied()
    }

    /// The number of waiters.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Detaches the waiters of a flight whose own deadline has not passed.
    pub(super) fn detach(&mut self, id: FlightId, now: Instant) -> Vec<Waiter> {
        let waiting = self.by_flight.range((id, Ticket(0))..).take_while(|(of, _)| *of == id);
        let has_time_left = |ticket: &Ticket| {
            self.waiters.get(ticket).is_some_and(|(_, waiter)| waiter.deadline > now)
        };
        let with_time_left: Vec<Ticket> =
            waiting.map(|&(_, ticket)| ticket).filter(has_time_left).collect();
        with_time_left.into_iter().filter_map(|ticket| Some(self.leave(ticket)?.1)).collect()
    }

    /// Removes a waiter. Returns it and its flight, or `None` if the ticket does not wait.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<(FlightId, Waiter)> {
        let (id, waiter) = self.waiters.remove(&ticket)?;
        self.by_flight.remove(&(id, ticket));
        self.by_deadline.remove(&(waiter.deadline, ticket));
        Some((id, waiter))
    }

    /// Returns true if a flight has waiters.
    pub(super) fn is_awaited(&self, id: FlightId) -> bool {
        self.by_flight.range((id, Ticket(0))..).next().is_some_and(|&(awaited, _)| awaited == id)
    }
}
