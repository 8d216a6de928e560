//! Neighbours come first, whoever else crowds in.

use std::io::Read as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::common::{Client, DEADLINE, Herd, eventually, lines, seconds, wall_ns};
use crate::{kernel, size};

/// Both ends of an edge are full, and silent connections from the neighbours' own address take
/// every place in which a neighbour might be heard. The two find each other nevertheless.
#[test]
fn a_storm_over_the_limit_does_not_keep_neighbours_apart() {
    let extra = "limits: {max_connections: 2}\npeers: {timeout_ms: 500, keepalive_ms: 100}";
    let mut herd = Herd::new(&[("Left", &["Right"]), ("Right", &[])], extra);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let full = |name: &str| -> Vec<Client> {
        let mut inside = Vec::new();
        eventually("the node is full", DEADLINE, || {
            let mut client = herd.client(name); // one of before may still count for a moment
            client.send(b"hello\n");
            if client.line() == b"? hello\n" {
                inside.push(client);
            }
            (inside.len() == 2).then_some(())
        });
        inside
    };
    let (mut left, mut right) = (full("Left"), full("Right"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for name in ["Left", "Right"] {
            // Each holds as many as it can, and one that is refused makes place for another.
            let (address, stop) = (herd.address(name), &stop);
            scope.spawn(move || {
                let mut held: Vec<TcpStream> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    held.retain_mut(|stream| {
                        let read = stream.read(&mut [0; 64]);
                        matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
                    });
                    while held.len() < 200 {
                        let Ok(stream) = TcpStream::connect(address) else { break };
                        stream.set_nonblocking(true).unwrap();
                        held.push(stream);
                    }
                }
            });
        }
        herd.signal("Right", "STOP");
        herd.wait_for_log("Left", &["Right has been silent"]);
        herd.signal("Right", "CONT");
        eventually("the neighbours are linked again", 3 * DEADLINE, || {
            let line = left[0].iamat("probe", "+0+0", &seconds(wall_ns()));
            (right[0].held(b"probe") == Some(line)).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert!(herd.counter("Left", "connections_refused_total") > 200);
}

/// A neighbour that has stopped while a hundred thousand clients move: what waits for it is a slot
/// each, not their bytes, and the kernel holds what it is allowed to.
#[test]
fn a_peer_that_does_not_read_costs_what_is_allowed() {
    let allowed = 65_536;
    let extra = format!("peers: {{max_send_buffer: {allowed}, timeout_ms: 600000}}");
    let mut herd = Herd::with_level(&[("Left", &["Right"]), ("Right", &[])], "WARNING", &extra);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    herd.signal("Right", "STOP");
    let mut client = herd.client("Left");
    let (rounds, ids) = (size(20, 4), 5_000);
    for round in 0..rounds {
        let iamat = |i| format!("IAMAT {}-{i} +34.068930-118.445127 {round}", "n".repeat(60));
        let sender = client.send_in_background(lines((0..ids).map(iamat)));
        for _ in 0..ids {
            client.line();
        }
        sender.join().unwrap();
    }
    // The one connection of the two: either may have dialled.
    let ports = [herd.port("Left"), herd.port("Right")];
    let waiting = kernel::waiting_between(ports);
    println!("{} records of {ids} clients: {waiting} bytes wait in the kernel", rounds * ids);
    assert!(waiting > 0, "the peer has read all of it");
    // A quarter is SO_SNDBUF, of which Linux takes twice, and the same waits at the other end; the
    // piece that fills a buffer is whole.
    assert!(waiting <= allowed + 2 * kernel::PIECE, "{waiting} bytes");
    herd.signal("Right", "CONT");
    let line = client.held(format!("{}-7", "n".repeat(60)).as_bytes()).unwrap();
    herd.wait_until_held(&["Right".to_owned()], &format!("{}-7", "n".repeat(60)), &line);
}
