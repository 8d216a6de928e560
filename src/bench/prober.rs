//! Measures propagation: the time a record takes from node to node.
//!
//! Records are followed one at a time, from the moment the origin's AT line arrives until the record
//! is seen on every other node. The protocol shows a record only to a WHATSAT, so each of the other
//! nodes is polled with WHATSATs of radius 0, one at a time. The measured time is therefore too long by
//! at most one such round trip.

use hdrhistogram::Histogram;

use super::clients::{self, PROBE_CLIENTS, Range};
use super::clock::Clock;
use super::connection::{Connection, ReadSide};
use super::error::{ErrorCounts, RequestError};
use super::in_flight::Completion;
use super::plan::Plan;
use super::stats::histogram;
use super::wire::{CommandKind, Request, Wire};
use crate::protocol::record::Record;

/// Follows records between the nodes of a plan. Times are in nanoseconds of [`Clock`].
pub struct Prober {
    connections: Vec<Connection>,
    prefixes: Vec<Vec<u8>>,
    wire: Wire,
    timeout: u64,
    /// Interval between rounds.
    interval: u64,
    next_round: u64,
    origin: usize,
    round: Option<Round>,
    /// For each node and origin, the timestamp of the newest record that the node is known to hold.
    known: Vec<Vec<u64>>,
    /// Results so far.
    pub results: PropagationResults,
}

/// Results of the propagation measurement.
pub struct PropagationResults {
    /// Propagation times in nanoseconds, by origin and by the node on which the record was seen.
    pub pairs: Vec<Vec<Histogram<u64>>>,
    /// Round-trip times of the polling WHATSATs, in nanoseconds.
    pub polls: Histogram<u64>,
    /// Errors of the prober.
    pub errors: ErrorCounts,
}

/// The next step for a node that has replied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NextStep {
    /// The node has the record, or the reply is not about it.
    Wait,
    /// The node must be asked again.
    PollAgain,
}

/// A record being followed.
struct Round {
    /// Timestamp of the record.
    time: u64,
    started: u64,
    /// The origin's AT line and when it arrived.
    acknowledged: Option<(u64, Vec<u8>)>,
    /// For each node, the record's AT line and when it was seen.
    seen: Vec<Option<(u64, Vec<u8>)>>,
}

impl Round {
    /// Returns whether the origin has acknowledged the record and all other nodes have shown it.
    fn is_complete(&self, origin: usize) -> bool {
        let mut others = self.seen.iter().enumerate().filter(|(node, _)| *node != origin);
        self.acknowledged.is_some() && others.all(|(_, seen)| seen.is_some())
    }
}

impl Prober {
    /// A prober that follows `rate` records per second over one connection to each node.
    pub fn new(plan: &Plan, rate: f64, connections: Vec<Connection>) -> Self {
        let count = connections.len();
        Self {
            connections,
            prefixes: plan.servers.iter().map(|server| server.prefix.clone()).collect(),
            wire: plan.wire.without_places(),
            timeout: plan.timeout.as_nanos() as u64,
            interval: (1e9 / rate) as u64,
            next_round: u64::MAX,
            origin: 0,
            round: None,
            known: vec![vec![0; count]; count],
            results: PropagationResults {
                pairs: empty_pairs(count),
                polls: histogram(),
                errors: ErrorCounts::default(),
            },
        }
    }

    /// Sends the location of every probe client to every node, so that WHATSATs about them succeed.
    pub fn preload(&mut self, clock: &mut Clock) {
        let now = clock.now();
        for node in 0..self.connections.len() {
            for origin in 0..self.connections.len() {
                let time = clock.next_timestamp(now);
                self.known[node][origin] = time;
                let request =
                    Request::new(CommandKind::Iamat, probe_client(origin), time, now, Range::AREA);
                self.connections[node].push(request, &self.wire);
            }
            self.flush(node);
        }
    }

    /// Starts to follow records, and discards earlier propagation times.
    pub fn start(&mut self, now: u64) {
        self.results.pairs = empty_pairs(self.connections.len());
        self.next_round = now;
    }

    /// Returns whether a round is in progress or a reply is outstanding.
    pub fn is_busy(&self) -> bool {
        self.round.is_some() || self.connections.iter().any(|it| !it.in_flight.is_empty())
    }

    /// Returns the time of the next round, or `now` during a round, which is spent polling.
    pub fn next(&self, now: u64) -> u64 {
        if self.round.is_some() { now } else { self.next_round }
    }

    /// Fails requests that have timed out, and ends a round that takes longer than the timeout.
    pub fn expire(&mut self, now: u64) {
        let deadline = now.saturating_sub(self.timeout);
        for connection in &mut self.connections {
            let errors = &mut self.results.errors;
            connection.in_flight.expire(deadline, |_| errors.add(RequestError::Missing, 1));
        }
        if self.round.as_ref().is_some_and(|round| round.started < deadline) {
            self.finish_round();
        }
    }

