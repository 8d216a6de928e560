//! Fences in the simulated world, and the transitions that they should cause.
//!
//! At all times, a node has exactly those clients in a fence without hysteresis and dwell time whose record
//! says so, whichever way the record came or went; nodes with the same records therefore agree. One
//! client stays with one node. The transitions of that client on that node are those of [`Rule`],
//! computed from the updates that were sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proxy_herd::fences::{FenceId, FenceSet, Fences, Reason, file};
use proxy_herd::herd::directory::Directory;
use proxy_herd::ids::Slot;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::time::{Instant, Wall};

use crate::schedule::{MILLISECOND, SECONDS, Schedule, Step, Time, When};

/// The name of the client that stays with one node.
const NAME: &str = "stays";

const DWELL: Time = 300 * MILLISECOND;

/// A fence of the world. Clients are within a kilometer of 34°, 35°, 36° or 37° north.
struct Kind {
    name: &'static str,
    /// The whole degrees that are inside.
    inside: &'static [u32],
    /// Those that are outside by less than the hysteresis.
    band: &'static [u32],
    dwell: Nanos,
}

const KINDS: [Kind; 5] = [
    Kind { name: "plain", inside: &[34], band: &[], dwell: 0 },
    Kind { name: "round", inside: &[35], band: &[], dwell: 0 },
    Kind { name: "slow", inside: &[34, 35], band: &[], dwell: DWELL as Nanos },
    Kind { name: "steady", inside: &[34], band: &[35], dwell: 0 },
    Kind { name: "both", inside: &[34], band: &[35], dwell: DWELL as Nanos },
];

/// 0.5° are 56 km, 1.5° are 167 km.
const FILE: &str = r#"{"type": "FeatureCollection", "features": [
  {"type": "Feature", "properties": {"name": "plain"}, "geometry": {"type": "Polygon",
    "coordinates": [[[-119, 33.5], [-118, 33.5], [-118, 34.5], [-119, 34.5], [-119, 33.5]]]}},
  {"type": "Feature", "properties": {"name": "round", "radius": 20000},
    "geometry": {"type": "Point", "coordinates": [-118.4, 35]}},
  {"type": "Feature", "properties": {"name": "slow", "dwell": 0.3}, "geometry": {"type": "Polygon",
    "coordinates": [[[-119, 33.5], [-118, 33.5], [-118, 35.5], [-119, 35.5], [-119, 33.5]]]}},
  {"type": "Feature", "properties": {"name": "steady", "hysteresis": 80000}, "geometry": {"type": "Polygon",
    "coordinates": [[[-119, 33.5], [-118, 33.5], [-118, 34.5], [-119, 34.5], [-119, 33.5]]]}},
  {"type": "Feature", "properties": {"name": "both", "hysteresis": 80000, "dwell": 0.3}, "geometry":
    {"type": "Polygon", "coordinates": [[[-119, 33.5], [-118, 33.5], [-118, 34.5], [-119, 34.5], [-119, 33.5]]]}}
]}"#;

/// Returns the location with this number. No two are equal, and successive ones are in different fences.
pub fn place(number: u32) -> String {
    let degree = 34 + (number.wrapping_mul(2_654_435_761) >> 28) % 4;
    format!("+{degree}.{number:06}-118.445127")
}

/// Returns the whole degrees of the latitude in a line.
fn degree(record: &Record<'_>) -> Option<u32> {
    Some(record.location()?.latitude() as u32)
}

impl Schedule {
    /// Adds a client that reports to one node only, independently of everything else. It must not be evicted
    /// or expire, and the clock of its node must not jump.
    pub fn stays(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0xfe4c_e500);
        let most = self.rules.max_clients as usize;
        if self.is_volatile() || self.leaf_bits != u16::MAX || most <= 8 * (self.clients.len() + 1)
        {
            return;
        }
        let client = self.clients.len();
        self.clients.push(NAME.to_owned());
        let node = rng.index(self.nodes);
        let mut at = rng.below(self.quiet_at);
        for _ in 0..rng.range(5, 40) {
            self.steps.push((at, Step::Update { node, client, when: When::Off(0) }));
            if rng.percent(5) {
                self.steps.push((at + MILLISECOND, Step::Forget { node, client }));
            }
            let pause = rng.pick(&[MILLISECOND, 50 * MILLISECOND, DWELL, 2 * DWELL]);
            at += rng.range(1, pause);
        }
    }
}

/// One fence and the client that stays: what has been reported, and what its last record says.
#[derive(Default)]
struct Rule {
    reported: bool,
    is_inside: bool,
    since: Nanos,
}

impl Rule {
    /// Reports a change that has lasted long enough at `clock`.
    fn settle(&mut self, kind: &Kind, clock: Nanos, expected: &mut Vec<String>) {
        if self.reported != self.is_inside && self.since + kind.dwell <= clock {
            self.reported = self.is_inside;
            expected.push(shown(self.reported, kind.name, Reason::Moved));
        }
    }

    fn update(&mut self, kind: &Kind, degree: u32, clock: Nanos, expected: &mut Vec<String>) {
        self.settle(kind, clock, expected);
        let is_held = self.is_inside && kind.band.contains(&degree);
        let is_inside = kind.inside.contains(&degree) || is_held;
        if is_inside != self.is_inside {
            (self.is_inside, self.since) = (is_inside, clock);
        }
        self.settle(kind, clock, expected);
    }
}

