//! Servers that are not authentic, stall, break off or report errors. In any case the reply is the AT
//! line and a document with advice, by the deadline.

use std::fs;
use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::{Client, Herd, Whatsat, assert_bytes, seconds, wall_ns};
use crate::servers::{Server, authority, certificates, places, solo, write_file};

/// A document of the older Nearby Search with one place.
const ANSWER: &str = r#"{"html_attributions":[],"results":[{"name":"Café Grün","vicinity":"Here 1"}],"status":"OK"}"#;

fn response() -> Vec<u8> {
    let length = ANSWER.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{ANSWER}").into_bytes()
}

/// Asks once. The AT line must be right in any case.
fn ask(client: &mut Client) -> Whatsat {
    let at = client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()));
    let reply = client.whatsat("kiwi", "10", "5");
    assert_bytes(&reply.at, &at);
    reply
}

/// The message of a reply, which must be a failure.
fn message(reply: &Whatsat) -> &str {
    assert_eq!((reply.status(), reply.results().len()), ("UNKNOWN_ERROR", 0));
    let message = reply.document["error_message"].as_str().unwrap();
    assert!(message.contains("localhost:"), "the server is missing: {message}");
    message
}

#[test]
fn invalid_certificates_are_rejected() {
    for (certificate, why) in [
        ("expired", "expired"),
        ("wrong-host", "localhost"),
        ("untrusted", "UnknownIssuer"),
        ("self-signed", "UnknownIssuer"),
    ] {
        for version in ["any", "1.2"] {
            let server = Server::hostile(&["--certificate", certificate, "--tls", version]);
            let herd = solo("google", server.url(), "");
            let reply = ask(&mut herd.client("Solo"));
            let message = message(&reply);
            assert!(message.contains("TLS") && message.contains("places.ca_file"), "{message}");
            assert!(message.contains(why), "{certificate}: {message}");
            let events = server.events_until("gone");
            let requested = events.iter().any(|event| event["event"] == "request");
            assert!(!requested, "the question was sent: {events:?}");
        }
    }
}

#[test]
fn an_authority_that_is_not_configured_is_not_trusted() {
    let emulator = Server::emulator(&[]);
    let url = emulator.url();
    let herd =
        Herd::solo_with(&format!("api_key: k\nplaces: {{provider: google, url: \"{url}\"}}"));
    let reply = ask(&mut herd.client("Solo"));
    assert!(message(&reply).contains("places.ca_file"), "{}", reply.document);
    assert_eq!(emulator.stats()["requests"]["total"], 0);
}

/// Questions that follow the reload are answered; the authority that replaced another one is trusted.
#[test]
fn authorities_are_reloaded_at_sighup() {
    let emulator = Server::emulator(&[]);
    let mut herd = Herd::new(&[("Solo", &[])], "");
    let other = fs::read(certificates().join("hostile/untrusted-ca.pem")).unwrap();
    let file = write_file(&herd, "ca.pem", &other);
    let good = fs::read(authority()).unwrap();
    let config = fs::read_to_string(herd.config()).unwrap() + &places("google", emulator.url(), "");
    let config = config.replace(authority().to_str().unwrap(), file.to_str().unwrap());
    fs::write(herd.config(), config).unwrap();
    herd.start("Solo");
    let mut client = herd.client("Solo");
    assert!(message(&ask(&mut client)).contains("UnknownIssuer"));
    fs::write(&file, &good[..good.len() / 2]).unwrap();
    herd.signal("Solo", "HUP");
    herd.wait_for_log("Solo", &["WARNING - cannot reload places.ca_file", "ca.pem: is damaged"]);
    fs::write(&file, &good).unwrap();
    herd.signal("Solo", "HUP");
    herd.wait_for_log("Solo", &["INFO - reloaded places.ca_file"]);
    let reply = ask(&mut client);
    assert_eq!(reply.status(), "OK", "{}", reply.document);
}

