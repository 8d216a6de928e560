//! The storage of a node's records, and what the replies to its clients wait for.

use std::collections::HashMap;

use crate::herd::directory::Applied;
use crate::ids::Slot;
use crate::storage::{Gate, Kind, Position, Storage};

/// The storage and, with `storage.sync: always`, the records that are not durable yet.
pub struct Store {
    /// The state machine of the storage.
    pub storage: Storage,
    /// The folder, for messages.
    pub folder: Box<str>,
    /// Positions of the records that are not durable yet, by slot; `None` unless replies wait for
    /// them. One entry per client at most. The slot of an evicted client may be used by another one
    /// meanwhile, whose replies then wait for no reason, but not for long.
    pending: Option<HashMap<Slot, Position>>,
}

/// A part of a reply that waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gated {
    /// The first byte in the output that waits. Everything behind it waits as well.
    pub from: usize,
    /// The position that must be durable.
    pub position: Position,
    /// True if it contains an AT line that must not be sent unless the record is durable.
    pub is_update: bool,
}

impl Gated {
    /// Adds another reply that waits to the first one.
    pub fn merge(waiting: &mut Option<Self>, other: Self) {
        match waiting {
            None => *waiting = Some(other),
            Some(first) => {
                first.position = first.position.max(other.position);
                first.is_update |= other.is_update;
            }
        }
    }
}

impl Store {
    /// The store around `storage`. `gates` is true if replies wait until records are durable.
    #[must_use]
    pub fn new(storage: Storage, folder: Box<str>, gates: bool) -> Self {
        Self { storage, folder, pending: gates.then(HashMap::new) }
    }

    /// Appends a record that the directory has stored in `slot`.
    pub fn append(&mut self, kind: Kind, slot: Slot, line: &[u8]) {
        let position = self.storage.append(kind, line);
        if let Some(pending) = &mut self.pending {
            pending.insert(slot, position);
        }
    }

    /// Appends the record of a local client that was applied. Returns the position that its reply
    /// must wait for, if any. `held` returns the slot of the record that is held instead.
    pub fn append_update(
        &mut self,
        applied: Applied,
        line: &[u8],
        held: impl FnOnce() -> Option<Slot>,
    ) -> Option<Position> {
        match applied {
            Applied::Stored(slot) => {
                self.append(Kind::UPDATE, slot, line);
                self.waits_for(|| Some(slot))
            }
            // The reply reveals that a record is held.
            Applied::Duplicate | Applied::Stale => self.waits_for(held),
            Applied::OverCapacity | Applied::Expired => None,
        }
    }

    /// Returns the position that must be durable before a reply may reveal the record in a slot.
    pub fn waits_for(&self, slot: impl FnOnce() -> Option<Slot>) -> Option<Position> {
        self.pending.as_ref()?.get(&slot()?).copied()
    }

    /// Drops the positions that have become durable.
    pub fn forget_durable(&mut self) {
        let storage = &self.storage;
        if let Some(pending) = &mut self.pending {
            pending.retain(|_, position| storage.gate(*position) != Gate::Open);
        }
    }
}
