//! Nearest-neighbor search in a k-d tree in the kdbush format.
//!
//! The tree is planar: it splits longitude and latitude as if the globe were a flat map. A search
//! traverses the bounding box of the circle, again on the other side of the antimeridian if the box
//! crosses it, and computes distances on the sphere. The box shrinks with every hit that replaces the
//! farthest one, so a search takes about the same time in a desert and in a city, and for a radius of
//! 10 km and of 50 km.

use geo_index::indices::Indices;
use geo_index::kdtree::{KDTree, KDTreeBuilder, KDTreeIndex, KDTreeMetadata};

use crate::geo::{EARTH_RADIUS_M, Point};

/// Coordinate units per degree. A unit is about one centimeter on the ground.
const UNITS: f64 = 1e7;

/// 180 degrees, in units.
const HALF_TURN: i64 = 180 * 10_000_000;

/// Bytes of the header of the kdbush format.
const HEADER: usize = 8;

/// A k-d tree of points on the globe, used in place. Axis 0 is longitude, axis 1 latitude.
#[derive(Clone, Copy, Debug)]
pub struct Index<'a> {
    coords: &'a [i32],
    ids: Indices<'a>,
    node_size: usize,
}

/// A point found by a search.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Great-circle distance from the center, in meters.
    pub meters: f64,
    /// The point's id in the tree.
    pub id: u32,
    /// The position of the point in the tree, for [`Index::location`].
    pub position: usize,
}

impl<'a> Index<'a> {
    /// Opens a prebuilt tree in constant time. Returns `None` if its header or length is not valid, or
    /// `bytes` is not aligned to 4. If other bytes are damaged, searches find fewer points.
    #[must_use]
    pub fn open(bytes: &'a [u8]) -> Option<Self> {
        // The crate panics unless these three conditions hold.
        let node_size = u16::from_le_bytes(*bytes.get(2..4)?.first_chunk()?);
        let aligned = bytes.as_ptr().addr().is_multiple_of(align_of::<i32>());
        if bytes.len() <= HEADER || node_size < 2 || !aligned {
            return None;
        }
        let metadata = KDTreeMetadata::<i32>::from_slice(bytes).ok()?;
        Some(Self {
            coords: metadata.coords_slice(bytes),
            ids: metadata.indices_slice(bytes),
            node_size: usize::from(metadata.node_size()),
        })
    }

    /// Returns a view of a tree from [`build`].
    pub fn of(tree: &'a KDTree<i32>) -> Self {
        let node_size = usize::from(tree.node_size());
        Self { coords: tree.coords(), ids: tree.indices(), node_size }
    }

    /// The number of points.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// The ids of all points, in the order of the tree.
    #[cfg(test)]
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        (0..self.len()).map(|position| self.ids.get(position) as u32)
    }

    /// Returns the id of the point at `position`, which is less than [`Self::len`].
    pub fn id(&self, position: usize) -> u32 {
        self.ids.get(position) as u32
    }

    /// Returns the coordinates of the point at `position`, which is less than [`Self::len`].
    pub fn location(&self, position: usize) -> Point {
        let degrees = |axis| f64::from(self.coords[2 * position + axis]) / UNITS;
        Point { lat: degrees(1), lng: degrees(0) }
    }

    /// Replaces `hits` with the `max` points nearest to `center` that are at most `radius_m` meters
    /// away, ordered by distance and then by id. Reusing `hits` avoids allocations.
    pub fn nearest(&self, center: Point, radius_m: f64, max: usize, hits: &mut Vec<Hit>) {
        hits.clear();
        let possible = radius_m >= 0.0 && center.lat.is_finite() && center.lng.is_finite();
        if max == 0 || self.len() == 0 || !possible {
            return;
        }
        let units = [units(center.lng), units(center.lat)];
        let reach = reach(center, radius_m);
        let mut search =
            Search { index: *self, center, units, radius_m, max, reach, seen_before: false, hits };
        search.run();
    }
}

/// Builds a tree. The id of a point is its index in `points`, which must not be empty nor have more
/// than `u32::MAX` elements.
pub fn build(points: &[Point]) -> KDTree<i32> {
    /// The same as in the tree of the gazetteer.
    const NODE_SIZE: u16 = 16;
    let mut builder = KDTreeBuilder::new_with_node_size(points.len() as u32, NODE_SIZE);
    for point in points {
        builder.add(units(point.lng) as i32, units(point.lat) as i32);
    }
    builder.finish()
}

/// Converts degrees to units.
fn units(degrees: f64) -> i64 {
    (degrees * UNITS).round() as i64
}

/// Returns half the sides of a box, in units, that contains every point within `meters` of `center`.
/// The box is slightly too large, because points are rounded to units, and because floating-point
/// numbers are less accurate near a pole.
fn reach(center: Point, meters: f64) -> [i64; 2] {
    const SLACK: f64 = 1e-4;
    let angle = meters / EARTH_RADIUS_M;
    let lat = angle.to_degrees() + SLACK;
    // The box extends to the meridians that touch the circle, unless the circle contains a pole.
    let lng = if center.lat.abs() + lat < 90.0 {
        (angle.sin() / center.lat.to_radians().cos()).min(1.0).asin().to_degrees() + SLACK
    } else {
        180.0
    };
    [units(lng).min(HALF_TURN), units(lat).min(HALF_TURN)]
}

