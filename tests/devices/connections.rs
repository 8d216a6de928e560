//! HTTP, TLS, deadlines and limits of the port for devices.

use std::io::{Read as _, Write as _};
use std::time::Instant;

use crate::common::{DEADLINE, eventually};
use crate::fleet::{Fleet, TLS, TOKENS, VAN1, now};
use crate::phone::{form, post, tcp};

fn target() -> String {
    format!("/t/{VAN1}")
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let fleet = Fleet::solo(TOKENS, "");
    let (mut phone, at) = (fleet.phone("Solo"), now() - 100);
    let location = |n: i64| form(&target(), "x", "1.5", &n.to_string(), at + n);
    let unknown = post(&target(), &[], "{\"_type\":\"lwt\",\"tst\":1}");
    let requests: Vec<u8> = (0..50).flat_map(|n| [location(n), unknown.clone()].concat()).collect();
    phone.send(&requests);
    for n in 0..50 {
        let responses = [phone.response(), phone.response()];
        assert_eq!(responses.each_ref().map(|it| it.status), [200, 200], "{n}");
        assert_eq!([&*responses[0].body, responses[1].body.trim_end()], ["", "[]"], "{n}");
    }
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+1.5+49 {}", at + 49)));
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    let fleet = Fleet::solo(TOKENS, "");
    let (mut phone, at) = (fleet.phone("Solo"), now());
    let body = format!("id=x&lat=1.5&lon=2.5&timestamp={at}");
    let head = |token: &str| {
        format!(
            "POST /t/{token} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
    };
    phone.send(head(VAN1).as_bytes());
    assert_eq!(phone.response().status, 100);
    phone.send(body.as_bytes());
    assert_eq!(phone.response().status, 200);
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+1.5+2.5 {at}")));
    // A body that will not be read is not asked for.
    let mut wrong = fleet.phone("Solo");
    wrong.send(head("canary-0123456789-wrong").as_bytes());
    assert_eq!(wrong.response().status, 401);
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let fleet = Fleet::solo(&format!("{TOKENS}, max_body: 1048576"), "");
    let at = now();
    let padded = |length: usize| {
        let body = format!("id=x&lat=1.5&lon=2.5&timestamp={at}&pad=");
        let pad = length - body.len();
        post(&target(), &[], &(body + &"x".repeat(pad)))
    };
    let mut phone = fleet.phone("Solo");
    assert_eq!(phone.ask(&padded(1 << 20)).status, 200);
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+1.5+2.5 {at}")));
    let head = format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 1048577\r\n\r\n", target());
    phone.send(head.as_bytes());
    assert_eq!(phone.response().status, 413);
    let mut chunked = fleet.phone("Solo");
    let head =
        format!("POST {} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", target());
    chunked.send(head.as_bytes());
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..17 {
        let _ = chunked.try_send(chunk.as_bytes()); // it may be refused meanwhile
    }
    assert_eq!(chunked.response().status, 413);
}

/// A connection that has not begun TLS holds no state of it, and is closed soon.
#[test]
fn a_silent_connection_over_tls_is_closed() {
    let fleet = Fleet::solo(TLS, "");
    let start = Instant::now();
    let mut silent = tcp(fleet.address("Solo"));
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty() && start.elapsed() < DEADLINE);
    // One that has begun and does not go on.
    let mut begun = tcp(fleet.address("Solo"));
    begun.write_all(&[0x16, 0x03, 0x01]).unwrap();
    begun.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    assert_eq!(fleet.herd.counter("Solo", "timeouts_total{deadline=\"handshake\"}"), 2);
}

#[test]
fn plain_http_at_a_port_for_https_is_refused_unread() {
    let fleet = Fleet::solo(TLS, "");
    let mut phone = fleet.phone("Solo");
    let response = phone.ask(&form(&target(), "x", "1.5", "2.5", now()));
    let expected = (400, "this port speaks HTTPS; use https:// in the URL\n");
    assert_eq!((response.status, &*response.body), expected);
    phone.rest();
    assert_eq!(fleet.held("Solo", "van1"), None);
    assert_eq!(fleet.metric("Solo", "device_requests_total", ""), 0);
}

