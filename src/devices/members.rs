//! The named values of a form or of a JSON object, as far as they matter.

use core::fmt;
use std::borrow::Cow;

use percent_encoding::percent_decode;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Most values of a form that are examined. An app sends under thirty.
const MAX_PAIRS: usize = 1024;

macro_rules! keys {
    ($($key:ident $name:literal),+ $(,)?) => {
        /// A name that some app uses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Key { $($key),+ }

        impl Key {
            const ALL: &[Self] = &[$(Self::$key),+];

            /// Returns the key with this name. Names are case-sensitive.
            fn of(name: &[u8]) -> Option<Self> {
                $(if name == $name.as_bytes() { return Some(Self::$key); })+
                None
            }
        }
    };
}

keys! {
    Lat "lat", Lon "lon", Timestamp "timestamp", Id "id",
    Latitude "latitude", Longitude "longitude", Lng "lng",
    Tst "tst", Time "time",
    DeviceId "deviceid", DeviceUnderscoreId "device_id", Device "device", UniqueId "unique_id",
    Accuracy "accuracy", Acc "acc", HorizontalAccuracy "horizontal_accuracy", Hdop "hdop",
    Location "location", Coords "coords",
    UnderscoreType "_type", UnderscoreId "_id", Topic "topic", Tid "tid", U "u", D "d",
    Locations "locations", Current "current", Geometry "geometry", Coordinates "coordinates",
    Properties "properties", Action "action", Type "type",
}

/// Names of a latitude.
pub const LATITUDE: &[Key] = &[Key::Lat, Key::Latitude];
/// Names of a longitude.
pub const LONGITUDE: &[Key] = &[Key::Lon, Key::Longitude, Key::Lng];
/// Names of the time of a fix.
pub const TIME: &[Key] = &[Key::Timestamp, Key::Tst, Key::Time];
/// Names of a device's own name.
pub const DEVICE: &[Key] = &[Key::Id, Key::DeviceId, Key::DeviceUnderscoreId, Key::Device];
/// Names of a radius of accuracy. By convention, `hdop` holds meters with `OsmAnd`.
pub const ACCURACY: &[Key] = &[Key::Accuracy, Key::Acc, Key::HorizontalAccuracy, Key::Hdop];

/// The first value of each key. A `V` is a value as it was sent.
pub struct Members<V> {
    values: [Option<V>; Key::ALL.len()],
}

/// A value as it was sent.
pub trait Value<'a>: Copy {
    /// Returns the value without its encoding; `None` if it is not a text or a number, or is empty.
    fn text(self) -> Option<Cow<'a, [u8]>>;
}

impl<'a, V: Value<'a>> Members<V> {
    /// Returns the value of `key` as it was sent.
    #[must_use]
    pub const fn get(&self, key: Key) -> Option<V> {
        self.values[key as usize]
    }

    /// Returns the text of the first of `keys` that has one.
    #[must_use]
    pub fn text(&self, keys: &[Key]) -> Option<Cow<'a, [u8]>> {
        keys.iter().find_map(|&key| self.get(key)?.text())
    }

    /// Returns whether one of `keys` has a value.
    #[must_use]
    pub fn has(&self, keys: &[Key]) -> bool {
        keys.iter().any(|&key| self.get(key).is_some())
    }

    const fn insert(&mut self, key: Key, value: V) {
        let slot = &mut self.values[key as usize];
        if slot.is_none() {
            *slot = Some(value);
        }
    }
}

impl<V: Copy> Default for Members<V> {
    fn default() -> Self {
        Self { values: [None; Key::ALL.len()] }
    }
}

/// A value of a form or query, still encoded.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a>(&'a [u8]);

impl<'a> Members<Encoded<'a>> {
    /// Reads a query, or the body of a form.
    #[must_use]
    pub fn of_form(form: &'a [u8]) -> Self {
        let mut members = Self::default();
        for pair in form.split(|&byte| byte == b'&').take(MAX_PAIRS) {
            if let Some(at) = memchr::memchr(b'=', pair)
                && let Some(key) = Key::of(&pair[..at])
            {
                members.insert(key, Encoded(&pair[at + 1..]));
            }
        }
        members
    }
}

