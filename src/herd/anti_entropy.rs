//! Anti-entropy on one link: comparing digests, and fetching what differs.
//!
//! Either side opens a round with the sums of the root's children. Whoever receives sums compares
//! them with its own and goes down where they differ; at a leaf it lists the digests of its
//! records, and the other side asks for those it lacks and offers those it has more. A side that
//! holds nothing below a branch asks for all of it. Only a little is brought that was not asked for.
//!
//! In a [`Purpose::Sync`] round differences are expected and fetched at once, but not what another
//! link is being asked for ([`Fetches`]): then this one compares again later. In a
//! [`Purpose::Check`] round a record that is missing may just be on its way, so it is a suspect
//! first and is asked for only if it is still missing after [`GRACE`]: what a check then brings is
//! a fault of flooding, and is counted as such.

use core::time::Duration;
use std::collections::VecDeque;

use super::digest::{Branch, FANOUT, LEAF_LEVEL, Leaf};
use super::directory::{Directory, Slot};
use super::fetch_claims::Fetches;
use super::message::{
    DIGESTS_PER_LINE, Digests, Message, Purpose, push_listing, push_offers, push_pull, push_sums,
    push_wants,
};
use super::queue::{NumberSet, SlotQueue};
use super::routes::NodeId;

/// Records or leaves per comparison that a link requests while another link is being asked for
/// them, or sends unrequested: a small difference is not worth a wait or a round trip, and 256
/// records are 25 kB.
pub const FETCH_FREELY: u32 = 256;

/// How long a check waits for a missing record to come by itself: many times the delay of a flood.
pub const GRACE: Duration = Duration::from_secs(1);

/// Most suspects of a link. What is beyond is left to the next check.
const MAX_SUSPECTS: usize = 4096;

/// Most digests waiting to be asked for, or offered in a sync. What is beyond takes another round.
const MAX_WANTS: usize = 65_536;

/// Leaves that one turn looks at for a branch that the peer wants whole: bounds the work of a turn.
const LEAVES_PER_TURN: usize = 256;

/// The state of anti-entropy on one link. Every set is bounded by the size of the tree.
#[derive(Default)]
pub struct Exchange {
    /// Inner branches whose children's sums are to be sent.
    compare: NumberSet,
    /// Leaves whose digests are to be listed.
    list: NumberSet,
    /// Branches of which the peer holds nothing and gets everything.
    push: NumberSet,
    /// The leaves left of a branch that is being pushed.
    pushing: core::ops::Range<usize>,
    /// Branches of which this node holds nothing and asks for everything.
    pull: NumberSet,
    /// The leaf whose listing goes on, and from which digest.
    listing: Option<(Leaf, u64)>,
    /// What is to be asked for.
    wants: VecDeque<(Leaf, u64)>,
    /// What is to be offered.
    offers: VecDeque<(Leaf, u64)>,
    /// What was missing and may yet come by itself, until when.
    suspects: VecDeque<(Duration, Leaf, u64)>,
    /// Records the peer asked for.
    pub repairs: SlotQueue,
    /// Why the peer asked.
    pub repairs_for: Option<Purpose>,
    /// The round under way is a sync. It is until there is nothing left to do.
    syncing: bool,
    /// Why the last listing was sent. An offer answers one.
    listed_for: Option<Purpose>,
    /// Something was not asked for, since another link was being asked for it.
    waits: bool,
    /// How much this round may still ask for all the same, or bring unasked.
    freely: u32,
    /// What the last comparison of all records said: whether both ends hold the same.
    equal: Option<bool>,
    /// The peer has said since this node last sent its sums that something differs.
    contradicted: bool,
    /// Reused for the digests of a leaf.
    scratch: Vec<(u64, Slot)>,
}

/// What an exchange works with.
pub struct Context<'a> {
    /// What this node holds.
    pub directory: &'a Directory,
    /// The slots that are queued for the peer anyway.
    pub flooding: &'a SlotQueue,
    /// What this node is fetching, on whichever link.
    pub fetches: &'a mut Fetches,
    /// The neighbour.
    pub peer: NodeId,
    /// The time.
    pub now: Duration,
}

impl Exchange {
    /// Opens a round.
    pub fn open(&mut self, purpose: Purpose) {
        self.note(purpose);
        self.freely = FETCH_FREELY;
        self.compare.insert(0);
    }

