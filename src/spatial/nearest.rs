//! The nearest clients of a point.
//!
//! A best-first search (Hjaltason and Samet, "Distance Browsing in Spatial Databases", 1999): the
//! cells that are still to be examined wait in a queue, nearest first, and the search ends when none
//! can contain a nearer client than those found. The queue holds cells, whose nodes are found again if the
//! tree has changed while the search paused.

use core::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::index::{Content, Index, Region, Slots};
use super::rect::{Center, haversine_beyond};
use crate::geo::{Point, ROUNDING_M};
use crate::ids::Slot;

/// Slots of a leaf that are compared before their records are read. Most leaves have fewer.
const CANDIDATES: usize = 64;

/// Most hits for which room is reserved at the beginning. A search rarely has more.
const MOST_RESERVED: usize = 32;

/// The clients that a search may find.
pub trait Clients {
    /// Loads the record in a slot into the processor's cache, since it is probably read soon.
    fn prefetch(&self, slot: Slot);

    /// Returns name and exact location of the client in a slot, or `None` if it must not be found.
    fn get(&self, slot: Slot) -> Option<(&[u8], Point)>;
}

/// A client that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// Great-circle distance in meters.
    pub distance_m: f64,
    /// Its name.
    pub client: Box<[u8]>,
    /// Its slot at the time.
    pub slot: Slot,
    /// The distance for comparisons. Equal distances, such as those on both sides of the antimeridian, may
    /// differ by the rounding of the arithmetic, some nanometers.
    micrometers: u64,
}

impl Eq for Hit {}

/// By distance, then by name.
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.micrometers, &self.client).cmp(&(other.micrometers, &other.client))
    }
}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns a distance in the unit in which distances are compared.
fn micrometers(meters: f64) -> u64 {
    (meters * 1e6).round() as u64
}

/// The state of a search. The default is one that finds nothing.
#[derive(Default)]
pub struct Nearest {
    center: Center,
    /// With an allowance for rounding.
    radius_m: f64,
    limit: usize,
    /// Cells to examine, nearest first: the bits of a lower bound of the haversine, and the region.
    queue: BinaryHeap<Reverse<(u64, Region)>>,
    /// The revision of the index at the first step. In another one, the nodes of regions are found again.
    revision: Option<u64>,
    /// The nearest clients so far, at most `limit`, farthest first.
    hits: BinaryHeap<Hit>,
    /// The haversine beyond which nothing is of interest.
    reach: f64,
    /// Some slots of a leaf with lower bounds of their haversines, kept to be filled again.
    candidates: Vec<(f64, Slot)>,
    /// True once the search has paused: a client that has moved since may be met twice.
    has_paused: bool,
}

impl Nearest {
    /// A search for the `limit` clients nearest to `center` that are at most `radius_m` meters away.
    #[must_use]
    pub fn new(center: Point, radius_m: f64, limit: usize) -> Self {
        let radius_m = radius_m + ROUNDING_M;
        Self {
            center: Center::new(center),
            radius_m,
            limit,
            queue: BinaryHeap::from([Reverse((0, Region::ROOT))]),
            revision: None,
            hits: BinaryHeap::with_capacity(limit.min(MOST_RESERVED)),
            reach: haversine_beyond(radius_m),
            candidates: Vec::new(),
            has_paused: false,
        }
    }

    /// Examines cells and slots until the search is over or `budget` is used up. Returns whether it is
    /// over.
    pub fn step(&mut self, index: &Index, budget: &mut usize, clients: &impl Clients) -> bool {
        let revision = *self.revision.get_or_insert(index.revision());
        let has_changed = revision != index.revision();
        while *budget > 0 {
            let Some(&Reverse((bound, region))) = self.queue.peek() else { return true };
            if self.limit == 0 || f64::from_bits(bound) > self.reach {
                self.queue.clear();
                return true;
            }
            self.queue.pop();
            *budget -= 1;
            let region = if has_changed { index.find_again(region) } else { region };
            match index.content(region) {
                Content::Quarters(quarters) => {
                    for quarter in quarters.into_iter().flatten() {
                        let bound = self.center.bound_of_cell(quarter.cell);
                        if bound <= self.reach {
                            index.prefetch(quarter);
                            // The order of floats that are not negative is that of their bits.
                            self.queue.push(Reverse((bound.to_bits(), quarter)));
                        }
                    }
                }
                Content::Slots(mut slots) => {
                    self.examine(&mut slots, region.cell.least_cosine(), budget, clients);
                    if let Some(rest) = slots.rest() {
                        self.queue.push(Reverse((bound, rest)));
                    }
                }
            }
        }
        self.has_paused = true;
        false
    }

    /// Returns the clients found, nearest first.
    #[must_use]
    pub fn into_hits(self) -> Vec<Hit> {
        self.hits.into_sorted_vec()
    }

