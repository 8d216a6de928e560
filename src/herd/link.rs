//! The state of a link to one neighbor.

use core::ops::Range;
use core::time::Duration;

use super::anti_entropy::AntiEntropy;
use super::digest_key::KeyExchange;
use super::keepalive::Keepalive;
use super::link_states::Exchange;
use super::message::Purpose;
use super::namesakes::Rival;
use super::queue::SlotQueue;
use super::relay::LineQueue;
use crate::ids::{BootId, ConnectionId, LinkId, NodeId, Slot};
use crate::protocol::record::Record;
use crate::time::Instant;

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

/// The protocol of a neighbor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// The herd protocol.
    Herd,
    /// That of the original server: no handshake, bare AT lines, no digests.
    Legacy,
}

/// The original server that has sent a bare AT line. It opens a connection for each record and does
/// not identify itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacySender {
    /// The neighbor of this link.
    Neighbor(LinkId),
    /// One of several neighbors that connect from the same address.
    Unknown,
}

/// The end that dialed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node.
    Dialed,
    /// The peer.
    Accepted,
}

impl Origin {
    /// The same connection as seen by the peer.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Dialed => Self::Accepted,
            Self::Accepted => Self::Dialed,
        }
    }
}

/// A connection that has completed its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The connection.
    pub connection: ConnectionId,
    /// The node at the other end.
    pub peer: NodeId,
    /// Boot id of its process.
    pub boot: BootId,
    /// The end that dialed.
    pub origin: Origin,
}

/// A neighbor and the state needed to keep it linked.
pub struct Link {
    /// The neighbor.
    pub peer: NodeId,
    /// Its protocol.
    pub kind: PeerKind,
    /// The established link, if any.
    pub up: Option<Established>,
    /// True while a dial is in progress.
    pub(super) dialing: bool,
    /// The process whose connection was closed, perhaps in favor of the one that is being dialed. `None`
    /// unless the link is down and a dial is in progress.
    pub(super) gives_way: Option<BootId>,
    /// Time of the next dial.
    pub(super) next_dial: Instant,
    /// True if the link was lost since its end was last advertised.
    pub(super) was_lost: bool,
    pause: Duration,
}

/// An established link.
pub struct Established {
    /// The connection on which it sends.
    pub connection: ConnectionId,
    /// Records queued for the peer.
    pub flood: SlotQueue,
    /// Slots whose records an original server has yet to be sent because the link has come up: it cannot
    /// request records, and ignores those that it has.
    pub(super) refill: Range<u32>,
    /// Records queued for the peer that this node does not store.
    pub relayed: LineQueue,
    /// The state of anti-entropy.
    pub anti_entropy: AntiEntropy,
    pub(super) key_exchange: KeyExchange,
    /// The connection on which it receives, another one only while the link moves.
    pub(super) receives_on: ConnectionId,
    /// The connection that the link moves to, and the time until which it must have begun to.
    pub(super) successor: Option<(ConnectionId, Instant)>,
    /// `MOVED` must be sent.
    pub(super) moved_due: bool,
    /// The peer sends on the connection that the link moves to.
    pub(super) peer_has_moved: bool,
    pub(super) boot: BootId,
    pub(super) origin: Origin,
    since: Instant,
    pub(super) keepalive: Keepalive,
    /// True if the peer's clock is off by more than the limit.
    pub(super) clock_is_off: bool,
    /// The peer must be informed of the rules in force here.
    pub(super) rules_due: bool,
    /// The link states that the peer has and lacks.
    pub(super) states: Exchange,
    /// Another process that wants to link under the name of the peer.
    pub(super) rival: Option<Rival>,
    /// The start of the next check; `None` if the peer starts checks.
    pub(super) check_at: Option<Instant>,
    /// Set if the next record received is a repair.
    pub(super) announced_repair: Option<Purpose>,
}

impl Link {
    /// The state of a neighbor that is dialed at once.
    #[must_use]
    pub const fn new(peer: NodeId, kind: PeerKind, now: Instant) -> Self {
        Self {
            peer,
            kind,
            up: None,
            dialing: false,
            gives_way: None,
            next_dial: now,
            was_lost: false,
            pause: REDIAL_MIN,
        }
    }

    /// Returns whether the neighbor is an original server.
    #[must_use]
    pub const fn is_legacy(&self) -> bool {
        matches!(self.kind, PeerKind::Legacy)
    }

    /// Returns whether a dial is in progress.
    #[must_use]
    pub const fn is_dialing(&self) -> bool {
        self.dialing
    }

    /// The established link, if the neighbor uses the herd protocol.
    pub(super) const fn herd_peer(&mut self) -> Option<&mut Established> {
        match self.kind {
            PeerKind::Herd => self.up.as_mut(),
            PeerKind::Legacy => None,
        }
    }

    /// Schedules the next dial after a failed attempt or a lost link. `jitter` is 0..=255.
    pub(super) fn back_off(&mut self, now: Instant, most: Duration, jitter: u8) {
        self.dialing = false;
        // Between 75 % and 100 % of the pause, so that neighbors do not dial in lockstep.
        let pause = self.pause.mul_f64(1.0 - 0.25 * f64::from(jitter) / 256.0);
        self.next_dial = now + pause;
        self.pause = (self.pause * 2).min(most);
    }

