//! Taking connections, with a way out when descriptors run out.

use std::fs::File;
use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

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
    /// Descriptors or memory have run out. One connection was closed unheard.
    Exhausted(io::Error),
}

impl Listener {
    /// Listens on `address`.
    ///
    /// # Errors
    ///
    /// Where the address is taken or not this machine's.
    pub fn bind(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut socket = TcpListener::bind(address)?;
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
                    // The next in the queue may be well.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    _ => {
                        if self.spare.take().is_some() {
                            drop(self.socket.accept());
                        }
                        self.spare = spare();
                        return Accept::Exhausted(error);
                    }
                },
            }
        }
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
