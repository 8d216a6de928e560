//! The event loop: one thread that waits for readiness and moves bytes between sockets and the
//! core. It knows no command.
//!
//! A turn: wait; serve the sockets that are ready and those that had more to say; hand out answers
//! that had to wait; do what the herd asks; send what links owe and who listens to events is to be
//! told; mind the deadlines; write the log.

mod accept;
mod links;
mod places;
mod serve;
mod shutdown;
mod subscribers;

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::hash::RandomState;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::SockRef;

use super::connection::{Connection, set_options};
use super::counters::Counters;
use super::listener::Listener;
use super::log_file::{COUNTERS, Log, clock};
use super::metrics::LoopStats;
use super::peer_tls::PeerTlsConfig;
use super::resolver::Resolver;
use super::session::Session;
use super::signals::Signals;
use super::timers::Timers;
use super::upstream::Upstream;
use crate::endpoint::Host;
use crate::herd::LinkId;
use crate::herd::directory::MAX_RECORD;
use crate::histogram::Histogram;
use crate::http::Server;
use crate::limits::{EVENTS_PER_TURN, GIVE_UP_BEFORE_END, LOG_FLUSH, Limits, READ_CHUNK};
use crate::node::{Node, Now};

const WEB_LISTENER: Token = Token(usize::MAX - 4);
const LISTENER: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);
const WAKER: Token = Token(usize::MAX - 3);

/// The loop and everything it minds.
pub struct EventLoop {
    poll: Poll,
    started: Instant,
    node: Node,
    http: Server,
    limits: Limits,
    /// For clients and peers, and for browsers where there is an HTTP side.
    listeners: Vec<(Serves, Listener)>,
    /// Do not accept before.
    accept_at: Option<Duration>,
    signals: Signals,
    resolver: Resolver<LinkId>,
    /// A thread of its own: the name of a neighbour may take a minute to fail.
    places_resolver: Resolver<()>,
    neighbours: Vec<Neighbour>,
    /// The sockets of the places client, where places are asked for over the network.
    upstream: Option<Upstream>,
    /// Where links run over TLS.
    peer_tls: Option<PeerTlsConfig>,
    link_buffer: usize,
    /// Boxed: a slab that grows moves pointers, and an empty slot costs one.
    connections: Slab<Box<Connection>>,
    /// Of the last connection. A token carries it, so that an event for a connection that has gone
    /// is not taken for one of its successor in the slab.
    generation: u32,
    clients: usize,
    clients_at: HashMap<IpAddr, u32>,
    /// Makes numbers of addresses.
    address_keys: RandomState,
    /// Connections that are over a limit, those on probation included.
    refusals: usize,
    /// Connections over a limit that may turn out to be peers, the oldest first. Some have gone, or
    /// have been linked or refused.
    probations: VecDeque<Token>,
    /// Connections that had more to say than a turn allows.
    run: VecDeque<Token>,
    /// Connections that wait until fewer WHATSATs wait in all.
    starved: VecDeque<Token>,
    timers: Timers,
    log: Log,
    log_flush_at: Option<Duration>,
    stop_at: Option<Duration>,
    /// Where reads go: behind what was read before and not consumed.
    inbound: Vec<u8>,
    /// Where replies are put together.
    outbound: Vec<u8>,
    counters: Counters,
    /// How long the turns of the loop took.
    turns: Histogram,
    /// When this turn began to work.
    woken: Option<Duration>,
    /// Bytes of commands and replies that clients have had of this turn, or of this part of it.
    given: usize,
}

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// Clients and peers.
    Lines,
    /// Browsers and tools.
    Http,
}

/// Whom this node talks to of its own accord, and how.
pub struct Outbound {
    /// The neighbours, one for each link of the herd.
    pub neighbours: Vec<Neighbour>,
    /// The places provider, where one is asked over the network.
    pub upstream: Option<Upstream>,
    /// Where links run over TLS.
    pub peer_tls: Option<PeerTlsConfig>,
    /// Bytes on their way to one peer, the kernel's included.
    pub link_buffer: usize,
}

/// How a neighbour is reached.
pub struct Neighbour {
    host: Host,
    port: u16,
    /// Where it was when it was last looked up.
    addresses: Vec<SocketAddr>,
    attempts: usize,
    /// Why it is not reached, as it was told last.
    told: Option<Box<str>>,
}

impl Neighbour {
    /// A neighbour at `host`.
    #[must_use]
    pub fn new(host: Host, port: u16) -> Self {
        let addresses = match host {
            Host::Address(address) => vec![SocketAddr::new(address, port)],
            Host::Name(_) => Vec::new(),
        };
        Self { host, port, addresses, attempts: 0, told: None }
    }

    fn is_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses.iter().any(|known| known.ip().to_canonical() == address)
    }
}

