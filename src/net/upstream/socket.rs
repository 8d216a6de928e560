//! A socket connected to a server: TCP, then TLS if the URL demands it, then bytes.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::net::connect::is_connected;
use crate::net::tls::Tls;
use crate::time::Instant;

/// A socket, from the start of the connect.
pub struct Socket<Id> {
    stream: TcpStream,
    tls: Option<Tls>,
    /// Distinguishes it from earlier sockets with the same key.
    pub generation: u32,
    /// The connection that it carries, or that it attempts to establish.
    pub connection: Id,
    /// True once TCP is connected.
    pub connected: bool,
    /// True once the TLS handshake, if there is one, is complete as well.
    pub ready: bool,
    output: Vec<u8>,
    /// Bytes of the output that have been sent.
    sent: usize,
    /// A read may return something.
    pub readable: bool,
    /// A write may be taken.
    pub writable: bool,
    /// The peer has sent everything, or the connection has failed.
    pub ended: bool,
    /// The time at which it is read again. It is not registered until then.
    pub resume_at: Option<Instant>,
    /// True while it is queued for the next turn.
    pub queued: bool,
}

impl<Id> Socket<Id> {
    /// A socket whose connect has just been started.
    pub fn new(stream: TcpStream, generation: u32, connection: Id) -> Self {
        Self {
            stream,
            tls: None,
            generation,
            connection,
            connected: false,
            ready: false,
            output: Vec::new(),
            sent: 0,
            readable: false,
            writable: false,
            ended: false,
            resume_at: None,
            queued: false,
        }
    }

    /// Returns true once TCP is connected.
    pub fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.writable && !self.readable {
            return Ok(false);
        }
        self.connected = is_connected(&self.stream)?;
        Ok(self.connected)
    }

    /// Continues the TLS handshake. Returns true once it is complete, or if `tls` is `None`.
    pub fn finish_handshake(
        &mut self,
        tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    ) -> io::Result<bool> {
        if let Some((config, name)) = tls {
            let tls = match &mut self.tls {
                Some(tls) => tls,
                none => {
                    let connection =
                        ClientConnection::new(config, name).map_err(io::Error::other)?;
                    none.insert(Tls::new(connection))
                }
            };
            match tls.handshake(&mut self.stream) {
                // Bytes after the handshake may have arrived with it.
                Ok(()) => self.readable = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.ready = true;
        Ok(true)
    }

    /// Reads input. Returns the number of bytes; 0 is a clean end of the stream.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            let read = self.stream.read(buffer)?;
            // The kernel has no more, and there is an event when it has.
            if read < buffer.len() && !self.ended {
                self.readable = false;
            }
            return Ok(read);
        };
        tls.read(&mut self.stream, buffer)
    }

    /// Pauses until `at`, or registers the socket again.
    pub fn pause(
        &mut self,
        at: Option<Instant>,
        registry: &Registry,
        token: Token,
    ) -> io::Result<()> {
        match (self.resume_at.is_some(), at.is_some()) {
            (false, true) => registry.deregister(&mut self.stream)?,
            (true, false) => {
                registry.register(
                    &mut self.stream,
                    token,
                    Interest::READABLE | Interest::WRITABLE,
                )?;
            }
            _ => {}
        }
        self.resume_at = at;
        Ok(())
    }

    /// Returns whether everything has been sent. TLS may hold something back.
    pub const fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.tls.is_none()
    }

    /// Adds bytes to send. `bytes` is empty afterwards.
    pub fn push(&mut self, bytes: &mut Vec<u8>) {
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, bytes);
        } else {
            self.output.append(bytes);
        }
    }

    /// Sends as much of the output as the socket takes.
    pub fn send(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.flush(&mut self.stream)?;
        }
        loop {
            let rest = &self.output[self.sent..];
            if rest.is_empty() {
                self.output.clear();
                self.sent = 0;
                return Ok(());
            }
            let sent = match &mut self.tls {
                Some(tls) => tls.write(&mut self.stream, rest),
                None => self.stream.write(rest),
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Announces the end of this side's stream, if the socket takes it.
    pub fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.end(&mut self.stream);
        }
    }
}
