//! A connection between two nodes, from its first byte: the handshake and the messages after it.
//!
//! The first byte of the input selects which end dials, which end has which secret, and whether the
//! connection is local. The rest are lines of the other end. A line that begins with `!` stands for
//! what an honest neighbor sends at this point; pairs of bytes after the `!` select bytes of it to
//! change.
//!
//! - The outcome does not depend on how the lines are split into reads.
//! - No link is established without proof of the secret over exactly the first lines that were sent,
//!   with different settings, or from a remote address without a secret.
//! - Directory and queues are consistent after any input, and the node sends valid messages only.
//! - A connection that is not a peer's gets the replies of a client.

#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use proxy_herd::herd::anti_entropy::GRACE;
use proxy_herd::herd::directory::{MAX_RECORD, Rules};
use proxy_herd::herd::handshake::{Accepted, Handshake, MAX_HANDSHAKE_LINE, Transport};
use proxy_herd::herd::message::Message;
use proxy_herd::ids::{ConnectionId, LinkId, NodeId};
use proxy_herd::limits::Limits;
use proxy_herd::node::{Handled, Input, LineSession, Next, Node, PeerInfo};
use proxy_herd::protocol::next_field;
use proxy_herd::protocol::time::SECOND;
use proxy_herd::time::{Instant, Now, Wall};
use proxy_herd_fuzz::cuts;
use proxy_herd_fuzz::node::{self, ME, NEIGHBORS};

const MAX_LINE: usize = 128;

const NOW: Now =
    Now { instant: Instant::at(Duration::from_secs(1)), wall: Wall(1_621_464_828_223_371_889) };

/// The limit on the output of one turn, which may exceed it by [`LONGEST_MESSAGE`].
const FILL: usize = 4096;
const LONGEST_MESSAGE: usize = 4500;

const RULES: Rules =
    Rules { max_clock_offset: 5 * SECOND, max_clients: 4, client_ttl: 0, forget_keep: SECOND };

/// The configuration of both ends.
#[derive(Clone, Copy)]
struct Setting {
    /// The link that the node dials, or `None` if the other end dials.
    dials: Option<usize>,
    /// True if the node has a secret.
    secret: bool,
    /// The other end has a different secret or different settings.
    stranger: bool,
    loopback: bool,
    /// The other end has dialed the port for links only.
    links_only: bool,
}

impl Setting {
    fn of(byte: u8) -> Self {
        let bit = |at: u8| byte >> at & 1 == 1;
        let link = usize::from(bit(4)) + usize::from(bit(5));
        let dials = bit(0).then_some(link);
        let links_only = bit(7) && dials.is_none();
        Self { dials, secret: bit(1), stranger: bit(2), loopback: !bit(3), links_only }
    }

    /// The link to the node that an honest other end is.
    fn peer(self) -> usize {
        self.dials.unwrap_or(0)
    }

    fn transport(self) -> Transport {
        Transport { loopback: self.loopback, certified: None }
    }
}

/// The observable outcome of a connection.
#[derive(Debug, PartialEq)]
struct Outcome {
    sent: Vec<u8>,
    message_log: Vec<u8>,
    link: Option<LinkId>,
    next: Next,
    /// The output of the link at the end.
    output: Vec<u8>,
}

