//! `/events?fence=`: who enters and leaves fences.
//!
//! The log of transitions belongs to the fences, which keep it whether or not there are subscribers. A
//! subscriber is a cursor into it. [`FenceLog`](super::fence_log::FenceLog) decides up to where subscribers may read, so that they
//! are woken at most five times per second.

use super::OutputSlice;
use super::change::{Epoch, EventId};
use super::events::{Events, Start};
use super::feature::{push_feature_in, push_feature_left};
use super::filter::Filter;
use crate::fences::{FenceId, Fences, Reason, Transition};
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::protocol::record::Record;
use crate::text::digits::push_digits;
use crate::time::{Now, Wall};

/// Transitions that are examined for the price of one record.
const TRANSITIONS_PER_WORK: usize = 16;

/// A subscriber.
pub struct FenceSubscription {
    key: usize,
    filter: Filter,
    /// The number of the next transition to send.
    cursor: u64,
    phase: Phase,
    /// The slices of the snapshot, until the transitions from that time have been sent.
    snapshot: Vec<Checkpoint>,
    /// Heartbeats that were sent or skipped.
    beats: u64,
}

/// The next thing to send.
enum Phase {
    /// The event `reset`.
    Reset,
    /// The clients inside, from this one on, in the fences of these numbers or, if `None`, in all.
    Snapshot((FenceId, Slot), Option<Vec<FenceId>>),
    /// Transitions.
    Live,
}

/// One slice of a snapshot. It contains the effect of all transitions before `end` on the clients
/// `from` on.
struct Checkpoint {
    from: (FenceId, Slot),
    end: u64,
}

impl FenceSubscription {
    pub(super) fn new(start: &Start, filter: Filter, events: &Events) -> Self {
        let phase = if start.resumed { Phase::Live } else { Phase::Reset };
        let Start { key, cursor, .. } = *start;
        Self { key, filter, cursor, phase, snapshot: Vec::new(), beats: events.beats() }
    }

    /// Key of the subscriber, for [`Events::unsubscribe`].
    pub(super) const fn key(&self) -> usize {
        self.key
    }

    /// Returns whether anything is due.
    pub(super) const fn is_due(&self, events: &Events) -> bool {
        match self.phase {
            Phase::Reset | Phase::Snapshot(..) => true,
            Phase::Live => self.cursor < events.fences.published() || self.beats != events.beats(),
        }
    }

    /// Appends output, as far as `slice` allows.
    pub(super) fn advance(
        &mut self,
        directory: &mut Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) {
        if !directory.evaluate_fences(slice.work) {
            return;
        }
        let Some(fences) = directory.fences() else { return };
        if self.cursor < fences.transitions().first() && matches!(self.phase, Phase::Live) {
            self.phase = Phase::Reset;
        }
        if matches!(self.phase, Phase::Reset) {
            self.send_reset(directory, fences, events, slice);
        }
        if matches!(self.phase, Phase::Snapshot(..)) {
            self.send_snapshot(directory, fences, events, now, slice);
        }
        if matches!(self.phase, Phase::Live) {
            self.send_transitions(directory, fences, events, now, slice);
        }
    }

    /// Sends `reset`, and moves the cursor to the first transition after the snapshot.
    fn send_reset(
        &mut self,
        directory: &Directory,
        fences: &Fences,
        events: &mut Events,
        slice: &mut OutputSlice<'_>,
    ) {
        events.counters.resets += 1;
        slice.out.extend_from_slice(b"retry: 2000\nevent: reset\ndata: {\"held\":");
        push_digits(slice.out, directory.clients().into(), 1);
        slice.out.extend_from_slice(b"}\n\n");
        self.cursor = fences.transitions().end();
        self.snapshot.clear();
        let ids = self.filter.fences().map(|names| {
            let id = |name| fences.set().find(name).map(|fence| fence.id);
            let mut ids: Vec<_> = names.filter_map(id).collect();
            ids.sort_unstable();
            ids
        });
        self.phase = Phase::Snapshot((FenceId(0), Slot(0)), ids);
    }

    /// Sends the clients inside and, after the last one, `ready`.
    fn send_snapshot(
        &mut self,
        directory: &Directory,
        fences: &Fences,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) {
        let Phase::Snapshot(next, ids) = &mut self.phase else { return };
        self.snapshot.push(Checkpoint { from: *next, end: fences.transitions().end() });
        while let Some((fence, slot)) = next_member(fences, *next, ids.as_deref()) {
            *next = (fence, slot);
            if !slice.has_room() {
                return;
            }
            slice.spend(1);
            let record = directory.record(slot, now.wall);
            if let (Some(record), Some(fence)) = (record, fences.set().get(fence))
                && self.filter.contains_client(Some(record.client))
                && self.filter.allows(&record, now.wall)
            {
                slice.out.extend_from_slice(b"event: client\ndata: ");
                push_feature_in(slice.out, &record, now.wall, &fence.name);
                slice.out.extend_from_slice(b"\n\n");
                events.counters.sent += 1;
            }
            *next = match slot.0.checked_add(1) {
                Some(after) => (fence, Slot(after)),
                None => (FenceId(fence.0.saturating_add(1)), Slot(0)),
            };
        }
        slice.out.extend_from_slice(b"event: ready\n");
        id_of(events, self.cursor - 1).push(slice.out);
        slice.out.extend_from_slice(b"data: {}\n\n");
        self.phase = Phase::Live;
    }

