//! Questions on their way, and who waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Ticket;
use crate::places::question::{Key, Question};

/// A question on its way. They are numbered in the order in which they were asked, which is also
/// the order of their deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FlightId(u64);

/// One question, however many wait for it.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) question: Question,
    /// When it is given up.
    pub(super) deadline: Duration,
    /// It finds out whether the provider is back.
    pub(super) probe: bool,
    /// It was sent once already, on a connection that turned out to be stale.
    pub(super) retried: bool,
}

/// Who waits for a flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) ticket: Ticket,
    pub(super) max_results: u8,
    /// When it is answered at the latest. Whoever joins a flight may wait longer than that has.
    pub(super) deadline: Duration,
}

/// All questions on their way, in the queue or on a connection, and their waiters.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_id: BTreeMap<FlightId, Flight>,
    by_key: BTreeMap<Key, FlightId>,
    queue: BTreeSet<FlightId>,
    waiters: BTreeMap<Ticket, (FlightId, Waiter)>,
    by_flight: BTreeSet<(FlightId, Ticket)>,
    by_deadline: BTreeSet<(Duration, Ticket)>,
    last: u64,
}

impl Flights {
    /// Adds a question to the queue.
    pub(super) fn add(&mut self, flight: Flight) -> FlightId {
        self.last += 1;
        let id = FlightId(self.last);
        self.by_key.insert(flight.question.key(), id);
        self.by_id.insert(id, flight);
        self.queue.insert(id);
        id
    }

    /// The flight that asks the same.
    pub(super) fn find(&self, key: Key) -> Option<FlightId> {
        self.by_key.get(&key).copied()
    }

    pub(super) fn get(&self, id: FlightId) -> Option<&Flight> {
        self.by_id.get(&id)
    }

    /// How many questions are on their way.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// How many of them are in the queue.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_queued(&self, id: FlightId) -> bool {
        self.queue.contains(&id)
    }

    /// The oldest in the queue.
    pub(super) fn oldest_queued(&self) -> Option<FlightId> {
        self.queue.first().copied()
    }

    /// The oldest in the queue that may go on a connection that was used before.
    pub(super) fn oldest_queued_first_try(&self) -> Option<FlightId> {
        self.queue.iter().copied().find(|id| self.get(*id).is_some_and(|flight| !flight.retried))
    }

    /// Takes a flight out of the queue, to be put on a connection.
    pub(super) fn dispatch(&mut self, id: FlightId) {
        self.queue.remove(&id);
    }

    /// Puts a flight back into the queue for its second and last try.
    pub(super) fn retry(&mut self, id: FlightId) {
        if let Some(flight) = self.by_id.get_mut(&id) {
            flight.retried = true;
            self.queue.insert(id);
        }
    }

    /// The flight whose deadline is next.
    pub(super) fn next_deadline(&self) -> Option<(FlightId, Duration)> {
        self.by_id.first_key_value().map(|(&id, flight)| (id, flight.deadline))
    }

    /// Ends a flight: the flight itself and all that wait for it.
    pub(super) fn end(&mut self, id: FlightId) -> Option<(Flight, Vec<Waiter>)> {
        let flight = self.by_id.remove(&id)?;
        self.by_key.remove(&flight.question.key());
        self.queue.remove(&id);
        let mut behind = self.by_flight.split_off(&(id, Ticket(0)));
        let mut later = behind.split_off(&(FlightId(id.0 + 1), Ticket(0)));
        self.by_flight.append(&mut later);
        let mut waiters = Vec::with_capacity(behind.len());
        for (_, ticket) in behind {
            if let Some((_, waiter)) = self.waiters.remove(&ticket) {
                self.by_deadline.remove(&(waiter.deadline, ticket));
                waiters.push(waiter);
            }
        }
        Some((flight, waiters))
    }

    /// Lets a waiter wait for a flight.
    pub(super) fn wait(&mut self, waiter: Waiter, id: FlightId) {
        self.waiters.insert(waiter.ticket, (id, waiter));
        self.by_flight.insert((id, waiter.ticket));
        self.by_deadline.insert((waiter.deadline, waiter.ticket));
    }

    /// The end of the time that somebody waits, and whose it is: the next.
    pub(super) fn next_wait(&self) -> Option<(Duration, Ticket)> {
        self.by_deadline.first().copied()
    }

    /// How many tickets wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Lets those wait no longer for a flight who have time left.
    pub(super) fn part(&mut self, id: FlightId, now: Duration) -> Vec<Waiter> {
        let waiting = self.by_flight.range((id, Ticket(0))..).take_while(|(of, _)| *of == id);
        let has_time = |ticket: &Ticket| {
            self.waiters.get(ticket).is_some_and(|(_, waiter)| waiter.deadline > now)
        };
        let patient: Vec<Ticket> = waiting.map(|&(_, ticket)| ticket).filter(has_time).collect();
        patient.into_iter().filter_map(|ticket| Some(self.leave(ticket)?.1)).collect()
    }

    /// Lets a ticket wait no longer. The flight it waited for, if it did.
    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<(FlightId, Waiter)> {
        let (id, waiter) = self.waiters.remove(&ticket)?;
        self.by_flight.remove(&(id, ticket));
        self.by_deadline.remove(&(waiter.deadline, ticket));
        Some((id, waiter))
    }

    /// Whether anybody waits for a flight.
    pub(super) fn is_awaited(&self, id: FlightId) -> bool {
        self.by_flight.range((id, Ticket(0))..).next().is_some_and(|&(awaited, _)| awaited == id)
    }
}
