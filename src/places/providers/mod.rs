//! The providers: each turns a question into a request, and a response into a listing or an error.

pub(super) mod failure;
mod google;
mod google_legacy;
mod json;
mod key;
pub(super) mod listing;
mod overpass;
mod printer;
mod provider;
pub(super) mod target;

use super::http::Response;
use super::question::Question;
use failure::Failure;
use listing::Listing;
use target::Target;

pub use failure::TransportError;
pub use key::{ApiKey, KeyError};
pub use provider::Provider;

/// Appends the request to `target` that asks `question`.
pub(super) fn write_request(target: Target<'_>, question: &Question, out: &mut Vec<u8>) {
    match target.provider {
        Provider::Google => google::write_request(target, question, out),
        Provider::GoogleLegacy => google_legacy::write_request(target, question, out),
        Provider::Overpass => overpass::write_request(target, question, out),
    }
}

/// Reads the response of `target` to `question`.
pub(super) fn read_response(
    target: Target<'_>,
    question: &Question,
    response: &Response,
) -> Result<Listing, Failure> {
    match target.provider {
        Provider::Google => google::read(target, response),
        Provider::GoogleLegacy => google_legacy::read(target, response),
        Provider::Overpass => overpass::read(target, question, response),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::geo::Point;
    use crate::places::document::Status;
    use crate::places::providers::failure::Blame;

    /// A key that may appear in requests only. Its `/` has to be percent-encoded.
    pub(in crate::places) const CANARY: &str = "canary/Key-0123";

    pub(in crate::places) const UCLA: Question =
        Question { center: Point { lat: 34.068_93, lng: -118.445_127 }, radius_m: 10_000.0 };

    pub(in crate::places) const ALL: [Provider; 3] =
        [Provider::Google, Provider::GoogleLegacy, Provider::Overpass];

    /// Calls `test` with a target at `url`.
    pub(in crate::places) fn at<R>(
        provider: Provider,
        url: &str,
        test: impl FnOnce(Target<'_>) -> R,
    ) -> R {
        let key = ApiKey::parse(CANARY.as_bytes()).unwrap();
        let key = Some(&key).filter(|_| provider != Provider::Overpass);
        let deadline = Duration::from_secs(5);
        test(Target { provider, url: &url.parse().unwrap(), key, deadline })
    }

    pub(in crate::places) fn request(provider: Provider, url: &str, question: &Question) -> String {
        let mut out = Vec::new();
        at(provider, url, |target| write_request(target, question, &mut out));
        String::from_utf8(out).unwrap()
    }

    pub(in crate::places) fn response(status: u16, body: &str) -> Response {
        Response {
            status,
            body: body.into(),
            reusable: true,
            retry_after: None,
            location: Some(format!("https://b.example/x?key={CANARY}")),
        }
    }

    pub(in crate::places) fn read(
        provider: Provider,
        status: u16,
        body: &str,
    ) -> Result<Listing, Failure> {
        let response = response(status, body);
        at(provider, "https://a.example", |target| read_response(target, &UCLA, &response))
    }

    /// The document of a successful response, parsed and as text.
    pub(in crate::places) fn document(
        provider: Provider,
        body: &str,
        max_results: u8,
    ) -> (serde_json::Value, String) {
        let mut out = Vec::new();
        read(provider, 200, body).unwrap().write(max_results, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(!text.contains("\n\n") && !text.ends_with('\n'), "{text}");
        (serde_json::from_str(&text).unwrap(), text)
    }

    #[test]
    fn a_body_that_is_not_the_documented_one_is_a_failure() {
        for provider in ALL {
            for body in [
                "",
                " ",
                "null",
                "[]",
                "7",
                "\"x\"",
                "{",
                "{}}",
                "<html></html>",
                "{\"places\":7}",
                "{\"places\":[7]}",
                "{\"places\":[{\"displayName\":{\"text\":7}}]}",
                "\u{feff}{}",
                "{\"results\":[]}",
                "{\"status\":\"OK\"}",
                "{\"status\":7,\"results\":[]}",
                "{\"status\":\"OK\",\"results\":{}}",
                "{\"status\":\"OK\",\"results\":[7]}",
                "{\"status\":\"OK\",\"results\":[{\"name\":\"x\"]}",
                "{\"elements\":7}",
                "{\"elements\":[7]}",
                "{\"elements\":[{\"tags\":7}]}",
                "{\"places\":[{]}",
                "{\"places\":[], \"places\":[]}",
                "{\"status\":\"OK\",\"status\":\"OK\",\"results\":[]}",
            ] {
                // Nearby Search (New) omits empty members, so any other object has no places.
                let empty = body.starts_with("{\"") && !body.contains("places");
                let Err(failure) = read(provider, 200, body) else {
                    assert!(provider == Provider::Google && empty, "{provider} accepted {body}");
                    continue;
                };
                assert_eq!(failure.status, Status::UnknownError, "{provider} {body}");
                assert!(matches!(failure.blame, Blame::Provider { .. }));
                assert!(failure.message.contains("a.example"), "{}", failure.message);
            }
        }
    }
}
