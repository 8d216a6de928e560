//! `/events`: clients as they change, for everybody who listens.
//!
//! There is one log of changes. [`Events::handle_timeout`] empties what the herd has noted into it,
//! a few times a second; a [`Subscription`] is a cursor into it and a filter.

use core::hash::Hasher as _;
use core::time::Duration;
use std::collections::VecDeque;

use siphasher::sip::SipHasher13;
use slab::Slab;

use super::Slice;
use super::feature::push_feature;
use super::position::Position;
use super::subscription::Subscription;
use crate::counters::counters;
use crate::herd::Herd;
use crate::herd::directory::{Directory, Slot};
use crate::herd::link::ConnectionId;
use crate::herd::queue::SlotQueue;
use crate::limits::{
    EVENT_FLUSH, EVENT_HEARTBEAT, EVENT_LINGER, MAX_CHANGES, MAX_CHANGES_PER_FLUSH, MAX_RENDERED,
    MAX_SUBSCRIBERS,
};
use crate::protocol::time::Nanos;
use crate::text::digits::push_digits;

/// Changes that are looked at for the price of one record: a look is a few comparisons.
const CHANGES_PER_WORK: usize = 64;

/// The log of changes, and who reads it.
#[derive(Default)]
pub struct Events {
    /// The life of the node, and which time it is that somebody listens: sequences are counted anew
    /// with each.
    epoch: (u64, u64),
    ring: VecDeque<Change>,
    /// The sequence of the first change in the ring.
    first: u64,
    /// Subscribers read up to here.
    published: u64,
    /// What is known of each slot.
    slots: Vec<Seen>,
    /// Changes that are still to be taken over before they are published together.
    left: usize,
    flush_at: Duration,
    beat_at: Duration,
    /// Heartbeats so far.
    beats: u64,
    /// Since when nobody listens.
    idle_since: Option<Duration>,
    subscribers: Slab<ConnectionId>,
    rendered: Rendered,
    /// Monotonic counters since start-up.
    pub counters: Counters,
}

/// A slot as the log knows it.
#[derive(Clone, Copy)]
struct Seen {
    /// The sequence of its last change, cut to 32 bits.
    last: u32,
    /// Where its client was then, or when a subscriber was told.
    position: Option<Position>,
}

/// A slot has changed, and this was where its client was then.
#[derive(Clone, Copy)]
pub(super) struct Change {
    slot: Slot,
    pub position: Position,
    /// Where it was before, if that is known: who watches that place is to know that it has left.
    pub left: Option<Position>,
    /// Of the client's name.
    pub name: u32,
}

/// Events of the changes published last, each made once for all subscribers.
#[derive(Default)]
struct Rendered {
    /// The sequence of the first of these changes.
    first: u64,
    /// For each change, where its event is; empty where it was not made yet.
    places: Vec<(u32, u32)>,
    bytes: Vec<u8>,
}

/// What a subscriber begins with.
pub(super) struct Start {
    /// Its number.
    pub key: usize,
    /// The sequence of the first change it is to have.
    pub cursor: u64,
    /// Whether it has had all that was before.
    pub resumed: bool,
}

counters! {
    /// Monotonic counters of events since start-up.
    Counters {
        events_sent_total: "Events sent, counted once per subscriber." { sent }
        event_resets_total: "Times that a subscriber was sent all clients." { resets }
    }
}

impl Events {
    /// A log of a node in this life.
    #[must_use]
    pub fn new(boot: u64) -> Self {
        // There is an id before the first change, so that everybody has one to come back with.
        Self { epoch: (boot, 0), first: 1, published: 1, ..Self::default() }
    }

    /// How many listen.
    #[must_use]
    pub fn subscribers(&self) -> usize {
        self.subscribers.len()
    }

