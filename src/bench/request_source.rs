//! Generates the sequence of requests.

use super::clients::Range;
use super::clock::Clock;
use super::wire::{CommandKind, Request};
use crate::rng::scramble;

/// Generates requests for the servers of a plan.
pub struct RequestSource {
    clients: u32,
    /// The range in which each client moves.
    range: Range,
    whatsat_percent: u64,
    /// For each server, the timestamp of the newest update that it has acknowledged, by client. Empty
    /// if no WHATSATs are sent.
    acknowledged: Vec<Vec<u64>>,
    /// Number of random requests generated so far.
    drawn: u64,
    workload: Workload,
}

/// The kind of requests that are generated.
pub enum Workload {
    /// One IAMAT from every client. Holds the next client for each server.
    Preload(Vec<u32>),
    /// Random clients, with the configured share of WHATSATs.
    Mixed,
}

impl RequestSource {
    /// A source for `clients` clients that move within `range`, in which `whatsat_percent` of 100 requests
    /// are WHATSATs.
    pub fn new(clients: u32, range: Range, whatsat_percent: u64, servers: usize) -> Self {
        let tracked = if whatsat_percent > 0 { clients as usize } else { 0 };
        Self {
            clients,
            range,
            whatsat_percent,
            acknowledged: vec![vec![0; tracked]; servers],
            drawn: 0,
            workload: Workload::Mixed,
        }
    }

    /// Sends every client's location once. If there are WHATSATs, every server receives every client,
    /// because it may be queried before the record has propagated to it; otherwise the clients are
    /// divided among the servers.
    pub fn start_preload(&mut self) {
        let servers = self.acknowledged.len() as u32;
        let first = (0..servers).map(|server| if self.whatsat_percent > 0 { 0 } else { server });
        self.workload = Workload::Preload(first.collect());
    }

    /// Switches to random requests.
    pub fn start_mixed(&mut self) {
        self.workload = Workload::Mixed;
    }

    /// The next request to `server`, due at `due` and sent at `now`. `None` if the preload has no more
    /// requests for that server.
    pub fn next(
        &mut self,
        server: usize,
        due: u64,
        now: u64,
        clock: &mut Clock,
    ) -> Option<Request> {
        if let Workload::Preload(next) = &mut self.workload {
            let step = if self.whatsat_percent > 0 { 1 } else { next.len() as u32 };
            let client = next[server];
            if client >= self.clients {
                return None;
            }
            next[server] = client + step;
            return Some(Request::new(
                CommandKind::Iamat,
                client,
                clock.next_timestamp(now),
                due,
                self.range,
            ));
        }
        self.drawn += 1;
        // The high half of the random bits picks the client, the low half the command.
        let random = scramble(self.drawn);
        let client = (((random >> 32) * u64::from(self.clients)) >> 32) as u32;
        if ((random & 0xffff_ffff) * 100) >> 32 < self.whatsat_percent {
            let oldest_valid = self.acknowledged[server][client as usize];
            return Some(Request::new(CommandKind::Whatsat, client, oldest_valid, due, self.range));
        }
        Some(Request::new(CommandKind::Iamat, client, clock.next_timestamp(now), due, self.range))
    }

    /// Returns whether the preload has no more requests for any server.
    pub fn is_exhausted(&self) -> bool {
        match &self.workload {
            Workload::Preload(next) => next.iter().all(|&client| client >= self.clients),
            Workload::Mixed => false,
        }
    }

    /// Records that `server` has acknowledged an IAMAT: from now on it must return that location or a
    /// newer one.
    pub fn acknowledge(&mut self, server: usize, request: &Request) {
        if let Some(newest) = self.acknowledged[server].get_mut(request.client as usize) {
            *newest = request.time.max(*newest);
        }
    }
}
