//! The client of a places provider as a state machine without sockets. It decides which question
//! is sent on which connection, and what each waiting ticket is answered.
//!
//! # Call order
//!
//! The *shell* is the caller that owns the sockets. After every `ask`, `cancel` and `handle_…` it
//! polls until each of these returns `None`:
//! - [`poll_close`](Client::poll_close): connections to close immediately;
//! - [`poll_connect`](Client::poll_connect): connections to establish. The shell resolves the host
//!   name, calls [`handle_resolved`](Client::handle_resolved), connects over TCP and, for an
//!   `https` URL, TLS, and calls [`handle_connected`](Client::handle_connected);
//! - [`poll_output`](Client::poll_output): requests to write;
//! - [`poll_answer`](Client::poll_answer): documents for waiting tickets;
//! - [`poll_event`](Client::poll_event): the openings and closings of the circuit breaker, for the log.
//!
//! The shell reports the events of a connection with
//! [`handle_connected`](Client::handle_connected), [`handle_input`](Client::handle_input),
//! [`handle_eof`](Client::handle_eof) and [`handle_failed`](Client::handle_failed). The last two
//! remove the connection; the shell closes its socket without a `poll_close`. Events of removed
//! connections are ignored, so the shell need not filter events that were already under way.
//!
//! [`handle_timeout`](Client::handle_timeout) is due at [`poll_timeout`](Client::poll_timeout).
//! All times are readings of one monotonic clock.
//!
//! # Guarantees
//!
//! - Every question gets exactly one answer, by its deadline if `handle_timeout` is called in
//!   time, unless its ticket is canceled.
//! - Identical questions share one request (single-flight). If it times out, it is repeated for
//!   the tickets that joined later and have time left.
//! - The numbers of queued and waiting questions, of connections and of cache entries are bounded.
//! - A request is retried at most once, and only if it was sent on a connection that had been idle
//!   and was closed without a byte of response.
//! - Failures are never cached.

mod breaker;
mod budget;
mod cache;
mod exchanges;
mod flights;
mod outcomes;
mod pool;
mod settings;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use breaker::{Breaker, Role};
use budget::Budget;
use cache::Cache;
use flights::{Flight, FlightId, Flights, Waiter};
use pool::{Conn, History, Pool};

use super::document::Status;
use super::http::{Eof, Progress};
use super::limits::{IDLE_TIMEOUT, MAX_WAITERS};
use super::providers::failure::{Blame, Failure, RequestError};
use super::providers::listing::{Listing, write_zero_results};
use super::providers::target::Target;
use super::question::Question;
use crate::time::Instant;

pub use super::providers::{ApiKey, KeyError, TransportError};
pub use pool::ConnId;
pub use settings::Settings;
pub use stats::{Gauges, Stats};

/// The identifier that the shell gives a question. It is unique among waiting questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// The immediate result of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The document has been appended.
    Answered,
    /// The document will be returned by [`Client::poll_answer`].
    Waiting,
}

/// A change of the provider's availability, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The circuit breaker has opened. Not repeated when a probe fails.
    BreakerOpened {
        /// Cause and remedy of the last failure. Never contains the API key.
        reason: String,
    },
    /// The provider has answered, and the circuit breaker has closed.
    BreakerClosed,
}

/// The client of one provider.
pub struct Client {
    settings: Settings,
    cache: Cache,
    budget: Budget,
    breaker: Breaker,
    flights: Flights,
    pool: Pool,
    connects: VecDeque<ConnId>,
    closes: VecDeque<ConnId>,
    writable: VecDeque<ConnId>,
    ready: VecDeque<(Ticket, u8, Outcome)>,
    events: VecDeque<Event>,
    stats: Stats,
}

/// The answer to a ticket.
#[derive(Clone)]
enum Outcome {
    Places(Arc<Listing>),
    Failed(Arc<Failure>),
}

impl Client {
    /// Creates a client. It has no connections; the first question opens one.
    pub fn new(settings: Settings) -> Self {
        let limits = &settings.limits;
        // A connection carries one request at a time, so more than `max_in_flight` are useless.
        let connections = limits.pool_size.min(limits.max_in_flight.unwrap_or(usize::MAX));
        Self {
            cache: Cache::new(limits.cache_ttl, limits.cache_entries),
            budget: Budget::new(limits.requests_per_second, limits.requests_per_day),
            breaker: Breaker::new(settings.seed),
            flights: Flights::default(),
            pool: Pool::new(connections),
            connects: VecDeque::new(),
            closes: VecDeque::new(),
            writable: VecDeque::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
            settings,
        }
    }

