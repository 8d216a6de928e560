//! The ends of flights: results, timeouts, and the circuit breaker that they drive.

use std::sync::Arc;

use super::breaker::Role;
use super::flights::{FlightId, Waiter};
use super::{Client, Event, Outcome, Ticket};
use crate::places::document::Status;
use crate::places::providers::failure::{Blame, Failure, RequestError};
use crate::places::providers::listing::Listing;
use crate::time::Instant;

impl Client {
    /// Fails a flight at its deadline. Tickets that joined later and have time left get another one.
    pub(super) fn flight_timed_out(&mut self, id: FlightId, now: Instant) {
        let Some(question) = self.flights.get(id).map(|flight| flight.question) else { return };
        let late = self.target().no_response(self.reason_for_timeout(id));
        if let Some(conn) = self.pool.carrying(id) {
            self.pool.remove(conn);
            self.closes.push_back(conn);
        }
        let with_time_left = self.flights.detach(id, now);
        self.finish(id, Err(late), now);
        if with_time_left.is_empty() {
            return;
        }
        match self.admit(question, now) {
            Ok(flight) => {
                for waiter in with_time_left {
                    self.flights.join(waiter, flight);
                }
            }
            Err(failure) => self.deliver(with_time_left, &Outcome::Failed(failure)),
        }
    }

    /// Fails a waiter at its own deadline, which may precede that of its flight.
    pub(super) fn waiter_timed_out(&mut self, ticket: Ticket) {
        let Some((id, waiter)) = self.flights.leave(ticket) else { return };
        let late = self.target().no_response(self.reason_for_timeout(id));
        self.deliver(vec![waiter], &Outcome::Failed(Arc::new(late)));
        self.abandon(id);
    }

    /// Returns the reason why a flight has not been answered.
    fn reason_for_timeout(&self, id: FlightId) -> RequestError<'static> {
        if self.pool.carrying(id).is_some() {
            RequestError::ResponseTimeout
        } else if self.pool.connecting() > 0 && self.pool.busy() == 0 {
            if self.pool.is_awaiting_dns() {
                RequestError::ResolveTimeout
            } else {
                RequestError::ConnectTimeout
            }
        } else {
            RequestError::QueueTimeout
        }
    }

    /// Ends a flight with its result.
    pub(super) fn finish(&mut self, id: FlightId, result: Result<Listing, Failure>, now: Instant) {
        let Some((flight, waiters)) = self.flights.end(id) else { return };
        match result {
            Ok(listing) => {
                let listing = Arc::new(listing);
                self.succeeded();
                self.cache.insert(flight.question.key(), listing.clone(), now);
                self.deliver(waiters, &Outcome::Places(listing));
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                self.deliver(waiters, &Outcome::Failed(failure.clone()));
                match failure.blame {
                    Blame::Provider { .. } => self.failed(&failure, flight.role, now),
                    Blame::Question => self.succeeded(),
                    Blame::Node if flight.role == Role::Probe => self.breaker.probe_lost(),
                    Blame::Node => {}
                }
            }
        }
    }

    /// Reports an answer of the provider to the circuit breaker.
    fn succeeded(&mut self) {
        if self.breaker.succeeded() {
            self.events.push_back(Event::BreakerClosed);
        }
    }

    /// Reports a failure to the circuit breaker. If it opens, all queued flights fail.
    pub(super) fn failed(&mut self, cause: &Failure, role: Role, now: Instant) {
        let Some(failure) = self.breaker.failed(cause, role, now) else { return };
        self.stats.breaker_openings += 1;
        if self.breaker.has_just_failed() {
            self.events.push_back(Event::BreakerOpened { reason: cause.message.clone() });
        }
        while let Some(id) = self.flights.oldest_queued()
            && let Some((_, waiters)) = self.flights.end(id)
        {
            self.deliver(waiters, &Outcome::Failed(failure.clone()));
        }
    }

    pub(super) fn deliver(&mut self, waiters: Vec<Waiter>, outcome: &Outcome) {
        let answer = |waiter: Waiter| (waiter.ticket, waiter.max_results, outcome.clone());
        self.ready.extend(waiters.into_iter().map(answer));
    }

    pub(super) fn count(&mut self, status: Status) {
        match status {
            Status::Ok | Status::ZeroResults => self.stats.answered += 1,
            Status::OverQueryLimit => self.stats.over_query_limit += 1,
            Status::RequestDenied => self.stats.request_denied += 1,
            Status::UnknownError => self.stats.unknown_error += 1,
        }
    }
}
