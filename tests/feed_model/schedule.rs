//! A schedule: a node, its feed and a model of Redis, with random faults at random moments.

use std::io;
use std::time::Duration;

use proxy_herd::feed::cutter::{Cutter, Source};
use proxy_herd::feed::entry::Filter;
use proxy_herd::feed::form::Form;
use proxy_herd::feed::worker::{Files, Job, Worker};
use proxy_herd::feed::{Feed, Settings, http, redis, xadd};
use proxy_herd::herd::directory::Source as From;
use proxy_herd::places::http::Eof;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{FileName, Storage, SyncMode};
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

use crate::node::{self, Node};
use crate::redis::Server;

const KEY: &[u8] = b"herd:Clark";

/// The folder as the thread sees it.
struct Folder<'a> {
    disk: &'a Disk,
    memo: &'a mut Vec<u8>,
    fails: bool,
}

impl Source for Folder<'_> {
    fn read(&mut self, number: u64, from: u64, most: usize, out: &mut Vec<u8>) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::other("a fault"));
        }
        let content = self.disk.read(FileName::Segment(number)).ok_or(io::ErrorKind::NotFound)?;
        let start = content.len().min(from as usize);
        out.extend_from_slice(&content[start..content.len().min(start + most)]);
        Ok(())
    }
}

impl Files for Folder<'_> {
    fn load(&mut self, _: usize) -> io::Result<Vec<u8>> {
        Ok(self.memo.clone())
    }

    fn save(&mut self, text: &[u8]) -> io::Result<()> {
        if self.fails {
            return Err(io::Error::other("a fault"));
        }
        *self.memo = text.to_vec();
        Ok(())
    }
}

