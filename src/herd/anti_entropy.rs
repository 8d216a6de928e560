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
//!  compare leaf ◀────────── LISTING of a leaf ┘
//!     ├── WANTS, what this end lacks ────────▶ repairs
//!     └── OFFERS, what the other lacks ──────▶ WANTS ──▶ repairs
//!  pull ── PULL, nothing stored below ───────▶ push ──▶ repairs
//!
//!  repairs ── REPAIR, then the record ───────▶ applied, flooded on
//! ```
//!
//! `compare`, `list`, `push` and `pull` are sets of branches. Everything that looks at records is a
//! [`Job`] about one leaf. Jobs run one after the other, those that the peer has caused first, and at
//! most [`RECORDS_PER_CALL`] records are examined per call, even if all records are in one leaf. A
//! job writes its output directly, and pauses while the output is full or enough repairs are queued,
//! so nothing that was found is dropped and the queues need no limit of their own.
//!
//! A round is over when nothing is queued. Two more things can hold it up: in a check, missing
//! records wait as *suspects*; in a sync, what another link has claimed is left out, and `waits`
//! makes this link compare again later.
//!
//! In a [`Purpose::Sync`] round, differences are expected and fetched at once, except for leaves that
//! are being fetched over another link ([`FetchClaims`]); those are compared again later. In a
//! [`Purpose::Check`] round, a missing record may be in flight. It is a suspect first, and is requested
//! only if it is still missing after [`GRACE`]. A record recovered this way indicates a fault of
//! flooding and is counted separately. A check finds at most [`MAX_SUSPECTS`] records. If that many
//! are missing, and those that are then requested turn out to be new, the check becomes a sync. If
//! this node refuses them, the next check requests a sample.
//!
//! Equal sums are not answered. An end knows that the other has compared its sums, and found no
//! difference, when the pong to a later ping arrives first: lines of a link arrive in order.
//!
//! Sources: anti-entropy after Demers et al., "Epidemic algorithms for replicated database
//! maintenance" (1987); the tree of sums after Merkle, "A digital signature based on a conventional
//! encryption function" (1987).

use core::time::Duration;
use std::collections::BTreeSet;

use super::digest::{Branch, FANOUT, LEAF_LEVEL, Leaf};
use super::directory::Directory;
use super::fetch_claims::FetchClaims;
use super::leaf_jobs::{Inbox, Job, Stage, Suspects, Task};
use super::message::{
    DIGESTS_PER_LINE, Message, Purpose, push_listing, push_offers, push_pull, push_sums, push_wants,
};
use super::queue::{IdSet, SlotQueue};
use crate::ids::{LinkId, NodeId, Slot};
use crate::time::Instant;

/// Number of records or leaves per round that a link requests despite the claim of another link, or
/// sends unrequested. A small difference is not worth a delay or a round trip, and 256 records are
/// 25 kB.
pub const FETCH_FREELY: u32 = 256;

/// The time that a check waits for a missing record to arrive by flooding: many times the flooding
/// delay.
pub const GRACE: Duration = Duration::from_secs(1);

/// Maximum number of suspects of a link, and of offers in a check. Further ones are left to the next
/// check, or to the sync that this one becomes.
pub const MAX_SUSPECTS: usize = 4096;

/// A check that finds this many missing records becomes a sync, unless fetching them proves to be of
/// no use. Less than [`MAX_SUSPECTS`], since the other end may stop before it has offered as many.
const MANY: usize = MAX_SUSPECTS / 2;

/// The same for a check after a round of which this node has refused most: a sample, which shows
/// whether it still would. More than [`FETCH_FREELY`], so that the sample can turn into a sync.
const SAMPLE: usize = 2 * FETCH_FREELY as usize;

/// Maximum number of queued repairs beyond those of one step of a job: a few buffers of output.
const MAX_REPAIRS: usize = 4096;

/// Maximum number of records and leaves examined per call of [`AntiEntropy::poll_transmit`]: some
/// hundred microseconds of work.
pub const RECORDS_PER_CALL: usize = 1024;

/// Maximum number of digests that a peer may make this node hold, as a multiple of the maximum number
/// of clients: those of each record in each of three kinds of lists.
const LISTS: usize = 3;

