//! One subscriber of `/events`: its filter, and its progress.

use super::OutputSlice;
use super::change::push_client;
use super::events::{Events, Start};
use super::filter::Filter;
use super::position::Position;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::text::digits::push_digits;
use crate::time::Now;

/// A subscriber.
pub struct Subscription {
    key: usize,
    filter: Filter,
    /// Sequence of the next change to read.
    cursor: u64,
    phase: Phase,
    /// Heartbeats that were sent or skipped.
    beats: u64,
}

/// The next thing to send. A subscriber goes through the phases from top to bottom, and back to the
/// first one when it has lost changes.
enum Phase {
    /// The event `reset`: forget everything.
    Reset,
    /// All clients, ended by the event `ready`. The number is the next slot, or the next name of
    /// the filter.
    Snapshot(u32),
    /// Changes.
    Live,
}

/// Control flow after a phase: [`Step::Continue`] if the next one may begin in the same slice.
enum Step {
    Continue,
    Stop,
}

impl Subscription {
    pub(super) fn new(start: &Start, filter: Filter, events: &Events) -> Self {
        let phase = if start.resumed { Phase::Live } else { Phase::Reset };
        let Start { key, cursor, .. } = *start;
        Self { key, filter, cursor, phase, beats: events.beats() }
    }

    /// Key of the subscriber, for [`Events::unsubscribe`].
    pub(super) const fn key(&self) -> usize {
        self.key
    }

    /// Returns whether anything is due.
    pub(super) const fn is_due(&self, events: &Events) -> bool {
        match self.phase {
            Phase::Reset => !events.is_overrun(),
            Phase::Snapshot(_) => true,
            Phase::Live => events.is_due(self.cursor, self.beats),
        }
    }

    /// Appends output, as far as `slice` allows.
    pub(super) fn advance(
        &mut self,
        directory: &Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) {
        if matches!(self.phase, Phase::Live) && events.has_lost(self.cursor) {
            self.phase = Phase::Reset;
        }
        loop {
            let step = match self.phase {
                Phase::Reset => self.send_reset(directory, events, slice),
                Phase::Snapshot(next) => self.send_snapshot(next, directory, events, now, slice),
                Phase::Live => self.send_changes(directory, events, now, slice),
            };
            if matches!(step, Step::Stop) {
                return;
            }
        }
    }

    /// Sends `reset`, and moves the cursor to the first change after the snapshot.
    fn send_reset(
        &mut self,
        directory: &Directory,
        events: &mut Events,
        slice: &mut OutputSlice<'_>,
    ) -> Step {
        if events.is_overrun() {
            return Step::Stop;
        }
        self.cursor = events.published();
        events.counters.resets += 1;
        slice.out.extend_from_slice(b"retry: 2000\nevent: reset\ndata: {\"held\":");
        push_digits(slice.out, directory.clients().into(), 1);
        slice.out.extend_from_slice(b"}\n\n");
        self.phase = Phase::Snapshot(0);
        Step::Continue
    }

    /// Sends clients from `next` on and, after the last one, `ready`.
    fn send_snapshot(
        &mut self,
        next: u32,
        directory: &Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) -> Step {
        if events.is_aging(self.cursor) {
            // Catch up with the log before the cursor is overwritten. Most of these changes are
            // superseded and take no space. A cursor that is still in the log cannot be lost here.
            let _ = events.deliver(
                &mut self.cursor,
                &self.filter,
                directory,
                now.wall,
                &mut slice.half(),
            );
        }
        if let Some(next) = self.send_clients(next, directory, events, now, slice) {
            self.phase = Phase::Snapshot(next);
            return Step::Stop;
        }
        // The log may have overtaken the cursor meanwhile. The subscriber has then seen every
        // client once, but there is no id to resume from, and it has to start over.
        let has_lost = events.has_lost(self.cursor);
        slice.out.extend_from_slice(b"event: ready\n");
        if !has_lost {
            events.push_id_before(self.cursor, slice.out);
        }
        slice.out.extend_from_slice(b"data: {}\n\n");
        if has_lost {
            self.phase = Phase::Reset;
            Step::Stop
        } else {
            self.phase = Phase::Live;
            Step::Continue
        }
    }

