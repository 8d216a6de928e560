//! The question that a WHATSAT asks about places.

use crate::geo::Point;

/// A circle around a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// The center of the circle.
    pub center: Point,
    /// The radius in meters, 0 to 50,000.
    pub radius_m: f64,
}

/// The identity of a question: questions with equal keys have byte-for-byte equal requests, so
/// they can share one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key([u64; 3]);

impl Question {
    pub(super) fn key(&self) -> Key {
        // Adding 0.0 turns −0.0 into 0.0, to which it is equal.
        Key([self.center.lat, self.center.lng, self.radius_m].map(|x| (x + 0.0).to_bits()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CENTER: Point = Point { lat: 34.068_93, lng: -118.445_127 };

    #[test]
    fn keys_are_equal_if_the_requests_are() {
        let question = |lat, radius_m| Question { center: Point { lat, ..CENTER }, radius_m };
        assert_eq!(question(0.0, 1.0).key(), question(-0.0, 1.0).key());
        assert_ne!(question(0.0, 1.0).key(), question(0.0, 1.5).key());
        assert_ne!(question(0.0, 1.0).key(), question(0.1, 1.0).key());
    }
}
