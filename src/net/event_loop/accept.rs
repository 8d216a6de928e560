//! Taking connections, and refusing those there is no room for.

use crate::herd::LinkId;
use crate::herd::handshake::Transport;
use crate::http;
use crate::limits::{ACCEPT_RETRY, MAX_PROBATIONS, MAX_REFUSALS};
use crate::net::connection::{Connection, Deadline, Security, Stage};
use crate::net::listener::Accept;
use crate::net::session::Session;
use crate::node::{Caller, LineSession, Now};
use crate::protocol::reply::TOO_MANY_CONNECTIONS;
use mio::Token;
use mio::net::TcpStream;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};

use super::{EventLoop, Serves};

impl EventLoop {
    pub(super) fn accept(&mut self, now: &Now) {
        if self.accept_at.is_some_and(|at| at > now.elapsed) {
            return;
        }
        self.accept_at = None;
        for at in 0..self.listeners.len() {
            self.accept_from(at, now);
        }
    }

    fn accept_from(&mut self, at: usize, now: &Now) {
        for _ in 0..self.limits.accepts_per_turn {
            let Some((serves, listener)) =
                self.listeners.get_mut(at).filter(|(_, listener)| listener.ready)
            else {
                return;
            };
            let serves = *serves;
            match listener.accept() {
                Accept::Connection(stream, address) => self.accepted(stream, address, serves, now),
                Accept::Empty => return,
                Accept::Exhausted { error, shed } => {
                    self.counters.shed += u64::from(shed);
                    self.counters.accept_errors += 1;
                    self.counters.accept_pauses += 1;
                    log::warn!(
                        "a connection could not be taken: {error}; accepting goes on when one has \
                         closed. Raise the limit on open files (ulimit -n) or lower \
                         limits.max_connections"
                    );
                    self.accept_at = Some(now.elapsed + ACCEPT_RETRY);
                    return;
                }
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, address: SocketAddr, serves: Serves, now: &Now) {
        self.counters.accepted += 1;
        let here = self.clients_at.get(&address.ip().to_canonical()).copied().unwrap_or(0);
        let crowded =
            self.limits.max_connections_per_address.is_some_and(|most| here as usize >= most);
        let over_limit = crowded || self.clients >= self.limits.max_connections;
        // A neighbour is let in however many clients there are. It says at once that it is one.
        let may_be_peer = || serves == Serves::Lines && self.awaits_peer_at(address.ip());
        if over_limit && !may_be_peer() {
            return self.refuse(stream, address, serves, now);
        }
        let mut connection = Connection::new(stream, Stage::Draining, address, now.elapsed);
        connection.counted = !over_limit;
        connection.refusal = over_limit;
        connection.verdict = over_limit.then_some("too many connections");
        if self.peer_tls.is_some() && serves == Serves::Lines {
            connection.security = Security::Unknown;
        }
        let token = match self.insert(connection) {
            Ok(token) => token,
            Err(error) => {
                self.counters.accept_errors += 1;
                return log::warn!("{address} could not be served: {error}");
            }
        };
        if over_limit {
            self.put_on_probation(token, now);
        } else {
            self.clients += 1;
            if self.limits.max_connections_per_address.is_some() {
                *self.clients_at.entry(address.ip().to_canonical()).or_default() += 1;
            }
        }
        let session = self.session(token, address, serves, over_limit);
        if let Session::Lines(session) = &session {
            self.node.message_log.line(&[session.label(), b" opened"]);
        }
        self.write_log(now.elapsed); // before what diagnostics have to say of it
        if let Some(connection) = self.get(token) {
            connection.stage = Stage::Open(session);
        }
        self.serve(token, now);
    }

    /// Whoever is to understand what comes on a new connection.
    fn session(
        &mut self,
        token: Token,
        address: SocketAddr,
        serves: Serves,
        over_limit: bool,
    ) -> Session {
        let id = token.0 as u64;
        let label = address.to_string().into_bytes().into_boxed_slice();
        if serves == Serves::Http {
            return Session::Http(http::HttpSession::accepted(&mut self.http, id, label));
        }
        let ip = address.ip().to_canonical();
        let caller = Caller {
            label,
            address: self.address_keys.hash_one(ip),
            transport: Transport { loopback: ip.is_loopback(), certified: None },
            seed: self.seed_at(address.ip()),
            over_limit,
        };
        Session::Lines(LineSession::accepted(&self.node, id, caller))
    }

    /// The link to a seed-compatible neighbour at this address.
    pub(super) fn seed_at(&self, address: IpAddr) -> Option<LinkId> {
        let links = self.node.herd.links().iter().enumerate();
        links
            .filter(|(_, link)| link.seed_compatible)
            .find_map(|(at, _)| self.neighbours[at].is_at(address).then_some(at))
    }

    /// Whether a neighbour at this address is not linked.
    pub(super) fn awaits_peer_at(&self, address: IpAddr) -> bool {
        let links = self.node.herd.links().iter().enumerate();
        links
            .filter(|(_, link)| link.up.is_none())
            .any(|(at, _)| self.neighbours[at].is_at(address))
    }

    /// Hears a connection over a limit for a moment. Where too many are heard, the oldest has had
    /// its time.
    fn put_on_probation(&mut self, token: Token, now: &Now) {
        self.refusals += 1;
        self.probations.push_back(token);
        if self.probations.len() > MAX_PROBATIONS
            && let Some(oldest) = self.probations.pop_front()
            && self.get(oldest).is_some_and(|it| it.refusal && matches!(it.stage, Stage::Open(_)))
        {
            self.expire(oldest, Deadline::Probation, now);
            if self.refusals > MAX_PROBATIONS + MAX_REFUSALS {
                self.close(oldest, now, Deadline::Probation.reason()); // without draining
            }
        }
    }

    /// Tells a connection over a limit so, and closes it.
    fn refuse(&mut self, stream: TcpStream, address: SocketAddr, serves: Serves, now: &Now) {
        self.tell_refusal(address);
        let mut connection = Connection::new(stream, Stage::Draining, address, now.elapsed);
        let refusal = match serves {
            Serves::Lines => TOO_MANY_CONNECTIONS.to_vec(),
            Serves::Http => self.http.refusal("too many connections; see limits.max_connections"),
        };
        // That much fits into every socket that is there.
        if connection.send(&refusal, now.elapsed).is_err() {
            return;
        }
        connection.shut_down();
        if self.refusals >= MAX_REFUSALS {
            return; // closed at once: what it sent already may cost it the line
        }
        connection.refusal = true;
        if let Ok(token) = self.insert(connection) {
            self.refusals += 1;
            self.serve(token, now);
        }
    }

    pub(super) fn tell_refusal(&mut self, address: SocketAddr) {
        self.counters.refused += 1;
        log::warn!(
            "{address} is refused: {} clients are connected; see limits.max_connections and \
             limits.max_connections_per_address",
            self.clients
        );
    }
}
