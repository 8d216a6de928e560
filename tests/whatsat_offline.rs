//! WHATSAT without a provider: the grammar and the limits of the command, the format of the reply, and
//! the nearest places, also across the poles and the antimeridian.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod common;

use std::fs;

use common::{At, Client, Herd, Whatsat, assert_bytes, refused};
use proxy_herd::rng::Rng;
use serde_json::{Value, json};

/// Mean radius of the earth in kilometers.
const EARTH: f64 = 6371.0088;

/// The tolerance for the radius of the earth, which is between 6357 (polar) and 6378 km (equatorial).
const RADII: f64 = 0.003;

/// UCLA, the location of the clients of the original server.
const UCLA: &str = "+34.068930-118.445127";

/// Degrees north and east.
type Point = (f64, f64);

/// Great-circle distance in kilometers, by the haversine formula.
fn distance(a: Point, b: Point) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let half_lat = ((b.0 - a.0).to_radians() / 2.0).sin();
    let half_lng = ((b.1 - a.1).to_radians() / 2.0).sin();
    let h = half_lat * half_lat + lat_a.cos() * lat_b.cos() * half_lng * half_lng;
    2.0 * EARTH * h.sqrt().min(1.0).asin()
}

fn position(place: &Value) -> Point {
    let location = &place["geometry"]["location"];
    let number = |key: &str| location[key].as_f64().unwrap_or_else(|| panic!("{key} of {place}"));
    (number("lat"), number("lng"))
}

fn location(point: Point) -> String {
    format!("{:+.6}{:+.6}", point.0, point.1)
}

/// Asks for the places around a point, and checks everything that applies to any reply.
fn near(client: &mut Client, point: Point, radius: &str, max: usize) -> Whatsat {
    let at = client.iamat("here", &location(point), &common::seconds(common::wall_ns()));
    let reply = client.whatsat("here", radius, &max.to_string());
    assert_bytes(&reply.at, &at);
    assert!(reply.results().len() <= max, "{} of {max}", reply.results().len());
    let expected = if reply.results().is_empty() { "ZERO_RESULTS" } else { "OK" };
    assert_eq!(reply.status(), expected);
    let rounded: Point = {
        let text = location(point);
        let middle = text.rfind(['+', '-']).unwrap();
        (text[..middle].parse().unwrap(), text[middle..].parse().unwrap())
    };
    let bound = radius.parse::<f64>().unwrap() * (1.0 + RADII) + 1e-6;
    let mut last = 0.0;
    for place in reply.results() {
        assert!(!place["name"].as_str().unwrap().is_empty(), "{place}");
        assert!(place["vicinity"].is_string(), "{place}");
        let there = position(place);
        assert!(
            (-90.0..=90.0).contains(&there.0) && (-180.0..=180.0).contains(&there.1),
            "{place}"
        );
        let away = distance(rounded, there);
        assert!(away <= bound, "{away} km, asked for {radius} around {point:?}: {place}");
        // Rounding errors of up to a millimeter are accepted.
        assert!(last <= away + 1e-6, "{away} km after {last} km around {point:?}: {place}");
        last = away;
    }
    reply
}

/// Returns a random number. The generators have fixed seeds, so every run asks the same questions.
fn between(random: &mut Rng, low: f64, high: f64) -> f64 {
    low + (high - low) * random.unit()
}

// The command

#[test]
fn every_valid_radius_is_accepted() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", UCLA, "1");
    let zeros = "0".repeat(300);
    for radius in [
        "10",
        "+10",
        "10.",
        "+10.",
        "10.0",
        ".5",
        "+.5",
        "0.5",
        "50",
        "+50",
        "50.",
        "0050",
        "1.25",
        "50.000000000000000000000000000000",
        "49.99999999999999999999999999999999999999999999",
        &format!("{zeros}50.{zeros}"),
        &format!("1.{}", "7".repeat(500)),
    ] {
        let reply = client.whatsat("kiwi", radius, "3");
        if radius.parse::<f64>().unwrap() >= 10.0 {
            assert_eq!((reply.status(), reply.results().len()), ("OK", 3), "{radius}");
        }
    }
}

#[test]
fn every_invalid_radius_is_rejected() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", UCLA, "1");
    let zeros = "0".repeat(300);
    for radius in [
        "50.0000000000000001",
        "50.1",
        "51",
        "500",
        "-1",
        "-10",
        "-0",
        "-.5",
        "",
        "+",
        ".",
        "+.",
        "++1",
        "+-1",
        "1..",
        "1.2.3",
        "1+",
        "1e1",
        "1E1",
        "0x10",
        "1_0",
        "1,5",
        "10km",
        "nan",
        "NaN",
        "inf",
        "+inf",
        "infinity",
        "\u{0661}",
        "10\u{a0}",
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "99999999999999999999999999999999999999999999",
        &format!("50.{zeros}1"),
        &format!("5{zeros}"),
    ] {
        let command = format!("WHATSAT kiwi {radius} 5");
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
}

