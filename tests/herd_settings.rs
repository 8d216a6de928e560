//! Changing the settings of the whole herd while it runs, by the procedure of docs/operations.md.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use common::{Client, DEADLINE, Herd, eventually, free_port, seconds, wall_ns};

/// A line, so that announcements and records of the ends pass through the middle.
const LINE: [(&str, &[&str]); 3] = [("Left", &["Mid"]), ("Mid", &["Right"]), ("Right", &[])];
const NAMES: [&str; 3] = ["Left", "Mid", "Right"];

/// Three nodes, and the clients that have been stored.
struct Fixture {
    herd: Herd,
    http: [u16; 3],
    lines: Vec<(String, Vec<u8>)>,
}

impl Fixture {
    /// Starts the herd with these `limits`.
    fn start(limits: &str) -> Self {
        let http = NAMES.map(|_| free_port());
        let ports = NAMES.iter().zip(http).map(|(name, port)| format!("{name}: {port}"));
        let ports = ports.collect::<Vec<_>>().join(", ");
        let extra = format!("http: {{ports: {{{ports}}}}}\n{limits}");
        let mut herd = Herd::new(&LINE, &extra);
        herd.start_all();
        herd.wait_until_connected(&herd.names());
        Self { herd, http, lines: Vec::new() }
    }

    /// Sends updates of new clients to all nodes in turn.
    fn store(&mut self, count: usize) {
        self.store_on(&NAMES, count);
    }

    fn store_on(&mut self, nodes: &[&str], count: usize) {
        let mut clients: Vec<Client> = nodes.iter().map(|name| self.herd.client(name)).collect();
        for i in self.lines.len()..self.lines.len() + count {
            let client = format!("client-{i}");
            let line = clients[i % nodes.len()].iamat(&client, "+1+1", &seconds(wall_ns()));
            self.lines.push((client, line));
        }
    }

    /// Waits until every node holds the last `count` clients that were stored.
    fn wait_until_held(&self, count: usize) {
        for name in NAMES {
            let mut node = self.herd.client(name);
            for (client, line) in &self.lines[self.lines.len() - count..] {
                eventually(&format!("{name} holds {client}"), DEADLINE, || {
                    (node.held(client.as_bytes()).as_deref() == Some(line)).then_some(())
                });
            }
        }
    }

    fn rewrite(&self, from: &str, to: &str) {
        let config = fs::read_to_string(self.herd.config()).unwrap();
        assert!(config.contains(from), "{config}");
        fs::write(self.herd.config(), config.replace(from, to)).unwrap();
    }

