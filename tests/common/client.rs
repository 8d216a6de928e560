//! A connection to a node.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use super::DEADLINE;
use super::protocol::{At, Whatsat, assert_bytes, find, show};

/// A connection to a node. Reads time out, so that a missing reply fails the test.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).unwrap())
    }

    fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    /// Connects with the smallest receive buffer that the kernel allows.
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::from_stream(socket.into())
    }

    /// Connects from this address.
    pub fn connect_from(local: std::net::IpAddr, address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(local, 0).into()).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::from_stream(socket.into())
    }

    /// The local address, which identifies the connection in the node's log.
    pub fn address(&self) -> String {
        self.stream.local_addr().unwrap().to_string()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends from another thread and ignores errors, because the node may close the connection.
    pub fn send_in_background(&self, bytes: Vec<u8>) -> thread::JoinHandle<()> {
        let mut stream = self.stream.try_clone().unwrap();
        thread::spawn(move || {
            let _ = stream.write_all(&bytes);
        })
    }

    /// Like [`Client::send_in_background`], and half-closes the connection afterwards.
    pub fn send_and_half_close_in_background(&self, bytes: Vec<u8>) -> thread::JoinHandle<()> {
        let mut stream = self.stream.try_clone().unwrap();
        thread::spawn(move || {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Makes dropping this connection send a reset instead of an orderly close.
    pub fn reset_when_dropped(&self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads the next line, including its LF.
    pub fn line(&mut self) -> Vec<u8> {
        self.until(b"\n")
    }

    /// Reads up to and including `end`.
    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.received[searched..], end) {
                return self.received.drain(..searched + at + end.len()).collect();
            }
            searched = self.received.len().saturating_sub(end.len() - 1);
            let more = self.read();
            assert!(more > 0, "end of stream instead of a reply; received: {}", self.seen());
        }
    }

    /// Reads the next `count` bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            assert!(
                self.read() > 0,
                "end of stream instead of {count} bytes; received: {}",
                self.seen()
            );
        }
        self.received.drain(..count).collect()
    }

    /// Reads until the node closes the connection; a reset fails the test.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read() > 0 {}
        std::mem::take(&mut self.received)
    }

    fn read(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error} instead of a reply; received: {}", self.seen()),
            }
        }
    }

    fn seen(&self) -> String {
        let tail = &self.received[self.received.len().saturating_sub(300)..];
        format!("{} unread bytes …{}", self.received.len(), tail.escape_ascii())
    }

    /// Sends `command` followed by LF and returns the next line.
    pub fn ask(&mut self, command: &[u8]) -> Vec<u8> {
        self.send(&[command, b"\n"].concat());
        self.line()
    }

    /// Sends an IAMAT and returns its AT line, including LF.
    pub fn iamat(&mut self, client: &str, location: &str, time: &str) -> Vec<u8> {
        let line = self.ask(format!("IAMAT {client} {location} {time}").as_bytes());
        let own = format!(" {client} {location} {time}\n");
        assert!(line.starts_with(b"AT ") && line.ends_with(own.as_bytes()), "{}", show(&line));
        line
    }

    /// Sends a valid WHATSAT for a known client and returns the reply.
    pub fn whatsat(&mut self, client: &str, radius: &str, max: &str) -> Whatsat {
        self.send(format!("WHATSAT {client} {radius} {max}\n").as_bytes());
        Whatsat::parse(&self.until(b"\n\n"))
    }

    /// The AT line that the node stores for a client, queried without places.
    pub fn held(&mut self, client: &[u8]) -> Option<Vec<u8>> {
        let command = [b"WHATSAT ", client, b" 0 0"].concat();
        let line = self.ask(&command);
        if line.starts_with(b"? ") {
            assert_bytes(&line, &[b"? ", &command[..], b"\n"].concat());
            return None;
        }
        self.until(b"\n\n");
        At::parse(&line);
        Some(line)
    }

    /// Sends `input`, half-closes the connection, and returns all replies.
    pub fn exchange(mut self, input: &[u8]) -> Vec<u8> {
        self.send(input);
        self.half_close();
        self.rest()
    }
}
