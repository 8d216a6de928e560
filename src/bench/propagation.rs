//! How long a record takes from node to node.
//!
//! A record is followed from one node at a time: from the moment at which that node's AT line is
//! here until the record is seen on each other node. To see it, the others are asked WHATSAT with a
//! radius of 0 again and again, one question at a time each; so what is measured is at most one such
//! round trip too long.

use hdrhistogram::Histogram;

use super::clients::{self, PROBE_CLIENTS};
use super::clock::Clock;
use super::connection::Connection;
use super::fault::{Fault, Faults};
use super::in_flight::Settled;
use super::plan::Plan;
use super::tally::histogram;
use super::wire::{Kind, Request, Wire};
use crate::protocol::record::Record;

/// Follows records between the nodes of a plan.
pub struct Prober {
    connections: Vec<Connection>,
    prefixes: Vec<Vec<u8>>,
    wire: Wire,
    timeout: u64,
    pause: u64,
    /// When the next record is sent.
    next: u64,
    origin: usize,
    round: Option<Round>,
    /// For each node and each origin, the time of a location that the node is known to hold.
    known: Vec<Vec<u64>>,
    /// What was found.
    pub found: Found,
}

/// What was found.
pub struct Found {
    /// Nanoseconds, by origin and the node where the record was seen.
    pub pairs: Vec<Vec<Histogram<u64>>>,
    /// Nanoseconds from a question whether the record is there to its answer.
    pub polls: Histogram<u64>,
    /// What went wrong.
    pub faults: Faults,
}

/// A record on its way.
struct Round {
    /// What its client said at that time.
    time: u64,
    started: u64,
    /// When its AT line came, and the line.
    acknowledged: Option<(u64, Vec<u8>)>,
    /// For each node, when it was seen there, and its line.
    seen: Vec<Option<(u64, Vec<u8>)>>,
}

impl Prober {
    /// Follows `rate` records a second over one connection to each node.
    pub fn new(plan: &Plan, rate: f64, connections: Vec<Connection>) -> Self {
        let count = connections.len();
        let pairs = (0..count).map(|_| (0..count).map(|_| histogram()).collect()).collect();
        Self {
            connections,
            prefixes: plan.servers.iter().map(|server| server.prefix.clone()).collect(),
            wire: plan.wire.without_places(),
            timeout: plan.timeout.as_nanos() as u64,
            pause: (1e9 / rate) as u64,
            next: u64::MAX,
            origin: 0,
            round: None,
            known: vec![vec![0; count]; count],
            found: Found { pairs, polls: histogram(), faults: Faults::default() },
        }
    }

    /// Makes the clients that are followed known to every node.
    pub fn introduce(&mut self, clock: &mut Clock) {
        let now = clock.now();
        for node in 0..self.connections.len() {
            for origin in 0..self.connections.len() {
                let request = Request::new(Kind::Iamat, probe(origin), clock.tell(now), now);
                self.known[node][origin] = request.time;
                self.connections[node].push(request, &self.wire);
            }
            self.send(node);
        }
    }

    /// Begins to follow records.
    pub fn start(&mut self, now: u64) {
        let count = self.connections.len();
        let pairs = (0..count).map(|_| (0..count).map(|_| histogram()).collect()).collect();
        self.found.pairs = pairs;
        self.next = now;
    }

    /// Whether a reply is awaited.
    pub fn is_busy(&self) -> bool {
        self.round.is_some() || self.connections.iter().any(|it| !it.flight.is_empty())
    }

    /// When there will be something to do other than to serve sockets.
    pub fn next(&self, now: u64) -> u64 {
        if self.round.is_some() { now } else { self.next }
    }

