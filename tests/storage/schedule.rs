//! One schedule: a node that is updated, crashes and restarts on a disk with faults.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proxy_herd::herd::directory::{Directory, Rules, Source};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{Cause, Event, FileName, Gate, Position, SyncMode};
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

use crate::node::{self, Node};

const INTERVAL: Duration = Duration::from_secs(1);

/// The newest record of each client that is promised.
type Floor = BTreeMap<Vec<u8>, Vec<u8>>;

/// What happened in some schedules.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub acknowledged: u64,
    pub refused: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub compactions: u64,
    pub behind: u64,
    pub mended: u64,
    pub torn: u64,
    pub failed_starts: u64,
    pub limits: u64,
    pub damaged: u64,
    pub restored: u64,
}

impl Report {
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.compactions += other.compactions;
        self.behind += other.behind;
        self.mended += other.mended;
        self.torn += other.torn;
        self.failed_starts += other.failed_starts;
        self.limits += other.limits;
        self.damaged += other.damaged;
        self.restored += other.restored;
    }

    /// Checks that everything of interest has happened.
    pub fn check_coverage(&self) {
        for (what, count) in [
            ("acknowledgments", self.acknowledged),
            ("refusals", self.refused),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("compactions", self.compactions),
            ("failures", self.behind),
            ("recoveries from failures", self.mended),
            ("torn tails", self.torn),
            ("failed starts", self.failed_starts),
            ("limits reached", self.limits),
            ("damaged files", self.damaged),
            ("restored copies", self.restored),
        ] {
            assert!(count > 0, "no {what} in all schedules");
        }
    }
}

/// The end of a node's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Kill,
    PowerCut,
}

pub struct Schedule {
    rng: Rng,
    traced: bool,
    mode: SyncMode,
    rules: Rules,
    max_bytes: u64,
    clients: usize,
    disk: Disk,
    now: Instant,
    wall: Wall,
    /// Every line that was ever stored.
    known: BTreeSet<Vec<u8>>,
    /// What survives a kill.
    after_kill: Floor,
    /// What survives a power cut.
    after_cut: Floor,
    /// Records that were loaded, and become durable when the disk is no longer behind.
    loaded: Vec<Vec<u8>>,
    /// Stored records of this life, with their positions and whether their reply has left.
    stored: Vec<(Position, Vec<u8>)>,
    unanswered: Vec<(Position, Vec<u8>)>,
    /// Lines whose client was evicted after they were stored. They are not promised any more.
    evicted: BTreeSet<Vec<u8>>,
    /// A copy of the folder.
    copy: Option<Disk>,
    /// True if files were damaged: then everything that is intact is loaded, and nothing else.
    was_damaged: bool,
    is_last: bool,
    report: Report,
}

impl Schedule {
    pub fn new(seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mode = rng.pick(&[SyncMode::Always, SyncMode::Interval(INTERVAL), SyncMode::Never]);
        let ttl = if rng.percent(30) { Nanos::from(rng.range(5, 60)) * SECOND } else { 0 };
        let clients = rng.range(1, 12) as usize;
        let max_clients = if rng.percent(30) { rng.range(1, 12) as u32 } else { 100 };
        let max_bytes = rng.pick(&[4 << 10, 12 << 10, 16 << 10, 64 << 10, 1 << 20]);
        let mut disk = Disk::default();
        disk.short_writes = rng.percent(50);
        Self {
            rng,
            traced,
            mode,
            rules: node::rules(max_clients, ttl),
            max_bytes,
            clients,
            disk,
            now: Instant::START,
            wall: Wall(1_000_000 * SECOND),
            known: BTreeSet::new(),
            after_kill: Floor::new(),
            after_cut: Floor::new(),
            loaded: Vec::new(),
            stored: Vec::new(),
            unanswered: Vec::new(),
            evicted: BTreeSet::new(),
            copy: None,
            was_damaged: false,
            is_last: false,
            report: Report::default(),
        }
    }

    pub fn run(mut self) -> Report {
        self.trace(|it| format!("{:?}, {} bytes, {:?}", it.mode, it.max_bytes, it.rules));
        let lives = self.rng.range(1, 6);
        for _ in 0..lives {
            if let Some(node) = self.start() {
                self.live(node);
            }
        }
        self.mend_disk();
        self.is_last = true;
        self.finish();
        self.report
    }

