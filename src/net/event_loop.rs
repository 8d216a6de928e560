//! The event loop: one thread that waits for readiness and moves bytes between sockets and the
//! core. It knows no command.
//!
//! # A turn
//!
//! 0. **Wait** for events. They set flags on connections; see [`Readiness`].
//! 1. **Receive**: read the connections that are ready, in batches of up to
//!    [`BATCH_BYTES`](crate::net::limits::BATCH_BYTES).
//! 2. **Execute** the batch. The records that its first commands need are prefetched together, so
//!    that the cache misses of different connections overlap.
//! 3. **Commit**: all that must have happened before a reply may leave, once before each send. The
//!    records that the batch has changed are written to the log of the storage.
//! 4. **Send** the replies of the batch, and decide what to do with its connections.
//! 5. Accept connections; dial the neighbors whose names have been resolved; drive the places client
//!    and pass on its answers; run the herd's timers and perform its actions; send the output of
//!    links, and wake subscribers; handle deadlines; drive the storage; write the log.
//!
//! Phases 1 to 4 run for the connections that an event was about, then for those in the run queue:
//! they had more to do than the turn before allowed, or something that they waited for has happened.
//! Within phase 5, they run for new connections.
//!
//! [`Readiness`]: super::connection::Readiness

mod accept;
mod admissions;
mod batch;
mod close;
mod collected;
mod devices;
mod feed;
mod link_port;
mod links;
mod original_servers;
mod places;
mod reason;
mod reload;
mod report;
mod run_queue;
mod serve;
mod shutdown;
mod storage;
mod subscribers;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::clock::Clock;
use super::connection::{Connection, Stage};
use super::disk::Disk;
use super::feed::{FeedDriver, Prepared};
use super::folder::Folder;
use super::listener::{Listener, ListenerKind};
use super::log_file::Log;
use super::peer_tls::PeerTlsConfig;
use super::process::Process;
use super::reload::Reload;
use super::resolver::Resolver;
use super::signals::Signals;
use super::timers::Timers;
use super::token::{
    self, DEVICE_LISTENER, HTTP_LISTENER, LINK_LISTENER, LISTENER, SIGNALS, WAKER, next_generation,
};
use super::upstream::{Owner, Upstream};
use crate::herd::directory::MAX_RECORD;
use crate::http::Server;
use crate::ids::LinkId;
use crate::limits::Limits;
use crate::net::limits::{EVENTS_PER_TURN, GIVE_UP_BEFORE_END, READ_CHUNK};
use crate::node::Node;
use crate::places::upstream::Client;
use crate::storage::Position;
use crate::time::{Instant, Now};

use admissions::Admissions;
use batch::Batch;
use collected::Collected;
pub use devices::DeviceSide;
pub use links::Neighbor;
use links::become_link;
use report::Telemetry;
use run_queue::RunQueue;

/// The loop and everything it drives.
pub struct EventLoop {
    poll: Poll,
    clock: Clock,
    node: Node,
    http: Server,
    /// The listener for devices, if the node has one.
    devices: Option<Box<DeviceSide>>,
    limits: Limits,
    listeners: Vec<(ListenerKind, Listener)>,
    /// The time to accept again after descriptors ran out.
    accept_at: Option<Instant>,
    signals: Signals,
    resolver: Resolver<LinkId>,
    /// A thread of its own: the look-up of a neighbor's name may take a minute to fail.
    places_resolver: Resolver<()>,
    /// One for each link of the herd.
    neighbors: Vec<Neighbor>,
    upstream: Option<Upstream<Client>>,
    feed: Option<FeedDriver>,
    /// The files of the storage, if the node has one.
    disk: Option<Disk>,
    /// Connections whose output waits for the disk, the least position first.
    gated: BinaryHeap<Reverse<(Position, Token)>>,
    /// True once the storage has been told that the node stops.
    storage_stops: bool,
    /// Time of the next mark of the wall clock in the log.
    time_mark_at: Instant,
    peer_tls: Option<PeerTlsConfig>,
    /// The files that SIGHUP reloads.
    pub reload: Reload,
    link_buffer: usize,
    /// Boxed: a slab that grows moves pointers, and an empty slot costs one.
    connections: Slab<Box<Connection>>,
    /// The generation of the newest connection.
    generation: u32,
    admissions: Admissions,
    run: RunQueue,
    batch: Batch,
    timers: Timers,
    telemetry: Telemetry,
    /// The end of the shutdown, if it has begun.
    stop_at: Option<Instant>,
    collected: Collected,
}

/// Everything that this node connects to.
pub struct Outbound {
    /// The neighbors, one for each link of the herd.
    pub neighbors: Vec<Neighbor>,
    /// The sockets of the places client, if places come over the network.
    pub upstream: Option<Upstream<Client>>,
    /// The feed, if there is one.
    pub feed: Option<Prepared>,
    /// Keys and certificates, if links run over TLS.
    pub peer_tls: Option<PeerTlsConfig>,
    /// Most unsent bytes of a link, the kernel's buffers included.
    pub link_buffer: usize,
}