fn shown(enters: bool, fence: &str, reason: Reason) -> String {
    if enters { format!("enters {fence}") } else { format!("leaves {fence}: {}", reason.as_str()) }
}

/// The client that stays, and the node that it stays with.
#[derive(Default)]
pub struct Stay {
    home: Option<usize>,
    /// The node has lost its state, or the client has been at another one.
    is_over: bool,
    rules: [Rule; KINDS.len()],
    /// The transitions so far, of each fence.
    expected: [Vec<String>; KINDS.len()],
}

impl Stay {
    /// A node has stored an update of a client.
    pub fn updated(&mut self, node: usize, client: &str, place: &str, clock: Nanos) {
        if client != NAME {
            return;
        }
        self.is_over |= *self.home.get_or_insert(node) != node;
        let degree = place[1..3].parse().expect("whole degrees");
        for ((rule, kind), expected) in self.rules.iter_mut().zip(&KINDS).zip(&mut self.expected) {
            rule.update(kind, degree, clock, expected);
        }
    }

    /// A node has erased a client.
    pub fn erased(&mut self, node: usize, client: &str, clock: Nanos) {
        if client != NAME {
            return;
        }
        self.is_over |= self.home != Some(node);
        for ((rule, kind), expected) in self.rules.iter_mut().zip(&KINDS).zip(&mut self.expected) {
            rule.settle(kind, clock, expected); // a timer has reported it before
            if std::mem::take(rule).reported {
                expected.push(shown(false, kind.name, Reason::Forgotten));
            }
        }
    }

    /// A node has lost its state, or its clock has jumped.
    pub fn disturbed(&mut self, node: usize) {
        self.is_over |= self.home == Some(node);
    }

    /// Checks the transitions on the node after a turn. Returns their number.
    pub fn check(&mut self, node: usize, fences: &Fences, clock: Nanos) -> Result<u64, String> {
        if self.home != Some(node) || self.is_over {
            return Ok(0);
        }
        let mut count = 0;
        for ((rule, kind), expected) in self.rules.iter_mut().zip(&KINDS).zip(&mut self.expected) {
            rule.settle(kind, clock, expected);
            let log = fences.transitions().since(0).filter(|transition| {
                let client = Record::parse(transition.line()).map(|record| record.client);
                transition.fence_name() == kind.name && client == Some(NAME.as_bytes())
            });
            let found =
                log.map(|it| shown(it.left.is_none(), kind.name, it.left.unwrap_or(Reason::Moved)));
            let found: Vec<String> = found.collect();
            if found != *expected {
                return Err(format!("{NAME} has the transitions {found:?}, not {expected:?}"));
            }
            count += found.len() as u64;
        }
        Ok(count)
    }
}

/// Returns the fences of a node that starts now.
pub fn fences(now: Wall) -> Fences {
    let set = file::parse(FILE.as_bytes(), &FenceSet::default()).expect("the fences are valid");
    Fences::new(Arc::new(set), now)
}

/// What is known about the changes of the records of a node.
#[derive(Clone, Copy, Debug)]
pub enum Changes {
    /// Records may just have arrived, so fences with a dwell time are not checked.
    Recent,
    /// No record has arrived for longer than the dwell time.
    Over,
    /// The same, except that repairs may bring records back at any time, also after the last update has
    /// reached every node: the clocks of the herd stay wrong. A change that is pending at this time may
    /// still be reverted.
    Repaired(Instant),
}

impl Changes {
    /// Returns whether a change of this client may be pending in this fence.
    fn may_be_pending(self, fences: &Fences, slot: Slot, fence: FenceId) -> bool {
        let Self::Repaired(now) = self else { return false };
        let due = fences.due(slot, fence);
        due.is_some_and(|due| now < due && due <= now + Duration::from_nanos(DWELL))
    }
}

/// Checks that who is inside follows from the records of a node.
pub fn check(directory: &Directory, changes: Changes) -> Result<(), String> {
    let fences = directory.fences().expect("every node has fences");
    for kind in &KINDS {
        if kind.dwell > 0 && matches!(changes, Changes::Recent) {
            continue;
        }
        let fence = fences.set().find(kind.name.as_bytes()).expect("the file has it");
        let inside: BTreeSet<Slot> = fences.inside(fence.id, Slot(0)).collect();
        for slot in (0..directory.slots()).map(Slot) {
            let record = directory.line(slot).and_then(Record::parse);
            let degree = record.as_ref().and_then(degree);
            // In the band, the record before this one decides.
            if degree.is_some_and(|degree| kind.band.contains(&degree))
                || changes.may_be_pending(fences, slot, fence.id)
            {
                continue;
            }
            let expected = degree.is_some_and(|degree| kind.inside.contains(&degree));
            if inside.contains(&slot) != expected {
                let line = record.map_or(&b"nothing"[..], |record| record.line).escape_ascii();
                return Err(format!("{} contains {line}: {}", kind.name, !expected));
            }
        }
    }
    Ok(())
}

/// The time after which no change is pending.
pub const REST: Time = DWELL + SECONDS;

/// Seconds are those of the file.
const _: () = assert!(DWELL as Nanos * 10 == 3 * SECOND);
