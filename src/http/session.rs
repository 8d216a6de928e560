//! One HTTP connection: what is asked, what is on its way out.

use super::assets::ASSETS;
use super::clients::Listing;
use super::feature::push_feature;
use super::overview::{Overview, unready};
use super::query::parameters;
use super::request::{Parsed, Request, list};
use super::response::{Answer, Length, NO_STORE, Status, media};
use super::subscription::{Filter, Subscription};
use super::{Scene, Server, Slice};
use crate::herd::link::ConnectionId;
use crate::limits::{CLIENT_BYTES_PER_TURN, MAX_LISTINGS, WEB_SLICE};
use crate::node::{Next, Node, Now, Stall};
use crate::places::document::Point;
use crate::places::{Question, Ticket};
use crate::protocol::command::{Command, Whatsat};
use crate::protocol::record::Record;
use crate::text::percent::decode;

/// The state machine of one connection. Requests are answered one after the other; what comes
/// meanwhile waits in the socket.
pub struct HttpSession {
    id: ConnectionId,
    /// The other end's address, for the log.
    label: Box<[u8]>,
    state: State,
    ending: Option<Next>,
}

enum State {
    /// The next request is awaited.
    Idle,
    /// A file is on its way out: what is left of it.
    Asset(&'static [u8], Answer),
    /// A listing of clients is on its way out.
    Listing(Box<Listing>),
    /// Places are waited for.
    Places(Ticket, Answer),
    /// The other end listens, until it goes.
    Events(Box<Subscription>),
}

impl HttpSession {
    /// A connection that somebody has opened.
    #[must_use]
    pub fn accepted(http: &mut Server, id: ConnectionId, label: Box<[u8]>) -> Self {
        http.connections += 1;
        Self { id, label, state: State::Idle, ending: None }
    }

    /// The other end's address.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        &self.label
    }

