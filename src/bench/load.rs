//! The load generator: connections and the loop that drives them.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use super::clock::Clock;
use super::connection::{Connection, ReadSide};
use super::error::{ErrorCounts, RequestError};
use super::in_flight::Completion;
use super::limits::{
    EVENTS_PER_TURN, MAX_REPLY, OPEN_LOOP_PIPELINE, READ_CHUNK, RECONNECT_DELAY, TICK_INTERVAL,
};
use super::plan::{Pacing, Plan};
use super::prober::{Prober, PropagationResults};
use super::progress::ProgressLine;
use super::request_source::RequestSource;
use super::stats::ServerStats;
use super::wire::CommandKind;

const TICK_NS: u64 = TICK_INTERVAL.as_nanos() as u64;
const RECONNECT_DELAY_NS: u64 = RECONNECT_DELAY.as_nanos() as u64;
const MILLISECOND_NS: u64 = 1_000_000;

/// Results of one phase of load.
pub struct PhaseResult {
    /// Statistics of each server, in the order of the plan.
    pub servers: Vec<ServerStats>,
    /// Time from the start of the phase to its end or to the last reply, whichever is later.
    pub elapsed: Duration,
}

impl PhaseResult {
    /// Errors of all servers.
    pub fn errors(&self) -> ErrorCounts {
        let mut all = ErrorCounts::default();
        for server in &self.servers {
            all.merge(&server.all_errors());
        }
        all
    }
}

/// A phase of load: the preload, the warm-up or the measurement.
struct Phase {
    pacing: Pacing,
    pipeline: usize,
    start: u64,
    /// `None` for a phase that ends when the request source is exhausted.
    length: Option<Duration>,
    /// Requests of an open loop, and those that have become due and are assigned to a connection.
    total: u64,
    assigned: u64,
}

impl Phase {
    fn new(pacing: Pacing, pipeline: usize, start: u64, length: Option<Duration>) -> Self {
        let total = match (pacing, length) {
            (Pacing::OpenLoop(rate), Some(length)) => (rate * length.as_secs_f64()) as u64,
            _ => 0,
        };
        Self { pacing, pipeline, start, length, total, assigned: 0 }
    }

    /// Returns the time from which no more requests are due.
    fn end(&self) -> u64 {
        self.length.map_or(u64::MAX, |length| self.start + length.as_nanos() as u64)
    }

    /// Returns the time of the next request of an open loop, or `u64::MAX` if there is none.
    fn next_due(&self) -> u64 {
        match self.pacing {
            Pacing::OpenLoop(rate) if self.assigned < self.total => {
                self.start + (self.assigned as f64 / rate * 1e9) as u64
            }
            _ => u64::MAX,
        }
    }

    /// Ends the phase at `now`: nothing more becomes due.
    fn end_at(&mut self, now: u64) {
        let length = Duration::from_nanos(now - self.start);
        self.length = Some(self.length.map_or(length, |planned| planned.min(length)));
        self.total = self.assigned;
    }
}

/// All connections and the state of the current phase. Times are in nanoseconds of [`Clock`].
pub struct LoadGenerator<'p> {
    plan: &'p Plan,
    poll: Poll,
    buffer: Vec<u8>,
    clock: Clock,
    source: RequestSource,
    connections: Vec<Connection>,
    /// Lost connections, each with the time of its next connection attempt.
    reconnects: Vec<(u64, usize)>,
    /// The connection to which the next request of an open loop is assigned.
    next_connection: usize,
    /// Requests of an open loop that are due and have not been sent, on all connections.
    queued: usize,
    /// Set by a signal that ends the measurement.
    interrupted: Arc<AtomicBool>,
    /// Outstanding requests on all connections.
    waiting: usize,
    stats: Vec<ServerStats>,
    timeout: u64,
    last_reply: u64,
    prober: Option<Prober>,
    progress: ProgressLine,
    _idle: Vec<TcpStream>,
}

