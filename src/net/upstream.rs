//! The sockets of the places client: resolving, connecting, TLS. What is asked, and on which
//! connection, the client decides; see the call order in [`crate::places::upstream`].

mod socket;

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use slab::Slab;
use socket::Socket;

use crate::config::Server;
use crate::endpoint::{Host, Url};
use crate::limits::{ATTEMPT_DELAY, MAX_ATTEMPTS, READ_CHUNK, UPSTREAM_READS_PER_TURN};
use crate::places::http::Eof;
use crate::places::upstream::{Client, ConnId, TransportError};

/// The bit that tells the tokens of these sockets from those of clients and peers.
const MARK: usize = 1 << (usize::BITS - 1);

/// The sockets of the places client.
pub struct Upstream {
    url: Url,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    sockets: Slab<Box<Socket>>,
    generation: u32,
    /// Connections that are being made.
    connecting: HashMap<ConnId, Connecting>,
    /// Connections that wait for the host's addresses. One question serves them all: the resolver
    /// answers one after the other, and each would be later than the last.
    nameless: Vec<ConnId>,
    /// That question is under way.
    looking_up: bool,
    /// Connections that did not come about: each next one begins at another address.
    failed: usize,
    /// The socket of a connection that stands.
    open: HashMap<ConnId, Token>,
    /// Sockets that had more to say than a turn allows.
    again: VecDeque<Token>,
    inbound: Vec<u8>,
    request: Vec<u8>,
}

/// A connection in the making: addresses are tried one after the other, each with a head start
/// (RFC 8305, section 5). The race ends when TLS stands, not when TCP does: a kernel takes
/// connections also for a server that is stuck, or that is the wrong one.
struct Connecting {
    addresses: VecDeque<SocketAddr>,
    /// When the next address is tried though the last attempt goes on.
    next_at: Option<Duration>,
    attempts: Vec<Token>,
    trouble: Option<TransportError>,
}

impl Connecting {
    /// An attempt has failed. What is told in the end is of the attempt that came furthest.
    fn note(&mut self, trouble: TransportError) {
        if !matches!(
            (&self.trouble, &trouble),
            (Some(TransportError::Tls(_)), TransportError::Connect(_))
        ) {
            self.trouble = Some(trouble);
        }
    }
}

impl Upstream {
    /// The sockets toward `server`.
    ///
    /// # Errors
    ///
    /// Where the extra authority cannot be read, or holds no certificate.
    pub fn new(server: &Server) -> io::Result<Self> {
        let url = server.url.clone();
        let tls = if url.tls {
            let name = match &url.host {
                Host::Address(address) => ServerName::from(*address),
                Host::Name(name) => ServerName::try_from(name.clone())
                    .map_err(|_| io::Error::other(format!("{name} is no host name for TLS")))?,
            };
            Some((Arc::new(tls_config(server.ca_file.as_deref())?), name))
        } else {
            None
        };
        Ok(Self {
            url,
            tls,
            sockets: Slab::new(),
            generation: 0,
            connecting: HashMap::new(),
            nameless: Vec::new(),
            looking_up: false,
            failed: 0,
            open: HashMap::new(),
            again: VecDeque::new(),
            inbound: vec![0; READ_CHUNK],
            request: Vec::new(),
        })
    }

    /// Whether `token` is of one of these sockets.
    #[must_use]
    pub const fn owns(token: Token) -> bool {
        token.0 & MARK != 0
    }

