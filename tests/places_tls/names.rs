//! Names and addresses. What the system's resolver says is replaced by `getaddrinfo.c`, so that
//! these tests do not depend on the names that a machine has.

use std::net::{Ipv6Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::common::{Client, Herd, Whatsat, free_port, lines, seconds, wall_ns};
use crate::servers::{Server, places, scatter};

/// The library that answers for the system's resolver, compiled once.
fn resolver() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join("getaddrinfo.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/places_tls/getaddrinfo.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &source]);
        let built = compiler.output().expect("these tests need a C compiler");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        library
    })
}

/// A running node for which every name has `addresses`, after `delay`.
fn herd(addresses: &str, delay: Duration, places: &str) -> Herd {
    let mut herd = Herd::new(&[("Solo", &[])], places);
    herd.set_environment("LD_PRELOAD", resolver());
    herd.set_environment("TEST_ADDRESSES", addresses);
    herd.set_environment("TEST_DELAY_MS", delay.as_millis().to_string());
    herd.start("Solo");
    herd
}

fn at(client: &mut Client) -> Vec<u8> {
    client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()))
}

/// Asks once, and gives the status and the time that it took.
fn ask(herd: &Herd) -> (String, Duration) {
    let mut client = herd.client("Solo");
    at(&mut client);
    let start = Instant::now();
    let reply = client.whatsat("kiwi", "10", "5");
    (reply.document.to_string(), start.elapsed())
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[test]
fn names_are_looked_up_beside_the_loop() {
    const DELAY: Duration = Duration::from_millis(1500);
    let emulator = Server::emulator(&[]);
    let herd = herd("127.0.0.1", DELAY, &places("google", emulator.url(), "deadline_ms: 30000"));
    let (mut client, mut mover) = (herd.client("Solo"), herd.client("Solo"));
    at(&mut client);
    let start = Instant::now();
    client.send(b"WHATSAT kiwi 10 5\n");
    let mut updates = 0;
    while updates < 10 {
        mover.iamat("mover", "+1+1", &seconds(wall_ns()));
        updates += 1;
    }
    assert!(start.elapsed() < DELAY, "{updates} updates waited for a name: {:?}", start.elapsed());
    let reply = client.until(b"\n\n");
    assert!(start.elapsed() >= DELAY, "the name was not looked up as this test wants it");
    assert_eq!(Whatsat::parse(&reply).status(), "OK");
}

/// The resolver answers one question after the other: eight connections must not wait for eight.
#[test]
fn one_look_up_serves_all_connections() {
    const DELAY: Duration = Duration::from_secs(1);
    let emulator = Server::emulator(&["--latency-ms", "500"]);
    let herd = herd("127.0.0.1", DELAY, &places("google", emulator.url(), "deadline_ms: 30000"));
    let mut client = herd.client("Solo");
    scatter(&mut client, 8);
    let start = Instant::now();
    client.send(&lines((0..8).map(|i| format!("WHATSAT p{i} 10 5"))));
    for _ in 0..8 {
        assert_eq!(Whatsat::parse(&client.until(b"\n\n")).status(), "OK");
    }
    assert!(start.elapsed() < 8 * DELAY, "{:?}", start.elapsed());
    assert_eq!(emulator.stats()["connections"]["accepted"], 8);
}

#[test]
fn a_name_without_address_is_told() {
    let herd = herd("", Duration::ZERO, &places("google", "https://a.example", ""));
    let (document, _) = ask(&herd);
    assert!(document.contains("cannot be resolved") && document.contains("UNKNOWN_ERROR"));
    assert!(document.contains("check places.url"), "{document}");
}

#[test]
fn a_resolver_that_says_nothing_does_not_hold_the_answer() {
    let places = places("google", "https://a.example", "deadline_ms: 300");
    let herd = herd("127.0.0.1", Duration::from_secs(30), &places);
    let (document, took) = ask(&herd); // which waits for 10 s
    assert!(document.contains("UNKNOWN_ERROR"), "{document}");
    assert!(document.contains("cannot be resolved in time"), "{document}");
    assert!(document.contains("check places.url and the name servers"), "{document}");
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

/// The name of a neighbour that nobody answers for is looked up again and again, each time for as
/// long as the resolver takes to give up.
#[test]
fn a_neighbours_slow_name_does_not_hold_up_places() {
    const DELAY: Duration = Duration::from_mins(1); // longer than the answer may take
    let emulator = Server::emulator(&[]);
    let section = places("google", emulator.url(), "deadline_ms: 30000");
    let hosts = "hosts: {Away: {dial: away.example}}";
    let mut herd = Herd::new(&[("Solo", &["Away"]), ("Away", &[])], &format!("{section}\n{hosts}"));
    herd.set_environment("LD_PRELOAD", resolver());
    herd.set_environment("TEST_ADDRESSES", "127.0.0.1");
    herd.set_environment("TEST_DELAY_MS", DELAY.as_millis().to_string());
    herd.set_environment("TEST_SLOW_NAME", "away.example");
    herd.start("Solo");
    let (document, _) = ask(&herd);
    assert!(document.contains("\"OK\""), "{document}");
}

/// A server on one address only, whatever the order in which the resolver gives them.
#[test]
fn an_address_that_refuses_is_followed_by_the_next() {
    let mut pairs = vec![("127.0.0.1", "127.0.0.2")];
    if has_ipv6() {
        pairs.extend([("::1", "127.0.0.1"), ("127.0.0.1", "::1")]);
    } else {
        eprintln!("this machine has no IPv6: only IPv4 was tested");
    }
    for (listens, refuses) in pairs {
        // A port that is free on both: those that the kernel gives may be anybody's on the other.
        let port = free_port().to_string();
        let emulator = Server::emulator(&["--host", listens, "--port", &port]);
        for addresses in [format!("{listens} {refuses}"), format!("{refuses} {listens}")] {
            let herd = herd(&addresses, Duration::ZERO, &places("google", emulator.url(), ""));
            let (document, _) = ask(&herd);
            assert!(document.contains("\"OK\""), "{addresses}: {document}");
        }
    }
}

/// A first address that does not answer at all costs a quarter of a second, not the three seconds
/// that all of connecting may take: the second would get nothing of those.
#[test]
fn an_address_that_is_silent_is_overtaken() {
    let port = free_port().to_string();
    let _silent = Server::hostile(&["--at", "connect", "--port", &port]);
    let emulator = Server::emulator(&["--host", "127.0.0.2", "--port", &port]);
    let places = places("google", emulator.url(), "deadline_ms: 30000");
    let herd = herd("127.0.0.1 127.0.0.2", Duration::ZERO, &places);
    let (document, took) = ask(&herd);
    assert!(document.contains("\"OK\""), "{document}");
    assert!(took >= Duration::from_millis(250), "the first address was not tried: {took:?}");
}

/// The same where the first address takes the connection and then says nothing, or has a
/// certificate of somebody else: that it speaks TCP does not make it the provider.
#[test]
fn an_address_that_takes_tcp_and_fails_in_tls_is_overtaken() {
    for (fault, event) in [
        (&["--at", "accept"][..], None), // which only the kernel sees
        (&["--at", "hello"], Some("fault")),
        (&["--at", "wire:90"], Some("fault")),
        (&["--at", "hello", "--then", "reset"], Some("fault")),
        (&["--certificate", "untrusted"], Some("gone")),
    ] {
        let port = free_port().to_string();
        let stuck = Server::hostile(&[&["--port", &port], fault].concat());
        let emulator = Server::emulator(&["--host", "127.0.0.2", "--port", &port]);
        let places = places("google", emulator.url(), "deadline_ms: 30000");
        let herd = herd("127.0.0.1 127.0.0.2", Duration::ZERO, &places);
        let (document, _) = ask(&herd);
        assert!(document.contains("\"OK\""), "{fault:?}: {document}");
        if let Some(event) = event {
            stuck.events_until(event); // or it was not even tried
        }
    }
}

/// Of the troubles of several addresses the one that came furthest is told.
#[test]
fn a_certificate_that_proves_nothing_is_told_though_another_address_refuses() {
    let port = free_port().to_string();
    let server = Server::hostile(&["--certificate", "untrusted", "--port", &port]);
    for addresses in ["127.0.0.1 127.0.0.2", "127.0.0.2 127.0.0.1"] {
        let herd = herd(addresses, Duration::ZERO, &places("google", server.url(), ""));
        let (document, _) = ask(&herd);
        assert!(document.contains("UnknownIssuer"), "{addresses}: {document}");
        assert!(document.contains("places.ca_file"), "{addresses}: {document}");
    }
}

/// Eight addresses are tried for a connection; behind one that failed come the others.
#[test]
fn an_address_behind_eight_that_refuse_is_reached_by_the_next_connection() {
    let emulator = Server::emulator(&[]); // on 127.0.0.1
    let mut addresses: Vec<String> = (2..10).map(|last| format!("127.0.0.{last}")).collect();
    addresses.push("127.0.0.1".to_owned());
    let places = places("google", emulator.url(), "");
    let herd = herd(&addresses.join(" "), Duration::ZERO, &places);
    let (document, _) = ask(&herd);
    assert!(document.contains("cannot be reached"), "{document}");
    let (document, _) = ask(&herd);
    assert!(document.contains("\"OK\""), "{document}");
}

#[test]
fn no_address_that_answers_is_a_failure_with_all_said() {
    let port = free_port();
    let places = places("google", &format!("https://localhost:{port}"), "");
    let herd = herd("127.0.0.1 127.0.0.2", Duration::ZERO, &places);
    let (document, _) = ask(&herd);
    assert!(document.contains("cannot be reached") && document.contains("refused"), "{document}");
    assert!(document.contains("check places.url, the network and the firewall"), "{document}");
}

/// A URL with an address instead of a name: the certificate is for that address.
#[test]
fn an_address_in_the_url_is_checked_against_the_certificate() {
    let mut hosts = vec![("127.0.0.1", "127.0.0.1", true), ("127.0.0.2", "127.0.0.2", false)];
    if has_ipv6() {
        hosts.push(("::1", "[::1]", true));
    }
    for (host, shown, named) in hosts {
        let emulator = Server::emulator(&["--host", host]);
        let url = format!("https://{shown}:{}", emulator.port());
        let herd = Herd::solo_with(&places("google", &url, ""));
        let (document, _) = ask(&herd);
        assert_eq!(document.contains("\"OK\""), named, "{url}: {document}");
        assert_eq!(document.contains("UNKNOWN_ERROR"), !named, "{url}: {document}");
    }
}
