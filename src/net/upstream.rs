//! The sockets of a client, that of the places provider or the feed: name resolution, connecting, TLS.
//! The client decides what is sent on which connection; see [`Dialogue`], and the call order in
//! [`crate::places::upstream`].

mod dialogue;
mod race;
mod socket;
mod tls;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;

pub use dialogue::Dialogue;
use mio::event::Event;
use mio::{Registry, Token};
use race::{Connecting, alternate};
use rustls::pki_types::ServerName;
use slab::Slab;
use socket::Socket;
pub use tls::ServerTls;

use crate::endpoint::{Host, Url};
use crate::net::limits::{READ_CHUNK, UPSTREAM_READS_PER_TURN};
use crate::places::http::Eof;
use crate::places::upstream::TransportError;
use crate::time::Instant;

/// The bits that distinguish the tokens of these sockets from those of clients and peers.
const MARKS: usize = 3 << (usize::BITS - 2);

/// Whose sockets they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The client of the places provider.
    Places,
    /// The feed.
    Feed,
}

impl Owner {
    /// The owner of the socket with this token; `None` for the token of a client or a peer.
    #[must_use]
    pub const fn of(token: Token) -> Option<Self> {
        match token.0 >> (usize::BITS - 2) {
            2 => Some(Self::Places),
            3 => Some(Self::Feed),
            _ => None,
        }
    }

    const fn mark(self) -> usize {
        let mark = match self {
            Self::Places => 2,
            Self::Feed => 3,
        };
        mark << (usize::BITS - 2)
    }
}

/// The sockets of a client.
pub struct Upstream<D: Dialogue> {
    owner: Owner,
    url: Url,
    tls: Option<(ServerTls, ServerName<'static>)>,
    sockets: Slab<Box<Socket<D::Id>>>,
    generation: u32,
    /// Connections that are being established.
    connecting: HashMap<D::Id, Connecting>,
    /// Connections that wait for the host's addresses. One look-up serves them all: the resolver works
    /// sequentially, so a look-up for each would make every connection later than the one before.
    awaiting_dns: Vec<D::Id>,
    /// True while that look-up is under way.
    looking_up: bool,
    /// Connections that failed. Each next one starts with another address.
    failed: usize,
    /// The sockets of established connections.
    open: HashMap<D::Id, Token>,
    /// Sockets that had more input than a turn allows.
    ready_queue: VecDeque<Token>,
    inbound: Vec<u8>,
    request: Vec<u8>,
}

impl<D: Dialogue> Upstream<D> {
    /// The sockets for connections to the host and port of `url`. `load` returns the TLS settings.
    ///
    /// # Errors
    ///
    /// Those of `load`, or the host is not a valid name.
    pub fn new(
        owner: Owner,
        url: Url,
        load: impl FnOnce() -> io::Result<ServerTls>,
    ) -> io::Result<Self> {
        let tls = if url.tls {
            let name = match &url.host {
                Host::Address(address) => ServerName::from(*address),
                Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| {
                    io::Error::other(format!("{name} is not a valid host name for TLS"))
                })?,
            };
            Some((load()?, name))
        } else {
            None
        };
        Ok(Self {
            owner,
            url,
            tls,
            sockets: Slab::new(),
            generation: 0,
            connecting: HashMap::new(),
            awaiting_dns: Vec::new(),
            looking_up: false,
            failed: 0,
            open: HashMap::new(),
            ready_queue: VecDeque::new(),
            inbound: vec![0; READ_CHUNK],
            request: Vec::new(),
        })
    }

    /// The TLS settings, if the URL is an `https` one.
    #[must_use]
    pub const fn tls(&self) -> Option<&ServerTls> {
        match &self.tls {
            Some((tls, _)) => Some(tls),
            None => None,
        }
    }

    /// Replaces the TLS settings. Connections that exist keep theirs.
    pub fn set_tls(&mut self, fresh: ServerTls) {
        if let Some((tls, _)) = &mut self.tls {
            *tls = fresh;
        }
    }