    /// Loads the folder, checks it, and starts a node.
    fn start(&mut self) -> Option<Node> {
        let loaded = node::load(&self.disk, self.rules, self.wall, &mut self.rng);
        let (directory, recovered) = loaded.unwrap_or_else(|why| panic!("refused: {why}"));
        self.trace(|it| format!("starts: {recovered:?} from {:?}", it.disk.names()));
        self.report.torn += u64::from(recovered.damaged > 0);
        self.check(&directory);
        self.loaded = node::lines(&directory);
        // Everything that was loaded is in files.
        self.after_kill.clear();
        for line in self.loaded.clone() {
            raise(&mut self.after_kill, &line, self.rules);
        }
        (self.stored, self.unanswered, self.evicted) = (Vec::new(), Vec::new(), BTreeSet::new());
        let settings = node::settings(self.mode, self.max_bytes);
        let steps = if self.is_last || self.rng.percent(80) { 1000 } else { self.rng.below(12) };
        let (disk, rng) = (&mut self.disk, &mut self.rng);
        match Node::start(directory, recovered, settings, disk, self.now, rng, steps) {
            Ok(node) => Some(node),
            Err(why) => {
                self.trace(|_| format!("does not start: {why}"));
                self.report.failed_starts += 1;
                let crash = self.rng.pick(&[Crash::Kill, Crash::PowerCut]);
                self.crash(crash);
                self.mend_disk();
                None
            }
        }
    }

    /// Lets the node run for a while, and die.
    fn live(&mut self, mut node: Node) {
        for turn in 0..self.rng.range(1, 150) {
            // As in the event loop: the clock at each turn, and a time mark at the start and now and then.
            node.storage.handle_wall(self.wall);
            if turn % 50 == 0 {
                node.storage.append_time(self.wall);
            }
            match self.rng.below(100) {
                0..40 => self.update(&mut node),
                40..70 => self.step(&mut node),
                70..80 => self.pass_time(),
                80..92 => self.let_disk_work(&mut node),
                92..96 => self.break_disk(),
                96..99 => self.mend_disk(),
                _ if self.rng.percent(20) => self.copy = Some(self.disk.clone()),
                _ => {}
            }
            node.turn(self.now);
            self.observe(&mut node);
        }
        if self.rng.percent(10) {
            self.shut_down(node);
        } else {
            let crash = self.rng.pick(&[Crash::Kill, Crash::PowerCut]);
            self.crash(crash);
        }
    }

    fn update(&mut self, node: &mut Node) {
        for _ in 0..self.rng.range(1, 6) {
            let client = format!("client{}", self.rng.index(self.clients));
            let source = self.rng.pick(&[Source::Client, Source::Peer]);
            let time = (self.wall.0 / SECOND) as i64 + self.rng.range(0, 20) as i64 - 10;
            let late = if self.rng.percent(10) { self.rng.range(0, 100) } else { 0 };
            let received = self.wall.0 - Nanos::from(late) * SECOND;
            let server = if source == Source::Client { node::NAME } else { "Bona" };
            let line = node::line(server, &client, time, received);
            if let Some(position) = node.apply(&line, source, self.wall) {
                self.note_evicted(&node.directory);
                self.evicted.remove(&line);
                self.known.insert(line.clone());
                self.stored.push((position, line.clone()));
                self.unanswered.push((position, line));
            }
        }
        node.commit(&mut self.disk, self.now, &mut self.rng);
        if self.mode != SyncMode::Always {
            let waits =
                |(position, _): &(Position, Vec<u8>)| node.storage.gate(*position) != Gate::Open;
            assert!(!self.unanswered.iter().any(waits), "a reply waits after the commit");
        }
    }

    /// Takes note of the lines whose client is not held any more. The client may return with another line,
    /// even in the same turn.
    fn note_evicted(&mut self, directory: &Directory) {
        let stored = self.stored.iter().chain(&self.unanswered).map(|(_, line)| line);
        let promised = self.after_kill.values().chain(self.after_cut.values());
        for line in stored.chain(&self.loaded).chain(promised) {
            let record = Record::parse(line).unwrap();
            if directory.slot(record.client).is_none() {
                self.evicted.insert(line.clone());
            }
        }
        self.after_kill.retain(|_, line| !self.evicted.contains(line));
        self.after_cut.retain(|_, line| !self.evicted.contains(line));
    }