    /// Takes the link down. Resets the redial pause if the link was up for [`STAYED_UP`].
    pub(super) fn take_down(&mut self, now: Instant) {
        self.was_lost = true;
        if self.up.take().is_some_and(|up| now.since(up.since) >= STAYED_UP) {
            self.pause = REDIAL_MIN;
        }
    }

    /// Queues the record in `slot` for the peer if it is linked.
    #[inline]
    pub(super) fn enqueue(&mut self, slot: Slot) {
        if let Some(up) = &mut self.up {
            up.flood.push(slot);
        }
    }

    /// Moves `record` from the queue of slots to that of lines if it waits to be sent to the peer, before
    /// it is removed from `slot`. The slot must leave the queue, since the next record in it may be one
    /// that the peer has sent. Returns the number of records dropped, 0 or 1.
    pub(super) fn relay_queued(&mut self, slot: Slot, record: &Record<'_>) -> u64 {
        let Some(up) = &mut self.up else { return 0 };
        if !up.flood.contains(slot) && !up.refill.contains(&slot.0) {
            return 0;
        }
        up.flood.withdraw(slot);
        self.enqueue_line(record)
    }

    /// Queues a record that is not stored for the peer if it is linked. Returns the number of records
    /// dropped, 0 or 1.
    pub(super) fn enqueue_line(&mut self, record: &Record<'_>) -> u64 {
        // An original server would not understand a tombstone.
        let is_unknown = self.is_legacy() && record.is_tombstone();
        let Some(up) = self.up.as_mut().filter(|_| !is_unknown) else { return 0 };
        u64::from(!up.relayed.push(record.line))
    }
}

impl Established {
    pub(super) fn new(connected: Connected, now: Instant) -> Self {
        Self {
            connection: connected.connection,
            receives_on: connected.connection,
            successor: None,
            moved_due: false,
            peer_has_moved: false,
            boot: connected.boot,
            origin: connected.origin,
            since: now,
            keepalive: Keepalive::new(now),
            clock_is_off: false,
            rules_due: false,
            states: Exchange::default(),
            rival: None,
            flood: SlotQueue::default(),
            refill: 0..0,
            relayed: LineQueue::default(),
            anti_entropy: AntiEntropy::default(),
            key_exchange: KeyExchange::default(),
            check_at: None,
            announced_repair: None,
        }
    }

    /// The time at which the link was established.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// The time at which the last line was received.
    #[must_use]
    pub const fn last_received(&self) -> Instant {
        self.keepalive.last_received()
    }

    /// Round trip of the last answered ping.
    #[must_use]
    pub const fn round_trip(&self) -> Option<Duration> {
        self.keepalive.round_trip()
    }

    /// Returns whether the peer's clock differs from this node's by more than half of Δ.
    #[must_use]
    pub const fn clock_is_off(&self) -> bool {
        self.clock_is_off
    }

    /// Returns the number of records that wait to be sent, at most: some slots may be free.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.flood.len() + self.refill.len()
    }

    /// Takes the next slot whose record must be sent. The caller prefers the refill every second time, so
    /// neither records that change nor the others wait for all of the rest.
    #[inline]
    pub(super) fn next_slot(&mut self, prefer_refill: bool) -> Option<Slot> {
        if self.refill.is_empty() {
            return self.flood.pop(); // nearly always
        }
        let changed = if prefer_refill { None } else { self.flood.pop() };
        changed.or_else(|| self.refill.next().map(Slot))
    }

    /// Returns another process that wants to link under the name of the peer, if there certainly is
    /// one.
    #[must_use]
    pub fn rival(&self, now: Instant) -> Option<BootId> {
        self.rival?.other(now)
    }

    /// Returns whether there is output to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        self.keepalive.has_output()
            || self.key_exchange.is_due
            || self.moved_due
            || self.rules_due
            || self.states.has_output()
            || !self.flood.is_empty()
            || !self.refill.is_empty()
            || !self.relayed.is_empty()
            || self.anti_entropy.has_output()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::at(Duration::from_millis(millis))
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_a_lasting_link_resets_them() {
        let most = Duration::from_millis(300);
        let connected = Connected {
            connection: ConnectionId(1),
            peer: NodeId(1),
            boot: BootId(1),
            origin: Origin::Dialed,
        };
        let mut link = Link::new(NodeId(1), PeerKind::Herd, Instant::START);
        let pause = |link: &mut Link, jitter| {
            link.back_off(Instant::START, most, jitter);
            link.next_dial.uptime().as_millis()
        };
        let pauses: Vec<_> = (0..5).map(|_| pause(&mut link, 0)).collect();
        assert_eq!(pauses, [50, 100, 200, 300, 300]);
        assert!((225..230).contains(&pause(&mut link, 255)));
        link.up = Some(Established::new(connected, Instant::START));
        link.take_down(at(4999));
        assert_eq!(pause(&mut link, 0), 300, "it did not stay up");
        link.up = Some(Established::new(connected, Instant::START));
        link.take_down(Instant::START + STAYED_UP);
        assert_eq!(pause(&mut link, 0), 50);
    }
}
