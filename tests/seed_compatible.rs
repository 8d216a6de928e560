//! Herds with original Python servers among the neighbors. They do not implement the handshake, and
//! send bare AT lines, each on a new connection.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::{At, Client, DEADLINE, Herd, assert_bytes, eventually, refused, seconds, wall_ns};

/// Two nodes connected only through an original server.
const AROUND_ORIGINAL: [(&str, &[&str]); 3] =
    [("Left", &["Seed"]), ("Right", &["Seed"]), ("Seed", &["Left", "Right"])];

/// A node with a neighbor of each kind, both at the same address.
const WITH_ORIGINAL: [(&str, &[&str]); 3] =
    [("Left", &["Right", "Seed"]), ("Right", &["Seed"]), ("Seed", &[])];

const COMPATIBLE: &str = "peers: {seed_compatible: [Seed]}";

/// A stand-in for the original server. Dropping it stops it.
struct OriginalServer {
    child: Child,
    address: SocketAddr,
    /// The AT lines that it has received.
    received: PathBuf,
}

impl OriginalServer {
    /// Runs as the node `Seed`, whose neighbors are `Left` and `Right`.
    fn start(herd: &Herd) -> Self {
        Self::start_as(herd, "Seed", "127.0.0.1", &["Left", "Right"])
    }

    /// Runs as the node `name` at this address, and reaches its neighbors by loopback of its family.
    fn start_as(herd: &Herd, name: &str, host: &str, neighbors: &[&str]) -> Self {
        let address = SocketAddr::new(host.parse().unwrap(), herd.port(name));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/seed_standin.py");
        let mut command = Command::new("python3");
        command.args([script, name, &address.to_string()]);
        let loopback = if address.is_ipv6() { "[::1]" } else { "127.0.0.1" };
        for neighbor in neighbors {
            command.arg(format!("{loopback}:{}", herd.port(neighbor)));
        }
        let received = herd.directory().join(format!("{name}.received"));
        let stdout = File::create(&received).unwrap();
        let stderr = File::create(herd.directory().join(format!("{name}.stderr"))).unwrap();
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let child = child.expect("the stand-in for the original server requires python3");
        let server = Self { child, address, received };
        eventually("the stand-in accepts connections", 2 * DEADLINE, || {
            TcpStream::connect(address).ok()
        });
        server
    }

    /// The number of times that it has received `line`.
    fn count(&self, line: &[u8]) -> usize {
        let received = fs::read(&self.received).unwrap();
        received.split_inclusive(|&byte| byte == b'\n').filter(|&held| held == line).count()
    }
}

impl Drop for OriginalServer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have exited already
        let _ = self.child.wait();
    }
}

/// Waits until a node stores exactly `line` for a client.
fn wait_until_held(herd: &Herd, name: &str, client: &str, line: &[u8]) {
    eventually(&format!("{name} stores {}", line.escape_ascii()), DEADLINE, || {
        (herd.held(name, client).as_deref() == Some(line)).then_some(())
    });
}

/// Starts a herd of both kinds and waits until it is linked.
fn around_original() -> (Herd, OriginalServer) {
    let mut herd = Herd::new(&AROUND_ORIGINAL, COMPATIBLE);
    let server = OriginalServer::start(&herd);
    herd.start("Left");
    herd.start("Right");
    herd.wait_until_connected(&["Left".to_owned(), "Right".to_owned()]);
    (herd, server)
}

