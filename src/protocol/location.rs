//! Locations: `±latitude±longitude` in decimal degrees (ISO 6709).

use core::cmp::Ordering;

use super::decimal::{Decimal, plain_at, plain_value_at};
use super::next_field;

/// A validated location: |latitude| ≤ 90 and |longitude| ≤ 180, compared exactly.
#[derive(Clone, Copy, Debug)]
pub struct Location<'a> {
    south: bool,
    latitude: Decimal<'a>,
    west: bool,
    longitude: Decimal<'a>,
}

impl<'a> Location<'a> {
    /// Parses a complete field: sign, degrees, sign, degrees, and an optional `/`, the terminator
    /// of ISO 6709. Altitude and the degrees-minutes form are not supported.
    #[must_use]
    pub fn parse(field: &'a [u8]) -> Option<Self> {
        let sign = |at: usize| match field.get(at)? {
            b'+' => Some(false),
            b'-' => Some(true),
            _ => None,
        };
        let south = sign(0)?;
        let (latitude, end) = Decimal::parse_at(field, 1)?;
        let west = sign(end)?;
        let (longitude, end) = Decimal::parse_at(field, end + 1)?;
        let ended = matches!(field.get(end..), Some(b"" | b"/"));
        let in_range = latitude.cmp_integer(90) != Ordering::Greater
            && longitude.cmp_integer(180) != Ordering::Greater;
        (ended && in_range).then_some(Self { south, latitude, west, longitude })
    }

    /// Returns the end of the longest location that starts at `at`, if its degrees have few digits and
    /// are below their limits, as nearly always. If it returns `None`, the location may be valid.
    #[must_use]
    #[inline]
    pub fn plain_end(bytes: &[u8], at: usize) -> Option<usize> {
        let is_sign = |at: usize| matches!(bytes.get(at), Some(b'+' | b'-'));
        let (latitude, end) = plain_at(bytes, at + 1)?;
        let (longitude, last) = plain_at(bytes, end + 1)?;
        let is_valid = is_sign(at) && latitude < 90 && is_sign(end) && longitude < 180;
        is_valid.then(|| last + usize::from(bytes.get(last) == Some(&b'/')))
    }

    /// Latitude in degrees, −90..=90, positive north of the equator.
    #[must_use]
    pub fn latitude(&self) -> f64 {
        signed(self.south, self.latitude.to_f64(0))
    }

    /// Longitude in degrees, −180..=180, positive east of Greenwich.
    #[must_use]
    pub fn longitude(&self) -> f64 {
        signed(self.west, self.longitude.to_f64(0))
    }
}

impl Location<'_> {
    /// Appends the latitude with all its digits, as a JSON number.
    pub fn push_latitude(&self, out: &mut Vec<u8>) {
        push(out, self.south, self.latitude);
    }

    /// Appends the longitude with all its digits, as a JSON number.
    pub fn push_longitude(&self, out: &mut Vec<u8>) {
        push(out, self.west, self.longitude);
    }
}

fn push(out: &mut Vec<u8>, negative: bool, degrees: Decimal<'_>) {
    if negative {
        out.push(b'-');
    }
    degrees.push(out);
}

/// Returns latitude and longitude of the field that `text` begins with, as [`Location::latitude`] and
/// [`Location::longitude`] do, or `None` if it is not a location. Several times as fast unless a number has
/// many digits.
#[must_use]
#[inline]
pub fn degrees(text: &[u8]) -> Option<(f64, f64)> {
    let (latitude, longitude) = plain_degrees(text);
    if latitude.is_nan() { any_degrees(text) } else { Some((latitude, longitude)) }
}

/// As [`degrees`], if the numbers have few digits, as nearly always, and otherwise not a number. Two numbers
/// are returned in registers, an option of them is not.
fn plain_degrees(text: &[u8]) -> (f64, f64) {
    plain_pair(text).unwrap_or((f64::NAN, f64::NAN))
}

#[inline]
fn plain_pair(text: &[u8]) -> Option<(f64, f64)> {
    let (mut values, mut at) = ([0.0; 2], 0);
    // In a loop, the parser of numbers is compiled into this function.
    for value in &mut values {
        let negative = match text.get(at)? {
            b'+' => false,
            b'-' => true,
            _ => return None,
        };
        let (number, end) = plain_value_at(text, at + 1)?;
        (*value, at) = (signed(negative, number), end);
    }
    let [latitude, longitude] = values;
    at += usize::from(text.get(at) == Some(&b'/'));
    let has_ended = matches!(text.get(at), None | Some(b' '));
    let is_valid = has_ended && latitude.abs() <= 90.0 && longitude.abs() <= 180.0;
    is_valid.then_some((latitude, longitude))
}

