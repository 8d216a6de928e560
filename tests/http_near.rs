//! Queries for the nearest clients, and for clients heard from recently.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr};

use common::{Client, DEADLINE, Herd, eventually, free_port, seconds, show, wall_ns};
use serde_json::Value;

/// The sphere on which WHATSAT measures distances.
const RADIUS_M: f64 = 6_371_008.8;

struct Solo {
    herd: Herd,
    http: SocketAddr,
}

impl Solo {
    fn new(extra: &str) -> Self {
        let port = free_port();
        let herd = Herd::solo_with(&format!("http: {{ports: {{Solo: {port}}}}}\n{extra}"));
        let http = (Ipv4Addr::LOCALHOST, port).into();
        Self { herd, http }
    }

    fn hold(&self, clients: &[(&str, f64, f64)]) {
        let mut client = self.herd.client("Solo");
        for (name, lat, lng) in clients {
            client.iamat(name, &format!("{lat:+}{lng:+}"), &seconds(wall_ns()));
        }
    }

    /// Returns status and body.
    fn get(&self, target: &str) -> (u16, Vec<u8>) {
        let mut client = Client::connect(self.http);
        client.send(format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes());
        let reply = client.rest();
        let end = common::find(&reply, b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&reply[9..12]).unwrap().parse().unwrap();
        (status, reply[end + 4..].to_vec())
    }

    /// Returns names and distances of a successful query.
    fn near(&self, target: &str) -> Vec<(String, f64)> {
        let (status, body) = self.get(target);
        assert_eq!(status, 200, "{}", show(&body));
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["type"], &body["next"]), (&"FeatureCollection".into(), &Value::Null));
        let hit = |feature: &Value| {
            let name = feature["properties"]["client"].as_str().unwrap().to_owned();
            (name, feature["properties"]["distance"].as_f64().unwrap())
        };
        body["features"].as_array().unwrap().iter().map(hit).collect()
    }

    fn names(&self, target: &str) -> Vec<String> {
        self.near(target).into_iter().map(|(name, _)| name).collect()
    }
}

fn haversine((lat, lng): (f64, f64), (to_lat, to_lng): (f64, f64)) -> f64 {
    let (lat, to_lat) = (lat.to_radians(), to_lat.to_radians());
    let (dlat, dlng) = ((to_lat - lat) / 2.0, (to_lng - lng).to_radians() / 2.0);
    let a = dlat.sin().powi(2) + lat.cos() * to_lat.cos() * dlng.sin().powi(2);
    2.0 * RADIUS_M * a.sqrt().min(1.0).asin()
}

#[test]
fn the_nearest_clients_come_first_with_their_distances() {
    let solo = Solo::new("");
    let vans = [
        ("depot", 34.07, -118.45),
        ("near", 34.071, -118.45),
        ("far", 34.2, -118.45),
        ("tie-b", 34.07, -118.46),
        ("tie-a", 34.07, -118.46),
        ("paris", 48.8584, 2.2945),
    ];
    solo.hold(&vans);
    let hits = solo.near("/api/clients?near=-118.45,34.07");
    let names: Vec<&str> = hits.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["depot", "near", "tie-a", "tie-b", "far", "paris"]);
    for (name, distance) in &hits {
        let (_, lat, lng) = vans.iter().find(|van| van.0 == name).unwrap();
        let expected = haversine((34.07, -118.45), (*lat, *lng));
        assert!((distance - expected).abs() < 0.001, "{name}: {distance}, not {expected}");
    }
    assert_eq!(
        solo.names("/api/clients?near=-118.45,34.07&radius=1"),
        ["depot", "near", "tie-a", "tie-b"]
    );
    assert_eq!(solo.names("/api/clients?near=-118.45,34.07&limit=2"), ["depot", "near"]);
    assert_eq!(solo.names("/api/clients?near=-1.1845e2,3407e-2&radius=1e-1"), ["depot"]);
    assert_eq!(solo.names("/api/clients/depot/near?limit=1"), ["near"]);
    assert_eq!(solo.names("/api/clients/paris/near?radius=0"), [""; 0]);
}

/// The index follows updates, and a query sees every update before it.
#[test]
fn a_query_sees_every_update_before_it() {
    let solo = Solo::new("");
    solo.hold(&[("still", 10.0, 10.0), ("mover", 50.0, 50.0)]);
    for round in 0..50 {
        let lat = if round % 2 == 0 { 10.001 } else { -50.0 };
        solo.hold(&[("mover", lat, 10.0)]);
        let expected: &[&str] = if round % 2 == 0 { &["mover"] } else { &[] };
        assert_eq!(solo.names("/api/clients/still/near?radius=100"), expected, "round {round}");
    }
}

