//! Settings that must be identical on all nodes, because nodes would otherwise disagree on records.

use std::net::Ipv4Addr;

use crate::PAIR;
use crate::common::{DEADLINE, Herd, eventually};

/// Each side logs both values, whichever side has dialed.
#[test]
fn a_peer_with_different_settings_is_refused_and_both_sides_log_the_reason() {
    for (left, right, what, [of_left, of_right]) in [
        ("limits: {max_clients: 100}", "limits: {max_clients: 200}", "max_clients", ["100", "200"]),
        ("", "limits: {client_ttl_s: 60}", "client_ttl in ns", ["0", "60000000000"]),
        (
            "",
            "limits: {forget_keep_s: 60}",
            "forget_keep in ns",
            ["604800000000000", "60000000000"],
        ),
        (
            "peers: {max_clock_offset: 2}",
            "",
            "max_clock_offset in ns",
            ["2000000000", "5000000000"],
        ),
    ] {
        let mut herd = Herd::new(&PAIR, "");
        herd.set_host("Left", Ipv4Addr::LOCALHOST, &[], left);
        herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], right);
        herd.start_all();
        let sides = [("Left", "Right", of_left, of_right), ("Right", "Left", of_right, of_left)];
        for (name, other, ours, theirs) in sides {
            herd.client(name).iamat(name, "+1+1", "1");
            let why = format!("its {what} is {theirs}, here it is {ours}; make them the same");
            herd.wait_for_log(name, &[&format!("{other} is not linked"), &why]);
            assert!(herd.counter(name, "handshakes_refused_total") > 0);
        }
        for (name, other, ..) in sides {
            assert_eq!(herd.counter(name, "links_established_total"), 0);
            assert_eq!(herd.held(name, other), None);
        }
        // After the setting has been corrected on one side, the nodes link.
        herd.kill("Right");
        herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], left);
        herd.start("Right");
        herd.wait_until_connected(&herd.names());
    }
}

/// Settings that do not affect records may differ.
#[test]
fn other_settings_may_differ() {
    let mut herd = Herd::new(&PAIR, "");
    let own = "limits: {max_line: 128, max_connections: 50}\npeers: {keepalive_ms: 300}";
    herd.set_host("Left", Ipv4Addr::LOCALHOST, &[], own);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    eventually("no handshake was refused", DEADLINE, || {
        (herd.counter("Right", "handshakes_refused_total") == 0).then_some(())
    });
}
