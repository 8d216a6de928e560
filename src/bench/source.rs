//! Where requests come from: which client says or is asked what next.

use super::clock::Clock;
use super::wire::{Kind, Request};
use crate::rng::scramble;

/// Draws requests for the servers of a plan.
pub struct Source {
    clients: u32,
    whatsat_percent: u64,
    /// For each server, the time of the newest location that it has acknowledged, by client; empty
    /// when nobody asks for it.
    known: Vec<Vec<u64>>,
    drawn: u64,
    work: Work,
}

/// What is drawn.
pub enum Work {
    /// Every client says once where it is. For each server, the next client that does.
    Introduction(Vec<u32>),
    /// Clients at random.
    Mix,
}

impl Source {
    /// For `clients` clients, with so many WHATSATs in a hundred requests.
    pub fn new(clients: u32, whatsat_percent: u64, servers: usize) -> Self {
        let known = if whatsat_percent > 0 { clients as usize } else { 0 };
        Self {
            clients,
            whatsat_percent,
            known: vec![vec![0; known]; servers],
            drawn: 0,
            work: Work::Mix,
        }
    }

    /// Where every client introduces itself: to every server that may be asked about it at once,
    /// else to one of them.
    pub fn introduction(&self) -> Work {
        let servers = self.known.len() as u32;
        let everywhere = self.whatsat_percent > 0;
        Work::Introduction((0..servers).map(|it| if everywhere { 0 } else { it }).collect())
    }

    /// Draws from now on for `work`.
    pub fn set(&mut self, work: Work) {
        self.work = work;
    }

    /// The next request to `server`, due at `due` and sent now; `None` when there are no more.
    pub fn next(
        &mut self,
        server: usize,
        due: u64,
        now: u64,
        clock: &mut Clock,
    ) -> Option<Request> {
        if let Work::Introduction(next) = &mut self.work {
            let step = if self.whatsat_percent > 0 { 1 } else { next.len() as u32 };
            let client = next[server];
            if client >= self.clients {
                return None;
            }
            next[server] = client + step;
            return Some(Request::new(Kind::Iamat, client, clock.tell(now), due));
        }
        self.drawn += 1;
        let chance = scramble(self.drawn);
        let client = ((chance >> 32) * u64::from(self.clients)) >> 32;
        if ((chance & 0xffff_ffff) * 100) >> 32 < self.whatsat_percent {
            let known = self.known[server][client as usize];
            return Some(Request::new(Kind::Whatsat, client as u32, known, due));
        }
        Some(Request::new(Kind::Iamat, client as u32, clock.tell(now), due))
    }

    /// Whether there are no more requests.
    pub fn is_exhausted(&self) -> bool {
        match &self.work {
            Work::Introduction(next) => next.iter().all(|&client| client >= self.clients),
            Work::Mix => false,
        }
    }

    /// `server` has answered `request` as it must: it holds that location or a newer one.
    pub fn acknowledged(&mut self, server: usize, request: &Request) {
        if let Some(known) = self.known[server].get_mut(request.client as usize) {
            *known = request.time.max(*known);
        }
    }
}
