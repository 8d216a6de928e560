//! Clients that send requests and never read the replies.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::common::{DEADLINE, Herd, assert_bytes, eventually};
use crate::crowd::connect_from;
use crate::size;

/// Kernel memory of the sockets of a port in KiB, as reported by `ss`: receive and send queues and
/// preallocated buffers, including overhead. `None` if `ss` is not available.
fn kernel_kib(port: u16) -> Option<u64> {
    let filter = format!("sport = :{port}");
    let ss = Command::new("ss").args(["-tmnH", "state", "established"]).arg(filter).output();
    let text = String::from_utf8(ss.ok()?.stdout).unwrap();
    let memory = text.split("skmem:(").skip(1).map(|rest| rest.split(')').next().unwrap());
    let bytes = memory.flat_map(|list| list.split(',')).filter_map(|field| {
        // r: receive queue, w: send queue, f: preallocated
        let number = field.strip_prefix(['r', 'w', 'f'])?;
        number.parse::<u64>().ok() // excludes rb, the buffer size
    });
    Some(bytes.sum::<u64>() / 1024)
}

/// A thousand such clients, at the default limits, stay within the memory computed from the limits.
#[test]
fn clients_that_never_read_stay_within_the_memory_bound() {
    let count = size(1_000, 20);
    // WARNING, since the message log would grow to 360 MB.
    let limits = "limits: {write_timeout_s: 600}";
    let mut herd = Herd::with_level(&[("Solo", &[])], "WARNING", limits);
    herd.start("Solo");
    let mut healthy = herd.client("Solo");
    // Its turn comes after that of every other client.
    healthy.stream().set_read_timeout(Some(6 * DEADLINE)).unwrap();
    healthy.iamat("kiwi", "+34.07-118.45", "1");
    let reply = healthy.whatsat("kiwi", "50", "20").document.to_string().len() * 2;

    let before = herd.resident_kib("Solo");
    let kernel_before = kernel_kib(herd.port("Solo"));
    let deaf: Vec<TcpStream> = (0..count)
        .map(|i| {
            let stream = connect_from(i, herd.address("Solo"));
            SockRef::from(&stream).set_recv_buffer_size(1).unwrap(); // the kernel rounds up to its minimum
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    let question = b"WHATSAT kiwi 50 20\n";
    let chunk = question.repeat(1000);
    let mut sent = vec![0; count];
    let mut last = Instant::now();
    while last.elapsed() < Duration::from_secs(1)
        || herd.counter("Solo", r#"stalls_total{reason="output"}"#) < count as u64
    {
        for (mut stream, sent) in deaf.iter().zip(&mut sent) {
            match stream.write(&chunk[*sent % question.len()..]) {
                Ok(taken) => (*sent, last) = (*sent + taken, Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error} after {sent} bytes"),
            }
        }
        assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
        thread::sleep(Duration::from_millis(10)); // polling interval
    }
    let grown = herd.resident_kib("Solo").saturating_sub(before);
    // Each client has max_output_buffer and one reply pending and has sent max_input_buffer; the
    // capacity of a Vec may be twice its length.
    let bound = count * 2 * (262_144 + reply + 65_536) / 1024;
    println!("{count} clients: {grown} KiB of resident memory, bound {bound} KiB");
    assert!(grown <= bound as u64, "{grown} KiB");
    assert!(grown >= (count * 262_144 / 1024) as u64, "{grown} KiB: replies were not buffered");
    match kernel_before.zip(kernel_kib(herd.port("Solo"))) {
        Some((before, after)) => {
            let grown = after.saturating_sub(before);
            // Linux doubles the requested buffer size, and a segment may exceed it: 64 KiB on
            // loopback.
            let bound = count * 2 * (2 * 65_536 + 65_536) / 1024;
            println!("{count} clients: {grown} KiB of kernel memory, bound {bound} KiB");
            assert!(grown <= bound as u64, "{grown} KiB");
        }
        None => println!("NOT TESTED: kernel memory (requires ss from iproute2)"),
    }
    assert_eq!(herd.counter("Solo", r#"stalls_total{reason="output"}"#), count as u64);

    drop(deaf);
    eventually("the connections are closed", DEADLINE, || {
        (herd.counter("Solo", r#"connections{kind="client"}"#) == 1).then_some(())
    });
    assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
}
