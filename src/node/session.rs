//! One connection of the line protocol: its role, its input, and its outstanding replies.

mod administrator;
mod commands;
mod peer;

use super::CLIENT_BYTES_PER_TURN;
use super::replies::Replies;
use super::store::Gated;
use super::{Answer, Event, Node, legacy};
use crate::herd::administrator::Administrator;
use crate::herd::directory::{MAX_RECORD, PREFETCH_BATCH};
use crate::herd::handshake::{Handshake, MAX_HANDSHAKE_LINE, Transport};
use crate::herd::{Connected, LegacySender, Origin};
use crate::ids::{BootId, ConnectionId, LinkId, NodeId};
use crate::protocol::command::client_of;
use crate::protocol::framing::{Framed, Framing};
use crate::protocol::next_field;
use crate::protocol::reply::TOO_MANY_CONNECTIONS;
use crate::time::{Instant, Now};

/// The first bytes of a peer's first line.
const HELLO: &[u8] = b"HERD ";

/// The input of a session.
#[derive(Clone, Copy)]
pub struct Input<'i> {
    /// The bytes that were not consumed before, and those received since.
    pub bytes: &'i [u8],
    /// The peer has half-closed the connection: nothing comes after `bytes`.
    pub ended: bool,
    /// Bytes of earlier replies that the socket has not taken yet.
    pub unsent: usize,
}

/// The result of handling input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// Bytes consumed. The rest is offered again, in front of what comes after it.
    pub consumed: usize,
    /// The need of the session.
    pub next: Next,
}

/// The need of a session before it can continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More input.
    NeedInput,
    /// Another turn: it has used up its share of this one.
    Yielded,
    /// Something that has to happen first. The connection is not read meanwhile.
    Blocked(Blocked),
    /// The peer has half-closed and every reply is complete: close once all is sent.
    CloseWhenFlushed,
    /// The node ends the connection: send what is left, shut down the sending side, drain, close.
    ShutdownWhenFlushed,
}

impl Next {
    /// Returns whether the connection ends: no more input is handled.
    #[must_use]
    pub const fn is_end(self) -> bool {
        matches!(self, Self::CloseWhenFlushed | Self::ShutdownWhenFlushed)
    }
}

/// The condition that a blocked session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The socket must accept pending output.
    Output,
    /// The places for a WHATSAT of this connection must arrive.
    Places,
    /// As `Places`, in a session that executes nothing more.
    LastReplies,
    /// The number of WHATSATs that wait on all connections must fall below the limit.
    Crowded,
    /// The last line must come on the connection that this one replaces: a link moves from there to here.
    Held,
    /// A subscription must have an event to send.
    Events,
}

/// Facts about the other end of an accepted connection.
#[derive(Default)]
pub struct PeerInfo {
    /// Address and port, for the log.
    pub label: Box<[u8]>,
    /// A number derived from the address, the same for all its connections.
    pub address_key: u64,
    /// Loopback or not, and the certificate.
    pub transport: Transport,
    /// The seed-compatible neighbor that may be the other end.
    pub legacy: Option<LegacySender>,
    /// The connection was accepted at the port for links only: it moves a link, or is closed.
    pub links_only: bool,
    /// The limit on connections is reached: the connection is kept only until its first line shows
    /// whether it is a peer's.
    pub over_limit: bool,
}

/// The state machine of one connection.
///
/// The first line fixes the role: a client never becomes a peer later, and a link never serves
/// IAMAT or WHATSAT. The shell calls [`LineSession::handle_input`] whenever input has arrived or the
/// reason of the last [`Next`] has gone, [`LineSession::handle_answer`] for each answer of
/// [`Node::poll_answer`] that names this connection, and [`LineSession::handle_closed`] last.
pub struct LineSession {
    id: ConnectionId,
    label: Box<[u8]>,
    address_key: u64,
    links_only: bool,
    over_limit: bool,
    framing: Framing,
    role: Role,
    replies: Replies,
    /// The next command is a WHATSAT, and too many wait in all.
    crowded: bool,
    /// The part of the replies since [`LineSession::take_gated`] that waits for the disk.
    gated: Option<Gated>,
    ending: Option<Ending>,
}

enum Role {
    /// No line received yet: a client or a neighbor. The sender is [`PeerInfo::legacy`].
    New(Transport, Option<LegacySender>),
    Client,
    Handshaking(Box<Handshake>, Aim),
    Linked(LinkId),
    /// An administrator; `None` once it is admitted.
    Administrator(Option<Box<Administrator>>),
    /// Accepted from the address of a seed-compatible neighbor: bare AT lines are taken, everything
    /// else is a client's.
    LegacyPeer(LegacySender),
    /// Dialed to a seed-compatible neighbor: what it sends is ignored.
    LegacyLink(LinkId),
}

