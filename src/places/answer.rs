//! What becomes of a question: places, or the reason why there are none.

use std::time::Duration;

use super::document::{Status, Writer, write_failure};
use super::json::{Printer, TooLarge};
use super::key::ApiKey;
use super::limits::MAX_RESULTS;

/// Whose fault a refusal is: what the circuit breaker makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The provider's, or the way to it: other questions would fail as well.
    Provider {
        /// How long the provider wants to be left alone, where it says so.
        pause: Option<Duration>,
    },
    /// This question's: the provider answered and would answer others.
    Question,
    /// Neither's: the question was not put to the provider.
    Nobody,
}

/// A question that gets no places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The document's status: one of the three that tell of a failure.
    pub status: Status,
    /// What happened and what to do, for the operator. Free of the key.
    pub message: String,
    /// Whose fault it is.
    pub fault: Fault,
}

impl Refusal {
    /// Appends the document, its last line without a line end.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_failure(out, self.status, &self.message);
    }
}

/// Appends the document of a question that found nothing, its last line without a line end.
pub(super) fn write_zero_results(out: &mut Vec<u8>) {
    Writer::new(out, &[""; 0]).finish();
}

/// A provider's places, laid out once and cut to any bound by two copies.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    /// The document with all results.
    text: Box<[u8]>,
    /// Where each result ends in `text`.
    ends: Vec<usize>,
    /// Where what follows the results begins.
    tail: usize,
}

impl Listing {
    /// Lays a document out: members before `results`, the results, members behind. All values are
    /// JSON; of the results the first [`MAX_RESULTS`] are taken. The key is taken out of every
    /// string.
    pub(super) fn build<'v>(
        before: impl IntoIterator<Item = (&'v str, &'v str)>,
        results: impl IntoIterator<Item = &'v str>,
        behind: impl IntoIterator<Item = (&'v str, &'v str)>,
        key: Option<&ApiKey>,
    ) -> Result<Self, TooLarge> {
        let mut printer = Printer::new(key);
        printer.out.push(b'{');
        for (name, value) in before {
            printer.line(1);
            member(&mut printer, name, value)?;
            printer.out.push(b',');
        }
        printer.line(1);
        printer.out.extend_from_slice(b"\"results\": [");
        let mut ends = Vec::new();
        for result in results.into_iter().take(MAX_RESULTS) {
            if !ends.is_empty() {
                printer.out.push(b',');
            }
            printer.line(2);
            printer.value(result, 2)?;
            ends.push(printer.out.len());
        }
        let tail = printer.out.len();
        printer.line(1);
        printer.out.push(b']');
        for (name, value) in behind {
            printer.out.push(b',');
            printer.line(1);
            member(&mut printer, name, value)?;
        }
        printer.out.extend_from_slice(b"\n}");
        Ok(Self { text: printer.out.into_boxed_slice(), ends, tail })
    }

    /// Appends the document with at most `max_results` results, its last line without a line end.
    pub fn write(&self, max_results: u8, out: &mut Vec<u8>) {
        match self.ends.get(..usize::from(max_results).min(self.ends.len())) {
            Some([.., end]) => {
                out.extend_from_slice(&self.text[..*end]);
                out.extend_from_slice(&self.text[self.tail..]);
            }
            _ => write_zero_results(out),
        }
    }

    /// How many results there are, at most [`MAX_RESULTS`].
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What the listing costs in memory, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.text.len() + self.ends.len() * size_of::<usize>() + size_of::<Self>()
    }
}

fn member(printer: &mut Printer<'_>, name: &str, value: &str) -> Result<(), TooLarge> {
    printer.string(name);
    printer.out.extend_from_slice(b": ");
    printer.value(value, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(listing: &Listing, max_results: u8) -> String {
        let mut out = Vec::new();
        listing.write(max_results, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_listing_is_cut_to_any_bound() {
        let results: Vec<String> = (0..25).map(|i| format!("{{\"name\":\"{i}\"}}")).collect();
        let results = results.iter().map(String::as_str);
        let listing =
            Listing::build([("a", "[ ]")], results, [("status", "\"OK\"")], None).unwrap();
        assert_eq!(listing.len(), 20);
        let two = "{\n  \"a\": [],\n  \"results\": [\n    {\n      \"name\": \"0\"\n    },\n    {\n      \
                   \"name\": \"1\"\n    }\n  ],\n  \"status\": \"OK\"\n}";
        assert_eq!(cut(&listing, 2), two);
        for bound in 1..=40 {
            let document: serde_json::Value = serde_json::from_str(&cut(&listing, bound)).unwrap();
            let results = document["results"].as_array().unwrap();
            assert_eq!(results.len(), usize::from(bound).min(20));
            assert_eq!(results.last().unwrap()["name"], (results.len() - 1).to_string());
        }
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&cut(&listing, 0)).unwrap()["status"],
            "ZERO_RESULTS"
        );
    }

    #[test]
    fn strings_and_numbers_stay_as_they_are_and_the_key_goes() {
        let key = ApiKey::parse(b"canary").unwrap();
        let raw = r#"{ "n" :[ 1.10,-0.0e+05 , 123456789012345678901234567890 ],"s":"\u00e9\/\"}{,:  ","e":{ },
            "k":"a canary b","x":"\u0063anary","canary":null}"#;
        let members = [("a canary b", "1")];
        let listing = Listing::build(members, [raw], members, Some(&key)).unwrap();
        let text = cut(&listing, 1);
        for kept in
            ["1.10,", "-0.0e+05", "123456789012345678901234567890", r#""\u00e9\/\"}{,:  ""#, "{}"]
        {
            assert!(text.contains(kept), "{kept} in {text}");
        }
        assert!(!text.contains("canary") && !text.contains("u0063"), "{text}");
        assert!(!text.contains("\n\n"));
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    /// The end of an escape may be the beginning of the key, and a key may hold quotes.
    #[test]
    fn what_is_left_of_a_string_without_the_key_is_a_string() {
        let cases: [(&[u8], &str, &str); 5] = [
            (b"canary", r#""a \u004canary b""#, "a Lanary b"),
            (b"canary", r#""\u001canary""#, "[api key]"),
            (b"canary", r#""\ncanary\u0063anary""#, "\n[api key][api key]"),
            (b"nary", r#""\nary, \\nary""#, "[api key]"),
            (br#""a"#, r#""a\"a""#, "a[api key]"),
        ];
        for (key, string, expected) in cases {
            let key = ApiKey::parse(key).unwrap();
            let raw = format!("{{\"s\":{string},{string}:1}}");
            let listing = Listing::build([], [&*raw], [], Some(&key)).unwrap();
            let text = cut(&listing, 1);
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(document["results"][0]["s"], expected);
            assert_eq!(document["results"][0][expected], 1);
            let (_, printed) = text.split_once("\"s\": \"").unwrap();
            assert!(!key.is_in(printed.split("\",\n").next().unwrap().as_bytes()), "{text}");
        }
    }

    #[test]
    fn depth_and_size_are_bounded() {
        let deep = "[".repeat(40) + &"]".repeat(40);
        assert_eq!(Listing::build([], [deep.as_str()], [], None), Err(TooLarge));
        let wide = format!("[{}0]", "[[[[[[0]]]]]],".repeat(20_000));
        assert_eq!(Listing::build([], [wide.as_str()], [], None), Err(TooLarge));
    }
}
