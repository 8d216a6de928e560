//! The kill idiom: `lsof -ti:PORT | xargs kill` stops exactly the node that listens on PORT. `lsof`
//! lists every process with a socket whose local or remote port is PORT, so links between nodes on one
//! machine must not use the port for clients.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use common::{DEADLINE, FIVE, Herd, eventually, lines, seconds, wall_ns};

/// Two nodes whose edge is listed by one end only.
const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

/// Waits until every node has a link for each of its neighbors in `nodes`.
fn wait_until_linked(herd: &Herd, nodes: &[(&str, &[&str])]) {
    for &(name, _) in nodes {
        let is_edge = |&&(other, theirs): &&(&str, &[&str])| {
            let ours = nodes.iter().find(|node| node.0 == name).unwrap().1;
            ours.contains(&other) || theirs.contains(&name)
        };
        let edges = nodes.iter().filter(is_edge).count() as u64;
        eventually(&format!("{name} has {edges} links"), DEADLINE, || {
            let [up, lost] = ["links_established_total", "links_lost_total"]
                .map(|counter| herd.counter(name, counter));
            (up - lost >= edges).then_some(())
        });
    }
}

#[test]
fn the_kill_idiom_ends_exactly_the_node_that_listens_on_the_port() {
    let mut herd = Herd::five();
    herd.wait_until_listed_alone();
    for name in herd.names() {
        assert_eq!(herd.counter(&name, "links_lost_total"), 0, "a link was lost by moving");
        assert_eq!(herd.counter(&name, r#"updates_repaired_total{round="check"}"#), 0);
        for line in herd.log_lines(&name) {
            let allowed = ["cannot reach", "no secret is set"]; // a neighbor that starts later
            let is_unexpected = !allowed.iter().any(|part| line.contains(part));
            assert!(!(line.contains("WARNING") && is_unexpected), "{line}");
        }
    }
    for (name, _) in FIVE {
        for victim in herd.listed_at(name) {
            herd.signal(&victim, "TERM");
        }
        assert!(herd.wait(name, DEADLINE).success());
        for other in herd.names().iter().filter(|other| **other != name) {
            assert!(herd.is_running(other), "{other} ended with {name}");
        }
        eventually("no process has the port of a node that has ended", DEADLINE, || {
            herd.listed_at(name).is_empty().then_some(())
        });
        herd.start(name);
        herd.wait_until_connected(&herd.names());
        herd.wait_until_listed_alone();
    }
}

#[test]
fn links_move_whatever_address_the_nodes_listen_on() {
    for address in
        ["\"::1\"", "{listen: 0.0.0.0, dial: 127.0.0.1}", "{listen: \"::\", dial: \"::1\"}"]
    {
        let hosts = format!("hosts: {{Left: {address}, Right: {address}}}");
        let mut herd = Herd::new(&PAIR, &hosts);
        herd.set_environment("HERD_SECRET", "correct horse battery staple");
        for name in herd.names() {
            herd.spawn(&name);
            herd.wait_for_log(&name, &["listens on"]);
        }
        wait_until_linked(&herd, &PAIR);
        herd.wait_until_listed_alone();
    }
}

/// The port for links has limits of its own: clients cannot keep links on the port for clients.
#[test]
fn links_of_a_full_node_move() {
    let mut herd = Herd::new(&PAIR, "limits: {max_connections: 2}");
    herd.start("Left");
    let _crowd = herd.crowd("Left", 2);
    herd.spawn("Right");
    herd.wait_for_log("Right", &["listens on"]);
    wait_until_linked(&herd, &PAIR);
    herd.wait_until_listed_alone();
}

/// A link moves while thousands of records are being sent on it in both directions.
#[test]
fn a_link_that_moves_under_load_loses_and_repairs_nothing() {
    const COUNT: usize = 20_000;
    let mut herd = Herd::new(&PAIR, "peers: {antientropy_interval_s: 1}");
    herd.start("Left");
    let load = |client: &mut common::Client, prefix: &str| {
        let time = seconds(wall_ns());
        let commands = (0..COUNT).map(|n| format!("IAMAT {prefix}{n} +1+1 {time}"));
        let sender = client.send_in_background(lines(commands));
        let last = (0..COUNT).map(|_| client.line()).last().unwrap();
        sender.join().unwrap();
        last
    };
    load(&mut herd.client("Left"), "before");
    herd.start("Right");
    let last = [load(&mut herd.client("Right"), "right"), load(&mut herd.client("Left"), "left")];
    let names = herd.names();
    for (prefix, line) in ["right", "left"].iter().zip(&last) {
        herd.wait_until_held(&names, &format!("{prefix}{}", COUNT - 1), line);
    }
    herd.wait_until_listed_alone();
    for name in &names {
        eventually("all records are stored", DEADLINE, || {
            (herd.counter(name, "clients") >= 3 * COUNT as u64).then_some(())
        });
        assert_eq!(herd.counter(name, "links_lost_total"), 0);
        assert_eq!(herd.counter(name, r#"updates_repaired_total{round="check"}"#), 0);
    }
}
