//! The memberships of clients in fences, by client and by fence.

use core::slice;

use slab::Slab;

use super::inside::Inside;
use super::set::FenceId;
use crate::ids::Slot;

/// Slots whose clients share an allocation, so that growth takes some microseconds.
const SHARD: usize = 4096;

/// The relation of a client to a fence. At least one of the two is true.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    pub fence: FenceId,
    /// The last transition was an `enter`.
    pub is_inside: bool,
    /// The last record is inside, as far as hysteresis is concerned.
    pub was_inside: bool,
}

/// The memberships of all clients.
#[derive(Default)]
pub struct Members {
    /// The clients of [`SHARD`] successive slots each.
    shards: Vec<Shard>,
    /// The clients inside each fence.
    inside: Inside,
    /// Number of clients that are inside at least one fence.
    clients_inside: usize,
}

/// Successive slots. Nothing is allocated before one of them has a membership.
#[derive(Default)]
struct Shard {
    clients: Box<[Client]>,
    /// The memberships of clients that have several, in the order of the numbers of their fences.
    several: Slab<Vec<Membership>>,
}

/// The memberships of one client.
#[derive(Clone, Copy)]
enum Client {
    None,
    One(Membership),
    /// A key of [`Shard::several`].
    Several(u32),
}

const _: () = assert!(size_of::<Client>() == 8);

impl Members {
    /// Returns whether a client has a membership.
    #[inline]
    pub fn has(&self, slot: Slot) -> bool {
        let shard = self.shards.get(slot.index() / SHARD);
        let client = shard.and_then(|shard| shard.clients.get(slot.index() % SHARD));
        client.is_some_and(|client| !matches!(client, Client::None))
    }

    /// Sets `held` to the memberships of a client, in the order of the numbers of their fences.
    pub fn load(&self, slot: Slot, held: &mut Vec<Membership>) {
        held.clear();
        if let Some(shard) = self.shards.get(slot.index() / SHARD) {
            held.extend_from_slice(shard.held(slot));
        }
    }

    /// Replaces the memberships of a client by others, which are in the same order.
    pub fn store(&mut self, slot: Slot, held: &[Membership]) {
        let at = slot.index() / SHARD;
        if self.shards.len() <= at {
            self.shards.resize_with(at + 1, Shard::default);
        }
        let shard = &mut self.shards[at];
        let old = shard.held(slot);
        if old == held {
            return;
        }
        for left in old.iter().filter(|it| it.is_inside && !is_inside(held, it.fence)) {
            self.inside.remove(left.fence, slot);
        }
        for entered in held.iter().filter(|it| it.is_inside && !is_inside(old, it.fence)) {
            self.inside.insert(entered.fence, slot);
        }
        self.clients_inside += usize::from(is_inside_any(held));
        self.clients_inside -= usize::from(is_inside_any(old));
        shard.set(slot, held);
    }

    /// Returns the clients inside, by fence.
    pub const fn inside(&self) -> &Inside {
        &self.inside
    }

    /// Frees memory of fences that are gone.
    pub fn trim(&mut self) {
        self.inside.trim();
    }

    /// Returns the number of clients that are inside at least one fence.
    pub const fn clients_inside(&self) -> usize {
        self.clients_inside
    }
}

impl Shard {
    fn held(&self, slot: Slot) -> &[Membership] {
        match self.clients.get(slot.index() % SHARD) {
            None | Some(Client::None) => &[],
            Some(Client::One(membership)) => slice::from_ref(membership),
            Some(Client::Several(key)) => &self.several[*key as usize],
        }
    }

    fn set(&mut self, slot: Slot, held: &[Membership]) {
        if self.clients.is_empty() {
            self.clients = vec![Client::None; SHARD].into_boxed_slice();
        }
        let client = &mut self.clients[slot.index() % SHARD];
        if let Client::Several(key) = *client {
            if held.len() > 1 {
                held.clone_into(&mut self.several[key as usize]);
                return;
            }
            self.several.remove(key as usize);
        }
        *client = match held {
            [] => Client::None,
            [membership] => Client::One(*membership),
            _ => Client::Several(self.several.insert(held.to_vec()) as u32),
        };
    }
}

fn is_inside(held: &[Membership], fence: FenceId) -> bool {
    held.binary_search_by_key(&fence, |it| it.fence).is_ok_and(|at| held[at].is_inside)
}

fn is_inside_any(held: &[Membership]) -> bool {
    held.iter().any(|membership| membership.is_inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_lasts_as_long_as_a_client_has_several_memberships() {
        let mut members = Members::default();
        let in_fence = |id| Membership { fence: FenceId(id), is_inside: id > 1, was_inside: true };
        let all: Vec<Membership> = (1..=3).map(in_fence).collect();
        for slot in [Slot(0), Slot(SHARD as u32 + 7)] {
            // In each step, the client enters and leaves others than in the one before.
            for range in [0..1, 1..3, 0..3, 0..2, 2..3, 0..2, 0..0] {
                let (held, mut found) = (&all[range], Vec::new());
                members.store(slot, held);
                members.load(slot, &mut found);
                assert!(found == held && members.has(slot) != held.is_empty());
                assert_eq!(members.clients_inside(), usize::from(is_inside_any(held)));
                let inside: Vec<_> = members.inside().all((FenceId(0), Slot(0))).collect();
                let expected = held.iter().filter(|it| it.is_inside).map(|it| (it.fence, slot));
                assert_eq!(inside, expected.collect::<Vec<_>>());
                let lists = members.shards[slot.index() / SHARD].several.len();
                assert_eq!(lists, usize::from(held.len() > 1));
            }
        }
    }
}
