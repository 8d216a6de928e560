//! The feed with real processes: nodes and a real Redis server, which are killed under load. Without
//! `redis-server`, a note is printed instead.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::certificates::Certificate;
use common::redis::{Redis, Reply};
use common::{DEADLINE, FIVE, Herd, eventually, free_port, seconds, wall_ns};

const NODE: &[(&str, &[&str])] = &[("Solo", &[])];

/// A directory for the server, which is removed by the system.
fn directory() -> std::path::PathBuf {
    let name = format!("feed-{}-{}", std::process::id(), free_port());
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// The configuration of a feed, and HTTP for its state.
fn sections(redis: &Redis, http: u16, more: &str) -> String {
    format!(
        "storage: {{directory: data}}\nhttp: {{ports: {{Solo: {http}}}}}\n\
         feed: {{url: \"redis://127.0.0.1:{}/0\"{more}}}\n",
        redis.port
    )
}

/// A herd whose storage is in its own directory.
fn herd(nodes: &[(&str, &[&str])], sections: &str) -> Herd {
    let herd = Herd::new(nodes, sections);
    let data = herd.directory().join("data");
    let text = fs::read_to_string(herd.config()).unwrap();
    let text = text.replace("directory: data", &format!("directory: \"{}\"", data.display()));
    fs::write(herd.config(), text).unwrap();
    herd
}

/// The object `feed` of `/api/herd`, and the problems.
fn state(http: u16) -> Option<(serde_json::Value, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", http)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"GET /api/herd HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let body: serde_json::Value = serde_json::from_str(text.split_once("\r\n\r\n")?.1).ok()?;
    Some((body["feed"].clone(), body["problems"].to_string()))
}

fn wait_for_error(http: u16, part: &str) {
    eventually(&format!("an error with {part}"), DEADLINE, || {
        let (feed, problems) = state(http)?;
        let error = feed["last_error"].as_str()?;
        (error.contains(part) && problems.contains(part) && feed["connected"] == false)
            .then_some(())
    });
}

fn wait_until_delivered(http: u16) {
    eventually("everything is delivered", 3 * DEADLINE, || {
        let (feed, _) = state(http)?;
        let is_done = feed["connected"] == true && feed["backlog"] == 0;
        (is_done && feed["last_error"].is_null()).then_some(())
    });
}

/// A client that sends updates to one node until it is stopped, over new connections if necessary. Returns
/// the AT lines that it has received.
fn load(address: std::net::SocketAddr, number: usize, stop: &AtomicBool) -> Vec<Vec<u8>> {
    let (mut acknowledged, mut step) = (Vec::new(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut stream) = TcpStream::connect(address) else {
            thread::sleep(Duration::from_millis(20)); // the node is away
            continue;
        };
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut replies = BufReader::new(stream.try_clone().unwrap());
        while !stop.load(Ordering::Relaxed) {
            let mut lines = Vec::new();
            for _ in 0..20 {
                step += 1;
                let client = format!("van-{number}-{}", step % 7);
                let time = seconds(wall_ns());
                writeln!(lines, "IAMAT {client} +34.{step:06}-118.4 {time}").unwrap();
            }
            if stream.write_all(&lines).is_err() {
                break;
            }
            let mut line = Vec::new();
            let complete = (0..20).all(|_| {
                line.clear();
                let read = replies.read_until(b'\n', &mut line);
                let is_whole = read.is_ok() && line.pop() == Some(b'\n');
                if is_whole {
                    acknowledged.push(line.clone());
                }
                is_whole
            });
            if !complete {
                break;
            }
            thread::sleep(Duration::from_millis(4)); // the herd should not be the bottleneck
        }
    }
    acknowledged
}

/// Returns how often each line is in the streams of these nodes. All ids increase, and there is no gap.
fn lines(redis: &Redis, names: &[String]) -> BTreeMap<Vec<u8>, usize> {
    let mut lines = BTreeMap::new();
    for name in names {
        let entries = redis.entries(&format!("herd:{name}"));
        for entry in &entries {
            assert_eq!(entry.get("type"), b"at", "{entry:?}");
            *lines.entry(entry.get("line").to_vec()).or_default() += 1;
        }
    }
    lines
}

/// The acceptance test: the engine is killed twice and a node once.
#[test]
fn five_streams_hold_every_acknowledged_update_exactly_once() {
    let directory = directory();
    let Some(mut redis) = Redis::start(&directory, &[]) else { return };
    let ports: BTreeMap<&str, u16> = FIVE.iter().map(|(name, _)| (*name, free_port())).collect();
    let http = ports.iter().map(|(name, port)| format!("{name}: {port}")).collect::<Vec<_>>();
    let sections = format!(
        "storage: {{directory: data}}\nhttp: {{ports: {{{}}}}}\n\
         feed: {{url: \"redis://127.0.0.1:{}/0\", max_entries: 0}}\n",
        http.join(", "),
        redis.port
    );
    let mut herd = herd(&FIVE, &sections);
    herd.start_all();
    let names = herd.names();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..10)
        .map(|number| {
            let address = herd.address(&names[number % names.len()]);
            let stop = Arc::clone(&stop);
            thread::spawn(move || load(address, number, &stop))
        })
        .collect();
    let grown = |redis: &Redis, least: usize| {
        eventually("the streams grow", 2 * DEADLINE, || {
            let length = |name: &String| match redis
                .command(&[b"XLEN", format!("herd:{name}").as_bytes()])
            {
                Reply::Number(length) => length as usize,
                _ => 0,
            };
            (names.iter().map(length).sum::<usize>() > least).then_some(())
        });
    };
    grown(&redis, 2_000);
    redis.kill();
    thread::sleep(Duration::from_secs(1)); // entries wait
    redis.restart();
    grown(&redis, 6_000);
    herd.kill("Campbell");
    thread::sleep(Duration::from_millis(300)); // its clients notice
    herd.start("Campbell");
    grown(&redis, 9_000);
    redis.kill();
    redis.restart();
    grown(&redis, 12_000);
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<Vec<u8>> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
    for &port in ports.values() {
        wait_until_delivered(port);
    }
    let found = lines(&redis, &names);
    for line in &acknowledged {
        assert_eq!(found.get(line), Some(&1), "{}", line.escape_ascii());
    }
    assert!(found.values().all(|&times| times == 1), "none is there twice");
    assert!(acknowledged.len() > 10_000, "{}", acknowledged.len());
}

