//! The load: connections, and the loop that keeps them busy.

use std::io;
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use mio::event::Event;
use mio::{Events, Poll, Token};

use super::clock::Clock;
use super::connection::Connection;
use super::fault::{Fault, Faults};
use super::in_flight::Settled;
use super::limits::{EVENTS_PER_TURN, MAX_REPLY, OPEN_LOOP_PIPELINE, READ_CHUNK, REDIAL};
use super::plan::{Pace, Plan};
use super::progress::Progress;
use super::propagation::Prober;
use super::source::{Source, Work};
use super::tally::NodeTally;
use super::wire::Kind;

const TICK: u64 = super::limits::TICK.as_nanos() as u64;
const MILLISECOND: u64 = 1_000_000;

/// What came of a stretch of load.
pub struct Outcome {
    /// Each server's part, in the order of the plan.
    pub servers: Vec<NodeTally>,
    /// From the first request to the last reply.
    pub elapsed: Duration,
}

impl Outcome {
    /// Faults of all servers.
    pub fn faults(&self) -> Faults {
        let mut all = Faults::default();
        self.servers.iter().for_each(|server| all.merge(&server.all_faults()));
        all
    }
}

/// A stretch of load.
struct Stretch {
    pace: Pace,
    pipeline: usize,
    begin: u64,
    /// When nothing more is due.
    end: u64,
    /// In an open loop: requests that are due in all, and those that were sent.
    total: u64,
    sent: u64,
}

impl Stretch {
    /// In an open loop, when the request behind the first `count` is due.
    fn due(&self, count: u64) -> u64 {
        match self.pace {
            Pace::Closed => u64::MAX,
            Pace::Open(rate) => self.begin + (count as f64 / rate * 1e9) as u64,
        }
    }
}

/// All connections, and what they are driven with.
pub struct Load<'p> {
    plan: &'p Plan,
    poll: Poll,
    buffer: Vec<u8>,
    clock: Clock,
    source: Source,
    connections: Vec<Connection>,
    /// Connections that were lost, and when they are tried again.
    redials: Vec<(u64, usize)>,
    /// The connection that sends next in an open loop.
    turn: usize,
    /// Requests that wait for replies on all connections.
    waiting: usize,
    tallies: Vec<NodeTally>,
    last_reply: u64,
    prober: Option<Prober>,
    progress: Progress,
    _idle: Vec<TcpStream>,
}

impl<'p> Load<'p> {
    /// Opens all connections.
    ///
    /// # Errors
    ///
    /// Who cannot be reached and why.
    pub fn connect(plan: &'p Plan) -> io::Result<Self> {
        let poll = Poll::new()?;
        let servers = plan.servers.len();
        let unreachable = |server: usize, error: &io::Error| {
            let server = &plan.servers[server];
            let why = format!("{} does not accept on {}: {error}", server.name, server.address);
            io::Error::new(error.kind(), why)
        };
        let connect = |server: usize, place: usize| {
            let address = plan.servers[server].address;
            Connection::connect(server, address, plan.timeout, poll.registry(), Token(place))
                .map_err(|error| unreachable(server, &error))
        };
        let connections: Vec<Connection> = (0..plan.connections)
            .map(|place| connect(place % servers, place))
            .collect::<io::Result<_>>()?;
        let idle = (0..plan.idle).map(|place| place % servers).map(|server| {
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
            source: Source::new(plan.clients, plan.whatsat_percent, servers),
            connections,
            redials: Vec::new(),
            turn: 0,
            waiting: 0,
            tallies: Vec::new(),
            last_reply: 0,
            progress: Progress::new(),
            _idle: idle,
            plan,
        })
    }

    /// Lets every client say once where it is.
    ///
    /// # Errors
    ///
    /// The system's, or that nothing is answered any more.
    pub fn introduce(&mut self) -> io::Result<Outcome> {
        self.source.set(self.source.introduction());
        if let Some(prober) = &mut self.prober {
            prober.introduce(&mut self.clock);
        }
        let pipeline = self.plan.pipeline.max(OPEN_LOOP_PIPELINE);
        let outcome = self.run("introducing clients", Pace::Closed, pipeline, None);
        self.source.set(Work::Mix);
        outcome
    }

