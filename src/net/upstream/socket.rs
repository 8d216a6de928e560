//! One socket toward a provider: TCP, then TLS where there is to be any, then bytes.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;

use mio::net::TcpStream;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::net::tls::Tls;
use crate::places::upstream::ConnId;

/// A socket, from dialling to its end.
pub struct Socket {
    stream: TcpStream,
    tls: Option<Tls>,
    /// Tells it from others that had its place before.
    pub generation: u32,
    /// What it is a connection, or an attempt at one, of.
    pub connection: ConnId,
    /// TCP stands.
    pub connected: bool,
    /// TLS stands too, if there is any.
    pub ready: bool,
    /// What is to be sent.
    pub output: Vec<u8>,
    /// It may have something to say.
    pub readable: bool,
    /// It may take something.
    pub writable: bool,
    /// Whether it is among those that had more to say.
    pub again: bool,
}

impl Socket {
    /// A socket that has just been dialled.
    pub const fn new(stream: TcpStream, generation: u32, connection: ConnId) -> Self {
        Self {
            stream,
            tls: None,
            generation,
            connection,
            connected: false,
            ready: false,
            output: Vec::new(),
            readable: false,
            writable: false,
            again: false,
        }
    }

    /// Whether TCP stands: readiness says that something happened, not what.
    pub fn finish_connect(&mut self) -> io::Result<bool> {
        if !self.writable && !self.readable {
            return Ok(false);
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(address) if self.stream.local_addr()? == address => {
                // Nobody listens; the kernel gave the very port to this connection.
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => {
                self.connected = true;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether TLS stands, or there is to be none.
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
            match tls.shake(&mut self.stream) {
                // Bytes behind the handshake may have come with it.
                Ok(()) => self.readable = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.ready = true;
        Ok(true)
    }

    /// Reads what has come. Returns how many bytes; 0 is a clean end.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            Some(tls) => tls.read(&mut self.stream, buffer),
            None => self.stream.read(buffer),
        }
    }

    /// Sends as much of the output as the socket takes.
    pub fn send(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.flush(&mut self.stream)?;
        }
        while !self.output.is_empty() {
            let sent = match &mut self.tls {
                Some(tls) => tls.write(&mut self.stream, &self.output),
                None => self.stream.write(&self.output),
            };
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => drop(self.output.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Tells the other end that nothing more comes, as far as the socket takes it now.
    pub fn end(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.end(&mut self.stream);
        }
    }
}
