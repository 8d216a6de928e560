//! The key of the digests, and how the nodes of a herd agree on one.
//!
//! If a client knew the key, it could choose names that fall into one leaf of the digest tree. So every
//! node makes up a key when it starts, and the herd uses the oldest one: its own or one of a neighbor,
//! whichever was born first. The key that a herd uses therefore lives as long as any of its nodes. It
//! protects as well in its thousandth day as in its first: nothing that a node sends to clients depends
//! on it. Only a neighbor knows it, and to replace it, all nodes are stopped at once.
//!
//! A node announces its key when a link comes up and whenever it has changed it (`KEY`). Digests under
//! different keys say nothing about records, so two ends compare only while each uses the key that the
//! other has announced. A neighbor's older key is adopted: all digests are computed again, some at a
//! time, and meanwhile the node announces that it is changing to that key, so that others can begin
//! to change to it, and compares with no neighbor. A node without records uses the key at once.
//!
//! What is announced is not the key itself: that is derived from it and the secret of the herd, if
//! there is one. Without a secret, links exist only on one machine or over TLS.

use core::cmp::Ordering;
use core::time::Duration;

use ring::hmac;

use super::Herd;
use super::anti_entropy::AntiEntropy;
use super::directory::Keys;
use super::fetch_claims::FetchClaims;
use super::message::Purpose;
use crate::ids::LinkId;
use crate::time::Instant;

/// Slots whose digests are computed again in one slice: less than a millisecond of work.
const REKEY_SLOTS: u32 = 2048;

/// Pause between two slices: a million clients take about a second.
const REKEY_PAUSE: Duration = Duration::from_millis(1);

/// 2026-01-01T00:00:00Z. No node existed before, so a clock that says so is wrong.
const FIRST_BORN: u64 = 1_767_225_600_000_000_000;

/// What the key of the digests is derived from. The lesser one wins: the older one, but any other one
/// before one that a clock has dated before [`FIRST_BORN`], as on a machine without a battery. Such
/// machines would otherwise change the key of the whole herd with each start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DigestKey {
    /// Wall clock of the node that made it up, in nanoseconds since the Unix epoch.
    pub born: u64,
    /// Random bits.
    pub random: u128,
}

/// The random numbers of a node process.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// Key of the index.
    pub index: (u64, u64),
    /// The key of the digests that it proposes.
    pub digest: DigestKey,
}

/// The content of a `KEY` message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The key.
    pub key: DigestKey,
    /// True if the sender uses it, false if it is changing to it.
    pub in_use: bool,
}

/// The agreement with one neighbor.
#[derive(Default)]
pub(super) struct KeyExchange {
    /// True if the key of this node must be sent.
    pub is_due: bool,
    theirs: Option<Announcement>,
}

/// The key of this node.
pub(super) struct OwnKey {
    key: DigestKey,
    /// True if the directory does not know the key yet.
    is_new: bool,
    /// The time of the next slice while digests are computed again.
    rekey_at: Option<Instant>,
}

impl Seeds {
    /// Returns the keys of the directory of a node whose herd has this secret.
    #[must_use]
    pub fn keys(&self, secret: Option<&hmac::Key>) -> Keys {
        Keys { index: self.index, digest: self.digest.derive(secret) }
    }
}

impl Ord for DigestKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let order = |key: &Self| (key.born < FIRST_BORN, key.born, key.random);
        order(self).cmp(&order(other))
    }
}

impl PartialOrd for DigestKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl DigestKey {
    /// Returns the key of the hash: 128 bits of HMAC-SHA256 under the secret of the herd.
    #[must_use]
    pub fn derive(&self, secret: Option<&hmac::Key>) -> (u64, u64) {
        let no_secret = hmac::Key::new(hmac::HMAC_SHA256, b"");
        let mut message = b"digests".to_vec();
        message.extend_from_slice(&self.born.to_be_bytes());
        message.extend_from_slice(&self.random.to_be_bytes());
        let tag = hmac::sign(secret.unwrap_or(&no_secret), &message);
        let half =
            |at: usize| tag.as_ref()[at..at + 8].iter().fold(0, |n, &b| n << 8 | u64::from(b));
        (half(0), half(8))
    }
}