    /// Another link is done, gone or slow: compares again if this one has left something to it.
    pub fn go_on(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.open(Purpose::Sync);
        }
    }

    /// Whether both ends held the same when they last compared; `None` before that. Records that
    /// were on their way at that moment make a difference, too.
    #[must_use]
    pub const fn is_equal(&self) -> Option<bool> {
        self.equal
    }

    /// The peer has had the sums of all records and the time to say that its own differ.
    pub const fn not_contradicted(&mut self) {
        self.equal = Some(!self.contradicted);
    }

    /// Whether nothing is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.has_output() && self.suspects.is_empty() && !self.waits
    }

    /// Whether [`Exchange::fill`] or the queue of repairs has something to send.
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

    /// When [`Exchange::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.suspects.front().map(|(due, _, _)| *due)
    }

    /// Asks for the suspects that did not come.
    pub fn handle_timeout(&mut self, directory: &Directory, now: Duration) {
        self.note(Purpose::Check);
        while let Some(&(due, leaf, digest)) = self.suspects.front() {
            if due > now {
                break;
            }
            self.suspects.pop_front();
            if !holds(directory, leaf, digest) {
                self.want(leaf, digest);
            }
        }
    }

    /// Takes a message of the exchange.
    pub fn receive(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        if !matches!(message, Message::Sums(_, Branch::ROOT, _)) {
            (self.equal, self.contradicted) = (Some(false), true);
        }
        match *message {
            Message::Sums(purpose, branch, theirs) => {
                self.note(purpose);
                if branch == Branch::ROOT {
                    self.equal = Some(theirs == context.directory.sums().children(branch));
                    self.freely = FETCH_FREELY;
                }
                self.compare_children(branch, &theirs, context);
            }
            Message::Listing { purpose, leaf, low, high, digests } => {
                self.note(purpose);
                self.compare_leaf(leaf, low..=high, digests, context);
            }
            Message::Offers(leaf, digests) => {
                self.note(self.listed_for.unwrap_or(Purpose::Check));
                for digest in digests.iter() {
                    if !holds(context.directory, leaf, digest) {
                        self.lack(leaf, digest, context);
                    }
                }
            }
            Message::Wants(purpose, leaf, digests) => {
                self.repairs_for = Some(purpose);
                let wanted: Vec<u64> = digests.iter().collect();
                context.directory.for_leaf(leaf, |digest, slot| {
                    if wanted.contains(&digest) && !context.flooding.contains(slot) {
                        self.repairs.push(slot);
                    }
                });
            }
            Message::Pull(branch) => {
                self.repairs_for = Some(Purpose::Sync);
                self.push.insert(number(branch));
            }
            _ => {}
        }
    }

    /// Appends messages until `out` has `limit` bytes or a turn's work is done. Returns whether the
    /// sums of all records are among them.
    pub fn fill(
        &mut self,
        directory: &Directory,
        flooding: &SlotQueue,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> bool {
        let mut opens = false;
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
                    (opens, self.contradicted) = (true, false);
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
        opens
    }

    /// Moves the records of a few leaves that the peer lacks to the repairs.
    fn push_leaves(&mut self, directory: &Directory, flooding: &SlotQueue) {
        for _ in 0..LEAVES_PER_TURN {
            // What waits to be sent is enough for now.
            if self.repairs.len() > MAX_SUSPECTS {
                return;
            }
            let Some(leaf) = self.pushing.next() else {
                let Some(branch) = self.push.pop().and_then(branch) else { return };
                self.pushing = branch.leaves();
                continue;
            };
            let repairs = &mut self.repairs;
            directory.for_leaf(Leaf(leaf as u16), |_, slot| {
                if !flooding.contains(slot) {
                    repairs.push(slot);
                }
            });
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
            // Whole branches move only in a sync: in a check a first record may be on its way.
            let is_leaf = child.level == LEAF_LEVEL;
            if self.syncing && theirs[i] == 0 && is_leaf && self.is_free() {
                self.repairs_for = Some(Purpose::Sync);
                self.push.insert(number(child));
            } else if self.syncing && ours[i] == 0 {
                if self.may_ask(child, context) {
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
        context.directory.for_leaf(leaf, |digest, slot| {
            if listed.contains(&digest) {
                ours.push((digest, slot));
            }
        });
        for &(digest, slot) in &ours {
            if theirs.binary_search(&digest).is_err() && !context.flooding.contains(slot) {
                self.offer(leaf, digest, slot);
            }
        }
        ours.sort_unstable();
        for &digest in &theirs {
            if ours.binary_search_by_key(&digest, |&(digest, _)| digest).is_err() {
                self.lack(leaf, digest, context);
            }
        }
        self.scratch = ours;
    }

    fn list_leaf(&mut self, leaf: Leaf, low: u64, directory: &Directory, out: &mut Vec<u8>) {
        let mut digests = Vec::new();
        directory.for_leaf(leaf, |digest, _| {
            if digest >= low {
                digests.push(digest);
            }
        });
        digests.sort_unstable();
        // The rest of a crowded leaf follows in further lines.
        let high = digests.get(DIGESTS_PER_LINE).map_or(u64::MAX, |next| next - 1);
        if high < u64::MAX {
            digests.truncate(DIGESTS_PER_LINE);
            self.listing = Some((leaf, high + 1));
        }
        push_listing(out, self.purpose(), leaf, (low, high), &digests);
        self.listed_for = Some(self.purpose());
    }

    /// Whether this link asks for what is below `branch`. If another is being asked for some of it,
    /// then only for a few leaves; what is left waits.
    fn may_ask(&mut self, branch: Branch, context: &mut Context<'_>) -> bool {
        let may = context.fetches.ask(context.peer, branch.leaves(), context.now)
            || (branch.level == LEAF_LEVEL && self.is_free());
        self.waits |= !may;
        may
    }

    /// Whether a record or leaf more may move without the question whether it comes twice.
    const fn is_free(&mut self) -> bool {
        let free = self.freely > 0;
        self.freely = self.freely.saturating_sub(1);
        free
    }

    /// This node lacks what the peer holds.
    fn lack(&mut self, leaf: Leaf, digest: u64, context: &mut Context<'_>) {
        if !self.syncing {
            if self.suspects.len() < MAX_SUSPECTS {
                self.suspects.push_back((context.now + GRACE, leaf, digest));
            }
        } else if self.may_ask(Branch { level: LEAF_LEVEL, index: leaf.0 }, context) {
            self.want(leaf, digest);
        }
    }

    /// The peer lacks what this node holds. It gets a little at once and is offered the rest.
    fn offer(&mut self, leaf: Leaf, digest: u64, slot: Slot) {
        if self.syncing && self.is_free() {
            self.repairs_for = Some(Purpose::Sync);
            self.repairs.push(slot);
        } else if self.offers.len() < if self.syncing { MAX_WANTS } else { MAX_SUSPECTS } {
            self.offers.push_back((leaf, digest));
        } else if self.syncing {
            self.compare.insert(0); // another round, once these have been offered
        }
    }

    fn want(&mut self, leaf: Leaf, digest: u64) {
        if self.wants.len() < MAX_WANTS {
            self.wants.push_back((leaf, digest));
        } else {
            self.compare.insert(0); // another round, once these have been asked for
        }
    }

    /// Goes on with a round for this purpose. A sync that nothing is left of is over: what a check
    /// then finds must not pass for it.
    fn note(&mut self, purpose: Purpose) {
        self.syncing = purpose == Purpose::Sync || (self.syncing && self.has_output());
    }

    const fn purpose(&self) -> Purpose {
        if self.syncing { Purpose::Sync } else { Purpose::Check }
    }
}

/// Takes the digests of `leaf` at the front of `queue`, at most a line of them.
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

fn holds(directory: &Directory, leaf: Leaf, wanted: u64) -> bool {
    let mut found = false;
    directory.for_leaf(leaf, |digest, _| found |= digest == wanted);
    found
}

/// A branch as a number among all branches, level by level.
fn number(branch: Branch) -> usize {
    let before = ((1usize << (4 * u32::from(branch.level))) - 1) / (FANOUT - 1);
    before + usize::from(branch.index)
}

/// The branch of that number.
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

    /// Whoever sends its sums hears nothing where they are equal.
    #[test]
    fn silence_is_consent_and_what_differs_is_no_more_equal() {
        let rules = Rules { max_clock_offset: 0, max_clients: 10, client_ttl: 0 };
        let directory = Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) });
        let flooding = SlotQueue::default();
        let mut exchange = Exchange::default();
        let open = |exchange: &mut Exchange| {
            exchange.open(Purpose::Check);
            exchange.fill(&directory, &flooding, &mut Vec::new(), 10_000)
        };
        assert!(open(&mut exchange), "its sums are among what it sends");
        assert_eq!(exchange.is_equal(), None);
        exchange.not_contradicted();
        assert_eq!(exchange.is_equal(), Some(true));
        open(&mut exchange);
        let mut context = Context {
            directory: &directory,
            flooding: &flooding,
            fetches: &mut Fetches::default(),
            peer: 1,
            now: Duration::ZERO,
        };
        let differs = Message::Pull(Branch::ROOT);
        exchange.receive(&differs, &mut context);
        exchange.not_contradicted();
        assert_eq!(exchange.is_equal(), Some(false));
        for (sum, equal) in [(0, true), (1, false)] {
            let sums = Message::Sums(Purpose::Check, Branch::ROOT, [sum; FANOUT]);
            exchange.receive(&sums, &mut context);
            assert_eq!(exchange.is_equal(), Some(equal));
        }
    }

    #[test]
    fn branches_and_their_numbers() {
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