    /// The exit status and the output of `--status`.
    fn status(&self) -> (Option<i32>, String) {
        let output = self.herd.run(&["--status"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    /// Waits until `--status` finds no problem and prints `text`.
    fn wait_for_status(&self, text: &str) {
        eventually(&format!("--status prints {text:?}"), 2 * DEADLINE, || {
            let (code, out) = self.status();
            (code == Some(0) && out.contains(text) && !out.contains("different")).then_some(())
        });
    }

    /// Restarts a node as docs/operations.md describes: SIGTERM, start, `/readyz`, `--status`.
    fn restart(&mut self, node: usize) {
        let name = NAMES[node];
        self.herd.signal(name, "TERM");
        self.herd.wait(name, DEADLINE);
        self.herd.start(name);
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, self.http[node]).into();
        eventually(&format!("{name} is ready"), DEADLINE, || {
            drop(TcpStream::connect(address).ok()?); // it accepts a moment after the client port
            let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let response = Client::connect(address).exchange(request);
            response.starts_with(b"HTTP/1.1 200 ").then_some(())
        });
        self.wait_for_status("equal");
    }

    /// The value of `key` under `settings` of `/api/herd`.
    fn setting(&self, node: usize, key: &str) -> serde_json::Value {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, self.http[node]).into();
        let request = b"GET /api/herd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let response = Client::connect(address).exchange(request);
        let body = response.iter().position(|&byte| byte == b'{').unwrap();
        let herd: serde_json::Value = serde_json::from_slice(&response[body..]).unwrap();
        herd["settings"][key].clone()
    }
}

/// Exactly the steps of the section "Settings of the whole herd".
#[test]
fn settings_of_the_whole_herd_change_without_losing_a_record() {
    let mut f = Fixture::start("limits: {max_clients: 300}");
    f.store(270);
    f.wait_until_held(270);

    let next = "max_clients: 900, client_ttl_s: 86400, max_clock_offset: 7.5";
    f.rewrite("{max_clients: 300}", &format!("{{max_clients: 300, next: {{{next}}}}}"));
    let check = f.herd.run(&["--check"]);
    let changes = "max_clock_offset from 5 to 7.5, max_clients from 300 to 900, \
                   client_ttl_s from 0 to 86400";
    let summary = String::from_utf8(check.stdout).unwrap();
    assert!(summary.contains(&format!("Announced for the whole herd: {changes}\n")), "{summary}");

    for (node, missing) in [(0, "Mid, Right"), (1, "Right")] {
        f.restart(node);
        f.wait_until_held(270);
        let waits =
            format!("limits.next ({changes}) waits until these nodes announce it: {missing}");
        f.wait_for_status(&waits);
        assert_eq!(f.setting(0, "max_clients"), 300);
    }
    f.restart(2);
    f.wait_for_status("limits.next is in force on all nodes that answered");
    for (node, name) in NAMES.into_iter().enumerate() {
        f.herd.wait_for_log(name, &["the settings announced in limits.next are in force"]);
        assert_eq!(f.setting(node, "max_clients"), 900);
        assert_eq!(f.setting(node, "max_clock_offset"), 7.5);
    }
    f.wait_until_held(270);
    f.store(600);
    f.wait_until_held(870);

    // A node that crashes meanwhile returns with the announcement only.
    f.herd.kill("Mid");
    f.store_on(&["Left", "Right"], 10);
    f.herd.start("Mid");
    f.wait_until_held(880);
    f.wait_for_status("limits.next is in force on all nodes that answered");

    f.rewrite(
        &format!("{{max_clients: 300, next: {{{next}}}}}"),
        "{max_clients: 900, client_ttl_s: 86400}",
    );
    f.rewrite("limits:", "peers: {max_clock_offset: 7.5}\nlimits:");
    for node in 0..3 {
        f.restart(node);
        f.wait_until_held(880);
    }
    let (code, out) = f.status();
    assert_eq!(code, Some(0), "{out}");
    assert!(!out.contains("limits.next"), "{out}");
}

#[test]
fn a_lower_number_of_clients_keeps_the_newest_on_all_nodes() {
    let mut f = Fixture::start("limits: {max_clients: 600}");
    f.store(500);
    f.wait_until_held(500);
    f.rewrite("{max_clients: 600}", "{max_clients: 600, next: {max_clients: 100}}");
    (0..3).for_each(|node| f.restart(node));
    f.wait_for_status("limits.next is in force on all nodes that answered");
    f.wait_until_held(100);
    for name in NAMES {
        assert_eq!(f.herd.held(name, "client-399"), None);
    }
}

/// Nodes that load their records do not know yet that the announced settings were in force.
#[test]
fn stored_records_survive_when_all_nodes_are_killed_before_the_values_are_moved() {
    let limits = "limits: {max_clients: 50, next: {max_clients: 400}}";
    let mut f = Fixture::start(&format!("storage: {{directory: data}}\n{limits}"));
    f.wait_for_status("limits.next is in force on all nodes that answered");
    f.store(300);
    f.wait_until_held(300);
    for name in NAMES {
        f.herd.kill(name);
    }
    f.herd.start("Mid");
    f.herd.start("Left");
    f.herd.start("Right");
    f.wait_until_held(300);
    f.wait_for_status("limits.next is in force on all nodes that answered");
}

/// A herd of one node waits for no announcement.
#[test]
fn a_single_node_starts_with_what_it_announces() {
    let herd = Herd::solo_with("limits: {max_clients: 1, next: {max_clients: 2}}");
    let mut client = herd.client("Solo");
    let lines = ["a", "b"].map(|name| client.iamat(name, "+1+1", "1"));
    for (name, line) in ["a", "b"].into_iter().zip(lines) {
        assert_eq!(client.held(name.as_bytes()), Some(line));
    }
}
