//! The client with a minimal shell and provider. A test states the events in order, and time passes
//! only when the test advances it.

mod any_order;
mod breaker;
mod connections;
mod scenarios;

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::geo::Point;
use crate::limits::PlacesLimits;
use crate::places::limits::{BREAKER_THRESHOLD, CONNECT_DEADLINE};
use crate::places::providers::Provider;

const CANARY: &str = "canary-Key-0123";

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn at(ms: u64) -> Instant {
    Instant::at(Duration::from_millis(ms))
}

/// One millisecond less.
fn before(duration: Duration) -> Duration {
    duration.saturating_sub(ms(1))
}

fn limits() -> PlacesLimits {
    PlacesLimits { pool_size: 2, max_queued: 4, ..PlacesLimits::default() }
}

/// The question about a place, which is identified by its radius in meters.
fn question(place: u32) -> Question {
    Question { center: Point { lat: 1.5, lng: -2.5 }, radius_m: f64::from(place) }
}

/// A 200 response with `count` places, whose names contain the place of the question.
fn places(place: u32, count: usize) -> String {
    let places = (0..count).map(|i| format!("{{\"displayName\":{{\"text\":\"{place}#{i}\"}}}}"));
    let body = format!("{{\"places\":[{}]}}", places.collect::<Vec<_>>().join(","));
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn status(code: u16) -> String {
    format!("HTTP/1.1 {code} x\r\nContent-Length: 0\r\n\r\n")
}

/// A 400 response in which Google rejects the question.
fn bad_question() -> String {
    let body = r#"{"error":{"code":400,"message":"x","status":"INVALID_ARGUMENT"}}"#;
    format!("HTTP/1.1 400 x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// The shell. It does what the client requests, and records it.
struct Shell {
    client: Client,
    now: Instant,
    /// Connections being established.
    connecting: Vec<ConnId>,
    /// Connections that are established.
    open: Vec<ConnId>,
    /// The place of the question that a connection carries.
    asked: BTreeMap<ConnId, u32>,
    requests: Vec<u32>,
    requested_at: Vec<Instant>,
    answers: BTreeMap<u64, String>,
    answered_at: BTreeMap<u64, Instant>,
    next_ticket: u64,
    /// True if the host name is resolved immediately.
    has_address: bool,
}

impl Shell {
    fn new(limits: PlacesLimits) -> Self {
        let settings = Settings {
            provider: Provider::Google,
            url: "https://a.example".parse().unwrap(),
            key: Some(ApiKey::parse(CANARY.as_bytes()).unwrap()),
            limits,
            seed: 1,
        };
        Self {
            client: Client::new(settings),
            now: at(1_000_000),
            connecting: Vec::new(),
            open: Vec::new(),
            asked: BTreeMap::new(),
            requests: Vec::new(),
            requested_at: Vec::new(),
            answers: BTreeMap::new(),
            answered_at: BTreeMap::new(),
            next_ticket: 0,
            has_address: true,
        }
    }

    /// Asks, and returns the ticket.
    fn ask(&mut self, place: u32, max_results: u8) -> u64 {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let mut out = Vec::new();
        let asked =
            self.client.ask(Ticket(ticket), question(place), max_results, self.now, &mut out);
        match asked {
            Asked::Answered => self.answered(ticket, out),
            Asked::Waiting => assert!(out.is_empty()),
        }
        self.poll();
        ticket
    }

    fn answered(&mut self, ticket: u64, out: Vec<u8>) {
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("Key-0123"), "{text}");
        assert!(!text.contains("\n\n") && text.ends_with('}'), "{text}");
        assert_eq!(self.answers.insert(ticket, text), None, "{ticket} was answered twice");
        self.answered_at.insert(ticket, self.now);
    }

    fn gauges(&self) -> Gauges {
        self.client.gauges(self.now)
    }

    /// Polls the client.
    fn poll(&mut self) {
        while let Some(id) = self.client.poll_close() {
            let known = self.open.contains(&id) || self.connecting.contains(&id);
            assert!(known, "{id:?} is not open");
            self.forget(id);
        }
        while let Some(id) = self.client.poll_connect() {
            let taken = |other: &ConnId| other.slot() == id.slot();
            assert!(
                !self.open.iter().chain(&self.connecting).any(taken),
                "the slot of {id:?} is in use"
            );
            self.connecting.push(id);
            if self.has_address {
                self.client.handle_resolved(id);
            }
        }
        let mut out = Vec::new();
        while let Some(id) = self.client.poll_output(&mut out) {
            assert!(self.open.contains(&id), "{id:?} is not open");
            let request = String::from_utf8(std::mem::take(&mut out)).unwrap();
            let (_, radius) = request.split_once("\"radius\":").unwrap();
            let place: u32 = radius.trim_end_matches('}').parse().unwrap();
            assert_eq!(self.asked.insert(id, place), None, "{id:?} carries two requests");
            let carried = self.asked.values().filter(|&&other| other == place).count();
            assert_eq!(carried, 1, "there are two requests for {place}");
            self.requests.push(place);
            self.requested_at.push(self.now);
        }
        let mut out = Vec::new();
        while let Some(Ticket(ticket)) = self.client.poll_answer(&mut out) {
            self.answered(ticket, std::mem::take(&mut out));
        }
        let gauges = self.gauges();
        assert_eq!(gauges.connections, self.open.len() + self.connecting.len());
        assert_eq!(gauges.in_flight, self.asked.len());
        let at = self.client.poll_timeout();
        assert!(
            at.is_none_or(|at| at > self.now),
            "the timeout {at:?} is not after {:?}",
            self.now
        );
    }

    fn forget(&mut self, id: ConnId) {
        self.open.retain(|other| *other != id);
        self.connecting.retain(|other| *other != id);
        self.asked.remove(&id);
    }

    /// Establishes all connections.
    fn connect(&mut self) {
        while !self.connecting.is_empty() {
            self.connect_one(0);
        }
    }

    fn connect_one(&mut self, index: usize) {
        let id = self.connecting.remove(index);
        self.open.push(id);
        self.client.handle_connected(id, self.now);
        self.poll();
    }

    fn input(&mut self, id: ConnId, data: &str) {
        let before = self.client.carried_by(id);
        self.client.handle_input(id, data.as_bytes(), self.now);
        if self.client.carried_by(id) != before {
            self.asked.remove(&id);
        }
        self.poll();
    }

    fn eof(&mut self, id: ConnId, eof: Eof) {
        self.forget(id);
        self.client.handle_eof(id, eof, self.now);
        self.poll();
    }

    fn fail(&mut self, id: ConnId) {
        self.forget(id);
        self.client.handle_failed(id, &TransportError::Io(format!("reset by {CANARY}")), self.now);
        self.poll();
    }

    /// Sends a response on the connection that carries `place`.
    fn reply(&mut self, place: u32, text: &str) {
        let id = self.carrier(place);
        self.input(id, text);
    }

    fn carrier(&self, place: u32) -> ConnId {
        *self.asked.iter().find(|(_, other)| **other == place).unwrap().0
    }

    /// Advances the time, and handles every timeout when it is due.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.client.poll_timeout().filter(|&at| at <= end) {
            self.now = at;
            self.client.handle_timeout(at);
            self.poll();
        }
        self.now = end;
    }

    fn status(&self, ticket: u64) -> String {
        let text = self.answers.get(&ticket).map_or("", String::as_str);
        let document: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        document["status"].as_str().unwrap_or_default().to_owned()
    }

    fn message(&self, ticket: u64) -> String {
        let document: serde_json::Value = serde_json::from_str(&self.answers[&ticket]).unwrap();
        document["error_message"].as_str().unwrap_or_default().to_owned()
    }

    /// The names of the places in an answer.
    fn names(&self, ticket: u64) -> Vec<String> {
        names(&self.answers[&ticket])
    }

    /// Asks a question and answers it, on any connection.
    fn served(&mut self, place: u32) {
        let ticket = self.ask(place, 20);
        self.connect();
        self.reply(place, &places(place, 1));
        assert_eq!(self.status(ticket), "OK");
    }
}

fn names(text: &str) -> Vec<String> {
    let document: serde_json::Value = serde_json::from_str(text).unwrap();
    let results = document["results"].as_array().unwrap();
    results.iter().map(|result| result["name"].as_str().unwrap().to_owned()).collect()
}
