//! A change of one client, and the event that reports it.

use core::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use super::feature::{push_feature, push_id};
use super::position::Position;
use crate::herd::directory::Directory;
use crate::ids::Slot;
use crate::text::digits::push_digits;
use crate::time::Wall;

/// A change of the client in a slot, as the log of [`Events`](super::events::Events) keeps it.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub slot: Slot,
    /// Position of the client after the change.
    pub position: Position,
    /// Position before the change, if known: a subscriber to a box must learn that a client left
    /// it.
    pub previous: Option<Position>,
    /// [`name_hash`] of the client.
    pub name_hash: u32,
}

/// A period in which changes are logged. Each period numbers its changes from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Epoch {
    /// Boot id of the process.
    pub boot: u64,
    /// Number of the period within the process.
    pub period: u64,
}

/// Id of an event, written `BOOT-PERIOD-SEQUENCE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventId {
    pub epoch: Epoch,
    pub sequence: u64,
}

impl EventId {
    /// Parses the id that a client sends as `Last-Event-ID`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(|number| number.parse().ok());
        let (boot, period, sequence) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let id = Self { epoch: Epoch { boot, period }, sequence };
        numbers.next().is_none().then_some(id)
    }

    /// Appends the line `id: BOOT-PERIOD-SEQUENCE`.
    pub fn push(self, out: &mut Vec<u8>) {
        let Self { epoch: Epoch { boot, period }, sequence } = self;
        out.extend_from_slice(b"id: ");
        for (number, separator) in [(boot, b'-'), (period, b'-'), (sequence, b'\n')] {
            push_digits(out, number, 1);
            out.push(separator);
        }
    }
}

/// A hash of a client's name. Collisions are rare, so names need not be compared if their hashes
/// differ.
pub(super) fn name_hash(name: &[u8]) -> u32 {
    let mut hasher = SipHasher13::new();
    hasher.write(name);
    hasher.finish() as u32
}

/// Appends the event of a change in `slot`: `client`, or `forget` if the client was erased. Returns
/// whether an event was appended.
pub(super) fn push_event(
    out: &mut Vec<u8>,
    id: EventId,
    slot: Slot,
    directory: &Directory,
    now: Wall,
) -> bool {
    let Some(client) = directory.client(slot).filter(|_| directory.is_tombstone(slot)) else {
        return push_client(out, Some(id), slot, directory, now);
    };
    out.extend_from_slice(b"event: forget\n");
    id.push(out);
    out.extend_from_slice(b"data: {\"id\":\"");
    push_id(out, client);
    out.extend_from_slice(b"\"}\n\n");
    true
}

/// Appends the event of the client in `slot`, unless the slot is free or its record has expired.
/// Returns whether an event was appended.
pub(super) fn push_client(
    out: &mut Vec<u8>,
    id: Option<EventId>,
    slot: Slot,
    directory: &Directory,
    now: Wall,
) -> bool {
    let Some(record) = directory.record(slot, now) else { return false };
    out.extend_from_slice(b"event: client\n");
    if let Some(id) = id {
        id.push(out);
    }
    out.extend_from_slice(b"data: ");
    push_feature(out, &record, now);
    out.extend_from_slice(b"\n\n");
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_was_written() {
        let id = EventId { epoch: Epoch { boot: u64::MAX, period: 2 }, sequence: 30 };
        let mut out = Vec::new();
        id.push(&mut out);
        assert_eq!(out, b"id: 18446744073709551615-2-30\n");
        assert_eq!(EventId::parse("18446744073709551615-2-30"), Some(id));
        for bad in ["", "1-2", "1-2-3-4", "1-2-", "a-2-3", "18446744073709551616-2-3"] {
            assert_eq!(EventId::parse(bad), None, "{bad}");
        }
    }
}
