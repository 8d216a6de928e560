//! One connection: what it is, what came in, what is owed.

use super::replies::Replies;
use super::{Node, Now, legacy};
use crate::herd::LinkId;
use crate::herd::directory::{AHEAD, MAX_RECORD, Offer};
use crate::herd::handshake::{Accepted, Handshake, MAX_HANDSHAKE_LINE, Progress, Transport};
use crate::herd::link::ConnectionId;
use crate::limits::CLIENT_BYTES_PER_TURN;
use crate::places::geo::Point;
use crate::places::{Question, Ticket};
use crate::protocol::command::{Command, Iamat, Whatsat, client_of, is_http_request_line};
use crate::protocol::framing::{Framed, Framing};
use crate::protocol::record::Record;
use crate::protocol::reply::{TOO_MANY_CONNECTIONS, push_overlong, push_unknown};
use crate::protocol::{next_field, trim};

/// Clients whose records, 128 bytes each, fit the processor's own cache: no need to look ahead.
const FITS_THE_CACHE: u32 = 4096;

/// How the first line of a peer begins.
const HELLO: &[u8] = b"HERD ";

/// What is next for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Bring more bytes.
    Read,
    /// Not now. Call again with what was not consumed: in the next turn if the session is not full,
    /// for then it has only been given its share of this one; otherwise when output has left or an
    /// answer has come.
    Wait,
    /// The client has ended its side: close when everything owed is answered and sent.
    Finish,
    /// The node ends the connection: send what is owed, shut down the sending side, drain, close.
    HangUp,
}

/// Why a client is not read from for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// It is owed too many bytes.
    Output,
    /// Too many WHATSATs wait for places, its own or those of all.
    Whatsats,
}

/// Who has opened a connection.
#[derive(Default)]
pub struct Caller {
    /// Their address and port, for the log.
    pub label: Box<[u8]>,
    /// A number that stands for their address, the same for all their connections.
    pub address: u64,
    /// What the shell knows of the connection.
    pub transport: Transport,
    /// The link to a seed-compatible neighbour at that address.
    pub seed: Option<LinkId>,
    /// There is no room for another client: it is heard only to find out whether it is a peer.
    pub over_limit: bool,
}

/// The state machine of one connection. Its role is fixed by the first line: a client never
/// becomes a peer later, and a link never serves a client.
pub struct LineSession {
    id: ConnectionId,
    /// The other end's address, for the log.
    label: Box<[u8]>,
    /// See [`Caller::address`].
    address: u64,
    /// See [`Caller::over_limit`].
    over_limit: bool,
    framing: Framing,
    role: Role,
    replies: Replies,
    /// The next command is a WHATSAT, and too many wait already in all.
    starved: bool,
    ending: Option<Next>,
}

enum Role {
    /// Nobody has spoken yet. The link is that of [`Caller::seed`].
    New(Transport, Option<LinkId>),
    Client,
    Shaking(Box<Handshake>),
    Linked(LinkId),
    /// A client at the address of a seed-compatible neighbour: its bare AT lines are taken.
    SeedServer(LinkId),
    /// This node dialled a seed-compatible neighbour: what it says is not listened to.
    SeedLink(LinkId),
}

impl LineSession {
    /// A connection that somebody else opened.
    #[must_use]
    pub fn accepted(node: &Node, id: ConnectionId, caller: Caller) -> Self {
        let role = Role::New(caller.transport, caller.seed);
        let max_line = node.limits.max_line.max(MAX_HANDSHAKE_LINE);
        let mut session = Self::new(id, caller.label, max_line, role);
        session.address = caller.address;
        session.over_limit = caller.over_limit;
        session
    }

    /// A connection that this node dialled for `link`, and that stands. Appends what to send.
    #[must_use]
    pub fn dialled(
        node: &mut Node,
        id: ConnectionId,
        label: Box<[u8]>,
        link: LinkId,
        transport: Transport,
        now: &Now,
        out: &mut Vec<u8>,
    ) -> Self {
        let (peer, seed) = {
            let link = &node.herd.links()[link];
            (link.peer, link.seed_compatible)
        };
        if seed {
            node.herd.established(id, peer, 0, true, now.elapsed);
            return Self::new(id, label, MAX_RECORD, Role::SeedLink(link));
        }
        let nonce = node.nonces.next();
        let shaking = Handshake::dial(node.herd.identity(), peer, &nonce, transport, out);
        Self::new(id, label, MAX_HANDSHAKE_LINE, Role::Shaking(Box::new(shaking)))
    }