impl OwnKey {
    pub const fn new(key: DigestKey) -> Self {
        Self { key, is_new: false, rekey_at: None }
    }

    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.rekey_at
    }

    /// Returns whether digests may be compared with a neighbor.
    pub fn agrees(&self, exchange: &KeyExchange) -> bool {
        let agreed = Announcement { key: self.key, in_use: true };
        self.rekey_at.is_none() && exchange.theirs == Some(agreed)
    }

    pub const fn announcement(&self) -> Announcement {
        Announcement { key: self.key, in_use: self.rekey_at.is_none() }
    }
}

impl Herd {
    /// Returns what the key of the digests is derived from.
    #[must_use]
    pub const fn digest_key(&self) -> DigestKey {
        self.own_key.key
    }

    /// Handles the key that a neighbor has announced.
    pub(super) fn handle_key(&mut self, link: LinkId, theirs: Announcement, now: Instant) {
        let peer = self.link(link).peer;
        let Some(up) = self.links[link.index()].herd_peer() else { return };
        up.key_exchange.theirs = Some(theirs);
        // What is queued is about digests under another key.
        up.anti_entropy = AntiEntropy::default();
        self.release_claims(peer);
        if theirs.key < self.own_key.key {
            self.adopt_key(theirs.key, now);
        } else {
            // A neighbor with a newer key will adopt this node's.
            self.begin_comparing(link);
        }
    }

    fn adopt_key(&mut self, key: DigestKey, now: Instant) {
        self.own_key = OwnKey { key, is_new: true, rekey_at: Some(now) };
        self.claims = FetchClaims::default();
        for (_, up) in self.herd_peers() {
            up.anti_entropy = AntiEntropy::default();
            up.key_exchange.is_due = true;
        }
        if self.directory.is_empty() {
            self.continue_rekey(now);
        }
    }

    /// Computes some of the digests again, if the key has changed and it is time.
    pub(super) fn continue_rekey(&mut self, now: Instant) {
        if self.own_key.rekey_at.is_none_or(|at| at > now) {
            return;
        }
        if std::mem::take(&mut self.own_key.is_new) {
            self.directory.start_rekey(self.own_key.key.derive(self.identity.secret.as_ref()));
        }
        if !self.directory.continue_rekey(REKEY_SLOTS) {
            self.own_key.rekey_at = Some(now + REKEY_PAUSE);
            return;
        }
        self.own_key.rekey_at = None;
        for link in (0..self.links.len()).map(LinkId) {
            if let Some(up) = self.links[link.index()].herd_peer() {
                up.key_exchange.is_due = true;
                self.begin_comparing(link);
            }
        }
    }

    /// Starts a round if both ends of a link use the same key. One of them starts it.
    fn begin_comparing(&mut self, link: LinkId) {
        let starts = self.identity.me < self.link(link).peer;
        let Some(up) = self.links[link.index()].herd_peer() else { return };
        if starts && self.own_key.agrees(&up.key_exchange) {
            up.anti_entropy.open(Purpose::Sync);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's `hmac`.
    #[test]
    fn keys_are_derived_by_hmac_sha256() {
        let key = DigestKey { born: 1_700_000_000_000_000_000, random: 0x0123_4567_89ab_cdef };
        assert_eq!(key.derive(None), (0x2568_c5be_9feb_8a31, 0xfd55_307a_7357_e52a));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        assert_eq!(key.derive(Some(&secret)), (0x50d0_ea0d_7d19_da9f, 0x84d9_8efb_c908_e1d6));
    }

    #[test]
    fn the_oldest_key_with_a_date_that_can_be_right_wins() {
        let key = |born, random| DigestKey { born, random };
        let order = [
            key(FIRST_BORN, 9),
            key(FIRST_BORN + 1, 2),
            key(FIRST_BORN + 1, 3),
            key(u64::MAX, 1),
            key(0, 1), // 1970
            key(FIRST_BORN - 1, 0),
        ];
        assert!(order.is_sorted(), "{order:?}");
    }
}