    /// Starts a round if one is due: sends a record to the next origin and polls the other nodes.
    pub fn start_due_round(&mut self, now: u64, clock: &mut Clock) {
        if now < self.next_round || self.is_busy() {
            return;
        }
        self.next_round = (self.next_round + self.interval).max(now);
        self.origin = (self.origin + 1) % self.connections.len();
        let time = clock.next_timestamp(now);
        let seen = vec![None; self.connections.len()];
        self.round = Some(Round { time, started: now, acknowledged: None, seen });
        let request =
            Request::new(CommandKind::Iamat, probe_client(self.origin), time, now, Range::AREA);
        self.connections[self.origin].push(request, &self.wire);
        self.flush(self.origin);
        for node in 0..self.connections.len() {
            self.poll_node(node, now);
        }
    }

    /// Queries `node` for the record, unless it is the record's origin.
    fn poll_node(&mut self, node: usize, now: u64) {
        if node == self.origin {
            return;
        }
        let known = self.known[node][self.origin];
        let request =
            Request::new(CommandKind::Whatsat, probe_client(self.origin), known, now, Range::AREA);
        self.connections[node].push(request, &self.wire);
        self.flush(node);
    }

    fn flush(&mut self, node: usize) {
        if self.connections[node].flush().is_err() {
            self.disconnect(node);
        }
    }

    /// Closes the connection to `node`. It is not reconnected: later records count as not propagated to
    /// that node.
    fn disconnect(&mut self, node: usize) {
        let errors = &mut self.results.errors;
        errors.add(RequestError::Disconnected, 1);
        self.connections[node].disconnect(|_| errors.add(RequestError::Missing, 1));
    }

    /// Serves the connection to `node` after a readiness event.
    pub fn serve(
        &mut self,
        node: usize,
        read_side: ReadSide,
        buffer: &mut [u8],
        clock: &mut Clock,
    ) {
        let mut replies = Vec::new();
        let received = self.connections[node].receive(
            buffer,
            &self.wire,
            &self.prefixes[node],
            clock,
            read_side,
            |now, completion, reply| {
                let line = memchr::memchr(b'\n', reply).map_or(reply, |end| &reply[..end]);
                replies.push((now, completion, line.to_vec()));
            },
        );
        let mut next = NextStep::Wait;
        for (now, completion, line) in replies {
            if self.handle_reply(node, now, completion, line) == NextStep::PollAgain {
                next = NextStep::PollAgain;
            }
        }
        if received.is_err() {
            self.disconnect(node);
        } else if next == NextStep::PollAgain && self.round.is_some() {
            self.poll_node(node, clock.now());
        } else {
            self.flush(node);
        }
        if self.round.as_ref().is_some_and(|round| round.is_complete(self.origin)) {
            self.finish_round();
        }
    }

    /// Handles a reply whose first line is `line`.
    fn handle_reply(
        &mut self,
        node: usize,
        now: u64,
        completion: Completion,
        line: Vec<u8>,
    ) -> NextStep {
        let request = match completion {
            Completion::Request(request, Ok(())) => request,
            Completion::Request(_, Err(error)) => {
                self.results.errors.add(error, 1);
                return NextStep::PollAgain;
            }
            Completion::Late => return NextStep::Wait,
            Completion::Unsolicited => {
                self.results.errors.add(RequestError::Unsolicited, 1);
                return NextStep::Wait;
            }
        };
        let Some(round) = &mut self.round else { return NextStep::Wait };
        if request.command == CommandKind::Iamat {
            round.acknowledged = Some((now, line));
            return NextStep::Wait;
        }
        self.results.polls.saturating_record(now - request.due);
        if request.client != probe_client(self.origin) {
            return NextStep::Wait; // a poll of an earlier round, which has timed out
        }
        let time = Record::parse(&line).map_or(0, |record| record.time);
        if time != i128::from(round.time) {
            return NextStep::PollAgain;
        }
        self.known[node][self.origin] = round.time;
        round.seen[node] = Some((now, line));
        NextStep::Wait
    }

    /// Records the propagation times of the current round, and an error for each node on which the
    /// record was not seen or differed from the origin's.
    fn finish_round(&mut self) {
        let Some(round) = self.round.take() else { return };
        for (node, seen) in round.seen.into_iter().enumerate() {
            if node == self.origin {
                continue;
            }
            match (&round.acknowledged, seen) {
                (Some((sent, line)), Some((at, seen))) if *line == seen => {
                    let elapsed = at.saturating_sub(*sent);
                    self.results.pairs[self.origin][node].saturating_record(elapsed);
                }
                (Some(_), Some(_)) => self.results.errors.add(RequestError::Wrong, 1),
                _ => self.results.errors.add(RequestError::NotPropagated, 1),
            }
        }
    }
}

/// One empty histogram for each pair of `count` nodes.
fn empty_pairs(count: usize) -> Vec<Vec<Histogram<u64>>> {
    (0..count).map(|_| (0..count).map(|_| histogram()).collect()).collect()
}

/// The client whose records are followed from `origin`, distinct from all simulated clients.
const fn probe_client(origin: usize) -> u32 {
    PROBE_CLIENTS + origin as u32
}

const _: () = assert!(clients::MAX_CLIENTS <= PROBE_CLIENTS, "probe clients are not simulated");
