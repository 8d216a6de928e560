//! Successful answers.

use serde_json::{Value, json};

use crate::common::{Client, DEADLINE, FIVE, Herd, assert_bytes, refused, seconds, wall_ns};
use crate::servers::{KEY, Server, places, solo};

/// The mean radius of the earth in meters, as in the emulator and the node.
const EARTH: f64 = 6_371_008.8;

/// The location of the clients of these tests.
const UCLA: (f64, f64) = (34.068_93, -118.445_127);

/// Great-circle distance in meters, by the haversine formula.
fn distance(a: (f64, f64), b: (f64, f64)) -> f64 {
    let half = |a: f64, b: f64| ((b - a).to_radians() / 2.0).sin().powi(2);
    let h = half(a.0, b.0) + a.0.to_radians().cos() * b.0.to_radians().cos() * half(a.1, b.1);
    2.0 * EARTH * h.sqrt().min(1.0).asin()
}

fn position(place: &Value) -> (f64, f64) {
    let location = &place["geometry"]["location"];
    (location["lat"].as_f64().unwrap(), location["lng"].as_f64().unwrap())
}

/// Asks, checks everything that applies to any answer of the emulator, and returns the names.
fn ask(client: &mut Client, at: &[u8], radius_km: f64, max: usize) -> Vec<String> {
    let reply = client.whatsat("kiwi", &radius_km.to_string(), &max.to_string());
    assert_bytes(&reply.at, at);
    // Exactly two LFs: the next reply follows immediately.
    assert_bytes(&client.ask(b"WHATSAT unknown 1 1"), &refused(b"WHATSAT unknown 1 1"));
    let expected = if reply.results().is_empty() { "ZERO_RESULTS" } else { "OK" };
    assert_eq!(reply.status(), expected, "{}", reply.document);
    assert!(reply.document.get("error_message").is_none(), "{}", reply.document);
    assert!(reply.results().len() <= max, "{} of {max}", reply.results().len());
    for place in reply.results() {
        assert!(place["name"].as_str().unwrap().contains("mulated"), "{place}");
        assert!(place["vicinity"].is_string(), "{place}");
        assert!(place["types"].is_array() && place["place_id"].is_string(), "{place}");
        let away = distance(UCLA, position(place));
        assert!(away <= radius_km * 1000.0 + 0.5, "{away} m, asked for {radius_km} km: {place}");
    }
    reply.names().into_iter().map(str::to_owned).collect()
}

fn all_five_nodes_give_the_same_answers(provider: &str, api: &str, requests: u32) {
    let emulator = Server::emulator(&["--overpass-slots", "0"]);
    let mut herd = Herd::new(&FIVE, &places(provider, emulator.url(), "deadline_ms: 30000"));
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let at = herd.client("Clark").iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()));
    herd.wait_until_held(&herd.names(), "kiwi", &at);
    let questions = [(10.0, 5), (0.75, 20), (50.0, 1), (50.0, 20), (0.0, 5), (7.0, 0)];
    let mut first: Option<Vec<Vec<String>>> = None;
    for name in herd.names() {
        let mut client = herd.client(&name);
        let answers: Vec<Vec<String>> =
            questions.iter().map(|&(radius, max)| ask(&mut client, &at, radius, max)).collect();
        let counts: Vec<usize> = answers.iter().map(Vec::len).collect();
        assert_eq!((counts[0], counts[2], counts[3]), (5, 1, 20), "{provider}");
        assert!(counts[1] > 0 && counts[4] == 0 && counts[5] == 0, "{provider}: {counts:?}");
        assert_eq!(
            *first.get_or_insert_with(|| answers.clone()),
            answers,
            "{name} gives other answers"
        );
    }
    let stats = emulator.stats();
    // A radius of 0 and a maximum of 0 need no request.
    assert_eq!(stats["requests"]["by_api"], json!({ api: 5 * requests }), "{stats}");
    assert_eq!(stats["requests"]["by_status"], json!({ "200": 5 * requests }), "{stats}");
    assert_eq!(stats["tls"]["server_names"], json!({ "localhost": 5 }), "{stats}");
    assert_eq!(stats["tls"]["versions"], json!({ "TLSv1.3": 5 }), "{stats}");
    assert_eq!(stats["connections"]["accepted"], 5, "one connection per node: {stats}");
}

