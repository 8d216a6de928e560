//! Load for servers that find the nearest of many positions: a node over HTTP, and Redis.
//!
//! Usage: `query_load update-herd|update-redis HOST:PORT SQUARE CLIENTS` stores the positions of clients
//! in a square of SQUARE kilometers on the equator. `query_load herd|redis HOST:PORT SQUARE CONNECTIONS
//! DEPTH SECONDS [RATE]` then asks for the nearest ten within 5 km of random points in the square, on
//! connections that stay open, and prints one JSON object. Without RATE, each connection keeps DEPTH
//! requests in flight; with it, so many requests are due per second, and their latency counts from then.
//!
//! Both servers get the same positions and are asked for the same points. `scripts/bench.sh` compares
//! them.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a developer tool may panic on an invalid argument and on a broken connection"
)]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use memchr::memmem;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use proxy_herd::rng::scramble;

/// Kilometers of a degree of the equator.
const DEGREE_KM: f64 = 111.195;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Herd,
    Redis,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["update-herd", address, square, clients] => {
            update(Server::Herd, parse(address), parse(square), parse(clients));
        }
        ["update-redis", address, square, clients] => {
            update(Server::Redis, parse(address), parse(square), parse(clients));
        }
        [server @ ("herd" | "redis"), address, square, connections, depth, seconds, rate @ ..] => {
            let server = if *server == "herd" { Server::Herd } else { Server::Redis };
            let load = Load {
                server,
                square_km: parse(square),
                depth: parse(depth),
                rate: rate.first().map(|rate| parse(rate)),
                duration: Duration::from_secs_f64(parse(seconds)),
            };
            load.run(parse(address), parse(connections));
        }
        _ => {
            eprintln!("usage: see the head of examples/query_load.rs");
            std::process::exit(2)
        }
    }
}

fn parse<T: std::str::FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word} is not valid"))
}

/// Returns a point in the square as longitude and latitude.
fn point(number: u64, square_km: f64) -> (f64, f64) {
    let random = scramble(number);
    let side = square_km / DEGREE_KM;
    let fraction = |bits: u64| f64::from(bits as u32) / f64::from(u32::MAX) - 0.5;
    (fraction(random) * side, fraction(random >> 32) * side)
}

/// Stores all clients over one connection.
fn update(server: Server, address: SocketAddr, square_km: f64, clients: u64) {
    const BATCH: u64 = 1000;
    let mut stream = std::net::TcpStream::connect(address).expect("the server accepts");
    let time = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set").as_secs();
    let (mut out, mut input) = (Vec::new(), vec![0; 1 << 16]);
    for first in (0..clients).step_by(BATCH as usize) {
        out.clear();
        let batch = first..clients.min(first + BATCH);
        for client in batch.clone() {
            let (lng, lat) = point(client, square_km);
            match server {
                Server::Herd => writeln!(out, "IAMAT client{client:08} {lat:+.6}{lng:+.6} {time}"),
                Server::Redis => {
                    write!(out, "GEOADD herd {lng:.6} {lat:.6} client{client:08}\r\n")
                }
            }
            .expect("memory does not fail");
        }
        stream.write_all(&out).expect("the server reads");
        let mut replies = batch.count();
        while replies > 0 {
            let length = stream.read(&mut input).expect("the server replies");
            assert!(length > 0, "the server has closed the connection");
            replies -= memchr::memchr_iter(b'\n', &input[..length]).count();
        }
    }
}

/// A load of queries.
struct Load {
    server: Server,
    square_km: f64,
    depth: usize,
    rate: Option<f64>,
    duration: Duration,
}

struct Connection {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// When each request in flight was sent or due.
    pending: VecDeque<Instant>,
}