impl<'a> Value<'a> for Encoded<'a> {
    fn text(self) -> Option<Cow<'a, [u8]>> {
        let bytes = self.0;
        let text = if memchr::memchr2(b'%', b'+', bytes).is_none() {
            Cow::Borrowed(bytes)
        } else {
            let spaced: Vec<u8> =
                bytes.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect();
            Cow::Owned(percent_decode(&spaced).collect())
        };
        Some(text).filter(|text| !text.trim_ascii().is_empty())
    }
}

/// A JSON value.
pub type Json<'a> = &'a RawValue;

impl<'a> Members<Json<'a>> {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// It is not one.
    pub fn of_json(json: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// Reads the object that is the value of `key`.
    #[must_use]
    pub fn object(&self, key: Key) -> Option<Self> {
        Self::of_json(self.get(key)?.get().as_bytes()).ok()
    }
}

impl<'a> Value<'a> for Json<'a> {
    fn text(self) -> Option<Cow<'a, [u8]>> {
        let json = self.get();
        let text = match json.as_bytes() {
            [b'"', inner @ .., b'"'] if memchr::memchr(b'\\', inner).is_none() => {
                Cow::Borrowed(inner)
            }
            [b'"', ..] => Cow::Owned(serde_json::from_str::<String>(json).ok()?.into_bytes()),
            [b'-' | b'0'..=b'9', ..] => Cow::Borrowed(json.as_bytes()),
            _ => return None,
        };
        Some(text).filter(|text| !text.trim_ascii().is_empty())
    }
}

impl<'de> Deserialize<'de> for Members<Json<'de>> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<Json<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(key) = map.next_key_seed(Name)? {
                    let Some(key) = key else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let value: Json<'de> = map.next_value()?;
                    // Members that are unknown may be null.
                    if value.get() != "null" {
                        members.insert(key, value);
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Reads the name of a member.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<Key>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<Key>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Key::of(name.as_bytes()))
    }
}

/// The first two elements of a JSON array.
pub struct Pair<'a>(pub Json<'a>, pub Json<'a>);

impl<'de> Deserialize<'de> for Pair<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Pair<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array with two elements")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let (first, second) = (array.next_element()?, array.next_element()?);
                while array.next_element::<IgnoredAny>()?.is_some() {}
                match (first, second) {
                    (Some(first), Some(second)) => Ok(Pair(first, second)),
                    _ => Err(serde::de::Error::custom("fewer than two elements")),
                }
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_decoded() {
        let members = Members::of_form(b"id=a%20b+c&lat=+48.5&id=second&lon&x=1&time=%zz&tid=+&=");
        let text = |keys: &[Key]| members.text(keys).map(Cow::into_owned);
        assert_eq!(text(DEVICE).unwrap(), b"a b c");
        assert_eq!(text(LATITUDE).unwrap(), b" 48.5");
        assert_eq!(text(LONGITUDE), None);
        assert_eq!(text(TIME).unwrap(), b"%zz");
        assert_eq!(text(&[Key::Tid]), None, "blank");
        let long = [&b"a=b&".repeat(MAX_PAIRS)[..], b"id=c"].concat();
        assert!(!Members::of_form(&long).has(DEVICE));
    }

    #[test]
    fn objects_are_read_without_their_other_members() {
        let json = br#" {"x":{"lat":1},"l\u0061t":"4\u0038.5","lat":2,"lon":1.0E-4,"id":null,
            "device_id":48241179,"timestamp":true,"coords":{"latitude":7},"topic":""} "#;
        let members = Members::of_json(json).unwrap();
        let text = |keys: &[Key]| members.text(keys).map(Cow::into_owned);
        assert_eq!(text(LATITUDE).unwrap(), b"48.5");
        assert_eq!(text(LONGITUDE).unwrap(), b"1.0E-4");
        assert_eq!(text(DEVICE).unwrap(), b"48241179");
        assert_eq!(text(TIME), None);
        assert_eq!(text(&[Key::Topic]), None);
        assert_eq!(members.object(Key::Coords).unwrap().text(LATITUDE).unwrap(), &b"7"[..]);
        assert!(members.object(Key::Lat).is_none() && !members.has(&[Key::Id]));
        for bad in ["", "[]", "1", "{", "{}x", "{\"lat\":NaN}", "{\"lat\":01}", "{\"lat\":1,}"] {
            assert!(Members::of_json(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = [&b"{\"coords\":"[..], &b"[".repeat(100_000), &b"]".repeat(100_000), b"}"];
        assert!(Members::of_json(&deep.concat()).unwrap().has(&[Key::Coords]), "no recursion");
    }
}
