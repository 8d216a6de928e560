//! JSON as it comes from providers: read in bounded pieces, passed on without touching a digit.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use memchr::memchr2;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::key::ApiKey;
use super::limits::{MAX_DOCUMENT_BYTES, MAX_JSON_DEPTH, MAX_JSON_MEMBERS};
use crate::text::json::push_string;

/// Reads a document that is an object; serde would take an array of its members' values for one.
pub(super) fn document<'a, T: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<T> {
    if body.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice(body)
    } else {
        Err(serde_json::Error::custom("not an object"))
    }
}

/// The first `MAX` items of an array; the rest is checked to be JSON and dropped, so that a body
/// of a million empty objects costs no more memory than itself.
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

/// The members of an object in their order, their values as they were written.
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
                        return Err(A::Error::custom("a member twice"));
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
    /// The value of a member.
    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(other, _)| other == name).map(|&(_, value)| value)
    }
}

/// A string, borrowed where it holds no escapes.
#[derive(Debug, Deserialize)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// The text of a value that is a number, digits untouched.
pub(super) fn number(value: &RawValue) -> Option<&str> {
    let text = value.get();
    text.starts_with(|c: char| c == '-' || c.is_ascii_digit()).then_some(text)
}

/// Why a value cannot be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Lays JSON out over lines, two spaces for each level, strings and numbers byte for byte as they
/// are, except that the key is taken out of strings.
#[derive(Debug)]
pub(super) struct Printer<'a> {
    pub(super) out: Vec<u8>,
    key: Option<&'a ApiKey>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(key: Option<&'a ApiKey>) -> Self {
        Self { out: Vec::new(), key }
    }

    /// Begins a line at a level.
    pub(super) fn line(&mut self, level: usize) {
        const SPACES: [u8; 2 * MAX_JSON_DEPTH] = [b' '; 2 * MAX_JSON_DEPTH];
        self.out.push(b'\n');
        self.out.extend_from_slice(&SPACES[..(2 * level).min(SPACES.len())]);
    }

    /// Appends `json`, a value that is known to be JSON and that stands at `level`.
    ///
    /// # Errors
    /// [`TooLarge`] if it is nested deeper than [`MAX_JSON_DEPTH`], or all that was printed is
    /// longer than [`MAX_DOCUMENT_BYTES`].
    pub(super) fn value(&mut self, json: &str, mut level: usize) -> Result<(), TooLarge> {
        let mut rest = json;
        while let Some(&b) = rest.as_bytes().first() {
            if self.out.len() > MAX_DOCUMENT_BYTES {
                return Err(TooLarge);
            }
            let mut used = 1;
            match b {
                b' ' | b'\t' | b'\r' | b'\n' => {}
                b'"' => {
                    used = string_length(rest);
                    self.string_token(&rest[..used]);
                }
                b'{' | b'[' => {
                    self.out.push(b);
                    let inside = rest[1..].trim_start_matches([' ', '\t', '\r', '\n']);
                    if inside.starts_with(['}', ']']) {
                        used = rest.len() - inside.len() + 1;
                        self.out.push(inside.as_bytes()[0]);
                    } else {
                        level += 1;
                        if level >= MAX_JSON_DEPTH {
                            return Err(TooLarge);
                        }
                        self.line(level);
                    }
                }
                b'}' | b']' => {
                    level -= 1;
                    self.line(level);
                    self.out.push(b);
                }
                b',' => {
                    self.out.push(b);
                    self.line(level);
                }
                b':' => self.out.extend_from_slice(b": "),
                _ => {
                    let ends = |b: &u8| b",]} \t\r\n".contains(b);
                    used = rest.bytes().position(|b| ends(&b)).unwrap_or(rest.len());
                    self.out.extend_from_slice(&rest.as_bytes()[..used]);
                }
            }
            rest = &rest[used..];
        }
        Ok(())
    }

    /// Appends `text` as a string, less the key.
    pub(super) fn string(&mut self, text: &str) {
        let Some(key) = self.key else { return push_string(&mut self.out, text) };
        let start = self.out.len();
        push_string(&mut self.out, &key.scrub(text));
        // The end of an escape and what follows it may spell the key, though the text does not.
        if key.is_in(&self.out[start + 1..self.out.len() - 1]) {
            self.out.truncate(start);
            push_string(&mut self.out, &key.to_string());
        }
    }

    /// Appends a string with its quotes as it stands, unless the key is in it, as it stands or as
    /// it is meant: then what is left of it.
    fn string_token(&mut self, token: &str) {
        if let Some(key) = self.key {
            let inside = token.get(1..token.len() - 1).unwrap_or_default();
            let escaped = inside.contains('\\');
            let meant = if escaped {
                Cow::Owned(serde_json::from_str(token).unwrap_or_default())
            } else {
                Cow::Borrowed(inside)
            };
            if key.is_in(inside.as_bytes()) || escaped && key.is_in(meant.as_bytes()) {
                return self.string(&meant);
            }
        }
        self.out.extend_from_slice(token.as_bytes());
    }
}

/// The length of the string that `json` begins with, quotes included.
fn string_length(json: &str) -> usize {
    let bytes = json.as_bytes();
    let mut at = 1;
    while let Some(offset) = memchr2(b'"', b'\\', &bytes[at..]) {
        at += offset;
        if bytes[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    bytes.len()
}

/// A place as a result of Nearby Search, in JSON without white space, its members in Google's
/// order. The coordinates are digits, latitude first.
pub(super) fn place(
    name: &str,
    vicinity: &str,
    place_id: Option<&str>,
    types: &[&str],
    location: Option<(&str, &str)>,
) -> String {
    let mut out = b"{".to_vec();
    if let Some((lat, lng)) = location {
        out.extend_from_slice(b"\"geometry\":{\"location\":{\"lat\":");
        out.extend_from_slice(lat.as_bytes());
        out.extend_from_slice(b",\"lng\":");
        out.extend_from_slice(lng.as_bytes());
        out.extend_from_slice(b"}},");
    }
    out.extend_from_slice(b"\"name\":");
    push_string(&mut out, name);
    if let Some(place_id) = place_id {
        out.extend_from_slice(b",\"place_id\":");
        push_string(&mut out, place_id);
    }
    if !types.is_empty() {
        out.extend_from_slice(b",\"types\":[");
        for (index, kind) in types.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            push_string(&mut out, kind);
        }
        out.push(b']');
    }
    out.extend_from_slice(b",\"vicinity\":");
    push_string(&mut out, vicinity);
    out.push(b'}');
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_what_is_dropped_is_json_too() {
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
    fn numbers_are_told_from_the_rest() {
        let text = |json: &str| number(serde_json::from_str(json).unwrap()).map(str::to_owned);
        assert_eq!(text("-1.50e3").as_deref(), Some("-1.50e3"));
        for other in ["\"1\"", "null", "true", "[1]", "{}"] {
            assert_eq!(text(other), None, "{other}");
        }
    }
}
