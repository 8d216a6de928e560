//! Removal of the configured secrets from messages.
//!
//! No message contains a value read as a secret, but the same value may occur elsewhere in the
//! file: an alias of `api_key` may be used as a node name, a host or a number, which messages show.

use super::error::Error;

/// Shorter secrets are replaced only if they are complete words. Otherwise they would match parts
/// of words in every message.
const MIN_SUBSTRING: usize = 4;

/// The placeholder for a secret.
const REDACTED: &str = "…";

/// The texts and numbers that no message may contain.
#[derive(Debug, Default)]
pub(super) struct Redaction {
    /// In lower case, since the names of hosts are shown in lower case. The longest is first.
    texts: Vec<String>,
    /// Numbers in any notation: if an alias of a number is used as a name, messages show its text
    /// in the file, such as `0x1f`.
    numbers: Vec<f64>,
}

impl Redaction {
    /// Creates a redaction of `secrets`, as they are written and as messages show them.
    pub(super) fn new(
        secrets: impl IntoIterator<Item = String>,
        numbers: impl IntoIterator<Item = f64>,
    ) -> Self {
        let mut texts = Vec::new();
        // The placeholder of the original configuration is not a secret.
        for secret in secrets.into_iter().filter(|secret| secret != "API_KEY") {
            // A name is shown up to its first colon.
            if let Some((before, _)) = secret.split_once(':') {
                texts.push(before.escape_debug().to_string());
            }
            texts.push(secret.escape_debug().to_string());
            texts.push(secret);
        }
        texts.retain(|text| !text.trim().is_empty());
        for text in &mut texts {
            text.make_ascii_lowercase();
        }
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        texts.dedup();
        Self { texts, numbers: numbers.into_iter().collect() }
    }

    /// Returns `text` without the secrets.
    pub(super) fn apply(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.texts {
            let lower = text.to_ascii_lowercase(); // of the same length
            let (mut kept, mut end) = (String::new(), 0);
            for (at, _) in lower.match_indices(secret.as_str()) {
                let after = at + secret.len();
                if secret.len() >= MIN_SUBSTRING || is_word(&lower, at, after) {
                    kept.push_str(&text[end..at]);
                    kept.push_str(REDACTED);
                    end = after;
                }
            }
            kept.push_str(&text[end..]);
            text = kept;
        }
        if self.numbers.is_empty() { text } else { self.apply_to_numbers(&text) }
    }

    /// Returns `text` without the numbers.
    fn apply_to_numbers(&self, text: &str) -> String {
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '-');
        let mut kept = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let starts = !kept.ends_with(|c: char| c.is_ascii_alphanumeric());
            let longest = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let number = (1..=longest).rev().filter(|_| starts).find(|&end| {
                !rest[end..].starts_with(|c: char| c.is_ascii_alphanumeric())
                    && values(&rest[..end]).any(|value| self.numbers.contains(&value))
            });
            let length = number.unwrap_or(first.len_utf8());
            kept.push_str(if number.is_some() { REDACTED } else { &rest[..length] });
            rest = &rest[length..];
        }
        kept
    }

    /// Returns `error` without the secrets.
    pub(super) fn apply_to(&self, error: Error) -> Error {
        error.map_texts(|text| self.apply(text))
    }
}

/// Returns the numbers that YAML readers take `word` for: decimal, with an exponent, hexadecimal, octal
/// in both notations, or binary.
fn values(word: &str) -> impl Iterator<Item = f64> {
    let plain = word.replace('_', "").to_ascii_lowercase();
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1.0, digits),
        None => (1.0, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let radix = |prefix: &str, radix| {
        let digits = digits.strip_prefix(prefix)?;
        u128::from_str_radix(digits, radix).ok().map(|number| sign * number as f64)
    };
    let is_decimal = digits.trim_start_matches('.').starts_with(|c: char| c.is_ascii_digit());
    let decimal = digits.parse().ok().filter(|_| is_decimal).map(|number: f64| sign * number);
    [decimal, radix("0x", 16), radix("0o", 8), radix("0", 8), radix("0b", 2)].into_iter().flatten()
}

/// Returns true if `text[start..end]` is neither preceded nor followed by a letter or digit.
fn is_word(text: &str, start: usize, end: usize) -> bool {
    let before = text[..start].chars().next_back();
    let after = text[end..].chars().next();
    !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(secrets: &[&str], text: &str) -> String {
        Redaction::new(secrets.iter().map(|&secret| secret.to_owned()), []).apply(text)
    }

    #[test]
    fn a_number_is_replaced_however_it_is_written() {
        let redaction = Redaction::new([], [255.0, 2.5]);
        for number in
            ["255", "0xff", "0XFF", "0x00_ff", "0377", "0o377", "0b11111111", "2.55e2", "+255"]
        {
            let text = format!("field `hosts.{number}`: is not valid: {number}");
            assert_eq!(redaction.apply(&text), "field `hosts.…`: is not valid: …", "{number}");
        }
        assert_eq!(redaction.apply("2.5 and 25e-1, 12.5 and 2.55"), "… and …, 12.5 and 2.55");
        assert_eq!(redaction.apply("1255 2550 0xff0 x255 é"), "1255 2550 0xff0 x255 é");
    }

    #[test]
    fn secrets_are_replaced_in_every_form_in_which_messages_show_them() {
        assert_eq!(redacted(&["canary"], "`hosts.canary`: canary.pem"), "`hosts.…`: ….pem");
        assert_eq!(redacted(&["CanaRY"], "at canary and CANARY"), "at … and …");
        assert_eq!(redacted(&["a\"b\u{1b}c"], "x a\\\"b\\u{1b}c"), "x …");
        assert_eq!(redacted(&["canary:x"], "`canary…` canary:x"), "`……` …");
        assert_eq!(redacted(&["canary", "canary-two"], "canary-two canary"), "… …");
    }

    #[test]
    fn a_short_secret_is_replaced_as_a_word_only() {
        assert_eq!(redacted(&["80"], "port 80, 8080 and 180"), "port …, 8080 and 180");
        assert_eq!(redacted(&["", " ", "API_KEY"], "set API_KEY "), "set API_KEY ");
    }
}
