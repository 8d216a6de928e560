//! The connection of each link: which one is kept, and what follows when one comes up or is lost.

use super::link::{Connected, DIAL_RACE, Established, Origin};
use super::link_states::Ends;
use super::namesakes::Rival;
use super::{CloseReason, Herd};
use crate::ids::{BootId, ConnectionId, LinkId, NodeId};
use crate::time::Instant;

impl Herd {
    /// Handles a connection whose handshake has succeeded. Returns its link, or `None` if the link
    /// keeps its present connection and this one must be closed.
    ///
    /// If the peer has not restarted and both ends have dialed within [`DIAL_RACE`], both keep the
    /// connection that the node with the lesser name dialed. If the other end is another process with
    /// the name of a peer that is alive, the link keeps its connection. In all other cases, the new
    /// connection replaces the old one: a peer redials only after it has given the old one up.
    ///
    /// | peer | dialed by | age of the old one | kept |
    /// |---|---|---|---|
    /// | another process, and the old one silent for two pings | any | any | the new one |
    /// | another process otherwise | any | any | the old one |
    /// | same process | the same end as the old one | any | the new one |
    /// | same process | the other end | `DIAL_RACE` or more | the new one |
    /// | same process | the other end | less | the one that the lesser name dialed |
    pub fn handle_connected(&mut self, connected: Connected, now: Instant) -> Option<LinkId> {
        let Connected { peer, origin, .. } = connected;
        let id = self.link_to(peer)?;
        let link = &mut self.links[id.index()];
        if origin == Origin::Dialed {
            link.dialing = false;
        }
        if let Some(old) = &link.up {
            let preferred = if self.identity.me < peer { Origin::Dialed } else { Origin::Accepted };
            let is_race = old.boot == connected.boot
                && old.origin != origin
                && now.since(old.since()) < DIAL_RACE;
            if is_race && old.origin == preferred {
                return None;
            }
            // A process that is alive is not replaced by another one with its name.
            let last_received = old.keepalive.last_received();
            let is_alive = now.since(last_received) < self.timing.keepalive * 2;
            if old.boot != connected.boot && is_alive && !link.is_legacy() {
                self.refuse_rival(id, connected.boot, now);
                return None;
            }
            self.close_connections(id, None, CloseReason::Superseded);
            self.links[id.index()].take_down(now);
            self.resync(Ends::Lesser, now);
        }
        self.establish(id, connected, now);
        Some(id)
    }

    /// Refuses another process with the name of a neighbor that is linked.
    fn refuse_rival(&mut self, id: LinkId, boot: BootId, now: Instant) {
        let Some(up) = &mut self.links[id.index()].up else { return };
        let rival = Rival::refused(up.rival, boot, up.keepalive.last_id(), now);
        self.counters.name_conflicts += u64::from(rival.is_discovered());
        up.rival = Some(rival);
    }

    /// Returns the process that the link to `peer` uses, if that is not `boot`.
    #[must_use]
    pub fn namesake(&self, peer: NodeId, boot: BootId) -> Option<BootId> {
        let up = self.link(self.link_to(peer)?).up.as_ref()?;
        (up.boot != boot).then_some(up.boot)
    }

    /// Returns whether the last refusal made it certain that two processes have the name of `peer`.
    #[must_use]
    pub fn discovers_rival(&self, peer: NodeId) -> bool {
        let up = self.link_to(peer).and_then(|link| self.link(link).up.as_ref());
        up.and_then(|up| up.rival).is_some_and(|rival| rival.is_discovered())
    }

    /// Returns another process that advertises links under the name of this node, if there is one.
    #[must_use]
    pub fn other_self(&self, now: Instant) -> Option<BootId> {
        self.contest.other(now)
    }

    /// Starts using a connection: queues what the peer may lack.
    fn establish(&mut self, id: LinkId, connected: Connected, now: Instant) {
        let Connected { peer, boot, origin, .. } = connected;
        let mut up = Established::new(connected, now);
        if self.link(id).is_legacy() {
            up.refill = 0..self.directory.slots();
        } else {
            up.key_exchange.is_due = true;
            // One of the two ends starts the rounds.
            if self.identity.me < peer {
                up.check_at = Some(now + self.timing.antientropy_interval);
            }
        }
        let link = &mut self.links[id.index()];
        link.up = Some(up);
        // It gave way only to a connection that this node dialed, and to the same process.
        let gave_way = link.gives_way.take();
        let is_lost = gave_way.is_some_and(|old| origin == Origin::Accepted || old != boot);
        self.counters.links_lost += u64::from(is_lost);
        self.offer_link_states(id, now);
        self.release_claims(peer);
        self.counters.links_established += 1;
        self.links_changed(now);
    }

    /// Handles the loss of a connection of a link.
    ///
    /// If both ends have dialed, the peer closes the connection that is not kept, and this end may
    /// learn that before its own handshake on the other one is complete. Such a link counts as lost only
    /// if that dial fails, or the peer dials again first.
    pub fn handle_disconnected(&mut self, link: LinkId, connection: ConnectionId, now: Instant) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        if up.is_in_use(connection) {
            let boot = up.boot;
            self.close_connections(link, Some(connection), CloseReason::MoveFailed);
            let state = &mut self.links[link.index()];
            // The connection of the peer gives way only to one that the lesser name has dialed.
            let gives_way = state.dialing && self.identity.me < state.peer;
            state.gives_way = gives_way.then_some(boot);
            self.counters.links_lost += u64::from(!gives_way);
            self.take_down(link, now);
        } else if up.successor() == Some(connection) {
            up.end_move(); // the link stays
        }
    }

    /// Handles a failed dial or a refused handshake of a connection that this node dialed.
    pub fn handle_dial_failed(&mut self, link: LinkId, now: Instant) {
        let jitter = self.jitter.bits() as u8;
        let link = &mut self.links[link.index()];
        self.counters.links_lost += u64::from(link.gives_way.take().is_some());
        link.back_off(now, self.timing.redial_max, jitter);
    }

    /// Takes a link down whose connection is lost.
    pub(super) fn take_down(&mut self, id: LinkId, now: Instant) {
        let link = &mut self.links[id.index()];
        link.take_down(now);
        let (peer, dialing) = (link.peer, link.dialing);
        self.release_claims(peer);
        if !dialing {
            self.handle_dial_failed(id, now);
        }
        self.links_changed(now);
        self.resync(Ends::Lesser, now);
    }
}
