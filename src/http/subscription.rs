//! One subscriber of `/events`: what it wants, and how far it has come.

use super::Slice;
use super::clients::BBOX;
use super::events::{Change, Events, Start, name_hash, push_client};
use super::position::{Bounds, Position};
use super::query;
use super::response::Chunk;
use crate::herd::directory::Directory;
use crate::limits::MAX_FILTER_CLIENTS;
use crate::node::{Node, Now};
use crate::text::digits::push_digits;

/// Which clients a subscriber wants: all that pass both.
#[derive(Default)]
pub(super) struct Filter {
    bounds: Option<Bounds>,
    /// Names and their hashes; empty: all.
    clients: Vec<(u32, Vec<u8>)>,
}

/// A subscriber.
pub struct Subscription {
    key: usize,
    pub(super) filter: Filter,
    /// The sequence of the next change it is to have.
    pub(super) cursor: u64,
    phase: Phase,
    /// Heartbeats it has had.
    beats: u64,
    chunked: bool,
}

enum Phase {
    /// It is to be told that it has missed something, or is new.
    Reset,
    /// It is being told all clients. The number is the next slot, or the next name of the filter.
    All(u32),
    /// It is told changes.
    Changes,
}

impl Filter {
    /// The filter that `query` asks for, and the id of the event that the subscriber had last, for
    /// those that cannot set the header field.
    pub(super) fn parse(query: &str) -> Result<(Self, Option<String>), String> {
        let (mut filter, mut last) = (Self::default(), None);
        for (name, value) in query::parameters(query, &["bbox", "client", "last_event_id"])? {
            match name.as_str() {
                "bbox" => filter.bounds = Some(query::bounds(&value).ok_or(BBOX)?),
                "client" if filter.clients.len() < MAX_FILTER_CLIENTS => {
                    filter.clients.push((name_hash(&value), value));
                }
                "client" => {
                    return Err(format!("there may be at most {MAX_FILTER_CLIENTS} clients"));
                }
                _ => last = String::from_utf8(value).ok(),
            }
        }
        Ok((filter, last))
    }

    /// Whether the change is one that the subscriber wants, as far as it says.
    pub(super) fn wants(&self, change: &Change) -> bool {
        (self.holds(change.position) || change.left.is_some_and(|left| self.holds(left)))
            && (self.clients.is_empty()
                || self.clients.iter().any(|(hash, _)| *hash == change.name))
    }

    /// Whether `position` is in the box, if there is one.
    pub(super) fn holds(&self, position: Position) -> bool {
        self.bounds.is_none_or(|bounds| bounds.contain(position))
    }

    /// Whether it wants the client of this name.
    pub(super) fn wants_client(&self, name: Option<&[u8]>) -> bool {
        self.clients.is_empty()
            || self.clients.iter().any(|(_, wanted)| name == Some(wanted.as_slice()))
    }
}

impl Subscription {
    pub(super) fn new(start: &Start, filter: Filter, chunked: bool, events: &Events) -> Self {
        let phase = if start.resumed { Phase::Changes } else { Phase::Reset };
        let Start { key, cursor, .. } = *start;
        Self { key, filter, cursor, phase, beats: events.beats(), chunked }
    }

    /// See [`Events::unsubscribe`].
    pub(super) const fn key(&self) -> usize {
        self.key
    }

    /// Whether there is something to send.
    pub(super) const fn is_due(&self, events: &Events) -> bool {
        match self.phase {
            Phase::Reset => !events.is_overrun(),
            Phase::All(_) => true,
            Phase::Changes => events.is_due(self.cursor, self.beats),
        }
    }

    /// Appends what there is to send.
    pub(super) fn advance(
        &mut self,
        node: &Node,
        events: &mut Events,
        now: &Now,
        slice: &mut Slice<'_>,
    ) {
        let chunk = self.chunked.then(|| Chunk::begin(slice.out));
        self.tell(&node.herd.directory, events, now, slice);
        if let Some(chunk) = chunk {
            chunk.end(slice.out);
        }
    }