    /// Examines the next slots of a leaf. Their records are read nearest first, so few are.
    fn examine(
        &mut self,
        slots: &mut Slots<'_>,
        least_cosine: f64,
        budget: &mut usize,
        clients: &impl Clients,
    ) {
        let mut candidates = std::mem::take(&mut self.candidates);
        let mut examined = 0;
        while examined < CANDIDATES {
            let visited = slots.visit(|slot, position| {
                let bound = self.center.bound(position, least_cosine);
                if bound <= self.reach {
                    candidates.push((bound, slot));
                }
            });
            if visited == 0 {
                break;
            }
            examined += visited;
        }
        *budget = budget.saturating_sub(examined);
        candidates.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        candidates.iter().take(self.limit).for_each(|(_, slot)| clients.prefetch(*slot));
        for &(bound, slot) in &candidates {
            if bound > self.reach {
                break;
            }
            if let Some((name, location)) = clients.get(slot) {
                self.consider(slot, name, self.center.point.distance_m(location));
            }
        }
        candidates.clear();
        self.candidates = candidates;
    }

    fn consider(&mut self, slot: Slot, client: &[u8], distance_m: f64) {
        if distance_m > self.radius_m {
            return;
        }
        let micrometers = micrometers(distance_m);
        let farthest = self.hits.peek().filter(|_| self.hits.len() >= self.limit);
        let is_farther = farthest.is_some_and(|farthest| {
            (micrometers, client) >= (farthest.micrometers, &*farthest.client)
        });
        if is_farther {
            return;
        }
        if self.has_paused && self.hits.iter().any(|hit| hit.slot == slot) {
            return;
        }
        if self.hits.len() >= self.limit {
            self.hits.pop();
        }
        self.hits.push(Hit { distance_m, client: client.into(), slot, micrometers });
        if self.hits.len() >= self.limit
            && let Some(farthest) = self.hits.peek()
        {
            self.reach = haversine_beyond(farthest.distance_m);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rect::MAX_DEPTH;
    use super::*;
    use crate::rng::Rng;

    struct World {
        index: Index,
        clients: Vec<Option<(String, Point)>>,
    }

    impl World {
        /// Clients in a city, at both poles, on both sides of the antimeridian, at one common place,
        /// and everywhere else.
        fn new(rng: &mut Rng, clients: usize) -> Self {
            let mut world = Self { index: Index::default(), clients: vec![None; clients] };
            (0..clients).for_each(|slot| world.place(slot, Some(any_place(rng))));
            world
        }

        fn place(&mut self, slot: usize, at: Option<Point>) {
            self.clients[slot] = at.map(|at| (format!("client-{slot}"), at));
            self.index.set([(Slot(slot as u32), at)].into_iter());
        }

        fn oracle(&self, center: Point, radius_m: f64, limit: usize) -> Vec<Hit> {
            let mut hits: Vec<Hit> = (0..self.clients.len() as u32)
                .filter_map(|slot| {
                    let (name, at) = self.get(Slot(slot))?;
                    let distance_m = center.distance_m(at);
                    let micrometers = micrometers(distance_m);
                    Some(Hit { distance_m, client: name.into(), slot: Slot(slot), micrometers })
                })
                .filter(|hit| hit.micrometers <= micrometers(radius_m))
                .collect();
            hits.sort();
            hits.truncate(limit);
            hits
        }
    }

    impl Clients for World {
        fn prefetch(&self, _: Slot) {}

        fn get(&self, slot: Slot) -> Option<(&[u8], Point)> {
            let (name, at) = self.clients[slot.index()].as_ref()?;
            Some((name.as_bytes(), *at))
        }
    }

    fn any_place(rng: &mut Rng) -> Point {
        let mut around = |lat: f64, lng: f64, by: f64| Point {
            lat: (lat + (rng.unit() - 0.5) * by).clamp(-90.0, 90.0),
            lng: (lng + (rng.unit() - 0.5) * by).clamp(-180.0, 180.0),
        };
        match around(5.0, 5.0, 10.0).lat as u32 {
            0..4 => around(34.05, -118.25, 0.2),
            4 => around(10.0, 180.0, 1.0),
            5 => around(10.0, -180.0, 1.0),
            6 => Point { lat: 90.0, ..around(0.0, 0.0, 360.0) },
            7 => around(-89.99, 0.0, 360.0),
            8 => Point { lat: 0.0, lng: 0.0 },
            _ => around(0.0, 0.0, 360.0),
        }
    }

    fn search(world: &World, center: Point, radius_m: f64, limit: usize, slice: usize) -> Vec<Hit> {
        let mut search = Nearest::new(center, radius_m, limit);
        let mut budget = slice;
        while !search.step(&world.index, &mut budget, world) {
            assert_eq!(budget, 0);
            budget = slice;
        }
        search.into_hits()
    }

    #[test]
    fn hits_are_exact_everywhere() {
        let mut rng = Rng::new(7);
        for clients in [0, 1, 20, 400, 4000] {
            let world = World::new(&mut rng, clients);
            for _ in 0..120 {
                let center = any_place(&mut rng);
                let radius_m = rng.pick(&[0.0, 5_000.0, 300_000.0, 2e7, f64::INFINITY]);
                let limit = rng.pick(&[0, 1, 10, 1000]);
                let slice = rng.pick(&[1, 50, usize::MAX]);
                let found = search(&world, center, radius_m, limit, slice);
                assert_eq!(found, world.oracle(center, radius_m, limit), "{center:?} {radius_m}");
            }
        }
    }

    /// All longitudes are one point at a pole, and so are 180° E and 180° W anywhere.
    #[test]
    fn a_radius_of_zero_contains_the_same_point_in_other_coordinates() {
        let mut rng = Rng::new(10);
        let mut world = World::new(&mut rng, 6);
        let at = |lat: f64, lng: f64| Point { lat, lng };
        let places = [(90.0, 0.0), (90.0, -77.3), (90.0, 180.0), (51.3, 180.0), (51.3, -180.0)];
        for (slot, (lat, lng)) in places.into_iter().enumerate() {
            world.place(slot, Some(at(lat, lng)));
        }
        world.place(5, None);
        for (center, expected) in [(at(90.0, 33.0), 3), (at(51.3, -180.0), 2), (at(51.3, 180.0), 2)]
        {
            assert_eq!(search(&world, center, 0.0, 10, usize::MAX).len(), expected, "{center:?}");
        }
    }

    /// Clients that do not move are found however much others move and leave during the search.
    #[test]
    fn a_search_survives_changes_between_its_steps() {
        let mut rng = Rng::new(8);
        let mut world = World::new(&mut rng, 3000);
        let center = Point { lat: 34.05, lng: -118.25 };
        let restless = |slot: usize| slot.is_multiple_of(2);
        for _ in 0..5 {
            let mut search = Nearest::new(center, 1e6, 1000);
            loop {
                let mut budget = 60;
                if search.step(&world.index, &mut budget, &world) {
                    break;
                }
                for _ in 0..400 {
                    let slot = rng.index(1500) * 2;
                    let to = (!rng.percent(40)).then(|| any_place(&mut rng));
                    world.place(slot, to);
                }
            }
            let hits = search.into_hits();
            let still: Vec<&Hit> = hits.iter().filter(|hit| !restless(hit.slot.index())).collect();
            let all = world.oracle(center, 1e6, usize::MAX);
            let reach =
                hits.last().filter(|_| hits.len() == 1000).map_or(1e6, |hit| hit.distance_m);
            let expected: Vec<&Hit> = all
                .iter()
                .filter(|hit| !restless(hit.slot.index()) && hit.distance_m < reach)
                .collect();
            assert_eq!(still[..expected.len()], expected);
            let mut slots: Vec<_> = hits.iter().map(|hit| hit.slot.0).collect();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), hits.len(), "a client was found twice");
        }
    }

