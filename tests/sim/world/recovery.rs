//! Judging whether the herd has recovered after the end of the faults.

use std::time::Duration;

use proxy_herd::herd::anti_entropy::GRACE;
use proxy_herd::herd::link::{DIAL_TIMEOUT, HANDSHAKE_TIMEOUT};
use proxy_herd::herd::link_states::LINKS_PAUSE;
use proxy_herd::herd::routes::SETTLE;
use proxy_herd::herd::{Counters, Herd};
use proxy_herd::protocol::time::{Nanos, SECOND};

use super::{AHEAD_PATIENCE, EPOCH, Event, Phase, World, derived, named_host, seconds};
use crate::fences::{self, Changes};
use crate::schedule::{MILLISECOND, SECONDS, Schedule, Time, When};

impl World {
    /// Ends all faults: every machine runs and every edge that is not cut for good works.
    pub(super) fn quiet(&mut self) {
        self.trace.line(self.now, || "the faults are over".to_owned());
        self.blocked.retain(|_, until| *until == Time::MAX);
        for host in 0..self.hosts.len() {
            self.start(host);
            if self.schedule.are_clocks_set() {
                // Nodes with different clocks disagree about which records are alive.
                self.hosts[host].clock_offset = 0;
            }
        }
        self.oracle.quiet(EPOCH * SECOND + Nanos::from(self.now));
        self.phase = Phase::Converging;
        self.at(self.now, Event::Poll);
    }

    /// The bound of property L2: a reconnect and an exchange of digests.
    fn convergence_bound(&self) -> Time {
        let Schedule { timing, network, .. } = &self.schedule;
        let millis = |duration: Duration| duration.as_nanos() as Time;
        // A dead link is detected and dialed again, and an attempt may fail in the handshake.
        let reconnect = millis(timing.timeout)
            + millis(DIAL_TIMEOUT + HANDSHAKE_TIMEOUT)
            + millis(timing.redial_max)
            + 4 * self.schedule.flood_time();
        // The longest exchange: down four levels, a listing, a request, the records, and their flood
        // to the far end of the herd.
        // Before that, an older key of the digests may come from the far end.
        let hops = 14 + 2 * self.schedule.diameter as Time;
        let mut exchange = 2 * hops * (network.latency.1 + network.jitter);
        if self.schedule.is_volatile() {
            // What is not alive is removed by a sweep. What was rejected, or what the sender does not
            // hold, is recovered by the next check only.
            let sweep = 2 * SECONDS + AHEAD_PATIENCE.as_nanos() as Time;
            exchange += sweep + millis(timing.antientropy_interval + GRACE);
        }
        if self.schedule.expires() {
            let rules = &self.schedule.rules;
            let times = [rules.client_ttl, rules.forget_keep].map(|time| time as Time);
            for ttl in times.into_iter().filter(|&ttl| ttl <= 10 * SECONDS) {
                // A record may have replaced an older one on a node with a wrong clock and expire now.
                // The next check recovers the older one from the nodes that kept it.
                exchange += ttl + millis(timing.antientropy_interval + GRACE);
            }
            if self.schedule.is_capped() {
                // An expired record does not make room on all nodes at the same moment.
                exchange += self.schedule.rules.client_ttl as Time;
            }
        }
        let volume = self.schedule.clients.len() as Time * 400 + self.schedule.nodes as Time * 2000;
        let per_second =
            network.window as Time * SECONDS / (network.latency.1 + network.jitter).max(1);
        let transfer = volume * SECONDS / per_second.max(1);
        // Updates may follow the last fault.
        let updates = self.schedule.last_step_at.saturating_sub(self.schedule.quiet_at);
        reconnect + exchange + 4 * transfer + SECONDS + updates
    }

    pub(super) fn poll(&mut self) {
        let since = self.now - self.schedule.quiet_at;
        match self.phase {
            Phase::Converging if self.now <= self.schedule.last_step_at => {}
            Phase::Converging => {
                let remaining = self.schedule.remaining();
                let nodes: Vec<(usize, Nanos)> =
                    remaining.into_iter().map(|at| (at, self.clocks(at).wall.nanos())).collect();
                let converged = self
                    .oracle
                    .converged(&nodes)
                    .and_then(|()| self.missing_in_original().map_or(Ok(()), Err));
                match converged {
                    Ok(()) => {
                        self.trace.line(self.now, || "all nodes hold the same".to_owned());
                        self.report.converged_after = since;
                        self.report.bound_used_percent = since * 100 / self.convergence_bound();
                        self.phase = Phase::Settling { since: self.now };
                    }
                    Err(why) if since > self.convergence_bound() => {
                        self.fail(format!("L2: {} after the faults: {why}", seconds(since)));
                    }
                    Err(_) => {}
                }
            }
            Phase::Settling { since } => self.settle(since),
            Phase::Probing { until, .. } if self.now >= until => self.judge_probe(),
            Phase::Probing { .. } | Phase::Faults | Phase::Done => {}
        }
        self.at(self.now + 50 * MILLISECOND, Event::Poll);
    }

