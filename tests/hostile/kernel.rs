//! What the kernel holds for a client, and that it is no more than the limits say. Read from
//! `/proc/net/tcp`: payload that waits in the queues of a socket, and its timer.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Client, DEADLINE, Herd, assert_bytes, eventually};

/// One socket of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Socket {
    /// Bytes sent and not acknowledged yet, or not sent yet.
    pub unsent: usize,
    /// Bytes received and not read yet.
    pub unread: usize,
    /// Which timer runs (2: keepalive), and when it is up in hundredths of a second.
    pub timer: (u32, u64),
}

/// The sockets of the machine: the address at their own end, the one at the other, and the rest.
fn sockets() -> Vec<(String, String, Socket)> {
    let number = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let socket = |row: &str| {
        let row: Vec<&str> = row.split_whitespace().collect();
        let (unsent, unread) = row[4].split_once(':').unwrap();
        let (timer, when) = row[5].split_once(':').unwrap();
        let socket = Socket {
            unsent: number(unsent) as usize,
            unread: number(unread) as usize,
            timer: (number(timer) as u32, number(when)),
        };
        (row[1].to_owned(), row[2].to_owned(), socket)
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1).map(socket).collect()
}

/// The socket with this address at its own end and that one at the other.
fn socket(own: SocketAddr, other: SocketAddr) -> Option<Socket> {
    let hex = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (own, other) = (hex(own), hex(other));
    let mut sockets = sockets().into_iter();
    sockets.find(|(a, b, _)| *a == own && *b == other).map(|(.., socket)| socket)
}

/// Bytes on their way to or from one of these ports, at whichever end they wait.
pub fn waiting_between(ports: [u16; 2]) -> usize {
    let of_port =
        |address: &str| ports.iter().any(|port| address.ends_with(&format!(":{port:04X}")));
    let of_them = sockets().into_iter().filter(|(own, other, _)| of_port(own) || of_port(other));
    of_them.map(|(.., socket)| socket.unsent + socket.unread).sum()
}

/// Both ends of a client's connection: the node's and the client's. The kernel may leave out a row
/// while other sockets come and go.
pub fn ends(client: &Client) -> (Socket, Socket) {
    let (here, there) =
        (client.stream().local_addr().unwrap(), client.stream().peer_addr().unwrap());
    eventually("both ends are listed", DEADLINE, || socket(there, here).zip(socket(here, there)))
}

