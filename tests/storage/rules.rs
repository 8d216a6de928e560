//! The rules of the state machine, one by one, on a simulated disk.

use std::time::Duration;

use proxy_herd::herd::directory::Source;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{
    Condition, Event, Failed, FileName, Gate, Lane, Op, Position, SyncMode, Task,
};
use proxy_herd::testing::disk::Disk;
use proxy_herd::time::{Instant, Wall};

use crate::node::{self, Node};

const WALL: Wall = Wall(1_000_000 * SECOND);
const INTERVAL: SyncMode = SyncMode::Interval(Duration::from_secs(1));

/// A node, its disk and its clock.
struct World {
    node: Node,
    disk: Disk,
    now: Instant,
    rng: Rng,
    /// The number of records so far.
    count: i64,
}

impl World {
    fn new(mode: SyncMode) -> Self {
        Self::on(Disk::default(), mode)
    }

    /// A node on a disk that has been used, after everything that follows from the start.
    fn on(disk: Disk, mode: SyncMode) -> Self {
        let mut world = Self::starting(disk, mode);
        world.settle();
        world
    }

    fn starting(mut disk: Disk, mode: SyncMode) -> Self {
        let mut rng = Rng::new(1);
        let (directory, recovered) =
            node::load(&disk, node::rules(1000, 0), WALL, &mut rng).unwrap();
        let settings = node::settings(mode, 1 << 30);
        let now = Instant::START;
        let node =
            Node::start(directory, recovered, settings, &mut disk, now, &mut rng, 1000).unwrap();
        Self { node, disk, now, rng, count: 0 }
    }

    /// Stores a record and ends the commit phase. Returns its position.
    fn update(&mut self) -> Position {
        self.count += 1;
        let i = self.count;
        let line = node::line("Clark", &format!("c{i}"), 999_000 + i, WALL.0 + Nanos::from(i));
        let position = self.node.apply(&line, Source::Client, WALL).unwrap();
        self.node.commit(&mut self.disk, self.now, &mut self.rng);
        position
    }

    fn settle(&mut self) {
        self.node.settle(&mut self.disk, self.now, &mut self.rng);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    /// The next task of the lane of syncs.
    fn sync(&mut self) -> Option<Task> {
        self.node.turn(self.now);
        let at = self.node.tasks.iter().position(|(task, _)| task.lane == Lane::Sync)?;
        Some(self.node.tasks.swap_remove(at).0)
    }

    fn finish(&mut self, task: Task, result: Result<(), Failed>) {
        if result.is_ok() {
            for op in &task.ops {
                self.disk.execute(op, &mut self.rng).unwrap();
            }
        }
        self.node.storage.handle_task_done(task, result, self.now);
    }

    fn gate(&self, position: Position) -> Gate {
        self.node.storage.gate(position)
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.node.storage.poll_event()).collect()
    }

    /// The number of records that a start after a kill or a power cut finds.
    fn found(&self, with_power: bool) -> usize {
        let (mut disk, mut rng) = (self.disk.clone(), Rng::new(9));
        if !with_power {
            disk.cut_power(&mut rng);
        }
        let (directory, _) = node::load(&disk, node::rules(1000, 0), WALL, &mut rng).unwrap();
        directory.len() as usize
    }
}

fn failure() -> Result<(), Failed> {
    let error = std::io::Error::from(std::io::ErrorKind::Other);
    Err(Failed { op: 0, error: (&error).into() })
}

#[test]
fn a_record_is_written_before_its_reply_in_every_mode() {
    for mode in [SyncMode::Always, INTERVAL, SyncMode::Never] {
        let mut world = World::new(mode);
        let line = node::line("Clark", "c", 999_000, WALL.0);
        let position = world.node.apply(&line, Source::Client, WALL).unwrap();
        assert_eq!(world.gate(position), Gate::Wait, "{mode:?}");
        world.node.commit(&mut world.disk, world.now, &mut world.rng);
        let after_write = if mode == SyncMode::Always { Gate::Wait } else { Gate::Open };
        assert_eq!(world.gate(position), after_write, "{mode:?}");
        assert_eq!(world.found(true), 1, "{mode:?}");
    }
}

#[test]
fn short_writes_are_continued() {
    let mut world = World::new(INTERVAL);
    world.disk.short_writes = true;
    for _ in 0..50 {
        world.update();
    }
    assert_eq!(world.found(true), 50);
    assert_eq!(world.events(), []);
}

#[test]
fn always_is_group_commit() {
    let mut world = World::new(SyncMode::Always);
    let first = world.update();
    let task = world.sync().expect("a sync begins at once");
    let (second, third) = (world.update(), world.update());
    assert!(world.sync().is_none(), "one sync at a time");
    world.finish(task, Ok(()));
    assert_eq!(
        [first, second, third].map(|it| world.gate(it)),
        [Gate::Open, Gate::Wait, Gate::Wait]
    );
    assert!(world.found(false) >= 1);
    let task = world.sync().expect("the next sync covers all further records");
    world.finish(task, Ok(()));
    assert_eq!([second, third].map(|it| world.gate(it)), [Gate::Open; 2]);
    assert!(world.sync().is_none());
    assert_eq!(world.found(false), 3);
}

