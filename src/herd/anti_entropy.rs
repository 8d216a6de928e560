//! Anti-entropy on one link: comparing digests, and fetching what differs.
//!
//! Either side starts a round by sending the sums of the root's children. The receiver compares them
//! with its own and sends the sums below each difference. At a leaf, it lists the digests of its
//! records instead, and the other side requests those it lacks and offers those the lister lacks. A
//! side without records below a branch requests all of it. Only small differences are sent unrequested.
//!
//! ```text
//!  one end                                 the other end
//!  ───────                                 ─────────────
//!  compare ── SUMS of a branch's children ──▶ equal: no answer
//!     ▲                                       inner child differs ──▶ compare (roles swapped)
//!     └──────────────── SUMS ◀───────────────┘
//!                                             leaf differs ──▶ list
//!  wants, offers ◀──────── LISTING of a leaf ─┘
//!     ├── WANTS, what this end lacks ────────▶ repairs
//!     └── OFFERS, what the other lacks ──────▶ wants ── WANTS ──▶ repairs
//!  pull ── PULL, nothing stored below ───────▶ push ──▶ repairs
//!
//!  repairs ── REPAIR, then the record ───────▶ applied, flooded on
//! ```
//!
//! Each word in lower case is a queue of [`AntiEntropy`]; a round is over when all are empty. Two
//! more things can hold it up: in a check, missing records wait as *suspects*; in a sync, what
//! another link has claimed is left out, and `waits` makes this link compare again later.
//!
//! In a [`Purpose::Sync`] round, differences are expected and fetched at once, except for leaves that
//! are being fetched over another link ([`FetchClaims`]); those are compared again later. In a
//! [`Purpose::Check`] round, a missing record may be in flight. It is a suspect first, and is requested
//! only if it is still missing after [`GRACE`]. A record recovered this way indicates a fault of
//! flooding and is counted separately.
//!
//! Equal sums are not answered. An end knows that the other has compared its sums, and found no
//! difference, when the pong to a later ping arrives first: lines of a link arrive in order.
//!
//! Sources: anti-entropy after Demers et al., "Epidemic algorithms for replicated database
//! maintenance" (1987); the tree of sums after Merkle, "A digital signature based on a conventional
//! encryption function" (1987).

use core::time::Duration;
use std::collections::VecDeque;

use super::digest::{Branch, FANOUT, LEAF_LEVEL, Leaf};
use super::directory::Directory;
use super::fetch_claims::FetchClaims;
use super::message::{
    DIGESTS_PER_LINE, Digests, Message, Purpose, push_listing, push_offers, push_pull, push_sums,
    push_wants,
};
use super::queue::{IdSet, SlotQueue};
use crate::ids::{NodeId, Slot};
use crate::time::Instant;

/// Number of records or leaves per round that a link requests despite the claim of another link, or
/// sends unrequested. A small difference is not worth a delay or a round trip, and 256 records are
/// 25 kB.
pub const FETCH_FREELY: u32 = 256;

/// The time that a check waits for a missing record to arrive by flooding: many times the flooding
/// delay.
pub const GRACE: Duration = Duration::from_secs(1);

/// Maximum number of suspects of a link. Further ones are left to the next check.
const MAX_SUSPECTS: usize = 4096;

/// Maximum number of queued wants, and of queued offers in a sync. Further ones take another round.
const MAX_WANTS: usize = 65_536;

/// Maximum number of leaves examined per turn for a branch that the peer has pulled.
const LEAVES_PER_TURN: usize = 256;