#[test]
fn results_are_exact_at_the_antimeridian_and_the_poles() {
    let solo = Solo::new("");
    solo.hold(&[
        ("east", 0.0, 179.99),
        ("west", 0.0, -179.99),
        ("seam", 0.0, 180.0),
        ("pole", 90.0, 0.0),
        ("beside-the-pole", 89.99, 180.0),
    ]);
    assert_eq!(solo.names("/api/clients?near=-180,0&radius=5"), ["seam", "east", "west"]);
    assert_eq!(solo.names("/api/clients?near=77,90&radius=5"), ["pole", "beside-the-pole"]);
    assert_eq!(solo.names("/api/clients?near=0,89.99&radius=3"), ["pole", "beside-the-pole"]);
}

#[test]
fn many_clients_are_searched_in_slices() {
    let solo = Solo::new("");
    let clients: Vec<(String, f64, f64)> = (0..30_000)
        .map(|n| (format!("c{n:05}"), f64::from(n % 173) / 10.0, f64::from(n / 173) / 10.0))
        .collect();
    let mut client = solo.herd.client("Solo");
    let time = seconds(wall_ns());
    let lines =
        clients.iter().map(|(name, lat, lng)| format!("IAMAT {name} {lat:+}{lng:+} {time}"));
    let sender = client.send_in_background(common::lines(lines));
    for _ in &clients {
        client.line();
    }
    sender.join().unwrap();
    let mut expected: Vec<(f64, &str)> = clients
        .iter()
        .map(|(name, lat, lng)| (haversine((8.0, 9.0), (*lat, *lng)), name.as_str()))
        .collect();
    expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    let found = solo.near("/api/clients?near=9,8&limit=1000");
    assert_eq!(found.len(), 1000);
    for ((_, distance), (expected, _)) in found.iter().zip(&expected) {
        assert!((distance - expected).abs() < 0.001, "{distance}, not {expected}");
    }
}

#[test]
fn max_age_hides_silent_clients() {
    let solo = Solo::new("");
    solo.hold(&[("old", 1.0, 1.0)]);
    // Of its own accord, nothing but time passes.
    let old_enough = || solo.get("/api/clients?max_age=0.5").1;
    eventually("the client has been silent for half a second", DEADLINE, || {
        let body: Value = serde_json::from_slice(&old_enough()).unwrap();
        body["features"].as_array().unwrap().is_empty().then_some(())
    });
    solo.hold(&[("new", 1.0, 1.001)]);
    assert_eq!(solo.names("/api/clients?near=1,1&max_age=0.5"), ["new"]);
    assert_eq!(solo.names("/api/clients?near=1,1&max_age=3600"), ["old", "new"]);
    let mut events = Client::connect(solo.http);
    events.send(b"GET /events?max_age=0.5 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let snapshot = String::from_utf8(events.until(b"event: ready")).unwrap();
    assert!(!snapshot.contains("\"old\"") && snapshot.contains("\"new\""), "{snapshot}");
}

#[test]
fn queries_that_are_not_valid_are_explained() {
    let solo = Solo::new("");
    solo.hold(&[("kiwi", 1.0, 1.0)]);
    for (target, reason) in [
        ("/api/clients?near=1", "near must be LON,LAT"),
        ("/api/clients?near=181,0", "near must be LON,LAT"),
        ("/api/clients?near=0,91", "near must be LON,LAT"),
        ("/api/clients?near=nan,0", "near must be LON,LAT"),
        ("/api/clients?near=1,2,3", "near must be LON,LAT"),
        ("/api/clients?near=1,1&radius=-1", "radius must be"),
        ("/api/clients?near=1,1&limit=0", "limit must be an integer from 1 to 1000"),
        ("/api/clients?near=1,1&limit=1001", "limit must be an integer from 1 to 1000"),
        ("/api/clients?near=1,1&bbox=0,0,1,1", "exclude each other"),
        ("/api/clients?near=1,1&after=5", "unknown parameter `after`"),
        ("/api/clients?max_age=x", "max_age must be"),
        ("/api/clients/kiwi/near?near=1,1", "unknown parameter `near`"),
    ] {
        let (status, body) = solo.get(target);
        let body = String::from_utf8(body).unwrap();
        assert!(status == 400 && body.contains(reason), "{target}: {status} {body}");
    }
    assert_eq!(solo.get("/api/clients/plum/near").0, 404);
}
