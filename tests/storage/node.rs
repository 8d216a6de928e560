//! A node without a network: a directory and its storage on a simulated disk.

use proxy_herd::herd::directory::{Applied, Directory, Rules, Source};
use proxy_herd::ids::Slot;
use proxy_herd::protocol::command::Command;
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::frame::MAX_FRAME;
use proxy_herd::storage::{
    Failed, FileName, Kind, Position, Recovered, Recovery, Refusal, Settings, Storage, Task,
};
use proxy_herd::testing::KEYS;
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

pub const NAME: &str = "Clark";

/// A node that is running.
pub struct Node {
    pub directory: Directory,
    pub storage: Storage,
    /// The tasks that the disk thread executes, with the number of operations done.
    pub tasks: Vec<(Task, usize)>,
}

pub fn settings(sync: proxy_herd::storage::SyncMode, max_bytes: u64) -> Settings {
    Settings { node: NAME.into(), sync, max_bytes, key: None, keeps_segments: false }
}

pub fn rules(max_clients: u32, ttl: Nanos) -> Rules {
    Rules { max_clock_offset: 5 * SECOND, max_clients, client_ttl: ttl, forget_keep: 0 }
}

/// The AT line of a position.
pub fn line(server: &str, client: &str, time: i64, received: Nanos) -> Vec<u8> {
    let text = format!("IAMAT {client} +{}.5-118.445127 {time}", time.rem_euclid(90));
    let Command::Iamat(iamat) = Command::parse(text.as_bytes()) else { panic!("{text}") };
    let mut out = Vec::new();
    Record::emit(&mut out, server.as_bytes(), &iamat, received);
    out
}

/// Loads the folder, in chunks of random size.
pub fn load(
    disk: &Disk,
    rules: Rules,
    wall: Wall,
    rng: &mut Rng,
) -> Result<(Directory, Recovered), Refusal> {
    load_as(NAME, disk, rules, wall, rng)
}

pub fn load_as(
    name: &str,
    disk: &Disk,
    rules: Rules,
    wall: Wall,
    rng: &mut Rng,
) -> Result<(Directory, Recovered), Refusal> {
    let mut directory = Directory::new(rules, KEYS.keys(None));
    let names = disk.names();
    let manifest = disk.read(FileName::Manifest);
    let mut recovery = Recovery::new(name, names.iter().map(String::as_str), manifest.as_deref())?;
    while let Some(file) = recovery.poll_file() {
        let content = disk.read(file).expect("a file that exists");
        let (mut at, mut end) = (0, 0);
        loop {
            let more = if rng.percent(50) { MAX_FRAME + 1 } else { 1 + rng.index(300) };
            end = (end + more).min(content.len());
            let ended = end == content.len();
            let consumed = recovery.handle_input(&content[at..end], ended, &mut directory, wall)?;
            at += consumed;
            assert!(end - at <= MAX_FRAME, "{} bytes are kept", end - at);
            if ended {
                assert_eq!(at, end, "{file} is consumed");
                break;
            }
        }
    }
    Ok((directory, recovery.finish()))
}

impl Node {
    /// Starts a node with what has been loaded, and dies after `steps` operations of the disk unless
    /// it has started before.
    pub fn start(
        directory: Directory,
        recovered: Recovered,
        settings: Settings,
        disk: &mut Disk,
        now: Instant,
        rng: &mut Rng,
        mut steps: u64,
    ) -> Result<Self, String> {
        let storage = Storage::new(settings, recovered, now);
        let mut node = Self { directory, storage, tasks: Vec::new() };
        while !node.storage.is_ready() {
            let Some(task) = node.storage.poll_task() else {
                return Err(node.storage.problem().expect("a reason").to_string());
            };
            node.tasks.push((task, 0));
            while !node.tasks.is_empty() {
                steps = steps.checked_sub(1).ok_or("it dies")?;
                node.step(0, disk, now, rng);
            }
        }
        Ok(node)
    }

    /// Applies a record. Returns its position if it was stored.
    pub fn apply(&mut self, line: &[u8], source: Source, wall: Wall) -> Option<Position> {
        let record = Record::parse(line).expect("a record");
        let kind = if source == Source::Client { Kind::UPDATE } else { Kind::RECEIVED };
        match self.directory.apply(&record, source, wall) {
            Applied::Stored(_) => Some(self.storage.append(kind, line)),
            _ => None,
        }
    }

    /// The commit phase of a turn.
    pub fn commit(&mut self, disk: &mut Disk, now: Instant, rng: &mut Rng) {
        while let Some(write) = self.storage.poll_write() {
            let result = disk.write(&write, rng);
            self.storage.handle_written(result, now);
        }
    }

    /// The rest of a turn.
    pub fn turn(&mut self, now: Instant) {
        if self.storage.poll_timeout().is_some_and(|at| at <= now) {
            self.storage.handle_timeout(now);
        }
        self.storage.handle_directory(&self.directory, now);
        while let Some(task) = self.storage.poll_task() {
            let lane = task.lane;
            assert!(self.tasks.iter().all(|(other, _)| other.lane != lane), "one task per lane");
            assert!(!task.ops.is_empty());
            self.tasks.push((task, 0));
        }
    }

    /// Executes the next operation of a task. Returns its description.
    pub fn step(&mut self, at: usize, disk: &mut Disk, now: Instant, rng: &mut Rng) -> String {
        let (task, done) = &mut self.tasks[at];
        let op = &task.ops[*done];
        let (action, file) = op.describe();
        let result = disk.execute(op, rng);
        let text = format!("{action} {file:?}: {result:?}");
        let index = *done;
        *done += 1;
        if result.is_err() || *done == task.ops.len() {
            let (task, _) = self.tasks.swap_remove(at);
            let result = result.map_err(|error| Failed { op: index, error });
            self.storage.handle_task_done(task, result, now);
        }
        text
    }

    /// Runs turns and tasks until nothing is left to do at this time.
    pub fn settle(&mut self, disk: &mut Disk, now: Instant, rng: &mut Rng) {
        for _ in 0..100_000 {
            self.commit(disk, now, rng);
            self.turn(now);
            if self.tasks.is_empty() {
                if self.storage.poll_timeout().is_none_or(|at| at > now) {
                    return;
                }
                continue;
            }
            self.step(0, disk, now, rng);
        }
        panic!("the storage does not come to rest");
    }

    /// All lines, sorted.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        lines(&self.directory)
    }
}

pub fn lines(directory: &Directory) -> Vec<Vec<u8>> {
    let lines = (0..directory.slots()).filter_map(|slot| directory.line(Slot(slot)));
    let mut lines: Vec<_> = lines.map(<[u8]>::to_vec).collect();
    lines.sort();
    lines
}
