//! Which clients are inside which fences, record by record.
//!
//! [`Fences`] sees every record that the directory stores and every one that it removes, so a client
//! that stays with this node causes exactly the transitions that its records imply, in order. There is
//! state only about clients that are inside a fence or about to be. The calls:
//!
//! | in | when |
//! |---|---|
//! | [`Fences::handle_first`] | the first record of a client is about to be stored |
//! | [`Fences::handle_replaced`] | another record of a client is about to be stored |
//! | [`Fences::handle_removed`] | a client is about to be removed |
//! | [`Fences::install`] | the file has been read again |
//! | [`Fences::evaluate`] | in slices, while [`Fences::is_evaluating`] |
//! | [`Fences::handle_timeout`] | the time of [`Fences::poll_timeout`] has come |
//!
//! The output is [`Fences::transitions`].

use std::collections::BTreeSet;
use std::sync::Arc;

use hashbrown::HashTable;

use super::limits::TIMERS_PER_TURN;
use super::pending::Pending;
use super::set::{Fence, FenceId, FenceSet, Retired};
use super::transitions::{Reason, Transition, Transitions};
use crate::counters::counters;
use crate::geo::Point;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::time::{Instant, Now, Wall};

/// Slots whose clients share a table, so that growing it takes some microseconds.
const SHARD: usize = 4096;

/// The fences in use, and the clients in them.
pub struct Fences {
    set: Arc<FenceSet>,
    /// The time at which the node started.
    started: Wall,
    /// The state of the clients that have any, for [`SHARD`] successive slots each.
    clients: Vec<HashTable<Client>>,
    /// Who is inside, by fence.
    inside: BTreeSet<(FenceId, Slot)>,
    /// Number of clients that are inside at least one fence.
    clients_inside: usize,
    /// Changes that have not lasted for the dwell time of their fence yet.
    pending: Pending,
    /// Fences of former sets that clients may still be in.
    retired: Vec<Former>,
    walk: Option<Walk>,
    transitions: Transitions,
    /// The positions of the fences around a client, kept to be filled again.
    found: Vec<u32>,
    /// Monotonic counters since start-up.
    pub counters: Counters,
}

counters! {
    /// Monotonic counters of fences since start-up.
    Counters {
        fence_transitions_total: "Times that a client has entered or left a fence, by event." {
            entered (event = "enter"): "Times that a client has entered a fence.",
            left (event = "leave"):
                "Times that a client has left a fence, or is no longer in it for another reason.",
        }
    }
}

/// The state of one client.
struct Client {
    slot: Slot,
    /// In the order of their numbers, and never empty.
    fences: Vec<Membership>,
}

/// The relation of a client to a fence. At least one of the two is true.
#[derive(Clone, Copy)]
struct Membership {
    fence: FenceId,
    /// The last transition was an `enter`.
    is_inside: bool,
    /// The last record is inside, as far as hysteresis is concerned.
    was_inside: bool,
}

/// The fences that a reload has ended.
struct Former {
    fences: Arc<Retired>,
    /// The time of the reload.
    ended: Wall,
}

/// The evaluation of all clients for fences that were added, in slices.
struct Walk {
    /// The next slot to evaluate, and the end of those that were in use at the beginning.
    next: u32,
    end: u32,
}

/// Access to the records of the directory.
pub trait Records {
    /// Returns the line in a slot, or `None` if the slot is free.
    fn line(&self, slot: Slot) -> Option<&[u8]>;
}

