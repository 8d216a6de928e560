//! Reports of the records that links carry.

use super::directory::Applied;

/// The reason for sending a record to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was new to this node.
    Flooded,
    /// A comparison of digests showed that the peer lacks it.
    Repaired,
}

/// Observes the records that links receive and send. Dispatch is static: an observer that is not
/// enabled costs one check per record.
pub trait Observer {
    /// Returns whether the other methods have any effect.
    #[must_use]
    fn enabled(&self) -> bool {
        false
    }

    /// Called with the AT line of a record that `peer` sent, and with its effect.
    fn record_received(&mut self, _peer: &[u8], _line: &[u8], _applied: Applied) {}

    /// Called with the AT line of a record that is sent to `peer`.
    fn record_sent(&mut self, _peer: &[u8], _line: &[u8], _sent: Sent) {}
}

/// Observes nothing.
impl Observer for () {}