    /// Sends clients from `next` on. Returns the position to continue at; `None` after the last one.
    fn send_clients(
        &self,
        mut next: u32,
        directory: &Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) -> Option<u32> {
        let names = self.filter.names().len() as u32;
        let end = if names == 0 { directory.slots() } else { names };
        while next < end {
            if !slice.has_room() {
                return Some(next);
            }
            slice.spend(1);
            let slot = match self.filter.names().nth(next as usize) {
                Some(name) => directory.slot(name),
                None => Some(Slot(next)),
            };
            next += 1;
            let Some(slot) = slot else { continue };
            let Some(position) = directory.location(slot).map(Position::from) else { continue };
            if self.filter.contains(position) && self.filter.allows_age(slot, directory, now.wall) {
                let sent = push_client(slice.out, None, slot, directory, now.wall);
                events.counters.sent += u64::from(sent);
                events.record_sent(slot, position, directory);
            }
        }
        None
    }

    /// Sends changes, and a heartbeat if there are none left.
    fn send_changes(
        &mut self,
        directory: &Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut OutputSlice<'_>,
    ) -> Step {
        let Self { cursor, filter, .. } = self;
        if events.deliver(cursor, filter, directory, now.wall, slice).is_err() {
            self.phase = Phase::Reset;
            return Step::Stop;
        }
        if self.beats != events.beats() && self.cursor >= events.published() {
            self.beats = events.beats();
            slice.out.extend_from_slice(b": still here\n");
            events.push_id_before(self.cursor, slice.out);
            slice.out.push(b'\n');
        }
        Step::Stop
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::herd::Herd;
    use crate::http::limits::{EVENT_FLUSH, MAX_CHANGES, SLICE_BYTES};
    use crate::ids::ConnectionId;
    use crate::protocol::record::Record;
    use crate::testing::{herd, identity};
    use crate::time::Wall;

    /// A herd of one node, its log, and a subscriber.
    struct Fixture {
        herd: Herd,
        events: Events,
        now: Now,
        subscription: Subscription,
    }

    impl Fixture {
        /// With a node that holds this many clients.
        fn new(clients: usize) -> Self {
            let mut herd = herd(identity(&["Clark"], 0, &[]));
            let mut events = Events::new(7);
            let now = Now::default();
            let start = events.subscribe(ConnectionId(1), 0, None, &mut herd, now.instant).unwrap();
            let subscription = Subscription::new(&start, Filter::default(), &events);
            let mut fixture = Self { herd, events, now, subscription };
            for client in 0..clients {
                fixture.update(client, 1);
            }
            fixture
        }

        /// Moves a client at `time`; its position depends on the time.
        fn update(&mut self, client: usize, time: usize) {
            let line = format!("AT Clark +0.000000000 {client:06} +{}+1 {time}", time % 90);
            self.herd.apply_local_update(&Record::parse(line.as_bytes()).unwrap(), Wall(0));
        }

        /// Publishes a change of every client, `times` times.
        fn flush(&mut self, times: usize) {
            for _ in 0..times {
                for slot in 0..self.herd.directory.slots() {
                    self.herd.mark_changed(Slot(slot));
                }
                self.now.instant += EVENT_FLUSH;
                let mut work = usize::MAX;
                assert!(self.events.handle_timeout(&mut self.herd, self.now.instant, &mut work));
            }
        }

        /// Returns the output of a turn with enough work for everything and space for about
        /// `soft_limit` bytes.
        fn turn(&mut self, soft_limit: usize) -> String {
            let (mut out, mut work) = (Vec::new(), 4 * MAX_CHANGES);
            let mut slice = OutputSlice { out: &mut out, soft_limit, work: &mut work };
            let Self { herd, events, now, subscription } = self;
            subscription.advance(&herd.directory, events, now, &mut slice);
            String::from_utf8(out).unwrap()
        }
    }

    const RESET: &str = "retry: 2000\nevent: reset\n";
    /// End of a snapshot that can be resumed from.
    const READY: &str = "event: ready\nid: ";
    /// End of a snapshot that cannot.
    const READY_AND_LOST: &str = "event: ready\ndata: ";

    #[test]
    fn a_snapshot_does_not_overwrite_the_change_that_comes_next() {
        let mut fixture = Fixture::new(1);
        fixture.flush(MAX_CHANGES);
        fixture.subscription.phase = Phase::Snapshot(0);
        let cursor = fixture.subscription.cursor;
        assert!(!fixture.events.has_lost(cursor), "it is the oldest change in the log");
        fixture.update(0, 2);
        let sent = fixture.turn(SLICE_BYTES);
        assert!(sent.contains("000000 +2+1 2\"") && sent.contains(READY), "{sent}");
        assert_eq!(fixture.turn(SLICE_BYTES), "");
    }

    #[test]
    fn a_long_snapshot_catches_up_with_the_log() {
        let mut fixture = Fixture::new(300);
        let mut sent = fixture.turn(1024);
        assert!(sent.starts_with(RESET));
        while !sent.contains("event: ready") {
            fixture.flush(20);
            let more = fixture.turn(1024);
            assert!(!more.contains(RESET), "once is enough");
            sent.push_str(&more);
        }
        assert!(fixture.events.has_lost(1), "the start of the snapshot is overwritten");
        assert!(sent.contains(READY), "not lost");
        for client in 0..300 {
            assert!(sent.contains(&format!("\"client\":\"{client:06}\"")), "{client}");
        }
        fixture.update(7, 2);
        fixture.flush(1);
        let (mut sent, mut more) = (String::new(), fixture.turn(SLICE_BYTES));
        while !more.is_empty() {
            sent.push_str(&more);
            more = fixture.turn(SLICE_BYTES);
        }
        assert!(sent.contains("000007 +2+1 2\"") && !sent.contains(RESET), "changes follow");
    }

    #[test]
    fn a_snapshot_that_lost_changes_is_finished_before_the_next_reset() {
        let mut fixture = Fixture::new(300);
        let mut sent = fixture.turn(1024);
        fixture.flush(MAX_CHANGES / 300 + 1);
        while !sent.contains("event: ready") {
            sent.push_str(&fixture.turn(1024));
        }
        assert!(sent.contains(READY_AND_LOST) && !sent[1..].contains(RESET));
        for client in 0..300 {
            assert!(sent.contains(&format!("\"client\":\"{client:06}\"")), "{client}");
        }
        let next = fixture.turn(1 << 20);
        assert!(next.starts_with(RESET) && next.contains(READY), "{next}");
    }

    #[test]
    fn a_client_that_is_erased_is_reported_once() {
        let mut fixture = Fixture::new(3);
        assert!(fixture.turn(SLICE_BYTES).contains(READY));
        fixture.herd.forget(b"000001", Wall(0), &mut Vec::new()).unwrap();
        fixture.flush(1);
        let sent = fixture.turn(SLICE_BYTES);
        let forgotten = |text: &str| text.matches("event: forget\n").count();
        assert_eq!(forgotten(&sent), 1, "{sent}");
        assert!(sent.contains("data: {\"id\":\"000001\"}\n\n"), "{sent}");
        // A subscriber that comes later does not hear of it.
        fixture.subscription.phase = Phase::Reset;
        let sent = fixture.turn(SLICE_BYTES);
        assert!(sent.starts_with("retry: 2000\nevent: reset\ndata: {\"held\":2}\n"), "{sent}");
        assert!(!sent.contains("000001") && sent.contains(READY), "{sent}");
        fixture.update(1, 80);
        fixture.flush(1);
        let sent = fixture.turn(SLICE_BYTES);
        assert!(sent.contains("000001 +80+1 80") && forgotten(&sent) == 0, "{sent}");
    }

    #[test]
    fn a_subscriber_waits_while_the_log_holds_nothing_published() {
        let mut fixture = Fixture::new(2);
        fixture.flush(1);
        fixture.update(1, 2);
        let elsewhere = Position::from(fixture.herd.directory.location(Slot(1)).unwrap());
        for _ in 0..=MAX_CHANGES {
            fixture.events.record_sent(Slot(0), elsewhere, &fixture.herd.directory);
        }
        assert!(!fixture.subscription.is_due(&fixture.events));
        assert_eq!(fixture.turn(SLICE_BYTES), "");
        fixture.flush(1);
        assert!(fixture.subscription.is_due(&fixture.events));
        let sent = fixture.turn(SLICE_BYTES);
        assert!(sent.starts_with(RESET) && sent.contains(READY), "{sent}");
        assert_eq!(fixture.turn(SLICE_BYTES), "");
    }
}