#[test]
fn every_number_of_results_up_to_twenty_is_accepted() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", UCLA, "1");
    let twenty = client.whatsat("kiwi", "50", "20").document["results"].clone();
    for max in 0..=20 {
        for text in [format!("{max}"), format!("+{max}"), format!("0{max}"), format!("+000{max}")] {
            let reply = client.whatsat("kiwi", "50", &text);
            assert_eq!(reply.results(), &twenty.as_array().unwrap()[..max], "the nearest {text}");
        }
    }
    let many_zeros = format!("{}20", "0".repeat(500));
    assert_eq!(client.whatsat("kiwi", "50", &many_zeros).results().len(), 20);
}

#[test]
fn every_other_number_of_results_is_rejected() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", UCLA, "1");
    for max in [
        "21",
        "+21",
        "021",
        "100",
        "-1",
        "-0",
        "5.",
        "5.0",
        ".5",
        "+",
        "-",
        "++5",
        "5+",
        "1e1",
        "0x5",
        "1_0",
        "5x",
        "nan",
        "inf",
        "\u{0665}",
        "256",
        "4294967296",
        "4294967301",
        "18446744073709551616",
        "18446744073709551621",
        "340282366920938463463374607431768211461",
        "99999999999999999999999999999999999999999999999",
    ] {
        let command = format!("WHATSAT kiwi 10 {max}");
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
}

#[test]
fn whatsat_with_the_wrong_number_of_fields_or_an_unknown_client_is_rejected() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", UCLA, "1");
    for command in [
        "WHATSAT",
        "WHATSAT kiwi",
        "WHATSAT kiwi 10",
        "WHATSAT 10 5",
        "WHATSAT kiwi 10 5 5",
        "WHATSAT kiwi kiwi 10 5",
        "WHATSATkiwi 10 5",
        "WHATSAT unknown 10 5",
        "WHATSAT Kiwi 10 5",
        "WHATSAT kiw 10 5",
        "WHATSAT kiwi\0 10 5",
        "WHATSAT unknown 0 0",
    ] {
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
}

// The reply

#[test]
fn the_reply_consists_of_the_stored_at_line_a_document_and_two_newlines() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for location in
        [UCLA, "+34.068930-118.445127/", "+034.0689300-118.445127000", "+34.-118.", "+.5-.5"]
    {
        let time = common::seconds(common::wall_ns());
        let at = client.iamat("kiwi", location, &time);
        assert_bytes(&client.whatsat("kiwi", "10", "5").at, &at);
    }
    // Nothing follows the two newlines at the end of the reply.
    let all = herd.exchange("Solo", b"WHATSAT kiwi 10 5\nfence\nWHATSAT kiwi 0 5");
    let text = String::from_utf8(all).unwrap();
    let (first, rest) = text.split_once("\n\n").unwrap();
    assert!(first.ends_with('}'), "{first}");
    assert!(rest.starts_with("? fence\nAT Solo +"), "{rest}");
    assert!(rest.ends_with("}\n\n") && rest.matches("\n\n").count() == 1, "{rest}");
    assert!(!text.contains('\r'), "{text}");
}

#[test]
fn the_document_has_the_format_of_nearby_search() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", UCLA, "1");
    let reply = client.whatsat("kiwi", "10", "5");
    let mut keys: Vec<&String> = reply.document.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["html_attributions", "results", "status"]);
    assert_eq!((reply.status(), reply.results().len()), ("OK", 5), "five real places around UCLA");
    for place in reply.results() {
        for key in ["name", "vicinity", "place_id"] {
            assert!(!place[key].as_str().unwrap().is_empty(), "{key} of {place}");
        }
        let types = place["types"].as_array().unwrap();
        assert!(!types.is_empty() && types.iter().all(Value::is_string), "{place}");
        let away = distance((34.068_930, -118.445_127), position(place));
        assert!(away <= 10.0 * (1.0 + RADII), "{away} km: {place}");
    }
}

