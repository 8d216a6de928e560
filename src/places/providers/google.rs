//! Google's Nearby Search (New).
//!
//! Request and response:
//! <https://developers.google.com/maps/documentation/places/web-service/nearby-search>,
//! <https://developers.google.com/maps/documentation/places/web-service/reference/rest/v1/places/searchNearby>.
//! Errors are a `google.rpc.Status` as JSON: <https://google.aip.dev/193>.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::json::{self, Capped, Geometry, Text};
use crate::places::Question;
use crate::places::http::{Method, RequestWriter, Response};
use crate::places::limits::MAX_RESULTS;
use crate::places::providers::failure::{Failure, ProviderError};
use crate::places::providers::listing::Listing;
use crate::places::providers::target::Target;
use crate::text::json::push_string;

/// The fields requested for each place: those that the document of WHATSAT contains.
///
/// All of them are billed as "Nearby Search Pro", the cheapest SKU of Nearby Search (New), which
/// has no Essentials SKU. A rating, opening hours or a telephone number would make it Enterprise,
/// reviews Enterprise + Atmosphere. `formattedAddress` replaces a missing short address;
/// `attributions` is required because Google's terms demand that they be displayed.
/// <https://developers.google.com/maps/documentation/places/web-service/nearby-search#fieldmask>,
/// <https://developers.google.com/maps/billing-and-pricing/pricing>
const FIELD_MASK: &str = "places.id,places.displayName,places.shortFormattedAddress,\
                          places.formattedAddress,places.location,places.types,places.attributions";

/// Appends the request for the twenty places nearest to the point.
///
/// `rankPreference` is `DISTANCE` because WHATSAT asks what is near; with the default,
/// `POPULARITY`, a circle of 50 km yields the sights of the next large town.
pub(super) fn write_request(target: Target<'_>, question: &Question, out: &mut Vec<u8>) {
    let body = format!(
        "{{\"maxResultCount\":{MAX_RESULTS},\"rankPreference\":\"DISTANCE\",\
         \"locationRestriction\":{{\"circle\":{{\"center\":{{\"latitude\":{},\"longitude\":{}}},\
         \"radius\":{}}}}}}}",
        question.center.lat, question.center.lng, question.radius_m
    );
    let mut request = RequestWriter::new(out, Method::Post, target.url, "/v1/places:searchNearby")
        .header("X-Goog-FieldMask", FIELD_MASK);
    if let Some(key) = target.key {
        request = request.header("X-Goog-Api-Key", key.expose());
    }
    request.body("application/json", body.as_bytes());
}

/// Reads the response.
pub(super) fn read(target: Target<'_>, response: &Response) -> Result<Listing, Failure> {
    if response.status != 200 {
        return Err(read_error(target, response));
    }
    let document: Document<'_> =
        json::document(&response.body).map_err(|_| target.unexpected_document())?;
    if document.places.0.is_empty() && document.error.is_some() {
        return Err(read_error(target, response));
    }
    let mut attributions = Vec::new();
    let mut results = Vec::new();
    for place in document.places.0 {
        place.attribute(&mut attributions);
        results.extend(place.into_result());
    }
    let attributions = format!("[{}]", attributions.join(","));
    Listing::build(
        [("html_attributions", attributions.as_str())],
        results.iter().map(String::as_str),
        [("status", "\"OK\"")],
        target.key,
    )
    .map_err(|_| target.unexpected_document())
}

/// `SearchNearbyResponse`. It has no members if nothing was found.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow, default)]
    places: Capped<Place<'a>, MAX_RESULTS>,
    /// Google reports errors with another HTTP status; a proxy may turn it into 200.
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Place<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    display_name: Option<LocalizedText<'a>>,
    #[serde(borrow)]
    short_formatted_address: Option<Text<'a>>,
    #[serde(borrow)]
    formatted_address: Option<Text<'a>>,
    #[serde(borrow)]
    location: Option<LatLng<'a>>,
    #[serde(borrow, default)]
    types: Capped<Text<'a>, 50>,
    #[serde(borrow, default)]
    attributions: Capped<Attribution<'a>, MAX_RESULTS>,
}

#[derive(Deserialize)]
struct LocalizedText<'a> {
    #[serde(borrow)]
    text: Option<Text<'a>>,
}

/// A missing member is 0: the JSON of proto3 omits default values.
#[derive(Deserialize)]
struct LatLng<'a> {
    #[serde(borrow)]
    latitude: Option<&'a RawValue>,
    #[serde(borrow)]
    longitude: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attribution<'a> {
    #[serde(borrow)]
    provider: Option<Text<'a>>,
    #[serde(borrow)]
    provider_uri: Option<Text<'a>>,
}

