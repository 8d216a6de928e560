//! Five real nodes, writers on all of them, and everything that can happen to processes and links:
//! nodes are killed and come back empty, are stopped for a while; links are cut, cut in one
//! direction, pulled, reset and slowed; the herd is parted. When all is well again, every node must
//! hold the same record of every client, byte for byte, and none older than it owes.
//!
//! What is owed: the newest record that a node acknowledged and that this node, or another that
//! was asked right after its death, still held. A record whose only holder was killed before it
//! could forward it is nobody's any more; how many those were is printed.
//!
//! Digests are not compared at an interval here: what links and the loss of links bring is all
//! there is, so the interval cannot hide a fault.
//!
//! `CHAOS_SECONDS` and `CHAOS_SEED` say how long and which faults; see `scripts/chaos.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;
mod network;
mod relay;
mod traffic;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{DEADLINE, FIVE, Herd, eventually, lines};
use network::{Fault, Network};
use proxy_herd::rng::Rng;
use traffic::{Held, Ledger, Writer, answer, lock};

/// Impatient links, so that a short run sees many of them come and go.
const IMPATIENT: &str = "peers: {keepalive_ms: 200, timeout_ms: 1500, redial_max_ms: 500, \
                         antientropy_interval_s: 86400}";

/// From the end of the faults until all nodes are alike: a relink takes two seconds at the most,
/// and this machine may be busy.
const CONVERGED: Duration = DEADLINE.saturating_mul(3);

/// Long enough for the nodes to agree on trees again. Where it is not, on a busy machine, they flood,
/// and the test is a little easier to pass.
const SETTLED: Duration = Duration::from_secs(2);

/// How long is written after the last edge is cut: less than it takes to notice.
const LATE: Duration = Duration::from_millis(700);

/// Set in the environment of the process that has namespaces of its own.
const INSIDE: &str = "CHAOS_INSIDE";

/// Said to whoever runs the tests, captured output or not.
fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "chaos: {what}");
}

#[test]
fn in_network_namespaces() {
    if std::env::var_os(INSIDE).is_some() {
        return run("in network namespaces", Network::in_namespaces);
    }
    match inside("in_network_namespaces_probe") {
        Err(why) => say(format_args!("no network namespaces here, loopback only: {why}")),
        Ok(()) => inside("in_network_namespaces").unwrap_or_else(|why| panic!("{why}")),
    }
}

/// What the test above asks before it begins.
#[test]
fn in_network_namespaces_probe() {
    if std::env::var_os(INSIDE).is_some()
        && let Err(why) = network::probe()
    {
        eprintln!("{why}"); // and nothing else, for whoever asked
        std::process::exit(1);
    }
}

#[test]
fn on_loopback() {
    run("on loopback, through relays", Network::on_loopback);
}