/// The state of anti-entropy on one link. Every set is bounded by the size of the tree.
#[derive(Default)]
pub struct AntiEntropy {
    /// Inner branches for which the sums of the children are queued.
    compare: IdSet,
    /// Leaves for which a listing is queued.
    list: IdSet,
    /// Branches without records at the peer, to be sent completely.
    push: IdSet,
    /// Remaining leaves of the branch that is being sent completely.
    pushing: core::ops::Range<usize>,
    /// Branches without records here, to be requested completely.
    pull: IdSet,
    /// The leaf whose listing continues in another line, and its next digest.
    listing: Option<(Leaf, u64)>,
    /// Digests to request.
    wants: VecDeque<(Leaf, u64)>,
    /// Digests to offer.
    offers: VecDeque<(Leaf, u64)>,
    /// Missing records that may still arrive by flooding, with the end of their grace period.
    suspects: VecDeque<(Instant, Leaf, u64)>,
    /// Records to send to the peer.
    pub repairs: SlotQueue,
    /// Reason for sending them.
    repairs_for: Option<Purpose>,
    /// True if the current round is a sync, which lasts until nothing is queued.
    syncing: bool,
    /// Reason for the last listing sent, which also applies to the offers that answer it.
    listed_for: Option<Purpose>,
    /// True if something was not requested because of the claim of another link.
    waits: bool,
    /// Remaining allowance of this round, see [`FETCH_FREELY`].
    allowance: u32,
    /// Result of the last comparison of all records: whether both ends store the same records.
    equal: Option<bool>,
    /// True if the peer has reported a difference since this node last sent its sums.
    contradicted: bool,
    /// Id of the last ping sent before the sums of all records. A pong to a later ping shows that
    /// the peer has compared them.
    sums_sent_after: Option<u64>,
    /// Buffer for the digests of a leaf.
    scratch: Vec<(u64, Slot)>,
}

/// The state of the node that anti-entropy uses.
pub struct Context<'a> {
    /// The records of this node.
    pub directory: &'a Directory,
    /// Slots that are already queued for the peer.
    pub flooding: &'a SlotQueue,
    /// Claims of all links.
    pub claims: &'a mut FetchClaims,
    /// The neighbor.
    pub peer: NodeId,
    /// The current time.
    pub now: Instant,
}

impl AntiEntropy {
    /// Starts a round.
    pub fn open(&mut self, purpose: Purpose) {
        self.set_round(purpose);
        self.allowance = FETCH_FREELY;
        self.compare.insert(0);
    }

