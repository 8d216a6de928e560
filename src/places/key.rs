//! The provider's key: kept out of everything that is shown.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem::Finder;

use crate::limits::MAX_SECRET_BYTES;
use crate::text::percent::push_encoded;

/// What is shown in a key's place.
const REDACTED: &str = "[api key]";

/// An API key. It prints as `[api key]`; only the request writers see its text.
#[derive(Clone)]
pub struct ApiKey {
    text: String,
    /// The spellings in which a provider may repeat the key: as it is, percent-encoded with either
    /// case of hexadecimal digits, and as JSON that nobody has parsed writes it. Every string of
    /// every answer is searched for them.
    spellings: Vec<(String, Finder<'static>)>,
}

impl ApiKey {
    /// A key from its text.
    ///
    /// # Errors
    /// [`KeyError`] if the text is empty, longer than [`MAX_SECRET_BYTES`], or holds anything but
    /// printable ASCII without spaces: it has to fit into a header field.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let sendable =
            (1..=MAX_SECRET_BYTES).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(text).ok().filter(|_| sendable).ok_or(KeyError)?;
        let mut encoded = Vec::new();
        push_encoded(&mut encoded, text.as_bytes());
        let encoded = String::from_utf8_lossy(&encoded).into_owned();
        let json = text.replace('\\', "\\\\").replace('"', "\\\"");
        let slashes = json.replace('/', "\\/"); // which JSON may escape and need not
        let mut spellings = vec![text.to_owned(), lower_hex(&encoded), encoded, json, slashes];
        spellings.sort_unstable();
        spellings.dedup();
        let finder = |spelling: &String| Finder::new(spelling).into_owned();
        let spellings = spellings.into_iter().map(|it| (it.clone(), finder(&it))).collect();
        Ok(Self { text: text.to_owned(), spellings })
    }

    /// The key itself, for the one place where it is sent.
    pub(super) fn expose(&self) -> &str {
        &self.text
    }

    /// Whether a spelling of the key stands in `text`.
    pub(super) fn is_in(&self, text: &[u8]) -> bool {
        self.spellings.iter().any(|(_, finder)| finder.find(text).is_some())
    }

    /// `text` with every spelling of the key replaced.
    pub(super) fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut scrubbed = Cow::Borrowed(text);
        for (spelling, finder) in &self.spellings {
            if finder.find(scrubbed.as_bytes()).is_some() {
                scrubbed = Cow::Owned(scrubbed.replace(spelling.as_str(), REDACTED));
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

/// A text that cannot be a key. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyError;

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an API key is printable ASCII characters without spaces")
    }
}

impl std::error::Error for KeyError {}

/// `%2F` as `%2f`.
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
    fn a_key_never_shows() {
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
    fn what_cannot_be_sent_is_no_key() {
        for text in ["", "a b", "a\r\nX: y", "schlüssel", "a\0", &"k".repeat(4097)] {
            assert!(ApiKey::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