/// What becomes of a connection that has been served.
enum Fate {
    Keep,
    /// Nothing is owed and nothing comes: close.
    Close,
    /// The node's last word has been said: shut down the sending side and read on for a moment.
    Drain,
}

impl EventLoop {
    /// A loop around `node` that listens on `address`.
    ///
    /// # Errors
    ///
    /// Where the address is taken, or the kernel has no descriptor left.
    pub fn new(
        limits: Limits,
        node: Node,
        http: Server,
        outbound: Outbound,
        address: SocketAddr,
        log: Log,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        // Before anybody can connect: whoever has done so may ask for the end.
        let signals = Signals::register(poll.registry(), SIGNALS)?;
        Ok(Self {
            started: Instant::now(),
            listeners: vec![(
                Serves::Lines,
                Listener::bind(address, &limits, poll.registry(), LISTENER)?,
            )],
            accept_at: None,
            signals,
            resolver: Resolver::new(Arc::clone(&waker), outbound.neighbours.len()),
            places_resolver: Resolver::new(waker, 1),
            neighbours: outbound.neighbours,
            upstream: outbound.upstream,
            peer_tls: outbound.peer_tls,
            link_buffer: outbound.link_buffer,
            connections: Slab::new(),
            generation: 0,
            clients: 0,
            clients_at: HashMap::new(),
            address_keys: RandomState::new(),
            refusals: 0,
            probations: VecDeque::new(),
            run: VecDeque::new(),
            starved: VecDeque::new(),
            timers: Timers::default(),
            log,
            log_flush_at: None,
            stop_at: None,
            inbound: vec![0; limits.max_input_buffer.max(MAX_RECORD + READ_CHUNK)],
            outbound: Vec::new(),
            counters: Counters::default(),
            turns: Histogram::default(),
            woken: None,
            given: 0,
            poll,
            node,
            http,
            limits,
        })
    }

    /// Takes browsers and tools on `address` as well.
    ///
    /// # Errors
    ///
    /// Where the address is taken, or the kernel has no descriptor left.
    pub fn serve_http(&mut self, address: SocketAddr) -> io::Result<()> {
        let listener = Listener::bind(address, &self.limits, self.poll.registry(), WEB_LISTENER)?;
        self.listeners.push((Serves::Http, listener));
        Ok(())
    }