/// Half of the interval is left for the disk.
#[test]
fn a_record_is_durable_one_interval_after_its_reply() {
    let mut world = World::new(INTERVAL);
    for _ in 0..20 {
        let position = world.update();
        assert!(world.sync().is_none(), "records gather for half of the interval");
        world.pass(Duration::from_millis(300));
        world.update();
        world.pass(Duration::from_millis(200));
        assert!(world.node.storage.durable() >= position);
        world.pass(Duration::from_millis(500));
    }
    // A slow sync does not delay the next one.
    world.update();
    world.now += Duration::from_millis(500);
    let task = world.sync().expect("a sync");
    world.update();
    world.now += Duration::from_secs(5);
    world.finish(task, Ok(()));
    assert!(world.sync().is_some());
}

#[test]
fn never_syncs_only_at_the_end() {
    let mut world = World::new(SyncMode::Never);
    world.update();
    world.pass(Duration::from_hours(1));
    assert_eq!(world.node.storage.counters.syncs, 0);
    world.node.storage.handle_shutdown(world.now);
    assert!(!world.node.storage.is_idle());
    world.settle();
    assert!(world.node.storage.is_idle());
    assert_eq!(world.found(false), 1);
}

/// After a clean end, nothing is synced or written again.
#[test]
fn a_clean_end_is_remembered() {
    let mut world = World::new(INTERVAL);
    world.update();
    let killed = World::on(world.disk.clone(), INTERVAL);
    assert_eq!(killed.node.storage.counters.compactions, 1);
    world.node.storage.handle_shutdown(world.now);
    world.settle();
    let restarted = World::on(world.disk.clone(), INTERVAL);
    assert_eq!(restarted.node.storage.counters.compactions, 0);
    assert_eq!((restarted.node.directory.len(), restarted.node.storage.boot()), (1, 2));
}

/// The kernel may have dropped what a failed sync covered.
#[test]
fn a_failed_sync_is_never_repeated() {
    for mode in [SyncMode::Always, INTERVAL] {
        let mut world = World::new(mode);
        let first = world.update();
        world.now += Duration::from_secs(1);
        world.disk.failing_syncs = 1;
        let task = world.sync().expect("a sync");
        let Op::Sync { file } = task.ops[0] else { panic!("{task:?}") };
        let second = world.update();
        let error = world.disk.execute(&task.ops[0], &mut world.rng).unwrap_err();
        world.finish(task, Err(Failed { op: 0, error }));
        let refused = if mode == SyncMode::Always { Gate::Refused } else { Gate::Open };
        assert_eq!([first, second].map(|it| world.gate(it)), [refused; 2]);
        let third = world.update();
        let events = world.events();
        let [Event::Began(problem)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(problem.condition, Condition::Behind);
        assert_eq!(problem.refuses, mode == SyncMode::Always);
        assert!(problem.to_string().starts_with(&format!("cannot sync {file}: ")), "{problem}");
        assert!(world.node.storage.problem().is_some());
        // A snapshot contains what the failed sync covered.
        world.pass(Duration::from_secs(1));
        assert_eq!([first, second, third].map(|it| world.gate(it)), [Gate::Open; 3]);
        assert_eq!(world.node.storage.problem(), None);
        assert!(world.events().contains(&Event::Ended(Condition::Behind)));
        assert_eq!(world.found(false), 3);
        assert!(!world.disk.names().contains(&file.to_string()), "the segment is deleted");
    }
}

#[test]
fn a_full_disk_is_reported_once_and_everything_is_written_later() {
    let mut world = World::new(INTERVAL);
    world.update();
    world.disk.capacity = Some(world.disk.used() + 30);
    for _ in 0..200 {
        let position = world.update();
        assert_eq!(world.gate(position), Gate::Open);
        world.pass(Duration::from_millis(100));
    }
    let events = world.events();
    let [Event::Began(problem)] = &events[..] else { panic!("{events:?}") };
    assert!(problem.to_string().ends_with(
        "the node serves from memory, and writes what is missing once the disk accepts writes again"
    ));
    assert!(world.found(true) < 201);
    world.disk.capacity = None;
    world.pass(Duration::from_secs(6));
    world.pass(Duration::from_secs(1));
    assert!(world.events().contains(&Event::Ended(Condition::Behind)));
    assert_eq!((world.found(true), world.found(false)), (201, 201));
}

#[test]
fn always_refuses_what_a_full_disk_does_not_take() {
    let mut world = World::new(SyncMode::Always);
    let before = world.update();
    world.settle();
    assert_eq!(world.gate(before), Gate::Open);
    world.disk.capacity = Some(0);
    let (mut refused, mut open) = (0, 0);
    for _ in 0..900 {
        let position = world.update();
        world.settle();
        match world.gate(position) {
            Gate::Open => open += 1,
            Gate::Refused => refused += 1,
            Gate::Wait => panic!("a reply waits for a disk that is full"),
        }
    }
    assert!(refused > 0 && open > 0, "some space is reserved");
    assert_eq!(world.gate(before), Gate::Open);
    world.disk.capacity = None;
    world.pass(Duration::from_secs(6));
    let position = world.update();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.gate(position), Gate::Open);
    assert_eq!(world.found(false), 902);
}

