//! The connection of an administrator: its handshake, and one command.

use super::{Ending, LineSession, Role};
use crate::herd::administrator::{
    Administrator, FORGET, FORGOTTEN, Standing, UNKNOWN, client_to_forget,
};
use crate::herd::handshake::{MAX_HANDSHAKE_LINE, Nonce, Transport};
use crate::node::store::Gated;
use crate::node::{Event, Node};
use crate::storage::Kind;
use crate::time::Now;

impl LineSession {
    /// Fixes the role of an accepted connection if its first line is that of an administrator.
    pub(super) fn accept_administrator(
        &mut self,
        node: &mut Node,
        line: &[u8],
        nonce: &Nonce,
        transport: &Transport,
        out: &mut Vec<u8>,
    ) -> bool {
        let identity = node.herd.identity();
        let accepted = Administrator::accept(identity, line, nonce, transport, out);
        let Some((administrator, standing)) = accepted else { return false };
        self.role = Role::Administrator(Some(Box::new(administrator)));
        self.framing.set_max_line(MAX_HANDSHAKE_LINE);
        self.on_standing(node, standing);
        true
    }

    pub(super) fn on_administrator_line(
        &mut self,
        node: &mut Node,
        line: &[u8],
        now: &Now,
        out: &mut Vec<u8>,
    ) {
        let Role::Administrator(handshake) = &mut self.role else { return };
        if let Some(handshake) = handshake {
            let standing = handshake.handle_line(node.herd.identity(), line, out);
            return self.on_standing(node, standing);
        }
        self.ending = Some(Ending::Shutdown);
        match client_to_forget(line) {
            Some(client) => self.on_forget(node, client, now, out),
            None => self.on_unknown(node, line, out),
        }
    }

    fn on_standing(&mut self, node: &mut Node, standing: Standing) {
        match standing {
            Standing::Waiting => {}
            Standing::Admitted => {
                self.role = Role::Administrator(None);
                self.framing.set_max_line(node.limits.max_line);
            }
            Standing::Refused(reason) => {
                node.counters.handshakes_refused += 1;
                let label = self.label.clone();
                node.events.push_back(Event::AdministratorRefused { label, reason });
                self.ending = Some(Ending::Shutdown);
            }
        }
    }

    fn on_forget(&mut self, node: &mut Node, client: &[u8], now: &Now, out: &mut Vec<u8>) {
        let mut tombstone = Vec::new();
        let slot = node.herd.forget(client, now.wall, &mut tombstone);
        let mut is_forgotten = slot.is_some();
        if let Some(store) = &mut node.store {
            let directory = &node.herd.directory;
            let gated = if let Some(slot) = slot {
                store.append_local(Kind::FORGET, slot, &tombstone, out.len())
            } else {
                // A command that was not confirmed is repeated: the disk lacks the tombstone.
                let erased = directory.slot(client).filter(|&slot| directory.is_tombstone(slot));
                erased.and_then(|slot| store.acknowledge(slot, out.len()))
            };
            is_forgotten |= gated.is_some();
            Gated::merge(&mut self.gated, gated);
            store.append_transitions(&node.name, node.herd.directory.fences());
        }
        let counters = &mut node.counters;
        let (count, answer) = if is_forgotten {
            (&mut counters.forgotten, FORGOTTEN)
        } else {
            (&mut counters.forget_unknown, UNKNOWN)
        };
        *count += 1;
        out.extend_from_slice(&[answer, b" ", client, b"\n"].concat());
        if node.message_log.enabled() {
            node.message_log.line(&[&self.label, b" < ", FORGET, b" ", client]);
            node.message_log.line(&[&self.label, b" > ", answer, b" ", client]);
        }
    }
}