impl<'p> LoadGenerator<'p> {
    /// Opens all connections, including idle ones and those of the prober. Once `interrupted` is set,
    /// a phase ends early.
    ///
    /// # Errors
    ///
    /// A server does not accept a connection. The message names it.
    pub fn connect(plan: &'p Plan, interrupted: Arc<AtomicBool>) -> io::Result<Self> {
        let poll = Poll::new()?;
        let servers = plan.servers.len();
        let unreachable = |server: usize, error: &io::Error| {
            let server = &plan.servers[server];
            let message = format!(
                "{} does not accept connections on {}: {error}",
                server.name, server.address
            );
            io::Error::new(error.kind(), message)
        };
        let connect = |server: usize, token: usize| {
            let address = plan.servers[server].address;
            Connection::connect(server, address, plan.timeout, poll.registry(), Token(token))
                .map_err(|error| unreachable(server, &error))
        };
        let connections: Vec<Connection> = (0..plan.connections)
            .map(|index| connect(index % servers, index))
            .collect::<io::Result<_>>()?;
        let idle = (0..plan.idle).map(|index| index % servers).map(|server| {
            TcpStream::connect_timeout(&plan.servers[server].address, plan.timeout)
                .map_err(|error| unreachable(server, &error))
        });
        let idle = idle.collect::<io::Result<_>>()?;
        let prober = plan.probes.map(|rate| {
            let probes = (0..servers).map(|server| connect(server, plan.connections + server));
            io::Result::Ok(Prober::new(plan, rate, probes.collect::<io::Result<_>>()?))
        });
        Ok(Self {
            prober: prober.transpose()?,
            poll,
            buffer: vec![0; READ_CHUNK + MAX_REPLY],
            clock: Clock::new(),
            source: RequestSource::new(
                plan.clients,
                plan.wire.range(),
                plan.whatsat_percent,
                servers,
            ),
            connections,
            reconnects: Vec::new(),
            next_connection: 0,
            queued: 0,
            interrupted,
            waiting: 0,
            stats: Vec::new(),
            timeout: plan.timeout.as_nanos() as u64,
            last_reply: 0,
            progress: ProgressLine::new(),
            _idle: idle,
            plan,
        })
    }

    /// Sends every client's location once, so that the measurement starts with a full directory.
    ///
    /// # Errors
    ///
    /// The servers stop replying, or waiting for events fails.
    pub fn preload(&mut self) -> io::Result<PhaseResult> {
        self.source.start_preload();
        if let Some(prober) = &mut self.prober {
            prober.preload(&mut self.clock);
        }
        let pipeline = self.plan.pipeline.max(OPEN_LOOP_PIPELINE);
        let phase = Phase::new(Pacing::ClosedLoop, pipeline, self.clock.now(), None);
        let result = self.run("preloading clients", phase);
        self.source.start_mixed();
        result
    }

    /// Drives the plan's load for `length`. `name` is the phase's name in the progress line.
    ///
    /// # Errors
    ///
    /// Waiting for events fails.
    pub fn drive(&mut self, name: &str, length: Duration) -> io::Result<PhaseResult> {
        let start = self.clock.now();
        if let Some(prober) = &mut self.prober {
            prober.start(start);
        }
        self.run(name, Phase::new(self.plan.pacing, self.plan.pipeline, start, Some(length)))
    }

    /// The results of the propagation measurement, if there was one.
    pub fn into_propagation(self) -> Option<PropagationResults> {
        self.prober.map(|prober| prober.results)
    }

