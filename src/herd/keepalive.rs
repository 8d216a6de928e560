//! Pings on a link: detecting a silent peer, measuring the round trip, comparing clocks.
//!
//! Every line received shows that the peer is alive. A ping ensures that there is such a line, and
//! its pong carries the peer's wall clock.

use core::time::Duration;

use super::message::{push_ping, push_pong};
use crate::protocol::time::Nanos;
use crate::time::{Instant, Wall};

/// The state of keepalive on one link.
pub struct Keepalive {
    last_received: Instant,
    next_ping: Instant,
    /// True if a ping must be sent.
    is_due: bool,
    /// Id of the last ping sent. Ids count from 1.
    last_id: u64,
    /// The oldest ping that has not been answered.
    awaited: Option<Ping>,
    /// Id of the peer's ping that must be answered.
    unanswered: Option<u64>,
    round_trip: Option<Duration>,
}

/// A ping that awaits its pong.
struct Ping {
    id: u64,
    sent_at: Wall,
}

/// An estimate of the difference between the peer's wall clock and this node's, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// The peer's clock minus this node's.
    pub estimate: Nanos,
    /// Maximum error of the estimate: half of the round trip.
    pub uncertainty: Nanos,
}

impl ClockOffset {
    /// Returns whether the clocks certainly differ by more than `most`.
    #[must_use]
    pub const fn exceeds(&self, most: Nanos) -> bool {
        self.estimate.abs() - self.uncertainty > most
    }
}

impl Keepalive {
    /// The state of a link established at `now`. The first ping is due at once.
    #[must_use]
    pub const fn new(now: Instant) -> Self {
        Self {
            last_received: now,
            next_ping: now,
            is_due: false,
            last_id: 0,
            awaited: None,
            unanswered: None,
            round_trip: None,
        }
    }

    /// The time at which the last line was received.
    #[must_use]
    pub const fn last_received(&self) -> Instant {
        self.last_received
    }

    /// Round trip of the last answered ping.
    #[must_use]
    pub const fn round_trip(&self) -> Option<Duration> {
        self.round_trip
    }

    /// Id of the last ping sent; 0 before the first.
    #[must_use]
    pub const fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Records that a line was received.
    pub const fn handle_line(&mut self, now: Instant) {
        self.last_received = now;
    }

    /// Queues the answer to a ping of the peer. Only the last of several pings received together is
    /// answered.
    pub const fn handle_ping(&mut self, id: u64) {
        self.unanswered = Some(id);
    }

    /// Handles a pong that carries the peer's wall clock. It answers all pings up to `id`. Returns
    /// `None` if it answers none that is awaited.
    pub fn handle_pong(&mut self, id: u64, theirs: Wall, now: Wall) -> Option<ClockOffset> {
        let last_id = self.last_id;
        let Ping { sent_at, .. } =
            self.awaited.take_if(|awaited| (awaited.id..=last_id).contains(&id))?;
        let elapsed = now - sent_at;
        // Wrong once if the wall clock is stepped in between.
        self.round_trip = Some(Duration::from_nanos(elapsed.max(0) as u64));
        // The estimate assumes that the peer read its clock halfway between ping and pong. The real
        // time is unknown within the round trip, which takes seconds if a long queue delays the
        // ping.
        Some(ClockOffset {
            estimate: theirs.nanos() - (sent_at.nanos() + now.nanos()).div_euclid(2),
            uncertainty: elapsed.abs().div_euclid(2),
        })
    }

    /// Returns whether nothing has been received for `timeout`.
    #[must_use]
    pub fn is_silent(&self, timeout: Duration, now: Instant) -> bool {
        self.last_received + timeout <= now
    }

    /// Queues a ping if one is due. The next is due `interval` later.
    pub fn handle_timeout(&mut self, interval: Duration, now: Instant) {
        if self.next_ping <= now {
            self.is_due = true;
            self.next_ping = now + interval;
        }
    }

    /// Returns when the next ping is due, or the peer has been silent for `timeout`.
    #[must_use]
    pub fn poll_timeout(&self, timeout: Duration) -> Instant {
        self.next_ping.min(self.last_received + timeout)
    }

    /// Returns whether there is a ping or pong to send.
    #[must_use]
    pub const fn has_output(&self) -> bool {
        self.is_due || self.unanswered.is_some()
    }

    /// Appends the pong and the ping that are queued. The ping carries `hash`.
    pub fn poll_transmit(&mut self, hash: Option<u64>, wall: Wall, out: &mut Vec<u8>) {
        if let Some(id) = self.unanswered.take() {
            push_pong(out, id, wall);
        }
        if core::mem::take(&mut self.is_due) {
            self.last_id += 1;
            // Measure from the oldest unanswered ping: if the round trip exceeds the ping interval,
            // no pong would answer the last one.
            self.awaited.get_or_insert(Ping { id: self.last_id, sent_at: wall });
            push_ping(out, self.last_id, hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::time::SECOND;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn second(n: u64) -> Instant {
        Instant::at(Duration::from_secs(n))
    }

    fn wall(seconds: i128) -> Wall {
        Wall(seconds * SECOND)
    }

    /// Sends the ping that is due at `n` seconds.
    fn ping(keepalive: &mut Keepalive, n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        keepalive.handle_timeout(INTERVAL, second(n));
        keepalive.poll_transmit(Some(0xab), wall(n.into()), &mut out);
        out
    }

    #[test]
    fn pings_are_sent_at_the_interval() {
        let mut keepalive = Keepalive::new(Instant::START);
        assert_eq!(keepalive.poll_timeout(INTERVAL * 5), Instant::START);
        assert_eq!(ping(&mut keepalive, 0), b"PING 1 ab\n");
        assert_eq!(keepalive.poll_timeout(INTERVAL * 5), second(1));
        assert!(!keepalive.has_output());
        assert_eq!(ping(&mut keepalive, 1), b"PING 2 ab\n");
    }

    #[test]
    fn only_the_last_of_several_pings_is_answered() {
        let mut keepalive = Keepalive::new(Instant::START);
        keepalive.handle_ping(0xa);
        keepalive.handle_ping(0xb);
        let mut out = Vec::new();
        keepalive.poll_transmit(None, wall(7), &mut out);
        assert_eq!(out, b"PONG b 7000000000\n");
    }

    #[test]
    fn a_pong_measures_from_the_oldest_unanswered_ping() {
        let mut keepalive = Keepalive::new(Instant::START);
        (0..3).for_each(|n| drop(ping(&mut keepalive, n)));
        assert_eq!(keepalive.handle_pong(4, wall(0), wall(3)), None, "never sent");
        // Ping 1 was sent at 0 s, its pong arrives at 4 s, and the peer's clock is 10 s ahead.
        let offset = keepalive.handle_pong(3, wall(12), wall(4)).unwrap();
        assert_eq!(offset, ClockOffset { estimate: 10 * SECOND, uncertainty: 2 * SECOND });
        assert!(offset.exceeds(7 * SECOND) && !offset.exceeds(8 * SECOND));
        assert_eq!(keepalive.round_trip(), Some(Duration::from_secs(4)));
        assert_eq!(keepalive.handle_pong(3, wall(12), wall(4)), None, "already answered");
    }

    #[test]
    fn any_line_shows_that_the_peer_is_alive() {
        let mut keepalive = Keepalive::new(Instant::START);
        assert!(keepalive.is_silent(INTERVAL, second(1)));
        keepalive.handle_line(second(1));
        assert!(!keepalive.is_silent(INTERVAL, second(1)));
        assert!(keepalive.is_silent(INTERVAL, second(2)));
    }
}