    /// Compares again if this link has left something to another whose claim has been released.
    pub fn resume(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.open(Purpose::Sync);
        }
    }

    /// Returns whether both ends stored the same records at the last comparison, or `None` before
    /// the first. Records that were in flight at that time count as differences.
    #[must_use]
    pub const fn is_equal(&self) -> Option<bool> {
        self.equal
    }

    /// Handles the pong to ping `id`: if the sums were sent before that ping, the peer has had the
    /// time to report a difference.
    pub fn handle_pong(&mut self, id: u64) {
        if self.sums_sent_after.take_if(|ping| *ping < id).is_some() {
            self.equal = Some(!self.contradicted);
        }
    }

    /// Returns whether no round is in progress.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.has_output() && self.suspects.is_empty() && !self.waits
    }

    /// Returns whether [`AntiEntropy::poll_transmit`] or the repair queue has output.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !(self.compare.is_empty()
            && self.list.is_empty()
            && self.push.is_empty()
            && self.pushing.is_empty()
            && self.pull.is_empty()
            && self.listing.is_none()
            && self.wants.is_empty()
            && self.offers.is_empty()
            && self.repairs.is_empty())
    }

    /// Returns when [`AntiEntropy::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.suspects.front().map(|(due, _, _)| *due)
    }

    /// Requests the suspects that have not arrived within their grace period.
    pub fn handle_timeout(&mut self, directory: &Directory, now: Instant) {
        self.set_round(Purpose::Check);
        while let Some(&(due, leaf, digest)) = self.suspects.front() {
            if due > now {
                break;
            }
            self.suspects.pop_front();
            if !is_stored(directory, leaf, digest) {
                self.want(leaf, digest);
            }
        }
    }

    /// Processes a message of anti-entropy.
    pub fn handle_message(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        if !matches!(message, Message::Sums(_, Branch::ROOT, _)) {
            (self.equal, self.contradicted) = (Some(false), true);
        }
        match *message {
            Message::Sums(purpose, branch, theirs) => {
                self.set_round(purpose);
                if branch == Branch::ROOT {
                    self.equal = Some(theirs == context.directory.sums().children(branch));
                    self.allowance = FETCH_FREELY;
                }
                self.compare_children(branch, &theirs, context);
            }
            Message::Listing { purpose, leaf, low, high, digests } => {
                self.set_round(purpose);
                self.compare_leaf(leaf, low..=high, digests, context);
            }
            Message::Offers(leaf, digests) => {
                self.set_round(self.listed_for.unwrap_or(Purpose::Check));
                for digest in digests.iter() {
                    if !is_stored(context.directory, leaf, digest) {
                        self.on_missing(leaf, digest, context);
                    }
                }
            }
            Message::Wants(purpose, leaf, digests) => {
                self.repairs_for = Some(purpose);
                let wanted: Vec<u64> = digests.iter().collect();
                for (digest, slot) in context.directory.leaf(leaf) {
                    if wanted.contains(&digest) && !context.flooding.contains(slot) {
                        self.repairs.push(slot);
                    }
                }
            }
            Message::Pull(branch) => {
                self.repairs_for = Some(Purpose::Sync);
                self.push.insert(number(branch));
            }
            _ => {}
        }
    }

    /// Appends messages until `out` has `limit` bytes or the work budget of a turn is used up.
    /// `last_ping` is the id of the last ping sent.
    pub fn poll_transmit(
        &mut self,
        directory: &Directory,
        flooding: &SlotQueue,
        last_ping: u64,
        out: &mut Vec<u8>,
        limit: usize,
    ) {
        let purpose = self.purpose();
        let mut digests = Vec::new();
        while out.len() < limit {
            if let Some(&(leaf, _)) = self.wants.front() {
                take_leaf(&mut self.wants, leaf, &mut digests);
                push_wants(out, purpose, leaf, &digests);
            } else if let Some(&(leaf, _)) = self.offers.front() {
                take_leaf(&mut self.offers, leaf, &mut digests);
                push_offers(out, leaf, &digests);
            } else if let Some(branch) = self.pull.pop().and_then(branch) {
                push_pull(out, branch);
            } else if let Some(branch) = self.compare.pop().and_then(branch) {
                if branch == Branch::ROOT {
                    (self.sums_sent_after, self.contradicted) = (Some(last_ping), false);
                }
                push_sums(out, purpose, branch, &directory.sums().children(branch));
            } else if let Some((leaf, low)) =
                self.listing.take().or_else(|| self.list.pop().map(|leaf| (Leaf(leaf as u16), 0)))
            {
                self.list_leaf(leaf, low, directory, out);
            } else {
                break;
            }
        }
        self.push_leaves(directory, flooding);
    }

    /// Returns the next record to send and the reason for sending it.
    pub fn next_repair(&mut self) -> Option<(Purpose, Slot)> {
        let slot = self.repairs.pop()?;
        Some((self.repairs_for.unwrap_or(Purpose::Check), slot))
    }

    /// Queues the records of a few leaves that the peer lacks.
    fn push_leaves(&mut self, directory: &Directory, flooding: &SlotQueue) {
        for _ in 0..LEAVES_PER_TURN {
            // Enough records are queued for now.
            if self.repairs.len() > MAX_SUSPECTS {
                return;
            }
            let Some(leaf) = self.pushing.next() else {
                let Some(branch) = self.push.pop().and_then(branch) else { return };
                self.pushing = branch.leaves();
                continue;
            };
            for (_, slot) in directory.leaf(Leaf(leaf as u16)) {
                if !flooding.contains(slot) {
                    self.repairs.push(slot);
                }
            }
        }
    }

    fn compare_children(
        &mut self,
        parent: Branch,
        theirs: &[u64; FANOUT],
        context: &mut Context<'_>,
    ) {
        let ours = context.directory.sums().children(parent);
        for i in 0..FANOUT {
            let child = parent.child(i);
            if theirs[i] == ours[i] {
                continue;
            }
            // Complete branches are sent only in a sync. In a check, their first record may be in
            // flight.
            let is_leaf = child.level == LEAF_LEVEL;
            if self.syncing && theirs[i] == 0 && is_leaf && self.take_allowance() {
                self.repairs_for = Some(Purpose::Sync);
                self.push.insert(number(child));
            } else if self.syncing && ours[i] == 0 {
                if self.try_claim(child, context) {
                    self.pull.insert(number(child));
                }
            } else if is_leaf {
                self.list.insert(child.index.into());
            } else {
                self.compare.insert(number(child));
            }
        }
    }

    fn compare_leaf(
        &mut self,
        leaf: Leaf,
        listed: core::ops::RangeInclusive<u64>,
        digests: Digests<'_>,
        context: &mut Context<'_>,
    ) {
        let mut theirs: Vec<u64> = digests.iter().collect();
        theirs.sort_unstable();
        let mut ours = std::mem::take(&mut self.scratch);
        ours.clear();
        ours.extend(context.directory.leaf(leaf).filter(|(digest, _)| listed.contains(digest)));
        for &(digest, slot) in &ours {
            if theirs.binary_search(&digest).is_err() && !context.flooding.contains(slot) {
                self.offer(leaf, digest, slot);
            }
        }
        ours.sort_unstable();
        for &digest in &theirs {
            if ours.binary_search_by_key(&digest, |&(digest, _)| digest).is_err() {
                self.on_missing(leaf, digest, context);
            }
        }
        self.scratch = ours;
    }

    fn list_leaf(&mut self, leaf: Leaf, low: u64, directory: &Directory, out: &mut Vec<u8>) {
        let all = directory.leaf(leaf).map(|(digest, _)| digest);
        let mut digests: Vec<u64> = all.filter(|&digest| digest >= low).collect();
        digests.sort_unstable();
        // The rest of a large leaf follows in more lines.
        let high = digests.get(DIGESTS_PER_LINE).map_or(u64::MAX, |next| next - 1);
        if high < u64::MAX {
            digests.truncate(DIGESTS_PER_LINE);
            self.listing = Some((leaf, high + 1));
        }
        push_listing(out, self.purpose(), leaf, (low, high), &digests);
        self.listed_for = Some(self.purpose());
    }

    /// Tries to claim the leaves below `branch`. If another link holds a claim, succeeds only for
    /// single leaves within the allowance, and otherwise records that this link must compare again.
    fn try_claim(&mut self, branch: Branch, context: &mut Context<'_>) -> bool {
        let claimed = context.claims.claim(context.peer, branch.leaves(), context.now)
            || (branch.level == LEAF_LEVEL && self.take_allowance());
        self.waits |= !claimed;
        claimed
    }

    /// Uses one unit of the allowance of this round. Returns false if it is used up.
    const fn take_allowance(&mut self) -> bool {
        let allowed = self.allowance > 0;
        self.allowance = self.allowance.saturating_sub(1);
        allowed
    }

    /// Handles a record that the peer stores and this node lacks.
    fn on_missing(&mut self, leaf: Leaf, digest: u64, context: &mut Context<'_>) {
        if !self.syncing {
            if self.suspects.len() < MAX_SUSPECTS {
                self.suspects.push_back((context.now + GRACE, leaf, digest));
            }
        } else if self.try_claim(Branch { level: LEAF_LEVEL, index: leaf.0 }, context) {
            self.want(leaf, digest);
        }
    }

    /// Handles a record that the peer lacks: sends it within the allowance, or else offers it.
    fn offer(&mut self, leaf: Leaf, digest: u64, slot: Slot) {
        if self.syncing && self.take_allowance() {
            self.repairs_for = Some(Purpose::Sync);
            self.repairs.push(slot);
        } else if self.offers.len() < if self.syncing { MAX_WANTS } else { MAX_SUSPECTS } {
            self.offers.push_back((leaf, digest));
        } else if self.syncing {
            self.compare.insert(0); // start another round after these have been offered
        }
    }

    fn want(&mut self, leaf: Leaf, digest: u64) {
        if self.wants.len() < MAX_WANTS {
            self.wants.push_back((leaf, digest));
        } else {
            self.compare.insert(0); // start another round after these have been requested
        }
    }

    /// Sets the purpose of the current round. A sync ends when nothing is queued, so that records
    /// recovered by a later check are not attributed to it.
    fn set_round(&mut self, purpose: Purpose) {
        self.syncing = purpose == Purpose::Sync || (self.syncing && self.has_output());
    }

    const fn purpose(&self) -> Purpose {
        if self.syncing { Purpose::Sync } else { Purpose::Check }
    }
}

