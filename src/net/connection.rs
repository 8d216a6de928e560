//! A connection: its socket, what was read and not consumed, what was not taken by the socket.

use core::time::Duration;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};

use mio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

use super::peer_tls::{FIRST_BYTE, PeerTlsConfig, certified};
use super::session::Session;
use super::tls::Tls;
use crate::herd::LinkId;
use crate::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use crate::limits::{DRAIN_TIMEOUT, Limits, PROBATION};
use crate::node::{Next, Stall};

/// Where a connection is in its life.
pub enum Stage {
    /// This node dials the neighbour of the link; nothing is known yet.
    Dialling(LinkId),
    /// Something is said.
    Open(Session),
    /// The node has said its last word and reads on for a moment. Nothing is executed.
    Draining,
}

/// How the bytes of a connection travel.
pub enum Security {
    /// As they are.
    Plain,
    /// As they are, unless the first byte says otherwise: links of this herd run over TLS.
    Unknown,
    /// TLS whose handshake is under way.
    Shaking(Box<Tls>),
    /// TLS.
    Tls(Box<Tls>),
}

/// One socket of the loop.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// TLS on it.
    pub security: Security,
    /// Where it is in its life.
    pub stage: Stage,
    /// The other end.
    pub address: SocketAddr,
    /// Read, but not consumed: a partial line, or lines that must wait.
    pub input: Vec<u8>,
    /// Replies that the socket did not take.
    pub output: Vec<u8>,
    /// Bytes sent that are not counted yet.
    pub sent: u64,
    /// What the session said is next.
    pub next: Next,
    /// The socket may have something to read. Edge-triggered: stays until a read would block.
    pub readable: bool,
    /// The socket may take something.
    pub writable: bool,
    /// An event said that the other end has ended its side: there is an end to be read.
    pub read_closed: bool,
    /// That end has been read.
    pub ended: bool,
    /// Whether it is in the run queue.
    pub queued: bool,
    /// Whether it is among those that wait for room.
    pub starved: bool,
    /// Why it is not read from, since the last time that it was.
    pub stall: Option<Stall>,
    /// Whether the connection counts as a client's.
    pub counted: bool,
    /// Whether it was refused, and is only being told so.
    pub refusal: bool,
    /// See the loop's tokens.
    pub generation: u32,
    /// When the stage, or the partial line, began.
    pub since: Duration,
    /// When the socket last took something of a backlog, or the backlog began.
    pub stalled_since: Option<Duration>,
    /// When a partial line began.
    pub line_since: Option<Duration>,
    /// When something was last consumed, or the last of what was owed left.
    pub active: Duration,
    /// Why the node ends it, once it has made up its mind and still sends what is owed.
    pub verdict: Option<&'static str>,
    /// The reminder that is set.
    pub reminder: Option<Duration>,
}

/// What a connection has only so much time for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// A neighbour that is dialled takes the connection.
    Dial,
    /// A handshake, that of TLS or that of the herd.
    TlsHandshake,
    /// A handshake of the herd.
    Handshake,
    /// A line that has begun ends.
    Line,
    /// Something comes at all.
    Idle,
    /// The client reads its replies.
    Write,
    /// A connection over the limit says that it is a peer.
    Probation,
    /// What is unread is drained.
    Drain,
}

impl Deadline {
    /// Why a connection is closed that has missed it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Dial => "it took no connection",
            Self::TlsHandshake => "its TLS handshake took too long",
            Self::Handshake => "its handshake took too long",
            Self::Line => "its line took too long",
            Self::Idle => "it was idle",
            Self::Write => "it did not read its replies",
            Self::Probation => "too many connections",
            Self::Drain => "drained",
        }
    }
}

/// What came of a read.
pub enum ReadOutcome {
    /// Bytes.
    Some(usize),
    /// The other end has ended its side.
    End,
    /// Nothing for now.
    Blocked,
}

