//! The race of attempts to connect to one of several addresses.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::{Dialogue, Socket, Upstream};
use crate::net::limits::{ATTEMPT_DELAY, MAX_ATTEMPTS};
use crate::places::upstream::TransportError;
use crate::time::Instant;

/// A connection that is being established ("happy eyeballs", RFC 8305, section 5):
///
/// ```text
/// address 1  |-- TCP -- TLS --…
/// address 2        |-- TCP -- TLS --| won: the other attempts are dropped
/// address 3              |-- TCP --…
///            0     1     2   × ATTEMPT_DELAY, or at once after a failure
/// ```
///
/// The race ends when a TLS handshake is complete, not a TCP connection: a kernel also accepts
/// connections for a server that hangs or is the wrong one.
pub(super) struct Connecting {
    pub(super) addresses: VecDeque<SocketAddr>,
    /// The time to try the next address while the last attempt is still under way.
    pub(super) next_at: Option<Instant>,
    pub(super) attempts: Vec<Token>,
    pub(super) trouble: Option<TransportError>,
}

impl Connecting {
    /// Records the failure of an attempt. The attempt that came furthest is reported in the end.
    fn note(&mut self, trouble: TransportError) {
        if !matches!(
            (&self.trouble, &trouble),
            (Some(TransportError::Tls(_)), TransportError::Connect(_))
        ) {
            self.trouble = Some(trouble);
        }
    }
}

impl<D: Dialogue> Upstream<D> {
    /// Begins to establish a connection to one of `addresses`.
    pub(super) fn connect(
        &mut self,
        id: D::Id,
        mut addresses: Vec<SocketAddr>,
        registry: &Registry,
        client: &mut D,
        now: Instant,
    ) {
        client.handle_resolved(id);
        let first = self.failed % addresses.len().max(1);
        addresses.rotate_left(first);
        let addresses = addresses.into_iter().take(MAX_ATTEMPTS).collect();
        let (next_at, attempts, trouble) = (None, Vec::new(), None);
        self.connecting.insert(id, Connecting { addresses, next_at, attempts, trouble });
        self.attempt(id, registry, client, now);
    }

    /// Tries the next address, and the one after it if that fails at once.
    pub(super) fn attempt(&mut self, id: D::Id, registry: &Registry, client: &mut D, now: Instant) {
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

    fn dial(&mut self, id: D::Id, address: SocketAddr, registry: &Registry) -> io::Result<Token> {
        let mut stream = TcpStream::connect(address)?;
        self.generation = (self.generation + 1) & (u32::MAX >> 2);
        let entry = self.sockets.vacant_entry();
        let token = Token(self.owner.mark() | (self.generation as usize) << 32 | entry.key());
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        // Requests are small and urgent. If the option cannot be set, they still arrive.
        let _ = stream.set_nodelay(true);
        entry.insert(Box::new(Socket::new(stream, self.generation, id)));
        Ok(token)
    }

    /// Ends the race of attempts: the others are dropped.
    pub(super) fn first_ready(&mut self, token: Token, id: D::Id) {
        if let Some(connecting) = self.connecting.remove(&id) {
            for other in connecting.attempts {
                if other != token {
                    self.drop_socket(other);
                }
            }
        }
        self.open.insert(id, token);
    }

    /// Drops an attempt, and tries the next address.
    pub(super) fn attempt_failed(
        &mut self,
        token: Token,
        id: D::Id,
        trouble: TransportError,
        registry: &Registry,
        client: &mut D,
        now: Instant,
    ) {
        self.drop_socket(token);
        if let Some(connecting) = self.connecting.get_mut(&id) {
            connecting.attempts.retain(|&attempt| attempt != token);
            connecting.note(trouble);
            self.attempt(id, registry, client, now);
        }
    }
}

/// The addresses, alternating between the two families, beginning with the resolver's first (RFC 8305,
/// section 4).
pub(super) fn alternate(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_alternate() {
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
