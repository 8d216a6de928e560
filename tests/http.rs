//! The HTTP side over TCP: requests, their limits, listings, events.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy.toml allows it in tests, helpers are part of them"
)]

mod common;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use common::{Client, DEADLINE, Herd, eventually, free_port, show};
use serde_json::Value;

/// One node called `Solo` with an HTTP side, running.
struct Solo {
    herd: Herd,
    http: u16,
}

impl Solo {
    fn new() -> Self {
        Self::with("", "")
    }

    /// Adds `http` to the section `http`, and `extra` after it.
    fn with(http: &str, extra: &str) -> Self {
        let port = free_port();
        let section = format!("http: {{ports: {{Solo: {port}}}{http}}}\n{extra}");
        Self { herd: Herd::solo_with(&section), http: port }
    }

    fn connect(&self) -> Client {
        Client::connect(self.address())
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.http).into()
    }

    /// Sends a GET on a new connection.
    fn get(&self, target: &str) -> Response {
        let mut client = self.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        Response::read(&mut client)
    }

    /// Stores clients with these locations.
    fn hold(&self, clients: &[(&str, &str)]) {
        let mut client = self.herd.client("Solo");
        for (name, location) in clients {
            client.iamat(name, location, "1621464827");
        }
    }

    fn subscribe(&self, query: &str, fields: &str) -> Events {
        let mut client = self.connect();
        let head = format!("GET /events{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        client.send(head.as_bytes());
        Events::new(client)
    }

    /// The value of a metric; `sample` includes the labels.
    fn metric(&self, sample: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    }
}

struct Response {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Response {
    fn read(client: &mut Client) -> Self {
        let mut response = Self::head(client);
        let length = response.field("Content-Length").map(|text| text.parse().unwrap());
        if let Some(length) = length {
            response.body = client.take(length);
        } else if response.field("Transfer-Encoding") == Some("chunked") {
            while let Some(chunk) = chunk(client) {
                response.body.extend(chunk);
            }
        } else if response.status == 200 {
            response.body = client.rest();
        }
        response
    }

    /// Reads the head only.
    fn head(client: &mut Client) -> Self {
        let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(head.starts_with("HTTP/1.1 "), "{head}");
        Self { status, head, body: Vec::new() }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", show(&self.body)))
    }

    /// The sorted names of the clients in a feature collection.
    fn clients(&self) -> Vec<String> {
        let json = self.json();
        let name = |feature: &Value| feature["properties"]["client"].as_str().unwrap().to_owned();
        let mut names: Vec<_> = json["features"].as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    }
}

/// Returns responses without their dates, which differ from second to second.
fn undated(responses: &[u8]) -> String {
    let text = String::from_utf8_lossy(responses);
    text.split_inclusive("\r\n").filter(|line| !line.starts_with("Date: ")).collect()
}

/// Reads the next chunk of a body; `None` at its end.
fn chunk(client: &mut Client) -> Option<Vec<u8>> {
    let size = String::from_utf8(client.until(b"\r\n")).unwrap();
    let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
    let mut chunk = client.take(size + 2);
    assert!(chunk.ends_with(b"\r\n"), "{}", show(&chunk));
    chunk.truncate(size);
    (size > 0).then_some(chunk)
}

/// A subscriber of `/events`.
struct Events {
    client: Client,
    received: Vec<u8>,
}

#[derive(Debug, Default, PartialEq)]
struct Event {
    kind: String,
    id: Option<String>,
    data: Value,
}

impl Events {
    fn new(mut client: Client) -> Self {
        let response = Response::head(&mut client);
        assert_eq!(response.status, 200, "{}", response.head);
        assert_eq!(response.field("Content-Type"), Some("text/event-stream"));
        assert_eq!(response.field("X-Accel-Buffering"), Some("no"), "for nginx");
        Self { client, received: Vec::new() }
    }

    fn next(&mut self) -> Event {
        loop {
            if let Some(end) = common::find(&self.received, b"\n\n") {
                let block = String::from_utf8(self.received.drain(..end + 2).collect()).unwrap();
                let mut event = Event::default();
                for line in block.lines() {
                    let (field, value) = line.split_once(": ").unwrap_or((line, ""));
                    match field {
                        "event" => value.clone_into(&mut event.kind),
                        "id" => event.id = Some(value.to_owned()),
                        "data" => event.data = serde_json::from_str(value).unwrap(),
                        _ => {}
                    }
                }
                if !event.kind.is_empty() {
                    return event;
                }
                continue;
            }
            let more = chunk(&mut self.client).expect("the event stream has ended");
            self.received.extend(more);
        }
    }

