//! `/events`: the log of client changes that all subscribers share.
//!
//! The log is a ring buffer of changes, addressed by sequence numbers that only grow. A
//! `Subscription` is a cursor into it, which is the sequence of the next change to read, and a
//! `Filter`.
//!
//! ```text
//!                  first               published             end
//!                    |                     |                  |
//!                    v                     v                  v
//!   .  .  .  .  .  . +---+---+---+---+---+---+---+---+---+---+
//!     overwritten    |  published changes  |  logged changes  |  <- next change
//!   .  .  .  .  .  . +---+---+---+---+---+---+---+---+---+---+
//!
//!      cursor < first   first <= cursor < published   cursor == published   never greater
//!      changes lost     changes to read               up to date
//! ```
//!
//! [`Events::handle_timeout`] appends at `end` what has changed in the herd. Every [`EVENT_FLUSH`]
//! it moves `published` up to `end`, so that all subscribers see the same batch. `first` follows
//! once the ring holds [`MAX_CHANGES`]. It may even pass `published`, because sending a snapshot
//! logs changes, too: until the next batch is published there is then no position from which a
//! subscriber could start.

use std::collections::VecDeque;

use super::OutputSlice;
use super::change::{Change, Epoch, EventId, name_hash, push_event};
use super::fence_log::FenceLog;
use super::filter::Filter;
use super::limits::{
    EVENT_FLUSH, EVENT_HEARTBEAT, EVENT_LINGER, MAX_CHANGES, MAX_CHANGES_PER_FLUSH, MAX_RENDERED,
    MAX_SUBSCRIBERS,
};
use super::position::Position;
use super::seats::{Seats, Taken};
use crate::counters::counters;
use crate::fences::Fences;
use crate::herd::directory::Directory;
use crate::herd::{Follower, Herd};
use crate::ids::{ConnectionId, Slot};
use crate::time::{Instant, Wall};

/// Changes that are examined for the price of one record: examining one is a few comparisons.
const CHANGES_PER_WORK: usize = 64;

/// The log of changes and its subscribers.
#[derive(Default)]
pub struct Events {
    epoch: Epoch,
    ring: VecDeque<Change>,
    /// Sequence of the first change in the ring.
    first: u64,
    /// Sequence after the last published change.
    published: u64,
    /// The last logged change of each slot.
    slots: Vec<Known>,
    /// Changes still to be logged before the current batch is published.
    batch_left: usize,
    flush_at: Instant,
    beat_at: Instant,
    /// Heartbeats so far.
    beats: u64,
    /// Time at which the last subscriber left.
    idle_since: Option<Instant>,
    pub(super) subscribers: Seats,
    /// Subscribers that follow clients.
    followers: usize,
    /// What subscribers that follow fences may read.
    pub(super) fences: FenceLog,
    rendered: Rendered,
    /// Monotonic counters since start-up.
    pub counters: Counters,
}

/// The state of a slot according to the log.
#[derive(Clone, Copy)]
struct Known {
    /// Low 32 bits of the sequence of its last change.
    last_change: u32,
    /// Position of its client at that change, or when a subscriber was last sent it.
    position: Option<Position>,
}

/// Events of the changes that were published last. Each is rendered once for all subscribers.
#[derive(Default)]
struct Rendered {
    /// Sequence of the first of these changes.
    first: u64,
    /// Start and end of each event in `bytes`; both 0 until it is rendered.
    ranges: Vec<(u32, u32)>,
    bytes: Vec<u8>,
}

/// The starting point of a new subscriber.
pub(super) struct Start {
    /// Key of the subscriber's seat, for [`Events::unsubscribe`].
    pub key: usize,
    /// The connection that had the seat before. It must be closed.
    pub evicted: Option<ConnectionId>,
    /// Sequence of the first change to read.
    pub cursor: u64,
    /// True if the subscriber has seen everything before the cursor and needs no snapshot.
    pub resumed: bool,
}

