//! The newest record of every client.
//!
//! Records are stored in numbered slots, which an index maps client names to. The index is sharded,
//! so that growing one table takes little time. Its hash is keyed by a random number of this process,
//! whereas the digests are keyed by a number that all nodes share: the slots of each leaf of the
//! digest tree are chained, and the key of the digests can change while the node runs.

mod adaptation;
mod digests;
mod fences;
mod prefetch;
mod sweep;
mod tombstones;

use core::cmp::Ordering;

use adaptation::Adaptation;
use hashbrown::HashTable;

use super::digest::Sums;
use super::digest_tree::{DigestTree, keyed_hash};
use super::eviction::{Order, Tournament};
use super::expiry::{Life, Sweep};
pub use super::slots::MAX_RECORD;
use super::slots::{Slots, Stored};
use crate::counters::counters;
use crate::fences::{Fences, Reason};
use crate::ids::Slot;
use crate::protocol::location::Location;
use crate::protocol::record::Record;
use crate::protocol::time::Nanos;
use crate::time::Wall;
use prefetch::Expected;
pub use prefetch::PREFETCH_BATCH;
use tombstones::Tombstones;

/// Number of shards. With 5,000,000 clients, a shard has about 1,200 entries, and growing it takes
/// tens of microseconds.
const SHARDS: usize = 4096;

/// Keys of the hashes.
#[derive(Clone, Copy)]
pub struct Keys {
    /// Key of the local index, random in each process to prevent collision attacks.
    pub index: (u64, u64),
    /// Key of the digests, identical on all nodes so that digests can be compared.
    pub digest: (u64, u64),
}

/// The settings that determine which records are kept. The handshake checks that they agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Δ of the order of records, in nanoseconds.
    pub max_clock_offset: Nanos,
    /// Maximum number of clients.
    pub max_clients: u32,
    /// Time from receipt until a record expires, in nanoseconds; 0 means never.
    pub client_ttl: Nanos,
    /// Time for which the removal of a client is remembered, in nanoseconds.
    pub forget_keep: Nanos,
}

/// The sender of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An IAMAT of a client of this node.
    Client,
    /// A record of another node.
    Peer,
    /// A record that this node has stored before its process started. If it is too far ahead, it is
    /// stored nevertheless, since the clock may be behind for a moment; it is invisible until then. So is
    /// the tombstone that replaces such a record.
    File,
}

/// The outcome of [`Directory::apply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The record was newer and is now stored in this slot.
    Stored(Slot),
    /// It is already stored: the same line or, from a client, the same location and time.
    Duplicate,
    /// A newer record is stored.
    Stale,
    /// Rejected: the directory is full and every stored record ranks higher.
    OverCapacity,
    /// Rejected: by this node's clock, its time to live has passed.
    Expired,
    /// Rejected: it is too far ahead of this node's clock.
    Ahead,
    /// Rejected: it is longer than [`MAX_RECORD`].
    TooLong,
}

/// The newest record of every client, at most [`Rules::max_clients`] of them.
pub struct Directory {
    rules: Rules,
    index_key: (u64, u64),
    shards: Box<[HashTable<Slot>]>,
    slots: Slots,
    expected: Expected,
    len: u32,
    bytes: u64,
    tree: DigestTree,
    tournament: Tournament,
    tombstones: Tombstones,
    adaptation: Adaptation,
    sweep: Sweep,
    /// The fences that clients enter and leave, if any. Boxed, since most nodes have none.
    fences: Option<Box<Fences>>,
    /// Counters of removed and examined clients.
    pub counters: Counters,
}

counters! {
    /// Monotonic counters of removed and examined clients since start-up.
    Counters {
        clients_evicted_total: "Clients evicted because the directory was full." { evicted }
        clients_expired_total:
            "Clients removed because their time to live had passed, or because their record was more \
             than a day ahead of this node's clock." { expired }
        tombstones_removed_total: "Tombstones removed, by reason." {
            tombstones_expired (reason = "expired"):
                "Tombstones removed because their time to live had passed.",
            tombstones_dropped (reason = "dropped"):
                "Tombstones removed early because there were too many.",
        }
        antientropy_examined_total: "Records that anti-entropy has looked at." { examined }
    }
}

impl Directory {
    /// Creates an empty directory.
    #[must_use]
    pub fn new(rules: Rules, keys: Keys) -> Self {
        Self {
            rules,
            index_key: keys.index,
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            slots: Slots::default(),
            expected: Expected::default(),
            len: 0,
            bytes: 0,
            tree: DigestTree::new(keys.digest),
            tournament: Tournament::default(),
            tombstones: Tombstones::default(),
            adaptation: Adaptation::default(),
            sweep: Sweep::default(),
            fences: None,
            counters: Counters::default(),
        }
    }

