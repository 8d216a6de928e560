//! Erased clients: when their records must have left the files, the age of the files, and files that are
//! too old.

use core::time::Duration;

use super::frame::Kind;
use crate::herd::expiry::FUTURE_LIMIT;
use crate::protocol::record::Record;
use crate::protocol::time::{Nanos, parse_time, push_time};
use crate::time::{Instant, Wall};

/// Time after which the snapshot begins that removes the records of an erased client. They must have
/// left the files within a day, and the snapshot has to be written, too.
pub(super) const ERASE_WITHIN: Duration = Duration::from_hours(23);

/// When a snapshot is due because clients were erased.
#[derive(Default)]
pub(super) struct Erasure {
    /// The time at which it is due.
    due: Option<Instant>,
    /// The time at which the next one is due, if clients were erased after the present one had begun.
    next: Option<Instant>,
}

impl Erasure {
    /// An erasure that is due in this time, if any.
    pub(super) fn new(erase_in: Option<Duration>, now: Instant) -> Self {
        Self { due: erase_in.map(|left| now + left), next: None }
    }

    /// Takes note of a record that was appended, while a snapshot is in progress or not.
    pub(super) fn handle_appended(
        &mut self,
        kind: Kind,
        line: &[u8],
        in_snapshot: bool,
        now: Instant,
    ) {
        if kind != Kind::UPDATE && is_tombstone(line) {
            let due = if in_snapshot { &mut self.next } else { &mut self.due };
            due.get_or_insert(now + ERASE_WITHIN);
        }
    }

    /// Takes note that a snapshot has replaced all segments before it.
    pub(super) const fn handle_snapshot(&mut self) {
        self.due = self.next.take();
    }

    /// Returns whether a snapshot is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// Returns whether clients were erased since the last snapshot.
    pub(super) const fn is_pending(&self) -> bool {
        self.due.is_some()
    }

    /// Returns the time at which a snapshot will be due.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.due.filter(|&due| due > now)
    }
}

/// Returns whether a line is that of a tombstone. Nearly always, its difference shows that it is not.
fn is_tombstone(line: &[u8]) -> bool {
    let server = line.get(3..).and_then(|rest| memchr::memchr(b' ', rest));
    server.is_some_and(|length| line[3 + length..].starts_with(b" +0.000000000 "))
        && Record::parse(line).is_some_and(|record| record.is_tombstone())
}

/// The times in some files: those of the marks or, without marks, that of the newest record, which is by
/// the clock of any node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Age {
    /// The time of the last mark that is not ahead of the present clock. An earlier one may be later, if
    /// the clock was ahead.
    written: Option<Nanos>,
    /// The newest time that the last mark states.
    newest: Option<Nanos>,
    /// The newest receive time of a record, and that of those that are not ahead of the present clock.
    received: Option<Nanos>,
    received_before: Option<Nanos>,
}

impl Age {
    /// Handles the payload of a mark: the clock of the node and, if that is behind what the log states,
    /// the newest time.
    pub(super) fn handle_mark(&mut self, payload: &[u8], now: Wall) {
        let mut fields = payload.splitn(2, |&byte| byte == b' ');
        let Some(clock) = fields.next().and_then(parse_time) else { return };
        let Some(newest) = fields.next().map_or(Some(clock), parse_time) else { return };
        self.newest = Some(newest);
        // A clock that is behind cannot tell by how much, and neither can one that is ahead.
        let written = [newest, clock].into_iter().filter(|&time| !is_ahead(time, now)).max();
        self.written = written.or(self.written);
    }

    pub(super) fn handle_record(&mut self, received: Nanos, now: Wall) {
        self.received = self.received.max(Some(received));
        if !is_ahead(received, now) {
            self.received_before = self.received_before.max(Some(received));
        }
    }

    /// Returns when the files were last written by a clock that is not ahead of the present one.
    pub(super) fn last_written(self) -> Option<Nanos> {
        self.written.or(self.received_before)
    }

    /// Returns the newest time that the clock had, if it is not known to have been ahead.
    pub(super) fn newest(self) -> Option<Nanos> {
        self.newest.or(self.received)
    }
}

/// Appends the payload of a mark. `newest` is a time that the node has read from its files.
pub(super) fn push_mark(out: &mut Vec<u8>, clock: Wall, newest: Option<Nanos>) {
    push_time(out, clock.nanos().max(0));
    if let Some(newest) = newest {
        out.push(b' ');
        push_time(out, newest.max(0));
    }
}

fn is_ahead(time: Nanos, now: Wall) -> bool {
    time > now.nanos() + FUTURE_LIMIT
}

/// Files that are too old to be loaded. They are kept for a while, since it may be the clock that is
/// wrong.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aside {
    /// The time until which they are kept, by the wall clock.
    pub(super) until: Nanos,
    /// The same by the clock of the process.
    due: Instant,
}

impl Aside {
    pub(super) fn new(until: Nanos, now: Instant) -> Self {
        Self { until, due: now + ERASE_WITHIN }
    }

    /// Handles the wall clock, which may have been set.
    pub(super) fn handle_wall(&mut self, wall: Wall, now: Instant) {
        let most = wall.nanos() + ERASE_WITHIN.as_nanos() as Nanos;
        self.until = self.until.min(most);
        let left = u64::try_from(self.until - wall.nanos()).unwrap_or(0);
        self.due = self.due.min(now + Duration::from_nanos(left));
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.due <= now
    }

    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        (self.due > now).then_some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::time::SECOND;

    #[test]
    fn the_age_follows_a_clock_that_was_wrong_and_was_set_right() {
        const DAY: Nanos = 86_400 * SECOND;
        let (right, now) = (1000 * DAY, Wall(1010 * DAY));
        for (what, marks, written, newest) in [
            ("right", &[(0, None), (1, None)][..], Some(1), Some(1)),
            ("ahead, then right", &[(0, None), (9, None), (1, None)], Some(1), Some(1)),
            ("ahead until the end", &[(0, None), (400, None)], Some(0), Some(400)),
            ("behind until the end", &[(2, None), (-900, Some(2))], Some(2), Some(2)),
            ("behind, then right", &[(2, None), (-900, Some(2)), (3, None)], Some(3), Some(3)),
            ("ahead, then it seems to be behind", &[(0, None), (1, Some(400))], Some(1), Some(400)),
            ("never right", &[(400, None)], None, Some(400)),
        ] {
            let mut age = Age::default();
            for &(clock, newest) in marks {
                let mut payload = Vec::new();
                let newest = newest.map(|newest: Nanos| right + newest * DAY);
                push_mark(&mut payload, Wall(right + clock * DAY), newest);
                age.handle_mark(&payload, now);
            }
            let days = |time: Option<Nanos>| time.map(|time| (time - right) / DAY);
            assert_eq!((days(age.last_written()), days(age.newest())), (written, newest), "{what}");
            age.handle_record(right + 5 * DAY, now);
            age.handle_record(right + 500 * DAY, now);
            assert_eq!(days(age.last_written()), written.or(Some(5)), "{what}");
        }
        let mut age = Age::default();
        for damaged in ["", "x", "5 ", "5 x", "5 6 7"] {
            age.handle_mark(damaged.as_bytes(), now);
            assert_eq!(age.newest(), None, "{damaged}");
        }
    }
}
