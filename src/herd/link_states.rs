//! Link states: which links each node advertises, and how the herd learns of changes.

use super::Herd;
use super::link::Link;
use super::routes::{LINKS_PAUSE, LsaOutcome};
use crate::ids::{LinkId, NodeId};
use crate::protocol::next_field;
use crate::time::Instant;

/// The advertisement of this node's own links, at most one per [`LINKS_PAUSE`].
pub(super) struct Advertisement {
    /// True if the links have changed since they were last advertised.
    is_due: bool,
    /// The earliest time of the next advertisement.
    not_before: Instant,
}

impl Advertisement {
    pub(super) const fn new(now: Instant) -> Self {
        Self { is_due: false, not_before: now }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.is_due.then_some(self.not_before)
    }

    /// Claims the advertisement that is due at `now`, if one is.
    fn take(&mut self, now: Instant) -> bool {
        if !self.is_due || now < self.not_before {
            return false;
        }
        *self = Self { is_due: false, not_before: now + LINKS_PAUSE };
        true
    }
}

impl Herd {
    /// Handles the link state of `origin` received on `link`. `names` are separated by spaces.
    pub(super) fn handle_link_state(
        &mut self,
        link: LinkId,
        origin: &[u8],
        sequence: u64,
        mut names: &[u8],
        now: Instant,
    ) {
        // Nodes that are not configured here are not part of the graph.
        let Some(origin) = self.identity.node(origin) else { return };
        if self.routes.knows(origin, sequence) {
            return;
        }
        let mut up = Vec::new();
        while let Some((name, rest)) = next_field(names) {
            up.extend(self.identity.node(name));
            names = rest;
        }
        match self.routes.apply_link_state(origin, sequence, up, now) {
            LsaOutcome::Stale => {}
            LsaOutcome::Accepted { lost_edge } => {
                self.advertise(origin, Some(link));
                if lost_edge {
                    self.resync();
                }
            }
            LsaOutcome::Own => self.advertise(origin, None),
        }
    }

    /// Queues the link state of `origin` for all neighbors except that of `except`.
    fn advertise(&mut self, origin: NodeId, except: Option<LinkId>) {
        for (_, up) in self.herd_peers().filter(|(id, _)| except != Some(*id)) {
            up.pending_link_states.insert(origin.index());
        }
    }

    /// Updates the graph after a change of the links of this node.
    pub(super) fn links_changed(&mut self, now: Instant) {
        let is_up = |link: &&Link| link.up.is_some() && !link.is_legacy();
        let up = self.links.iter().filter(is_up).map(|link| link.peer).collect();
        if self.routes.set_own_links(up, now) {
            self.resync();
        }
        self.advertisement.is_due = true;
        self.advertise_changes(now);
    }

    /// Advertises the links of this node if they have changed.
    pub(super) fn advertise_changes(&mut self, now: Instant) {
        if self.advertisement.take(now) {
            self.advertise(self.identity.me, None);
        }
    }
}
