//! The log of transitions: who has entered or left which fence.

use std::collections::VecDeque;
use std::sync::Arc;

use super::limits::MAX_TRANSITIONS;
use super::set::Fence;
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
    /// The fence.
    pub fence: Arc<Fence>,
    /// The slot of the client.
    pub slot: Slot,
    /// The AT line of the record that caused it, or the last one of a client that is gone. Its server is
    /// the node to which the client gave it.
    pub line: Box<[u8]>,
}

/// The last transitions, numbered from 1 on.
#[derive(Debug)]
pub struct Transitions {
    ring: VecDeque<Transition>,
    /// The number of the first one in the ring.
    first: u64,
}

impl Default for Transitions {
    fn default() -> Self {
        Self { ring: VecDeque::new(), first: 1 }
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

    pub(super) fn push(&mut self, transition: Transition) {
        if self.ring.len() >= MAX_TRANSITIONS {
            self.ring.pop_front();
            self.first += 1;
        }
        self.ring.push_back(transition);
    }
}
