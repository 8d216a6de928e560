//! Chaos test: five real nodes with writers on all of them, while processes and links fail. Nodes
//! are killed and restarted empty, or stopped for a while; links are cut in one or both directions,
//! taken down, reset and slowed; the herd is partitioned. Afterwards all nodes must store
//! byte-identical records, and none older than required.
//!
//! The required record of a client is the newest one that a node acknowledged and that this node,
//! or another that was queried right after it was killed, still stored. A record is lost if the
//! only node that stores it is killed before it forwards it; the number of such records is printed.
//!
//! Periodic digest comparison is disabled, so that it cannot hide a fault in flooding or in the
//! synchronization of links.
//!
//! `CHAOS_SECONDS` and `CHAOS_SEED` set the duration and select the faults; see `scripts/chaos.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
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

/// Short link timeouts, so that a short run includes many disconnects and reconnects.
const SHORT_TIMEOUTS: &str = "peers: {keepalive_ms: 200, timeout_ms: 1500, redial_max_ms: 500, \
                         antientropy_interval_s: 86400}";

/// Timeout for convergence after the last fault. Reconnecting takes at most two seconds, but the
/// machine may be busy.
const CONVERGENCE_TIMEOUT: Duration = DEADLINE.saturating_mul(3);

/// Usually long enough for the nodes to agree on trees again. If it is too short on a busy machine,
/// they flood, and the test is slightly less strict.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// Time that the writers continue after the last edge is cut: less than the link timeout, so that
/// updates are lost on that edge.
const WRITES_AFTER_CUT: Duration = Duration::from_millis(700);

/// Environment variable that is set in the process with its own namespaces.
const INSIDE: &str = "CHAOS_INSIDE";

/// Prints a message on standard error, which the test harness does not capture.
fn say(what: impl Display) {
    let _ = writeln!(io::stderr(), "chaos: {what}");
}

#[test]
fn in_network_namespaces() {
    if std::env::var_os(INSIDE).is_some() {
        return run("in network namespaces", Network::in_namespaces);
    }
    match inside("in_network_namespaces_probe") {
        Err(why) => say(format_args!("no network namespaces, testing on loopback only: {why}")),
        Ok(()) => inside("in_network_namespaces").unwrap_or_else(|why| panic!("{why}")),
    }
}

/// Run by the test above to find out whether namespaces are available.
#[test]
fn in_network_namespaces_probe() {
    if std::env::var_os(INSIDE).is_some()
        && let Err(why) = network::probe()
    {
        eprintln!("{why}"); // the only output, since the parent process reports it
        std::process::exit(1);
    }
}

#[test]
fn on_loopback() {
    run("on loopback, through relays", Network::on_loopback);
}

/// Runs one of these tests in a child process that is the init process of new namespaces, so that
/// interfaces and processes are removed when it exits.
fn inside(test: &str) -> Result<(), String> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let mut unshare = Command::new("unshare");
    if !is_root {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    // iproute2 stores the names of namespaces in /run.
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
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// A failed process or edge.
#[derive(Clone, Copy)]
enum Disruption {
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
    /// Current disruptions and when each ends.
    disruptions: Vec<(Instant, Disruption)>,
    /// Number of disruptions of each kind.
    counts: BTreeMap<&'static str, u32>,
}

fn run(environment: &str, network: fn(&mut Herd) -> Network) {
    let seconds = setting("CHAOS_SECONDS").unwrap_or(10);
    let random = || common::wall_ns() as u64 % 1_000_000_000;
    let seed = setting("CHAOS_SEED").unwrap_or_else(random);
    say(format_args!("{environment}, {seconds} s, CHAOS_SEED={seed}"));

    let mut herd = Herd::with_level(&FIVE, "WARNING", SHORT_TIMEOUTS);
    herd.set_environment("HERD_SECRET", "a secret for the test");
    let network = network(&mut herd);
    herd.start_all();
    herd.wait_until_connected(&herd.names());

    let (ledger, stop) = (Mutex::default(), AtomicBool::new(false));
    let addresses = FIVE.map(|node| herd.address(node.0));
    let (start, disruptions, counts) = (Instant::now(), Vec::new(), BTreeMap::new());
    let rng = Rng::new(seed);
    let mut chaos = Chaos { herd, network, rng, ledger: &ledger, start, disruptions, counts };
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
        // The herd settles, and then permanently loses an edge that has records in flight.
        thread::sleep(SETTLE_TIME);
        let edge = chaos.rng.index(chaos.network.edges.len());
        chaos.afflict(&[edge], Fault::Cut, u64::from(u32::MAX));
        thread::sleep(WRITES_AFTER_CUT);
        drop(stop);
    });
    chaos.verify("with one edge down");
    chaos.heal();
    chaos.verify("with all edges up");
    chaos.herd.wait_until_connected(&chaos.herd.names());
    say(chaos.summary());
    let ledger = lock(&ledger);
    assert!(ledger.count > 100 && ledger.clients().len() > 50, "too few updates to test anything");
}