/// The short form of `scripts/absence.sh`.
#[test]
fn an_absence_of_redis_loses_nothing_and_needs_no_memory() {
    let directory = directory();
    let Some(mut redis) = Redis::start(&directory, &[]) else { return };
    let http = free_port();
    let mut herd = herd(NODE, &sections(&redis, http, ""));
    herd.start("Solo");
    let mut acknowledged: Vec<Vec<u8>> = Vec::new();
    let mut report = |updates: usize| {
        for _ in 0..updates / 500 {
            let mut lines = Vec::new();
            for _ in 0..500 {
                let step = acknowledged.len() + lines.len();
                let client = step % 97;
                let time = seconds(wall_ns());
                writeln!(lines, "IAMAT van-{client} +34.{step:06}-118.4 {time}").unwrap();
            }
            let replies = herd.exchange("Solo", &lines);
            acknowledged.extend(replies.split(|&it| it == b'\n').map(<[u8]>::to_vec));
            assert_eq!(acknowledged.pop().as_deref(), Some(&b""[..]), "a whole line is last");
        }
        acknowledged.len()
    };
    report(1000);
    wait_until_delivered(http);
    redis.kill();
    report(5_000);
    wait_for_error(http, "connection");
    let before = herd.resident_kib("Solo");
    let count = report(25_000);
    let after = herd.resident_kib("Solo");
    let (feed, _) = state(http).unwrap();
    assert_eq!(feed["backlog"], 30_000);
    // 25,000 entries are 3 MB in the log, and 7 MB as commands.
    assert!(after < before + 1500, "from {before} to {after} KiB while entries wait");
    redis.restart();
    wait_until_delivered(http);
    let entries = redis.entries("herd:Solo");
    assert_eq!(entries.len(), count);
    for (entry, line) in entries.iter().zip(&acknowledged) {
        assert_eq!(entry.get("line"), line, "each once, in order");
    }
}