    /// Returns true if a turn should follow at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.ready_queue.is_empty()
    }

    /// The next time to call [`Upstream::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let attempts = self.connecting.values().filter_map(|connecting| connecting.next_at);
        let pauses = self.sockets.iter().filter_map(|(_, socket)| socket.resume_at);
        attempts.chain(pauses).min()
    }

    /// Tries the next address if the last attempt takes long, and serves the sockets that are queued.
    pub fn handle_timeout(&mut self, registry: &Registry, client: &mut D, now: Instant) {
        let due = |(id, connecting): (&D::Id, &Connecting)| {
            connecting.next_at.is_some_and(|at| at <= now).then_some(*id)
        };
        let due: Vec<D::Id> = self.connecting.iter().filter_map(due).collect();
        for id in due {
            self.attempt(id, registry, client, now);
        }
        for key in 0..self.sockets.capacity() {
            let Some(socket) = self.sockets.get(key) else { continue };
            if socket.resume_at.is_none_or(|at| at > now) {
                continue;
            }
            let token = Token(self.owner.mark() | (socket.generation as usize) << 32 | key);
            if let Some(socket) = self.get(token) {
                socket.readable = true;
            }
            self.serve(token, registry, client, now);
        }
        for _ in 0..self.ready_queue.len() {
            let Some(token) = self.ready_queue.pop_front() else { break };
            if let Some(socket) = self.get(token) {
                socket.queued = false;
            }
            self.serve(token, registry, client, now);
        }
    }

    /// Opens, closes and writes to connections as the client asks. `look_up` returns an address that is
    /// known, or starts a look-up whose result is passed to [`Upstream::resolved`].
    pub fn poll(
        &mut self,
        registry: &Registry,
        client: &mut D,
        now: Instant,
        mut look_up: impl FnMut(&Host, u16) -> io::Result<Option<SocketAddr>>,
    ) {
        // After an immediate failure the client may want another connection, and no event comes.
        while self.poll_once(registry, client, now, &mut look_up) {}
    }

    /// Returns true if there was anything to do.
    fn poll_once(
        &mut self,
        registry: &Registry,
        client: &mut D,
        now: Instant,
        look_up: &mut impl FnMut(&Host, u16) -> io::Result<Option<SocketAddr>>,
    ) -> bool {
        let mut busy = false;
        while let Some(id) = client.poll_close() {
            busy = true;
            self.close(id);
        }
        while let Some(id) = client.poll_connect() {
            busy = true;
            if self.looking_up {
                self.awaiting_dns.push(id);
                continue;
            }
            match look_up(&self.url.host, self.url.port) {
                Ok(Some(address)) => self.connect(id, vec![address], registry, client, now),
                Ok(None) => {
                    self.looking_up = true;
                    self.awaiting_dns.push(id);
                }
                Err(error) => {
                    client.handle_failed(id, &TransportError::Resolve(error.to_string()), now);
                }
            }
        }
        let mut request = std::mem::take(&mut self.request);
        while let Some(id) = client.poll_output(&mut request) {
            busy = true;
            if let Some(&token) = self.open.get(&id)
                && let Some(socket) = self.get(token)
            {
                socket.push(&mut request);
                self.serve(token, registry, client, now);
            }
            request.clear();
        }
        self.request = request;
        busy
    }

    /// Takes the result of the look-up, for all connections that wait for it.
    pub fn resolved(
        &mut self,
        addresses: io::Result<Vec<SocketAddr>>,
        registry: &Registry,
        client: &mut D,
        now: Instant,
    ) {
        let addresses = match addresses {
            Ok(addresses) if addresses.is_empty() => Err("the name has no address".to_owned()),
            Ok(addresses) => Ok(alternate(&addresses)),
            Err(error) => Err(error.to_string()),
        };
        self.looking_up = false;
        for id in std::mem::take(&mut self.awaiting_dns) {
            match &addresses {
                Ok(addresses) => self.connect(id, addresses.clone(), registry, client, now),
                Err(why) => client.handle_failed(id, &TransportError::Resolve(why.clone()), now),
            }
        }
    }

    /// Handles an event of a socket.
    pub fn handle_event(
        &mut self,
        event: &Event,
        registry: &Registry,
        client: &mut D,
        now: Instant,
    ) {
        let Some(socket) = self.get(event.token()) else { return };
        let over = event.is_error() || event.is_read_closed();
        socket.readable |= event.is_readable() || over;
        socket.writable |= event.is_writable() || over;
        socket.ended |= over;
        self.serve(event.token(), registry, client, now);
    }

    fn serve(&mut self, token: Token, registry: &Registry, client: &mut D, now: Instant) {
        self.serve_ready(token, registry, client, now);
        let Some(socket) = self.get(token).filter(|socket| socket.ready) else { return };
        let pause = client.pause().filter(|_| socket.is_flushed());
        if let Err(error) = socket.pause(pause.map(|pause| now + pause), registry, token) {
            let id = socket.connection;
            self.drop_socket(token);
            client.handle_failed(id, &TransportError::Io(error.to_string()), now);
        }
    }

    fn serve_ready(&mut self, token: Token, registry: &Registry, client: &mut D, now: Instant) {
        let Some(socket) = self.get(token) else { return };
        let id = socket.connection;
        if !socket.connected {
            match socket.finish_connect() {
                Ok(false) => return,
                Ok(true) => {}
                Err(error) => {
                    let trouble = TransportError::Connect(error.to_string());
                    return self.attempt_failed(token, id, trouble, registry, client, now);
                }
            }
        }
        let tls = self.tls.as_ref().map(|(tls, name)| (tls.config(), name.clone()));
        let Some(socket) = self.get(token) else { return };
        if !socket.ready {
            match socket.finish_handshake(tls) {
                Ok(false) => return,
                Ok(true) => {
                    self.first_ready(token, id);
                    client.handle_connected(id, now);
                    // The caller polls the client afterwards.
                }
                Err(error) => {
                    let trouble = TransportError::Tls(error.to_string());
                    return self.attempt_failed(token, id, trouble, registry, client, now);
                }
            }
        }
        self.transfer(token, id, client, now);
    }

    /// Sends requests, and passes responses to the client.
    fn transfer(&mut self, token: Token, id: D::Id, client: &mut D, now: Instant) {
        let Self { sockets, inbound, .. } = self;
        let Some(socket) = sockets.get_mut(key(token)) else { return };
        if let Err(error) = socket.send() {
            self.drop_socket(token);
            return client.handle_failed(id, &TransportError::Io(error.to_string()), now);
        }
        for _ in 0..UPSTREAM_READS_PER_TURN {
            if !socket.readable {
                return;
            }
            match socket.receive(inbound) {
                Ok(0) => {
                    self.drop_socket(token);
                    return client.handle_eof(id, Eof::Clean, now);
                }
                Ok(read) => client.handle_input(id, &inbound[..read], now),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        socket.readable = false;
                        return;
                    }
                    io::ErrorKind::Interrupted => {}
                    kind => {
                        self.drop_socket(token);
                        return match kind {
                            io::ErrorKind::UnexpectedEof => client.handle_eof(id, Eof::Abrupt, now),
                            io::ErrorKind::InvalidData => {
                                client.handle_failed(
                                    id,
                                    &TransportError::Tls(error.to_string()),
                                    now,
                                );
                            }
                            _ => client.handle_failed(
                                id,
                                &TransportError::Io(error.to_string()),
                                now,
                            ),
                        };
                    }
                },
            }
        }
        if !std::mem::replace(&mut socket.queued, true) {
            self.ready_queue.push_back(token);
        }
    }

    /// Closes a connection that the client does not need.
    fn close(&mut self, id: D::Id) {
        self.awaiting_dns.retain(|&waiting| waiting != id);
        if let Some(connecting) = self.connecting.remove(&id) {
            self.failed = self.failed.wrapping_add(1);
            for token in connecting.attempts {
                self.drop_socket(token);
            }
        }
        if let Some(&token) = self.open.get(&id) {
            if let Some(socket) = self.get(token) {
                socket.end();
            }
            self.drop_socket(token);
        }
    }

    fn drop_socket(&mut self, token: Token) {
        if self.get(token).is_some() {
            let socket = self.sockets.remove(key(token));
            if self.open.get(&socket.connection) == Some(&token) {
                self.open.remove(&socket.connection);
            }
        }
    }

    fn get(&mut self, token: Token) -> Option<&mut Socket<D::Id>> {
        let socket = self.sockets.get_mut(key(token))?;
        let generation = ((token.0 & !MARKS) >> 32) as u32;
        (socket.generation == generation).then_some(&mut **socket)
    }
}

