//! Servers that must not be believed, that stall, break off, or say no. Whatever they do, the reply
//! is the AT line and a document that says what to do, by the deadline.

use std::process::Output;
use std::time::{Duration, Instant};

use crate::common::{Client, Herd, Whatsat, assert_bytes, seconds, wall_ns};
use crate::servers::{Server, authority, certificates, places, solo, write_file};

/// A document with one place, in the form of the older Nearby Search.
const ANSWER: &str = r#"{"html_attributions":[],"results":[{"name":"Café Grün","vicinity":"Here 1"}],"status":"OK"}"#;

fn response() -> Vec<u8> {
    let length = ANSWER.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{ANSWER}").into_bytes()
}

/// Asks once: the AT line must be right, whatever becomes of the document.
fn ask(client: &mut Client) -> Whatsat {
    let at = client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()));
    let reply = client.whatsat("kiwi", "10", "5");
    assert_bytes(&reply.at, &at);
    reply
}

/// The message of a failure, which must be one.
fn message(reply: &Whatsat) -> &str {
    assert_eq!((reply.status(), reply.results().len()), ("UNKNOWN_ERROR", 0));
    let message = reply.document["error_message"].as_str().unwrap();
    assert!(message.contains("localhost:"), "whom it is about: {message}");
    message
}

#[test]
fn certificates_that_prove_nothing_are_refused() {
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
            let said = message(&reply);
            assert!(said.contains("TLS") && said.contains("places.ca_file"), "{said}");
            assert!(said.contains(why), "{certificate}: {said}");
            let events = server.events_until("gone");
            let told = events.iter().any(|event| event["event"] == "request");
            assert!(!told, "it was told the question: {events:?}");
        }
    }
}

#[test]
fn an_authority_that_is_not_named_is_not_trusted() {
    let emulator = Server::emulator(&[]);
    let url = emulator.url();
    let herd =
        Herd::solo_with(&format!("api_key: k\nplaces: {{provider: google, url: \"{url}\"}}"));
    let reply = ask(&mut herd.client("Solo"));
    assert!(message(&reply).contains("places.ca_file"), "{}", reply.document);
    assert_eq!(emulator.stats()["requests"]["total"], 0);
}

/// Every step of connecting, of the handshake and of the response, and then silence.
#[test]
fn silence_at_any_point_ends_at_the_deadline() {
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
        assert!(worked < DEADLINE / 3, "{at}: the node works while it waits: {worked:?}");
        assert!(took >= DEADLINE, "{at}: an answer out of nothing after {took:?}");
        assert!(took < DEADLINE + Duration::from_secs(4), "{at}: a hang of {took:?}");
        let said = message(&reply);
        assert!(said.contains("700 ms") || said.contains("in time"), "{at}: {said}");
        assert!(herd.exchange("Solo", b"still here").starts_with(b"? still"), "{at}");
    }
}

/// A stalled handshake is given up before the question's own deadline, and the question told why.
#[test]
fn connecting_has_a_deadline_of_its_own() {
    let server = Server::hostile(&["--at", "hello"]);
    let herd = solo("google", server.url(), "deadline_ms: 60000");
    let start = Instant::now();
    let reply = ask(&mut herd.client("Solo"));
    assert!(message(&reply).contains("cannot be reached in time"), "{}", reply.document);
    assert!(start.elapsed() >= Duration::from_secs(3));
}

/// Cuts the exchange at `at`. Whether the answer is whole decides what the reply is.
fn cut(at: &str, then: &str, more: &[&str]) -> Whatsat {
    let options = [&["--at", at, "--then", then], more].concat();
    let server = Server::hostile(&options);
    let herd = solo("google_legacy", server.url(), "deadline_ms: 30000");
    let mut client = herd.client("Solo");
    let start = Instant::now();
    let reply = ask(&mut client);
    assert!(start.elapsed() < Duration::from_secs(20), "{at} {then}: noticed at the deadline only");
    reply
}

fn broken_off_at_many_points(then: &str) {
    let points = ["hello", "handshake", "request", "head", "body"].map(str::to_owned);
    let wire = (1..900).step_by(149).map(|bytes| format!("wire:{bytes}"));
    let response = [1, 12, 17, 36, 37, 80].map(|bytes| format!("response:{bytes}"));
    for at in points.into_iter().chain(wire).chain(response) {
        let reply = cut(&at, then, &[]);
        let said = message(&reply);
        let advice = ["check places.url", "try again"];
        assert!(advice.iter().any(|advice| said.contains(advice)), "{at}: {said}");
    }
    // The answer had come whole.
    assert_eq!(cut("end", then, &[]).status(), "ZERO_RESULTS");
}

#[test]
fn a_reset_at_any_point_is_noticed_at_once() {
    broken_off_at_many_points("reset");
}

#[test]
fn an_end_at_any_point_is_noticed_at_once() {
    broken_off_at_many_points("close");
}

/// A body that only the end of the connection ends is whole only if that end is authentic
/// (RFC 9112, section 9.8): without `close_notify` anybody could have cut it.
#[test]
fn an_answer_that_anybody_could_have_cut_is_none() {
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
fn an_answer_in_single_bytes_is_an_answer() {
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
fn a_scheme_that_the_server_does_not_speak_is_told() {
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
fn a_provider_that_says_no_is_quoted_with_what_to_do() {
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
            emulator.order(&format!("mode={mode}"));
            let reply = ask(&mut client);
            assert_eq!((reply.status(), reply.results().len()), (*status, 0), "{provider} {mode}");
            let said = reply.document["error_message"].as_str().unwrap();
            assert!(said.contains(advice), "{provider} {mode}: {said}");
            emulator.order("mode=ok");
            assert_eq!(ask(&mut client).status(), "OK", "{provider} after {mode}");
        }
    }
}

/// Starts a node whose `ca_file` is not what it should be, and gives how it ended.
fn refused_to_start(contents: Option<&[u8]>) -> Output {
    let herd = Herd::new(&[("Solo", &[])], "");
    let path = herd.directory().join("authorities.pem");
    if let Some(contents) = contents {
        write_file(&herd, "authorities.pem", contents);
    }
    let mut configuration = std::fs::read_to_string(herd.config()).unwrap();
    let section = places("google", "https://localhost:1", "");
    configuration += &section.replace(authority().to_str().unwrap(), path.to_str().unwrap());
    std::fs::write(herd.config(), configuration).unwrap();
    herd.run(&["Solo"])
}

#[test]
fn a_file_of_authorities_that_holds_none_keeps_the_node_from_starting() {
    let key = std::fs::read(certificates().join("server.key")).unwrap();
    let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
    let garbage = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for contents in [None, Some(&b""[..]), Some(b"not PEM"), Some(&key), Some(cut), Some(garbage)] {
        let output = refused_to_start(contents);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{contents:?}: {said}");
        assert!(said.contains("ca_file") && said.contains("authorities.pem"), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
    }
}