    /// Sends a record if it is time for one, and gives up what is not seen in time. With `over`, no
    /// more are sent.
    pub fn turn(&mut self, now: u64, over: bool, clock: &mut Clock) {
        let deadline = now.saturating_sub(self.timeout);
        for connection in &mut self.connections {
            let faults = &mut self.found.faults;
            connection.flight.expire(deadline, |_| faults.add(Fault::Missing, 1));
        }
        if self.round.as_ref().is_some_and(|round| round.started < deadline) {
            self.finish();
        }
        if self.round.is_some() || over || now < self.next || self.is_busy() {
            return;
        }
        self.next = (self.next + self.pause).max(now);
        self.origin = (self.origin + 1) % self.connections.len();
        let request = Request::new(Kind::Iamat, probe(self.origin), clock.tell(now), now);
        let seen = vec![None; self.connections.len()];
        let round = Round { time: request.time, started: now, acknowledged: None, seen };
        self.round = Some(round);
        self.connections[self.origin].push(request, &self.wire);
        self.send(self.origin);
        for node in 0..self.connections.len() {
            self.ask(node, now);
        }
    }

    /// Asks `node` whether it has the record, unless it is the record's origin.
    fn ask(&mut self, node: usize, now: u64) {
        if node == self.origin {
            return;
        }
        let known = self.known[node][self.origin];
        let request = Request::new(Kind::Whatsat, probe(self.origin), known, now);
        self.connections[node].push(request, &self.wire);
        self.send(node);
    }

    fn send(&mut self, node: usize) {
        if self.connections[node].send().is_err() {
            self.lose(node);
        }
    }

    /// A probe that is lost is not replaced: what is not seen over it counts as not spread.
    fn lose(&mut self, node: usize) {
        let faults = &mut self.found.faults;
        faults.add(Fault::Disconnected, 1);
        self.connections[node].lose(|_| faults.add(Fault::Missing, 1));
    }

    /// Serves the socket to `node`.
    pub fn serve(&mut self, node: usize, closed: bool, buffer: &mut [u8], clock: &mut Clock) {
        let Self { connections, prefixes, wire, round, known, found, origin, .. } = self;
        let mut ask_again = false;
        let received = connections[node].receive(
            buffer,
            wire,
            &prefixes[node],
            clock,
            closed,
            |now, settled, reply| match settled {
                Settled::Answered(request, Ok(())) => {
                    let line = memchr::memchr(b'\n', reply).map_or(reply, |end| &reply[..end]);
                    let Some(round) = round.as_mut() else { return };
                    if request.kind == Kind::Iamat {
                        round.acknowledged = Some((now, line.to_vec()));
                        return;
                    }
                    found.polls.saturating_record(now - request.due);
                    if request.client != probe(*origin) {
                        return; // an answer that was given up
                    }
                    let time = Record::parse(line).map_or(0, |record| record.time);
                    if time == i128::from(round.time) {
                        known[node][*origin] = round.time;
                        round.seen[node] = Some((now, line.to_vec()));
                    } else {
                        ask_again = true;
                    }
                }
                Settled::Answered(_, Err(fault)) => {
                    found.faults.add(fault, 1);
                    ask_again = true;
                }
                Settled::TooLate => {}
                Settled::Unasked => found.faults.add(Fault::Unasked, 1),
            },
        );
        if received.is_err() {
            self.lose(node);
        } else if ask_again && self.round.is_some() {
            self.ask(node, clock.now());
        } else {
            self.send(node);
        }
        let complete = self.round.as_ref().is_some_and(|round| {
            let others = round.seen.iter().enumerate().filter(|(node, _)| *node != self.origin);
            round.acknowledged.is_some() && others.into_iter().all(|(_, seen)| seen.is_some())
        });
        if complete {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let Some(round) = self.round.take() else { return };
        for (node, seen) in round.seen.into_iter().enumerate() {
            if node == self.origin {
                continue;
            }
            match (&round.acknowledged, seen) {
                (Some((sent, line)), Some((at, seen))) if *line == seen => {
                    let took = at.saturating_sub(*sent);
                    self.found.pairs[self.origin][node].saturating_record(took);
                }
                (Some(_), Some(_)) => self.found.faults.add(Fault::Wrong, 1),
                _ => self.found.faults.add(Fault::NotSpread, 1),
            }
        }
    }
}

/// The client whose records are followed from `origin`: none of those that are played.
const fn probe(origin: usize) -> u32 {
    PROBE_CLIENTS + origin as u32
}

const _: () = assert!(clients::MAX_CLIENTS <= PROBE_CLIENTS);