    /// Whether a response waits for places, or for the socket to take the rest of it.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Places(..)) || self.is_streaming()
    }

    /// Whether a body is on its way out that comes to an end.
    const fn is_streaming(&self) -> bool {
        matches!(self.state, State::Asset(..) | State::Listing(_))
    }

    /// Whether the other end listens to events. It has nothing more to say then, so that the end of
    /// its side is the end.
    #[must_use]
    pub const fn is_subscribed(&self) -> bool {
        matches!(self.state, State::Events(_))
    }

    /// Whether [`HttpSession::receive`] is not to be called for now. `out` are the bytes of responses
    /// that the socket did not take.
    #[must_use]
    pub fn is_full(&self, http: &Server, out: usize) -> bool {
        match &self.state {
            State::Places(..) => true,
            // Nothing is put together in advance: who reads slowly costs a slice, and is owed the
            // newest.
            State::Asset(..) | State::Listing(_) => out > 0,
            State::Events(subscription) => out > 0 || !subscription.is_due(&http.events),
            State::Idle => out >= http.settings.max_output,
        }
    }

    /// Why the other end is not read from, where that is for what it is owed.
    #[must_use]
    pub const fn stall(&self, out: usize) -> Option<Stall> {
        match &self.state {
            State::Places(..) => Some(Stall::Whatsats),
            _ if out > 0 => Some(Stall::Output),
            _ => None,
        }
    }

    /// The node ends the connection: no request more is answered, what is owed is still sent.
    /// Returns what is next.
    pub const fn hang_up(&mut self) -> Next {
        self.ending = Some(Next::HangUp);
        if self.is_streaming() { Next::Wait } else { Next::HangUp }
    }

    /// Takes `input`: what was not consumed before and what came after it. With `end`, nothing comes
    /// after it. Appends responses to `out`. Returns how much was consumed.
    pub fn receive(
        &mut self,
        scene: &mut Scene<'_>,
        input: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        let mut at = 0;
        let most = scene.http.settings.max_output.min(out.len() + CLIENT_BYTES_PER_TURN);
        loop {
            if let Some(ending) = self.ending.filter(|_| !self.is_streaming()) {
                return (input.len(), ending); // nothing more is answered
            }
            if out.len() >= most {
                return (at, Next::Wait);
            }
            match &mut self.state {
                State::Idle if scene.http.work == 0 && at < input.len() => return (at, Next::Wait),
                State::Idle => match Parsed::parse(&input[at..]) {
                    Parsed::Partial if end => self.ending = Some(Next::Finish),
                    Parsed::Partial => return (at, Next::Read),
                    Parsed::Bad(status, why) => {
                        self.error(scene.http, Answer::refusal(), status, why, out);
                    }
                    Parsed::Whole(request, length) => {
                        self.respond(scene, &request, out);
                        at += length;
                    }
                },
                State::Places(..) => return (at, Next::Wait),
                State::Events(_) if end => self.ending = Some(Next::Finish),
                _ => {
                    if !self.stream(scene, out) {
                        return (at, Next::Wait);
                    }
                }
            }
        }
    }

    /// Appends a slice of a response that is on its way out. Returns whether that was the last one.
    fn stream(&mut self, scene: &mut Scene<'_>, out: &mut Vec<u8>) -> bool {
        let Scene { node, http, now, .. } = scene;
        let Server { work, events, .. } = &mut **http;
        let most = out.len() + WEB_SLICE;
        let mut slice = Slice { out, most, work };
        let answer = match &mut self.state {
            State::Idle | State::Places(..) => return true,
            State::Asset(rest, answer) => {
                let (first, behind) = rest.split_at(rest.len().min(WEB_SLICE));
                slice.out.extend_from_slice(first);
                *rest = behind;
                if !rest.is_empty() {
                    return false;
                }
                *answer
            }
            State::Listing(listing) => {
                if !listing.advance(&node.herd.directory, now.clock, &mut slice) {
                    return false;
                }
                http.listings -= 1;
                listing.answer
            }
            State::Events(subscription) => {
                subscription.advance(node, events, now, &mut slice);
                return false;
            }
        };
        self.answered(answer);
        true
    }

    /// A response is complete.
    fn answered(&mut self, answer: Answer) {
        self.state = State::Idle;
        if !answer.keep_alive {
            self.ending = Some(Next::HangUp);
        }
    }

    fn respond(&mut self, scene: &mut Scene<'_>, request: &Request<'_>, out: &mut Vec<u8>) {
        let Scene { node, http, shell, now } = scene;
        let answer = request.answer();
        if request.host.is_some_and(|host| !http.settings.is_expected(host)) {
            let why = "this node is not known by that name; browse to it by the address it listens \
                       on, or add the name to http.hosts in its configuration";
            return self.error(http, answer, Status::MISDIRECTED, why, out);
        }
        let (status, media, body) = match request.path {
            "/healthz" => (Status::OK, media::TEXT, b"ok\n".to_vec()),
            "/readyz" => match unready(node, now) {
                None => (Status::OK, media::TEXT, b"ready\n".to_vec()),
                Some(why) => (Status::UNAVAILABLE, media::TEXT, format!("{why}\n").into_bytes()),
            },
            "/metrics" => {
                let mut body = Vec::new();
                shell.push_metrics(node, http, now, &mut body);
                (Status::OK, media::METRICS, body)
            }
            "/api/herd" => {
                let overview = Overview::new(node, http, *shell, now);
                // Numbers and strings are always JSON.
                let mut body = serde_json::to_vec_pretty(&overview).unwrap_or_default();
                body.push(b'\n');
                (Status::OK, media::JSON, body)
            }
            "/api/clients" => return self.list(http, request, answer, out),
            "/events" => return self.subscribe(scene, request, answer, out),
            path => match path.strip_prefix("/api/clients/") {
                Some(name) => return self.client(scene, request, name, answer, out),
                None => return self.asset(http, request, answer, out),
            },
        };
        self.whole(http, answer, status, media, &body, out);
    }

    /// Answers with what is known at once.
    fn whole(
        &mut self,
        http: &mut Server,
        mut answer: Answer,
        status: Status,
        media: &str,
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        answer.whole(out, http, status, media, body);
        self.answered(answer);
    }

    fn error(
        &mut self,
        http: &mut Server,
        mut answer: Answer,
        status: Status,
        why: &str,
        out: &mut Vec<u8>,
    ) {
        answer.error(out, http, status, why);
        self.answered(answer);
    }

    fn asset(
        &mut self,
        http: &mut Server,
        request: &Request<'_>,
        mut answer: Answer,
        out: &mut Vec<u8>,
    ) {
        let Some(at) = ASSETS.iter().position(|asset| asset.path == request.path) else {
            let why = "there is no such page; see / for what there is";
            return self.error(http, answer, Status::NOT_FOUND, why, out);
        };
        let asset = &ASSETS[at];
        let bytes = if request.gzip { asset.gzip } else { asset.bytes };
        let tag = &http.tags[at][usize::from(request.gzip)];
        let is_it = |held: &str| held == "*" || held.trim_start_matches("W/") == tag;
        let held = request.if_none_match.is_some_and(|tags| list(tags).any(is_it));
        let etag = format!("ETag: {tag}\r\nVary: Accept-Encoding\r\nCache-Control: no-cache\r\n");
        if held {
            answer.head(out, http, Status::NOT_MODIFIED, asset.media, Length::Empty, &[&etag]);
            return self.answered(answer);
        }
        let encoding = if request.gzip { "Content-Encoding: gzip\r\n" } else { "" };
        let length = Length::Known(bytes.len());
        answer.head(out, http, Status::OK, asset.media, length, &[&etag, encoding]);
        if answer.head_only {
            return self.answered(answer);
        }
        self.state = State::Asset(bytes, answer);
    }

    fn list(
        &mut self,
        http: &mut Server,
        request: &Request<'_>,
        mut answer: Answer,
        out: &mut Vec<u8>,
    ) {
        let mut listing = match Listing::new(request.query, answer) {
            Ok(listing) => listing,
            Err(why) => return self.error(http, answer, Status::BAD_REQUEST, &why, out),
        };
        if http.listings >= MAX_LISTINGS {
            let why = "too many listings are under way; ask again in a moment";
            return self.error(http, answer, Status::UNAVAILABLE, why, out);
        }
        begin_stream(http, &mut answer, media::GEOJSON, out);
        if answer.head_only {
            return self.answered(answer);
        }
        listing.answer = answer;
        http.listings += 1;
        self.state = State::Listing(Box::new(listing));
    }

    fn subscribe(
        &mut self,
        scene: &mut Scene<'_>,
        request: &Request<'_>,
        mut answer: Answer,
        out: &mut Vec<u8>,
    ) {
        let Scene { node, http, now, .. } = scene;
        let (filter, last) = match Filter::parse(request.query) {
            Ok(parsed) => parsed,
            Err(why) => return self.error(http, answer, Status::BAD_REQUEST, &why, out),
        };
        if answer.head_only {
            begin_stream(http, &mut answer, media::EVENTS, out);
            return self.answered(answer);
        }
        let last = request.last_event_id.or(last.as_deref());
        let Some(start) = http.events.subscribe(self.id, last, &mut node.herd, now.elapsed) else {
            let why = "too many listen to the events of this node; try another node";
            return self.error(http, answer, Status::UNAVAILABLE, why, out);
        };
        begin_stream(http, &mut answer, media::EVENTS, out);
        let subscription = Subscription::new(&start, filter, answer.chunked, &http.events);
        self.state = State::Events(Box::new(subscription));
    }

    /// `/api/clients/ID`, and `/api/clients/ID/places`.
    fn client(
        &mut self,
        scene: &mut Scene<'_>,
        request: &Request<'_>,
        name: &str,
        answer: Answer,
        out: &mut Vec<u8>,
    ) {
        let Scene { node, http, now, .. } = scene;
        let (name, places) = match name.strip_suffix("/places") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let name = decode(name).filter(|_| !name.contains('/'));
        let held = name.and_then(|name| node.herd.directory.get(&name, now.clock));
        let Some(record) = held.and_then(Record::parse) else {
            let why = "there is no such client; its name must be percent-encoded";
            return self.error(http, answer, Status::NOT_FOUND, why, out);
        };
        if let (true, Some(location)) = (places, record.location()) {
            let center = Point { lat: location.latitude(), lng: location.longitude() };
            return self.places(scene, request, center, answer, out);
        }
        let mut body = Vec::new();
        push_feature(&mut body, &record, now.clock);
        body.push(b'\n');
        self.whole(http, answer, Status::OK, media::GEOJSON, &body, out);
    }

    /// WHATSAT for a client that is at `center`.
    fn places(
        &mut self,
        scene: &mut Scene<'_>,
        request: &Request<'_>,
        center: Point,
        answer: Answer,
        out: &mut Vec<u8>,
    ) {
        let Scene { node, http, now, .. } = scene;
        let whatsat = match whatsat(request.query) {
            Ok(command) => command,
            Err(why) => return self.error(http, answer, Status::BAD_REQUEST, &why, out),
        };
        let Command::Whatsat(Whatsat { radius_m, max_results, .. }) = Command::parse(&whatsat)
        else {
            let why = "radius is kilometres from 0 to 50, max a whole number from 0 to 20";
            return self.error(http, answer, Status::BAD_REQUEST, why, out);
        };
        if node.is_crowded() {
            let why = "too many wait for places; ask again in a moment";
            return self.error(http, answer, Status::UNAVAILABLE, why, out);
        }
        let question = Question { center, radius_m };
        node.counters.whatsat += 1;
        let mut body = Vec::new();
        match node.ask(self.id, question, max_results, now.elapsed, &mut body) {
            Some(ticket) => self.state = State::Places(ticket, answer),
            None => self.whole(http, answer, Status::OK, media::JSON, &body, out),
        }
    }

    /// The document for `ticket` has come, see [`Node::poll_answer`].
    pub fn answer(&mut self, node: &Node, http: &mut Server, ticket: Ticket, out: &mut Vec<u8>) {
        if let State::Places(waiting, answer) = self.state
            && waiting == ticket
        {
            self.whole(http, answer, Status::OK, media::JSON, node.document(), out);
        }
    }

    /// The connection is gone.
    pub fn close(&mut self, node: &mut Node, http: &mut Server, now: &Now) {
        http.connections -= 1;
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle | State::Asset(..) => {}
            State::Listing(_) => http.listings -= 1,
            State::Places(ticket, _) => node.cancel(ticket),
            State::Events(subscription) => {
                http.events.unsubscribe(subscription.key(), now.elapsed);
            }
        }
    }
}

/// Appends the head of a response whose length is not known.
fn begin_stream(http: &mut Server, answer: &mut Answer, media: &str, out: &mut Vec<u8>) {
    answer.head(out, http, Status::OK, media, Length::Unknown, &[NO_STORE]);
}

/// The command that `query` stands for, about a client whose name does not matter.
fn whatsat(query: &str) -> Result<Vec<u8>, String> {
    let (mut radius, mut max) = (b"10".to_vec(), b"20".to_vec());
    for (name, value) in parameters(query, &["radius", "max"])? {
        *(if name == "radius" { &mut radius } else { &mut max }) = value;
    }
    Ok([b"WHATSAT x", radius.as_slice(), max.as_slice()].join(&b' '))
}

#[cfg(test)]
mod tests;