    /// Whether a turn should come at once.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.again.is_empty()
    }

    /// When [`Upstream::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.connecting.values().filter_map(|connecting| connecting.next_at).min()
    }

    /// Gives the next address its turn where the last has taken too long.
    pub fn handle_timeout(&mut self, registry: &Registry, client: &mut Client, now: Duration) {
        let due = |(id, connecting): (&ConnId, &Connecting)| {
            connecting.next_at.is_some_and(|at| at <= now).then_some(*id)
        };
        let due: Vec<ConnId> = self.connecting.iter().filter_map(due).collect();
        for id in due {
            self.attempt(id, registry, client, now);
        }
        for _ in 0..self.again.len() {
            let Some(token) = self.again.pop_front() else { break };
            if let Some(socket) = self.get(token) {
                socket.again = false;
            }
            self.serve(token, registry, client, now);
        }
    }

    /// Does what the client wants done with connections. What is to be looked up is handed to
    /// `look_up`; its answer comes to [`Upstream::resolved`].
    pub fn poll(
        &mut self,
        registry: &Registry,
        client: &mut Client,
        now: Duration,
        mut look_up: impl FnMut(&Host, u16) -> io::Result<Option<SocketAddr>>,
    ) {
        // What fails at once may be wanted on another connection, and no event comes for it.
        while self.poll_once(registry, client, now, &mut look_up) {}
    }

    /// Returns whether there was anything to do.
    fn poll_once(
        &mut self,
        registry: &Registry,
        client: &mut Client,
        now: Duration,
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
                self.nameless.push(id);
                continue;
            }
            match look_up(&self.url.host, self.url.port) {
                Ok(Some(address)) => self.connect(id, vec![address], registry, client, now),
                Ok(None) => {
                    self.looking_up = true;
                    self.nameless.push(id);
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
                socket.output.extend_from_slice(&request);
                self.serve(token, registry, client, now);
            }
            request.clear();
        }
        self.request = request;
        busy
    }

    /// The resolver's answer, for all connections that wait for it.
    pub fn resolved(
        &mut self,
        addresses: io::Result<Vec<SocketAddr>>,
        registry: &Registry,
        client: &mut Client,
        now: Duration,
    ) {
        let addresses = match addresses {
            Ok(addresses) if addresses.is_empty() => Err("it has no address".to_owned()),
            Ok(addresses) => Ok(alternate(&addresses)),
            Err(error) => Err(error.to_string()),
        };
        self.looking_up = false;
        for id in std::mem::take(&mut self.nameless) {
            match &addresses {
                Ok(addresses) => self.connect(id, addresses.clone(), registry, client, now),
                Err(why) => client.handle_failed(id, &TransportError::Resolve(why.clone()), now),
            }
        }
    }

    fn connect(
        &mut self,
        id: ConnId,
        mut addresses: Vec<SocketAddr>,
        registry: &Registry,
        client: &mut Client,
        now: Duration,
    ) {
        client.handle_resolved(id);
        let first = self.failed % addresses.len().max(1);
        addresses.rotate_left(first);
        let addresses = addresses.into_iter().take(MAX_ATTEMPTS).collect();
        let (next_at, attempts, trouble) = (None, Vec::new(), None);
        self.connecting.insert(id, Connecting { addresses, next_at, attempts, trouble });
        self.attempt(id, registry, client, now);
    }

    /// Tries the next address, and the one behind it where that fails at once.
    fn attempt(&mut self, id: ConnId, registry: &Registry, client: &mut Client, now: Duration) {
        loop {
            let Some(connecting) = self.connecting.get_mut(&id) else { return };
            let Some(address) = connecting.addresses.pop_front() else {
                connecting.next_at = None;
                if connecting.attempts.is_empty() {
                    let trouble = connecting.trouble.take();
                    let trouble =
                        trouble.unwrap_or(TransportError::Connect("no address is left".into()));
                    self.connecting.remove(&id);
                    self.failed = self.failed.wrapping_add(1);
                    client.handle_failed(id, &trouble, now);
                }
                return;
            };
            match self.dial(id, address, registry) {
                Ok(token) => {
                    if let Some(connecting) = self.connecting.get_mut(&id) {
                        connecting.attempts.push(token);
                        let more = !connecting.addresses.is_empty();
                        connecting.next_at = more.then_some(now + ATTEMPT_DELAY);
                    }
                    return;
                }
                Err(error) => {
                    if let Some(connecting) = self.connecting.get_mut(&id) {
                        connecting.note(TransportError::Connect(format!("{address}: {error}")));
                    }
                }
            }
        }
    }

    fn dial(&mut self, id: ConnId, address: SocketAddr, registry: &Registry) -> io::Result<Token> {
        let mut stream = TcpStream::connect(address)?;
        self.generation = (self.generation + 1) & (u32::MAX >> 2);
        let entry = self.sockets.vacant_entry();
        let token = Token(MARK | (self.generation as usize) << 32 | entry.key());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        // Requests are small and wanted now; where it cannot be set they still arrive.
        let _ = stream.set_nodelay(true);
        entry.insert(Box::new(Socket::new(stream, self.generation, id)));
        Ok(token)
    }

    /// Something may have become of a socket.
    pub fn handle_event(
        &mut self,
        event: &Event,
        registry: &Registry,
        client: &mut Client,
        now: Duration,
    ) {
        let Some(socket) = self.get(event.token()) else { return };
        let over = event.is_error() || event.is_read_closed();
        socket.readable |= event.is_readable() || over;
        socket.writable |= event.is_writable() || over;
        self.serve(event.token(), registry, client, now);
    }

    fn serve(&mut self, token: Token, registry: &Registry, client: &mut Client, now: Duration) {
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
        let tls = self.tls.clone();
        let Some(socket) = self.get(token) else { return };
        if !socket.ready {
            match socket.finish_handshake(tls) {
                Ok(false) => return,
                Ok(true) => {
                    self.first_ready(token, id);
                    client.handle_connected(id, now);
                    // What came of that is polled by the caller.
                }
                Err(error) => {
                    let trouble = TransportError::Tls(error.to_string());
                    return self.attempt_failed(token, id, trouble, registry, client, now);
                }
            }
        }
        self.exchange(token, id, client, now);
    }

    /// Of several attempts one is first: the others are dropped.
    fn first_ready(&mut self, token: Token, id: ConnId) {
        if let Some(connecting) = self.connecting.remove(&id) {
            for other in connecting.attempts {
                if other != token {
                    self.drop_socket(other);
                }
            }
        }
        self.open.insert(id, token);
    }

    fn attempt_failed(
        &mut self,
        token: Token,
        id: ConnId,
        trouble: TransportError,
        registry: &Registry,
        client: &mut Client,
        now: Duration,
    ) {
        self.drop_socket(token);
        if let Some(connecting) = self.connecting.get_mut(&id) {
            connecting.attempts.retain(|&attempt| attempt != token);
            connecting.note(trouble);
            self.attempt(id, registry, client, now);
        }
    }

    /// Sends requests and hands responses to the client.
    fn exchange(&mut self, token: Token, id: ConnId, client: &mut Client, now: Duration) {
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
        if !std::mem::replace(&mut socket.again, true) {
            self.again.push_back(token);
        }
    }

    /// The client has no use for a connection.
    fn close(&mut self, id: ConnId) {
        self.nameless.retain(|&nameless| nameless != id);
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

    fn get(&mut self, token: Token) -> Option<&mut Socket> {
        let socket = self.sockets.get_mut(key(token))?;
        let generation = ((token.0 & !MARK) >> 32) as u32;
        (socket.generation == generation).then_some(&mut **socket)
    }
}

