//! Work on one leaf of the digest tree, for one link.
//!
//! Every step of anti-entropy that looks at records is a job. It walks the records of its leaf once,
//! some at a time, however many there are. A job about digests that the peer has sent starts when all
//! of them have arrived, so a leaf is walked once per list, not once per line.

use std::collections::{BTreeSet, VecDeque};

use super::digest::Leaf;
use super::message::{OfLeaf, Purpose};
use crate::time::Instant;

/// Maximum number of lists that wait to be worked on. An honest peer sends one of each kind per leaf
/// and round.
const MAX_LISTS: usize = 3 * Leaf::COUNT;

/// What a job does with the records of its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// List them to the peer.
    List,
    /// Compare them with the peer's listing: request what is missing here, offer what is missing
    /// there.
    Compare,
    /// Request what the peer has offered and is missing.
    Offered,
    /// Request suspects that are still missing.
    Recheck,
    /// Send those that the peer requests.
    Wanted,
    /// Send all.
    Push,
}

/// The progress of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The walk has not begun.
    New,
    /// The walk is in progress.
    Walking,
    /// The walk is finished. The digests that are left are those of records that are missing here.
    Walked,
    /// It has been decided what is requested.
    Decided,
}

/// A job.
pub struct Job {
    /// What it does.
    pub task: Task,
    /// The reason for the comparison.
    pub purpose: Purpose,
    /// The leaf.
    pub leaf: Leaf,
    /// Digests that the peer has sent and that have not been found here yet.
    pub digests: BTreeSet<u64>,
    /// The progress.
    pub stage: Stage,
    /// Digests that will be in the next line to the peer.
    pub line: Vec<u64>,
    /// Number of digests that the peer has sent.
    held: usize,
}

impl Job {
    /// A job that has not begun.
    #[must_use]
    pub const fn new(task: Task, purpose: Purpose, leaf: Leaf, digests: BTreeSet<u64>) -> Self {
        Self { task, purpose, leaf, digests, stage: Stage::New, line: Vec::new(), held: 0 }
    }
}

/// Jobs that the peer has caused.
#[derive(Default)]
pub struct Inbox {
    /// Lists whose last line has not arrived, one of each kind.
    incomplete: [Option<Job>; 3],
    jobs: VecDeque<Job>,
    /// Number of digests in all of them.
    held: usize,
    /// True if digests were dropped because there were too many.
    pub overflowed: bool,
}

impl Inbox {
    /// Takes in a line of a list. Digests beyond `most` in all lists are dropped, and so are lists
    /// beyond [`MAX_LISTS`], empty ones included: an honest peer sends the digest of a record once per
    /// kind of list and round.
    pub fn receive(&mut self, task: Task, line: &OfLeaf<'_>, most: usize) {
        let incomplete = &mut self.incomplete[match task {
            Task::Offered => 0,
            Task::Wanted => 1,
            _ => 2,
        }];
        let same = |job: &Job| (job.purpose, job.leaf) == (line.purpose, line.leaf);
        let mut job = match incomplete.take() {
            Some(job) if same(&job) => job,
            dropped => {
                self.held -= dropped.map_or(0, |job| job.held);
                Job::new(task, line.purpose, line.leaf, BTreeSet::new())
            }
        };
        if self.held < most {
            let before = job.digests.len();
            job.digests.extend(line.digests.iter());
            let new = job.digests.len() - before;
            (job.held, self.held) = (job.held + new, self.held + new);
        } else {
            self.overflowed = true;
        }
        // An empty listing means that the peer lacks all records of the leaf. Other empty lists mean nothing.
        let is_void = job.digests.is_empty() && task != Task::Compare;
        if line.more {
            *incomplete = Some(job);
        } else if self.jobs.len() >= MAX_LISTS {
            self.held -= job.held;
            self.overflowed = true;
        } else if !is_void {
            self.jobs.push_back(job);
        }
    }

    /// Adds a job.
    pub fn push(&mut self, job: Job) {
        self.jobs.push_back(job);
    }

    /// Returns the next job.
    pub fn pop(&mut self) -> Option<Job> {
        let job = self.jobs.pop_front()?;
        self.held -= job.held;
        Some(job)
    }

    /// Returns whether there is no complete job.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Returns whether the last line of a list has not arrived.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.incomplete.iter().any(Option::is_some)
    }
}

/// Records that a check has found to be missing and that may still arrive by flooding.
#[derive(Default)]
pub struct Suspects {
    /// By the end of their grace period.
    lists: VecDeque<(Instant, Leaf, BTreeSet<u64>)>,
    len: usize,
}

impl Suspects {
    /// Returns the number of suspects.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds suspects of a leaf, whose grace period ends at `due`.
    pub fn push(&mut self, due: Instant, leaf: Leaf, digests: BTreeSet<u64>) {
        if !digests.is_empty() {
            self.len += digests.len();
            self.lists.push_back((due, leaf, digests));
        }
    }

    /// Removes and returns suspects of a leaf whose grace period has ended.
    pub fn pop(&mut self, now: Instant) -> Option<(Leaf, BTreeSet<u64>)> {
        let (_, leaf, digests) = self.lists.pop_front_if(|(due, ..)| *due <= now)?;
        self.len -= digests.len();
        Some((leaf, digests))
    }

    /// Returns the end of the first grace period.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.lists.front().map(|(due, ..)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::herd::message::Message;

    /// Receives one line of a list, as the text after its word.
    fn receive(inbox: &mut Inbox, task: Task, text: &str, most: usize) {
        let line = format!("LISTING {text}");
        let Some(Message::Listing(list)) = Message::parse(line.as_bytes()) else {
            panic!("{line}")
        };
        inbox.receive(task, &list, most);
    }

    #[test]
    fn lists_that_wait_are_bounded_also_if_they_are_empty() {
        let mut inbox = Inbox::default();
        for round in 0..4 {
            for leaf in 0..Leaf::COUNT {
                receive(&mut inbox, Task::Compare, &format!("S {leaf:x} last"), 10);
            }
            assert_eq!(inbox.overflowed, round == 3, "an honest peer sends three lists of a leaf");
        }
        receive(&mut inbox, Task::Wanted, "S 7 last 1 2 3", 10);
        assert_eq!((inbox.jobs.len(), inbox.held), (MAX_LISTS, 0));
        inbox.pop();
        receive(&mut inbox, Task::Wanted, "S 7 last 1 2 3", 10);
        assert_eq!((inbox.jobs.len(), inbox.held), (MAX_LISTS, 3));
    }

    #[test]
    fn lists_without_digests_are_no_work_unless_they_list_a_leaf() {
        let mut inbox = Inbox::default();
        for task in [Task::Offered, Task::Wanted] {
            receive(&mut inbox, task, "S 7 last", 10);
            assert!(inbox.is_empty() && !inbox.is_receiving(), "{task:?}");
            receive(&mut inbox, task, "S 7 more 1", 10);
            receive(&mut inbox, task, "S 7 last", 10);
            assert_eq!(inbox.pop().map(|job| job.digests.len()), Some(1), "{task:?}");
        }
        receive(&mut inbox, Task::Compare, "S 7 last", 10);
        assert!(inbox.pop().is_some());
        let mut suspects = Suspects::default();
        suspects.push(Instant::START, Leaf(7), BTreeSet::new());
        assert_eq!(suspects.poll_timeout(), None, "there is nothing to wait for");
    }
}
