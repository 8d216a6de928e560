//! The hot path without a kernel: a node that is told and asked, in memory, a given number of times.
//!
//! `scripts/instructions.sh` counts its instructions; alone it prints nanoseconds.
//!
//! Usage: `hot_path KIND CLIENTS COMMANDS`, where KIND is `iamat`, `logged` (with the message log
//! on), `whatsat`, or `flood` (records from one neighbour that are passed on to another).

#![allow(clippy::expect_used, reason = "a tool for developers: a wrong argument may end it")]

use std::time::{Duration, Instant};

use proxy_herd::config::LogFormat;
use proxy_herd::herd::handshake::Transport;
use proxy_herd::limits::Limits;
use proxy_herd::message_log::MessageLog;
use proxy_herd::node::{Caller, LineSession, Node, Now};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::testing;

/// Commands in one read.
const PIPELINE: usize = 32;

const NOW: Now = Now { elapsed: Duration::from_secs(1), clock: 1_621_464_828 * SECOND };

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, clients, commands] = arguments.as_slice() else {
        eprintln!("usage: hot_path KIND CLIENTS COMMANDS");
        std::process::exit(2)
    };
    let clients: u64 = clients.parse().expect("CLIENTS is a number");
    let commands: usize = commands.parse().expect("COMMANDS is a number");
    let mut told = Teller::new(kind);
    // All are known before anything is counted, and the log of it is gone.
    for first in (0..clients).step_by(PIPELINE) {
        let lines: String = (first..clients.min(first + PIPELINE as u64))
            .map(|client| told.update(client, client, 0))
            .collect();
        told.tell(lines.as_bytes());
    }
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let batches: Vec<String> = (0..commands.div_ceil(PIPELINE))
        .map(|batch| {
            (0..PIPELINE)
                .map(|at| {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let client = random % clients;
                    match kind.as_str() {
                        "whatsat" => format!("WHATSAT client{client:08}.example.org 10 5\n"),
                        _ => told.update(client, random, 1 + batch * PIPELINE + at),
                    }
                })
                .collect()
        })
        .collect();
    let began = Instant::now();
    let bytes: usize = batches.iter().map(|batch| told.tell(batch.as_bytes())).sum();
    let took = began.elapsed();
    let commands = batches.len() * PIPELINE;
    println!(
        "{kind}: {commands} commands, {clients} clients, {:.1} ns a command, {:.1} bytes a reply",
        took.as_nanos() as f64 / commands as f64,
        bytes as f64 / commands as f64
    );
}

/// Node 1 of three in a line, and who speaks to it.
struct Teller {
    node: Node,
    /// Of a client.
    session: LineSession,
    /// What is told comes from node 0, and leaves for node 2.
    is_peer: bool,
    out: Vec<u8>,
}

impl Teller {
    fn new(kind: &str) -> Self {
        let mut node = node(kind == "logged");
        for peer in [0, 2] {
            node.herd.established(peer.into(), peer, 1, true, NOW.elapsed);
        }
        let caller = Caller {
            transport: Transport { loopback: true, certified: None },
            ..Caller::default()
        };
        let session = LineSession::accepted(&node, 7, caller);
        Self { node, session, is_peer: kind == "flood", out: Vec::new() }
    }

    /// Tells the node some lines. Returns how many bytes it replied or passed on.
    #[inline(never)] // what is counted
    fn tell(&mut self, lines: &[u8]) -> usize {
        let Self { node, session, is_peer, out } = self;
        if *is_peer {
            let mut start = 0;
            for end in memchr::memchr_iter(b'\n', lines) {
                let Node { herd, message_log, .. } = &mut *node;
                let line = &lines[start..end];
                let taken = herd.receive(0, 0, line, NOW.elapsed, NOW.clock, message_log);
                assert_eq!(taken, Ok(()));
                start = end + 1;
            }
        } else {
            let mut at = 0;
            while at < lines.len() {
                let (taken, _) = session.receive(node, &lines[at..], false, &NOW, out);
                assert!(taken > 0, "in shares, all of it is executed");
                at += taken;
            }
        }
        for link in 0..2 {
            let Node { herd, message_log, .. } = &mut *node;
            herd.fill(link, NOW.clock, out, usize::MAX, message_log);
        }
        node.message_log.clear();
        let replied = out.len();
        out.clear();
        replied
    }

    fn update(&self, client: u64, place: u64, time: usize) -> String {
        let (latitude, longitude) = (place % 90_000_000, place % 180_000_000);
        let before = if self.is_peer { "AT Bona +0.263873386" } else { "IAMAT" };
        format!(
            "{before} client{client:08}.example.org +{:02}.{:06}-{:03}.{:06} 1621464827.{time:09}\n",
            latitude / 1_000_000,
            latitude % 1_000_000,
            longitude / 1_000_000,
            longitude % 1_000_000
        )
    }
}

fn node(logged: bool) -> Node {
    let mut identity = testing::identity(&["Bona", "Clark", "Jaquez"], 1, &[0, 2]);
    identity.rules.max_clients = 10_000_000; // none of CLIENTS is evicted
    let herd = testing::herd(identity);
    let message_log = MessageLog::new(logged, LogFormat::default(), "Clark");
    let places = Places::Offline(Offline::gazetteer().expect("the gazetteer is sound"));
    Node::new(herd, places, message_log, Limits::default(), &[7; 32])
}
