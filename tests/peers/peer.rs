//! A neighbour that is this test: it speaks the handshake of links itself, rightly or wrongly.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use ring::hmac;

use crate::common::{DEADLINE, Herd, eventually};

/// Node `A`, whose neighbour `False` is this test; `Far` is in the herd and no neighbour of `A`.
const NODES: [(&str, &[&str]); 3] = [("A", &["False"]), ("False", &["Far"]), ("Far", &[])];

/// The herd of [`NODES`] with only `A` running, and the listener of `False`.
pub fn beside_a_false_neighbour(secret: Option<&str>, extra: &str) -> (Herd, TcpListener) {
    let mut herd = Herd::new(&NODES, extra);
    if let Some(secret) = secret {
        herd.set_environment("HERD_SECRET", secret);
    }
    let listener = TcpListener::bind(herd.address("False")).unwrap();
    listener.set_nonblocking(true).unwrap();
    herd.start("A");
    (herd, listener)
}

/// The first line of a node that has the default settings; `nonce` is what it draws.
pub fn hello(from: &str, to: &str, nonce: u8, has_secret: bool) -> Vec<u8> {
    let (boot, nonce) = (0x1234_u64, hex(&[nonce; 16]));
    let (offset, clients, ttl) = (5_000_000_000_u64, 1_000_000_u64, 0_u64);
    let secret = if has_secret { "secret" } else { "open" };
    format!(
        "HERD 1 {from} {to} {boot:016x} {nonce} {offset:016x} {clients:016x} {ttl:016x} {secret}"
    )
    .into_bytes()
}

/// The proof of `role`, which is `dialler` or `listener`.
pub fn proof(secret: &str, role: &str, dialler: &[u8], listener: &[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, &[role.as_bytes(), dialler, listener].join(&b'\n'));
    format!("PROOF {}", hex(tag.as_ref())).into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// One connection with the node.
pub struct Peer(TcpStream);

impl Peer {
    /// Dials node `A`.
    pub fn dial(herd: &Herd) -> Self {
        Self::connect(herd.address("A"))
    }

    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// Waits until node `A` dials.
    pub fn accept(listener: &TcpListener) -> Self {
        let accepted = eventually("A dials its neighbour", DEADLINE, || listener.accept().ok());
        accepted.0.set_nonblocking(false).unwrap();
        Self::over(accepted.0)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Says these lines, each with its LF. The node may have closed by then.
    pub fn say(&mut self, lines: &[&[u8]]) {
        let mut all = lines.join(&b'\n');
        all.push(b'\n');
        let _ = self.0.write_all(&all);
    }

    /// The next line without its LF.
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

    /// What the node says until it closes, which it must do by itself.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the node does not close")
            }
            _ => rest, // a reset is an end as well
        }
    }

    /// As [`Peer::rest`], after this side has been ended.
    pub fn end(mut self) -> Vec<u8> {
        let _ = self.0.shutdown(Shutdown::Write);
        self.rest()
    }

    /// Becomes the neighbour `False` of node `A` by dialling it, and checks that `A` knows the
    /// secret too. Gives what this side has said.
    pub fn introduce(&mut self, secret: &str, nonce: u8) -> [Vec<u8>; 2] {
        let hello = hello("False", "A", nonce, true);
        self.say(&[&hello]);
        let theirs = self.line();
        let proof_of_this = proof(secret, "dialler", &hello, &theirs);
        self.say(&[&proof_of_this]);
        assert_eq!(self.line(), proof(secret, "listener", &hello, &theirs));
        [hello, proof_of_this]
    }
}
