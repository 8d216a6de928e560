//! A listener for devices in memory, and connections to it.

use std::time::Duration;

use proxy_herd::devices::tokens::Tokens;
use proxy_herd::devices::{
    Context, DeviceInfo, DeviceSession, Devices, NullIsland, Settings, counters,
};
use proxy_herd::ids::ConnectionId;
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::node::{Handled, Input, Next, Node};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::places::offline::places_file;
use proxy_herd::testing;
use proxy_herd::time::{Instant, Now, Wall};

/// Saturday 2026-11-28, 00:16:40 UTC.
pub const WALL: Wall = Wall(1_795_825_000_000_000_000);

/// The tokens of a file with both forms. They contain CANARY, which no output may contain.
pub const TOKENS: &str = "CANARY-van1-000000 van1\nCANARY-fleet-00000 fleet/*\n";

/// A node with a listener for devices.
pub struct Listener {
    pub devices: Devices,
    pub node: Node,
    pub now: Now,
}

/// One connection.
pub struct Connection {
    session: DeviceSession,
    held: Vec<u8>,
    pub sent: Vec<u8>,
    pub next: Next,
}

/// Default settings.
pub fn settings() -> Settings {
    Settings {
        tokens: None,
        max_accuracy_m: None,
        null_island: NullIsland::Drop,
        max_body: 2 << 20,
        max_output: 256 << 10,
    }
}

/// The tokens of [`TOKENS`].
pub fn tokens() -> Tokens {
    Tokens::parse(TOKENS.as_bytes()).unwrap()
}

impl Listener {
    pub fn new(settings: Settings) -> Self {
        Self::with_limits(settings, Limits::default())
    }

    pub fn with_limits(settings: Settings, limits: Limits) -> Self {
        let herd = testing::herd(testing::identity(&["Bailey"], 0, &[]));
        let file = br#"{"type":"FeatureCollection","features":[{"type":"Feature",
            "properties":{"name":"a"},"geometry":{"type":"Point","coordinates":[0,0]}}]}"#;
        let file = places_file::parse(file, places_file::Format::GeoJson).unwrap();
        let log = MessageLog::new(true, Format::default(), "Bailey");
        let node = Node::new(herd, Places::Offline(Offline::own(file)), log, limits, &[7; 32]);
        let now = Now { instant: Instant::at(Duration::from_secs(100)), wall: WALL };
        Self { devices: Devices::new(settings), node, now }
    }

    pub fn connect(&mut self) -> Connection {
        self.connect_from(7, false)
    }

    pub fn connect_from(&mut self, address: u64, is_local: bool) -> Connection {
        let info = DeviceInfo {
            label: (*b"192.0.2.1:9").into(),
            address_key: address,
            network_key: address,
            is_local,
        };
        let session = DeviceSession::accepted(&mut self.devices, ConnectionId(1), info);
        Connection { session, held: Vec::new(), sent: Vec::new(), next: Next::NeedInput }
    }

    /// Lets time pass.
    pub fn advance(&mut self, duration: Duration) {
        self.now.instant += duration;
        self.now.wall = Wall(self.now.wall.0 + duration.as_nanos() as i128);
    }

    /// Returns the records that were reported: AT lines without server and difference. Those that were
    /// not stored begin with `~`.
    pub fn take_reports(&mut self) -> Vec<String> {
        let log = String::from_utf8(self.node.message_log.lines().to_vec()).unwrap();
        self.node.message_log.clear();
        assert!(!log.contains("CANARY"), "a token in the log: {log}");
        let lines = log.lines().filter_map(|line| line.split_once("> AT Bailey "));
        lines
            .map(|(_, line)| {
                let (_, line) = line.split_once(' ').unwrap();
                match line.split_once(" (") {
                    Some((line, _)) => format!("~ {line}"),
                    None => format!("= {line}"),
                }
            })
            .collect()
    }

    /// Returns the counters that are not 0, such as `positions osmand stored 1`.
    pub fn counters(&self) -> Vec<String> {
        let rows = counters::Counters::TABLE.iter();
        rows.filter_map(|row| {
            let value = (row.read)(&self.devices.counters);
            let family = row.sample.family.strip_prefix("device_")?.strip_suffix("_total")?;
            let quoted: Vec<&str> = row.sample.labels.split('"').collect();
            (value > 0).then(|| format!("{family} {} {} {value}", quoted[1], quoted[3]))
        })
        .collect()
    }
}

impl Connection {
    /// Receives `bytes`, and runs until it needs more. Returns the calls that it took.
    pub fn receive(&mut self, listener: &mut Listener, bytes: &[u8], ended: bool) -> usize {
        self.held.extend_from_slice(bytes);
        let mut calls = 0;
        loop {
            calls += 1;
            listener.devices.begin_turn(listener.now.wall);
            let mut out = Vec::new();
            let handled = self.call(listener, ended, &mut out);
            self.sent.extend_from_slice(&out);
            match handled.next {
                Next::Yielded | Next::Blocked(_) => {}
                Next::NeedInput => {
                    assert!(!ended, "it waits for input that cannot come");
                    return calls;
                }
                Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => return calls,
            }
        }
    }

    /// Calls the session once with all input that it has not consumed.
    pub fn call(&mut self, listener: &mut Listener, ended: bool, out: &mut Vec<u8>) -> Handled {
        let Listener { devices, node, now } = listener;
        let mut cx = Context { devices, node, now };
        let input = Input { bytes: &self.held, ended, unsent: 0 };
        let handled = self.session.handle_input(&mut cx, input, out);
        self.held.drain(..handled.consumed);
        self.next = handled.next;
        handled
    }

    /// Adds input without calling the session.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    pub fn session_and_devices(
        &mut self,
        listener: &mut Listener,
        act: impl FnOnce(&mut DeviceSession, &mut Devices),
    ) {
        act(&mut self.session, &mut listener.devices);
    }

    pub fn session(&mut self) -> &mut DeviceSession {
        &mut self.session
    }

    /// Bytes that are offered again.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    pub fn close(mut self, listener: &mut Listener) -> Vec<u8> {
        self.session.handle_closed(&mut listener.devices);
        self.sent
    }
}