/// The aim of a handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// To establish a link.
    Establish,
    /// To move a link to this connection. The dialer knows the connection that it replaces.
    Move(Option<ConnectionId>),
}

/// The reason for executing nothing more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The peer has half-closed.
    Close,
    /// The node ends the connection.
    Shutdown,
}

impl LineSession {
    /// A session for an accepted connection.
    #[must_use]
    pub fn accepted(id: ConnectionId, peer: PeerInfo) -> Self {
        let role = Role::New(peer.transport, peer.legacy);
        let mut session = Self::new(id, peer.label, MAX_HANDSHAKE_LINE, role);
        session.address_key = peer.address_key;
        session.links_only = peer.links_only;
        session.over_limit = peer.over_limit;
        session
    }

    /// A session for a connection that this node dialed for `link`. Appends the first line to send.
    #[must_use]
    pub fn dialed(
        node: &mut Node,
        id: ConnectionId,
        label: Box<[u8]>,
        link: LinkId,
        transport: Transport,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Self {
        let (peer, is_legacy) = {
            let link = node.herd.link(link);
            (link.peer, link.is_legacy())
        };
        if is_legacy {
            // An original server has no boot id.
            let (boot, origin) = (BootId::default(), Origin::Dialed);
            node.herd.handle_connected(Connected { connection: id, peer, boot, origin }, now);
            node.events.push_back(Event::Linked { connection: id, link });
            return Self::new(id, label, MAX_RECORD, Role::LegacyLink(link));
        }
        Self::shaking_hands(node, id, label, peer, Aim::Establish, transport, out)
    }

    /// A session for a connection that this node dialed to move `link` there from the connection that
    /// it `replaces`. Appends the first line to send.
    #[must_use]
    pub fn moving(
        node: &mut Node,
        id: ConnectionId,
        label: Box<[u8]>,
        link: LinkId,
        replaces: ConnectionId,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Self {
        let peer = node.herd.link(link).peer;
        Self::shaking_hands(node, id, label, peer, Aim::Move(Some(replaces)), transport, out)
    }

    fn shaking_hands(
        node: &mut Node,
        id: ConnectionId,
        label: Box<[u8]>,
        peer: NodeId,
        aim: Aim,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Self {
        let nonce = node.nonces.next();
        let handshake = Handshake::dial(node.herd.identity(), peer, &nonce, transport, out);
        Self::new(id, label, MAX_HANDSHAKE_LINE, Role::Handshaking(Box::new(handshake), aim))
    }

    fn new(id: ConnectionId, label: Box<[u8]>, max_line: usize, role: Role) -> Self {
        Self {
            id,
            label,
            address_key: 0,
            links_only: false,
            over_limit: false,
            framing: Framing::new(max_line),
            role,
            replies: Replies::default(),
            crowded: false,
            gated: None,
            ending: None,
        }
    }

    /// Sets the node names that the peer's certificate is valid for. Has no effect after the first
    /// line.
    pub fn set_certified(&mut self, names: Vec<Vec<u8>>) {
        if let Role::New(transport, _) = &mut self.role {
            transport.certified = Some(names);
        }
    }

    /// Address and port of the other end, for the log.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        &self.label
    }

    /// The link that this connection carries.
    #[must_use]
    pub const fn link(&self) -> Option<LinkId> {
        match self.role {
            Role::Linked(link) | Role::LegacyLink(link) => Some(link),
            _ => None,
        }
    }

    /// Returns true once the first line has shown that this is a client. A connection from the
    /// address of a seed-compatible neighbor may be that neighbor's.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        matches!(self.role, Role::Client)
    }

    /// Returns true while the handshake of a link or of an administrator is under way.
    #[must_use]
    pub const fn is_handshaking(&self) -> bool {
        matches!(self.role, Role::Handshaking(..) | Role::Administrator(Some(_)))
    }

    /// The link that this node is establishing on a connection that it dialed.
    #[must_use]
    pub fn dialing(&self, node: &Node) -> Option<LinkId> {
        match &self.role {
            Role::Handshaking(handshake, Aim::Establish)
                if handshake.origin() == Origin::Dialed =>
            {
                node.herd.link_to(handshake.peer())
            }
            _ => None,
        }
    }

    /// Returns true while replies wait for places.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.replies.waiting() > 0
    }