impl EventLoop {
    /// A loop around `node`, which does not listen yet.
    ///
    /// # Errors
    ///
    /// If descriptors or threads have run out.
    pub fn new(
        limits: Limits,
        node: Node,
        http: Server,
        outbound: Outbound,
        folder: Option<Folder>,
        log: Log,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        // Before a connection is possible: a client that has connected may expect signals to work.
        let signals = Signals::register(poll.registry(), SIGNALS)?;
        let disk = folder.map(|folder| Disk::start(folder, &waker)).transpose()?;
        let feed = outbound.feed.zip(disk.as_ref());
        let feed = feed.map(|(feed, disk)| FeedDriver::start(feed, disk.folder(), &waker));
        Ok(Self {
            clock: Clock::start(),
            listeners: Vec::new(),
            accept_at: None,
            devices: None,
            signals,
            disk,
            feed: feed.transpose()?,
            gated: BinaryHeap::new(),
            storage_stops: false,
            time_mark_at: Instant::START,
            resolver: Resolver::new(Arc::clone(&waker), outbound.neighbors.len()),
            places_resolver: Resolver::new(Arc::clone(&waker), 1),
            reload: Reload::new(waker),
            neighbors: outbound.neighbors,
            upstream: outbound.upstream,
            peer_tls: outbound.peer_tls,
            link_buffer: outbound.link_buffer,
            connections: Slab::new(),
            generation: 0,
            admissions: Admissions::default(),
            run: RunQueue::default(),
            batch: Batch::new(&limits, MAX_RECORD + READ_CHUNK),
            timers: Timers::default(),
            telemetry: Telemetry::new(log),
            stop_at: None,
            collected: Collected::default(),
            poll,
            node,
            http,
            limits,
        })
    }

    /// Listens for clients and neighbors on `address`.
    ///
    /// # Errors
    ///
    /// If the address is in use or not of this machine.
    pub fn serve_lines(&mut self, address: SocketAddr) -> io::Result<()> {
        self.listen(ListenerKind::Lines, LISTENER, address)?;
        // Clients and neighbors are accepted first: descriptors may run out.
        self.listeners.rotate_right(1);
        Ok(())
    }

    /// Listens for browsers and tools on `address` as well. They can read the metrics of `process`.
    ///
    /// # Errors
    ///
    /// As [`EventLoop::serve_lines`].
    pub fn serve_http(&mut self, address: SocketAddr, process: Process) -> io::Result<()> {
        self.telemetry.process = Some(process);
        self.listen(ListenerKind::Http, HTTP_LISTENER, address)
    }

    fn listen(&mut self, kind: ListenerKind, token: Token, address: SocketAddr) -> io::Result<()> {
        let listener = Listener::bind(address, &self.limits, self.poll.registry(), token)?;
        self.listeners.push((kind, listener));
        Ok(())
    }

