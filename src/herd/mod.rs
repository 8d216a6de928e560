//! Replication: stores the newest record of every client and exchanges records with other nodes.
//! Pure.
//!
//! [`Herd`] is a state machine. Input: [`Herd::hear`] for an IAMAT of a client, [`Herd::receive`]
//! for a line of a link, [`Herd::established`], [`Herd::closed`] and [`Herd::dial_failed`] for the
//! state of connections, and [`Herd::handle_timeout`] at the time of [`Herd::poll_timeout`].
//! Output: [`Herd::fill`] for the bytes to send on a link, and [`Herd::poll_action`] for
//! connections to dial or close.

pub mod anti_entropy;
pub mod digest;
pub mod directory;
pub mod eviction;
pub mod fetch_claims;
pub mod handshake;
pub mod link;
pub mod message;
pub mod queue;
pub mod routes;
mod slots;
#[cfg(test)]
mod tests;

use core::time::Duration;
use std::collections::VecDeque;

use anti_entropy::Context;
use directory::{Directory, Keys, Offer, Slot, Source};
use fetch_claims::Fetches;
use handshake::Identity;
use link::{ConnectionId, DIAL_RACE, Link, Up};
use message::{Message, Purpose, push_links, push_ping, push_pong, push_repair};
use queue::SlotQueue;
use routes::{Heard, LINKS_PAUSE, NodeId, Routes};

use crate::counters::counters;
use crate::message_log::MessageLog;
use crate::protocol::next_field;
use crate::protocol::record::Record;
use crate::protocol::time::Nanos;
use crate::rng::Rng;

/// Slots examined for expired records in one sweep.
const SWEEP_SLOTS: u32 = 20_000;

/// Pause between two sweeps: a directory of a million clients is examined in five seconds.
const SWEEP_INTERVAL: Duration = Duration::from_millis(100);

/// An edge of this node: an index into [`Herd::links`].
pub type LinkId = usize;

/// Times of links.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Interval between pings.
    pub keepalive: Duration,
    /// Silence after which a link is closed.
    pub timeout: Duration,
    /// Maximum pause between redials.
    pub redial_max: Duration,
    /// Interval between digest checks on a link.
    pub antientropy_interval: Duration,
}

/// An action that the event loop must perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dial the neighbor of this link.
    Dial(LinkId),
    /// Close this connection.
    Close(ConnectionId),
}

counters! {
    /// Monotonic counters of the herd since start-up.
    Counters {
        updates_flooded_total: "Records sent to peers because they were new." { floods_sent }
        updates_received_total: "Records received, by source." {
            floods_received (source = "peer"):
                "Records received from peers, without those that anti-entropy recovered.",
        }
        updates_stale_total: "Records received that were not new, by source." {
            floods_duplicate (source = "peer"):
                "Records from peers that were already held, or older than the one held.",
        }
        updates_repaired_total: "Records recovered by a digest comparison, by kind of round." {
            antientropy_repairs (round = "check"):
                "Records recovered by a periodic comparison; stays 0 without faults.",
            link_sync_records (round = "sync"):
                "Records recovered after a link came up or routes changed.",
        }
        links_established_total: "Links established." { links_established }
        links_lost_total: "Links lost." { links_lost }
        links_timed_out_total: "Links closed because the peer was silent for too long." {
            links_timed_out
        }
        clock_offset_warnings_total:
            "Times that a peer's clock was found to be off by more than half of Δ." {
            clock_offset_warnings
        }
    }
    derived {
        updates_stored_total: "Records received that were new and stored, by source." {
            (source = "peer"): "Records from peers that were stored."
                = |counters| counters.floods_received - counters.floods_duplicate,
        }
    }
}

/// The replication state of this node.
pub struct Herd {
    identity: Identity,
    timing: Timing,
    /// The stored records.
    pub directory: Directory,
    routes: Routes,
    links: Vec<Link>,
    fetches: Fetches,
    /// Slots that changed since [`Herd::poll_changed`] last returned them; `None` if not watched.
    watched: Option<SlotQueue>,
    /// Link by node id, for neighbors.
    link_to: Vec<Option<LinkId>>,
    actions: VecDeque<Action>,
    /// Counters of replication.
    pub counters: Counters,
    /// Whether the links of this node have changed since they were last advertised.
    changed: bool,
    /// When they may be advertised again.
    tell_at: Duration,
    /// Time of the next sweep for expired records.
    sweep_at: Duration,
    /// Jitter of redials.
    jitter: Rng,
}

