//! A request flood on one node and its effect on the other nodes.

use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{DEADLINE, Herd, eventually, seconds, wall_ns};
use crate::crowd::connect_from;
use crate::{is_full, p99, size};

/// Clark receives as many requests as it can process: invalid commands, and updates of a few
/// clients, which it floods to all nodes. Bailey's latency is unchanged, and updates still reach
/// all nodes.
#[test]
fn a_flood_of_requests_to_one_node_does_not_slow_the_others() {
    let herd = Herd::five();
    let mut healthy = herd.client("Bailey");
    let requests = size(2_000, 100);
    p99(&mut healthy, requests);
    let alone = p99(&mut healthy, requests);
    let stop = AtomicBool::new(false);
    let sent = AtomicUsize::new(0);
    let flooded = thread::scope(|scope| {
        let flood = |kind: usize| {
            let (stop, sent, address) = (&stop, &sent, herd.address("Clark"));
            move || {
                let mut stream = connect_from(kind, address);
                let mut reader = stream.try_clone().unwrap();
                let drain = thread::spawn(move || {
                    let mut sink = [0; 16_384];
                    while reader.read(&mut sink).is_ok_and(|read| read > 0) {}
                });
                while !stop.load(Ordering::Relaxed) {
                    let now = seconds(wall_ns());
                    let iamat = |i| format!("IAMAT flood-{} +1+1 {now}\n", i % 50);
                    let junk = |_| "what is this\n".to_owned();
                    let lines: String = match kind {
                        0 => (0..500).map(iamat).collect(),
                        _ => (0..500).map(junk).collect(),
                    };
                    stream.write_all(lines.as_bytes()).unwrap();
                    sent.fetch_add(500, Ordering::Relaxed);
                }
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                drain.join().unwrap();
            }
        };
        for kind in 0..2 {
            scope.spawn(flood(kind));
        }
        eventually("the flood has started", DEADLINE, || {
            (sent.load(Ordering::Relaxed) > 5_000).then_some(())
        });
        let start = Instant::now();
        let mut flooded = p99(&mut healthy, requests);
        while is_full() && start.elapsed() < Duration::from_secs(10) {
            flooded = flooded.min(p99(&mut healthy, requests));
        }
        let line = healthy.iamat("meanwhile", "+1+1", "1");
        herd.wait_until_held(&herd.names(), "meanwhile", &line);
        stop.store(true, Ordering::Relaxed);
        flooded
    });
    let ratio = flooded.as_secs_f64() / alone.as_secs_f64();
    println!(
        "{sent:?} lines to Clark; p99 on Bailey: {alone:?} before, {flooded:?} during the flood, {ratio:.2}×"
    );
    for name in herd.names() {
        assert_eq!(herd.counter(&name, "links_lost_total"), 0, "{name}");
        assert_eq!(herd.counter(&name, r#"updates_repaired_total{round="check"}"#), 0, "{name}");
    }
}
