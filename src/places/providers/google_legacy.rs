//! Google's older Nearby Search, whose document is passed on to the client.
//!
//! <https://developers.google.com/maps/documentation/places/web-service/legacy/search-nearby>

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{Capped, Members, Text};
use crate::places::Question;
use crate::places::http::{Method, RequestWriter, Response};
use crate::places::limits::MAX_RESULTS;
use crate::places::providers::failure::{Failure, ProviderError};
use crate::places::providers::listing::Listing;
use crate::places::providers::target::Target;

/// Appends the request. `rankby` cannot be combined with a radius, so Google orders by prominence.
/// The API requires the key in the query.
pub(super) fn write_request(target: Target<'_>, question: &Question, out: &mut Vec<u8>) {
    let location = format!("{},{}", question.center.lat, question.center.lng);
    let mut request =
        RequestWriter::new(out, Method::Get, target.url, "/maps/api/place/nearbysearch/json")
            .query("location", &location)
            .query("radius", &question.radius_m.to_string());
    if let Some(key) = target.key {
        request = request.query("key", key.expose());
    }
    request.end();
}

/// Reads the response. The listing is Google's document itself, with new indentation: its members keep
/// their order, and its numbers their digits.
pub(super) fn read(target: Target<'_>, response: &Response) -> Result<Listing, Failure> {
    let unexpected = || target.unexpected_document();
    let document = serde_json::from_slice::<Members<'_>>(&response.body);
    if response.status != 200 {
        // Google answers everything with 200, but proxies do not.
        let member = |name| document.as_ref().ok().and_then(|document| text(document.get(name)?));
        let message = member("error_message");
        let error = match response.status {
            429 => ProviderError::RateLimited,
            401 | 403 => ProviderError::Unauthorized,
            400 if member("status").is_some() => ProviderError::InvalidQuestion,
            _ => ProviderError::Unavailable,
        };
        return Err(target.rejected(response, error, &message.unwrap_or_default()));
    }
    let document = document.map_err(|_| unexpected())?;
    let status = document.get("status").and_then(text).ok_or_else(unexpected)?;
    let error = match status.as_str() {
        "OK" | "ZERO_RESULTS" => None,
        "OVER_QUERY_LIMIT" | "OVER_DAILY_LIMIT" => Some(ProviderError::RateLimited),
        "REQUEST_DENIED" => Some(ProviderError::Unauthorized),
        "INVALID_REQUEST" => Some(ProviderError::InvalidQuestion),
        _ => Some(ProviderError::Unavailable),
    };
    if let Some(error) = error {
        let message = document.get("error_message").and_then(text).unwrap_or_default();
        return Err(target.rejected(
            response,
            error,
            format!("{status}: {message}").trim_end_matches(": "),
        ));
    }
    let results: Capped<&RawValue, MAX_RESULTS> = match document.get("results") {
        Some(results) => serde_json::from_str(results.get()).map_err(|_| unexpected())?,
        None => return Err(unexpected()),
    };
    let results = results.0.into_iter().filter_map(|result| complete(result).transpose());
    let mut results: Vec<String> = results.collect::<Result<_, _>>().map_err(|_| unexpected())?;
    if status == "ZERO_RESULTS" {
        results.clear();
    }
    let members = || document.0.iter().map(|(name, value)| (&**name, value.get()));
    let attributions = document.get("html_attributions");
    if attributions.is_some_and(|value| !value.get().starts_with('[')) {
        return Err(unexpected());
    }
    let missing = [("html_attributions", "[]")].into_iter().filter(|_| attributions.is_none());
    Listing::build(
        missing.chain(members().take_while(|(name, _)| *name != "results")),
        results.iter().map(String::as_str),
        members().skip_while(|(name, _)| *name != "results").skip(1),
        target.key,
    )
    .map_err(|_| unexpected())
}

/// Returns a result that has a name and a vicinity: the original, with an empty vicinity if it
/// has none, or `None` if it has no name.
fn complete(result: &RawValue) -> Result<Option<String>, serde_json::Error> {
    let members: Members<'_> = serde_json::from_str(result.get())?;
    let named = members.get("name").and_then(text).is_some_and(|name| !name.is_empty());
    let result = result.get();
    Ok(match members.get("vicinity") {
        _ if !named => None,
        Some(vicinity) => {
            Text::deserialize(vicinity)?;
            Some(result.to_owned())
        }
        None => Some(format!("{},\"vicinity\":\"\"}}", &result[..result.len() - 1])),
    })
}

/// Returns the text of a value that is a string.
fn text(value: &RawValue) -> Option<String> {
    Text::deserialize(value).ok().map(|text| text.0.into_owned())
}

#[cfg(test)]
mod tests {
    use crate::places::document::Status;
    use crate::places::providers::Provider;
    use crate::places::providers::failure::Blame;
    use crate::places::providers::tests::{UCLA, document, read, request};