#[inline(never)] // keeps the common case small
fn any_degrees(text: &[u8]) -> Option<(f64, f64)> {
    let location = Location::parse(next_field(text)?.0)?;
    Some((location.latitude(), location.longitude()))
}

fn signed(negative: bool, value: f64) -> f64 {
    // "-0" must not be printed as −0 in a request to a provider.
    if negative && value != 0.0 { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn degrees_keep_their_digits_and_are_json_numbers() {
        for (field, latitude, longitude) in [
            ("+34.068930-118.445127", "34.068930", "-118.445127"),
            ("-00034.50+.5", "-34.50", "0.5"),
            ("+1.-000.", "1", "-0"),
            ("+90.000000000000000000000000000000-180", "90.000000000000000000000000000000", "-180"),
        ] {
            let location = Location::parse(field.as_bytes()).unwrap();
            let (mut lat, mut lon) = (Vec::new(), Vec::new());
            location.push_latitude(&mut lat);
            location.push_longitude(&mut lon);
            assert_eq!(
                (lat.as_slice(), lon.as_slice()),
                (latitude.as_bytes(), longitude.as_bytes())
            );
            serde_json::from_slice::<f64>(&lat).unwrap();
            serde_json::from_slice::<f64>(&lon).unwrap();
        }
    }

    #[test]
    fn grammar_and_range() {
        for good in [
            "+34.068930-118.445127",
            "+12-118",
            "-90-180",
            "+90.000+180.0",
            "+.5-.5",
            "+1.-2.",
            "+34.068930-118.445127/",
            "+0-0",
            "+00034-0118",
        ] {
            assert!(Location::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "",
            "+",
            "34-118",
            "+34",
            "+34-",
            "+-118",
            "+90.00000000000000000001-1",
            "+1+180.0000000000000000001",
            "+1-1//",
            "+1-1/x",
            "+1-1+100",
            "+1-1+100/",
            "+1e1-1",
            "+1 -1",
            "++1-1",
            "+nan-inf",
            "+.-.",
        ] {
            assert!(Location::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_plain_location_is_valid(field in "[+-]?[0-9]{0,9}[.x]?[0-9]{0,9}[+-]?[0-9]{0,3}[.]?[0-9]{0,9}/?[ /0-9.]?") {
            let field = field.as_bytes();
            if let Some(end) = Location::plain_end(field, 0) {
                prop_assert!(Location::parse(&field[..end]).is_some());
                prop_assert!(end == field.len() || Location::parse(&field[..=end]).is_none());
            }
        }
    }

    #[test]
    fn degrees() {
        let ucla = Location::parse(b"+34.068930-118.445127").unwrap();
        assert!((ucla.latitude() - 34.068_930).abs() < 1e-12);
        assert!((ucla.longitude() + 118.445_127).abs() < 1e-12);
        let zero = Location::parse(b"-0-0.0").unwrap();
        assert!(zero.latitude().is_sign_positive() && zero.longitude().is_sign_positive());
    }

    proptest! {
        #[test]
        fn degrees_have_the_same_value_in_one_pass(
            field in "[+-]0{0,2}[0-9]{0,3}[.]?[0-9]{0,16}[+-]0{0,2}[0-9]{0,3}[.]?[0-9]{0,16}[/.+]?",
            near_bound in "[+-]90[.]0{0,13}[01]?[-+]180[.]0{0,13}[01]?/?",
            plain in "[+-][0-9]{1,2}[.][0-9]{0,9}[-+][0-9]{1,3}[.][0-9]{0,9}/?",
            rest in "( 1621464827[.]5)?",
        ) {
            for field in [field, near_bound, plain] {
                let expected = Location::parse(field.as_bytes());
                let expected = expected.map(|it| (it.latitude(), it.longitude()));
                let bits = |(lat, lng): (f64, f64)| (lat.to_bits(), lng.to_bits());
                let found = super::degrees(format!("{field}{rest}").as_bytes());
                prop_assert_eq!(found.map(bits), expected.map(bits));
            }
        }
    }
}
