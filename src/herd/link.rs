//! One edge of the topology, as this node sees it.

use core::time::Duration;

use super::anti_entropy::Exchange;
use super::directory::Slot;
use super::message::Purpose;
use super::queue::{NumberSet, SlotQueue};
use super::routes::NodeId;
use crate::protocol::time::Nanos;

/// The shell's name for a connection; the core only hands it back.
pub type ConnectionId = u64;

/// Time allowed for a neighbor to accept a TCP connection: one that is up does so within a round
/// trip.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Time allowed for each handshake on a connection, that of TLS and that of the herd's protocol.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// First pause before a neighbour is dialled again; it doubles from there.
pub const REDIAL_MIN: Duration = Duration::from_millis(50);

/// A link that stood this long was a good one: the next pause is the first again.
const STAYED_UP: Duration = Duration::from_secs(5);

/// Two nodes that start together dial each other. Of two links younger than this, the one that the
/// node with the lesser name dialled stays; an older one is taken to be dead at the other end.
///
/// An attempt that began before the other link stood may take this long to become one. Were it
/// less, either end could keep the link that the other gives up.
pub const DIAL_RACE: Duration = DIAL_TIMEOUT.saturating_add(HANDSHAKE_TIMEOUT);

/// An edge of the topology and what it takes to keep it linked.
pub struct Link {
    /// The neighbour.
    pub peer: NodeId,
    /// Whether the neighbour is the seed's server: no handshake, bare AT lines, no digests.
    pub seed_compatible: bool,
    /// The link, while it stands.
    pub up: Option<Up>,
    /// Whether an attempt to reach the neighbour is under way.
    pub dialling: bool,
    /// When to try next.
    pub next_dial: Duration,
    pause: Duration,
}

/// A link that stands.
pub struct Up {
    /// Its connection.
    pub connection: ConnectionId,
    /// The life of the neighbour that it leads to.
    pub boot: u64,
    /// Whether this node dialled.
    pub dialled: bool,
    /// Since when it stands.
    pub since: Duration,
    /// When something last came.
    pub heard: Duration,
    /// When the next ping is due.
    pub ping_at: Duration,
    /// A ping is due now.
    pub ping: bool,
    /// Pings sent.
    pub pings: u64,
    /// How long the last answer to one took.
    pub round_trip: Option<Duration>,
    /// The sums of all records went to the peer behind this ping; it has not contradicted yet.
    pub sums_sent_at: Option<u64>,
    /// The ping whose answer is waited for: its id, and the wall clock when it was sent.
    pub pinged: Option<(u64, Nanos)>,
    /// The ping of the peer that is to be answered.
    pub pong: Option<u64>,
    /// Whether the peer's clock was found too far off.
    pub clock_is_off: bool,
    /// Nodes whose link state the peer is to be told.
    pub tell: NumberSet,
    /// Records the peer is to be told.
    pub flood: SlotQueue,
    /// Anti-entropy.
    pub exchange: Exchange,
    /// When this node opens the next check; `None`: the peer does.
    pub check_at: Option<Duration>,
    /// The next record is one that anti-entropy brings.
    pub repair: Option<Purpose>,
}

impl Link {
    /// A neighbour that is to be dialled at once.
    #[must_use]
    pub const fn new(peer: NodeId, seed_compatible: bool, now: Duration) -> Self {
        Self { peer, seed_compatible, up: None, dialling: false, next_dial: now, pause: REDIAL_MIN }
    }

    /// The neighbour was not reached, or the link broke: try again later. `jitter` is 0..=255.
    pub fn back_off(&mut self, now: Duration, most: Duration, jitter: u8) {
        self.dialling = false;
        // Between three quarters and all of the pause, so that neighbours do not dial in step.
        let pause = self.pause.mul_f64(1.0 - 0.25 * f64::from(jitter) / 256.0);
        self.next_dial = now + pause;
        self.pause = (self.pause * 2).min(most);
    }

    /// The link broke. Whether it had stood for long decides about the next pause.
    pub fn take_down(&mut self, now: Duration) -> Option<Up> {
        let up = self.up.take()?;
        if now.saturating_sub(up.since) >= STAYED_UP {
            self.pause = REDIAL_MIN;
        }
        Some(up)
    }

    /// Queues `slot` for the peer, if it is linked.
    pub fn owe(&mut self, slot: Slot) {
        if let Some(up) = &mut self.up {
            up.flood.push(slot);
        }
    }
}

impl Up {
    /// A link that has just been established.
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

    /// Whether there is something to send.
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
    fn pauses_double_to_a_cap_and_a_good_link_resets_them() {
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
