//! Writers on all nodes, and a ledger of acknowledged updates.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use super::common::{At, FIVE, Key, key, lines, seconds, wall_ns};
use proxy_herd::rng::Rng;

/// Number of clients per writer, and number of clients that all writers share.
const CLIENTS: u64 = 40;

/// Timeout after which a writer gives up a connection and connects again.
const REPLY_TIMEOUT: Duration = Duration::from_millis(500);

/// Pause between the batches of a writer. Five writers share the machine with five nodes and other
/// tests.
const WRITE_INTERVAL: Duration = Duration::from_millis(4);

/// A record and its sort key.
#[derive(Clone)]
pub struct Held {
    pub line: Vec<u8>,
    pub key: Key,
}

impl Held {
    /// Parses an AT line, and checks that a writer of this test caused it.
    pub fn parse(line: &[u8]) -> Self {
        let at = At::parse(line);
        let own = String::from_utf8(at.own).expect("the clients of this test are ASCII");
        let mut fields = own.trim_end().split(' ');
        let (client, location) = (fields.next().unwrap(), fields.next().unwrap());
        let time: i128 = fields.next().unwrap().replace('.', "").parse().unwrap();
        // Nodes must not invent or modify updates.
        let was_sent = FIVE.iter().any(|node| node.0 == at.server)
            && location == self::location(&at.server, client, time);
        assert!(was_sent, "no writer sent this: {}", line.escape_ascii());
        Self { line: line.to_vec(), key: key(line, time) }
    }
}

/// The location that the writer of `node` reports for a client and time. It is a hash of these, so
/// that an AT line that no writer caused is recognized.
fn location(node: &str, client: &str, time: i128) -> String {
    let mut seed = time as u64;
    for byte in node.bytes().chain(client.bytes()) {
        seed = Rng::new(seed ^ u64::from(byte)).bits();
    }
    format!("+{}.{:06}-{}", seed % 90, seed % 1_000_003, seed % 180)
}

/// Acknowledged updates, and records that nodes are known to store.
#[derive(Default)]
pub struct Ledger {
    nodes: [Known; FIVE.len()],
    /// The newest record of each client that any node acknowledged.
    acknowledged: HashMap<String, Held>,
    /// Number of acknowledged updates.
    pub count: u64,
}

/// A lower bound of what a node stores.
#[derive(Default)]
struct Known {
    /// Number of starts and kills of the node: even while it runs, odd while it does not.
    epoch: u64,
    held: HashMap<String, Held>,
}

impl Ledger {
    /// Must be called before a node is killed: records that only this node stores may be lost.
    pub fn killed(&mut self, node: usize) {
        self.nodes[node].epoch += 1;
        self.nodes[node].held.clear();
    }

    /// Must be called before a node is restarted.
    pub fn started(&mut self, node: usize) {
        self.nodes[node].epoch += 1;
    }

    fn acknowledge(&mut self, node: usize, epoch: u64, client: &str, held: Held) {
        self.count += 1;
        keep_newer(&mut self.acknowledged, client, held.clone());
        if self.nodes[node].epoch == epoch {
            self.know(node, client, held);
        }
    }

    /// Records that a running node stores this record of a client or a newer one.
    pub fn know(&mut self, node: usize, client: &str, held: Held) {
        keep_newer(&mut self.nodes[node].held, client, held);
    }

    /// The clients with an acknowledged update, sorted.
    pub fn clients(&self) -> Vec<String> {
        let mut clients: Vec<String> = self.acknowledged.keys().cloned().collect();
        clients.sort_unstable();
        clients
    }

    /// The newest record of a client that a running node is known to store. All nodes must converge
    /// on this one or a newer one.
    pub fn required(&self, client: &str) -> Option<&Held> {
        let held = self.nodes.iter().filter_map(|node| node.held.get(client));
        held.max_by(|a, b| a.key.cmp(&b.key))
    }

    /// The newest acknowledged record of a client, even if the node that acknowledged it was
    /// killed.
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

/// A client of one node, which sends updates and queries them.
pub struct Writer<'l> {
    pub node: usize,
    pub address: SocketAddr,
    pub rng: Rng,
    pub ledger: &'l Mutex<Ledger>,
    pub stop: &'l AtomicBool,
    /// The last time that was shared with other writers.
    pub round: i128,
}

impl Writer<'_> {
    /// Runs until `stop` is set, and reconnects when the node is killed or stops responding.
    pub fn run(mut self) {
        let mut seen = HashMap::new();
        let mut seen_in = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let epoch = self.epoch();
            if epoch != seen_in {
                (seen, seen_in) = (HashMap::new(), epoch);
            }
            let stream = TcpStream::connect_timeout(&self.address, REPLY_TIMEOUT);
            match stream {
                // Use the connection only if the epoch is unchanged, so that it leads to this very
                // process.
                Ok(stream) if epoch.is_multiple_of(2) && epoch == self.epoch() => {
                    // An error ends the connection; the loop connects again.
                    let _ = self.run_connection(stream, epoch, &mut seen);
                }
                _ => thread::sleep(WRITE_INTERVAL),
            }
        }
    }

    fn epoch(&self) -> u64 {
        lock(self.ledger).nodes[self.node].epoch
    }

    /// Repeatedly updates a few clients and queries one. `seen` holds the newest keys that the node
    /// has returned in this epoch.
    fn run_connection(
        &mut self,
        mut stream: TcpStream,
        epoch: u64,
        seen: &mut HashMap<String, Key>,
    ) -> io::Result<()> {
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut replies = BufReader::new(stream.try_clone()?);
        while !self.stop.load(Ordering::SeqCst) {
            let updates: Vec<_> = (0..self.rng.range(1, 4)).map(|_| self.update()).collect();
            let queried = self.client();
            let mut commands: Vec<String> =
                updates.iter().map(|update| self.iamat(update)).collect();
            commands.push(format!("WHATSAT {queried} 0 0"));
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
                lock(self.ledger).acknowledge(self.node, epoch, &client, held);
            }
            let held = answer(&mut replies)?.map(|line| Held::parse(&line).key);
            // A running node must never return an older record than before.
            let before = seen.get(&queried);
            assert!(
                held.as_ref() >= before,
                "the record of {queried} became older on {}",
                FIVE[self.node].0
            );
            if let Some(held) = held {
                seen.insert(queried, held);
            }
            thread::sleep(WRITE_INTERVAL);
        }
        Ok(())
    }

    fn iamat(&self, (client, time): &(String, i128)) -> String {
        let location = location(FIVE[self.node].0, client, *time);
        format!("IAMAT {client} {location} {}", seconds(*time))
    }

    fn client(&mut self) -> String {
        let number = self.rng.below(CLIENTS);
        let shared = self.rng.percent(50);
        if shared { format!("all-{number}") } else { format!("{}-{number}", FIVE[self.node].0) }
    }

    /// Chooses a client and the time of its update.
    fn update(&mut self) -> (String, i128) {
        let now = wall_ns();
        let round = now - now % 10_000_000;
        let time = match self.rng.below(10) {
            // A time that other writers use too, but only once per writer: a repeat is not stored.
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

/// Reads the reply to a WHATSAT. Returns its AT line, or `None` if the client is unknown.
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
