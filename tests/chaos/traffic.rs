//! Writers on all nodes, and the ledger of what was acknowledged by whom.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::common::{At, FIVE, Key, key, lines, seconds, wall_ns};
use proxy_herd::rng::Rng;

/// Clients that one writer moves, and clients that all of them move.
const CLIENTS: u64 = 40;

/// How long a writer waits for a node that does not answer before it connects again.
const PATIENCE: Duration = Duration::from_millis(500);

/// The pace of a writer: five of them share the machine with five nodes and other tests.
const PACE: Duration = Duration::from_millis(4);

/// A record and its place in the order of records.
#[derive(Clone)]
pub struct Held {
    pub line: Vec<u8>,
    pub key: Key,
}

impl Held {
    /// The record of an AT line that a writer of this test has caused.
    pub fn parse(line: &[u8]) -> Self {
        let at = At::parse(line);
        let own = String::from_utf8(at.own).expect("the clients of this test are ASCII");
        let mut fields = own.trim_end().split(' ');
        let (client, location) = (fields.next().unwrap(), fields.next().unwrap());
        let time: i128 = fields.next().unwrap().replace('.', "").parse().unwrap();
        // S3: somebody said exactly this.
        let told = FIVE.iter().any(|node| node.0 == at.server)
            && location == place(&at.server, client, time);
        assert!(told, "nobody said so: {}", line.escape_ascii());
        Self { line: line.to_vec(), key: key(line, time) }
    }
}

/// Where a client says to be at a time on a node, so that a line proves by itself that a writer sent
/// it there.
fn place(node: &str, client: &str, time: i128) -> String {
    let mut seed = time as u64;
    for byte in node.bytes().chain(client.bytes()) {
        seed = Rng::new(seed ^ u64::from(byte)).bits();
    }
    format!("+{}.{:06}-{}", seed % 90, seed % 1_000_003, seed % 180)
}

/// What is known of who holds what.
#[derive(Default)]
pub struct Ledger {
    nodes: [Known; FIVE.len()],
    /// The newest record of each client that any node acknowledged.
    acknowledged: HashMap<String, Held>,
    /// How many were.
    pub count: u64,
}

/// What a node is known to hold, at the least.
#[derive(Default)]
struct Known {
    /// Even while it runs, odd while it does not: the name of its life.
    life: u64,
    held: HashMap<String, Held>,
}

impl Ledger {
    /// A node is about to be killed. What it alone held is lost with it.
    pub fn killed(&mut self, node: usize) {
        self.nodes[node].life += 1;
        self.nodes[node].held.clear();
    }

    /// It is about to be started again, empty.
    pub fn started(&mut self, node: usize) {
        self.nodes[node].life += 1;
    }

    fn acknowledge(&mut self, node: usize, life: u64, client: &str, held: Held) {
        self.count += 1;
        keep_newer(&mut self.acknowledged, client, held.clone());
        if self.nodes[node].life == life {
            self.know(node, client, held);
        }
    }

    /// A node that runs holds this record of a client, or a newer one.
    pub fn know(&mut self, node: usize, client: &str, held: Held) {
        keep_newer(&mut self.nodes[node].held, client, held);
    }

    /// The clients there are.
    pub fn clients(&self) -> Vec<String> {
        let mut clients: Vec<String> = self.acknowledged.keys().cloned().collect();
        clients.sort_unstable();
        clients
    }

    /// The newest record of a client that a node which lives is known to hold: every node owes
    /// this or a newer one.
    pub fn owed(&self, client: &str) -> Option<&Held> {
        let held = self.nodes.iter().filter_map(|node| node.held.get(client));
        held.max_by(|a, b| a.key.cmp(&b.key))
    }

    /// The newest record of a client that was acknowledged, whatever became of who did.
    pub fn newest(&self, client: &str) -> &Held {
        &self.acknowledged[client]
    }
}

fn keep_newer(map: &mut HashMap<String, Held>, client: &str, held: Held) {
    match map.get_mut(client) {
        Some(known) if known.key >= held.key => {}
        Some(known) => *known = held,
        None => {
            map.insert(client.to_owned(), held);
        }
    }
}

