//! A static index of rectangles that finds those around a point.

use super::boxes::Bounds;
use super::rect::Units;
use crate::geo::Point;

/// Rectangles that do not change, in the cells of a grid with several levels (Ericson, "Real-Time Collision
/// Detection", 2005, section 7.2). A rectangle is in a level whose cells are at least as large as it is, and
/// therefore in at most four of them. A search looks at one cell per level.
#[derive(Debug, Default)]
pub struct Grid {
    levels: Vec<Level>,
}

/// The cells of one size, in a hash table without keys: that of a cell is not needed, since each of its
/// rectangles is compared with the position.
#[derive(Debug)]
struct Level {
    /// A cell has 2 to the power of this units on each side.
    bits: u32,
    /// Bits of a hash that do not determine the bucket.
    shift: u32,
    /// The end of the rectangles of each bucket in [`Level::entries`], after a zero.
    ends: Box<[u32]>,
    entries: Box<[Entry]>,
}

/// A rectangle, as a corner and the extent from it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    corner: [u32; 2],
    extent: [u32; 2],
    number: u32,
}

impl Grid {
    /// Builds the index of rectangles with these numbers.
    #[must_use]
    pub fn new(rectangles: impl Iterator<Item = (Bounds, u32)>) -> Self {
        let mut placed = Vec::new();
        for ([west, south, east, north], number) in rectangles {
            let corner = Units::of(Point { lng: west, lat: south }).0;
            let opposite = Units::of(Point { lng: east, lat: north }).0;
            let extent = [0, 1].map(|axis| opposite[axis].saturating_sub(corner[axis]));
            let bits = level_of(extent[0].max(extent[1]));
            let [columns, rows] = [0, 1].map(|axis| {
                cell_at(corner[axis], bits)..=cell_at(corner[axis] + extent[axis], bits)
            });
            for row in rows {
                placed.extend(
                    columns
                        .clone()
                        .map(|column| (bits, hash(column, row), Entry { corner, extent, number })),
                );
            }
        }
        placed.sort_unstable_by_key(|&(bits, hash, Entry { number, .. })| (bits, hash, number));
        let levels = placed.chunk_by(|one, other| one.0 == other.0).map(Level::new);
        Self { levels: levels.collect() }
    }

    /// Calls `found` with the number of every rectangle that contains `point`, in rare cases twice, and
    /// possibly with some that are a rounding error away.
    #[inline]
    pub fn visit(&self, point: Point, mut found: impl FnMut(u32)) {
        let Units([x, y]) = Units::of(point);
        for level in &self.levels {
            let bucket = level.bucket(hash(cell_at(x, level.bits), cell_at(y, level.bits)));
            let range = level.ends[bucket] as usize..level.ends[bucket + 1] as usize;
            for entry in &level.entries[range] {
                if entry.contains([x, y]) {
                    found(entry.number);
                }
            }
        }
    }
}

impl Level {
    /// The level with these entries, which are sorted by the hashes of their cells.
    fn new(placed: &[(u32, u64, Entry)]) -> Self {
        let buckets = placed.len().next_power_of_two().max(2);
        let shift = u64::BITS - buckets.ilog2();
        let mut ends = vec![0; buckets + 1];
        for &(_, hash, _) in placed {
            ends[(hash >> shift) as usize + 1] += 1;
        }
        for bucket in 1..=buckets {
            ends[bucket] += ends[bucket - 1];
        }
        let entries = placed.iter().map(|(.., entry)| *entry).collect();
        Self { bits: placed[0].0, shift, ends: ends.into(), entries }
    }

    const fn bucket(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize
    }
}

impl Entry {
    const fn contains(&self, [x, y]: [u32; 2]) -> bool {
        // What is below the corner wraps around to more than any extent.
        (x.wrapping_sub(self.corner[0]) <= self.extent[0])
            & (y.wrapping_sub(self.corner[1]) <= self.extent[1])
    }
}

/// Returns the level of rectangles of this extent. Every other power of two is one, so that there are few.
const fn level_of(extent: u32) -> u32 {
    (u32::BITS - extent.leading_zeros()).next_multiple_of(2)
}

/// Returns the number of a row or column. At the highest level there is only one.
const fn cell_at(units: u32, bits: u32) -> u32 {
    (units as u64 >> bits) as u32
}

/// Returns the hash of a cell, whose highest bits determine its bucket. The operator chooses the fences, so
/// a multiplication is enough (Knuth 1973, section 6.4).
const fn hash(column: u32, row: u32) -> u64 {
    ((column as u64) << 32 | row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Rectangles of all sizes, among them points, lines and the whole world.
    fn any_bounds() -> impl Strategy<Value = Bounds> {
        let side = || {
            let size = (-8.0..3.0_f64).prop_map(|power| 10_f64.powf(power));
            prop_oneof![4 => size, 1 => Just(0.0)]
        };
        (-180.0..=180.0_f64, -90.0..=90.0_f64, side(), side()).prop_map(
            |(west, south, width, height)| {
                [west, south, (west + width).min(180.0), (south + height).min(90.0)]
            },
        )
    }

    /// Points near the first rectangle, on its corners, and anywhere.
    fn any_place() -> impl Strategy<Value = (f64, f64)> {
        let near = || prop_oneof![Just(0.0), Just(1.0), -0.5..1.5_f64];
        prop_oneof![
            3 => (near(), near()),
            1 => (-1e9..1e9_f64, -1e9..1e9_f64),
        ]
    }

    proptest! {
        #[test]
        fn every_rectangle_that_contains_a_point_is_found(
            rectangles in proptest::collection::vec(any_bounds(), 1..200),
            places in proptest::collection::vec(any_place(), 1..20),
        ) {
            let grid = Grid::new(rectangles.iter().copied().zip(0..));
            let [west, south, east, north] = rectangles[0];
            for (x, y) in places {
                let lng = (west + x * (east - west)).clamp(-180.0, 180.0);
                let lat = (south + y * (north - south)).clamp(-90.0, 90.0);
                let mut found = Vec::new();
                grid.visit(Point { lat, lng }, |number| found.push(number as usize));
                found.sort_unstable();
                for (number, [west, south, east, north]) in rectangles.iter().enumerate() {
                    let within = |by: f64| {
                        (west - by..=east + by).contains(&lng) && (south - by..=north + by).contains(&lat)
                    };
                    let is_found = found.binary_search(&number).is_ok();
                    prop_assert!(is_found || !within(0.0), "{number} is not found");
                    prop_assert!(!is_found || within(2e-7), "{number} is too far away");
                }
            }
        }
    }

    #[test]
    fn a_rectangle_is_in_at_most_four_cells() {
        for extent in [0, 1, 2, 3, 4, 255, 256, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let bits = level_of(extent);
            assert!(u64::from(extent) < 1 << bits && bits <= 32, "{extent} {bits}");
        }
        let world = [-180.0, -90.0, 180.0, 90.0];
        let grid = Grid::new([(world, 0), ([10.0, 10.0, 10.000_01, 10.000_01], 1)].into_iter());
        assert_eq!(grid.levels.len(), 2);
        assert!(grid.levels.iter().all(|level| level.entries.len() <= 4));
    }
}