/// The state of a search.
struct Search<'a, 'h> {
    index: Index<'a>,
    center: Point,
    /// The center in units, by axis. The longitude is shifted by 360 degrees to search across the
    /// antimeridian.
    units: [i64; 2],
    /// The search radius, or the distance of the farthest hit once there are `max`.
    radius_m: f64,
    max: usize,
    /// Half the sides of the bounding box, in units, by axis.
    reach: [i64; 2],
    /// True if points may be visited that are already hits.
    seen_before: bool,
    hits: &'h mut Vec<Hit>,
}

impl Search<'_, '_> {
    fn run(&mut self) {
        let [lng, _] = self.units;
        let last = self.index.len() - 1;
        self.descend(0, last, 0);
        self.seen_before = true;
        if lng + self.reach[0] > HALF_TURN {
            self.units[0] = lng - 2 * HALF_TURN;
            self.descend(0, last, 0);
        }
        if lng - self.reach[0] < -HALF_TURN {
            self.units[0] = lng + 2 * HALF_TURN;
            self.descend(0, last, 0);
        }
    }

    /// Visits the points from `left` to `right`, which are split by `axis`. Each level of recursion
    /// halves the number of points.
    fn descend(&mut self, left: usize, right: usize, axis: usize) {
        if right - left <= self.index.node_size {
            for position in left..=right {
                self.consider(position);
            }
            return;
        }
        let middle = usize::midpoint(left, right);
        let from_split = self.units[axis] - i64::from(self.index.coords[2 * middle + axis]);
        // The side that contains the center comes first: its hits shrink the box for the other side.
        if from_split <= 0 {
            self.descend(left, middle - 1, 1 - axis);
        } else {
            self.descend(middle + 1, right, 1 - axis);
        }
        self.consider(middle);
        if from_split.abs() > self.reach[axis] {
            return;
        }
        if from_split <= 0 {
            self.descend(middle + 1, right, 1 - axis);
        } else {
            self.descend(left, middle - 1, 1 - axis);
        }
    }