pub struct World {
    pub rng: Rng,
    pub disk: Disk,
    pub memo: Vec<u8>,
    pub server: Server,
    pub max_bytes: u64,
    pub filter: Filter,
    pub now: Instant,
    pub wall: Wall,
    /// The types and lines of the history, in order.
    pub history: Vec<(&'static str, Vec<u8>)>,
    /// The length of the stream at earlier times.
    lengths: Vec<(Instant, usize)>,
    time: i64,
    pub running: Option<Running>,
    pub traced: bool,
}

/// A node that is running.
pub struct Running {
    pub node: Node,
    pub feed: Feed,
    worker: Worker,
    job: Option<Job>,
    connection: Option<u64>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Filter::All)
    }

    pub fn with(seed: u64, filter: Filter) -> Self {
        let mut world = Self::stopped(seed, filter);
        world.start();
        world
    }

    /// The engine is an HTTP collector.
    pub fn with_collector(seed: u64, filter: Filter) -> Self {
        let mut world = Self::stopped(seed, filter);
        world.server.collected = Some(Vec::new());
        world.start();
        world
    }

    fn stopped(seed: u64, filter: Filter) -> Self {
        Self {
            rng: Rng::new(seed),
            disk: Disk::default(),
            memo: Vec::new(),
            server: Server::default(),
            max_bytes: 1 << 20,
            filter,
            now: Instant::START,
            wall: Wall(1_700_000_000 * SECOND),
            history: Vec::new(),
            lengths: Vec::new(),
            time: 1,
            running: None,
            traced: false,
        }
    }

    pub fn start(&mut self) {
        let rules = node::rules(1000, 0);
        let (directory, recovered) =
            node::load(&self.disk, rules, self.wall, &mut self.rng).unwrap();
        let sync = SyncMode::Interval(Duration::from_secs(1));
        let mut settings = node::settings(sync, self.max_bytes);
        settings.keeps_segments = true;
        let mut storage = Storage::new(settings, recovered, self.now);
        storage.handle_wall(self.wall);
        let mut node = Node { directory, storage, tasks: Vec::new() };
        while !node.storage.is_ready() {
            let task = node.storage.poll_task().expect("a task");
            node.tasks.push((task, 0));
            while !node.tasks.is_empty() {
                node.step(0, &mut self.disk, self.now, &mut self.rng);
            }
        }
        node.commit(&mut self.disk, self.now, &mut self.rng);
        let (settings, form) = if self.server.collected.is_some() {
            let url = "http://collector/in".parse().unwrap();
            let settings = http::Settings { url, end: "".into(), token: None, stream: KEY.into() };
            (Settings::Http(settings), Form::json())
        } else {
            let settings =
                redis::Settings { user: None, password: None, database: 0, key: KEY.into() };
            (Settings::Redis(settings), Form::Redis(xadd::Writer::new(KEY, 0)))
        };
        let feed = Feed::new(settings, self.rng.bits());
        let worker = Worker::new(Cutter::new(self.filter, form));
        self.running = Some(Running { node, feed, worker, job: None, connection: None });
    }

    /// The node is killed.
    pub fn kill(&mut self) {
        self.trace("kill");
        self.running = None;
    }

    /// Clients send records, which are written to the kernel. Some cause transitions.
    pub fn update(&mut self, count: usize) {
        self.update_with(count, 20);
    }

    /// The same without transitions.
    pub fn update_plainly(&mut self, count: usize) {
        self.update_with(count, 0);
    }

    fn update_with(&mut self, count: usize, transitions: u64) {
        let Some(running) = &mut self.running else { return };
        for _ in 0..count {
            self.time += 1;
            let client = format!("van-{}", self.rng.below(20));
            let is_own = self.rng.percent(80);
            let server = if is_own { "Clark" } else { "Bona" };
            let line = node::line(server, &client, self.time, self.wall.0 + Nanos::from(self.time));
            let source = if is_own { From::Client } else { From::Peer };
            if running.node.apply(&line, source, self.wall).is_some() && is_own {
                self.history.push(("at", line.clone()));
                if self.rng.percent(transitions) {
                    let left = self.rng.percent(50).then_some("moved");
                    running.node.storage.append_transition("my depot", left, &line);
                    self.history.push((if left.is_some() { "leave" } else { "enter" }, line));
                }
            }
        }
        running.node.storage.handle_wall(self.wall);
        running.node.commit(&mut self.disk, self.now, &mut self.rng);
    }

    /// A turn of the loop, without waiting for the thread or the server.
    pub fn turn(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Running { node, feed, job, connection, .. } = running;
        node.storage.handle_wall(self.wall);
        node.turn(self.now);
        node.commit(&mut self.disk, self.now, &mut self.rng);
        if feed.poll_timeout(&node.storage).is_some_and(|at| at <= self.now) {
            feed.handle_timeout(self.now);
        }
        while let Some(id) = feed.poll_close() {
            if *connection == Some(id) {
                *connection = None;
            }
            // The server may still execute what it has received.
            if self.rng.percent(50) {
                self.server.connections.retain(|it| it.id != id);
            }
        }
        if let Some(id) = feed.poll_connect() {
            // The ids of connections begin again with each process.
            self.server.connections.retain(|it| it.id != id);
            if self.server.is_down {
                feed.handle_failed(id, "refused", self.now);
            } else {
                self.server.connect(id);
                *connection = Some(id);
                feed.handle_connected(id, self.now);
            }
        }
        let mut out = Vec::new();
        while let Some(id) = feed.poll_output(&mut out) {
            if let Some(connection) = self.server.connection(id) {
                connection.input.append(&mut out);
            }
            out.clear();
        }
        if job.is_none() {
            *job = feed.poll_job(&node.storage, self.now);
        }
        if let Some(segment) = feed.poll_keep(self.now) {
            node.storage.keep_from(segment);
        }
        while feed.poll_event().is_some() {}
        while node.storage.poll_event().is_some() {}
        if !node.tasks.is_empty() {
            let at = self.rng.index(node.tasks.len());
            node.step(at, &mut self.disk, self.now, &mut self.rng);
        }
    }

    /// The thread executes its job.
    pub fn work(&mut self, fails: bool) {
        let Some(running) = &mut self.running else { return };
        let Some(job) = running.job.take() else { return };
        let mut folder = Folder { disk: &self.disk, memo: &mut self.memo, fails };
        let done = running.worker.execute(job, &mut folder);
        running.feed.handle_job_done(done, self.now);
    }

    /// The server executes commands of some connection, and replies arrive in pieces.
    pub fn serve(&mut self) {
        if self.server.is_down || self.server.connections.is_empty() {
            return;
        }
        let at = self.rng.index(self.server.connections.len());
        for _ in 0..self.rng.below(60) {
            if !self.server.step(at) {
                break;
            }
        }
        self.lengths.push((self.now, self.server.stream.len()));
        let Some(running) = &mut self.running else { return };
        let Some(id) = running.connection else { return };
        let Some(connection) = self.server.connection(id) else { return };
        let most = connection.replies.len();
        let length = if self.rng.percent(50) { most } else { self.rng.index(most + 1) };
        let piece: Vec<u8> = connection.replies.drain(..length).collect();
        let ends = connection.closes && connection.replies.is_empty();
        running.feed.handle_input(id, &piece, self.now);
        if ends {
            running.feed.handle_eof(id, Eof::Clean, self.now);
            self.server.connections.retain(|it| it.id != id);
        }
    }

    /// The connection is lost. The server may execute what it has received.
    pub fn cut_connection(&mut self) {
        let Some(running) = &mut self.running else { return };
        let Some(id) = running.connection.take() else { return };
        self.traced.then(|| println!("cut {id}"));
        if self.rng.percent(50) {
            self.server.connections.retain(|it| it.id != id);
        }
        running.feed.handle_failed(id, "reset", self.now);
    }

    /// The server crashes, and has the state that it had at most a second ago.
    pub fn crash(&mut self) {
        self.trace("crash");
        let since = self.now.checked_sub(Duration::from_secs(1)).unwrap_or_default();
        self.lengths.retain(|(at, _)| *at >= since);
        if self.server.collected.is_none() && !self.lengths.is_empty() {
            let (_, length) = self.rng.pick(&self.lengths);
            self.server.lose(length);
        }
        self.lengths.clear();
        self.server.connections.clear();
        self.server.is_down = true;
        if let Some(running) = &mut self.running
            && let Some(id) = running.connection.take()
        {
            running.feed.handle_failed(id, "reset", self.now);
        }
    }

    pub fn pass(&mut self, duration: Duration) {
        self.now += duration;
        self.wall = Wall(self.wall.0 + duration.as_nanos() as Nanos);
    }

    /// Everything works again, and the feed catches up.
    pub fn heal(&mut self) {
        (self.server.is_down, self.server.is_loading, self.server.is_full) = (false, false, false);
        if self.running.is_none() {
            self.start();
        }
        for _ in 0..200_000 {
            self.turn();
            self.work(false);
            self.serve();
            self.pass(Duration::from_millis(3));
            let Running { node, feed, .. } = self.running.as_ref().unwrap();
            if feed.has_caught_up(&node.storage) {
                return;
            }
        }
        let Running { node, feed, .. } = self.running.as_ref().unwrap();
        panic!("{} entries wait: {:?}", feed.backlog(&node.storage), feed.error());
    }

    /// The entries in the stream that are no gaps.
    pub fn entries(&self) -> Vec<String> {
        let stream = self.server.stream.iter();
        let wanted = stream.filter(|added| !matches!(added.field("type"), b"gap" | b""));
        let text = |field: &[u8]| field.escape_ascii().to_string();
        wanted.map(|it| format!("{} {}", text(it.field("type")), text(it.field("line")))).collect()
    }

    /// The entries of the history that are wanted.
    pub fn expected(&self) -> Vec<String> {
        let is_fence = |kind: &str| matches!(kind, "enter" | "leave");
        let wanted = self.history.iter().filter(|(kind, _)| match self.filter {
            Filter::All => true,
            Filter::Updates => !is_fence(kind),
            Filter::Fences => is_fence(kind),
        });
        wanted.map(|(kind, line)| format!("{kind} {}", line.escape_ascii())).collect()
    }

    /// Compares the stream with the history. Returns the number of entries that gaps account for.
    pub fn compare(&self) -> usize {
        let (mut at, mut missing) = (0, 0);
        let stream = &self.server.stream;
        assert!(stream.windows(2).all(|pair| pair[0].id < pair[1].id), "ids increase");
        for added in stream.iter().filter(|added| added.fields[0].0 == b"type") {
            if added.field("type") == b"gap" {
                let count: usize =
                    String::from_utf8(added.field("count").to_vec()).unwrap().parse().unwrap();
                assert_eq!(added.field("to"), added.id.to_string().as_bytes());
                at += count;
                missing += count;
                continue;
            }
            let text = |field: &[u8]| field.escape_ascii().to_string();
            let found = (text(added.field("type")), text(added.field("line")));
            let expected =
                self.history.get(at).map(|(kind, line)| ((*kind).to_owned(), text(line)));
            assert_eq!(Some(found), expected, "entry {at} of {}", self.history.len());
            at += 1;
        }
        assert_eq!(at, self.history.len(), "everything has arrived");
        missing
    }

    /// A random schedule, after which everything has been delivered.
    pub fn run(&mut self) {
        for _ in 0..400 {
            match self.rng.below(100) {
                0..12 => {
                    let count = self.rng.index(60);
                    self.update(count);
                }
                12..20 => {
                    let count = self.rng.index(60);
                    self.update_plainly(count);
                }
                20..50 => self.turn(),
                50..68 => {
                    let fails = self.rng.percent(3);
                    self.work(fails);
                }
                68..85 => self.serve(),
                85..91 => {
                    let pause = self.rng.below(400);
                    self.pass(Duration::from_millis(pause));
                }
                91..93 => self.cut_connection(),
                93 => self.crash(),
                94 => self.server.is_down = false,
                95 => {
                    let percent = self.rng.percent(30);
                    self.server.is_loading = percent;
                }
                96 => self.server.is_full = self.rng.percent(50),
                97 => {
                    let length = self.server.stream.len();
                    self.server.trimmed = length - self.rng.index(length + 1).min(3);
                }
                98 => {
                    self.kill();
                    // The clock may be wrong after a start.
                    if self.rng.percent(30) {
                        let by = Nanos::from(self.rng.below(100_000)) * SECOND;
                        let sign = if self.rng.percent(50) { 1 } else { -1 };
                        self.wall = Wall(self.wall.0 + sign * by);
                    }
                    self.start();
                }
                _ => {
                    let pause = self.rng.below(40_000);
                    self.pass(Duration::from_millis(pause));
                }
            }
        }
        self.heal();
    }

    fn trace(&self, text: &str) {
        if self.traced {
            println!("{:?} {text}", self.now);
        }
    }
}
