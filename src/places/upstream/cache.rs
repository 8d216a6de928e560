//! Answers that are used again for a while.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::places::answer::Listing;
use crate::places::limits::MAX_CACHE_BYTES;
use crate::places::question::Key;

/// Listings by question, each for the same time, so that the oldest is the next to expire. Bounded
/// in entries and bytes; what is over is dropped oldest first.
#[derive(Debug)]
pub(super) struct Cache {
    ttl: Duration,
    max_entries: usize,
    entries: BTreeMap<Key, Entry>,
    /// The entries in the order in which they expire.
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    listing: Arc<Listing>,
    expires: Duration,
}

impl Cache {
    /// A cache; without a `ttl` it keeps nothing.
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

    /// The answer to a question, if it is known and has not expired.
    pub(super) fn get(&self, key: Key, now: Duration) -> Option<&Arc<Listing>> {
        self.entries.get(&key).filter(|entry| now < entry.expires).map(|entry| &entry.listing)
    }

    /// Keeps an answer.
    pub(super) fn insert(&mut self, key: Key, listing: Arc<Listing>, now: Duration) {
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

    /// Forgets what has expired: a provider's terms limit how long its answers are held, not only
    /// how long they are used.
    pub(super) fn expire(&mut self, now: Duration) {
        while self.next_expiry().is_some_and(|at| at <= now) && self.remove_oldest() {}
    }

    /// When the next entry expires.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        let oldest = self.order.front()?;
        self.entries.get(oldest).map(|entry| entry.expires)
    }

    /// How many answers are kept.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many bytes they are.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes the oldest entry, if there is one.
    fn remove_oldest(&mut self) -> bool {
        let Some(key) = self.order.pop_front() else { return false };
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.listing.weight();
        }
        true
    }

    /// Removes one entry wherever it stands. It is rare: a question is asked again only when its
    /// answer has expired, and then the answer is usually gone.
    fn remove(&mut self, key: Key) {
        if let Some(entry) = self.entries.remove(&key) {
            self.bytes -= entry.listing.weight();
            self.order.retain(|other| *other != key);
        }
    }
}
