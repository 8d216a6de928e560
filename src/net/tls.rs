//! TLS over a nonblocking socket.

use std::io::{self, Read as _, Write as _};

use mio::net::TcpStream;
use rustls::Connection;
use rustls::pki_types::CertificateDer;

/// TLS on a socket. Reads and writes behave like those of a nonblocking socket: "would block" means to
/// retry at the next event, whichever direction TLS itself waits for.
pub struct Tls(Connection);

impl Tls {
    /// TLS in the initial state of `connection`.
    #[must_use]
    pub fn new(connection: impl Into<Connection>) -> Self {
        Self(connection.into())
    }

    /// The certificate of the other side, once the handshake is complete.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'_>> {
        self.0.peer_certificates()?.first()
    }

    /// Returns true if encrypted bytes wait for the socket.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Reads plaintext. Returns 0 after a `close_notify` alert.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::UnexpectedEof`] if the stream ended without that alert, so that it may be
    /// truncated; [`io::ErrorKind::InvalidData`] if it violates TLS; and the errors of the socket,
    /// "would block" included.
    pub fn read(&mut self, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            self.read_tls(socket)?;
        }
    }

    /// Continues the handshake as far as it goes without waiting.
    ///
    /// # Errors
    ///
    /// As [`Tls::read`].
    pub fn handshake(&mut self, socket: &mut TcpStream) -> io::Result<()> {
        while self.0.is_handshaking() {
            self.flush(socket)?;
            if self.0.is_handshaking() && self.read_tls(socket)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        self.flush(socket)
    }

    /// Encrypts and sends as much of `bytes` as there is room for. Returns the number of bytes taken.
    ///
    /// # Errors
    ///
    /// As [`Tls::read`]; "would block" if nothing was taken.
    pub fn write(&mut self, socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.0.writer().write(bytes)?;
        self.flush(socket)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    }

    /// Sends as many of the encrypted bytes as the socket takes.
    ///
    /// # Errors
    ///
    /// A socket error other than "would block".
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

    /// Sends a `close_notify` alert.
    pub fn end(&mut self, socket: &mut TcpStream) {
        self.0.send_close_notify();
        // The socket is closed in any case, so a failure to send the alert has no consequence here.
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
            // The alert gives the other side the reason, if the socket still takes it.
            let _ = self.flush(socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        self.flush(socket)?;
        Ok(read)
    }
}
