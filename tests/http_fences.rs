//! Fences over HTTP: who is inside, who enters and leaves, and files that are read again.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use common::{Client, DEADLINE, Herd, eventually, free_port, seconds, show, wall_ns};
use serde_json::{Value, json};

const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

/// A herd with the file `fences.geojson` beside its configuration.
struct Fenced {
    herd: Herd,
    http: BTreeMap<String, SocketAddr>,
}

fn feature(name: &str, geometry: &Value, more: &Value) -> Value {
    let mut properties = json!({ "name": name });
    for (key, value) in more.as_object().unwrap() {
        properties[key] = value.clone();
    }
    json!({"type": "Feature", "geometry": geometry, "properties": properties})
}

/// A square of two degrees around this point.
fn square(name: &str, lng: i32, lat: i32, more: &Value) -> Value {
    let (west, south, east, north) = (lng - 1, lat - 1, lng + 1, lat + 1);
    let ring = json!([[west, south], [east, south], [east, north], [west, north], [west, south]]);
    feature(name, &json!({"type": "Polygon", "coordinates": [ring]}), more)
}

fn circle(name: &str, lng: f64, lat: f64, radius: f64) -> Value {
    let point = json!({"type": "Point", "coordinates": [lng, lat]});
    feature(name, &point, &json!({ "radius": radius }))
}

impl Fenced {
    fn new(nodes: &[(&str, &[&str])], fences: &[Value], extra: &str) -> Self {
        let http: BTreeMap<String, SocketAddr> = nodes
            .iter()
            .map(|(name, _)| ((*name).to_owned(), (Ipv4Addr::LOCALHOST, free_port()).into()))
            .collect();
        let ports: Vec<String> =
            http.iter().map(|(name, address)| format!("{name}: {}", address.port())).collect();
        let ports = ports.join(", ");
        let sections = format!("http: {{ports: {{{ports}}}}}\nfences: {{file: fences.geojson}}\n");
        let herd = Herd::new(nodes, &(sections + extra));
        let fenced = Self { herd, http };
        fenced.write(fences);
        fenced
    }

    fn started(nodes: &[(&str, &[&str])], fences: &[Value], extra: &str) -> Self {
        let mut fenced = Self::new(nodes, fences, extra);
        fenced.start();
        fenced
    }

    fn start(&mut self) {
        self.herd.start_all();
        // The probes of this are at 0° N, 0° E.
        if self.http.len() > 1 {
            self.herd.wait_until_connected(&self.herd.names());
        }
    }

    fn write(&self, fences: &[Value]) {
        let document = json!({"type": "FeatureCollection", "features": fences});
        self.write_text(&document.to_string());
    }

    fn write_text(&self, text: &str) {
        fs::write(self.herd.directory().join("fences.geojson"), text).unwrap();
    }

    /// Has a node read its files again. Returns whether it succeeded.
    fn reload(&self, node: &str) -> bool {
        let count = |result| {
            let metrics = self.get(node, "/metrics").1;
            let sample = format!("proxy_herd_reloads_total{{result=\"{result}\"}} ");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&sample)).unwrap();
            line.parse::<u64>().unwrap()
        };
        let before = (count("done"), count("failed"));
        self.herd.signal(node, "HUP");
        eventually("the file has been read", DEADLINE, || {
            let now = (count("done"), count("failed"));
            (now != before).then_some(now.0 > before.0)
        })
    }

    fn connect(&self, node: &str) -> Client {
        Client::connect(self.http[node])
    }

    /// Returns status and body.
    fn get(&self, node: &str, target: &str) -> (u16, String) {
        let mut client = self.connect(node);
        client.send(format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes());
        let reply = client.rest();
        let end = common::find(&reply, b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&reply[9..12]).unwrap().parse().unwrap();
        (status, String::from_utf8(reply[end + 4..].to_vec()).unwrap())
    }

    fn json(&self, node: &str, target: &str) -> Value {
        let (status, body) = self.get(node, target);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Returns the names in a listing, sorted.
    fn names(&self, node: &str, target: &str) -> Vec<String> {
        let body = self.json(node, target);
        let name = |feature: &Value| feature["properties"]["client"].as_str().unwrap().to_owned();
        let mut names: Vec<_> = body["features"].as_array().unwrap().iter().map(name).collect();
        names.sort();
        names
    }

    /// Returns the fences with the number of clients inside.
    fn counts(&self, node: &str) -> Vec<(String, u64)> {
        let body = self.json(node, "/api/fences");
        let count = |feature: &Value| {
            let properties = &feature["properties"];
            (
                properties["name"].as_str().unwrap().to_owned(),
                properties["inside"].as_u64().unwrap(),
            )
        };
        body["features"].as_array().unwrap().iter().map(count).collect()
    }

    fn subscribe(&self, node: &str, query: &str, fields: &str) -> Events {
        let mut client = self.connect(node);
        let head = format!("GET /events?{query} HTTP/1.0\r\nHost: localhost\r\n{fields}\r\n");
        client.send(head.as_bytes());
        let head = client.until(b"\r\n\r\n");
        assert!(head.starts_with(b"HTTP/1.1 200"), "{}", show(&head));
        Events { client, last_id: String::new() }
    }

    fn place(&self, node: &str, client: &str, lat: f64, lng: f64) {
        self.herd.client(node).iamat(client, &format!("{lat:+}{lng:+}"), &seconds(wall_ns()));
    }
}

