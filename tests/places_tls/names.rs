//! Names and addresses. `getaddrinfo.c` replaces the resolver of the system, so that these tests do
//! not depend on the names that the machine can resolve.

use std::net::{Ipv6Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::common::{Client, Herd, Whatsat, faults, free_port, lines, seconds, wall_ns};
use crate::servers::{Server, places, scatter};

/// The library that replaces the resolver of the system.
const RESOLVER: &str = "places_tls/getaddrinfo.c";

/// Starts a node for which every name resolves to `addresses` after `delay`.
fn herd(addresses: &str, delay: Duration, places: &str) -> Herd {
    let mut herd = Herd::new(&[("Solo", &[])], places);
    herd.set_environment("LD_PRELOAD", faults::library(RESOLVER));
    herd.set_environment("TEST_ADDRESSES", addresses);
    herd.set_environment("TEST_DELAY_MS", delay.as_millis().to_string());
    herd.start("Solo");
    herd
}

fn at(client: &mut Client) -> Vec<u8> {
    client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()))
}

/// Asks once, and returns the document and the time that it took.
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
fn name_look_ups_do_not_block_the_event_loop() {
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
    assert!(start.elapsed() >= DELAY, "the resolver of this test was not used");
    assert_eq!(Whatsat::parse(&reply).status(), "OK");
}

/// The resolver handles one name at a time: eight connections must not wait for eight look-ups.
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
fn a_name_without_an_address_is_reported() {
    let herd = herd("", Duration::ZERO, &places("google", "https://a.example", ""));
    let (document, _) = ask(&herd);
    assert!(document.contains("cannot be resolved") && document.contains("UNKNOWN_ERROR"));
    assert!(document.contains("check places.url"), "{document}");
}

#[test]
fn a_silent_resolver_does_not_delay_the_answer_past_its_deadline() {
    let places = places("google", "https://a.example", "deadline_ms: 300");
    let herd = herd("127.0.0.1", Duration::from_secs(30), &places);
    let (document, took) = ask(&herd); // which waits for up to 10 s
    assert!(document.contains("UNKNOWN_ERROR"), "{document}");
    assert!(document.contains("cannot be resolved in time"), "{document}");
    assert!(document.contains("check places.url and the name servers"), "{document}");
    assert!(took >= Duration::from_millis(300), "{took:?}");
}

/// The name of an unresponsive neighbor is looked up repeatedly, and each look-up takes until the
/// resolver times out.
#[test]
fn a_slow_look_up_of_a_neighbor_does_not_delay_places() {
    const DELAY: Duration = Duration::from_mins(1); // longer than the answer may take
    let emulator = Server::emulator(&[]);
    let section = places("google", emulator.url(), "deadline_ms: 30000");
    let hosts = "hosts: {Away: {dial: away.example}}";
    let mut herd = Herd::new(&[("Solo", &["Away"]), ("Away", &[])], &format!("{section}\n{hosts}"));
    herd.set_environment("LD_PRELOAD", faults::library(RESOLVER));
    herd.set_environment("TEST_ADDRESSES", "127.0.0.1");
    herd.set_environment("TEST_DELAY_MS", DELAY.as_millis().to_string());
    herd.set_environment("TEST_SLOW_NAME", "away.example");
    herd.start("Solo");
    let (document, _) = ask(&herd);
    assert!(document.contains("\"OK\""), "{document}");
}

/// The server listens on one of two addresses, which the resolver returns in either order.
#[test]
fn an_address_that_refuses_the_connection_is_followed_by_the_next() {
    let mut pairs = vec![("127.0.0.1", "127.0.0.2")];
    if has_ipv6() {
        pairs.extend([("::1", "127.0.0.1"), ("127.0.0.1", "::1")]);
    } else {
        eprintln!("this machine has no IPv6: only IPv4 was tested");
    }
    for (listens, refuses) in pairs {
        // A port that is free on both: one chosen by the kernel may be in use on the other.
        let port = free_port().to_string();
        let emulator = Server::emulator(&["--host", listens, "--port", &port]);
        for addresses in [format!("{listens} {refuses}"), format!("{refuses} {listens}")] {
            let herd = herd(&addresses, Duration::ZERO, &places("google", emulator.url(), ""));
            let (document, _) = ask(&herd);
            assert!(document.contains("\"OK\""), "{addresses}: {document}");
        }
    }
}

/// A first address that does not respond costs a quarter of a second, not the three seconds that
/// connecting may take in total, which would leave none for the second.
#[test]
fn a_silent_address_is_overtaken() {
    let port = free_port().to_string();
    let _silent = Server::hostile(&["--at", "connect", "--port", &port]);
    let emulator = Server::emulator(&["--host", "127.0.0.2", "--port", &port]);
    let places = places("google", emulator.url(), "deadline_ms: 30000");
    let herd = herd("127.0.0.1 127.0.0.2", Duration::ZERO, &places);
    let (document, took) = ask(&herd);
    assert!(document.contains("\"OK\""), "{document}");
    assert!(took >= Duration::from_millis(250), "the first address was not tried: {took:?}");
}

/// The same applies if the first address accepts the connection and then stalls, or presents the wrong
/// certificate: accepting TCP is no proof that it is the provider.
#[test]
fn an_address_that_accepts_tcp_but_fails_in_tls_is_overtaken() {
    for (fault, event) in [
        (&["--at", "accept"][..], None), // visible to the kernel only
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
            stuck.events_until(event); // proves that it was tried
        }
    }
}

/// If several addresses fail, the error of the attempt that got furthest is reported.
#[test]
fn an_invalid_certificate_is_reported_even_if_another_address_refuses() {
    let port = free_port().to_string();
    let server = Server::hostile(&["--certificate", "untrusted", "--port", &port]);
    for addresses in ["127.0.0.1 127.0.0.2", "127.0.0.2 127.0.0.1"] {
        let herd = herd(addresses, Duration::ZERO, &places("google", server.url(), ""));
        let (document, _) = ask(&herd);
        assert!(document.contains("UnknownIssuer"), "{addresses}: {document}");
        assert!(document.contains("places.ca_file"), "{addresses}: {document}");
    }
}

/// Each connection tries at most eight addresses; after a failure, the next one starts with another.
#[test]
fn the_next_connection_reaches_the_address_after_eight_that_refuse() {
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
fn if_no_address_accepts_the_failure_has_a_reason_and_advice() {
    let port = free_port();
    let places = places("google", &format!("https://localhost:{port}"), "");
    let herd = herd("127.0.0.1 127.0.0.2", Duration::ZERO, &places);
    let (document, _) = ask(&herd);
    assert!(document.contains("cannot be reached") && document.contains("refused"), "{document}");
    assert!(document.contains("check places.url, the network and the firewall"), "{document}");
}

/// If the URL contains an address, the certificate must name that address.
#[test]
fn the_certificate_must_match_an_address_in_the_url() {
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
