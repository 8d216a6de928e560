//! OpenStreetMap's Overpass API: named places around a point, mapped as nodes, ways or relations. It needs
//! no key.
//!
//! Language: <https://wiki.openstreetmap.org/wiki/Overpass_API/Overpass_QL>. Usage policy:
//! <https://dev.overpass-api.de/overpass-doc/en/preface/commons.html> (about 10,000 requests and
//! 1 GB per day) and <https://github.com/drolbr/Overpass-API/issues/791> (a distinctive user agent,
//! no parallel requests, a pause of half a minute after a 429). The defaults of the configuration
//! and the circuit breaker comply with it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{self, Capped, Geometry, Text};
use crate::geo::Point;
use crate::places::Question;
use crate::places::http::{Method, RequestWriter, Response};
use crate::places::limits::{MAX_OVERPASS_ELEMENTS, MAX_RESULTS};
use crate::places::providers::failure::{Failure, ProviderError};
use crate::places::providers::listing::Listing;
use crate::places::providers::target::Target;
use crate::text::percent::push_encoded;

/// The tags that make an element a place that people look for. Their values are the types of the place.
/// <https://wiki.openstreetmap.org/wiki/Map_features>
const KINDS: [&str; 11] = [
    "amenity",
    "shop",
    "tourism",
    "leisure",
    "office",
    "craft",
    "historic",
    "healthcare",
    "public_transport",
    "railway",
    "place",
];

/// The tag that, on a way, is mostly that of a track. Stations are also mapped as nodes.
const LINES: &str = "railway";

/// Appends the request.
///
/// Overpass cannot order by distance, and a circle of 50 km around a city contains far too many
/// named places to fetch. The query therefore widens its circle, from 1/64 of the radius in steps of
/// four, until it contains twenty places (`if` exists in Overpass QL "to try more loosely search
/// conditions if stricter search conditions did not deliver a result"). A circle with four times
/// the radius of one that contains fewer than twenty places contains some hundreds; all of them are
/// fetched, and the nearest are selected here. If it includes a large town, the first thousand by
/// type and id arrive, which may not include the nearest. So the places of each circle are printed
/// before it is widened.
///
/// Most larger places are areas: ways, or relations if they have several parts. `center` prints the
/// middle of their bounding box, and `tags` omits their members, which may be thousands.
pub(super) fn write_request(target: Target<'_>, question: &Question, out: &mut Vec<u8>) {
    let mut body = b"data=".to_vec();
    push_encoded(&mut body, query(target, question).as_bytes());
    RequestWriter::new(out, Method::Post, target.url, "")
        .body("application/x-www-form-urlencoded", &body);
}

fn query(target: Target<'_>, question: &Question) -> String {
    let Point { lat, lng } = question.center;
    let kinds = KINDS.join("|");
    let kinds_of_areas = KINDS.into_iter().filter(|&kind| kind != LINES);
    let kinds_of_areas = kinds_of_areas.collect::<Vec<_>>().join("|");
    let circle = |part: f64| {
        let named = format!("(around:{},{lat},{lng})[name]", question.radius_m / part);
        format!(
            "(node{named}[~\"^({kinds})$\"~\".\"];wr{named}[~\"^({kinds_of_areas})$\"~\".\"];);"
        )
    };
    let wider =
        |part: f64| format!("if(count(nwr)<{MAX_RESULTS}){{out center tags;{}}};", circle(part));
    // A busy server admits queries with small claims sooner, and these need little.
    let timeout = target.deadline.as_secs().clamp(1, 25);
    format!(
        "[out:json][timeout:{timeout}][maxsize:67108864];{}{}{}{}out center tags {MAX_OVERPASS_ELEMENTS};",
        circle(64.0),
        wider(16.0),
        wider(4.0),
        wider(1.0)
    )
}