/// Sends until the node reads no more and the kernel has taken nothing for a while; returns how much
/// they took.
fn stuff(herd: &Herd, client: &Client, line: &[u8]) -> usize {
    let mut stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let chunk = line.repeat(64 * 1024 / line.len());
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_secs(1)
        || herd.counter("Solo", r#"stalls_total{reason="output"}"#) == 0
    {
        assert!(sent < 64 << 20, "there is no end to what is taken");
        match stream.write(&chunk[sent % line.len()..]) {
            Ok(taken) => (sent, last) = (sent + taken, Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5)); // the pace of the polling
            }
            Err(error) => panic!("{error} after {sent} bytes"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Linux reserves twice what is asked for, for payload and its own bookkeeping, and lets the piece
/// that fills a buffer be as long as it happens to be.
pub const PIECE: usize = 65_536;

const QUESTION: &[u8] = b"WHATSAT kiwi 0 0\n";

/// How long the reply to [`QUESTION`] is.
fn reply_length(herd: &Herd) -> usize {
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+1+1", "1");
    client.send(QUESTION);
    client.until(b"\n\n").len()
}

/// A client that asks and never reads: what the kernel holds for it on the node's side is bounded,
/// both ways.
#[test]
fn the_kernel_buffers_of_a_client_that_never_reads_are_bounded() {
    let limits = "limits: {send_buffer: 8192, receive_buffer: 8192, max_output_buffer: 65536}";
    let herd = Herd::solo_with(limits);
    reply_length(&herd);
    let mut client = Client::connect_narrow(herd.address("Solo"));
    assert_bytes(&client.ask(b"hello"), b"? hello\n"); // so its buffers are as small as they get
    let sent = stuff(&herd, &client, QUESTION);
    let (node, own) = eventually("the queues stand still", DEADLINE, || {
        let before = ends(&client);
        thread::sleep(Duration::from_millis(50)); // what is on its way arrives
        let queues =
            |(node, own): (Socket, Socket)| (node.unsent, node.unread, own.unsent, own.unread);
        (queues(ends(&client)) == queues(before)).then_some(before)
    });
    println!("sent {sent}, node {node:?}, client {own:?}");
    assert!(node.unsent <= 2 * 8192 + PIECE, "SO_SNDBUF: {node:?}");
    assert!(node.unread <= 4 * 8192, "SO_RCVBUF: {node:?}");
    assert_eq!(herd.counter("Solo", r#"stalls_total{reason="output"}"#), 1);
}

/// The kernel holds much that a client has said, and what it said first is enough to be owed all
/// that it may: the node reads so much and no more.
#[test]
fn reading_stops_while_too_many_replies_are_pending() {
    let herd = Herd::solo_with(
        "limits: {send_buffer: 8192, receive_buffer: 200000, max_input_buffer: 36864, \
         max_output_buffer: 65536}",
    );
    let reply = reply_length(&herd);
    let mut client = Client::connect_narrow(herd.address("Solo"));
    assert_bytes(&client.ask(b"hello"), b"? hello\n"); // so its buffers are as they will be
    let said = QUESTION.repeat(150_000 / QUESTION.len());
    herd.signal("Solo", "STOP");
    client.send(&said);
    let (node, _) = eventually("it is all with the kernel of the node", DEADLINE, || {
        let ends = ends(&client);
        (ends.1.unsent == 0).then_some(ends)
    });
    assert_eq!(node.unread, said.len());
    herd.signal("Solo", "CONT");
    eventually("it is owed enough", DEADLINE, || {
        (herd.counter("Solo", r#"stalls_total{reason="output"}"#) == 1).then_some(())
    });
    let (node, own) = ends(&client);
    let taken = said.len() - node.unread;
    // Replies are with the node, its kernel or the client's.
    let executed = (65_536 + reply + node.unsent + own.unread) / reply * QUESTION.len();
    println!("{taken} bytes were read, {executed} of them executed at the most");
    assert!(taken <= executed + 36_864, "{taken} bytes were read, {executed} of them executed");
    assert!(taken > 36_864 / 2, "{taken} bytes were read");
}

#[test]
fn max_output_buffer_bounds_the_replies_to_a_client_that_does_not_read() {
    let taken = [65_536, 1_048_576].map(|max_output_buffer| {
        let limits = format!(
            "limits: {{send_buffer: 8192, receive_buffer: 8192, max_input_buffer: 36864, \
             max_output_buffer: {max_output_buffer}}}"
        );
        let herd = Herd::solo_with(&limits);
        let reply = reply_length(&herd);
        let client = Client::connect_narrow(herd.address("Solo"));
        let sent = stuff(&herd, &client, QUESTION);
        let (node, own) = ends(&client);
        (sent - own.unsent - node.unread) / QUESTION.len() * reply
    });
    println!("replies to what was read: {taken:?} bytes");
    // The input that waits is worth up to 300,000 bytes of replies, one time more than another.
    let more = taken[1].saturating_sub(taken[0]).abs_diff(1_048_576 - 65_536);
    assert!(more < 400_000, "{taken:?}");
}

#[test]
fn tcp_keepalive_probes_a_silent_client() {
    let herd = Herd::solo_with("limits: {tcp_keepalive_s: 7}");
    let mut client = herd.client("Solo");
    assert_bytes(&client.ask(b"hello"), b"? hello\n");
    let (kind, hundredths) = eventually("only the keepalive timer runs", DEADLINE, || {
        let timer = ends(&client).0.timer;
        (timer.0 == 2).then_some(timer)
    });
    assert_eq!(kind, 2);
    assert!(hundredths <= 700, "{hundredths} hundredths of a second");
}