#[test]
fn all_five_nodes_query_google() {
    all_five_nodes_give_the_same_answers("google", "places_new", 4);
}

#[test]
fn all_five_nodes_query_google_legacy() {
    all_five_nodes_give_the_same_answers("google_legacy", "places_legacy", 4);
}

#[test]
fn all_five_nodes_query_overpass() {
    // Its answers are cached by default: one serves both questions about the same circle.
    all_five_nodes_give_the_same_answers("overpass", "overpass", 3);
}

#[test]
fn overpass_finds_nodes_ways_and_relations_within_the_radius() {
    let emulator = Server::emulator(&[]);
    let herd = solo("overpass", emulator.url(), "");
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()));
    let reply = client.whatsat("kiwi", "10", "20");
    let ids: Vec<&str> =
        reply.results().iter().map(|place| place["place_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 20);
    for kind in ["node/", "way/", "relation/"] {
        assert!(ids.iter().any(|id| id.starts_with(kind)), "{kind}: {ids:?}");
    }
}

#[test]
fn a_request_asks_only_for_required_fields() {
    let emulator = Server::emulator(&[]);
    let herd = solo("google", emulator.url(), "");
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()));
    assert_eq!(client.whatsat("kiwi", "10", "1").results().len(), 1);
    let request = &emulator.recent()[0];
    let mask = request["headers"]["x-goog-fieldmask"].as_str().unwrap();
    assert!(mask.split(',').all(|field| field.starts_with("places.")) && !mask.contains('*'));
    assert_eq!(request["headers"]["accept-encoding"], "identity", "{request}");
    assert!(!request.to_string().contains(KEY), "the key may appear in its header only: {request}");
}

#[test]
fn no_places_nearby_are_zero_results() {
    for provider in ["google", "google_legacy", "overpass"] {
        let emulator = Server::emulator(&[]);
        let herd = solo(provider, emulator.url(), "");
        let mut client = herd.client("Solo");
        // Point Nemo, the point in the ocean that is farthest from land.
        let at = client.iamat("nemo", "-48.8767-123.3933", &seconds(wall_ns()));
        let reply = client.whatsat("nemo", "50", "20");
        assert_bytes(&reply.at, &at);
        assert_eq!((reply.status(), reply.results().len()), ("ZERO_RESULTS", 0), "{provider}");
    }
}

#[test]
fn the_answer_does_not_depend_on_the_framing() {
    let emulator = Server::emulator(&[]);
    let herd = solo("google", emulator.url(), "");
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+34.068930-118.445127", &seconds(wall_ns()));
    let mut documents = Vec::new();
    for framing in ["chunked", "length", "close"] {
        emulator.set_mode(&format!("mode=ok&framing={framing}"));
        documents.push(client.whatsat("kiwi", "10", "20").document);
    }
    assert_eq!(documents[0]["status"], "OK");
    assert!(documents.iter().all(|document| *document == documents[0]), "{documents:?}");
}

#[test]
fn a_client_that_half_closes_gets_its_answer() {
    let emulator = Server::emulator(&["--latency-ms", "100"]);
    let herd = solo("google", emulator.url(), &format!("deadline_ms: {}", DEADLINE.as_millis()));
    let now = seconds(wall_ns());
    let input = format!("IAMAT kiwi +34.0-118.4 {now}\nWHATSAT kiwi 10 2");
    let replies = String::from_utf8(herd.exchange("Solo", input.as_bytes())).unwrap();
    let (iamat, whatsat) = replies.split_once('\n').unwrap();
    assert!(whatsat.starts_with(&format!("{iamat}\n{{")) && whatsat.ends_with("}\n\n"));
    assert!(whatsat.contains("\"OK\""), "{replies}");
}
