//! Thousands of connections that do nothing or nearly nothing, beside a client that is in a hurry.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::{DEADLINE, Herd, assert_bytes};
use crate::{is_full, p99, size};

/// Connects from one of eight addresses of this machine: one alone has not enough ports for all.
pub fn connect_from(source: usize, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let own = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2 + (source % 8) as u8), 0));
    socket.bind(&own.into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// A line to each and its reply from each.
fn ask_all(streams: &[TcpStream], line: &[u8], reply: &[u8]) {
    for part in streams.chunks(500) {
        for mut stream in part {
            stream.write_all(line).unwrap();
        }
        for mut stream in part {
            let mut got = vec![0; reply.len()];
            stream.read_exact(&mut got).unwrap();
            assert_bytes(&got, reply);
        }
    }
}

/// Ten thousand idle connections and five thousand that drip a byte a second: all are held, cost
/// little, and do not slow a healthy client.
#[test]
fn idle_and_trickling_connections_cost_little() {
    let (idle, dripping) = (size(10_000, 600), size(5_000, 300));
    rlimit::increase_nofile_limit((idle + dripping + 200) as u64).unwrap();
    let herd = Herd::solo();
    let address = herd.address("Solo");
    let questions = size(2_000, 200);
    let mut healthy = herd.client("Solo");
    p99(&mut healthy, questions); // so that what is allocated once is there
    let alone = p99(&mut healthy, questions);

    let before = herd.resident_kib("Solo");
    let idlers: Vec<_> = (0..idle).map(|i| connect_from(i, address)).collect();
    ask_all(&idlers, b"here\n", b"? here\n");
    let grown = herd.resident_kib("Solo").saturating_sub(before);
    let each = grown as f64 / idle as f64;
    println!("{idle} idle connections: {grown} KiB of the node's memory, {each:.2} KiB each");
    assert!(each < 2.0, "{each:.2} KiB");

    let drippers: Vec<_> = (0..dripping).map(|i| connect_from(i, address)).collect();
    let stop = AtomicBool::new(false);
    let (crowded, cost, dripped) = thread::scope(|scope| {
        let drip = scope.spawn(|| {
            let mut dripped = 0;
            while !stop.load(Ordering::Relaxed) || dripped < 2 {
                let second = Instant::now();
                for part in drippers.chunks(dripping.div_ceil(50)) {
                    for mut stream in part {
                        stream.write_all(b"x").unwrap();
                    }
                    thread::sleep(Duration::from_millis(15)); // the pace of the drops
                }
                dripped += 1;
                thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
            }
            dripped
        });
        let (start, used) = (Instant::now(), herd.cpu_time("Solo"));
        let mut crowded = p99(&mut healthy, questions);
        while is_full() && start.elapsed() < Duration::from_secs(20) {
            crowded = crowded.min(p99(&mut healthy, questions));
        }
        stop.store(true, Ordering::Relaxed);
        let cost = herd.cpu_time("Solo").saturating_sub(used);
        (crowded, cost.div_f64(start.elapsed().as_secs_f64()), drip.join().unwrap())
    });
    let ratio = crowded.as_secs_f64() / alone.as_secs_f64();
    println!("p99 of a healthy client: {alone:?} alone, {crowded:?} beside the crowd, {ratio:.2}×");
    println!("processor time a second, the healthy client's requests included: {cost:?}");
    if is_full() {
        assert!(ratio <= 2.0, "{ratio:.2}×");
    }
    let held = herd.counter("Solo", r#"connections{kind="client"}"#);
    println!("connections held: {held}");
    assert_eq!(held as usize, idle + dripping + 1);

    // Nobody was given up: all of them are heard.
    let dropped = vec![b'x'; dripped];
    ask_all(&drippers, b"\n", &[b"? ", &dropped[..], b"\n"].concat());
    ask_all(&idlers, b"still here\n", b"? still here\n");
    assert_eq!(herd.counter("Solo", "connection_errors_total"), 0);
}
