//! The hot path without sockets: one in-memory node executes a given number of commands.
//!
//! Prints nanoseconds per command; `scripts/instructions.sh` counts instructions instead.
//!
//! Usage: `hot_path KIND CLIENTS COMMANDS`, where KIND is `iamat`, `logged` (IAMAT with the message
//! log on), `stored` (IAMAT with a storage, on a disk that does nothing), `fenced` (IAMAT with 1,000
//! fences, of which the jumps of the clients enter and leave 0.15 each), `near` (IAMAT with the index
//! of positions in use, in which every jump is entered), `query` (the nearest ten clients over HTTP),
//! `whatsat`, or `flood` (records received from one neighbor and forwarded to another).

#![allow(clippy::expect_used, reason = "a developer tool may panic on an invalid argument")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use proxy_herd::fences::{FenceSet, Fences, file};
use proxy_herd::herd::Origin;
use proxy_herd::herd::handshake::Transport;
use proxy_herd::http::overview::Feed;
use proxy_herd::http::{self, BrowserInfo, Context, HttpSession};
use proxy_herd::ids::{ConnectionId, LinkId};
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::node::store::Store;
use proxy_herd::node::{Handled, Input, LineSession, Next, Node, PeerInfo};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::rng::scramble;
use proxy_herd::storage::{Recovery, Settings, Storage, SyncMode};
use proxy_herd::testing;
use proxy_herd::time::{self, Now, Wall};

/// Commands per read.
const PIPELINE: usize = 32;

const NOW: Now =
    Now { instant: time::Instant::at(Duration::from_secs(1)), wall: Wall(1_621_464_828 * SECOND) };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, clients, commands] = arguments.as_slice() else {
        eprintln!("usage: hot_path KIND CLIENTS COMMANDS");
        std::process::exit(2)
    };
    let clients: u64 = clients.parse().expect("CLIENTS is a number");
    let commands: usize = commands.parse().expect("COMMANDS is a number");
    let mut hot_path = HotPath::new(kind);
    // Stores every client once, so that the measured updates replace records instead of adding them.
    // Only queries depend on the places.
    let place = |client| if kind == "query" { scramble(client) } else { client };
    for first in (0..clients).step_by(PIPELINE) {
        let lines: String = (first..clients.min(first + PIPELINE as u64))
            .map(|client| hot_path.update(client, place(client), 0))
            .collect();
        hot_path.execute(lines.as_bytes());
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let batches: Vec<String> = (0..commands.div_ceil(PIPELINE))
        .map(|batch| {
            (0..PIPELINE)
                .map(|at| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let client = random % clients;
                    match kind.as_str() {
                        "whatsat" => format!("WHATSAT client{client:08}.example.org 10 5\n"),
                        "query" => query(random),
                        _ => hot_path.update(client, random, 1 + batch * PIPELINE + at),
                    }
                })
                .collect()
        })
        .collect();
    let start = Instant::now();
    let bytes: usize = batches.iter().map(|batch| hot_path.execute(batch.as_bytes())).sum();
    let elapsed = start.elapsed();
    let commands = batches.len() * PIPELINE;
    println!(
        "{kind}: {commands} commands, {clients} clients, {:.1} ns/command, {:.1} bytes/reply",
        elapsed.as_nanos() as f64 / commands as f64,
        bytes as f64 / commands as f64
    );
}

/// The middle node of a line of three, and the session that feeds it.
struct HotPath {
    node: Node,
    /// Client session; unused if the input comes from a neighbor.
    session: LineSession,
    input: Workload,
    /// The HTTP side with an index of positions in use, and the time by its timers.
    positions: Option<(Browser, time::Instant)>,
    out: Vec<u8>,
}

/// The source of the executed lines.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Workload {
    Client,
    /// Node 0, so that records are forwarded to node 2.
    Neighbor,
    /// A browser. The clients are in a square of one degree.
    Browser,
}