    /// The client of the first line of `input`, if it is a command that looks one up. The shell
    /// prefetches the records of all ready connections together. A line that is incomplete may be taken
    /// for one with a shorter name, which does no harm.
    #[must_use]
    pub fn first_client<'i>(&self, input: &'i [u8]) -> Option<&'i [u8]> {
        match self.role {
            Role::Client => client_of(input),
            _ => None,
        }
    }

    /// Executes the lines of `input` and appends replies to `out`.
    ///
    /// One function serves whole reads, single bytes and back-pressure: what is not consumed is
    /// offered again. A call ends when the input is used up, the session has had its share of the
    /// turn, or it is blocked.
    pub fn handle_input(
        &mut self,
        node: &mut Node,
        input: Input<'_>,
        now: &Now,
        out: &mut Vec<u8>,
    ) -> Handled {
        let share = match self.role {
            // A new connection is served at once regardless of the load, but for one line only.
            Role::New(..) => 1,
            Role::Client | Role::LegacyPeer(_) | Role::Administrator(_) => CLIENT_BYTES_PER_TURN,
            Role::Handshaking(..) | Role::Linked(_) | Role::LegacyLink(_) => usize::MAX,
        };
        if matches!(self.role, Role::New(..)) {
            self.framing.set_max_line(first_line_limit(node, input.bytes));
        }
        let start = out.len();
        let share = share.saturating_add(self.replies.held());
        let mut at = 0;
        let mut ahead = Ahead::default();
        loop {
            let rest = &input.bytes[at..];
            if let Some(ending) = self.ending {
                return Handled { consumed: input.bytes.len(), next: self.next_of(ending) };
            }
            let produced = out.len() - start;
            if let Some(blocked) = self.blocked(node, rest, input.unsent + produced) {
                return Handled { consumed: at, next: Next::Blocked(blocked) };
            }
            if !rest.is_empty() && at + produced + self.replies.held() >= share {
                return Handled { consumed: at, next: Next::Yielded };
            }
            if at >= ahead.prefetched {
                ahead.prefetch(node, input.bytes, at);
            }
            // A client's last line needs no LF. On a link, half a record must not be applied.
            let is_trusted = matches!(
                self.role,
                Role::Handshaking(..) | Role::Linked(_) | Role::Administrator(_)
            );
            let ends_line = input.ended && !is_trusted;
            let framed = match ahead.next_end() {
                Some(end) => self.framing.next_known(rest, end - at),
                None => self.framing.next(rest, ends_line),
            };
            match framed {
                Framed::Line(line, _) if self.is_crowded_by(node, line) => {
                    return Handled { consumed: at, next: Next::Blocked(Blocked::Crowded) };
                }
                Framed::Line(line, taken) => {
                    at += taken;
                    self.on_line(node, line, now, out);
                }
                Framed::Overlong(line) => self.on_overlong(node, line, out),
                Framed::Partial if input.ended && self.is_on_probation() => self.refuse(out),
                Framed::Partial if input.ended => self.ending = Some(Ending::Close),
                Framed::Partial => return Handled { consumed: at, next: Next::NeedInput },
            }
        }
    }

    /// Returns the part of the output of the last [`LineSession::handle_input`] that waits for the disk.
    pub const fn take_gated(&mut self) -> Option<Gated> {
        self.gated.take()
    }

    /// Completes the reply that waits for `answer`, and appends the replies that it held back to `out`.
    pub fn handle_answer(&mut self, node: &mut Node, answer: &Answer, out: &mut Vec<u8>) {
        if let Some(reply) = self.replies.complete(answer.ticket, &answer.document) {
            node.message_log.line(&[&self.label, b" > ", reply]);
        }
        self.replies.release(out);
    }

    /// Releases the session's resources in `node` after its connection has closed.
    pub fn handle_closed(&mut self, node: &mut Node, now: Instant) {
        for ticket in self.replies.cancel() {
            node.cancel(ticket);
        }
        match &self.role {
            Role::Linked(link) | Role::LegacyLink(link) => {
                node.herd.handle_disconnected(*link, self.id, now);
            }
            _ => {
                if let Some(link) = self.dialing(node) {
                    node.herd.handle_dial_failed(link, now);
                }
            }
        }
    }

    /// Begins a graceful shutdown: nothing more is executed, and
    /// [`LineSession::handle_input`] returns [`Next::ShutdownWhenFlushed`] once every reply is
    /// complete. A connection on probation is refused.
    pub fn begin_shutdown(&mut self, out: &mut Vec<u8>) {
        if self.ending.is_none() && self.is_on_probation() {
            return self.refuse(out);
        }
        self.ending = Some(Ending::Shutdown);
    }

    /// The need of a session that executes nothing more.
    fn next_of(&self, ending: Ending) -> Next {
        match ending {
            _ if self.is_waiting() => Next::Blocked(Blocked::LastReplies),
            Ending::Close => Next::CloseWhenFlushed,
            Ending::Shutdown => Next::ShutdownWhenFlushed,
        }
    }

    /// The reason not to execute `input` and not to read more of it now, with `unsent` bytes on their way
    /// to the socket.
    ///
    /// On a link, never because of output: a peer's lines have no replies, and two peers that both
    /// stopped reading because of unsent output would wait for each other.
    fn blocked(&self, node: &Node, input: &[u8], unsent: usize) -> Option<Blocked> {
        if let Role::Linked(link) = self.role {
            let is_held = node.herd.is_held(link, self.id, !input.is_empty());
            return is_held.then_some(Blocked::Held);
        }
        let blocked = if unsent + self.replies.held() >= node.limits.max_output_buffer {
            // Replies that are held back leave with the places that they wait for.
            let held_back = self.replies.held() >= node.limits.max_output_buffer;
            if held_back { Blocked::Places } else { Blocked::Output }
        } else if self.replies.waiting() >= node.limits.max_pending_whatsat_per_connection {
            Blocked::Places
        } else if self.crowded && node.is_crowded() {
            Blocked::Crowded
        } else {
            return None;
        };
        self.link().is_none().then_some(blocked)
    }

    /// Records and returns whether `line` is a WHATSAT for which there is no room.
    fn is_crowded_by(&mut self, node: &Node, line: &[u8]) -> bool {
        self.crowded = node.is_crowded()
            && self.link().is_none()
            && next_field(line).is_some_and(|(word, _)| word == b"WHATSAT");
        self.crowded
    }

    /// Returns true for a connection over the limit that has not shown that it is a peer's.
    const fn is_on_probation(&self) -> bool {
        self.over_limit && matches!(self.role, Role::New(..))
    }

    fn refuse(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(TOO_MANY_CONNECTIONS);
        self.ending = Some(Ending::Shutdown);
    }

    fn on_line(&mut self, node: &mut Node, line: &[u8], now: &Now, out: &mut Vec<u8>) {
        match self.role {
            Role::Client => self.on_command(node, line, now, out),
            Role::Linked(link) => self.on_link_line(node, link, line, now),
            Role::New(..) => self.on_first_line(node, line, now, out),
            Role::Handshaking(..) => self.on_handshake_line(node, line, now, out),
            Role::Administrator(_) => self.on_administrator_line(node, line, now, out),
            Role::LegacyLink(_) => {}
            Role::LegacyPeer(sender) => {
                if !legacy::take_record(node, sender, &self.label, line, now) {
                    self.on_command(node, line, now, out);
                }
            }
        }
    }
}