/// Removes the digests of `leaf` from the front of `queue`, at most as many as fit in a line.
fn take_leaf(queue: &mut VecDeque<(Leaf, u64)>, leaf: Leaf, digests: &mut Vec<u64>) {
    digests.clear();
    while digests.len() < DIGESTS_PER_LINE {
        match queue.front() {
            Some(&(next, digest)) if next == leaf => digests.push(digest),
            _ => break,
        }
        queue.pop_front();
    }
}

fn is_stored(directory: &Directory, leaf: Leaf, wanted: u64) -> bool {
    directory.leaf(leaf).any(|(digest, _)| digest == wanted)
}

/// Returns the number of a branch, counted level by level.
fn number(branch: Branch) -> usize {
    let before = ((1usize << (4 * u32::from(branch.level))) - 1) / (FANOUT - 1);
    before + usize::from(branch.index)
}

/// Returns the branch with this number.
fn branch(number: usize) -> Option<Branch> {
    (0..=LEAF_LEVEL).find_map(|level| {
        let before = ((1usize << (4 * u32::from(level))) - 1) / (FANOUT - 1);
        Branch::new(level, number.checked_sub(before)? as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::herd::directory::{Keys, Rules};

    /// Equal sums are not answered.
    #[test]
    fn no_answer_means_equal_until_a_difference_is_reported() {
        let rules = Rules { max_clock_offset: 0, max_clients: 10, client_ttl: 0, forget_keep: 0 };
        let directory = Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) });
        let flooding = SlotQueue::default();
        let mut anti_entropy = AntiEntropy::default();
        let send_sums = |anti_entropy: &mut AntiEntropy, last_ping| {
            let mut out = Vec::new();
            anti_entropy.open(Purpose::Check);
            anti_entropy.poll_transmit(&directory, &flooding, last_ping, &mut out, 10_000);
            assert!(out.starts_with(b"SUMS C 0 0 "), "the sums of the root are sent");
        };
        send_sums(&mut anti_entropy, 1);
        anti_entropy.handle_pong(1);
        assert_eq!(anti_entropy.is_equal(), None, "the ping was sent before the sums");
        anti_entropy.handle_pong(2);
        assert_eq!(anti_entropy.is_equal(), Some(true));
        send_sums(&mut anti_entropy, 2);
        let mut context = Context {
            directory: &directory,
            flooding: &flooding,
            claims: &mut FetchClaims::default(),
            peer: NodeId(1),
            now: Instant::START,
        };
        anti_entropy.handle_message(&Message::Pull(Branch::ROOT), &mut context);
        anti_entropy.handle_pong(3);
        assert_eq!(anti_entropy.is_equal(), Some(false));
        for (sum, equal) in [(0, true), (1, false)] {
            let sums = Message::Sums(Purpose::Check, Branch::ROOT, [sum; FANOUT]);
            anti_entropy.handle_message(&sums, &mut context);
            assert_eq!(anti_entropy.is_equal(), Some(equal));
        }
    }

    #[test]
    fn branches_map_to_numbers_and_back() {
        assert_eq!(branch(number(Branch::ROOT)), Some(Branch::ROOT));
        for level in 0..=LEAF_LEVEL {
            for index in [0, 1, (1u64 << (4 * level)) - 1] {
                if let Some(there) = Branch::new(level, index) {
                    assert_eq!(branch(number(there)), Some(there));
                }
            }
        }
        assert_eq!(branch(1 + 16 + 256 + 4096 + 65536), None);
    }
}