impl Fences {
    /// The fences of `set`. Records that another node received before `started`, the start of this one, do
    /// not cause an `enter` here if they are the first of their clients: a restart causes no events.
    #[must_use]
    pub fn new(set: Arc<FenceSet>, started: Wall) -> Self {
        Self {
            set,
            started,
            clients: Vec::new(),
            inside: BTreeSet::new(),
            clients_inside: 0,
            pending: Pending::default(),
            retired: Vec::new(),
            walk: None,
            transitions: Transitions::default(),
            found: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Returns the fences in use.
    #[must_use]
    pub const fn set(&self) -> &Arc<FenceSet> {
        &self.set
    }

    /// Returns the log of transitions.
    #[must_use]
    pub const fn transitions(&self) -> &Transitions {
        &self.transitions
    }

    /// Returns the slots of the clients inside a fence from `from` on, in ascending order.
    pub fn inside(&self, fence: FenceId, from: Slot) -> impl Iterator<Item = Slot> {
        self.inside.range((fence, from)..=(fence, Slot(u32::MAX))).map(|(_, slot)| *slot)
    }

    /// Returns who is inside which fence, from `from` on, in ascending order.
    pub fn memberships(&self, from: (FenceId, Slot)) -> impl Iterator<Item = (FenceId, Slot)> {
        self.inside.range(from..).copied()
    }

    /// Returns the number of clients that are inside at least one fence.
    #[must_use]
    pub const fn clients_inside(&self) -> usize {
        self.clients_inside
    }

    /// Takes note that `record` is about to be stored in `slot`. It is the first one of its client;
    /// `is_local` is true if the client gave it to this node.
    pub fn handle_first(&mut self, slot: Slot, record: &Record<'_>, is_local: bool) {
        if !is_local && record.received < self.started.nanos() {
            return self.settle(slot, record);
        }
        self.handle_moved(slot, record.line, record);
    }

    /// Takes note that `record` is about to replace the line `old` of the client in `slot`.
    pub fn handle_replaced(&mut self, slot: Slot, old: &[u8], record: &Record<'_>, now: Wall) {
        if record.is_tombstone() {
            // The time of a tombstone is later than that of its creation if it erases a record that is
            // ahead.
            let erased = Wall(record.received).min(now);
            return self.handle_removed(slot, old, Reason::Forgotten, erased);
        }
        self.catch_up(slot, old);
        self.handle_moved(slot, old, record);
    }

    fn handle_moved(&mut self, slot: Slot, old: &[u8], record: &Record<'_>) {
        let Some(point) = point_of(record) else { return };
        let mut found = std::mem::take(&mut self.found);
        self.set.containing(point, &mut found);
        let held = self.take_client(slot);
        if !(found.is_empty() && held.is_empty()) {
            self.apply(&Change { slot, point, old, record }, held, &found);
        }
        self.found = found;
    }

    /// Takes note that the client in `slot`, whose line is `line`, is about to be removed. Changes that
    /// had lasted long enough by `now` are reported first, whether or not their timers have fired.
    pub fn handle_removed(&mut self, slot: Slot, line: &[u8], reason: Reason, now: Wall) {
        self.catch_up(slot, line);
        for membership in self.take_client(slot) {
            self.leave(slot, membership, line, reason, now);
        }
    }

    /// Replaces the fences. Clients leave those that are not the same any more; fences that were added
    /// cause no events. [`Fences::evaluate`] must be called for both, with the slots below `slots`.
    pub fn install(&mut self, set: Arc<FenceSet>, slots: u32, now: Wall) {
        if !set.retired().is_empty() {
            self.retired.push(Former { fences: Arc::clone(set.retired()), ended: now });
        }
        if set.has_new() || !set.retired().is_empty() {
            self.begin_evaluation(slots);
        }
        self.set = set;
    }

    /// Begins to evaluate all clients, without events for those that are inside.
    pub fn begin_evaluation(&mut self, slots: u32) {
        self.walk = Some(Walk { next: 0, end: slots });
    }

    /// Returns whether clients remain to be evaluated.
    #[must_use]
    pub const fn is_evaluating(&self) -> bool {
        self.walk.is_some()
    }

    /// Evaluates clients, which takes a unit of `work` for each and for each fence around it. Returns whether all have been evaluated.
    pub fn evaluate(&mut self, records: &impl Records, work: &mut usize) -> bool {
        while let Some(walk) = &mut self.walk {
            if walk.next >= walk.end {
                self.walk = None;
                self.retired.clear();
                break;
            }
            if *work == 0 {
                return false;
            }
            let slot = Slot(walk.next);
            walk.next += 1;
            if let Some(line) = records.line(slot) {
                self.evaluate_slot(slot, line);
            }
            *work = work.saturating_sub(1 + self.found.len());
        }
        true
    }

    /// Returns when [`Fences::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.pending.poll_timeout()
    }

    /// Returns when a change of a client is reported unless it is reverted before, if there is one.
    #[must_use]
    pub fn due(&self, slot: Slot, fence: FenceId) -> Option<Instant> {
        self.pending.due(slot, fence)
    }

    /// Starts the timers of changes that have begun, and reports those that have lasted long enough.
    pub fn handle_timeout(&mut self, records: &impl Records, now: &Now) {
        let (set, retired) = (&self.set, &self.retired);
        let dwell = |id| find(set, retired, id).map_or(0, |fence| fence.dwell);
        self.pending.start_timers(dwell, now);
        for _ in 0..TIMERS_PER_TURN {
            let Some((slot, fence)) = self.pending.pop(now.instant) else { return };
            if let Some(line) = records.line(slot) {
                self.confirm_in_place(slot, fence, line);
            }
        }
    }

    /// Returns a fence in use, or one that clients may still be in.
    fn fence(&self, id: FenceId) -> Option<&Arc<Fence>> {
        find(&self.set, &self.retired, id)
    }

    /// Applies the change of a client that is at `found` or was in the fences of `held`.
    fn apply(&mut self, change: &Change<'_>, mut held: Vec<Membership>, found: &[u32]) {
        let set = Arc::clone(&self.set);
        held.retain_mut(|membership| {
            let Some(fence) = set.get(membership.fence) else {
                self.leave_retired(change.slot, *membership, change.old);
                return false;
            };
            let at = set.position(fence.id);
            let contains = at.is_some_and(|at| found.binary_search(&at).is_ok());
            self.follow(change, fence, contains, membership)
        });
        for &at in found {
            let fence = &set.fences()[at as usize];
            let Err(place) = held.binary_search_by_key(&fence.id, |it| it.fence) else { continue };
            let is_inside = fence.dwell == 0;
            let membership = Membership { fence: fence.id, is_inside, was_inside: true };
            held.insert(place, membership);
            if is_inside {
                self.inside.insert((fence.id, change.slot));
                self.report(change.slot, fence.id, None, change.record.line);
            } else {
                self.pending.begin(change.slot, fence, change.record.received);
            }
        }
        self.put_client(change.slot, held);
    }

    /// Updates one membership for a change. Returns whether it remains.
    fn follow(
        &mut self,
        change: &Change<'_>,
        fence: &Fence,
        contains: bool,
        membership: &mut Membership,
    ) -> bool {
        let is_held = || {
            membership.was_inside
                && fence.hysteresis_m > 0.0
                && !fence.shape.is_beyond(change.point, fence.hysteresis_m)
        };
        let is_inside = contains || is_held();
        let (slot, record) = (change.slot, change.record);
        // A change that had lasted long enough when this record was received.
        if self.pending.had_lasted(slot, fence, record.received) {
            let line = if is_inside == membership.was_inside { record.line } else { change.old };
            self.confirm(slot, membership, line);
        }
        if is_inside != membership.was_inside {
            membership.was_inside = is_inside;
            if membership.is_inside == is_inside {
                self.pending.cancel(slot, fence.id);
            } else if fence.dwell == 0 {
                self.confirm(slot, membership, record.line);
            } else {
                self.pending.begin(change.slot, fence, change.record.received);
            }
        }
        membership.is_inside || membership.was_inside
    }

    /// Reports that a client is now where its last record says.
    fn confirm(&mut self, slot: Slot, membership: &mut Membership, line: &[u8]) {
        let fence = membership.fence;
        self.pending.cancel(slot, fence);
        membership.is_inside = membership.was_inside;
        if membership.is_inside {
            self.inside.insert((fence, slot));
            self.report(slot, fence, None, line);
        } else {
            self.inside.remove(&(fence, slot));
            self.report(slot, fence, Some(Reason::Moved), line);
        }
    }

    /// Confirms a membership of a client whose record has not changed.
    fn confirm_in_place(&mut self, slot: Slot, fence: FenceId, line: &[u8]) {
        let mut held = self.take_client(slot);
        if let Ok(at) = held.binary_search_by_key(&fence, |it| it.fence) {
            if self.set.get(fence).is_some() {
                self.confirm(slot, &mut held[at], line);
            } else {
                self.leave_retired(slot, held[at], line);
                held[at].is_inside = false;
            }
            if !held[at].is_inside {
                held.remove(at);
            }
        }
        self.put_client(slot, held);
    }

    /// Ends the membership in a fence that is no longer in use.
    fn leave_retired(&mut self, slot: Slot, membership: Membership, line: &[u8]) {
        let ended =
            former(&self.retired, membership.fence).map_or(self.started, |former| former.ended);
        self.leave(slot, membership, line, Reason::Fence, ended);
    }

    /// Ends a membership at `now` for a reason other than a move.
    fn leave(
        &mut self,
        slot: Slot,
        mut membership: Membership,
        line: &[u8],
        reason: Reason,
        now: Wall,
    ) {
        let fence = membership.fence;
        if self.pending.is_due(slot, fence, now) {
            self.confirm(slot, &mut membership, line);
        }
        self.pending.cancel(slot, fence);
        if membership.is_inside {
            self.inside.remove(&(fence, slot));
            self.report(slot, fence, Some(reason), line);
        }
    }

    /// Evaluates a client that the evaluation has not reached yet.
    fn catch_up(&mut self, slot: Slot, line: &[u8]) {
        if self.walk.as_ref().is_some_and(|walk| walk.next <= slot.0) {
            self.evaluate_slot(slot, line);
        }
    }

    /// Brings the state of a client in line with a set that has changed.
    fn evaluate_slot(&mut self, slot: Slot, line: &[u8]) {
        let mut held = self.take_client(slot);
        let set = Arc::clone(&self.set);
        held.retain(|membership| {
            let is_current = set.get(membership.fence).is_some();
            if !is_current {
                self.leave_retired(slot, *membership, line);
            }
            is_current
        });
        self.put_client(slot, held);
        if let Some(record) = Record::parse(line) {
            self.settle(slot, &record);
        }
    }

    /// Puts a client into all fences that contain it, without events.
    fn settle(&mut self, slot: Slot, record: &Record<'_>) {
        let Some(point) = point_of(record) else { return };
        let mut found = std::mem::take(&mut self.found);
        self.set.containing(point, &mut found);
        if !found.is_empty() {
            let mut held = self.take_client(slot);
            for &at in &found {
                let fence = self.set.fences()[at as usize].id;
                if let Err(place) = held.binary_search_by_key(&fence, |it| it.fence) {
                    held.insert(place, Membership { fence, is_inside: true, was_inside: true });
                    self.inside.insert((fence, slot));
                }
            }
            self.put_client(slot, held);
        }
        self.found = found;
    }

    /// Logs a transition.
    fn report(&mut self, slot: Slot, fence: FenceId, left: Option<Reason>, line: &[u8]) {
        let Some(fence) = self.fence(fence).cloned() else { return };
        let counters = &mut self.counters;
        *(if left.is_none() { &mut counters.entered } else { &mut counters.left }) += 1;
        self.transitions.push(Transition { left, fence, slot, line: line.into() });
    }

    /// Removes and returns the state of a client; empty if there is none.
    fn take_client(&mut self, slot: Slot) -> Vec<Membership> {
        let Some(shard) = self.clients.get_mut(slot.index() / SHARD) else { return Vec::new() };
        match shard.find_entry(hash(slot), |client| client.slot == slot) {
            Ok(entry) => {
                let fences = entry.remove().0.fences;
                self.clients_inside -= usize::from(is_inside_any(&fences));
                fences
            }
            Err(_) => Vec::new(),
        }
    }

    /// Sets the state of a client that has none.
    fn put_client(&mut self, slot: Slot, fences: Vec<Membership>) {
        if !fences.is_empty() {
            self.clients_inside += usize::from(is_inside_any(&fences));
            let shard = slot.index() / SHARD;
            if self.clients.len() <= shard {
                self.clients.resize_with(shard + 1, HashTable::new);
            }
            self.clients[shard]
                .insert_unique(hash(slot), Client { slot, fences }, |it| hash(it.slot));
        }
    }
}

/// A record that is about to be stored.
struct Change<'a> {
    slot: Slot,
    point: Point,
    /// The line of the client so far.
    old: &'a [u8],
    record: &'a Record<'a>,
}

/// Returns a fence in use, or one that clients may still be in.
fn find<'f>(set: &'f FenceSet, retired: &'f [Former], id: FenceId) -> Option<&'f Arc<Fence>> {
    set.get(id).or_else(|| former(retired, id)?.fences.get(&id))
}

/// Returns the reload that ended a fence.
fn former(retired: &[Former], id: FenceId) -> Option<&Former> {
    retired.iter().find(|former| former.fences.contains_key(&id))
}

fn is_inside_any(fences: &[Membership]) -> bool {
    fences.iter().any(|membership| membership.is_inside)
}

fn point_of(record: &Record<'_>) -> Option<Point> {
    let (lat, lng) = record.degrees()?;
    Some(Point { lat, lng })
}

/// Slots are assigned by the node itself, so a multiplication is enough (Knuth 1973, section 6.4).
const fn hash(slot: Slot) -> u64 {
    (slot.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