    /// Sends transitions, and a heartbeat if there are none left.
    fn send_transitions(
        &mut self,
        directory: &Directory,
        fences: &Fences,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) {
        let mut examined = 0;
        while self.cursor < events.fences.published() && slice.has_room() {
            let number = self.cursor;
            self.cursor += 1;
            let Some(transition) = fences.transitions().get(number) else {
                return self.phase = Phase::Reset;
            };
            examined += 1;
            if examined % TRANSITIONS_PER_WORK == 0 {
                slice.spend(1);
            }
            if self.filter.allows_fence(transition.fence_name())
                && !self.has_seen(number, transition)
            {
                slice.spend(1);
                let id = id_of(events, number);
                let sent = self.push(id, transition, directory, now.wall, slice.out);
                events.counters.sent += u64::from(sent);
            }
        }
        if self.snapshot.last().is_some_and(|slice| slice.end <= self.cursor) {
            self.snapshot = Vec::new();
        }
        if self.beats != events.beats() && self.cursor >= events.fences.published() {
            self.beats = events.beats();
            slice.out.extend_from_slice(b": still here\n");
            id_of(events, self.cursor - 1).push(slice.out);
            slice.out.push(b'\n');
        }
    }

    /// Returns whether the snapshot contains the effect of a transition.
    fn has_seen(&self, number: u64, transition: &Transition) -> bool {
        let member = (transition.fence, transition.slot);
        let slices = self.snapshot.partition_point(|slice| slice.from <= member);
        let slice = slices.checked_sub(1).map(|at| &self.snapshot[at]);
        slice.is_some_and(|slice| number < slice.end)
    }

    /// Appends the event of a transition, if it passes the filter. Returns whether it did.
    fn push(
        &self,
        id: EventId,
        transition: &Transition,
        directory: &Directory,
        now: Wall,
        out: &mut Vec<u8>,
    ) -> bool {
        let (left, name) = (transition.left, transition.fence_name());
        let Some(record) = Record::parse(transition.line()) else { return false };
        let is_erased = || {
            let slot = directory.slot(record.client);
            directory.tombstones() > 0 && slot.is_some_and(|slot| directory.is_tombstone(slot))
        };
        // One that leaves must be reported although it has been silent.
        let is_fresh = left.is_some() || self.filter.allows(&record, now);
        if !is_fresh
            || !self.filter.contains_client(Some(record.client))
            || (left != Some(Reason::Forgotten) && is_erased())
        {
            return false;
        }
        out.extend_from_slice(if left.is_some() { b"event: leave\n" } else { b"event: enter\n" });
        id.push(out);
        out.extend_from_slice(b"data: ");
        match left {
            None => push_feature_in(out, &record, now, name),
            Some(reason) => push_feature_left(out, &record, now, name, reason.as_str()),
        }
        out.extend_from_slice(b"\n\n");
        true
    }
}

/// Returns the id of a transition. Its period is 0, which the log of client changes does not use.
const fn id_of(events: &Events, sequence: u64) -> EventId {
    EventId { epoch: Epoch { boot: events.boot(), period: 0 }, sequence }
}