impl Connection {
    /// A connection around `stream`.
    #[must_use]
    pub fn new(stream: TcpStream, stage: Stage, address: SocketAddr, now: Duration) -> Self {
        Self {
            stream,
            security: Security::Plain,
            stage,
            address,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            next: Next::Read,
            // Register and try at once: what came before is no edge, and trying costs little.
            readable: true,
            writable: true,
            read_closed: false,
            ended: false,
            queued: false,
            starved: false,
            stall: None,
            counted: false,
            refusal: false,
            generation: 0,
            since: now,
            stalled_since: None,
            line_since: None,
            active: now,
            verdict: None,
            reminder: None,
        }
    }

    /// The link that runs on it.
    #[must_use]
    pub const fn link(&self) -> Option<LinkId> {
        match &self.stage {
            Stage::Open(session) => session.link(),
            _ => None,
        }
    }

    /// Whether something that has been said is still here, and not with the kernel.
    #[must_use]
    pub fn owes(&self) -> bool {
        let ciphertext = matches!(&self.security, Security::Tls(tls) if tls.wants_write());
        ciphertext || !self.output.is_empty()
    }

    /// Whether all that it is to be told has been said, and is with the kernel.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.owes() && matches!(&self.stage, Stage::Open(session) if !session.is_waiting())
    }

    /// Whether it is known to be a client's: neighbours have their turn whatever clients ask.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        matches!(&self.stage, Stage::Open(session) if session.is_client())
    }

    /// Finds out whether the other end speaks TLS, and takes part in the handshake as far as it
    /// goes now. Returns whether lines can be read; `names` are the nodes of the herd.
    ///
    /// # Errors
    ///
    /// What the socket or TLS says.
    pub fn secure<'n>(
        &mut self,
        config: Option<&PeerTlsConfig>,
        names: impl Iterator<Item = &'n [u8]>,
        now: Duration,
    ) -> io::Result<bool> {
        if let (Security::Unknown, Some(config)) = (&self.security, config) {
            let mut first = [0];
            match self.stream.peek(&mut first) {
                Ok(1) if first[0] == FIRST_BYTE => {
                    self.security = Security::Shaking(Box::new(config.accept()?));
                    self.since = now;
                }
                Ok(_) => self.security = Security::Plain,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Security::Shaking(tls) = &mut self.security else { return Ok(true) };
        match tls.shake(&mut self.stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(false);
            }
            other => other?,
        }
        if let Stage::Open(session) = &mut self.stage {
            session.certify(certified(tls, names));
        }
        if let Security::Shaking(tls) = std::mem::replace(&mut self.security, Security::Plain) {
            self.security = Security::Tls(tls);
        }
        self.readable = true; // what came with the handshake brings no edge
        Ok(true)
    }

    /// Reads into `buffer`.
    ///
    /// # Errors
    ///
    /// What the socket says, but for "try again".
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<ReadOutcome> {
        loop {
            let read = match &mut self.security {
                Security::Plain => self.stream.read(buffer),
                Security::Tls(tls) => tls.read(&mut self.stream, buffer),
                Security::Unknown | Security::Shaking(_) => Err(io::ErrorKind::WouldBlock.into()),
            };
            return match read {
                Ok(0) => {
                    (self.readable, self.ended) = (false, true);
                    Ok(ReadOutcome::End)
                }
                Ok(read) => {
                    // A short read has emptied the socket: another would only say so. An end
                    // that came with the bytes brings no edge of its own, but its event said so.
                    // TLS hands out what one record held, short or not.
                    let plain = matches!(self.security, Security::Plain);
                    if plain && read < buffer.len() && !self.read_closed {
                        self.readable = false;
                    }
                    Ok(ReadOutcome::Some(read))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    Ok(ReadOutcome::Blocked)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Lines end by themselves: an end that TLS did not announce cuts none short.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    (self.readable, self.ended) = (false, true);
                    Ok(ReadOutcome::End)
                }
                Err(error) => Err(error),
            };
        }
    }

    /// Sends `bytes` behind what waits already; what the socket does not take is kept.
    ///
    /// # Errors
    ///
    /// What the socket says, but for "try again".
    pub fn send(&mut self, bytes: &[u8], now: Duration) -> io::Result<()> {
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return self.flush(now);
        }
        let sent = self.write(bytes)?;
        if sent < bytes.len() {
            self.output.extend_from_slice(&bytes[sent..]);
            self.stalled_since = Some(now);
        }
        Ok(())
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// What the socket says, but for "try again".
    pub fn flush(&mut self, now: Duration) -> io::Result<()> {
        if let Security::Tls(tls) = &mut self.security
            && tls.wants_write()
        {
            tls.flush(&mut self.stream)?;
            self.writable &= !tls.wants_write();
        }
        if self.output.is_empty() {
            return Ok(());
        }
        let output = std::mem::take(&mut self.output);
        let sent = self.write(&output)?;
        if sent < output.len() {
            if sent > 0 || self.stalled_since.is_none() {
                self.stalled_since = Some(now);
            }
            self.output = output;
            self.output.drain(..sent);
        } else {
            // The buffer goes: an idle connection holds none.
            self.stalled_since = None;
            self.active = now;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() && self.writable {
            let written = match &mut self.security {
                Security::Tls(tls) => tls.write(&mut self.stream, &bytes[sent..]),
                _ => self.stream.write(&bytes[sent..]),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent += sent as u64;
        Ok(sent)
    }

    /// Nothing more will be sent. An error means that the other end is gone, which the next read
    /// tells as well.
    pub fn shut_down(&mut self) {
        if let Security::Tls(tls) = &mut self.security {
            tls.end(&mut self.stream);
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Keeps `rest`, what the session did not consume; `consumed` says whether it consumed
    /// anything.
    pub fn keep_input(&mut self, rest: &[u8], consumed: bool, now: Duration) {
        self.input.clear();
        self.input.extend_from_slice(rest);
        if rest.is_empty() && self.input.capacity() > 256 {
            self.input = Vec::new();
        }
        // The time of a line runs from its first byte, and not while the node makes it wait.
        if rest.is_empty() || self.next != Next::Read {
            self.line_since = None;
        } else if consumed || self.line_since.is_none() {
            self.line_since = Some(now);
        }
    }

    /// When the connection is to be closed if nothing happens, and why.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<(Duration, Deadline)> {
        let mut first: Option<(Duration, Deadline)> = None;
        let mut at = |when: Duration, what: Deadline| {
            if first.is_none_or(|(earliest, _)| when < earliest) {
                first = Some((when, what));
            }
        };
        match &self.stage {
            Stage::Dialling(_) => at(self.since + DIAL_TIMEOUT, Deadline::Dial),
            Stage::Draining => at(self.since + DRAIN_TIMEOUT, Deadline::Drain),
            Stage::Open(_) if matches!(self.security, Security::Shaking(_)) => {
                at(self.since + HANDSHAKE_TIMEOUT, Deadline::TlsHandshake);
            }
            Stage::Open(session) if session.is_shaking() => {
                at(self.since + HANDSHAKE_TIMEOUT, Deadline::Handshake);
            }
            Stage::Open(session) if session.link().is_some() => {}
            Stage::Open(session) => {
                if let Some(since) = self.line_since.filter(|_| self.next == Next::Read) {
                    at(since + limits.line_timeout, Deadline::Line);
                }
                // A client that is not read from for now is not the one who is idle.
                let waits = session.is_waiting() || self.next == Next::Wait;
                let owes = waits || !self.output.is_empty();
                if let Some(idle) = session.idle_timeout(limits).filter(|_| !owes) {
                    at(self.active + idle, Deadline::Idle);
                }
                if self.refusal {
                    at(self.since + PROBATION, Deadline::Probation);
                }
            }
        }
        if let Some(since) = self.stalled_since.filter(|_| self.link().is_none()) {
            at(since + limits.write_timeout, Deadline::Write);
        }
        first
    }
}

/// The options of a client's or peer's socket. One that cannot be set is no reason to refuse
/// anybody; the kernel's own value stands.
pub fn set_options(
    socket: &SockRef<'_>,
    send_buffer: usize,
    receive_buffer: usize,
    keepalive: Duration,
) {
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_send_buffer_size(send_buffer);
    let _ = socket.set_recv_buffer_size(receive_buffer);
    let interval = (keepalive / 4).max(Duration::from_secs(1)); // it takes whole seconds
    let probes = TcpKeepalive::new().with_time(keepalive).with_interval(interval);
    let _ = socket.set_tcp_keepalive(&probes);
}
