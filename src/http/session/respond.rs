//! The responses to requests: which resource a path names, and how its response begins.

use std::borrow::Cow;

use super::{HttpSession, State};
use crate::geo::Point;
use crate::http::assets::ASSETS;
use crate::http::body::Body;
use crate::http::clients::Listing;
use crate::http::feature::{name_of_id, push_feature};
use crate::http::fence_events::FenceSubscription;
use crate::http::fences::{self, FenceListing, Inside};
use crate::http::filter::Filter;
use crate::http::labels::Labels;
use crate::http::limits::MAX_LISTINGS;
use crate::http::near::Near;
use crate::http::overview::{Overview, unready};
use crate::http::positions::point;
use crate::http::query::{pairs, parameters, plain};
use crate::http::request::Request;
use crate::http::response::{Length, NO_STORE, ResponseOptions, Status, media};
use crate::http::subscriber::Subscriber;
use crate::http::subscription::Subscription;
use crate::http::{Context, Server};
use crate::places::Question;
use crate::protocol::command::{Command, MAX_RADIUS_KM, MAX_RESULTS, Whatsat};
use crate::protocol::record::Record;

/// The parameters that select clients, of which a request has one at most.
const SELECTORS: [&str; 3] = ["near", "bbox", "fence"];

impl HttpSession {
    /// Begins the response to a request.
    pub(super) fn respond(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        out: &mut Vec<u8>,
    ) {
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
        let mut has = [false; SELECTORS.len()];
        for (name, _) in pairs(request.query) {
            if let Some(at) = SELECTORS.iter().position(|&selector| selector == name) {
                has[at] = true;
            }
        }
        let mut selected = SELECTORS.into_iter().zip(has).filter(|(_, has)| *has);
        let invalid = |reason| (Status::BAD_REQUEST, reason);
        let body = match (selected.next(), selected.next()) {
            (Some((one, _)), Some((other, _))) => {
                Err(invalid(format!("{one} and {other} exclude each other; use one of them")))
            }
            (Some(("near", _)), None) => {
                return self.near(cx, Near::parse(request.query), options, out);
            }
            (Some(("fence", _)), None) => {
                Inside::parse(request.query, &cx.node.herd.directory).map(Body::Inside)
            }
            _ => Listing::parse(request.query).map(Body::Listing).map_err(invalid),
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
        if let (false, Some(location)) = (part.is_empty(), record.degrees()) {
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
            radius = plain(&value).unwrap_or(Cow::Borrowed(&value)).into_owned();
        } else {
            max = value.into_owned();
        }
    }
    Ok([b"WHATSAT x", radius.as_slice(), max.as_slice()].join(&b' '))
}
