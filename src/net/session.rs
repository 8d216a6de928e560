//! What is spoken on a connection: the line protocol or HTTP. The loop treats both alike.

use crate::herd::LinkId;
use crate::http::limits::IDLE_TIMEOUT;
use crate::http::{self, Context, Server};
use crate::limits::Limits;
use crate::node::{self, Next, Node, Now, Stall};
use crate::places::Ticket;
use core::time::Duration;

/// The state machine of a connection.
pub enum Session {
    /// A client or a peer.
    Lines(node::LineSession),
    /// A browser or a tool.
    Http(http::HttpSession),
}

impl Session {
    /// The other end's address.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        match self {
            Self::Lines(session) => session.label(),
            Self::Http(session) => session.label(),
        }
    }

    /// The link that runs on this connection.
    #[must_use]
    pub const fn link(&self) -> Option<LinkId> {
        match self {
            Self::Lines(session) => session.link(),
            Self::Http(_) => None,
        }
    }

    /// Whether it is known to be a client's or a browser's.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        match self {
            Self::Lines(session) => session.is_client(),
            Self::Http(_) => true,
        }
    }

    /// Whether a handshake of peers is under way.
    #[must_use]
    pub const fn is_shaking(&self) -> bool {
        match self {
            Self::Lines(session) => session.is_shaking(),
            Self::Http(_) => false,
        }
    }

    /// The link that this node dialled and that is not there yet.
    #[must_use]
    pub fn dialling(&self, node: &Node) -> Option<LinkId> {
        match self {
            Self::Lines(session) => session.dialling(node),
            Self::Http(_) => None,
        }
    }

    /// Whether replies wait for places.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        match self {
            Self::Lines(session) => session.is_waiting(),
            Self::Http(session) => session.is_waiting(),
        }
    }

    /// Whether the end of the other side is the end of all, because nothing but the node speaks.
    #[must_use]
    pub const fn only_listens(&self) -> bool {
        match self {
            Self::Lines(_) => false,
            Self::Http(session) => session.is_subscribed(),
        }
    }

    /// How long the other end may say nothing while nothing is owed.
    #[must_use]
    pub fn idle_timeout(&self, limits: &Limits) -> Option<Duration> {
        match self {
            Self::Lines(_) => limits.idle_timeout,
            Self::Http(_) => {
                Some(limits.idle_timeout.map_or(IDLE_TIMEOUT, |idle| idle.min(IDLE_TIMEOUT)))
            }
        }
    }

    /// Whether enough is owed for now. `out` are the bytes not taken by the socket.
    #[must_use]
    pub fn is_full(&self, node: &Node, http: &Server, out: usize) -> bool {
        match self {
            Self::Lines(session) => session.is_full(node, out),
            Self::Http(session) => session.is_full(http, out),
        }
    }

    /// Why the other end is not read from, where that is for what it is owed.
    #[must_use]
    pub fn stall(&self, node: &Node, out: usize) -> Option<Stall> {
        match self {
            Self::Lines(session) => session.stall(node, out),
            Self::Http(session) => session.stall(out),
        }
    }

    /// Whether a WHATSAT waits to be asked until fewer of all connections wait.
    #[must_use]
    pub fn is_starved(&self, node: &Node) -> bool {
        match self {
            Self::Lines(session) => session.is_starved(node),
            Self::Http(_) => false,
        }
    }

    /// The other end has shown a certificate for these nodes.
    pub fn certify(&mut self, names: Vec<Vec<u8>>) {
        if let Self::Lines(session) = self {
            session.certify(names);
        }
    }

    /// The node ends the connection: nothing more is executed, what is owed is still sent. Returns
    /// what is next.
    pub fn hang_up(&mut self) -> Next {
        match self {
            Self::Lines(session) => {
                session.hang_up();
                Next::HangUp
            }
            Self::Http(session) => session.hang_up(),
        }
    }

    /// Takes `input` and appends to `out` what there is to send. Returns how much was consumed, and
    /// what is next.
    pub fn receive(
        &mut self,
        cx: &mut Context<'_>,
        input: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> (usize, Next) {
        match self {
            Self::Lines(session) => session.receive(cx.node, input, end, cx.now, out),
            Self::Http(session) => session.receive(cx, input, end, out),
        }
    }

    /// The document for `ticket` has come. Appends to `out` what may leave now.
    pub fn answer(
        &mut self,
        node: &mut Node,
        http: &mut Server,
        ticket: Ticket,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Lines(session) => session.answer(node, ticket, out),
            Self::Http(session) => session.answer(node, http, ticket, out),
        }
    }

    /// The connection is gone.
    pub fn close(&mut self, node: &mut Node, http: &mut Server, now: &Now) {
        match self {
            Self::Lines(session) => session.close(node, now),
            Self::Http(session) => session.close(node, http, now),
        }
    }
}
