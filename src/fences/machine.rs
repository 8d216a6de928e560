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

use core::hint::black_box;
use std::sync::Arc;

use super::limits::TIMERS_PER_TURN;
use super::members::{Members, Membership};
use super::set::{Fence, FenceId, FenceSet, Retired};
use super::tracker::{Change, Tracker};
use super::transitions::{Reason, Transitions};
use crate::geo::Point;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::time::{Instant, Now, Wall};

/// The fences in use, and the clients in them.
pub struct Fences {
    set: Arc<FenceSet>,
    /// The time at which the node started.
    started: Wall,
    members: Members,
    tracker: Tracker,
    /// Fences of former sets that clients may still be in.
    retired: Vec<Former>,
    walk: Option<Walk>,
    /// The positions of the fences around a client, kept to be filled again.
    found: Vec<u32>,
    /// The memberships of a client, kept to be filled again.
    held: Vec<Membership>,
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
            members: Members::default(),
            tracker: Tracker::default(),
            retired: Vec::new(),
            walk: None,
            found: Vec::new(),
            held: Vec::new(),
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
        &self.tracker.transitions
    }

    /// Returns the slots of the clients inside a fence from `from` on, in ascending order.
    pub fn inside(&self, fence: FenceId, from: Slot) -> impl Iterator<Item = Slot> {
        self.members.inside().of(fence, from)
    }

    /// Returns the fences and the clients inside them, from `from` on, in ascending order.
    pub fn memberships(&self, from: (FenceId, Slot)) -> impl Iterator<Item = (FenceId, Slot)> {
        self.members.inside().all(from)
    }

    /// Returns the number of clients that are inside at least one fence.
    #[must_use]
    pub const fn clients_inside(&self) -> usize {
        self.members.clients_inside()
    }

    /// Loads the state of the clients in these slots into the processor's cache, so that their misses
    /// overlap.
    pub fn prefetch(&self, slots: &[Slot]) {
        for &slot in slots {
            black_box(self.members.has(slot));
        }
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
        self.set.containing(point, &mut self.found);
        if !self.found.is_empty() || self.members.has(slot) {
            self.apply(&Change { slot, point, old, record });
        }
    }

    /// Takes note that the client in `slot`, whose line is `line`, is about to be removed. Changes that
    /// had lasted long enough by `now` are reported first, whether or not their timers have fired.
    pub fn handle_removed(&mut self, slot: Slot, line: &[u8], reason: Reason, now: Wall) {
        self.catch_up(slot, line);
        self.members.load(slot, &mut self.held);
        for &membership in &self.held {
            if let Some(fence) = find(&self.set, &self.retired, membership.fence) {
                self.tracker.leave(slot, fence, membership, line, (reason, now));
            }
        }
        self.members.store(slot, &[]);
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

    /// Evaluates clients, which takes a unit of `work` for each and for each fence around it. Returns whether
    /// all have been evaluated.
    pub fn evaluate(&mut self, records: &impl Records, work: &mut usize) -> bool {
        while let Some(walk) = &mut self.walk {
            if walk.next >= walk.end {
                self.walk = None;
                self.retired.clear();
                self.members.trim();
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
        self.tracker.pending.poll_timeout()
    }

    /// Returns when a change of a client is reported unless it is reverted before, if there is one.
    #[must_use]
    pub fn due(&self, slot: Slot, fence: FenceId) -> Option<Instant> {
        self.tracker.pending.due(slot, fence)
    }

    /// Starts the timers of changes that have begun, and reports those that have lasted long enough.
    pub fn handle_timeout(&mut self, records: &impl Records, now: &Now) {
        let (set, retired) = (&self.set, &self.retired);
        let dwell = |id| find(set, retired, id).map_or(0, |fence| fence.dwell);
        self.tracker.pending.start_timers(dwell, now);
        for _ in 0..TIMERS_PER_TURN {
            let Some((slot, fence)) = self.tracker.pending.pop(now.instant) else { return };
            if let Some(line) = records.line(slot) {
                self.confirm_in_place(slot, fence, line);
            }
        }
    }

    /// Applies the change of a client that is at `found` or has memberships.
    fn apply(&mut self, change: &Change<'_>) {
        let Self { set, members, tracker, retired, found, held, .. } = self;
        members.load(change.slot, held);
        held.retain_mut(|membership| {
            let Some(at) = set.position(membership.fence) else {
                leave_retired(tracker, retired, change.slot, *membership, change.old);
                return false;
            };
            let contains = found.binary_search(&at).is_ok();
            tracker.follow(change, &set.fences()[at as usize], contains, membership)
        });
        for &at in &*found {
            let fence = &set.fences()[at as usize];
            if let Err(place) = held.binary_search_by_key(&fence.id, |it| it.fence) {
                held.insert(place, tracker.enter(change, fence));
            }
        }
        members.store(change.slot, held);
    }

    /// Confirms a membership of a client whose record has not changed.
    fn confirm_in_place(&mut self, slot: Slot, fence: FenceId, line: &[u8]) {
        let Self { set, members, tracker, retired, held, .. } = self;
        members.load(slot, held);
        let Ok(at) = held.binary_search_by_key(&fence, |it| it.fence) else { return };
        if let Some(fence) = set.get(fence) {
            tracker.confirm(slot, fence, &mut held[at], line);
        } else {
            leave_retired(tracker, retired, slot, held[at], line);
            held[at].is_inside = false;
        }
        if !held[at].is_inside {
            held.remove(at);
        }
        members.store(slot, held);
    }

    /// Evaluates a client that the evaluation has not reached yet.
    fn catch_up(&mut self, slot: Slot, line: &[u8]) {
        if self.walk.as_ref().is_some_and(|walk| walk.next <= slot.0) {
            self.evaluate_slot(slot, line);
        }
    }

    /// Brings the state of a client in line with a set that has changed.
    fn evaluate_slot(&mut self, slot: Slot, line: &[u8]) {
        let Self { set, members, tracker, retired, held, .. } = self;
        members.load(slot, held);
        held.retain(|membership| {
            let is_current = set.position(membership.fence).is_some();
            if !is_current {
                leave_retired(tracker, retired, slot, *membership, line);
            }
            is_current
        });
        members.store(slot, held);
        if let Some(record) = Record::parse(line) {
            self.settle(slot, &record);
        }
    }

    /// Puts a client into all fences that contain it, without events.
    fn settle(&mut self, slot: Slot, record: &Record<'_>) {
        let Some(point) = point_of(record) else { return };
        let Self { set, members, found, held, .. } = self;
        set.containing(point, found);
        if found.is_empty() {
            return;
        }
        members.load(slot, held);
        for &at in &*found {
            let fence = set.fences()[at as usize].id;
            if let Err(place) = held.binary_search_by_key(&fence, |it| it.fence) {
                held.insert(place, Membership { fence, is_inside: true, was_inside: true });
            }
        }
        members.store(slot, held);
    }
}

/// Returns a fence in use, or one that clients may still be in.
fn find<'f>(set: &'f FenceSet, retired: &'f [Former], id: FenceId) -> Option<&'f Arc<Fence>> {
    set.get(id).or_else(|| former(retired, id)?.fences.get(&id))
}

/// Returns the reload that ended a fence.
fn former(retired: &[Former], id: FenceId) -> Option<&Former> {
    retired.iter().find(|former| former.fences.contains_key(&id))
}

/// Ends a membership in a fence that is no longer in use.
fn leave_retired(
    tracker: &mut Tracker,
    retired: &[Former],
    slot: Slot,
    membership: Membership,
    line: &[u8],
) {
    if let Some(former) = former(retired, membership.fence)
        && let Some(fence) = former.fences.get(&membership.fence)
    {
        tracker.leave(slot, fence, membership, line, (Reason::Fence, former.ended));
    }
}

fn point_of(record: &Record<'_>) -> Option<Point> {
    let (lat, lng) = record.degrees()?;
    Some(Point { lat, lng })
}