/// A client program beside one node: it says where clients are, and looks where they are.
pub struct Writer<'l> {
    pub node: usize,
    pub address: SocketAddr,
    pub rng: Rng,
    pub ledger: &'l Mutex<Ledger>,
    pub stop: &'l AtomicBool,
    /// The last round time that was given.
    pub round: i128,
}

impl Writer<'_> {
    /// Goes on until it is to stop, through every death of its node.
    pub fn run(mut self) {
        let mut seen = HashMap::new();
        let mut seen_in = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let life = self.life();
            if life != seen_in {
                (seen, seen_in) = (HashMap::new(), life);
            }
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE);
            match stream {
                // Only of a life that began before and has not ended: of this very process.
                Ok(stream) if life.is_multiple_of(2) && life == self.life() => {
                    let _ = self.talk(stream, life, &mut seen); // until the node is gone
                }
                _ => thread::sleep(PACE),
            }
        }
    }

    fn life(&self) -> u64 {
        lock(self.ledger).nodes[self.node].life
    }

    /// Updates some clients and asks for one, again and again. `seen` is what the node was seen to
    /// hold in this life.
    fn talk(
        &mut self,
        mut stream: TcpStream,
        life: u64,
        seen: &mut HashMap<String, Key>,
    ) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let mut replies = BufReader::new(stream.try_clone()?);
        while !self.stop.load(Ordering::SeqCst) {
            let updates: Vec<_> = (0..self.rng.range(1, 4)).map(|_| self.update()).collect();
            let asked = self.client();
            let mut commands: Vec<String> =
                updates.iter().map(|update| self.iamat(update)).collect();
            commands.push(format!("WHATSAT {asked} 0 0"));
            stream.write_all(&lines(commands))?;
            for update in updates {
                let line = line(&mut replies)?;
                let own = self.iamat(&update).replace("IAMAT", "") + "\n";
                let is_reply = line.starts_with(b"AT ") && line.ends_with(own.as_bytes());
                assert!(is_reply, "{} to {own}", line.escape_ascii());
                let client = update.0;
                let held = Held::parse(&line);
                let newest = seen.entry(client.clone()).or_insert_with(|| held.key.clone());
                *newest = held.key.clone().max(newest.clone());
                lock(self.ledger).acknowledge(self.node, life, &client, held);
            }
            let held = answer(&mut replies)?.map(|line| Held::parse(&line).key);
            // S2: what a node holds never goes back while it runs.
            let before = seen.get(&asked);
            assert!(held.as_ref() >= before, "{asked} went back on {}", FIVE[self.node].0);
            if let Some(held) = held {
                seen.insert(asked, held);
            }
            thread::sleep(PACE);
        }
        Ok(())
    }

    fn iamat(&self, (client, time): &(String, i128)) -> String {
        let place = place(FIVE[self.node].0, client, *time);
        format!("IAMAT {client} {place} {}", seconds(*time))
    }

    fn client(&mut self) -> String {
        let number = self.rng.below(CLIENTS);
        let shared = self.rng.percent(50);
        if shared { format!("all-{number}") } else { format!("{}-{number}", FIVE[self.node].0) }
    }

    /// A client and the time it gives.
    fn update(&mut self) -> (String, i128) {
        let now = wall_ns();
        let round = now - now % 10_000_000;
        let time = match self.rng.below(10) {
            // The same on other nodes as well. Twice on one, it would be a repeat that is not kept.
            0 if round != self.round => {
                self.round = round;
                round
            }
            1 => now + 3_600_000_000_000, // beyond Δ
            2 => now - 5_000_000_000,     // late
            _ => now,
        };
        (self.client(), time)
    }
}

/// A reply to WHATSAT: the AT line, or none where the client is not known.
pub fn answer(replies: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let at = line(replies)?;
    if at.starts_with(b"? ") {
        return Ok(None);
    }
    while line(replies)? != b"\n" {}
    Ok(Some(at))
}

fn line(replies: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    replies.read_until(b'\n', &mut line)?;
    if line.ends_with(b"\n") { Ok(line) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

pub fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().expect("no writer has failed")
}