#[test]
fn a_radius_or_maximum_of_zero_is_zero_results() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let at = client.iamat("kiwi", UCLA, "1");
    for (radius, max) in
        [("0", "20"), ("50", "0"), ("0", "0"), ("+0", "5"), ("0.", "5"), (".0", "5"), ("10", "+00")]
    {
        let reply = client.whatsat("kiwi", radius, max);
        assert_bytes(&reply.at, &at);
        assert_eq!(
            reply.document,
            json!({
                "html_attributions": [], "results": [], "status": "ZERO_RESULTS"
            })
        );
    }
}

#[test]
fn no_places_nearby_are_zero_results() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let nemo = near(&mut client, (-48.876_667, -123.393_333), "50", 20); // 2,700 km from any land
    assert_eq!(nemo.status(), "ZERO_RESULTS");
}

/// The AT line is that of the node that received the update, whichever node answers.
#[test]
fn every_node_answers_with_the_at_line_of_the_receiving_node() {
    let herd = Herd::five();
    let at = herd.client("Clark").iamat("kiwi.cs.ucla.edu", UCLA, "1621464827.959498503");
    assert_eq!(At::parse(&at).server, "Clark");
    herd.wait_until_held(&herd.names(), "kiwi.cs.ucla.edu", &at);
    let mut documents = Vec::new();
    for name in herd.names() {
        let reply = herd.client(&name).whatsat("kiwi.cs.ucla.edu", "10", "5");
        assert_bytes(&reply.at, &at);
        assert_eq!(reply.results().len(), 5);
        documents.push(reply.document);
    }
    assert!(
        documents.windows(2).all(|pair| pair[0] == pair[1]),
        "the documents of the nodes differ"
    );
}

// The places

/// Every reply complies with the maximum, the radius and the order; see [`near`].
#[test]
fn places_are_within_the_radius_and_nearest_first_everywhere() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let mut random = Rng::new(1);
    let mut found = 0;
    for _ in 0..400 {
        let lat = between(&mut random, -1.0, 1.0).asin().to_degrees(); // uniform over the sphere
        let point = (lat, between(&mut random, -180.0, 180.0));
        found += near(&mut client, point, "50", 20).results().len();
    }
    let corners = [-90.0, -89.999_999, -45.0, 0.0, 45.0, 89.999_999, 90.0];
    for lat in corners {
        for lng in [-180.0, -179.999_999, -90.0, 0.0, 90.0, 179.999_999, 180.0] {
            found += near(&mut client, (lat, lng), "50", 20).results().len();
        }
    }
    println!("{found} places in 449 circles");
    assert!(found > 250, "the gazetteer covers the world: {found}");
}

#[test]
fn the_places_of_a_smaller_radius_are_the_first_of_a_larger_one() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for point in [(34.068_93, -118.445_127), (51.5, -0.12), (-16.8, 179.98), (-77.85, 166.67)] {
        let wide = near(&mut client, point, "50", 20);
        for radius in ["25", "10", "5", "1", ".1"] {
            let narrow = near(&mut client, point, radius, 20);
            let count = narrow.results().len();
            assert_eq!(narrow.results(), &wide.results()[..count], "{radius} km around {point:?}");
            if let Some(next) = wide.results().get(count) {
                let away = distance(point, position(next));
                let radius: f64 = radius.parse().unwrap();
                assert!(away >= radius * (1.0 - RADII) - 1e-3, "{away} km is missing: {next}");
            }
        }
    }
}

/// Different spellings of one point have one answer: ±180° of longitude, and any longitude at a pole.
#[test]
fn spellings_of_one_point_have_one_answer() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let mut names = |location: &str| {
        client.iamat("here", location, &common::seconds(common::wall_ns()));
        let reply = client.whatsat("here", "50", "20");
        let mut names: Vec<String> = reply.names().iter().map(|&name| name.to_owned()).collect();
        names.sort();
        names
    };
    for lat in ["-16.85", "-16.5", "-17.7", "-19", "+66", "+68.9", "+71"] {
        assert_eq!(names(&format!("{lat}+180")), names(&format!("{lat}-180")), "{lat}");
    }
    for pole in ["+90", "-90"] {
        let first = names(&format!("{pole}+0"));
        for meridian in ["-0", "+90", "-90", "+179.9", "+180", "-180", "-117.25"] {
            assert_eq!(names(&format!("{pole}{meridian}")), first, "{pole}{meridian}");
        }
    }
    assert!(!names("-16.85+180").is_empty(), "Taveuni is on the antimeridian");
    // A step across the antimeridian moves the circle by meters.
    let (west, east) = (names("-16.85-179.999"), names("-16.85+179.999"));
    assert!(
        west.iter().filter(|name| east.contains(name)).count() * 2 > west.len(),
        "{west:?} {east:?}"
    );
}