    /// Waits until links and routes are at rest, then sends an update whose messages are counted.
    fn settle(&mut self, since: Time) {
        let timing = &self.schedule.timing;
        // A link state may be advertised a pause after the last change.
        let settle = (SETTLE + LINKS_PAUSE).as_nanos() as Time
            + 3 * (self.schedule.flood_time() + self.narrow_delay())
            + 50 * MILLISECOND;
        let reconnect = timing.timeout + DIAL_TIMEOUT + HANDSHAKE_TIMEOUT + timing.redial_max;
        // Link states may have been delayed until the end of the faults.
        let moved = self.last_relink.max(self.schedule.quiet_at).max(self.graph_changed_at());
        let relinked = self.schedule.quiet_at + reconnect.as_nanos() as Time;
        let wrong = self.wrong_graph();
        if self.now < moved + settle || !self.is_linked() || wrong.is_some() {
            if self.now > since.max(relinked) + 2 * settle + self.graph_repair_bound() {
                let linked = self.is_linked();
                self.fail(
                    wrong.unwrap_or_else(|| {
                        format!("links do not come to rest; all linked: {linked}")
                    }),
                );
            }
            return;
        }
        // Where a record has expired earlier than elsewhere, an older one with a later receive time takes its
        // place.
        if self.schedule.calm && !self.schedule.is_volatile() && self.repairs() > 0 {
            return self.fail(format!("{} repairs without a fault", self.repairs()));
        }
        if self.schedule.calm
            && let Some(why) = self.bounced_record()
        {
            return self.fail(why);
        }
        if self.probes_left == 0 {
            let ping = timing.keepalive.as_nanos() as Time;
            let rested = self.updated_at + self.schedule.flood_time() + fences::REST;
            if self.now > rested.max(moved + 2 * ping + self.clock_tolerance()) {
                self.check_at_rest();
                self.phase = Phase::Done;
            }
            return;
        }
        self.report.graph_true_after =
            self.graph_changed_at().saturating_sub(self.schedule.quiet_at);
        self.probes_left -= 1;
        let node = self.rng.pick(&self.schedule.remaining());
        let client = self.rng.index(self.schedule.clients.len());
        let (floods, repairs, bytes) =
            (self.floods(), self.repairs(), self.traffic().records.bytes);
        // The way to an original server is one hop more.
        let hop = MILLISECOND + self.schedule.network.jitter;
        let until = self.now + self.schedule.flood_time() + self.narrow_delay() + hop + MILLISECOND;
        if let Some(record) = self.update(node, client, When::Off(0)) {
            let since = self.now;
            self.phase = Phase::Probing { since, until, floods, repairs, bytes, record };
            self.at(until, Event::Poll);
        }
    }

    /// The additional delay of a record caused by a small window.
    fn narrow_delay(&self) -> Time {
        if self.schedule.network.window >= 4096 {
            return 0;
        }
        let hop = self.schedule.network.latency.1 + self.schedule.network.jitter;
        hop * 20 * self.schedule.diameter as Time
    }

    /// Checks a herd at rest: every connection is a link, and wrong clocks have been detected.
    fn check_at_rest(&mut self) {
        if let Err(why) = self.check_keys() {
            return self.fail(why);
        }
        for at in self.schedule.remaining() {
            let now = self.clocks(at);
            let clock = now.wall.nanos();
            let host = &self.hosts[at];
            let Some(node) = &host.node else { continue };
            let directory = &node.herd.directory;
            let stayed = directory.fences().map_or(Ok(0), |it| self.stay.check(at, it, clock));
            let stays_wrong = self.schedule.calm && self.schedule.is_volatile();
            let changes = if stays_wrong { Changes::Repaired(now.instant) } else { Changes::Over };
            match fences::check(directory, changes).and(stayed) {
                Ok(transitions) => self.report.transitions += transitions,
                Err(why) => return self.fail(format!("n{at:02}: {why}")),
            }
            let links = node.herd.links().iter().filter(|link| link.up.is_some()).count();
            let is_link = |&&wire: &&usize| {
                let end = &self.wires[wire].ends[self.end_of(wire, at)];
                end.session.as_ref().is_some_and(|session| session.link().is_some())
            };
            let open = host.wires.iter().filter(is_link).count();
            if open != links {
                return self.fail(format!("n{at:02} has {open} connections for {links} links"));
            }
            for (link, up) in node.herd.links().iter().filter_map(|l| Some((l, l.up.as_ref()?))) {
                if link.is_legacy() {
                    continue;
                }
                let peer = named_host(node, link.peer);
                let moved = self.wires[up.connection.0 as usize].replaces.is_some();
                if self.schedule.calm && moved != (self.schedule.link_port() != 0) {
                    return self.fail(format!("the link of n{at:02} and n{peer:02} has not moved"));
                }
                let theirs = self.hosts[peer].clock_offset;
                let off = (theirs - host.clock_offset).abs();
                let (most, about) =
                    (self.schedule.rules.max_clock_offset / 2, Nanos::from(self.clock_tolerance()));
                let wrong = if up.clock_is_off() { off < most - about } else { off > most + about };
                if wrong {
                    let reported = up.clock_is_off();
                    let why = format!(
                        "the clocks of n{at:02} and n{peer:02} differ by {off} ns, reported: {reported}"
                    );
                    return self.fail(why);
                }
            }
        }
    }

