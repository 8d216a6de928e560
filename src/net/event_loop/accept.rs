//! Accepting connections, and refusing those over a limit.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};

use mio::Token;
use mio::net::TcpStream;

use super::EventLoop;
use super::link_port::is_here;
use crate::devices::{DeviceInfo, DeviceSession};
use crate::endpoint::network;
use crate::herd::handshake::Transport;
use crate::http::{BrowserInfo, HttpSession};
use crate::net::connection::{Admission, Connection, Deadline, Security, Stage};
use crate::net::limits::ACCEPT_RETRY;
use crate::net::listener::{Accept, ListenerKind};
use crate::net::session::Session;
use crate::net::token::id_of;
use crate::node::{LineSession, PeerInfo};
use crate::protocol::reply::TOO_MANY_CONNECTIONS;
use crate::time::Now;

/// The response to a device over a limit, which tries again.
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
    Retry-After: 60\r\nConnection: close\r\n\r\n";

impl EventLoop {
    /// Records that connections may be waiting at the listeners of this kind.
    pub(super) fn handle_listener_event(&mut self, kind: ListenerKind) {
        for (_, listener) in self.listeners.iter_mut().filter(|(it, _)| *it == kind) {
            listener.ready = true;
        }
    }

    /// Accepts connections, and serves them at once: what they sent with the connection brings no
    /// event of its own.
    pub(super) fn accept(&mut self, now: &Now) {
        if self.accept_at.is_some_and(|at| at > now.instant) {
            return;
        }
        self.accept_at = None;
        let mut accepted = VecDeque::new();
        for at in 0..self.listeners.len() {
            self.accept_from(at, &mut accepted, now);
        }
        let left = self.serve(accepted, now);
        self.run.append(left);
    }

