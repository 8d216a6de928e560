//! Points on the globe: distance, and degrees as text.

use crate::text::digits::put_digits;

/// The mean radius of the earth in meters (R1 of GRS 80), on which all distances are measured.
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// Most meters by which the rounding of the arithmetic may change a distance, with a wide margin: 180° E and
/// 180° W of the equator are a few nanometers apart. Comparisons with a radius allow for it.
pub const ROUNDING_M: f64 = 5e-7;

/// A point on the globe, in degrees. Latitude −90..=90, longitude −180..=180.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Degrees north of the equator.
    pub lat: f64,
    /// Degrees east of Greenwich.
    pub lng: f64,
}

impl Point {
    /// Returns the great-circle distance to `other` in meters, by the haversine formula. Unlike
    /// the spherical law of cosines, it is exact to a few nanometers for nearby points.
    #[must_use]
    pub fn distance_m(self, other: Self) -> f64 {
        let half_lat = ((other.lat - self.lat).to_radians() / 2.0).sin();
        let half_lng = ((other.lng - self.lng).to_radians() / 2.0).sin();
        let cosines = self.lat.to_radians().cos() * other.lat.to_radians().cos();
        let haversine = half_lat * half_lat + cosines * half_lng * half_lng;
        // Rounding may put antipodes slightly above 1.
        2.0 * EARTH_RADIUS_M * haversine.sqrt().min(1.0).asin()
    }
}

/// Appends degrees with as many decimals as needed, at most seven: one centimeter, and the
/// precision of Google's documents. The output is a JSON number for any input.
pub fn push_degrees(out: &mut Vec<u8>, degrees: f64) {
    const DECIMALS: usize = 7;
    // The cast saturates, and turns NaN into 0.
    let units = (degrees * 1e7).round() as i64;
    if units < 0 {
        out.push(b'-');
    }
    // At least one digit precedes the decimal point.
    let mut text = [b'0'; 20];
    let start = put_digits(&mut text, units.unsigned_abs()).min(text.len() - DECIMALS - 1);
    let point = text.len() - DECIMALS;
    out.extend_from_slice(&text[start..point]);
    out.push(b'.');
    let decimals = &text[point..];
    let zeros = decimals[1..].iter().rev().take_while(|&&digit| digit == b'0').count();
    out.extend_from_slice(&decimals[..DECIMALS - zeros]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn any_float_is_written_as_a_json_number() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "0.0"),
            (180.0, "180.0"),
            (-180.0, "-180.0"),
            (-0.5, "-0.5"),
            (0.000_000_1, "0.0000001"),
            (-0.000_000_04, "0.0"),
            (9.999_999_96, "10.0"),
            (34.068_93, "34.06893"),
            (-118.445_127, "-118.445127"),
            (f64::NAN, "0.0"),
            (f64::INFINITY, "922337203685.4775807"),
            (f64::NEG_INFINITY, "-922337203685.4775808"),
        ];
        for (degrees, text) in cases {
            let mut out = Vec::new();
            push_degrees(&mut out, degrees);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn distances_match_known_values() {
        let point = |lat, lng| Point { lat, lng };
        let quarter = EARTH_RADIUS_M * std::f64::consts::FRAC_PI_2;
        let cases = [
            (point(0.0, 0.0), point(0.0, 0.0), 0.0),
            (point(0.0, 0.0), point(90.0, 77.0), quarter),
            (point(-90.0, 12.0), point(90.0, -31.0), 2.0 * quarter),
            (point(0.0, 179.5), point(0.0, -179.5), quarter / 90.0),
            (point(90.0, 10.0), point(90.0, -170.0), 0.0),
            (point(0.0, 0.0), point(0.0, 180.0), 2.0 * quarter),
            // Los Angeles to Paris, on this sphere.
            (point(34.05, -118.25), point(48.85, 2.35), 9_085_000.0),
        ];
        for (from, to, meters) in cases {
            let tolerance = 1e-6 + meters * 2e-4;
            assert!((from.distance_m(to) - meters).abs() <= tolerance, "{from:?} to {to:?}");
            assert!((from.distance_m(to) - to.distance_m(from)).abs() < 1e-9);
        }
    }

    proptest! {
        #[test]
        fn degrees_round_trip_with_seven_decimals(units in -1_800_000_000..=1_800_000_000_i32) {
            let degrees = f64::from(units) / 1e7;
            let mut out = Vec::new();
            push_degrees(&mut out, degrees);
            let read: f64 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), (degrees + 0.0).to_bits());
        }
    }
}
