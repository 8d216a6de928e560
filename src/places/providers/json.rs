//! Reading the JSON of providers, with bounds, and without changing the digits of numbers.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::places::limits::MAX_JSON_MEMBERS;

/// Parses a document that must be an object. (serde accepts an array of the members' values, too.)
pub(super) fn document<'a, T: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<T> {
    if body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(body)
    } else {
        Err(serde_json::Error::custom("not an object"))
    }
}

/// The first `MAX` items of an array. The others are validated and dropped, so that a body of a
/// million empty objects takes no more memory than its text.
#[derive(Debug)]
pub(super) struct Capped<T, const MAX: usize>(pub(super) Vec<T>);

impl<T, const MAX: usize> Default for Capped<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Capped<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = Capped<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while items.len() < MAX {
                    match seq.next_element()? {
                        Some(item) => items.push(item),
                        None => return Ok(Capped(items)),
                    }
                }
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Capped(items))
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// The members of an object in their original order, with the original text of their values.
#[derive(Debug)]
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    if members.len() == MAX_JSON_MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    if members.iter().any(|(other, _)| *other == name.0) {
                        return Err(A::Error::custom("duplicate member"));
                    }
                    members.push((name.0, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

impl<'a> Members<'a> {
    /// Returns the value of a member.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(other, _)| other == name).map(|&(_, value)| value)
    }
}

/// A string; borrowed if it contains no escape sequences.
#[derive(Debug, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Returns the original digits of a value if it is a number.
pub(super) fn number(value: &RawValue) -> Option<&str> {
    let text = value.get();
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then_some(text)
}

/// A result of the older Nearby Search, with its members in Google's order.
#[derive(Debug, Serialize)]
pub(super) struct SearchResult<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) geometry: Option<Geometry<'a>>,
    pub(super) name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) place_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub(super) types: &'a [&'a str],
    pub(super) vicinity: &'a str,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Geometry<'a> {
    location: Location<'a>,
}

/// Coordinates with the digits of the provider.
#[derive(Clone, Copy, Debug, Serialize)]
struct Location<'a> {
    lat: &'a RawValue,
    lng: &'a RawValue,
}

impl<'a> Geometry<'a> {
    /// Returns `None` unless both coordinates are numbers.
    pub(super) fn new(lat: &'a RawValue, lng: &'a RawValue) -> Option<Self> {
        number(lat).and(number(lng))?;
        Some(Self { location: Location { lat, lng } })
    }
}

impl SearchResult<'_> {
    /// Returns the result as JSON without white space.
    pub(super) fn to_json(&self) -> String {
        // Text and valid JSON can always be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_items_are_bounded_and_dropped_ones_are_validated() {
        let read = |json: &str| serde_json::from_str::<Capped<u32, 3>>(json).map(|items| items.0);
        assert!(read("[]").unwrap().is_empty());
        assert_eq!(read("[1,2,3,4,{\"a\":[]},\"x\"]").unwrap(), [1, 2, 3]);
        for bad in ["[1,2,3,4,]", "[1,2,3,4", "[1,2,3,tru]", "[\"1\"]", "{}"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let members = |count: usize| {
            let members: Vec<String> = (0..count).map(|i| format!("\"{i}\":{i}")).collect();
            serde_json::from_str::<Members<'_>>(&format!("{{{}}}", members.join(","))).is_ok()
        };
        assert!(members(MAX_JSON_MEMBERS) && !members(MAX_JSON_MEMBERS + 1));
        assert!(serde_json::from_str::<Members<'_>>("{\"a\":1,\"\\u0061\":2}").is_err());
    }

    #[test]
    fn numbers_are_distinguished_from_other_values() {
        let text = |json: &str| number(serde_json::from_str(json).unwrap()).map(str::to_owned);
        assert_eq!(text("-1.50e3").as_deref(), Some("-1.50e3"));
        for other in ["\"1\"", "null", "true", "[1]", "{}"] {
            assert_eq!(text(other), None, "{other}");
        }
    }

    #[test]
    fn results_are_written_in_the_order_of_google_and_without_white_space() {
        let raw = |json| serde_json::from_str::<&RawValue>(json).unwrap();
        let bare = SearchResult {
            geometry: None,
            name: "a \"b\"",
            place_id: None,
            types: &[],
            vicinity: "",
        };
        assert_eq!(bare.to_json(), r#"{"name":"a \"b\"","vicinity":""}"#);
        let geometry = Geometry::new(raw("1.50"), raw("-2e1"));
        let full = SearchResult { geometry, place_id: Some("x"), types: &["y", "z"], ..bare };
        let expected = concat!(
            r#"{"geometry":{"location":{"lat":1.50,"lng":-2e1}},"name":"a \"b\"","place_id":"x","#,
            r#""types":["y","z"],"vicinity":""}"#
        );
        assert_eq!(full.to_json(), expected);
        assert!(Geometry::new(raw("1"), raw("\"2\"")).is_none());
    }
}
