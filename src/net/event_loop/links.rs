//! Links: dialing neighbors, and sending the output of the herd.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Token;
use mio::net::TcpStream;
use socket2::SockRef;

use super::EventLoop;
use super::reason::{Reason, Reported};
use crate::endpoint::Host;
use crate::herd::handshake::{REQUIRES_TLS, Transport};
use crate::herd::{Action, CloseReason};
use crate::ids::LinkId;
use crate::limits::Limits;
use crate::net::connect::is_connected;
use crate::net::connection::{Connection, Dial, Security, Stage, set_options};
use crate::net::limits::{LINK_BUFFER, LINK_BYTES_PER_TURN};
use crate::net::session::Session;
use crate::net::tls::Tls;
use crate::net::token::{id_of, key, token_of};
use crate::node::{LineSession, Node};
use crate::time::Now;

/// The addresses of a neighbor, and the attempts to reach it.
pub struct Neighbor {
    pub(super) host: Host,
    port: u16,
    /// Its addresses by the last look-up.
    addresses: Vec<SocketAddr>,
    attempts: usize,
    /// True if it is dialed over TLS. While links without TLS are accepted, this follows from how the
    /// neighbor was reached last, or from its refusal.
    pub(super) over_tls: bool,
    /// The reasons for its absence that have been logged.
    pub(super) reported: Reported,
}

impl Neighbor {
    /// A neighbor at `host`, which is dialed over TLS from the start if `over_tls` is true.
    #[must_use]
    pub fn new(host: Host, port: u16, over_tls: bool) -> Self {
        let addresses = match host {
            Host::Address(address) => vec![SocketAddr::new(address, port)],
            Host::Name(_) => Vec::new(),
        };
        Self { host, port, addresses, attempts: 0, over_tls, reported: Reported::default() }
    }

    /// Its addresses by the last look-up; empty before the first.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|known| known.ip().to_canonical())
    }

    /// Returns true if it is known to have this address.
    pub(super) fn is_at(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.addresses().any(|known| known == address)
    }
}

impl EventLoop {
    /// Performs the actions of the herd: dial, close.
    pub(super) fn handle_actions(&mut self, now: &Now) {
        while let Some(action) = self.node.herd.poll_action() {
            match action {
                Action::Close { connection, reason } => {
                    self.close(token_of(connection), now, reason.as_str());
                }
                Action::Move { link, connection, port } => {
                    self.move_link(link, connection, port, now);
                }
                Action::Finish(connection) => {
                    self.begin_shutdown(token_of(connection), CloseReason::Moved.as_str(), now);
                }
                Action::Resume(connection) => self.enqueue(token_of(connection)),
                Action::Dial(_) if self.stop_at.is_some() => {}
                Action::Dial(link) => {
                    let neighbor = &self.neighbors[link.index()];
                    let (host, port) = (neighbor.host.clone(), neighbor.port);
                    match self.resolver.resolve(link, &host, port) {
                        Ok(Some(address)) => self.dial(link, address, now),
                        Ok(None) => {} // the look-up is under way
                        Err(error) => self.on_dial_failed(link, now, &Reason::from(&error)),
                    }
                }
            }
        }
    }

    /// Dials the neighbors whose names have been looked up.
    pub(super) fn handle_lookups(&mut self, now: &Now) {
        while let Some(answer) = self.resolver.poll() {
            let link = answer.key;
            match answer.addresses {
                _ if self.stop_at.is_some() => {}
                Ok(addresses) if !addresses.is_empty() => {
                    let neighbor = &mut self.neighbors[link.index()];
                    // Another address in each attempt.
                    let address = addresses[neighbor.attempts % addresses.len()];
                    neighbor.attempts += 1;
                    neighbor.addresses = addresses;
                    self.dial(link, address, now);
                }
                Ok(_) => self.on_dial_failed(link, now, &Reason::from("the name has no address")),
                Err(error) => self.on_dial_failed(link, now, &Reason::lookup(&error)),
            }
        }
    }

    fn dial(&mut self, link: LinkId, address: SocketAddr, now: &Now) {
        if let Err(error) = self.connect(Dial { link, replaces: None }, address, now) {
            self.on_dial_failed(link, now, &Reason::from(&error));
        }
    }

    /// Begins to connect to a neighbor.
    pub(super) fn connect(&mut self, dial: Dial, address: SocketAddr, now: &Now) -> io::Result<()> {
        let stream = TcpStream::connect(address)?;
        let mut connection = Connection::new(stream, Stage::Dialing(dial), address, now.instant);
        connection.readiness.writable = false;
        let token = self.insert(|_, _| connection)?;
        self.set_timer(token);
        Ok(())
    }

    /// Informs the herd that a neighbor was not reached.
    pub(super) fn on_dial_failed(&mut self, link: LinkId, now: &Now, reason: &Reason) {
        if self.stop_at.is_some() {
            return;
        }
        self.telemetry.counters.dials_failed += 1;
        self.log_unreachable(link, reason);
        self.node.herd.handle_dial_failed(link, now.instant);
    }

    /// Logs that a neighbor cannot be reached, once for each reason until it has been linked.
    pub(super) fn log_unreachable(&mut self, link: LinkId, reason: &Reason) {
        self.node.set_link_failure(link, Some(reason.text()));
        let neighbor = &mut self.neighbors[link.index()];
        if neighbor.reported.is_new(reason) {
            let name = self.node.herd.peer_name(link).escape_ascii();
            log::warn!(
                "cannot reach {name} at {}:{}: {}; retrying until it is linked",
                neighbor.host,
                neighbor.port,
                reason.text()
            );
        }
    }

