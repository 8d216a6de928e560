//! The handshake of an administrator, and its command.
//!
//! An administrator authenticates as a neighbor does, with the secret, a certificate of any node, or
//! by being on the same machine. Its first line is that of a node whose name is `-`, which no node can
//! have. There is no link afterwards, so settings need not agree. One command follows: `FORGET
//! <client>`, answered with `FORGOTTEN <client>` or `UNKNOWN <client>`.

use super::handshake::{
    Hello, Identity, Nonce, Opening, REFUSED, REQUIRES_TLS, Transport, VERSION, first_line,
    is_proof_of, other_version, push_proof,
};
use super::link::Origin;
use crate::protocol::fields;

/// The name of an administrator in its first line.
pub const NAME: &[u8] = b"-";

/// The command that erases a client.
pub const FORGET: &[u8] = b"FORGET";

/// The answer to [`FORGET`] if the client is erased.
pub const FORGOTTEN: &[u8] = b"FORGOTTEN";

/// The answer to [`FORGET`] if the node does not hold the client.
pub const UNKNOWN: &[u8] = b"UNKNOWN";

/// A handshake in progress, on either side.
pub struct Administrator {
    origin: Origin,
    /// First line of this side.
    mine: Vec<u8>,
    /// First line of the other side; empty until it has been received.
    theirs: Vec<u8>,
}

/// The outcome of a line of the handshake.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another line of the other side is expected.
    Waiting,
    /// The command may follow.
    Admitted,
    /// The other side is refused, or has refused, for this reason.
    Refused(String),
}

impl Administrator {
    /// Starts the handshake with the node of `identity`. Appends output to `out`.
    #[must_use]
    pub fn dial(identity: &Identity, nonce: &Nonce, out: &mut Vec<u8>) -> Self {
        let mine = first_line(identity, NAME, identity.name(identity.me), nonce);
        out.extend_from_slice(&mine);
        out.push(b'\n');
        Self { origin: Origin::Dialed, mine, theirs: Vec::new() }
    }

    /// Processes the first line of an accepted connection. Returns `None` if it is not that of an
    /// administrator. Appends output to `out`.
    #[must_use]
    pub fn accept(
        identity: &Identity,
        line: &[u8],
        nonce: &Nonce,
        transport: &Transport,
        out: &mut Vec<u8>,
    ) -> Option<(Self, Standing)> {
        let opening = Opening::parse(line).filter(|opening| opening.from == NAME)?;
        let me = identity.name(identity.me);
        let (mine, theirs) = (first_line(identity, me, NAME, nonce), line.to_vec());
        let handshake = Self { origin: Origin::Accepted, mine, theirs };
        if let Some(why) = objection(identity, line, &opening, transport) {
            out.extend_from_slice(&[REFUSED, why.as_bytes(), b"\n"].concat());
            return Some((handshake, Standing::Refused(why)));
        }
        out.extend_from_slice(&handshake.mine);
        out.push(b'\n');
        let is_proven = identity.secret.is_none();
        let standing = if is_proven { Standing::Admitted } else { Standing::Waiting };
        Some((handshake, standing))
    }

    /// Processes the next line. Appends output to `out`.
    pub fn handle_line(&mut self, identity: &Identity, line: &[u8], out: &mut Vec<u8>) -> Standing {
        if self.theirs.is_empty() {
            return self.receive_hello(identity, line, out);
        }
        let Some(secret) = &identity.secret else {
            return Standing::Refused("it sent an unexpected line".to_owned());
        };
        if !is_proof_of(secret, self.origin.other(), self.lines(), line) {
            return Standing::Refused("its proof is wrong; it has a different secret".to_owned());
        }
        if self.origin == Origin::Accepted {
            push_proof(out, secret, self.origin, self.lines());
        }
        Standing::Admitted
    }

