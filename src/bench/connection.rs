//! One connection to a server: its socket and the data in flight in both directions.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::clock::Clock;
use super::in_flight::{Completion, InFlight};
use super::limits::MAX_REPLY;
use super::wire::{CommandKind, Request, Wire};

/// A connection, which may be down and waiting to be reconnected.
pub struct Connection {
    /// Index of the server in the plan.
    pub server: usize,
    /// Requests awaiting replies.
    pub in_flight: InFlight,
    /// Due times of the requests of an open loop that have not been sent yet, oldest first.
    pub backlog: VecDeque<u64>,
    /// True once the server has replied on the current socket.
    pub answered: bool,
    token: Token,
    address: SocketAddr,
    socket: Option<TcpStream>,
    out: Vec<u8>,
    /// Bytes of `out` already sent.
    written: usize,
    /// An incomplete reply.
    partial: Vec<u8>,
    /// Bytes of `partial` already searched for the end of the reply.
    searched: usize,
}

/// State of the server's sending direction, according to the readiness event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadSide {
    /// More data may follow.
    Open,
    /// The server has closed it, or the connection has failed.
    Closed,
}

impl ReadSide {
    /// The state that `event` reports.
    pub fn of(event: &Event) -> Self {
        if event.is_read_closed() || event.is_error() { Self::Closed } else { Self::Open }
    }
}

impl Connection {
    /// Connects to `address` and blocks until the connection is established.
    ///
    /// # Errors
    ///
    /// The connection is refused or times out, or no descriptor is available.
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
            in_flight: InFlight::default(),
            backlog: VecDeque::new(),
            answered: true, // the connection is established
            token,
            address,
            socket: None,
            out: Vec::new(),
            written: 0,
            partial: Vec::new(),
            searched: 0,
        };
        connection.register(TcpStream::from_std(socket), registry)?;
        Ok(connection)
    }

    fn register(&mut self, mut socket: TcpStream, registry: &Registry) -> io::Result<()> {
        let _ = socket.set_nodelay(true); // may fail before the connection is up; only costs time
        registry.register(&mut socket, self.token, Interest::READABLE | Interest::WRITABLE)?;
        self.socket = Some(socket);
        Ok(())
    }

    /// Starts to reconnect after [`Connection::disconnect`], without blocking.
    ///
    /// # Errors
    ///
    /// No descriptor or local port is available.
    pub fn reconnect(&mut self, registry: &Registry) -> io::Result<()> {
        self.register(TcpStream::connect(self.address)?, registry)
    }

    /// Returns whether the connection is up or being established.
    pub fn is_open(&self) -> bool {
        self.socket.is_some()
    }

    /// Closes the connection and calls `on_missing` for each outstanding request.
    pub fn disconnect(&mut self, on_missing: impl FnMut(CommandKind)) {
        self.answered = false;
        self.socket = None;
        self.out.clear();
        self.written = 0;
        self.partial.clear();
        self.searched = 0;
        self.in_flight.clear(on_missing);
    }

    /// Queues a request; [`Connection::flush`] sends it.
    pub fn push(&mut self, request: Request, wire: &Wire) {
        wire.encode(&mut self.out, &request);
        self.in_flight.push(request);
    }

    /// Sends queued requests until the socket's buffer is full.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        while self.written < self.out.len() {
            match socket.write(&self.out[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads available data and calls `on_reply` for each complete reply, with its arrival time, what
    /// it completes and its text. `buffer` is scratch space longer than [`MAX_REPLY`].
    ///
    /// # Errors
    ///
    /// The connection is lost, or cannot be used further because a reply is unsolicited or longer than
    /// [`MAX_REPLY`].
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        wire: &Wire,
        prefix: &[u8],
        clock: &Clock,
        read_side: ReadSide,
        mut on_reply: impl FnMut(u64, Completion, &[u8]),
    ) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        loop {
            let partial = self.partial.len();
            buffer[..partial].copy_from_slice(&self.partial);
            let count = match socket.read(&mut buffer[partial..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let now = clock.now();
            let input = &buffer[..partial + count];
            let mut at = 0;
            loop {
                let rest = &input[at..];
                let next = self.in_flight.next().map(|request| request.command);
                let Some(length) = wire.reply_length(rest, next, self.searched) else { break };
                let completion = self.in_flight.complete(&rest[..length], wire, prefix);
                let is_unsolicited = completion == Completion::Unsolicited;
                on_reply(now, completion, &rest[..length]);
                if is_unsolicited {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                at += length;
                self.searched = 0;
            }
            self.partial.clear();
            self.partial.extend_from_slice(&input[at..]);
            self.searched = self.partial.len();
            if self.partial.len() > MAX_REPLY {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // A short read has drained the socket. If the read side is closed, the end of the stream
            // must still be read: readiness is edge-triggered, so no further event reports it.
            if input.len() < buffer.len() && read_side == ReadSide::Open {
                return Ok(());
            }
        }
    }
}

/// Returns whether the operation must wait for readiness: the buffer is empty or full, or the
/// connection is not established yet.
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected)
}
