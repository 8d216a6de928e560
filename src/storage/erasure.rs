//! Erased clients: when their records must have left the files, and the age of the files.

use core::time::Duration;

use super::frame::Kind;
use crate::protocol::record::Record;
use crate::protocol::time::{Nanos, parse_time};
use crate::time::Instant;

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

/// The newest time in some files: that of the last mark or, without marks, that of the newest record,
/// which is by the clock of any node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Age {
    mark: Option<Nanos>,
    record: Option<Nanos>,
}

impl Age {
    pub(super) fn handle_mark(&mut self, payload: &[u8]) {
        self.mark = self.mark.max(parse_time(payload));
    }

    pub(super) fn handle_record(&mut self, received: Option<Nanos>) {
        self.record = self.record.max(received);
    }

    pub(super) fn newest(self) -> Option<Nanos> {
        self.mark.or(self.record)
    }
}