/// The server stalls at every step of connecting, of the handshake and of the response.
#[test]
fn a_stall_at_any_point_ends_at_the_deadline() {
    const DEADLINE: Duration = Duration::from_millis(700);
    for (at, version) in [
        ("connect", "any"),
        ("accept", "any"),
        ("hello", "any"),
        ("wire:1", "any"),
        ("wire:5", "any"),
        ("wire:90", "any"),
        ("wire:400", "any"),
        ("wire:700", "any"),
        ("wire:60", "1.2"),
        ("wire:600", "1.2"),
        ("handshake", "any"),
        ("handshake", "1.2"),
        ("request", "any"),
        ("response:1", "any"),
        ("response:20", "any"),
        ("head", "any"),
        ("body", "any"),
    ] {
        let server = Server::hostile(&["--at", at, "--tls", version]);
        let herd = solo("google_legacy", server.url(), "deadline_ms: 700");
        let mut client = herd.client("Solo");
        let (start, worked) = (Instant::now(), herd.cpu_time("Solo"));
        let reply = ask(&mut client);
        let (took, worked) = (start.elapsed(), herd.cpu_time("Solo").saturating_sub(worked));
        assert!(worked < DEADLINE / 3, "{at}: the node used CPU while it waited: {worked:?}");
        assert!(took >= DEADLINE, "{at}: an answer before the deadline, after {took:?}");
        assert!(took < DEADLINE + Duration::from_secs(4), "{at}: no answer for {took:?}");
        let message = message(&reply);
        assert!(message.contains("700 ms") || message.contains("in time"), "{at}: {message}");
        assert!(herd.exchange("Solo", b"still here").starts_with(b"? still"), "{at}");
    }
}

/// A stalled handshake times out before the deadline of the question.
#[test]
fn connecting_has_its_own_time_limit() {
    let server = Server::hostile(&["--at", "hello"]);
    let herd = solo("google", server.url(), "deadline_ms: 60000");
    let start = Instant::now();
    let reply = ask(&mut herd.client("Solo"));
    assert!(message(&reply).contains("cannot be reached in time"), "{}", reply.document);
    assert!(start.elapsed() >= Duration::from_secs(3));
}

/// Ends the exchange at `at`, and returns the reply.
fn cut(at: &str, then: &str, more: &[&str]) -> Whatsat {
    let options = [&["--at", at, "--then", then], more].concat();
    let server = Server::hostile(&options);
    let herd = solo("google_legacy", server.url(), "deadline_ms: 30000");
    let mut client = herd.client("Solo");
    let start = Instant::now();
    let reply = ask(&mut client);
    assert!(start.elapsed() < Duration::from_secs(20), "{at} {then}: noticed at the deadline");
    reply
}

fn interrupted_at_many_points(then: &str) {
    let points = ["hello", "handshake", "request", "head", "body"].map(str::to_owned);
    let wire = (1..900).step_by(149).map(|bytes| format!("wire:{bytes}"));
    let response = [1, 12, 17, 36, 37, 80].map(|bytes| format!("response:{bytes}"));
    for at in points.into_iter().chain(wire).chain(response) {
        let reply = cut(&at, then, &[]);
        let message = message(&reply);
        let advice = ["check places.url", "try again"];
        assert!(advice.iter().any(|advice| message.contains(advice)), "{at}: {message}");
    }
    // The response was complete.
    assert_eq!(cut("end", then, &[]).status(), "ZERO_RESULTS");
}

#[test]
fn a_reset_at_any_point_is_noticed_immediately() {
    interrupted_at_many_points("reset");
}

#[test]
fn a_close_at_any_point_is_noticed_immediately() {
    interrupted_at_many_points("close");
}

/// A body that ends with the connection is complete only if that end is authentic (RFC 9112,
/// section 9.8): without a `close_notify`, anybody could have truncated it.
#[test]
fn a_response_that_could_have_been_truncated_is_rejected() {
    let herd = Herd::new(&[("Solo", &[])], "");
    let unframed = format!("HTTP/1.1 200 OK\r\n\r\n{ANSWER}");
    let file = write_file(&herd, "unframed", unframed.as_bytes());
    let file = file.to_str().unwrap();
    for version in ["any", "1.2"] {
        let options = ["--response", file, "--tls", version];
        let reply = cut("end", "close", &options);
        assert!(message(&reply).contains("before the end of its response"), "{}", reply.document);
        let server = Server::hostile(&[&options[..], &["--after", "close"]].concat());
        let herd = solo("google_legacy", server.url(), "");
        assert_eq!(ask(&mut herd.client("Solo")).names(), ["Café Grün"]);
    }
}

#[test]
fn a_response_may_arrive_in_single_bytes() {
    let herd = Herd::new(&[("Solo", &[])], "");
    let file = write_file(&herd, "response", &response());
    let file = file.to_str().unwrap();
    for options in [
        &["--segment", "1"][..],
        &["--record", "1"],
        &["--record", "1", "--segment", "1"],
        &["--record", "7", "--segment", "11", "--seed", "5"],
        &["--segment", "3", "--pause-ms", "0.2", "--tls", "1.2"],
        &["--record", "1", "--plain"],
    ] {
        let server = Server::hostile(&[&["--response", file], options].concat());
        let herd = solo("google_legacy", server.url(), "deadline_ms: 60000");
        let mut client = herd.client("Solo");
        for _ in 0..2 {
            assert_eq!(ask(&mut client).names(), ["Café Grün"], "{options:?}");
        }
    }
}

