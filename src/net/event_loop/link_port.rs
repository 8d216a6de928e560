//! The port for links only, and moving links there, so that no neighbor on this machine has a
//! connection with a node's client port: `lsof -ti:PORT` then lists only that node.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use mio::Token;

use super::EventLoop;
use super::links::Neighbor;
use crate::endpoint::Host;
use crate::ids::{ConnectionId, LinkId};
use crate::net::connection::{Admission, Connection, Dial};
use crate::net::limits::LINK_PORT_ATTEMPTS;
use crate::net::listener::{Listener, ListenerKind};
use crate::net::token::{LINK_LISTENER, token_of};
use crate::time::Now;

/// Close reason of a connection to the port for links that makes room for newer ones.
const TOO_MANY: &str = "too many connections to the port for links";

impl EventLoop {
    /// Listens for links at `address`, the one of the listener for clients, on a port that the kernel
    /// chooses and that is not one of `others`: those belong to nodes that may start later. Does
    /// nothing if no neighbor can be on this machine. Without the listener, links stay on the port for
    /// clients.
    pub fn serve_links(&mut self, address: IpAddr, others: &[u16]) {
        let links = self.node.herd.links().iter().zip(&self.neighbors);
        if !links.into_iter().any(|(link, neighbor)| !link.is_legacy() && neighbor.may_be_here()) {
            return;
        }
        match self.bind_link_port(address, others) {
            Ok((listener, port)) => {
                self.listeners.push((ListenerKind::Links, listener));
                self.node.herd.set_link_port(port);
                log::debug!("links move to port {port}");
            }
            Err(error) => log::debug!("links stay on the port for clients: {error}"),
        }
    }

    fn bind_link_port(&self, address: IpAddr, others: &[u16]) -> io::Result<(Listener, u16)> {
        let address = SocketAddr::new(address, 0);
        let mut unsuitable = Vec::new(); // bound until the end, so that the kernel chooses others
        for _ in 0..LINK_PORT_ATTEMPTS {
            let listener = Listener::bind_only(address, &self.limits)?;
            let port = listener.port()?;
            if !others.contains(&port) {
                return Ok((listener.listen(self.poll.registry(), LINK_LISTENER)?, port));
            }
            unsuitable.push(listener);
        }
        Err(io::Error::other("every free port belongs to another node"))
    }

    /// Dials the peer of `connection` at its port for links if it is on this machine. Elsewhere a move
    /// has no advantage: `lsof` shows the sockets of one machine, and a firewall would have to admit
    /// another port.
    pub(super) fn move_link(&mut self, link: LinkId, replaces: ConnectionId, port: u16, now: &Now) {
        let Some(connection) = self.get(token_of(replaces)) else { return };
        let mut address = connection.address;
        if self.stop_at.is_some() || !is_here(address) {
            return;
        }
        address.set_port(port);
        let dial = Dial { link, replaces: Some(replaces) };
        if let Err(error) = self.connect(dial, address, now) {
            self.log_not_moved(link, &address.to_string(), &error.to_string());
        }
    }

    /// Logs that a link stays on the port for clients, as it does behind a port forwarding.
    pub(super) fn log_not_moved(&self, link: LinkId, address: &str, reason: &str) {
        let peer = self.node.herd.peer_name(link).escape_ascii();
        log::debug!("the link with {peer} does not move to {address}: {reason}");
    }

    /// Counts a connection to the port for links, which ends the oldest if there are too many.
    pub(super) fn admit_link(&mut self, token: Token, now: &Now) {
        let Some(oldest) = self.admissions.put_at_link_port(token) else { return };
        let is_unproven = |it: &mut Connection| it.admission == Admission::LinkPort;
        if self.get(oldest).is_some_and(is_unproven) {
            self.close(oldest, now, TOO_MANY);
        }
    }
}

impl Neighbor {
    /// Returns false if its only address is not one of this machine.
    fn may_be_here(&self) -> bool {
        match self.host {
            Host::Address(address) => is_here(SocketAddr::new(address, 0)),
            Host::Name(_) => true,
        }
    }
}

/// Returns whether an address is one of this machine: only there can a socket be bound.
pub(super) fn is_here(mut address: SocketAddr) -> bool {
    address.set_port(0);
    address.ip().to_canonical().is_loopback() || UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_here() {
        for (address, expected) in [
            ("127.0.0.1:80", true),
            ("127.9.8.7:80", true),
            ("[::1]:80", true),
            ("[::ffff:127.0.0.1]:80", true),
            ("192.0.2.1:80", false), // RFC 5737 and RFC 3849 reserve these for documentation
            ("[2001:db8::1]:80", false),
        ] {
            assert_eq!(is_here(address.parse().unwrap()), expected, "{address}");
        }
    }
}
