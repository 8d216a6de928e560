//! The end of a nonblocking connect, the same for neighbors and for places providers.

use std::io;

use mio::net::TcpStream;

/// Returns true once `stream` is connected. A readiness event does not show whether the attempt has
/// succeeded, so this queries first the socket error and then the peer's address, as connect(2) and
/// mio's documentation recommend.
///
/// # Errors
///
/// The error of a failed attempt. A socket that has connected to itself (nothing listens on the
/// port, and the kernel gave that very port to this end) counts as refused.
pub fn is_connected(stream: &TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        Ok(address) if stream.local_addr()? == address => {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}
