//! One test for each fault that was found in the core, mostly by the simulator (tests/sim).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

use std::time::Duration;

use proxy_herd::herd::Origin;
use proxy_herd::herd::handshake::Transport;
use proxy_herd::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use proxy_herd::ids::{ConnectionId, LinkId};
use proxy_herd::limits::Limits;
use proxy_herd::message_log::{Format, MessageLog};
use proxy_herd::node::{Handled, Input, LineSession, Next, Node, PeerInfo};
use proxy_herd::places::Places;
use proxy_herd::places::offline::Offline;
use proxy_herd::testing::{connected, herd, identity};
use proxy_herd::time::{Instant, Now, Wall};

/// Input after which more may come.
const fn more(bytes: &[u8]) -> Input<'_> {
    Input { bytes, ended: false, unsent: 0 }
}

const LOOPBACK: Transport = Transport { loopback: true, certified: None };

fn caller(label: &[u8]) -> PeerInfo {
    PeerInfo { label: label.into(), transport: LOOPBACK, ..PeerInfo::default() }
}

fn at(elapsed: Duration) -> Now {
    let wall = Wall(1_700_000_000_000_000_000 + elapsed.as_nanos() as i128);
    Now { instant: Instant::at(elapsed), wall }
}

const START: Now = Now { instant: Instant::START, wall: Wall(1_700_000_000_000_000_000) };

/// Node `me` of `names`, which are all neighbors.
fn node(names: &[&str], me: u16, limits: Limits) -> Node {
    let others: Vec<u16> = (0..names.len() as u16).filter(|&other| other != me).collect();
    let herd = herd(identity(names, me, &others));
    let message_log = MessageLog::new(false, Format::default(), names[usize::from(me)]);
    let places = Places::Offline(Offline::gazetteer().expect("the gazetteer is sound"));
    Node::new(herd, places, message_log, limits, &[me as u8; 32])
}

/// A connection between two nodes: a session at each end, and the bytes in flight to each.
struct Wire {
    ends: [LineSession; 2],
    in_flight: [Vec<u8>; 2],
}

impl Wire {
    /// A connection that the first node has dialed.
    fn dial(nodes: &mut [Node; 2], id: u64, now: Now) -> Self {
        let [dialer, _] = nodes;
        let mut hello = Vec::new();
        let dialed = LineSession::dialed(
            dialer,
            ConnectionId(id),
            b"a"[..].into(),
            LinkId(0),
            LOOPBACK,
            now.instant,
            &mut hello,
        );
        let accepted = LineSession::accepted(ConnectionId(id), caller(b"b"));
        Self { ends: [dialed, accepted], in_flight: [Vec::new(), hello] }
    }

    /// Delivers the bytes in flight to one end, and puts its replies in flight.
    fn deliver(&mut self, nodes: &mut [Node; 2], end: usize, now: Now) -> Next {
        let bytes = std::mem::take(&mut self.in_flight[end]);
        let mut replies = Vec::new();
        let session = &mut self.ends[end];
        let handled = session.handle_input(&mut nodes[end], more(&bytes), &now, &mut replies);
        assert_eq!(handled.consumed, bytes.len());
        self.in_flight[1 - end].extend_from_slice(&replies);
        handled.next
    }

    /// Runs the connection until neither end has anything to send. Returns the bytes that each end
    /// has received.
    fn run(&mut self, nodes: &mut [Node; 2], now: Now) -> [Vec<u8>; 2] {
        let mut received = [Vec::new(), Vec::new()];
        loop {
            for end in [0, 1] {
                let Node { herd, message_log, .. } = &mut nodes[end];
                if let Some(link) = self.ends[end].link() {
                    herd.handle_timeout(&now, now.instant);
                    let out = &mut self.in_flight[1 - end];
                    herd.poll_transmit(link, &now, out, 1 << 20, message_log);
                }
            }
            // A call may examine leaves only, and send nothing.
            let has_output = |end: usize| {
                self.ends[end].link().is_some_and(|link| nodes[end].herd.has_output(link))
            };
            if self.in_flight.iter().all(Vec::is_empty) && !has_output(0) && !has_output(1) {
                return received;
            }
            for end in [0, 1] {
                received[end].extend_from_slice(&self.in_flight[end]);
                assert_eq!(self.deliver(nodes, end, now), Next::NeedInput);
            }
        }
    }
}

fn linked(limits: &Limits) -> ([Node; 2], Wire) {
    let mut nodes = [0, 1].map(|me| node(&["A", "B"], me, limits.clone()));
    let mut wire = Wire::dial(&mut nodes, 1, START);
    wire.run(&mut nodes, START);
    assert!(wire.ends.iter().all(|end| end.link().is_some()));
    (nodes, wire)
}

fn update(node: &mut Node, line: &str) {
    let mut client = LineSession::accepted(ConnectionId(9), caller(b"c"));
    let mut reply = Vec::new();
    let input = Input { ended: true, ..more(line.as_bytes()) };
    client.handle_input(node, input, &START, &mut reply);
    assert!(reply.starts_with(b"AT "), "{}", reply.escape_ascii());
}

#[test]
fn half_a_record_at_the_end_of_a_broken_link_is_not_stored() {
    let (mut nodes, mut wire) = linked(&Limits::default());
    let half = b"AT A +0.000000001 k +1-1 17000000"; // 00 is missing
    let input = Input { ended: true, ..more(half) };
    let handled = wire.ends[1].handle_input(&mut nodes[1], input, &START, &mut Vec::new());
    assert_eq!(handled.next, Next::CloseWhenFlushed);
    assert_eq!(nodes[1].herd.directory.get(b"k", Wall(0)), None);
}

