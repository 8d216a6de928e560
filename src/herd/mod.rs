//! The herd: who holds which record, and how nodes bring it to one another. Pure.
//!
//! [`Herd`] is the whole of it. In: [`Herd::hear`] for a client's IAMAT, [`Herd::receive`] for a
//! line of a link, [`Herd::established`], [`Herd::closed`] and [`Herd::dial_failed`] for what
//! became of connections, [`Herd::handle_timeout`] when [`Herd::poll_timeout`] says so. Out:
//! [`Herd::fill`] for the bytes a link owes, [`Herd::poll_action`] for what the shell is to do.

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

/// An edge of this node: a place in [`Herd::links`].
pub type LinkId = usize;

/// How patient links are.
#[derive(Clone, Debug)]
pub struct Timing {
    /// Between two pings.
    pub keepalive: Duration,
    /// Silence after which a link is dead.
    pub timeout: Duration,
    /// Longest pause between attempts to reach a neighbour.
    pub redial_max: Duration,
    /// Between two checks of digests on a link.
    pub antientropy_interval: Duration,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to the neighbour of this link.
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

/// This node's part of the herd.
pub struct Herd {
    identity: Identity,
    timing: Timing,
    /// The records.
    pub directory: Directory,
    routes: Routes,
    links: Vec<Link>,
    fetches: Fetches,
    /// Slots that changed since [`Herd::poll_changed`] last returned them; `None` if not watched.
    watched: Option<SlotQueue>,
    /// The link to a node, if it is a neighbour.
    link_to: Vec<Option<LinkId>>,
    actions: VecDeque<Action>,
    /// What has happened so far.
    pub counters: Counters,
    /// Whether this node's links have changed since the herd was told of them.
    changed: bool,
    /// When it may be told of them again.
    tell_at: Duration,
    /// When expired records are looked for again.
    sweep_at: Duration,
    /// Jitter of redials.
    jitter: Rng,
}

impl Herd {
    /// The herd as `identity` sees it. `seed_compatible` are those of its neighbours that are the
    /// seed's servers. Everything is dialled at once.
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

    /// Who this node is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// This node's edges.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// Who is linked with whom.
    #[must_use]
    pub const fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The name of a link's neighbour.
    #[must_use]
    pub fn peer_name(&self, link: LinkId) -> &[u8] {
        self.identity.name(self.links[link].peer)
    }

    /// The link to the node `peer`.
    #[must_use]
    pub fn link_to(&self, peer: NodeId) -> Option<LinkId> {
        self.link_to[usize::from(peer)]
    }

    /// A client of this node says where it is. News is flooded.
    pub fn hear(&mut self, record: &Record<'_>, now: Nanos) -> Offer {
        let offer = self.directory.offer(record, Source::Client, now);
        if let Offer::News(slot) = offer {
            self.forward(slot, self.identity.me, None, false);
        }
        offer
    }

    /// Takes a line of a link.
    ///
    /// # Errors
    ///
    /// What is wrong with it: the peer does not speak the protocol, and the shell closes the link.
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
        // Another connection may have taken the place of this one a moment ago.
        let up = self.links[link].up.as_mut().filter(|up| up.connection == connection);
        let Some(up) = up else { return Ok(()) };
        up.heard = now;
        let message = Message::parse(line).ok_or("it sent a line that is no message")?;
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

    /// Takes a record from the neighbour of `link`; `repair` if anti-entropy brought it.
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