    /// Logs that a handshake with a neighbor was refused, once for each reason until it has been
    /// linked.
    pub(super) fn log_handshake_failure(&mut self, link: LinkId, label: &[u8], reason: &str) {
        let is_new = self.neighbors[link.index()].reported.is_new(&Reason::handshake(reason));
        if self.links_are_mixed() && reason.contains(REQUIRES_TLS) {
            self.neighbors[link.index()].over_tls = true;
            if is_new {
                let peer = self.node.herd.peer_name(link).escape_ascii();
                log::info!("{peer} requires TLS and is dialed over TLS from now on");
            }
            return;
        }
        self.node.set_link_failure(link, Some(reason));
        if is_new {
            let (peer, label) =
                (self.node.herd.peer_name(link).escape_ascii(), label.escape_ascii());
            log::warn!("{peer} is not linked ({label}): {reason}");
        }
    }

    /// Returns true while links with and without TLS are established.
    pub(super) fn links_are_mixed(&self) -> bool {
        self.peer_tls.is_some() && !self.node.herd.identity().tls
    }

    /// Starts the session on a connection that this node dialed, once it is connected.
    pub(super) fn finish_dial(&mut self, token: Token, now: &Now) -> io::Result<()> {
        let Self { connections, node, neighbors, peer_tls, .. } = self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Ok(()) };
        let Stage::Dialing(Dial { link, replaces }) = connection.stage else { return Ok(()) };
        if !is_connected(&connection.stream)? {
            return Ok(());
        }
        connection.readiness.writable = true;
        connection.readiness.readable = true;
        let (peer, legacy) = (node.herd.peer_name(link), node.herd.link(link).is_legacy());
        let over_tls = neighbors[link.index()].over_tls && !legacy;
        if let (Some(config), Security::Plain, true) = (peer_tls, &connection.security, over_tls) {
            connection.security = Security::Handshaking(Box::new(config.dial(peer)?));
        }
        if !connection.secure(no_accept, std::iter::empty(), now.instant)? {
            return Ok(());
        }
        // rustls has checked the certificate against this name.
        let is_tls = matches!(connection.security, Security::Tls(_));
        let certified = is_tls.then(|| vec![peer.to_vec()]);
        connection.times.since = now.instant;
        let loopback = connection.address.ip().to_canonical().is_loopback();
        let transport = Transport { loopback, certified };
        let label = connection.address.to_string().into_bytes().into_boxed_slice();
        let (id, mut hello) = (id_of(token), Vec::new());
        let (at, out) = (now.instant, &mut hello);
        let session = match replaces {
            None => LineSession::dialed(node, id, label, link, transport, at, out),
            Some(old) => LineSession::moving(node, id, label, link, old, transport, out),
        };
        connection.stage = Stage::Open(Session::Lines(session));
        become_link(connection, &self.limits, self.link_buffer);
        connection.send(&hello, now.instant)?;
        self.read(token, now)
    }

    /// Sends the output of links, once per turn: the updates of several clients leave in one write.
    pub(super) fn flush_links(&mut self, now: &Now) {
        for link in (0..self.node.herd.links().len()).map(LinkId) {
            if !self.node.herd.has_output(link) {
                continue;
            }
            let Some(up) = &self.node.herd.link(link).up else { continue };
            let token = token_of(up.connection);
            let Self { connections, node, batch, link_buffer, .. } = self;
            let Some(connection) = connections.get_mut(key(token).0) else { continue };
            let limit = LINK_BUFFER.min(*link_buffer / 4);
            let is_here = |node: &Node| {
                node.herd.link(link).up.as_ref().is_some_and(|up| token_of(up.connection) == token)
            };
            let mut sent = 0;
            let mut result = Ok(());
            // While a peer does not read, slots are queued for it, and no bytes are produced.
            while result.is_ok()
                && connection.output.is_empty()
                && sent < LINK_BYTES_PER_TURN
                && is_here(node)
                && node.herd.has_output(link)
            {
                let out = &mut batch.outbound;
                node.herd.poll_transmit(link, now, out, limit, &mut node.message_log);
                // A call that only looks at records may take as long as one that fills the buffer.
                sent += out.len().max(LINK_BUFFER);
                result = connection.send(out, now.instant);
                out.clear();
            }
            // The action that ends this connection is performed in the next turn.
            let more = connection.output.is_empty() && node.herd.has_output(link) || !is_here(node);
            if let Err(error) = result {
                self.close(token, now, &error);
            } else if more {
                self.enqueue(token); // the next turn comes at once
            }
        }
    }
}

/// Gives a socket the buffers of a link: it carries the updates of many clients.
pub(super) fn become_link(connection: &Connection, limits: &Limits, link_buffer: usize) {
    // The kernel doubles both sizes; a quarter each leaves room for the buffer in user space.
    let socket = SockRef::from(&connection.stream);
    set_options(&socket, link_buffer / 4, link_buffer / 4, limits.tcp_keepalive);
}

/// The accepting side of TLS on a connection that this node has dialed: there is none.
fn no_accept() -> io::Result<Tls> {
    Err(io::ErrorKind::Unsupported.into())
}