/// The deadline is that of a line of the line protocol.
#[test]
fn a_request_that_arrives_byte_by_byte_times_out() {
    let fleet = Fleet::solo(TOKENS, "limits: {line_timeout_s: 1}");
    for begun in [
        "POST / HTTP/1.1\r\nHost".to_owned(),
        format!("POST {} HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n", target()),
    ] {
        let mut phone = fleet.phone("Solo");
        phone.send(begun.as_bytes());
        let start = Instant::now();
        while phone.try_send(b"x").is_ok() {
            assert!(start.elapsed() < DEADLINE, "{begun:?} does not time out");
            std::thread::sleep(std::time::Duration::from_millis(100)); // a slow client
        }
    }
    assert_eq!(fleet.herd.counter("Solo", "timeouts_total{deadline=\"line\"}"), 2);
}

/// A large request may take longer than the deadline, as long as it proceeds.
#[test]
fn a_slow_request_that_proceeds_does_not_time_out() {
    let fleet = Fleet::solo(TOKENS, "limits: {line_timeout_s: 2}");
    let at = now();
    let body = format!("id=x&lat=1.5&lon=2.5&timestamp={at}&pad={}", "x".repeat(140_000));
    let request = post(&target(), &[], &body);
    let mut phone = fleet.phone("Solo");
    for part in request.chunks(20_000) {
        phone.send(part);
        std::thread::sleep(std::time::Duration::from_millis(600)); // a slow client
    }
    assert_eq!(phone.response().status, 200);
    assert_eq!(fleet.held("Solo", "van1"), Some(format!("+1.5+2.5 {at}")));
}

/// They count toward the limit of all clients. Over it, a device is to try again.
#[test]
fn connections_over_the_limit_are_refused_with_503() {
    let fleet = Fleet::solo(TOKENS, "limits: {max_connections: 1}");
    let mut first = fleet.phone("Solo");
    let request = form(&target(), "x", "1.5", "2.5", now());
    eventually("there is room", DEADLINE, || {
        first = fleet.phone("Solo");
        (first.ask(&request).status == 200).then_some(())
    });
    let mut second = fleet.phone("Solo");
    assert_eq!(second.response().status, 503);
    drop(first);
    eventually("there is room again", DEADLINE, || {
        (fleet.phone("Solo").ask(&request).status == 200).then_some(())
    });
}

#[test]
fn a_node_that_stops_answers_what_it_has_read_and_closes_idle_connections() {
    let mut fleet = Fleet::solo(TLS, "");
    let mut phones = [fleet.phone_tls("Solo"), fleet.phone_tls("Solo")];
    for phone in &mut phones {
        assert_eq!(phone.ask(&form(&target(), "x", "1.5", "2.5", now())).status, 200);
    }
    fleet.herd.signal("Solo", "TERM");
    for phone in &mut phones {
        assert_eq!(phone.rest(), b"");
    }
    assert!(fleet.herd.wait("Solo", DEADLINE).success());
}

#[test]
fn the_gauge_of_connections_has_devices_apart() {
    let fleet = Fleet::solo(TOKENS, "");
    let gauge = |kind: &str| fleet.metric("Solo", "connections", &format!("{{kind=\"{kind}\"}}"));
    let phones = [fleet.phone("Solo"), fleet.phone("Solo")];
    eventually("two devices are connected", DEADLINE, || (gauge("device") == 2).then_some(()));
    eventually("there is no other client", DEADLINE, || (gauge("client") == 0).then_some(()));
    drop(phones);
    eventually("they are gone", DEADLINE, || (gauge("device") == 0).then_some(()));
}