/// A subscriber.
struct Events {
    client: Client,
    last_id: String,
}

impl Events {
    /// Returns the next event: its name, the client, the fence and the reason, or the name alone.
    fn next(&mut self) -> String {
        loop {
            let text = String::from_utf8(self.client.until(b"\n\n")).unwrap();
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
            if let Some(id) = field("id: ") {
                id.clone_into(&mut self.last_id);
            }
            let Some(event) = field("event: ") else { continue }; // a heartbeat
            let data: Value = serde_json::from_str(field("data: ").unwrap()).unwrap();
            let property = |name: &str| data["properties"][name].as_str().unwrap_or_default();
            let parts = [event, property("client"), property("fence"), property("reason")];
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            return parts.join(" ");
        }
    }

    /// Returns the events of the snapshot between `reset` and `ready`, sorted.
    fn snapshot(&mut self) -> Vec<String> {
        assert_eq!(self.next(), "reset");
        let mut events = Vec::new();
        loop {
            match self.next() {
                end if end == "ready" => break,
                event => events.push(event),
            }
        }
        events.sort();
        events
    }
}

#[test]
fn clients_enter_and_leave_on_every_node() {
    let fences =
        [square("Depot A", -118, 34, &json!({"color": "red"})), circle("pier", 10.0, 0.0, 5e3)];
    let fenced = Fenced::started(&PAIR, &fences, "");
    let mut all = fenced.subscribe("Right", "fence=*", "");
    let mut depot = fenced.subscribe("Left", "fence=Depot%20A", "");
    assert_eq!((all.snapshot(), depot.snapshot()), (vec![], vec![]));
    fenced.place("Left", "van", 34.0, -118.0);
    assert_eq!(depot.next(), "enter van Depot A");
    assert_eq!(all.next(), "enter van Depot A");
    for node in ["Left", "Right"] {
        assert_eq!(fenced.names(node, "/api/clients?fence=Depot%20A"), ["van"]);
        assert_eq!(fenced.counts(node), [("Depot A".to_owned(), 1), ("pier".to_owned(), 0)]);
    }
    fenced.place("Left", "van", 0.0, 10.0);
    assert_eq!(depot.next(), "leave van Depot A moved");
    assert_eq!([all.next(), all.next()], ["leave van Depot A moved", "enter van pier"]);
    fenced.place("Right", "car", 34.0, -118.0);
    assert_eq!(depot.next(), "enter car Depot A");
    // A later subscriber is sent who is inside, once.
    let mut later = fenced.subscribe("Left", "fence=Depot%20A&fence=pier", "");
    assert_eq!(later.snapshot(), ["client car Depot A", "client van pier"]);
    let mut one = fenced.subscribe("Left", "fence=*&client=van", "");
    assert_eq!(one.snapshot(), ["client van pier"]);
    // An update that is not stored changes nothing.
    fenced.herd.client("Left").iamat("car", "+0.0+0.0", "5");
    fenced.place("Left", "car", 0.0, 0.0);
    fenced.place("Left", "van", 0.0, 0.0);
    assert_eq!([later.next(), later.next()], ["leave car Depot A moved", "leave van pier moved"]);
    assert_eq!(one.next(), "leave van pier moved");
    let metrics = fenced.get("Left", "/metrics").1;
    for sample in [
        "proxy_herd_fences 2",
        "proxy_herd_fence_clients 0",
        "proxy_herd_fence_transitions_total{event=\"enter\"} 3",
        "proxy_herd_fence_transitions_total{event=\"leave\"} 3",
    ] {
        assert!(metrics.contains(sample), "{sample}");
    }
    let features = fenced.json("Left", "/api/fences");
    let mut expected = fences[0].clone();
    expected["properties"]["inside"] = 0.into();
    assert_eq!(features["features"][0], expected);
}