    fn tell(
        &mut self,
        directory: &Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut Slice<'_>,
    ) {
        if matches!(self.phase, Phase::Changes) && events.has_lost(self.cursor) {
            self.phase = Phase::Reset;
        }
        if matches!(self.phase, Phase::Reset) {
            if events.is_overrun() {
                return;
            }
            self.cursor = events.published();
            self.phase = Phase::All(0);
            events.counters.resets += 1;
            slice.out.extend_from_slice(b"retry: 2000\nevent: reset\ndata: {\"held\":");
            push_digits(slice.out, directory.len().into(), 1);
            slice.out.extend_from_slice(b"}\n\n");
        }
        if let Phase::All(at) = self.phase {
            if events.is_ageing(self.cursor) {
                // Most of what it has not had of the log is superseded, and takes no room.
                let mut half = slice.half();
                events.deliver(self, directory, now.clock, &mut half);
            }
            let next = self.tell_all(at, directory, events, now, slice);
            self.phase = next.map_or(Phase::Changes, Phase::All);
            if next.is_some() {
                return;
            }
            // The log may have passed it by meanwhile, also by what it was told itself. It has had
            // all clients once, but there is nothing to go on from.
            let lost = events.has_lost(self.cursor);
            slice.out.extend_from_slice(b"event: ready\n");
            if !lost {
                events.push_id_before(self.cursor, slice.out);
            }
            slice.out.extend_from_slice(b"data: {}\n\n");
            if lost {
                self.phase = Phase::Reset;
                return;
            }
        }
        if events.deliver(self, directory, now.clock, slice).is_none() {
            self.phase = Phase::Reset;
            return;
        }
        if self.beats != events.beats() && self.cursor >= events.published() {
            self.beats = events.beats();
            slice.out.extend_from_slice(b": still here\n");
            events.push_id_before(self.cursor, slice.out);
            slice.out.push(b'\n');
        }
    }