    /// Takes note of what the node promises now.
    fn observe(&mut self, node: &mut Node) {
        let storage = &mut node.storage;
        while let Some(event) = storage.poll_event() {
            if self.traced {
                println!("{:>10.3?} event {event:?}", self.now.uptime());
            }
            match event {
                Event::Began(problem) => {
                    self.report.behind += 1;
                    let is_limit = matches!(problem.cause, Cause::Limit { .. });
                    self.report.limits += u64::from(is_limit);
                }
                Event::Ended(_) => self.report.mended += 1,
                Event::Compacted { .. } => self.report.compactions += 1,
                Event::GivenUp { .. } => panic!("nothing is kept"),
            }
        }
        let is_behind = storage.is_behind();
        let (mut answered, mut refused) = (Vec::new(), 0);
        self.unanswered.retain(|(position, line)| match storage.gate(*position) {
            Gate::Wait => true,
            Gate::Open => {
                answered.push((*position, line.clone()));
                false
            }
            Gate::Refused => {
                refused += 1;
                false
            }
        });
        let durable = storage.durable();
        self.report.acknowledged += answered.len() as u64;
        self.report.refused += refused;
        for (position, line) in answered {
            self.trace(|_| format!("answered {position:?} {}", line.escape_ascii()));
            if self.evicted.contains(&line) {
                continue;
            }
            if self.mode == SyncMode::Always {
                raise(&mut self.after_cut, &line, self.rules);
            }
            if self.mode == SyncMode::Always || !is_behind {
                raise(&mut self.after_kill, &line, self.rules);
            }
        }
        let (is_durable, rest): (Vec<_>, Vec<_>) =
            self.stored.drain(..).partition(|(position, _)| *position <= durable);
        self.stored = rest;
        for (position, line) in is_durable {
            self.trace(|_| format!("durable {position:?} {}", line.escape_ascii()));
            if self.evicted.contains(&line) {
                continue;
            }
            raise(&mut self.after_cut, &line, self.rules);
            raise(&mut self.after_kill, &line, self.rules);
        }
        // What has been evicted or has expired is not promised any more.
        let is_held = |client: &Vec<u8>, _: &mut Vec<u8>| node.directory.slot(client).is_some();
        self.after_cut.retain(is_held);
        self.after_kill.retain(is_held);
        if self.mode != SyncMode::Never && !is_behind {
            for line in std::mem::take(&mut self.loaded) {
                if !self.evicted.contains(&line) {
                    raise(&mut self.after_cut, &line, self.rules);
                }
            }
        }
        assert!(self.disk.used() <= self.max_bytes, "the folder has {} bytes", self.disk.used());
    }

    /// Has the disk execute one operation.
    fn step(&mut self, node: &mut Node) {
        if !node.tasks.is_empty() {
            let at = self.rng.index(node.tasks.len());
            let text = node.step(at, &mut self.disk, self.now, &mut self.rng);
            self.trace(|_| text);
        }
    }

    fn let_disk_work(&mut self, node: &mut Node) {
        for _ in 0..self.rng.range(1, 40) {
            self.step(node);
            node.turn(self.now);
            self.observe(node);
        }
    }

    fn pass_time(&mut self) {
        let passed = Duration::from_millis(self.rng.range(1, 3000));
        self.now += passed;
        self.wall.0 += passed.as_nanos() as Nanos;
    }

    fn break_disk(&mut self) {
        match self.rng.below(4) {
            0 => self.disk.capacity = Some(self.disk.used() + self.rng.range(0, 200)),
            1 => self.disk.failing_syncs = self.rng.range(1, 4) as u32,
            2 => self.disk.failing_ops = self.rng.range(1, 4) as u32,
            _ => self.disk.failing_syncs = 1000,
        }
        self.trace(|it| format!("disk breaks: {:?}", (it.disk.capacity, it.disk.failing_syncs)));
    }

    fn mend_disk(&mut self) {
        self.disk.capacity = None;
        (self.disk.failing_syncs, self.disk.failing_ops) = (0, 0);
    }

    fn shut_down(&mut self, mut node: Node) {
        node.storage.handle_shutdown(self.now);
        self.mend_disk();
        for _ in 0..10_000 {
            node.commit(&mut self.disk, self.now, &mut self.rng);
            node.turn(self.now);
            self.observe(&mut node);
            if node.storage.is_idle() {
                if !node.storage.is_behind() {
                    assert_eq!(node.storage.durable(), node.storage.appended());
                }
                return self.crash(Crash::PowerCut);
            }
            self.step(&mut node);
        }
        panic!("the storage does not stop");
    }

    fn crash(&mut self, crash: Crash) {
        self.trace(|_| format!("{crash:?}"));
        match crash {
            Crash::Kill => self.report.kills += 1,
            Crash::PowerCut => {
                self.report.power_cuts += 1;
                self.disk.cut_power(&mut self.rng);
                self.after_kill.clone_from(&self.after_cut);
            }
        }
        if self.rng.percent(50) {
            self.mend_disk();
        }
        if self.rng.percent(5) {
            self.report.damaged += 1;
            for _ in 0..self.rng.range(1, 4) {
                self.was_damaged |= self.disk.flip_bit(&mut self.rng);
            }
        }
        if self.rng.percent(5)
            && let Some(copy) = self.copy.take()
        {
            self.trace(|_| "an old copy is restored".to_owned());
            self.report.restored += 1;
            (self.disk, self.was_damaged) = (copy, true);
            self.mend_disk();
        }
        if self.rng.percent(30) {
            self.pass_time();
        }
    }