/// A name can contain any byte but white space.
#[test]
fn names_of_all_bytes_and_tombstones_arrive_intact() {
    let directory = directory();
    let Some(redis) = Redis::start(&directory, &[]) else { return };
    let http = free_port();
    let mut herd = herd(NODE, &sections(&redis, http, ", stream: \"my herd\""));
    herd.start("Solo");
    let mut expected = Vec::new();
    for byte in 1..=u8::MAX {
        if byte.is_ascii_whitespace() || byte == 0x0b {
            continue;
        }
        let name = [b"a", &[byte][..], b"\xff\x80z"].concat();
        let line =
            [b"IAMAT ", &name[..], b" +34.068930-118.445127 1621464827.959498503\n"].concat();
        let reply = herd.exchange("Solo", &line);
        expected.push((name, reply.strip_suffix(b"\n").unwrap().to_vec()));
    }
    herd.exchange("Solo", b"IAMAT van +1-2 1621464827\n");
    assert!(herd.run(&["--forget", "van"]).status.success());
    wait_until_delivered(http);
    let entries = redis.entries("my herd:Solo");
    assert_eq!(entries.len(), expected.len() + 2);
    for (entry, (name, line)) in entries.iter().zip(&expected) {
        assert_eq!((entry.get("client"), entry.get("line")), (&name[..], &line[..]));
        assert_eq!(entry.get("lon"), b"-118.445127");
        assert_eq!(entry.get("lat"), b"34.068930");
        assert_eq!(entry.get("time"), b"1621464827.959498503");
    }
    let last = entries.last().unwrap();
    assert_eq!((last.get("type"), last.get("client")), (&b"forget"[..], &b"van"[..]));
    assert_eq!(last.names(), ["type", "line", "client", "time", "received"]);
    let millis = |id: &str| id.split_once('-').unwrap().0.parse::<u64>().unwrap();
    assert!(entries.iter().all(|entry| millis(&entry.id) >= 1_600_000_000_000), "a time");
    let output = herd.run(&["--status"]);
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("Feed") && table.contains("0 waiting"), "{table}");
}

/// A transition follows the record that caused it, in the stream of the node to which the client gave it.
#[test]
fn transitions_follow_the_records_that_caused_them() {
    let directory = directory();
    let Some(redis) = Redis::start(&directory, &[]) else { return };
    let (http, other) = (free_port(), free_port());
    let fences = r#"{"type": "FeatureCollection", "features": [
        {"type": "Feature", "properties": {"name": "my depot", "radius": 1000},
         "geometry": {"type": "Point", "coordinates": [2, 1]}},
        {"type": "Feature", "properties": {"name": "slow", "radius": 1000, "dwell": 1},
         "geometry": {"type": "Point", "coordinates": [20, 10]}}]}"#;
    for entries in ["all", "fences"] {
        let sections = sections(&redis, http, &format!(", entries: {entries}, stream: {entries}"))
            .replace("{Solo:", &format!("{{Left: {other}, Solo:"))
            + "fences: {file: fences.geojson}\n";
        let mut herd = herd(&[("Left", &["Solo"]), ("Solo", &[])], &sections);
        fs::write(herd.directory().join("fences.geojson"), fences).unwrap();
        herd.start_all();
        let at = |node: &str, place: &str| {
            let line = format!("IAMAT van {place} {}\n", seconds(wall_ns()));
            let line = herd.exchange(node, line.as_bytes());
            herd.wait_until_held(&herd.names(), "van", &line);
        };
        herd.wait_until_connected(&herd.names());
        at("Solo", "+1+2"); // enters
        at("Left", "+1.001+2");
        at("Left", "+5+2"); // leaves, in the stream of the other node
        at("Solo", "+10+20"); // enters a second later
        wait_until_delivered(http);
        let stream = |node: &str| {
            let mut found = redis.entries(&format!("{entries}:{node}"));
            found.retain(|entry| entry.get("client") == b"van");
            found
        };
        let shown = |node: &str| {
            let text = |field: &[u8]| String::from_utf8(field.to_vec()).unwrap();
            let entry = |entry: &common::redis::Entry| {
                format!("{} {}", text(entry.get("type")), text(entry.get("fence")))
            };
            stream(node).iter().map(entry).collect::<Vec<_>>()
        };
        let all = entries == "all";
        let only = |list: &[&str]| -> Vec<String> {
            let wanted = list.iter().filter(|entry| all || !entry.starts_with("at"));
            wanted.map(|&entry| entry.to_owned()).collect()
        };
        eventually("the client has stayed long enough", DEADLINE, || {
            (shown("Solo").last()? == "enter slow").then_some(())
        });
        assert_eq!(shown("Solo"), only(&["at ", "enter my depot", "at ", "enter slow"]));
        wait_until_delivered(other);
        assert_eq!(shown("Left"), only(&["at ", "at ", "leave my depot"]));
        let entered = &stream("Solo")[usize::from(all)];
        let names = ["type", "line", "client", "lon", "lat", "time", "received", "fence"];
        assert_eq!(entered.names(), names);
        assert_eq!(stream("Left").last().unwrap().get("reason"), b"moved");
    }
}