fuzz_target!(|input: &[u8]| {
    let Some((&setting, script)) = input.split_first() else { return };
    let setting = Setting::of(setting);
    let mut node = End::new(setting);
    let mut other = Other::new(setting);
    let (mut stream, mut left) = (Vec::new(), script);
    // One line per read, so that the other end can answer what the node sent.
    while !left.is_empty() {
        let end = left.iter().position(|&byte| byte == b'\n').map_or(left.len(), |at| at + 1);
        let (line, rest) = left.split_at(end);
        left = rest;
        other.read(&node.sent);
        let from = stream.len();
        other.send(line, &mut stream);
        node.read(&stream[from..], left.is_empty());
    }
    let outcome = node.finish(stream.is_empty());
    assert!(outcome.link.is_none() || !setting.links_only, "no link is up that could move");
    if outcome.link.is_some() {
        other.check_link(&stream);
    } else if setting.links_only {
        only_handshakes(&outcome.sent);
    } else if !stream.starts_with(b"HERD ") && setting.dials.is_none() {
        replies(&outcome.sent);
    }
    let again = |reads: &mut dyn Iterator<Item = usize>| {
        let (mut node, mut at) = (End::new(setting), 0);
        for end in reads {
            node.read(&stream[std::mem::replace(&mut at, end)..end], end == stream.len());
        }
        assert_eq!(node.finish(stream.is_empty()), outcome);
    };
    again(&mut cuts(&stream));
    // A line that is cut short when a link breaks must be ignored. The first line needs no LF.
    let complete = stream.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    if outcome.link.is_some() && (1..stream.len()).contains(&complete) {
        let mut node = End::new(setting);
        node.read(&stream[..complete], true);
        let without = node.finish(false);
        assert_eq!(
            (&without.message_log, &without.output),
            (&outcome.message_log, &outcome.output)
        );
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
    sent: Vec<u8>,
    next: Next,
}

impl End {
    fn new(setting: Setting) -> Self {
        let secret = setting.secret.then_some(&b"secret"[..]);
        let limits = Limits { max_line: MAX_LINE, ..Limits::default() };
        let mut node = node::node(node::identity(ME, secret, RULES), &[], node::offline(), limits);
        let label: Box<[u8]> = (*b"127.0.0.1:9").into();
        let (mut sent, transport) = (Vec::new(), setting.transport());
        let session = match setting.dials {
            Some(link) => {
                let (id, link) = (ConnectionId(7), LinkId(link));
                LineSession::dialed(&mut node, id, label, link, transport, NOW.instant, &mut sent)
            }
            None => LineSession::accepted(
                ConnectionId(7),
                PeerInfo {
                    label,
                    transport,
                    links_only: setting.links_only,
                    ..PeerInfo::default()
                },
            ),
        };
        Self { node, session, held: Vec::new(), sent, next: Next::NeedInput }
    }

    fn read(&mut self, bytes: &[u8], end: bool) {
        self.held.extend_from_slice(bytes);
        loop {
            let mut out = Vec::new();
            let input = Input { bytes: &self.held, ended: end, unsent: 0 };
            let Handled { consumed, next } =
                self.session.handle_input(&mut self.node, input, &NOW, &mut out);
            self.held.drain(..consumed);
            self.sent.extend_from_slice(&out);
            self.next = next;
            match next {
                // Its output has been sent, or its share of a turn is used up: continue.
                Next::Yielded | Next::Blocked(_) => {
                    assert!(consumed > 0 || !out.is_empty(), "it makes no progress")
                }
                Next::NeedInput => {
                    let most =
                        if self.session.link().is_some() { MAX_RECORD } else { MAX_HANDSHAKE_LINE };
                    assert!(!end && self.held.len() <= most, "{} bytes are kept", self.held.len());
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
        let (link, mut output) = (self.session.link(), Vec::new());
        if let Some(link) = link {
            self.drain(link, &mut output);
            // Missing records are requested now.
            let later = Now { instant: NOW.instant + GRACE, ..NOW };
            self.node.herd.handle_timeout(&later, later.instant);
            self.drain(link, &mut output);
        }
        node::check(&mut self.node);
        self.session.handle_closed(&mut self.node, NOW.instant);
        node::check(&mut self.node);
        Outcome { sent: self.sent, message_log, link, next: self.next, output }
    }

    /// Sends all output of the link.
    fn drain(&mut self, link: LinkId, output: &mut Vec<u8>) {
        // One turn reads a few hundred of the 65,536 leaves.
        for _ in 0..1000 {
            if !self.node.herd.has_output(link) {
                break;
            }
            let mut out = Vec::new();
            let Node { herd, message_log, .. } = &mut self.node;
            herd.poll_transmit(link, &NOW, &mut out, FILL, message_log);
            assert!(out.len() <= FILL + LONGEST_MESSAGE);
            for line in out.split_inclusive(|&byte| byte == b'\n') {
                let line = line.strip_suffix(b"\n").expect("complete lines");
                assert!(Message::parse(line).is_some(), "{}", line.escape_ascii());
            }
            output.append(&mut out);
        }
        assert!(!self.node.herd.has_output(link), "the output does not end");
    }
}

/// An honest neighbor, whose lines may be changed in transit.
struct Other {
    setting: Setting,
    identity: proxy_herd::herd::handshake::Identity,
    handshake: Option<Handshake>,
    /// Bytes of the node's output that it has read.
    read: usize,
    /// The lines that it sends, each with LF.
    lines: Vec<u8>,
    /// Bytes of `lines` that it has sent.
    sent: usize,
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
        let identity = node::identity(NEIGHBORS[setting.peer()], secret, rules);
        let mut lines = Vec::new();
        let handshake = setting.dials.is_none().then(|| {
            Handshake::dial(&identity, NodeId(ME), &[9; 16], setting.transport(), &mut lines)
        });
        Self { setting, identity, handshake, read: 0, lines, sent: 0 }
    }

    /// Reads the output of the node so far.
    fn read(&mut self, sent: &[u8]) {
        while let Some(length) = sent[self.read..].iter().position(|&byte| byte == b'\n') {
            let line = &sent[self.read..][..length];
            self.read += length + 1;
            if let Some(handshake) = &mut self.handshake {
                handshake.handle_line(&self.identity, line, &mut self.lines);
                continue;
            }
            let transport = self.setting.transport();
            let accepted =
                Handshake::accept(&self.identity, line, &[9; 16], transport, &mut self.lines);
            let Accepted::Peer(handshake, _) = accepted else { panic!("the node is a neighbor") };
            self.handshake = Some(*handshake);
        }
    }

    /// Appends what `line` of the script stands for.
    fn send(&mut self, line: &[u8], stream: &mut Vec<u8>) {
        let honest = &self.lines[self.sent..];
        let length = honest.iter().position(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        match line.strip_prefix(b"!") {
            Some(changes) if length > 0 => {
                let from = stream.len();
                stream.extend_from_slice(&honest[..length]);
                self.sent += length;
                for change in changes.trim_ascii_end().chunks_exact(2) {
                    stream[from + usize::from(change[0]) % length] ^= change[1];
                }
            }
            _ => stream.extend_from_slice(line),
        }
    }

    /// Checks that an established link is with this neighbor, and that its lines arrived unchanged.
    fn check_link(&self, stream: &[u8]) {
        let Setting { secret, stranger, loopback, .. } = self.setting;
        assert!(secret || loopback, "a remote link without a secret");
        let mut received = stream.split(|&byte| byte == b'\n');
        let mut honest = self.lines.split(|&byte| byte == b'\n');
        let mut both = || (received.next().unwrap_or_default(), honest.next().unwrap_or_default());
        let (hello, proof) = (both(), both());
        if secret {
            assert!(!stranger, "a link with a different secret");
            assert_eq!(hello.0, hello.1, "a link after a changed first line");
            // Hexadecimal digits may be of either case, and white space is any of six bytes.
            let fields = |line| fields(line).map(<[u8]>::to_ascii_uppercase).collect::<Vec<_>>();
            assert_eq!(fields(proof.0), fields(proof.1), "a link without proof");
        } else {
            let hello = [hello.0, hello.1].map(|line| fields(line).collect::<Vec<_>>());
            let number = |field: &[u8]| u64::from_str_radix(str::from_utf8(field).unwrap(), 16);
            let ours = node::identity(NEIGHBORS[self.setting.peer()], None, RULES).rules;
            let [
                word,
                version,
                from,
                to,
                _boot,
                _nonce,
                open,
                offset,
                clients,
                ttl,
                keep,
                _port,
                _next,
            ] = hello[0][..]
            else {
                panic!("the first line is not a HERD line")
            };
            assert_eq!([word, version, to, open], [&b"HERD"[..], b"2", b"Clark", b"open"]);
            let neighbors = NEIGHBORS.map(|it| node::NAMES[usize::from(it)].as_bytes());
            assert!(neighbors.contains(&from));
            assert!(self.setting.dials.is_none_or(|link| neighbors[link] == from));
            assert_eq!(number(offset), Ok(ours.max_clock_offset as u64));
            assert_eq!(number(clients), Ok(ours.max_clients.into()));
            assert_eq!(number(ttl), Ok(ours.client_ttl as u64));
            assert_eq!(number(keep), Ok(ours.forget_keep as u64));
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

/// Checks that nothing but a handshake has been sent.
fn only_handshakes(sent: &[u8]) {
    for line in sent.split_inclusive(|&byte| byte == b'\n') {
        let is_expected =
            [&b"HERD 2 "[..], b"PROOF ", b"REFUSED "].iter().any(|word| line.starts_with(word));
        assert!(is_expected, "{}", line.escape_ascii());
    }
}

/// Checks that every line sent to a client begins like a reply.
fn replies(sent: &[u8]) {
    let mut inside = false;
    for line in sent.split_inclusive(|&byte| byte == b'\n') {
        match line {
            b"{\n" if !inside => inside = true,
            b"}\n" if inside => inside = false,
            _ if inside => assert!(line.starts_with(b"  ")),
            _ => assert!(line.starts_with(b"? ") || line.starts_with(b"AT ") || line == b"\n"),
        }
    }
    assert!(!inside && (sent.is_empty() || sent.ends_with(b"\n")));
}