    /// Processes the first line of the node.
    fn receive_hello(&mut self, identity: &Identity, line: &[u8], out: &mut Vec<u8>) -> Standing {
        if let Some(why) = line.strip_prefix(REFUSED) {
            return Standing::Refused(format!("it refuses: {}", why.escape_ascii()));
        }
        let Some(Opening { version, from, .. }) = Opening::parse(line) else {
            let answer = line[..line.len().min(64)].escape_ascii();
            return Standing::Refused(format!(
                "it answers \"{answer}\"; it is not a node of this release, or has too many \
                 connections"
            ));
        };
        let expected = identity.name(identity.me);
        if from != expected {
            let (from, expected) = (from.escape_ascii(), expected.escape_ascii());
            return Standing::Refused(format!("node {from} is at the address of {expected}"));
        }
        let Some(hello) = Hello::parse(line).filter(|_| version == VERSION) else {
            return Standing::Refused(other_version("it", version, VERSION));
        };
        if let Some(why) = secret_mismatch(identity, &hello, "it", "this machine") {
            return Standing::Refused(why);
        }
        line.clone_into(&mut self.theirs);
        match &identity.secret {
            Some(secret) => {
                push_proof(out, secret, self.origin, self.lines());
                Standing::Waiting
            }
            None => Standing::Admitted,
        }
    }

    /// The first lines of the administrator and the node.
    fn lines(&self) -> [&[u8]; 2] {
        match self.origin {
            Origin::Dialed => [&self.mine, &self.theirs],
            Origin::Accepted => [&self.theirs, &self.mine],
        }
    }
}

/// Returns the client in a `FORGET` command.
#[must_use]
pub fn client_to_forget(line: &[u8]) -> Option<&[u8]> {
    fields::<2>(line).filter(|[word, _]| *word == FORGET).map(|[_, client]| client)
}

/// Returns the reason for refusing an administrator, for both sides to read.
fn objection(
    identity: &Identity,
    line: &[u8],
    opening: &Opening<'_>,
    transport: &Transport,
) -> Option<String> {
    let me = identity.name(identity.me);
    let Some(hello) = Hello::parse(line).filter(|_| opening.version == VERSION) else {
        return Some(other_version("this node", VERSION, opening.version));
    };
    if opening.to != me {
        return Some(format!("this is node {}", me.escape_ascii()));
    }
    if let Some(why) = secret_mismatch(identity, &hello, "the administrator", "this node") {
        return Some(why);
    }
    let distrust = match &transport.certified {
        Some(names) if names.is_empty() => "the certificate is for no node of this herd",
        None if identity.tls => REQUIRES_TLS,
        None if identity.secret.is_none() && !transport.loopback => {
            "without a secret administrators are taken from loopback only; set HERD_SECRET or peers.tls"
        }
        _ => return None,
    };
    Some(distrust.to_owned())
}