/// An older update and an exact repeat are answered, but not stored, so they are not delivered.
#[test]
fn only_newer_records_are_delivered() {
    let directory = directory();
    let Some(redis) = Redis::start(&directory, &[]) else { return };
    let http = free_port();
    let mut herd = herd(NODE, &sections(&redis, http, ""));
    herd.start("Solo");
    for time in [5, 3, 5, 7] {
        herd.exchange("Solo", format!("IAMAT van +1-2 {time}\n").as_bytes());
    }
    wait_until_delivered(http);
    let entries = redis.entries("herd:Solo");
    let times: Vec<&[u8]> = entries.iter().map(|entry| entry.get("time")).collect();
    assert_eq!(times, [&b"5.000000000"[..], b"7.000000000"]);
}

/// What is wrong is said in `/api/herd`, and the feed goes on once it is mended.
#[test]
fn errors_of_the_engine_are_named_and_end() {
    let directory = directory();
    let Some(redis) = Redis::start(&directory, &[]) else { return };
    let http = free_port();
    let mut herd = herd(NODE, &sections(&redis, http, ""));
    redis.command(&[b"SET", b"herd:Solo", b"1"]);
    herd.start("Solo");
    herd.exchange("Solo", b"IAMAT van +1-2 1\n");
    wait_for_error(http, "the key herd:Solo is not a stream");
    let (feed, _) = state(http).unwrap();
    assert_eq!(feed["backlog"], 1);
    redis.command(&[b"DEL", b"herd:Solo"]);
    wait_until_delivered(http);
    assert_eq!(redis.entries("herd:Solo").len(), 1);

    redis.command(&[b"CONFIG", b"SET", b"maxmemory", b"1"]);
    herd.exchange("Solo", b"IAMAT van +1-2 2\n");
    wait_for_error(http, "maxmemory");
    redis.command(&[b"CONFIG", b"SET", b"maxmemory", b"0"]);
    wait_until_delivered(http);
    assert_eq!(redis.entries("herd:Solo").len(), 2);

    redis.command(&[b"CONFIG", b"SET", b"requirepass", b"canary"]);
    close_connections(&redis);
    herd.exchange("Solo", b"IAMAT van +1-2 3\n");
    wait_for_error(http, "feed.password_file");
    assert!(!String::from_utf8_lossy(&herd.log("Solo")).contains("canary"));
}

/// Closes all connections to the server, whose password is `canary`.
fn close_connections(redis: &Redis) {
    let mut stream = TcpStream::connect(("127.0.0.1", redis.port)).unwrap();
    stream.write_all(b"AUTH canary\r\nCLIENT KILL TYPE normal SKIPME yes\r\n").unwrap();
    let mut line = String::new();
    let mut replies = BufReader::new(stream);
    replies.read_line(&mut line).unwrap();
    replies.read_line(&mut line).unwrap();
}

#[test]
fn a_password_and_tls_with_an_authority_of_ones_own() {
    let directory = directory();
    let tls = directory.join("tls");
    let ca = Certificate::authority(&tls, "ca").create();
    let certificate = Certificate::of_node(&tls, "localhost")
        .with_extensions("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")
        .create();
    let (key, port) = (tls.join("localhost.key"), free_port());
    let text = |path: &Path| path.display().to_string();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &text(&certificate),
        "--tls-key-file",
        &text(&key),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        &text(&ca),
        "--requirepass",
        "canary word",
    ];
    let Some(redis) = Redis::start(&directory, &options) else { return };
    let http = free_port();
    fs::write(directory.join("password"), "canary word\n").unwrap();
    let sections = |ca: &str| {
        format!(
            "storage: {{directory: data}}\nhttp: {{ports: {{Solo: {http}}}}}\n\
             feed: {{url: \"rediss://127.0.0.1:{port}\", password_file: \"{}\"{ca}}}\n",
            text(&directory.join("password"))
        )
    };
    let mut stranger = herd(NODE, &sections(""));
    stranger.start("Solo");
    wait_for_error(http, "certificate");
    stranger.kill("Solo");
    let mut herd = herd(NODE, &sections(&format!(", ca_file: \"{}\"", text(&ca))));
    herd.start("Solo");
    herd.exchange("Solo", b"IAMAT van +1-2 1\n");
    wait_until_delivered(http);
    assert!(!String::from_utf8_lossy(&herd.log("Solo")).contains("canary"));
    drop(redis);
}

