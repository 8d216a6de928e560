//! Many connections per second that are reset at once.

use std::fs;
use std::io::Write as _;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::common::{DEADLINE, Herd, assert_bytes, eventually};
use crate::crowd::connect_from;
use crate::{p99, size};

/// Ten thousand connects and resets per second for ten seconds: other clients are served, no
/// descriptor leaks, and the node is idle afterwards.
#[test]
fn a_storm_of_connects_and_resets_leaves_nothing_behind() {
    let (per_second, seconds) = (size(10_000, 1_500), size(10, 2));
    let threads = 2;
    let herd = Herd::solo();
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", herd.pid("Solo"))).unwrap().count();
    let mut healthy = herd.client("Solo");
    let alone = p99(&mut healthy, 200);
    let before = descriptors();
    let address = herd.address("Solo");
    let start = Instant::now();
    let (made, stormy) = thread::scope(|scope| {
        let storm = |source: usize| {
            move || {
                let mut made = 0;
                for tick in 1..=seconds * 100 {
                    for _ in 0..per_second / threads / 100 {
                        let mut stream = connect_from(source + made, address);
                        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
                        if made % 3 == 0 {
                            let _ = stream.write_all(b"IAMAT gone +1+1 1\nIAMAT half +1+");
                        }
                        made += 1;
                    }
                    let due = Duration::from_millis(10 * tick as u64);
                    thread::sleep(due.saturating_sub(start.elapsed()));
                }
                made
            }
        };
        let storms: Vec<_> = (0..threads).map(|i| scope.spawn(storm(i * 4))).collect();
        let mut stormy = Duration::MAX;
        while !storms.iter().all(ScopedJoinHandle::is_finished) {
            stormy = stormy.min(p99(&mut healthy, 200));
        }
        (storms.into_iter().map(|storm| storm.join().unwrap()).sum::<usize>(), stormy)
    });
    let took = start.elapsed();
    println!(
        "{made} connects and resets in {took:?}: {:.0} per second",
        made as f64 / took.as_secs_f64()
    );
    println!("p99 of an active client: {alone:?} before, {stormy:?} during the burst");
    eventually("the descriptors are closed", DEADLINE, || (descriptors() <= before).then_some(()));
    assert_eq!(herd.counter("Solo", r#"connections{kind="client"}"#), 1);
    assert!(herd.counter("Solo", "connections_accepted_total") >= made as u64);
    assert_eq!(herd.counter("Solo", "accept_pauses_total"), 0);
    let used = herd.cpu_time("Solo");
    thread::sleep(Duration::from_secs(1)); // measurement interval without any work
    let used = herd.cpu_time("Solo").saturating_sub(used);
    assert!(used < Duration::from_millis(200), "{used:?} of processor time while idle");
    assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
}