fn secret_mismatch(identity: &Identity, hello: &Hello, they: &str, we: &str) -> Option<String> {
    if hello.has_secret == identity.secret.is_some() {
        return None;
    }
    let (has, lacks) = if hello.has_secret { (they, we) } else { (we, they) };
    Some(format!("{has} has a secret and {lacks} has none; set HERD_SECRET on both"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;
    use crate::testing;
    use ring::hmac;

    const LOOPBACK: Transport = Transport { loopback: true, certified: None };
    const REMOTE: Transport = Transport { loopback: false, certified: None };

    fn node(secret: Option<&[u8]>) -> Identity {
        let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret));
        Identity { secret, ..testing::identity(&["A", "B"], 1, &[0]) }
    }

    /// Runs the handshake. Returns the outcome on both sides.
    fn run(asking: &Identity, asked: &Identity, transport: &Transport) -> (Standing, Standing) {
        let (mut wire, mut back) = (Vec::new(), Vec::new());
        let mut administrator = Administrator::dial(asking, &[1; 16], &mut wire);
        let line = wire.trim_ascii_end();
        let (mut listener, mut at_node) =
            Administrator::accept(asked, line, &[2; 16], transport, &mut back).unwrap();
        let mut here = Standing::Waiting;
        while here == Standing::Waiting && !back.is_empty() {
            let mut to_node = Vec::new();
            let answer = std::mem::take(&mut back);
            here = administrator.handle_line(asking, answer.trim_ascii_end(), &mut to_node);
            if !to_node.is_empty() && at_node == Standing::Waiting {
                at_node = listener.handle_line(asked, to_node.trim_ascii_end(), &mut back);
            }
        }
        (here, at_node)
    }

    fn refused(standing: &Standing, why: &str) {
        let Standing::Refused(reason) = standing else { panic!("{standing:?}, not {why}") };
        assert!(reason.contains(why), "{reason}");
    }

    #[test]
    fn an_administrator_is_admitted_as_a_neighbor_would_be() {
        let both = (Standing::Admitted, Standing::Admitted);
        let secret = Some(&b"s3cret"[..]);
        assert_eq!(run(&node(None), &node(None), &LOOPBACK), both);
        assert_eq!(run(&node(secret), &node(secret), &REMOTE), both);
        // Settings of links need not agree.
        let mut other = node(secret);
        other.rules.max_clients = 7;
        assert_eq!(run(&other, &node(secret), &REMOTE), both);
        let certified = |names: &[&str]| Transport {
            loopback: false,
            certified: Some(names.iter().map(|name| name.as_bytes().to_vec()).collect()),
        };
        let over_tls = Identity { tls: true, ..node(None) };
        assert_eq!(run(&over_tls, &over_tls, &certified(&["A"])), both);
        for (asking, asked, transport, why) in [
            (node(None), node(None), REMOTE, "taken from loopback only"),
            (node(secret), node(None), LOOPBACK, "the administrator has a secret"),
            (node(None), node(secret), LOOPBACK, "this node has a secret"),
            (node(None), Identity { tls: true, ..node(None) }, LOOPBACK, "does not speak TLS"),
            (node(None), Identity { tls: true, ..node(None) }, certified(&[]), "no node of this"),
            (Identity { me: NodeId(0), ..node(None) }, node(None), LOOPBACK, "this is node B"),
        ] {
            let (here, at_node) = run(&asking, &asked, &transport);
            refused(&at_node, why);
            refused(&here, why);
        }
    }

    #[test]
    fn a_wrong_secret_is_refused_by_both_sides() {
        let (here, at_node) = run(&node(Some(b"one")), &node(Some(b"two")), &LOOPBACK);
        refused(&at_node, "different secret");
        assert_eq!(here, Standing::Waiting, "the node sends no proof");
        // A server that pretends to be the node and reflects the proof of the administrator.
        let identity = node(Some(b"one"));
        let mut sent = Vec::new();
        let mut administrator = Administrator::dial(&identity, &[1; 16], &mut Vec::new());
        let answer = first_line(&identity, b"B", NAME, &[2; 16]);
        assert_eq!(administrator.handle_line(&identity, &answer, &mut sent), Standing::Waiting);
        let reflected = sent.trim_ascii_end().to_vec();
        let standing = administrator.handle_line(&identity, &reflected, &mut sent);
        refused(&standing, "different secret");
    }

    #[test]
    fn other_first_lines_are_not_those_of_an_administrator() {
        let identity = node(None);
        let line = first_line(&identity, b"A", b"B", &[1; 16]);
        for line in [&line[..], b"FORGET k", b"HERD 2", b"HERD 2 -", b"- 2 - B"] {
            let mut out = Vec::new();
            let accepted = Administrator::accept(&identity, line, &[2; 16], &LOOPBACK, &mut out);
            assert!(accepted.is_none() && out.is_empty());
        }
        let mut out = Vec::new();
        let (_, standing) =
            Administrator::accept(&identity, b"HERD 3 - B x", &[2; 16], &LOOPBACK, &mut out)
                .unwrap();
        refused(&standing, "version 2 of the link protocol, not 3");
        assert!(out.starts_with(b"REFUSED this node speaks version 2"));
    }

    #[test]
    fn the_command_names_one_client() {
        assert_eq!(client_to_forget(b"FORGET kiwi"), Some(&b"kiwi"[..]));
        for other in ["FORGET", "FORGET a b", "forget a", "IAMAT a +1-1 5"] {
            assert_eq!(client_to_forget(other.as_bytes()), None);
        }
    }
}
