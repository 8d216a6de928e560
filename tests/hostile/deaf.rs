//! Clients that ask and never read.

use std::io::{self, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::common::{DEADLINE, Herd, assert_bytes, eventually};
use crate::crowd::connect_from;
use crate::size;

/// What the kernel holds for the sockets of a port, in KiB: payload and bookkeeping, for what was
/// received, sent and set aside, as `ss` tells it.
fn kernel_kib(port: u16) -> Option<u64> {
    let filter = format!("sport = :{port}");
    let ss = Command::new("ss").args(["-tmnH", "state", "established"]).arg(filter).output();
    let text = String::from_utf8(ss.ok()?.stdout).unwrap();
    let memory = text.split("skmem:(").skip(1).map(|rest| rest.split(')').next().unwrap());
    let bytes = memory.flat_map(|list| list.split(',')).filter_map(|field| {
        // r: received, w: to be sent, f: set aside
        let number = field.strip_prefix(['r', 'w', 'f'])?;
        number.parse::<u64>().ok() // rb is another field
    });
    Some(bytes.sum::<u64>() / 1024)
}

/// A thousand of them, at the default limits: what they cost is what was computed, or less.
#[test]
fn clients_that_never_read_stay_within_the_memory_bound() {
    let count = size(1_000, 20);
    // Without a log of all the replies: a thousand clients would write 360 MB of it.
    let limits = "limits: {write_timeout_s: 600}";
    let mut herd = Herd::with_level(&[("Solo", &[])], "WARNING", limits);
    herd.start("Solo");
    let mut healthy = herd.client("Solo");
    // It has its turn when each of the others has had its own.
    healthy.stream().set_read_timeout(Some(6 * DEADLINE)).unwrap();
    healthy.iamat("kiwi", "+34.07-118.45", "1");
    let reply = healthy.whatsat("kiwi", "50", "20").document.to_string().len() * 2;

    let before = herd.resident_kib("Solo");
    let kernel_before = kernel_kib(herd.port("Solo"));
    let deaf: Vec<TcpStream> = (0..count)
        .map(|i| {
            let stream = connect_from(i, herd.address("Solo"));
            SockRef::from(&stream).set_recv_buffer_size(1).unwrap(); // the smallest there is
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
        thread::sleep(Duration::from_millis(10)); // the pace of the polling
    }
    let grown = herd.resident_kib("Solo").saturating_sub(before);
    // Each is owed max_output_buffer and a reply, and has sent max_input_buffer, in buffers that
    // may be twice as large as what they hold.
    let bound = count * 2 * (262_144 + reply + 65_536) / 1024;
    println!("{count} deaf clients: {grown} KiB of the node's memory, computed {bound} KiB");
    assert!(grown <= bound as u64, "{grown} KiB");
    assert!(grown >= (count * 262_144 / 1024) as u64, "{grown} KiB: they are not deaf");
    match kernel_before.zip(kernel_kib(herd.port("Solo"))) {
        Some((before, after)) => {
            let grown = after.saturating_sub(before);
            // Linux reserves twice what is asked for, and the piece that fills a buffer is whole:
            // 64 KiB on this way through no network.
            let bound = count * 2 * (2 * 65_536 + 65_536) / 1024;
            println!("{count} deaf clients: {grown} KiB of the kernel's, computed {bound} KiB");
            assert!(grown <= bound as u64, "{grown} KiB");
        }
        None => println!("NOT TESTED: the kernel's memory; there is no ss (iproute2)"),
    }
    assert_eq!(herd.counter("Solo", r#"stalls_total{reason="output"}"#), count as u64);

    drop(deaf);
    eventually("they are gone", DEADLINE, || {
        (herd.counter("Solo", r#"connections{kind="client"}"#) == 1).then_some(())
    });
    assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
}
