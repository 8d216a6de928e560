//! The state of a link to one neighbor.

use core::time::Duration;

use super::anti_entropy::Exchange;
use super::directory::Slot;
use super::message::Purpose;
use super::queue::{NumberSet, SlotQueue};
use super::routes::NodeId;
use crate::protocol::time::Nanos;

/// The event loop's id of a connection, which the core only returns to it.
pub type ConnectionId = u64;

/// Time allowed for a neighbor to accept a TCP connection: one that is up does so within a round
/// trip.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Time allowed for each handshake on a connection, that of TLS and that of the herd's protocol.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Initial pause before a redial. It doubles with every failure.
pub const REDIAL_MIN: Duration = Duration::from_millis(50);

/// A link that was up for this long resets the pause to [`REDIAL_MIN`].
const STAYED_UP: Duration = Duration::from_secs(5);

/// Nodes that start simultaneously dial each other. Of two links younger than this, the one dialed
/// by the node with the lesser name is kept. An older link is assumed to be dead at the other end.
///
/// An attempt that started before the other link was established may take this long. With a shorter
/// time, each end could keep the link that the other closes.
pub const DIAL_RACE: Duration = DIAL_TIMEOUT.saturating_add(HANDSHAKE_TIMEOUT);

/// A neighbor and the state needed to keep it linked.
pub struct Link {
    /// The neighbor.
    pub peer: NodeId,
    /// Whether the neighbor is an original server: no handshake, bare AT lines, no digests.
    pub seed_compatible: bool,
    /// The established link, if any.
    pub up: Option<Up>,
    /// Whether a dial is in progress.
    pub dialling: bool,
    /// Time of the next dial.
    pub next_dial: Duration,
    pause: Duration,
}

/// An established link.
pub struct Up {
    /// Its connection.
    pub connection: ConnectionId,
    /// Boot id of the peer process, which changes on every restart.
    pub boot: u64,
    /// Whether this node dialed.
    pub dialled: bool,
    /// When it was established.
    pub since: Duration,
    /// When the last message was received.
    pub heard: Duration,
    /// When the next ping is due.
    pub ping_at: Duration,
    /// Whether a ping is due.
    pub ping: bool,
    /// Number of pings sent, which is also the id of the last one.
    pub pings: u64,
    /// Round-trip time of the last answered ping.
    pub round_trip: Option<Duration>,
    /// Id of the last ping sent before the sums of all records. A pong to a later ping shows that
    /// the peer has compared them.
    pub sums_sent_at: Option<u64>,
    /// The ping that awaits its pong: its id, and the wall clock when it was sent.
    pub pinged: Option<(u64, Nanos)>,
    /// The ping of the peer that must be answered.
    pub pong: Option<u64>,
    /// Whether the clock offset of the peer exceeds the limit.
    pub clock_is_off: bool,
    /// Nodes whose link state is queued for the peer.
    pub tell: NumberSet,
    /// Records queued for the peer.
    pub flood: SlotQueue,
    /// State of anti-entropy.
    pub exchange: Exchange,
    /// When this node starts the next check; `None` if the peer starts checks.
    pub check_at: Option<Duration>,
    /// Whether the next record received was sent by anti-entropy, and why.
    pub repair: Option<Purpose>,
}

impl Link {
    /// Creates the state of a neighbor that is dialed at once.
    #[must_use]
    pub const fn new(peer: NodeId, seed_compatible: bool, now: Duration) -> Self {
        Self { peer, seed_compatible, up: None, dialling: false, next_dial: now, pause: REDIAL_MIN }
    }

    /// Schedules the next dial after a failed attempt or a lost link. `jitter` is 0..=255.
    pub fn back_off(&mut self, now: Duration, most: Duration, jitter: u8) {
        self.dialling = false;
        // Between 75 % and 100 % of the pause, so that neighbors do not dial in lockstep.
        let pause = self.pause.mul_f64(1.0 - 0.25 * f64::from(jitter) / 256.0);
        self.next_dial = now + pause;
        self.pause = (self.pause * 2).min(most);
    }

    /// Takes the link down. Resets the redial pause if the link was up for [`STAYED_UP`].
    pub fn take_down(&mut self, now: Duration) -> Option<Up> {
        let up = self.up.take()?;
        if now.saturating_sub(up.since) >= STAYED_UP {
            self.pause = REDIAL_MIN;
        }
        Some(up)
    }

    /// Queues `slot` for the peer if it is linked.
    pub fn owe(&mut self, slot: Slot) {
        if let Some(up) = &mut self.up {
            up.flood.push(slot);
        }
    }
}

impl Up {
    /// Creates the state of a link that has just been established.
    #[must_use]
    pub fn new(connection: ConnectionId, boot: u64, dialled: bool, now: Duration) -> Self {
        Self {
            connection,
            boot,
            dialled,
            since: now,
            heard: now,
            ping_at: now,
            ping: false,
            pings: 0,
            round_trip: None,
            sums_sent_at: None,
            pinged: None,
            pong: None,
            clock_is_off: false,
            tell: NumberSet::default(),
            flood: SlotQueue::default(),
            exchange: Exchange::default(),
            check_at: None,
            repair: None,
        }
    }

    /// Returns whether there is output to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.ping
            || self.pong.is_some()
            || !self.tell.is_empty()
            || !self.flood.is_empty()
            || self.exchange.has_output()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_a_lasting_link_resets_them() {
        let most = Duration::from_millis(300);
        let mut link = Link::new(1, false, Duration::ZERO);
        let pauses: Vec<_> = (0..5)
            .map(|_| {
                link.back_off(Duration::ZERO, most, 0);
                link.next_dial.as_millis()
            })
            .collect();
        assert_eq!(pauses, [50, 100, 200, 300, 300]);
        link.back_off(Duration::ZERO, most, 255);
        assert!((225..230).contains(&link.next_dial.as_millis()));
        link.up = Some(Up::new(1, 1, true, Duration::ZERO));
        link.take_down(Duration::from_millis(4999));
        link.back_off(Duration::ZERO, most, 0);
        assert_eq!(link.next_dial.as_millis(), 300, "it did not stay up");
        link.up = Some(Up::new(1, 1, true, Duration::ZERO));
        link.take_down(STAYED_UP);
        link.back_off(Duration::ZERO, most, 0);
        assert_eq!(link.next_dial.as_millis(), 50);
    }
}
