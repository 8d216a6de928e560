//! The tombstones of a directory: clients that were erased.
//!
//! A tombstone is a record, so it is stored in the slot of its client. It is invisible to everything
//! but replication and storage. This index of all of them finds the oldest one, for expiry and for the
//! bound.

use std::collections::BTreeSet;

use super::{Directory, Life, Stored};
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::protocol::time::Nanos;
use crate::time::Wall;

/// Tombstones are at most this part of [`Rules::max_clients`](super::Rules::max_clients), so that
/// they do not displace clients without bound.
const MAX_PART: u32 = 8;

/// Tombstones that are removed at most in one call. Only after a change of the rules is there more
/// than one.
const MAX_REMOVED: usize = 64;

/// All tombstones, oldest first.
#[derive(Default)]
pub(super) struct Tombstones {
    /// Rank and line. The rank of a tombstone is its time, under any rules.
    set: BTreeSet<(i64, Box<[u8]>)>,
}

impl Tombstones {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Takes note of a record that is now stored with this rank.
    #[inline]
    pub fn handle_stored(&mut self, record: &Record<'_>, rank: i64) {
        if record.is_tombstone() {
            self.insert(record, rank);
        }
    }

    #[cold]
    fn insert(&mut self, record: &Record<'_>, rank: i64) {
        self.set.insert((rank, record.line.into()));
    }

    /// Takes note that what is stored in a slot will be replaced or removed.
    #[inline]
    pub fn handle_removed(&mut self, stored: &Stored) {
        if !self.is_empty() {
            self.remove(stored);
        }
    }

    fn remove(&mut self, stored: &Stored) {
        if stored.is_tombstone() {
            self.set.remove(&(stored.rank(), stored.line().into()));
        }
    }
}

impl Directory {
    /// Returns the number of tombstones.
    #[must_use]
    pub fn tombstones(&self) -> u32 {
        self.tombstones.set.len() as u32
    }

    /// Returns whether the record in `slot` is a tombstone.
    #[must_use]
    pub fn is_tombstone(&self, slot: Slot) -> bool {
        !self.tombstones.is_empty() && self.slots.get(slot).is_some_and(Stored::is_tombstone)
    }