    fn new(id: ConnectionId, label: Box<[u8]>, max_line: usize, role: Role) -> Self {
        Self {
            id,
            label,
            address: 0,
            over_limit: false,
            framing: Framing::new(max_line),
            role,
            replies: Replies::default(),
            starved: false,
            ending: None,
        }
    }

    /// The other end has shown a certificate for these nodes.
    pub fn certify(&mut self, names: Vec<Vec<u8>>) {
        if let Role::New(transport, _) = &mut self.role {
            transport.certified = Some(names);
        }
    }

    /// The other end's address.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        &self.label
    }

    /// The link that runs on this connection.
    #[must_use]
    pub const fn link(&self) -> Option<LinkId> {
        match self.role {
            Role::Linked(link) | Role::SeedLink(link) => Some(link),
            _ => None,
        }
    }

    /// Whether it is known to be a client's. One from the address of a seed-compatible neighbour may
    /// be that neighbour's.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        matches!(self.role, Role::Client)
    }

    /// Whether a handshake is under way.
    #[must_use]
    pub const fn is_shaking(&self) -> bool {
        matches!(self.role, Role::Shaking(_))
    }

    /// The link that this node dialled and that is not there yet.
    #[must_use]
    pub fn dialling(&self, node: &Node) -> Option<LinkId> {
        match &self.role {
            Role::Shaking(shaking) if shaking.dialled() => node.herd.link_to(shaking.peer()),
            _ => None,
        }
    }

    /// Whether replies wait for places.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.replies.waiting() > 0
    }

    /// Takes `input`: what was not consumed before and what came after it. With `end`, nothing
    /// comes after it. Appends replies to `out`. Returns how much was consumed.
    pub fn receive(
        &mut self,
        node: &mut Node,
        input: &[u8],
        end: bool,
        now: &Now,
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        let mut at = 0;
        let mut touched = 0;
        let share = match self.role {
            // Who has only just come is heard at once, whatever others ask, but one line.
            Role::New(..) => 1,
            Role::Client | Role::SeedServer(_) => CLIENT_BYTES_PER_TURN,
            Role::Shaking(_) | Role::Linked(_) | Role::SeedLink(_) => usize::MAX,
        };
        let share = share.saturating_add(out.len() + self.replies.held());
        loop {
            if let Some(ending) = self.ending {
                return (input.len(), ending); // nothing more is executed
            }
            let had_its_share = at < input.len() && at + out.len() + self.replies.held() >= share;
            if had_its_share || self.is_full(node, out.len()) {
                return (at, Next::Wait);
            }
            if at >= touched {
                touched = at + touch(node, &input[at..]);
            }
            // A client's last line needs no LF. A link that breaks within a line must not have half
            // a record believed.
            let is_link = matches!(self.role, Role::Shaking(_) | Role::Linked(_));
            let last = end && !is_link;
            let framed = self.framing.next(&input[at..], last);
            match self.for_a_client(node, framed, &input[at..]) {
                Framed::Line(line, _) if self.starves(node, line) => return (at, Next::Wait),
                Framed::Line(line, taken) => {
                    at += taken;
                    self.line(node, line, now, out);
                }
                Framed::Overlong(_) if self.is_on_probation() => self.refuse(out),
                Framed::Overlong(line) => {
                    self.overlong(node, line, out);
                    self.ending = Some(Next::HangUp);
                }
                Framed::Partial if end && self.is_on_probation() => self.refuse(out),
                Framed::Partial if end => self.ending = Some(Next::Finish),
                Framed::Partial => return (at, Next::Read),
            }
        }
    }

    /// Whether it is one connection too many and has not said that it is a peer's.
    const fn is_on_probation(&self) -> bool {
        self.over_limit && matches!(self.role, Role::New(..))
    }

    fn refuse(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(TOO_MANY_CONNECTIONS);
        self.ending = Some(Next::HangUp);
    }

    /// A first line may be longer than a client's if it is a peer's: then it begins with `HERD`.
    fn for_a_client<'i>(&self, node: &Node, framed: Framed<'i>, input: &'i [u8]) -> Framed<'i> {
        if !matches!(self.role, Role::New(..)) || input.starts_with(HELLO) {
            return framed;
        }
        match framed {
            Framed::Line(line, _) if line.len() > node.limits.max_line => Framed::Overlong(line),
            Framed::Partial if input.len() > node.limits.max_line => Framed::Overlong(input),
            other => other,
        }
    }

    /// Whether enough is owed for now. `out` are the bytes of replies not taken by the socket.
    ///
    /// Never for a link: what a peer says has no replies, and two peers that both stopped reading
    /// because they owe each other much would wait for each other.
    #[must_use]
    pub fn is_full(&self, node: &Node, out: usize) -> bool {
        self.stall(node, out).is_some()
    }

    /// As [`LineSession::is_full`], with the reason.
    #[must_use]
    pub fn stall(&self, node: &Node, out: usize) -> Option<Stall> {
        if self.link().is_some() {
            None
        } else if out + self.replies.held() >= node.limits.max_output_buffer {
            Some(Stall::Output)
        } else if self.replies.waiting() >= node.limits.max_pending_whatsat_per_connection
            || self.is_starved(node)
        {
            Some(Stall::Whatsats)
        } else {
            None
        }
    }

    /// Whether a WHATSAT of this connection waits to be asked until fewer of all connections wait.
    #[must_use]
    pub fn is_starved(&self, node: &Node) -> bool {
        self.starved && node.is_crowded()
    }

    /// Whether `line` is a WHATSAT for which there is no room now. Other commands need none.
    fn starves(&mut self, node: &Node, line: &[u8]) -> bool {
        self.starved = node.is_crowded()
            && self.link().is_none()
            && next_field(line).is_some_and(|(word, _)| word == b"WHATSAT");
        self.starved
    }

    /// The node ends the connection: nothing more is executed, what is owed is still sent.
    pub fn hang_up(&mut self) {
        self.ending = Some(Next::HangUp);
    }

    fn line(&mut self, node: &mut Node, line: &[u8], now: &Now, out: &mut Vec<u8>) {
        match &mut self.role {
            Role::New(..) => self.first_line(node, line, now, out),
            Role::Client => self.command(node, line, now, out),
            Role::Linked(link) => {
                let Node { herd, message_log, .. } = node;
                if let Err(why) =
                    herd.receive(*link, self.id, line, now.elapsed, now.clock, message_log)
                {
                    node.counters.link_errors += 1;
                    let name = herd.peer_name(*link).escape_ascii();
                    log::warn!("{name} ({}): {why}; the link is closed", self.label.escape_ascii());
                    self.ending = Some(Next::HangUp);
                }
            }
            Role::SeedLink(_) => {}
            Role::SeedServer(link) => {
                let link = *link;
                if !legacy::take_record(node, link, line, now) {
                    self.command(node, line, now, out);
                }
            }
            Role::Shaking(shaking) => {
                let progress = shaking.receive(node.herd.identity(), line, out);
                self.shaken(node, progress, now);
            }
        }
    }

    fn first_line(&mut self, node: &mut Node, line: &[u8], now: &Now, out: &mut Vec<u8>) {
        let Role::New(transport, seed) = std::mem::replace(&mut self.role, Role::Client) else {
            return;
        };
        self.framing.set_max_line(node.limits.max_line);
        if line.starts_with(HELLO) {
            let nonce = node.nonces.next();
            match Handshake::accept(node.herd.identity(), line, &nonce, transport, out) {
                Accepted::Peer(shaking, progress) => {
                    self.role = Role::Shaking(shaking);
                    self.framing.set_max_line(MAX_HANDSHAKE_LINE);
                    return self.shaken(node, progress, now);
                }
                Accepted::Client(Some(why)) => {
                    node.counters.handshakes_refused += 1;
                    log::warn!("{}: {why}; it is treated as a client", self.label.escape_ascii());
                }
                Accepted::Client(None) => {}
            }
            if line.len() > node.limits.max_line && !self.over_limit {
                self.overlong(node, line, out);
                self.ending = Some(Next::HangUp);
                return;
            }
        }
        if self.over_limit {
            return self.refuse(out);
        }
        if is_http_request_line(line) {
            node.counters.http_requests += 1;
            self.unknown(node, line, out);
            self.ending = Some(Next::HangUp);
            return;
        }
        if let Some(link) = seed {
            self.role = Role::SeedServer(link);
        }
        self.line(node, line, now, out);
    }

    fn shaken(&mut self, node: &mut Node, progress: Progress, now: &Now) {
        let Role::Shaking(shaking) = &self.role else { return };
        let (peer, dialled) = (shaking.peer(), shaking.dialled());
        match progress {
            Progress::Waiting => {}
            Progress::Established { peer, boot } => {
                let link = node.herd.established(self.id, peer, boot, dialled, now.elapsed);
                let name = node.herd.identity().name(peer).escape_ascii();
                if let Some(link) = link {
                    let name = name.to_string();
                    node.message_log.line(&[&self.label, b" linked with ", name.as_bytes()]);
                    self.role = Role::Linked(link);
                    // Not what this node allows its clients: another may allow its own more.
                    self.framing.set_max_line(MAX_RECORD);
                } else {
                    log::debug!("{}: {name} is linked already", self.label.escape_ascii());
                    self.ending = Some(Next::HangUp);
                }
            }
            Progress::Refused(why) => {
                node.counters.handshakes_refused += 1;
                let name = node.herd.identity().name(peer).escape_ascii();
                log::warn!("{} is not linked ({}): {why}", name, self.label.escape_ascii());
                self.ending = Some(Next::HangUp);
            }
        }
    }

    fn command(&mut self, node: &mut Node, line: &[u8], now: &Now, out: &mut Vec<u8>) {
        match Command::parse(line) {
            Command::Iamat(iamat) => self.iamat(node, line, &iamat, now, out),
            Command::Whatsat(whatsat) => self.whatsat(node, line, &whatsat, now, out),
            Command::Unknown => self.unknown(node, line, out),
        }
    }

    fn iamat(
        &mut self,
        node: &mut Node,
        line: &[u8],
        iamat: &Iamat<'_>,
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        let reply = self.replies.sink(out);
        let start = reply.len();
        Record::emit(reply, &node.name, iamat, now.clock);
        let record = Record::emitted(&reply[start..], &node.name, iamat, now.clock);
        let newcomer_refused = node.limits.new_clients_per_second_per_address.is_some_and(|most| {
            !node.newcomers.admit(&node.herd, &record, self.address, most, now)
        });
        let offer = if newcomer_refused { Offer::Full } else { node.herd.hear(&record, now.clock) };
        let counters = &mut node.counters;
        counters.iamat += 1;
        let (count, note): (_, &[u8]) = match offer {
            Offer::News(_) => (&mut counters.iamat_stored, b""),
            Offer::Repeat => (&mut counters.iamat_repeat, b" (repeat, not stored)"),
            Offer::Stale => (&mut counters.iamat_stale, b" (stale, not stored)"),
            Offer::Full if newcomer_refused => {
                (&mut counters.newcomers_refused, b" (over a limit on clients, not stored)")
            }
            Offer::Full => {
                (&mut counters.iamat_over_cap, b" (over a limit on clients, not stored)")
            }
            Offer::Expired => (&mut counters.iamat_expired, b" (expired, not stored)"),
        };
        *count += 1;
        if node.message_log.enabled() {
            node.message_log.line(&[&self.label, b" < ", trim(line)]);
            node.message_log.line(&[&self.label, b" > ", record.line, note]);
        }
        reply.push(b'\n');
        let length = reply.len() - start;
        self.replies.appended(length);
    }

    fn whatsat(
        &mut self,
        node: &mut Node,
        line: &[u8],
        whatsat: &Whatsat<'_>,
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        let Some(held) = node.herd.directory.get(whatsat.client, now.clock) else {
            return self.unknown(node, line, out);
        };
        let Some(location) = Record::parse(held).and_then(|record| record.location()) else {
            return self.unknown(node, line, out);
        };
        node.counters.whatsat += 1;
        node.message_log.line(&[&self.label, b" < ", trim(line)]);
        let center = Point { lat: location.latitude(), lng: location.longitude() };
        let question = Question { center, radius_m: whatsat.radius_m };
        let reply = self.replies.sink(out);
        let start = reply.len();
        reply.extend_from_slice(held);
        reply.push(b'\n');
        match node.ask(self.id, question, whatsat.max_results, now.elapsed, reply) {
            None => {
                reply.extend_from_slice(b"\n\n");
                let length = reply.len() - start;
                if node.message_log.enabled() {
                    node.message_log.line(&[&self.label, b" > ", &reply[start..]]);
                }
                self.replies.appended(length);
            }
            Some(ticket) => {
                let at_line = reply.split_off(start);
                self.replies.wait(ticket, at_line);
            }
        }
    }

    fn unknown(&mut self, node: &mut Node, line: &[u8], out: &mut Vec<u8>) {
        let line = trim(line);
        if line.is_empty() {
            return;
        }
        node.counters.unknown += 1;
        let reply = self.replies.sink(out);
        push_unknown(reply, line);
        self.replies.appended(line.len() + 3);
        node.message_log.line(&[&self.label, b" < ", line]);
        node.message_log.line(&[&self.label, b" > ? ", line]);
    }

    fn overlong(&mut self, node: &mut Node, line: &[u8], out: &mut Vec<u8>) {
        node.counters.overlong += 1;
        if matches!(self.role, Role::New(..) | Role::Client | Role::SeedServer(_)) {
            let reply = self.replies.sink(out);
            let start = reply.len();
            push_overlong(reply, line);
            node.message_log.line(&[
                &self.label,
                b" < ",
                &line[..line.len().min(64)],
                b"... (too long)",
            ]);
            node.message_log.line(&[&self.label, b" > ", trim(&reply[start..])]);
            let length = reply.len() - start;
            self.replies.appended(length);
        } else {
            let counters = &mut node.counters;
            match self.role {
                Role::Shaking(_) => counters.handshakes_refused += 1,
                _ => counters.link_errors += 1,
            }
            log::warn!("{}: a line of a peer is too long; closed", self.label.escape_ascii());
        }
    }

    /// The document for `ticket` has come, see [`Node::poll_answer`]. Appends to `out` what may
    /// leave now.
    pub fn answer(&mut self, node: &mut Node, ticket: Ticket, out: &mut Vec<u8>) {
        if let Some(reply) = self.replies.complete(ticket, &node.document) {
            node.message_log.line(&[&self.label, b" > ", reply]);
        }
        self.replies.release(out);
    }

    /// The connection is gone: nobody waits for its answers any more, and its link is down.
    pub fn close(&mut self, node: &mut Node, now: &Now) {
        for ticket in self.replies.cancel() {
            node.cancel(ticket);
        }
        match &self.role {
            Role::Linked(link) | Role::SeedLink(link) => {
                node.herd.closed(*link, self.id, now.elapsed);
            }
            _ => {
                if let Some(link) = self.dialling(node) {
                    node.herd.dial_failed(link, now.elapsed);
                }
            }
        }
    }
}

/// Has the directory look ahead at the clients of the next lines of `input`, if there are several.
/// Returns how many bytes these lines are.
fn touch(node: &Node, input: &[u8]) -> usize {
    let directory = &node.herd.directory;
    let is_one = || memchr::memchr(b'\n', input).is_none_or(|at| at + 1 == input.len());
    if directory.len() < FITS_THE_CACHE || is_one() {
        return input.len();
    }
    let mut end = 0;
    let lines = memchr::memchr_iter(b'\n', input).map(|at| {
        let line = &input[end..at];
        end = at + 1;
        line
    });
    directory.touch(lines.take(AHEAD).filter_map(client_of));
    if end == 0 { input.len() } else { end }
}
