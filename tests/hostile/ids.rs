//! More client ids than a node may store.

use crate::common::{Client, Herd, eventually, lines};
use crate::{common::DEADLINE, size};

/// Of 1.2 million ids, the newest million are kept, in bounded memory.
#[test]
fn a_full_directory_keeps_the_newest_clients() {
    let cap = size(1_000_000, 5_000);
    let ids = cap + cap / 5;
    let herd = {
        let mut herd = Herd::with_level(
            &[("Solo", &[])],
            "WARNING",
            &format!("limits: {{max_clients: {cap}}}"),
        );
        herd.start("Solo");
        herd
    };
    let before = herd.resident_kib("Solo");
    let mut client: Client = herd.client("Solo");
    for first in (0..ids).step_by(cap / 10) {
        let batch = first..first + cap / 10;
        let iamat = |i: usize| format!("IAMAT vehicle-{i:07} +34.068930-118.445127 {}", 1_000 + i);
        let sender = client.send_in_background(lines(batch.clone().map(iamat)));
        for _ in batch {
            assert!(client.line().starts_with(b"AT Solo "));
        }
        sender.join().unwrap();
    }
    let grown = herd.resident_kib("Solo").saturating_sub(before);
    println!(
        "{ids} ids with a limit of {cap}: {grown} KiB, {} bytes each",
        grown * 1024 / cap as u64
    );
    // 25 % more than measured, plus 8 MiB that do not depend on the number of clients.
    assert!(grown * 1024 <= 256 * cap as u64 + (8 << 20), "{grown} KiB");
    assert_eq!(herd.counter("Solo", "clients"), cap as u64);
    assert_eq!(herd.counter("Solo", "clients_evicted_total"), (ids - cap) as u64);
    assert!(client.held(format!("vehicle-{:07}", ids - 1).as_bytes()).is_some());
    assert!(client.held(format!("vehicle-{:07}", ids - cap).as_bytes()).is_some());
    assert!(client.held(format!("vehicle-{:07}", ids - cap - 1).as_bytes()).is_none());
    // An update older than all stored records is answered but not stored.
    client.iamat("late", "+1+1", "1");
    assert!(client.held(b"late").is_none());
    eventually("the rejected update is counted", DEADLINE, || {
        (herd.counter("Solo", r#"commands_total{command="iamat",result="over_cap"}"#) == 1)
            .then_some(())
    });
}
