//! The client of a places provider, without its sockets: who is asked what, on which connection,
//! and what those who wait are told.
//!
//! # Call order
//!
//! After every `ask`, `cancel` and `handle_…`, the shell polls until each answers `None`:
//! - [`poll_close`](Client::poll_close): connections to close at once;
//! - [`poll_connect`](Client::poll_connect): connections to open: resolve, then
//!   [`handle_resolved`](Client::handle_resolved); TCP, TLS where the URL says so, then
//!   [`handle_connected`](Client::handle_connected);
//! - [`poll_output`](Client::poll_output): requests to write;
//! - [`poll_answer`](Client::poll_answer): documents for those who wait.
//!
//! What happens on a connection is told by [`handle_connected`](Client::handle_connected),
//! [`handle_input`](Client::handle_input), [`handle_eof`](Client::handle_eof) and
//! [`handle_failed`](Client::handle_failed). After the last two the connection is gone here; the
//! shell closes its side without being asked again. Events about connections that are gone are
//! ignored, so the shell need not sort out what crossed on the way.
//!
//! [`handle_timeout`](Client::handle_timeout) is due at [`poll_timeout`](Client::poll_timeout).
//! All times are the same monotonic clock's and never go back.
//!
//! # Promises
//!
//! Every question gets exactly one answer, by its deadline if `handle_timeout` is called in time,
//! unless its ticket is cancelled. The same question asked by many is one request; where that runs
//! out of time, it is asked anew for those who joined later and have time left. Questions in the
//! queue, on connections and waiting are bounded, and so are connections and the cache. A request is
//! repeated at most once, and only if a connection that had been idle closed without a byte of
//! response. What failed is never cached.

mod breaker;
mod budget;
mod cache;
mod flights;
mod pool;
mod settings;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use breaker::{Admission, Breaker};
use budget::Budget;
use cache::Cache;
use flights::{Flight, FlightId, Flights, Waiter};
use pool::{Conn, Errand, Pool};

use super::answer::{Fault, Listing, Refusal, write_zero_results};
use super::document::Status;
use super::failure::{Mishap, Trouble};
use super::http::{Exchange, Progress, Response};
use super::limits::{CONNECT_DEADLINE, IDLE_TIMEOUT, MAX_WAITERS};
use super::question::Question;
use super::target::Target;

pub use pool::ConnId;
pub use settings::Settings;
pub use stats::{Gauges, Stats};

/// What the shell calls a question by. No two questions that wait have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// What became of a question at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The document has been appended.
    Answered,
    /// The document will come from [`Client::poll_answer`].
    Waiting,
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
    stats: Stats,
}

/// What a ticket gets.
#[derive(Clone)]
enum Outcome {
    Places(Arc<Listing>),
    Refused(Arc<Refusal>),
}

