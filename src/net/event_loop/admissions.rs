//! The limits on connections.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use mio::Token;

use crate::limits::Limits;
use crate::net::connection::Admission;
use crate::net::limits::{MAX_PROBATIONS, MAX_REFUSALS, MAX_RESERVE};

/// Counts connections against the limits.
#[derive(Default)]
pub struct Admissions {
    clients: usize,
    clients_at: HashMap<IpAddr, u32>,
    /// Connections over a limit: on probation, or told that they are refused.
    over_limit: usize,
    /// Connections on probation, the oldest first. Some have closed or changed since.
    probations: VecDeque<Token>,
    /// HTTP connections over a limit that may make a health check.
    reserve: usize,
    /// The same connections, the oldest first. Some have closed or changed since.
    reserved: VecDeque<Token>,
    address_keys: RandomState,
}

impl Admissions {
    /// Connections of clients and browsers.
    #[must_use]
    pub const fn clients(&self) -> usize {
        self.clients
    }

    /// Returns true if no further client may connect from `address`.
    #[must_use]
    pub fn is_full(&self, address: IpAddr, limits: &Limits) -> bool {
        let here = self.clients_at.get(&address.to_canonical()).copied().unwrap_or(0);
        self.clients >= limits.max_connections
            || limits.max_connections_per_address.is_some_and(|most| here as usize >= most)
    }

    /// Returns true if refused connections are closed without being drained, since too many are.
    #[must_use]
    pub const fn is_flooded(&self) -> bool {
        self.over_limit >= MAX_REFUSALS
    }

    /// Returns true if even connections at the end of their probation, or of their time in the
    /// reserve, are closed without draining.
    #[must_use]
    pub fn is_overrun(&self, admission: Admission) -> bool {
        match admission {
            Admission::Reserve => self.reserve > 2 * MAX_RESERVE,
            _ => self.over_limit > MAX_PROBATIONS + MAX_REFUSALS,
        }
    }

    /// A number for `address`, unpredictable from outside.
    #[must_use]
    pub fn address_key(&self, address: IpAddr) -> u64 {
        self.address_keys.hash_one(address.to_canonical())
    }

    /// Counts a connection.
    pub fn enter(&mut self, admission: Admission, address: IpAddr, limits: &Limits) {
        match admission {
            Admission::Client => {
                self.clients += 1;
                if limits.max_connections_per_address.is_some() {
                    *self.clients_at.entry(address.to_canonical()).or_default() += 1;
                }
            }
            Admission::Probation | Admission::Refused => self.over_limit += 1,
            Admission::Reserve => self.reserve += 1,
            Admission::Exempt => {}
        }
    }

    /// Counts a connection no longer.
    pub fn leave(&mut self, admission: Admission, address: IpAddr) {
        match admission {
            Admission::Client => {
                self.clients -= 1;
                let address = address.to_canonical();
                if let Some(here) = self.clients_at.get_mut(&address) {
                    *here -= 1;
                    if *here == 0 {
                        self.clients_at.remove(&address);
                    }
                }
            }
            Admission::Probation | Admission::Refused => self.over_limit -= 1,
            Admission::Reserve => self.reserve -= 1,
            Admission::Exempt => {}
        }
    }

    /// Puts a connection on probation. Returns the oldest one if too many are: its time is up.
    pub fn put_on_probation(&mut self, token: Token) -> Option<Token> {
        self.probations.push_back(token);
        (self.probations.len() > MAX_PROBATIONS).then(|| self.probations.pop_front()).flatten()
    }

    /// Puts an HTTP connection into the reserve. Returns the oldest one if there are too many: its
    /// time is up.
    pub fn put_in_reserve(&mut self, token: Token) -> Option<Token> {
        self.reserved.push_back(token);
        (self.reserved.len() > MAX_RESERVE).then(|| self.reserved.pop_front()).flatten()
    }
}