impl Herd {
    /// Creates the state of the node `identity`, which dials all neighbors at once.
    /// `seed_compatible` lists the neighbors that are original servers.
    #[must_use]
    pub fn new(
        identity: Identity,
        seed_compatible: &[NodeId],
        timing: Timing,
        keys: Keys,
        now: Duration,
    ) -> Self {
        let mut link_to = vec![None; identity.names.len()];
        let links: Vec<Link> = identity
            .neighbours
            .iter()
            .enumerate()
            .map(|(at, &peer)| {
                link_to[usize::from(peer)] = Some(at);
                Link::new(peer, seed_compatible.contains(&peer), now)
            })
            .collect();
        Self {
            timing,
            directory: Directory::new(identity.rules, keys),
            routes: Routes::new(identity.me, identity.names.len(), now),
            links,
            fetches: Fetches::default(),
            watched: None,
            link_to,
            actions: VecDeque::new(),
            counters: Counters::default(),
            changed: false,
            tell_at: now,
            sweep_at: now,
            jitter: Rng::new(identity.boot),
            identity,
        }
    }

    /// Returns the identity of this node.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the links to all neighbors.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Returns the graph of the herd.
    #[must_use]
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Returns the name of the neighbor of a link.
    #[must_use]
    pub fn peer_name(&self, link: LinkId) -> &[u8] {
        self.identity.name(self.links[link].peer)
    }

    /// Returns the link to the node `peer`, if it is a neighbor.
    #[must_use]
    pub fn link_to(&self, peer: NodeId) -> Option<LinkId> {
        self.link_to[usize::from(peer)]
    }

    /// Applies an update received from a local client, and floods it if it is newer.
    pub fn hear(&mut self, record: &Record<'_>, now: Nanos) -> Offer {
        let offer = self.directory.offer(record, Source::Client, now);
        if let Offer::News(slot) = offer {
            self.forward(slot, self.identity.me, None, false);
        }
        offer
    }