#[test]
fn updates_pass_through_an_original_server_in_both_directions() {
    let (herd, _server) = around_original();
    for (from, to) in [("Left", "Right"), ("Right", "Left")] {
        for i in 0..20 {
            let client = format!("{from}-{i}");
            let line = herd.client(from).iamat(&client, "+34.068930-118.445127", &i.to_string());
            assert_eq!(At::parse(&line).server, from);
            wait_until_held(&herd, to, &client, &line);
        }
    }
    for i in 0..20 {
        let client = format!("seed-{i}");
        let own = format!("IAMAT {client} +1+1 {}", seconds(wall_ns()));
        let line = herd.client("Seed").ask(own.as_bytes());
        assert!(line.starts_with(b"AT Seed "), "{}", line.escape_ascii());
        wait_until_held(&herd, "Left", &client, &line);
        wait_until_held(&herd, "Right", &client, &line);
    }
    assert_eq!(
        herd.counter("Left", r#"commands_total{command="unknown",result="refused"}"#),
        unknown_whatsats(&herd, "Left")
    );
}

/// The number of WHATSATs of this test for clients that were not stored yet. No other line may have
/// been refused, in particular none of the original server.
fn unknown_whatsats(herd: &Herd, name: &str) -> u64 {
    let log = herd.log_lines(name);
    log.iter().filter(|line| line.contains(" > ? WHATSAT ")).count() as u64
}

/// The original server stores nothing persistently and cannot request records, so it is sent all of
/// them.
#[test]
fn a_returning_original_server_is_sent_all_records() {
    let (herd, server) = around_original();
    drop(server);
    let mut left = herd.client("Left");
    let held: Vec<_> = (0..200)
        .map(|i| {
            let client = format!("c{i}");
            let line = left.iamat(&client, "+1-1", &i.to_string());
            (client, line)
        })
        .collect();
    assert_eq!(herd.held("Right", "c0"), None, "there is no other path");
    let _server = OriginalServer::start(&herd);
    for (client, line) in &held {
        wait_until_held(&herd, "Right", client, line);
    }
}

/// All nodes of this herd have the same address. An original server among them does not affect the
/// other nodes or clients, and does not let a browser issue commands.
#[test]
fn peers_and_clients_at_the_address_of_an_original_server_are_served() {
    let mut herd = Herd::new(&WITH_ORIGINAL, COMPATIBLE);
    herd.start("Left");
    herd.start("Right");
    let real = ["Left".to_owned(), "Right".to_owned()];
    herd.wait_until_connected(&real);
    herd.wait_for_log("Left", &["linked with Right"]);
    // Either of the two dials.
    for name in &real {
        herd.kill(name);
        herd.start(name);
        herd.wait_until_connected(&real);
    }

    let mut client = herd.client("Left");
    let line = client.iamat("kiwi", "+34.07-118.45", "1");
    assert_eq!(client.held(b"kiwi"), Some(line));
    assert_eq!(client.whatsat("kiwi", "10", "3").status(), "OK");
    assert_bytes(&client.ask(b"hello"), &refused(b"hello"));
    assert_bytes(&client.ask(b"WHATSAT unknown 1 1"), &refused(b"WHATSAT unknown 1 1"));

    let evil = b"POST / HTTP/1.1\r\nIAMAT evil +1+1 1\nAT Seed +0.500000000 evil +1+1 1\n";
    assert_bytes(&herd.exchange("Left", evil), b"? POST / HTTP/1.1\n");
    assert_eq!(herd.held("Left", "evil"), None);
}

/// Sends an update to each of the original servers `seeds` and then to each of the `real` nodes.
/// Every other server receives it. An original server receives each line as often as `expected` says
/// of the server that the update was sent to, and of itself.
fn check_that_updates_reach_all(
    herd: &Herd,
    seeds: &[(&str, &OriginalServer)],
    real: &[&str],
    expected: impl Fn(&str, &str) -> usize,
) {
    // A new link begins with everything that the node stores.
    let first = herd.client(real[0]).iamat("first", "+1+1", "1");
    for (name, server) in seeds {
        let what = format!("{name} is linked");
        eventually(&what, DEADLINE, || (server.count(&first) > 0).then_some(()));
    }
    let addresses = seeds.iter().map(|&(name, server)| (name, server.address));
    let senders = addresses.chain(real.iter().map(|&name| (name, herd.address(name))));
    let mut lines = Vec::new();
    for (name, address) in senders {
        for i in 0..10 {
            let client = format!("{name}-{i}");
            let update = format!("IAMAT {client} +1+1 {}", seconds(wall_ns()));
            let line = Client::connect(address).ask(update.as_bytes());
            assert_eq!(At::parse(&line).server, name);
            for real in real {
                wait_until_held(herd, real, &client, &line);
            }
            lines.push((name, line));
        }
    }
    for (sender, line) in &lines {
        for (name, server) in seeds {
            let expected = expected(sender, name);
            let what = format!("{name} receives {} {expected} times", line.escape_ascii());
            eventually(&what, DEADLINE, || (server.count(line) == expected).then_some(()));
        }
    }
    // Everything has arrived. Nothing is sent again, in particular not in circles.
    for (sender, line) in &lines {
        for (name, server) in seeds {
            assert_eq!(server.count(line), expected(sender, name), "{}", line.escape_ascii());
        }
    }
    for name in real {
        let sent = herd.counter(name, "updates_flooded_total");
        let degree = seeds.len() + real.len() - 1;
        // The others are those that this test waited with.
        assert!(sent <= (degree * (lines.len() + 10)) as u64, "{name} has sent {sent} records");
    }
}

/// A record of one original server is not lost for another at the same address.
#[test]
fn original_servers_of_one_address_exchange_records_through_a_node() {
    for seeds in [&["Ada", "Ben"][..], &["Ada", "Ben", "Cyd"]] {
        let nodes: Vec<(&str, &[&str])> =
            seeds.iter().map(|&seed| (seed, &["Mid"][..])).chain([("Mid", &[][..])]).collect();
        let mut herd = Herd::new(&nodes, &format!("peers: {{seed_compatible: {seeds:?}}}"));
        let start = |&seed| (seed, OriginalServer::start_as(&herd, seed, "127.0.0.1", &["Mid"]));
        let servers: Vec<_> = seeds.iter().map(start).collect();
        herd.start("Mid");
        let servers: Vec<_> = servers.iter().map(|(name, server)| (*name, server)).collect();
        check_that_updates_reach_all(&herd, &servers, &["Mid"], |_, _| 1);
    }
}

#[test]
fn records_reach_original_servers_behind_another_node() {
    let nodes: [(&str, &[&str]); 5] = [
        ("Ada", &["Left"]),
        ("Ben", &["Left"]),
        ("Cyd", &["Right"]),
        ("Left", &["Right"]),
        ("Right", &[]),
    ];
    let mut herd = Herd::new(&nodes, "peers: {seed_compatible: [Ada, Ben, Cyd]}");
    let start = |name, neighbor| OriginalServer::start_as(&herd, name, "127.0.0.1", &[neighbor]);
    let servers = [start("Ada", "Left"), start("Ben", "Left"), start("Cyd", "Right")];
    herd.start("Left");
    herd.start("Right");
    herd.wait_until_connected(&["Left".to_owned(), "Right".to_owned()]);
    let servers: Vec<_> = ["Ada", "Ben", "Cyd"].into_iter().zip(&servers).collect();
    // Right has one original server only, so it knows the sender.
    let expected = |from: &str, to: &str| usize::from((from, to) != ("Cyd", "Cyd"));
    check_that_updates_reach_all(&herd, &servers, &["Left", "Right"], expected);
}

/// An original server that connects from an address of its own is not sent its records back.
#[test]
fn an_original_server_on_its_own_address_is_known_as_the_sender() {
    let nodes: [(&str, &[&str]); 4] =
        [("Ada", &["Mid"]), ("Ben", &["Mid"]), ("Cyd", &["Mid"]), ("Mid", &[])];
    let extra = "hosts: {Cyd: 127.0.0.2}\npeers: {seed_compatible: [Ada, Ben, Cyd]}";
    let mut herd = Herd::new(&nodes, extra);
    let servers = [("Ada", "127.0.0.1"), ("Ben", "127.0.0.1"), ("Cyd", "127.0.0.2")]
        .map(|(name, host)| (name, OriginalServer::start_as(&herd, name, host, &["Mid"])));
    herd.start("Mid");
    let servers: Vec<_> = servers.iter().map(|(name, server)| (*name, server)).collect();
    let expected = |from: &str, to: &str| usize::from((from, to) != ("Cyd", "Cyd"));
    check_that_updates_reach_all(&herd, &servers, &["Mid"], expected);
}

/// One original server dials 127.0.0.1 and the other `::1`, and each is configured by one of the two.
#[test]
fn both_forms_of_loopback_are_one_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // this machine has no IPv6
    }
    for (ada, ben) in [("127.0.0.1", "::1"), ("127.0.0.1", "127.0.0.1"), ("::1", "::1")] {
        let nodes: [(&str, &[&str]); 3] = [("Ada", &["Mid"]), ("Ben", &["Mid"]), ("Mid", &[])];
        let hosts = format!("Ada: \"{ada}\", Ben: \"{ben}\"");
        let extra = format!(
            "hosts: {{Mid: {{listen: \"::\", dial: 127.0.0.1}}, {hosts}}}\n\
             peers: {{seed_compatible: [Ada, Ben]}}"
        );
        let mut herd = Herd::new(&nodes, &extra);
        herd.set_environment("HERD_SECRET", "secret");
        let servers = [("Ada", ada), ("Ben", ben)]
            .map(|(name, host)| (name, OriginalServer::start_as(&herd, name, host, &["Mid"])));
        herd.start("Mid");
        let servers: Vec<_> = servers.iter().map(|(name, server)| (*name, server)).collect();
        check_that_updates_reach_all(&herd, &servers, &["Mid"], |_, _| 1);
        // An original server may also dial the other form.
        let line = b"AT Ben +0.500000000 other-form +1+1 1621464827\n";
        let other = if ben == "::1" { "127.0.0.1" } else { "::1" };
        let other = SocketAddr::new(other.parse().unwrap(), herd.port("Mid"));
        assert_bytes(&Client::connect(other).exchange(line), b"");
        wait_until_held(&herd, "Mid", "other-form", line);
    }
}