    fn consider(&mut self, position: usize) {
        let away = |axis: usize| {
            (i64::from(self.index.coords[2 * position + axis]) - self.units[axis]).abs()
        };
        if away(1) > self.reach[1] || away(0) > self.reach[0] {
            return;
        }
        let meters = self.center.distance_m(self.index.location(position));
        let hit = Hit { meters, id: self.index.ids.get(position) as u32, position };
        let unwanted = meters > self.radius_m
            || self.seen_before && self.hits.iter().any(|hit| hit.position == position);
        if unwanted {
            return;
        }
        let nearer =
            |other: &Hit| other.meters.total_cmp(&hit.meters).then(other.id.cmp(&hit.id)).is_lt();
        let rank = self.hits.partition_point(nearer);
        if self.hits.len() == self.max {
            if rank == self.max {
                return;
            }
            self.hits.pop();
        }
        self.hits.insert(rank, hit);
        if self.hits.len() == self.max {
            self.radius_m = self.hits[self.max - 1].meters;
            self.reach = reach(self.center, self.radius_m);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The expected result, computed from all points.
    fn brute_force(points: &[Point], center: Point, radius_m: f64, max: usize) -> Vec<(f64, u32)> {
        let distances = points.iter().map(|&point| center.distance_m(point)).zip(0..);
        let mut found: Vec<_> = distances.filter(|&(meters, _)| meters <= radius_m).collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        found.truncate(max);
        found
    }

    fn search(index: Index<'_>, center: Point, radius_m: f64, max: usize) -> Vec<(f64, u32)> {
        let mut hits = vec![Hit { meters: 1.0, id: 1, position: 1 }];
        index.nearest(center, radius_m, max, &mut hits);
        hits.iter().map(|hit| (hit.meters, hit.id)).collect()
    }

    /// A point in whole units, which the tree represents exactly.
    fn rounded(lat: f64, lng: f64) -> Point {
        let lng = if lng > 180.0 { lng - 360.0 } else { lng };
        let lng = if lng < -180.0 { lng + 360.0 } else { lng };
        let units = |degrees: f64| (degrees * UNITS).round() / UNITS;
        Point { lat: units(lat.clamp(-90.0, 90.0)), lng: units(lng) }
    }

    fn latitude() -> impl Strategy<Value = f64> {
        let special = prop::sample::select(vec![90.0, -90.0, 89.9999, -89.7, 89.5, 0.0, 60.0]);
        prop_oneof![special, -90.0..=90.0]
    }

    fn longitude() -> impl Strategy<Value = f64> {
        let special = prop::sample::select(vec![180.0, -180.0, 179.9999, -179.7, 0.0, 90.0]);
        prop_oneof![special, -180.0..=180.0]
    }

    /// A center, and points around it and elsewhere.
    fn center_and_points() -> impl Strategy<Value = (Point, Vec<Point>)> {
        (latitude(), longitude()).prop_flat_map(|(lat, lng)| {
            let near = (-0.6..0.6, -0.6..0.6).prop_map(move |(a, b)| rounded(lat + a, lng + b));
            // Near a pole, points at any longitude are near.
            let around = (-0.6..0.6, longitude()).prop_map(move |(a, b)| rounded(lat + a, b));
            let far = (latitude(), longitude()).prop_map(|(lat, lng)| rounded(lat, lng));
            let same = Just(rounded(lat, lng));
            let points = prop_oneof![8 => near, 4 => around, 2 => far, 1 => same];
            let points = prop::collection::vec(points, 1..300);
            // The center need not be in whole units.
            let center = (-1e-8..1e-8)
                .prop_map(move |off: f64| Point { lat: (lat + off).clamp(-90.0, 90.0), lng });
            (center, points)
        })
    }

    proptest! {
        #[test]
        fn the_nearest_points_are_found_in_order(
            (center, points) in center_and_points(),
            radius_m in prop_oneof![Just(0.0), 0.0..100.0, 0.0..50_000.0, Just(50_000.0), 0.0..2.1e7],
            max in prop_oneof![0..=20_usize, Just(1000)],
        ) {
            let tree = build(&points);
            let found = search(Index::of(&tree), center, radius_m, max);
            prop_assert_eq!(found, brute_force(&points, center, radius_m, max));
        }

        #[test]
        fn a_point_on_the_circle_is_found(
            (center, points) in center_and_points(),
            chosen in any::<prop::sample::Index>(),
        ) {
            let chosen = chosen.index(points.len());
            let radius_m = center.distance_m(points[chosen]);
            let tree = build(&points);
            let contains = |radius_m| {
                let found = search(Index::of(&tree), center, radius_m, points.len());
                found.iter().any(|&(_, id)| id as usize == chosen)
            };
            prop_assert!(contains(radius_m));
            prop_assert!(!contains(radius_m.next_down()));
        }
    }

    proptest! {
        /// The meridian that touches the circle does so in one point, which a box that is slightly
        /// too small would miss.
        #[test]
        fn the_easternmost_point_of_a_circle_is_found(
            lat in prop_oneof![-89.4..89.4, 88.0..89.4],
            lng in longitude(),
            meters in 0.1..50_000.0,
        ) {
            let (angle, colatitude): (f64, f64) = (meters / EARTH_RADIUS_M, 90.0 - lat);
            let (sine, cosine) = colatitude.to_radians().sin_cos();
            let touching_lat = (cosine / angle.cos()).asin().to_degrees();
            let touching_lng = lng + (angle.sin() / sine).asin().to_degrees();
            let points: Vec<_> = [-2e-7, -1e-7, 0.0, 1e-7, 2e-7]
                .map(|off| rounded(touching_lat + off, touching_lng))
                .to_vec();
            let center = Point { lat, lng };
            let tree = build(&points);
            for (point, id) in points.iter().zip(0..) {
                let found = search(Index::of(&tree), center, center.distance_m(*point), 9);
                prop_assert!(found.iter().any(|&(_, found)| found == id), "{point:?}");
            }
        }
    }

    #[test]
    fn equally_near_points_are_ordered_by_id() {
        let here = Point { lat: 34.0, lng: -118.0 };
        // Enough points for many leaves.
        let tree = build(&vec![here; 70_000]);
        let found = search(Index::of(&tree), here, 1.0, 20);
        assert_eq!(found, (0..20).map(|id| (0.0, id)).collect::<Vec<_>>());
    }

    #[test]
    fn invalid_searches_find_nothing() {
        let tree = build(&[Point { lat: 1.0, lng: 2.0 }]);
        let index = Index::of(&tree);
        let here = Point { lat: 1.0, lng: 2.0 };
        assert_eq!(search(index, here, 0.0, 1), [(0.0, 0)]);
        assert_eq!(search(index, here, 1.0, 0), []);
        for radius_m in [-1.0, f64::NAN] {
            assert_eq!(search(index, here, radius_m, 1), []);
        }
        for lat in [f64::NAN, f64::INFINITY] {
            assert_eq!(search(index, Point { lat, lng: 2.0 }, 1e9, 1), []);
        }
        assert_eq!(search(index, Point { lat: -1.0, lng: -178.0 }, f64::INFINITY, 1).len(), 1);
    }

    #[test]
    fn searches_reuse_the_memory_of_hits() {
        let points: Vec<_> = (0..500).map(|n| rounded(f64::from(n) / 10.0, 7.0)).collect();
        let tree = build(&points);
        let mut hits = Vec::new();
        Index::of(&tree).nearest(points[250], 2e6, 20, &mut hits);
        let (capacity, memory) = (hits.capacity(), hits.as_ptr());
        for &center in &points {
            Index::of(&tree).nearest(center, 2e6, 20, &mut hits);
            assert_eq!((hits.capacity(), hits.as_ptr()), (capacity, memory));
        }
    }
}