impl HotPath {
    fn new(kind: &str) -> Self {
        let mut node = node(kind == "logged");
        node.store = (kind == "stored").then(store);
        if kind == "fenced" {
            node.herd.directory.set_fences(fences());
            node.herd.directory.evaluate_fences(&mut { usize::MAX });
        }
        for peer in [0, 2] {
            let connected = testing::connected(peer.into(), peer, 1, Origin::Dialed);
            node.herd.handle_connected(connected, NOW.instant);
        }
        let caller = PeerInfo {
            transport: Transport { loopback: true, certified: None },
            ..PeerInfo::default()
        };
        let session = LineSession::accepted(ConnectionId(7), caller);
        let input = match kind {
            "flood" => Workload::Neighbor,
            "query" => Workload::Browser,
            _ => Workload::Client,
        };
        let uses_positions = matches!(kind, "near" | "query");
        let positions = uses_positions.then(|| (Browser::new(&mut node), NOW.instant));
        Self { node, session, input, positions, out: Vec::new() }
    }

    /// Executes `lines`. Returns the number of bytes in replies and forwarded records.
    #[inline(never)] // scripts/instructions.sh counts the instructions of this symbol
    fn execute(&mut self, lines: &[u8]) -> usize {
        let Self { node, session, input, positions, out } = self;
        if let Some((browser, _)) = positions
            && lines.starts_with(b"GET")
        {
            browser.ask(node, lines, out);
        } else if *input == Workload::Neighbor {
            let mut start = 0;
            for end in memchr::memchr_iter(b'\n', lines) {
                let Node { herd, message_log, .. } = &mut *node;
                let line = &lines[start..end];
                let received =
                    herd.handle_line(LinkId(0), ConnectionId(0), line, &NOW, message_log);
                assert_eq!(received, Ok(()));
                start = end + 1;
            }
        } else {
            let mut at = 0;
            while at < lines.len() {
                let input = Input { bytes: &lines[at..], ended: false, unsent: 0 };
                let Handled { consumed, .. } = session.handle_input(node, input, &NOW, out);
                assert!(consumed > 0, "the session makes progress");
                at += consumed;
            }
        }
        for link in [0, 1].map(LinkId) {
            let Node { herd, message_log, .. } = &mut *node;
            herd.poll_transmit(link, &NOW, out, usize::MAX, message_log);
        }
        if let Some((browser, time)) = positions {
            *time += Duration::from_millis(20);
            browser.http.handle_timeout(&mut node.herd, *time);
        }
        if let Some(Store { storage, .. }) = &mut node.store {
            while let Some(length) = storage.poll_write().map(|write| write.bytes.len()) {
                storage.handle_written(Ok(length), NOW.instant);
            }
            storage.handle_directory(&node.herd.directory, NOW.instant);
            execute_tasks(storage);
        }
        node.message_log.clear();
        let written = out.len();
        out.clear();
        written
    }

    fn update(&self, client: u64, place: u64, time: usize) -> String {
        let (latitude, longitude) = match self.input {
            Workload::Browser => (place % 1_000_000, place / 1_000_000 % 1_000_000),
            _ => (place % 90_000_000, place % 180_000_000),
        };
        let head = match self.input {
            Workload::Client | Workload::Browser => "IAMAT",
            Workload::Neighbor => "AT Bona +0.263873386",
        };
        format!(
            "{head} client{client:08}.example.org +{:02}.{:06}-{:03}.{:06} 1621464827.{time:09}\n",
            latitude / 1_000_000,
            latitude % 1_000_000,
            longitude / 1_000_000,
            longitude % 1_000_000
        )
    }
}

/// A storage in an empty folder, ready to append.
fn store() -> Store {
    let recovered = Recovery::new("Clark", [], None).expect("an empty folder").finish();
    let settings = Settings {
        node: "Clark".into(),
        sync: SyncMode::Interval(Duration::from_secs(1)),
        max_bytes: 4 << 30,
        key: None,
        keeps_segments: false,
    };
    let mut storage = Storage::new(settings, recovered, NOW.instant);
    while !storage.is_ready() {
        execute_tasks(&mut storage);
    }
    Store::new(storage, "data".into(), false)
}

