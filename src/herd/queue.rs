//! Queues of records and numbers to be sent to a peer.

use std::collections::VecDeque;

use crate::ids::Slot;

/// A FIFO queue of slots that contains each slot at most once.
///
/// It stores slots rather than records, and the record is read when it is sent (conflation). A peer
/// that stalls therefore costs a few bytes per client, for however long, and then receives the
/// newest records. A slot that changes again keeps its position: moving it to the end would starve
/// it.
#[derive(Default)]
pub struct SlotQueue {
    fifo: VecDeque<Slot>,
    /// One bit per slot that is in the queue.
    queued: Vec<u64>,
    /// One bit per slot that is in `fifo` but has been withdrawn. Allocated only when needed.
    withdrawn: Vec<u64>,
    /// Number of slots in the queue.
    len: usize,
}

impl SlotQueue {
    /// Returns the number of queued slots.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the queue is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns whether `slot` is queued.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        has_bit(&self.queued, slot)
    }

    /// Appends `slot` unless it is already queued.
    pub fn push(&mut self, slot: Slot) {
        let word = slot.index() / 64;
        if word >= self.queued.len() {
            self.queued.resize(word + 1, 0);
        }
        let bit = 1 << (slot.0 % 64);
        if self.queued[word] & bit == 0 {
            self.queued[word] |= bit;
            self.len += 1;
            if !take_bit(&mut self.withdrawn, slot) {
                self.fifo.push_back(slot);
            }
        }
    }

    /// Removes `slot` if it is queued. Its place is kept, and it takes that place if it is pushed again,
    /// so that the queue never contains a slot twice.
    pub fn withdraw(&mut self, slot: Slot) {
        if take_bit(&mut self.queued, slot) {
            self.len -= 1;
            self.withdrawn.resize(self.withdrawn.len().max(self.queued.len()), 0);
            self.withdrawn[slot.index() / 64] |= 1 << (slot.0 % 64);
            self.release();
        }
    }

    /// Removes and returns the oldest slot.
    pub fn pop(&mut self) -> Option<Slot> {
        let mut slot = self.fifo.pop_front()?;
        while take_bit(&mut self.withdrawn, slot) {
            slot = self.fifo.pop_front()?;
        }
        self.queued[slot.index() / 64] &= !(1 << (slot.0 % 64));
        self.len -= 1;
        self.release();
        Some(slot)
    }

    /// Gives up the places of withdrawn slots, and the memory of a long stall, once nothing is queued.
    fn release(&mut self) {
        if self.len > 0 {
            return;
        }
        if !self.fifo.is_empty() {
            self.fifo.clear();
            self.withdrawn.fill(0);
        }
        if self.fifo.capacity() > 4096 {
            self.fifo = VecDeque::new();
        }
    }

    /// Removes all slots.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Returns whether the bit of `slot` is set.
fn has_bit(words: &[u64], slot: Slot) -> bool {
    words.get(slot.index() / 64).is_some_and(|word| word >> (slot.0 % 64) & 1 == 1)
}

/// Clears the bit of `slot`. Returns whether it was set.
#[inline]
fn take_bit(words: &mut [u64], slot: Slot) -> bool {
    let is_set = has_bit(words, slot);
    if is_set {
        words[slot.index() / 64] &= !(1 << (slot.0 % 64));
    }
    is_set
}

/// A bit set that is popped in ascending order. Its size is bounded by the largest number.
#[derive(Default)]
pub struct IdSet {
    words: Vec<u64>,
    len: usize,
    /// Words before this one are empty.
    first: usize,
}

impl IdSet {
    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `number`.
    pub fn insert(&mut self, number: usize) {
        let word = number / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (number % 64);
        if self.words[word] & bit == 0 {
            self.words[word] |= bit;
            self.len += 1;
            self.first = self.first.min(word);
        }
    }

    /// Removes `number`, if it is in the set.
    pub fn remove(&mut self, number: usize) {
        let bit = 1 << (number % 64);
        if let Some(word) = self.words.get_mut(number / 64)
            && *word & bit != 0
        {
            *word &= !bit;
            self.len -= 1;
            if self.len == 0 {
                *self = Self::default();
            }
        }
    }

    /// Removes and returns the least number.
    pub fn pop(&mut self) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        while self.words[self.first] == 0 {
            self.first += 1;
        }
        let number = self.first * 64 + self.words[self.first].trailing_zeros() as usize;
        self.words[self.first] &= self.words[self.first] - 1;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slot_is_queued_once_and_keeps_its_position() {
        let mut queue = SlotQueue::default();
        for slot in [7, 900, 7, 3, 900] {
            queue.push(Slot(slot));
        }
        assert!(queue.contains(Slot(900)) && !queue.contains(Slot(901)));
        assert_eq!([queue.pop(), queue.pop()], [Some(Slot(7)), Some(Slot(900))]);
        queue.push(Slot(7));
        assert_eq!([queue.pop(), queue.pop(), queue.pop()], [Some(Slot(3)), Some(Slot(7)), None]);
    }

    #[test]
    fn a_withdrawn_slot_is_not_popped_unless_it_is_queued_again() {
        let mut queue = SlotQueue::default();
        for slot in [7, 900, 3] {
            queue.push(Slot(slot));
        }
        for slot in [7, 900, 5] {
            queue.withdraw(Slot(slot));
        }
        assert!(!queue.contains(Slot(7)) && !queue.contains(Slot(900)));
        for _ in 0..100 {
            queue.push(Slot(900));
            queue.withdraw(Slot(900));
        }
        queue.push(Slot(900));
        queue.push(Slot(5));
        assert_eq!((queue.len(), queue.fifo.len()), (3, 4), "it takes its place again");
        assert_eq!([queue.pop(), queue.pop()], [Some(Slot(900)), Some(Slot(3))]);
        queue.withdraw(Slot(5));
        assert_eq!(queue.pop(), None);
        assert!(queue.is_empty());
        queue.push(Slot(5));
        assert_eq!([queue.pop(), queue.pop()], [Some(Slot(5)), None]);
    }

    #[test]
    fn an_empty_queue_keeps_no_memory_for_withdrawn_slots() {
        let mut queue = SlotQueue::default();
        let fill = |queue: &mut SlotQueue| (0..10_000).for_each(|slot| queue.push(Slot(slot)));
        fill(&mut queue);
        (0..10_000).for_each(|slot| queue.withdraw(Slot(slot)));
        assert_eq!(queue.fifo.capacity(), 0, "all were withdrawn");
        fill(&mut queue);
        (1..10_000).for_each(|slot| queue.withdraw(Slot(slot)));
        assert_eq!(queue.pop(), Some(Slot(0)));
        assert_eq!(queue.fifo.capacity(), 0, "all others were withdrawn");
        queue.push(Slot(3));
        assert_eq!([queue.pop(), queue.pop()], [Some(Slot(3)), None]);
    }

    proptest! {
        #[test]
        fn numbers_are_popped_in_ascending_order(
            numbers in proptest::collection::vec(0usize..500, 0..50),
            removed in proptest::collection::vec(0usize..500, 0..50),
        ) {
            let mut set = IdSet::default();
            for &n in &numbers { set.insert(n); }
            for &n in &removed { set.remove(n); }
            let mut expected = numbers;
            expected.sort_unstable();
            expected.dedup();
            expected.retain(|n| !removed.contains(n));
            let mut seen = Vec::new();
            while let Some(n) = set.pop() { seen.push(n); }
            prop_assert_eq!(seen, expected);
            prop_assert!(set.is_empty());
        }
    }
}
