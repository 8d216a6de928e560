//! Changes of the rules of the herd by the procedure of docs/operations.md, under load, crashes,
//! partitions and lost connections.
//!
//! An operator restarts the nodes one at a time, first with an announcement and then with the new rules
//! in their place, and waits after each restart until all nodes hold the same. The worlds of this module
//! are simpler than those of `world.rs`: lines instead of bytes, and cores instead of nodes. What may be
//! lost is judged by what all nodes held at such a moment.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proxy_herd::herd::directory::{Applied, Rules};
use proxy_herd::herd::handshake::{Accepted, Handshake, Progress, Transport};
use proxy_herd::herd::takeover::Offer;
use proxy_herd::herd::{Action, Connected, Herd, Origin, Timing};
use proxy_herd::ids::{BootId, ConnectionId, LinkId, NodeId, Slot};
use proxy_herd::protocol::record::Record;
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::rng::Rng;
use proxy_herd::testing::topology::{Edge, Shape};
use proxy_herd::testing::{KEYS, identity};
use proxy_herd::time::{Instant, Now, Wall};

/// One step of the world.
const TICK: Duration = Duration::from_millis(10);

/// Time until all faults are over and no client sends updates.
const BUSY: Duration = Duration::from_secs(30);

/// Time by which the operator must be done, and the herd must agree.
const END: Duration = Duration::from_secs(200);

/// Time for which both ends of a link may have different rules.
const TRANSITION: Duration = Duration::from_secs(2);

const CLIENTS: usize = 30;

/// The configuration of a node.
type Config = Offer;

struct Machine {
    herd: Option<Herd>,
    config: Config,
    started: Duration,
    boot: u64,
}

/// A connection between two nodes; `pipes[i]` leads to `ends[i]`.
struct Wire {
    ends: [usize; 2],
    pipes: [VecDeque<(Duration, Vec<u8>)>; 2],
    /// The end takes it for a link.
    is_link: [bool; 2],
    /// The dialer learns of the handshake at this time. Its result contains the offers of that moment.
    pending: Option<(Duration, Offer)>,
    is_open: bool,
}

/// What the operator does next.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// Restarts the node with this configuration.
    Restart(usize, Config),
    /// Waits until all nodes follow these rules.
    Await(Rules),
}

struct World {
    rng: Rng,
    now: Duration,
    machines: Vec<Machine>,
    edges: Vec<Edge>,
    wires: Vec<Wire>,
    /// Nothing passes between these nodes until then.
    blocked: BTreeMap<Edge, Duration>,
    tasks: VecDeque<Task>,
    old: Rules,
    new: Rules,
    last: Rules,
    /// A node has stopped, and it is not known yet that the others hold all that it held.
    is_at_risk: bool,
    /// The records that all nodes held when nothing was at risk.
    safe: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Per link with different rules at its ends, since when.
    differ: BTreeMap<usize, Duration>,
    updates: u64,
    takeovers: u64,
}