/// Reads the response.
pub(super) fn read(
    target: Target<'_>,
    question: &Question,
    response: &Response,
) -> Result<Listing, Failure> {
    if response.status != 200 {
        let explanation = error_of(&response.body);
        let error = match response.status {
            429 => ProviderError::RateLimited,
            401 | 403 | 406 => ProviderError::Unauthorized,
            // A 400 of Overpass itself explains what is wrong with the query
            // (https://github.com/openstreetmap/openstreetmap-website/issues/1843).
            400 if !explanation.is_empty() => ProviderError::InvalidQuestion,
            _ => ProviderError::Unavailable,
        };
        return Err(target.rejected(response, error, &explanation));
    }
    let document: Document<'_> =
        json::document(&response.body).map_err(|_| target.unexpected_document())?;
    if let Some(Text(remark)) = &document.remark
        && remark.contains("error")
    {
        // A query that exceeded its time or memory is answered with 200, partial results and a
        // remark (https://github.com/drolbr/Overpass-API/issues/94).
        return Err(target.aborted(remark));
    }
    let mut places: Vec<Place<'_>> =
        document.elements.0.into_iter().filter_map(|it| Place::of(it, question)).collect();
    places.sort_by(|a, b| {
        a.distance_m.total_cmp(&b.distance_m).then_with(|| (a.kind, a.id).cmp(&(b.kind, b.id)))
    });
    // A wider circle repeats the places of the narrower ones.
    places.dedup_by(|a, b| a.id.is_some() && (a.kind, a.id) == (b.kind, b.id));
    let results: Vec<String> = places.iter().take(MAX_RESULTS).map(Place::result).collect();
    Listing::build(
        [("html_attributions", ATTRIBUTION)],
        results.iter().map(String::as_str),
        [("status", "\"OK\"")],
        target.key,
    )
    .map_err(|_| target.unexpected_document())
}

/// Required by the license: <https://www.openstreetmap.org/copyright>.
const ATTRIBUTION: &str = "[\"© <a href=\\\"https://www.openstreetmap.org/copyright\\\">\
                           OpenStreetMap contributors</a>\"]";

#[derive(serde::Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    elements: Capped<Element<'a>, MAX_OVERPASS_ELEMENTS>,
    #[serde(borrow)]
    remark: Option<Text<'a>>,
}

#[derive(serde::Deserialize)]
struct Element<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    /// The position of a node.
    #[serde(borrow)]
    lat: Option<&'a RawValue>,
    #[serde(borrow)]
    lon: Option<&'a RawValue>,
    /// The position of a way or a relation.
    #[serde(borrow)]
    center: Option<Position<'a>>,
    #[serde(borrow)]
    tags: Option<Tags<'a>>,
}

#[derive(serde::Deserialize)]
struct Position<'a> {
    #[serde(borrow)]
    lat: Option<&'a RawValue>,
    #[serde(borrow)]
    lon: Option<&'a RawValue>,
}

/// The tags that are used. A town has hundreds, most of them its name in other languages.
struct Tags<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Tags<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Wanted;

        impl<'de> Visitor<'de> for Wanted {
            type Value = Tags<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tags")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tags = Vec::new();
                while let Some(Text(key)) = map.next_key()? {
                    let wanted =
                        KINDS.contains(&&*key) || ["name", STREET, NUMBER, CITY].contains(&&*key);
                    if wanted && tags.iter().all(|(other, _)| *other != key) {
                        tags.push((key, map.next_value::<Text<'de>>()?.0));
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Tags(tags))
            }
        }

        deserializer.deserialize_map(Wanted)
    }
}

const STREET: &str = "addr:street";
const NUMBER: &str = "addr:housenumber";
const CITY: &str = "addr:city";

impl Tags<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == key).map(|(_, value)| &**value)
    }

    /// Returns the address, as far as it is known.
    fn vicinity(&self) -> String {
        let mut vicinity = String::new();
        for (separator, key) in [("", STREET), (" ", NUMBER), (", ", CITY)] {
            if let Some(part) = self.get(key) {
                if !vicinity.is_empty() {
                    vicinity.push_str(separator);
                }
                vicinity.push_str(part);
            }
        }
        vicinity
    }
}

/// An element with a name and coordinates.
struct Place<'a> {
    kind: &'static str,
    id: Option<&'a str>,
    geometry: Geometry<'a>,
    tags: Tags<'a>,
    distance_m: f64,
}

impl<'a> Place<'a> {
    /// Returns `None` for an element without a name or coordinates, or whose center is outside of the
    /// circle: a large area may reach into it.
    fn of(element: Element<'a>, question: &Question) -> Option<Self> {
        let tags = element.tags?;
        tags.get("name").filter(|name| !name.is_empty())?;
        let (kind, position) = match element.kind.as_ref().map(|kind| &*kind.0) {
            Some("way") => ("way", element.center?),
            Some("relation") => ("relation", element.center?),
            _ => ("node", Position { lat: element.lat, lon: element.lon }),
        };
        let (lat, lon) = (position.lat?, position.lon?);
        let geometry = Geometry::new(lat, lon)?;
        let point = Point { lat: lat.get().parse().ok()?, lng: lon.get().parse().ok()? };
        let distance_m = question.center.distance_m(point);
        if kind != "node" && distance_m > question.radius_m {
            return None;
        }
        let id = element.id.and_then(json::number);
        Some(Self { kind, id, geometry, tags, distance_m })
    }

