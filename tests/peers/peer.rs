//! A neighbor simulated by the test, which performs the handshake correctly or incorrectly.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use ring::hmac;

use crate::common::{DEADLINE, Herd, eventually};

/// Node `A`; its neighbor `False`, which is this test; and `Far`, which is not a neighbor of `A`.
const NODES: [(&str, &[&str]); 3] = [("A", &["False"]), ("False", &["Far"]), ("Far", &[])];

/// Starts only node `A` of [`NODES`], and the listener of `False`.
pub fn with_fake_neighbor(secret: Option<&str>, extra: &str) -> (Herd, TcpListener) {
    let mut herd = Herd::new(&NODES, extra);
    if let Some(secret) = secret {
        herd.set_environment("HERD_SECRET", secret);
    }
    let listener = TcpListener::bind(herd.address("False")).unwrap();
    listener.set_nonblocking(true).unwrap();
    herd.start("A");
    (herd, listener)
}

/// The first line of a node with default settings and the given nonce.
pub fn hello(from: &str, to: &str, nonce: u8, has_secret: bool) -> Vec<u8> {
    let (boot, nonce) = (0x1234_u64, hex(&[nonce; 16]));
    let (offset, clients, ttl) = (5_000_000_000_u64, 1_000_000_u64, 0_u64);
    let keep = 604_800_000_000_000_u64;
    let secret = if has_secret { "secret" } else { "open" };
    format!(
        "HERD 2 {from} {to} {boot:016x} {nonce} {secret} \
         {offset:016x} {clients:016x} {ttl:016x} {keep:016x} 0000 -"
    )
    .into_bytes()
}

/// The proof of `role`, which is `dialler` or `listener`, for the first lines of both ends.
pub fn proof(secret: &str, role: &str, dialer: &[u8], listener: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, &[role.as_bytes(), dialer, listener].join(&b'\n'));
    format!("PROOF {}", hex(tag.as_ref())).into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// A connection to the node.
pub struct Peer(TcpStream);

impl Peer {
    /// Dials node `A`.
    pub fn dial(herd: &Herd) -> Self {
        Self::connect(herd.address("A"))
    }

    pub fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).unwrap())
    }

    /// Waits until node `A` dials.
    pub fn accept(listener: &TcpListener) -> Self {
        let accepted = eventually("A dials its neighbor", DEADLINE, || listener.accept().ok());
        accepted.0.set_nonblocking(false).unwrap();
        Self::from_stream(accepted.0)
    }

    fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Sends these lines, each terminated by LF. Ignores errors, since the node may have closed.
    pub fn send(&mut self, lines: &[&[u8]]) {
        let mut all = lines.join(&b'\n');
        all.push(b'\n');
        let _ = self.0.write_all(&all);
    }

    /// Reads the next line, without its LF.
    pub fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.0.read_exact(&mut byte).expect("a line");
            if byte == *b"\n" {
                return line;
            }
            line.push(byte[0]);
        }
    }

    /// Reads until the node closes the connection; a reset is accepted as well.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the node does not close")
            }
            _ => rest,
        }
    }

    /// Half-closes the connection.
    pub fn shut_down(&mut self) {
        let _ = self.0.shutdown(Shutdown::Write);
    }

    /// Half-closes the connection and reads until the node closes it.
    pub fn half_close(mut self) -> Vec<u8> {
        let _ = self.0.shutdown(Shutdown::Write);
        self.rest()
    }

    /// Completes the handshake of the neighbor `False` that has dialed node `A`, and checks the
    /// proof of `A`. Returns the lines sent.
    pub fn handshake(&mut self, secret: &str, nonce: u8) -> [Vec<u8>; 2] {
        let hello = hello("False", "A", nonce, true);
        self.send(&[&hello]);
        let theirs = self.line();
        let own_proof = proof(secret, "dialler", &hello, &theirs);
        self.send(&[&own_proof]);
        assert_eq!(self.line(), proof(secret, "listener", &hello, &theirs));
        [hello, own_proof]
    }
}
