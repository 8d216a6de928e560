//! The floor of the benchmark: a readiness loop that returns what it reads without parsing it. What a
//! node costs beyond this is its own work.
//!
//! Usage: `echo_server ADDRESS:PORT`

use std::env;
use std::io::{self, Read as _, Write as _};

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

const LISTENER: Token = Token(usize::MAX);

fn main() -> io::Result<()> {
    let address = env::args().nth(1).and_then(|address| address.parse().ok());
    let address = address.ok_or_else(|| io::Error::other("usage: echo_server ADDRESS:PORT"))?;
    let mut poll = Poll::new()?;
    let mut listener = TcpListener::bind(address)?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut connections: Slab<(TcpStream, Vec<u8>)> = Slab::new();
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((mut socket, _)) = listener.accept() {
                    let entry = connections.vacant_entry();
                    let both = Interest::READABLE | Interest::WRITABLE;
                    socket.set_nodelay(true)?;
                    poll.registry().register(&mut socket, Token(entry.key()), both)?;
                    entry.insert((socket, Vec::new()));
                }
            } else if let Some((socket, unsent)) = connections.get_mut(event.token().0)
                && !echo(socket, unsent, &mut buffer)
            {
                connections.remove(event.token().0);
            }
        }
    }
}

/// Reads and writes until the socket would block. Returns false if the connection has ended.
fn echo(socket: &mut TcpStream, unsent: &mut Vec<u8>, buffer: &mut [u8]) -> bool {
    loop {
        match socket.read(buffer) {
            Ok(0) => return false,
            Ok(count) => {
                unsent.extend_from_slice(&buffer[..count]);
                if count < buffer.len() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(_) => return false,
        }
    }
    while !unsent.is_empty() {
        match socket.write(unsent) {
            Ok(count) => drop(unsent.drain(..count)),
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}
