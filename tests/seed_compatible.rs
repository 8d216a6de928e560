//! A herd in which one neighbour is the original Python server: it knows no handshake and sends
//! bare AT lines, each on a connection of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod common;

use std::fs::File;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use common::{At, DEADLINE, Herd, assert_bytes, eventually, refused, seconds, wall_ns};

/// Two nodes with the seed's server between them: what one knows of the other came through it.
const AROUND_SEED: [(&str, &[&str]); 3] =
    [("Left", &["Seed"]), ("Right", &["Seed"]), ("Seed", &["Left", "Right"])];

/// A node with a neighbour of each kind, both on the same address.
const BESIDE_SEED: [(&str, &[&str]); 3] =
    [("Left", &["Right", "Seed"]), ("Right", &["Seed"]), ("Seed", &[])];

const COMPATIBLE: &str = "peers: {seed_compatible: [Seed]}";

/// The stand-in, running as the node `Seed` of a herd. Dropping it ends it.
struct SeedServer(Child);

impl SeedServer {
    fn start(herd: &Herd) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers/seed_standin.py");
        let mut command = Command::new("python3");
        command.args([script, "Seed", &herd.port("Seed").to_string()]);
        for neighbour in ["Left", "Right"] {
            command.arg(herd.port(neighbour).to_string());
        }
        let stderr = File::create(herd.directory().join("Seed.stderr")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
        let server = Self(child.expect("the stand-in for the seed's server needs python3"));
        eventually("the stand-in accepts", 2 * DEADLINE, || {
            TcpStream::connect(herd.address("Seed")).ok()
        });
        server
    }
}

impl Drop for SeedServer {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

/// Waits until a node holds the very line for a client.
fn wait_until_held(herd: &Herd, name: &str, client: &str, line: &[u8]) {
    eventually(&format!("{name} holds {}", line.escape_ascii()), DEADLINE, || {
        (herd.held(name, client).as_deref() == Some(line)).then_some(())
    });
}

/// A herd of both kinds with its links standing.
fn around_seed() -> (Herd, SeedServer) {
    let mut herd = Herd::new(&AROUND_SEED, COMPATIBLE);
    let server = SeedServer::start(&herd);
    herd.start("Left");
    herd.start("Right");
    herd.wait_until_connected(&["Left".to_owned(), "Right".to_owned()]);
    (herd, server)
}

#[test]
fn updates_go_both_ways_through_a_server_of_the_seed() {
    let (herd, _server) = around_seed();
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
        unknown_of_probes(&herd, "Left")
    );
}

/// The questions of the tests themselves for clients that were not there yet: nothing that the
/// seed's server sent was taken for nonsense.
fn unknown_of_probes(herd: &Herd, name: &str) -> u64 {
    let log = herd.log_lines(name);
    log.iter().filter(|line| line.contains(" > ? WHATSAT ")).count() as u64
}

/// The seed's server remembers nothing and cannot say what it lacks: it is told everything.
#[test]
fn a_server_of_the_seed_that_returns_is_told_everything() {
    let (herd, server) = around_seed();
    drop(server);
    let mut left = herd.client("Left");
    let held: Vec<_> = (0..200)
        .map(|i| {
            let client = format!("c{i}");
            let line = left.iamat(&client, "+1-1", &i.to_string());
            (client, line)
        })
        .collect();
    assert_eq!(herd.held("Right", "c0"), None, "there is no other way");
    let _server = SeedServer::start(&herd);
    for (client, line) in &held {
        wait_until_held(&herd, "Right", client, line);
    }
}

/// All nodes of this herd are at one address. That one of them is the seed's takes nothing from
/// the others, nor from clients, and gives a browser no power.
#[test]
fn an_address_shared_with_the_seed_serves_everybody() {
    let mut herd = Herd::new(&BESIDE_SEED, COMPATIBLE);
    herd.start("Left");
    herd.start("Right");
    let real = ["Left".to_owned(), "Right".to_owned()];
    herd.wait_until_connected(&real);
    herd.wait_for_log("Left", &["linked with Right"]);
    // Whichever of the two dials.
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
    assert_bytes(&client.ask(b"WHATSAT nobody 1 1"), &refused(b"WHATSAT nobody 1 1"));

    let evil = b"POST / HTTP/1.1\r\nIAMAT evil +1+1 1\nAT Seed +0.500000000 evil +1+1 1\n";
    assert_bytes(&herd.exchange("Left", evil), b"? POST / HTTP/1.1\n");
    assert_eq!(herd.held("Left", "evil"), None);
}

/// A bare AT is taken without a word, first on a connection or later, and goes on to the others.
#[test]
fn a_bare_at_is_stored_and_flooded_and_gets_no_reply() {
    let mut herd = Herd::new(&BESIDE_SEED, COMPATIBLE);
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

    // An older one is no news, and gets no reply either.
    client.send(b"AT Seed -0.250000000 later -2+2 1621464827\n");
    assert_bytes(&client.ask(b"hello"), &refused(b"hello"));
    assert_eq!(client.held(b"later").as_deref(), Some(&later[..]));

    // Python may print fewer digits, and the line may end in white space.
    client.send(b"AT Seed +0.5 python +1+1 1621464827.5 \r\n");
    client.send(b"WHATSAT python 0 0\n");
    let reply = client.until(b"\n\n");
    let own = b"AT Seed +0.5 python +1+1 1621464827.5\n";
    assert!(reply.starts_with(own), "{}", reply.escape_ascii());

    // And a very small one with an exponent, which no other node could read.
    client.send(b"AT Seed +5.25e-05 tiny +1+1 1621464827.5\n");
    for name in &real {
        eventually(&format!("{name} holds it in plain digits"), DEADLINE, || {
            let reply = herd.exchange(name, b"WHATSAT tiny 0 0\n");
            reply.starts_with(b"AT Seed +0.0000525 tiny +1+1 1621464827.5\n").then_some(())
        });
    }

    for no_record in [
        &b"AT Seed"[..],
        b"AT Seed 0.5 evil +1+1 1",
        b"AT Seed +0.500000000 evil +91+1 1",
        b"AT Seed +0.500000000 evil +1+1 nan",
        b"AT Seed +5e evil +1+1 1",
        b"AT Seed +5.e5e-05 evil +1+1 1",
        b"AT Seed +0.500000000 evil +1+1 1 1",
    ] {
        assert_bytes(&client.ask(no_record), &refused(no_record));
    }
    assert_eq!(client.held(b"evil"), None);
    let ours = client.iamat("first", "+1+1", &seconds(wall_ns()));
    herd.wait_until_held(&real, "first", &ours);
}

/// Where no neighbour is the seed's, a bare AT is a line like any other.
#[test]
fn a_bare_at_from_anybody_else_is_not_taken() {
    let herd = Herd::solo();
    let line = b"AT Seed +0.500000000 evil +1+1 1";
    assert_bytes(&herd.client("Solo").ask(line), &refused(line));
    assert_eq!(herd.held("Solo", "evil"), None);
}
