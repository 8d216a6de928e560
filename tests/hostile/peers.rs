//! Neighbours come first, whoever else crowds in.

use crate::common::{Herd, lines};
use crate::{kernel, size};

/// A neighbour that has stopped while a hundred thousand clients move: what waits for it is a slot
/// each, not their bytes, and the kernel holds what it is allowed to.
#[test]
fn a_peer_that_does_not_read_stays_within_its_buffer_limit() {
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