/// The state of anti-entropy on one link. Every set is bounded by the size of the tree.
#[derive(Default)]
pub struct AntiEntropy {
    /// Inner branches for which the sums of the children are queued.
    compare: IdSet,
    /// Leaves to be listed to the peer.
    list: IdSet,
    /// Branches without records at the peer, to be sent completely.
    push: IdSet,
    /// Remaining leaves of the branch that is being sent completely.
    pushing: core::ops::Range<usize>,
    /// Branches without records here, to be requested completely.
    pull: IdSet,
    /// The job in progress.
    job: Option<Job>,
    /// Jobs that the peer has caused.
    inbox: Inbox,
    /// Missing records that may still arrive by flooding.
    suspects: Suspects,
    /// Records to send to the peer.
    pub repairs: SlotQueue,
    /// Reason for sending them.
    repairs_for: Option<Purpose>,
    /// True if the current round is a sync, which lasts until nothing is queued.
    syncing: bool,
    /// True if something was not requested because of the claim of another link.
    waits: bool,
    /// Remaining allowance of this round, see [`FETCH_FREELY`].
    allowance: u32,
    /// Number of records that this check has found to be missing here, and at the peer.
    missing: usize,
    offered: usize,
    /// Number of records that this round has recovered, and of those that this node has refused.
    recovered: u32,
    refused: u32,
    /// True if most of the last round that recovered anything was refused.
    is_sampling: bool,
    /// Result of the last comparison of all records: whether both ends store the same records.
    equal: Option<bool>,
    /// True if the peer has reported a difference since this node last sent its sums.
    contradicted: bool,
    /// Id of the last ping sent before the sums of all records. A pong to a later ping shows that
    /// the peer has compared them.
    sums_sent_after: Option<u64>,
    /// Buffer for records of a leaf.
    scratch: Vec<(u64, Slot)>,
}

/// The state of the node that anti-entropy uses.
pub struct Context<'a> {
    /// The records of this node.
    pub directory: &'a mut Directory,
    /// Slots that are already queued for the peer.
    pub flooding: &'a SlotQueue,
    /// Claims of all links.
    pub claims: &'a mut FetchClaims,
    /// The link.
    pub link: LinkId,
    /// The neighbor.
    pub peer: NodeId,
    /// The current time.
    pub now: Instant,
}

impl AntiEntropy {
    /// Starts a round.
    pub fn open(&mut self, purpose: Purpose) {
        self.set_round(purpose);
        self.begin_round();
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
        !(self.has_output() || self.inbox.is_receiving() || !self.suspects.is_empty() || self.waits)
    }