/// Runs one of these tests again, in a process that is the first in its own namespaces: whatever
/// it leaves behind, processes included, goes with it.
fn inside(test: &str) -> Result<(), String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let mut unshare = Command::new("unshare");
    if !is_root {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // iproute2 keeps the names of namespaces below /run.
    let script = "mount -t tmpfs tmpfs /run && exec \"$0\" --exact \"$1\" --nocapture";
    unshare.args(["sh", "-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
    let output = unshare.env(INSIDE, "1").output().map_err(|error| error.to_string())?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    if output.status.success() {
        let _ = io::stderr().write_all(&output.stderr);
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// What goes on.
#[derive(Clone, Copy)]
enum Trouble {
    Dead(usize),
    Stopped(usize),
    Edge(usize, Fault),
}

struct Chaos<'l> {
    herd: Herd,
    network: Network,
    rng: Rng,
    ledger: &'l Mutex<Ledger>,
    start: Instant,
    troubles: Vec<(Instant, Trouble)>,
    /// How often each kind of trouble was made.
    made: BTreeMap<&'static str, u32>,
}

fn run(place: &str, network: fn(&mut Herd) -> Network) {
    let seconds = setting("CHAOS_SECONDS").unwrap_or(10);
    let random = || common::wall_ns() as u64 % 1_000_000_000;
    let seed = setting("CHAOS_SEED").unwrap_or_else(random);
    say(format_args!("{place}, {seconds} s, CHAOS_SEED={seed}"));

    let mut herd = Herd::with_level(&FIVE, "WARNING", IMPATIENT);
    herd.set_environment("HERD_SECRET", "not a word of it");
    let network = network(&mut herd);
    herd.start_all();
    herd.wait_until_connected(&herd.names());

    let (ledger, stop) = (Mutex::default(), AtomicBool::new(false));
    let addresses = FIVE.map(|node| herd.address(node.0));
    let (start, troubles, made) = (Instant::now(), Vec::new(), BTreeMap::new());
    let rng = Rng::new(seed);
    let mut chaos = Chaos { herd, network, rng, ledger: &ledger, start, troubles, made };
    thread::scope(|scope| {
        for (node, address) in addresses.into_iter().enumerate() {
            let rng = Rng::new(seed ^ (node as u64 + 1) << 32);
            let writer = Writer { node, address, rng, ledger: &ledger, stop: &stop, round: 0 };
            scope.spawn(|| writer.run());
        }
        let stop = StopOnDrop(&stop);
        while chaos.start.elapsed() < Duration::from_secs(seconds) {
            chaos.step();
        }
        chaos.heal();
        // The herd comes to rest, and then loses an edge for good, with records on their way.
        thread::sleep(SETTLED);
        let edge = chaos.rng.index(chaos.network.edges.len());
        chaos.afflict(&[edge], Fault::Cut, u64::from(u32::MAX));
        thread::sleep(LATE);
        drop(stop);
    });
    chaos.verify("an edge for good");
    chaos.heal();
    chaos.verify("nothing any more");
    chaos.herd.wait_until_connected(&chaos.herd.names());
    say(chaos.summary());
    let ledger = lock(&ledger);
    assert!(ledger.count > 100 && ledger.clients().len() > 50, "hardly anything was written");
}

/// Ends the writers also where the one who makes the trouble fails.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Chaos<'_> {
    /// Ends what is over, begins something new, and lets it be for a moment.
    fn step(&mut self) {
        let now = Instant::now();
        while let Some(at) = self.troubles.iter().position(|(until, _)| *until <= now) {
            let (_, trouble) = self.troubles.swap_remove(at);
            self.end(trouble);
        }
        match self.rng.below(100) {
            0..15 => self.kill(),
            15..30 => self.stop(),
            30..40 => self.part(),
            _ => {
                let fault = match self.rng.below(5) {
                    0 => Fault::Cut,
                    1 => Fault::Down,
                    2 => Fault::Slow,
                    _ => Fault::OneWay(self.rng.index(2)),
                };
                let edge = self.rng.index(self.network.edges.len());
                let most = self.rng.pick(&[300, 1000, 3000]);
                self.afflict(&[edge], fault, most);
            }
        }
        for name in self.herd.names() {
            let node = place_of(&name);
            let dead =
                self.troubles.iter().any(|(_, t)| matches!(t, Trouble::Dead(n) if *n == node));
            assert!(
                dead || self.herd.is_running(&name),
                "{name} died: {}",
                self.herd.stderr(&name)
            );
        }
        thread::sleep(Duration::from_millis(self.rng.range(20, 400)));
    }

    fn made(&mut self, kind: &'static str, of_what: &str, until: Instant) {
        *self.made.entry(kind).or_default() += 1;
        let lasts = until.saturating_duration_since(Instant::now());
        println!("{:7.3} s: {kind} {of_what} for {lasts:.3?}", self.start.elapsed().as_secs_f64());
    }

    fn until(&mut self, most_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.range(50, most_ms))
    }

    /// Kills a node, or two at once; three stay. Whoever is left is asked what it holds.
    fn kill(&mut self) {
        self.end_all(|trouble| matches!(trouble, Trouble::Stopped(_)));
        let count = self.rng.range(1, 2);
        for _ in 0..count {
            let alive = self.alive();
            if alive.len() <= 3 {
                break;
            }
            let node = self.rng.pick(&alive);
            lock(self.ledger).killed(node);
            self.herd.kill(FIVE[node].0);
            let until = self.until(2000);
            self.troubles.push((until, Trouble::Dead(node)));
            self.made("killed", FIVE[node].0, until);
        }
        let clients = lock(self.ledger).clients();
        for node in self.alive() {
            for (client, held) in clients.iter().zip(self.held(node, &clients)) {
                if let Some(held) = held {
                    lock(self.ledger).know(node, client, held);
                }
            }
        }
    }

    fn stop(&mut self) {
        let alive = self.alive();
        let node = self.rng.pick(&alive);
        if self.troubles.iter().any(|(_, t)| matches!(t, Trouble::Stopped(n) if *n == node)) {
            return;
        }
        self.herd.signal(FIVE[node].0, "STOP");
        let until = self.until(3000);
        self.troubles.push((until, Trouble::Stopped(node)));
        self.made("stopped", FIVE[node].0, until);
    }

    /// Parts some nodes from the others.
    fn part(&mut self) {
        let side = self.rng.range(1, 30);
        let crosses = |ends: [usize; 2]| (side >> ends[0] & 1) != (side >> ends[1] & 1);
        let edges = self.network.edges.iter().enumerate();
        let between: Vec<usize> =
            edges.filter(|(_, edge)| crosses(edge.ends)).map(|(at, _)| at).collect();
        let fault = self.rng.pick(&[Fault::Cut, Fault::Cut, Fault::Down]);
        self.afflict(&between, fault, 4000);
    }

    /// Does something to edges that are well.
    fn afflict(&mut self, edges: &[usize], fault: Fault, most_ms: u64) {
        let until = self.until(most_ms);
        for &at in edges {
            if self.troubles.iter().any(|(_, t)| matches!(t, Trouble::Edge(e, _) if *e == at)) {
                continue;
            }
            self.network.edges[at].afflict(fault);
            self.troubles.push((until, Trouble::Edge(at, fault)));
            let name = self.network.edges[at].name();
            let kind = match fault {
                Fault::Cut => "cut",
                Fault::OneWay(_) => "cut one way",
                Fault::Down => "down",
                Fault::Slow => "slow",
            };
            self.made(kind, &name, until);
        }
    }

    fn alive(&self) -> Vec<usize> {
        let dead = |node: &usize| {
            self.troubles.iter().any(|(_, t)| matches!(t, Trouble::Dead(dead) if dead == node))
        };
        (0..FIVE.len()).filter(|node| !dead(node)).collect()
    }

    fn end(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Dead(node) => {
                lock(self.ledger).started(node);
                self.herd.start(FIVE[node].0);
            }
            Trouble::Stopped(node) => self.herd.signal(FIVE[node].0, "CONT"),
            Trouble::Edge(at, fault) => self.network.edges[at].heal(fault),
        }
    }

    fn end_all(&mut self, which: fn(&Trouble) -> bool) {
        let all = std::mem::take(&mut self.troubles);
        let (over, others) = all.into_iter().partition(|(_, trouble)| which(trouble));
        self.troubles = others;
        for (_, trouble) in Vec::from_iter::<Vec<_>>(over) {
            self.end(trouble);
        }
    }

    fn heal(&mut self) {
        self.end_all(|_| true);
    }

    /// What a node holds of these clients.
    fn held(&self, node: usize, clients: &[String]) -> Vec<Option<Held>> {
        let address = self.herd.address(FIVE[node].0);
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut replies = BufReader::new(stream.try_clone().unwrap());
        let questions = lines(clients.iter().map(|client| format!("WHATSAT {client} 0 0")));
        let sender = thread::spawn(move || stream.write_all(&questions));
        let held = clients.iter().map(|_| answer(&mut replies).unwrap());
        let held = held.map(|line| line.map(|line| Held::parse(&line))).collect();
        sender.join().unwrap().unwrap();
        held
    }

    /// Nobody writes any more, and the herd lacks `what`: every node holds what is owed.
    fn verify(&self, what: &str) {
        let start = Instant::now();
        let ledger = lock(self.ledger);
        let clients = ledger.clients();
        let mut told = false;
        eventually(&format!("all nodes hold what is owed, lacking {what}"), CONVERGED, || {
            let held: Vec<_> = (0..FIVE.len()).map(|node| self.held(node, &clients)).collect();
            let wrong = disagreement(&clients, &held, &ledger);
            if let Some(wrong) = &wrong
                && start.elapsed() > CONVERGED / 2
                && !std::mem::replace(&mut told, true)
            {
                say(wrong);
            }
            wrong.is_none().then_some(())
        });
        say(format_args!("lacking {what}, all nodes are alike after {:.1?}", start.elapsed()));
    }

    /// What was done, for the log of the tests.
    fn summary(&self) -> String {
        let ledger = lock(self.ledger);
        let clients = ledger.clients();
        let held = self.held(0, &clients);
        let died = clients.iter().zip(held).filter(|(client, held)| {
            held.as_ref().is_none_or(|held| held.key < ledger.newest(client).key)
        });
        let (died, count, clients) = (died.count(), ledger.count, clients.len());
        let made: Vec<_> =
            self.made.iter().map(|(kind, times)| format!("{kind} {times}")).collect();
        let made = made.join(", ");
        format!(
            "{count} updates of {clients} clients acknowledged; {made}; \
             {died} records died with their only holder"
        )
    }
}

fn place_of(name: &str) -> usize {
    FIVE.iter().position(|node| node.0 == name).unwrap()
}

/// The first client that is not the same everywhere, or older than what is owed.
fn disagreement(clients: &[String], held: &[Vec<Option<Held>>], ledger: &Ledger) -> Option<String> {
    let line = |held: &Option<Held>| {
        held.as_ref().map_or("nothing".to_owned(), |held| held.line.escape_ascii().to_string())
    };
    for (at, client) in clients.iter().enumerate() {
        let owed = ledger.owed(client);
        for (node, (name, _)) in FIVE.iter().enumerate() {
            let here = &held[node][at];
            if here.as_ref().map(|held| &held.key) < owed.map(|owed| &owed.key) {
                let owed = line(&owed.cloned());
                return Some(format!("{name} holds {} of {client}, and owes {owed}", line(here)));
            }
            let there = &held[0][at];
            if here.as_ref().map(|held| &held.line) != there.as_ref().map(|held| &held.line) {
                let (here, there) = (line(here), line(there));
                return Some(format!("{name} holds {here} and {} holds {there}", FIVE[0].0));
            }
        }
    }
    None
}
