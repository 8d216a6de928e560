//! The handshake of two nodes: mutual challenge-response authentication.
//!
//! The dialing node sends the first line: `HERD 2 <from> <to> <boot> <nonce> <secret|open> <Δ>
//! <max_clients> <client_ttl> <forget_keep> <link_port> <next>`. The other node answers with its own
//! `HERD` line. Each side sees the settings of the other and decides for itself, so both sides log a
//! mismatch. If the listener refuses for a reason that the dialer cannot see, such as a wrong
//! certificate, it answers `REFUSED <reason>`. With a shared secret, the dialer then sends `PROOF
//! <hmac>`, and the listener answers with its own. Each proof is an HMAC-SHA256 (RFC 2104) over the
//! role of its sender and both `HERD` lines, which contain fresh nonces. Neither replaying another
//! handshake nor reflecting a proof succeeds.
//!
//! In all versions, the line begins with `HERD <version> <from> <to>`, so a node recognizes a
//! neighbor of another release and refuses it with `REFUSED`, which that release logs.

use ring::hmac;

use super::directory::Rules;
use super::link::Origin;
use super::message::hex as number;
use super::takeover::{Agreement, Offer, parse_rules, push_rules};
use crate::ids::{BootId, NodeId};
use crate::protocol::{fields, next_field};
use crate::text::hex;

/// Version of the link protocol. Any other version is refused.
pub const VERSION: &[u8] = b"2";

/// Keyword of the first line of a node.
const HELLO: &[u8] = b"HERD";

/// Keyword of an answer that refuses the link for a reason that the dialer cannot see.
pub(super) const REFUSED: &[u8] = b"REFUSED ";

/// The reason of a node that requires TLS for refusing a link without it.
pub const REQUIRES_TLS: &str = "it does not speak TLS; set peers.tls on both sides";

/// The answer of a server that does not know the handshake, such as the original one, or that does
/// not know this version.
const UNKNOWN: &[u8] = b"? HERD ";

/// Maximum length of a handshake line in bytes. The longest has about 350: two names of 64 bytes, and
/// 16 hexadecimal digits for each number.
pub const MAX_HANDSHAKE_LINE: usize = 512;

/// A nonce of 128 random bits, the size that RFC 4086 §8 recommends for keys.
pub type Nonce = [u8; 16];

/// The identity and settings of a node, which are the same in all its handshakes.
pub struct Identity {
    /// Names of all nodes, sorted; a [`NodeId`] is an index into this list.
    pub names: Vec<Box<[u8]>>,
    /// Id of this node.
    pub me: NodeId,
    /// Ids of its neighbors.
    pub neighbors: Vec<NodeId>,
    /// Settings that must be identical on all nodes.
    pub rules: Rules,
    /// Rules that this node announces for the future, if any.
    pub next: Option<Rules>,
    /// Port of the listener for links only; 0 if there is none.
    pub link_port: u16,
    /// The shared secret, if the herd has one.
    pub secret: Option<hmac::Key>,
    /// True if links require TLS.
    pub tls: bool,
    /// Boot id, which changes on every restart.
    pub boot: BootId,
}

impl Identity {
    /// Returns the name of `node`.
    #[must_use]
    pub fn name(&self, node: NodeId) -> &[u8] {
        &self.names[node.index()]
    }

    /// Returns the rules that this node will follow, as its link state announces them.
    #[must_use]
    pub fn announcement(&self) -> Vec<u8> {
        let mut field = Vec::new();
        push_rules(&mut field, &self.next.unwrap_or(self.rules), ',');
        field
    }

    /// Returns the node named `name`.
    #[must_use]
    pub fn node(&self, name: &[u8]) -> Option<NodeId> {
        self.names.binary_search_by(|held| (**held).cmp(name)).ok().map(|at| NodeId(at as u16))
    }
}

/// Properties of the connection on which a handshake runs.
#[derive(Clone, Debug, Default)]
pub struct Transport {
    /// True if both ends are on this machine.
    pub loopback: bool,
    /// Names in the certificate of the peer, if the link uses TLS.
    pub certified: Option<Vec<Vec<u8>>>,
}

/// A handshake in progress.
pub struct Handshake {
    /// First line of this node.
    mine: Vec<u8>,
    /// First line of the peer; empty until it has been received.
    theirs: Vec<u8>,
    origin: Origin,
    /// The node that was dialed, or that the dialing peer claims to be.
    peer: NodeId,
    boot: BootId,
    /// The peer's port for links only; 0 if it has none.
    link_port: u16,
    /// The rules of the peer, once its first line has been received.
    offer: Option<Offer>,
    transport: Transport,
}