/// A bare AT line is accepted without a reply, as the first line of a connection or later, and is
/// flooded.
#[test]
fn a_bare_at_is_stored_and_flooded_and_gets_no_reply() {
    let mut herd = Herd::new(&WITH_ORIGINAL, COMPATIBLE);
    herd.start("Left");
    herd.start("Right");
    let real = ["Left".to_owned(), "Right".to_owned()];
    herd.wait_until_connected(&real);

    let first = b"AT Seed +0.500000000 first +34.068930-118.445127 1621464827.959498503\n";
    assert_bytes(&herd.exchange("Left", first), b"");
    herd.wait_until_held(&real, "first", first);

    let later = b"AT Seed -0.250000000 later -1+1 1621464828\n";
    let mut client = herd.client("Left");
    assert_bytes(&client.ask(b"hello"), &refused(b"hello"));
    client.send(later);
    assert_bytes(&client.ask(b"hello"), &refused(b"hello"));
    herd.wait_until_held(&real, "later", later);

    // An older record is ignored, also without a reply.
    client.send(b"AT Seed -0.250000000 later -2+2 1621464827\n");
    assert_bytes(&client.ask(b"hello"), &refused(b"hello"));
    assert_eq!(client.held(b"later").as_deref(), Some(&later[..]));

    // Python may print fewer digits and trailing white space.
    client.send(b"AT Seed +0.5 python +1+1 1621464827.5 \r\n");
    client.send(b"WHATSAT python 0 0\n");
    let reply = client.until(b"\n\n");
    let own = b"AT Seed +0.5 python +1+1 1621464827.5\n";
    assert!(reply.starts_with(own), "{}", reply.escape_ascii());

    // Python prints small differences with an exponent, which other nodes could not parse.
    client.send(b"AT Seed +5.25e-05 tiny +1+1 1621464827.5\n");
    for name in &real {
        eventually(&format!("{name} stores it in decimal notation"), DEADLINE, || {
            let reply = herd.exchange(name, b"WHATSAT tiny 0 0\n");
            reply.starts_with(b"AT Seed +0.0000525 tiny +1+1 1621464827.5\n").then_some(())
        });
    }

    for invalid in [
        &b"AT Seed"[..],
        b"AT Seed 0.5 evil +1+1 1",
        b"AT Seed +0.500000000 evil +91+1 1",
        b"AT Seed +0.500000000 evil +1+1 nan",
        b"AT Seed +5e evil +1+1 1",
        b"AT Seed +5.e5e-05 evil +1+1 1",
        b"AT Seed +0.500000000 evil +1+1 1 1",
    ] {
        assert_bytes(&client.ask(invalid), &refused(invalid));
    }
    assert_eq!(client.held(b"evil"), None);
    let ours = client.iamat("first", "+1+1", &seconds(wall_ns()));
    herd.wait_until_held(&real, "first", &ours);
}

