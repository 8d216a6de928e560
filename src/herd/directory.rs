//! The newest record of every client.
//!
//! Records live in numbered slots; an index finds a client's slot. The index is cut into shards by
//! the herd-wide hash of the client, so that no growth of one table is long enough to notice, and
//! so that anti-entropy can list one leaf of the digest tree without walking all clients.

use core::cmp::Ordering;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::digest::{Leaf, Sums};
use super::eviction::{Candidate, Candidates};
pub use super::slots::{MAX_RECORD, Slot};
use super::slots::{NO_TIME, Slots, Stored};
use crate::counters::counters;
use crate::protocol::location::Location;
use crate::protocol::record::Record;
use crate::protocol::time::Nanos;

/// Shards of the index. At 5,000,000 clients one holds about 1,200, and growing it takes tens of
/// microseconds.
const SHARDS: usize = 4096;

/// Outdated candidates that are too few to start over for.
const OUTDATED: usize = 4096;

/// Clients that are touched together: as many misses as a core has under way at once.
pub const AHEAD: usize = 16;

/// The two keys of the directory's hashes.
#[derive(Clone, Copy)]
pub struct Keys {
    /// Of the local index: random in each process, so that nobody can aim at one bucket.
    pub index: (u64, u64),
    /// Of the digests: the same in the whole herd, or two equal directories look different.
    pub digest: (u64, u64),
}

/// What makes two nodes decide alike about what to keep; checked in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Δ of the order of records, in nanoseconds.
    pub max_clock_offset: Nanos,
    /// The cap on clients.
    pub max_clients: u32,
    /// How long after it was received a record expires, in nanoseconds; 0 = never.
    pub client_ttl: Nanos,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client of this node, with an IAMAT.
    Client,
    /// Another node, with its record.
    Peer,
}

/// What became of a record that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It is the client's newest now, in this slot.
    News(Slot),
    /// It is held already: the same line, or from a client the same location and time again.
    Repeat,
    /// A newer record is held.
    Stale,
    /// It is older than all the clients that a full directory keeps.
    Full,
    /// Its time to live is over.
    Expired,
}

/// The newest record of every client, at most [`Rules::max_clients`] of them.
pub struct Directory {
    rules: Rules,
    keys: Keys,
    shards: Box<[HashTable<Slot>]>,
    slots: Slots,
    len: u32,
    sums: Sums,
    candidates: Candidates,
    /// Where the sweep for expired records goes on.
    sweep_at: Slot,
    /// Counters of removed clients.
    pub counters: Counters,
}

counters! {
    /// Monotonic counters of removed clients since start-up.
    Counters {
        clients_evicted_total: "Clients evicted because the directory was full." { evicted }
        clients_expired_total: "Clients removed because their time to live had passed." { expired }
    }
}

impl Directory {
    /// An empty directory.
    #[must_use]
    pub fn new(rules: Rules, keys: Keys) -> Self {
        Self {
            rules,
            keys,
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            slots: Slots::default(),
            len: 0,
            sums: Sums::default(),
            candidates: Candidates::default(),
            sweep_at: 0,
            counters: Counters::default(),
        }
    }

    /// Clients held.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether no client is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What nodes must agree on.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// One more than the highest slot ever in use.
    #[must_use]
    pub const fn slots(&self) -> Slot {
        self.slots.used()
    }

    /// The digests of all records, summed leaf by leaf.
    #[must_use]
    pub const fn sums(&self) -> &Sums {
        &self.sums
    }

    /// The AT line of `client`, without LF, unless it has expired at `now`.
    #[must_use]
    pub fn get(&self, client: &[u8], now: Nanos) -> Option<&[u8]> {
        let (client_hash, index_hash) = self.hashes(client);
        let slot = self.find(client_hash, index_hash, client)?;
        (!self.has_expired(slot, now)).then(|| self.slots[slot].line())
    }

    /// The AT line in `slot`, without LF; `None` when the slot is free.
    #[must_use]
    pub fn line(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.get(slot).map(Stored::line)
    }