/// The next change of a subscriber is no longer in the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost;

counters! {
    /// Monotonic counters of events since start-up.
    Counters {
        events_sent_total: "Events sent, counted once per subscriber." { sent }
        event_resets_total: "Times that a subscriber was sent all clients." { resets }
    }
}

impl Events {
    /// Returns an empty log. `boot` is the boot id of the process.
    #[must_use]
    pub fn new(boot: u64) -> Self {
        // Sequences start at 1, so that there is an id before the first change to resume from.
        Self { epoch: Epoch { boot, period: 0 }, first: 1, published: 1, ..Self::default() }
    }

    /// Number of subscribers.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// Connections of all subscribers.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.subscribers.connections()
    }

    /// Adds a subscriber, which resumes after the event `last` if the log still reaches back that
    /// far. `address` is the key of its address. Returns `None` if there are too many subscribers.
    pub(super) fn subscribe(
        &mut self,
        connection: ConnectionId,
        address: u64,
        last: Option<&str>,
        herd: &mut Herd,
        now: Instant,
    ) -> Option<Start> {
        let Taken { key, evicted } = self.take_seat(connection, address, now)?;
        if !herd.is_followed(Follower::Events) {
            herd.follow(Follower::Events);
            self.epoch.period += 1;
        }
        self.followers += 1;
        self.idle_since = None;
        let resumed = last
            .and_then(EventId::parse)
            .filter(|id| id.epoch == self.epoch)
            .and_then(|id| id.sequence.checked_add(1))
            .filter(|next| (self.first..=self.published).contains(next));
        let cursor = resumed.unwrap_or(self.published);
        Some(Start { key, evicted, cursor, resumed: resumed.is_some() })
    }

    /// Removes a subscriber, unless it has lost its seat.
    pub(super) fn unsubscribe(&mut self, key: usize, connection: ConnectionId, now: Instant) {
        self.subscribers.leave(key, connection);
        self.followers -= 1;
        if self.followers == 0 {
            self.idle_since = Some(now);
        }
    }

    /// Adds a subscriber that follows fences; otherwise as [`Events::subscribe`].
    pub(super) fn subscribe_to_fences(
        &mut self,
        connection: ConnectionId,
        address: u64,
        last: Option<&str>,
        fences: &Fences,
        now: Instant,
    ) -> Option<Start> {
        let Taken { key, evicted } = self.take_seat(connection, address, now)?;
        let transitions = fences.transitions();
        self.fences.handle_subscribed(transitions.end());
        let resumed = last
            .and_then(EventId::parse)
            .filter(|id| id.epoch == Epoch { boot: self.epoch.boot, period: 0 })
            .and_then(|id| id.sequence.checked_add(1))
            .filter(|next| (transitions.first()..=transitions.end()).contains(next));
        let cursor = resumed.unwrap_or_else(|| transitions.end());
        Some(Start { key, evicted, cursor, resumed: resumed.is_some() })
    }

    /// Removes a subscriber that followed fences, unless it has lost its seat.
    pub(super) fn unsubscribe_from_fences(&mut self, key: usize, connection: ConnectionId) {
        self.subscribers.leave(key, connection);
        self.fences.handle_unsubscribed();
    }

    fn take_seat(&mut self, connection: ConnectionId, address: u64, now: Instant) -> Option<Taken> {
        if self.subscribers.len() == 0 {
            self.beat_at = now + EVENT_HEARTBEAT;
        }
        self.subscribers.take(MAX_SUBSCRIBERS, connection, address, now)
    }

    /// Boot id of the process.
    pub(super) const fn boot(&self) -> u64 {
        self.epoch.boot
    }

    /// The next time at which [`Events::handle_timeout`] must be called.
    #[must_use]
    pub fn poll_timeout(&self, herd: &Herd) -> Option<Instant> {
        let changes = match self.batch_left {
            0 => (herd.changed(Follower::Events) > 0).then_some(self.flush_at),
            _ => Some(Instant::START),
        };
        let idle = self.idle_since.map(|since| since + EVENT_LINGER);
        let beat = (self.subscribers.len() > 0).then_some(self.beat_at);
        let transitions = self.fences.poll_timeout(herd.directory.fences());
        [changes, idle, beat, transitions].into_iter().flatten().min()
    }

    /// Logs changes of the herd, one per unit of `work`, and publishes them when the batch is
    /// complete. Returns whether subscribers have something to send.
    pub fn handle_timeout(&mut self, herd: &mut Herd, now: Instant, work: &mut usize) -> bool {
        let mut is_due = self.fences.publish(herd.directory.fences(), now);
        if self.idle_since.is_some_and(|since| since + EVENT_LINGER <= now) {
            herd.unfollow(Follower::Events);
            self.clear();
        }
        if self.batch_left == 0 && self.flush_at <= now && herd.changed(Follower::Events) > 0 {
            self.batch_left = herd.changed(Follower::Events).min(MAX_CHANGES_PER_FLUSH);
            self.flush_at = now + EVENT_FLUSH;
        }
        while self.batch_left > 0 && *work > 0 {
            *work -= 1;
            self.batch_left -= 1;
            if let Some(slot) = herd.poll_changed(Follower::Events) {
                self.append(slot, &herd.directory);
            }
            if self.batch_left == 0 {
                self.publish();
                is_due = true;
            }
        }
        if self.beat_at <= now && self.subscribers.len() > 0 {
            self.beat_at = now + EVENT_HEARTBEAT;
            self.beats += 1;
            is_due = true;
        }
        is_due
    }

    /// Clears everything except the state that is kept across periods.
    fn clear(&mut self) {
        let new = Self::new(self.epoch.boot);
        let Self { epoch, counters, beat_at, beats, .. } = *self;
        let (subscribers, fences) =
            (std::mem::take(&mut self.subscribers), std::mem::take(&mut self.fences));
        *self = Self { epoch, beat_at, beats, subscribers, fences, counters, ..new };
    }

    /// Sequence of the next change that is logged.
    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Logs the current position of the client in `slot`, unless the slot is free by now. A client that
    /// was erased is where subscribers believe it to be; without a position, none of them knows it.
    fn append(&mut self, slot: Slot, directory: &Directory) {
        let known = || self.slots.get(slot.index())?.position;
        let erased = || known().filter(|_| directory.is_tombstone(slot));
        let location = directory.location(slot).map(Position::from);
        let Some(position) = location.or_else(erased) else { return };
        let name_hash = directory.client(slot).map_or(0, name_hash);
        if self.ring.len() >= MAX_CHANGES {
            self.ring.pop_front();
            self.first += 1;
        }
        let last_change = self.end() as u32;
        let known = self.known(slot);
        let previous = known.position.replace(position);
        known.last_change = last_change;
        self.ring.push_back(Change { slot, position, previous, name_hash });
    }

    fn known(&mut self, slot: Slot) -> &mut Known {
        let slot = slot.index();
        if self.slots.len() <= slot {
            let unknown = Known { last_change: u32::MAX, position: None };
            self.slots.resize((slot + 1).next_multiple_of(4096), unknown);
        }
        &mut self.slots[slot]
    }

    /// Records that a subscriber was sent `position` for `slot`. If the log does not contain the
    /// move to that position yet, it is appended now, so that [`Change::previous`] of the next move
    /// is right.
    pub(super) fn record_sent(&mut self, slot: Slot, position: Position, directory: &Directory) {
        let known = self.known(slot);
        match known.position {
            None => known.position = Some(position),
            Some(logged) if logged != position => self.append(slot, directory),
            Some(_) => {}
        }
    }

    fn publish(&mut self) {
        self.rendered.first = self.published.max(self.first);
        self.rendered.ranges.clear();
        self.rendered.bytes.clear();
        self.published = self.end();
        let changes = (self.published - self.rendered.first) as usize;
        self.rendered.ranges.resize(changes, (0, 0));
    }

    /// Returns whether a subscriber has something to send: a change at its cursor, or a heartbeat.
    pub(super) const fn is_due(&self, cursor: u64, beats: u64) -> bool {
        cursor < self.published || beats != self.beats
    }

    /// Heartbeats so far.
    pub(super) const fn beats(&self) -> u64 {
        self.beats
    }

    /// Returns whether changes after `cursor` have been overwritten.
    pub(super) const fn has_lost(&self, cursor: u64) -> bool {
        cursor < self.first
    }

    /// Returns whether the change at `cursor` is in the older half of a full log and will be
    /// overwritten soon.
    pub(super) fn is_aging(&self, cursor: u64) -> bool {
        !self.has_lost(cursor) && self.end() - cursor > MAX_CHANGES as u64 / 2
    }

    /// Returns whether every published change has been overwritten. A subscriber that started now
    /// would have lost changes before its first one.
    pub(super) const fn is_overrun(&self) -> bool {
        self.published < self.first
    }

    /// The cursor of a subscriber that is up to date.
    pub(super) const fn published(&self) -> u64 {
        self.published
    }

    /// Appends the events of the published changes from `cursor` on that pass `filter`, as far as
    /// `slice` allows, and advances `cursor`.
    pub(super) fn deliver(
        &mut self,
        cursor: &mut u64,
        filter: &Filter,
        directory: &Directory,
        now: Wall,
        slice: &mut OutputSlice<'_>,
    ) -> Result<(), Lost> {
        while *cursor < self.published && slice.has_room() {
            let from = cursor.checked_sub(self.first).ok_or(Lost)? as usize;
            let to = (self.published - self.first) as usize;
            let to = to.min(from + CHANGES_PER_WORK * *slice.work);
            let wanted = |change: &Change| filter.may_contain(change);
            let found = self.ring.range(from..to).position(wanted);
            let passed = found.unwrap_or(to - from);
            slice.spend(passed.div_ceil(CHANGES_PER_WORK));
            *cursor += passed as u64;
            if found.is_some() {
                slice.spend(1);
                self.push_change(from + passed, filter, directory, now, slice.out);
                *cursor += 1;
            }
        }
        Ok(())
    }

    /// Appends the event of the change at `at` in the ring, unless a later change supersedes it.
    fn push_change(
        &mut self,
        at: usize,
        filter: &Filter,
        directory: &Directory,
        now: Wall,
        out: &mut Vec<u8>,
    ) {
        let Change { slot, position, .. } = self.ring[at];
        let sequence = self.first + at as u64;
        // A change that left the box is sent even if it is superseded: the later change starts
        // outside the box, so that it may not pass the filter.
        let superseded = self.slots[slot.index()].last_change != sequence as u32;
        if superseded && filter.contains(position)
            || !filter.contains_client(directory.client(slot))
            || !filter.allows_age(slot, directory, now)
        {
            return;
        }
        let id = EventId { epoch: self.epoch, sequence };
        let Rendered { first, ranges, bytes } = &mut self.rendered;
        let range = sequence.checked_sub(*first).and_then(|at| ranges.get_mut(at as usize)).filter(
            // Without room for another event, it is rendered for this subscriber alone.
            |range| **range != (0, 0) || bytes.len() < MAX_RENDERED,
        );
        let Some(range) = range else {
            self.counters.sent += u64::from(push_event(out, id, slot, directory, now));
            return;
        };
        if *range == (0, 0) {
            let start = bytes.len() as u32;
            push_event(bytes, id, slot, directory, now);
            *range = (start, bytes.len() as u32);
        }
        let event = &bytes[range.0 as usize..range.1 as usize];
        out.extend_from_slice(event);
        self.counters.sent += u64::from(!event.is_empty());
    }

    /// Appends the id to resume from at `cursor`: that of the change before it.
    pub(super) fn push_id_before(&self, cursor: u64, out: &mut Vec<u8>) {
        EventId { epoch: self.epoch, sequence: cursor - 1 }.push(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::Record;
    use crate::testing::{self, identity};

    fn herd() -> Herd {
        testing::herd(identity(&["Clark"], 0, &[]))
    }

    fn update(herd: &mut Herd, client: &str, location: &str, time: u32) {
        let line = format!("AT Clark +0.000000000 {client} {location} {time}");
        herd.apply_local_update(&Record::parse(line.as_bytes()).unwrap(), Wall(0));
    }

    fn tick(events: &mut Events, herd: &mut Herd, now: &mut Instant) -> bool {
        *now += EVENT_FLUSH;
        events.handle_timeout(herd, *now, &mut 10)
    }

    /// The times of all events that a cursor and a filter, without a subscription, are sent.
    fn deliver(events: &mut Events, cursor: &mut u64, filter: &Filter, herd: &Herd) -> Vec<u64> {
        let (mut out, mut work) = (Vec::new(), 100);
        let mut slice = OutputSlice { out: &mut out, soft_limit: 1 << 20, work: &mut work };
        events.deliver(cursor, filter, &herd.directory, Wall(0), &mut slice).unwrap();
        let text = String::from_utf8(out).unwrap();
        let features = text.lines().filter_map(|line| line.strip_prefix("data: "));
        let features = features.map(|it| serde_json::from_str::<serde_json::Value>(it).unwrap());
        features.map(|feature| feature["properties"]["time"].as_f64().unwrap() as u64).collect()
    }

    #[test]
    fn a_cursor_and_a_filter_select_the_newest_change_of_each_client() {
        let (mut herd, mut events, mut now) = (herd(), Events::new(7), Instant::START);
        let (all, (in_box, _)) = (Filter::default(), Filter::parse("bbox=0,0,10,10").unwrap());
        let start = events.subscribe(ConnectionId(1), 0, None, &mut herd, now).unwrap();
        let (mut of_all, mut of_box) = (start.cursor, start.cursor);
        update(&mut herd, "kiwi", "+1+1", 1);
        update(&mut herd, "plum", "+50+1", 2);
        assert_eq!(deliver(&mut events, &mut of_all, &all, &herd), [0; 0], "not published yet");
        assert!(tick(&mut events, &mut herd, &mut now));
        update(&mut herd, "kiwi", "+2+1", 3);
        assert!(tick(&mut events, &mut herd, &mut now));
        assert_eq!(deliver(&mut events, &mut of_all, &all, &herd), [2, 3], "1 is superseded");
        assert_eq!(deliver(&mut events, &mut of_box, &in_box, &herd), [3]);
        assert_eq!((of_all, of_box), (events.published(), events.published()));
        update(&mut herd, "kiwi", "+50+1", 4);
        assert!(tick(&mut events, &mut herd, &mut now));
        update(&mut herd, "kiwi", "+60+1", 5);
        assert!(tick(&mut events, &mut herd, &mut now));
        assert_eq!(deliver(&mut events, &mut of_box, &in_box, &herd), [5], "it left the box");
        assert_eq!(deliver(&mut events, &mut of_box, &in_box, &herd), [0; 0]);
        assert_eq!(events.counters.sent, 4);
    }

    #[test]
    fn the_log_is_bounded_and_a_subscriber_that_fell_behind_starts_over() {
        let (mut herd, mut events, mut now) = (herd(), Events::new(7), Instant::START);
        update(&mut herd, "kiwi", "+1+1", 5);
        assert!(!tick(&mut events, &mut herd, &mut now), "there is no subscriber");
        let start = events.subscribe(ConnectionId(1), 0, None, &mut herd, now).unwrap();
        assert!(!start.resumed);
        for _ in 0..=MAX_CHANGES {
            herd.mark_changed(Slot(0));
            assert!(tick(&mut events, &mut herd, &mut now));
        }
        assert!(events.has_lost(start.cursor));
        assert_eq!(events.ring.len(), MAX_CHANGES);
        let last = events.published - 1;
        for (id, resumed) in [
            (format!("7-1-{last}"), true),
            (format!("7-1-{}", events.first - 1), true),
            (format!("7-1-{}", events.first - 2), false),
            (format!("7-1-{}", last + 1), false),
            (format!("7-2-{last}"), false),
            (format!("8-1-{last}"), false),
            (format!("7-1-{last}-0"), false),
            (format!("7-1-{}", u64::MAX), false),
        ] {
            let start = events.subscribe(ConnectionId(2), 0, Some(&id), &mut herd, now).unwrap();
            assert_eq!(start.resumed, resumed, "{id}");
            events.unsubscribe(start.key, ConnectionId(2), now);
        }
        // Without subscribers the log is kept for a while, in case one reconnects.
        events.unsubscribe(start.key, ConnectionId(1), now);
        tick(&mut events, &mut herd, &mut now);
        assert!(herd.is_followed(Follower::Events));
        now += EVENT_LINGER;
        tick(&mut events, &mut herd, &mut now);
        assert!(!herd.is_followed(Follower::Events) && events.ring.is_empty());
        let next = events
            .subscribe(ConnectionId(3), 0, Some(&format!("7-1-{last}")), &mut herd, now)
            .unwrap();
        assert!(!next.resumed, "a new period numbers its changes from 1");
    }

    #[test]
    fn a_batch_is_limited_and_is_published_as_a_whole() {
        let (mut herd, mut events, mut now) = (herd(), Events::new(7), Instant::START);
        events.subscribe(ConnectionId(1), 0, None, &mut herd, now).unwrap();
        for slot in 0..25 {
            herd.mark_changed(Slot(slot));
        }
        assert!(!tick(&mut events, &mut herd, &mut now), "10 of 25");
        assert_eq!(events.poll_timeout(&herd), Some(Instant::START), "continue at once");
        assert!(!events.handle_timeout(&mut herd, now, &mut 10));
        assert!(events.handle_timeout(&mut herd, now, &mut 10), "all 25 are published together");
        herd.mark_changed(Slot(1));
        assert!(!events.handle_timeout(&mut herd, now, &mut 10), "not before the next flush");
        assert!(tick(&mut events, &mut herd, &mut now));
        for slot in 0..3 * MAX_CHANGES_PER_FLUSH as u32 {
            herd.mark_changed(Slot(slot));
        }
        for batches_left in [2, 1, 0] {
            now += EVENT_FLUSH;
            let mut work = usize::MAX;
            assert!(events.handle_timeout(&mut herd, now, &mut work));
            assert_eq!(usize::MAX - work, MAX_CHANGES_PER_FLUSH);
            assert_eq!(herd.changed(Follower::Events), batches_left * MAX_CHANGES_PER_FLUSH);
        }
    }

    #[test]
    fn the_number_of_subscribers_is_limited() {
        let (mut herd, mut events) = (herd(), Events::new(7));
        for id in 0..MAX_SUBSCRIBERS {
            assert!(
                events
                    .subscribe(ConnectionId(id as u64), 0, None, &mut herd, Instant::START)
                    .is_some()
            );
        }
        assert!(events.subscribe(ConnectionId(0), 0, None, &mut herd, Instant::START).is_none());
        events.unsubscribe(5, ConnectionId(5), Instant::START);
        assert!(events.subscribe(ConnectionId(0), 0, None, &mut herd, Instant::START).is_some());
        // Another address gets the seat of one of them.
        let start = events.subscribe(
            ConnectionId(MAX_SUBSCRIBERS as u64),
            1,
            None,
            &mut herd,
            Instant::START,
        );
        assert!(start.is_some_and(|start| start.evicted.is_some()));
        assert_eq!(events.subscribers(), MAX_SUBSCRIBERS);
    }
}
