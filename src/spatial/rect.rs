//! Cells of the quadtree as rectangles on the sphere.

use core::f64::consts::FRAC_PI_2;

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
        const HALF_TURN_AND_HALF_A_UNIT: f64 = HALF_TURN as f64 + 0.5;
        // The cast rounds down, saturates, and turns NaN into 0.
        let units = |degrees: f64| (degrees * UNITS_PER_DEGREE + HALF_TURN_AND_HALF_A_UNIT) as u32;
        Self([point.lng, point.lat].map(|degrees| units(degrees).min(2 * HALF_TURN as u32)))
    }

    /// Returns the depth of the smallest cell that contains both positions.
    #[must_use]
    pub const fn common_depth(self, other: Self) -> u8 {
        let differing = (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]);
        differing.leading_zeros() as u8 // at most 32
    }

    /// Returns the number of the quarter of its cell of this depth that contains the position, from 0 to 3.
    #[must_use]
    pub const fn quarter(self, depth: u8) -> usize {
        let shift = SIDE_BITS - 1 - depth as u32;
        let [lng, lat] = self.0;
        ((lng >> shift & 1) + 2 * (lat >> shift & 1)) as usize
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

    /// Returns the parallels and meridians that bound the cell, in degrees: west, south, east, north.
    fn bounds(self) -> [f64; 4] {
        let side = 1_i64 << (SIDE_BITS - u32::from(self.depth));
        let [west, south] = self.corner.map(i64::from);
        let end = |low: i64| degrees((low + side - 1).min(2 * HALF_TURN));
        [degrees(west), degrees(south).max(-90.0), end(west), end(south).min(90.0)]
    }

    /// Returns the least cosine of a latitude in the cell.
    #[must_use]
    pub fn least_cosine(self) -> f64 {
        let [_, south, _, north] = self.bounds();
        south.abs().max(north.abs()).to_radians().cos().max(0.0)
    }
}

/// The center of a search. It bounds distances from below by their haversines, sin² of half the angle,
/// which increase with the distance and need no trigonometry for most points.
#[derive(Clone, Copy, Debug, Default)]
pub struct Center {
    /// The center.
    pub point: Point,
    cosine: f64,
}

impl Center {
    /// The center at `point`.
    #[must_use]
    pub fn new(point: Point) -> Self {
        Self { point, cosine: point.lat.to_radians().cos().max(0.0) }
    }

    /// Returns a lower bound of the haversine of the distance to a position in a cell whose least cosine of
    /// a latitude is this.
    #[must_use]
    pub fn bound(&self, position: Units, least_cosine: f64) -> f64 {
        let Point { lat, lng } = position.point();
        let turn = turn(lng - self.point.lng);
        half_sine_squared((lat - self.point.lat).abs())
            + self.cosine * least_cosine * half_sine_squared(turn)
    }

    /// Returns a lower bound of the haversine of the distance to every point in a cell: no point is nearer
    /// in latitude or in longitude than the cell, or has a lesser cosine of its latitude.
    #[must_use]
    pub fn bound_of_cell(&self, cell: Cell) -> f64 {
        let [west, south, east, north] = cell.bounds();
        if south > north {
            return f64::INFINITY; // beyond a pole: nothing is there
        }
        let Point { lat, lng } = self.point;
        let away = half_sine_squared((south - lat).max(lat - north).max(0.0));
        if west <= lng && lng <= east {
            return away;
        }
        let turn = turn(west - lng).min(turn(east - lng));
        away + self.cosine * cell.least_cosine() * half_sine_squared(turn)
    }
}

/// Returns the haversine beyond which the distance is certainly more than `meters`.
#[must_use]
pub fn haversine_beyond(meters: f64) -> f64 {
    /// Rounding, which matters at the antipodes, where distances change faster than haversines.
    const MARGIN: f64 = 1.0 + 1e-14;
    let half_angle = (meters + SLACK_M) / (2.0 * EARTH_RADIUS_M);
    let sine = if half_angle < FRAC_PI_2 { half_angle.sin() } else { 1.0 };
    sine * sine * MARGIN
}

/// Returns the absolute difference of two longitudes, given as any difference.
fn turn(degrees: f64) -> f64 {
    let turn = degrees.abs();
    if turn > 180.0 { 360.0 - turn } else { turn }
}

/// Returns a lower bound of sin² of half an angle that is not negative: exact, or the first terms of its
/// series, which are too small by at most 2·10⁻⁵ of it.
fn half_sine_squared(degrees: f64) -> f64 {
    let angle = degrees.to_radians();
    let square = angle * angle;
    if square < 0.09 {
        return square / 4.0 * (1.0 - square / 12.0);
    }
    let sine = (angle / 2.0).sin();
    sine * sine
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
            let quarter = position.quarter(depth);
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
        fn the_bounds_are_never_above_a_distance_and_close_to_the_least(
            center in any_point(),
            point in any_point(),
            depth in 0..MAX_DEPTH,
        ) {
            let position = Units::of(point);
            let mut cell = Cell::ROOT;
            for _ in 0..depth {
                cell = cell.quarter(position.quarter(cell.depth()));
            }
            let distance = center.distance_m(point);
            let center = Center::new(center);
            let of_cell = center.bound_of_cell(cell);
            let of_point = center.bound(position, cell.least_cosine());
            let beyond = haversine_beyond(distance);
            prop_assert!(of_cell <= beyond && of_point <= beyond, "{of_cell} {of_point} {beyond}");
            // A haversine changes by at most half the sine of the angle per radian, which vanishes at the
            // center and at its antipode; the least cosine adds the side of the cell again.
            let root = (distance / (2.0 * EARTH_RADIUS_M)).sin();
            let haversine = root * root;
            let side = (2.0_f64.powi(32 - i32::from(depth)) / UNITS_PER_DEGREE).to_radians();
            let slack = 3.0 * side * (root + side) + 3e-5 * haversine + 1e-13;
            for bound in [of_cell, of_point] {
                prop_assert!(bound + slack >= haversine, "{bound} + {slack} < {haversine}");
            }
        }
    }
}
