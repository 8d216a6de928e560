//! Taking connections, and refusing those there is no room for.

use crate::herd::LinkId;
use crate::herd::handshake::Transport;
use crate::limits::ACCEPT_RETRY;
use crate::limits::MAX_PROBATIONS;
use crate::limits::MAX_REFUSALS;
use crate::net::connection::Connection;
use crate::net::connection::Deadline;
use crate::net::connection::Security;
use crate::net::connection::Stage;
use crate::net::listener::Accept;
use crate::node::Caller;
use crate::node::Now;
use crate::node::Session;
use crate::protocol::reply::TOO_MANY_CONNECTIONS;
use mio::Token;
use mio::net::TcpStream;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::net::SocketAddr;

use super::EventLoop;

impl EventLoop {
    pub(super) fn accept(&mut self, now: &Now) {
        if self.accept_at.is_some_and(|at| at > now.elapsed) {
            return;
        }
        self.accept_at = None;
        for _ in 0..self.limits.accepts_per_turn {
            let Some(listener) = self.listener.as_mut().filter(|listener| listener.ready) else {
                return;
            };
            match listener.accept() {
                Accept::Connection(stream, address) => self.accepted(stream, address, now),
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

    pub(super) fn accepted(&mut self, stream: TcpStream, address: SocketAddr, now: &Now) {
        self.counters.accepted += 1;
        let here = self.clients_at.get(&address.ip().to_canonical()).copied().unwrap_or(0);
        let crowded =
            self.limits.max_connections_per_address.is_some_and(|most| here as usize >= most);
        let over_limit = crowded || self.clients >= self.limits.max_connections;
        // A neighbour is let in however many clients there are. It says at once that it is one.
        if over_limit && !self.awaits_peer_at(address.ip()) {
            return self.refuse(stream, address, now);
        }
        let loopback = address.ip().to_canonical().is_loopback();
        let caller = Caller {
            label: address.to_string().into_bytes().into_boxed_slice(),
            address: self.address_keys.hash_one(address.ip().to_canonical()),
            transport: Transport { loopback, certified: None },
            seed: self.seed_at(address.ip()),
            over_limit,
        };
        let mut connection = Connection::new(stream, Stage::Draining, address, now.elapsed);
        connection.set_options(
            self.limits.send_buffer,
            self.limits.receive_buffer,
            self.limits.tcp_keepalive,
        );
        connection.counted = !over_limit;
        connection.refusal = over_limit;
        connection.verdict = over_limit.then_some("too many connections");
        if self.peer_tls.is_some() {
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
        let session = Session::accepted(&self.node, token.0 as u64, caller);
        self.node.journal.line(&[session.label(), b" opened"]);
        self.write_log(now.elapsed); // before what diagnostics have to say of it
        if let Some(connection) = self.get(token) {
            connection.stage = Stage::Open(session);
        }
        self.serve(token, now);
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
    pub(super) fn refuse(&mut self, stream: TcpStream, address: SocketAddr, now: &Now) {
        self.tell_refusal(address);
        let mut connection = Connection::new(stream, Stage::Draining, address, now.elapsed);
        // A line fits into every socket that is there.
        if connection.send(TOO_MANY_CONNECTIONS, now.elapsed).is_err() {
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