    fn accept_from(&mut self, at: usize, accepted: &mut VecDeque<Token>, now: &Now) {
        for _ in 0..self.limits.accepts_per_turn {
            let Some((kind, listener)) =
                self.listeners.get_mut(at).filter(|(_, listener)| listener.ready)
            else {
                return;
            };
            let kind = *kind;
            match listener.accept() {
                Accept::Connection(stream, address) => {
                    accepted.extend(self.accepted(stream, address, kind, now));
                }
                Accept::Empty => return,
                Accept::Exhausted { error, shed } => {
                    let counters = &mut self.telemetry.counters;
                    counters.shed += u64::from(shed);
                    counters.accept_errors += 1;
                    counters.accept_pauses += 1;
                    log::warn!(
                        "cannot accept a connection: {error}; accepting resumes when one has \
                         closed. Raise the limit on open files (ulimit -n) or lower \
                         limits.max_connections"
                    );
                    self.accept_at = Some(now.instant + ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    /// Takes a new connection into the loop, unless it is refused.
    fn accepted(
        &mut self,
        stream: TcpStream,
        address: SocketAddr,
        kind: ListenerKind,
        now: &Now,
    ) -> Option<Token> {
        self.telemetry.counters.accepted += 1;
        if kind == ListenerKind::Links && !is_here(address) {
            self.node.counters.handshakes_refused += 1;
            return None; // closed
        }
        let over_limit = self.admissions.is_full(address.ip(), &self.limits);
        // A neighbor is accepted regardless of the number of clients, and identifies itself at once.
        let may_be_peer = || self.awaits_peer_at(address.ip());
        let admission = match kind {
            ListenerKind::Links => Admission::LinkPort,
            _ if !over_limit => Admission::Client,
            ListenerKind::Http => Admission::Reserve,
            ListenerKind::Lines if may_be_peer() => Admission::Probation,
            ListenerKind::Lines | ListenerKind::Devices => {
                self.refuse(stream, address, kind, now);
                return None;
            }
        };
        let inserted = self.insert(|this, token| {
            let session = this.session(token, &stream, address, kind, over_limit);
            let mut connection =
                Connection::new(stream, Stage::Open(session), address, now.instant);
            connection.admission = admission;
            connection.queued = true; // it is served in this turn
            connection.security = this.security(kind);
            connection
        });
        let token = match inserted {
            Ok(token) => token,
            Err(error) => {
                self.telemetry.counters.accept_errors += 1;
                log::warn!("cannot serve the connection from {address}: {error}");
                return None;
            }
        };
        self.admissions.enter(admission, address.ip(), &self.limits);
        if admission == Admission::LinkPort {
            self.admit_link(token, now);
        }
        let oldest = match admission {
            Admission::Probation => self.admissions.put_on_probation(token),
            Admission::Reserve => self.admissions.put_in_reserve(token),
            _ => None,
        };
        if let Some(oldest) = oldest {
            self.end_probation(oldest, now);
        }
        if kind.is_logged() {
            let label = address.to_string();
            self.node.message_log.line(&[label.as_bytes(), b" opened"]);
        }
        self.write_log(now.instant); // before diagnostics about this connection
        Some(token)
    }

    /// The encryption of a new connection.
    fn security(&self, kind: ListenerKind) -> Security {
        let devices = self.devices.as_ref();
        match kind {
            ListenerKind::Lines | ListenerKind::Links if self.peer_tls.is_some() => {
                Security::Unknown
            }
            ListenerKind::Devices if devices.is_some_and(|devices| devices.tls.is_some()) => {
                Security::Expected
            }
            _ => Security::Plain,
        }
    }

    /// The state machine for a new connection.
    fn session(
        &mut self,
        token: Token,
        stream: &TcpStream,
        address: SocketAddr,
        kind: ListenerKind,
        over_limit: bool,
    ) -> Session {
        let id = id_of(token);
        let label = address.to_string().into_bytes().into_boxed_slice();
        let ip = address.ip().to_canonical();
        let address_key = self.admissions.address_key(ip);
        if kind == ListenerKind::Http {
            let peer = BrowserInfo { label, address_key, over_limit };
            return Session::Http(HttpSession::accepted(&mut self.http, id, peer));
        }
        if let (ListenerKind::Devices, Some(devices)) = (kind, &mut self.devices) {
            let network_key = self.admissions.address_key(network(ip));
            let is_local = ip.is_loopback();
            let peer = DeviceInfo { label, address_key, network_key, is_local };
            return Session::Device(DeviceSession::accepted(&mut devices.shared, id, peer));
        }
        let links_only = kind == ListenerKind::Links;
        let peer = PeerInfo {
            label,
            address_key,
            transport: Transport { loopback: ip.is_loopback(), certified: None },
            legacy: self.legacy_sender(stream, ip).filter(|_| !links_only),
            links_only,
            over_limit: over_limit && !links_only,
        };
        Session::Lines(LineSession::accepted(id, peer))
    }

    /// Returns true if a neighbor at this address is not linked.
    fn awaits_peer_at(&self, address: IpAddr) -> bool {
        let links = self.node.herd.links().iter().zip(&self.neighbors);
        links.into_iter().any(|(link, neighbor)| link.up.is_none() && neighbor.is_at(address))
    }

    /// Ends the probation of the oldest connection, or its time in the reserve, to make room for a
    /// newer one.
    fn end_probation(&mut self, token: Token, now: &Now) {
        let is_on_probation = |it: &Connection| {
            matches!(it.admission, Admission::Probation | Admission::Reserve)
                && matches!(it.stage, Stage::Open(_))
        };
        let connection = self.get(token).filter(|connection| is_on_probation(connection));
        let Some(admission) = connection.map(|connection| connection.admission) else { return };
        self.expire(token, Deadline::Probation, now);
        if self.admissions.is_overrun(admission) {
            self.drain(token, now); // counts and logs the refusal
            self.close(token, now, Deadline::Probation.reason()); // without discarding input
        }
    }

    /// Sends a client over a limit the reason for its refusal, and closes the connection.
    fn refuse(&mut self, stream: TcpStream, address: SocketAddr, kind: ListenerKind, now: &Now) {
        self.log_refusal(address);
        let mut connection = Connection::new(stream, Stage::Draining, address, now.instant);
        let reason = match (kind, self.security(kind)) {
            (ListenerKind::Devices, Security::Plain) => UNAVAILABLE,
            (ListenerKind::Devices, _) => b"", // a handshake would cost more than the connection
            _ => TOO_MANY_CONNECTIONS,
        };
        // The buffer of a new socket has room for that.
        if connection.send(reason, now.instant).is_err() {
            return;
        }
        connection.shut_down();
        if self.admissions.is_flooded() {
            return; // closed at once: unread input may turn into a reset that destroys the line
        }
        connection.admission = Admission::Refused;
        let inserted: io::Result<Token> = self.insert(|_, _| connection);
        if let Ok(token) = inserted {
            self.admissions.enter(Admission::Refused, address.ip(), &self.limits);
            self.discard_input(token, now);
        }
    }

    pub(super) fn log_refusal(&mut self, address: SocketAddr) {
        self.telemetry.counters.refused += 1;
        log::warn!(
            "connection from {address} refused: {} clients are connected; see \
             limits.max_connections and limits.max_connections_per_address",
            self.admissions.clients()
        );
    }
}
