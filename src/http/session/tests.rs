//! Turns of a connection, without a socket.

use core::time::Duration;

use super::*;
use crate::http::assets::ASSETS;
use crate::http::limits::{WORK_PER_RESPONSE, WORK_PER_TURN};
use crate::http::{Settings, Shell};
use crate::limits::Limits;
use crate::node::tests::{node, node_with_provider};
use crate::node::{LineSession, PeerInfo};
use crate::protocol::record::Record;
use crate::time::{Now, Wall};

const NOW: Now = Now { instant: Instant::at(Duration::from_secs(3)), wall: Wall(0) };

/// An event loop that reports nothing.
struct Silent;

impl Shell for Silent {
    fn push_metrics(&self, _: &Node, _: &Server, _: &Now, _: &mut Vec<u8>) {}

    fn connections(&self) -> usize {
        0
    }

    fn feed(&self, _: &Node) -> Option<super::super::overview::Feed> {
        None
    }

    fn problems(&self, _: &Node, _: &Now) -> Vec<String> {
        Vec::new()
    }
}

/// A node and one connection to it.
struct Browser {
    node: Node,
    http: Server,
    session: HttpSession,
}

impl Browser {
    fn new() -> Self {
        let limits = Limits::default();
        let settings = Settings { max_output: limits.max_output_buffer, ..Settings::default() };
        let node = node(limits);
        let mut http = Server::new(settings, 7);
        let peer = BrowserInfo { label: [].into(), address_key: 0, over_limit: false };
        let session = HttpSession::accepted(&mut http, ConnectionId(1), peer);
        Self { node, http, session }
    }

    fn handle(&mut self, bytes: &[u8], unsent: usize, out: &mut Vec<u8>) -> Handled {
        let Self { node, http, session } = self;
        let mut cx = Context { node, http, shell: &Silent, now: &NOW };
        session.handle_input(&mut cx, Input { bytes, ended: false, unsent }, out)
    }
}

fn request(target: &str) -> Vec<u8> {
    format!("{target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn responses(out: &[u8]) -> usize {
    String::from_utf8_lossy(out).matches("HTTP/1.1 200 OK").count()
}

#[test]
fn responses_spend_the_work_of_a_turn_and_half_of_it_is_reserved_for_waiting_connections() {
    let half = WORK_PER_TURN / 2 / WORK_PER_RESPONSE;
    for target in ["HEAD /metrics", "GET /healthz", "HEAD /api/herd", "HEAD /land.json"] {
        let mut browser = Browser::new();
        let mut input = request(target).repeat(3 * half);
        for next in [Next::Yielded, Next::Yielded, Next::NeedInput] {
            if next == Next::Yielded {
                browser.http.begin_turn(NOW.wall);
            } else {
                browser.http.begin_queue();
            }
            let mut out = Vec::new();
            let handled = browser.handle(&input, 0, &mut out);
            assert_eq!((responses(&out), handled.next), (half, next), "{target}");
            input.drain(..handled.consumed);
        }
        assert!(input.is_empty());
    }
}

#[test]
fn a_body_is_produced_as_the_socket_takes_it_and_is_completed_during_shutdown() {
    for target in ["GET /land.json", "GET /api/clients"] {
        let mut browser = Browser::new();
        // Without work left, a listing stops before its end.
        let work = if target.ends_with("json") { WORK_PER_RESPONSE + 1 } else { WORK_PER_RESPONSE };
        let record = b"AT Clark +0.000000000 kiwi +1+1 5";
        browser.node.herd.apply_local_update(&Record::parse(record).unwrap(), Wall(0));
        browser.http.work = work;
        let (mut input, mut out) =
            ([request(target), request("GET /healthz")].concat(), Vec::new());
        let handled = browser.handle(&input, 0, &mut out);
        input.drain(..handled.consumed);
        assert_eq!(handled.next, Next::Blocked(Blocked::Output), "{target}");
        assert!(browser.session.is_waiting());
        browser.http.begin_turn(NOW.wall);
        let mut none = Vec::new();
        let handled = browser.handle(&input, 1, &mut none);
        assert_eq!(handled, Handled { consumed: 0, next: Next::Blocked(Blocked::Output) });
        assert!(none.is_empty(), "nothing is produced while one byte is unsent");
        browser.session.begin_shutdown();
        let next = loop {
            browser.http.begin_turn(NOW.wall);
            let mut slice = Vec::new(); // the socket takes each slice
            let handled = browser.handle(&input, 0, &mut slice);
            out.extend(slice);
            input.drain(..handled.consumed);
            if !matches!(handled.next, Next::Blocked(Blocked::Output) | Next::Yielded) {
                break handled.next;
            }
        };
        let expected = (Next::ShutdownWhenFlushed, 1);
        assert_eq!((next, responses(&out)), expected, "the next request is dropped");
        let end: &[u8] = match ASSETS.iter().find(|asset| target.ends_with(asset.path)) {
            Some(land) => land.bytes,
            None => b"\n],\"held\":1,\"next\":null}\n\r\n0\r\n\r\n",
        };
        assert!(out.ends_with(end), "{target} is complete");
        assert!(!browser.session.is_waiting());
    }
}

#[test]
fn a_request_that_waits_for_places_is_answered_during_shutdown() {
    let mut browser = Browser::new();
    browser.node = node_with_provider(Limits::default());
    browser.http.begin_turn(NOW.wall);
    let mut client = LineSession::accepted(ConnectionId(2), PeerInfo::default());
    let input = Input { bytes: b"IAMAT k +1-1 0\n", ended: false, unsent: 0 };
    client.handle_input(&mut browser.node, input, &NOW, &mut Vec::new());
    let mut out = Vec::new();
    let places = request("GET /api/clients/k/places?radius=1&max=1");
    let handled = browser.handle(&places, 0, &mut out);
    assert_eq!(handled.next, Next::Blocked(Blocked::Places), "{}", String::from_utf8_lossy(&out));
    browser.session.begin_shutdown();
    assert_eq!(browser.handle(b"", 0, &mut out).next, Next::Blocked(Blocked::Places));
    let answer = browser.node.give_up().unwrap();
    browser.session.handle_answer(&mut browser.http, &answer, &mut out);
    assert_eq!(responses(&out), 1);
    assert_eq!(browser.handle(b"", 0, &mut out).next, Next::ShutdownWhenFlushed);
}