impl Load {
    fn run(&self, address: SocketAddr, connections: usize) {
        let mut poll = Poll::new().expect("a selector");
        let mut all: Vec<Connection> = (0..connections)
            .map(|token| {
                let stream = std::net::TcpStream::connect(address).expect("the server accepts");
                stream.set_nodelay(true).expect("a TCP socket");
                stream.set_nonblocking(true).expect("a socket");
                let mut stream = TcpStream::from_std(stream);
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut stream, Token(token), interest).expect("a socket");
                Connection { stream, out: Vec::new(), input: Vec::new(), pending: VecDeque::new() }
            })
            .collect();
        let (mut events, mut buffer) = (Events::with_capacity(1024), vec![0; 1 << 16]);
        let mut latencies =
            Histogram::<u64>::new_with_max(60_000_000_000, 3).expect("valid bounds");
        let (mut asked, mut done, mut hits) = (0_u64, 0_u64, 0_u64);
        let start = Instant::now();
        while start.elapsed() < self.duration {
            if let Some(rate) = self.rate {
                let due = (start.elapsed().as_secs_f64() * rate) as u64;
                while asked < due {
                    let at = start + Duration::from_secs_f64(asked as f64 / rate);
                    let connection = &mut all[asked as usize % connections];
                    connection.ask(self, asked, at);
                    connection.flush();
                    asked += 1;
                }
            } else {
                for connection in &mut all {
                    // Refilled in batches, as a client that pipelines does.
                    if connection.pending.len() * 2 <= self.depth {
                        while connection.pending.len() < self.depth {
                            connection.ask(self, asked, Instant::now());
                            asked += 1;
                        }
                        connection.flush();
                    }
                }
            }
            // Never sleeps, so that the server need not wake it.
            poll.poll(&mut events, Some(Duration::ZERO)).expect("the selector works");
            for event in &events {
                let connection = &mut all[event.token().0];
                if event.is_readable() {
                    connection.read(&mut buffer);
                    while let Some((length, found)) = reply(self.server, &connection.input) {
                        connection.input.drain(..length);
                        let sent = connection.pending.pop_front().expect("a request in flight");
                        latencies.saturating_record(sent.elapsed().as_nanos() as u64);
                        (done, hits) = (done + 1, hits + found);
                    }
                }
                connection.flush();
            }
        }
        let percentile = |p| latencies.value_at_quantile(p) as f64 / 1e3;
        println!(
            r#"{{"requests":{done},"rps":{:.1},"p50":{:.1},"p99":{:.1},"hits":{:.2}}}"#,
            done as f64 / start.elapsed().as_secs_f64(),
            percentile(0.5),
            percentile(0.99),
            hits as f64 / done as f64
        );
    }
}

impl Connection {
    fn ask(&mut self, load: &Load, number: u64, at: Instant) {
        let (lng, lat) = point(u64::MAX - number, load.square_km);
        match load.server {
            Server::Herd => write!(
                self.out,
                "GET /api/clients?near={lng:.6},{lat:.6}&radius=5&limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n"
            ),
            Server::Redis => write!(
                self.out,
                "GEOSEARCH herd FROMLONLAT {lng:.6} {lat:.6} BYRADIUS 5 km ASC COUNT 10\r\n"
            ),
        }
        .expect("memory does not fail");
        self.pending.push_back(at);
    }

    fn flush(&mut self) {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(length) => drop(self.out.drain(..length)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server does not read: {error}"),
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => panic!("the server has closed a connection"),
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the server does not reply: {error}"),
            }
        }
    }
}

/// Returns the length of the first reply and the number of clients in it, once it is complete.
fn reply(server: Server, input: &[u8]) -> Option<(usize, u64)> {
    match server {
        Server::Herd => response(input),
        Server::Redis => array(input),
    }
}

/// A reply of Redis: an array of strings.
fn array(input: &[u8]) -> Option<(usize, u64)> {
    let (mut at, mut hits) = (line(input, 0, b"*")?, 0);
    let count = number(&input[1..at], 10);
    while hits < count {
        let end = line(input, at, b"$")?;
        at = end + number(&input[at + 1..end], 10) as usize + 2;
        hits += 1;
    }
    (at <= input.len()).then_some((at, hits))
}

/// A response of HTTP with a chunked body, or one of known length.
fn response(input: &[u8]) -> Option<(usize, u64)> {
    let head = memmem::find(input, b"\r\n\r\n")? + 4;
    assert!(input.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(input));
    let mut at = head;
    if let Some(field) = memmem::find(&input[..head], b"\r\nContent-Length: ") {
        at += number(&input[field + 18..head], 10) as usize;
    } else {
        loop {
            let end = line(input, at, b"")?;
            let length = number(&input[at..end], 16) as usize;
            at = end + length + 2;
            if length == 0 {
                break;
            }
        }
    }
    let body = input.get(head..at)?;
    Some((at, memmem::find_iter(body, br#""distance":"#).count() as u64))
}

/// Returns the end of a line, including CRLF.
fn line(input: &[u8], at: usize, prefix: &[u8]) -> Option<usize> {
    let rest = input.get(at..)?;
    let end = at + memchr::memchr(b'\n', rest)? + 1;
    assert!(rest.starts_with(prefix), "{}", String::from_utf8_lossy(rest));
    Some(end)
}

/// The number at the beginning of `text`.
fn number(text: &[u8], radix: u32) -> u64 {
    let digits = text.iter().map_while(|&byte| char::from(byte).to_digit(radix));
    digits.fold(0, |number, digit| number * u64::from(radix) + u64::from(digit))
}
