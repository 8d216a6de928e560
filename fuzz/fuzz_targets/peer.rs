//! A connection between two nodes, from its first byte: the handshake, and what travels behind it.
//!
//! The first byte of the input says who dials, who has which secret, and over what the connection
//! runs. The rest are lines of the other end. Where one begins with `!`, the other end says what
//! an honest neighbour says here; pairs of bytes behind the `!` say where to change it, and how.
//!
//! - However the lines are cut into reads, the outcome is the same.
//! - Who does not prove the secret, over the very hellos that were sent, is never linked; nor is
//!   who has other settings, or none of the rights.
//! - Whatever a peer says, the directory and the queues are as they should be, and what the node
//!   says back are messages.
//! - Who is no peer is told what a client is told.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy_herd::herd::LinkId;
use proxy_herd::herd::anti_entropy::GRACE;
use proxy_herd::herd::directory::{MAX_RECORD, Rules};
use proxy_herd::herd::handshake::{Accepted, Handshake, MAX_HANDSHAKE_LINE, Transport};
use proxy_herd::herd::message::Message;
use proxy_herd::limits::Limits;
use proxy_herd::node::{Handled, Input, LineSession, Next, Node, PeerInfo};
use proxy_herd::protocol::next_field;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::time::{Instant, Now, Wall};
use proxy_herd_fuzz::cuts;
use proxy_herd_fuzz::node::{self, ME, NEIGHBOURS};

const MAX_LINE: usize = 128;

const NOW: Now =
    Now { instant: Instant::at(Duration::from_secs(1)), wall: Wall(1_621_464_828_223_371_889) };

/// Bytes that one call of `fill` is allowed, and what it may exceed them by.
const FILL: usize = 4096;
const LONGEST_MESSAGE: usize = 4500;

const RULES: Rules = Rules { max_clock_offset: 5 * SECOND, max_clients: 4, client_ttl: 0 };

/// How the two ends are set up.
#[derive(Clone, Copy)]
struct Setting {
    /// The link that the node dials; `None`: the other end dials.
    dials: Option<LinkId>,
    /// Whether the node has a secret.
    secret: bool,
    /// The other end's secret and settings are other ones.
    stranger: bool,
    loopback: bool,
}

impl Setting {
    fn of(byte: u8) -> Self {
        let bit = |at: u8| byte >> at & 1 == 1;
        let link = usize::from(bit(4)) + usize::from(bit(5));
        Self { dials: bit(0).then_some(link), secret: bit(1), stranger: bit(2), loopback: !bit(3) }
    }

    /// The neighbour that an honest other end is.
    fn peer(self) -> LinkId {
        self.dials.unwrap_or(0)
    }

    fn transport(self) -> Transport {
        Transport { loopback: self.loopback, certified: None }
    }
}

/// What became of it.
#[derive(Debug, PartialEq)]
struct Outcome {
    said: Vec<u8>,
    message_log: Vec<u8>,
    link: Option<LinkId>,
    next: Next,
    /// What the link owed in the end.
    owed: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let Some((&setting, script)) = input.split_first() else { return };
    let setting = Setting::of(setting);
    let mut node = End::new(setting);
    let mut other = Other::new(setting);
    let (mut stream, mut left) = (Vec::new(), script);
    // One line a read, so that the other end can answer what the node said.
    while !left.is_empty() {
        let end = left.iter().position(|&byte| byte == b'\n').map_or(left.len(), |at| at + 1);
        let (line, behind) = left.split_at(end);
        left = behind;
        other.hear(&node.said);
        let from = stream.len();
        other.speak(line, &mut stream);
        node.read(&stream[from..], left.is_empty());
    }
    let outcome = node.finish(stream.is_empty());
    if outcome.link.is_some() {
        other.may_link(&stream);
    } else if !stream.starts_with(b"HERD ") && setting.dials.is_none() {
        replies(&outcome.said);
    }
    let again = |reads: &mut dyn Iterator<Item = usize>| {
        let (mut node, mut at) = (End::new(setting), 0);
        for end in reads {
            node.read(&stream[std::mem::replace(&mut at, end)..end], end == stream.len());
        }
        assert_eq!(node.finish(stream.is_empty()), outcome);
    };
    again(&mut cuts(&stream));
    // A link that breaks within a line must not have half of it believed. A first line, which a
    // hello is, needs no LF.
    let whole = stream.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if outcome.link.is_some() && (1..stream.len()).contains(&whole) {
        let mut node = End::new(setting);
        node.read(&stream[..whole], true);
        let without = node.finish(false);
        assert_eq!((&without.message_log, &without.owed), (&outcome.message_log, &outcome.owed));
    }
    if stream.len() < 100 {
        again(&mut (1..=stream.len()));
    }
});