/// The outcome of a handshake line.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another line of the peer is expected.
    Waiting,
    /// The link is established.
    Established {
        /// The peer's node id.
        peer: NodeId,
        /// Boot id of the peer process.
        boot: BootId,
        /// Port of the peer's listener for links only; 0 if it has none.
        link_port: u16,
    },
    /// The link is refused for this reason. Appended output must still be sent.
    Refused(String),
}

/// The outcome of the first line of an accepted connection.
pub enum Accepted {
    /// The connection is that of a client. If the line resembles a handshake, contains the reason
    /// for not accepting it.
    Client(Option<String>),
    /// A handshake of a neighbor.
    Peer(Box<Handshake>, Progress),
}

impl Handshake {
    /// Starts the handshake on a connection that this node dialed. Appends output to `out`.
    #[must_use]
    pub fn dial(
        identity: &Identity,
        peer: NodeId,
        nonce: &Nonce,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Self {
        let mine = hello(identity, peer, nonce);
        out.extend_from_slice(&mine);
        out.push(b'\n');
        let (theirs, origin) = (Vec::new(), Origin::Dialed);
        Self { mine, theirs, origin, peer, boot: BootId(0), link_port: 0, offer: None, transport }
    }

    /// Processes the first line of an accepted connection. Appends output to `out`.
    #[must_use]
    pub fn accept(
        identity: &Identity,
        line: &[u8],
        nonce: &Nonce,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> Accepted {
        let Some(Opening { version, from, to }) = Opening::parse(line) else {
            return Accepted::Client(None);
        };
        let hello_line = Hello::parse(line);
        if hello_line.is_none() && version == VERSION {
            return Accepted::Client(None);
        }
        let stranger = |why: &str| {
            let name = String::from_utf8_lossy(from).into_owned();
            Accepted::Client(Some(format!("a peer named {name:?} {why}")))
        };
        if to != identity.name(identity.me) {
            return stranger("dialed a different node; its address of that node leads here");
        }
        let Some(peer) = identity.node(from) else {
            return stranger("is not in this herd; add it to the configuration of this node");
        };
        if !identity.neighbors.contains(&peer) {
            return stranger("is not a neighbor of this node");
        }
        let mut handshake = Self {
            mine: hello(identity, peer, nonce),
            theirs: line.to_vec(),
            origin: Origin::Accepted,
            peer,
            boot: BootId(0),
            link_port: 0,
            offer: None,
            transport,
        };
        let Some(hello_line) = hello_line else {
            // The peer cannot parse this node's line, but every version logs the reason.
            let told = other_version("this node", VERSION, version);
            push_refusal(out, &told);
            let why = other_version("it", version, VERSION);
            return Accepted::Peer(Box::new(handshake), Progress::Refused(why));
        };
        (handshake.boot, handshake.link_port) = (hello_line.boot, hello_line.link_port);
        handshake.offer = Some(hello_line.offer);
        let disagreement = Self::disagreement(identity, &hello_line);
        let distrust = handshake.distrust(identity);
        match (&disagreement, distrust) {
            (None, Some(why)) => out.extend_from_slice(&[REFUSED, why.as_bytes()].concat()),
            _ => out.extend_from_slice(&handshake.mine),
        }
        out.push(b'\n');
        let progress = match disagreement.or_else(|| distrust.map(str::to_owned)) {
            Some(why) => Progress::Refused(why),
            None if identity.secret.is_some() => Progress::Waiting,
            None => handshake.established(),
        };
        Accepted::Peer(Box::new(handshake), progress)
    }

    /// Returns the peer's node id.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.peer
    }

    /// Returns which end dialed.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// Returns the rules of the peer, once its first line has been received.
    #[must_use]
    pub const fn offer(&self) -> Option<&Offer> {
        self.offer.as_ref()
    }

    /// Processes the next line. Appends output to `out`.
    pub fn handle_line(&mut self, identity: &Identity, line: &[u8], out: &mut Vec<u8>) -> Progress {
        if self.origin == Origin::Dialed
            && let Some(why) = line.strip_prefix(REFUSED)
        {
            return Progress::Refused(format!("it refused this node: {}", why.escape_ascii()));
        }
        if self.theirs.is_empty() {
            return self.receive_hello(identity, line, out);
        }
        let Some(secret) = &identity.secret else {
            return Progress::Refused("it sent an unexpected line".to_owned());
        };
        if !is_proof_of(secret, self.origin.other(), self.lines(), line) {
            return Progress::Refused("its proof is wrong; it has a different secret".to_owned());
        }
        if self.origin == Origin::Accepted {
            push_proof(out, secret, self.origin, self.lines());
        }
        self.established()
    }

    fn receive_hello(&mut self, identity: &Identity, line: &[u8], out: &mut Vec<u8>) -> Progress {
        let unknown = || {
            let answer = String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned();
            let mut why =
                format!("it does not accept this node as a neighbor; it answered {answer:?}");
            if line.starts_with(UNKNOWN) {
                let name = identity.name(self.peer).escape_ascii();
                let hint = format!(
                    ". If {name} runs an older release, upgrade it; if it is an original server, \
                     list it in peers.seed_compatible"
                );
                why.push_str(&hint);
            }
            Progress::Refused(why)
        };
        let Some(Opening { version, from, to }) = Opening::parse(line) else { return unknown() };
        if from != identity.name(self.peer) || to != identity.name(identity.me) {
            let name = String::from_utf8_lossy(from).into_owned();
            return Progress::Refused(format!(
                "{name:?} answers at its address; correct `hosts` or `ports`"
            ));
        }
        if version != VERSION {
            return Progress::Refused(other_version("it", version, VERSION));
        }
        let Some(hello_line) = Hello::parse(line) else { return unknown() };
        line.clone_into(&mut self.theirs);
        (self.boot, self.link_port) = (hello_line.boot, hello_line.link_port);
        self.offer = Some(hello_line.offer);
        let distrust = || self.distrust(identity).map(str::to_owned);
        if let Some(why) = Self::disagreement(identity, &hello_line).or_else(distrust) {
            return Progress::Refused(why);
        }
        match &identity.secret {
            Some(secret) => {
                push_proof(out, secret, self.origin, self.lines());
                Progress::Waiting
            }
            None => self.established(),
        }
    }

    fn established(&self) -> Progress {
        let Self { peer, boot, link_port, .. } = *self;
        Progress::Established { peer, boot, link_port }
    }

    /// Returns a mismatch of settings between this node and the sender of `hello_line`. Both sides
    /// detect it.
    fn disagreement(identity: &Identity, hello_line: &Hello) -> Option<String> {
        let ours = Offer { rules: identity.rules, next: identity.next };
        match ours.agreement(&hello_line.offer) {
            Agreement::Crossed => {
                return Some(
                    "limits.next of each node announces the settings of the other; remove one of them"
                        .to_owned(),
                );
            }
            Agreement::Same | Agreement::TakeOver | Agreement::PeerTakesOver => {}
            Agreement::Different => {
                let why = Self::difference(&ours.rules, &hello_line.offer.rules);
                if why.is_some() {
                    return why;
                }
            }
        }
        if hello_line.has_secret != identity.secret.is_some() {
            let (has, lacks) =
                if hello_line.has_secret { ("it", "this node") } else { ("this node", "it") };
            return Some(format!(
                "{has} has a secret and {lacks} has none; set HERD_SECRET on both"
            ));
        }
        None
    }

    /// Returns the first difference between the rules of this node and those of a peer.
    fn difference(ours: &Rules, theirs: &Rules) -> Option<String> {
        let differ = |what: &str, theirs: i128, ours: i128| {
            (theirs != ours).then(|| {
                format!("its {what} is {theirs}, here it is {ours}; make them the same in the whole herd")
            })
        };
        let clients = [theirs.max_clients, ours.max_clients].map(i128::from);
        differ("max_clock_offset in ns", theirs.max_clock_offset, ours.max_clock_offset)
            .or_else(|| differ("max_clients", clients[0], clients[1]))
            .or_else(|| differ("client_ttl in ns", theirs.client_ttl, ours.client_ttl))
            .or_else(|| differ("forget_keep in ns", theirs.forget_keep, ours.forget_keep))
    }

    /// Returns the reason not to trust the connection on which the handshake runs.
    fn distrust(&self, identity: &Identity) -> Option<&'static str> {
        let name = identity.name(self.peer);
        match &self.transport.certified {
            Some(certified) if !certified.iter().any(|certified| certified == name) => {
                Some("its certificate is for another name")
            }
            None if identity.tls => Some(REQUIRES_TLS),
            None if identity.secret.is_none() && !self.transport.loopback => Some(
                "without a secret peers are taken from loopback only; set HERD_SECRET or peers.tls",
            ),
            _ => None,
        }
    }

