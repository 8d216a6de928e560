//! Taking connections, with a way out when descriptors run out.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::{Domain, SockRef, Socket, Type};

use super::connection::set_options;
use crate::limits::{LISTEN_BACKLOG, Limits};

/// A listening socket.
pub struct Listener {
    socket: TcpListener,
    /// Connections may be waiting. Edge-triggered: stays until an accept would block.
    pub ready: bool,
    /// A descriptor to give up when there is no other, so that a connection can be taken and
    /// closed: left in the queue, it would wait for ever for an edge that does not come.
    spare: Option<File>,
}

/// What came of an accept.
pub enum Accept {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// None waits.
    Empty,
    /// Descriptors or memory have run out. `shed` says whether a connection was closed unheard.
    Exhausted {
        /// What the system says.
        error: io::Error,
        /// Whether a connection was taken and closed.
        shed: bool,
    },
}

impl Listener {
    /// Listens on `address`. What is accepted has the options of a client's socket: Linux hands those
    /// of the listener on, and the receive buffer bounds the window from the first packet (tcp(7)).
    ///
    /// # Errors
    ///
    /// Where the address is taken or not this machine's.
    pub fn bind(
        address: SocketAddr,
        limits: &Limits,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?; // a node that starts again finds its port in TIME_WAIT
        socket.set_nonblocking(true)?;
        let options = SockRef::from(&socket);
        set_options(&options, limits.send_buffer, limits.receive_buffer, limits.tcp_keepalive);
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let mut socket = TcpListener::from_std(socket.into());
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Self { socket, ready: true, spare: spare() })
    }

    /// The next connection.
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
                    _ if is_of_connection(&error) => {} // the next in the queue may be well
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

/// Whether an accept failed for what has become of that one connection: it is gone, or the network
/// said something of it that Linux passes on (accept(2), "Error handling").
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
