//! Thousands of idle or nearly idle connections next to an active client.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::{DEADLINE, Herd, assert_bytes};
use crate::{is_full, p99, size};

/// Connects from one of eight loopback addresses, since one address does not have enough ports.
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

/// Sends a line on each connection and checks the reply.
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

/// Ten thousand idle connections and five thousand that send a byte per second: all stay open, use
/// little memory, and do not slow an active client.
#[test]
fn idle_and_trickling_connections_cost_little() {
    let (idle, trickling) = (size(10_000, 600), size(5_000, 300));
    rlimit::increase_nofile_limit((idle + trickling + 200) as u64).unwrap();
    let herd = Herd::solo();
    let address = herd.address("Solo");
    let requests = size(2_000, 200);
    let mut healthy = herd.client("Solo");
    p99(&mut healthy, requests); // warm up: allocate what is allocated once
    let alone = p99(&mut healthy, requests);

    let before = herd.resident_kib("Solo");
    let idlers: Vec<_> = (0..idle).map(|i| connect_from(i, address)).collect();
    ask_all(&idlers, b"here\n", b"? here\n");
    let grown = herd.resident_kib("Solo").saturating_sub(before);
    let each = grown as f64 / idle as f64;
    println!("{idle} idle connections: {grown} KiB of resident memory, {each:.2} KiB each");
    assert!(each < 2.0, "{each:.2} KiB");

    let tricklers: Vec<_> = (0..trickling).map(|i| connect_from(i, address)).collect();
    let stop = AtomicBool::new(false);
    let (crowded, cpu_per_second, bytes_each) = thread::scope(|scope| {
        let trickle = scope.spawn(|| {
            let mut bytes_each = 0;
            while !stop.load(Ordering::Relaxed) || bytes_each < 2 {
                let second = Instant::now();
                for part in tricklers.chunks(trickling.div_ceil(50)) {
                    for mut stream in part {
                        stream.write_all(b"x").unwrap();
                    }
                    thread::sleep(Duration::from_millis(15)); // spread the bytes over the second
                }
                bytes_each += 1;
                thread::sleep(Duration::from_secs(1).saturating_sub(second.elapsed()));
            }
            bytes_each
        });
        let (start, used) = (Instant::now(), herd.cpu_time("Solo"));
        let mut crowded = p99(&mut healthy, requests);
        while is_full() && start.elapsed() < Duration::from_secs(20) {
            crowded = crowded.min(p99(&mut healthy, requests));
        }
        stop.store(true, Ordering::Relaxed);
        let cpu = herd.cpu_time("Solo").saturating_sub(used);
        (crowded, cpu.div_f64(start.elapsed().as_secs_f64()), trickle.join().unwrap())
    });
    let ratio = crowded.as_secs_f64() / alone.as_secs_f64();
    println!(
        "p99 of an active client: {alone:?} alone, {crowded:?} with the connections, {ratio:.2}×"
    );
    println!(
        "processor time per second, including the requests of the active client: {cpu_per_second:?}"
    );
    if is_full() {
        assert!(ratio <= 2.0, "{ratio:.2}×");
    }
    let open = herd.counter("Solo", r#"connections{kind="client"}"#);
    println!("open connections: {open}");
    assert_eq!(open as usize, idle + trickling + 1);

    // No connection was dropped: all of them are served.
    let line = vec![b'x'; bytes_each];
    ask_all(&tricklers, b"\n", &[b"? ", &line[..], b"\n"].concat());
    ask_all(&idlers, b"still here\n", b"? still here\n");
    assert_eq!(herd.counter("Solo", "connection_errors_total"), 0);
}