/// If no segment can be created, the log goes on in the one that it has.
#[test]
fn a_log_that_cannot_be_continued_in_a_new_segment_grows() {
    let mut world = World::new(INTERVAL);
    let (clients, name) = (100, "x".repeat(4000));
    let is_create = |task: &Task| matches!(task.ops[0], Op::Create { .. });
    let mut refused = 0;
    // Three segments.
    for i in 0..6_500 {
        let client = format!("{}{name}", i % clients);
        let line = node::line("Clark", &client, 900_000 + i, WALL.0 + Nanos::from(i));
        world.node.apply(&line, Source::Client, WALL).unwrap();
        world.node.commit(&mut world.disk, world.now, &mut world.rng);
        world.node.turn(world.now);
        while let Some((task, _)) = world.node.tasks.pop() {
            let fails = is_create(&task);
            refused += u64::from(fails);
            world.finish(task, if fails { failure() } else { Ok(()) });
        }
        world.now += Duration::from_millis(10);
    }
    assert!(refused > 3, "{refused}");
    let events = world.events();
    let [Event::Began(problem)] = &events[..] else { panic!("{events:?}") };
    assert_eq!(problem.condition, Condition::Growing);
    assert_eq!(world.found(true), clients as usize);
    world.pass(Duration::from_secs(6));
    assert_eq!(world.events(), [Event::Ended(Condition::Growing)]);
}

/// A node that is killed at any operation of the disk finds all records that it has acknowledged.
#[test]
fn a_kill_at_any_operation_of_a_compaction_loses_nothing() {
    let mut world = World::new(INTERVAL);
    for _ in 0..5 {
        world.update();
    }
    let mut restarted = World::starting(world.disk.clone(), INTERVAL);
    let mut operations = 0;
    loop {
        restarted.node.turn(restarted.now);
        for with_power in [true, false] {
            assert_eq!(restarted.found(with_power), 5, "after {operations} operations");
        }
        if restarted.node.tasks.is_empty() {
            if restarted.node.storage.poll_timeout().is_none_or(|at| at > restarted.now) {
                break;
            }
            continue;
        }
        restarted.node.step(0, &mut restarted.disk, restarted.now, &mut restarted.rng);
        operations += 1;
    }
    assert_eq!(restarted.node.storage.counters.compactions, 1);
    assert!(operations > 12, "{operations}");
}

/// A file that was deleted takes space until the folder is synced: a power cut may bring it back.
#[test]
fn deleted_files_count_until_that_is_durable() {
    let mut world = World::new(INTERVAL);
    for _ in 0..20 {
        world.update();
    }
    // A start after a kill writes a snapshot.
    let mut world = World::starting(world.disk, INTERVAL);
    let (mut deleted, mut returned) = (false, false);
    for _ in 0..100 {
        world.node.turn(world.now);
        let Some((task, done)) = world.node.tasks.first() else { break };
        deleted |= matches!(task.ops[*done], Op::Delete { .. });
        world.node.step(0, &mut world.disk, world.now, &mut world.rng);
        for seed in 0..20 {
            let mut disk = world.disk.clone();
            disk.cut_power(&mut Rng::new(seed));
            returned |= deleted && disk.used() > world.disk.used();
            let counted = world.node.storage.bytes();
            assert!(disk.used() <= counted, "{} bytes, not {counted}", disk.used());
        }
    }
    assert!(returned, "some files are brought back");
}

/// Bytes behind the length that the manifest states take space as well, and are given back.
#[test]
fn files_that_are_longer_than_their_content_are_truncated() {
    let mut world = World::new(INTERVAL);
    world.update();
    world.node.storage.handle_shutdown(world.now);
    world.settle();
    let mut disk = world.disk;
    let names: Vec<FileName> =
        disk.names().iter().filter_map(|name| FileName::parse(name)).collect();
    for &file in names.iter().filter(|file| file.number().is_some()) {
        let mut content = disk.read(file).unwrap();
        content.resize(content.len() + 100_000, b'x');
        disk.set(file, Some(content));
    }
    let mut world = World::starting(disk, INTERVAL);
    assert!(world.node.storage.bytes() > 100_000, "{}", world.node.storage.bytes());
    world.settle();
    assert!(world.disk.used() < 10_000 && world.node.storage.bytes() < 10_000);
    assert_eq!(world.found(true), 1);
}