/// The node's end of the connection.
struct End {
    node: Node,
    session: LineSession,
    held: Vec<u8>,
    said: Vec<u8>,
    next: Next,
}

impl End {
    fn new(setting: Setting) -> Self {
        let secret = setting.secret.then_some(&b"secret"[..]);
        let limits = Limits { max_line: MAX_LINE, ..Limits::default() };
        let mut node = node::node(node::identity(ME, secret, RULES), &[], node::offline(), limits);
        let label: Box<[u8]> = (*b"127.0.0.1:9").into();
        let (mut said, transport) = (Vec::new(), setting.transport());
        let session = match setting.dials {
            Some(link) => {
                LineSession::dialed(&mut node, 7, label, link, transport, NOW.instant, &mut said)
            }
            None => LineSession::accepted(7, PeerInfo { label, transport, ..PeerInfo::default() }),
        };
        Self { node, session, held: Vec::new(), said, next: Next::NeedInput }
    }

    fn read(&mut self, bytes: &[u8], end: bool) {
        self.held.extend_from_slice(bytes);
        loop {
            let mut out = Vec::new();
            let input = Input { bytes: &self.held, ended: end, unsent: 0 };
            let Handled { consumed, next } =
                self.session.handle_input(&mut self.node, input, &NOW, &mut out);
            self.held.drain(..consumed);
            self.said.extend_from_slice(&out);
            self.next = next;
            match next {
                // Its output has been taken, or it has had its share of a turn: it goes on.
                Next::Yielded | Next::Blocked(_) => {
                    assert!(consumed > 0 || !out.is_empty(), "it waits for nothing")
                }
                Next::NeedInput => {
                    let most =
                        if self.session.link().is_some() { MAX_RECORD } else { MAX_HANDSHAKE_LINE };
                    assert!(!end && self.held.len() <= most, "{} bytes are held", self.held.len());
                    return;
                }
                Next::CloseWhenFlushed | Next::ShutdownWhenFlushed => {
                    return assert!(self.held.is_empty());
                }
            }
        }
    }

    fn finish(mut self, is_silent: bool) -> Outcome {
        if is_silent {
            self.read(b"", true);
        }
        let message_log = self.node.message_log.lines().to_vec();
        let (link, mut owed) = (self.session.link(), Vec::new());
        if let Some(link) = link {
            self.drain(link, &mut owed);
            // Suspects are asked for now.
            self.node.herd.handle_timeout(NOW.instant.uptime() + GRACE, NOW.wall.nanos());
            self.drain(link, &mut owed);
        }
        node::check(&mut self.node);
        self.session.handle_closed(&mut self.node, NOW.instant);
        node::check(&mut self.node);
        Outcome { said: self.said, message_log, link, next: self.next, owed }
    }

    /// Sends all that the link owes.
    fn drain(&mut self, link: LinkId, owed: &mut Vec<u8>) {
        // A turn looks at a few hundred of 65,536 leaves when all are wanted.
        for _ in 0..1000 {
            if !self.node.herd.has_output(link) {
                break;
            }
            let mut out = Vec::new();
            let Node { herd, message_log, .. } = &mut self.node;
            herd.fill(link, NOW.wall.nanos(), &mut out, FILL, message_log);
            assert!(out.len() <= FILL + LONGEST_MESSAGE);
            for line in out.split_inclusive(|&byte| byte == b'\n') {
                let line = line.strip_suffix(b"\n").expect("whole lines");
                assert!(Message::parse(line).is_some(), "{}", line.escape_ascii());
            }
            owed.append(&mut out);
        }
        assert!(!self.node.herd.has_output(link), "it never ends");
    }
}

/// An honest neighbour, whose words may be changed on their way.
struct Other {
    setting: Setting,
    identity: proxy_herd::herd::handshake::Identity,
    handshake: Option<Handshake>,
    heard: usize,
    /// What it says, line by line with LF.
    says: Vec<u8>,
    spoken: usize,
}

