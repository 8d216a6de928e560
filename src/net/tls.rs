//! TLS over a nonblocking socket, without ever waiting in it.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;
use rustls::Connection;
use rustls::pki_types::CertificateDer;

/// The TLS side of a socket. Reading and writing look like a nonblocking socket's: "would block"
/// means to come back at the next event, whichever direction TLS itself is waiting for.
pub struct Tls(Connection);

impl Tls {
    /// TLS as `connection` begins it.
    #[must_use]
    pub fn new(connection: impl Into<Connection>) -> Self {
        Self(connection.into())
    }

    /// The certificate that the other side has shown, once the handshake is done.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'_>> {
        self.0.peer_certificates()?.first()
    }

    /// Whether encrypted bytes wait for the socket.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Reads plain text. 0 is the end that the other side announced; an end that it did not
    /// announce is [`io::ErrorKind::UnexpectedEof`]: what came may be cut short.
    ///
    /// # Errors
    ///
    /// What the socket says, "would block" included, and what is wrong with the TLS stream.
    pub fn read(&mut self, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.read_tls(socket)?;
        }
    }

    /// Takes part in the handshake as far as it goes without waiting.
    ///
    /// # Errors
    ///
    /// As [`Tls::read`].
    pub fn shake(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.flush(socket)?;
            if self.0.is_handshaking() && self.read_tls(socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush(socket)
    }

    /// Encrypts `bytes` as far as there is room, and sends. Returns how many were taken.
    ///
    /// # Errors
    ///
    /// As [`Tls::read`]; "would block" when nothing was taken.
    pub fn write(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.0.writer().write(bytes)?;
        self.flush(socket)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Sends encrypted bytes that wait, as many as the socket takes.
    ///
    /// # Errors
    ///
    /// What the socket says, but for "would block".
    pub fn flush(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        while self.0.wants_write() {
            match self.0.write_tls(socket) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Announces the end of what this side sends.
    pub fn end(&mut self, socket: &mut TcpStream) {
        self.0.send_close_notify();
        // The socket is closed in any case; whether the announcement left does not matter to us.
        let _ = self.flush(socket);
    }

    fn read_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        let read = loop {
            match self.0.read_tls(socket) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => break done?,
            }
        };
        if let Err(error) = self.0.process_new_packets() {
            // The alert tells the other side why, if the socket still takes it.
            let _ = self.flush(socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        self.flush(socket)?;
        Ok(read)
    }
}