    /// Brings what is held of these clients, the first [`AHEAD`] of them, close to the processor.
    /// Changes nothing.
    ///
    /// Clients come in no order, so each is a few misses of the cache, one behind the other, which
    /// is most of what an update costs. What a pipeline of commands will need is known beforehand:
    /// asked for together, the misses overlap.
    pub fn touch<'c>(&self, clients: impl Iterator<Item = &'c [u8]>) {
        let (mut hashes, mut slots) = ([(0, 0); AHEAD], [None; AHEAD]);
        let mut count = 0;
        for (hash, client) in hashes.iter_mut().zip(clients) {
            *hash = self.hashes(client);
            core::hint::black_box(self.sums.leaf(Leaf::of(hash.0)));
            count += 1;
        }
        for (slot, &(client_hash, index_hash)) in slots.iter_mut().zip(&hashes[..count]) {
            // The first that may be it, without looking: it nearly always is.
            *slot = self.shards[shard_of(client_hash)].find(index_hash, |_| true).copied();
        }
        for slot in slots.into_iter().flatten() {
            core::hint::black_box(self.slots[slot].touch());
        }
    }

    /// The record in `slot`, unless the slot is free or the record has expired at `now`.
    #[must_use]
    pub fn record(&self, slot: Slot, now: Nanos) -> Option<Record<'_>> {
        let record = self.slots.get(slot)?.record()?;
        (!self.is_expired(&record, now)).then_some(record)
    }

    /// The slot of `client`, if it is held. Its record may have expired.
    #[must_use]
    pub fn slot(&self, client: &[u8]) -> Option<Slot> {
        let (client_hash, index_hash) = self.hashes(client);
        self.find(client_hash, index_hash, client)
    }

    /// The name of the client in `slot`; `None` when the slot is free.
    #[must_use]
    pub fn client(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.get(slot).map(Stored::client)
    }

    /// Where the client in `slot` is; `None` when the slot is free.
    #[must_use]
    pub fn location(&self, slot: Slot) -> Option<Location<'_>> {
        self.slots.get(slot)?.location()
    }

    /// Keeps `record` if it is news: newer, by the order of records, than what is held.
    ///
    /// `now` is this node's wall clock and decides about expiry only: what is newer depends on the
    /// two records alone.
    pub fn offer(&mut self, record: &Record<'_>, source: Source, now: Nanos) -> Offer {
        if record.line.len() > MAX_RECORD || self.is_expired(record, now) {
            return Offer::Expired;
        }
        let (client_hash, index_hash) = self.hashes(record.client);
        // Needed last, and asked for now: its miss of the cache overlaps with those of the search.
        core::hint::black_box(self.sums.leaf(Leaf::of(client_hash)));
        let mut held = self.find(client_hash, index_hash, record.client);
        // Whether the sweep has been here yet must not decide about anything.
        if let Some(slot) = held.filter(|&slot| self.has_expired(slot, now)) {
            self.remove(slot);
            self.counters.expired += 1;
            held = None;
        }
        if let Some(slot) = held {
            let held = &self.slots[slot];
            let repeat = match source {
                Source::Client => held.said() == record.said(),
                Source::Peer => held.line() == record.line,
            };
            if repeat {
                return Offer::Repeat;
            }
            let (time, held_time) = (self.time_alone(record), held.time());
            let decided = time != NO_TIME && held_time != NO_TIME && time != held_time;
            let is_newer = if decided {
                time > held_time
            } else {
                // What is stored has been parsed before.
                held.record().is_some_and(|held| {
                    record.cmp(&held, self.rules.max_clock_offset) == Ordering::Greater
                })
            };
            if !is_newer {
                return Offer::Stale;
            }
            self.write(slot, client_hash, record);
            return Offer::News(slot);
        }
        if self.len >= self.rules.max_clients && !self.make_room(record, client_hash) {
            return Offer::Full;
        }
        let slot = self.insert(client_hash, index_hash, record);
        Offer::News(slot)
    }

    /// Forgets expired records among the next `budget` slots. Returns whether the sweep has come
    /// to the end of the directory and starts over.
    pub fn sweep(&mut self, now: Nanos, budget: u32) -> bool {
        if self.rules.client_ttl == 0 {
            return true;
        }
        for _ in 0..budget {
            if self.sweep_at >= self.slots.used() {
                self.sweep_at = 0;
                return true;
            }
            let slot = self.sweep_at;
            self.sweep_at += 1;
            if self.has_expired(slot, now) {
                self.remove(slot);
                self.counters.expired += 1;
            }
        }
        false
    }

    /// Calls `each` with digest and slot of every record in `leaf`, in no order.
    pub fn for_leaf(&self, leaf: Leaf, mut each: impl FnMut(u64, Slot)) {
        for &slot in &self.shards[leaf.index() * SHARDS / Leaf::COUNT] {
            let stored = &self.slots[slot];
            if Leaf::of(self.client_hash(stored.client())) == leaf {
                each(stored.digest(), slot);
            }
        }
    }

    fn client_hash(&self, client: &[u8]) -> u64 {
        keyed_hash(self.keys.digest, client)
    }

    /// The herd-wide hash of a client and the one of the local index.
    fn hashes(&self, client: &[u8]) -> (u64, u64) {
        let client_hash = self.client_hash(client);
        (client_hash, index_hash(self.keys.index, client_hash))
    }

    /// See [`Stored::time`].
    fn time_alone(&self, record: &Record<'_>) -> i64 {
        if record.rank(self.rules.max_clock_offset) != record.time {
            return NO_TIME;
        }
        i64::try_from(record.time).unwrap_or(NO_TIME)
    }

    fn is_expired(&self, record: &Record<'_>, now: Nanos) -> bool {
        self.rules.client_ttl > 0 && now - record.received > self.rules.client_ttl
    }

    fn has_expired(&self, slot: Slot, now: Nanos) -> bool {
        self.rules.client_ttl > 0
            && self
                .slots
                .get(slot)
                .and_then(Stored::record)
                .is_some_and(|record| self.is_expired(&record, now))
    }

    fn find(&self, client_hash: u64, index_hash: u64, client: &[u8]) -> Option<Slot> {
        self.shards[shard_of(client_hash)]
            .find(index_hash, |&slot| self.slots[slot].client() == client)
            .copied()
    }

    fn write(&mut self, slot: Slot, client_hash: u64, record: &Record<'_>) {
        let digest = keyed_hash(self.keys.digest, record.line);
        let time = self.time_alone(record);
        let stored = &mut self.slots[slot];
        self.sums.replace(Leaf::of(client_hash), stored.digest(), digest);
        stored.set(record, time, digest);
    }

    fn insert(&mut self, client_hash: u64, index_hash: u64, record: &Record<'_>) -> Slot {
        let slot = self.slots.take();
        self.write(slot, client_hash, record);
        let (slots, keys) = (&self.slots, self.keys);
        self.shards[shard_of(client_hash)].insert_unique(index_hash, slot, |&slot| {
            let client_hash = keyed_hash(keys.digest, slots[slot].client());
            self::index_hash(keys.index, client_hash)
        });
        self.len += 1;
        self.index_candidates(slot);
        slot
    }

    fn remove(&mut self, slot: Slot) {
        let (client_hash, index_hash) = self.hashes(self.slots[slot].client());
        if let Ok(entry) =
            self.shards[shard_of(client_hash)].find_entry(index_hash, |&held| held == slot)
        {
            entry.remove();
        }
        self.sums.replace(Leaf::of(client_hash), self.slots[slot].digest(), 0);
        self.slots.release(slot);
        self.len -= 1;
    }

    /// Evicts the least record to make room for `record`, unless `record` itself is the least.
    fn make_room(&mut self, record: &Record<'_>, client_hash: u64) -> bool {
        self.index_candidates_up_to(self.slots.used());
        let offered = self.candidate(record, client_hash, Slot::MAX);
        while let Some(least) = self.candidates.least() {
            match self.candidate_in(least.slot) {
                Some(current) if current == least => {
                    if offered <= least {
                        return false;
                    }
                    self.candidates.pop();
                    self.remove(least.slot);
                    self.counters.evicted += 1;
                    return true;
                }
                // The client has moved on since; it stands higher now.
                Some(current) if current.client_hash == least.client_hash => {
                    self.candidates.pop();
                    self.candidates.push(current);
                }
                // The slot is free or another client's, which has an entry of its own.
                _ => self.candidates.pop(),
            }
        }
        false
    }

    /// Keeps the candidates ready before the cap is reached, a few slots at each insertion, so
    /// that the first eviction does not have to look at every client at once.
    fn index_candidates(&mut self, inserted: Slot) {
        if u64::from(self.len) * 4 < u64::from(self.rules.max_clients) * 3 {
            if self.candidates.indexed > 0 {
                // Many have expired. From here on slots are given to clients that are not entered.
                self.candidates = Candidates::default();
            }
            return;
        }
        if self.candidates.len() > 2 * self.len as usize + OUTDATED {
            self.candidates = Candidates::default(); // mostly outdated entries: start over
        }
        if inserted < self.candidates.indexed
            && let Some(candidate) = self.candidate_in(inserted)
        {
            self.candidates.push(candidate);
        }
        let end = self.candidates.indexed.saturating_add(8);
        self.index_candidates_up_to(end.min(self.slots.used()));
    }

    fn index_candidates_up_to(&mut self, end: Slot) {
        while self.candidates.indexed < end {
            if let Some(candidate) = self.candidate_in(self.candidates.indexed) {
                self.candidates.push(candidate);
            }
            self.candidates.indexed += 1;
        }
    }

    fn candidate_in(&self, slot: Slot) -> Option<Candidate> {
        let record = self.slots.get(slot)?.record()?;
        Some(self.candidate(&record, self.client_hash(record.client), slot))
    }

    fn candidate(&self, record: &Record<'_>, client_hash: u64, slot: Slot) -> Candidate {
        Candidate {
            rank: record.rank(self.rules.max_clock_offset),
            time: record.time,
            received: record.received,
            client_hash,
            slot,
        }
    }
}