    /// Processes a line received on a link.
    ///
    /// # Errors
    ///
    /// A protocol error, which is the reason for which the link must be closed.
    pub fn receive(
        &mut self,
        link: LinkId,
        connection: ConnectionId,
        line: &[u8],
        now: Duration,
        clock: Nanos,
        message_log: &mut MessageLog,
    ) -> Result<(), &'static str> {
        let peer = self.links[link].peer;
        // Another connection may have replaced this one in the meantime.
        let up = self.links[link].up.as_mut().filter(|up| up.connection == connection);
        let Some(up) = up else { return Ok(()) };
        up.heard = now;
        let message = Message::parse(line).ok_or("it sent a line that is not a valid message")?;
        let repair = up.repair.take();
        match message {
            Message::Record(record) => {
                self.receive_record(link, &record, repair, clock, message_log)
            }
            Message::Repair(purpose) => up.repair = Some(purpose),
            Message::Ping(id) => up.pong = Some(id),
            Message::Pong(id, theirs) => self.compare_clocks(link, id, theirs, clock),
            Message::Links { origin, sequence, up } => {
                self.receive_links(link, origin, sequence, up, now);
            }
            other => {
                let (directory, fetches) = (&self.directory, &mut self.fetches);
                let context = &mut Context { directory, flooding: &up.flood, fetches, peer, now };
                up.exchange.receive(&other, context);
            }
        }
        Ok(())
    }

    /// Starts to record which slots change.
    pub fn watch(&mut self) {
        self.watched = Some(SlotQueue::default());
    }

    /// Stops recording changes and drops those that were not polled.
    pub fn unwatch(&mut self) {
        self.watched = None;
    }

    /// Whether changes are recorded.
    #[must_use]
    pub const fn is_watched(&self) -> bool {
        self.watched.is_some()
    }

    /// Number of slots that [`Herd::poll_changed`] will return.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.watched.as_ref().map_or(0, SlotQueue::len)
    }

    /// Returns the next slot that has changed, each once however often it has changed since.
    pub fn poll_changed(&mut self) -> Option<Slot> {
        self.watched.as_mut()?.pop()
    }

    /// Records a change of `slot`, if changes are recorded.
    pub(crate) fn mark_changed(&mut self, slot: Slot) {
        if let Some(watched) = &mut self.watched {
            watched.push(slot);
        }
    }

    /// Applies a record received on `link`; `repair` is set if anti-entropy sent it.
    pub fn receive_record(
        &mut self,
        link: LinkId,
        record: &Record<'_>,
        repair: Option<Purpose>,
        clock: Nanos,
        message_log: &mut MessageLog,
    ) {
        let offer = self.directory.offer(record, Source::Peer, clock);
        let counters = &mut self.counters;
        match (repair, offer) {
            (None, _) => counters.floods_received += 1,
            (Some(Purpose::Sync), Offer::News(_)) => counters.link_sync_records += 1,
            (Some(Purpose::Check), Offer::News(_)) => counters.antientropy_repairs += 1,
            (Some(_), _) => {}
        }
        if repair.is_none() && !matches!(offer, Offer::News(_)) {
            counters.floods_duplicate += 1;
        }
        if message_log.enabled() {
            let note: &[u8] = if matches!(offer, Offer::News(_)) { b"" } else { b" (not news)" };
            message_log.line(&[self.peer_name(link), b" < ", record.line, note]);
        }
        if let Offer::News(slot) = offer {
            if repair.is_some() {
                self.fetches.brought(self.links[link].peer);
            }
            let origin = self.identity.node(record.server).unwrap_or(NodeId::MAX);
            self.forward(slot, origin, Some(link), repair.is_some());
        }
    }

    /// Queues `slot` for the neighbors to which this node must forward it.
    ///
    /// A record that arrived along the tree of its origin is forwarded along that tree, and any
    /// other record to all neighbors except the sender. Original servers, and neighbors that have
    /// not advertised their link yet, are not part of any tree and receive every record.
    fn forward(&mut self, slot: Slot, origin: NodeId, from: Option<LinkId>, repaired: bool) {
        self.mark_changed(slot);
        let parent = from.map(|link| self.links[link].peer);
        let tree = self.routes.tree(origin).filter(|tree| tree.parent == parent && !repaired);
        if let Some(tree) = tree {
            for &child in &tree.children {
                if let Some(link) = self.link_to[usize::from(child)] {
                    self.links[link].owe(slot);
                }
            }
        }
        let flood = tree.is_none();
        for (at, link) in self.links.iter_mut().enumerate() {
            let is_sender = from == Some(at);
            let outside = link.seed_compatible || !self.routes.has_edge(link.peer);
            if (flood || outside) && !is_sender {
                link.owe(slot);
            }
        }
    }

    fn compare_clocks(&mut self, link: LinkId, id: u64, theirs: Nanos, clock: Nanos) {
        let Some(up) = &mut self.links[link].up else { return };
        let Some((pinged, sent)) = up.pinged else { return };
        // Only the last of several pings received together is answered, which answers all of them.
        if !(pinged..=up.pings).contains(&id) {
            return;
        }
        up.pinged = None;
        // Wrong once if the wall clock is stepped in between.
        up.round_trip = Some(Duration::from_nanos((clock - sent).max(0) as u64));
        if up.sums_sent_at.is_some_and(|ping| ping < id) {
            up.sums_sent_at = None;
            up.exchange.not_contradicted();
        }
        // The offset assumes that the peer read its clock halfway between ping and pong. The real
        // time is unknown within the round trip, which takes seconds if a long queue delays the
        // ping.
        let offset = theirs - (sent + clock).div_euclid(2);
        let uncertainty = (clock - sent).abs().div_euclid(2);
        let is_off = offset.abs() - uncertainty > self.identity.rules.max_clock_offset / 2;
        if is_off && !up.clock_is_off {
            self.counters.clock_offset_warnings += 1;
            log::warn!(
                "the clocks of {} and this node are {:.1} s apart, more than half of max_clock_offset; \
                 synchronize them: beyond max_clock_offset, updates are answered but not stored",
                self.identity.name(self.links[link].peer).escape_ascii(),
                offset as f64 / 1e9
            );
        }
        if let Some(up) = &mut self.links[link].up {
            up.clock_is_off = is_off;
        }
    }

    fn receive_links(
        &mut self,
        link: LinkId,
        origin: &[u8],
        sequence: u64,
        mut names: &[u8],
        now: Duration,
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
        match self.routes.hear(origin, sequence, up, now) {
            Heard::Old => {}
            Heard::New { lost } => {
                self.tell(origin, Some(link));
                if lost {
                    self.resync();
                }
            }
            Heard::Mine => self.tell(origin, None),
        }
    }

    /// Returns the established links to neighbors that implement the herd protocol.
    fn ups(&mut self) -> impl Iterator<Item = (LinkId, &mut Up)> {
        let links = self.links.iter_mut().enumerate();
        links.filter(|(_, link)| !link.seed_compatible).filter_map(|(at, link)| {
            let up = link.up.as_mut()?;
            Some((at, up))
        })
    }

    /// Queues the link state of `origin` for all neighbors except that of `but`.
    fn tell(&mut self, origin: NodeId, but: Option<LinkId>) {
        for (_, up) in self.ups().filter(|(at, _)| but != Some(*at)) {
            up.tell.insert(origin.into());
        }
    }

    /// Starts a sync on all links, because an edge was lost that may have had records in flight.
    fn resync(&mut self) {
        for (_, up) in self.ups() {
            up.exchange.open(Purpose::Sync);
        }
    }

    /// Releases the fetch claims of `peer` after its connection has changed.
    fn release(&mut self, peer: NodeId) {
        if self.fetches.release(peer) {
            self.fetch_on();
        }
    }

    /// Resumes links that have left records to another link.
    fn fetch_on(&mut self) {
        for (_, up) in self.ups() {
            up.exchange.go_on();
        }
    }

    /// Registers a connection whose handshake with `peer` has succeeded. Returns the link, or
    /// `None` if the existing connection is kept and this one must be closed.
    ///
    /// If the peer has not restarted and both ends have dialed within [`DIAL_RACE`], the connection
    /// dialed by the node with the lesser name is kept, so that both ends keep the same one. In all
    /// other cases, the new connection replaces the old one: a peer only redials after it has given
    /// the old one up.
    pub fn established(
        &mut self,
        connection: ConnectionId,
        peer: NodeId,
        boot: u64,
        dialled: bool,
        now: Duration,
    ) -> Option<LinkId> {
        let at = self.link_to(peer)?;
        let lesser_dials = |dialled: bool| dialled == (self.identity.me < peer);
        let link = &mut self.links[at];
        if dialled {
            link.dialling = false;
        }
        if let Some(up) = &link.up {
            let race = up.boot == boot
                && up.dialled != dialled
                && now.saturating_sub(up.since) < DIAL_RACE;
            if race && lesser_dials(up.dialled) {
                return None;
            }
            self.actions.push_back(Action::Close(up.connection));
            link.take_down(now);
        }
        let mut up = Up::new(connection, boot, dialled, now);
        if link.seed_compatible {
            // An original server cannot request records, and ignores those that it has.
            for slot in 0..self.directory.slots() {
                up.flood.push(slot);
            }
        } else {
            for node in 0..self.identity.names.len() {
                if self.routes.state(node as NodeId).0 > 0 {
                    up.tell.insert(node);
                }
            }
            if self.identity.me < peer {
                up.exchange.open(Purpose::Sync);
                up.check_at = Some(now + self.timing.antientropy_interval);
            }
        }
        link.up = Some(up);
        self.release(peer);
        self.counters.links_established += 1;
        self.links_changed(now);
        Some(at)
    }

    /// Handles the loss of the connection of a link.
    pub fn closed(&mut self, at: LinkId, connection: ConnectionId, now: Duration) {
        let link = &mut self.links[at];
        if !link.up.as_ref().is_some_and(|up| up.connection == connection) {
            return; // another connection has replaced it
        }
        self.lose(at, now);
    }

    /// Handles a failed dial or a refused handshake.
    pub fn dial_failed(&mut self, at: LinkId, now: Duration) {
        let jitter = self.jitter.bits() as u8;
        self.links[at].back_off(now, self.timing.redial_max, jitter);
    }

    fn lose(&mut self, at: LinkId, now: Duration) {
        self.links[at].take_down(now);
        self.release(self.links[at].peer);
        self.counters.links_lost += 1;
        if !self.links[at].dialling {
            self.dial_failed(at, now);
        }
        self.links_changed(now);
    }

    /// Updates the graph after a change of the links of this node.
    fn links_changed(&mut self, now: Duration) {
        let up = self
            .links
            .iter()
            .filter(|link| link.up.is_some() && !link.seed_compatible)
            .map(|link| link.peer)
            .collect();
        if self.routes.set_mine(up, now) {
            self.resync();
        }
        self.changed = true;
        self.tell_changes(now);
    }

    /// Advertises the links of this node, at most once per [`LINKS_PAUSE`].
    fn tell_changes(&mut self, now: Duration) {
        if self.changed && self.tell_at <= now {
            self.changed = false;
            self.tell_at = now + LINKS_PAUSE;
            self.tell(self.identity.me, None);
        }
    }

    /// Returns whether `link` has output to send.
    #[must_use]
    pub fn has_output(&self, link: LinkId) -> bool {
        self.links[link].up.as_ref().is_some_and(Up::has_output)
    }

    /// Appends output of `link` until `out` has at least `limit` bytes. Order: pong, ping, link
    /// states, flooded records, anti-entropy.
    pub fn fill(
        &mut self,
        link: LinkId,
        clock: Nanos,
        out: &mut Vec<u8>,
        limit: usize,
        message_log: &mut MessageLog,
    ) {
        let peer = self.links[link].peer;
        let Some(up) = &mut self.links[link].up else { return };
        if let Some(id) = up.pong.take() {
            push_pong(out, id, clock);
        }
        if std::mem::take(&mut up.ping) {
            up.pings += 1;
            // Measure from the oldest unanswered ping: if the round trip exceeds the ping interval,
            // no pong would answer the last one.
            up.pinged.get_or_insert((up.pings, clock));
            push_ping(out, up.pings);
        }
        while out.len() < limit {
            let Some(node) = up.tell.pop() else { break };
            let (sequence, links) = self.routes.state(node as NodeId);
            let names = links.iter().map(|&node| self.identity.name(node));
            push_links(out, self.identity.name(node as NodeId), sequence, names);
        }
        // A quarter of the output is reserved for anti-entropy, which updates would otherwise
        // starve.
        let flood_limit = if up.exchange.has_output() { limit / 4 * 3 } else { limit };
        while out.len() < flood_limit {
            let Some(slot) = up.flood.pop() else { break };
            if let Some(line) = self.directory.line(slot) {
                out.extend_from_slice(line);
                out.push(b'\n');
                self.counters.floods_sent += 1;
                if message_log.enabled() {
                    message_log.line(&[self.identity.name(peer), b" > ", line]);
                }
            }
        }
        if up.exchange.has_output() {
            if up.exchange.fill(&self.directory, &up.flood, out, limit) {
                up.sums_sent_at = Some(up.pings);
            }
            let purpose = up.exchange.repairs_for.unwrap_or(Purpose::Check);
            while out.len() < limit {
                let Some(slot) = up.exchange.repairs.pop() else { break };
                if let Some(line) = self.directory.line(slot) {
                    push_repair(out, purpose);
                    out.extend_from_slice(line);
                    out.push(b'\n');
                    if message_log.enabled() {
                        message_log.line(&[self.identity.name(peer), b" > ", line, b" (repair)"]);
                    }
                }
            }
        }
    }

    /// Returns when [`Herd::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        let of_link = |link: &Link| match &link.up {
            Some(_) if link.seed_compatible => None,
            Some(up) => [
                Some(up.ping_at),
                Some(up.heard + self.timing.timeout),
                up.check_at,
                up.exchange.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .min(),
            None => (!link.dialling).then_some(link.next_dial),
        };
        let sweep = (self.directory.rules().client_ttl > 0).then_some(self.sweep_at);
        let changes = self.changed.then_some(self.tell_at);
        let links = self.links.iter().filter_map(of_link);
        let others = [self.routes.poll_timeout(), self.fetches.poll_timeout(), sweep, changes];
        links.chain(others.into_iter().flatten()).min()
    }

    /// Performs what is due. `clock` is the wall clock, which determines expiry.
    pub fn handle_timeout(&mut self, now: Duration, clock: Nanos) {
        self.routes.handle_timeout(now);
        self.tell_changes(now);
        if self.fetches.handle_timeout(now) {
            self.fetch_on();
        }
        if self.sweep_at <= now {
            self.sweep_at = now + SWEEP_INTERVAL;
            self.directory.sweep(clock, SWEEP_SLOTS);
        }
        for at in 0..self.links.len() {
            let link = &mut self.links[at];
            let Some(up) = &mut link.up else {
                if !link.dialling && link.next_dial <= now {
                    link.dialling = true;
                    self.actions.push_back(Action::Dial(at));
                }
                continue;
            };
            if link.seed_compatible {
                continue;
            }
            if up.heard + self.timing.timeout <= now {
                self.actions.push_back(Action::Close(up.connection));
                self.counters.links_timed_out += 1;
                log::warn!(
                    "{} has been silent for {:?}; closing the link and redialing",
                    self.identity.name(link.peer).escape_ascii(),
                    self.timing.timeout
                );
                self.lose(at, now);
                continue;
            }
            if up.ping_at <= now {
                up.ping = true;
                up.ping_at = now + self.timing.keepalive;
            }
            up.exchange.handle_timeout(&self.directory, now);
            if up.check_at.is_some_and(|due| due <= now) {
                up.check_at = Some(now + self.timing.antientropy_interval);
                if up.exchange.is_idle() {
                    up.exchange.open(Purpose::Check);
                }
            }
        }
    }

    /// Returns the next action for the event loop. Only a few per link are ever queued.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