/// The HTTP side of a node, and a connection that asks for the nearest clients of points.
struct Browser {
    http: http::Server,
    session: HttpSession,
}

impl Browser {
    /// A browser that has asked once, so that the index of positions is in use.
    fn new(node: &mut Node) -> Self {
        let settings = http::Settings { max_output: usize::MAX, ..Default::default() };
        let mut http = http::Server::new(settings, 1);
        let peer = BrowserInfo { label: Box::default(), address_key: 1, over_limit: false };
        let session = HttpSession::accepted(&mut http, ConnectionId(8), peer);
        let mut browser = Self { http, session };
        let mut out = Vec::new();
        browser.ask(node, query(0).as_bytes(), &mut out);
        assert!(out.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&out));
        browser
    }

    /// Executes requests.
    fn ask(&mut self, node: &mut Node, requests: &[u8], out: &mut Vec<u8>) {
        let Self { http, session } = self;
        let mut at = 0;
        loop {
            http.begin_turn(NOW.wall);
            let mut cx = Context { node, http, shell: &Alone, now: &NOW };
            let input = Input { bytes: &requests[at..], ended: false, unsent: 0 };
            let Handled { consumed, next } = session.handle_input(&mut cx, input, out);
            at += consumed;
            if next == Next::NeedInput {
                break assert_eq!(at, requests.len(), "all requests are complete");
            }
        }
    }
}

/// A shell without connections.
struct Alone;

impl http::Shell for Alone {
    fn push_metrics(&self, _: &Node, _: &http::Server, _: &Now, _: &mut Vec<u8>) {}

    fn connections(&self) -> usize {
        1
    }

    fn feed(&self, _: &Node) -> Option<Feed> {
        None
    }

    fn problems(&self, _: &Node, _: &Now) -> Vec<String> {
        Vec::new()
    }
}

/// A request for the nearest clients of a point in the square that the clients are in.
fn query(random: u64) -> String {
    let (lat, lng) = (random % 1_000, random / 1_000 % 1_000);
    format!(
        "GET /api/clients?near=-0.{lng:03},0.{lat:03}&radius=50&limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    )
}

/// Circles that are spread over the quarter of the globe that the clients are in, and cover 0.15 of it.
fn fences() -> Fences {
    const COUNT: u64 = 1_000;
    let feature = |number| {
        let random = scramble(number);
        let fraction = |bits: u64| f64::from(bits as u32) / f64::from(u32::MAX);
        let (lng, sine) = (-180.0 * fraction(random), fraction(random >> 32));
        let lat = sine.asin().to_degrees();
        format!(
            r#"{{"type":"Feature","properties":{{"name":"{number}","radius":78000}},
            "geometry":{{"type":"Point","coordinates":[{lng:.6},{lat:.6}]}}}}"#
        )
    };
    let features: Vec<String> = (0..COUNT).map(feature).collect();
    let json = format!(r#"{{"type":"FeatureCollection","features":[{}]}}"#, features.join(","));
    let set = file::parse(json.as_bytes(), &FenceSet::default()).expect("the fences are valid");
    Fences::new(Arc::new(set), NOW.wall)
}

fn execute_tasks(storage: &mut Storage) {
    while let Some(task) = storage.poll_task() {
        storage.handle_task_done(task, Ok(()), NOW.instant);
    }
}

fn node(logged: bool) -> Node {
    let mut identity = testing::identity(&["Bona", "Clark", "Jaquez"], 1, &[0, 2]);
    identity.rules.max_clients = 10_000_000; // no client is evicted
    let herd = testing::herd(identity);
    let message_log = MessageLog::new(logged, Format::default(), "Clark");
    let places = Places::Offline(Offline::gazetteer().expect("the built-in gazetteer is valid"));
    Node::new(herd, places, message_log, Limits::default(), &[7; 32])
}