/// A collector with Python's HTTP server. It appends the key, the length and the lines of each batch to a
/// file, then answers, but refuses every fifth request and every one without the token.
const COLLECTOR: &str = r#"
import http.server, sys
class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    count = 0
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Collector.count += 1
        status = 401 if self.headers["Authorization"] != "Bearer canary" else 200
        if status == 200 and Collector.count % 5 == 0:
            status = 503
        assert self.headers["Content-Type"] == "application/x-ndjson"
        if status == 200:
            with open(sys.argv[2], "ab", buffering=0) as file:
                head = f"KEY {self.headers['Idempotency-Key']} {len(body)}\n"
                file.write(head.encode() + body)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Collector).serve_forever()
"#;

fn collector(port: u16, file: &Path) -> std::process::Child {
    let arguments = ["-c", COLLECTOR, &port.to_string(), &file.display().to_string()];
    let child = std::process::Command::new("python3").args(arguments).spawn().unwrap();
    eventually("the collector listens", DEADLINE, || TcpStream::connect(("127.0.0.1", port)).ok());
    child
}

/// A collector gets every acknowledged update, in order; it and the node are killed under load.
#[test]
fn a_collector_gets_every_acknowledged_update_in_order() {
    let directory = directory();
    let (http, port, file) = (free_port(), free_port(), directory.join("collected"));
    fs::write(directory.join("token"), "canary\n").unwrap();
    let mut server = collector(port, &file);
    let sections = format!(
        "storage: {{directory: data}}\nhttp: {{ports: {{Solo: {http}}}}}\n\
         feed: {{url: \"http://127.0.0.1:{port}/in?x=1\", password_file: \"{}\"}}\n",
        directory.join("token").display()
    );
    let mut herd = herd(NODE, &sections);
    herd.start("Solo");
    let stop = Arc::new(AtomicBool::new(false));
    let (address, stopped) = (herd.address("Solo"), Arc::clone(&stop));
    let client = thread::spawn(move || load(address, 0, &stopped));
    let size = || fs::metadata(&file).map_or(0, |found| found.len());
    let grown = |by: u64| {
        let before = size();
        eventually("the collector gets more", DEADLINE, || (size() > before + by).then_some(()));
    };
    for _ in 0..2 {
        grown(100_000);
        server.kill().unwrap();
        server.wait().unwrap();
        wait_for_error(http, "connection");
        server = collector(port, &file);
        grown(100_000);
    }
    herd.kill("Solo");
    herd.start("Solo");
    grown(100_000);
    stop.store(true, Ordering::Relaxed);
    let acknowledged = client.join().unwrap();
    wait_until_delivered(http);
    server.kill().unwrap();
    server.wait().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let mut batches: BTreeMap<&str, &str> = BTreeMap::new();
    let mut lines: Vec<serde_json::Value> = Vec::new();
    let mut torn = 0;
    for batch in text.split("KEY ").skip(1) {
        // A collector that is killed may have written a part of a batch, which it has not acknowledged.
        let whole = batch.split_once('\n').and_then(|(head, body)| {
            let (key, length) = head.split_once(' ')?;
            Some((key, body.get(..length.parse().ok()?)?))
        });
        let Some((key, body)) = whole else {
            torn += 1;
            continue;
        };
        if let Some(first) = batches.insert(key, body) {
            assert_eq!(first, body, "a batch that is repeated is the same");
            continue;
        }
        lines.extend(body.lines().map(|line| serde_json::from_str(line).unwrap()));
    }
    assert!(
        torn <= 2,
        "{torn} batches are incomplete, and the collector was killed twice under load"
    );
    let found: Vec<&str> = lines.iter().map(|entry| entry["line"].as_str().unwrap()).collect();
    let mut rest = found.iter();
    for line in &acknowledged {
        let line = std::str::from_utf8(line).unwrap();
        assert!(rest.any(|found| *found == line), "{line} is missing or not in order");
    }
    let ids: std::collections::BTreeSet<&str> =
        lines.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), lines.len(), "ids identify entries");
    assert!(!String::from_utf8_lossy(&herd.log("Solo")).contains("canary"));
}

/// A node without a feed has none of it.
#[test]
fn without_the_section_there_is_no_feed() {
    let http = free_port();
    let sections = format!("storage: {{directory: data}}\nhttp: {{ports: {{Solo: {http}}}}}\n");
    let mut herd = herd(NODE, &sections);
    herd.start("Solo");
    herd.exchange("Solo", b"IAMAT van +1-2 1\n");
    let (feed, _) = state(http).unwrap();
    assert!(feed.is_null());
    herd.kill("Solo");
    let folder = herd.directory().join("data/Solo");
    assert!(!folder.join("FEED").exists());
    let segment = fs::read(folder.join("0000000001.log")).unwrap();
    assert!(common::find(&segment, b" I ").is_none(), "segments have no marks");
}