/// Stops the writers, even if the thread that injects faults panics.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Chaos<'_> {
    /// Ends the faults that are due, injects one, and pauses.
    fn step(&mut self) {
        let now = Instant::now();
        while let Some(at) = self.disruptions.iter().position(|(until, _)| *until <= now) {
            let (_, disruption) = self.disruptions.swap_remove(at);
            self.end(disruption);
        }
        match self.rng.below(100) {
            0..15 => self.kill(),
            15..30 => self.stop(),
            30..40 => self.partition(),
            _ => {
                let fault = match self.rng.below(5) {
                    0 => Fault::Cut,
                    1 => Fault::Down,
                    2 => Fault::Slow,
                    _ => Fault::OneWay(self.rng.index(2)),
                };
                let edge = self.rng.index(self.network.edges.len());
                let max_ms = self.rng.pick(&[300, 1000, 3000]);
                self.afflict(&[edge], fault, max_ms);
            }
        }
        for name in self.herd.names() {
            let node = index_of(&name);
            let dead = self
                .disruptions
                .iter()
                .any(|(_, t)| matches!(t, Disruption::Dead(n) if *n == node));
            assert!(
                dead || self.herd.is_running(&name),
                "{name} died: {}",
                self.herd.stderr(&name)
            );
        }
        thread::sleep(Duration::from_millis(self.rng.range(20, 400)));
    }

    fn report(&mut self, kind: &'static str, target: &str, until: Instant) {
        *self.counts.entry(kind).or_default() += 1;
        let lasts = until.saturating_duration_since(Instant::now());
        println!("{:7.3} s: {kind} {target} for {lasts:.3?}", self.start.elapsed().as_secs_f64());
    }

    fn until(&mut self, max_ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(self.rng.range(50, max_ms))
    }

    /// Kills one or two nodes, leaving at least three, and records what the remaining nodes store.
    fn kill(&mut self) {
        self.end_all(|disruption| matches!(disruption, Disruption::Stopped(_)));
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
            self.disruptions.push((until, Disruption::Dead(node)));
            self.report("killed", FIVE[node].0, until);
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
        if self.disruptions.iter().any(|(_, t)| matches!(t, Disruption::Stopped(n) if *n == node)) {
            return;
        }
        self.herd.signal(FIVE[node].0, "STOP");
        let until = self.until(3000);
        self.disruptions.push((until, Disruption::Stopped(node)));
        self.report("stopped", FIVE[node].0, until);
    }

    /// Cuts all edges between two groups of nodes.
    fn partition(&mut self) {
        let side = self.rng.range(1, 30);
        let crosses = |ends: [usize; 2]| (side >> ends[0] & 1) != (side >> ends[1] & 1);
        let edges = self.network.edges.iter().enumerate();
        let between: Vec<usize> =
            edges.filter(|(_, edge)| crosses(edge.ends)).map(|(at, _)| at).collect();
        let fault = self.rng.pick(&[Fault::Cut, Fault::Cut, Fault::Down]);
        self.afflict(&between, fault, 4000);
    }

    /// Injects a fault into those of `edges` that have none.
    fn afflict(&mut self, edges: &[usize], fault: Fault, max_ms: u64) {
        let until = self.until(max_ms);
        for &at in edges {
            if self.disruptions.iter().any(|(_, t)| matches!(t, Disruption::Edge(e, _) if *e == at))
            {
                continue;
            }
            self.network.edges[at].afflict(fault);
            self.disruptions.push((until, Disruption::Edge(at, fault)));
            let name = self.network.edges[at].name();
            let kind = match fault {
                Fault::Cut => "cut",
                Fault::OneWay(_) => "cut one way",
                Fault::Down => "down",
                Fault::Slow => "slow",
            };
            self.report(kind, &name, until);
        }
    }

    fn alive(&self) -> Vec<usize> {
        let dead = |node: &usize| {
            self.disruptions
                .iter()
                .any(|(_, t)| matches!(t, Disruption::Dead(dead) if dead == node))
        };
        (0..FIVE.len()).filter(|node| !dead(node)).collect()
    }

    fn end(&mut self, disruption: Disruption) {
        match disruption {
            Disruption::Dead(node) => {
                lock(self.ledger).started(node);
                self.herd.start(FIVE[node].0);
            }
            Disruption::Stopped(node) => self.herd.signal(FIVE[node].0, "CONT"),
            Disruption::Edge(at, fault) => self.network.edges[at].heal(fault),
        }
    }

    fn end_all(&mut self, which: fn(&Disruption) -> bool) {
        let all = std::mem::take(&mut self.disruptions);
        let (over, others) = all.into_iter().partition(|(_, disruption)| which(disruption));
        self.disruptions = others;
        for (_, disruption) in Vec::from_iter::<Vec<_>>(over) {
            self.end(disruption);
        }
    }

    fn heal(&mut self) {
        self.end_all(|_| true);
    }

    /// The records that a node stores for these clients.
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

    /// Waits until all nodes agree and have lost no record that they must have. The writers must
    /// have stopped. `state` describes the edges.
    fn verify(&self, state: &str) {
        let start = Instant::now();
        let ledger = lock(self.ledger);
        let clients = ledger.clients();
        let mut reported = false;
        eventually(&format!("all nodes agree {state}"), CONVERGENCE_TIMEOUT, || {
            let held: Vec<_> = (0..FIVE.len()).map(|node| self.held(node, &clients)).collect();
            let wrong = disagreement(&clients, &held, &ledger);
            if let Some(wrong) = &wrong
                && start.elapsed() > CONVERGENCE_TIMEOUT / 2
                && !std::mem::replace(&mut reported, true)
            {
                say(wrong);
            }
            wrong.is_none().then_some(())
        });
        say(format_args!("all nodes agree {state} after {:.1?}", start.elapsed()));
    }

    /// A summary of the run.
    fn summary(&self) -> String {
        let ledger = lock(self.ledger);
        let clients = ledger.clients();
        let held = self.held(0, &clients);
        let lost = clients.iter().zip(held).filter(|(client, held)| {
            held.as_ref().is_none_or(|held| held.key < ledger.newest(client).key)
        });
        let (lost, count, clients) = (lost.count(), ledger.count, clients.len());
        let faults: Vec<_> =
            self.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        let faults = faults.join(", ");
        format!(
            "{count} updates of {clients} clients acknowledged; {faults}; \
             {lost} records were lost with the only node that stored them"
        )
    }
}

fn index_of(name: &str) -> usize {
    FIVE.iter().position(|node| node.0 == name).unwrap()
}

/// Describes the first record that differs between nodes or is older than the node must have.
fn disagreement(clients: &[String], held: &[Vec<Option<Held>>], ledger: &Ledger) -> Option<String> {
    let line = |held: &Option<Held>| {
        held.as_ref().map_or("nothing".to_owned(), |held| held.line.escape_ascii().to_string())
    };
    for (at, client) in clients.iter().enumerate() {
        let required = ledger.required(client);
        for (node, (name, _)) in FIVE.iter().enumerate() {
            let here = &held[node][at];
            if here.as_ref().map(|held| &held.key) < required.map(|required| &required.key) {
                let (here, required) = (line(here), line(&required.cloned()));
                return Some(format!("{name} stores {here} for {client} instead of {required}"));
            }
            let there = &held[0][at];
            if here.as_ref().map(|held| &held.line) != there.as_ref().map(|held| &held.line) {
                let (here, there) = (line(here), line(there));
                return Some(format!("{name} stores {here} and {} stores {there}", FIVE[0].0));
            }
        }
    }
    None
}
