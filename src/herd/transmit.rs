//! The output of a link, most urgent first: digest key, keepalive, the end of a connection that the link
//! leaves, rules, link states, flooded records, anti-entropy.

use super::Herd;
use super::anti_entropy::{AntiEntropy, Context};
use super::link::{Established, Link, PeerKind};
use super::message::{push_key, push_moved, push_repair, push_rules_in_force};
use super::observer::{Observer, Sent};
use crate::ids::LinkId;
use crate::time::Now;

/// Slots that one call looks at for flooding: more than fill a buffer, unless many are free or hold
/// tombstones, which are not sent.
const SLOTS_PER_CALL: usize = 4096;

impl Herd {
    /// Returns whether `link` has output to send.
    #[must_use]
    pub fn has_output(&self, link: LinkId) -> bool {
        self.link(link).up.as_ref().is_some_and(Established::has_output)
    }

    /// Appends output of `link` until `out` has at least `limit` bytes. It is for the connection that
    /// was [`Established::connection`] before the call, and may be its last.
    pub fn poll_transmit(
        &mut self,
        link: LinkId,
        now: &Now,
        out: &mut Vec<u8>,
        limit: usize,
        observer: &mut impl Observer,
    ) {
        self.now = now.instant;
        let Some(up) = &mut self.links[link.index()].up else { return };
        // Before a pong, which would confirm sums that were ignored because the key changes.
        if std::mem::take(&mut up.key_exchange.is_due) {
            push_key(out, self.own_key.announcement());
        }
        // The hash is that of link states that the peer has, or receives before the next ping.
        let hash = if up.states.is_complete() { self.routes.hash() } else { None };
        up.keepalive.poll_transmit(hash, now.wall, out);
        if up.moved_due {
            push_moved(out);
            return self.send_on_next(link);
        }
        if std::mem::take(&mut up.rules_due) {
            push_rules_in_force(out, &self.identity.rules);
        }
        self.transmit_link_states(link, out, limit);
        // A quarter of the output is reserved for anti-entropy, which updates would otherwise
        // starve.
        let anti_entropy = self.has_anti_entropy_output(link);
        let flood_limit = if anti_entropy { limit / 4 * 3 } else { limit };
        self.transmit_flood(link, out, flood_limit, observer);
        if anti_entropy {
            self.transmit_anti_entropy(link, out, limit, observer);
        }
    }

    fn has_anti_entropy_output(&self, link: LinkId) -> bool {
        self.link(link).up.as_ref().is_some_and(|up| up.anti_entropy.has_output())
    }

    fn transmit_link_states(&mut self, link: LinkId, out: &mut Vec<u8>, limit: usize) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        while out.len() < limit {
            let Some(vertex) = up.states.pop() else { break };
            self.routes.push_state(vertex, out);
            self.counters.link_states_sent += 1;
        }
    }

    fn transmit_flood(
        &mut self,
        link: LinkId,
        out: &mut Vec<u8>,
        limit: usize,
        observer: &mut impl Observer,
    ) {
        let Link { peer, up: Some(up), kind, .. } = &mut self.links[link.index()] else { return };
        for turn in 0..SLOTS_PER_CALL {
            if out.len() >= limit {
                break;
            }
            // What is not stored cannot wait: its queue is bounded, and does not conflate.
            let line = if let Some(line) = up.relayed.pop(out) {
                line
            } else if let Some(slot) = up.next_slot(turn % 2 == 1) {
                let Some(line) = self.directory.line(slot) else { continue };
                // An original server would not understand a tombstone.
                if *kind == PeerKind::Legacy && self.directory.is_tombstone(slot) {
                    continue;
                }
                out.extend_from_slice(line);
                out.push(b'\n');
                line
            } else {
                break;
            };
            self.counters.floods_sent += 1;
            if observer.enabled() {
                observer.record_sent(self.identity.name(*peer), line, Sent::Flooded);
            }
        }
    }

    fn transmit_anti_entropy(
        &mut self,
        link: LinkId,
        out: &mut Vec<u8>,
        limit: usize,
        observer: &mut impl Observer,
    ) {
        let last_ping = self.link(link).up.as_ref().map_or(0, |up| up.keepalive.last_id());
        if let Some((anti_entropy, mut context)) = self.anti_entropy(link) {
            anti_entropy.poll_transmit(&mut context, last_ping, out, limit);
        }
        let Link { peer, up: Some(up), .. } = &mut self.links[link.index()] else { return };
        while out.len() < limit {
            let Some((purpose, slot)) = up.anti_entropy.next_repair() else { break };
            let Some(line) = self.directory.line(slot) else { continue };
            push_repair(out, purpose);
            out.extend_from_slice(line);
            out.push(b'\n');
            if observer.enabled() {
                observer.record_sent(self.identity.name(*peer), line, Sent::Repaired);
            }
        }
    }
    /// Returns anti-entropy of a link that is up, with the state of the node that it uses.
    pub(super) fn anti_entropy(&mut self, id: LinkId) -> Option<(&mut AntiEntropy, Context<'_>)> {
        let Self { links, directory, claims, now, .. } = self;
        let Link { peer, up: Some(up), .. } = &mut links[id.index()] else { return None };
        let (flooding, peer, now) = (&up.flood, *peer, *now);
        Some((&mut up.anti_entropy, Context { directory, flooding, claims, link: id, peer, now }))
    }
}