#[test]
fn invalid_queries_are_rejected() {
    let fenced = Fenced::started(&[("Solo", &[])], &[circle("a", 0.0, 0.0, 1.0)], "");
    let many: String = (0..17).map(|_| "&fence=a").collect();
    for (target, status, reason) in [
        ("/api/clients?fence=b", 404, "there is no fence `b`; /api/fences lists all of them"),
        ("/api/clients?fence=a&bbox=0,0,1,1", 400, "bbox and fence exclude each other"),
        ("/api/clients?near=0,0&fence=a", 400, "near and fence exclude each other"),
        ("/api/clients?near=0,0&bbox=0,0,1,1", 400, "near and bbox exclude each other"),
        ("/api/clients?fence=a&fence=a", 400, "name one fence"),
        ("/api/clients?fence=a&limit=0", 400, "limit must be"),
        ("/api/clients?fence=%2", 400, "fence is not valid percent-encoding"),
        ("/api/clients?fence=a&radius=5", 400, "unknown parameter `radius`"),
        ("/api/fences?fence=a", 400, "unknown parameter `fence`"),
        ("/events?fence=a&fence=b", 404, "there is no fence `b`"),
        ("/events?fence=a&bbox=0,0,1,1", 400, "bbox and fence exclude each other"),
        (&format!("/events?{}", &many[1..]), 400, "at most 16 fences are allowed"),
    ] {
        let (found, body) = fenced.get("Solo", target);
        assert_eq!(found, status, "{target}: {body}");
        assert!(body.contains(reason), "{target}: {body}");
    }
    // Without the section there are no fences.
    let port = free_port();
    let herd = Herd::solo_with(&format!("http: {{ports: {{Solo: {port}}}}}"));
    let http = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let plain = Fenced { herd, http: [("Solo".to_owned(), http)].into() };
    assert_eq!(plain.counts("Solo"), []);
    assert_eq!(plain.json("Solo", "/api/herd")["fences"], Value::Null);
    for target in ["/events?fence=*", "/events?fence=a", "/api/clients?fence=a"] {
        let (status, body) = plain.get("Solo", target);
        assert_eq!(status, 404, "{target}");
        assert!(body.contains("has no section `fences`"), "{body}");
    }
    assert!(!plain.get("Solo", "/metrics").1.contains("proxy_herd_fence"));
}