/// Without an original server among the neighbors, a bare AT line is an invalid command.
#[test]
fn a_bare_at_from_any_other_client_is_refused() {
    let herd = Herd::solo();
    let line = b"AT Seed +0.500000000 evil +1+1 1";
    assert_bytes(&herd.client("Solo").ask(line), &refused(line));
    assert_eq!(herd.held("Solo", "evil"), None);
}

/// An original server that is not declared is named in the log, whether it dials or is dialed.
#[test]
fn an_undeclared_original_server_is_reported_with_the_fix() {
    let mut herd = Herd::new(&AROUND_ORIGINAL, "");
    let _server = OriginalServer::start(&herd);
    herd.start("Left");
    let fix = "list it in peers.seed_compatible";
    herd.wait_for_log("Left", &["Seed is not linked", fix]);
    for time in 1..4 {
        let mut client = Client::connect(herd.address("Seed"));
        client.send(format!("IAMAT kiwi +1+1 {time}\n").as_bytes());
        client.line();
    }
    herd.wait_for_log("Left", &["sends updates of Seed", "an original server", fix]);
    eventually("the updates have arrived", DEADLINE, || {
        (herd.counter("Left", "commands_total{command=\"unknown\",result=\"refused\"}") >= 3)
            .then_some(())
    });
    let lines = herd.log_lines("Left");
    assert_eq!(lines.iter().filter(|line| line.contains("sends updates of Seed")).count(), 1);
}