    fn run(&mut self, name: &str, mut phase: Phase) -> io::Result<PhaseResult> {
        self.stats = self.plan.servers.iter().map(|_| ServerStats::new()).collect();
        self.last_reply = phase.start;
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut next_tick = phase.start;
        loop {
            let now = self.clock.now();
            if now >= next_tick {
                self.tick(&phase, now);
                self.progress.show(name, now - phase.start, phase.length, &self.stats);
                next_tick = now + TICK_NS;
            }
            if now < phase.end() && self.interrupted.load(Ordering::Relaxed) {
                phase.end_at(now);
            }
            self.send_due(&mut phase, now);
            let is_over = now >= phase.end() || self.source.is_exhausted();
            if let Some(prober) = &mut self.prober {
                prober.expire(now);
                if !is_over {
                    prober.start_due_round(now, &mut self.clock);
                }
            }
            if is_over && self.is_drained(&phase, now) {
                self.expire_backlogs(u64::MAX);
                break;
            }
            if phase.length.is_none() && now > self.last_reply + 2 * self.timeout {
                let waited = 2.0 * self.plan.timeout.as_secs_f64();
                let message = format!("no reply for {waited:.1} s while preloading clients");
                return Err(io::Error::other(message));
            }
            self.turn(&mut events, &phase, next_tick)?;
        }
        self.progress.clear();
        let end = self.last_reply.max(phase.end().min(self.clock.now()));
        let elapsed = Duration::from_nanos(end - phase.start);
        Ok(PhaseResult { servers: std::mem::take(&mut self.stats), elapsed })
    }

    /// Returns whether everything due has been sent, or is hopelessly late, and no reply is
    /// outstanding.
    fn is_drained(&self, phase: &Phase, now: u64) -> bool {
        let all_sent = phase.assigned == phase.total && self.queued == 0;
        let is_too_late = now >= phase.end().saturating_add(self.timeout);
        let is_probing = self.prober.as_ref().is_some_and(Prober::is_busy);
        (all_sent || is_too_late) && self.waiting == 0 && !is_probing
    }

