//! One connection to a server: its socket, and what is on its way in either direction.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::clock::Clock;
use super::in_flight::{InFlight, Settled};
use super::limits::MAX_REPLY;
use super::wire::{Kind, Request, Wire};

/// A connection, or the place of one that was lost.
pub struct Connection {
    /// Which server, as its place in the plan.
    pub server: usize,
    token: Token,
    address: SocketAddr,
    socket: Option<TcpStream>,
    out: Vec<u8>,
    written: usize,
    /// The beginning of a reply, and how much of it was searched for its end.
    held: Vec<u8>,
    searched: usize,
    /// The requests that wait for replies.
    pub flight: InFlight,
}

impl Connection {
    /// Connects to `address`, and waits for that.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn connect(
        server: usize,
        address: SocketAddr,
        timeout: Duration,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let socket = std::net::TcpStream::connect_timeout(&address, timeout)?;
        socket.set_nonblocking(true)?;
        let mut connection = Self {
            server,
            token,
            address,
            socket: None,
            out: Vec::new(),
            written: 0,
            held: Vec::new(),
            searched: 0,
            flight: InFlight::default(),
        };
        connection.adopt(TcpStream::from_std(socket), registry)?;
        Ok(connection)
    }

    fn adopt(&mut self, mut socket: TcpStream, registry: &Registry) -> io::Result<()> {
        let _ = socket.set_nodelay(true); // fails while it is not connected; then it is only slower
        registry.register(&mut socket, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.socket = Some(socket);
        Ok(())
    }

    /// Begins to connect anew after [`Connection::lose`].
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn redial(&mut self, registry: &Registry) -> io::Result<()> {
        self.adopt(TcpStream::connect(self.address)?, registry)
    }

    /// Whether there is a socket, connected or about to be.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Closes what is there. The requests that waited wait in vain; `missing` is told of each.
    pub fn lose(&mut self, missing: impl FnMut(Kind)) {
        self.socket = None;
        self.out.clear();
        self.written = 0;
        self.held.clear();
        self.searched = 0;
        self.flight.lose(missing);
    }

    /// Appends a request to what is to be sent.
    pub fn push(&mut self, request: Request, wire: &Wire) {
        wire.push(&mut self.out, &request);
        self.flight.push(request);
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    pub fn send(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while self.written < self.out.len() {
            match socket.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if must_wait(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what there is, and for every whole reply tells `settled` when it was there, what it
    /// settles, and the reply itself. `buffer` is the caller's, longer than [`MAX_REPLY`].
    /// With `closed`, the server's side has ended.
    ///
    /// # Errors
    ///
    /// The connection has ended or is of no more use: a reply came that nobody asked for, or one
    /// without an end.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        wire: &Wire,
        prefix: &[u8],
        clock: &Clock,
        closed: bool,
        mut settled: impl FnMut(u64, Settled, &[u8]),
    ) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        loop {
            let held = self.held.len();
            buffer[..held].copy_from_slice(&self.held);
            let count = match socket.read(&mut buffer[held..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if must_wait(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let now = clock.now();
            let input = &buffer[..held + count];
            let mut at = 0;
            loop {
                let rest = &input[at..];
                let next = self.flight.next().map(|request| request.kind);
                let Some(length) = wire.reply_length(rest, next, self.searched) else { break };
                let what = self.flight.reply(&rest[..length], wire, prefix);
                let unasked = what == Settled::Unasked;
                settled(now, what, &rest[..length]);
                if unasked {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                at += length;
                self.searched = 0;
            }
            self.held.clear();
            self.held.extend_from_slice(&input[at..]);
            self.searched = self.held.len();
            if self.held.len() > MAX_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // A short read has emptied the socket; but of an end that came with it nothing more
            // will be told.
            if input.len() < buffer.len() && !closed {
                return Ok(());
            }
        }
    }
}

/// Nothing can be done now: the socket is empty or full, or not yet connected.
fn must_wait(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