    /// The connections of those who listen.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.subscribers.iter().map(|(_, &connection)| connection)
    }

    /// Somebody listens from now on, or from behind the event `last` if that is still in the log.
    /// `None`: there are too many already.
    pub(super) fn subscribe(
        &mut self,
        connection: ConnectionId,
        last: Option<&str>,
        herd: &mut Herd,
        now: Duration,
    ) -> Option<Start> {
        if self.subscribers.len() >= MAX_SUBSCRIBERS {
            return None;
        }
        if herd.watched.is_none() {
            herd.watched = Some(SlotQueue::default());
            self.epoch.1 += 1;
            self.beat_at = now + EVENT_HEARTBEAT;
        }
        self.idle_since = None;
        let resumed = last.and_then(|id| self.sequence(id)).and_then(|last| last.checked_add(1));
        let resumed = resumed.filter(|next| (self.first..=self.published).contains(next));
        let key = self.subscribers.insert(connection);
        let cursor = resumed.unwrap_or(self.published);
        Some(Start { key, cursor, resumed: resumed.is_some() })
    }

    /// The subscriber with this number has gone.
    pub(super) fn unsubscribe(&mut self, key: usize, now: Duration) {
        self.subscribers.try_remove(key);
        if self.subscribers.is_empty() {
            self.idle_since = Some(now);
        }
    }

    /// When [`Events::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self, herd: &Herd) -> Option<Duration> {
        let watched = herd.watched.as_ref()?;
        let changes = match self.left {
            0 => (!watched.is_empty()).then_some(self.flush_at),
            _ => Some(Duration::ZERO),
        };
        let idle = self.idle_since.map(|since| since + EVENT_LINGER);
        [changes, idle, Some(self.beat_at)].into_iter().flatten().min()
    }

    /// Takes over what has changed, at the most `work` changes at once. Returns whether there is
    /// something for the subscribers.
    pub fn handle_timeout(&mut self, herd: &mut Herd, now: Duration, work: &mut usize) -> bool {
        let Some(watched) = &mut herd.watched else { return false };
        if self.idle_since.is_some_and(|since| since + EVENT_LINGER <= now) {
            herd.watched = None;
            self.forget();
            return false;
        }
        let mut told = false;
        if self.left == 0 && self.flush_at <= now && !watched.is_empty() {
            self.left = watched.len().min(MAX_CHANGES_PER_FLUSH);
            self.flush_at = now + EVENT_FLUSH;
        }
        while self.left > 0 && *work > 0 {
            *work -= 1;
            self.left -= 1;
            if let Some(slot) = watched.pop() {
                self.note(slot, &herd.directory);
            }
            if self.left == 0 {
                self.publish();
                told = true;
            }
        }
        if self.beat_at <= now {
            self.beat_at = now + EVENT_HEARTBEAT;
            self.beats += 1;
            told = true;
        }
        told
    }

    fn forget(&mut self) {
        let Self { epoch, counters, .. } = *self;
        *self = Self { epoch, counters, ..Self::new(epoch.0) };
    }

    fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn note(&mut self, slot: Slot, directory: &Directory) {
        // A slot that is free by now has nothing to tell.
        let Some(location) = directory.location(slot) else { return };
        let name = directory.client(slot).map_or(0, name_hash);
        if self.ring.len() >= MAX_CHANGES {
            self.ring.pop_front();
            self.first += 1;
        }
        let (last, position) = (self.end() as u32, Position::from(location));
        let seen = self.seen(slot);
        let left = seen.position.replace(position);
        seen.last = last;
        self.ring.push_back(Change { slot, position, left, name });
    }

    fn seen(&mut self, slot: Slot) -> &mut Seen {
        let slot = slot as usize;
        if self.slots.len() <= slot {
            let unseen = Seen { last: u32::MAX, position: None };
            self.slots.resize((slot + 1).next_multiple_of(4096), unseen);
        }
        &mut self.slots[slot]
    }

    /// A subscriber has been told that the client in `slot` is at `position`. A move there that is
    /// not in the log yet is taken over at once, or one away from there would begin elsewhere.
    pub(super) fn told(&mut self, slot: Slot, position: Position, directory: &Directory) {
        let seen = self.seen(slot);
        match seen.position {
            None => seen.position = Some(position),
            Some(known) if known != position => self.note(slot, directory),
            Some(_) => {}
        }
    }

    fn publish(&mut self) {
        self.rendered.first = self.published.max(self.first);
        self.rendered.places.clear();
        self.rendered.bytes.clear();
        self.published = self.end();
        let changes = (self.published - self.rendered.first) as usize;
        self.rendered.places.resize(changes, (0, 0));
    }

    /// Whether there is something for a subscriber who stands here.
    pub(super) const fn is_due(&self, cursor: u64, beats: u64) -> bool {
        cursor < self.published || beats != self.beats
    }

    /// Heartbeats so far.
    pub(super) const fn beats(&self) -> u64 {
        self.beats
    }

    /// Whether changes behind `cursor` are no longer in the log.
    pub(super) const fn has_lost(&self, cursor: u64) -> bool {
        cursor < self.first
    }

    /// Whether what comes after `cursor` will be lost before long.
    pub(super) fn is_ageing(&self, cursor: u64) -> bool {
        !self.has_lost(cursor) && self.end() - cursor > MAX_CHANGES as u64 / 2
    }

    /// Whether nothing that is published is in the log any more. Whoever begins then would have lost
    /// something before it has begun.
    pub(super) const fn is_overrun(&self) -> bool {
        self.published < self.first
    }

    /// Where subscribers that have just been told everything go on.
    pub(super) const fn published(&self) -> u64 {
        self.published
    }

    /// Appends the events for `subscription`. `None`: what comes next is no longer in the log.
    pub(super) fn deliver(
        &mut self,
        subscription: &mut Subscription,
        directory: &Directory,
        now: Nanos,
        slice: &mut Slice<'_>,
    ) -> Option<()> {
        while subscription.cursor < self.published && slice.has_room() {
            let from = subscription.cursor.checked_sub(self.first)? as usize;
            let to = (self.published - self.first) as usize;
            let to = to.min(from + CHANGES_PER_WORK * *slice.work);
            let wanted = |change: &Change| subscription.filter.wants(change);
            let found = self.ring.range(from..to).position(wanted);
            let passed = found.unwrap_or(to - from);
            slice.spend(passed.div_ceil(CHANGES_PER_WORK));
            subscription.cursor += passed as u64;
            if found.is_some() {
                slice.spend(1);
                self.push_change(subscription, from + passed, directory, now, slice.out);
                subscription.cursor += 1;
            }
        }
        Some(())
    }

    /// Appends the event of a change, unless a later one has superseded it.
    fn push_change(
        &mut self,
        subscription: &Subscription,
        at: usize,
        directory: &Directory,
        now: Nanos,
        out: &mut Vec<u8>,
    ) {
        let Change { slot, position, .. } = self.ring[at];
        let sequence = self.first + at as u64;
        // The later one is not this subscriber's if it was elsewhere by then.
        let superseded = self.slots[slot as usize].last != sequence as u32;
        if superseded && subscription.filter.holds(position)
            || !subscription.filter.wants_client(directory.client(slot))
        {
            return;
        }
        let id = (self.epoch, sequence);
        let made = sequence
            .checked_sub(self.rendered.first)
            .and_then(|at| self.rendered.places.get_mut(at as usize));
        let Some(place) = made else {
            return self.counters.sent +=
                u64::from(push_client(out, Some(id), slot, directory, now));
        };
        let bytes = &mut self.rendered.bytes;
        if *place == (0, 0) {
            if bytes.len() >= MAX_RENDERED {
                return self.counters.sent +=
                    u64::from(push_client(out, Some(id), slot, directory, now));
            }
            let start = bytes.len() as u32;
            push_client(bytes, Some(id), slot, directory, now);
            *place = (start, bytes.len() as u32);
        }
        let event = &bytes[place.0 as usize..place.1 as usize];
        out.extend_from_slice(event);
        self.counters.sent += u64::from(!event.is_empty());
    }

    /// Appends `id: …` for what is before `cursor`.
    pub(super) fn push_id_before(&self, cursor: u64, out: &mut Vec<u8>) {
        push_id(out, (self.epoch, cursor - 1));
    }

    /// The sequence in an id that was given out in this epoch.
    fn sequence(&self, id: &str) -> Option<u64> {
        let mut numbers = id.split('-').map(|number| number.parse::<u64>().ok());
        let (boot, time, sequence) = (numbers.next()??, numbers.next()??, numbers.next()??);
        ((boot, time) == self.epoch && numbers.next().is_none()).then_some(sequence)
    }
}