/// Longest first line: a peer's begins with `HERD` and may be longer than a client's.
fn first_line_limit(node: &Node, input: &[u8]) -> usize {
    if input.starts_with(HELLO) {
        node.limits.max_line.max(MAX_HANDSHAKE_LINE)
    } else {
        node.limits.max_line
    }
}

/// The next lines of some input, whose records have been prefetched.
#[derive(Default)]
struct Ahead {
    /// The ends of the lines, without LF, in the input.
    ends: [usize; PREFETCH_BATCH],
    count: usize,
    /// The number of lines that have been taken.
    taken: usize,
    /// The end of the last line, its LF included.
    prefetched: usize,
}

impl Ahead {
    /// Finds the next lines of `input` from `at` on, and prefetches their records if there are several.
    fn prefetch(&mut self, node: &mut Node, input: &[u8], at: usize) {
        (self.count, self.taken, self.prefetched) = (0, 0, input.len());
        if !node.prefetches() {
            return;
        }
        for (end, found) in self.ends.iter_mut().zip(memchr::memchr_iter(b'\n', &input[at..])) {
            *end = at + found;
            self.count += 1;
        }
        if self.count < 2 {
            return;
        }
        let mut start = at;
        let lines = self.ends[..self.count].iter().map(|&end| {
            let line = &input[start..end];
            start = end + 1;
            line
        });
        node.prefetch(lines.filter_map(client_of));
        self.prefetched = start;
    }

    /// Returns the end of the next line, if it is known.
    #[inline]
    fn next_end(&mut self) -> Option<usize> {
        let end = *self.ends[..self.count].get(self.taken)?;
        self.taken += 1;
        Some(end)
    }
}
