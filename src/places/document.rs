//! The Nearby Search document: what a WHATSAT reply carries behind its AT line.
//!
//! Shape: <https://developers.google.com/maps/documentation/places/web-service/search-nearby>,
//! whatever the source of the places. Everything here appends to the reply's buffer, allocates
//! nothing beyond it, and leaves the newlines that end the reply to the caller.

use crate::text::digits::put_digits;
use crate::text::json::push_string;

/// The mean radius of the earth, R1 of GRS 80, in metres: what all distances here are measured on.
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// A point on the globe, in degrees. Latitude −90..=90, longitude −180..=180.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Degrees north of the equator.
    pub lat: f64,
    /// Degrees east of Greenwich.
    pub lng: f64,
}

impl Point {
    /// The great-circle distance to `other` in metres, by the haversine formula: exact to a few
    /// nanometres for near points, where the law of cosines is not.
    #[must_use]
    pub fn distance_m(self, other: Self) -> f64 {
        let half_lat = ((other.lat - self.lat).to_radians() / 2.0).sin();
        let half_lng = ((other.lng - self.lng).to_radians() / 2.0).sin();
        let cosines = self.lat.to_radians().cos() * other.lat.to_radians().cos();
        let haversine = half_lat * half_lat + cosines * half_lng * half_lng;
        // Rounding may lift antipodes a little over 1.
        2.0 * EARTH_RADIUS_M * haversine.sqrt().min(1.0).asin()
    }
}

/// One result, as it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place<'a> {
    /// What people call it.
    pub name: &'a str,
    /// Where it is, for people: a region and country, or an address.
    pub vicinity: &'a str,
    /// A stable identifier of the place, if its source has one.
    pub place_id: Option<&'a str>,
    /// What it is, in Google's vocabulary (`locality`, `airport`); none if not known.
    pub types: &'a [&'a str],
    /// Where it is, if its source says so.
    pub location: Option<Point>,
}

/// The outcome, as a document names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There are results.
    Ok,
    /// All went well, and nothing was found.
    ZeroResults,
    /// The provider failed, or could not be reached in time; trying again may help.
    UnknownError,
    /// The provider, or the node's own budget for it, takes no more requests for now.
    OverQueryLimit,
    /// The provider refuses to answer this node; somebody must change something.
    RequestDenied,
}

impl Status {
    /// The name that stands in the document.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::ZeroResults => "ZERO_RESULTS",
            Self::UnknownError => "UNKNOWN_ERROR",
            Self::OverQueryLimit => "OVER_QUERY_LIMIT",
            Self::RequestDenied => "REQUEST_DENIED",
        }
    }
}

/// Writes one document, place by place, behind what `out` holds already.
///
/// The status follows from the places: `OK` with any, `ZERO_RESULTS` without.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    results: usize,
}

impl<'o> Writer<'o> {
    /// Opens a document. `attributions` are what the source of the places asks to be shown with
    /// them, in HTML.
    pub fn new(out: &'o mut Vec<u8>, attributions: &[impl AsRef<str>]) -> Self {
        out.extend_from_slice(b"{\n  \"html_attributions\": ");
        push_strings(out, attributions, b"\n    ", b"\n  ]");
        out.extend_from_slice(b",\n  \"results\": [");
        Self { out, results: 0 }
    }

    /// Appends one result. Results stand in the order of the calls.
    pub fn place(&mut self, place: &Place<'_>) {
        let out = &mut *self.out;
        out.extend_from_slice(if self.results == 0 { b"\n    {" } else { b",\n    {" });
        self.results += 1;
        if let Some(point) = place.location {
            out.extend_from_slice(b"\n      \"geometry\": {\n        \"location\": {");
            out.extend_from_slice(b"\n          \"lat\": ");
            push_degrees(out, point.lat);
            out.extend_from_slice(b",\n          \"lng\": ");
            push_degrees(out, point.lng);
            out.extend_from_slice(b"\n        }\n      },");
        }
        out.extend_from_slice(b"\n      \"name\": ");
        push_string(out, place.name);
        if let Some(place_id) = place.place_id {
            out.extend_from_slice(b",\n      \"place_id\": ");
            push_string(out, place_id);
        }
        if !place.types.is_empty() {
            out.extend_from_slice(b",\n      \"types\": ");
            push_strings(out, place.types, b"\n        ", b"\n      ]");
        }
        out.extend_from_slice(b",\n      \"vicinity\": ");
        push_string(out, place.vicinity);
        out.extend_from_slice(b"\n    }");
    }

    /// Closes the document.
    pub fn finish(self) {
        let status = if self.results == 0 { Status::ZeroResults } else { Status::Ok };
        if self.results > 0 {
            self.out.extend_from_slice(b"\n  ");
        }
        self.out.extend_from_slice(b"],\n  \"status\": ");
        push_string(self.out, status.as_str());
        self.out.extend_from_slice(b"\n}");
    }
}

/// Appends a document without results: what happened, and in `message` what to do about it.
pub fn write_failure(out: &mut Vec<u8>, status: Status, message: &str) {
    out.extend_from_slice(b"{\n  \"error_message\": ");
    push_string(out, message);
    out.extend_from_slice(b",\n  \"html_attributions\": [],\n  \"results\": [],\n  \"status\": ");
    push_string(out, status.as_str());
    out.extend_from_slice(b"\n}");
}

/// A JSON array of strings, one a line, or `[]`.
fn push_strings(out: &mut Vec<u8>, strings: &[impl AsRef<str>], indent: &[u8], end: &[u8]) {
    if strings.is_empty() {
        out.extend_from_slice(b"[]");
        return;
    }
    for (index, string) in strings.iter().enumerate() {
        out.push(if index == 0 { b'[' } else { b',' });
        out.extend_from_slice(indent);
        push_string(out, string.as_ref());
    }
    out.extend_from_slice(end);
}