    /// Reads a snapshot from `reset` to `ready`. Returns the sorted names of its clients.
    fn snapshot(&mut self) -> Vec<String> {
        assert_eq!(self.next().kind, "reset");
        let mut names = Vec::new();
        loop {
            let event = self.next();
            match event.kind.as_str() {
                "client" => names.push(event.client().to_owned()),
                "ready" => break,
                other => panic!("{other}"),
            }
        }
        names.sort();
        names
    }
}

impl Event {
    fn client(&self) -> &str {
        self.data["properties"]["client"].as_str().unwrap()
    }

    /// The client's time, truncated to seconds.
    fn time(&self) -> i64 {
        self.data["properties"]["time"].as_f64().unwrap() as i64
    }
}

#[test]
fn every_endpoint_responds() {
    let solo = Solo::new();
    solo.hold(&[("kiwi", "+34.068930-118.445127")]);
    for (target, media) in [
        ("/", "text/html; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/api/herd", "application/json"),
        ("/api/clients", "application/geo+json"),
        ("/api/clients/kiwi", "application/geo+json"),
        ("/api/clients/kiwi/places?radius=10&max=5", "application/json"),
    ] {
        let response = solo.get(target);
        assert_eq!((response.status, response.field("Content-Type")), (200, Some(media)));
        assert!(!response.body.is_empty(), "{target}");
        // Other sites can neither run scripts in the response, nor frame it, nor read it.
        let policy = response.field("Content-Security-Policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(response.field("X-Content-Type-Options"), Some("nosniff"));
        assert_eq!(response.field("Referrer-Policy"), Some("no-referrer"));
        assert!(response.field("Date").unwrap().ends_with(" GMT"), "{}", response.head);
        assert_eq!(response.field("Access-Control-Allow-Origin"), None);
    }
    let places = solo.get("/api/clients/kiwi/places?radius=10&max=5").json();
    assert_eq!(
        (places["status"].as_str(), places["results"].as_array().unwrap().len()),
        (Some("OK"), 5)
    );
    for (target, status) in [
        ("/nothing", 404),
        ("/assets/../../etc/passwd", 404),
        ("/api/clients/unknown", 404),
        ("/api/clients/unknown/places", 404),
        ("/api/clients/%zz", 404),
        ("/api/clients?bbox=1,2,3", 400),
        ("/api/labels?limit=0", 400),
        ("/api/labels?limit=1001", 400),
        ("/api/labels?bbox=1,2,3", 400),
        ("/api/labels?max_age=1", 400),
        ("/api/clients?limit=0", 400),
        ("/api/clients?limit=100001", 400),
        ("/api/clients?box=1,2,3,4", 400),
        ("/api/clients/kiwi/places?radius=50.1", 400),
        ("/api/clients/kiwi/places?max=21", 400),
        ("/api/clients/kiwi/places?radius=5.1e1", 400),
        ("/events?bbox=a", 400),
    ] {
        let response = solo.get(target);
        assert_eq!(response.status, status, "{target}");
        assert!(response.json()["error"].is_string(), "{target}");
        assert!(response.field("Date").is_some(), "{target}");
    }
}

/// As Python and JavaScript print them.
#[test]
fn numbers_in_queries_may_have_an_exponent() {
    let solo = Solo::new();
    solo.hold(&[("kiwi", "+0.000005+0.5")]);
    for (bounds, expected) in [
        ("-1e-05,-1E-5,1e%2B0,1e-05", &["kiwi"][..]),
        ("-1.8e+2,-9e1,.18e3,9.0E+01", &["kiwi"]),
        ("0e0,0,1,1e-07", &[]),
    ] {
        let listing = solo.get(&format!("/api/clients?bbox={bounds}&limit=1"));
        assert_eq!(listing.clients(), expected, "{bounds}");
        assert_eq!(solo.subscribe(&format!("?bbox={bounds}"), "").snapshot(), expected);
    }
    for bounds in ["1e,0,1,1", "0,0,1.9e2,1", "0,0,1e999,1", "e1,0,1,1", "1e1.5,0,20,1"] {
        assert_eq!(solo.get(&format!("/api/clients?bbox={bounds}")).status, 400, "{bounds}");
    }
    assert_eq!(solo.get("/api/clients/kiwi/places?radius=1e%2B01").status, 200);
}

/// Browsers resolve the path segments `.` and `..` before they send a request, even if they are
/// percent-encoded.
#[test]
fn clients_named_dot_and_dot_dot_have_an_id_that_browsers_keep() {
    let solo = Solo::new();
    solo.hold(&[(".", "+1+1"), ("..", "+2+2"), ("...", "+3+3")]);
    let listing = solo.get("/api/clients").json();
    let features = listing["features"].as_array().unwrap();
    let ids: Vec<_> = features.iter().map(|feature| feature["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [".%20", "..%20", "..."]);
    for (id, name) in [(".%20", "."), ("..%20", ".."), ("...", "..."), (".", "."), ("%2e%2E", "..")]
    {
        let feature = solo.get(&format!("/api/clients/{id}")).json();
        assert_eq!(feature["properties"]["client"], name, "{id}");
        assert_eq!(solo.get(&format!("/api/clients/{id}/places")).status, 200, "{id}");
        assert_eq!(solo.subscribe(&format!("?client={id}"), "").snapshot(), [name], "{id}");
    }
    assert_eq!(solo.get("/api/clients/...%20").status, 404);
}

/// A page of another site must not spend the budget of the places provider.
#[test]
fn pages_of_other_sites_cannot_query_places() {
    let status = |solo: &Solo, target: &str, fields: &str| {
        let mut client = solo.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes());
        let response = Response::read(&mut client);
        if response.status == 403 {
            let reason = response.json()["error"].as_str().unwrap().to_owned();
            assert!(reason.contains("pages of other sites"), "{reason}");
        }
        response.status
    };
    let places = "/api/clients/kiwi/places";
    let solo = Solo::new();
    solo.hold(&[("kiwi", "+1+1")]);
    for (fields, expected) in [
        ("", 200),
        ("Sec-Fetch-Site: same-origin\r\n", 200),
        ("Sec-Fetch-Site: none\r\n", 200),
        ("Sec-Fetch-Site: cross-site\r\n", 403),
        ("sec-fetch-site:  Cross-Site \r\nSec-Fetch-Mode: navigate\r\n", 403),
        ("Sec-Fetch-Site: cross-site\r\nOrigin: https://map.example\r\n", 403),
    ] {
        assert_eq!(status(&solo, places, fields), expected, "{fields}");
    }
    let site = "Sec-Fetch-Site: cross-site\r\n";
    assert_eq!(status(&solo, "/api/clients/unknown/places?radius=x", site), 403);
    assert_eq!(status(&solo, "/api/clients/kiwi", site), 200);
    let open = Solo::with(", cors_origin: \"https://map.example\"", "");
    open.hold(&[("kiwi", "+1+1")]);
    let with = |origin: &str| status(&open, places, &format!("{site}Origin: {origin}\r\n"));
    assert_eq!((with("https://map.example"), with("https://evil.example")), (200, 403));
    assert_eq!(status(&open, places, site), 403, "without CORS the origin is unknown");
}

/// Public tile servers refuse requests without a `Referer`.
#[test]
fn tile_servers_learn_the_origin_of_the_page() {
    let tiles = ", tiles: {url: \"https://t.example/{z}/{x}/{y}.png\"}";
    let response = Solo::with(tiles, "").get("/");
    assert_eq!(response.field("Referrer-Policy"), Some("strict-origin-when-cross-origin"));
}

#[test]
fn without_the_section_there_is_no_http_port() {
    let herd = Herd::solo();
    let log = herd.log_lines("Solo").join("\n");
    assert!(!log.contains("http://"), "{log}");
    // The client port accepts the line protocol only.
    let reply = herd.exchange("Solo", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(show(&reply), "? GET / HTTP/1.1\\n");
}

#[test]
fn requests_may_be_split_and_pipelined() {
    let solo = Solo::new();
    let one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let expected = solo.connect().exchange(one);
    assert!(expected.ends_with(b"\r\n\r\nok\n"), "{}", show(&expected));
    for cut in 1..one.len() {
        let mut client = solo.connect();
        client.send(&one[..cut]);
        client.send(&one[cut..]);
        client.half_close();
        assert_eq!(undated(&client.rest()), undated(&expected), "cut at {cut}");
    }
    // Far more requests at once than are answered before responses are read.
    let many = 5_000;
    let client = solo.connect();
    let sending = client.send_and_half_close_in_background(one.repeat(many));
    let mut client = client;
    assert!(undated(&client.rest()) == undated(&expected).repeat(many));
    sending.join().unwrap();
    // Listings and places, which take longer, do not change the order of responses.
    solo.hold(&[("kiwi", "+34.068930-118.445127")]);
    let mut client = solo.connect();
    for target in ["/api/clients", "/api/clients/kiwi/places", "/nothing", "/healthz"] {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    }
    let responses: Vec<_> = (0..4).map(|_| Response::read(&mut client)).collect();
    let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 200, 404, 200]);
    assert_eq!(responses[0].clients(), ["kiwi"]);
}

#[test]
fn head_returns_the_head_of_get() {
    let solo = Solo::new();
    for target in ["/", "/healthz", "/api/clients", "/api/herd", "/nothing"] {
        let send = |method: &str| {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            solo.connect().exchange(request.as_bytes())
        };
        let (head, full) = (send("HEAD"), send("GET"));
        assert!(head.ends_with(b"\r\n\r\n"), "{}", show(&head));
        let length = |reply: &[u8]| common::find(reply, b"\r\n\r\n").unwrap() + 4;
        assert_eq!(length(&head), head.len(), "{target}");
        // The state of the herd changes between the two requests.
        if target != "/api/herd" {
            assert_eq!(undated(&head), undated(&full[..length(&full)]), "{target}");
        }
    }
}

#[test]
fn invalid_requests_are_rejected_and_close_the_connection() {
    let solo = Solo::new();
    let filler = "x".repeat(9000);
    for (request, status) in [
        ("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nIAMAT", 405),
        ("DELETE /api/clients/kiwi HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nIAMAT", 413),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: localhost\n\n", 400),
        ("IAMAT kiwi +34-118 1621464827\n", 400),
        (&format!("GET /{filler} HTTP/1.1\r\nHost: localhost\r\n\r\n"), 431),
        (&format!("GET / HTTP/1.1\r\nA: {filler}"), 431),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421),
        ("GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 421),
    ] {
        let mut client = solo.connect();
        client.send(request.as_bytes());
        // What follows it is not executed.
        let response = Response::read(&mut client);
        assert_eq!(response.status, status, "{request}");
        assert!(response.json()["error"].is_string());
        if status == 405 {
            assert_eq!(response.field("Allow"), Some("GET, HEAD"));
        }
        if status != 421 {
            assert_eq!(response.field("Connection"), Some("close"), "{request}");
            assert_eq!(show(&client.rest()), "", "{request}");
        }
    }
    assert_eq!(solo.herd.held("Solo", "kiwi"), None);
}

/// Defends against DNS rebinding.
#[test]
fn only_requests_to_names_of_this_node_are_served() {
    let solo = Solo::with(", hosts: [map.example]", "");
    for (host, status) in [
        ("localhost", 200),
        ("127.0.0.1:8099", 200),
        ("[::1]:1", 200),
        ("map.example", 200),
        ("MAP.example:80", 200),
        ("evil.example", 421),
        ("map.example.evil.example", 421),
        ("10.0.0.1", 421),
    ] {
        let mut client = solo.connect();
        client.send(format!("GET /api/herd HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
        let response = Response::read(&mut client);
        assert_eq!(response.status, status, "{host}");
        if status == 421 {
            let reason = response.json()["error"].as_str().unwrap().to_owned();
            assert!(reason.contains("http.hosts"), "{reason}");
        }
    }
}

#[test]
fn other_sites_can_read_responses_only_if_configured() {
    let solo = Solo::with(", cors_origin: \"https://map.example\"", "");
    let response = solo.get("/api/herd");
    assert_eq!(response.field("Access-Control-Allow-Origin"), Some("https://map.example"));
}

#[test]
fn assets_have_entity_tags_and_are_compressed_on_request() {
    let solo = Solo::new();
    let get = |fields: &str| {
        let mut client = solo.connect();
        client.send(format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").as_bytes());
        Response::read(&mut client)
    };
    let (plain, packed) = (get(""), get("Accept-Encoding: gzip\r\n"));
    assert_eq!(
        (plain.field("Content-Encoding"), packed.field("Content-Encoding")),
        (None, Some("gzip"))
    );
    assert!(plain.body.starts_with(b"<!doctype html>"));
    assert!(packed.body.starts_with(b"\x1f\x8b") && packed.body.len() < plain.body.len());
    let tag = plain.field("ETag").unwrap();
    assert_ne!(Some(tag), packed.field("ETag"));
    let again = get(&format!("If-None-Match: \"other\", W/{tag}\r\n"));
    assert_eq!((again.status, again.field("ETag"), again.body.len()), (304, Some(tag), 0));
    assert_eq!(get("If-None-Match: \"other\"\r\n").status, 200);
}

#[test]
fn a_head_that_is_not_completed_in_time_closes_the_connection() {
    let solo = Solo::with("", "limits: {line_timeout_s: 1}");
    let mut slow = solo.connect();
    slow.send(b"GET / HTTP/1.1\r\nHost: loc");
    assert_eq!(show(&slow.rest()), "", "an incomplete head");
    assert!(solo.metric("proxy_herd_timeouts_total{deadline=\"line\"}") >= 1);
    // An empty line before a request is ignored.
    let mut client = solo.connect();
    client.send(b"\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(Response::read(&mut client).status, 200);
}

#[test]
fn the_connection_limit_is_shared_with_clients() {
    let solo = Solo::with("", "limits: {max_connections: 2}");
    let client = solo.herd.crowd("Solo", 1);
    let mut browser = eventually("there is room for one connection", DEADLINE, || {
        let mut browser = solo.connect();
        browser.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let response = Response::read(&mut browser);
        // Over the limit, a health check is answered, too, and the connection closes.
        let is_within = response.status == 200 && response.field("Connection").is_none();
        is_within.then_some(browser)
    });
    let mut third = solo.connect(); // it sends no request
    let refusal = Response::read(&mut third);
    assert_eq!((refusal.status, refusal.field("Connection")), (503, Some("close")));
    assert_eq!(show(&third.rest()), "");
    assert_eq!(show(&solo.herd.client("Solo").rest()), "? too many connections\\n");
    drop(client);
    browser.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(Response::read(&mut browser).status, 200);
}

/// A probe that fails would have a node restarted because it does what it is configured for.
#[test]
fn health_checks_are_answered_on_connections_over_the_limit() {
    for limit in ["max_connections: 3", "max_connections_per_address: 3"] {
        let solo = Solo::with("", &format!("limits: {{{limit}}}"));
        let crowd = solo.herd.crowd("Solo", 3);
        let refused = eventually("the limit is reached", DEADLINE, || {
            let response = solo.get("/api/herd");
            (response.status == 503).then_some(response)
        });
        let reason = refused.json()["error"].as_str().unwrap().to_owned();
        assert!(reason.contains("limits.max_connections"), "{reason}");
        // More silent connections than the reserve has room for.
        let silent: Vec<_> = (0..200).map(|_| solo.connect()).collect();
        let open = solo.metric("proxy_herd_connections{kind=\"http\"}");
        assert!(open <= 2 * 64 + 1, "the reserve is bounded, but {open} connections are open");
        for target in ["/healthz", "/readyz", "/metrics", "/healthz?verbose"] {
            for _ in 0..20 {
                let response = solo.get(target);
                assert_eq!(response.status, 200, "{limit} {target}");
                assert_eq!(response.field("Connection"), Some("close"));
            }
        }
        for target in ["/", "/api/clients", "/events", "/healthz/", "/nothing"] {
            assert_eq!(solo.get(target).status, 503, "{limit} {target}");
        }
        let mut pipeline = solo.connect();
        let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        pipeline.send(request.repeat(2).as_bytes());
        assert_eq!(show(&pipeline.rest()).matches("HTTP/1.1 200").count(), 1, "one each");
        let mut invalid = solo.connect();
        invalid.send(b"POST /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(Response::read(&mut invalid).status, 503);
        assert!(solo.metric("proxy_herd_connections_refused_total") >= 6);
        drop((crowd, silent));
        eventually("there is room again", DEADLINE, || {
            (solo.get("/api/herd").status == 200).then_some(())
        });
        eventually("the reserve is empty", DEADLINE, || {
            (solo.metric("proxy_herd_connections{kind=\"http\"}") == 1).then_some(())
        });
    }
}

/// Stores enough clients that a listing of them does not fit into the buffers of a socket.
fn hold_many(solo: &Solo) {
    let mut client = solo.herd.client("Solo");
    let commands = (0..20_000).map(|n| format!("IAMAT client-{n} +1-1 1621464827"));
    let sending = client.send_in_background(common::lines(commands));
    for _ in 0..20_000 {
        client.line();
    }
    sending.join().unwrap();
}

#[test]
fn listings_that_are_not_read_give_way_to_others() {
    let solo = Solo::with("", "limits: {write_timeout_s: 600}");
    hold_many(&solo);
    let request = b"GET /api/clients?limit=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut deaf: Vec<_> = (0..64).map(|_| Client::connect_narrow(solo.address())).collect();
    for client in &mut deaf {
        client.send(request);
        assert_eq!(Response::head(client).status, 200);
    }
    for _ in 0..70 {
        let listing = eventually("a listing is answered", DEADLINE, || {
            let response = solo.get("/api/clients?limit=100");
            (response.status == 200).then_some(response)
        });
        assert_eq!(listing.clients().len(), 100);
    }
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(solo.get(target).status, 200, "{target}");
    }
}

#[test]
fn subscribers_of_one_address_cannot_keep_another_out() {
    let solo = Solo::new();
    let request = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut crowd: Vec<_> = (0..1024).map(|_| solo.connect()).collect();
    for client in &mut crowd {
        client.send(request);
    }
    for client in &mut crowd {
        assert_eq!(Response::head(client).status, 200);
    }
    assert_eq!(solo.get("/events").status, 503, "of the same address");
    let mut other = Client::connect_from([127, 0, 0, 2].into(), solo.address());
    other.send(request);
    let mut other = Events::new(other);
    assert!(other.snapshot().is_empty());
    assert_eq!(solo.metric("proxy_herd_event_subscribers"), 1024);
    solo.hold(&[("kiwi", "+1+1")]);
    assert_eq!(other.next().client(), "kiwi");
}

#[test]
fn a_connection_that_does_not_read_a_listing_is_closed() {
    let solo = Solo::with("", "limits: {write_timeout_s: 3}");
    hold_many(&solo);
    let mut deaf = Client::connect_narrow(solo.address());
    deaf.send(b"GET /api/clients?limit=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    eventually("the connection is closed", DEADLINE, || {
        (solo.metric("proxy_herd_timeouts_total{deadline=\"write\"}") >= 1).then_some(())
    });
    // More listings than may be in progress at once, each reset before its end.
    for _ in 0..70 {
        let mut gone = Client::connect_narrow(solo.address());
        gone.send(b"GET /api/clients?limit=100000 HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(Response::head(&mut gone).status, 200);
        gone.reset_when_dropped();
        drop(gone);
        eventually("its resources are released", DEADLINE, || {
            (solo.metric("proxy_herd_connections{kind=\"http\"}") == 1).then_some(())
        });
    }
}

#[test]
fn a_body_in_progress_is_completed_during_shutdown() {
    let solo = Solo::new();
    let mut client = Client::connect_narrow(solo.address());
    client.send(b"GET /land.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let head = Response::head(&mut client);
    solo.herd.signal("Solo", "TERM");
    solo.herd.wait_for_log("Solo", &["stopping"]);
    let body = client.rest();
    assert_eq!(head.field("Content-Length"), Some(&*body.len().to_string()));
}

#[test]
fn events_end_with_the_last_chunk_at_shutdown_and_after_a_half_close() {
    let solo = Solo::new();
    let mut events = solo.subscribe("", "");
    assert!(events.snapshot().is_empty());
    events.client.half_close();
    assert_eq!(show(&events.client.rest()), "0\\r\\n\\r\\n");
    let mut events = solo.subscribe("", "");
    assert!(events.snapshot().is_empty());
    solo.herd.signal("Solo", "TERM");
    assert_eq!(show(&events.client.rest()), "0\\r\\n\\r\\n");
}

#[test]
fn listings_can_be_filtered_and_paged() {
    let solo = Solo::new();
    solo.hold(&[
        ("fiji", "-17.7+178.0"),
        ("taveuni", "-16.8-179.9"),
        ("line", "+0.0+180"),
        ("greenwich", "+51.5-0.0"),
        ("pole", "+90+0"),
    ]);
    for (bounds, expected) in [
        ("177,-20,-178,-15", &["fiji", "taveuni"][..]),
        ("177,-20,-178,0", &["fiji", "line", "taveuni"]),
        ("177,-20,180,-15", &["fiji"]),
        ("-180,-20,-178,-15", &["taveuni"]),
        ("-1,51,1,52", &["greenwich"]),
        ("0,51.5,0,51.5", &["greenwich"]),
        ("-180,-90,180,90", &["fiji", "greenwich", "line", "pole", "taveuni"]),
        ("1,1,2,2", &[]),
    ] {
        assert_eq!(
            solo.get(&format!("/api/clients?bbox={bounds}")).clients(),
            expected,
            "{bounds}"
        );
    }
    let (mut names, mut pages) = (Vec::new(), 0);
    let mut next = Some("/api/clients?limit=2&bbox=-180,-90,180,90".to_owned());
    while let Some(target) = next {
        let page = solo.get(&target);
        assert!(page.clients().len() <= 2);
        names.extend(page.clients());
        next = page.json()["next"].as_str().map(str::to_owned);
        pages += 1;
    }
    names.sort();
    assert_eq!(
        (names, pages),
        (["fiji", "greenwich", "line", "pole", "taveuni"].map(str::to_owned).to_vec(), 3)
    );

    // Names are arbitrary bytes, and the id of a feature works in a path.
    let name = b"\xff/\"%\\caf\xc3\xa9";
    let mut client = solo.herd.client("Solo");
    client.ask(&[b"IAMAT ", &name[..], b" +5+5 1621464827"].concat());
    let collection = solo.get("/api/clients?bbox=5,5,5,5").json();
    let feature = &collection["features"][0];
    assert_eq!(feature["id"], "%FF%2F%22%25%5Ccaf%C3%A9");
    assert_eq!(feature["properties"]["client"], "\u{fffd}/\"%\\café");
    let one = solo.get(&format!("/api/clients/{}", feature["id"].as_str().unwrap())).json();
    assert_eq!(one["geometry"]["coordinates"], serde_json::json!([5.0, 5.0]));
    assert_eq!(one["properties"]["time"], 1_621_464_827.0);
    assert_eq!(one["properties"]["server"], "Solo");
}

#[test]
fn a_long_listing_is_complete() {
    let solo = Solo::new();
    let many = 30_000;
    let mut client = solo.herd.client("Solo");
    let commands = (0..many).map(|n| format!("IAMAT client-{n} +1-1 1621464827"));
    let sending = client.send_in_background(common::lines(commands));
    for _ in 0..many {
        client.line();
    }
    sending.join().unwrap();
    let listing = solo.get("/api/clients?limit=100000");
    let names = listing.clients();
    assert_eq!(names.len(), many);
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    assert_eq!(listing.json()["held"], many);
    // HTTP/1.0 has no chunks: the body ends with the connection.
    let reply = solo.connect().exchange(b"GET /api/clients?limit=100000 HTTP/1.0\r\n\r\n");
    let body = &reply[common::find(&reply, b"\r\n\r\n").unwrap() + 4..];
    let json: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(json["features"].as_array().unwrap().len(), many);
}

#[test]
fn events_report_a_snapshot_and_then_changes() {
    let solo = Solo::new();
    solo.hold(&[("in", "+10+10"), ("out", "+50+50"), ("other", "+11+11")]);
    let mut all = solo.subscribe("", "");
    let mut boxed = solo.subscribe("?bbox=5,5,15,15", "");
    let mut named = solo.subscribe("?client=in&client=ne%77", "");
    assert_eq!(all.snapshot(), ["in", "other", "out"]);
    assert_eq!(boxed.snapshot(), ["in", "other"]);
    assert_eq!(named.snapshot(), ["in"]);
    let mut client = solo.herd.client("Solo");
    client.iamat("out", "+60+60", "1621464828");
    client.iamat("new", "+12+12", "1621464828");
    client.iamat("in", "+13+13", "1621464828");
    let names = |events: &mut Events, count: usize| {
        let mut names: Vec<_> = (0..count).map(|_| events.next().client().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&mut all, 3), ["in", "new", "out"]);
    assert_eq!(names(&mut boxed, 2), ["in", "new"]);
    assert_eq!(names(&mut named, 2), ["in", "new"]);
    // A client that leaves a box is reported to the subscribers of the box once more.
    client.iamat("new", "+20+20", "1621464829");
    for events in [&mut all, &mut boxed] {
        let event = events.next();
        let at = &event.data["geometry"]["coordinates"];
        assert_eq!((event.client(), at), ("new", &serde_json::json!([20.0, 20.0])));
    }
    client.iamat("new", "+21+21", "1621464830");
    assert_eq!(all.next().client(), "new");
    // A repeated update is not a change, so the next event is that of the update after it.
    client.iamat("in", "+13+13", "1621464828");
    client.iamat("other", "+14+14", "1621464829");
    let event = boxed.next();
    assert_eq!((event.client(), event.time()), ("other", 1_621_464_829));
    assert_eq!(event.data["geometry"]["coordinates"], serde_json::json!([14.0, 14.0]));
    assert_eq!(solo.metric("proxy_herd_event_subscribers"), 3);
    drop((all, boxed, named));
    eventually("the subscribers are removed", DEADLINE, || {
        (solo.metric("proxy_herd_event_subscribers") == 0).then_some(())
    });
}

#[test]
fn events_resume_after_the_last_event_id() {
    let solo = Solo::new();
    solo.hold(&[("a", "+1+1"), ("b", "+2+2")]);
    let mut first = solo.subscribe("", "");
    first.snapshot();
    let mut client = solo.herd.client("Solo");
    client.iamat("a", "+1+1", "1621464828");
    let id = first.next().id.unwrap();
    drop(first);
    client.iamat("b", "+2+2", "1621464829");
    let mut second = solo.subscribe("", &format!("Last-Event-ID: {id}\r\n"));
    let event = second.next();
    assert_eq!((event.kind.as_str(), event.client()), ("client", "b"), "no reset and no duplicate");
    // From an id that cannot be resumed, the stream starts over with a snapshot.
    let parts: Vec<&str> = id.split('-').collect();
    for other in ["1-1-1", "", "x", &format!("{}-{}-999999", parts[0], parts[1])] {
        let mut events = solo.subscribe("", &format!("Last-Event-ID: {other}\r\n"));
        assert_eq!(events.snapshot(), ["a", "b"], "{other}");
    }
    let mut by_query = solo.subscribe(&format!("?last_event_id={id}"), "");
    assert_eq!(by_query.next().client(), "b");
}

/// The half-close may arrive with the request or later.
#[test]
fn a_half_close_ends_a_subscription() {
    let solo = Solo::new();
    let mut later = solo.subscribe("", "");
    assert!(later.snapshot().is_empty());
    later.client.half_close();
    later.client.rest();
    // Stop the node, so that it sees the request and the half-close together.
    solo.herd.signal("Solo", "STOP");
    let mut client = solo.connect();
    client.send(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.half_close();
    solo.herd.signal("Solo", "CONT");
    let response = client.rest();
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n"), "{}", show(&response));
    eventually("both subscribers are removed", DEADLINE, || {
        (solo.metric("proxy_herd_event_subscribers") == 0).then_some(())
    });
}

/// A subscriber that does not read misses superseded changes only.
#[test]
fn a_slow_subscriber_receives_the_newest_position_of_each_client() {
    let solo = Solo::with("", "limits: {write_timeout_s: 600}");
    let (clients, rounds) = (400, 40);
    let head = b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut slow = Client::connect_narrow(solo.address());
    slow.send(head);
    let mut slow = Events::new(slow);
    assert_eq!(slow.snapshot().len(), 0);
    let last = format!("client-{}", clients - 1);
    let mut fast = solo.subscribe(&format!("?client={last}"), "");
    fast.snapshot();
    let mut client = solo.herd.client("Solo");
    for round in 0..rounds {
        let commands = (0..clients).map(|n| format!("IAMAT client-{n} +1+1 {}", 1000 + round));
        client.send(&common::lines(commands));
        for _ in 0..clients {
            client.line();
        }
        assert_eq!(fast.next().time(), 1000 + round, "one flush per round");
    }
    let (mut newest, mut received) = (HashMap::new(), 0);
    while newest.values().filter(|&&time| time == 1000 + rounds - 1).count() < clients {
        let event = slow.next();
        let time = event.time();
        let before = newest.insert(event.client().to_owned(), time);
        assert!(before.is_none_or(|before| before < time), "no older position and no duplicate");
        received += 1;
    }
    client.iamat("marker", "+1+1", "5000");
    assert_eq!(slow.next().client(), "marker", "superseded changes are not sent");
    let sent = clients * usize::try_from(rounds).unwrap();
    assert!(received < sent / 2, "{received} of {sent}");
}

#[test]
fn labels_are_the_largest_places_in_a_box() {
    let solo = Solo::new();
    let labels = |query: &str| {
        let response = solo.get(&format!("/api/labels{query}"));
        assert_eq!(response.status, 200, "{}", show(&response.body));
        response.json()["features"].as_array().unwrap().clone()
    };
    let name = |feature: &Value| feature["properties"]["name"].as_str().unwrap().to_owned();
    let population = |feature: &Value| feature["properties"]["population"].as_u64();

    let world = labels("");
    assert_eq!((world.len(), name(&world[0]).as_str()), (100, "Shanghai"));
    assert!(world.is_sorted_by(|one, other| population(one) >= population(other)));
    let la = labels("?bbox=-118.6,33.9,-118.1,34.2&limit=1000");
    assert_eq!(name(&la[0]), "Los Angeles");
    assert!(la.is_sorted_by(|one, other| population(one) >= population(other)));
    let beverly = la.iter().find(|place| name(place) == "Beverly Hills").unwrap();
    assert_eq!(beverly["properties"]["type"], "locality");
    let at = beverly["geometry"]["coordinates"].as_array().unwrap();
    assert!((at[0].as_f64().unwrap() + 118.4).abs() < 0.02, "{at:?}");
    assert!((at[1].as_f64().unwrap() - 34.07).abs() < 0.02, "{at:?}");
    let airport = la.iter().find(|place| name(place) == "Santa Monica Municipal Airport").unwrap();
    assert_eq!(airport["properties"]["type"], "airport");
    assert_eq!(population(airport), None);

    // Fiji has places on both sides of the antimeridian.
    let fiji = labels("?bbox=177,-19,-179,-16&limit=1000");
    let west = |feature: &Value| feature["geometry"]["coordinates"][0].as_f64().unwrap() < 0.0;
    assert!(fiji.iter().any(west) && !fiji.iter().all(west));
    assert!(fiji.iter().take(3).any(|place| name(place) == "Suva"));
    let halves = ["?bbox=177,-19,180,-16&limit=1000", "?bbox=-180,-19,-179,-16&limit=1000"];
    assert_eq!(fiji.len(), halves.map(|half| labels(half).len()).iter().sum::<usize>());
    assert!(labels("?bbox=-130,0,-130,0").is_empty());
}

#[test]
fn labels_are_cached_and_credited() {
    let solo = Solo::new();
    let first = solo.get("/api/labels?bbox=0,0,10,10");
    let tag = first.field("ETag").unwrap().to_owned();
    assert_eq!(first.field("Cache-Control"), Some("max-age=86400"));
    assert_eq!(first.field("Content-Type"), Some("application/geo+json"));
    let credits = first.json()["html_attributions"].to_string();
    assert!(credits.contains("GeoNames") && credits.contains("airportsdata"), "{credits}");
    let mut client = solo.connect();
    let mut again = |tag: &str| {
        let head = "GET /api/labels?bbox=0,0,10,10 HTTP/1.1\r\nHost: localhost\r\nIf-None-Match:";
        client.send(format!("{head} {tag}\r\n\r\n").as_bytes());
        Response::read(&mut client).status
    };
    assert_eq!([again(&tag), again("\"other\""), again(&format!("W/{tag}"))], [304, 200, 304]);
    let reply = solo.connect().exchange(b"HEAD /api/labels HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(reply.ends_with(b"\r\n\r\n"), "{}", show(&reply));
}

#[test]
fn the_overview_has_the_address_for_clients() {
    let solo = Solo::new();
    let address = solo.get("/api/herd").json()["address"].clone();
    assert_eq!(address["host"], "127.0.0.1");
    assert_eq!(address["port"], solo.herd.port("Solo"));
}