    /// Runs until a signal ends it.
    ///
    /// # Errors
    ///
    /// If the kernel's readiness queue fails. There is no way to recover from that.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        let ended = loop {
            match self.turn(&mut events) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
        };
        self.finish();
        ended
    }

    /// One turn; see the module's documentation. Returns true if it was the last one.
    fn turn(&mut self, events: &mut Events) -> io::Result<bool> {
        self.wait(events)?;
        let now = self.clock.now();
        self.telemetry.woken = Some(now.instant);
        self.node.message_log.set_clock(now.wall.nanos());
        if let Some(store) = &mut self.node.store {
            store.storage.handle_wall(now.wall);
        }
        let queued = self.run.take();
        let Some(fresh) = self.handle_events(events, &now) else { return Ok(true) };
        self.handle_reloads(&now);
        self.finish_disk_tasks(&now);
        self.serve_fresh(fresh, &now);
        self.serve_queued(queued, &now);
        self.accept(&now);
        self.handle_lookups(&now);
        self.handle_places(&now);
        self.node.herd.handle_timeout(&now, self.collected.until());
        self.handle_actions(&now);
        self.flush_links(&now);
        self.log_herd_events();
        self.close_evicted(&now);
        self.wake_subscribers(&now);
        self.handle_deadlines(&now);
        self.resume_starved();
        self.drive_storage(&now);
        self.drive_feed(&now);
        self.write_log(now.instant);
        Ok(self.shutdown_complete(&now))
    }

    /// Waits for events, or only collects them if there is something to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let mut start = self.clock.instant();
        if let Some(woken) = self.telemetry.woken {
            self.telemetry.turns.observe(start.since(woken));
        }
        let mut timeout = self.timeout(start);
        loop {
            match self.poll.poll(events, timeout) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                Ok(()) if timeout == Some(Duration::ZERO) || !events.is_empty() => break,
                _ => {} // a timer is due, or the process was stopped: what has arrived since?
            }
            timeout = Some(Duration::ZERO);
            start = self.clock.instant();
        }
        self.collected.handle_poll(start, events.iter().count(), self.connections.len());
        Ok(())
    }

    /// Handles the events of a turn. Returns the connections that they are about, or `None` if a
    /// signal ends the node at once.
    fn handle_events(&mut self, events: &Events, now: &Now) -> Option<VecDeque<Token>> {
        let mut fresh = VecDeque::new();
        for event in events {
            match event.token() {
                LISTENER => self.handle_listener_event(ListenerKind::Lines),
                LINK_LISTENER => self.handle_listener_event(ListenerKind::Links),
                HTTP_LISTENER => self.handle_listener_event(ListenerKind::Http),
                DEVICE_LISTENER => self.handle_listener_event(ListenerKind::Devices),
                SIGNALS => {
                    if self.handle_signals(now) {
                        return None;
                    }
                }
                WAKER => {} // what woke the loop is polled later in the turn
                token => match Owner::of(token) {
                    None => self.handle_event(token, event, &mut fresh, now),
                    Some(Owner::Places) => {
                        let (upstream, client) = (&mut self.upstream, self.node.places.upstream());
                        if let (Some(upstream), Some(client)) = (upstream, client) {
                            upstream.handle_event(event, self.poll.registry(), client, now.instant);
                        }
                    }
                    Some(Owner::Feed) => {
                        if let Some(driver) = &mut self.feed {
                            driver.handle_event(event, self.poll.registry(), now.instant);
                        }
                    }
                },
            }
        }
        Some(fresh)
    }

    /// Serves the connections that events were about.
    fn serve_fresh(&mut self, fresh: VecDeque<Token>, now: &Now) {
        self.run.spent = 0;
        self.http.begin_turn(now.wall);
        if let Some(devices) = &mut self.devices {
            devices.shared.begin_turn(now.wall);
        }
        let left = self.serve(fresh, now);
        self.run.append(left);
    }

    /// Serves the connections that were in the run queue when the turn began. Those that are left
    /// come first in the next turn. Fresh connections have a budget of their own, or they could keep
    /// these waiting indefinitely.
    fn serve_queued(&mut self, queued: VecDeque<Token>, now: &Now) {
        self.run.spent = 0;
        self.http.begin_queue();
        if let Some(devices) = &mut self.devices {
            devices.shared.begin_queue();
        }
        let left = self.serve(queued, now);
        self.run.put_back(left);
    }

    /// The longest time that the kernel may be waited for.
    fn timeout(&mut self, now: Instant) -> Option<Duration> {
        if self.run.is_waiting()
            || self.upstream.as_ref().is_some_and(Upstream::has_more)
            || self.feed.as_ref().is_some_and(FeedDriver::has_more)
        {
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
            self.reload.poll_timeout(),
            self.telemetry.log_flush_at,
            self.node.store.as_ref().and_then(|store| store.storage.poll_timeout()),
            self.node.store.as_ref().map(|_| self.time_mark_at),
            self.feed
                .as_ref()
                .zip(self.node.store.as_ref())
                .and_then(|(driver, store)| driver.poll_timeout(&store.storage)),
            self.accept_at,
            self.stop_at,
            self.stop_at.and_then(|at| at.checked_sub(GIVE_UP_BEFORE_END)).filter(|&at| at > now),
        ];
        let next = next.into_iter().flatten().min()?;
        Some(next.since(now))
    }

    /// Handles signals. Returns true if the node ends at once.
    fn handle_signals(&mut self, now: &Now) -> bool {
        let asked = self.signals.take();
        if asked.reload {
            self.write_log(now.instant);
            self.telemetry.log.reopen();
            self.reload.request(now.instant);
        }
        if asked.report {
            self.report(now.instant);
        }
        if asked.stop {
            if self.stop_at.is_some() {
                return true; // the second request
            }
            self.stop(now);
        }
        false
    }

    fn tokens(&self) -> Vec<Token> {
        let connections = self.connections.iter();
        connections.map(|(key, connection)| token::token(key, connection.generation)).collect()
    }

    /// The connection of `token`, unless it has closed.
    fn get(&mut self, token: Token) -> Option<&mut Connection> {
        let (key, generation) = token::key(token);
        let connection = self.connections.get_mut(key)?;
        (connection.generation == generation).then_some(&mut **connection)
    }

    /// Has a connection served in the next turn, which comes at once.
    fn enqueue(&mut self, token: Token) {
        let (key, generation) = token::key(token);
        if let Some(connection) = self.connections.get_mut(key)
            && connection.generation == generation
        {
            self.run.push(connection, token);
        }
    }

    /// Takes the connection that `make` returns for its token into the loop.
    fn insert(&mut self, make: impl FnOnce(&mut Self, Token) -> Connection) -> io::Result<Token> {
        self.generation = next_generation(self.generation);
        let generation = self.generation;
        let token = token::token(self.connections.vacant_key(), generation);
        let mut connection = Box::new(make(self, token));
        connection.generation = generation;
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut connection.stream, token, both) {
            if let Stage::Open(session) = &mut connection.stage {
                let devices = self.devices.as_mut().map(|devices| &mut devices.shared);
                let now = self.clock.instant();
                session.handle_closed(&mut self.node, &mut self.http, devices, now);
            }
            return Err(error);
        }
        self.connections.insert(connection);
        Ok(token)
    }
}
