//! Deadlines: when the herd must be called again, and what is due then.

use core::time::Duration;

use super::fetch_claims::Release;
use super::link::Link;
use super::link_states::Ends;
use super::message::Purpose;
use super::relay::relay_queued;
use super::{Action, CloseReason, Event, Herd};
use crate::ids::LinkId;
use crate::time::{Instant, Now};

/// Slots examined in one sweep, which takes about two milliseconds.
const SWEEP_SLOTS: u32 = 20_000;

/// Steps of an adaptation of the directory to other rules, each of which takes about a microsecond.
const ADAPTATION_STEPS: u32 = 1_000;

/// Pause between two slices of an adaptation: a million clients are evicted in ten seconds.
const ADAPTATION_INTERVAL: Duration = Duration::from_millis(10);

impl Herd {
    /// Returns when [`Herd::handle_timeout`] must be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let of_link = |link: &Link| match &link.up {
            Some(_) if link.is_legacy() => None,
            Some(up) => {
                let (states, moved) = (up.states.poll_timeout(), up.move_deadline());
                let others = [up.check_at, up.anti_entropy.poll_timeout(), moved, states];
                let keepalive = up.keepalive.poll_timeout(self.timing.timeout);
                others.into_iter().flatten().chain([keepalive]).min()
            }
            None => (!link.dialing).then_some(link.next_dial),
        };
        let links = self.links.iter().filter_map(of_link);
        let others = [
            self.routes.poll_timeout(),
            self.claims.poll_timeout(),
            self.advertisement.poll_timeout(),
            self.resync.poll_timeout(),
            self.catch_up.poll_timeout(),
            Some(self.sweep_at),
            self.directory.is_adapting().then_some(self.adapt_at),
            self.own_key.poll_timeout(),
            self.directory.poll_fences(),
            self.lenient_until,
            self.pending_rules().map(|_| self.recheck_at),
        ];
        links.chain(others.into_iter().flatten()).min()
    }

    /// Performs all work that is due. Everything that had arrived before `collected` has been handled;
    /// whether a link is silent is decided by that time, since later lines may be unread.
    pub fn handle_timeout(&mut self, now: &Now, collected: Instant) {
        self.now = now.instant;
        if self.routes.handle_timeout(now.instant) {
            self.advertise_again(now.instant);
        }
        self.advertise_changes(now.instant);
        if self.catch_up.handle_timeout(now.instant) {
            self.resync(Ends::This, now.instant);
        }
        self.resync_if_due(now.instant);
        match self.claims.handle_timeout(now.instant) {
            Some(Release::Resume) => self.resume_fetches(),
            Some(Release::GiveUp) => {
                self.herd_peers().for_each(|(_, up)| up.anti_entropy.give_up());
            }
            None => {}
        }
        self.relayed.handle_timeout(now.instant);
        self.sweep(now);
        self.continue_rekey(now.instant);
        self.handle_announcements_timeout(now.instant);
        if self.directory.is_adapting() && self.adapt_at <= now.instant {
            self.adapt_at = now.instant + ADAPTATION_INTERVAL;
            self.directory.adapt(ADAPTATION_STEPS, now.wall);
        }
        self.directory.handle_fences(now);
        for link in (0..self.links.len()).map(LinkId) {
            self.handle_link_timeout(link, now.instant, collected);
        }
    }

    /// Examines some of the slots for records that are not alive.
    fn sweep(&mut self, now: &Now) {
        if self.sweep_at <= now.instant {
            let (links, counters) = (&mut self.links, &mut self.counters);
            let pause = self.directory.sweep(now, SWEEP_SLOTS, |slot, record| {
                relay_queued(links, counters, slot, record);
            });
            self.sweep_at = now.instant + pause;
        }
    }

    fn handle_link_timeout(&mut self, id: LinkId, now: Instant, collected: Instant) {
        self.release_held(id, now);
        let link = &mut self.links[id.index()];
        if link.up.is_none() && !link.dialing && link.next_dial <= now {
            link.dialing = true;
            self.actions.push_back(Action::Dial(id));
        }
        self.limit_move(id, collected);
        let Some(up) = self.links[id.index()].herd_peer() else { return };
        if up.keepalive.is_silent(self.timing.timeout, collected) {
            self.close_connections(id, None, CloseReason::KeepaliveTimeout);
            self.counters.links_timed_out += 1;
            self.counters.links_lost += 1;
            self.emit(Event::PeerSilent { link: id, silence: self.timing.timeout });
            self.take_down(id, now);
            return;
        }
        up.keepalive.handle_timeout(self.timing.keepalive, now);
        up.anti_entropy.handle_timeout(now);
        if up.check_at.is_some_and(|due| due <= now) {
            up.check_at = Some(now + self.timing.antientropy_interval);
            if self.own_key.agrees(&up.key_exchange) && up.anti_entropy.is_idle() {
                up.anti_entropy.open(Purpose::Check);
            }
        }
    }
}
