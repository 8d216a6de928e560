//! A neighbor that does not read.

use crate::common::{Herd, lines};
use crate::{kernel, size};

/// While a neighbor is stopped, a hundred thousand updates arrive. The node queues slot numbers for
/// it rather than bytes, and the kernel buffers at most what is configured.
#[test]
fn a_peer_that_does_not_read_stays_within_its_buffer_limit() {
    let max_send_buffer = 65_536;
    let extra = format!("peers: {{max_send_buffer: {max_send_buffer}, timeout_ms: 600000}}");
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
    let queued = kernel::queued_bytes([herd.pid("Left"), herd.pid("Right")]);
    println!("{} records of {ids} clients: {queued} bytes in the kernel queues", rounds * ids);
    assert!(queued > 0, "the peer has read everything");
    // SO_SNDBUF is a quarter of the limit, which Linux doubles, and the receive queue of the peer
    // is as long. Each may be exceeded by a segment.
    assert!(queued <= max_send_buffer + 2 * kernel::SEGMENT, "{queued} bytes");
    herd.signal("Right", "CONT");
    let line = client.held(format!("{}-7", "n".repeat(60)).as_bytes()).unwrap();
    herd.wait_until_held(&["Right".to_owned()], &format!("{}-7", "n".repeat(60)), &line);
}