    /// Makes room in the index for about `clients` more records, at most [`Rules::max_clients`] in
    /// all, so that it need not grow while they are loaded.
    pub fn reserve(&mut self, clients: u32) {
        let clients = clients.min(self.rules.max_clients.saturating_sub(self.len));
        let (slots, key) = (&self.slots, self.index_key);
        for shard in &mut self.shards {
            let hash = |&slot: &Slot| keyed_hash(key, slots[slot].client());
            shard.reserve(clients as usize / SHARDS, hash);
        }
    }

    /// Returns the number of records, those of erased clients included.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Returns the number of bytes in all stored lines, without LF.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether the directory is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the settings that nodes must agree on.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Returns the number of slots ever used, which is one more than the highest slot.
    #[must_use]
    pub const fn slots(&self) -> u32 {
        self.slots.used()
    }

    /// Returns the number of comparisons made to find the least record, a measure of work.
    #[must_use]
    pub const fn compared(&self) -> u64 {
        self.tournament.compared()
    }

    /// Returns the sums of the digest tree.
    #[must_use]
    pub const fn sums(&self) -> &Sums {
        self.tree.sums()
    }

    /// Returns the AT line of `client`, without LF, if it is alive at `now` and the client was not
    /// erased.
    #[must_use]
    pub fn get(&self, client: &[u8], now: Wall) -> Option<&[u8]> {
        let slot = self.slot(client)?;
        let stored = &self.slots[slot];
        (!stored.is_tombstone() && self.is_alive(slot, now)).then(|| stored.line())
    }

    /// Returns the AT line in `slot`, without LF, or `None` if the slot is free.
    #[must_use]
    pub fn line(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.get(slot).map(Stored::line)
    }

