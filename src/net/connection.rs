//! A connection: socket, unconsumed input and unsent output.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

use super::peer_tls::{FIRST_BYTE, certified};
use super::session::Session;
use super::tls::Tls;
use crate::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use crate::ids::{ConnectionId, LinkId};
use crate::limits::Limits;
use crate::net::limits::{DRAIN_TIMEOUT, PROBATION, REQUEST_STEP, RESERVE_TIMEOUT};
use crate::node::Next;
use crate::time::Instant;

/// Capacity in bytes up to which an empty input buffer is kept: most partial lines fit, and an idle
/// connection should hold little.
const KEPT_INPUT: usize = 256;

/// The response to plain HTTP at a port for HTTPS.
const HTTPS_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 48\r\nConnection: close\r\n\r\nthis port speaks HTTPS; use https:// in the URL\n";

/// The stage of a connection.
pub enum Stage {
    /// This node is connecting to the neighbor of a link.
    Dialing(Dial),
    /// A session runs on it.
    Open(Session),
    /// The sending side is shut down. Input is read and discarded for a moment, so that unread bytes
    /// do not turn into a reset that destroys the last reply.
    Draining,
}

/// The aim of a dial.
#[derive(Clone, Copy)]
pub struct Dial {
    /// The link.
    pub link: LinkId,
    /// The connection that carries the link and that this one will replace. If `None`, the dial
    /// establishes the link.
    pub replaces: Option<ConnectionId>,
}

/// The encryption of a connection.
pub enum Security {
    /// In the clear.
    Plain,
    /// In the clear, unless the first byte is that of a TLS handshake.
    Unknown,
    /// TLS, of which no byte has arrived. The state of the handshake, some kilobytes, is created then.
    Expected,
    /// TLS, with the handshake under way.
    Handshaking(Box<Tls>),
    /// TLS.
    Tls(Box<Tls>),
}

/// The limit that a connection counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// As a client.
    Client,
    /// The limit is reached, but it comes from the address of a neighbor that is not linked: its
    /// first line shows whether it is that neighbor.
    Probation,
    /// It was accepted at the port for links, and its handshake has not succeeded yet.
    LinkPort,
    /// The limit is reached, but it is an HTTP connection that may make one health check.
    Reserve,
    /// The limit is reached, and the peer has been notified.
    Refused,
    /// Not at all: a link, or a connection that this node dialed.
    Exempt,
}

/// Facts about the socket. Edge-triggered: a flag stays set until a call would block.
#[expect(clippy::struct_excessive_bools, reason = "four independent facts about one socket")]
pub struct Readiness {
    /// A read may return something.
    pub readable: bool,
    /// A write may be taken.
    pub writable: bool,
    /// An event has reported that the peer half-closed: an end of the stream will be read.
    pub read_closed: bool,
    /// The end of the stream has been read.
    pub ended: bool,
}

/// The times that the deadlines of a connection count from.
pub struct Times {
    /// The start of the stage or of the handshake.
    pub since: Instant,
    /// The start of the partial line at the end of the input.
    pub line_since: Option<Instant>,
    /// The last time that the socket took something of a backlog, or the start of the backlog.
    pub stalled_since: Option<Instant>,
    /// The last time that input was consumed or the backlog was sent.
    pub active: Instant,
    /// The timer that is set for the next deadline.
    pub timer: Option<Instant>,
}

/// One socket of the loop.
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    /// Its encryption.
    pub security: Security,
    /// Its stage.
    pub stage: Stage,
    /// Address and port of the other end.
    pub address: SocketAddr,
    /// Facts about the socket.
    pub readiness: Readiness,
    /// Input that was read and not consumed: a partial line, or lines that must wait.
    pub input: Vec<u8>,
    /// Output that the socket has not taken.
    pub output: Vec<u8>,
    /// Output that waits for the disk. Nothing is executed meanwhile.
    pub held: Option<Held>,
    /// Bytes sent and not yet added to the counters.
    pub sent: u64,
    /// The need of the session, as of its last call.
    pub next: Next,
    /// True while it is in the run queue, or is to be served in this turn. It is in one place only: a
    /// batch that contained it twice would execute its input twice.
    pub queued: bool,
    /// True while it waits for room for its WHATSAT.
    pub starved: bool,
    /// True if being blocked has been counted since the connection was last read.
    pub stall_counted: bool,
    /// The limit that it counts against.
    pub admission: Admission,
    /// Distinguishes it from other connections under the same key of the slab; see [`super::token`].
    pub generation: u32,
    /// The number of times that an incomplete request has received [`REQUEST_STEP`] bytes.
    step: u32,
    /// The times that its deadlines count from.
    pub times: Times,
    /// The reason for the log, if the node ends the connection.
    pub close_reason: Option<&'static str>,
}

