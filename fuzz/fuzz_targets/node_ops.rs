//! The whole core of a node, event by event. The input is a list of events: lines of clients and peers
//! and the pieces in which they arrive, links that are established and lost, answers of a provider,
//! time that passes and clocks that jump.
//!
//! After each event:
//!
//! - The node holds what a model holds, and its index and digest sums match the records.
//! - The replies to all commands are exact and in order.
//! - A new record is queued for the neighbors, but not for its sender. No other record is queued.
//! - Queues and buffers are within their limits, and no timer is left overdue.

#![no_main]

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy_herd::herd::digest::{Branch, FANOUT, LEAF_LEVEL};
use proxy_herd::herd::digest_key::{Announcement, DigestKey};
use proxy_herd::herd::directory::{Rules, Source};
use proxy_herd::herd::flood::FORWARD_FREELY;
use proxy_herd::herd::handshake::Transport;
use proxy_herd::herd::message::{
    DIGESTS_PER_LINE, Message, Purpose, Version, push_key, push_links, push_listing, push_offers,
    push_ping, push_pong, push_pull, push_repair, push_sums, push_wants,
};
use proxy_herd::herd::routes::SETTLE;
use proxy_herd::herd::{Action, LegacySender};
use proxy_herd::ids::{BootId, ConnectionId, LinkId, NodeId, Slot};
use proxy_herd::limits::{Limits, PlacesLimits};
use proxy_herd::node::{Blocked, Handled, Input, LineSession, Next, Node, PeerInfo};
use proxy_herd::places::Places;
use proxy_herd::places::http::Eof;
use proxy_herd::places::providers::Provider;
use proxy_herd::places::upstream::{Client, ConnId, Settings, TransportError};
use proxy_herd::protocol::time::{Nanos, SECOND};
use proxy_herd::protocol::trim;
use proxy_herd::time::{Instant, Now, Wall};
use proxy_herd_fuzz::model::{Fact, Model};
use proxy_herd_fuzz::node::{self, ME, NAMES, NEIGHBORS, hash, leaf};

/// More clients than the directory holds.
const CLIENTS: [&str; 5] = ["a", "bb", "kiwi.cs.ucla.edu", "\u{a0}", "d"];
const MAX_CLIENTS: u32 = 3;

const LOCATIONS: [&str; 4] = ["+34.068930-118.445127", "+12-118/", "-90.0+180", "+.5-0"];

/// The link to the neighbor that runs the original server.
const LEGACY: LinkId = LinkId(0);

const LIMITS: fn() -> Limits = || Limits {
    max_line: 96,
    max_output_buffer: 1000,
    max_pending_whatsat_per_connection: 2,
    max_pending_whatsat: 3,
    ..Limits::default()
};

/// Longer than any reply here.
const LONGEST_REPLY: usize = 1000;

/// A full line of digests, and the pong before it.
const LONGEST_MESSAGE: usize = 17 * DIGESTS_PER_LINE + 200;

fuzz_target!(|input: &[u8]| {
    let mut events = Events(input);
    let mut world = World::new(&mut events);
    while let Some(event) = events.next() {
        world.step(event, &mut events);
        world.check();
    }
    world.finish();
});

/// The input, byte by byte.
struct Events<'a>(&'a [u8]);

