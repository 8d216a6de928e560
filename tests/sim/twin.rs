//! Two processes with one name: someone has started a node twice, on two machines.

use proxy_herd::herd::namesakes::{CONTEST_MAX, CONTEST_OVER};
use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::Shape;
use proxy_herd::time::Instant;

use crate::schedule::{SECONDS, Schedule, Step, Time};
use crate::trace::Trace;
use crate::world::{World, name};

impl Schedule {
    /// Draws a second process with the name of a node, which ends before the faults do, independently
    /// of everything else.
    pub fn add_twin(&mut self) {
        let rng = &mut Rng::new(self.seed ^ 0x7717);
        if self.rolling.is_some() || self.nodes > 10 || !rng.percent(6) {
            return;
        }
        let remaining = self.remaining();
        self.twin_of = Some(rng.pick(&remaining));
        let start = rng.below(self.quiet_at);
        let node = self.twin();
        self.steps.push((start, Step::StartTwin));
        let end = rng.range(start, self.quiet_at);
        self.steps.push((end, Step::Kill { node, silent: rng.percent(30), for_good: true }));
    }
}

impl World {
    /// Starts the second process.
    pub fn start_twin(&mut self) {
        let host = self.schedule.twin();
        self.hosts[host].gone = false;
        self.start(host);
    }
}

/// The default herd, in which a second n01 runs.
struct Twins {
    world: World,
    twin: usize,
}

impl Twins {
    /// Both processes run from the beginning. The second one cannot reach the nodes in `hidden` before
    /// five seconds have passed, and the first one not the others.
    fn new(hidden: &[usize]) -> Self {
        let mut schedule = Schedule::by_hand(Shape::Five, 5, 1);
        schedule.twin_of = Some(1);
        let mut world = World::new(schedule, Trace::off());
        let twin = world.schedule.twin();
        for node in [0, 2, 3] {
            let kept_apart = if hidden.contains(&node) { twin } else { 1 };
            world.block(&[(kept_apart, node), (node, kept_apart)], 5 * SECONDS);
        }
        world.begin();
        world.start_twin();
        world.pass(5 * SECONDS);
        Self { world, twin }
    }

    fn uptime(&self) -> Instant {
        Instant::at(std::time::Duration::from_nanos(self.world.now))
    }

    /// Returns whether the process on this host reports another one with its name.
    fn reports_itself(&self, host: usize) -> bool {
        let node = self.world.hosts[host].node.as_ref().unwrap();
        node.herd.other_self(self.uptime()).is_some()
    }

    /// Returns whether this node reports that n01 is two processes.
    fn reports_neighbor(&self, node: usize) -> bool {
        let herd = &self.world.hosts[node].node.as_ref().unwrap().herd;
        let link = herd.link_to(herd.identity().node(&name(1)).unwrap()).unwrap();
        herd.link(link).up.as_ref().is_some_and(|up| up.rival(self.uptime()).is_some())
    }

    /// Link states and records sent in `time`.
    fn messages(&mut self, time: Time) -> u64 {
        let before = self.world.traffic();
        self.world.pass(time);
        let traffic = self.world.traffic() - before;
        traffic.links.messages + traffic.records.messages + traffic.anti_entropy.messages
    }

    /// Ends the second process and lets the herd recover.
    fn part(&mut self) {
        self.world.kill(self.twin, false);
        self.world.pass(CONTEST_MAX.as_nanos() as Time + 5 * SECONDS);
        assert_eq!(self.world.wrong_graph(), None);
        self.world.pass(CONTEST_OVER.as_nanos() as Time);
        for node in 0..5 {
            assert!(
                !self.reports_itself(node)
                    && (node == 1 || ![0, 2, 3].contains(&node) || !self.reports_neighbor(node))
            );
        }
    }
}

#[test]
fn two_processes_with_one_name_that_are_both_linked_are_noticed_and_keep_quiet() {
    let mut twins = Twins::new(&[0]);
    twins.world.pass(5 * SECONDS);
    assert!(twins.reports_itself(1) && twins.reports_itself(twins.twin));
    let reporting = [0, 2, 3].into_iter().filter(|&node| twins.reports_neighbor(node)).count();
    assert_eq!(reporting, 3, "each neighbor refuses one of them");
    twins.world.pass(60 * SECONDS);
    let messages = twins.messages(60 * SECONDS);
    assert!(messages < 400, "{messages} messages in a minute");
    twins.part();
}

#[test]
fn a_second_process_is_refused_while_the_first_is_linked() {
    let mut twins = Twins::new(&[0, 2, 3]);
    twins.world.pass(5 * SECONDS);
    for node in [0, 2, 3] {
        assert!(twins.reports_neighbor(node), "n{node:02}");
    }
    assert!(!twins.reports_itself(1));
    let messages = twins.messages(60 * SECONDS);
    // The regular checks: one message per link and ten seconds.
    assert!(messages <= 6 * 7, "{messages} messages in a minute");
    assert_eq!(twins.world.wrong_graph(), None);
    twins.part();
}