    /// Drives the load of the plan for so long.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn mix(&mut self, what: &str, length: Duration) -> io::Result<Outcome> {
        if let Some(prober) = &mut self.prober {
            prober.start(self.clock.now());
        }
        self.run(what, self.plan.pace, self.plan.pipeline, Some(length))
    }

    /// What was found about propagation.
    pub fn into_prober(self) -> Option<Prober> {
        self.prober
    }

    fn run(
        &mut self,
        what: &str,
        pace: Pace,
        pipeline: usize,
        length: Option<Duration>,
    ) -> io::Result<Outcome> {
        let begin = self.clock.now();
        let end = length.map_or(u64::MAX, |length| begin + length.as_nanos() as u64);
        let total = match (pace, length) {
            (Pace::Open(rate), Some(length)) => (rate * length.as_secs_f64()) as u64,
            _ => 0,
        };
        let mut stretch = Stretch { pace, pipeline, begin, end, total, sent: 0 };
        self.tallies = self.plan.servers.iter().map(|_| NodeTally::new()).collect();
        self.last_reply = begin;
        let timeout = self.plan.timeout.as_nanos() as u64;
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let mut next_tick = begin;
        loop {
            let now = self.clock.now();
            if now >= next_tick {
                self.tick(&stretch, now, timeout);
                self.progress.show(what, now - begin, length, &self.tallies);
                next_tick = now + TICK;
            }
            if let Pace::Open(_) = pace {
                self.send_due(&mut stretch, now);
            }
            let over = now >= end || self.source.is_exhausted();
            if let Some(prober) = &mut self.prober {
                prober.turn(now, over, &mut self.clock);
            }
            let unsent = stretch.total - stretch.sent;
            let late = now >= end.saturating_add(timeout);
            let probing = self.prober.as_ref().is_some_and(Prober::is_busy);
            if over && (unsent == 0 || late) && self.waiting == 0 && !probing {
                self.tallies[0].faults[0].add(Fault::Unsent, unsent);
                break;
            }
            if length.is_none() && now > self.last_reply + 2 * timeout {
                return Err(io::Error::other(format!(
                    "no reply for {:.1} s while clients were introduced",
                    2.0 * self.plan.timeout.as_secs_f64()
                )));
            }
            self.turn(&mut events, &stretch, next_tick)?;
        }
        self.progress.clear();
        let elapsed = Duration::from_nanos(self.last_reply.max(end.min(self.clock.now())) - begin);
        Ok(Outcome { servers: std::mem::take(&mut self.tallies), elapsed })
    }

    /// Waits for events and serves them.
    fn turn(&mut self, events: &mut Events, stretch: &Stretch, next_tick: u64) -> io::Result<()> {
        let now = self.clock.now();
        let probe = self.prober.as_ref().map_or(u64::MAX, |prober| prober.next(now));
        let due = if stretch.sent < stretch.total { stretch.due(stretch.sent) } else { u64::MAX };
        // The kernel waits in whole milliseconds; what is due sooner is waited for awake.
        let mut wait = next_tick.min(probe).min(due).saturating_sub(now) / MILLISECOND;
        if self.plan.busy_poll {
            wait = 0;
        }
        match self.poll.poll(events, Some(Duration::from_millis(wait))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        if wait == 0 && events.is_empty() && !self.plan.busy_poll {
            thread::yield_now(); // the servers may have to share this core
        }
        for event in &*events {
            self.serve(event, stretch);
        }
        Ok(())
    }

    fn serve(&mut self, event: &Event, stretch: &Stretch) {
        let place = event.token().0;
        let closed = event.is_read_closed() || event.is_error();
        let Some(connection) = self.connections.get_mut(place) else {
            if let Some(prober) = &mut self.prober {
                let probe = place - self.connections.len();
                prober.serve(probe, closed, &mut self.buffer, &mut self.clock);
            }
            return;
        };
        let server = connection.server;
        let tally = &mut self.tallies[server];
        let prefix = &self.plan.servers[server].prefix;
        let (waiting, last_reply, source) =
            (&mut self.waiting, &mut self.last_reply, &mut self.source);
        let received = connection.receive(
            &mut self.buffer,
            &self.plan.wire,
            prefix,
            &self.clock,
            closed,
            |now, settled, _| {
                *last_reply = now;
                match settled {
                    Settled::Answered(request, outcome) => {
                        *waiting -= 1;
                        match outcome {
                            Ok(()) if request.kind == Kind::Iamat => {
                                source.acknowledged(server, &request);
                                tally.right(Kind::Iamat, now - request.due);
                            }
                            Ok(()) => tally.right(request.kind, now - request.due),
                            Err(fault) => tally.fault(request.kind, fault),
                        }
                    }
                    Settled::TooLate => {}
                    Settled::Unasked => tally.fault(Kind::Iamat, Fault::Unasked),
                }
            },
        );
        if received.is_err() {
            return self.lose(place);
        }
        self.fill(place, stretch, self.clock.now());
    }

    /// Sends what waits on a connection, and in a closed loop new requests once half of those in
    /// flight are answered: a pipeline is filled in batches.
    fn fill(&mut self, place: usize, stretch: &Stretch, now: u64) {
        let connection = &mut self.connections[place];
        let room = connection.flight.waiting() * 2 <= stretch.pipeline;
        if stretch.pace == Pace::Closed && room && now < stretch.end && connection.is_there() {
            while connection.flight.waiting() < stretch.pipeline {
                let server = connection.server;
                let Some(request) = self.source.next(server, now, now, &mut self.clock) else {
                    break;
                };
                connection.push(request, &self.plan.wire);
                self.waiting += 1;
            }
        }
        if connection.send().is_err() {
            self.lose(place);
        }
    }

    /// Sends what is due in an open loop, on the connections in turn, as far as they have room.
    fn send_due(&mut self, stretch: &mut Stretch, now: u64) {
        let mut full = 0;
        while stretch.sent < stretch.total && full < self.connections.len() {
            let due = stretch.due(stretch.sent);
            if due > now {
                break;
            }
            let place = self.turn;
            self.turn = (place + 1) % self.connections.len();
            let connection = &mut self.connections[place];
            if !connection.is_there() || connection.flight.waiting() >= stretch.pipeline {
                full += 1;
                continue;
            }
            full = 0;
            let server = connection.server;
            let Some(request) = self.source.next(server, due, now, &mut self.clock) else { break };
            connection.push(request, &self.plan.wire);
            self.waiting += 1;
            stretch.sent += 1;
            if connection.send().is_err() {
                self.lose(place);
            }
        }
    }

    /// Minds what is late, and tries again to connect.
    fn tick(&mut self, stretch: &Stretch, now: u64, timeout: u64) {
        for place in 0..self.connections.len() {
            let connection = &mut self.connections[place];
            let tally = &mut self.tallies[connection.server];
            let waiting = &mut self.waiting;
            connection.flight.expire(now.saturating_sub(timeout), |kind| {
                *waiting -= 1;
                tally.fault(kind, Fault::Missing);
            });
            self.fill(place, stretch, now);
        }
        for (_, place) in self.redials.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            if self.connections[place].redial(self.poll.registry()).is_err() {
                self.redials.push((now + REDIAL.as_nanos() as u64, place));
            }
        }
    }

    fn lose(&mut self, place: usize) {
        let connection = &mut self.connections[place];
        let tally = &mut self.tallies[connection.server];
        let waiting = &mut self.waiting;
        tally.fault(Kind::Iamat, Fault::Disconnected);
        connection.lose(|kind| {
            *waiting -= 1;
            tally.fault(kind, Fault::Missing);
        });
        self.redials.push((self.clock.now() + REDIAL.as_nanos() as u64, place));
    }
}