    /// Returns the record in `slot`, unless the slot is free, the record is not alive at `now`, or
    /// it is a tombstone.
    #[must_use]
    pub fn record(&self, slot: Slot, now: Wall) -> Option<Record<'_>> {
        let record = self.slots.get(slot)?.record()?;
        let is_visible = !record.is_tombstone() && self.life(&record, now) == Life::Alive;
        is_visible.then_some(record)
    }

    /// Returns the name of the client in `slot` and its latitude and longitude in degrees, on the same
    /// conditions as [`Directory::record`]. Nearly always, no time is parsed.
    #[must_use]
    pub fn located(&self, slot: Slot, now: Wall) -> Option<(&[u8], (f64, f64))> {
        let stored = self.slots.get(slot)?;
        let is_visible = !stored.is_tombstone() && self.is_alive(slot, now);
        is_visible.then(|| Some((stored.client(), stored.degrees()?)))?
    }

    /// Returns the slot of `client`, if it is stored. Its record need not be alive.
    #[must_use]
    pub fn slot(&self, client: &[u8]) -> Option<Slot> {
        self.find(self.index_hash(client), client)
    }

    /// Returns the name of the client in `slot`, or `None` if the slot is free.
    #[must_use]
    pub fn client(&self, slot: Slot) -> Option<&[u8]> {
        self.slots.get(slot).map(Stored::client)
    }

    /// Returns the location of the client in `slot`, or `None` if the slot is free or the client was
    /// erased.
    #[must_use]
    pub fn location(&self, slot: Slot) -> Option<Location<'_>> {
        self.slots.get(slot)?.location()
    }

    /// Returns latitude and longitude of the client in `slot` in degrees, unless the slot is free.
    #[must_use]
    pub fn degrees(&self, slot: Slot) -> Option<(f64, f64)> {
        self.slots.get(slot)?.degrees()
    }

    /// Stores `record` if it is newer than the stored one, by the order of records.
    ///
    /// `now` is the wall clock of this node. It only determines which records are alive; which one
    /// is newer depends on the two records alone.
    pub fn apply(&mut self, record: &Record<'_>, source: Source, now: Wall) -> Applied {
        self.apply_with(record, source, now, |_, _| {})
    }

    /// Like [`Directory::apply`], and calls `expired` with a record of the client that is not alive and
    /// gives way, before it is removed. It is not replaced, since it may be the newer one.
    pub fn apply_with(
        &mut self,
        record: &Record<'_>,
        source: Source,
        now: Wall,
        expired: impl FnOnce(Slot, &Record<'_>),
    ) -> Applied {
        if record.line.len() > MAX_RECORD {
            return Applied::TooLong;
        }
        let life = self.life(record, now);
        match life {
            Life::Expired if !(source == Source::File && record.is_tombstone()) => {
                return Applied::Expired;
            }
            Life::Ahead if source != Source::File => return Applied::Ahead,
            Life::Alive | Life::Ahead | Life::Expired => {}
        }
        let expected = self.expected.take(&self.slots, record.client);
        let hash = expected.is_none().then(|| self.index_hash(record.client));
        let mut held = expected.or_else(|| self.find(hash?, record.client));
        // The outcome must not depend on whether the sweep has already removed this record.
        if let Some(slot) = held {
            match (self.life_in(slot, now), life) {
                (Life::Alive, Life::Ahead) => return Applied::Ahead,
                (held, new) if held == new => {}
                (of_held, of_new) => {
                    let decides = source == Source::File
                        && self.is_decided_by_order(slot, of_held, record, of_new);
                    if !decides {
                        if let Some(record) = self.slots[slot].record() {
                            expired(slot, &record);
                        }
                        self.expire(slot, now);
                        held = None;
                    }
                }
            }
        }
        if let Some(slot) = held {
            self.renew_rank(slot);
            let held = &self.slots[slot];
            // Needed last but loaded now, so that its cache miss overlaps with the comparison.
            core::hint::black_box(self.sums().leaf(held.leaf));
            let repeat = match source {
                Source::Client => held.report() == record.report(),
                Source::Peer | Source::File => held.line() == record.line,
            };
            if repeat {
                return Applied::Duplicate;
            }
            let rank = self.rank(record);
            if !self.is_newer(record, rank, held) {
                return Applied::Stale;
            }
            self.replace(slot, record, rank, now);
            self.tournament.handle_raised(slot, order(&self.slots, &self.rules));
            self.bound_tombstones();
            return Applied::Stored(slot);
        }
        if !self.make_room_for_tombstone(record) {
            return Applied::OverCapacity;
        }
        if self.len >= self.rules.max_clients && !self.make_room(record, now) {
            return Applied::OverCapacity;
        }
        let hash = hash.unwrap_or_else(|| self.index_hash(record.client));
        let slot = self.insert(hash, record, source == Source::Client);
        self.bound_tombstones();
        Applied::Stored(slot)
    }

    /// Returns whether the order decides between two records from files of which one is not alive.
    ///
    /// A tombstone in a file decides however old it is: the file may also hold the records that it has
    /// erased, in any order, and they would come back if it were ignored. The sweep removes it once
    /// everything is loaded.
    fn is_decided_by_order(
        &self,
        slot: Slot,
        of_held: Life,
        record: &Record<'_>,
        of_record: Life,
    ) -> bool {
        let in_file = |life, is_tombstone| match life {
            Life::Expired if is_tombstone => Life::Alive,
            life => life,
        };
        in_file(of_held, self.slots[slot].is_tombstone())
            == in_file(of_record, record.is_tombstone())
    }

    fn index_hash(&self, client: &[u8]) -> u64 {
        keyed_hash(self.index_key, client)
    }

    /// Returns the value for [`Stored::rank`].
    fn rank(&self, record: &Record<'_>) -> i64 {
        let rank = record.rank(self.rules.max_clock_offset);
        rank.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Returns whether `record`, which has this rank, is newer than a stored record, by the order of
    /// records.
    #[inline]
    fn is_newer(&self, record: &Record<'_>, rank: i64, held: &Stored) -> bool {
        rank > held.rank() || rank == held.rank() && self.is_greater(record, held)
    }

    /// Returns whether `record` is the greater one of two records of the same rank.
    fn is_greater(&self, record: &Record<'_>, held: &Stored) -> bool {
        // A stored line is always a valid record.
        let is_greater = |held| record.cmp(&held, self.rules.max_clock_offset) == Ordering::Greater;
        held.record().is_some_and(is_greater)
    }

    /// Returns the time to live of a record; 0 means forever.
    const fn time_to_live(&self, is_tombstone: bool) -> Nanos {
        if is_tombstone { self.rules.forget_keep } else { self.rules.client_ttl }
    }

    fn life(&self, record: &Record<'_>, now: Wall) -> Life {
        if record.received == now.nanos() {
            return Life::Alive; // the update of a local client, nearly always
        }
        Life::of(record.received, self.time_to_live(record.is_tombstone()), now)
    }

    /// Returns the life of the record in a slot that is in use.
    #[inline]
    fn life_in(&self, slot: Slot, now: Wall) -> Life {
        // Nearly always, without a time to live.
        let all_are_alive =
            self.tombstones.is_empty() && !self.sweep.may_find(self.rules.client_ttl, now);
        if all_are_alive { Life::Alive } else { self.life_of_one(slot, now) }
    }

    fn life_of_one(&self, slot: Slot, now: Wall) -> Life {
        let stored = &self.slots[slot];
        let is_tombstone = !self.tombstones.is_empty() && stored.is_tombstone();
        if !self.sweep.may_find(self.time_to_live(is_tombstone), now) {
            return Life::Alive; // without parsing the record
        }
        stored.record().map_or(Life::Expired, |record| self.life(&record, now))
    }

    fn is_alive(&self, slot: Slot, now: Wall) -> bool {
        self.life_in(slot, now) == Life::Alive
    }

    /// Removes a record that is not alive.
    fn expire(&mut self, slot: Slot, now: Wall) {
        let is_tombstone = self.slots[slot].is_tombstone();
        self.leave_fences(slot, Reason::Expired, now);
        self.remove(slot);
        let counters = &mut self.counters;
        *(if is_tombstone { &mut counters.tombstones_expired } else { &mut counters.expired }) += 1;
    }

    fn find(&self, hash: u64, client: &[u8]) -> Option<Slot> {
        self.shards[shard_of(hash)].find(hash, |&slot| self.slots[slot].client() == client).copied()
    }

    /// Replaces the record in `slot` by a newer one of the same client.
    fn replace(&mut self, slot: Slot, record: &Record<'_>, rank: i64, now: Wall) {
        let stored = &mut self.slots[slot];
        if let Some(fences) = &mut self.fences {
            fences.handle_replaced(slot, stored.line(), record, now);
        }
        self.tombstones.handle_removed(stored);
        self.tombstones.handle_stored(record, rank);
        let digest = self.tree.replace(slot, stored, record.line);
        self.bytes += record.line.len() as u64;
        self.bytes -= stored.line().len() as u64;
        stored.set(record, rank, digest);
        self.sweep.handle_stored(record.received);
    }

    fn insert(&mut self, hash: u64, record: &Record<'_>, is_local: bool) -> Slot {
        let slot = self.slots.take();
        let rank = self.rank(record);
        if let Some(fences) = &mut self.fences {
            fences.handle_first(slot, record, is_local);
        }
        self.slots[slot].set(record, rank, 0);
        self.sweep.handle_stored(record.received);
        self.tombstones.handle_stored(record, rank);
        self.bytes += record.line.len() as u64;
        let (slots, key) = (&self.slots, self.index_key);
        self.shards[shard_of(hash)]
            .insert_unique(hash, slot, |&slot| keyed_hash(key, slots[slot].client()));
        self.len += 1;
        self.tree.insert(&mut self.slots, slot);
        self.enter(slot);
        slot
    }

    fn remove(&mut self, slot: Slot) {
        let hash = self.index_hash(self.slots[slot].client());
        if let Ok(entry) = self.shards[shard_of(hash)].find_entry(hash, |&held| held == slot) {
            entry.remove();
        }
        self.bytes -= self.slots[slot].line().len() as u64;
        self.tombstones.handle_removed(&self.slots[slot]);
        self.tree.remove(&mut self.slots, slot);
        self.slots.release(slot);
        self.len -= 1;
        self.tournament.handle_raised(slot, order(&self.slots, &self.rules));
        // Many clients have expired.
        if self.tournament.is_active() && self.len < self.rules.max_clients / 2 {
            self.tournament = Tournament::default();
        }
    }

    /// Evicts the least record to make room for `record`. Returns false if `record` itself is the
    /// least.
    fn make_room(&mut self, record: &Record<'_>, now: Wall) -> bool {
        if self.admits_excess(now) {
            return true;
        }
        let Some(least) = self.tournament.least() else { return false };
        if !self.is_newer(record, self.rank(record), &self.slots[least]) {
            return false;
        }
        self.evict(least, now);
        true
    }

    fn evict(&mut self, slot: Slot, now: Wall) {
        let is_tombstone = self.slots[slot].is_tombstone();
        self.leave_fences(slot, Reason::Evicted, now);
        self.remove(slot);
        let counters = &mut self.counters;
        *(if is_tombstone { &mut counters.tombstones_dropped } else { &mut counters.evicted }) += 1;
    }

    /// Takes note of a new client in the tournament.
    ///
    /// The tournament is held only once the directory is three quarters full. From then on, one
    /// group of slots enters per insertion, so all have entered before the first eviction.
    fn enter(&mut self, inserted: Slot) {
        if !self.adaptation.has_ranks() || !(self.tournament.is_active() || self.is_nearly_full()) {
            return;
        }
        let order = order(&self.slots, &self.rules);
        self.tournament.handle_added(inserted, order);
        if self.tournament.entered() < self.slots.used() {
            self.tournament.enter(order);
        }
    }

    fn is_nearly_full(&self) -> bool {
        u64::from(self.len) * 4 >= u64::from(self.rules.max_clients) * 3
    }
}

/// Returns the order of the stored records. A function, since a method would borrow the whole
/// directory.
const fn order<'a>(slots: &'a Slots, rules: &Rules) -> Order<'a> {
    Order { slots, max_clock_offset: rules.max_clock_offset }
}

/// Returns the shard of a client with this index hash. The table in the shard uses the lowest and the
/// highest bits of the hash.
const fn shard_of(hash: u64) -> usize {
    (hash >> 32) as usize % SHARDS
}

#[cfg(test)]
mod tests;
