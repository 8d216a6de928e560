//! The connection of a phone, and its requests.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::{DEADLINE, show};

/// A connection to the port for devices. Reads time out, so that a missing response fails the test.
pub struct Phone {
    stream: Box<dyn ReadWrite>,
    received: Vec<u8>,
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

/// A response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The header fields, in lower case.
    pub head: String,
    pub body: String,
}

impl Phone {
    /// A connection in the clear.
    pub fn connect(address: SocketAddr) -> Self {
        Self { stream: Box::new(tcp(address)), received: Vec::new() }
    }

    /// A connection over TLS to `localhost`, which trusts the authorities in the file `ca`.
    pub fn connect_tls(address: SocketAddr, ca: &Path) -> Self {
        let stream = StreamOwned::new(tls(ca), tcp(address));
        Self { stream: Box::new(stream), received: Vec::new() }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends without minding that the node may close the connection.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends a request and returns its response.
    pub fn ask(&mut self, request: &[u8]) -> Response {
        self.send(request);
        self.response()
    }

    /// Reads the next response.
    pub fn response(&mut self) -> Response {
        let head = loop {
            if let Some(at) = memchr::memmem::find(&self.received, b"\r\n\r\n") {
                break self.received.drain(..at + 4).collect::<Vec<_>>();
            }
            assert!(self.read() > 0, "no response, only {}", show(&self.received));
        };
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let head = head.to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        while self.received.len() < length {
            assert!(self.read() > 0, "only {}", show(&self.received));
        }
        let body = self.received.drain(..length).collect();
        Response { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// Reads until the node closes the connection, which may be with a reset.
    pub fn rest(&mut self) -> Vec<u8> {
        loop {
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
                Err(error) => panic!("the node does not close the connection: {error}"),
            }
        }
        std::mem::take(&mut self.received)
    }

    fn read(&mut self) -> usize {
        let mut buffer = [0; 4096];
        let read = self.stream.read(&mut buffer).unwrap();
        self.received.extend_from_slice(&buffer[..read]);
        read
    }
}

/// The certificate that the node presents in a new handshake.
pub fn presented(address: SocketAddr, ca: &Path) -> Vec<u8> {
    let mut stream = StreamOwned::new(tls(ca), tcp(address));
    stream.flush().unwrap(); // completes the handshake
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

pub fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// The connecting side of TLS to `localhost`.
pub fn tls(ca: &Path) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

/// A POST request with these header fields.
pub fn post(target: &str, fields: &[&str], body: &str) -> Vec<u8> {
    let mut request = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n");
    for field in fields {
        let _ = write!(request, "{field}\r\n");
    }
    let _ = write!(request, "Content-Length: {}\r\n\r\n{body}", body.len());
    request.into_bytes()
}

/// A POST request with a chunked body.
pub fn post_chunked(target: &str, fields: &[&str], body: &str) -> Vec<u8> {
    let mut request = format!("POST {target} HTTP/1.1\r\nHost: localhost\r\n");
    for field in fields {
        let _ = write!(request, "{field}\r\n");
    }
    request += "Transfer-Encoding: chunked\r\n\r\n";
    for chunk in body.as_bytes().chunks(50) {
        let _ = write!(request, "{:x}\r\n{}\r\n", chunk.len(), str::from_utf8(chunk).unwrap());
    }
    (request + "0\r\n\r\n").into_bytes()
}

pub fn get(target: &str, fields: &[&str]) -> Vec<u8> {
    let mut request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n");
    for field in fields {
        let _ = write!(request, "{field}\r\n");
    }
    (request + "\r\n").into_bytes()
}

/// A position in the form of Traccar Client 10.
pub fn form(target: &str, id: &str, lat: &str, lon: &str, timestamp: i64) -> Vec<u8> {
    let content = "Content-Type: application/x-www-form-urlencoded; charset=UTF-8";
    let body = format!("id={id}&lat={lat}&lon={lon}&timestamp={timestamp}&accuracy=12.5&batt=83");
    post(target, &[content], &body)
}