    /// Queues what is in `slot` for those who are to have it from this node.
    ///
    /// Along the tree of its origin, if the record came that way; to everybody but the sender, if
    /// there is any doubt. Outside the trees, and always to get it, are servers of the seed and
    /// neighbours that are linked and have not told the herd so yet.
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
        // Of pings that come together only the last is answered, which answers those before it.
        if !(pinged..=up.pings).contains(&id) {
            return;
        }
        up.pinged = None;
        // A clock that is set meanwhile makes it wrong once.
        up.round_trip = Some(Duration::from_nanos((clock - sent).max(0) as u64));
        if up.sums_sent_at.is_some_and(|ping| ping < id) {
            up.sums_sent_at = None;
            up.exchange.not_contradicted();
        }
        // The peer's clock against ours half way between question and answer. Where between the two
        // it was read is not known: behind a long queue that may be seconds.
        let offset = theirs - (sent + clock).div_euclid(2);
        let in_doubt = (clock - sent).abs().div_euclid(2);
        let is_off = offset.abs() - in_doubt > self.identity.rules.max_clock_offset / 2;
        if is_off && !up.clock_is_off {
            self.counters.clock_offset_warnings += 1;
            log::warn!(
                "the clocks of {} and this node are {:.1} s apart, more than half of max_clock_offset; \
                 set them right: beyond max_clock_offset a node answers IAMATs and stores nothing",
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
        // Nodes that are not in this node's configuration are no part of its graph.
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

    /// The links whose neighbours take part in all this.
    fn ups(&mut self) -> impl Iterator<Item = (LinkId, &mut Up)> {
        let links = self.links.iter_mut().enumerate();
        links.filter(|(_, link)| !link.seed_compatible).filter_map(|(at, link)| {
            let up = link.up.as_mut()?;
            Some((at, up))
        })
    }

    /// Tells the link state of `origin` to all neighbours but one.
    fn tell(&mut self, origin: NodeId, but: Option<LinkId>) {
        for (_, up) in self.ups().filter(|(at, _)| but != Some(*at)) {
            up.tell.insert(origin.into());
        }
    }

    /// An edge is lost, and records may have been on their way through it: all links compare what
    /// they have.
    fn resync(&mut self) {
        for (_, up) in self.ups() {
            up.exchange.open(Purpose::Sync);
        }
    }

    /// `peer` has gone: others may be asked for what it was.
    fn release(&mut self, peer: NodeId) {
        if self.fetches.release(peer) {
            self.fetch_on();
        }
    }

    /// Links that have left something to another compare again.
    fn fetch_on(&mut self) {
        for (_, up) in self.ups() {
            up.exchange.go_on();
        }
    }

    /// A connection has become a link with `peer`. Returns the link, or `None` where the one that
    /// stands already is the better one and this connection is to be closed.
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
            // It cannot say what it lacks, and ignores what it has.
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

    /// The connection of a link is gone.
    pub fn closed(&mut self, at: LinkId, connection: ConnectionId, now: Duration) {
        let link = &mut self.links[at];
        if !link.up.as_ref().is_some_and(|up| up.connection == connection) {
            return; // another connection has taken its place
        }
        self.lose(at, now);
    }

    /// An attempt to reach the neighbour of `at` has failed, or its handshake was refused.
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

    /// This node's links have changed: the herd is to know.
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

    /// Tells the herd of this node's links, unless it has been told a moment ago.
    fn tell_changes(&mut self, now: Duration) {
        if self.changed && self.tell_at <= now {
            self.changed = false;
            self.tell_at = now + LINKS_PAUSE;
            self.tell(self.identity.me, None);
        }
    }

    /// Whether `link` has something to send.
    #[must_use]
    pub fn has_output(&self, link: LinkId) -> bool {
        self.links[link].up.as_ref().is_some_and(Up::has_output)
    }

    /// Appends what `link` owes its peer to `out`, until `out` has `limit` bytes or a little more.
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
            // Where answers take longer than pings are apart, none would be to the last one.
            up.pinged.get_or_insert((up.pings, clock));
            push_ping(out, up.pings);
        }
        while out.len() < limit {
            let Some(node) = up.tell.pop() else { break };
            let (sequence, links) = self.routes.state(node as NodeId);
            let names = links.iter().map(|&node| self.identity.name(node));
            push_links(out, self.identity.name(node as NodeId), sequence, names);
        }
        // Anti-entropy has a quarter for itself, or a stream of updates would starve it.
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

    /// When [`Herd::handle_timeout`] wants to be called.
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

    /// Does what is due. `clock` decides what has expired.
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
                    "{} has been silent for {:?}; its link is closed and dialled again",
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

    /// The next thing the shell is to do. At most a few per link are ever waiting.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}
