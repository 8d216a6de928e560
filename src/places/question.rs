//! What a WHATSAT asks a provider.

use super::document::Point;

/// A circle around a point: where, and how far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    /// The middle of the circle.
    pub center: Point,
    /// The radius in metres, 0 to 50,000.
    pub radius_m: f64,
}

/// Two questions with one key get one answer: their requests are the same, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key([u64; 3]);

impl Question {
    pub(super) fn key(&self) -> Key {
        // Adding 0.0 makes −0.0 the 0.0 that it equals.
        Key([self.center.lat, self.center.lng, self.radius_m].map(|x| (x + 0.0).to_bits()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CENTER: Point = Point { lat: 34.068_93, lng: -118.445_127 };

    #[test]
    fn the_key_is_what_the_provider_sees() {
        let question = |lat, radius_m| Question { center: Point { lat, ..CENTER }, radius_m };
        assert_eq!(question(0.0, 1.0).key(), question(-0.0, 1.0).key());
        assert_ne!(question(0.0, 1.0).key(), question(0.0, 1.5).key());
        assert_ne!(question(0.0, 1.0).key(), question(0.1, 1.0).key());
    }
}
