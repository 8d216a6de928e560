//! Positions of clients, and boxes on a map.

use crate::protocol::location::Location;

/// A point on the globe in ten-millionths of a degree: a resolution of about a centimeter in eight
/// bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    latitude: i32,
    longitude: i32,
}

/// A box between two parallels, and from one meridian eastward to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Southwest corner.
    pub southwest: Position,
    /// Northeast corner. If its longitude is less than that of `southwest`, the box crosses the
    /// antimeridian (RFC 7946, section 5.2).
    pub northeast: Position,
}

impl Position {
    /// Returns the point nearest to these degrees.
    #[must_use]
    pub fn new(latitude: f64, longitude: f64) -> Self {
        let units = |degrees: f64| (degrees * 1e7).round() as i32;
        Self { latitude: units(latitude), longitude: units(longitude) }
    }
}

impl From<Location<'_>> for Position {
    fn from(location: Location<'_>) -> Self {
        Self::new(location.latitude(), location.longitude())
    }
}

impl Bounds {
    /// Returns whether `position` is in the box. Edges are inside.
    #[must_use]
    pub const fn contains(&self, position: Position) -> bool {
        let (west, east) = (self.southwest.longitude, self.northeast.longitude);
        let longitude = position.longitude;
        let between = if west <= east {
            west <= longitude && longitude <= east
        } else {
            west <= longitude || longitude <= east
        };
        between
            && self.southwest.latitude <= position.latitude
            && position.latitude <= self.northeast.latitude
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_include_their_edges_and_may_cross_the_antimeridian() {
        let bounds = |south, west, north, east| Bounds {
            southwest: Position::new(south, west),
            northeast: Position::new(north, east),
        };
        let at = Position::new;
        let plain = bounds(-10.0, -20.0, 10.0, 20.0);
        for (lat, lng) in [(0.0, 0.0), (10.0, 20.0), (-10.0, -20.0)] {
            assert!(plain.contains(at(lat, lng)), "{lat} {lng}");
        }
        for (lat, lng) in [(10.000_000_1, 0.0), (0.0, -20.000_000_1), (-11.0, 0.0), (0.0, 180.0)] {
            assert!(!plain.contains(at(lat, lng)), "{lat} {lng}");
        }
        let fiji = bounds(-20.0, 177.0, -15.0, -178.0);
        for lng in [177.0, 179.9, 180.0, -180.0, -178.0] {
            assert!(fiji.contains(at(-18.0, lng)), "{lng}");
        }
        for lng in [176.9, 0.0, -177.9] {
            assert!(!fiji.contains(at(-18.0, lng)), "{lng}");
        }
    }
}