/// Degrees with as many decimals as are needed, seven at most: a centimetre, and what Google
/// writes. Always a JSON number, whatever is given.
pub fn push_degrees(out: &mut Vec<u8>, degrees: f64) {
    const DECIMALS: usize = 7;
    // A float that is no number, or none of this globe, is cast to the nearest integer or 0.
    let units = (degrees * 1e7).round() as i64;
    if units < 0 {
        out.push(b'-');
    }
    // Digits from the last to the first, and a zero before the point if there is none.
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
    use serde_json::{Value, json};

    fn written(attributions: &[&str], places: &[Place<'_>]) -> String {
        let mut out = b"AT line\n".to_vec();
        let mut writer = Writer::new(&mut out, attributions);
        for place in places {
            writer.place(place);
        }
        writer.finish();
        let text = String::from_utf8(out).unwrap();
        text.strip_prefix("AT line\n").unwrap().to_owned()
    }

    /// The same document by an independent writer.
    fn expected(attributions: &[&str], places: &[Place<'_>]) -> String {
        let results: Vec<Value> = places
            .iter()
            .map(|place| {
                let mut result = serde_json::Map::new();
                if let Some(Point { lat, lng }) = place.location {
                    let location = json!({"location": {"lat": lat, "lng": lng}});
                    result.insert("geometry".to_owned(), location);
                }
                result.insert("name".to_owned(), place.name.into());
                if let Some(place_id) = place.place_id {
                    result.insert("place_id".to_owned(), place_id.into());
                }
                if !place.types.is_empty() {
                    result.insert("types".to_owned(), place.types.into());
                }
                result.insert("vicinity".to_owned(), place.vicinity.into());
                result.into()
            })
            .collect();
        let status = if places.is_empty() { "ZERO_RESULTS" } else { "OK" };
        let document =
            json!({"html_attributions": attributions, "results": results, "status": status});
        serde_json::to_string_pretty(&document).unwrap()
    }

    #[test]
    fn the_document_is_byte_for_byte_this() {
        let place = Place {
            name: "Westwood \"Village\"",
            vicinity: "California, United States",
            place_id: Some("geonames:5408211"),
            types: &["locality", "political"],
            location: Some(Point { lat: 34.056_12, lng: -118.430_630_2 }),
        };
        let text = r#"{
  "html_attributions": [
    "GeoNames"
  ],
  "results": [
    {
      "geometry": {
        "location": {
          "lat": 34.05612,
          "lng": -118.4306302
        }
      },
      "name": "Westwood \"Village\"",
      "place_id": "geonames:5408211",
      "types": [
        "locality",
        "political"
      ],
      "vicinity": "California, United States"
    }
  ],
  "status": "OK"
}"#;
        assert_eq!(written(&["GeoNames"], &[place]), text);
        let nothing = "{\n  \"html_attributions\": [],\n  \"results\": [],\n  \"status\": \"ZERO_RESULTS\"\n}";
        assert_eq!(written(&[], &[]), nothing);
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let mut out = Vec::new();
        write_failure(&mut out, Status::RequestDenied, "the key is refused:\ncheck it");
        let document: Value = serde_json::from_slice(&out).unwrap();
        let expected = json!({
            "error_message": "the key is refused:\ncheck it",
            "html_attributions": [],
            "results": [],
            "status": "REQUEST_DENIED",
        });
        assert_eq!(document, expected);
        assert_eq!(out, serde_json::to_vec_pretty(&expected).unwrap());
    }

    #[test]
    fn degrees_are_json_numbers_whatever_is_given() {
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
    fn distances_agree_with_known_ones() {
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
        for (from, to, metres) in cases {
            let tolerance = 1e-6 + metres * 2e-4;
            assert!((from.distance_m(to) - metres).abs() <= tolerance, "{from:?} to {to:?}");
            assert!((from.distance_m(to) - to.distance_m(from)).abs() < 1e-9);
        }
    }

    proptest! {
        #[test]
        fn any_document_is_as_an_independent_writer_has_it(
            name in any::<String>(),
            vicinity in "[\\x00-\\x7f]{0,40}",
            place_id in proptest::option::of(any::<String>()),
            kinds in proptest::collection::vec(any::<String>(), 0..3),
            lat in -900_000_000..=900_000_000_i32,
            lng in -1_800_000_000..=1_800_000_000_i32,
            count in 0..4_usize,
        ) {
            // Eighths of a degree have no exponent in either writer.
            let location = Point { lat: f64::from(lat / 1_250_000) / 8.0, lng: f64::from(lng / 1_250_000) / 8.0 };
            let types: Vec<&str> = kinds.iter().map(String::as_str).collect();
            let place = Place {
                name: &name,
                vicinity: &vicinity,
                place_id: place_id.as_deref(),
                types: &types,
                location: Some(location),
            };
            let places = vec![place; count];
            let text = written(&types, &places);
            prop_assert_eq!(&text, &expected(&types, &places));
            prop_assert!(!text.contains("\n\n"));
        }

        #[test]
        fn degrees_keep_seven_decimals(units in -1_800_000_000..=1_800_000_000_i32) {
            let degrees = f64::from(units) / 1e7;
            let mut out = Vec::new();
            push_degrees(&mut out, degrees);
            let read: f64 = std::str::from_utf8(&out).unwrap().parse().unwrap();
            prop_assert_eq!(read.to_bits(), (degrees + 0.0).to_bits());
        }
    }
}