    /// Appends the clients from `at` on. Returns where to go on; `None`: that was all.
    fn tell_all(
        &self,
        mut at: u32,
        directory: &Directory,
        events: &mut Events,
        now: &Now,
        slice: &mut Slice<'_>,
    ) -> Option<u32> {
        let names = &self.filter.clients;
        let end = if names.is_empty() { directory.slots() } else { names.len() as u32 };
        while at < end {
            if !slice.has_room() {
                return Some(at);
            }
            slice.spend(1);
            let slot = match names.get(at as usize) {
                Some((_, name)) => directory.slot(name),
                None => Some(at),
            };
            at += 1;
            let Some(slot) = slot else { continue };
            let Some(position) = directory.location(slot).map(Position::from) else { continue };
            if self.filter.holds(position) {
                let told = push_client(slice.out, None, slot, directory, now.clock);
                events.counters.sent += u64::from(told);
                events.told(slot, position, directory);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;
    use crate::herd::Herd;
    use crate::limits::{EVENT_FLUSH, MAX_CHANGES, WEB_SLICE};
    use crate::protocol::record::Record;
    use crate::testing::{herd, identity};

    /// A herd of one node, its log, and a subscriber.
    struct Told {
        herd: Herd,
        events: Events,
        now: Now,
        subscription: Subscription,
    }

    impl Told {
        /// By a node that holds so many clients.
        fn new(clients: usize) -> Self {
            let mut herd = herd(identity(&["Clark"], 0, &[]));
            let mut events = Events::new(7);
            let now = Now { elapsed: Duration::ZERO, clock: 0 };
            let start = events.subscribe(1, None, &mut herd, now.elapsed).unwrap();
            let subscription = Subscription::new(&start, Filter::default(), false, &events);
            let mut told = Self { herd, events, now, subscription };
            for client in 0..clients {
                told.hear(client, 1);
            }
            told
        }

        /// A client says at `time` where it is; each time that is elsewhere.
        fn hear(&mut self, client: usize, time: usize) {
            let line = format!("AT Clark +0.000000000 {client:06} +{}+1 {time}", time % 90);
            self.herd.hear(&Record::parse(line.as_bytes()).unwrap(), 0);
        }

        /// All clients say again where they are, which is published, so many times.
        fn flush(&mut self, times: usize) {
            for _ in 0..times {
                for slot in 0..self.herd.directory.slots() {
                    self.herd.watched.as_mut().unwrap().push(slot);
                }
                self.now.elapsed += EVENT_FLUSH;
                let mut work = usize::MAX;
                assert!(self.events.handle_timeout(&mut self.herd, self.now.elapsed, &mut work));
            }
        }

        /// What the subscriber is sent in a turn that has time for all, about `most` bytes.
        fn turn(&mut self, most: usize) -> String {
            let (mut out, mut work) = (Vec::new(), 4 * MAX_CHANGES);
            let mut slice = Slice { out: &mut out, most, work: &mut work };
            let directory = &self.herd.directory;
            self.subscription.tell(directory, &mut self.events, &self.now, &mut slice);
            String::from_utf8(out).unwrap()
        }
    }

    const RESET: &str = "retry: 2000\nevent: reset\n";
    /// An end of a walk that can be gone on from, and one that cannot.
    const READY: &str = "event: ready\nid: ";
    const READY_AND_LOST: &str = "event: ready\ndata: ";

    #[test]
    fn what_is_told_pushes_no_change_out_of_the_log_that_is_still_to_come() {
        let mut told = Told::new(1);
        told.flush(MAX_CHANGES);
        told.subscription.phase = Phase::All(0);
        assert!(!told.events.has_lost(told.subscription.cursor), "it is the oldest in the log");
        told.hear(0, 2);
        let sent = told.turn(WEB_SLICE);
        assert!(sent.contains("000000 +2+1 2\"") && sent.contains(READY), "{sent}");
        assert_eq!(told.turn(WEB_SLICE), "");
    }

    #[test]
    fn a_walk_that_takes_long_comes_to_an_end() {
        let mut told = Told::new(300);
        let mut sent = told.turn(1024);
        assert!(sent.starts_with(RESET));
        while !sent.contains("event: ready") {
            told.flush(20);
            let more = told.turn(1024);
            assert!(!more.contains(RESET), "once is enough");
            sent.push_str(&more);
        }
        assert!(told.events.has_lost(1), "the log was passed by");
        assert!(sent.contains(READY), "not lost");
        for client in 0..300 {
            assert!(sent.contains(&format!("\"client\":\"{client:06}\"")), "{client}");
        }
        told.hear(7, 2);
        told.flush(1);
        let (mut sent, mut more) = (String::new(), told.turn(WEB_SLICE));
        while !more.is_empty() {
            sent.push_str(&more);
            more = told.turn(WEB_SLICE);
        }
        assert!(sent.contains("000007 +2+1 2\"") && !sent.contains(RESET), "changes follow");
    }

    #[test]
    fn who_has_lost_something_in_a_walk_has_all_before_it_begins_anew() {
        let mut told = Told::new(300);
        let mut sent = told.turn(1024);
        told.flush(MAX_CHANGES / 300 + 1);
        while !sent.contains("event: ready") {
            sent.push_str(&told.turn(1024));
        }
        assert!(sent.contains(READY_AND_LOST) && !sent[1..].contains(RESET));
        for client in 0..300 {
            assert!(sent.contains(&format!("\"client\":\"{client:06}\"")), "{client}");
        }
        let anew = told.turn(1 << 20);
        assert!(anew.starts_with(RESET) && anew.contains(READY), "{anew}");
    }

    #[test]
    fn nobody_begins_while_nothing_published_is_in_the_log() {
        let mut told = Told::new(2);
        told.flush(1);
        told.hear(1, 2);
        let elsewhere = Position::from(told.herd.directory.location(1).unwrap());
        for _ in 0..=MAX_CHANGES {
            told.events.told(0, elsewhere, &told.herd.directory);
        }
        assert!(!told.subscription.is_due(&told.events));
        assert_eq!(told.turn(WEB_SLICE), "");
        told.flush(1);
        assert!(told.subscription.is_due(&told.events));
        let sent = told.turn(WEB_SLICE);
        assert!(sent.starts_with(RESET) && sent.contains(READY), "{sent}");
        assert_eq!(told.turn(WEB_SLICE), "");
    }
}
