//! One HTTP connection: requests in, responses out.

mod respond;

use super::body::Body;
use super::ending::Ending;
use super::limits::SLICE_BYTES;
use super::request::{Parsed, Rejection, Request};
use super::response::{Chunk, ResponseOptions, Status, media};
use super::subscriber::Subscriber;
use super::{Context, OutputSlice, Server};
use crate::ids::ConnectionId;
use crate::node::CLIENT_BYTES_PER_TURN;
use crate::node::{self, Blocked, Handled, Input, Next, Node};
use crate::places::Ticket;
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
    ending: Ending,
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

impl HttpSession {
    /// Returns the session of a connection that was accepted.
    #[must_use]
    pub fn accepted(http: &mut Server, id: ConnectionId, peer: BrowserInfo) -> Self {
        http.connections += 1;
        Self {
            id,
            peer,
            answered: false,
            refused: false,
            state: State::Idle,
            ending: Ending::default(),
        }
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

    /// Begins a graceful shutdown; see [`Ending::begin_shutdown`].
    pub const fn begin_shutdown(&mut self) {
        self.ending.begin_shutdown();
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
            if input.ended && matches!(self.state, State::Events(..)) {
                self.ending.half_closed();
            }
            if let Some(ending) = self.ending.due(self.is_waiting()) {
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
                    Parsed::Partial if input.ended => self.ending.half_closed(),
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
                let ended = body.advance(&mut node.herd, positions, now.wall, &mut slice);
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
        self.ending.responded(options.keep_alive);
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

#[cfg(test)]
mod tests;