/// Output that waits until records are durable.
pub struct Held {
    /// True if the output must not be sent unless it is.
    pub is_update: bool,
    /// The output.
    pub bytes: Vec<u8>,
}

/// A time limit on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// On connecting to a neighbor.
    Dial,
    /// On the TLS handshake.
    TlsHandshake,
    /// On the handshake of a link.
    Handshake,
    /// On the arrival of the rest of a line.
    Line,
    /// On silence.
    Idle,
    /// On the socket taking unsent replies.
    Write,
    /// On a connection over the limit showing that it is a peer's or makes a health check.
    Probation,
    /// On draining.
    Drain,
}

impl Deadline {
    /// The close reason for the log.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Dial => "connect timeout",
            Self::TlsHandshake => "TLS handshake timeout",
            Self::Handshake => "handshake timeout",
            Self::Line => "line timeout",
            Self::Idle => "idle timeout",
            Self::Write => "write timeout: the peer does not read its replies",
            Self::Probation => "too many connections",
            Self::Drain => "drained",
        }
    }
}

impl Connection {
    /// A connection around `stream`, which is registered and tried at once: what arrived before the
    /// registration brings no edge, and a try costs little.
    #[must_use]
    pub fn new(stream: TcpStream, stage: Stage, address: SocketAddr, now: Instant) -> Self {
        Self {
            stream,
            security: Security::Plain,
            stage,
            address,
            readiness: Readiness {
                readable: true,
                writable: true,
                read_closed: false,
                ended: false,
            },
            input: Vec::new(),
            output: Vec::new(),
            held: None,
            sent: 0,
            next: Next::NeedInput,
            queued: false,
            starved: false,
            stall_counted: false,
            admission: Admission::Exempt,
            generation: 0,
            step: 0,
            times: Times {
                since: now,
                line_since: None,
                stalled_since: None,
                active: now,
                timer: None,
            },
            close_reason: None,
        }
    }

    /// The link that it carries.
    #[must_use]
    pub const fn link(&self) -> Option<LinkId> {
        match &self.stage {
            Stage::Open(session) => session.link(),
            _ => None,
        }
    }