    /// The nodes that a search has queued end while it pauses, and their numbers stand for others.
    #[test]
    fn a_search_finds_its_nodes_again() {
        let mut rng = Rng::new(11);
        let mut world = World { index: Index::default(), clients: vec![None; 600] };
        let mut around = |lat: f64, lng: f64| {
            let offset = |rng: &mut Rng| rng.unit() - 0.5;
            Some(Point { lat: lat + offset(&mut rng), lng: lng + offset(&mut rng) })
        };
        (0..300).for_each(|slot| world.place(slot, around(34.0, -118.0)));
        let center = Point { lat: 34.0, lng: -118.0 };
        for steps in 0..60 {
            let mut changed = World { index: Index::default(), clients: vec![None; 600] };
            (0..300)
                .for_each(|slot| changed.place(slot, world.clients[slot].as_ref().map(|it| it.1)));
            let mut search = Nearest::new(center, 1e6, 400);
            for _ in 0..steps {
                search.step(&changed.index, &mut { 1 }, &changed);
            }
            // Some stay, and the others make room for clients elsewhere.
            (5..300).for_each(|slot| changed.place(slot, None));
            (300..600).for_each(|slot| changed.place(slot, around(-34.0, 18.0)));
            assert!(search.step(&changed.index, &mut { usize::MAX }, &changed));
            let hits = search.into_hits();
            let staying = hits.iter().filter(|hit| hit.slot.0 < 5).count();
            assert_eq!(staying, 5, "after {steps} steps");
        }
    }

