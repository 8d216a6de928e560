//! The cache of listings.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::places::limits::MAX_CACHE_BYTES;
use crate::places::providers::listing::Listing;
use crate::places::question::Key;
use crate::time::Instant;

/// Listings by question. All have the same time to live, so the oldest is the next to expire. The
/// numbers of entries and of bytes are bounded; the oldest entries are evicted first.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    max_entries: usize,
    entries: BTreeMap<Key, Entry>,
    /// The entries in order of expiry.
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    listing: Arc<Listing>,
    expires: Instant,
}

impl Cache {
    /// Creates a cache; without a `ttl` it stores nothing.
    pub(super) fn new(ttl: Option<Duration>, max_entries: usize) -> Self {
        let max_entries = if ttl.is_some() { max_entries } else { 0 };
        Self {
            ttl: ttl.unwrap_or_default(),
            max_entries,
            entries: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Returns the listing for a question, unless it is unknown or has expired.
    pub(super) fn get(&self, key: Key, now: Instant) -> Option<&Arc<Listing>> {
        self.entries.get(&key).filter(|entry| now < entry.expires).map(|entry| &entry.listing)
    }

    /// Stores a listing.
    pub(super) fn insert(&mut self, key: Key, listing: Arc<Listing>, now: Instant) {
        if self.max_entries == 0 {
            return;
        }
        self.remove(key);
        self.bytes += listing.weight();
        self.entries.insert(key, Entry { listing, expires: now + self.ttl });
        self.order.push_back(key);
        let over = |it: &Self| it.entries.len() > it.max_entries || it.bytes > MAX_CACHE_BYTES;
        while over(self) && self.remove_oldest() {}
    }

    /// Removes expired entries: the terms of a provider limit how long its data may be stored, not
    /// only how long it may be used.
    pub(super) fn expire(&mut self, now: Instant) {
        while self.next_expiry().is_some_and(|at| at <= now) && self.remove_oldest() {}
    }

    /// The time at which the next entry expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.order.front()?;
        self.entries.get(oldest).map(|entry| entry.expires)
    }

    /// The number of entries.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of bytes in use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes the oldest entry. Returns false if there is none.
    fn remove_oldest(&mut self) -> bool {
        let Some(key) = self.order.pop_front() else { return false };
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.listing.weight();
        }
        true
    }

    /// Removes the entry for a question. This is rare, so it may take linear time: a question is
    /// sent again only after its entry has expired, which usually removed it.
    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.listing.weight();
            self.order.retain(|other| *other != key);
        }
    }
}
