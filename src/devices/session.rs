//! One connection of a device: requests in, responses out.

use std::borrow::Cow;

use super::batch::{Batch, Env};
use super::body::Body;
use super::counters::{Dialect, RequestResult};
use super::dialect::{Origin, Reply};
use super::request::{Framing, Request};
use super::response::{CONTINUE, Options};
use super::tokens::Login;
use super::{Context, Devices, IN_PLACE, MAX_BODIES, SESSION_WORK};
use crate::http::ending::Ending;
use crate::http::request::{Parsed, Rejection};
use crate::http::response::Status;
use crate::ids::ConnectionId;
use crate::node::store::Gated;
use crate::node::{Blocked, CLIENT_BYTES_PER_TURN, Handled, Input, Next, Source};
use crate::time::Instant;

/// The state machine of one connection. It answers one request after the other; pipelined requests
/// wait in the input.
pub struct DeviceSession {
    peer: DeviceInfo,
    state: State,
    /// The part of the output since [`DeviceSession::take_gated`] that waits for the disk.
    gated: Option<Gated>,
    ending: Ending,
}

/// Information about the other end of a connection.
pub struct DeviceInfo {
    /// Address and port, for the log.
    pub label: Box<[u8]>,
    /// Key of the address, for the limit on new clients.
    pub address_key: u64,
    /// Key of the IPv4 address or of the first 64 bits of the IPv6 address, for failed logins.
    pub network_key: u64,
    /// True if the other end is on this machine. It may be a reverse proxy, so the addresses of clients
    /// that it names are trusted.
    pub is_local: bool,
}

enum State {
    /// Waits for the next request.
    Idle,
    /// The body of a request arrives.
    Body(Box<Upload>),
    /// The request is executed, over several turns.
    Batch(Box<Upload>, Box<Batch>),
}

/// A request that is kept because it did not arrive in one piece, or is long.
struct Upload {
    options: Options,
    login: Option<Login>,
    query: Box<str>,
    limit_u: Box<str>,
    limit_d: Box<str>,
    user: Vec<u8>,
    body: Body,
    /// Bytes of the request that have been consumed.
    received: usize,
}

impl Upload {
    fn origin(&self) -> Origin<'_> {
        let Self { query, limit_u, limit_d, user, .. } = self;
        Origin { query, limit_u, limit_d, user }
    }
}

/// An error response.
struct Refusal<'r> {
    result: RequestResult,
    status: Status,
    /// Further header fields with their CR LF.
    fields: Cow<'r, str>,
    reason: &'r str,
}

impl DeviceSession {
    /// Returns the session of a connection that was accepted.
    #[must_use]
    pub fn accepted(devices: &mut Devices, _id: ConnectionId, peer: DeviceInfo) -> Self {
        devices.connections += 1;
        Self { peer, state: State::Idle, gated: None, ending: Ending::default() }
    }