impl Events<'_> {
    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// A number below `bound`, or 0 at the end of the input.
    fn below(&mut self, bound: usize) -> usize {
        self.next().map_or(0, |byte| usize::from(byte) % bound)
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A line of a client.
enum Command {
    Iamat(Fact),
    /// Client and line.
    Whatsat(&'static str, String),
    Unknown(&'static str),
    Http,
    TooLong,
}

/// An expected reply.
#[derive(Debug)]
enum Reply {
    Text(Vec<u8>),
    /// This line and a document.
    Places(String),
}

/// A connection of a client.
struct User {
    id: u64,
    session: LineSession,
    /// Sent, but not consumed by the node. The first `arrived` bytes have arrived.
    sent: Vec<u8>,
    arrived: usize,
    /// Number of bytes that the node has consumed.
    consumed: usize,
    /// The end of the last executed command.
    executed: usize,
    /// Commands in `sent`, each with its end among all bytes sent.
    commands: VecDeque<(usize, Command)>,
    begun: bool,
    /// The node executes nothing more.
    over: bool,
    out: Vec<u8>,
    /// Received, but not compared with `expected` yet.
    received: Vec<u8>,
    expected: VecDeque<Reply>,
}

/// A connection of a neighbor.
struct Peer {
    id: u64,
    session: LineSession,
    link: LinkId,
}

struct World {
    node: Node,
    model: Model,
    now: Now,
    users: Vec<User>,
    peers: Vec<Peer>,
    dials: Vec<LinkId>,
    connecting: Vec<ConnId>,
    connected: Vec<ConnId>,
    last_id: u64,
    /// Number of links established and lost, and the time of the last change.
    changes: (u64, Instant),
    /// Lines that may be sent although the node does not hold them.
    relayed: HashSet<String>,
    /// Records that peers have sent because of a sync.
    syncs: u32,
}

impl World {
    fn new(events: &mut Events<'_>) -> Self {
        let setting = events.below(4);
        let client_ttl = if setting & 1 == 1 { 60 * SECOND } else { 0 };
        let places = if setting & 2 == 2 { upstream() } else { node::offline() };
        let rules = Rules {
            max_clock_offset: 5 * SECOND,
            max_clients: MAX_CLIENTS,
            client_ttl,
            forget_keep: SECOND,
        };
        let identity = node::identity(ME, None, rules);
        let node = node::node(identity, &[NodeId(NEIGHBORS[LEGACY.index()])], places, LIMITS());
        let now = Now { instant: Instant::START, wall: Wall(1_621_464_828_223_371_889) };
        let mut world = Self {
            model: Model { rules, held: Vec::new(), expired: Vec::new() },
            node,
            now,
            users: Vec::new(),
            peers: Vec::new(),
            dials: Vec::new(),
            connecting: Vec::new(),
            connected: Vec::new(),
            last_id: 0,
            changes: (0, Instant::START),
            relayed: HashSet::new(),
            syncs: 0,
        };
        for _ in 0..2 {
            let user = world.user();
            world.users.push(user);
        }
        world
    }

    fn step(&mut self, event: u8, events: &mut Events<'_>) {
        match event % 16 {
            0..3 => self.send(events),
            3 | 4 => {
                let user = events.below(self.users.len());
                let bytes = events.of(&[1000, 1, 7, 40, 80]);
                self.deliver(user, bytes, false);
            }
            5 => {
                let user = events.below(self.users.len());
                let bytes = events.of(&[10_000, 1, 50, 500]);
                self.take(user, bytes);
            }
            6 => self.leave(events),
            7 => self.accept(events),
            8 => self.finish_dial(events),
            9 | 10 => self.record(events),
            11 => self.message(events),
            12 => self.fill(events),
            13 => {
                if let Some(peer) = self.pick_peer(events) {
                    self.close(peer);
                }
            }
            14 => self.pass(events),
            _ => self.provider(events),
        }
        self.poll();
    }

    // Clients

    fn user(&mut self) -> User {
        self.last_id += 1;
        let session = LineSession::accepted(ConnectionId(self.last_id), PeerInfo::default());
        User {
            id: self.last_id,
            session,
            sent: Vec::new(),
            arrived: 0,
            consumed: 0,
            executed: 0,
            commands: VecDeque::new(),
            begun: false,
            over: false,
            out: Vec::new(),
            received: Vec::new(),
            expected: VecDeque::new(),
        }
    }

    fn send(&mut self, events: &mut Events<'_>) {
        let user = events.below(self.users.len());
        let client = events.of(&CLIENTS);
        let (line, command) = match events.below(8) {
            0..4 => {
                let fact = self.fact(client, ME.into(), events);
                let line = format!("IAMAT {} {} {}", client, fact.location, fact.time_text);
                (line, Command::Iamat(fact))
            }
            4 | 5 => {
                let (radius, bound) = (events.of(&["10", "0.0", "+50.000", "5"]), events.below(21));
                let line = format!("WHATSAT {client} {radius} {bound}");
                (line.clone(), Command::Whatsat(client, line))
            }
            6 => {
                let text = events.of(&[
                    "x  y",
                    "\t ",
                    "AT Bona +0.5 a +1-1 5",
                    "WHATSAT a 51 1",
                    "IAMAT a +91-1 5",
                    "HERD 1",
                    " iamat a +1-1 5\r",
                    "PING 1",
                ]);
                (text.to_owned(), Command::Unknown(text))
            }
            _ if events.below(2) == 0 => ("GET / HTTP/1.1".to_owned(), Command::Http),
            _ => ("x".repeat(LIMITS().max_line + 1), Command::TooLong),
        };
        let user = &mut self.users[user];
        if user.sent.len() > 2000 {
            return;
        }
        user.sent.extend_from_slice(line.as_bytes());
        user.sent.push(b'\n');
        user.commands.push_back((user.consumed + user.sent.len(), command));
    }

    /// A random update that a node may receive from a client now.
    fn fact(&self, client: &'static str, server: usize, events: &mut Events<'_>) -> Fact {
        let seconds =
            self.now.wall.nanos() / SECOND + events.of(&[0, -1, 1, -3, 3, 6, -30, -90, 1000]);
        let (fraction, nanos) =
            events.of(&[("", 0), (".5", 500_000_000), (".000000001", 1), (".0000000019", 1)]);
        Fact {
            client,
            location: events.of(&LOCATIONS),
            time_text: format!("{seconds}{fraction}"),
            time: seconds * SECOND + nanos,
            server,
            received: self.now.wall.nanos(),
        }
    }

    fn deliver(&mut self, at: usize, bytes: usize, end: bool) -> Next {
        let before = self.queued();
        let mut news = Vec::new();
        let Self { node, users, now, .. } = self;
        let user = &mut users[at];
        user.arrived = user.sent.len().min(user.arrived.saturating_add(bytes));
        let input = &user.sent[..user.arrived];
        let input = Input { bytes: input, ended: end, unsent: user.out.len() };
        let Handled { consumed, next } = user.session.handle_input(node, input, now, &mut user.out);
        let taken = consumed;
        user.sent.drain(..taken);
        (user.arrived, user.consumed) = (user.arrived - taken, user.consumed + taken);
        // A line that is too long is answered before its end arrives.
        let waits = next == Next::Blocked(Blocked::LastReplies);
        let is_over = next == Next::ShutdownWhenFlushed || waits;
        let early = |command: &Command, from: usize, all: usize| {
            matches!(command, Command::TooLong) && is_over && all > from
        };
        let all = user.consumed;
        while let Some((end, command)) = user.commands.front()
            && (*end <= all || early(command, user.executed, all))
        {
            user.executed = *end;
            let Some((_, command)) = user.commands.pop_front() else { break };
            if !user.over {
                news.extend(execute(&mut self.model, user, command, now.wall.nanos()));
            }
        }
        // A session that executes nothing more may still wait for places, also after a half-close.
        let ended = next == Next::ShutdownWhenFlushed;
        assert!(user.over == ended || (waits && (user.over || end)));
        let partial = user.arrived <= LIMITS().max_line;
        assert!(next != Next::NeedInput || partial, "{} bytes are kept", user.arrived);
        self.check_flood(&before, &news, None);
        next
    }

    /// The client receives part of the output and compares it with the expected replies.
    fn take(&mut self, at: usize, bytes: usize) {
        let user = &mut self.users[at];
        let bytes = bytes.min(user.out.len());
        user.received.extend(user.out.drain(..bytes));
        while let Some(reply) = user.expected.front() {
            let complete = match reply {
                Reply::Text(text) => {
                    let common = text.len().min(user.received.len());
                    assert_eq!(
                        user.received[..common].escape_ascii().to_string(),
                        text[..common].escape_ascii().to_string()
                    );
                    (common == text.len()).then_some(common)
                }
                Reply::Places(line) => {
                    let end = user.received.windows(2).position(|it| it == b"\n\n");
                    end.map(|end| {
                        let text = str::from_utf8(&user.received[..end]).expect("UTF-8");
                        let (first, document) = text.split_once('\n').expect("a document");
                        assert_eq!(first, line);
                        assert!(document.starts_with("{\n  \"") && document.ends_with("\"\n}"));
                        end + 2
                    })
                }
            };
            let Some(length) = complete else { return };
            user.received.drain(..length);
            user.expected.pop_front();
        }
        assert!(user.received.is_empty(), "{}", user.received.escape_ascii());
    }

    /// A client disconnects, and another connects.
    fn leave(&mut self, events: &mut Events<'_>) {
        let at = events.below(self.users.len());
        match events.below(3) {
            // It closes the connection at once.
            0 => {}
            // It closes its side, and everything that it sent is answered.
            how => {
                let user = &mut self.users[at];
                if how == 1 && user.arrived < user.sent.len() {
                    user.sent.pop(); // the end of the stream ends the last line as well
                    if let Some((end, _)) = user.commands.back_mut() {
                        *end -= 1;
                    }
                }
                self.answer_all(at);
            }
        }
        let new = self.user();
        let mut old = std::mem::replace(&mut self.users[at], new);
        old.session.handle_closed(&mut self.node, self.now.instant);
    }

    /// Delivers everything that a client has sent, and receives all replies.
    fn answer_all(&mut self, at: usize) {
        // Each turn answers at least one command, or passes a deadline.
        for _ in 0..500 {
            let next = self.deliver(at, usize::MAX, true);
            self.take(at, usize::MAX);
            if matches!(next, Next::CloseWhenFlushed | Next::ShutdownWhenFlushed)
                && !self.users[at].session.is_waiting()
            {
                assert!(self.users[at].expected.is_empty(), "{:?}", self.users[at].expected);
                return;
            }
            let may_continue = matches!(next, Next::Yielded | Next::Blocked(_));
            if !may_continue || self.users[at].session.is_waiting() || self.node_is_crowded() {
                self.advance(Duration::from_secs(1));
            }
            self.poll();
        }
        panic!("the client is not answered");
    }

    fn node_is_crowded(&self) -> bool {
        self.node.is_crowded()
    }

    // Peers

    fn pick_peer(&self, events: &mut Events<'_>) -> Option<usize> {
        let at = events.below(self.peers.len().max(1));
        (at < self.peers.len()).then_some(at)
    }

    /// The first line of a neighbor.
    fn hello(&self, link: LinkId, boot: usize) -> Vec<u8> {
        let Rules { max_clock_offset, max_clients, client_ttl, forget_keep } = self.model.rules;
        let name = NAMES[usize::from(NEIGHBORS[link.index()])];
        let nonce = "00112233445566778899aabbccddeeff";
        format!(
            "HERD 2 {name} Clark {boot} {nonce} open {max_clock_offset:x} {max_clients:x} \
             {client_ttl:x} {forget_keep:x} 0 -\n"
        )
        .into_bytes()
    }

    /// A neighbor connects.
    fn accept(&mut self, events: &mut Events<'_>) {
        self.last_id += 1;
        let (link, boot) = (LinkId(events.below(NEIGHBORS.len())), events.below(2));
        let transport = Transport { loopback: true, certified: None };
        let legacy = (link == LEGACY).then_some(LegacySender::Neighbor(LEGACY));
        let caller = PeerInfo { transport, legacy, ..PeerInfo::default() };
        let session = LineSession::accepted(ConnectionId(self.last_id), caller);
        let mut peer = Peer { id: self.last_id, session, link };
        if link == LEGACY {
            self.peers.push(peer); // it sends nothing before its first record
        } else {
            let hello = self.hello(link, boot);
            let next = self.receive(&mut peer, &hello);
            self.finish_handshake(peer, next);
        }
    }

    /// A connection attempt of the node succeeds or fails.
    fn finish_dial(&mut self, events: &mut Events<'_>) {
        let at = events.below(self.dials.len().max(1));
        if at >= self.dials.len() {
            return;
        }
        let link = self.dials.swap_remove(at);
        let outcome = events.below(4);
        if outcome == 0 {
            return self.node.herd.handle_dial_failed(link, self.now.instant);
        }
        self.last_id += 1;
        let (id, transport) = (self.last_id, Transport { loopback: true, certified: None });
        let (label, mut out) = (Box::default(), Vec::new());
        let node = &mut self.node;
        let session = LineSession::dialed(
            node,
            ConnectionId(id),
            label,
            link,
            transport,
            self.now.instant,
            &mut out,
        );
        let mut peer = Peer { id, session, link };
        if link == LEGACY {
            assert!(out.is_empty() && peer.session.link() == Some(LEGACY));
            return self.peers.push(peer);
        }
        assert!(out.starts_with(b"HERD 2 Clark ") && peer.session.is_handshaking());
        let answer = match outcome {
            1 => [b"? ", &out[..]].concat(),
            boot => self.hello(link, boot - 2),
        };
        let next = self.receive(&mut peer, &answer);
        assert!(outcome != 1 || next == Next::ShutdownWhenFlushed);
        self.finish_handshake(peer, next);
    }

    fn finish_handshake(&mut self, mut peer: Peer, next: Next) {
        match next {
            Next::NeedInput => {
                assert_eq!(peer.session.link(), Some(peer.link));
                self.peers.push(peer);
            }
            // Refused, or superseded by another connection.
            _ => peer.session.handle_closed(&mut self.node, self.now.instant),
        }
    }

    /// Lines of a peer arrive in one read.
    fn receive(&mut self, peer: &mut Peer, lines: &[u8]) -> Next {
        let mut out = Vec::new();
        let input = Input { bytes: lines, ended: false, unsent: 0 };
        let Handled { consumed, next } =
            peer.session.handle_input(&mut self.node, input, &self.now, &mut out);
        assert_eq!(consumed, lines.len());
        let hello = out.starts_with(b"HERD 2 Clark ");
        let refused = out.starts_with(b"REFUSED another process ");
        let expected = out.is_empty() || hello || refused;
        assert!(expected, "peers get no replies: {}", out.escape_ascii());
        next
    }

    fn record(&mut self, events: &mut Events<'_>) {
        let Some(at) = self.pick_peer(events) else { return };
        let (client, server) = (events.of(&CLIENTS), events.below(NAMES.len()));
        let mut fact = self.fact(client, server, events);
        fact.received += events.of(&[0, -SECOND, SECOND, -1, -70 * SECOND, 3600 * SECOND]);
        let is_repair = events.below(4) == 1 && self.peers[at].link != LEGACY;
        let mut lines = Vec::new();
        if is_repair {
            let purpose = events.of(&[Purpose::Sync, Purpose::Check]);
            self.syncs += u32::from(purpose == Purpose::Sync);
            push_repair(&mut lines, purpose);
        }
        lines.extend_from_slice(fact.line().as_bytes());
        lines.push(b'\n');
        // Input on a connection that this node dialed to the original server is ignored.
        let link = self.peers[at].link;
        let is_read = link != LEGACY || self.peers[at].session.link().is_none();
        let before = self.queued();
        let mut peer = self.peers.swap_remove(at);
        let next = self.receive(&mut peer, &lines);
        self.peers.push(peer);
        assert_eq!(next, Next::NeedInput);
        let clock = self.now.wall.nanos();
        if !is_repair && !self.model.is_alive(&fact, clock) {
            self.relayed.insert(fact.line());
        }
        let news = is_read && self.model.offer(&fact, Source::Peer, clock);
        let news = if news { &[fact][..] } else { &[] };
        self.check_flood(&before, news, Some(link));
    }

    /// Per established link, the slots in its queue.
    fn queued(&self) -> Vec<Option<Vec<u32>>> {
        let slots = || 0..MAX_CLIENTS;
        let links = self.node.herd.links().iter();
        links
            .map(|link| {
                let flood = &link.up.as_ref()?.flood;
                Some(slots().filter(|&slot| flood.contains(Slot(slot))).collect())
            })
            .collect()
    }

    /// Checks that `news`, and nothing else, was queued for the right neighbors.
    fn check_flood(&self, before: &[Option<Vec<u32>>], news: &[Fact], from: Option<LinkId>) {
        let directory = &self.node.herd.directory;
        let slot_of = |fact: &Fact| {
            let line = fact.line();
            (0..MAX_CLIENTS).find(|&slot| directory.line(Slot(slot)) == Some(line.as_bytes()))
        };
        // A later record may have replaced an earlier one.
        let slots: Vec<u32> = news.iter().filter_map(slot_of).collect();
        let unsettled = self.now.instant < self.changes.1 + SETTLE;
        for (link, (before, after)) in before.iter().zip(self.queued()).enumerate() {
            let (Some(before), Some(after)) = (before, after) else { continue };
            let new = after.iter().filter(|slot| !before.contains(slot));
            if from == Some(LinkId(link)) {
                assert_eq!(new.count(), 0, "a record is sent back to its sender");
                continue;
            }
            assert!(
                new.into_iter().all(|slot| slots.contains(slot)),
                "a record that is not new is queued"
            );
            // Of many records that syncs recover, the neighbors learn by a comparison.
            let one_by_one = self.syncs <= FORWARD_FREELY;
            if (unsettled && one_by_one) || LinkId(link) == LEGACY {
                assert!(
                    slots.iter().all(|slot| after.contains(slot)),
                    "a new record is not queued"
                );
            }
        }
    }

    fn message(&mut self, events: &mut Events<'_>) {
        let Some(at) = self.pick_peer(events) else { return };
        if self.peers[at].link == LEGACY {
            return;
        }
        let mut line = Vec::new();
        let purpose = events.of(&[Purpose::Sync, Purpose::Check]);
        let client = events.of(&CLIENTS).as_bytes();
        let held = self.model.held.iter().find(|held| held.client.as_bytes() == client);
        let digests =
            [held.map_or(1, |held| hash(&self.node.herd.directory, held.line().as_bytes())), 7];
        let digests = &digests[events.below(2)..];
        let level = events.below(4) as u8;
        let list = (purpose, leaf(&self.node.herd.directory, client));
        let index = list.1.index() >> (4 * (LEAF_LEVEL - level));
        let branch = Branch { level, index: index as u16 };
        let kind = events.below(11);
        match kind {
            0 => {
                let hash = self.node.herd.routes().hash();
                push_ping(&mut line, 5, events.of(&[None, hash, Some(7)]));
            }
            1 => push_pong(
                &mut line,
                events.below(3) as u64,
                Wall(self.now.wall.nanos() + events.of(&[0, 9 * SECOND])),
            ),
            2 => {
                let names = [&NAMES[..], &["unknown", "another"]].concat();
                let (origin, sequence) = (events.of(&names), events.below(200) as u64);
                let version = Version { sequence, boot: BootId(events.below(3) as u64) };
                let up = names.iter().filter(|_| events.below(2) == 1).map(|name| name.as_bytes());
                push_links(&mut line, origin.as_bytes(), version, b"-", up);
            }
            3 => {
                let mut sums = self.node.herd.directory.sums().children(branch);
                sums[events.below(FANOUT)] ^= 1;
                push_sums(&mut line, purpose, branch, &sums);
            }
            4 => push_sums(&mut line, purpose, branch, &[0; FANOUT]),
            5..=7 => {
                let push = [push_listing, push_offers, push_wants][kind - 5];
                push(&mut line, list, digests, events.below(4) == 3);
            }
            8 => push_pull(&mut line, branch),
            9 => {
                let own = self.node.herd.digest_key();
                let older = DigestKey { born: own.born.saturating_sub(1), ..own };
                let newer = DigestKey { born: own.born.saturating_add(1), ..own };
                let key = events.of(&[own, own, older, newer]);
                push_key(&mut line, Announcement { key, in_use: events.below(4) < 3 });
            }
            _ => line.extend_from_slice(b"IAMAT a +1-1 5\n"),
        }
        let before = self.queued();
        let mut peer = self.peers.swap_remove(at);
        let next = self.receive(&mut peer, &line);
        self.peers.push(peer);
        self.check_flood(&before, &[], None);
        if next == Next::ShutdownWhenFlushed {
            assert_eq!(kind, 10);
            self.close(self.peers.len() - 1);
        }
    }

    fn fill(&mut self, events: &mut Events<'_>) {
        let Some(at) = self.pick_peer(events) else { return };
        let Some(link) = self.peers[at].session.link() else { return };
        let (limit, mut out) = (events.of(&[4096, 100, 300]), Vec::new());
        let Node { herd, message_log, .. } = &mut self.node;
        herd.poll_transmit(link, &self.now, &mut out, limit, message_log);
        assert!(out.len() <= limit + LONGEST_MESSAGE, "{} bytes", out.len());
        for line in out.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").expect("complete lines");
            let is_held = |line: &[u8]| {
                let Model { held, expired, .. } = &self.model;
                held.iter().chain(expired).any(|it| it.line().as_bytes() == line)
                    || self.relayed.iter().any(|it| it.as_bytes() == line)
            };
            match Message::parse(line) {
                Some(Message::Record(_)) => {
                    assert!(is_held(line), "{} is not held", line.escape_ascii());
                }
                Some(_) => {}
                None => panic!("{}", line.escape_ascii()),
            }
        }
    }

    fn close(&mut self, at: usize) {
        let mut peer = self.peers.swap_remove(at);
        peer.session.handle_closed(&mut self.node, self.now.instant);
    }

    // Time, provider and checks

    fn pass(&mut self, events: &mut Events<'_>) {
        if events.below(2) == 0 {
            let milliseconds = events.of(&[50, 1, 500, 1000, 5000, 60_000]);
            self.advance(Duration::from_millis(milliseconds));
        } else {
            let seconds: Nanos = events.of(&[1, -1, 5, -5, 61, -61, 1_000_000, -1_000_000]);
            self.now.wall.0 += seconds * SECOND;
            self.node.message_log.set_clock(self.now.wall.nanos());
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now.instant += by;
        self.now.wall.0 += by.as_nanos() as Nanos;
        let Self { node, now, .. } = self;
        node.herd.handle_timeout(now, now.instant);
        let is_later = |due: Option<Instant>| due.is_none_or(|due| due > now.instant);
        assert!(is_later(node.herd.poll_timeout()), "a timer is left overdue");
        if let Some(client) = node.places.upstream() {
            client.handle_timeout(now.instant);
            let due = client.poll_timeout();
            assert!(is_later(due), "a timer is left overdue");
        }
        self.note_changes();
        // Expired records may have been removed.
        let held: Vec<&[u8]> = self.lines().collect();
        let gone = |fact: &Fact| !held.contains(&fact.line().as_bytes());
        let (gone, kept) = self.model.held.iter().cloned().partition::<Vec<_>, _>(gone);
        assert!(gone.iter().all(|fact| !self.model.is_alive(fact, self.now.wall.nanos())));
        self.model.expired.extend(gone);
        self.model.held = kept;
    }

    fn provider(&mut self, events: &mut Events<'_>) {
        let Some(client) = self.node.places.upstream() else { return };
        let now = self.now.instant;
        if events.below(2) == 0 && !self.connecting.is_empty() {
            let id = self.connecting.remove(events.below(self.connecting.len()));
            match events.below(4) {
                0 => client.handle_failed(id, &TransportError::Connect(String::new()), now),
                _ => {
                    self.connected.push(id);
                    client.handle_connected(id, now);
                }
            }
        } else if !self.connected.is_empty() {
            let at = events.below(self.connected.len());
            let id = self.connected[at];
            match events.below(5) {
                0 => {
                    self.connected.swap_remove(at);
                    client.handle_eof(id, Eof::Clean, now);
                }
                1 => client.handle_input(id, b"HTTP/1.1 200 OK\r\nContent-Length: 1", now),
                2 => client.handle_input(id, b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", now),
                3 => client.handle_input(id, b"5\r\n\r\n{\"elements\":[]}", now),
                _ => {
                    let body = "{\"elements\":[{\"lat\":1,\"lon\":2,\"tags\":{\"name\":\"N\",\"shop\":\"s\"}}]}";
                    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                    client.handle_input(id, (head + body).as_bytes(), now);
                }
            }
        }
    }

    /// Executes the actions of the core.
    fn poll(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.node.herd.poll_action() {
            actions += 1;
            match action {
                Action::Dial(link) => {
                    assert!(!self.dials.contains(&link), "the neighbor is being dialed already");
                    self.dials.push(link);
                }
                Action::Move { .. } | Action::Finish(_) | Action::Resume(_) => {
                    panic!("no neighbor has a port for links: {action:?}")
                }
                Action::Close { connection: ConnectionId(id), .. } => {
                    let at = self.peers.iter().position(|peer| peer.id == id);
                    self.close(at.expect("the connection exists"));
                }
            }
        }
        assert!(actions <= 3 * NEIGHBORS.len());
        self.note_changes();
        if let Some(client) = self.node.places.upstream() {
            while let Some(id) = client.poll_close() {
                self.connecting.retain(|&it| it != id);
                self.connected.retain(|&it| it != id);
            }
            while let Some(id) = client.poll_connect() {
                self.connecting.push(id);
            }
            while client.poll_output(&mut Vec::new()).is_some() {}
        }
        while self.node.poll_event().is_some() {}
        while let Some(answer) = self.node.poll_answer(self.now.instant) {
            let id = answer.connection;
            let user = self
                .users
                .iter_mut()
                .find(|user| ConnectionId(user.id) == id)
                .expect("the client is connected");
            user.session.handle_answer(&mut self.node, &answer, &mut user.out);
        }
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let directory = &self.node.herd.directory;
        (0..directory.slots()).map(Slot).filter_map(|slot| directory.line(slot))
    }

    fn check(&mut self) {
        node::check(&mut self.node);
        for fact in &self.model.held {
            let line = fact.line();
            assert!(self.lines().any(|held| held == line.as_bytes()), "{line} is not held");
        }
        assert_eq!(self.lines().count(), self.model.held.len());
        for user in &self.users {
            // Replies that waited may be sent together with others.
            let waited = (LIMITS().max_pending_whatsat_per_connection + 1) * LONGEST_REPLY;
            assert!(user.out.len() <= LIMITS().max_output_buffer + waited, "{}", user.out.len());
        }
        if let Some(client) = self.node.places.upstream() {
            assert!(client.gauges(self.now.instant).waiting <= LIMITS().max_pending_whatsat);
        }
    }

    /// Notes changes of links: trees are not used for a while after them.
    fn note_changes(&mut self) {
        let counters = &self.node.herd.counters;
        let changes = counters.links_established + counters.links_lost;
        if changes != self.changes.0 {
            self.changes = (changes, self.now.instant);
        }
    }

    fn finish(mut self) {
        for at in 0..self.users.len() {
            self.answer_all(at);
        }
        while !self.peers.is_empty() {
            self.close(0);
        }
        self.check();
        assert!(self.node.herd.links().iter().all(|link| link.up.is_none()));
    }
}

/// Executes a command on the model and queues the expected reply. Returns the record if it is new.
fn execute(model: &mut Model, user: &mut User, command: Command, clock: Nanos) -> Option<Fact> {
    let mut news = None;
    let first = !std::mem::replace(&mut user.begun, true);
    let unknown = |text: &[u8]| Reply::Text([b"? ", text, b"\n"].concat());
    user.expected.extend(match command {
        Command::Iamat(fact) => {
            let fact = Fact { received: clock, ..fact };
            let reply = Reply::Text((fact.line() + "\n").into_bytes());
            news = model.offer(&fact, Source::Client, clock).then_some(fact);
            Some(reply)
        }
        Command::Whatsat(client, line) => Some(match model.get(client, clock) {
            Some(fact) => Reply::Places(fact.line()),
            None => unknown(line.as_bytes()),
        }),
        Command::Unknown(text) => {
            let text = trim(text.as_bytes());
            (!text.is_empty()).then(|| unknown(text))
        }
        Command::Http => {
            user.over = first;
            Some(unknown(b"GET / HTTP/1.1"))
        }
        Command::TooLong => {
            user.over = true;
            Some(unknown(&[&[b'x'; 64][..], b"..."].concat()))
        }
    });
    news
}

fn upstream() -> Places {
    let settings = Settings {
        provider: Provider::Overpass,
        url: "https://places.example".parse().expect("a URL"),
        key: None,
        limits: PlacesLimits { pool_size: 2, ..PlacesLimits::default() },
        seed: 1,
    };
    Places::Upstream(Box::new(Client::new(settings)))
}