    /// Asks for at most `max_results` places. A document that is available immediately, from the
    /// cache or because of a failure, is appended to `out`; otherwise `ticket` waits.
    ///
    /// A ticket that is already waiting is canceled first.
    pub fn ask(
        &mut self,
        ticket: Ticket,
        question: Question,
        max_results: u8,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Asked {
        self.cancel(ticket);
        self.stats.questions += 1;
        if max_results == 0 || question.radius_m <= 0.0 {
            self.count(Status::ZeroResults);
            write_zero_results(out);
            return Asked::Answered;
        }
        let key = question.key();
        if let Some(listing) = self.cache.get(key, now) {
            self.stats.cache_hits += 1;
            self.stats.answered += 1;
            listing.write(max_results, out);
            return Asked::Answered;
        }
        match self.admit(question, now) {
            Ok(flight) => {
                let deadline = now + self.settings.limits.deadline;
                self.flights.join(Waiter { ticket, max_results, deadline }, flight);
                self.pump(now);
                Asked::Waiting
            }
            Err(failure) => {
                self.count(failure.status);
                failure.write(out);
                Asked::Answered
            }
        }
    }

    /// Cancels a question. A request in flight continues, for the cache and for other tickets.
    pub fn cancel(&mut self, ticket: Ticket) {
        if let Some((id, _)) = self.flights.leave(ticket) {
            self.stats.canceled += 1;
            self.abandon(id);
        } else if let Some(at) = self.ready.iter().position(|(ready, ..)| *ready == ticket) {
            self.stats.canceled += 1;
            self.ready.remove(at);
        }
    }

    /// Returns a connection to establish.
    pub fn poll_connect(&mut self) -> Option<ConnId> {
        self.connects.pop_front()
    }

    /// Returns a connection to close.
    pub fn poll_close(&mut self) -> Option<ConnId> {
        self.closes.pop_front()
    }

    /// Appends a request to `out`, and returns the connection to write it to.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<ConnId> {
        while let Some(id) = self.writable.pop_front() {
            if let Some(Conn::Busy(assignment)) = self.pool.get_mut(id)
                && !assignment.request.is_empty()
            {
                out.append(&mut assignment.request);
                return Some(id);
            }
        }
        None
    }

    /// Appends a document to `out`, and returns the ticket that it answers.
    pub fn poll_answer(&mut self, out: &mut Vec<u8>) -> Option<Ticket> {
        let (ticket, max_results, outcome) = self.ready.pop_front()?;
        match outcome {
            Outcome::Places(listing) => {
                self.stats.answered += 1;
                listing.write(max_results, out);
            }
            Outcome::Failed(failure) => {
                self.count(failure.status);
                failure.write(out);
            }
        }
        Some(ticket)
    }