    /// Checks what has been loaded against what was promised.
    fn check(&mut self, directory: &Directory) {
        let lines = node::lines(directory);
        for line in &lines {
            assert!(self.known.contains(line), "{} was never stored", line.escape_ascii());
        }
        if std::mem::take(&mut self.was_damaged) {
            self.after_cut.clear();
            return;
        }
        for line in self.after_kill.values() {
            let promised = Record::parse(line).unwrap();
            let ttl = self.rules.client_ttl;
            let has_expired = |it: &Record<'_>| ttl > 0 && self.wall.0 - it.received > ttl;
            if has_expired(&promised) {
                continue;
            }
            let newer = |line: &[u8]| {
                let order = Record::parse(line).unwrap().cmp(&promised, 5 * SECOND);
                order.is_ge()
            };
            // Among equal records of different clients, a hash decides.
            let rank = |it: &Record<'_>| (it.rank(5 * SECOND), it.time, it.received);
            let outranks = |it: &Vec<u8>| rank(&Record::parse(it).unwrap()) >= rank(&promised);
            let is_evicted =
                || lines.len() == self.rules.max_clients as usize && lines.iter().all(outranks);
            // One that replaced it and was received earlier has expired before it.
            let has_expired_since = || {
                let newer = self.known.iter().filter(|&line| newer(line));
                newer
                    .filter_map(|line| Record::parse(line))
                    .any(|record| record.client == promised.client && has_expired(&record))
            };
            let held = directory.slot(promised.client).and_then(|slot| directory.line(slot));
            match held {
                Some(held) => assert!(
                    newer(held),
                    "{} was promised, not {}",
                    line.escape_ascii(),
                    held.escape_ascii()
                ),
                None => assert!(
                    is_evicted() || has_expired_since(),
                    "{} was promised, not {:?} of {}",
                    line.escape_ascii(),
                    lines.iter().map(|it| it.escape_ascii().to_string()).collect::<Vec<_>>(),
                    self.rules.max_clients
                ),
            }
        }
    }

    /// Without further faults, the disk ends up with exactly what the node holds.
    fn finish(&mut self) {
        let Some(mut node) = self.start() else { panic!("a start fails without a fault") };
        self.update(&mut node);
        for _ in 0..20 {
            node.settle(&mut self.disk, self.now, &mut self.rng);
            self.observe(&mut node);
            self.now += Duration::from_secs(1);
        }
        if let Some(problem) = node.storage.problem() {
            assert!(matches!(problem.cause, Cause::Limit { .. }), "{problem}");
            assert!(self.max_bytes <= 4 << 10, "the limit is reached");
            return;
        }
        if node.storage.is_behind() {
            return assert!(self.max_bytes <= 4 << 10, "it remains behind");
        }
        if self.mode != SyncMode::Never {
            assert_eq!(node.storage.durable(), node.storage.appended());
            self.disk.cut_power(&mut self.rng);
        }
        let names: Vec<_> = self.disk.names();
        assert!(!names.contains(&FileName::NewManifest.to_string()), "{names:?}");
        let (directory, recovered) =
            node::load(&self.disk, self.rules, self.wall, &mut self.rng).unwrap();
        // What a power cut damages is in the snapshot that a start writes, if there is room for it.
        let snapshot: usize = node.lines().iter().map(|line| line.len() + 17).sum();
        let manifests = 2 * (200 + 40 * names.len());
        let needed = self.disk.used() + (100 + snapshot + manifests) as u64;
        let is_roomy = needed <= self.max_bytes;
        assert!(
            self.mode != SyncMode::Never || !is_roomy || recovered.damaged == 0,
            "{recovered:?}"
        );
        let lines = node::lines(&directory);
        let evicted = |line: &Vec<u8>| {
            lines.len() == self.rules.max_clients as usize && !lines.contains(line)
        };
        for line in node.lines() {
            let record = Record::parse(&line).unwrap();
            let ttl = self.rules.client_ttl;
            let has_expired = ttl > 0 && self.wall.0 - record.received > ttl;
            assert!(
                lines.contains(&line) || has_expired || evicted(&line),
                "{} is missing",
                line.escape_ascii()
            );
        }
    }

    fn trace(&self, text: impl FnOnce(&Self) -> String) {
        if self.traced {
            println!("{:>10.3?} {}", self.now.uptime(), text(self));
        }
    }
}

/// Raises the floor of a client to `line`, if that is newer.
fn raise(floor: &mut Floor, line: &[u8], rules: Rules) {
    let record = Record::parse(line).unwrap();
    let is_newer = floor.get(record.client).is_none_or(|held| {
        record.cmp(&Record::parse(held).unwrap(), rules.max_clock_offset).is_gt()
    });
    if is_newer {
        floor.insert(record.client.to_vec(), line.to_vec());
    }
}
