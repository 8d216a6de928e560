//! The places of a provider, laid out as a document once and cut to any number of results.

use super::key::ApiKey;
use super::printer::{Printer, TooLarge};
use crate::places::document::Writer;
use crate::places::limits::MAX_RESULTS;

/// Appends the document of a question that found nothing, without a newline at its end.
pub(in crate::places) fn write_zero_results(out: &mut Vec<u8>) {
    Writer::new(out, &[""; 0]).finish();
}

/// A document with all results. Cutting it to a number of results takes two copies.
#[derive(Debug, PartialEq, Eq)]
pub struct Listing {
    /// The document.
    text: Box<[u8]>,
    /// The end of each result in `text`.
    ends: Vec<usize>,
    /// The start of the part that follows the results.
    tail: usize,
}

impl Listing {
    /// Lays out a document: the members `before` the results, the first [`MAX_RESULTS`] results,
    /// and the members `after` them. All values are JSON. The API key is removed from every string.
    pub(in crate::places) fn build<'v>(
        before: impl IntoIterator<Item = (&'v str, &'v str)>,
        results: impl IntoIterator<Item = &'v str>,
        after: impl IntoIterator<Item = (&'v str, &'v str)>,
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
        for (name, value) in after {
            printer.out.push(b',');
            printer.line(1);
            member(&mut printer, name, value)?;
        }
        printer.out.extend_from_slice(b"\n}");
        Ok(Self { text: printer.out.into_boxed_slice(), ends, tail })
    }

    /// Appends the document with at most `max_results` results, without a newline at its end.
    pub fn write(&self, max_results: u8, out: &mut Vec<u8>) {
        match self.ends.get(..usize::from(max_results).min(self.ends.len())) {
            Some([.., end]) => {
                out.extend_from_slice(&self.text[..*end]);
                out.extend_from_slice(&self.text[self.tail..]);
            }
            _ => write_zero_results(out),
        }
    }

    /// The number of results, at most [`MAX_RESULTS`].
    #[cfg(test)]
    pub(in crate::places) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The memory in use, in bytes.
    pub(in crate::places) fn weight(&self) -> usize {
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
    fn a_listing_is_cut_to_any_number_of_results() {
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
    fn strings_and_numbers_are_kept_and_the_key_is_removed() {
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

    /// The end of an escape sequence may be the start of the key, and a key may contain quotes.
    #[test]
    fn a_string_without_the_key_is_still_a_string() {
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
