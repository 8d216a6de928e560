//! Accepting connections, with a reserve descriptor for EMFILE.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, Socket, Type};

use super::connection::set_options;
use crate::limits::Limits;
use crate::net::limits::LISTEN_BACKLOG;

/// A listening socket.
pub struct Listener {
    socket: TcpListener,
    /// Connections may be waiting. Edge-triggered: stays set until an accept would block.
    pub ready: bool,
    /// A reserve descriptor, released when all others are used up, so that a connection can be
    /// accepted and closed. Left in the queue, it would wait for an event that never comes.
    spare: Option<File>,
}

/// The purpose of a listener.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// Clients and peers.
    Lines,
    /// Neighbors on this machine, which move their links here.
    Links,
    /// Browsers and tools.
    Http,
    /// Phones and trackers.
    Devices,
}

impl ListenerKind {
    /// Returns true if connections are logged. Browsers open a handful for each page, and phones one
    /// for each position.
    pub const fn is_logged(self) -> bool {
        matches!(self, Self::Lines | Self::Links)
    }
}

/// The result of an accept.
pub enum Accept {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// No connection is waiting.
    Empty,
    /// Descriptors or memory have run out.
    Exhausted {
        /// The error of the system call.
        error: io::Error,
        /// True if a connection was accepted and closed at once.
        shed: bool,
    },
}

impl Listener {
    /// Listens on `address`. Accepted sockets have the options of a client's socket: on Linux they
    /// inherit them, and the receive buffer bounds the window from the first packet (tcp(7)).
    ///
    /// # Errors
    ///
    /// If the address is in use or not of this machine.
    pub fn bind(
        address: SocketAddr,
        limits: &Limits,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        Self::bind_only(address, limits)?.listen(registry, token)
    }

    /// Binds a socket to `address` without listening. If its port is 0, the kernel chooses one.
    ///
    /// # Errors
    ///
    /// As [`Listener::bind`].
    pub fn bind_only(address: SocketAddr, limits: &Limits) -> io::Result<Bound> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?; // after a restart the port may be in TIME_WAIT
        socket.set_nonblocking(true)?;
        let options = SockRef::from(&socket);
        set_options(&options, limits.send_buffer, limits.receive_buffer, limits.tcp_keepalive);
        socket.bind(&address.into())?;
        Ok(Bound(socket))
    }

    /// Accepts the next connection.
    pub fn accept(&mut self) -> Accept {
        loop {
            match self.socket.accept() {
                Ok((stream, address)) => return Accept::Connection(stream, address),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.ready = false;
                        return Accept::Empty;
                    }
                    io::ErrorKind::Interrupted => {}
                    _ if is_of_connection(&error) => {} // the next in the queue may be fine
                    _ => {
                        let shed = self.spare.take().is_some() && self.socket.accept().is_ok();
                        self.spare = spare();
                        return Accept::Exhausted { error, shed };
                    }
                },
            }
        }
    }
}

/// A socket that is bound to an address and does not listen yet.
pub struct Bound(Socket);

impl Bound {
    /// Its port.
    ///
    /// # Errors
    ///
    /// If the system call fails.
    pub fn port(&self) -> io::Result<u16> {
        let address = self.0.local_addr()?.as_socket();
        Ok(address.map_or(0, |address| address.port()))
    }

    /// Begins to listen.
    ///
    /// # Errors
    ///
    /// If another socket listens there.
    pub fn listen(self, registry: &Registry, token: Token) -> io::Result<Listener> {
        self.0.listen(LISTEN_BACKLOG)?;
        let mut socket = TcpListener::from_std(self.0.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener { socket, ready: true, spare: spare() })
    }
}

/// Returns true if an accept failed because of that one connection: it was reset, or Linux passes on
/// a pending network error (accept(2), "Error handling").
fn is_of_connection(error: &io::Error) -> bool {
    const EPROTO: i32 = 71;
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    ) || (cfg!(target_os = "linux") && error.raw_os_error() == Some(EPROTO))
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
