//! The limits on connections.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use mio::Token;

use crate::limits::Limits;
use crate::net::connection::Admission;
use crate::net::limits::{MAX_AT_LINK_PORT, MAX_PROBATIONS, MAX_REFUSALS, MAX_RESERVE};

/// Counts connections against the limits.
#[derive(Default)]
pub struct Admissions {
    clients: usize,
    clients_at: HashMap<IpAddr, u32>,
    /// Connections over a limit: on probation, or being refused.
    over_limit: usize,
    /// Connections on probation, the oldest first. Some have closed or changed since.
    probations: VecDeque<Token>,
    /// HTTP connections over a limit that may make a health check.
    reserve: usize,
    /// The same connections, the oldest first. Some have closed or changed since.
    reserved: VecDeque<Token>,
    /// Connections to the port for links whose handshake has not succeeded, the oldest first. Some
    /// have closed or changed since.
    at_link_port: VecDeque<Token>,
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
            Admission::LinkPort | Admission::Exempt => {}
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
            Admission::LinkPort | Admission::Exempt => {}
        }
    }

    /// Puts a connection on probation. Returns the oldest one if too many are: its time is up.
    pub fn put_on_probation(&mut self, token: Token) -> Option<Token> {
        self.probations.push_back(token);
        (self.probations.len() > MAX_PROBATIONS).then(|| self.probations.pop_front()).flatten()
    }

    /// Adds a connection to the port for links. Returns the oldest one if there are too many: its time
    /// is up.
    pub fn put_at_link_port(&mut self, token: Token) -> Option<Token> {
        self.at_link_port.push_back(token);
        let is_full = self.at_link_port.len() > MAX_AT_LINK_PORT;
        is_full.then(|| self.at_link_port.pop_front()).flatten()
    }

    /// Puts an HTTP connection into the reserve. Returns the oldest one if there are too many: its
    /// time is up.
    pub fn put_in_reserve(&mut self, token: Token) -> Option<Token> {
        self.reserved.push_back(token);
        (self.reserved.len() > MAX_RESERVE).then(|| self.reserved.pop_front()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const ALL: [Admission; 6] = [
        Admission::Client,
        Admission::LinkPort,
        Admission::Probation,
        Admission::Reserve,
        Admission::Refused,
        Admission::Exempt,
    ];

    fn limits(max_connections: usize, per_address: Option<usize>) -> Limits {
        Limits { max_connections, max_connections_per_address: per_address, ..Limits::default() }
    }

    #[test]
    fn clients_are_limited_in_total_and_per_address() {
        let limits = limits(3, Some(2));
        let mut admissions = Admissions::default();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        let there: IpAddr = "192.0.2.1".parse().unwrap();
        admissions.enter(Admission::Client, HERE, &limits);
        assert!(!admissions.is_full(HERE, &limits));
        admissions.enter(Admission::Client, mapped, &limits);
        assert!(admissions.is_full(HERE, &limits) && admissions.is_full(mapped, &limits));
        assert_eq!(admissions.address_key(HERE), admissions.address_key(mapped));
        assert!(!admissions.is_full(there, &limits));
        admissions.enter(Admission::Client, there, &limits);
        assert!(admissions.is_full(there, &limits), "the total");
        admissions.leave(Admission::Client, HERE);
        admissions.leave(Admission::Client, mapped);
        assert!(!admissions.is_full(HERE, &limits));
        assert_eq!((admissions.clients(), admissions.clients_at.len()), (1, 1));
    }

    #[test]
    fn a_connection_that_leaves_takes_back_what_it_counted() {
        let limits = limits(1, Some(1));
        let mut admissions = Admissions::default();
        for admission in ALL {
            admissions.enter(admission, HERE, &limits);
            let full = admissions.is_full(HERE, &limits);
            assert_eq!(full, admission == Admission::Client, "{admission:?}");
            admissions.leave(admission, HERE);
        }
        let Admissions { clients, clients_at, over_limit, reserve, .. } = &admissions;
        assert_eq!((*clients, clients_at.len(), *over_limit, *reserve), (0, 0, 0, 0));
    }

    #[test]
    fn connections_over_the_limit_are_bounded() {
        let limits = limits(1, None);
        let mut admissions = Admissions::default();
        for _ in 0..MAX_REFUSALS {
            assert!(!admissions.is_flooded());
            admissions.enter(Admission::Refused, HERE, &limits);
        }
        assert!(admissions.is_flooded());
        for (admission, most) in
            [(Admission::Probation, MAX_PROBATIONS), (Admission::Reserve, 2 * MAX_RESERVE)]
        {
            for _ in 0..most {
                admissions.enter(admission, HERE, &limits);
            }
            assert!(!admissions.is_overrun(admission));
            admissions.enter(admission, HERE, &limits);
            assert!(admissions.is_overrun(admission));
            admissions.leave(admission, HERE);
            assert!(!admissions.is_overrun(admission));
        }
    }

    #[test]
    fn one_connection_too_many_ends_the_oldest() {
        type Put = fn(&mut Admissions, Token) -> Option<Token>;
        let cases: [(usize, Put); 3] = [
            (MAX_PROBATIONS, Admissions::put_on_probation),
            (MAX_RESERVE, Admissions::put_in_reserve),
            (MAX_AT_LINK_PORT, Admissions::put_at_link_port),
        ];
        for (most, put) in cases {
            let mut admissions = Admissions::default();
            for at in 0..most {
                assert_eq!(put(&mut admissions, Token(at)), None);
            }
            assert_eq!(put(&mut admissions, Token(most)), Some(Token(0)));
            assert_eq!(put(&mut admissions, Token(most + 1)), Some(Token(1)));
        }
    }
}