/// Returns the first client inside a fence from `from` on, in the fences of these numbers or, if `None`,
/// in all.
fn next_member(
    fences: &Fences,
    from: (FenceId, Slot),
    ids: Option<&[FenceId]>,
) -> Option<(FenceId, Slot)> {
    let Some(ids) = ids else { return fences.memberships(from).next() };
    let later = &ids[ids.partition_point(|id| *id < from.0)..];
    later.iter().find_map(|&id| {
        let first = if id == from.0 { from.1 } else { Slot(0) };
        Some((id, fences.inside(id, first).next()?))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::fences::{FenceSet, file};
    use crate::herd::Herd;
    use crate::http::limits::EVENT_FLUSH;
    use crate::http::limits::SLICE_BYTES;
    use crate::ids::ConnectionId;
    use crate::testing::{herd, identity};

    const FILE: &[u8] = br#"{"type":"FeatureCollection","features":[
        {"type":"Feature","properties":{"name":"a","radius":1000},
         "geometry":{"type":"Point","coordinates":[0,0]}},
        {"type":"Feature","properties":{"name":"b","radius":1000},
         "geometry":{"type":"Point","coordinates":[0,0]}}]}"#;

    /// A herd of one node with two fences, and a subscriber to both.
    struct Fixture {
        herd: Herd,
        events: Events,
        now: Now,
        subscription: FenceSubscription,
        time: u32,
        /// The fences and clients that the subscriber believes to be inside.
        inside: BTreeSet<String>,
    }

    impl Fixture {
        fn new(clients: u32) -> Self {
            let mut herd = herd(identity(&["Clark"], 0, &[]));
            let set = Arc::new(file::parse(FILE, &FenceSet::default()).unwrap());
            herd.directory.set_fences(Fences::new(set, Wall(0)));
            let (mut events, mut now) = (Events::new(7), Now::default());
            now.wall = Wall(150_000 * crate::protocol::time::SECOND);
            let fences = herd.directory.fences().unwrap();
            let start =
                events.subscribe_to_fences(ConnectionId(1), 0, None, fences, now.instant).unwrap();
            let (filter, _) = Filter::parse("fence=*").unwrap();
            let subscription = FenceSubscription::new(&start, filter, &events);
            let inside = BTreeSet::new();
            let mut fixture = Self { herd, events, now, subscription, time: 0, inside };
            for client in 0..clients {
                fixture.place(client, client % 2 == 0);
            }
            fixture
        }

        fn place(&mut self, client: u32, is_inside: bool) {
            self.time += 1;
            let lat = if is_inside { "+0" } else { "+5" };
            let line = format!("AT Clark +0.000000000 c{client:04} {lat}+0 {}", self.time);
            let wall = self.now.wall;
            self.herd.apply_local_update(&Record::parse(line.as_bytes()).unwrap(), wall);
        }

        /// Takes a turn with space for about this many bytes. Returns whether anything was sent.
        fn turn(&mut self, soft_limit: usize) -> bool {
            self.now.instant += EVENT_FLUSH;
            let (mut out, mut work) = (Vec::new(), 100_000);
            self.events.handle_timeout(&mut self.herd, self.now.instant, &mut work);
            let mut slice = OutputSlice { out: &mut out, soft_limit, work: &mut work };
            let Self { herd, events, now, subscription, .. } = self;
            subscription.advance(&mut herd.directory, events, now, &mut slice);
            let text = String::from_utf8(out).unwrap();
            for event in text.split("\n\n").filter(|text| text.contains("event: ")) {
                self.believe(event);
            }
            !text.is_empty()
        }

        fn believe(&mut self, event: &str) {
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
            let data: serde_json::Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
            let property = |name: &str| data["properties"][name].as_str().unwrap_or_default();
            let member = format!("{} {}", property("fence"), property("client"));
            match field("event: ").unwrap() {
                "reset" => self.inside.clear(),
                "client" | "enter" => assert!(self.inside.insert(member), "twice: {event}"),
                "leave" => assert!(self.inside.remove(&member), "not inside: {event}"),
                "ready" => {}
                other => panic!("{other}"),
            }
        }

        fn actual(&self) -> BTreeSet<String> {
            let fences = self.herd.directory.fences().unwrap();
            let members = fences.memberships((FenceId(0), Slot(0))).map(|(fence, slot)| {
                let client = self.herd.directory.client(slot).unwrap();
                let name = &fences.set().get(fence).unwrap().name;
                format!("{name} {}", String::from_utf8_lossy(client))
            });
            members.collect()
        }
    }

    /// Clients move in front of the snapshot and behind it. No event is repeated and none is missing.
    #[test]
    fn a_snapshot_in_many_slices_and_the_transitions_after_it_are_consistent() {
        let mut fixture = Fixture::new(600);
        let mut slices = 0;
        while fixture.turn(2000) {
            slices += 1;
            for client in [slices % 600, 599 - slices % 600, slices * 7 % 600] {
                if slices < 400 {
                    fixture.place(client, slices % 3 != 0);
                    fixture.place(client, slices % 3 == 0 || slices % 2 == 0);
                }
            }
        }
        assert!(slices > 100);
        while fixture.turn(SLICE_BYTES) {}
        assert_eq!(fixture.inside, fixture.actual());
        assert!(fixture.inside.len() > 500 && fixture.subscription.snapshot.is_empty());
    }

    #[test]
    fn a_subscriber_that_is_too_slow_starts_over() {
        let mut fixture = Fixture::new(2);
        assert!(fixture.turn(SLICE_BYTES));
        assert_eq!(fixture.inside.len(), 2);
        for _ in 0..crate::fences::limits::MAX_TRANSITIONS {
            fixture.place(1, true);
            fixture.place(1, false);
        }
        fixture.place(1, true);
        while fixture.turn(SLICE_BYTES) {}
        assert_eq!((fixture.inside.len(), fixture.events.counters.resets), (4, 2));
    }
}
