//! A connection to a node, from its first byte to its end. The input is what the other end sends.
//!
//! - However the input is cut into reads, the same replies come out.
//! - What is held for a partial line never exceeds the limit.
//! - A client gets the echo of a line or a reply that the contract knows, and nothing else.

#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy_herd::config::LogFormat;
use proxy_herd::herd::directory::{Keys, Rules};
use proxy_herd::herd::handshake::{Identity, Transport};
use proxy_herd::herd::{Herd, Timing};
use proxy_herd::journal::Journal;
use proxy_herd::limits::{Limits, MAX_NODE_NAME};
use proxy_herd::node::{Caller, Next, Node, Now, Session};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::places::places_file::{self, Format};
use proxy_herd_fuzz::splits;

/// Short, so that inputs of a few hundred bytes reach it.
const MAX_LINE: usize = 128;

/// What AT adds to the longest line of a client, on a link; and the longest line of a handshake.
const MAX_HELD: usize = MAX_LINE + 3 + MAX_NODE_NAME + 1 + 32 + 512;

const NOW: Now = Now { elapsed: Duration::from_secs(1), clock: 1_621_464_828_223_371_889 };

const PLACES: &[u8] = b"name,latitude,longitude,kind\n\
    Royce Hall,34.0729,-118.4422,hall\n\
    Griffith Observatory,34.1184,-118.3004,observatory\n\
    Null Island,0,0,buoy\n";

fuzz_target!(|input: &[u8]| {
    let [whole, bytes, pieces] = splits(input);
    let told = converse(&whole);
    assert_eq!(converse(&bytes), told);
    assert_eq!(converse(&pieces), told);
    if !input.starts_with(b"HERD ") {
        replies(&told);
    }
});

/// All that the node says, and the lines of its log.
fn converse(reads: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
    thread_local! {
        // Places are the same for all, and costly to index.
        static SHARED: RefCell<Option<Places>> = const { RefCell::new(None) };
    }
    let places = SHARED.take().unwrap_or_else(|| {
        let places = places_file::parse(PLACES, Format::Csv).expect("three places");
        Places::Offline(Offline::own(places))
    });
    let mut node = node(places);
    let transport = Transport { loopback: true, certified: None };
    let label: Box<[u8]> = (*b"127.0.0.1:9").into();
    let mut session = Session::accepted(&node, 7, Caller { label, transport, ..Caller::default() });
    let (mut said, mut held, mut out) = (Vec::new(), Vec::new(), Vec::new());
    for (read, bytes) in reads.iter().enumerate() {
        let end = read + 1 == reads.len();
        held.extend_from_slice(bytes);
        loop {
            let (consumed, next) = session.receive(&mut node, &held, end, &NOW, &mut out);
            held.drain(..consumed);
            let full = !out.is_empty();
            said.append(&mut out);
            match next {
                // Its output has been taken: it goes on.
                Next::Wait => assert!(full, "it waits for nothing"),
                Next::Read => {
                    assert!(!end && held.len() <= MAX_HELD, "{} bytes are held", held.len());
                    break;
                }
                Next::Finish | Next::HangUp => {
                    assert!(held.is_empty());
                    break;
                }
            }
        }
    }
    session.close(&mut node, &NOW);
    let journal = node.journal.lines().to_vec();
    SHARED.set(Some(node.places));
    (said, journal)
}

fn node(places: Places) -> Node {
    let identity = Identity {
        names: vec![(*b"Bailey").into(), (*b"Clark").into()],
        me: 1,
        neighbours: vec![0],
        rules: Rules { max_clock_offset: 5_000_000_000, max_clients: 4, client_ttl: 0 },
        secret: None,
        tls: false,
        boot: 1,
    };
    let timing = Timing {
        keepalive: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        redial_max: Duration::from_secs(2),
        antientropy_interval: Duration::from_secs(10),
    };
    let keys = Keys { index: (1, 2), digest: (3, 4) };
    let herd = Herd::new(identity, &[], timing, keys, Duration::ZERO);
    let journal = Journal::new(true, LogFormat::default(), "Clark");
    let limits = Limits { max_line: MAX_LINE, ..Limits::default() };
    Node::new(herd, places, journal, limits, &[7; 32])
}

/// Every line of what a client is told begins as a reply does, and the log is printable.
fn replies((said, journal): &(Vec<u8>, Vec<u8>)) {
    let mut inside = false;
    for line in said.split_inclusive(|&byte| byte == b'\n') {
        match line {
            b"{\n" if !inside => inside = true,
            b"}\n" if inside => inside = false,
            _ if inside => assert!(line.starts_with(b"  ")),
            _ => assert!(line.starts_with(b"? ") || line.starts_with(b"AT ") || line == b"\n"),
        }
    }
    assert!(!inside && (said.is_empty() || said.ends_with(b"\n")));
    assert!(journal.iter().all(|&byte| byte == b'\n' || (0x20..0x7f).contains(&byte)));
}