/// A hash of a client's name: most other names have another.
pub(super) fn name_hash(name: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(name);
    hasher.finish() as u32
}

/// Appends `id: BOOT-TIME-SEQUENCE`.
fn push_id(out: &mut Vec<u8>, ((boot, time), sequence): ((u64, u64), u64)) {
    out.extend_from_slice(b"id: ");
    for (number, behind) in [(boot, b'-'), (time, b'-'), (sequence, b'\n')] {
        push_digits(out, number, 1);
        out.push(behind);
    }
}

/// Appends the event of the client in `slot`, if there is one. Returns whether there was.
pub(super) fn push_client(
    out: &mut Vec<u8>,
    id: Option<((u64, u64), u64)>,
    slot: Slot,
    directory: &Directory,
    now: Nanos,
) -> bool {
    let Some(record) = directory.record(slot, now) else { return false };
    out.extend_from_slice(b"event: client\n");
    if let Some(id) = id {
        push_id(out, id);
    }
    out.extend_from_slice(b"data: ");
    push_feature(out, &record, now);
    out.extend_from_slice(b"\n\n");
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::Record;
    use crate::testing::{self, identity};

    fn herd() -> Herd {
        testing::herd(identity(&["Clark"], 0, &[]))
    }

    fn tick(events: &mut Events, herd: &mut Herd, now: &mut Duration) -> bool {
        *now += EVENT_FLUSH;
        events.handle_timeout(herd, *now, &mut 10)
    }

    #[test]
    fn the_log_is_bounded_and_who_has_fallen_out_of_it_begins_anew() {
        let (mut herd, mut events, mut now) = (herd(), Events::new(7), Duration::ZERO);
        let record = Record::parse(b"AT Clark +0.000000000 kiwi +1+1 5").unwrap();
        herd.hear(&record, 0);
        assert!(!tick(&mut events, &mut herd, &mut now), "nobody listens");
        let start = events.subscribe(1, None, &mut herd, now).unwrap();
        assert!(!start.resumed);
        for _ in 0..=MAX_CHANGES {
            herd.watched.as_mut().unwrap().push(0);
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
            let start = events.subscribe(2, Some(&id), &mut herd, now).unwrap();
            assert_eq!(start.resumed, resumed, "{id}");
            events.unsubscribe(start.key, now);
        }
        // Nobody listens any more: for a while somebody may come back, then nothing is noted.
        events.unsubscribe(start.key, now);
        tick(&mut events, &mut herd, &mut now);
        assert!(herd.watched.is_some());
        now += EVENT_LINGER;
        tick(&mut events, &mut herd, &mut now);
        assert!(herd.watched.is_none() && events.ring.is_empty());
        let anew = events.subscribe(3, Some(&format!("7-1-{last}")), &mut herd, now).unwrap();
        assert!(!anew.resumed, "sequences are counted anew");
    }

    #[test]
    fn a_flush_takes_no_more_than_its_share() {
        let (mut herd, mut events, mut now) = (herd(), Events::new(7), Duration::ZERO);
        events.subscribe(1, None, &mut herd, now).unwrap();
        for slot in 0..25 {
            herd.watched.as_mut().unwrap().push(slot);
        }
        assert!(!tick(&mut events, &mut herd, &mut now), "ten of them");
        assert_eq!(events.poll_timeout(&herd), Some(Duration::ZERO), "at once, the next");
        assert!(!events.handle_timeout(&mut herd, now, &mut 10));
        assert!(events.handle_timeout(&mut herd, now, &mut 10), "all, and told together");
        herd.watched.as_mut().unwrap().push(1);
        assert!(!events.handle_timeout(&mut herd, now, &mut 10), "not before the next flush");
        assert!(tick(&mut events, &mut herd, &mut now));
        for slot in 0..3 * MAX_CHANGES_PER_FLUSH as u32 {
            herd.watched.as_mut().unwrap().push(slot);
        }
        for left in [2, 1, 0] {
            now += EVENT_FLUSH;
            let mut work = usize::MAX;
            assert!(events.handle_timeout(&mut herd, now, &mut work), "not all in one flush");
            assert_eq!(usize::MAX - work, MAX_CHANGES_PER_FLUSH);
            assert_eq!(herd.watched.as_ref().unwrap().len(), left * MAX_CHANGES_PER_FLUSH);
        }
    }

    #[test]
    fn there_is_a_limit_on_subscribers() {
        let (mut herd, mut events) = (herd(), Events::new(7));
        for id in 0..MAX_SUBSCRIBERS {
            assert!(events.subscribe(id as u64, None, &mut herd, Duration::ZERO).is_some());
        }
        assert!(events.subscribe(0, None, &mut herd, Duration::ZERO).is_none());
        events.unsubscribe(5, Duration::ZERO);
        assert!(events.subscribe(0, None, &mut herd, Duration::ZERO).is_some());
    }
}
