//! Requests and responses on the connections of the pool.

use super::breaker::Role;
use super::flights::FlightId;
use super::pool::{Assignment, Conn, ConnId, History};
use super::{Client, over_limit};
use crate::places::http::{Exchange, Response};
use crate::places::limits::{CONNECT_DEADLINE, IDLE_TIMEOUT};
use crate::places::providers::failure::{Failure, RequestError};
use crate::places::providers::listing::Listing;
use crate::places::providers::{read_response, write_request};
use crate::time::Instant;

impl Client {
    /// Assigns queued flights to connections, and opens connections for the others.
    pub(super) fn pump(&mut self, now: Instant) {
        while let Some(flight) = self.flights.oldest_queued_first_try()
            && let Some(conn) = self.pool.idle()
        {
            self.dispatch(flight, conn, History::Reused, now);
        }
        while self.pool.connecting() < self.flights.queued() {
            if let Some(conn) = self.pool.connect(now + CONNECT_DEADLINE) {
                self.stats.connects += 1;
                self.connects.push_back(conn);
            } else if let Some(idle) = self.pool.idle() {
                // Only retries are left, which must not use idle connections: make room.
                self.close(idle, RequestError::Unsolicited, now);
            } else {
                break;
            }
        }
    }

    /// Sends the request of a queued flight on an idle connection.
    pub(super) fn dispatch(&mut self, id: FlightId, conn: ConnId, history: History, now: Instant) {
        self.flights.dispatch(id);
        if let Err(budget) = self.budget.take(now) {
            self.finish(id, Err(over_limit(budget.message())), now);
            return;
        }
        let Some(flight) = self.flights.get(id) else { return };
        let mut request = Vec::new();
        write_request(self.target(), &flight.question, &mut request);
        let assignment = Assignment { flight: id, exchange: Exchange::new(), history, request };
        self.pool.replace(conn, Conn::Busy(Box::new(assignment)));
        self.writable.push_back(conn);
        self.stats.requests += 1;
    }

    /// Handles a complete response on a connection that is still open.
    pub(super) fn responded(&mut self, id: ConnId, response: &Response, now: Instant) {
        let idle = Conn::Idle { until: now + IDLE_TIMEOUT };
        let Some(Conn::Busy(assignment)) = self.pool.replace(id, idle) else { return };
        if !response.reusable || !assignment.request.is_empty() {
            self.pool.remove(id);
            self.closes.push_back(id);
        }
        self.settle(&assignment, response, now);
    }

    /// Completes an assignment with its response.
    pub(super) fn settle(&mut self, assignment: &Assignment, response: &Response, now: Instant) {
        // A server may send a 408 when it closes an idle connection. It is not the response to a
        // request that was under way at that moment (RFC 9110, section 15.5.9).
        if response.status == 408 && assignment.history == History::Reused {
            self.retry(assignment.flight);
        } else {
            let result = self.read(assignment.flight, response);
            self.finish(assignment.flight, result, now);
        }
    }

    /// Reads the response to the question of a flight.
    fn read(&self, id: FlightId, response: &Response) -> Result<Listing, Failure> {
        match self.flights.get(id) {
            Some(flight) => read_response(self.target(), &flight.question, response),
            None => Err(self.target().no_response(RequestError::ClosedEarly)),
        }
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, id: ConnId, error: RequestError<'_>, now: Instant) {
        match self.connects.iter().position(|&connect| connect == id) {
            // The shell does not know it yet.
            Some(at) => drop(self.connects.remove(at)),
            None => self.closes.push_back(id),
        }
        self.lost(id, error, now);
    }

    /// Removes a connection, and handles the loss of its request.
    pub(super) fn lost(&mut self, id: ConnId, error: RequestError<'_>, now: Instant) {
        match self.pool.remove(id) {
            Some(Conn::Busy(assignment))
                if assignment.history == History::Reused && !assignment.exchange.started() =>
            {
                self.retry(assignment.flight);
            }
            Some(Conn::Busy(assignment)) => {
                self.finish(assignment.flight, Err(self.target().no_response(error)), now);
            }
            // The connection was opened on behalf of the queue, so the oldest flight fails. Otherwise
            // it might wait for a connection that is not being established.
            Some(Conn::Connecting { .. }) => {
                let cause = self.target().no_response(error);
                match self.flights.oldest_queued() {
                    Some(flight) => self.finish(flight, Err(cause), now),
                    None => self.failed(&cause, Role::Regular, now),
                }
            }
            Some(Conn::Idle { .. }) | None => {}
        }
    }

    /// Queues a flight again whose request was lost on a stale connection. It is sent on a fresh
    /// connection, so this happens at most once.
    fn retry(&mut self, id: FlightId) {
        self.stats.retries += 1;
        self.flights.retry(id);
    }
}