const fn key(token: Token) -> usize {
    token.0 & u32::MAX as usize
}

/// Addresses of the two families in turn, the resolver's first one first (RFC 8305, section 4).
fn alternate(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first);
    let mut order = Vec::with_capacity(addresses.len());
    while order.len() < addresses.len() {
        order.extend(one.pop_front());
        order.extend(other.pop_front());
    }
    order
}

/// Mozilla's authorities, and those of `ca_file`. Certificates are always verified; there is no
/// switch. Sessions are resumed (RFC 8446, section 2.2) from rustls's bounded memory of tickets.
fn tls_config(ca_file: Option<&Path>) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca_file {
        let located = |why: String| {
            io::Error::other(format!(
                "places.ca_file {}: {why}; name a PEM file of certificates",
                path.display()
            ))
        };
        let mut found = 0;
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|error| located(error.to_string()))?
        {
            let certificate = certificate.map_err(|error| located(error.to_string()))?;
            roots.add(certificate).map_err(|error| located(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(located("it holds no certificate".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use mio::{Events, Poll};

    use super::*;
    use crate::limits::PlacesLimits;
    use crate::places::geo::Point;
    use crate::places::providers::Provider;
    use crate::places::upstream::Settings;
    use crate::places::{Question, Ticket};

    const NOW: Duration = Duration::ZERO;
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"elements\":[]}";

    /// The next events, which must come.
    fn wait(poll: &mut Poll) -> Events {
        let mut events = Events::with_capacity(8);
        poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        assert!(!events.is_empty(), "nothing happens");
        events
    }

    fn ask(client: &mut Client, ticket: u64, radius_m: f64) {
        let question = Question { center: Point { lat: 1.0, lng: 2.0 }, radius_m };
        client.ask(Ticket(ticket), question, 5, NOW, &mut Vec::new());
    }

    /// No event comes for a connection that has failed while it was written to: what becomes of
    /// its request is decided in the same turn.
    #[test]
    fn a_request_that_cannot_be_written_goes_elsewhere_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url: Url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let mut upstream = Upstream::new(&Server { url: url.clone(), ca_file: None }).unwrap();
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
                stream.read_exact(&mut [0]).unwrap(); // nobody answers before being asked
                stream.write_all(ANSWER).unwrap();
                served = Some(stream);
            }
        }

        // A reset that has arrived, and that nobody has looked at yet.
        let served = served.unwrap();
        socket2::SockRef::from(&served).set_linger(Some(Duration::ZERO)).unwrap();
        drop(served);
        wait(&mut poll);
        ask(&mut client, 2, 20.0);
        upstream.poll(poll.registry(), &mut client, NOW, look_up);
        assert_eq!(client.stats().retries, 1);
        assert_eq!(upstream.connecting.len(), 1, "nobody makes the second connection");
    }

    #[test]
    fn families_take_turns() {
        let addresses: Vec<SocketAddr> =
            ["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        let order: Vec<String> = alternate(&addresses).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert!(alternate(&[]).is_empty());
    }
}