impl Client {
    /// A client without connections; the first question opens one.
    pub fn new(settings: Settings) -> Self {
        let limits = &settings.limits;
        // A connection carries one request at a time, so one beyond `max_in_flight` has no use.
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
            stats: Stats::default(),
            settings,
        }
    }

    /// Asks for at most `max_results` places. A document that is known at once, be it from the
    /// cache or a refusal, is appended to `out`; otherwise `ticket` waits.
    ///
    /// A ticket that waits already is cancelled first.
    pub fn ask(
        &mut self,
        ticket: Ticket,
        question: Question,
        max_results: u8,
        now: Duration,
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
                self.flights.wait(Waiter { ticket, max_results, deadline }, flight);
                self.pump(now);
                Asked::Waiting
            }
            Err(refusal) => {
                self.count(refusal.status);
                refusal.write(out);
                Asked::Answered
            }
        }
    }

    /// Forgets a question: whoever asked has gone. A request that is on its way already goes on,
    /// for the cache and for the others who ask the same.
    pub fn cancel(&mut self, ticket: Ticket) {
        if let Some((id, _)) = self.flights.leave(ticket) {
            self.stats.cancelled += 1;
            self.abandon(id);
        } else if let Some(at) = self.ready.iter().position(|(ready, ..)| *ready == ticket) {
            self.stats.cancelled += 1;
            self.ready.remove(at);
        }
    }

    /// A connection that the shell is to open.
    pub fn poll_connect(&mut self) -> Option<ConnId> {
        self.connects.pop_front()
    }

    /// A connection that the shell is to close.
    pub fn poll_close(&mut self) -> Option<ConnId> {
        self.closes.pop_front()
    }

    /// Appends a request to `out`; it is to be written to the connection returned.
    pub fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<ConnId> {
        while let Some(id) = self.writable.pop_front() {
            if let Some(Conn::Busy(errand)) = self.pool.get_mut(id)
                && !errand.request.is_empty()
            {
                out.append(&mut errand.request);
                return Some(id);
            }
        }
        None
    }

    /// Appends a document to `out`; it is for the ticket returned.
    pub fn poll_answer(&mut self, out: &mut Vec<u8>) -> Option<Ticket> {
        let (ticket, max_results, outcome) = self.ready.pop_front()?;
        match outcome {
            Outcome::Places(listing) => {
                self.stats.answered += 1;
                listing.write(max_results, out);
            }
            Outcome::Refused(refusal) => {
                self.count(refusal.status);
                refusal.write(out);
            }
        }
        Some(ticket)
    }

    /// The moment at which [`handle_timeout`](Self::handle_timeout) is due, on the clock of `now`.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let flight = self.flights.next_deadline().map(|(_, deadline)| deadline);
        let wait = self.flights.next_wait().map(|(deadline, _)| deadline);
        let next = [flight, wait, self.pool.next_timeout(), self.cache.next_expiry()];
        next.into_iter().flatten().min()
    }

    /// The addresses for a connection are known. Where they are not by the deadline, the look-up
    /// is to blame.
    pub fn handle_resolved(&mut self, id: ConnId) {
        if let Some(Conn::Connecting { resolved, .. }) = self.pool.get_mut(id) {
            *resolved = true;
        }
    }

    /// A connection is up, TLS included.
    pub fn handle_connected(&mut self, id: ConnId, now: Duration) {
        if !matches!(self.pool.get_mut(id), Some(Conn::Connecting { .. })) {
            return;
        }
        self.pool.replace(id, Conn::Idle { until: now + IDLE_TIMEOUT });
        // The oldest question first, and only here one that must not meet a stale connection twice.
        if let Some(flight) = self.flights.oldest_queued() {
            self.dispatch(flight, id, false, now);
        }
        self.pump(now);
    }

    /// Bytes have arrived on a connection, as plain text.
    pub fn handle_input(&mut self, id: ConnId, data: &[u8], now: Duration) {
        if data.is_empty() {
            return;
        }
        match self.pool.get_mut(id) {
            None => return,
            Some(Conn::Busy(errand)) if errand.request.is_empty() || !errand.reused => {
                match errand.exchange.handle_input(data) {
                    Ok(Progress::Pending) => return,
                    Ok(Progress::Done(response)) => self.responded(id, &response, now),
                    Err(broken) => {
                        self.close(id, Mishap::Broken(broken), now);
                    }
                }
            }
            // They were sent before there was a request that they could answer; taken for the next
            // answer they would be somebody else's.
            Some(_) => self.close(id, Mishap::Unsolicited, now),
        }
        self.pump(now);
    }

    /// The peer has closed a connection. `clean` says that it announced so: a FIN on plain TCP,
    /// a `close_notify` on TLS; without it a body that has no length of its own is cut short.
    pub fn handle_eof(&mut self, id: ConnId, clean: bool, now: Duration) {
        if let Some(Conn::Busy(errand)) = self.pool.get_mut(id)
            && errand.exchange.started()
            && let Ok(response) = errand.exchange.handle_eof(clean)
            && let Some(Conn::Busy(errand)) = self.pool.remove(id)
        {
            self.settle(&errand, &response, now);
        } else {
            self.lost(id, Mishap::ClosedEarly, now);
        }
        self.pump(now);
    }

    /// A connection did not come about, or has failed.
    pub fn handle_failed(&mut self, id: ConnId, trouble: &Trouble, now: Duration) {
        self.lost(id, Mishap::Trouble(trouble), now);
        self.pump(now);
    }

    /// Time has passed: see [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some((flight, deadline)) = self.flights.next_deadline()
            && deadline <= now
        {
            self.out_of_time(flight, now);
        }
        while let Some((deadline, ticket)) = self.flights.next_wait()
            && deadline <= now
        {
            self.waited_enough(ticket);
        }
        while let Some(id) = self.pool.timed_out(now) {
            let resolved =
                matches!(self.pool.get_mut(id), Some(Conn::Connecting { resolved: true, .. }));
            let mishap = if resolved { Mishap::ConnectTimeout } else { Mishap::ResolveTimeout };
            self.close(id, mishap, now);
        }
        self.cache.expire(now);
        self.pump(now);
    }

    /// What has happened so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// How things stand.
    pub fn gauges(&self, now: Duration) -> Gauges {
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

    /// The flight for a question: another's that asks the same, or a new one in the queue.
    fn admit(&mut self, question: Question, now: Duration) -> Result<FlightId, Arc<Refusal>> {
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
        if let Err(which) = self.budget.admits(self.flights.queued(), now) {
            return Err(self.refuse(which.message()));
        }
        let probe = match self.breaker.admit(now) {
            Admission::Pass => false,
            Admission::Probe => true,
            Admission::Refuse(refusal) => {
                self.stats.refused_by_breaker += 1;
                return Err(refusal);
            }
        };
        Ok(self.flights.add(Flight { question, deadline, probe, retried: false }))
    }

    /// A question is not let in, for a limit of our own.
    fn refuse(&mut self, message: &str) -> Arc<Refusal> {
        self.stats.refused += 1;
        Arc::new(over_limit(message))
    }

    /// Nobody may wait for a flight any more: it is not sent then, if it has not been.
    fn abandon(&mut self, id: FlightId) {
        if self.flights.is_queued(id)
            && !self.flights.is_awaited(id)
            && let Some((flight, _)) = self.flights.end(id)
            && flight.probe
        {
            self.breaker.probe_lost();
        }
    }

    /// Brings queued questions and connections together.
    fn pump(&mut self, now: Duration) {
        while let Some(flight) = self.flights.oldest_queued_first_try()
            && let Some(conn) = self.pool.idle()
        {
            self.dispatch(flight, conn, true, now);
        }
        while self.pool.connecting() < self.flights.queued() {
            if let Some(conn) = self.pool.connect(now + CONNECT_DEADLINE) {
                self.stats.connects += 1;
                self.connects.push_back(conn);
            } else if let Some(idle) = self.pool.idle() {
                // What is left in the queue must not go on a connection that was idle.
                self.close(idle, Mishap::Unsolicited, now);
            } else {
                break;
            }
        }
    }

    /// Puts a queued question on an idle connection.
    fn dispatch(&mut self, id: FlightId, conn: ConnId, reused: bool, now: Duration) {
        self.flights.dispatch(id);
        if let Err(which) = self.budget.take(now) {
            self.finish(id, Err(over_limit(which.message())), now);
            return;
        }
        let Some(flight) = self.flights.get(id) else { return };
        let mut request = Vec::new();
        self.target().write_request(&flight.question, &mut request);
        let errand = Errand { flight: id, exchange: Exchange::new(), reused, request };
        self.pool.replace(conn, Conn::Busy(Box::new(errand)));
        self.writable.push_back(conn);
        self.stats.requests += 1;
    }

    /// A response is whole, and its connection is still open.
    fn responded(&mut self, id: ConnId, response: &Response, now: Duration) {
        let idle = Conn::Idle { until: now + IDLE_TIMEOUT };
        let Some(Conn::Busy(errand)) = self.pool.replace(id, idle) else { return };
        if !response.reusable || !errand.request.is_empty() {
            self.pool.remove(id);
            self.closes.push_back(id);
        }
        self.settle(&errand, response, now);
    }

    /// Ends what a connection was asked for, now that the response is there.
    fn settle(&mut self, errand: &Errand, response: &Response, now: Duration) {
        // A server that gives up on an idle connection may say so with a 408, which is not an
        // answer to what crossed it on the way (RFC 9110, section 15.5.9).
        if response.status == 408 && errand.reused {
            self.retry(errand.flight);
        } else {
            let result = self.read(errand.flight, response);
            self.finish(errand.flight, result, now);
        }
    }

    /// What a response says to a flight's question.
    fn read(&self, id: FlightId, response: &Response) -> Result<Listing, Refusal> {
        match self.flights.get(id) {
            Some(flight) => self.target().read(&flight.question, response),
            None => Err(self.target().failed_by(Mishap::ClosedEarly)),
        }
    }

    /// Gives up a connection of our own accord.
    fn close(&mut self, id: ConnId, mishap: Mishap<'_>, now: Duration) {
        match self.connects.iter().position(|&connect| connect == id) {
            // The shell has not heard of it.
            Some(at) => drop(self.connects.remove(at)),
            None => self.closes.push_back(id),
        }
        self.lost(id, mishap, now);
    }

    /// A connection is gone.
    fn lost(&mut self, id: ConnId, mishap: Mishap<'_>, now: Duration) {
        match self.pool.remove(id) {
            Some(Conn::Busy(errand)) if errand.reused && !errand.exchange.started() => {
                self.retry(errand.flight);
            }
            Some(Conn::Busy(errand)) => {
                self.finish(errand.flight, Err(self.target().failed_by(mishap)), now);
            }
            // It was made for a question that waits: the oldest pays for it, so that no question
            // waits for a connection that nobody makes.
            Some(Conn::Connecting { .. }) => {
                let cause = self.target().failed_by(mishap);
                match self.flights.oldest_queued() {
                    Some(flight) => self.finish(flight, Err(cause), now),
                    None => self.failed(&cause, false, now),
                }
            }
            Some(Conn::Idle { .. }) | None => {}
        }
    }

    /// Asks once more what a stale connection swallowed. It goes on a connection that was not idle
    /// before, so it does not come here again.
    fn retry(&mut self, id: FlightId) {
        self.stats.retries += 1;
        self.flights.retry(id);
    }

    /// A flight's deadline has come. Whoever joined it later and has time left gets another.
    fn out_of_time(&mut self, id: FlightId, now: Duration) {
        let Some(question) = self.flights.get(id).map(|flight| flight.question) else { return };
        let late = self.target().failed_by(self.why_late(id));
        if let Some(conn) = self.pool.carrying(id) {
            self.pool.remove(conn);
            self.closes.push_back(conn);
        }
        let patient = self.flights.part(id, now);
        self.finish(id, Err(late), now);
        if patient.is_empty() {
            return;
        }
        match self.admit(question, now) {
            Ok(flight) => patient.into_iter().for_each(|waiter| self.flights.wait(waiter, flight)),
            Err(refusal) => self.deliver(patient, &Outcome::Refused(refusal)),
        }
    }

    /// A waiter's own time is up, and that of the flight, which was asked anew for it, is not.
    fn waited_enough(&mut self, ticket: Ticket) {
        let Some((id, waiter)) = self.flights.leave(ticket) else { return };
        let late = self.target().failed_by(self.why_late(id));
        self.deliver(vec![waiter], &Outcome::Refused(Arc::new(late)));
        self.abandon(id);
    }

    /// What keeps a flight from being answered.
    fn why_late(&self, id: FlightId) -> Mishap<'static> {
        if self.pool.carrying(id).is_some() {
            Mishap::NoAnswer
        } else if self.pool.connecting() > 0 && self.pool.busy() == 0 {
            if self.pool.is_nameless() { Mishap::ResolveTimeout } else { Mishap::ConnectTimeout }
        } else {
            Mishap::QueueTooSlow
        }
    }

    /// Ends a flight with what it found out.
    fn finish(&mut self, id: FlightId, result: Result<Listing, Refusal>, now: Duration) {
        let Some((flight, waiters)) = self.flights.end(id) else { return };
        match result {
            Ok(listing) => {
                let listing = Arc::new(listing);
                self.breaker.succeeded();
                self.cache.insert(flight.question.key(), listing.clone(), now);
                self.deliver(waiters, &Outcome::Places(listing));
            }
            Err(refusal) => {
                let refusal = Arc::new(refusal);
                self.deliver(waiters, &Outcome::Refused(refusal.clone()));
                match refusal.fault {
                    Fault::Provider { .. } => self.failed(&refusal, flight.probe, now),
                    Fault::Question => self.breaker.succeeded(),
                    Fault::Nobody if flight.probe => self.breaker.probe_lost(),
                    Fault::Nobody => {}
                }
            }
        }
    }

    /// Tells the breaker of a failure; if it opens, nothing that waits is put to the provider.
    fn failed(&mut self, cause: &Refusal, probe: bool, now: Duration) {
        let Some(refusal) = self.breaker.failed(cause, probe, now) else { return };
        self.stats.breaker_openings += 1;
        while let Some(id) = self.flights.oldest_queued()
            && let Some((_, waiters)) = self.flights.end(id)
        {
            self.deliver(waiters, &Outcome::Refused(refusal.clone()));
        }
    }

    fn deliver(&mut self, waiters: Vec<Waiter>, outcome: &Outcome) {
        let answer = |waiter: Waiter| (waiter.ticket, waiter.max_results, outcome.clone());
        self.ready.extend(waiters.into_iter().map(answer));
    }

    fn count(&mut self, status: Status) {
        match status {
            Status::Ok | Status::ZeroResults => self.stats.answered += 1,
            Status::OverQueryLimit => self.stats.over_query_limit += 1,
            Status::RequestDenied => self.stats.request_denied += 1,
            Status::UnknownError => self.stats.unknown_error += 1,
        }
    }

    /// The flight that a connection carries.
    #[cfg(test)]
    fn carried_by(&mut self, id: ConnId) -> Option<FlightId> {
        match self.pool.get_mut(id) {
            Some(Conn::Busy(errand)) => Some(errand.flight),
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
    /// Without requests and responses: the former hold the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("settings", &self.settings)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

/// The refusal of a question for a limit of our own.
fn over_limit(message: &str) -> Refusal {
    let (status, message) = (Status::OverQueryLimit, message.to_owned());
    Refusal { status, message, fault: Fault::Nobody }
}

const TOO_MANY_WAIT: &str = "too many questions about places wait for answers; ask again later";
const QUEUE_FULL: &str = "too many questions wait for the places provider; ask again later, or \
                          raise places.pool_size or places.max_queued";