    /// Checks that all nodes use the same key of the digests, that no node has proposed an older one,
    /// and that all links compare digests under it.
    fn check_keys(&self) -> Result<(), String> {
        let remaining = self.schedule.remaining();
        let hosts: Vec<_> = remaining.iter().map(|&at| (at, &self.hosts[at])).collect();
        let herds: Vec<&Herd> =
            hosts.iter().filter_map(|(_, host)| Some(&host.node.as_ref()?.herd)).collect();
        let key = herds[0].digest_key();
        let derived = derived(key, self.schedule.secret);
        for ((at, host), herd) in hosts.iter().zip(&herds) {
            let directory = &herd.directory;
            if directory.is_rekeying() || directory.digest_key() != derived {
                return Err(format!("n{at:02} does not use the key of its herd"));
            }
            if herd.digest_key() != key || host.proposed.is_none_or(|own| own < key) {
                let own = herd.digest_key();
                return Err(format!("n{at:02} uses {own:?} and has proposed {:?}", host.proposed));
            }
            let links = herd.links().iter().filter(|link| !link.is_legacy());
            let mut up = links.filter_map(|link| link.up.as_ref());
            if up.any(|up| up.anti_entropy.is_equal().is_none()) {
                return Err(format!("n{at:02} has not compared digests with a neighbor"));
            }
            self.oracle.check_digests(*at, directory)?;
        }
        Ok(())
    }

    /// The error of a node's estimate of another clock: up to a round trip.
    fn clock_tolerance(&self) -> Time {
        let way = self.schedule.network.latency.1 + self.schedule.network.jitter;
        2 * way + 2 * self.narrow_delay() + 10 * MILLISECOND
    }

    /// The bound of property L1: the time until all nodes hold a record if nothing fails. At each hop,
    /// it may wait for the output that is ready already, for a record of every other client, and for
    /// other messages.
    pub(super) fn busy_flood_time(&self) -> Time {
        let Schedule { network, clients, .. } = &self.schedule;
        if network.window >= 4096 {
            return self.schedule.flood_time();
        }
        let records = clients.len() * 110;
        let waiting = records + records.min(network.send_limit + 110) + 700;
        let windows = 2 + waiting.div_ceil(network.window) as Time;
        self.schedule.flood_time() * windows
    }

    /// Checks that the update reached every node, each once, and none by a repair.
    fn judge_probe(&mut self) {
        let Phase::Probing { since, floods, repairs, bytes, record, .. } = self.phase else {
            return;
        };
        self.report.probes += 1;
        self.phase = Phase::Settling { since: self.now };
        let rules = self.schedule.rules;
        if !self.schedule.is_capped() {
            self.due(record, since);
        }
        let (sent, repaired) = (self.floods() - floods, self.repairs() - repairs);
        let nodes = self.schedule.remaining().len() - 1;
        let expected = (nodes + self.links_to_originals().count()) as u64;
        // An original server may be faster than the tree, and the record is then flooded.
        let is_bridged = self.schedule.originals.iter().any(|neighbors| neighbors.len() > 1);
        let most: u64 = self.hosts.iter().map(|host| host.degree).sum();
        if let Some(why) = self.missing_in_original() {
            self.fail(why);
        }
        // The record may expire in transit.
        let lasts = rules.client_ttl == 0 || rules.client_ttl > Nanos::from(10 * SECONDS);
        let as_expected = if is_bridged { sent <= most } else { sent == expected };
        if !as_expected && lasts {
            self.fail(format!("an update was sent {sent} times, not {expected}"));
        }
        let line = self.oracle.line(record).len() as u64 + 1;
        // A record that a check recovered just before, because another expired, may be forwarded meanwhile.
        if self.traffic().records.bytes - bytes != sent * line && repaired == 0 && lasts {
            let bytes = self.traffic().records.bytes - bytes;
            self.fail(format!("an update of {line} bytes cost {bytes} bytes"));
        }
        if repaired > 0 && !self.schedule.is_volatile() {
            self.fail(format!("{repaired} repairs long after the last fault"));
        }
    }

    pub(super) fn counters(&self) -> impl Iterator<Item = Counters> {
        self.hosts.iter().filter_map(|host| Some(host.node.as_ref()?.herd.counters))
    }

    fn floods(&self) -> u64 {
        self.counters().map(|counters| counters.floods_sent).sum()
    }

    pub(super) fn repairs(&self) -> u64 {
        self.counters().map(|counters| counters.antientropy_repairs).sum()
    }
}