    /// Address and port of the other end, for the log.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        &self.peer.label
    }

    /// Returns the number of bytes of an incomplete request that have been consumed; `None` between
    /// two requests.
    #[must_use]
    pub const fn received(&self) -> Option<usize> {
        match &self.state {
            State::Body(upload) => Some(upload.received),
            State::Idle | State::Batch(..) => None,
        }
    }

    /// Returns true while a request is executed.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.state, State::Batch(..))
    }

    /// Begins a graceful shutdown; see [`Ending::begin_shutdown`].
    pub const fn begin_shutdown(&mut self) {
        self.ending.begin_shutdown();
    }

    /// Answers the requests in `input`. Appends output to `out`.
    ///
    /// Input that is not consumed is passed again. A call ends when the input is used up, the session
    /// has had its share of the turn, or it is blocked.
    pub fn handle_input(
        &mut self,
        cx: &mut Context<'_>,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Handled {
        let mut consumed = 0;
        let next = self.run(cx, input, &mut consumed, out);
        if next.is_end() {
            self.drop_request(cx.devices);
        }
        Ending::handled(next, consumed, input)
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
            if let Some(ending) = self.ending.due(self.is_waiting()) {
                return ending;
            }
            if input.unsent + produced >= cx.devices.settings.max_output {
                return Next::Blocked(Blocked::Output);
            }
            match &mut self.state {
                State::Idle | State::Body(_) if rest.is_empty() && !input.ended => {
                    return Next::NeedInput;
                }
                State::Idle | State::Body(_) if *consumed + produced >= CLIENT_BYTES_PER_TURN => {
                    return Next::Yielded;
                }
                State::Idle if cx.devices.work == 0 && !rest.is_empty() => return Next::Yielded,
                State::Idle => match Request::parse(rest) {
                    Parsed::Partial if input.ended => self.ending.half_closed(),
                    Parsed::Partial => return Next::NeedInput,
                    Parsed::Rejected(rejection) => self.reject(cx.devices, &rejection, out),
                    Parsed::Complete(request, length) => {
                        *consumed += self.begin(cx, &request, rest, length, out);
                    }
                },
                State::Body(_) => match self.receive(cx, rest, out) {
                    Ok(0) if input.ended => self.ending.half_closed(),
                    // A part of a line of the chunked coding.
                    Ok(0) if matches!(self.state, State::Body(_)) => return Next::NeedInput,
                    Ok(taken) => *consumed += taken,
                    Err(rejection) => self.reject(cx.devices, &rejection, out),
                },
                State::Batch(..) if cx.devices.work == 0 => return Next::Yielded,
                State::Batch(..) => {
                    if !self.advance(cx, out) {
                        return Next::Yielded;
                    }
                }
            }
        }
    }

    /// Begins a request whose head has `length` bytes. Returns the number of bytes consumed.
    fn begin(
        &mut self,
        cx: &mut Context<'_>,
        request: &Request<'_>,
        input: &[u8],
        length: usize,
        out: &mut Vec<u8>,
    ) -> usize {
        let devices = &mut *cx.devices;
        let now = cx.now.instant;
        // A page must not be able to have the address of its reader blocked either.
        if request.is_from_page {
            let reason = "pages in a browser may not send positions";
            self.refuse(devices, &Refusal::new(Status::FORBIDDEN, reason), out);
            return length;
        }
        let login = match self.authorize(devices, request, now) {
            Ok(login) => login,
            Err(refusal) => {
                self.refuse(devices, &refusal, out);
                return length;
            }
        };
        let body = match Body::new(request.framing, devices.settings.max_body) {
            Ok(body) => body,
            Err(rejection) => {
                self.reject(devices, &rejection, out);
                return length;
            }
        };
        let options = Options { head_only: request.head_only, keep_alive: request.keep_alive };
        if request.head_only {
            // HEAD changes nothing.
            devices.counters.count_request(Dialect::Unknown, RequestResult::Ignored);
            options.send_reply(out, devices.wall, Reply::Array);
            self.ending.responded(options.keep_alive && body.is_complete());
            return length;
        }
        let user = request.user();
        let Request { query, limit_u, limit_d, .. } = *request;
        let body_length = match request.framing {
            Framing::Length(bytes) if bytes <= IN_PLACE as u64 => Some(bytes as usize),
            _ => None,
        };
        if let Some(bytes) = body_length
            && let Some(body) = input.get(length..length + bytes)
        {
            let origin = Origin { query, limit_u, limit_d, user: &user };
            self.execute_in_place(cx, body, &origin, login.as_ref(), options, out);
            return length + bytes;
        }
        if request.expects_continue && input.len() == length {
            out.extend_from_slice(CONTINUE);
        }
        self.state = State::Body(Box::new(Upload {
            options,
            login,
            query: query.into(),
            limit_u: limit_u.into(),
            limit_d: limit_d.into(),
            user,
            body,
            received: length,
        }));
        length
    }

    /// Returns what the token of a request permits, or `None` if no tokens are configured.
    fn authorize(
        &self,
        devices: &mut Devices,
        request: &Request<'_>,
        now: Instant,
    ) -> Result<Option<Login>, Refusal<'static>> {
        let Some(tokens) = &devices.settings.tokens else { return Ok(None) };
        let proxied = request.forwarded_for.filter(|_| self.peer.is_local);
        let network = match proxied {
            Some(address) => devices.failures.key(address),
            None => self.peer.network_key,
        };
        if let Some(until) = devices.failures.blocked_until(network, now) {
            let seconds = until.since(now).as_secs() + 1;
            return Err(Refusal::limited(seconds));
        }
        let find =
            |token: &[u8]| Some(Login { grant: tokens.find(token)?.clone(), token: token.into() });
        if let Some(login) = request.find_token(find) {
            return Ok(Some(login));
        }
        devices.failures.record(network, now);
        Err(Refusal::unauthorized())
    }

    /// Executes a short request, of which everything has arrived, at once.
    fn execute_in_place(
        &mut self,
        cx: &mut Context<'_>,
        body: &[u8],
        origin: &Origin<'_>,
        login: Option<&Login>,
        options: Options,
        out: &mut Vec<u8>,
    ) {
        let mut batch = std::mem::take(&mut cx.devices.scratch);
        let mut env = env(cx, &self.peer, login);
        batch.begin(body, origin, &mut env);
        // It has a few hundred positions at most.
        let mut work = usize::MAX;
        batch.advance(body, &mut env, &mut work);
        let spent = usize::MAX - work + 1;
        cx.devices.work = cx.devices.work.saturating_sub(spent);
        self.respond(cx, &batch, options, out);
        cx.devices.scratch = batch;
    }

    /// Takes a part of the body from `input`. Returns the number of bytes consumed.
    fn receive(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, Rejection> {
        let State::Body(upload) = &mut self.state else { return Ok(0) };
        let before = upload.body.capacity();
        let taken = upload.body.push(input);
        let devices = &mut *cx.devices;
        devices.bodies = devices.bodies - before + upload.body.capacity();
        let taken = taken?;
        upload.received += taken;
        if devices.bodies > MAX_BODIES {
            let reason = "too many long requests are being received; retry in a moment";
            self.refuse(devices, &Refusal::unavailable(reason), out);
            return Ok(taken);
        }
        if upload.body.is_complete() {
            let State::Body(upload) = std::mem::replace(&mut self.state, State::Idle) else {
                return Ok(taken);
            };
            let mut batch = Box::new(Batch::default());
            let mut env = env(cx, &self.peer, upload.login.as_ref());
            batch.begin(upload.body.bytes(), &upload.origin(), &mut env);
            self.state = State::Batch(upload, batch);
        }
        Ok(taken)
    }

    /// Continues to execute the current request. Returns true if its response has been appended.
    fn advance(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> bool {
        let State::Batch(upload, batch) = &mut self.state else { return true };
        let share = cx.devices.work.min(SESSION_WORK);
        let mut work = share;
        let mut env = env(cx, &self.peer, upload.login.as_ref());
        let done = batch.advance(upload.body.bytes(), &mut env, &mut work);
        cx.devices.work -= share - work;
        if !done {
            return false;
        }
        if let State::Batch(upload, batch) = std::mem::replace(&mut self.state, State::Idle) {
            cx.devices.bodies -= upload.body.capacity();
            self.respond(cx, &batch, upload.options, out);
        }
        true
    }

    /// Appends the response to a request that is executed.
    fn respond(
        &mut self,
        cx: &mut Context<'_>,
        batch: &Batch,
        options: Options,
        out: &mut Vec<u8>,
    ) {
        let summary = batch.summary();
        let (result, gated) = summary.finish(cx.node, out.len());
        cx.devices.counters.count_request(summary.dialect, result);
        cx.devices.work = cx.devices.work.saturating_sub(1);
        if result == RequestResult::Unavailable {
            let (status, wall) = (Status::UNAVAILABLE, cx.devices.wall);
            options.send_error(out, wall, status, RETRY_AFTER, NOT_STORED);
        } else {
            Gated::merge(&mut self.gated, gated);
            options.send_reply(out, cx.devices.wall, summary.reply);
        }
        self.ending.responded(options.keep_alive);
    }

    /// Answers a request that violates HTTP. The connection is closed, since the start of the next
    /// request is unknown.
    fn reject(&mut self, devices: &mut Devices, rejection: &Rejection, out: &mut Vec<u8>) {
        let Rejection { status, reason } = rejection;
        let mut refusal = Refusal::new(*status, reason);
        if *status == Status::METHOD_NOT_ALLOWED {
            refusal.fields = "Allow: GET, HEAD, POST\r\n".into();
        }
        self.refuse(devices, &refusal, out);
    }

    /// Answers with an error and closes the connection, since the body of the request is not read.
    fn refuse(&mut self, devices: &mut Devices, refusal: &Refusal<'_>, out: &mut Vec<u8>) {
        let Refusal { result, status, ref fields, reason } = *refusal;
        devices.counters.count_request(Dialect::Unknown, result);
        devices.work = devices.work.saturating_sub(1);
        Options::CLOSE.send_error(out, devices.wall, status, fields, reason);
        self.ending.responded(false);
        self.drop_request(devices);
    }

    /// Frees the body of a request that is not executed.
    fn drop_request(&mut self, devices: &mut Devices) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Body(upload) | State::Batch(upload, _) => {
                devices.bodies -= upload.body.capacity();
            }
            State::Idle => {}
        }
    }

    /// Returns the part of the output of the last [`DeviceSession::handle_input`] that waits for the
    /// disk.
    pub const fn take_gated(&mut self) -> Option<Gated> {
        self.gated.take()
    }

    /// Ends a connection whose responses were dropped because the disk lacks a record. Appends a
    /// response that makes the device try again.
    pub fn handle_refused(&mut self, devices: &mut Devices, out: &mut Vec<u8>) {
        self.refuse(devices, &Refusal::unavailable(NOT_STORED), out);
    }

    /// Releases the session's resources after its connection has closed.
    pub fn handle_closed(&mut self, devices: &mut Devices) {
        self.drop_request(devices);
        devices.connections -= 1;
    }
}