#[test]
fn the_reason_for_leaving_is_reported() {
    let fences = [circle("a", 0.0, 0.0, 1e3), circle("b", 0.0, 0.0, 2e3)];
    let extra = "limits: {max_clients: 2}";
    let fenced = Fenced::started(&[("Solo", &[])], &fences, extra);
    let mut events = fenced.subscribe("Solo", "fence=*", "");
    assert_eq!(events.snapshot(), [""; 0]);
    let place = |client: &str| fenced.place("Solo", client, 0.0, 0.0);
    let next = |events: &mut Events| [events.next(), events.next()];
    place("first");
    assert_eq!(next(&mut events), ["enter first a", "enter first b"]);
    place("second");
    assert_eq!(next(&mut events), ["enter second a", "enter second b"]);
    place("third");
    assert_eq!(next(&mut events), ["leave first a evicted", "leave first b evicted"]);
    assert_eq!(next(&mut events), ["enter third a", "enter third b"]);
    let output = fenced.herd.run(&["--forget", "third"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(next(&mut events), ["leave third a forgotten", "leave third b forgotten"]);
    assert_eq!(fenced.names("Solo", "/api/clients?fence=a").len(), 1);
    assert_eq!(fenced.counts("Solo"), [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    fenced.write(&[circle("a", 0.0, 0.0, 1e3)]);
    assert!(fenced.reload("Solo"));
    assert_eq!(events.next(), "leave second b fence");

    let brief = Fenced::started(&[("Solo", &[])], &fences[..1], "limits: {client_ttl_s: 1}");
    let mut events = brief.subscribe("Solo", "fence=*", "");
    assert_eq!(events.snapshot(), [""; 0]);
    brief.place("Solo", "x", 0.0, 0.0);
    assert_eq!([events.next(), events.next()], ["enter x a", "leave x a expired"]);
    assert_eq!(brief.counts("Solo"), [("a".to_owned(), 0)]);
}

#[test]
fn a_stream_resumes_after_the_last_event_id() {
    let fenced = Fenced::started(&[("Solo", &[])], &[circle("a", 0.0, 0.0, 1e3)], "");
    let mut first = fenced.subscribe("Solo", "fence=a", "");
    assert_eq!(first.snapshot(), [""; 0]);
    fenced.place("Solo", "x", 0.0, 0.0);
    fenced.place("Solo", "y", 0.0, 0.0);
    assert_eq!(first.next(), "enter x a");
    let id = first.last_id.clone();
    drop(first);
    fenced.place("Solo", "x", 1.0, 0.0);
    let mut second = fenced.subscribe("Solo", "fence=a", &format!("Last-Event-ID: {id}\r\n"));
    assert_eq!([second.next(), second.next()], ["enter y a", "leave x a moved"]);
    let mut third = fenced.subscribe("Solo", &format!("fence=*&last_event_id={id}"), "");
    assert_eq!([third.next(), third.next()], ["enter y a", "leave x a moved"]);
    // The ids of the log of client changes are others, and so are those of another process.
    let boot = id.split('-').next().unwrap();
    for other in [format!("{boot}-1-1"), "7-0-1".to_owned(), format!("{boot}-0-99")] {
        let fields = format!("Last-Event-ID: {other}\r\n");
        let mut events = fenced.subscribe("Solo", "fence=a", &fields);
        assert_eq!(events.snapshot(), ["client y a"], "{other}");
    }
}

#[test]
fn a_bad_file_keeps_the_fences_and_is_reported() {
    let good = [square("a", 0, 0, &json!({})), square("b", 0, 0, &json!({}))];
    let fenced = Fenced::started(&[("Solo", &[])], &good, "");
    fenced.place("Solo", "x", 0.0, 0.0);
    let mut events = fenced.subscribe("Solo", "fence=*", "");
    assert_eq!(events.snapshot(), ["client x a", "client x b"]);
    let before = fenced.json("Solo", "/api/herd")["fences"].clone();
    assert_eq!(before["count"], 2);
    let mut open = good[1].clone();
    open["geometry"]["coordinates"][0][4] = json!([-1, -0.5]);
    fenced.write(&[good[0].clone(), open]);
    assert!(!fenced.reload("Solo"));
    let why = "fences.geojson:1: feature 2 \"b\": geometry.coordinates[0]: is not closed; repeat the \
               first position as the last one";
    let overview = fenced.json("Solo", "/api/herd");
    assert_eq!(overview["fences"], before);
    let problems = overview["problems"].to_string().replace('\\', "");
    assert!(
        problems.contains("cannot reload fences.file: ") && problems.contains(why),
        "{problems}"
    );
    fenced.herd.wait_for_log("Solo", &["cannot reload fences.file", why]);
    let output = fenced.herd.run(&["--check"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains(why), "{text}");

    // Fences that stay keep their clients, even if their other properties change.
    let mut colored = good[0].clone();
    colored["properties"]["color"] = "blue".into();
    fenced.write(&[square("c", 0, 0, &json!({})), colored]);
    assert!(fenced.reload("Solo"));
    assert_eq!(events.next(), "leave x b fence");
    assert_eq!(fenced.counts("Solo"), [("c".to_owned(), 1), ("a".to_owned(), 1)]);
    let overview = fenced.json("Solo", "/api/herd");
    assert_eq!(overview["problems"], json!([]));
    assert_ne!(overview["fences"], before);
    fenced.place("Solo", "x", 50.0, 0.0);
    let mut left = [events.next(), events.next()];
    left.sort();
    assert_eq!(left, ["leave x a moved", "leave x c moved"]);
    assert!(fenced.herd.run(&["--check"]).status.success());
}

#[test]
fn a_restart_causes_no_events() {
    let fences = [circle("a", 20.0, 20.0, 1e3)];
    for storage in ["", "storage: {directory: data}"] {
        let mut fenced = Fenced::started(&PAIR, &fences, storage);
        fenced.place("Left", "x", 20.0, 20.0);
        fenced.place("Right", "y", 20.0, 20.0);
        for node in ["Left", "Right"] {
            eventually("both are inside", DEADLINE, || {
                (fenced.counts(node) == [("a".to_owned(), 2)]).then_some(())
            });
        }
        fenced.herd.kill("Left");
        fenced.herd.start("Left");
        let mut events = fenced.subscribe("Left", "fence=a", "");
        events.snapshot();
        eventually("both are inside", DEADLINE, || {
            (fenced.counts("Left") == [("a".to_owned(), 2)]).then_some(())
        });
        fenced.place("Left", "x", 20.001, 20.0);
        fenced.place("Left", "z", 20.0, 20.0);
        fenced.place("Left", "y", 1.0, 0.0);
        assert_eq!([events.next(), events.next()], ["enter z a", "leave y a moved"]);
    }
}

#[test]
fn dwell_times_pass_without_further_records() {
    let fences = [square("slow", 0, 0, &json!({"dwell": 4})), square("fast", 0, 0, &json!({}))];
    let fenced = Fenced::started(&[("Solo", &[])], &fences, "");
    let mut events = fenced.subscribe("Solo", "fence=*", "");
    assert_eq!(events.snapshot(), [""; 0]);
    for client in ["x", "y"] {
        fenced.place("Solo", client, 0.0, 0.0);
    }
    fenced.place("Solo", "y", 5.0, 0.0);
    assert_eq!(
        [events.next(), events.next(), events.next()],
        ["enter x fast", "enter y fast", "leave y fast moved"]
    );
    assert_eq!(events.next(), "enter x slow", "and nothing of the client that left at once");
    assert_eq!(fenced.names("Solo", "/api/clients?fence=slow"), ["x"]);
}

#[test]
fn different_fences_are_a_problem_of_the_herd() {
    let fenced = Fenced::started(&PAIR, &[circle("a", 0.0, 0.0, 1e3)], "");
    let status = |fenced: &Fenced| {
        let output = fenced.herd.run(&["--status"]);
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (healthy, text) = status(&fenced);
    assert!(healthy && !text.contains("fences"), "{text}");
    let hash = |node| fenced.json(node, "/api/herd")["fences"]["hash"].as_str().unwrap().to_owned();
    assert_eq!(hash("Left"), hash("Right"));
    // The formatting does not matter.
    fenced.write_text(
        "{\"features\": [\n  {\"properties\": {\"radius\": 1e3, \"name\": \"a\"}, \"type\": \"Feature\",\n\
         \"geometry\": {\"coordinates\": [0, 0.0], \"type\": \"Point\"}}],\n\"type\": \"FeatureCollection\"}",
    );
    assert!(fenced.reload("Left"));
    assert!(status(&fenced).0);
    fenced.write(&[circle("a", 0.0, 0.0, 2e3)]);
    assert!(fenced.reload("Left"));
    let (healthy, text) = status(&fenced);
    let expected = format!(
        "the nodes do not have the same fences: Left (1, hash {}) and Right (1, hash {})",
        hash("Left"),
        hash("Right")
    );
    assert!(!healthy && text.contains(&expected), "{text}");
}

#[test]
fn the_clients_inside_are_listed_in_pages() {
    let fenced = Fenced::started(&[("Solo", &[])], &[circle("über & all", 0.0, 0.0, 1e6)], "");
    let mut client = fenced.herd.client("Solo");
    let clients = 10_000;
    let time = seconds(wall_ns());
    let lines = (0..clients).map(|n| {
        let lat = if n % 2 == 0 { 0 } else { 50 };
        format!("IAMAT c{n} +{lat}+0.{n:05} {time}")
    });
    let sender = client.send_in_background(common::lines(lines));
    for _ in 0..clients {
        client.line();
    }
    sender.join().unwrap();
    let (mut names, mut pages) = (Vec::new(), 0);
    let mut next =
        Some("/api/clients?fence=%C3%BCber%20%26%20all&limit=2000&max_age=600".to_owned());
    while let Some(target) = next {
        names.extend(fenced.names("Solo", &target));
        next = fenced.json("Solo", &target)["next"].as_str().map(str::to_owned);
        pages += 1;
    }
    names.sort();
    names.dedup();
    assert_eq!((names.len(), pages), (clients / 2, 3), "the last one is full");
    assert!(names.iter().all(|name| name[1..].parse::<u32>().unwrap() % 2 == 0));
    let old = fenced.names("Solo", "/api/clients?fence=%C3%BCber%20%26%20all&max_age=0");
    assert_eq!(old, [""; 0]);
    assert_eq!(fenced.counts("Solo"), [("über & all".to_owned(), 5_000)]);
    let mut events = fenced.subscribe("Solo", "fence=*", "");
    assert_eq!(events.snapshot().len(), clients / 2);
}