impl Place<'_> {
    /// Returns the place as a result of the older Nearby Search, in JSON. A place without a name is
    /// useless to a person, so it yields `None`.
    fn into_result(self) -> Option<String> {
        let name = self.display_name?.text?.0;
        if name.is_empty() {
            return None;
        }
        let vicinity = self.short_formatted_address.or(self.formatted_address);
        let vicinity = vicinity.as_ref().map_or("", |text| &text.0);
        let types: Vec<&str> = self.types.0.iter().map(|kind| &*kind.0).collect();
        let result = json::SearchResult {
            geometry: self.location.as_ref().and_then(LatLng::geometry),
            name: &name,
            place_id: self.id.as_ref().map(|id| &*id.0),
            types: &types,
            vicinity,
        };
        Some(result.to_json())
    }

    /// Adds the attributions of this place that are not in the list yet, as links in HTML like
    /// those of the older Nearby Search.
    fn attribute(&self, attributions: &mut Vec<String>) {
        for attribution in &self.attributions.0 {
            let Some(Text(provider)) = &attribution.provider else { continue };
            let html = match &attribution.provider_uri {
                Some(Text(uri)) => {
                    format!("<a href=\"{}\">{}</a>", html_escape(uri), html_escape(provider))
                }
                None => html_escape(provider),
            };
            let mut quoted = Vec::new();
            push_string(&mut quoted, &html);
            let quoted = String::from_utf8_lossy(&quoted).into_owned();
            if !attributions.contains(&quoted) {
                attributions.push(quoted);
            }
        }
    }
}

impl<'a> LatLng<'a> {
    fn geometry(&self) -> Option<Geometry<'a>> {
        let zero = || serde_json::from_str::<&'static RawValue>("0").ok();
        Geometry::new(self.latitude.or_else(zero)?, self.longitude.or_else(zero)?)
    }
}

fn html_escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// `{"error": {"code": 400, "message": "…", "status": "INVALID_ARGUMENT", "details": […]}}`
#[derive(Deserialize)]
struct ErrorDocument<'a> {
    #[serde(borrow)]
    error: ErrorStatus<'a>,
}

#[derive(Deserialize, Default)]
struct ErrorStatus<'a> {
    code: Option<u16>,
    #[serde(borrow)]
    message: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow, default)]
    details: Capped<Detail<'a>, 10>,
}

/// `google.rpc.ErrorInfo`, or another detail, which has no reason.
#[derive(Deserialize)]
struct Detail<'a> {
    #[serde(borrow)]
    reason: Option<Text<'a>>,
}

fn read_error(target: Target<'_>, response: &Response) -> Failure {
    let error = json::document::<ErrorDocument<'_>>(&response.body)
        .map(|document| document.error)
        .unwrap_or_default();
    let status = error.status.as_ref().map_or("", |status| &status.0);
    let reason = error.details.0.iter().find_map(|detail| detail.reason.as_ref());
    let reason = reason.map_or("", |reason| &reason.0);
    let message = error.message.as_ref().map_or("", |message| &message.0);
    // An older gateway reports this in the message only.
    let bad_key = reason == "API_KEY_INVALID" || message.starts_with("API key not valid");
    let code = match response.status {
        200 => error.code.unwrap_or(200),
        code => code,
    };
    let error = match (code, status) {
        (429, _) | (_, "RESOURCE_EXHAUSTED") => ProviderError::RateLimited,
        (_, "PERMISSION_DENIED" | "UNAUTHENTICATED") | (401 | 403, _) => {
            ProviderError::Unauthorized
        }
        (400, _) if bad_key => ProviderError::Unauthorized,
        // Any HTTP server may answer 400; a 400 of Google has a status.
        (400, status) if !status.is_empty() => ProviderError::InvalidQuestion,
        _ => ProviderError::Unavailable,
    };
    let explanation = match (status, reason) {
        ("", _) => message.to_owned(),
        (_, "") => format!("{status}: {message}"),
        _ => format!("{status}, {reason}: {message}"),
    };
    target.rejected(response, error, &explanation)
}

#[cfg(test)]
mod tests {
    use crate::geo::Point;
    use crate::places::Question;
    use crate::places::document::Status;
    use crate::places::providers::Provider;
    use crate::places::providers::failure::Blame;
    use crate::places::providers::tests::{CANARY, UCLA, document, read, request};