    fn result(&self) -> String {
        let id = self.id.map(|id| format!("{}/{id}", self.kind));
        let types: Vec<&str> = KINDS.iter().filter_map(|kind| self.tags.get(kind)).collect();
        let result = json::SearchResult {
            geometry: Some(self.geometry),
            name: self.tags.get("name").unwrap_or_default(),
            place_id: id.as_deref(),
            types: &types,
            vicinity: &self.tags.vicinity(),
        };
        result.to_json()
    }
}

/// Returns the explanation in an error page: the text from `Error</strong>:` to the next tag.
fn error_of(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let Some((_, explanation)) = text.split_once("Error</strong>:") else { return String::new() };
    explanation.split('<').next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::places::document::Status;
    use crate::places::providers::Provider;
    use crate::places::providers::failure::Blame;
    use crate::places::providers::tests::{UCLA, at, document, read, request};

    const URL: &str = "https://overpass-api.de/api/interpreter";

    #[test]
    fn the_query_widens_its_circle() {
        let query = at(Provider::Overpass, URL, |target| query(target, &UCLA));
        let kinds = "^(amenity|shop|tourism|leisure|office|craft|historic|healthcare|public_transport|railway|place)$";
        let circle = |radius| {
            let named = format!("(around:{radius},34.06893,-118.445127)[name]");
            let areas = kinds.replace("railway|", "");
            format!("(node{named}[~\"{kinds}\"~\".\"];wr{named}[~\"{areas}\"~\".\"];);")
        };
        let expected = format!(
            "[out:json][timeout:5][maxsize:67108864];{}if(count(nwr)<20){{out center tags;{}}};\
             if(count(nwr)<20){{out center tags;{}}};if(count(nwr)<20){{out center tags;{}}};\
             out center tags 1000;",
            circle("156.25"),
            circle("625"),
            circle("2500"),
            circle("10000")
        );
        assert_eq!(query, expected);
    }

    #[test]
    fn the_path_of_the_request_is_that_of_the_url() {
        assert!(request(Provider::Overpass, "http://a", &UCLA).starts_with("POST / HTTP/1.1"));
        let request = request(Provider::Overpass, URL, &UCLA);
        let (head, body) = request.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(
            "POST /api/interpreter HTTP/1.1\r\nHost: overpass-api.de\r\nUser-Agent: proxy-herd/"
        ));
        assert!(head.contains("Content-Type: application/x-www-form-urlencoded\r\n"));
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        assert!(body.starts_with("data=%5Bout%3Ajson%5D%5Btimeout%3A5%5D"));
    }

    /// The same number may be the id of a node, a way and a relation.
    #[test]
    fn ways_and_relations_are_shown_at_their_centers() {
        let element = |kind: &str, id: u32, lat: f64| {
            let at = format!(r#""lat":{lat},"lon":-118.445127"#);
            let at = if kind == "node" { at } else { format!(r#""center":{{{at}}}"#) };
            format!(
                r#"{{"type":"{kind}","id":{id},{at},"tags":{{"name":"{kind} {id}","tourism":"hotel"}}}},"#
            )
        };
        let near = [
            element("node", 5, 34.07),
            element("way", 5, 34.07),
            element("relation", 5, 34.07),
            element("relation", 6, 34.075),
        ]
        .concat();
        // The center of a large area can be outside of the circle of 10 km.
        let outside = [element("way", 7, 34.3), element("relation", 8, -34.0)].concat();
        let body = format!(
            r#"{{"elements":[{near}{near}{outside}
                {{"type":"way","id":9,"lat":34.07,"lon":-118.4,"tags":{{"name":"No center"}}}},
                {{"type":"way","id":9,"center":{{"lat":34.07}},"tags":{{"name":"Half a center"}}}},
                {{"type":"node","id":9,"center":{{"lat":34.07,"lon":-118.4}},"tags":{{"name":"x"}}}}]}}"#
        );
        let (document, _) = document(Provider::Overpass, &body, 20);
        let results = document["results"].as_array().unwrap();
        let ids: Vec<&str> = results.iter().map(|it| it["place_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["node/5", "relation/5", "way/5", "relation/6"]);
        assert_eq!(results[1]["name"], "relation 5");
        assert_eq!(results[1]["types"][0], "hotel");
        assert_eq!(results[3]["geometry"]["location"]["lat"], 34.075);
    }

    #[test]
    fn nodes_become_results_nearest_first() {
        let (document, text) = document(
            Provider::Overpass,
            r#"{ "version": 0.6, "generator": "Overpass API",
            "osm3s": { "copyright": "ODbL" }, "elements": [
            { "type": "node", "id": 3, "lat": 34.2, "lon": -118.445127, "tags": { "name": "Far", "amenity": "cafe" } },
            { "type": "node", "id": 123456789012, "lat": 34.0690000, "lon": -118.445127, "tags": {
                "name:de": "x", "name": "Near", "shop": "books", "amenity": "library",
                "addr:street": "Main Street", "addr:housenumber": "12a", "addr:city": "Los Angeles" } },
            { "type": "node", "id": 5, "lat": 34.1, "lon": -118.445127, "tags": { "amenity": "bench" } },
            { "type": "way", "id": 6, "tags": { "name": "Way" } },
            { "type": "node", "id": 7, "lat": "34", "lon": -118, "tags": { "name": "Text" } },
            { "type": "node", "id": 8, "lat": 34.1, "lon": -118.445127, "tags": { "name": "Middle", "addr:city": "LA" } },
            { "type": "node", "id": 9, "lat": 34.1, "lon": -118.445127 }
        ] }"#,
            20,
        );
        let expected: serde_json::Value = serde_json::from_str(r#"[
            { "name": "Near", "vicinity": "Main Street 12a, Los Angeles", "place_id": "node/123456789012",
              "types": ["library", "books"], "geometry": { "location": { "lat": 34.069, "lng": -118.445127 } } },
            { "name": "Middle", "vicinity": "LA", "place_id": "node/8",
              "geometry": { "location": { "lat": 34.1, "lng": -118.445127 } } },
            { "name": "Far", "vicinity": "", "place_id": "node/3", "types": ["cafe"],
              "geometry": { "location": { "lat": 34.2, "lng": -118.445127 } } } ]"#).unwrap();
        assert_eq!(document["results"], expected);
        assert_eq!(document["status"], "OK");
        assert!(
            document["html_attributions"][0]
                .as_str()
                .unwrap()
                .contains("OpenStreetMap contributors")
        );
        assert!(text.contains("34.0690000,"));
    }

    /// The response contains a circle with few nodes and a wider one with a large town at its rim.
    #[test]
    fn near_places_are_kept_and_shown_once() {
        let node = |id: u32, lat: f64| {
            format!(r#"{{"id":{id},"lat":{lat},"lon":-118.445127,"tags":{{"name":"n{id}"}}}},"#)
        };
        let near = [node(9001, 34.07), node(9002, 34.07), node(9003, 34.08)].concat();
        let town: String = (1..=1000).map(|id| node(id, 34.4)).collect();
        let body = format!(
            "{{\"elements\":[{near}{near}{town}{}]}}",
            node(9003, 34.08).trim_end_matches(',')
        );
        let (document, _) = document(Provider::Overpass, &body, 20);
        let results = document["results"].as_array().unwrap();
        let names: Vec<&str> =
            results.iter().map(|place| place["name"].as_str().unwrap()).collect();
        assert_eq!(names.len(), 20);
        assert_eq!(names[..4], ["n9001", "n9002", "n9003", "n1"]);
    }

    #[test]
    fn no_elements_are_zero_results() {
        let (document, _) = document(Provider::Overpass, "{\"elements\":[]}", 20);
        assert_eq!(document["status"], "ZERO_RESULTS");
    }

    #[test]
    fn an_aborted_query_is_a_failure() {
        let body = "{\"elements\":[{\"id\":1,\"lat\":34,\"lon\":-118,\"tags\":{\"name\":\"x\"}}],\
                    \"remark\":\"runtime error: Query timed out in \\\"query\\\" at line 1 after 6 seconds.\"}";
        let failure = read(Provider::Overpass, 200, body).unwrap_err();
        assert_eq!(failure.status, Status::UnknownError);
        assert!(failure.message.contains("Query timed out"), "{}", failure.message);
    }

    #[test]
    fn explanations_of_error_pages_are_passed_on() {
        let body = "<html><body><p><strong style=\"color:#FF0000\">Error</strong>: runtime error: open64: 0 Success \
                    rate_limited. Please check /api/status for the quota of your IP address. </p></body></html>";
        let failure = read(Provider::Overpass, 429, body).unwrap_err();
        assert_eq!(failure.status, Status::OverQueryLimit);
        assert!(
            failure.message.contains("Please check /api/status for the quota"),
            "{}",
            failure.message
        );
        assert!(!failure.message.contains('<'));
        let denied = read(Provider::Overpass, 406, "").unwrap_err();
        assert_eq!(denied.status, Status::RequestDenied);
        assert!(denied.message.contains("usage policy") && !denied.message.contains("key"));
        assert!(matches!(denied.blame, Blame::Provider { .. }));
    }
}
