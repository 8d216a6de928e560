//! Connections of neighbors: the first line, the handshake, and the lines of a link.

use super::{Aim, Ending, HELLO, LineSession, Role};
use crate::herd::directory::MAX_RECORD;
use crate::herd::handshake::{Accepted, Handshake, MAX_HANDSHAKE_LINE, Progress, push_refusal};
use crate::herd::{Connected, Origin};
use crate::ids::{BootId, LinkId};
use crate::node::observer::Observers;
use crate::node::{Event, Node};
use crate::protocol::command::is_http_request_line;
use crate::time::Now;

/// The reason that the second of two processes with one name is given.
const OTHER_PROCESS: &str =
    "another process with the name of this node is linked; stop one of them";

impl LineSession {
    /// Fixes the role of an accepted connection.
    pub(super) fn on_first_line(
        &mut self,
        node: &mut Node,
        line: &[u8],
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        let Role::New(transport, legacy) = std::mem::replace(&mut self.role, Role::Client) else {
            return;
        };
        self.framing.set_max_line(node.limits.max_line);
        if line.starts_with(HELLO) {
            let nonce = node.nonces.next();
            if !self.over_limit && self.accept_administrator(node, line, &nonce, &transport, out) {
                return;
            }
            let unanswered = out.len();
            match Handshake::accept(node.herd.identity(), line, &nonce, transport, out) {
                Accepted::Peer(handshake, progress) => {
                    let aim = if self.links_only { Aim::Move(None) } else { Aim::Establish };
                    self.role = Role::Handshaking(handshake, aim);
                    self.framing.set_max_line(MAX_HANDSHAKE_LINE);
                    node.events.push_back(Event::HandshakeStarted { connection: self.id });
                    return self.on_handshake(node, progress, now, (out, unanswered));
                }
                Accepted::Client(Some(reason)) if !self.links_only => {
                    node.counters.handshakes_refused += 1;
                    let label = self.label.clone();
                    node.events.push_back(Event::NotANeighbor { label, reason });
                }
                Accepted::Client(_) => {}
            }
            if line.len() > node.limits.max_line && !self.over_limit && !self.links_only {
                return self.on_overlong(node, line, out);
            }
        }
        if self.links_only {
            node.counters.handshakes_refused += 1;
            self.ending = Some(Ending::Shutdown);
            return;
        }
        if self.over_limit {
            return self.refuse(out);
        }
        if is_http_request_line(line) {
            node.counters.http_requests += 1;
            self.on_unknown(node, line, out);
            self.ending = Some(Ending::Shutdown);
            return;
        }
        if let Some(sender) = legacy {
            self.role = Role::LegacyPeer(sender);
        }
        self.on_line(node, line, now, out);
    }

    pub(super) fn on_handshake_line(
        &mut self,
        node: &mut Node,
        line: &[u8],
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        if let Role::Handshaking(handshake, _) = &mut self.role {
            let unanswered = out.len();
            let progress = handshake.handle_line(node.herd.identity(), line, out);
            self.on_handshake(node, progress, now, (out, unanswered));
        }
    }

    /// Acts on the outcome of a handshake line. The answer is the part of `out` from `unanswered` on.
    fn on_handshake(
        &mut self,
        node: &mut Node,
        progress: Progress,
        now: &Now,
        (out, unanswered): (&mut Vec<u8>, usize),
    ) {
        let Role::Handshaking(handshake, aim) = &self.role else { return };
        let (peer, origin, aim) = (handshake.peer(), handshake.origin(), *aim);
        let label = || self.label.clone();
        match progress {
            Progress::Waiting => {}
            Progress::Established { boot, link_port, .. } => {
                let connected = Connected { connection: self.id, peer, boot, origin };
                let link = match aim {
                    Aim::Establish => node.herd.handle_connected(connected, now.instant),
                    Aim::Move(replaces) => node.herd.handle_moved(connected, replaces, now.instant),
                };
                let Some(link) = link else {
                    let linked = node.herd.namesake(peer, boot).filter(|_| aim == Aim::Establish);
                    if linked.is_some() && origin == Origin::Accepted {
                        out.truncate(unanswered);
                        push_refusal(out, OTHER_PROCESS);
                    }
                    self.on_unused(node, &connected, linked);
                    self.ending = Some(Ending::Shutdown);
                    return;
                };
                let offer = handshake.offer().copied();
                let linked: &[u8] = if aim == Aim::Establish {
                    b" linked with "
                } else {
                    b" takes over the link with "
                };
                let name = node.herd.identity().name(peer).escape_ascii().to_string();
                node.message_log.line(&[&self.label, linked, name.as_bytes()]);
                self.role = Role::Linked(link);
                // Not the limit for clients: another node may allow its own clients more.
                self.framing.set_max_line(MAX_RECORD);
                node.events.push_back(Event::Linked { connection: self.id, link });
                if let Some(offer) = offer {
                    node.herd.handle_offer(link, &offer);
                }
                if aim == Aim::Establish {
                    node.herd.handle_link_port(link, self.id, link_port);
                }
            }
            Progress::Refused(reason) => {
                self.ending = Some(Ending::Shutdown);
                let Some(link) = node.herd.link_to(peer) else { return };
                let label = label();
                if let Aim::Move(Some(_)) = aim {
                    node.events.push_back(Event::NotMoved { label, link, reason });
                } else {
                    node.counters.handshakes_refused += 1;
                    node.events.push_back(Event::HandshakeFailed { label, link, reason });
                }
            }
        }
    }

    /// Reports a connection that the link to its peer does not use. If it comes from another process than
    /// the link, `linked` is the process of the link.
    fn on_unused(&self, node: &mut Node, connected: &Connected, linked: Option<BootId>) {
        let label = self.label.clone();
        let peer = node.herd.identity().name(connected.peer).into();
        let event = match linked {
            None => Event::AlreadyLinked { label, peer },
            Some(linked) if node.herd.discovers_rival(connected.peer) => {
                Event::Namesake { label, peer, refused: connected.boot, linked }
            }
            Some(_) => return,
        };
        node.events.push_back(event);
    }

    pub(super) fn on_link_line(&mut self, node: &mut Node, link: LinkId, line: &[u8], now: &Now) {
        let Node { herd, message_log: log, store, .. } = node;
        let mut observers = Observers { log, store: store.as_mut() };
        if let Err(error) = herd.handle_line(link, self.id, line, now, &mut observers) {
            node.counters.link_errors += 1;
            let peer = node.herd.peer_name(link).into();
            let label = self.label.clone();
            node.events.push_back(Event::LinkFailed { label, peer, reason: error.to_string() });
            self.ending = Some(Ending::Shutdown);
        }
    }
}
