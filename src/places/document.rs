//! The Nearby Search document, which follows the AT line of a WHATSAT reply.
//!
//! Its format is that of Google's older Nearby Search, regardless of the source of the places:
//! <https://developers.google.com/maps/documentation/places/web-service/search-nearby>.
//! Everything here appends to the buffer of the reply and allocates nothing else. The caller adds
//! the newlines that terminate the reply.

use crate::geo::{Point, push_degrees};
use crate::text::json::push_string;

/// One result of a document.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place<'a> {
    /// The name of the place.
    pub name: &'a str,
    /// Its location in words: a region and country, or an address.
    pub vicinity: &'a str,
    /// A stable identifier, if its source has one.
    pub place_id: Option<&'a str>,
    /// Its types in Google's vocabulary (`locality`, `airport`); empty if unknown.
    pub types: &'a [&'a str],
    /// Its coordinates, if known.
    pub location: Option<Point>,
}

/// The `status` of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// There is at least one result.
    Ok,
    /// The search succeeded and found nothing.
    ZeroResults,
    /// The provider failed or could not be reached in time; a retry may succeed.
    UnknownError,
    /// A rate limit of the provider, or a limit or budget of this node, is exhausted.
    OverQueryLimit,
    /// The provider rejects the requests of this node; the configuration must be corrected.
    RequestDenied,
}

impl Status {
    /// Returns the value in the document.
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

/// Appends one document to a buffer, place by place.
///
/// The status is `OK` if there is any place, `ZERO_RESULTS` otherwise.
#[derive(Debug)]
pub struct Writer<'o> {
    out: &'o mut Vec<u8>,
    results: usize,
}

impl<'o> Writer<'o> {
    /// Begins a document. `attributions` are the notices in HTML that must be displayed with the
    /// places.
    pub fn new(out: &'o mut Vec<u8>, attributions: &[impl AsRef<str>]) -> Self {
        out.extend_from_slice(b"{\n  \"html_attributions\": ");
        push_strings(out, attributions, b"\n    ", b"\n  ]");
        out.extend_from_slice(b",\n  \"results\": [");
        Self { out, results: 0 }
    }

    /// Appends one result.
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

    /// Ends the document.
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

/// Appends a document without results. `message` contains the cause and the remedy.
pub fn write_failure(out: &mut Vec<u8>, status: Status, message: &str) {
    out.extend_from_slice(b"{\n  \"error_message\": ");
    push_string(out, message);
    out.extend_from_slice(b",\n  \"html_attributions\": [],\n  \"results\": [],\n  \"status\": ");
    push_string(out, status.as_str());
    out.extend_from_slice(b"\n}");
}

/// Appends a JSON array of strings, one per line, or `[]`.
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

    /// The same document, written by `serde_json`.
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
    fn documents_match_byte_for_byte() {
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
    fn a_failure_document_contains_the_message() {
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

    proptest! {
        #[test]
        fn documents_match_serde_json(
            name in any::<String>(),
            vicinity in "[\\x00-\\x7f]{0,40}",
            place_id in proptest::option::of(any::<String>()),
            kinds in proptest::collection::vec(any::<String>(), 0..3),
            lat in -900_000_000..=900_000_000_i32,
            lng in -1_800_000_000..=1_800_000_000_i32,
            count in 0..4_usize,
        ) {
            // Neither writer uses an exponent for eighths of a degree.
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
    }
}