#[test]
fn a_wrong_scheme_is_reported() {
    let plain = Server::hostile(&["--plain", "--blurt"]);
    let herd = solo("google", &format!("https://localhost:{}", plain.port()), "");
    let reply = ask(&mut herd.client("Solo"));
    assert!(message(&reply).contains("check places.url"), "{}", reply.document);

    let secure = Server::hostile(&[]);
    let herd = solo("google", &format!("http://localhost:{}", secure.port()), "");
    let reply = ask(&mut herd.client("Solo"));
    assert!(message(&reply).contains("places.url"), "{}", reply.document);
}

#[test]
fn errors_of_a_provider_are_reported_with_advice() {
    for (provider, modes) in [
        (
            "google",
            &[
                ("fail-400", "REQUEST_DENIED", "check that the key"),
                ("fail-403", "REQUEST_DENIED", "enabled"),
                ("fail-429", "OVER_QUERY_LIMIT", "quota"),
                ("fail-500", "UNKNOWN_ERROR", "try again later"),
                ("fail-503", "UNKNOWN_ERROR", "try again later"),
                ("fail-504", "UNKNOWN_ERROR", "try again later"),
                ("not-json", "UNKNOWN_ERROR", "check places.url"),
                ("reset", "UNKNOWN_ERROR", "try again"),
                ("reset-body", "UNKNOWN_ERROR", "try again"),
                ("truncate", "UNKNOWN_ERROR", "try again"),
            ][..],
        ),
        (
            "google_legacy",
            &[
                ("fail-400", "REQUEST_DENIED", "check that the key"),
                ("fail-403", "REQUEST_DENIED", "enabled"),
                ("fail-429", "OVER_QUERY_LIMIT", "quota"),
                ("fail-500", "UNKNOWN_ERROR", "try again later"),
                ("fail-503", "UNKNOWN_ERROR", "try again later"),
                ("not-json", "UNKNOWN_ERROR", "check places.url"),
            ],
        ),
        (
            "overpass",
            &[
                ("fail-400", "REQUEST_DENIED", "does not accept this question"),
                ("fail-500", "UNKNOWN_ERROR", "again"),
                ("fail-504", "UNKNOWN_ERROR", "try again later"),
                ("not-json", "UNKNOWN_ERROR", "check places.url"),
            ],
        ),
    ] {
        let emulator = Server::emulator(&[]);
        let herd = solo(provider, emulator.url(), "cache_ttl_s: 0");
        let mut client = herd.client("Solo");
        for (mode, status, advice) in modes {
            emulator.set_mode(&format!("mode={mode}"));
            let reply = ask(&mut client);
            assert_eq!((reply.status(), reply.results().len()), (*status, 0), "{provider} {mode}");
            let message = reply.document["error_message"].as_str().unwrap();
            assert!(message.contains(advice), "{provider} {mode}: {message}");
            emulator.set_mode("mode=ok");
            assert_eq!(ask(&mut client).status(), "OK", "{provider} after {mode}");
        }
    }
}

/// Starts a node with an invalid `ca_file`, and returns its output.
fn output_with_ca_file(contents: Option<&[u8]>) -> Output {
    let herd = Herd::new(&[("Solo", &[])], "");
    let path = herd.directory().join("authorities.pem");
    if let Some(contents) = contents {
        write_file(&herd, "authorities.pem", contents);
    }
    let mut configuration = fs::read_to_string(herd.config()).unwrap();
    let section = places("google", "https://localhost:1", "");
    configuration += &section.replace(authority().to_str().unwrap(), path.to_str().unwrap());
    fs::write(herd.config(), configuration).unwrap();
    herd.run(&["Solo"])
}

#[test]
fn a_ca_file_without_certificates_prevents_the_start() {
    let key = fs::read(certificates().join("server.key")).unwrap();
    let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
    let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for contents in [None, Some(&b""[..]), Some(b"not PEM"), Some(&key), Some(cut), Some(garbage)] {
        let output = output_with_ca_file(contents);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{contents:?}: {message}");
        assert!(message.contains("ca_file") && message.contains("authorities.pem"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(output.stdout.is_empty());
    }
}
