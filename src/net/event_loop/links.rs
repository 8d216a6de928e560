//! Links: dialling neighbours, and sending what the herd owes them.

use crate::herd::handshake::Transport;
use crate::herd::{Action, LinkId};
use crate::limits::{LINK_BUFFER, LINK_BYTES_PER_TURN};
use crate::net::connection::{Connection, Security, Stage};
use crate::net::session::Session;
use crate::node::{LineSession, Now};
use mio::Token;
use mio::net::TcpStream;
use std::io;
use std::net::SocketAddr;

use super::{EventLoop, Fate, become_link, key, send};

impl EventLoop {
    pub(super) fn handle_actions(&mut self, now: &Now) {
        while let Some(action) = self.node.herd.poll_action() {
            match action {
                Action::Close(id) => {
                    self.close(Token(id as usize), now, "the herd has no use for it");
                }
                Action::Dial(_) if self.stop_at.is_some() => {}
                Action::Dial(link) => {
                    let neighbour = &self.neighbours[link];
                    let (host, port) = (neighbour.host.clone(), neighbour.port);
                    match self.resolver.resolve(link, &host, port) {
                        Ok(Some(address)) => self.dial(link, address, now),
                        Ok(None) => {} // its addresses come later
                        Err(error) => self.dial_failed(link, now, &error.to_string()),
                    }
                }
            }
        }
    }

    pub(super) fn handle_lookups(&mut self, now: &Now) {
        while let Some(answer) = self.resolver.poll() {
            let link = answer.key;
            match answer.addresses {
                _ if self.stop_at.is_some() => {}
                Ok(addresses) if !addresses.is_empty() => {
                    let neighbour = &mut self.neighbours[link];
                    // Each attempt another of its addresses.
                    let address = addresses[neighbour.attempts % addresses.len()];
                    neighbour.attempts += 1;
                    neighbour.addresses = addresses;
                    self.dial(link, address, now);
                }
                Ok(_) => self.dial_failed(link, now, "its name has no address"),
                Err(error) => {
                    let why = format!("its name is not found: {error}");
                    self.dial_failed(link, now, &why);
                }
            }
        }
    }

    pub(super) fn dial(&mut self, link: LinkId, address: SocketAddr, now: &Now) {
        let inserted = TcpStream::connect(address).and_then(|stream| {
            let mut connection =
                Connection::new(stream, Stage::Dialling(link), address, now.elapsed);
            connection.writable = false;
            self.insert(connection)
        });
        match inserted {
            Ok(token) => self.remind(token),
            Err(error) => self.dial_failed(link, now, &error.to_string()),
        }
    }

    pub(super) fn dial_failed(&mut self, link: LinkId, now: &Now, why: &str) {
        if self.stop_at.is_some() {
            return;
        }
        self.counters.dials_failed += 1;
        self.tell_absence(link, why);
        self.node.herd.dial_failed(link, now.elapsed);
    }

    /// Says that a neighbour is not reached, once for each reason until it has been linked.
    pub(super) fn tell_absence(&mut self, link: LinkId, why: &str) {
        let neighbour = &mut self.neighbours[link];
        if neighbour.told.as_deref() != Some(why) {
            neighbour.told = Some(why.into());
            let name = self.node.herd.peer_name(link).escape_ascii();
            log::warn!(
                "{name} is not reached at {}:{}: {why}; it is tried again until it is",
                neighbour.host,
                neighbour.port
            );
        }
    }

    /// Readiness says that something has become of an attempt, not what.
    pub(super) fn finish_dial(&mut self, token: Token, now: &Now) -> io::Result<Fate> {
        let Self { connections, node, outbound, neighbours, limits, peer_tls, link_buffer, .. } =
            self;
        let Some(connection) = connections.get_mut(key(token).0) else { return Ok(Fate::Keep) };
        let Stage::Dialling(link) = connection.stage else { return Ok(Fate::Keep) };
        if let Some(error) = connection.stream.take_error()? {
            return Err(error);
        }
        match connection.stream.peer_addr() {
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return Ok(Fate::Keep),
            other => other?,
        };
        let local = connection.stream.local_addr()?;
        if local == connection.address {
            // A port that nobody listens on, and that the kernel gave to this very connection.
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        connection.writable = true;
        connection.readable = true;
        let (peer, seed) = (node.herd.peer_name(link), node.herd.links()[link].seed_compatible);
        if let (Some(config), Security::Plain, false) = (peer_tls, &connection.security, seed) {
            connection.security = Security::Shaking(Box::new(config.dial(peer)?));
        }
        if !connection.secure(None, std::iter::empty(), now.elapsed)? {
            return Ok(Fate::Keep);
        }
        // Its certificate was checked against its name.
        let is_tls = matches!(connection.security, Security::Tls(_));
        let certified = is_tls.then(|| vec![peer.to_vec()]);
        connection.since = now.elapsed;
        let loopback = connection.address.ip().to_canonical().is_loopback();
        let transport = Transport { loopback, certified };
        let label = connection.address.to_string().into_bytes().into_boxed_slice();
        let session =
            LineSession::dialled(node, token.0 as u64, label, link, transport, now, outbound);
        if session.link().is_some() {
            neighbours[link].told = None; // the seed's servers know no handshake
        }
        connection.stage = Stage::Open(Session::Lines(session));
        become_link(connection, limits, *link_buffer);
        send(connection, outbound, now)?;
        self.exchange(token, now)
    }

    /// Sends what links owe, once a turn: what several clients said leaves in one write.
    pub(super) fn flush_links(&mut self, now: &Now) {
        for link in 0..self.node.herd.links().len() {
            if !self.node.herd.has_output(link) {
                continue;
            }
            let Some(up) = &self.node.herd.links()[link].up else { continue };
            let token = Token(up.connection as usize);
            let Self { connections, node, outbound, link_buffer, .. } = self;
            let Some(connection) = connections.get_mut(key(token).0) else { continue };
            let mut sent = 0;
            let mut result = Ok(());
            // A peer that does not read is owed slots, not bytes: no more is put together.
            while result.is_ok()
                && connection.output.is_empty()
                && sent < LINK_BYTES_PER_TURN
                && node.herd.has_output(link)
            {
                let limit = LINK_BUFFER.min(*link_buffer / 4);
                node.herd.fill(link, now.clock, outbound, limit, &mut node.message_log);
                sent += outbound.len();
                result = send(connection, outbound, now);
            }
            let more = connection.output.is_empty() && node.herd.has_output(link);
            if let Err(error) = result {
                let why = error.to_string();
                self.close(token, now, &why);
            } else if more {
                self.enqueue(token); // the next turn comes at once
            }
        }
    }
}
