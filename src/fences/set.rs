//! The fences of a file, with an index that finds those at a point.

use core::hash::Hasher as _;
use std::collections::HashMap;
use std::sync::Arc;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::geo::Point;
use crate::protocol::time::Nanos;
use crate::spatial::grid::Grid;
use crate::spatial::shape::{Polygon, Shape};

/// A fence. It keeps its number while its definition stays the same, however often the file is read
/// again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FenceId(pub u32);

/// One fence.
#[derive(Debug)]
pub struct Fence {
    /// Number.
    pub id: FenceId,
    /// Name, which is unique in a file.
    pub name: Box<str>,
    /// The area.
    pub shape: Shape,
    /// A client leaves only when it is more than this many meters outside.
    pub hysteresis_m: f64,
    /// A change counts once it has lasted this long, in nanoseconds.
    pub dwell: Nanos,
    /// The feature as in the file up to the number of clients inside, which two braces follow.
    pub feature: Box<[u8]>,
}

impl Fence {
    /// Returns whether everything is equal that determines who is inside.
    fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.hysteresis_m.to_bits() == other.hysteresis_m.to_bits()
            && self.dwell == other.dwell
            && self.shape == other.shape
    }

    /// Appends everything that determines who is inside to a hash.
    fn hash(&self, hasher: &mut SipHasher13) {
        hasher.write(self.name.as_bytes());
        hasher.write(&[0xff]); // the end of the name, which is UTF-8
        hasher.write(&self.hysteresis_m.to_le_bytes());
        hasher.write(&self.dwell.to_le_bytes());
        match &self.shape {
            Shape::Circle(center, radius_m) => {
                for number in [center.lng, center.lat, *radius_m] {
                    hasher.write(&number.to_le_bytes());
                }
            }
            Shape::Area(polygons) => {
                for polygon in polygons {
                    hash_polygon(polygon, hasher);
                }
            }
        }
    }
}

fn hash_polygon(polygon: &Polygon, hasher: &mut SipHasher13) {
    for end in polygon.ends() {
        hasher.write(&end.to_le_bytes());
    }
    for number in polygon.vertices().iter().flatten() {
        hasher.write(&number.to_le_bytes());
    }
}

/// Fences that are no longer in use, by their numbers.
pub type Retired = HashMap<FenceId, Arc<Fence>>;

/// All fences of a file.
#[derive(Debug, Default)]
pub struct FenceSet {
    /// In the order of the file.
    fences: Vec<Arc<Fence>>,
    /// The number of each fence, and its position.
    by_id: HashTable<(FenceId, u32)>,
    by_name: HashMap<Box<str>, u32>,
    /// The positions of the fences by their rectangles.
    index: Grid,
    hash: u64,
    /// The number of the next fence that is not in this set.
    next_id: u32,
    /// Fences of the previous set that are not in this one.
    retired: Arc<Retired>,
    /// True if this set has fences that are not in the previous one.
    has_new: bool,
    /// Advice about fences that are valid and probably not what was meant.
    pub warnings: Vec<String>,
}

impl FenceSet {
    /// A set of `fences`, whose names are distinct. They are numbered here: those that are the same in
    /// the previous set keep their numbers.
    #[must_use]
    pub fn new(mut fences: Vec<Fence>, previous: &Self) -> Self {
        let (mut next_id, mut has_new) = (previous.next_id, false);
        for fence in &mut fences {
            let held = previous.find(fence.name.as_bytes()).filter(|held| held.is_same(fence));
            if let Some(held) = held {
                fence.id = held.id;
            } else {
                fence.id = FenceId(next_id);
                next_id = next_id.wrapping_add(1);
                has_new = true;
            }
        }
        let fences: Vec<Arc<Fence>> = fences.into_iter().map(Arc::new).collect();
        let numbered = || fences.iter().zip(0_u32..);
        let mut by_id = HashTable::with_capacity(fences.len());
        for (fence, at) in numbered() {
            by_id.insert_unique(hash(fence.id), (fence.id, at), |(id, _)| hash(*id));
        }
        let bounds = numbered()
            .flat_map(|(fence, at)| fence.shape.bounds().into_iter().map(move |it| (it, at)));
        let mut sorted: Vec<&Fence> = fences.iter().map(|fence| &**fence).collect();
        sorted.sort_unstable_by_key(|fence| &fence.name);
        let mut hasher = SipHasher13::new();
        for fence in sorted {
            fence.hash(&mut hasher);
        }
        let mut set = Self {
            by_name: numbered().map(|(fence, at)| (fence.name.clone(), at)).collect(),
            by_id,
            index: Grid::new(bounds),
            hash: hasher.finish(),
            next_id,
            retired: Arc::default(),
            has_new,
            warnings: Vec::new(),
            fences,
        };
        let retired = previous.fences.iter().filter(|fence| set.get(fence.id).is_none());
        set.retired = Arc::new(retired.map(|fence| (fence.id, Arc::clone(fence))).collect());
        set
    }

    /// Returns the fences in the order of the file.
    #[must_use]
    pub fn fences(&self) -> &[Arc<Fence>] {
        &self.fences
    }

    /// Returns a hash of everything that determines who is inside, as sixteen hexadecimal digits. It does
    /// not depend on the order and the formatting of the file.
    #[must_use]
    pub fn hash(&self) -> String {
        format!("{:016x}", self.hash)
    }

    /// Returns the fence of this name.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Arc<Fence>> {
        let at = *self.by_name.get(str::from_utf8(name).ok()?)?;
        self.fences.get(at as usize)
    }

    /// Returns the fence with this number.
    #[must_use]
    pub fn get(&self, id: FenceId) -> Option<&Arc<Fence>> {
        self.fences.get(self.position(id)? as usize)
    }

    /// Returns the position of a fence in [`FenceSet::fences`].
    #[must_use]
    pub fn position(&self, id: FenceId) -> Option<u32> {
        self.by_id.find(hash(id), |(held, _)| *held == id).map(|(_, at)| *at)
    }

    /// Returns the fences of the previous set that are not in this one.
    #[must_use]
    pub const fn retired(&self) -> &Arc<Retired> {
        &self.retired
    }

    /// Returns whether this set has fences that are not in the previous one.
    #[must_use]
    pub const fn has_new(&self) -> bool {
        self.has_new
    }

    /// Sets `found` to the positions of all fences that contain `point`, in ascending order.
    pub fn containing(&self, point: Point, found: &mut Vec<u32>) {
        found.clear();
        self.index.visit(point, |at| found.push(at));
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup(); // a fence may have several rectangles, and one may be found twice
        }
        found.retain(|&at| self.fences[at as usize].shape.contains(point));
    }
}

/// Numbers are assigned here, so a multiplication is enough (Knuth 1973, section 6.4).
const fn hash(id: FenceId) -> u64 {
    (id.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
