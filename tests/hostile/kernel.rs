//! Kernel buffers of client connections and the limits on them. The queues and timers of sockets
//! are read from `/proc/net/tcp`.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Client, DEADLINE, Herd, assert_bytes, eventually};

/// The state of a TCP socket.
#[derive(Debug, Clone, Copy)]
pub struct Socket {
    /// Bytes in the send queue: unsent or unacknowledged.
    pub unsent: usize,
    /// Bytes received but not read.
    pub unread: usize,
    /// The kind of the running timer (2: keepalive) and its remaining time in 1/100 s.
    pub timer: (u32, u64),
    /// Its inode, by which a process refers to it.
    inode: u64,
}

/// All TCP sockets: local address, remote address, state.
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
            inode: row[9].parse().unwrap(),
        };
        (row[1].to_owned(), row[2].to_owned(), socket)
    };
    fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1).map(socket).collect()
}

/// The socket with these local and remote addresses.
fn socket(local: SocketAddr, remote: SocketAddr) -> Option<Socket> {
    let hex = |address: SocketAddr| {
        let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let (local, remote) = (hex(local), hex(remote));
    let mut sockets = sockets().into_iter();
    sockets.find(|(a, b, _)| *a == local && *b == remote).map(|(.., socket)| socket)
}

/// Bytes in the kernel queues of all sockets of these processes.
pub fn queued_bytes(pids: [u32; 2]) -> usize {
    let of_process = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        files.filter_map(|file| fs::read_link(file.unwrap().path()).ok())
    };
    let inode = |target: std::path::PathBuf| {
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    let inodes: Vec<u64> = pids.into_iter().flat_map(of_process).filter_map(inode).collect();
    let of_them = sockets().into_iter().filter(|(.., socket)| inodes.contains(&socket.inode));
    of_them.map(|(.., socket)| socket.unsent + socket.unread).sum()
}

/// Both sockets of a client's connection: the node's and the client's. Retries, because the kernel
/// may omit a row while other sockets open and close.
pub fn ends(client: &Client) -> (Socket, Socket) {
    let (here, there) =
        (client.stream().local_addr().unwrap(), client.stream().peer_addr().unwrap());
    eventually("both sockets are listed", DEADLINE, || socket(there, here).zip(socket(here, there)))
}

/// Sends until the node has stopped reading and the kernel has accepted nothing for a second.
/// Returns the number of bytes sent.
fn fill_buffers(herd: &Herd, client: &Client, line: &[u8]) -> usize {
    let mut stream = client.stream();
    stream.set_nonblocking(true).unwrap();
    let chunk = line.repeat(64 * 1024 / line.len());
    let (mut sent, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_secs(1)
        || herd.counter("Solo", r#"stalls_total{reason="output"}"#) == 0
    {
        assert!(sent < 64 << 20, "the node does not stop reading");
        match stream.write(&chunk[sent % line.len()..]) {
            Ok(taken) => (sent, last) = (sent + taken, Instant::now()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(5)); // polling interval
            }
            Err(error) => panic!("{error} after {sent} bytes"),
        }
    }
    stream.set_nonblocking(false).unwrap();
    sent
}

/// Size of the segment by which a full buffer may exceed its limit on loopback. In addition, Linux
/// doubles the requested buffer size to account for overhead.
pub const SEGMENT: usize = 65_536;

const REQUEST: &[u8] = b"WHATSAT kiwi 0 0\n";

/// The length of the reply to [`REQUEST`].
fn reply_length(herd: &Herd) -> usize {
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+1+1", "1");
    client.send(REQUEST);
    client.until(b"\n\n").len()
}

/// The node's send and receive queues of a client that sends requests and never reads are bounded.
#[test]
fn the_kernel_buffers_of_a_client_that_never_reads_are_bounded() {
    let limits = "limits: {send_buffer: 8192, receive_buffer: 8192, max_output_buffer: 65536}";
    let herd = Herd::solo_with(limits);
    reply_length(&herd);
    let mut client = Client::connect_narrow(herd.address("Solo"));
    assert_bytes(&client.ask(b"hello"), b"? hello\n"); // the connection is accepted, so its buffer sizes are set
    let sent = fill_buffers(&herd, &client, REQUEST);
    let (node, own) = eventually("the queues are stable", DEADLINE, || {
        let before = ends(&client);
        thread::sleep(Duration::from_millis(50)); // let data in flight arrive
        let queues =
            |(node, own): (Socket, Socket)| (node.unsent, node.unread, own.unsent, own.unread);
        (queues(ends(&client)) == queues(before)).then_some(before)
    });
    println!("sent {sent}, node {node:?}, client {own:?}");
    assert!(node.unsent <= 2 * 8192 + SEGMENT, "SO_SNDBUF: {node:?}");
    assert!(node.unread <= 4 * 8192, "SO_RCVBUF: {node:?}");
    assert_eq!(herd.counter("Solo", r#"stalls_total{reason="output"}"#), 1);
}

/// The kernel has received more requests than the node may answer at once: the node reads at most
/// `max_input_buffer` beyond the requests whose replies fill the output buffer.
#[test]
fn reading_stops_while_too_many_replies_are_pending() {
    let herd = Herd::solo_with(
        "limits: {send_buffer: 8192, receive_buffer: 200000, max_input_buffer: 36864, \
         max_output_buffer: 65536}",
    );
    let reply = reply_length(&herd);
    let mut client = Client::connect_narrow(herd.address("Solo"));
    assert_bytes(&client.ask(b"hello"), b"? hello\n"); // the connection is accepted, so its buffer sizes are set
    let requests = REQUEST.repeat(150_000 / REQUEST.len());
    herd.signal("Solo", "STOP");
    client.send(&requests);
    let (node, _) = eventually("the node's kernel has received everything", DEADLINE, || {
        let ends = ends(&client);
        (ends.1.unsent == 0).then_some(ends)
    });
    assert_eq!(node.unread, requests.len());
    herd.signal("Solo", "CONT");
    eventually("the output buffer is full", DEADLINE, || {
        (herd.counter("Solo", r#"stalls_total{reason="output"}"#) == 1).then_some(())
    });
    let (node, own) = ends(&client);
    let taken = requests.len() - node.unread;
    // Replies are in the output buffer or in the queues of either kernel socket.
    let executed = (65_536 + reply + node.unsent + own.unread) / reply * REQUEST.len();
    println!("{taken} bytes read, at most {executed} of them executed");
    assert!(taken <= executed + 36_864, "{taken} bytes read, {executed} of them executed");
    assert!(taken > 36_864 / 2, "{taken} bytes read");
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
        let sent = fill_buffers(&herd, &client, REQUEST);
        let (node, own) = ends(&client);
        (sent - own.unsent - node.unread) / REQUEST.len() * reply
    });
    println!("replies to the requests that were read: {taken:?} bytes");
    // The difference in unprocessed input corresponds to up to 300,000 bytes of replies.
    let more = taken[1].saturating_sub(taken[0]).abs_diff(1_048_576 - 65_536);
    assert!(more < 400_000, "{taken:?}");
}

#[test]
fn tcp_keepalive_probes_a_silent_client() {
    let herd = Herd::solo_with("limits: {tcp_keepalive_s: 7}");
    let mut client = herd.client("Solo");
    assert_bytes(&client.ask(b"hello"), b"? hello\n");
    let remaining = eventually("only the keepalive timer runs", DEADLINE, || {
        let (kind, remaining) = ends(&client).0.timer;
        (kind == 2).then_some(remaining)
    });
    assert!(remaining <= 700, "{remaining} hundredths of a second");
}
