//! One HTTP connection: requests in, responses out.

use super::assets::ASSETS;
use super::clients::Listing;
use super::feature::{name_of_id, push_feature};
use super::fence_events::FenceSubscription;
use super::fences::{self, FenceListing, Inside};
use super::filter::Filter;
use super::labels::Labels;
use super::limits::{MAX_LISTINGS, SLICE_BYTES};
use super::near::Near;
use super::overview::{Overview, unready};
use super::positions::point;
use super::query::{name_of, parameters, plain};
use super::request::{Parsed, Rejection, Request};
use super::response::{Chunk, Length, NO_STORE, ResponseOptions, Status, media};
use super::subscriber::Subscriber;
use super::subscription::Subscription;
use super::{Context, OutputSlice, Server};
use crate::geo::Point;
use crate::ids::ConnectionId;
use crate::node::CLIENT_BYTES_PER_TURN;
use crate::node::{self, Blocked, Handled, Input, Next, Node};
use crate::places::{Question, Ticket};
use crate::protocol::command::{Command, MAX_RADIUS_KM, MAX_RESULTS, Whatsat};
use crate::protocol::record::Record;
use crate::time::Instant;

/// The state machine of one connection. It answers one request after the other; pipelined requests
/// wait in the input.
pub struct HttpSession {
    id: ConnectionId,
    peer: BrowserInfo,
    /// True if the only response of a connection over the limit has been given.
    answered: bool,
    /// True if that response refused the request.
    refused: bool,
    state: State,
    ending: Option<Next>,
}

/// Information about the other end of a connection.
pub struct BrowserInfo {
    /// Address and port, for the log.
    pub label: Box<[u8]>,
    /// Key of the address.
    pub address_key: u64,
    /// True if a limit on connections was reached: only one health check is answered.
    pub over_limit: bool,
}

enum State {
    /// Waits for the next request.
    Idle,
    /// Sends a file, of which this is the rest.
    Asset(&'static [u8], ResponseOptions),
    /// Sends a body in slices; it has the seat with this key.
    Body(Box<Body>, usize, ResponseOptions),
    /// Waits for places.
    Places(Ticket, ResponseOptions),
    /// Sends events until the connection is closed.
    Events(Box<Subscriber>, ResponseOptions),
}

/// A body that takes work, so that it is produced in slices and needs one of the
/// [`MAX_LISTINGS`] seats.
enum Body {
    /// All clients, or those in a box.
    Listing(Listing),
    /// The nearest clients of a point.
    Near(Near),
    /// The largest places in a box.
    Labels(Labels),
    /// The clients inside a fence.
    Inside(Inside),
    /// All fences.
    Fences(FenceListing),
}

impl HttpSession {
    /// Returns the session of a connection that was accepted.
    #[must_use]
    pub fn accepted(http: &mut Server, id: ConnectionId, peer: BrowserInfo) -> Self {
        http.connections += 1;
        Self { id, peer, answered: false, refused: false, state: State::Idle, ending: None }
    }

    /// Address of the other end.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        &self.peer.label
    }

