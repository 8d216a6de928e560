//! A simple model of the directory, written from the contract, for a handful of clients.

use std::fmt::Write as _;

use proxy_herd::herd::directory::{Rules, Source};
use proxy_herd::protocol::time::{Nanos, SECOND};

use crate::node::NAMES;

/// An update that a client sent to a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    pub client: &'static str,
    pub location: &'static str,
    /// As the client wrote it.
    pub time_text: String,
    pub time: Nanos,
    /// The node that received it, as an index into [`NAMES`].
    pub server: usize,
    pub received: Nanos,
}

impl Fact {
    /// The AT line, without LF.
    pub fn line(&self) -> String {
        let difference = self.received - self.time;
        let sign = if difference < 0 { '-' } else { '+' };
        let (seconds, nanos) = (difference.abs() / SECOND, difference.abs() % SECOND);
        let mut line = format!("AT {} {sign}{seconds}.{nanos:09}", NAMES[self.server]);
        let _ = write!(line, " {} {} {}", self.client, self.location, self.time_text);
        line
    }
}

/// The newest of each client.
pub struct Model {
    pub rules: Rules,
    pub held: Vec<Fact>,
    /// Records that gave way to others of their client because they were no longer alive. To links in
    /// whose queue they were, the node still sends them.
    pub expired: Vec<Fact>,
}

impl Model {
    /// The record that the node must hold for `client`.
    pub fn get(&self, client: &str, clock: Nanos) -> Option<&Fact> {
        self.held.iter().find(|held| held.client == client && self.is_alive(held, clock))
    }

    /// Stores `fact` if it is new, and returns whether it is.
    pub fn offer(&mut self, fact: &Fact, source: Source, clock: Nanos) -> bool {
        if !self.is_alive(fact, clock) {
            return false;
        }
        let rules = self.rules;
        let gives_way =
            |held: &mut Fact| held.client == fact.client && !is_alive(&rules, held, clock);
        self.expired.extend(self.held.extract_if(.., gives_way));
        if let Some(held) = self.held.iter_mut().find(|held| held.client == fact.client) {
            let repeat = match source {
                Source::Client => {
                    (held.location, &held.time_text) == (fact.location, &fact.time_text)
                }
                Source::Peer | Source::File => false, // the same line is no greater than itself
            };
            let news = !repeat && key(&rules, fact) > key(&rules, held);
            if news {
                *held = fact.clone();
            }
            return news;
        }
        if self.held.len() == rules.max_clients as usize {
            let least = (0..self.held.len()).min_by_key(|&at| key(&rules, &self.held[at]));
            let least = least.expect("room for one client at least");
            if key(&rules, fact) <= key(&rules, &self.held[least]) {
                return false;
            }
            self.held.swap_remove(least);
        }
        self.held.push(fact.clone());
        true
    }

    /// Returns whether a record is alive by this clock.
    pub fn is_alive(&self, fact: &Fact, clock: Nanos) -> bool {
        is_alive(&self.rules, fact, clock)
    }
}

fn is_alive(rules: &Rules, fact: &Fact, clock: Nanos) -> bool {
    let (age, ttl) = (clock - fact.received, rules.client_ttl);
    age >= -86_400_000_000_000 && (ttl == 0 || age <= ttl)
}

fn rank(rules: &Rules, fact: &Fact) -> Nanos {
    fact.time.min(fact.received + rules.max_clock_offset)
}

/// The order of records; a full directory evicts the least.
fn key(rules: &Rules, fact: &Fact) -> (Nanos, Nanos, Nanos, &'static str, String) {
    (rank(rules, fact), fact.time, fact.received, NAMES[fact.server], fact.line())
}