    /// Returns the number of clients, which is that of all records without tombstones.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.len() - self.tombstones()
    }

    /// Returns the time that a tombstone must exceed not to be removed at once, because there are as many
    /// as the rules permit.
    pub(crate) fn oldest_time(&self) -> Option<Nanos> {
        let is_full = self.tombstones() >= self.most_tombstones();
        let (_, line) = self.tombstones.set.first().filter(|_| is_full)?;
        Record::parse(line).map(|record| record.time)
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        for slot in (0..self.slots()).map(Slot) {
            if self.slots.get(slot).is_some() {
                self.remove(slot);
            }
        }
    }

    /// Removes the oldest tombstone if `record` is one of a client that is not stored and there is no
    /// room for it. Returns false if `record` itself is older.
    pub(super) fn make_room_for_tombstone(&mut self, record: &Record<'_>) -> bool {
        if !record.is_tombstone() || self.tombstones() < self.most_tombstones() {
            return true;
        }
        let rank = self.rank(record);
        let is_older = |(oldest, line): &(i64, Box<[u8]>)| (rank, record.line) <= (*oldest, line);
        if self.tombstones.set.first().is_some_and(is_older) {
            return false;
        }
        self.drop_tombstone();
        true
    }

    /// Removes the oldest tombstones while there are more than the rules permit.
    #[inline]
    pub(super) fn bound_tombstones(&mut self) {
        if !self.tombstones.is_empty() {
            self.drop_excess();
        }
    }

    fn drop_excess(&mut self) {
        for _ in 0..MAX_REMOVED {
            if self.tombstones() <= self.most_tombstones() {
                return;
            }
            self.drop_tombstone();
        }
    }

    fn most_tombstones(&self) -> u32 {
        (self.rules.max_clients / MAX_PART).max(1)
    }

    fn drop_tombstone(&mut self) {
        if let Some(slot) = self.oldest_tombstone() {
            self.remove(slot);
            self.counters.tombstones_dropped += 1;
        }
    }

    /// Removes the tombstones that have expired, and those beyond the bound.
    pub(super) fn sweep_tombstones(
        &mut self,
        now: Wall,
        removed: &mut impl FnMut(Slot, &Record<'_>),
    ) {
        for _ in 0..MAX_REMOVED {
            let Some(slot) = self.oldest_tombstone() else { return };
            if self.life_in(slot, now) != Life::Expired {
                break;
            }
            if let Some(record) = self.slots[slot].record() {
                removed(slot, &record);
            }
            self.expire(slot, now);
        }
        self.bound_tombstones();
    }

    fn oldest_tombstone(&self) -> Option<Slot> {
        let (_, line) = self.tombstones.set.first()?;
        self.slot(Record::parse(line)?.client)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{apply, contents, directory, line};
    use super::super::{Applied, Source};
    use super::*;
    use crate::herd::digest::Branch;
    use crate::protocol::time::SECOND;
    use crate::time::Now;

    const KEEP: i64 = 1_000;

    fn tombstone(server: &str, client: &str, time: i64) -> Vec<u8> {
        let mut out = Vec::new();
        let time = i128::from(time) * SECOND;
        Record::emit_tombstone(&mut out, server.as_bytes(), client.as_bytes(), time).unwrap();
        out
    }

    fn at(seconds: i64) -> Wall {
        Wall(i128::from(seconds) * SECOND)
    }

    fn sweep(directory: &mut Directory, wall: Wall, budget: u32) {
        directory.sweep(&Now { wall, ..Now::default() }, budget, |_, _| {});
    }

    fn with_keep(max_clients: u32, ttl: i64) -> Directory {
        let mut directory = directory(max_clients, ttl);
        directory.rules.forget_keep = i128::from(KEEP) * SECOND;
        directory
    }

    #[test]
    fn a_tombstone_hides_the_client_until_a_newer_record_comes() {
        let mut d = with_keep(100, 0);
        let old = line("A", "k", 1, 100, 100);
        apply(&mut d, &old, Source::Client);
        let forgotten = tombstone("B", "k", 101);
        assert!(matches!(apply(&mut d, &forgotten, Source::Peer), Applied::Stored(_)));
        let slot = d.slot(b"k").unwrap();
        let visible = |d: &Directory| {
            [
                d.get(b"k", at(0)).is_some(),
                d.record(slot, at(0)).is_some(),
                d.location(slot).is_some(),
            ]
        };
        assert_eq!(visible(&d), [false; 3]);
        assert_eq!((d.len(), d.clients(), d.tombstones()), (1, 0, 1));
        assert_eq!((d.line(slot), d.client(slot)), (Some(&forgotten[..]), Some(&b"k"[..])));
        for (source, stale) in [(Source::Peer, &old), (Source::Client, &old)] {
            assert_eq!(apply(&mut d, stale, source), Applied::Stale, "{source:?}");
        }
        assert_eq!(apply(&mut d, &forgotten, Source::Peer), Applied::Duplicate);
        let new = line("A", "k", 2, 102, 102);
        assert_eq!(apply(&mut d, &new, Source::Client), Applied::Stored(slot));
        assert_eq!(visible(&d), [true; 3]);
        assert_eq!((d.clients(), d.tombstones()), (1, 0));
        assert_eq!(apply(&mut d, &forgotten, Source::Peer), Applied::Stale);
    }

    #[test]
    fn tombstones_and_records_are_the_same_in_any_order() {
        let lines = [
            line("A", "k", 1, 100, 100),
            tombstone("B", "k", 101),
            line("B", "k", 1, 101, 101),
            tombstone("A", "k", 101),
            line("A", "m", 1, 90, 90),
            tombstone("A", "m", 200),
        ];
        let mut expected = None;
        for start in 0..lines.len() {
            let mut d = with_keep(100, 0);
            for at in 0..lines.len() {
                apply(&mut d, &lines[(start + at * 5) % lines.len()], Source::Peer);
            }
            let found = (contents(&d), d.sums().of(Branch::ROOT), d.tombstones());
            assert_eq!(*expected.get_or_insert(found.clone()), found);
        }
    }

    #[test]
    fn a_tombstone_expires_by_a_time_of_its_own() {
        for ttl in [0, 50, 5_000] {
            let mut d = with_keep(100, ttl);
            apply(&mut d, &line("A", "k", 1, 100, 100), Source::Client);
            let forgotten = tombstone("B", "k", 101);
            apply(&mut d, &forgotten, Source::Peer);
            apply(&mut d, &tombstone("B", "later", 102), Source::Peer);
            sweep(&mut d, at(101 + KEEP), 10);
            assert_eq!(d.tombstones(), 2, "ttl {ttl}");
            sweep(&mut d, at(102 + KEEP), 10);
            assert_eq!((d.len(), d.tombstones()), (1, 1), "ttl {ttl}");
            assert_eq!((d.counters.tombstones_expired, d.counters.expired), (1, 0));
            let record = Record::parse(&forgotten).unwrap();
            assert_eq!(d.apply(&record, Source::Peer, at(102 + KEEP)), Applied::Expired);
        }
    }

    #[test]
    fn a_tombstone_in_a_file_decides_although_it_has_expired() {
        let forgotten = tombstone("B", "k", 101);
        let (old, new) = (line("A", "k", 1, 100, 100), line("A", "k", 1, 102, 102));
        let load = |lines: &[&Vec<u8>]| {
            let mut d = with_keep(100, 0);
            for line in lines {
                let record = Record::parse(line).unwrap();
                d.apply(&record, Source::File, at(102 + KEEP));
            }
            sweep(&mut d, at(102 + KEEP), 10);
            (contents(&d), d.tombstones())
        };
        assert_eq!(load(&[&old, &forgotten]), (vec![], 0));
        assert_eq!(load(&[&forgotten, &old]), (vec![], 0));
        for lines in [[&old, &forgotten, &new], [&new, &old, &forgotten], [&forgotten, &new, &old]]
        {
            assert_eq!(load(&lines), (vec![new.clone()], 0));
        }
    }

    #[test]
    fn tombstones_displace_only_an_eighth_of_the_clients() {
        let mut d = with_keep(16, 0);
        for client in 0..16 {
            apply(&mut d, &line("A", &format!("c{client}"), 1, 100, 100), Source::Client);
        }
        for client in 0..16 {
            apply(&mut d, &tombstone("A", &format!("d{client}"), 200 + client), Source::Peer);
            assert!(d.tombstones() <= 2 && d.len() <= 16);
        }
        assert_eq!(
            apply(&mut d, &tombstone("A", "late", 213), Source::Peer),
            Applied::OverCapacity
        );
        assert_eq!((d.clients(), d.tombstones(), d.counters.tombstones_dropped), (14, 2, 14));
        for client in [14, 15] {
            assert!(d.slot(format!("d{client}").as_bytes()).is_some(), "the newest are kept");
        }
        d.rules.max_clients = 8;
        sweep(&mut d, at(0), 1);
        assert_eq!(d.tombstones(), 1);
    }
}