/// The field that makes a well-behaved device wait.
const RETRY_AFTER: &str = "Retry-After: 1\r\n";

/// The reason for a response that makes a device try again.
const NOT_STORED: &str = "the position cannot be stored now; retry in a moment";

impl<'r> Refusal<'r> {
    const fn new(status: Status, reason: &'r str) -> Self {
        Self { result: RequestResult::Refused, status, fields: Cow::Borrowed(""), reason }
    }

    /// The token is wrong or missing. `Basic` is not offered: a browser would ask for a login, and
    /// would then add it to the requests of other sites.
    const fn unauthorized() -> Self {
        let fields = Cow::Borrowed("WWW-Authenticate: Bearer\r\n");
        let reason = "the token is wrong or missing";
        Self { result: RequestResult::Unauthorized, status: Status::UNAUTHORIZED, fields, reason }
    }

    /// The address is blocked for this many seconds.
    fn limited(seconds: u64) -> Self {
        let fields = format!("Retry-After: {seconds}\r\n").into();
        let reason = "too many wrong tokens from this address; retry in a minute";
        Self { result: RequestResult::Limited, status: Status::TOO_MANY_REQUESTS, fields, reason }
    }

    /// The device is to try again.
    const fn unavailable(reason: &'r str) -> Self {
        let fields = Cow::Borrowed(RETRY_AFTER);
        Self { result: RequestResult::Unavailable, status: Status::UNAVAILABLE, fields, reason }
    }
}

/// What the execution of a request on the connection of `peer` works with.
fn env<'e>(cx: &'e mut Context<'_>, peer: &'e DeviceInfo, login: Option<&'e Login>) -> Env<'e> {
    let Devices { settings, counters, buffers, .. } = &mut *cx.devices;
    let source = Source { label: &peer.label, address_key: peer.address_key };
    Env { node: cx.node, settings, counters, buffers, source, login, now: cx.now }
}