fn rules(rng: &mut Rng) -> Rules {
    Rules {
        max_clock_offset: Nanos::from(rng.pick(&[1, 5, 60])) * SECOND,
        max_clients: rng.pick(&[3, 8, 20, 1000]),
        client_ttl: Nanos::from(rng.pick(&[0, 0, 20, 1000])) * SECOND,
        forget_keep: Nanos::from(rng.pick(&[100, 1000])) * SECOND,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0xc4a9_6e00);
        let nodes = rng.range(2, 7) as usize;
        let shape = rng.pick(&Shape::ANY_SIZE);
        let edges = shape.edges(nodes, &mut rng);
        let old = rules(&mut rng);
        let new = loop {
            let new = rules(&mut rng);
            if new != old {
                break new;
            }
        };
        let before = Offer { rules: old, next: None };
        let machine = |_| Machine { herd: None, config: before, started: Duration::ZERO, boot: 0 };
        let mut world = Self {
            now: Duration::ZERO,
            machines: (0..nodes).map(machine).collect(),
            edges,
            wires: Vec::new(),
            blocked: BTreeMap::new(),
            tasks: VecDeque::new(),
            old,
            new,
            last: new,
            is_at_risk: false,
            safe: BTreeMap::new(),
            differ: BTreeMap::new(),
            updates: 0,
            takeovers: 0,
            rng,
        };
        world.plan();
        world
    }

    /// Draws what the operator does: usually the whole procedure, sometimes a change that is canceled.
    fn plan(&mut self) {
        let announcing = Offer { rules: self.old, next: Some(self.new) };
        let nodes = self.machines.len();
        if nodes > 2 && self.rng.percent(20) {
            let announced = 1 + self.rng.index(nodes - 1);
            let order = self.order();
            for config in [announcing, Offer { rules: self.old, next: None }] {
                let restarts = order[..announced].iter().map(|&node| Task::Restart(node, config));
                self.tasks.extend(restarts);
            }
            self.last = self.old;
        } else {
            let (first, second) = (self.order(), self.order());
            self.tasks.extend(first.into_iter().map(|node| Task::Restart(node, announcing)));
            self.tasks.push_back(Task::Await(self.new));
            let moved = Offer { rules: self.new, next: None };
            self.tasks.extend(second.into_iter().map(|node| Task::Restart(node, moved)));
        }
        self.tasks.push_back(Task::Await(self.last));
    }

    fn order(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.machines.len()).collect();
        for last in (1..order.len()).rev() {
            order.swap(last, self.rng.index(last + 1));
        }
        order
    }

    fn run(&mut self) -> Result<(), String> {
        for node in 0..self.machines.len() {
            self.start(node);
        }
        let mut quiet_checks = 0;
        while self.now < END {
            self.now += TICK;
            if self.now < BUSY {
                self.cause_fault();
                self.update();
            }
            for node in self.order() {
                self.turn(node);
            }
            self.deliver()?;
            self.check_links()?;
            if self.now.as_millis().is_multiple_of(100) && self.is_equal() {
                self.is_at_risk = false;
                self.remember();
                self.operate();
                quiet_checks += u32::from(self.now > BUSY && self.tasks.is_empty());
                if quiet_checks == 20 {
                    return self.judge();
                }
            }
        }
        let linked = self.is_equal();
        Err(format!("{} tasks left, {:?}; equal: {linked}", self.tasks.len(), self.tasks.front()))
    }

    fn herds(&self) -> impl Iterator<Item = (usize, &Herd)> {
        self.machines.iter().enumerate().filter_map(|(at, it)| Some((at, it.herd.as_ref()?)))
    }

    fn clock(&self, node: usize) -> Now {
        let wall = Wall(1_000_000 * SECOND + self.now.as_nanos() as Nanos);
        Now { instant: Instant::at(self.now.saturating_sub(self.machines[node].started)), wall }
    }

    fn start(&mut self, node: usize) {
        let names: Vec<String> = (0..self.machines.len()).map(name).collect();
        let ends = |&(a, b): &Edge| if a == node { Some(b) } else { (b == node).then_some(a) };
        let mut neighbors: Vec<u16> =
            self.edges.iter().filter_map(ends).map(|peer| peer as u16).collect();
        neighbors.sort_unstable();
        let boot = self.rng.bits() | 1;
        let machine = &mut self.machines[node];
        (machine.boot, machine.started) = (boot, self.now);
        let mut identity = identity(&names, node as u16, &neighbors);
        identity.boot = BootId(boot);
        (identity.rules, identity.next) = (machine.config.rules, machine.config.next);
        let timing = Timing {
            keepalive: Duration::from_millis(500),
            timeout: Duration::from_secs(2),
            redial_max: Duration::from_millis(500),
            antientropy_interval: Duration::from_secs(1),
        };
        machine.herd = Some(Herd::new(identity, &[], timing, KEYS, Instant::START));
    }

    fn stop(&mut self, node: usize) {
        self.machines[node].herd = None;
        self.is_at_risk = true;
        for wire in 0..self.wires.len() {
            if self.wires[wire].ends.contains(&node) {
                self.cut(wire);
            }
        }
    }

    /// Ends a connection. Lines in transit are lost.
    fn cut(&mut self, at: usize) {
        let wire = &mut self.wires[at];
        if !std::mem::replace(&mut wire.is_open, false) {
            return;
        }
        for end in 0..2 {
            let (node, peer) = (wire.ends[end], wire.ends[1 - end]);
            let now = Instant::at(self.now.saturating_sub(self.machines[node].started));
            let Some(herd) = &mut self.machines[node].herd else { continue };
            let link = herd.link_to(NodeId(peer as u16)).expect("they are neighbors");
            if wire.is_link[end] {
                herd.handle_disconnected(link, ConnectionId(at as u64), now);
            } else if end == 0 && wire.pending.is_some() {
                herd.handle_dial_failed(link, now);
            }
        }
        wire.pending = None;
    }

    fn cause_fault(&mut self) {
        let chance = self.rng.below(1000);
        let node = self.rng.index(self.machines.len());
        let edge = self.rng.pick(&self.edges);
        match chance {
            // What only one node holds is lost with it, so there is one such fault at a time.
            0 if !self.is_at_risk => {
                self.stop(node);
                self.start(node);
            }
            1..4 => {
                if let Some(wire) = self.open_wire(edge) {
                    self.cut(wire);
                }
            }
            4 => {
                let until = self.now + Duration::from_millis(self.rng.range(100, 6000));
                self.blocked.insert(edge, until);
            }
            5 => {
                let until = self.now + Duration::from_millis(self.rng.range(100, 6000));
                for edge in self.edges.clone() {
                    if (edge.0 == node) != (edge.1 == node) {
                        self.blocked.insert(edge, until);
                    }
                }
            }
            _ => {}
        }
    }

    fn open_wire(&self, (a, b): Edge) -> Option<usize> {
        self.wires.iter().position(|wire| {
            wire.is_open && (wire.ends == [a, b] || wire.ends == [b, a]) && wire.is_link[1]
        })
    }

    fn is_blocked(&self, [a, b]: [usize; 2]) -> bool {
        let until = self.blocked.get(&(a.min(b), a.max(b)));
        until.is_some_and(|&until| until > self.now)
    }

    /// Now and then, a client sends an update, sometimes with a time that is far ahead.
    fn update(&mut self) {
        if !self.rng.percent(15) {
            return;
        }
        let node = self.rng.index(self.machines.len());
        let client = self.rng.index(CLIENTS);
        let ahead = self.rng.pick(&[0, 0, 0, 2, 10, 100]);
        self.updates += 1;
        let now = self.clock(node);
        let time = now.wall.nanos() / SECOND + ahead;
        let difference = -ahead;
        let update = self.updates;
        let line =
            format!("AT {} {difference:+}.000000000 c{client} +1.{update}-1 {time}", name(node));
        let Some(herd) = &mut self.machines[node].herd else { return };
        let record = Record::parse(line.as_bytes()).expect("the line is valid");
        let applied = herd.apply_local_update(&record, now.wall);
        assert!(!matches!(applied, Applied::Expired), "{line}");
    }

    fn turn(&mut self, node: usize) {
        let now = self.clock(node);
        let Some(herd) = &mut self.machines[node].herd else { return };
        if herd.poll_timeout().is_some_and(|due| due <= now.instant) {
            herd.handle_timeout(&now, now.instant);
        }
        while let Some(herd) = &mut self.machines[node].herd
            && let Some(action) = herd.poll_action()
        {
            match action {
                Action::Dial(link) => self.dial(node, link),
                Action::Close { connection, .. } => self.cut(connection.0 as usize),
                Action::Move { .. } | Action::Finish(_) | Action::Resume(_) => {}
            }
        }
        let Some(herd) = &mut self.machines[node].herd else { return };
        for link in (0..herd.links().len()).map(LinkId) {
            let Some(up) = &herd.link(link).up else { continue };
            let wire = &mut self.wires[up.connection.0 as usize];
            let to = usize::from(wire.ends[0] == node);
            let mut out = Vec::new();
            while herd.has_output(link) {
                herd.poll_transmit(link, &now, &mut out, usize::MAX, &mut ());
            }
            let delay = Duration::from_millis(self.rng.range(0, 40));
            let last = wire.pipes[to].back().map_or(Duration::ZERO, |(at, _)| *at);
            let at = last.max(self.now + delay);
            let lines = out.split_inclusive(|&byte| byte == b'\n');
            wire.pipes[to].extend(lines.map(|line| (at, line[..line.len() - 1].to_vec())));
        }
        let events = std::iter::from_fn(|| herd.poll_event());
        let taken =
            events.filter(|event| matches!(event, proxy_herd::herd::Event::RulesTakenOver { .. }));
        self.takeovers += taken.count() as u64;
    }

    /// Performs the handshake. The listener has the link at once, the dialer a little later.
    fn dial(&mut self, node: usize, link: LinkId) {
        let now = self.clock(node).instant;
        let Some(dialer) = &mut self.machines[node].herd else { return };
        let peer = dialer.link(link).peer.index();
        let transport = Transport { loopback: true, certified: None };
        let mut first = Vec::new();
        let mut dialed = Handshake::dial(
            dialer.identity(),
            NodeId(peer as u16),
            &[1; 16],
            transport.clone(),
            &mut first,
        );
        let mut answer = Vec::new();
        let listener = self.machines[peer].herd.as_ref().filter(|_| !self.is_blocked([node, peer]));
        let accepted = listener.map(|listener| {
            let line = first.trim_ascii_end();
            Handshake::accept(listener.identity(), line, &[2; 16], transport, &mut answer)
        });
        let offer = match accepted {
            Some(Accepted::Peer(accepted, Progress::Established { .. })) => {
                accepted.offer().copied()
            }
            _ => None,
        };
        let Some(dialer) = &mut self.machines[node].herd else { return };
        let Some(offer) = offer else { return dialer.handle_dial_failed(link, now) };
        let mut rest = Vec::new();
        let progress = dialed.handle_line(dialer.identity(), answer.trim_ascii_end(), &mut rest);
        assert!(matches!(progress, Progress::Established { .. }), "one end only: {progress:?}");
        let theirs = *dialed.offer().expect("the line has been received");
        let at = self.now + Duration::from_millis(self.rng.range(0, 60));
        let connection = self.wires.len();
        self.wires.push(Wire {
            ends: [node, peer],
            pipes: Default::default(),
            is_link: [false; 2],
            pending: Some((at, theirs)),
            is_open: true,
        });
        self.establish(connection, 1, offer);
    }

    fn establish(&mut self, connection: usize, end: usize, offer: Offer) {
        let wire = &self.wires[connection];
        let (node, peer) = (wire.ends[end], wire.ends[1 - end]);
        let now = self.clock(node).instant;
        let connected = Connected {
            connection: ConnectionId(connection as u64),
            peer: NodeId(peer as u16),
            boot: BootId(self.machines[peer].boot),
            origin: if end == 0 { Origin::Dialed } else { Origin::Accepted },
        };
        let Some(herd) = &mut self.machines[node].herd else { return };
        match herd.handle_connected(connected, now) {
            Some(link) => {
                herd.handle_offer(link, &offer);
                self.wires[connection].is_link[end] = true;
            }
            None => self.cut(connection),
        }
    }

    fn deliver(&mut self) -> Result<(), String> {
        for at in 0..self.wires.len() {
            if !self.wires[at].is_open || self.is_blocked(self.wires[at].ends) {
                continue;
            }
            if let Some((_, offer)) = self.wires[at].pending.take_if(|(due, _)| *due <= self.now) {
                self.establish(at, 0, offer);
            }
            for end in 0..2 {
                while self.wires[at].is_open
                    && self.wires[at].is_link[end]
                    && self.wires[at].pipes[end].front().is_some_and(|(due, _)| *due <= self.now)
                {
                    let Some((_, line)) = self.wires[at].pipes[end].pop_front() else { break };
                    self.receive(at, end, &line)?;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, at: usize, end: usize, line: &[u8]) -> Result<(), String> {
        let (node, peer) = (self.wires[at].ends[end], self.wires[at].ends[1 - end]);
        let now = self.clock(node);
        let Some(herd) = &mut self.machines[node].herd else { return Ok(()) };
        let link = herd.link_to(NodeId(peer as u16)).expect("they are neighbors");
        herd.handle_line(link, ConnectionId(at as u64), line, &now, &mut ()).map_err(|error| {
            format!("{} from {}: {error}: {}", name(node), name(peer), line.escape_ascii())
        })
    }

    /// Both ends of a link have the same rules, except while one informs the other.
    fn check_links(&mut self) -> Result<(), String> {
        for (at, wire) in self.wires.iter().enumerate() {
            let offers = wire.ends.map(|node| self.machines[node].herd.as_ref().map(Herd::offer));
            let is_up = wire.is_open && wire.is_link == [true; 2];
            let [Some(a), Some(b)] = offers else { continue };
            if !is_up || a.rules == b.rules || self.is_blocked(wire.ends) {
                self.differ.remove(&at);
            } else if self.now > *self.differ.entry(at).or_insert(self.now) + TRANSITION {
                return Err(format!("{:?} are linked with different rules", wire.ends));
            }
        }
        Ok(())
    }

    fn contents(&self, herd: &Herd) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let slots = (0..herd.directory.slots()).map(Slot);
        let lines = slots.filter_map(|slot| herd.directory.line(slot));
        let alive = lines.filter(|line| !self.is_expired(line));
        alive
            .map(|line| {
                let record = Record::parse(line).expect("it is stored");
                (record.client.to_vec(), line.to_vec())
            })
            .collect()
    }

    /// Returns whether a record has expired by the stricter of the rules, or is about to.
    fn is_expired(&self, line: &[u8]) -> bool {
        let received = Record::parse(line).expect("it is stored").received;
        let ttls = [self.old.client_ttl, self.new.client_ttl].into_iter();
        let ttl = ttls.filter(|&ttl| ttl > 0).min();
        ttl.is_some_and(|ttl| self.clock(0).wall.nanos() - received > ttl - SECOND)
    }

    /// Returns whether all nodes run, are linked, and hold the same.
    fn is_equal(&self) -> bool {
        let linked = self.edges.iter().all(|&edge| {
            self.open_wire(edge).is_some_and(|wire| self.wires[wire].is_link == [true; 2])
                && !self.is_blocked([edge.0, edge.1])
        });
        let mut contents = self.herds().map(|(_, herd)| self.contents(herd));
        let adapts = self.herds().any(|(_, herd)| herd.directory.is_adapting());
        let first = contents.next();
        linked
            && !adapts
            && self.herds().count() == self.machines.len()
            && contents.all(|other| Some(&other) == first.as_ref())
    }

    /// All nodes hold these records, so they must not be lost from now on.
    fn remember(&mut self) {
        let held = self.herds().next().map(|(_, herd)| self.contents(herd)).unwrap_or_default();
        self.safe.extend(held);
    }

    fn operate(&mut self) {
        match self.tasks.front() {
            Some(&Task::Restart(node, config)) if self.rng.percent(20) => {
                self.tasks.pop_front();
                self.stop(node);
                self.machines[node].config = config;
                self.start(node);
            }
            Some(&Task::Await(rules)) if self.herds().all(|(_, it)| it.offer().rules == rules) => {
                self.tasks.pop_front();
            }
            _ => {}
        }
    }

    /// Checks what is left of everything that all nodes once held.
    fn judge(&self) -> Result<(), String> {
        let (_, herd) = self.herds().next().ok_or("no node runs")?;
        let held = self.contents(herd);
        for (node, herd) in self.herds() {
            if herd.offer() != (Offer { rules: self.last, next: None }) {
                return Err(format!("{} ends with {:?}", name(node), herd.offer()));
            }
            if herd.directory.len() > self.last.max_clients {
                return Err(format!("{} holds {} clients", name(node), herd.directory.len()));
            }
        }
        // Records that would have expired by the other rules count too.
        let slots = (0..herd.directory.slots()).map(Slot);
        let lines: Vec<Vec<u8>> =
            slots.filter_map(|slot| Some(herd.directory.line(slot)?.to_vec())).collect();
        let least = self.old.max_clients.min(self.new.max_clients) as usize;
        let offsets = [self.old.max_clock_offset, self.new.max_clock_offset];
        for (client, line) in self.safe.iter().filter(|(_, line)| !self.is_expired(line)) {
            let record = Record::parse(line).expect("it was stored");
            let is_kept = if let Some(now) = held.get(client) {
                let now = Record::parse(now).expect("it is stored");
                offsets.iter().any(|&offset| now.cmp(&record, offset).is_ge())
            } else {
                // Evicted, if there are enough others that rank higher.
                let ranks_higher = |other: &&Vec<u8>| {
                    let other = Record::parse(other).expect("it is stored");
                    offsets.iter().any(|&offset| other.cmp(&record, offset).is_gt())
                };
                lines.iter().filter(ranks_higher).count() >= least
            };
            if !is_kept {
                let now = held.get(client).map(|line| line.escape_ascii().to_string());
                let (old, new, count) = (self.old, self.new, held.len());
                let line = line.escape_ascii();
                return Err(format!("{line} is lost: {now:?}, {count} clients; {old:?} {new:?}"));
            }
        }
        Ok(())
    }
}

fn name(node: usize) -> String {
    format!("n{node}")
}

/// Worlds that the test suite runs.
const WORLDS: u64 = 60;

#[test]
fn changes_of_the_rules_lose_no_record() {
    let only = crate::seeds::variable("SIM_CHANGE");
    let (first, count) =
        (crate::seeds::variable("SIM_FIRST").unwrap_or(0), crate::seeds::variable("SIM_CHANGES"));
    let seeds = only.map_or(first..first + count.unwrap_or(WORLDS), |seed| seed..seed + 1);
    let (mut updates, mut takeovers) = (0, 0);
    for seed in seeds {
        let mut world = World::new(seed);
        if let Err(why) = world.run() {
            panic!("SIM_CHANGE={seed}: at {:?}: {why}", world.now);
        }
        updates += world.updates;
        takeovers += world.takeovers;
    }
    println!("{updates} updates, {takeovers} take-overs");
    assert!(takeovers > 0, "nothing has changed");
}