impl Other {
    fn new(setting: Setting) -> Self {
        let secret: Option<&[u8]> = match (setting.secret, setting.stranger) {
            (true, true) => Some(b"another"),
            (true, false) => Some(b"secret"),
            (false, _) => None,
        };
        let mut rules = RULES;
        if setting.stranger && !setting.secret {
            rules.max_clients += 1;
        }
        let identity = node::identity(NEIGHBOURS[setting.peer()], secret, rules);
        let mut says = Vec::new();
        let handshake = setting
            .dials
            .is_none()
            .then(|| Handshake::dial(&identity, ME, &[9; 16], setting.transport(), &mut says));
        Self { setting, identity, handshake, heard: 0, says, spoken: 0 }
    }

    /// Hears what the node has said so far.
    fn hear(&mut self, said: &[u8]) {
        while let Some(length) = said[self.heard..].iter().position(|&byte| byte == b'\n') {
            let line = &said[self.heard..][..length];
            self.heard += length + 1;
            if let Some(handshake) = &mut self.handshake {
                handshake.receive(&self.identity, line, &mut self.says);
                continue;
            }
            let transport = self.setting.transport();
            let accepted =
                Handshake::accept(&self.identity, line, &[9; 16], transport, &mut self.says);
            let Accepted::Peer(handshake, _) = accepted else { panic!("the node is a neighbour") };
            self.handshake = Some(*handshake);
        }
    }

    /// Appends what `line` of the script stands for.
    fn speak(&mut self, line: &[u8], stream: &mut Vec<u8>) {
        let honest = &self.says[self.spoken..];
        let length = honest.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        match line.strip_prefix(b"!") {
            Some(changes) if length > 0 => {
                let from = stream.len();
                stream.extend_from_slice(&honest[..length]);
                self.spoken += length;
                for change in changes.trim_ascii_end().chunks_exact(2) {
                    stream[from + usize::from(change[0]) % length] ^= change[1];
                }
            }
            _ => stream.extend_from_slice(line),
        }
    }

    /// A link stands: it must have been this neighbour, in its own words.
    fn may_link(&self, stream: &[u8]) {
        let Setting { secret, stranger, loopback, .. } = self.setting;
        assert!(secret || loopback, "from afar without a secret");
        let mut spoken = stream.split(|&byte| byte == b'\n');
        let mut honest = self.says.split(|&byte| byte == b'\n');
        let mut both = || (spoken.next().unwrap_or_default(), honest.next().unwrap_or_default());
        let (hello, proof) = (both(), both());
        if secret {
            assert!(!stranger, "with another secret");
            assert_eq!(hello.0, hello.1, "over another hello");
            // Hexadecimal digits have two forms, and white space has six.
            let fields = |line| fields(line).map(<[u8]>::to_ascii_uppercase).collect::<Vec<_>>();
            assert_eq!(fields(proof.0), fields(proof.1), "without proof");
        } else {
            let hello = [hello.0, hello.1].map(|line| fields(line).collect::<Vec<_>>());
            let number = |field: &[u8]| u64::from_str_radix(str::from_utf8(field).unwrap(), 16);
            let ours = node::identity(NEIGHBOURS[self.setting.peer()], None, RULES).rules;
            let [word, version, from, to, _boot, _nonce, offset, clients, ttl, open] = hello[0][..]
            else {
                panic!("no hello")
            };
            assert_eq!([word, version, to, open], [&b"HERD"[..], b"1", b"Clark", b"open"]);
            let neighbours = NEIGHBOURS.map(|it| node::NAMES[usize::from(it)].as_bytes());
            assert!(neighbours.contains(&from));
            assert!(self.setting.dials.is_none_or(|link| neighbours[link] == from));
            assert_eq!(number(offset), Ok(ours.max_clock_offset as u64));
            assert_eq!(number(clients), Ok(ours.max_clients.into()));
            assert_eq!(number(ttl), Ok(ours.client_ttl as u64));
        }
    }
}

fn fields(mut line: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (field, rest) = next_field(line)?;
        line = rest;
        Some(field)
    })
}

/// Every line of what a client is told begins as a reply does.
fn replies(said: &[u8]) {
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
}
