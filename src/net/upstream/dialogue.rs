//! What the sockets need from the client that they belong to.

use core::hash::Hash;
use core::time::Duration;

use crate::feed::Feed;
use crate::places::http::Eof;
use crate::places::upstream::{Client, ConnId, TransportError};
use crate::time::Instant;

/// A state machine that decides what is sent on which connection. The call order is that of
/// [`crate::places::upstream`].
pub trait Dialogue {
    /// The name of a connection.
    type Id: Copy + Eq + Hash;

    /// Returns a connection to close.
    fn poll_close(&mut self) -> Option<Self::Id>;
    /// Returns a connection to establish.
    fn poll_connect(&mut self) -> Option<Self::Id>;
    /// Appends bytes to send, and returns the connection.
    fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<Self::Id>;
    /// Returns the time for which it is not worth reading what arrives, once everything has been sent.
    fn pause(&self) -> Option<Duration> {
        None
    }
    /// Handles a connection whose host name has been resolved.
    fn handle_resolved(&mut self, id: Self::Id);
    /// Handles a connection that is established.
    fn handle_connected(&mut self, id: Self::Id, now: Instant);
    /// Handles bytes that have arrived.
    fn handle_input(&mut self, id: Self::Id, bytes: &[u8], now: Instant);
    /// Handles the end of the stream.
    fn handle_eof(&mut self, id: Self::Id, eof: Eof, now: Instant);
    /// Handles a connection that has failed.
    fn handle_failed(&mut self, id: Self::Id, error: &TransportError, now: Instant);
}

impl Dialogue for Client {
    type Id = ConnId;

    fn poll_close(&mut self) -> Option<ConnId> {
        Self::poll_close(self)
    }

    fn poll_connect(&mut self) -> Option<ConnId> {
        Self::poll_connect(self)
    }

    fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<ConnId> {
        Self::poll_output(self, out)
    }

    fn handle_resolved(&mut self, id: ConnId) {
        Self::handle_resolved(self, id);
    }

    fn handle_connected(&mut self, id: ConnId, now: Instant) {
        Self::handle_connected(self, id, now);
    }

    fn handle_input(&mut self, id: ConnId, bytes: &[u8], now: Instant) {
        Self::handle_input(self, id, bytes, now);
    }

    fn handle_eof(&mut self, id: ConnId, eof: Eof, now: Instant) {
        Self::handle_eof(self, id, eof, now);
    }

    fn handle_failed(&mut self, id: ConnId, error: &TransportError, now: Instant) {
        Self::handle_failed(self, id, error, now);
    }
}

impl Dialogue for Feed {
    type Id = u64;

    fn poll_close(&mut self) -> Option<u64> {
        Self::poll_close(self)
    }

    fn poll_connect(&mut self) -> Option<u64> {
        Self::poll_connect(self)
    }

    fn poll_output(&mut self, out: &mut Vec<u8>) -> Option<u64> {
        Self::poll_output(self, out)
    }

    fn pause(&self) -> Option<Duration> {
        Self::pause(self)
    }

    fn handle_resolved(&mut self, _: u64) {}

    fn handle_connected(&mut self, id: u64, now: Instant) {
        Self::handle_connected(self, id, now);
    }

    fn handle_input(&mut self, id: u64, bytes: &[u8], now: Instant) {
        Self::handle_input(self, id, bytes, now);
    }

    fn handle_eof(&mut self, id: u64, eof: Eof, now: Instant) {
        Self::handle_eof(self, id, eof, now);
    }

    fn handle_failed(&mut self, id: u64, error: &TransportError, now: Instant) {
        let reason = match error {
            TransportError::Resolve(why) => format!("the host name cannot be resolved: {why}"),
            TransportError::Connect(why) => format!("no connection: {why}"),
            TransportError::Tls(why) => format!("TLS: {why}"),
            TransportError::Io(why) => format!("the connection was lost: {why}"),
        };
        Self::handle_failed(self, id, &reason, now);
    }
}