    /// The first lines of the dialer and the listener.
    fn lines(&self) -> [&[u8]; 2] {
        match self.origin {
            Origin::Dialed => [&self.mine, &self.theirs],
            Origin::Accepted => [&self.theirs, &self.mine],
        }
    }
}

/// Returns the message that a proof authenticates, for the proof of the dialer or the listener.
fn transcript(prover: Origin, [first, second]: [&[u8]; 2]) -> Vec<u8> {
    let role: &[u8] = match prover {
        Origin::Dialed => b"dialler",
        Origin::Accepted => b"listener",
    };
    [role, first, second].join(&b'\n')
}

/// Appends the proof of `prover` for a handshake with these first lines.
pub(super) fn push_proof(out: &mut Vec<u8>, secret: &hmac::Key, prover: Origin, lines: [&[u8]; 2]) {
    let tag = hmac::sign(secret, &transcript(prover, lines));
    out.extend_from_slice(b"PROOF ");
    hex::push(out, tag.as_ref());
    out.push(b'\n');
}

/// Returns whether `line` is the proof of `prover` for a handshake with these first lines.
pub(super) fn is_proof_of(
    secret: &hmac::Key,
    prover: Origin,
    lines: [&[u8]; 2],
    line: &[u8],
) -> bool {
    let proof = fields::<2>(line).filter(|[word, _]| word == b"PROOF").and_then(|f| unhex(f[1]));
    // `verify` compares in constant time.
    proof.is_some_and(|proof| hmac::verify(secret, &transcript(prover, lines), &proof).is_ok())
}