    /// Returns whether [`AntiEntropy::poll_transmit`] or the repair queue has output.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !(self.compare.is_empty()
            && self.list.is_empty()
            && self.push.is_empty()
            && self.pushing.is_empty()
            && self.pull.is_empty()
            && self.job.is_none()
            && self.inbox.is_empty()
            && self.repairs.is_empty())
    }

    /// Returns when [`AntiEntropy::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.suspects.poll_timeout()
    }

    /// Requests the suspects that have not arrived within their grace period.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((leaf, digests)) = self.suspects.pop(now) {
            self.inbox.push(Job::new(Task::Recheck, Purpose::Check, leaf, digests));
        }
    }

    /// Processes a message of anti-entropy.
    pub fn handle_message(&mut self, message: &Message<'_>, context: &mut Context<'_>) {
        if !matches!(message, Message::Sums(_, Branch::ROOT, _)) {
            (self.equal, self.contradicted) = (Some(false), true);
        }
        let most = LISTS * context.directory.rules().max_clients as usize;
        match message {
            Message::Sums(purpose, branch, theirs) => {
                self.set_round(*purpose);
                if *branch == Branch::ROOT {
                    self.equal = Some(*theirs == context.directory.sums().children(*branch));
                    self.begin_round();
                }
                self.compare_children(*branch, theirs, context);
            }
            Message::Listing(list) => {
                self.set_round(list.purpose);
                self.inbox.receive(Task::Compare, list, most);
            }
            Message::Offers(list) => {
                self.set_round(list.purpose);
                self.inbox.receive(Task::Offered, list, most);
            }
            Message::Wants(list) => self.inbox.receive(Task::Wanted, list, most),
            Message::Pull(branch) => self.push.insert(number(*branch)),
            _ => {}
        }
    }

    /// Stops waiting for the claim of another link: what it fetched was refused.
    pub const fn give_up(&mut self) {
        self.waits = false;
    }

    /// Takes note of a record that the peer has sent because of this comparison, and that was stored
    /// or refused. If a check has recovered many and more are missing, it becomes a sync. It does so
    /// only now because fetching may be of no use: a node whose clock is ahead, for example, regards
    /// the records as expired.
    pub fn handle_recovered(&mut self, purpose: Purpose, is_stored: bool) {
        let total = if is_stored { &mut self.recovered } else { &mut self.refused };
        *total = total.saturating_add(1);
        let is_of_use = self.recovered >= FETCH_FREELY && self.recovered > self.refused;
        if purpose == Purpose::Check && is_stored && self.missing >= MANY && is_of_use {
            self.open(Purpose::Sync);
        }
    }

    /// Appends messages until `out` has `limit` bytes, or [`RECORDS_PER_CALL`] records have been
    /// examined. `last_ping` is the id of the last ping sent.
    pub fn poll_transmit(
        &mut self,
        context: &mut Context<'_>,
        last_ping: u64,
        out: &mut Vec<u8>,
        limit: usize,
    ) {
        let mut budget = RECORDS_PER_CALL;
        while out.len() < limit && budget > 0 {
            if let Some(branch) = self.pull.pop().and_then(branch) {
                push_pull(out, branch);
            } else if let Some(branch) = self.compare.pop().and_then(branch) {
                // Earlier sums that are not confirmed yet are confirmed first, or frequent checks would
                // never be.
                if branch == Branch::ROOT && self.sums_sent_after.is_none() {
                    (self.sums_sent_after, self.contradicted) = (Some(last_ping), false);
                }
                let sums = context.directory.sums().children(branch);
                push_sums(out, self.purpose(), branch, &sums);
            } else if !self.work(context, out, &mut budget) {
                break;
            }
        }
        if self.inbox.overflowed && !self.has_output() {
            self.inbox.overflowed = false;
            self.open(Purpose::Sync);
        }
    }

    /// Returns the next record to send and the reason for sending it.
    pub fn next_repair(&mut self) -> Option<(Purpose, Slot)> {
        let slot = self.repairs.pop()?;
        Some((self.repairs_for.unwrap_or(Purpose::Check), slot))
    }

    /// Performs one step of a job. Returns false if there is nothing to do for now.
    fn work(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>, budget: &mut usize) -> bool {
        let Some(mut job) = self.job.take().or_else(|| self.next_job()) else { return false };
        let waits = match job.task {
            Task::Wanted | Task::Push => self.repairs.len() > MAX_REPAIRS,
            // What the peer offers may be older versions of what it has requested. Once it has
            // received that, it no longer has them.
            Task::Offered => job.stage == Stage::New && !self.repairs.is_empty(),
            _ => false,
        };
        let is_done = if waits {
            false
        } else if matches!(job.stage, Stage::New | Stage::Walking) {
            self.walk(&mut job, context, out, budget);
            false
        } else {
            self.answer(&mut job, context, out)
        };
        if !is_done {
            self.job = Some(job);
        }
        !waits
    }

    fn next_job(&mut self) -> Option<Job> {
        let has_enough = self.missing >= MAX_SUSPECTS || self.offered >= MAX_SUSPECTS;
        if has_enough && !self.syncing {
            (self.compare, self.list) = Default::default();
        }
        while let Some(job) = self.inbox.pop() {
            let is_of_check = job.task == Task::Compare && job.purpose == Purpose::Check;
            if !(is_of_check && has_enough) {
                return Some(job);
            }
        }
        if let Some(leaf) = self.list.pop() {
            let leaf = Leaf(leaf as u16);
            return Some(Job::new(Task::List, self.purpose(), leaf, BTreeSet::new()));
        }
        while self.pushing.is_empty() {
            self.pushing = self.push.pop().and_then(branch)?.leaves();
        }
        let leaf = Leaf(self.pushing.next()? as u16);
        Some(Job::new(Task::Push, Purpose::Sync, leaf, BTreeSet::new()))
    }

    /// Examines some records of the job's leaf.
    fn walk(
        &mut self,
        job: &mut Job,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
        budget: &mut usize,
    ) {
        let mut records = std::mem::take(&mut self.scratch);
        let resume = job.stage == Stage::Walking;
        let most = DIGESTS_PER_LINE.min(*budget);
        let is_last = context.directory.walk(context.link, job.leaf, resume, most, &mut records);
        *budget -= records.len().max(1);
        for &(digest, slot) in &records {
            let is_listed = job.digests.remove(&digest);
            let is_queued = context.flooding.contains(slot);
            match job.task {
                Task::List => {
                    if job.line.len() == DIGESTS_PER_LINE {
                        push_listing(out, (job.purpose, job.leaf), &job.line, true);
                        job.line.clear();
                    }
                    job.line.push(digest);
                }
                Task::Compare if !is_listed && !is_queued => self.offer(job, digest, slot, out),
                Task::Wanted if is_listed && !is_queued => self.repair(job.purpose, slot),
                Task::Push if !is_queued => self.repair(job.purpose, slot),
                _ => {}
            }
        }
        self.scratch = records;
        let finds = matches!(job.task, Task::Offered | Task::Recheck | Task::Wanted);
        let has_all = finds && job.digests.is_empty();
        job.stage = if is_last || has_all { Stage::Walked } else { Stage::Walking };
    }

    /// Performs one step of what follows the walk. Returns whether the job is done.
    fn answer(&mut self, job: &mut Job, context: &mut Context<'_>, out: &mut Vec<u8>) -> bool {
        let list = (job.purpose, job.leaf);
        match job.task {
            Task::List => {
                push_listing(out, list, &job.line, false);
                return true;
            }
            Task::Wanted | Task::Push => return true,
            Task::Compare | Task::Offered if job.stage == Stage::Walked => {
                self.decide(job, context);
            }
            Task::Compare | Task::Offered | Task::Recheck => {}
        }
        job.stage = Stage::Decided;
        if !job.digests.is_empty() {
            let wants: Vec<u64> =
                core::iter::from_fn(|| job.digests.pop_first()).take(DIGESTS_PER_LINE).collect();
            push_wants(out, list, &wants, !job.digests.is_empty());
        }
        if !job.digests.is_empty() {
            return false;
        }
        if !job.line.is_empty() {
            push_offers(out, list, &job.line, false);
        }
        true
    }

    /// Decides which of the missing records are requested now, and leaves these in the job.
    fn decide(&mut self, job: &mut Job, context: &mut Context<'_>) {
        if job.digests.is_empty() {
            return;
        }
        if job.purpose == Purpose::Check {
            self.missing += job.digests.len();
            let most = if self.is_sampling { SAMPLE } else { MAX_SUSPECTS };
            let room = most.saturating_sub(self.suspects.len());
            let suspects = first(room, std::mem::take(&mut job.digests));
            self.suspects.push(context.now + GRACE, job.leaf, suspects);
            return;
        }
        let leaf = Branch { level: LEAF_LEVEL, index: job.leaf.0 };
        if !context.claims.claim(context.peer, leaf.leaves(), context.now) {
            let most = job.digests.len().min(self.allowance as usize);
            self.allowance -= most as u32;
            self.waits |= most < job.digests.len();
            job.digests = first(most, std::mem::take(&mut job.digests));
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

    /// Handles a record that the peer lacks: sends it within the allowance, or else offers it.
    fn offer(&mut self, job: &mut Job, digest: u64, slot: Slot, out: &mut Vec<u8>) {
        if job.purpose == Purpose::Sync && self.take_allowance() {
            return self.repair(Purpose::Sync, slot);
        }
        if job.purpose == Purpose::Check {
            if self.offered >= MAX_SUSPECTS {
                return;
            }
            self.offered += 1;
        }
        if job.line.len() == DIGESTS_PER_LINE {
            push_offers(out, (job.purpose, job.leaf), &job.line, true);
            job.line.clear();
        }
        job.line.push(digest);
    }

    /// Queues a record for the peer. A sync explains every record that is in the queue with one of
    /// its own.
    fn repair(&mut self, purpose: Purpose, slot: Slot) {
        if purpose == Purpose::Sync || self.repairs.is_empty() {
            self.repairs_for = Some(purpose);
        }
        self.repairs.push(slot);
    }

    /// Sets the purpose of the current round. A sync ends when nothing is queued, so that records
    /// recovered by a later check are not attributed to it.
    fn set_round(&mut self, purpose: Purpose) {
        self.syncing = purpose == Purpose::Sync || (self.syncing && self.has_output());
    }

    const fn begin_round(&mut self) {
        self.allowance = FETCH_FREELY;
        if self.recovered + self.refused > 0 {
            self.is_sampling = self.refused > self.recovered;
        }
        (self.missing, self.offered, self.recovered, self.refused) = (0, 0, 0, 0);
    }

    const fn purpose(&self) -> Purpose {
        if self.syncing { Purpose::Sync } else { Purpose::Check }
    }
}

/// Returns the first `most` of these digests.
fn first(most: usize, digests: BTreeSet<u64>) -> BTreeSet<u64> {
    if digests.len() <= most { digests } else { digests.into_iter().take(most).collect() }
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
        let mut context = Context {
            directory: &mut Directory::new(rules, Keys { index: (1, 2), digest: (3, 4) }),
            flooding: &SlotQueue::default(),
            claims: &mut FetchClaims::default(),
            link: LinkId(0),
            peer: NodeId(1),
            now: Instant::START,
        };
        let mut anti_entropy = AntiEntropy::default();
        let send_sums = |anti_entropy: &mut AntiEntropy, context: &mut Context<'_>, last_ping| {
            let mut out = Vec::new();
            anti_entropy.open(Purpose::Check);
            anti_entropy.poll_transmit(context, last_ping, &mut out, 10_000);
            assert!(out.starts_with(b"SUMS C 0 0 "), "the sums of the root are sent");
        };
        send_sums(&mut anti_entropy, &mut context, 1);
        anti_entropy.handle_pong(1);
        assert_eq!(anti_entropy.is_equal(), None, "the ping was sent before the sums");
        send_sums(&mut anti_entropy, &mut context, 2);
        anti_entropy.handle_pong(2);
        assert_eq!(anti_entropy.is_equal(), Some(true), "the first sums are confirmed");
        send_sums(&mut anti_entropy, &mut context, 2);
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
