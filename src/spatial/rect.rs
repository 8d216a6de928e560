//! Cells of the quadtree as rectangles on the sphere.

use crate::geo::{EARTH_RADIUS_M, Point};

/// Coordinate units per degree: one centimeter on the ground.
pub const UNITS_PER_DEGREE: f64 = 1e7;

/// 180 degrees, in units.
const HALF_TURN: i64 = 1_800_000_000;

/// The side of the square that the tree divides, in units: more than a full turn.
const SIDE_BITS: u32 = 32;

/// The depth at which cells are no longer divided: they measure 256 units, about three meters.
pub const MAX_DEPTH: u8 = 24;

/// Most meters by which a coordinate in units may differ from the location that it stands for: half a
/// unit on each axis, and as much again for the rounding of the floating-point arithmetic.
pub const SLACK_M: f64 = 0.02;

/// A position in units, counted from 180° W and 180° S. Axis 0 is longitude, axis 1 latitude.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Units(pub [u32; 2]);

impl Units {
    /// Returns the position of `point`.
    #[must_use]
    pub fn of(point: Point) -> Self {
        // The casts saturate, and turn NaN into 0.
        let units = |degrees: f64| (degrees * UNITS_PER_DEGREE).round() as i64 + HALF_TURN;
        Self([point.lng, point.lat].map(|degrees| units(degrees).clamp(0, 2 * HALF_TURN) as u32))
    }

    /// Returns whether the same cell of this depth contains both positions.
    #[must_use]
    pub fn shares_cell(self, other: Self, depth: u32) -> bool {
        let differing = (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]);
        depth <= differing.leading_zeros()
    }

    /// Returns the point at this position.
    #[must_use]
    pub fn point(self) -> Point {
        let [lng, lat] = self.0.map(|units| degrees(i64::from(units)));
        Point { lat, lng }
    }
}

fn degrees(units: i64) -> f64 {
    (units - HALF_TURN) as f64 / UNITS_PER_DEGREE
}

/// A square of the quadtree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// The lesser corner, by axis.
    corner: [u32; 2],
    depth: u8,
}

impl Cell {
    /// The square that contains everything.
    pub const ROOT: Self = Self { corner: [0, 0], depth: 0 };

    /// Returns the depth below the root.
    #[must_use]
    pub const fn depth(self) -> u8 {
        self.depth
    }

    /// Returns the number of the quarter that contains `position`, from 0 to 3.
    #[must_use]
    pub const fn quarter_of(self, position: Units) -> usize {
        let shift = SIDE_BITS - 1 - self.depth as u32;
        let [lng, lat] = position.0;
        ((lng >> shift & 1) + 2 * (lat >> shift & 1)) as usize
    }

    /// Returns one quarter of this cell.
    #[must_use]
    pub const fn quarter(self, quarter: usize) -> Self {
        let shift = SIDE_BITS - 1 - self.depth as u32;
        let [lng, lat] = self.corner;
        let corner =
            [lng | ((quarter as u32 & 1) << shift), lat | ((quarter as u32 >> 1) << shift)];
        Self { corner, depth: self.depth + 1 }
    }

    /// Returns the position of the lesser corner.
    #[must_use]
    pub const fn corner(self) -> Units {
        Units(self.corner)
    }

    /// Returns true if this cell contains `position`.
    #[must_use]
    pub fn contains(self, position: Units) -> bool {
        let mask = u32::MAX.checked_shl(SIDE_BITS - u32::from(self.depth)).unwrap_or(0);
        position.0.map(|units| units & mask) == self.corner
    }

    /// Returns a lower bound of the distance in meters from `center` to every point in this cell.
    ///
    /// Within the cell's range of longitudes, the nearest point is due north or south. Otherwise it
    /// is on one of the two meridians that bound the cell. Along a meridian, the cosine of the
    /// distance is `a·cos(latitude − peak)`, so the nearest point is the peak, or an end if the peak
    /// is not within the cell.
    #[must_use]
    pub fn distance_m(self, center: Point) -> f64 {
        let side = 1_i64 << (SIDE_BITS - u32::from(self.depth));
        let [west, south] = self.corner.map(i64::from);
        let bounds = |low: i64| [degrees(low), degrees((low + side - 1).min(2 * HALF_TURN))];
        let ([west, east], [south, north]) = (bounds(west), bounds(south));
        let (south, north) = (south.max(-90.0), north.min(90.0));
        if south > north {
            return f64::INFINITY; // beyond a pole: nothing is there
        }
        if west <= center.lng && center.lng <= east {
            let away = (south - center.lat).max(center.lat - north).max(0.0);
            return (away.to_radians() * EARTH_RADIUS_M - SLACK_M).max(0.0);
        }
        let nearest = |meridian: f64| {
            let turn = (meridian - center.lng).to_radians();
            let (sin, cos) = center.lat.to_radians().sin_cos();
            let peak = sin.atan2(cos * turn.cos()).to_degrees();
            let to = |lat: f64| center.distance_m(Point { lat, lng: meridian });
            let ends = to(south).min(to(north));
            if (south..=north).contains(&peak) { ends.min(to(peak)) } else { ends }
        };
        (nearest(west).min(nearest(east)) - SLACK_M).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quarters_divide_a_cell() {
        let position = Units::of(Point { lat: 34.07, lng: -118.44 });
        let mut cell = Cell::ROOT;
        for depth in 0..MAX_DEPTH {
            assert_eq!(cell.depth(), depth);
            assert!(cell.contains(position));
            let quarter = cell.quarter_of(position);
            for other in 0..4 {
                assert_eq!(cell.quarter(other).contains(position), other == quarter);
            }
            cell = cell.quarter(quarter);
        }
    }

    fn any_point() -> impl Strategy<Value = Point> {
        let lat = prop_oneof![-90.0..=90.0_f64, Just(90.0), Just(-90.0), 89.9..90.0_f64];
        let lng = prop_oneof![-180.0..=180.0_f64, Just(180.0), Just(-180.0), 179.9..180.0_f64];
        (lat, lng).prop_map(|(lat, lng)| Point { lat, lng })
    }

    proptest! {
        #[test]
        fn the_bound_is_never_above_a_distance_and_close_to_the_least(
            center in any_point(),
            point in any_point(),
            depth in 0..MAX_DEPTH,
        ) {
            let position = Units::of(point);
            let mut cell = Cell::ROOT;
            for _ in 0..depth {
                cell = cell.quarter(cell.quarter_of(position));
            }
            let (bound, distance) = (cell.distance_m(center), center.distance_m(point));
            prop_assert!(bound <= distance, "{bound} > {distance}");
            // The diagonal of a cell is at most this long.
            let diagonal = 2.0_f64.powi(32 - i32::from(depth)) / UNITS_PER_DEGREE * 111_195.1 * 1.5;
            prop_assert!(bound + diagonal + 1.0 >= distance, "{bound} + {diagonal} < {distance}");
        }
    }
}
