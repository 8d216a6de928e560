//! The providers behind one face: a question becomes a request, a response becomes places or the
//! reason why there are none.

use super::answer::{Listing, Refusal};
use super::http::Response;
use super::question::Question;
use super::target::Target;
use super::{google, google_legacy, overpass};

pub use super::failure::Trouble;
pub use super::target::Provider;

impl Target<'_> {
    /// Appends the request that asks `question`.
    pub(super) fn write_request(self, question: &Question, out: &mut Vec<u8>) {
        match self.provider {
            Provider::Google => google::write_request(self, question, out),
            Provider::GoogleLegacy => google_legacy::write_request(self, question, out),
            Provider::Overpass => overpass::write_request(self, question, out),
        }
    }

    /// Reads the response to `question`.
    pub(super) fn read(self, question: &Question, response: &Response) -> Result<Listing, Refusal> {
        match self.provider {
            Provider::Google => google::read(self, response),
            Provider::GoogleLegacy => google_legacy::read(self, response),
            Provider::Overpass => overpass::read(self, question, response),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::places::answer::Fault;
    use crate::places::document::{Point, Status};
    use crate::places::key::ApiKey;

    /// A key that must be found nowhere but in requests; its `/` shows percent-encoding.
    pub(in crate::places) const CANARY: &str = "canary/Key-0123";

    pub(in crate::places) const UCLA: Question =
        Question { center: Point { lat: 34.068_93, lng: -118.445_127 }, radius_m: 10_000.0 };

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
        at(provider, url, |target| target.write_request(question, &mut out));
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
    ) -> Result<Listing, Refusal> {
        let response = response(status, body);
        at(provider, "https://a.example", |target| target.read(&UCLA, &response))
    }

    /// The document of a response that is places, parsed and as text.
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

    pub(in crate::places) const ALL: [Provider; 3] =
        [Provider::Google, Provider::GoogleLegacy, Provider::Overpass];

    #[test]
    fn a_body_that_is_not_the_document_is_a_failure_and_no_answer() {
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
                // Nearby Search (New) leaves out what is empty: any other object says "no places".
                let empty = body.starts_with("{\"") && !body.contains("places");
                let Err(refusal) = read(provider, 200, body) else {
                    assert!(provider == Provider::Google && empty, "{provider} took {body}");
                    continue;
                };
                assert_eq!(refusal.status, Status::UnknownError, "{provider} {body}");
                assert!(matches!(refusal.fault, Fault::Provider { .. }));
                assert!(refusal.message.contains("a.example"), "{}", refusal.message);
            }
        }
    }
}