fn shard_of(client_hash: u64) -> usize {
    Leaf::of(client_hash).index() * SHARDS / Leaf::COUNT
}

/// Where a client is looked for in its shard. The herd-wide hash alone would do for honest clients;
/// multiplied under a key that nobody else knows, clients cannot be named so that they meet, short
/// of all 64 bits being equal.
fn index_hash((k0, k1): (u64, u64), client_hash: u64) -> u64 {
    let product = u128::from(client_hash ^ k0) * u128::from(k1 | 1);
    (product >> 64) as u64 ^ product as u64
}

fn keyed_hash((k0, k1): (u64, u64), bytes: &[u8]) -> u64 {
    SipHasher13::new_with_keys(k0, k1).hash(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::herd::digest::Branch;
    use crate::protocol::command::Command;
    use crate::protocol::time::SECOND;
    use proptest::prelude::*;

    fn directory(max_clients: u32, ttl: i64) -> Directory {
        let rules = Rules {
            max_clock_offset: 5 * SECOND,
            max_clients,
            client_ttl: Nanos::from(ttl) * SECOND,
        };
        Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) })
    }

    fn line(server: &str, client: &str, place: u8, time: i64, received: i64) -> Vec<u8> {
        let text = format!("IAMAT {client} +{place}-1 {time}");
        let Command::Iamat(iamat) = Command::parse(text.as_bytes()) else { panic!("{text}") };
        let mut out = Vec::new();
        Record::emit(&mut out, server.as_bytes(), &iamat, Nanos::from(received) * SECOND);
        out
    }

    fn offer(directory: &mut Directory, line: &[u8], source: Source) -> Offer {
        directory.offer(&Record::parse(line).unwrap(), source, 0)
    }

    /// All lines, sorted: two directories are equal when these are.
    fn contents(directory: &Directory) -> Vec<Vec<u8>> {
        let mut lines: Vec<_> =
            (0..directory.slots()).filter_map(|s| directory.line(s)).map(<[u8]>::to_vec).collect();
        lines.sort();
        lines
    }

    #[test]
    fn newest_wins_and_repeats_change_nothing() {
        let mut d = directory(10, 0);
        let first = line("A", "k", 1, 100, 100);
        assert!(matches!(offer(&mut d, &first, Source::Client), Offer::News(_)));
        let again = line("A", "k", 1, 100, 107);
        assert_eq!(offer(&mut d, &again, Source::Client), Offer::Repeat);
        assert_eq!(d.get(b"k", 0), Some(&first[..]));
        assert_eq!(offer(&mut d, &line("A", "k", 2, 99, 108), Source::Client), Offer::Stale);
        let moved = line("A", "k", 2, 100, 109);
        assert!(matches!(offer(&mut d, &moved, Source::Client), Offer::News(_)));
        assert_eq!(d.get(b"k", 0), Some(&moved[..]));
        assert_eq!((d.len(), d.get(b"other", 0)), (1, None));
    }

    #[test]
    fn the_same_words_told_to_two_nodes_have_one_winner() {
        let a = line("A", "k", 1, 100, 101);
        let b = line("B", "k", 1, 100, 102);
        let mut at_a = directory(10, 0);
        let mut at_b = directory(10, 0);
        offer(&mut at_a, &a, Source::Client);
        offer(&mut at_b, &b, Source::Client);
        offer(&mut at_a, &b, Source::Peer);
        offer(&mut at_b, &a, Source::Peer);
        assert_eq!(contents(&at_a), contents(&at_b));
        assert_eq!(at_a.sums().of(Branch::ROOT), at_b.sums().of(Branch::ROOT));
    }

    #[test]
    fn expiry_is_a_function_of_the_record() {
        let mut d = directory(10, 60);
        let old = line("A", "k", 1, 100, 100);
        let record = Record::parse(&old).unwrap();
        assert!(matches!(d.offer(&record, Source::Peer, 160 * SECOND), Offer::News(_)));
        assert!(d.get(b"k", 160 * SECOND).is_some());
        assert_eq!(d.get(b"k", 161 * SECOND), None, "expired before any sweep");
        assert!(!d.sweep(161 * SECOND, 1));
        assert_eq!((d.len(), d.counters.expired), (0, 1));
        assert_eq!(d.sums().of(Branch::ROOT), 0);
        assert_eq!(d.offer(&record, Source::Peer, 161 * SECOND), Offer::Expired);
    }

    #[test]
    fn lists_leaves() {
        let mut d = directory(1000, 0);
        for i in 0..500 {
            offer(&mut d, &line("A", &format!("client{i}"), 1, i, i), Source::Client);
        }
        let mut seen = 0;
        for leaf in 0..=u16::MAX {
            let mut sum = 0u64;
            d.for_leaf(Leaf(leaf), |digest, _| {
                seen += 1;
                sum = sum.wrapping_add(digest);
            });
            assert_eq!(
                sum,
                d.sums().children(Branch { level: 3, index: leaf >> 4 })[usize::from(leaf & 15)]
            );
        }
        assert_eq!(seen, 500);
    }

    proptest! {
        /// The cap keeps the same clients whatever the order of arrival, and they are the top K.
        #[test]
        fn eviction_converges(
            told in proptest::collection::vec((0u8..12, 0i64..40, 0u8..2), 1..60),
            seed in any::<u64>(),
        ) {
            let lines: Vec<_> = told.iter().map(|(client, time, server)| {
                line(if *server == 0 { "A" } else { "B" }, &format!("c{client}"), 1, *time, time + 3)
            }).collect();
            let mut shuffled = lines.clone();
            let mut state = seed | 1;
            for i in (1..shuffled.len()).rev() {
                state ^= state << 13; state ^= state >> 7; state ^= state << 17;
                shuffled.swap(i, (state % (i as u64 + 1)) as usize);
            }
            let (mut a, mut b, mut all) = (directory(4, 0), directory(4, 0), directory(100, 0));
            for l in &lines { offer(&mut a, l, Source::Peer); offer(&mut all, l, Source::Peer); }
            for l in &shuffled { offer(&mut b, l, Source::Peer); }
            prop_assert_eq!(contents(&a), contents(&b));
            prop_assert!(a.len() <= 4);
            // The least that is kept is not below the greatest that is not.
            let kept = contents(&a);
            let rank = |l: &Vec<u8>| Record::parse(l).unwrap().rank(5 * SECOND);
            let least = kept.iter().map(rank).min().unwrap();
            for l in contents(&all).iter().filter(|l| !kept.contains(l)) {
                prop_assert!(rank(l) <= least);
            }
            prop_assert_eq!(a.sums().of(Branch::ROOT), b.sums().of(Branch::ROOT));
        }
    }
}
