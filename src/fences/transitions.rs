//! The log of transitions: who has entered or left which fence.

use std::collections::VecDeque;

use super::limits::{MAX_TRANSITIONS, REUSED_TEXT};
use super::set::{Fence, FenceId};
use crate::counters::counters;
use crate::ids::Slot;

/// The reason why a client is no longer inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has moved.
    Moved,
    /// Its record has expired.
    Expired,
    /// It was evicted, since the directory is full.
    Evicted,
    /// It was erased.
    Forgotten,
    /// The fence was changed or removed.
    Fence,
}

impl Reason {
    /// The reason as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::Forgotten => "forgotten",
            Self::Fence => "fence",
        }
    }
}

/// A client has entered or left a fence.
#[derive(Clone, Debug)]
pub struct Transition {
    /// The reason for leaving; `None` if it has entered.
    pub left: Option<Reason>,
    /// The number of the fence.
    pub fence: FenceId,
    /// The slot of the client.
    pub slot: Slot,
    /// The name of the fence, which may be gone, and the line.
    text: Vec<u8>,
    line_at: usize,
}

impl Transition {
    /// Returns the name of the fence.
    #[must_use]
    pub fn fence_name(&self) -> &str {
        str::from_utf8(&self.text[..self.line_at]).unwrap_or_default()
    }

    /// Returns the AT line of the record that caused it, or the last one of a client that is gone. Its
    /// server is the node to which the client gave it.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        &self.text[self.line_at..]
    }
}

counters! {
    /// Monotonic counters of fences since start-up.
    Counters {
        fence_transitions_total: "Times that a client has entered or left a fence, by event." {
            entered (event = "enter"): "Times that a client has entered a fence.",
            left (event = "leave"):
                "Times that a client has left a fence, or is no longer in it for another reason.",
        }
    }
}

/// The last transitions, numbered from 1 on.
#[derive(Debug)]
pub struct Transitions {
    ring: VecDeque<Transition>,
    /// The number of the first one in the ring.
    first: u64,
    /// Monotonic counters since start-up.
    pub counters: Counters,
}

impl Default for Transitions {
    fn default() -> Self {
        Self { ring: VecDeque::new(), first: 1, counters: Counters::default() }
    }
}

impl Transitions {
    /// Returns the number of the first transition that is still kept.
    #[must_use]
    pub const fn first(&self) -> u64 {
        self.first
    }

    /// Returns the number of the next transition.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Returns a transition, if it is still kept.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Transition> {
        self.ring.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    /// Returns the transitions from `number` on that are still kept, the oldest first.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Transition> {
        let skipped = number.saturating_sub(self.first).min(self.ring.len() as u64);
        self.ring.range(skipped as usize..)
    }

    /// Appends a transition. The oldest one gives way, and its text is overwritten: in a full log, nothing is
    /// allocated, and the memory is used in the order of its addresses.
    pub(super) fn push(&mut self, left: Option<Reason>, fence: &Fence, slot: Slot, line: &[u8]) {
        let counters = &mut self.counters;
        *(if left.is_none() { &mut counters.entered } else { &mut counters.left }) += 1;
        let mut text = Vec::new();
        if self.ring.len() >= MAX_TRANSITIONS
            && let Some(oldest) = self.ring.pop_front()
        {
            self.first += 1;
            text = oldest.text;
            text.clear();
            text.shrink_to(REUSED_TEXT);
        }
        let line_at = fence.name.len();
        text.reserve_exact(line_at + line.len());
        text.extend_from_slice(fence.name.as_bytes());
        text.extend_from_slice(line);
        self.ring.push_back(Transition { left, fence: fence.id, slot, text, line_at });
    }
}
