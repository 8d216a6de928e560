//! What must be the same in the whole herd, or nodes would decide differently about records.

use std::net::Ipv4Addr;

use crate::PAIR;
use crate::common::{DEADLINE, Herd, eventually};

/// Each side sees the other's setting and says both, whoever dialled.
#[test]
fn settings_that_differ_are_refused_and_told_on_both_sides() {
    for (left, right, what, [of_left, of_right]) in [
        ("limits: {max_clients: 100}", "limits: {max_clients: 200}", "max_clients", ["100", "200"]),
        ("", "limits: {client_ttl_s: 60}", "client_ttl in ns", ["0", "60000000000"]),
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
        // Set right, it links without the other being touched.
        herd.kill("Right");
        herd.set_host("Right", Ipv4Addr::LOCALHOST, &[], left);
        herd.start("Right");
        herd.wait_until_connected(&herd.names());
    }
}

/// Settings that are each node's own affair may differ.
#[test]
fn other_settings_may_differ() {
    let mut herd = Herd::new(&PAIR, "");
    let own = "limits: {max_line: 128, max_connections: 50}\npeers: {keepalive_ms: 300}";
    herd.set_host("Left", Ipv4Addr::LOCALHOST, &[], own);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    eventually("nothing was refused", DEADLINE, || {
        (herd.counter("Right", "handshakes_refused_total") == 0).then_some(())
    });
}
