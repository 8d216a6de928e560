//! The API key of a provider, which must never appear in any output.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem::Finder;

use crate::limits::MAX_SECRET_BYTES;
use crate::text::percent::push_encoded;

/// The text shown instead of a key.
const REDACTED: &str = "[api key]";

/// An API key. It is printed as `[api key]`; only request writers can read its text.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
    /// The encodings in which a provider may echo the key: verbatim, percent-encoded with upper or
    /// lower case digits, and escaped for JSON. Every string of every response is searched for
    /// them.
    encodings: Vec<(String, Finder<'static>)>,
}

impl ApiKey {
    /// Parses a key.
    ///
    /// # Errors
    /// [`KeyError`] if the text is empty, longer than [`MAX_SECRET_BYTES`], or not printable ASCII
    /// without spaces: it must fit into a header field.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let sendable =
            (1..=MAX_SECRET_BYTES).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(text).ok().filter(|_| sendable).ok_or(KeyError)?;
        let mut encoded = Vec::new();
        push_encoded(&mut encoded, text.as_bytes());
        let encoded = String::from_utf8_lossy(&encoded).into_owned();
        let json = text.replace('\\', "\\\\").replace('"', "\\\"");
        let slashes = json.replace('/', "\\/"); // an optional escape of JSON
        let mut encodings = vec![text.to_owned(), lower_hex(&encoded), encoded, json, slashes];
        encodings.sort_unstable();
        encodings.dedup();
        let finder = |encoding: &String| Finder::new(encoding).into_owned();
        let encodings = encodings.into_iter().map(|it| (it.clone(), finder(&it))).collect();
        Ok(Self { text: text.to_owned(), encodings })
    }

    /// The text of the key, for the request that carries it.
    pub(in crate::places) fn expose(&self) -> &str {
        &self.text
    }

    /// Returns true if `text` contains the key in any encoding.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        self.encodings.iter().any(|(_, finder)| finder.find(text).is_some())
    }

    /// Returns `text` with the key replaced, in any encoding.
    pub(super) fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut scrubbed = Cow::Borrowed(text);
        for (encoding, finder) in &self.encodings {
            if finder.find(scrubbed.as_bytes()).is_some() {
                scrubbed = Cow::Owned(scrubbed.replace(encoding.as_str(), REDACTED));
            }
        }
        scrubbed
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// The text is not a valid key. The error does not repeat it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError;

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an API key consists of printable ASCII characters without spaces")
    }
}

impl std::error::Error for KeyError {}

/// Turns `%2F` into `%2f`.
fn lower_hex(encoded: &str) -> String {
    let mut digits = 0;
    encoded
        .chars()
        .map(|c| {
            if c == '%' {
                digits = 2;
            } else if digits > 0 {
                digits -= 1;
                return c.to_ascii_lowercase();
            }
            c
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_shown() {
        let key = ApiKey::parse("canary/ß".as_bytes()).unwrap_err();
        assert!(!format!("{key:?}{key}").contains("canary"));
        let key = ApiKey::parse(b"canary/key").unwrap();
        assert_eq!(format!("{key} {key:?}"), "[api key] [api key]");
        let shown = "a canary/key, key=canary%2Fkey&x, key=canary%2fkey";
        assert_eq!(key.scrub(shown), "a [api key], key=[api key]&x, key=[api key]");
        assert_eq!(key.scrub(r#"{"key":"canary\/key"}"#), r#"{"key":"[api key]"}"#);
        let key = ApiKey::parse(br#"a"\/b"#).unwrap();
        assert_eq!(key.scrub(r#"a\"\\/b a\"\\\/b a"\/b"#), "[api key] [api key] [api key]");
        assert!(matches!(key.scrub("canary"), Cow::Borrowed("canary")));
    }

    #[test]
    fn text_that_cannot_be_sent_is_not_a_key() {
        for text in ["", "a b", "a\r\nX: y", "schlüssel", "a\0", &"k".repeat(4097)] {
            assert!(ApiKey::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
