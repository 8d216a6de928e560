//! Relaying: forwarding records that this node does not store because they are not alive by its clock.
//!
//! The trees lead through this node regardless of its clock, so it must forward all records. One that
//! is stored is recognized when it arrives again over a cycle of links. One that is not would circulate
//! among nodes that do not store it; therefore each node remembers what it has relayed in the last
//! five to ten seconds, which is many times as long as a record takes around a cycle.

use core::time::Duration;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::directory::{Applied, Source};
use super::link::Link;
use super::{Counters, Herd};
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::time::{Instant, Wall};

/// The time after which what was relayed is forgotten; at most twice as long.
const MEMORY: Duration = Duration::from_secs(5);

/// Maximum number of records relayed within [`MEMORY`]: 52,000 per second, in 4.7 MB, which are
/// allocated only when needed. What exceeds it is not forwarded, since it could circulate, and is counted.
const MOST: usize = 262_144;

/// Maximum number of bytes that wait in a [`LineQueue`]. Further lines are dropped.
const QUEUE: usize = 1 << 20;

/// The records relayed recently, as keyed hashes of their lines.
pub struct Relayed {
    key: (u64, u64),
    recent: HashTable<u64>,
    before: HashTable<u64>,
    /// The time at which `recent` becomes `before`.
    turns_at: Instant,
}

impl Relayed {
    /// Remembers nothing. `key` is secret, so that no peer can choose lines that collide.
    #[must_use]
    pub const fn new(key: (u64, u64), now: Instant) -> Self {
        Self { key, recent: HashTable::new(), before: HashTable::new(), turns_at: now }
    }

    /// Decides whether `line` must be relayed now, and remembers it.
    pub fn admit(&mut self, line: &[u8]) -> Admission {
        let hash = SipHasher13::new_with_keys(self.key.0, self.key.1).hash(line);
        let is_known = |table: &HashTable<u64>| table.find(hash, |&held| held == hash).is_some();
        if is_known(&self.recent) || is_known(&self.before) {
            return Admission::Known;
        }
        if self.recent.len() >= MOST {
            return Admission::Full;
        }
        if self.recent.capacity() == 0 {
            self.recent = HashTable::with_capacity(MOST); // growing it later would take milliseconds
        }
        self.recent.insert_unique(hash, hash, |&hash| hash);
        Admission::New
    }

    /// Forgets what was relayed long ago.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.turns_at <= now {
            self.turns_at = now + MEMORY;
            self.before = core::mem::take(&mut self.recent);
        }
    }
}

/// Whether a record must be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes: it is new.
    New,
    /// No: it was relayed recently.
    Known,
    /// No: it may be new, but too many have been relayed for it to be remembered.
    Full,
}

/// Lines that wait to be sent, in order.
#[derive(Default)]
pub struct LineQueue {
    /// Lines with their LF.
    bytes: Vec<u8>,
    /// Number of bytes that have been taken out.
    taken: usize,
}

impl LineQueue {
    /// Returns whether no line waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the number of bytes in use, including those of lines that have been taken out.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends `line`, given without LF. Returns false if there is no room for it.
    pub fn push(&mut self, line: &[u8]) -> bool {
        if self.bytes.len() + line.len() >= QUEUE && self.taken > QUEUE / 2 {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        let fits = self.bytes.len() + line.len() < QUEUE;
        if fits {
            self.bytes.extend_from_slice(line);
            self.bytes.push(b'\n');
        }
        fits
    }

    /// Appends the next line to `out`, with its LF, and returns it without LF.
    #[inline]
    pub fn pop<'o>(&mut self, out: &'o mut Vec<u8>) -> Option<&'o [u8]> {
        if self.is_empty() { None } else { self.take_line(out) }
    }

    fn take_line<'o>(&mut self, out: &'o mut Vec<u8>) -> Option<&'o [u8]> {
        let rest = &self.bytes[self.taken..];
        let length = memchr::memchr(b'\n', rest)?;
        let start = out.len();
        out.extend_from_slice(&rest[..=length]);
        self.taken += length + 1;
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
        Some(&out[start..start + length])
    }
}

impl Herd {
    /// Stores `record` if it is newer than the stored one.
    pub(super) fn apply(&mut self, record: &Record<'_>, source: Source, wall: Wall) -> Applied {
        let (links, counters) = (&mut self.links, &mut self.counters);
        self.directory.apply_with(record, source, wall, |slot, expired| {
            relay_queued(links, counters, slot, expired);
        })
    }
}

/// Relays a record that is removed from its slot because it is not alive to the peers that it waits for:
/// they may consider alive what this node does not.
#[cold]
pub(super) fn relay_queued(
    links: &mut [Link],
    counters: &mut Counters,
    slot: Slot,
    record: &Record<'_>,
) {
    for link in links {
        counters.relays_dropped += link.relay_queued(slot, record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_relayed_once_until_it_is_forgotten() {
        let mut relayed = Relayed::new((1, 2), Instant::START);
        relayed.handle_timeout(Instant::START);
        let mut now = Instant::START + MEMORY.saturating_sub(Duration::from_millis(1));
        relayed.handle_timeout(now);
        assert_eq!(relayed.admit(b"one"), Admission::New);
        for _ in 0..2 {
            assert_eq!(relayed.admit(b"one"), Admission::Known);
            relayed.handle_timeout(now);
            assert_eq!(relayed.admit(b"one"), Admission::Known, "around the first turn");
            now += Duration::from_millis(1);
        }
        relayed.handle_timeout(now + MEMORY);
        assert_eq!(relayed.admit(b"one"), Admission::New);
    }

    #[test]
    fn the_number_of_remembered_lines_is_bounded() {
        let mut relayed = Relayed::new((1, 2), Instant::START);
        relayed.handle_timeout(Instant::START);
        let mut admit = |i: usize| relayed.admit(&i.to_be_bytes());
        assert!((0..MOST).all(|i| admit(i) == Admission::New));
        assert!((MOST..MOST + 10).all(|i| admit(i) == Admission::Full));
        assert_eq!(admit(0), Admission::Known);
        relayed.handle_timeout(Instant::START + MEMORY);
        assert_eq!(relayed.admit(b"more"), Admission::New);
        assert_eq!(relayed.admit(&0usize.to_be_bytes()), Admission::Known);
    }

    #[test]
    fn lines_wait_in_order_and_in_bounded_memory() {
        let mut queue = LineQueue::default();
        let line = |i: usize| format!("line {i:050}").into_bytes();
        let (mut pushed, mut popped) = (0, 0);
        for round in 0..200 {
            for _ in 0..1000 {
                pushed += usize::from(queue.push(&line(pushed)));
                assert!(queue.len() <= QUEUE);
            }
            for _ in 0..round * 10 {
                let mut out = b"before".to_vec();
                let Some(taken) = queue.pop(&mut out) else { break };
                assert_eq!(taken, line(popped));
                assert!(out.starts_with(b"before") && out.ends_with(b"\n"));
                popped += 1;
            }
        }
        while queue.pop(&mut Vec::new()).is_some() {
            popped += 1;
        }
        assert!(queue.is_empty() && pushed == popped && pushed > QUEUE / 60, "{pushed}");
    }
}