    const LEGACY: Provider = Provider::GoogleLegacy;

    #[test]
    fn the_request_matches_the_documentation() {
        let request = request(LEGACY, "https://maps.googleapis.com", &UCLA);
        let expected = format!(
            "GET /maps/api/place/nearbysearch/json?location=34.06893%2C-118.445127&radius=10000\
             &key=canary%2FKey-0123 HTTP/1.1\r\nHost: maps.googleapis.com\r\nUser-Agent: proxy-herd/{}\r\n\
             Accept: application/json\r\nAccept-Encoding: identity\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(request, expected);
    }

    const DOCUMENT: &str = r#"{
   "html_attributions" : [ "a" ],


   "next_page_token" : "Aap_uEA7",
   "results" : [
      { "business_status" : "OPERATIONAL", "geometry" : { "location" : { "lat" : -33.86000, "lng" : 1.512099e2 } },
        "name" : "Cruise \u0026 Bar", "rating" : 4.0, "vicinity" : "Level 1, Sydney" },
      { "name" : "No vicinity", "types" : [ ] },
      { "vicinity" : "No name" },
      { "name" : "Third", "vicinity" : "x" }
   ],
   "status" : "OK",
   "info_messages" : [ ]
}
"#;

    #[test]
    fn the_document_is_passed_on_with_fewer_results() {
        let expected = r#"{
  "html_attributions": [
    "a"
  ],
  "next_page_token": "Aap_uEA7",
  "results": [
    {
      "business_status": "OPERATIONAL",
      "geometry": {
        "location": {
          "lat": -33.86000,
          "lng": 1.512099e2
        }
      },
      "name": "Cruise \u0026 Bar",
      "rating": 4.0,
      "vicinity": "Level 1, Sydney"
    },
    {
      "name": "No vicinity",
      "types": [],
      "vicinity": ""
    }
  ],
  "status": "OK",
  "info_messages": []
}"#;
        assert_eq!(document(LEGACY, DOCUMENT, 2).1, expected);
        assert_eq!(read(LEGACY, 200, DOCUMENT).unwrap().len(), 3);
        let (document, _) = document(LEGACY, DOCUMENT, 20);
        assert_eq!(document["results"][2]["name"], "Third");
    }

    #[test]
    fn required_members_are_added() {
        let (document, _) = document(LEGACY, r#"{"status":"OK","results":[{"name":"x"}]}"#, 1);
        assert_eq!(document["html_attributions"].as_array().unwrap().len(), 0);
        assert_eq!(document["results"][0]["vicinity"], "");
    }

    #[test]
    fn no_results_are_zero_results() {
        for body in [
            r#"{"html_attributions":[],"results":[],"status":"ZERO_RESULTS"}"#,
            r#"{"html_attributions":[],"results":[],"status":"OK"}"#,
            r#"{"html_attributions":[],"results":[{"vicinity":"x"}],"status":"OK"}"#,
            r#"{"html_attributions":[],"results":[{"name":"x"}],"status":"ZERO_RESULTS"}"#,
        ] {
            assert_eq!(document(LEGACY, body, 20).0["status"], "ZERO_RESULTS");
        }
    }

    #[test]
    fn members_of_the_wrong_type_are_rejected() {
        for body in [
            r#"{"html_attributions":0,"results":[{"name":"x"}],"status":"OK"}"#,
            r#"{"html_attributions":[],"results":[{"name":"x","vicinity":0}],"status":"OK"}"#,
        ] {
            assert_eq!(read(LEGACY, 200, body).unwrap_err().status, Status::UnknownError);
        }
    }

    #[test]
    fn statuses_of_google_are_distinguished() {
        let provider = Blame::Provider { retry_after: None };
        for (status, expected, fault) in [
            ("OVER_QUERY_LIMIT", Status::OverQueryLimit, provider),
            ("OVER_DAILY_LIMIT", Status::OverQueryLimit, provider),
            ("REQUEST_DENIED", Status::RequestDenied, provider),
            ("INVALID_REQUEST", Status::RequestDenied, Blame::Question),
            ("UNKNOWN_ERROR", Status::UnknownError, provider),
            ("SOMETHING_NEW", Status::UnknownError, provider),
        ] {
            let body = format!(
                "{{\"error_message\":\"some reason\",\"html_attributions\":[],\"results\":[],\"status\":\"{status}\"}}"
            );
            let failure = read(LEGACY, 200, &body).unwrap_err();
            assert_eq!((failure.status, failure.blame), (expected, fault), "{status}");
            assert!(
                failure.message.contains(&format!("{status}: some reason")),
                "{}",
                failure.message
            );
            let bare = format!("{{\"status\":\"{status}\"}}");
            let failure = read(LEGACY, 200, &bare).unwrap_err();
            assert!(failure.message.contains(&format!("{status})")), "{}", failure.message);
        }
    }
}