    /// Turns until a signal ends it.
    ///
    /// # Errors
    ///
    /// Where the kernel's readiness queue fails, which nothing can be done about.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let ended = loop {
            match self.turn(&mut events) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
        };
        let now = self.now();
        for token in self.tokens() {
            self.close(token, &now, "the node has stopped");
        }
        self.write_log(now.elapsed);
        self.report(now.elapsed);
        log::logger().flush();
        ended
    }

    /// One turn. Returns whether it was the last.
    fn turn(&mut self, events: &mut Events) -> io::Result<bool> {
        let begun = self.started.elapsed();
        if let Some(woken) = self.woken {
            self.turns.observe(begun.saturating_sub(woken));
        }
        let timeout = self.timeout(begun);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
            other => other?,
        }
        let now = self.now();
        self.woken = Some(now.elapsed);
        self.given = 0;
        let due = std::mem::take(&mut self.run);
        self.http.begin_turn();
        self.node.message_log.set_clock(now.clock);
        for event in events.iter() {
            match event.token() {
                LISTENER => self.handle_connects(Serves::Lines),
                WEB_LISTENER => self.handle_connects(Serves::Http),
                SIGNALS => {
                    if self.handle_signals(&now) {
                        return Ok(true);
                    }
                }
                WAKER => {} // whoever woke the loop is polled below
                token if Upstream::owns(token) => {
                    let (upstream, client) = (&mut self.upstream, self.node.places.upstream());
                    if let (Some(upstream), Some(client)) = (upstream, client) {
                        upstream.handle_event(event, self.poll.registry(), client, now.elapsed);
                    }
                }
                token => self.handle_event(token, event, &now),
            }
        }
        self.serve_queued(due, &now);
        self.accept(&now);
        self.handle_lookups(&now);
        self.ask_places(&now);
        self.node.herd.handle_timeout(now.elapsed, now.clock);
        self.handle_actions(&now);
        self.flush_links(&now);
        self.tell_listeners(&now);
        self.handle_reminders(&now);
        self.feed_the_starved();
        self.write_log(now.elapsed);
        Ok(self.stop_at.is_some() && self.is_over(&now))
    }

    fn now(&self) -> Now {
        Now { elapsed: self.started.elapsed(), clock: clock() }
    }

    /// How long the kernel may be waited for.
    fn timeout(&mut self, now: Duration) -> Option<Duration> {
        if !self.run.is_empty() || self.upstream.as_ref().is_some_and(Upstream::has_more) {
            return Some(Duration::ZERO);
        }
        if self.accept_at.is_none() && self.listeners.iter().any(|(_, listener)| listener.ready) {
            return Some(Duration::ZERO);
        }
        let (client, upstream) = (self.node.places.upstream(), &self.upstream);
        let next = [
            self.timers.next(),
            client.and_then(|client| client.poll_timeout()),
            upstream.as_ref().and_then(Upstream::poll_timeout),
            self.node.herd.poll_timeout(),
            self.http.poll_timeout(&self.node.herd),
            self.log_flush_at,
            self.accept_at,
            self.stop_at,
            self.stop_at.and_then(|at| at.checked_sub(GIVE_UP_BEFORE_END)).filter(|&at| at > now),
        ];
        let next = next.into_iter().flatten().min()?;
        Some(next.saturating_sub(now))
    }

    fn handle_signals(&mut self, now: &Now) -> bool {
        let asked = self.signals.take();
        if asked.reopen_log {
            self.write_log(now.elapsed);
            self.log.reopen();
        }
        if asked.report {
            self.report(now.elapsed);
        }
        if asked.stop {
            if self.stop_at.is_some() {
                return true; // asked twice: at once
            }
            self.stop(now);
        }
        false
    }

    fn report(&self, now: Duration) {
        let Self { counters, clients, turns, log, node, http, .. } = self;
        let report = LoopStats { counters, clients: *clients, turns, log }.report(node, http, now);
        log::info!(target: COUNTERS, "counters: {report}");
    }

    fn tokens(&self) -> Vec<Token> {
        let connections = self.connections.iter();
        connections.map(|(key, connection)| token(key, connection.generation)).collect()
    }

    fn get(&mut self, token: Token) -> Option<&mut Connection> {
        let (key, generation) = key(token);
        let connection = self.connections.get_mut(key)?;
        (connection.generation == generation).then_some(&mut **connection)
    }

    fn enqueue(&mut self, token: Token) {
        if let Some(connection) = self.get(token)
            && !connection.queued
        {
            connection.queued = true;
            self.run.push_back(token);
        }
    }

    /// Takes a socket into the loop.
    fn insert(&mut self, mut connection: Connection) -> io::Result<Token> {
        // One bit less, so that no token is one of those above.
        self.generation = (self.generation + 1) & (u32::MAX >> 1);
        connection.generation = self.generation;
        let entry = self.connections.vacant_entry();
        let token = token(entry.key(), self.generation);
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut connection.stream, token, both)?;
        entry.insert(Box::new(connection));
        Ok(token)
    }

    fn write_log(&mut self, now: Duration) {
        let lines = self.node.message_log.lines();
        if !lines.is_empty() {
            self.log.append(lines);
            self.node.message_log.clear();
        }
        match self.log_flush_at {
            Some(at) if at <= now => {
                log::logger().flush();
                self.log_flush_at = self.log.is_dirty().then_some(now + LOG_FLUSH);
            }
            None if self.log.is_dirty() => self.log_flush_at = Some(now + LOG_FLUSH),
            _ => {}
        }
    }
}

/// Sends what has been put together, and empties the buffer whatever becomes of it: the next
/// connection finds nothing of this one.
fn send(connection: &mut Connection, outbound: &mut Vec<u8>, now: &Now) -> io::Result<()> {
    let sent = connection.send(outbound, now.elapsed);
    outbound.clear();
    sent
}

/// One client less at this address.
fn uncount(clients_at: &mut HashMap<IpAddr, u32>, address: IpAddr) {
    let address = address.to_canonical();
    if let Some(here) = clients_at.get_mut(&address) {
        *here -= 1;
        if *here == 0 {
            clients_at.remove(&address);
        }
    }
}

/// Nothing more comes or goes on a connection. Of those that only look at the node, the log does not
/// tell: a browser opens a handful for each page.
fn farewell(node: &mut Node, http: &mut Server, session: &mut Session, now: &Now, why: &str) {
    let peer = session.link().map(|link| node.herd.peer_name(link).to_vec());
    session.close(node, http, now);
    match peer {
        Some(peer) => {
            let closed =
                [session.label(), b" closed, the link with ", &peer, b": ", why.as_bytes()];
            node.message_log.line(&closed);
        }
        None if matches!(session, Session::Http(_)) => {}
        None => node.message_log.line(&[session.label(), b" closed: ", why.as_bytes()]),
    }
}

/// A peer's socket is not a client's: it carries what many clients say, and does not count as one.
fn become_link(connection: &mut Connection, limits: &Limits, link_buffer: usize) {
    // The kernel doubles what it is asked for; a quarter each leaves room for what is put together.
    let socket = SockRef::from(&connection.stream);
    set_options(&socket, link_buffer / 4, link_buffer / 4, limits.tcp_keepalive);
}

const fn token(key: usize, generation: u32) -> Token {
    Token((generation as usize) << 32 | key)
}

const fn key(token: Token) -> (usize, u32) {
    (token.0 & u32::MAX as usize, (token.0 >> 32) as u32)
}