/// A places file with many points around the poles and the antimeridian, compared with an exhaustive
/// search.
#[test]
fn searches_of_a_places_file_match_an_exhaustive_search() {
    let mut random = Rng::new(7);
    let mut places: Vec<(String, Point)> = Vec::new();
    let mut add = |point| places.push((format!("P{}", places.len()), point));
    for pole in [-90.0_f64, 90.0] {
        add((pole, 0.0));
        for _ in 0..150 {
            let lat = pole - pole.signum() * between(&mut random, 0.0, 0.8);
            add((lat, between(&mut random, -180.0, 180.0)));
        }
    }
    for _ in 0..300 {
        let lng = between(&mut random, 179.4, 180.6);
        add((between(&mut random, -1.0, 1.0), if lng > 180.0 { lng - 360.0 } else { lng }));
        let lng = between(&mut random, 178.8, 181.2);
        add((between(&mut random, 64.0, 65.0), if lng > 180.0 { lng - 360.0 } else { lng }));
        add((between(&mut random, 33.5, 34.5), between(&mut random, -119.0, -118.0)));
    }
    add((0.0, 180.0));
    add((0.0, -180.0));
    let csv: String = std::iter::once("name,latitude,longitude,kind\n".to_owned())
        .chain(places.iter().map(|(name, (lat, lng))| format!("{name},{lat},{lng},depot\n")))
        .collect::<Vec<_>>()
        .concat();
    let features: Vec<Value> = places
        .iter()
        .map(|(name, (lat, lng))| {
            json!({"type": "Feature", "properties": {"name": name, "kind": "depot"},
                "geometry": {"type": "Point", "coordinates": [lng, lat]}})
        })
        .collect();
    let geojson = json!({"type": "FeatureCollection", "features": features}).to_string();

    let mut points = vec![
        (90.0, 0.0),
        (90.0, 77.0),
        (-90.0, 0.0),
        (-90.0, 180.0),
        (89.9, 10.0),
        (-89.8, -170.0),
    ];
    for _ in 0..60 {
        let pole: f64 = if random.unit() < 0.5 { -90.0 } else { 90.0 };
        points.push((
            pole - pole.signum() * between(&mut random, 0.0, 1.0),
            between(&mut random, -180.0, 180.0),
        ));
        let lng = between(&mut random, 179.5, 180.5);
        let lng = if lng > 180.0 { lng - 360.0 } else { lng };
        points.push((between(&mut random, -1.0, 1.0), lng));
        points.push((between(&mut random, 64.0, 65.0), lng));
        points.push((between(&mut random, 33.5, 34.5), between(&mut random, -119.0, -118.0)));
    }
    for (file, content) in [
        ("places.csv", csv.clone()),
        ("places.tsv", csv.replace(',', "\t")),
        ("places.geojson", geojson),
    ] {
        let mut herd = Herd::new(&[("Solo", &[])], &format!("places: {{file: {file}}}"));
        fs::write(herd.directory().join(file), content).unwrap();
        herd.start("Solo");
        let mut client = herd.client("Solo");
        let mut found = 0;
        for &point in &points {
            for (radius, max) in [("50", 20), ("50", 7), ("20", 20), ("3.5", 20)] {
                let reply = near(&mut client, point, radius, max);
                let names = reply.names();
                found += names.len();
                let radius: f64 = radius.parse().unwrap();
                let mut by_distance: Vec<(f64, &str)> = places
                    .iter()
                    .map(|(name, there)| (distance(point, *there), name.as_str()))
                    .collect();
                by_distance.sort_by(|a, b| a.0.total_cmp(&b.0));
                let at_least =
                    by_distance.iter().filter(|(away, _)| *away < radius * (1.0 - RADII)).count();
                let at_most =
                    by_distance.iter().filter(|(away, _)| *away <= radius * (1.0 + RADII)).count();
                assert!(
                    names.len() >= at_least.min(max) && names.len() <= at_most.min(max),
                    "{} places within {radius} km of {point:?}, {at_least} to {at_most} expected",
                    names.len()
                );
                for (i, (got, want)) in names.iter().zip(&by_distance).enumerate() {
                    // The order of equally distant places may differ.
                    let got_away = by_distance.iter().find(|(_, name)| name == got).unwrap().0;
                    assert!(
                        (got_away - want.0).abs() < 0.001,
                        "{i}: {got} at {got_away}, not {want:?}"
                    );
                }
            }
        }
        println!("{file}: {found} places found");
        assert!(found > 1000, "{found}");
    }
}
