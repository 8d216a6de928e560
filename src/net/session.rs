//! The protocol on a connection: the line protocol, HTTP, or that of devices. The loop treats all alike.

use crate::devices::{self, DeviceSession, Devices};
use crate::http::limits::IDLE_TIMEOUT;
use crate::http::{Context, HttpSession, Server};
use crate::ids::LinkId;
use crate::limits::Limits;
use crate::node::store::Gated;
use crate::node::{Answer, Handled, Input, LineSession, Next, Node};
use crate::time::Instant;
use core::time::Duration;

/// The state machine of a connection.
pub enum Session {
    /// A client or a peer.
    Lines(LineSession),
    /// A browser or a tool.
    Http(HttpSession),
    /// A phone or a tracker.
    Device(DeviceSession),
}

impl Session {
    /// Address and port of the other end, for the log.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        match self {
            Self::Lines(session) => session.label(),
            Self::Http(session) => session.label(),
            Self::Device(session) => session.label(),
        }
    }

    /// Returns true if an HTTP connection was refused because a limit was reached.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        match self {
            Self::Http(session) => session.is_refused(),
            Self::Lines(_) | Self::Device(_) => false,
        }
    }

    /// The link that this connection carries.
    #[must_use]
    pub const fn link(&self) -> Option<LinkId> {
        match self {
            Self::Lines(session) => session.link(),
            Self::Http(_) | Self::Device(_) => None,
        }
    }

    /// Returns true if the connection is known to be a client's, a browser's or a device's.
    #[must_use]
    pub const fn is_client(&self) -> bool {
        match self {
            Self::Lines(session) => session.is_client(),
            Self::Http(_) | Self::Device(_) => true,
        }
    }

    /// Returns true while the handshake of a link is under way.
    #[must_use]
    pub const fn is_handshaking(&self) -> bool {
        match self {
            Self::Lines(session) => session.is_handshaking(),
            Self::Http(_) | Self::Device(_) => false,
        }
    }

    /// The link that this node is establishing on a connection that it dialed.
    #[must_use]
    pub fn dialing(&self, node: &Node) -> Option<LinkId> {
        match self {
            Self::Lines(session) => session.dialing(node),
            Self::Http(_) | Self::Device(_) => None,
        }
    }

    /// Returns true while a reply waits for places, or for the socket to take the rest of it.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        match self {
            Self::Lines(session) => session.is_waiting(),
            Self::Http(session) => session.is_waiting(),
            Self::Device(session) => session.is_waiting(),
        }
    }

    /// The client that the first line of `input` is about; see [`LineSession::first_client`].
    #[must_use]
    pub fn first_client<'i>(&self, input: &'i [u8]) -> Option<&'i [u8]> {
        match self {
            Self::Lines(session) => session.first_client(input),
            Self::Http(_) | Self::Device(_) => None,
        }
    }

    /// The idle timeout, which runs while no reply is pending.
    #[must_use]
    pub fn idle_timeout(&self, limits: &Limits) -> Option<Duration> {
        match self {
            Self::Lines(_) => limits.idle_timeout,
            Self::Http(_) | Self::Device(_) => {
                Some(limits.idle_timeout.map_or(IDLE_TIMEOUT, |idle| idle.min(IDLE_TIMEOUT)))
            }
        }
    }

    /// The bytes of an incomplete request that were consumed; `None` between two requests, and if input
    /// is consumed in whole lines or heads only.
    #[must_use]
    pub const fn received(&self) -> Option<usize> {
        match self {
            Self::Device(session) => session.received(),
            Self::Lines(_) | Self::Http(_) => None,
        }
    }

    /// The part of the last output that waits for the disk; see [`LineSession::take_gated`].
    pub const fn take_gated(&mut self) -> Option<Gated> {
        match self {
            Self::Lines(session) => session.take_gated(),
            Self::Device(session) => session.take_gated(),
            Self::Http(_) => None,
        }
    }

    /// Sets the node names that the peer's certificate is valid for.
    pub fn set_certified(&mut self, names: Vec<Vec<u8>>) {
        if let Self::Lines(session) = self {
            session.set_certified(names);
        }
    }

    /// Begins a graceful shutdown. Appends output to `out`.
    pub fn begin_shutdown(&mut self, out: &mut Vec<u8>) {
        match self {
            Self::Lines(session) => session.begin_shutdown(out),
            Self::Http(session) => session.begin_shutdown(),
            Self::Device(session) => session.begin_shutdown(),
        }
    }

    /// Executes `input` and appends output to `out`. `devices` is [`None`] unless devices can connect.
    pub fn handle_input(
        &mut self,
        cx: &mut Context<'_>,
        devices: Option<&mut Devices>,
        input: Input<'_>,
        out: &mut Vec<u8>,
    ) -> Handled {
        match (self, devices) {
            (Self::Lines(session), _) => session.handle_input(cx.node, input, cx.now, out),
            (Self::Http(session), _) => session.handle_input(cx, input, out),
            (Self::Device(session), Some(devices)) => {
                let mut cx = devices::Context { devices, node: cx.node, now: cx.now };
                session.handle_input(&mut cx, input, out)
            }
            (Self::Device(_), None) => Handled { consumed: 0, next: Next::ShutdownWhenFlushed },
        }
    }

    /// Replaces output that was dropped because the disk lacks a record. Appends output to `out`.
    pub fn handle_refused(&mut self, devices: Option<&mut Devices>, out: &mut Vec<u8>) {
        if let (Self::Device(session), Some(devices)) = (self, devices) {
            session.handle_refused(devices, out);
        }
    }

    /// Completes the reply that waited for places, and appends the output that it held back to `out`.
    pub fn handle_answer(
        &mut self,
        node: &mut Node,
        http: &mut Server,
        answer: &Answer,
        out: &mut Vec<u8>,
    ) {
        match self {
            Self::Lines(session) => session.handle_answer(node, answer, out),
            Self::Http(session) => session.handle_answer(http, answer, out),
            Self::Device(_) => {}
        }
    }

    /// Releases the session's resources after its connection has closed.
    pub fn handle_closed(
        &mut self,
        node: &mut Node,
        http: &mut Server,
        devices: Option<&mut Devices>,
        now: Instant,
    ) {
        match (self, devices) {
            (Self::Lines(session), _) => session.handle_closed(node, now),
            (Self::Http(session), _) => session.handle_closed(node, http, now),
            (Self::Device(session), Some(devices)) => session.handle_closed(devices),
            (Self::Device(_), None) => {}
        }
    }
}