    /// Waits for events and serves them.
    fn turn(&mut self, events: &mut Events, phase: &Phase, next_tick: u64) -> io::Result<()> {
        let now = self.clock.now();
        let next_probe = self.prober.as_ref().map_or(u64::MAX, |prober| prober.next(now));
        let deadline = next_tick.min(next_probe).min(phase.next_due());
        // The kernel waits in whole milliseconds; the remainder is spent polling.
        let mut wait = deadline.saturating_sub(now) / MILLISECOND_NS;
        if self.plan.busy_poll {
            wait = 0;
        }
        match self.poll.poll(events, Some(Duration::from_millis(wait))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        if wait == 0 && events.is_empty() && !self.plan.busy_poll {
            thread::yield_now(); // the servers may share this core
        }
        for event in &*events {
            self.serve(event, phase);
        }
        Ok(())
    }

    fn serve(&mut self, event: &Event, phase: &Phase) {
        let index = event.token().0;
        let read_side = ReadSide::of(event);
        let Some(connection) = self.connections.get_mut(index) else {
            if let Some(prober) = &mut self.prober {
                let node = index - self.connections.len();
                prober.serve(node, read_side, &mut self.buffer, &mut self.clock);
            }
            return;
        };
        let server = connection.server;
        let mut answered = connection.answered;
        let stats = &mut self.stats[server];
        let prefix = &self.plan.servers[server].prefix;
        let (waiting, last_reply, source) =
            (&mut self.waiting, &mut self.last_reply, &mut self.source);
        let received = connection.receive(
            &mut self.buffer,
            &self.plan.wire,
            prefix,
            &self.clock,
            read_side,
            |now, completion, _| {
                (*last_reply, answered) = (now, true);
                match completion {
                    Completion::Request(request, outcome) => {
                        *waiting -= 1;
                        match outcome {
                            Ok(()) => {
                                if request.command == CommandKind::Iamat {
                                    source.acknowledge(server, &request);
                                }
                                stats.record_reply(request.command, now - request.due);
                            }
                            Err(error) => stats.record_error(request.command, error),
                        }
                    }
                    Completion::Late => {}
                    Completion::Unsolicited => {
                        stats.record_error(CommandKind::Iamat, RequestError::Unsolicited);
                    }
                }
            },
        );
        connection.answered = answered;
        if received.is_err() {
            return self.disconnect(index);
        }
        self.refill(index, phase, self.clock.now());
    }

    /// Sends queued requests. In a closed loop, also queues new ones once half of the pipeline has been
    /// answered, so that pipelined requests are sent in batches.
    fn refill(&mut self, index: usize, phase: &Phase, now: u64) {
        let connection = &mut self.connections[index];
        let is_half_empty = connection.in_flight.waiting() * 2 <= phase.pipeline;
        let is_closed_loop = phase.pacing == Pacing::ClosedLoop;
        if is_closed_loop && is_half_empty && now < phase.end() && connection.is_open() {
            while connection.in_flight.waiting() < phase.pipeline {
                let server = connection.server;
                let Some(request) = self.source.next(server, now, now, &mut self.clock) else {
                    break;
                };
                connection.push(request, &self.plan.wire);
                self.waiting += 1;
            }
        }
        while connection.is_open()
            && connection.in_flight.waiting() < phase.pipeline
            && let Some(&due) = connection.backlog.front()
            && let Some(request) = self.source.next(connection.server, due, now, &mut self.clock)
        {
            connection.backlog.pop_front();
            connection.push(request, &self.plan.wire);
            self.queued -= 1;
            self.waiting += 1;
        }
        if connection.flush().is_err() {
            self.disconnect(index);
        }
    }

    /// Assigns the due requests of an open loop to the connections in turn, regardless of their state: a
    /// request that is due at a server that is down or stalled is not sent to another one. It waits for
    /// its connection and keeps its due time, so that the wait counts as latency.
    fn send_due(&mut self, phase: &mut Phase, now: u64) {
        loop {
            let due = phase.next_due();
            if due > now {
                break;
            }
            let index = self.next_connection;
            self.next_connection = (index + 1) % self.connections.len();
            self.connections[index].backlog.push_back(due);
            self.queued += 1;
            phase.assigned += 1;
            self.refill(index, phase, now);
        }
    }

    /// Fails the requests that became due before `before` and have not been sent.
    fn expire_backlogs(&mut self, before: u64) {
        for connection in &mut self.connections {
            let server = connection.server;
            while let Some(&due) = connection.backlog.front().filter(|&&due| due < before) {
                connection.backlog.pop_front();
                self.queued -= 1;
                let request = self.source.next(server, due, due, &mut self.clock);
                let command = request.map_or(CommandKind::Iamat, |request| request.command);
                self.stats[server].record_error(command, RequestError::Unsent);
            }
        }
    }

    /// Fails requests that have timed out, and reconnects lost connections.
    fn tick(&mut self, phase: &Phase, now: u64) {
        self.expire_backlogs(now.saturating_sub(self.timeout));
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let stats = &mut self.stats[connection.server];
            let waiting = &mut self.waiting;
            connection.in_flight.expire(now.saturating_sub(self.timeout), |command| {
                *waiting -= 1;
                stats.record_error(command, RequestError::Missing);
            });
            self.refill(index, phase, now);
        }
        let due = self.reconnects.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>();
        for (_, index) in due {
            if self.connections[index].reconnect(self.poll.registry()).is_err() {
                self.reconnects.push((now + RECONNECT_DELAY_NS, index));
            }
        }
    }

    fn disconnect(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let stats = &mut self.stats[connection.server];
        let waiting = &mut self.waiting;
        // A connection counts as lost once, not with every attempt to establish it again.
        if connection.answered {
            stats.record_error(CommandKind::Iamat, RequestError::Disconnected);
        }
        connection.disconnect(|command| {
            *waiting -= 1;
            stats.record_error(command, RequestError::Missing);
        });
        self.reconnects.push((self.clock.now() + RECONNECT_DELAY_NS, index));
    }
}
