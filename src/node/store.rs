//! The storage of a node's records, and what the replies to its clients wait for.

use crate::fences::{Fences, Reason};
use crate::herd::directory::Applied;
use crate::ids::Slot;
use crate::storage::{Gate, Kind, Position, Storage};

/// The storage and, with `storage.sync: always`, the positions of the records.
pub struct Store {
    /// The state machine of the storage.
    pub storage: Storage,
    /// The folder, for messages.
    pub folder: Box<str>,
    /// The position of the last record appended for each slot; `None` unless replies wait for the disk.
    /// A vector, so that nothing has to be removed when a sync ends: a record is durable once its gate
    /// is open. The slot of an evicted client may be used by another one, whose replies then wait for no
    /// reason, but not for long.
    positions: Option<Vec<Position>>,
    /// The number of the next transition to append.
    transitions: u64,
}

/// A part of a reply that waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gated {
    /// The first byte in the output that waits. Everything after it waits as well.
    pub from: usize,
    /// The position that must be durable.
    pub position: Position,
    /// True if it contains an AT line that must not be sent unless the record is durable.
    pub is_update: bool,
    /// True if one of these AT lines must not be sent in any case: the disk lacks the record already.
    pub is_refused: bool,
}

impl Gated {
    /// Adds another reply that waits to the first one. It suffices to wait for the greater position: a
    /// fault that makes the disk lack a record that waits makes it lack all later ones as well.
    pub fn merge(waiting: &mut Option<Self>, other: Option<Self>) {
        match (waiting, other) {
            (_, None) => {}
            (waiting @ None, other) => *waiting = other,
            (Some(first), Some(other)) => {
                first.position = first.position.max(other.position);
                first.is_update |= other.is_update;
                first.is_refused |= other.is_refused;
            }
        }
    }
}

impl Store {
    /// The store around `storage`. `gates` is true if replies wait until records are durable.
    #[must_use]
    pub fn new(storage: Storage, folder: Box<str>, gates: bool) -> Self {
        Self { storage, folder, positions: gates.then(Vec::new), transitions: 1 }
    }

    /// Appends a record that the directory has stored in `slot`.
    pub fn append(&mut self, kind: Kind, slot: Slot, line: &[u8]) {
        let position = self.storage.append(kind, line);
        if let Some(positions) = &mut self.positions {
            if positions.len() <= slot.index() {
                positions.resize(slot.index() + 1, Position(0));
            }
            positions[slot.index()] = position;
        }
    }

    /// Appends the transitions since the last call that records of the node `name` have caused. Those of
    /// other records are in the logs of their nodes.
    pub fn append_transitions(&mut self, name: &[u8], fences: Option<&Fences>) {
        let Some(log) = fences.map(Fences::transitions) else { return };
        if self.transitions == log.end() {
            return;
        }
        for transition in log.since(self.transitions) {
            let line = transition.line();
            let own = line.strip_prefix(b"AT ").and_then(|rest| rest.strip_prefix(name));
            if own.is_some_and(|rest| rest.starts_with(b" ")) {
                let left = transition.left.map(Reason::as_str);
                self.storage.append_transition(transition.fence_name(), left, line);
            }
        }
        self.transitions = log.end();
    }

    /// Appends the record of a local client that was applied. `held` returns the slot of the record that
    /// is held instead. Returns what the reply, which begins at `from` in the output, must wait for.
    pub fn append_update(
        &mut self,
        applied: Applied,
        line: &[u8],
        from: usize,
        held: impl FnOnce() -> Option<Slot>,
    ) -> Option<Gated> {
        match applied {
            Applied::Stored(slot) => self.append_local(Kind::UPDATE, slot, line, from),
            // The reply reveals that a record is held.
            Applied::Duplicate | Applied::Stale => {
                self.positions.as_ref()?;
                self.acknowledge(held()?, from)
            }
            _ => None,
        }
    }

    /// Appends a record that originates here and that the directory has stored in `slot`. Returns what
    /// the reply, which begins at `from` in the output, must wait for.
    pub fn append_local(
        &mut self,
        kind: Kind,
        slot: Slot,
        line: &[u8],
        from: usize,
    ) -> Option<Gated> {
        self.append(kind, slot, line);
        self.acknowledge(slot, from)
    }

    /// Returns what a reply that begins at `from` in the output must wait for if it acknowledges the
    /// record in `slot`; `None` if that is durable, or replies do not wait.
    #[must_use]
    pub fn acknowledge(&self, slot: Slot, from: usize) -> Option<Gated> {
        let (position, gate) = self.gate(slot)?;
        let is_refused = gate == Gate::Refused;
        Some(Gated { from, position, is_update: true, is_refused })
    }

    /// Returns what a reply must wait for that begins at `from` in the output and reveals the record in a
    /// slot. A record that the disk lacks is revealed: it may have been acknowledged by another node.
    pub fn reveal(&self, from: usize, slot: impl FnOnce() -> Option<Slot>) -> Option<Gated> {
        self.positions.as_ref()?;
        let (position, gate) = self.gate(slot()?)?;
        let waits = gate == Gate::Wait;
        waits.then_some(Gated { from, position, is_update: false, is_refused: false })
    }

    /// Returns what a reply that begins at `from` in the output must wait for if it acknowledges the
    /// record at `position`, which was appended in an earlier turn.
    #[must_use]
    pub fn acknowledge_later(&self, position: Position, from: usize) -> Option<Gated> {
        let gate = self.storage.gate(position);
        let is_refused = gate == Gate::Refused;
        (gate != Gate::Open).then_some(Gated { from, position, is_update: true, is_refused })
    }

    /// Returns the position of the record in `slot`, unless it is durable or replies do not wait.
    fn gate(&self, slot: Slot) -> Option<(Position, Gate)> {
        let position = *self.positions.as_ref()?.get(slot.index())?;
        let gate = self.storage.gate(position);
        (gate != Gate::Open).then_some((position, gate))
    }
}