    /// Returns the next change of the circuit breaker.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The time at which [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let flight = self.flights.next_deadline().map(|(_, deadline)| deadline);
        let wait = self.flights.next_wait().map(|(deadline, _)| deadline);
        let next = [flight, wait, self.pool.next_timeout(), self.cache.next_expiry()];
        next.into_iter().flatten().min()
    }

    /// Reports that the addresses for a connection are known. Until then, a timeout is attributed to
    /// the DNS look-up.
    pub fn handle_resolved(&mut self, id: ConnId) {
        if let Some(Conn::Connecting { resolved, .. }) = self.pool.get_mut(id) {
            *resolved = true;
        }
    }

    /// Reports that a connection is established, including TLS.
    pub fn handle_connected(&mut self, id: ConnId, now: Instant) {
        if !matches!(self.pool.get_mut(id), Some(Conn::Connecting { .. })) {
            return;
        }
        self.pool.replace(id, Conn::Idle { until: now + IDLE_TIMEOUT });
        // The oldest flight first, including one that must not use an idle connection again.
        if let Some(flight) = self.flights.oldest_queued() {
            self.dispatch(flight, id, History::Fresh, now);
        }
        self.pump(now);
    }

    /// Reports bytes received on a connection, after decryption.
    pub fn handle_input(&mut self, id: ConnId, data: &[u8], now: Instant) {
        if data.is_empty() {
            return;
        }
        match self.pool.get_mut(id) {
            None => return,
            Some(Conn::Busy(assignment))
                if assignment.request.is_empty() || assignment.history == History::Fresh =>
            {
                match assignment.exchange.handle_input(data) {
                    Ok(Progress::Pending) => return,
                    Ok(Progress::Done(response)) => self.responded(id, &response, now),
                    Err(error) => self.close(id, RequestError::Http(error), now),
                }
            }
            // The bytes were sent before the request, so they must not be taken for its response.
            Some(_) => self.close(id, RequestError::Unsolicited, now),
        }
        self.pump(now);
    }

    /// Reports that the peer has closed a connection.
    pub fn handle_eof(&mut self, id: ConnId, eof: Eof, now: Instant) {
        if let Some(Conn::Busy(assignment)) = self.pool.get_mut(id)
            && assignment.exchange.started()
            && let Ok(response) = assignment.exchange.handle_eof(eof)
            && let Some(Conn::Busy(assignment)) = self.pool.remove(id)
        {
            self.settle(&assignment, &response, now);
        } else {
            self.lost(id, RequestError::ClosedEarly, now);
        }
        self.pump(now);
    }

    /// Reports that a connection could not be established, or failed.
    pub fn handle_failed(&mut self, id: ConnId, error: &TransportError, now: Instant) {
        self.lost(id, RequestError::Transport(error), now);
        self.pump(now);
    }

    /// Handles the timeouts that are due; see [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((flight, deadline)) = self.flights.next_deadline()
            && deadline <= now
        {
            self.flight_timed_out(flight, now);
        }
        while let Some((deadline, ticket)) = self.flights.next_wait()
            && deadline <= now
        {
            self.waiter_timed_out(ticket);
        }
        while let Some(id) = self.pool.timed_out(now) {
            let resolved =
                matches!(self.pool.get_mut(id), Some(Conn::Connecting { resolved: true, .. }));
            let error =
                if resolved { RequestError::ConnectTimeout } else { RequestError::ResolveTimeout };
            self.close(id, error, now);
        }
        self.cache.expire(now);
        self.pump(now);
    }

    /// Monotonic counters since start-up.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The current state.
    pub fn gauges(&self, now: Instant) -> Gauges {
        Gauges {
            in_flight: self.pool.busy(),
            queued: self.flights.queued(),
            waiting: self.flights.waiting(),
            connections: self.pool.open(),
            cached: self.cache.len(),
            cached_bytes: self.cache.bytes(),
            breaker_open: self.breaker.is_open(now),
        }
    }

    /// Returns the flight for a question: that of an identical question, or a new one in the queue.
    fn admit(&mut self, question: Question, now: Instant) -> Result<FlightId, Arc<Failure>> {
        if self.flights.waiting() >= MAX_WAITERS {
            return Err(self.refuse(TOO_MANY_WAIT));
        }
        if let Some(flight) = self.flights.find(question.key()) {
            self.stats.coalesced += 1;
            return Ok(flight);
        }
        let limits = &self.settings.limits;
        if self.flights.len() >= self.pool.size() + limits.max_queued {
            return Err(self.refuse(QUEUE_FULL));
        }
        let deadline = now + limits.deadline;
        if let Err(budget) = self.budget.check(self.flights.queued(), now) {
            return Err(self.refuse(budget.message()));
        }
        let role = self.breaker.admit(now).inspect_err(|_| self.stats.refused_by_breaker += 1)?;
        Ok(self.flights.add(Flight { question, deadline, role, retried: false }))
    }

    /// Counts a question that exceeds a limit of this node.
    fn refuse(&mut self, message: &str) -> Arc<Failure> {
        self.stats.refused += 1;
        Arc::new(over_limit(message))
    }

    /// Drops a queued flight that has no waiters left.
    fn abandon(&mut self, id: FlightId) {
        if self.flights.is_queued(id)
            && !self.flights.is_awaited(id)
            && let Some((flight, _)) = self.flights.end(id)
            && flight.role == Role::Probe
        {
            self.breaker.probe_lost();
        }
    }

    /// Returns the flight that a connection carries.
    #[cfg(test)]
    fn carried_by(&mut self, id: ConnId) -> Option<FlightId> {
        match self.pool.get_mut(id) {
            Some(Conn::Busy(assignment)) => Some(assignment.flight),
            _ => None,
        }
    }

    fn target(&self) -> Target<'_> {
        Target {
            provider: self.settings.provider,
            url: &self.settings.url,
            key: self.settings.key.as_ref(),
            deadline: self.settings.limits.deadline,
        }
    }
}

impl fmt::Debug for Client {
    /// Omits requests and responses, which may contain the API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("settings", &self.settings)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// The failure of a question that exceeds a limit of this node.
fn over_limit(message: &str) -> Failure {
    let (status, message) = (Status::OverQueryLimit, message.to_owned());
    Failure { status, message, blame: Blame::Node }
}

const TOO_MANY_WAIT: &str =
    "too many questions about places are waiting for answers; ask again later";
const QUEUE_FULL: &str = "too many questions are waiting for the places provider; ask again later, or \
                          raise places.pool_size or places.max_queued";