/// The part of a first line that is the same in all versions.
pub(super) struct Opening<'a> {
    pub version: &'a [u8],
    pub from: &'a [u8],
    pub to: &'a [u8],
}

impl<'a> Opening<'a> {
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (word, rest) = next_field(line).filter(|_| line.len() <= MAX_HANDSHAKE_LINE)?;
        let (version, rest) = next_field(rest)?;
        let (from, rest) = next_field(rest)?;
        let (to, _) = next_field(rest)?;
        let is_version = version.len() <= 4 && version.iter().all(u8::is_ascii_digit);
        (word == HELLO && is_version).then_some(Self { version, from, to })
    }
}

/// Appends the answer that refuses a link for a reason that the dialer cannot see. It takes the place
/// of the listener's last line.
pub fn push_refusal(out: &mut Vec<u8>, reason: &str) {
    out.extend_from_slice(&[REFUSED, reason.as_bytes(), b"\n"].concat());
}

/// A parsed first line of this version.
pub(super) struct Hello {
    boot: BootId,
    pub has_secret: bool,
    offer: Offer,
    /// The peer's port for links only; 0 if it has none.
    link_port: u16,
}

impl Hello {
    pub fn parse(line: &[u8]) -> Option<Self> {
        let [_, version, _, _, boot, nonce, secret, offset, clients, ttl, keep, port, next] =
            fields::<13>(line)?;
        let is_valid = version == VERSION && unhex(nonce)?.len() == size_of::<Nonce>();
        is_valid.then_some(())?;
        let next = match next {
            b"-" => None,
            next => Some(parse_rules(next.split(|&byte| byte == b','))?),
        };
        let rules = parse_rules([offset, clients, ttl, keep].into_iter())?;
        Some(Self {
            boot: BootId(number(boot)?),
            has_secret: match secret {
                b"secret" => true,
                b"open" => false,
                _ => return None,
            },
            offer: Offer { rules, next },
            link_port: number(port)?.try_into().ok()?,
        })
    }
}

fn hello(identity: &Identity, to: NodeId, nonce: &Nonce) -> Vec<u8> {
    first_line(identity, identity.name(identity.me), identity.name(to), nonce)
}

/// Returns the first line of `from` in a handshake with `to`, with the settings of `identity`.
pub(super) fn first_line(identity: &Identity, from: &[u8], to: &[u8], nonce: &Nonce) -> Vec<u8> {
    let mut line = [HELLO, VERSION, from, to].join(&b' ');
    line.push(b' ');
    hex::push(&mut line, &identity.boot.0.to_be_bytes());
    line.push(b' ');
    hex::push(&mut line, nonce);
    line.extend_from_slice(if identity.secret.is_some() { b" secret " } else { b" open " });
    push_rules(&mut line, &identity.rules, ' ');
    line.push(b' ');
    hex::push(&mut line, &identity.link_port.to_be_bytes());
    line.push(b' ');
    match &identity.next {
        Some(next) => push_rules(&mut line, next, ','),
        None => line.push(b'-'),
    }
    line
}

/// Returns the reason for refusing a node that speaks another version of the protocol.
pub(super) fn other_version(who: &str, theirs: &[u8], ours: &[u8]) -> String {
    let (theirs, ours) = (theirs.escape_ascii(), ours.escape_ascii());
    format!("{who} speaks version {theirs} of the link protocol, not {ours}; run the same release")
}

fn unhex(field: &[u8]) -> Option<Vec<u8>> {
    if field.len() > 128 { None } else { hex::parse(field) }
}

#[cfg(test)]
mod tests;