    /// Returns true if the connection was refused because a limit was reached.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        self.refused
    }

    /// Returns true while a response is incomplete: it waits for places, or for the socket.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Places(..)) || self.is_streaming()
    }

    /// Returns true while a body of finite length is being sent.
    const fn is_streaming(&self) -> bool {
        matches!(self.state, State::Asset(..) | State::Body(..))
    }

    /// Begins a graceful shutdown: no further requests are answered, and
    /// [`HttpSession::handle_input`] returns [`Next::ShutdownWhenFlushed`] once the current response
    /// is complete.
    pub const fn begin_shutdown(&mut self) {
        self.ending = Some(Next::ShutdownWhenFlushed);
    }

    /// Answers the requests in `input` and continues the current response. Appends output to `out`.
    pub fn handle_input(
        &mut self,
        cx: &mut Context<'_>,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Handled {
        let (mut consumed, start) = (0, out.len());
        let next = self.run(cx, input, &mut consumed, out);
        self.note_stall(cx, next == Next::Blocked(Blocked::Output), out.len() > start);
        if matches!(next, Next::CloseWhenFlushed | Next::ShutdownWhenFlushed) {
            consumed = input.bytes.len(); // further requests are dropped
        }
        Handled { consumed, next }
    }

    fn run(
        &mut self,
        cx: &mut Context<'_>,
        input: Input<'_>,
        consumed: &mut usize,
        out: &mut Vec<u8>,
    ) -> Next {
        let start = out.len();
        loop {
            let (rest, produced) = (&input.bytes[*consumed..], out.len() - start);
            if input.ended && matches!(self.state, State::Events(..)) {
                self.ending.get_or_insert(Next::CloseWhenFlushed);
            }
            if let Some(ending) = self.ending.filter(|_| !self.is_waiting()) {
                self.finish(cx.http, out);
                return ending;
            }
            if let Some(blocked) = self.blocked(cx.http, input.unsent) {
                return Next::Blocked(blocked);
            }
            if input.unsent + produced >= cx.http.settings.max_output {
                return Next::Blocked(Blocked::Output);
            }
            if produced >= CLIENT_BYTES_PER_TURN {
                return Next::Yielded;
            }
            match &mut self.state {
                State::Idle if cx.http.work == 0 && !rest.is_empty() => return Next::Yielded,
                State::Idle => match Request::parse(rest) {
                    Parsed::Partial if input.ended => self.ending = Some(Next::CloseWhenFlushed),
                    Parsed::Partial => return Next::NeedInput,
                    Parsed::Rejected(_) if self.peer.over_limit => self.refuse(cx.http, out),
                    Parsed::Rejected(Rejection { status, reason }) => {
                        self.send_error(cx.http, ResponseOptions::CLOSE, status, &reason, out);
                    }
                    Parsed::Complete(request, length) => {
                        self.respond(cx, &request, out);
                        *consumed += length;
                    }
                },
                _ => {
                    if !self.stream(cx, out) {
                        let produced = out.len() - start;
                        let blocked = self.blocked(cx.http, input.unsent + produced);
                        // Not blocked: the work of this turn is used up.
                        return blocked.map_or(Next::Yielded, Next::Blocked);
                    }
                }
            }
        }
    }

    /// Records whether a response that has a seat waits for the socket. `progressed` is true if the
    /// socket took the previous slice.
    fn note_stall(&self, cx: &mut Context<'_>, stalled: bool, progressed: bool) {
        let (seats, key) = match &self.state {
            State::Body(_, key, _) => (&mut cx.http.listings, *key),
            State::Events(subscription, _) => (&mut cx.http.events.subscribers, subscription.key()),
            State::Idle | State::Asset(..) | State::Places(..) => return,
        };
        let now = cx.now.instant;
        if progressed {
            seats.set_stalled(key, self.id, false, now);
        }
        seats.set_stalled(key, self.id, stalled, now);
    }

    /// Sends the last output of the session: the end of a stream of events, or the refusal of a
    /// connection over the limit that has sent no request.
    fn finish(&mut self, http: &mut Server, out: &mut Vec<u8>) {
        match &mut self.state {
            State::Events(_, options) if options.chunked => {
                options.chunked = false;
                Chunk::push_last(out);
            }
            State::Idle if self.peer.over_limit && !self.answered => self.refuse(http, out),
            _ => {}
        }
    }

    /// Sends the reason why a connection over the limit is closed.
    fn refuse(&mut self, http: &mut Server, out: &mut Vec<u8>) {
        (self.answered, self.refused) = (true, true);
        let reason = "too many connections; see limits.max_connections";
        self.send_error(http, ResponseOptions::CLOSE, Status::UNAVAILABLE, reason, out);
    }

    /// The reason why the current response cannot continue, with `unsent` bytes on their way to the
    /// socket. No slice is produced ahead of the socket, so that a slow reader costs one slice and
    /// receives the newest state.
    fn blocked(&self, http: &Server, unsent: usize) -> Option<Blocked> {
        match &self.state {
            State::Places(..) => Some(Blocked::Places),
            State::Asset(..) | State::Body(..) | State::Events(..) if unsent > 0 => {
                Some(Blocked::Output)
            }
            State::Events(subscription, _) if !subscription.is_due(&http.events) => {
                Some(Blocked::Events)
            }
            _ => None,
        }
    }

    /// Appends a slice of the current response. Returns whether it was the last one.
    fn stream(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> bool {
        let Context { node, http, now, .. } = cx;
        let Server { work, events, positions, .. } = &mut **http;
        let soft_limit = out.len() + SLICE_BYTES;
        let mut slice = OutputSlice { out, soft_limit, work };
        let options = match &mut self.state {
            State::Idle | State::Places(..) => return true,
            State::Asset(rest, options) => {
                let (first, after) = rest.split_at(rest.len().min(SLICE_BYTES));
                slice.out.extend_from_slice(first);
                *rest = after;
                if !rest.is_empty() {
                    return false;
                }
                *options
            }
            State::Body(body, seat, options) => {
                let chunk = options.chunked.then(|| Chunk::begin(slice.out));
                let ended = match &mut **body {
                    Body::Listing(listing) => {
                        listing.advance(&node.herd.directory, now.wall, &mut slice)
                    }
                    Body::Labels(labels) => labels.advance(&mut slice),
                    Body::Near(near) => {
                        near.advance(&mut node.herd, positions, now.wall, &mut slice)
                    }
                    Body::Inside(inside) => inside.advance(&mut node.herd, now.wall, &mut slice),
                    Body::Fences(listing) => listing.advance(&mut node.herd, &mut slice),
                };
                if let Some(chunk) = chunk {
                    chunk.end(slice.out);
                    if ended {
                        Chunk::push_last(slice.out);
                    }
                }
                if !ended {
                    return false;
                }
                http.listings.leave(*seat, self.id);
                *options
            }
            State::Events(subscription, options) => {
                let chunk = options.chunked.then(|| Chunk::begin(slice.out));
                subscription.advance(&mut node.herd.directory, events, now, &mut slice);
                if let Some(chunk) = chunk {
                    chunk.end(slice.out);
                }
                return false;
            }
        };
        self.complete(options);
        true
    }

    /// Ends a response.
    fn complete(&mut self, options: ResponseOptions) {
        self.state = State::Idle;
        if !options.keep_alive {
            self.ending = Some(Next::ShutdownWhenFlushed);
        }
    }

    fn respond(&mut self, cx: &mut Context<'_>, request: &Request<'_>, out: &mut Vec<u8>) {
        let Context { node, http, shell, now } = cx;
        let mut options = request.options();
        if self.peer.over_limit {
            if !HEALTH_CHECKS.contains(&request.path) {
                return self.refuse(http, out);
            }
            (self.answered, options.keep_alive) = (true, false);
        }
        if request.host.is_some_and(|host| !http.settings.is_expected(host)) {
            let reason = "this node does not serve that host; use the address it listens on, or \
                          add the host to http.hosts in its configuration";
            return self.send_error(http, options, Status::MISDIRECTED, reason, out);
        }
        let (status, media, body) = match request.path {
            "/healthz" => (Status::OK, media::TEXT, b"ok\n".to_vec()),
            "/readyz" => match unready(node) {
                None => (Status::OK, media::TEXT, b"ready\n".to_vec()),
                Some(reason) => {
                    (Status::UNAVAILABLE, media::TEXT, format!("{reason}\n").into_bytes())
                }
            },
            "/metrics" => {
                let mut body = Vec::new();
                shell.push_metrics(node, http, now, &mut body);
                (Status::OK, media::METRICS, body)
            }
            "/api/herd" => {
                let overview = Overview::new(node, http, *shell, now);
                // Numbers and strings can always be serialized.
                let mut body = serde_json::to_vec_pretty(&overview).unwrap_or_default();
                body.push(b'\n');
                (Status::OK, media::JSON, body)
            }
            "/api/clients" => return self.list(cx, request, options, out),
            "/api/labels" => return self.labels(cx, request, options, out),
            "/api/fences" => {
                let listing = || FenceListing::new(&node.herd.directory);
                let body = parameters(request.query, &[]).map(|_| Body::Fences(listing()));
                let body = body.map_err(|reason| (Status::BAD_REQUEST, reason));
                return self.send_body(cx, body, options, out);
            }
            "/events" => return self.subscribe(cx, request, options, out),
            path => match path.strip_prefix("/api/clients/") {
                Some(name) => return self.client(cx, request, name, options, out),
                None => return self.asset(http, request, options, out),
            },
        };
        self.send(http, options, status, media, &body, out);
    }

    /// Sends a response that is complete at once.
    fn send(
        &mut self,
        http: &mut Server,
        options: ResponseOptions,
        status: Status,
        media: &str,
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        options.send(out, http, status, media, body);
        self.complete(options);
    }

    fn send_error(
        &mut self,
        http: &mut Server,
        options: ResponseOptions,
        status: Status,
        reason: &str,
        out: &mut Vec<u8>,
    ) {
        options.send_error(out, http, status, reason);
        self.complete(options);
    }

    fn asset(
        &mut self,
        http: &mut Server,
        request: &Request<'_>,
        mut options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let Some(at) = ASSETS.iter().position(|asset| asset.path == request.path) else {
            let reason = "there is no such page; the map is at /";
            return self.send_error(http, options, Status::NOT_FOUND, reason, out);
        };
        let asset = &ASSETS[at];
        let bytes = if request.gzip { asset.gzip } else { asset.bytes };
        let tag = &http.tags[at][usize::from(request.gzip)];
        let etag = format!("ETag: {tag}\r\nVary: Accept-Encoding\r\nCache-Control: no-cache\r\n");
        if request.holds(tag) {
            let status = Status::NOT_MODIFIED;
            options.send_head(out, http, status, asset.media, Length::Empty, &[&etag]);
            return self.complete(options);
        }
        let encoding = if request.gzip { "Content-Encoding: gzip\r\n" } else { "" };
        let length = Length::Known(bytes.len());
        options.send_head(out, http, Status::OK, asset.media, length, &[&etag, encoding]);
        if options.head_only {
            return self.complete(options);
        }
        self.state = State::Asset(bytes, options);
    }

    fn list(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let has = |name: &str| request.query.split('&').any(|pair| name_of(pair) == name);
        let mut selectors = ["near", "bbox", "fence"].into_iter().filter(|name| has(name));
        if let (Some(one), Some(other)) = (selectors.next(), selectors.next()) {
            let reason = format!("{one} and {other} exclude each other; use one of them");
            return self.send_error(cx.http, options, Status::BAD_REQUEST, &reason, out);
        }
        if has("near") {
            return self.near(cx, Near::parse(request.query), options, out);
        }
        let invalid = |reason| (Status::BAD_REQUEST, reason);
        let body = if has("fence") {
            Inside::parse(request.query, &cx.node.herd.directory).map(Body::Inside)
        } else {
            Listing::parse(request.query).map(Body::Listing).map_err(invalid)
        };
        self.send_body(cx, body, options, out);
    }

    /// Begins a body, or sends the error.
    fn send_body(
        &mut self,
        cx: &mut Context<'_>,
        body: Result<Body, (Status, String)>,
        mut options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        match body {
            Ok(body) => {
                if let Some(seat) = self.take_seat(cx, &mut options, &[NO_STORE], out) {
                    self.state = State::Body(Box::new(body), seat, options);
                }
            }
            Err((status, reason)) => self.send_error(cx.http, options, status, &reason, out),
        }
    }

    /// Answers a query for the nearest clients.
    fn near(
        &mut self,
        cx: &mut Context<'_>,
        near: Result<Near, String>,
        mut options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let mut near = match near {
            Ok(near) => near,
            Err(reason) => {
                return self.send_error(cx.http, options, Status::BAD_REQUEST, &reason, out);
            }
        };
        if let Some(seat) = self.take_seat(cx, &mut options, &[NO_STORE], out) {
            let Context { node, http, now, .. } = cx;
            near.wait_for(http.positions.begin_query(&mut node.herd, now.instant));
            self.state = State::Body(Box::new(Body::Near(near)), seat, options);
        }
    }

    /// Answers a query for the names on a map.
    fn labels(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        mut options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let http = &mut *cx.http;
        let (places, tag) = match &http.labels {
            Ok(labels) => labels.clone(),
            Err(damaged) => {
                let reason = damaged.to_string();
                return self.send_error(http, options, Status::UNAVAILABLE, &reason, out);
            }
        };
        let labels = match Labels::parse(places, request.query) {
            Ok(labels) => labels,
            Err(reason) => {
                return self.send_error(http, options, Status::BAD_REQUEST, &reason, out);
            }
        };
        // A new release may have other data.
        let fields = format!("ETag: {tag}\r\nCache-Control: max-age=86400\r\n");
        if request.holds(&tag) {
            let (status, media) = (Status::NOT_MODIFIED, media::GEOJSON);
            options.send_head(out, http, status, media, Length::Empty, &[&fields]);
            return self.complete(options);
        }
        if let Some(seat) = self.take_seat(cx, &mut options, &[&fields], out) {
            self.state = State::Body(Box::new(Body::Labels(labels)), seat, options);
        }
    }

    /// Takes a seat for a body and sends the head of its response with `fields`. Returns the key of the
    /// seat, or `None` if the response is complete.
    fn take_seat(
        &mut self,
        cx: &mut Context<'_>,
        options: &mut ResponseOptions,
        fields: &[&str],
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let Context { http, now, .. } = cx;
        if options.head_only {
            begin_stream(http, options, media::GEOJSON, fields, out);
            self.complete(*options);
            return None;
        }
        let (address, now) = (self.peer.address_key, now.instant);
        let Some(seat) = http.listings.take(MAX_LISTINGS, self.id, address, now) else {
            let reason = "too many listings are in progress; retry in a moment";
            self.send_error(http, *options, Status::UNAVAILABLE, reason, out);
            return None;
        };
        http.evicted.extend(seat.evicted);
        begin_stream(http, options, media::GEOJSON, fields, out);
        Some(seat.key)
    }

    fn subscribe(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        mut options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let Context { node, http, now, .. } = cx;
        let (filter, last) = match Filter::parse(request.query) {
            Ok(parsed) => parsed,
            Err(reason) => {
                return self.send_error(http, options, Status::BAD_REQUEST, &reason, out);
            }
        };
        if let Some(reason) = fences::missing(&node.herd.directory, &filter) {
            return self.send_error(http, options, Status::NOT_FOUND, &reason, out);
        }
        if options.head_only {
            begin_stream(http, &mut options, media::EVENTS, &[NO_STORE, UNBUFFERED], out);
            return self.complete(options);
        }
        let last = request.last_event_id.or(last.as_deref());
        let (address, now) = (self.peer.address_key, now.instant);
        let fences = node.herd.directory.fences().filter(|_| filter.has_fences());
        let start = match fences {
            Some(fences) => http.events.subscribe_to_fences(self.id, address, last, fences, now),
            None => http.events.subscribe(self.id, address, last, &mut node.herd, now),
        };
        let Some(start) = start else {
            let reason = "too many subscribers; use another node";
            return self.send_error(http, options, Status::UNAVAILABLE, reason, out);
        };
        http.evicted.extend(start.evicted);
        begin_stream(http, &mut options, media::EVENTS, &[NO_STORE, UNBUFFERED], out);
        let events = &http.events;
        let subscriber = if filter.has_fences() {
            Subscriber::Fences(FenceSubscription::new(&start, filter, events))
        } else {
            Subscriber::Clients(Subscription::new(&start, filter, events))
        };
        self.state = State::Events(Box::new(subscriber), options);
    }

    /// Answers `/api/clients/ID`, `/api/clients/ID/places` and `/api/clients/ID/near`.
    fn client(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        name: &str,
        options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let Context { node, http, now, .. } = cx;
        let (name, part) = match name.rsplit_once('/') {
            Some((name, part @ ("places" | "near"))) => (name, part),
            _ => (name, ""),
        };
        let places = part == "places";
        let allowed = || request.origin.is_some_and(|origin| http.settings.may_read(origin));
        if places && request.is_cross_site && !allowed() {
            let reason = "pages of other sites may not query places, because each query uses the \
                          budget of the places provider; see http.cors_origin";
            return self.send_error(http, options, Status::FORBIDDEN, reason, out);
        }
        let name = name_of_id(name).filter(|_| !name.contains('/'));
        let held = name.and_then(|name| node.herd.directory.get(&name, now.wall));
        let Some(record) = held.and_then(Record::parse) else {
            let reason = "there is no such client; its name must be percent-encoded";
            return self.send_error(http, options, Status::NOT_FOUND, reason, out);
        };
        if let (false, Some(location)) = (part.is_empty(), record.location()) {
            let center = point(location);
            if places {
                return self.places(cx, request, center, options, out);
            }
            let near = Near::around(record.client.to_vec(), center, request.query);
            return self.near(cx, near, options, out);
        }
        let mut body = Vec::new();
        push_feature(&mut body, &record, now.wall);
        body.push(b'\n');
        self.send(http, options, Status::OK, media::GEOJSON, &body, out);
    }

    /// Executes a WHATSAT for a client at `center`.
    fn places(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        center: Point,
        options: ResponseOptions,
        out: &mut Vec<u8>,
    ) {
        let Context { node, http, now, .. } = cx;
        let whatsat = match whatsat(request.query) {
            Ok(command) => command,
            Err(reason) => {
                return self.send_error(http, options, Status::BAD_REQUEST, &reason, out);
            }
        };
        let Command::Whatsat(Whatsat { radius_m, max_results, .. }) = Command::parse(&whatsat)
        else {
            let reason = format!(
                "radius must be kilometers from 0 to {MAX_RADIUS_KM}, max an integer from 0 to \
                 {MAX_RESULTS}"
            );
            return self.send_error(http, options, Status::BAD_REQUEST, &reason, out);
        };
        if node.is_crowded() {
            let reason = "too many requests for places are pending; retry in a moment";
            return self.send_error(http, options, Status::UNAVAILABLE, reason, out);
        }
        let question = Question { center, radius_m };
        node.counters.whatsat += 1;
        let mut body = Vec::new();
        match node.ask(self.id, question, max_results, now.instant, &mut body) {
            Some(ticket) => self.state = State::Places(ticket, options),
            None => self.send(http, options, Status::OK, media::JSON, &body, out),
        }
    }

    /// Sends the places that a response waited for.
    pub fn handle_answer(&mut self, http: &mut Server, answer: &node::Answer, out: &mut Vec<u8>) {
        if let State::Places(ticket, options) = self.state
            && ticket == answer.ticket
        {
            self.send(http, options, Status::OK, media::JSON, &answer.document, out);
        }
    }

    /// Releases the session's resources after its connection has closed.
    pub fn handle_closed(&mut self, node: &mut Node, http: &mut Server, now: Instant) {
        http.connections -= 1;
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Idle | State::Asset(..) => {}
            State::Body(_, seat, _) => http.listings.leave(seat, self.id),
            State::Places(ticket, _) => node.cancel(ticket),
            State::Events(subscription, _) => {
                subscription.leave(&mut http.events, self.id, now);
            }
        }
    }
}

/// The paths that are answered on connections over the limit: a probe that fails because the node is
/// at its limit would have the node restarted.
const HEALTH_CHECKS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// Header field that makes nginx pass on each event at once.
const UNBUFFERED: &str = "X-Accel-Buffering: no\r\n";

/// Appends the head of a response of unknown length.
fn begin_stream(
    http: &mut Server,
    options: &mut ResponseOptions,
    media: &str,
    fields: &[&str],
    out: &mut Vec<u8>,
) {
    options.send_head(out, http, Status::OK, media, Length::Unknown, fields);
}

/// Returns the WHATSAT command with the parameters of `query`, for a client whose name does not
/// matter.
fn whatsat(query: &str) -> Result<Vec<u8>, String> {
    let (mut radius, mut max) = (b"10".to_vec(), b"20".to_vec());
    for (name, value) in parameters(query, &["radius", "max"])? {
        if name == "radius" {
            radius = plain(&value).map_or_else(|| value.clone(), std::borrow::Cow::into_owned);
        } else {
            max = value;
        }
    }
    Ok([b"WHATSAT x", radius.as_slice(), max.as_slice()].join(&b' '))
}

#[cfg(test)]
mod tests;
