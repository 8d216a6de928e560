//! The commands of clients: IAMAT, WHATSAT, and everything else.

use super::{Ending, LineSession, Role};
use crate::geo::Point;
use crate::node::store::Gated;
use crate::node::{Event, Node, Source};
use crate::places::Question;
use crate::protocol::command::{Command, Iamat, Whatsat};
use crate::protocol::record::Record;
use crate::protocol::refusal::refusal;
use crate::protocol::reply::{push_overlong, push_unknown};
use crate::protocol::trim;
use crate::time::Now;

/// Bytes of a line over the limit that its reply and the log repeat.
const OVERLONG_SHOWN: usize = 64;

impl LineSession {
    pub(super) fn on_command(
        &mut self,
        node: &mut Node,
        line: &[u8],
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        match Command::parse(line) {
            Command::Iamat(iamat) => self.on_iamat(node, line, &iamat, now, out),
            Command::Whatsat(whatsat) => self.on_whatsat(node, line, &whatsat, now, out),
            Command::Unknown => self.on_unknown(node, line, out),
        }
    }

    fn on_iamat(
        &mut self,
        node: &mut Node,
        line: &[u8],
        iamat: &Iamat<'_>,
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        let mut reply = self.replies.sink(out);
        let source = Source { label: &self.label, address_key: self.address_key };
        let (_, gated) = node.update(source, line, iamat, now, start, &mut reply);
        Gated::merge(&mut self.gated, gated);
        reply.push(b'\n');
    }

    fn on_whatsat(
        &mut self,
        node: &mut Node,
        line: &[u8],
        whatsat: &Whatsat<'_>,
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        let Some(held) = node.herd.directory.get(whatsat.client, now.wall) else {
            return self.on_unknown(node, line, out);
        };
        let Some(location) = Record::parse(held).and_then(|record| record.location()) else {
            return self.on_unknown(node, line, out);
        };
        node.counters.whatsat += 1;
        if node.message_log.enabled() {
            node.message_log.line(&[&self.label, b" < ", trim(line)]);
        }
        let center = Point { lat: location.latitude(), lng: location.longitude() };
        let question = Question { center, radius_m: whatsat.radius_m };
        if let Some(store) = &node.store {
            let slot = || node.herd.directory.slot(whatsat.client);
            Gated::merge(&mut self.gated, store.reveal(out.len(), slot));
        }
        let mut reply = self.replies.sink(out);
        reply.extend_from_slice(held);
        reply.push(b'\n');
        match node.ask(self.id, question, whatsat.max_results, now.instant, &mut reply) {
            None => {
                reply.extend_from_slice(b"\n\n");
                if node.message_log.enabled() {
                    node.message_log.line(&[&self.label, b" > ", reply.reply()]);
                }
            }
            Some(ticket) => {
                let at_line = reply.take();
                drop(reply);
                self.replies.wait(ticket, at_line);
            }
        }
    }

    pub(super) fn on_unknown(&mut self, node: &mut Node, line: &[u8], out: &mut Vec<u8>) {
        let line = trim(line);
        if line.is_empty() {
            return;
        }
        node.counters.unknown += 1;
        if line.starts_with(b"AT") {
            node.note_undeclared_legacy(&self.label, line);
        }
        push_unknown(&mut self.replies.sink(out), line);
        if node.message_log.enabled() {
            node.message_log.line(&[&self.label, b" < ", line]);
            node.message_log.line(&[&self.label, b" invalid: ", refusal(line).as_bytes()]);
            node.message_log.line(&[&self.label, b" > ? ", line]);
        }
    }

    pub(super) fn on_overlong(&mut self, node: &mut Node, line: &[u8], out: &mut Vec<u8>) {
        if self.is_on_probation() {
            return self.refuse(out);
        }
        self.ending = Some(Ending::Shutdown);
        if self.links_only && matches!(self.role, Role::New(..)) {
            node.counters.handshakes_refused += 1;
            return;
        }
        node.counters.overlong += 1;
        match self.role {
            Role::New(..) | Role::Client | Role::LegacyPeer(_) => {
                let mut reply = self.replies.sink(out);
                push_overlong(&mut reply, line);
                let shown = &line[..line.len().min(OVERLONG_SHOWN)];
                node.message_log.line(&[&self.label, b" < ", shown, b"... (too long)"]);
                node.message_log.line(&[&self.label, b" > ", trim(reply.reply())]);
            }
            Role::Handshaking(..) | Role::Administrator(_) => node.counters.handshakes_refused += 1,
            Role::Linked(_) | Role::LegacyLink(_) => node.counters.link_errors += 1,
        }
        if matches!(self.role, Role::Handshaking(..) | Role::Linked(_) | Role::LegacyLink(_)) {
            node.events.push_back(Event::PeerLineTooLong { label: self.label.clone() });
        }
    }
}