    #[test]
    fn the_request_matches_the_documentation() {
        let body = "{\"maxResultCount\":20,\"rankPreference\":\"DISTANCE\",\"locationRestriction\":\
                    {\"circle\":{\"center\":{\"latitude\":34.06893,\"longitude\":-118.445127},\
                    \"radius\":10000}}}";
        serde_json::from_str::<serde_json::Value>(body).unwrap();
        let expected = format!(
            "POST /v1/places:searchNearby HTTP/1.1\r\nHost: places.googleapis.com\r\n\
             User-Agent: proxy-herd/{}\r\nAccept: application/json\r\nAccept-Encoding: identity\r\n\
             X-Goog-FieldMask: places.id,places.displayName,places.shortFormattedAddress,\
             places.formattedAddress,places.location,places.types,places.attributions\r\n\
             X-Goog-Api-Key: {CANARY}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        assert_eq!(request(Provider::Google, "https://places.googleapis.com", &UCLA), expected);
    }

    #[test]
    fn the_url_may_have_a_port_and_a_prefix() {
        let request = request(Provider::Google, "http://[::1]:8080/emulator/", &UCLA);
        assert!(
            request.starts_with(
                "POST /emulator/v1/places:searchNearby HTTP/1.1\r\nHost: [::1]:8080\r\n"
            )
        );
    }

    #[test]
    fn numbers_are_written_without_exponents() {
        for (lat, lng, radius_m, expected) in [
            (90.0, -180.0, 50_000.0, "\"latitude\":90,\"longitude\":-180},\"radius\":50000}"),
            (0.0, 0.0, 0.001, "\"latitude\":0,\"longitude\":0},\"radius\":0.001}"),
            (
                1e-9,
                -1e-9,
                1e-7,
                "\"latitude\":0.000000001,\"longitude\":-0.000000001},\"radius\":0.0000001}",
            ),
        ] {
            let question = Question { center: Point { lat, lng }, radius_m };
            let request = request(Provider::Google, "https://a", &question);
            assert!(request.contains(expected), "{request}");
        }
    }

    /// The example of Google's documentation, with missing and additional members.
    #[test]
    fn places_become_results() {
        let (document, text) = document(
            Provider::Google,
            r#"{ "places": [
            { "id": "ChIJ1", "types": ["restaurant", "food"], "rating": 4.5, "unknown": {"a": [1]},
              "formattedAddress": "2 Marina Blvd, San Francisco, CA 94123, USA",
              "shortFormattedAddress": "2 Marina Blvd, San Francisco",
              "location": { "latitude": 37.80660000, "longitude": -122.4321e0 },
              "displayName": { "text": "Greens\n\"Restaurant\"", "languageCode": "en" },
              "attributions": [ { "provider": "A & <B>", "providerUri": "https://a.example/?x=\"y\"&z" } ] },
            { "displayName": { "text": "Equator" }, "formattedAddress": "long", "location": { "longitude": -12 },
              "attributions": [ { "provider": "C" }, { "provider": "C" }, {} ] },
            { "displayName": { "text": "" } },
            { "displayName": {} },
            { "id": "nameless" },
            { "displayName": { "text": "Bare" }, "location": { "latitude": "NaN" }, "types": [], "id": null }
        ] }"#,
            20,
        );
        let expected: serde_json::Value = serde_json::from_str(r#"{
            "html_attributions": ["<a href=\"https://a.example/?x=&quot;y&quot;&amp;z\">A &amp; &lt;B&gt;</a>", "C"],
            "results": [
                { "name": "Greens\n\"Restaurant\"", "vicinity": "2 Marina Blvd, San Francisco", "place_id": "ChIJ1",
                  "types": ["restaurant", "food"], "geometry": { "location": { "lat": 37.8066, "lng": -122.4321 } } },
                { "name": "Equator", "vicinity": "long", "geometry": { "location": { "lat": 0, "lng": -12 } } },
                { "name": "Bare", "vicinity": "" }
            ],
            "status": "OK" }"#).unwrap();
        assert_eq!(document, expected);
        assert!(
            text.contains("\"lat\": 37.80660000,") && text.contains("\"lng\": -122.4321e0\n"),
            "{text}"
        );
    }

    #[test]
    fn no_places_is_zero_results() {
        for body in ["{}", " {\n} ", "{\"places\":[]}", "{\"places\":[{}]}"] {
            let (document, _) = document(Provider::Google, body, 20);
            assert_eq!(document["status"], "ZERO_RESULTS", "{body}");
            assert_eq!(document["results"].as_array().unwrap().len(), 0);
        }
    }

    #[test]
    fn no_more_than_twenty_places_are_kept() {
        let place = r#"{"displayName":{"text":"x"}},"#.repeat(1000);
        let body = format!("{{\"places\":[{place}{{}}]}}");
        assert_eq!(read(Provider::Google, 200, &body).unwrap().len(), 20);
    }

    #[test]
    fn an_error_with_status_200_is_an_error() {
        for (error, expected, words) in [
            (
                r#"{"code":429,"message":"Quota exceeded","status":"RESOURCE_EXHAUSTED"}"#,
                Status::OverQueryLimit,
                "HTTP 200, RESOURCE_EXHAUSTED: Quota exceeded",
            ),
            (r#"{"code":403,"message":"no"}"#, Status::RequestDenied, "HTTP 200, no"),
            (
                r#"{"code":400,"message":"Invalid radius","status":"INVALID_ARGUMENT"}"#,
                Status::RequestDenied,
                "does not accept this question",
            ),
            (r#"{"code":500,"message":"x","status":"INTERNAL"}"#, Status::UnknownError, "failed"),
            (r#"{"code":-1}"#, Status::UnknownError, "a.example failed (HTTP 200)"),
            ("{}", Status::UnknownError, "a.example failed (HTTP 200)"),
            (r#""upstream timed out""#, Status::UnknownError, "failed (HTTP 200)"),
            ("[]", Status::UnknownError, "failed (HTTP 200)"),
        ] {
            for body in
                [format!(r#"{{"error":{error}}}"#), format!(r#"{{"places":[],"error":{error}}}"#)]
            {
                let failure = read(Provider::Google, 200, &body).unwrap_err();
                assert_eq!(failure.status, expected, "{body}");
                assert!(failure.message.contains(words), "{}", failure.message);
            }
        }
        let (document, _) = document(Provider::Google, r#"{"error":null}"#, 20);
        assert_eq!(document["status"], "ZERO_RESULTS");
        let body = r#"{"places":[{"displayName":{"text":"x"}}],"error":{"code":500}}"#;
        assert_eq!(read(Provider::Google, 200, body).unwrap().len(), 1);
    }

    #[test]
    fn errors_of_google_are_distinguished() {
        let error = |code: u16, status: &str, reason: &str, message: &str| {
            let body = format!(
                "{{\"error\":{{\"code\":{code},\"message\":\"{message}\",\"status\":\"{status}\",\"details\":[\
                 {{\"@type\":\"type.googleapis.com/google.rpc.Help\",\"links\":[]}},\
                 {{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":\"{reason}\",\"domain\":\"googleapis.com\"}}]}}}}"
            );
            read(Provider::Google, code, &body).unwrap_err()
        };
        let bad_key = error(
            400,
            "INVALID_ARGUMENT",
            "API_KEY_INVALID",
            "API key not valid. Please pass a valid API key.",
        );
        assert_eq!(bad_key.status, Status::RequestDenied);
        assert_eq!(bad_key.blame, Blame::Provider { retry_after: None });
        assert_eq!(
            bad_key.message,
            "a.example rejects the API key (HTTP 400, INVALID_ARGUMENT, API_KEY_INVALID: API key not valid. Please \
             pass a valid API key.); check that the key is right, that the Places API (New) is enabled in its \
             project, that its restrictions admit this machine, and that billing is on"
        );
        let in_words =
            error(400, "INVALID_ARGUMENT", "", "API key not valid. Please pass a valid API key.");
        assert_eq!(in_words.blame, Blame::Provider { retry_after: None });
        let bad_radius = error(400, "INVALID_ARGUMENT", "", "Invalid radius");
        assert_eq!((bad_radius.status, bad_radius.blame), (Status::RequestDenied, Blame::Question));
        for (code, status, expected) in [
            (403, "PERMISSION_DENIED", Status::RequestDenied),
            (401, "UNAUTHENTICATED", Status::RequestDenied),
            (429, "RESOURCE_EXHAUSTED", Status::OverQueryLimit),
            (403, "RESOURCE_EXHAUSTED", Status::OverQueryLimit),
            (500, "INTERNAL", Status::UnknownError),
            (503, "UNAVAILABLE", Status::UnknownError),
            (504, "DEADLINE_EXCEEDED", Status::UnknownError),
        ] {
            let failure = error(code, status, "X", "y");
            assert_eq!(failure.status, expected, "{code} {status}");
            assert_eq!(failure.blame, Blame::Provider { retry_after: None });
            assert!(
                failure.message.contains(&format!("HTTP {code}, {status}, X: y")),
                "{}",
                failure.message
            );
        }
    }
}