    /// Crowds come to places near a search that pauses, and leave them: leaves of all depths are divided and
    /// united. Those who do not move are found.
    #[test]
    fn a_search_survives_crowds() {
        let mut rng = Rng::new(12);
        for round in 0..400 {
            let degrees = rng.pick(&[2e-5, 1e-4, 1.0, 50.0]);
            let common = Point { lat: 10.0, lng: 20.0 };
            let near = |rng: &mut Rng| Point {
                lat: common.lat + (rng.unit() - 0.5) * degrees,
                lng: common.lng + (rng.unit() - 0.5) * degrees,
            };
            let (staying, crowd) = (rng.pick(&[5, 50, 300]), rng.pick(&[30, 300]));
            let mut world = World { index: Index::default(), clients: vec![None; staying + crowd] };
            for slot in 0..staying + crowd {
                let at = if rng.percent(30) { common } else { near(&mut rng) };
                world.place(slot, Some(at));
            }
            let mut search = Nearest::new(near(&mut rng), f64::INFINITY, 1000);
            let (slice, moves) = (rng.pick(&[1, 3, 20, 80]), rng.pick(&[1, 40, 400]));
            let mut target = 0;
            while !search.step(&world.index, &mut { slice }, &world) {
                if rng.percent(30) {
                    target = rng.index(3);
                }
                for _ in 0..moves {
                    let to = [None, Some(near(&mut rng)), Some(common)][target];
                    world.place(staying + rng.index(crowd), to);
                }
            }
            let mut slots: Vec<_> = search.into_hits().iter().map(|hit| hit.slot.index()).collect();
            slots.sort_unstable();
            let found = slots.len();
            slots.dedup();
            assert_eq!(slots.len(), found, "a client was found twice in round {round}");
            let still = slots.iter().filter(|slot| **slot < staying).count();
            assert_eq!(still, staying, "round {round}");
        }
    }

    /// Leaves are united elsewhere whenever the search pauses, and it still continues where it was.
    #[test]
    fn a_search_in_a_large_leaf_ends() {
        let mut world = World { index: Index::default(), clients: vec![None; 2060] };
        let center = Point { lat: 0.0, lng: 0.0 };
        (0..2000).for_each(|slot| world.place(slot, Some(center)));
        let mut search = Nearest::new(center, 1e6, 10);
        let mut steps = 0;
        while !search.step(&world.index, &mut { 100 }, &world) {
            steps += 1;
            assert!(steps < 100, "the search begins again and again");
            let before = world.index.revision();
            let elsewhere = |slot: usize| Some(Point { lat: 40.0, lng: slot as f64 / 100.0 });
            (2000..2060).for_each(|slot| world.place(slot, elsewhere(slot)));
            (2000..2060).for_each(|slot| world.place(slot, None));
            assert_ne!(world.index.revision(), before, "leaves were united");
        }
        assert_eq!(search.into_hits(), world.oracle(center, 1e6, 10));
    }

    /// A leaf ends while a search pauses in it, and another one has its number and its blocks, in another
    /// order. In some of these cases, the clients that stay come before the block at which the search
    /// would continue.
    #[test]
    fn a_search_does_not_continue_in_another_leaf() {
        let center = Point { lat: 10.0, lng: 20.0 };
        let far = Point { lat: -55.0, lng: 20.0 };
        for (first, staying) in (100..120).flat_map(|first| (1..=8).map(move |it| (first, it))) {
            let mut world = World { index: Index::default(), clients: vec![None; first + 100] };
            // These keep the topmost node divided.
            (first + 60..first + 100).for_each(|slot| world.place(slot, Some(far)));
            (0..first).for_each(|slot| world.place(slot, Some(center)));
            let mut search = Nearest::new(center, f64::INFINITY, 1000);
            // One for each level, and one for the first blocks of the leaf.
            for _ in 0..=MAX_DEPTH {
                assert!(!search.step(&world.index, &mut { 1 }, &world));
            }
            (staying..first).for_each(|slot| world.place(slot, None));
            (first..first + 60).for_each(|slot| world.place(slot, Some(center)));
            assert!(search.step(&world.index, &mut { usize::MAX }, &world));
            let hits = search.into_hits();
            let still = hits.iter().filter(|hit| hit.slot.index() < staying).count();
            assert_eq!(still, staying, "of {first}");
        }
    }

    /// The work of a search depends on the number of hits, not on the number of clients.
    #[test]
    fn a_search_examines_few_clients() {
        let mut rng = Rng::new(9);
        let world = World::new(&mut rng, 100_000);
        let mut search = Nearest::new(Point { lat: 34.05, lng: -118.25 }, 5_000.0, 10);
        let mut budget = 2_000;
        assert!(search.step(&world.index, &mut budget, &world));
        assert!(budget > 1_500, "{} examined", 2_000 - budget);
    }
}