const fn key(token: Token) -> usize {
    token.0 & u32::MAX as usize
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;
    use crate::geo::Point;
    use crate::limits::PlacesLimits;
    use crate::places::providers::Provider;
    use crate::places::upstream::{Client, Settings};
    use crate::places::{Question, Ticket};

    const NOW: Instant = Instant::START;
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"elements\":[]}";

    /// Waits for the next events.
    fn wait(poll: &mut Poll) -> Events {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty(), "no event within 10 s");
        events
    }

    fn ask(client: &mut Client, ticket: u64, radius_m: f64) {
        let question = Question { center: Point { lat: 1.0, lng: 2.0 }, radius_m };
        client.ask(Ticket(ticket), question, 5, NOW, &mut Vec::new());
    }

    /// No event follows when a connection fails during a write, so its request is retried in the same
    /// turn.
    #[test]
    fn a_request_that_cannot_be_written_goes_elsewhere_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let load = || unreachable!("the URL is not an https one");
        let mut upstream = Upstream::new(Owner::Places, url.clone(), load).unwrap();
        let limits = PlacesLimits::default();
        let provider = Provider::Overpass;
        let mut client = Client::new(Settings { provider, url, key: None, limits, seed: 0 });
        let mut poll = Poll::new().unwrap();
        let look_up = |host: &Host, port| match host {
            Host::Address(address) => Ok(Some(SocketAddr::new(*address, port))),
            Host::Name(_) => Ok(None),
        };

        ask(&mut client, 1, 10.0);
        upstream.poll(poll.registry(), &mut client, NOW, look_up);
        let mut served = None;
        while client.stats().answered == 0 {
            for event in &wait(&mut poll) {
                upstream.handle_event(event, poll.registry(), &mut client, NOW);
            }
            upstream.poll(poll.registry(), &mut client, NOW, look_up);
            client.poll_answer(&mut Vec::new());
            if client.stats().requests == 1 && served.is_none() {
                let mut stream = listener.accept().unwrap().0;
                stream.read_exact(&mut [0]).unwrap(); // respond to a request, not to a connection
                stream.write_all(ANSWER).unwrap();
                served = Some(stream);
            }
        }

        // A reset that has arrived and has not been read yet.
        let served = served.unwrap();
        socket2::SockRef::from(&served).set_linger(Some(Duration::ZERO)).unwrap();
        drop(served);
        wait(&mut poll);
        ask(&mut client, 2, 20.0);
        upstream.poll(poll.registry(), &mut client, NOW, look_up);
        assert_eq!(client.stats().retries, 1);
        assert_eq!(upstream.connecting.len(), 1, "a second connection is being established");
    }

    /// A client that sends once, and reads what has arrived by the end of a pause.
    #[derive(Default)]
    struct Pausing {
        connect: bool,
        output: Vec<u8>,
        input: Vec<u8>,
        pauses: bool,
    }

    impl Dialogue for Pausing {
        type Id = u8;

        fn poll_close(&mut self) -> Option<u8> {
            None
        }

        fn poll_connect(&mut self) -> Option<u8> {
            std::mem::take(&mut self.connect).then_some(1)
        }

        fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<u8> {
            out.append(&mut self.output);
            (!out.is_empty()).then_some(1)
        }

        fn pause(&self) -> Option<Duration> {
            self.pauses.then_some(Duration::from_millis(4))
        }

        fn handle_resolved(&mut self, _: u8) {}

        fn handle_connected(&mut self, _: u8, _: Instant) {
            self.output = b"question".to_vec();
        }

        fn handle_input(&mut self, _: u8, bytes: &[u8], _: Instant) {
            self.input.extend_from_slice(bytes);
        }

        fn handle_eof(&mut self, _: u8, _: Eof, _: Instant) {}

        fn handle_failed(&mut self, _: u8, error: &TransportError, _: Instant) {
            panic!("{error:?}");
        }
    }

    #[test]
    fn what_arrives_in_a_pause_is_read_at_its_end_and_causes_no_event() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let url: Url = format!("http://{address}").parse().unwrap();
        let load = || unreachable!("the URL is not an https one");
        let mut upstream = Upstream::new(Owner::Feed, url, load).unwrap();
        let mut client = Pausing { connect: true, pauses: true, ..Pausing::default() };
        let mut poll = Poll::new().unwrap();
        let look_up = |_: &Host, _| Ok(Some(address));
        upstream.poll(poll.registry(), &mut client, NOW, look_up);
        while upstream.open.is_empty() {
            for event in &wait(&mut poll) {
                upstream.handle_event(event, poll.registry(), &mut client, NOW);
            }
        }
        upstream.poll(poll.registry(), &mut client, NOW, look_up);
        let mut server = listener.accept().unwrap().0;
        let mut question = [0; 8];
        server.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");

        let end = NOW + Duration::from_millis(4);
        let mut events = Events::with_capacity(8);
        server.write_all(b"one ").unwrap();
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        assert!(events.is_empty(), "it is not registered");
        assert_eq!(upstream.poll_timeout(), Some(end));
        upstream.handle_timeout(poll.registry(), &mut client, NOW);
        assert!(client.input.is_empty());
        upstream.handle_timeout(poll.registry(), &mut client, end);
        assert_eq!(client.input, b"one ");
        assert_eq!(upstream.poll_timeout(), Some(end + Duration::from_millis(4)));

        // Without pauses, what arrives is an event, even if it has arrived before.
        server.write_all(b"two").unwrap();
        client.pauses = false;
        client.output = b"question".to_vec();
        upstream.poll(poll.registry(), &mut client, end, look_up);
        assert_eq!(upstream.poll_timeout(), None);
        while client.input != b"one two" {
            for event in &wait(&mut poll) {
                upstream.handle_event(event, poll.registry(), &mut client, end);
            }
        }
    }

    #[test]
    fn tokens_show_whose_socket_it_is() {
        assert_eq!(Owner::of(Token(Owner::Places.mark())), Some(Owner::Places));
        assert_eq!(Owner::of(Token(Owner::Feed.mark() | 7)), Some(Owner::Feed));
        assert_eq!(Owner::of(Token(7)), None);
    }
}