#[test]
fn the_line_limit_for_clients_does_not_apply_to_links() {
    let limits = Limits { max_line: 128, ..Limits::default() };
    let (mut nodes, mut wire) = linked(&limits);
    for i in 0..200 {
        update(&mut nodes[0], &format!("IAMAT k{i} +1-1 {i}"));
    }
    wire.run(&mut nodes, START);
    // All sums differ now and fill a line that is longer than a client's may be.
    nodes[1] = node(&["A", "B"], 1, limits);
    let mut again = Wire::dial(&mut nodes, 2, at(Duration::from_secs(10)));
    again.run(&mut nodes, at(Duration::from_secs(10)));
    assert_eq!(nodes[1].herd.directory.len(), 200);
}

#[test]
fn a_link_state_may_name_a_thousand_neighbors() {
    let names: Vec<String> = (0..999).map(|i| format!("{i:064}")).collect();
    let line = format!("LINKS {} 1 ffff - {}\n", names[0], names.join(" "));
    let (mut nodes, mut wire) = linked(&Limits::default());
    let input = more(line.as_bytes());
    let handled = wire.ends[1].handle_input(&mut nodes[1], input, &START, &mut Vec::new());
    assert_eq!(handled, Handled { consumed: line.len(), next: Next::NeedInput });
}

#[test]
fn a_link_is_read_however_much_output_is_unsent() {
    let (mut nodes, mut wire) = linked(&Limits { max_output_buffer: 1000, ..Limits::default() });
    let record = b"AT A +0.000000001 k +1-1 1700000000\n";
    let input = Input { unsent: 2000, ..more(record) };
    let handled = wire.ends[1].handle_input(&mut nodes[1], input, &START, &mut Vec::new());
    assert_eq!(handled, Handled { consumed: record.len(), next: Next::NeedInput });
}

#[test]
fn the_link_states_of_a_large_herd_are_sent_one_buffer_at_a_time() {
    let names: Vec<String> = (0..100).map(|i| format!("{i:060}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Node { mut herd, mut message_log, .. } = node(&names, 0, Limits::default());
    herd.handle_connected(connected(1, 1, 7, Origin::Dialed), START.instant);
    herd.handle_connected(connected(2, 2, 7, Origin::Dialed), START.instant);
    // The sender is not linked with the other neighbor, which would have the states from it.
    let linked: Vec<&str> = names.iter().copied().filter(|&name| name != names[2]).collect();
    for origin in &names[1..] {
        let line = format!("LINKS {origin} 1 1 - {}", linked.join(" "));
        herd.handle_line(LinkId(0), ConnectionId(1), line.as_bytes(), &START, &mut message_log)
            .unwrap();
    }
    let mut out = Vec::new();
    herd.poll_transmit(LinkId(1), &START, &mut out, 16_384, &mut message_log);
    assert!(out.len() < 2 * 16_384, "{} bytes", out.len());
    assert!(herd.has_output(LinkId(1)), "the rest is still queued");
}

#[test]
fn links_that_come_up_together_are_advertised_together() {
    let names: Vec<String> = (0..50).map(|i| format!("n{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let Node { mut herd, mut message_log, .. } = node(&names, 0, Limits::default());
    let mut sent = vec![Vec::new(); 49];
    let millisecond = Duration::from_millis(1);
    for turn in 0..200 {
        let now = at(millisecond * turn);
        if turn < 49 {
            let connected = connected(turn.into(), turn as u16 + 1, 7, Origin::Dialed);
            herd.handle_connected(connected, now.instant);
        }
        herd.handle_timeout(&now, now.instant);
        for (link, sent) in (0..).map(LinkId).zip(&mut sent) {
            herd.poll_transmit(link, &now, sent, usize::MAX, &mut message_log);
        }
    }
    let mut states = 0;
    for (link, sent) in sent.iter().enumerate() {
        let own = |line: &&[u8]| line.starts_with(b"LINKS n00 ");
        let own: Vec<&[u8]> = sent.split(|&b| b == b'\n').filter(own).collect();
        states += own.len();
        let neighbors = own.last().map_or(0, |line| line.split(|&b| b == b' ').count() - 5);
        assert_eq!(neighbors, 49, "neighbor {link} has the state with all links");
    }
    // Once per neighbor for all changes together, and to those that were linked before once more.
    assert!(states <= 2 * 49, "{states} times");
}

#[test]
fn of_two_dials_at_once_one_link_stays_however_slow_the_handshakes() {
    let slow = (DIAL_TIMEOUT + HANDSHAKE_TIMEOUT).mul_f64(0.9);
    let mut nodes = [0, 1].map(|me| node(&["A", "B"], me, Limits::default()));
    let mut first = Wire::dial(&mut nodes, 1, START);
    nodes.reverse();
    let mut second = Wire::dial(&mut nodes, 2, START);
    nodes.reverse();
    first.deliver(&mut nodes, 1, START); // B: linked, as it was dialed
    nodes.reverse();
    second.deliver(&mut nodes, 1, START); // and so is A
    second.deliver(&mut nodes, 0, at(slow)); // B receives the answer to its dial
    nodes.reverse();
    first.deliver(&mut nodes, 0, at(slow));
    let connection = |node: &Node| node.herd.links()[0].up.as_ref().map(|up| up.connection.0);
    assert_eq!(connection(&nodes[0]), Some(1), "A keeps what it dialed");
    assert_eq!(connection(&nodes[1]), Some(1), "and so does B");
}