    /// Returns true if output is still buffered in user space.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        let ciphertext = matches!(&self.security, Security::Tls(tls) if tls.wants_write());
        ciphertext || !self.output.is_empty() || self.held.is_some()
    }

    /// Returns true if every reply has been produced and handed to the kernel.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.has_unsent() && matches!(&self.stage, Stage::Open(session) if !session.is_waiting())
    }

    /// Returns true if it is known to be a client's. Neighbors are served however much clients ask.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        matches!(&self.stage, Stage::Open(session) if session.is_client())
    }

    /// Detects TLS by the first byte, and continues the TLS handshake as far as possible without
    /// blocking. `accept` returns the accepting side, and `names` are the nodes of the herd, which a
    /// certificate may name. Returns true once input can be read.
    ///
    /// # Errors
    ///
    /// A socket error, or a failed handshake.
    pub fn secure<'n>(
        &mut self,
        accept: impl FnOnce() -> io::Result<Tls>,
        names: impl Iterator<Item = &'n [u8]>,
        now: Instant,
    ) -> io::Result<bool> {
        if matches!(self.security, Security::Unknown | Security::Expected) {
            let mut first = [0];
            match self.stream.peek(&mut first) {
                Ok(1) if first[0] == FIRST_BYTE => {
                    self.security = Security::Handshaking(Box::new(accept()?));
                    self.times.since = now;
                }
                Ok(1) if matches!(self.security, Security::Expected) => {
                    self.security = Security::Plain;
                    self.refuse_plain_http();
                }
                Ok(_) => self.security = Security::Plain,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        let Security::Handshaking(tls) = &mut self.security else { return Ok(true) };
        match tls.handshake(&mut self.stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readiness.readable = false;
                return Ok(false);
            }
            other => other?,
        }
        if let Stage::Open(session) = &mut self.stage {
            session.set_certified(certified(tls, names));
        }
        if let Security::Handshaking(tls) = std::mem::replace(&mut self.security, Security::Plain) {
            self.security = Security::Tls(tls);
        }
        self.readiness.readable = true; // what came with the handshake brings no edge
        Ok(true)
    }

    /// Answers a plain HTTP request at a port for HTTPS, and executes nothing. It may contain a token,
    /// which has crossed the network unencrypted, so it is not even read.
    fn refuse_plain_http(&mut self) {
        self.output.extend_from_slice(HTTPS_ONLY);
        self.close_reason = Some("plain HTTP at a port for HTTPS");
        self.next = Next::ShutdownWhenFlushed;
    }

    /// Reads into `buffer` until it is full or the socket has nothing more. Returns the number of
    /// bytes; the end of the stream is noted in [`Readiness::ended`].
    ///
    /// # Errors
    ///
    /// A socket error other than "would block", or a broken TLS stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while self.readiness.readable && filled < buffer.len() {
            let rest = &mut buffer[filled..];
            let read = match &mut self.security {
                Security::Plain => self.stream.read(rest),
                Security::Tls(tls) => tls.read(&mut self.stream, rest),
                Security::Unknown | Security::Expected | Security::Handshaking(_) => {
                    Err(io::ErrorKind::WouldBlock.into())
                }
            };
            match read {
                Ok(0) => (self.readiness.readable, self.readiness.ended) = (false, true),
                Ok(read) => {
                    // A short read has emptied the socket, so another would only block. The end of
                    // the stream may arrive with the bytes. It then causes no further event, but the
                    // event has reported it. TLS returns one record per read, short or not.
                    let plain = matches!(self.security, Security::Plain);
                    if plain && read < rest.len() && !self.readiness.read_closed {
                        self.readiness.readable = false;
                    }
                    filled += read;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.readable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Lines delimit themselves: an end that TLS did not announce truncates none.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    (self.readiness.readable, self.readiness.ended) = (false, true);
                }
                // What came before the error is executed first; the next read reports it again.
                Err(_) if filled > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Sends `bytes` after the output that is still unsent. What the socket does not take is kept.
    ///
    /// # Errors
    ///
    /// A socket error other than "would block".
    pub fn send(&mut self, bytes: &[u8], now: Instant) -> io::Result<()> {
        if let Some(held) = &mut self.held {
            held.bytes.extend_from_slice(bytes);
            return Ok(());
        }
        if !self.output.is_empty() {
            self.output.extend_from_slice(bytes);
            return self.flush(now);
        }
        let sent = self.write(bytes)?;
        if sent < bytes.len() {
            self.output.extend_from_slice(&bytes[sent..]);
            self.times.stalled_since = Some(now);
        }
        Ok(())
    }

    /// Sends the output that has waited for the disk.
    ///
    /// # Errors
    ///
    /// A socket error other than "would block".
    pub fn release(&mut self, now: Instant) -> io::Result<()> {
        let Some(held) = self.held.take() else { return Ok(()) };
        // The peer has not been silent, nor has its line taken long: nothing was read meanwhile.
        self.times.active = now;
        self.times.line_since = self.times.line_since.map(|_| now);
        self.send(&held.bytes, now)
    }

    /// Sends unsent output.
    ///
    /// # Errors
    ///
    /// A socket error other than "would block".
    pub fn flush(&mut self, now: Instant) -> io::Result<()> {
        if let Security::Tls(tls) = &mut self.security
            && tls.wants_write()
        {
            tls.flush(&mut self.stream)?;
            self.readiness.writable &= !tls.wants_write();
        }
        if self.output.is_empty() {
            return Ok(());
        }
        let output = std::mem::take(&mut self.output);
        let sent = self.write(&output)?;
        if sent < output.len() {
            if sent > 0 || self.times.stalled_since.is_none() {
                self.times.stalled_since = Some(now);
            }
            self.output = output;
            self.output.drain(..sent);
        } else {
            // Freed, not cleared: an idle connection holds no buffer.
            self.times.stalled_since = None;
            self.times.active = now;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() && self.readiness.writable {
            let written = match &mut self.security {
                Security::Tls(tls) => tls.write(&mut self.stream, &bytes[sent..]),
                _ => self.stream.write(&bytes[sent..]),
            };
            match written {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readiness.writable = false;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The peer has gone. It may have sent records that no other node has: they are read
                // first, and the end of the stream closes the connection.
                Err(_) if self.link().is_some() => {
                    (self.readiness.readable, self.readiness.read_closed) = (true, true);
                    return Ok(bytes.len());
                }
                Err(error) => return Err(error),
            }
        }
        self.sent += sent as u64;
        Ok(sent)
    }

    /// Shuts down the sending side. An error means that the peer has gone, which the next read
    /// reports as well.
    pub fn shut_down(&mut self) {
        self.end_tls();
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Announces the end of TLS, so that the peer does not take it for a truncation.
    pub fn end_tls(&mut self) {
        if let Security::Tls(tls) = &mut self.security {
            tls.end(&mut self.stream);
        }
    }

    /// Keeps the `rest` of the input that the session did not consume; `consumed` is true if it
    /// consumed anything. `received` is the number of bytes that it has consumed of an incomplete
    /// request.
    pub fn keep_input(
        &mut self,
        rest: &[u8],
        consumed: bool,
        received: Option<usize>,
        now: Instant,
    ) {
        self.input.clear();
        self.input.extend_from_slice(rest);
        if rest.is_empty() && self.input.capacity() > KEPT_INPUT {
            self.input = Vec::new();
        }
        // The time of a line runs from its first byte, and not while the node makes it wait. That of a
        // request runs again from every step.
        let step = received.map_or(0, |received| (received / REQUEST_STEP) as u32);
        let proceeds = if received.is_some() { step != self.step } else { consumed };
        self.step = step;
        if (rest.is_empty() && received.is_none()) || self.next != Next::NeedInput {
            self.times.line_since = None;
        } else if proceeds || self.times.line_since.is_none() {
            self.times.line_since = Some(now);
        }
    }

    /// The next deadline and its kind.
    #[must_use]
    pub fn deadline(&self, limits: &Limits) -> Option<(Instant, Deadline)> {
        let mut next = NextDeadline::default();
        let since = self.times.since;
        match &self.stage {
            Stage::Dialing(_) => next.add(since + DIAL_TIMEOUT, Deadline::Dial),
            Stage::Draining => next.add(since + DRAIN_TIMEOUT, Deadline::Drain),
            Stage::Open(_)
                if matches!(self.security, Security::Handshaking(_) | Security::Expected) =>
            {
                next.add(since + HANDSHAKE_TIMEOUT, Deadline::TlsHandshake);
            }
            Stage::Open(session) if session.is_handshaking() => {
                next.add(since + HANDSHAKE_TIMEOUT, Deadline::Handshake);
            }
            Stage::Open(session) if session.link().is_some() => {}
            Stage::Open(session) => self.add_deadlines_of_client(session, limits, &mut next),
        }
        if let Some(since) = self.times.stalled_since
            && self.link().is_none()
        {
            next.add(since + limits.write_timeout, Deadline::Write);
        }
        next.0
    }

    fn add_deadlines_of_client(&self, session: &Session, limits: &Limits, next: &mut NextDeadline) {
        if let Some(since) = self.times.line_since
            && self.next == Next::NeedInput
            && self.held.is_none()
        {
            next.add(since + limits.line_timeout, Deadline::Line);
        }
        // A client that the node makes wait is not idle.
        let waits = session.is_waiting()
            || matches!(self.next, Next::Yielded | Next::Blocked(_))
            || !self.output.is_empty()
            || self.held.is_some();
        if let Some(idle) = session.idle_timeout(limits).filter(|_| !waits) {
            next.add(self.times.active + idle, Deadline::Idle);
        }
        let since = self.times.since;
        match self.admission {
            Admission::Probation => next.add(since + PROBATION, Deadline::Probation),
            Admission::Reserve => next.add(since + RESERVE_TIMEOUT, Deadline::Probation),
            Admission::LinkPort => next.add(since + HANDSHAKE_TIMEOUT, Deadline::Handshake),
            Admission::Client | Admission::Refused | Admission::Exempt => {}
        }
    }
}

/// The earliest of the deadlines that have been added; of equal ones, the first.
#[derive(Default)]
struct NextDeadline(Option<(Instant, Deadline)>);

impl NextDeadline {
    #[inline]
    fn add(&mut self, when: Instant, deadline: Deadline) {
        if self.0.is_none_or(|(earliest, _)| when < earliest) {
            self.0 = Some((when, deadline));
        }
    }
}

/// Sets the options of a client's or peer's socket. An option that cannot be set keeps the kernel's
/// default, since the connection works without it.
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
