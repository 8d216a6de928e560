//! Pretty-printing of a provider's JSON without changing a digit, and without the API key.

use std::borrow::Cow;

use memchr::memchr2;

use super::key::ApiKey;
use crate::places::limits::{MAX_DOCUMENT_BYTES, MAX_JSON_DEPTH};
use crate::text::json::push_string;

/// A document exceeds [`MAX_DOCUMENT_BYTES`] or [`MAX_JSON_DEPTH`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::places) struct TooLarge;

/// Indents JSON by two spaces per level. Strings and numbers are copied byte for byte, except that
/// the API key is removed from strings.
#[derive(Debug)]
pub(super) struct Printer<'a> {
    pub(super) out: Vec<u8>,
    key: Option<&'a ApiKey>,
}

impl<'a> Printer<'a> {
    pub(super) fn new(key: Option<&'a ApiKey>) -> Self {
        Self { out: Vec::new(), key }
    }

    /// Starts a line at a level of nesting.
    pub(super) fn line(&mut self, level: usize) {
        const SPACES: [u8; 2 * MAX_JSON_DEPTH] = [b' '; 2 * MAX_JSON_DEPTH];
        self.out.push(b'\n');
        self.out.extend_from_slice(&SPACES[..(2 * level).min(SPACES.len())]);
    }

    /// Appends `json`, which must be valid JSON, at `level`.
    ///
    /// # Errors
    /// [`TooLarge`] if it is nested deeper than [`MAX_JSON_DEPTH`], or the output is longer than
    /// [`MAX_DOCUMENT_BYTES`].
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

    /// Appends `text` as a string, without the key.
    pub(super) fn string(&mut self, text: &str) {
        let Some(key) = self.key else { return push_string(&mut self.out, text) };
        let start = self.out.len();
        push_string(&mut self.out, &key.scrub(text));
        // The end of an escape sequence and the text after it may form the key.
        if key.is_in(&self.out[start + 1..self.out.len() - 1]) {
            self.out.truncate(start);
            push_string(&mut self.out, &key.to_string());
        }
    }

    /// Appends a quoted string unchanged, unless it contains the key, escaped or not: then the key
    /// is removed.
    fn string_token(&mut self, token: &str) {
        if let Some(key) = self.key {
            let inside = token.get(1..token.len() - 1).unwrap_or_default();
            let escaped = inside.contains('\\');
            let decoded = if escaped {
                Cow::Owned(serde_json::from_str(token).unwrap_or_default())
            } else {
                Cow::Borrowed(inside)
            };
            if key.is_in(inside.as_bytes()) || escaped && key.is_in(decoded.as_bytes()) {
                return self.string(&decoded);
            }
        }
        self.out.extend_from_slice(token.as_bytes());
    }
}

/// Returns the length of the string at the start of `json`, including its quotes.
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
