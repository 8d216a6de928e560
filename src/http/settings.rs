//! The settings of the whole herd in `/api/herd`.

use core::fmt::Display;

use serde::{Deserialize, Serialize};

use crate::herd::Herd;
use crate::herd::directory::Rules;
use crate::protocol::time::SECOND;

/// The settings that must be identical on all nodes, under the keys of the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Δ, in seconds.
    pub max_clock_offset: f64,
    /// Maximum number of clients.
    pub max_clients: u32,
    /// Time until a record expires, in seconds; 0 means never.
    pub client_ttl_s: u64,
    /// Time for which the removal of a client is remembered, in seconds.
    pub forget_keep_s: u64,
}

impl From<&Rules> for Settings {
    fn from(rules: &Rules) -> Self {
        let seconds = |nanos| u64::try_from(nanos / SECOND).unwrap_or(u64::MAX);
        Self {
            max_clock_offset: rules.max_clock_offset as f64 / SECOND as f64,
            max_clients: rules.max_clients,
            client_ttl_s: seconds(rules.client_ttl),
            forget_keep_s: seconds(rules.forget_keep),
        }
    }
}

impl Settings {
    /// What changes from these settings to others: `max_clients from 10 to 20`.
    #[must_use]
    pub fn changes(&self, to: &Self) -> String {
        fn change<T: Display + PartialEq>(key: &str, from: &T, to: &T) -> Option<String> {
            (from != to).then(|| format!("{key} from {from} to {to}"))
        }
        let changes = [
            change("max_clock_offset", &self.max_clock_offset, &to.max_clock_offset),
            change("max_clients", &self.max_clients, &to.max_clients),
            change("client_ttl_s", &self.client_ttl_s, &to.client_ttl_s),
            change("forget_keep_s", &self.forget_keep_s, &to.forget_keep_s),
        ];
        changes.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// The settings that a node announces in `limits.next`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Next {
    /// The announced settings.
    pub settings: Settings,
    /// True once they are in force on this node.
    pub in_force: bool,
    /// Names of the nodes that do not announce them, as far as this node knows.
    pub missing: Vec<String>,
}

impl Next {
    /// Returns what a node announces, if anything.
    #[must_use]
    pub fn of(herd: &Herd) -> Option<Self> {
        let next = herd.offer().next?;
        let missing = herd.missing_announcements().into_iter();
        Some(Self {
            settings: Settings::from(&next),
            in_force: herd.pending_rules().is_none(),
            missing: missing.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_listed_under_their_keys() {
        let rules = Rules {
            max_clock_offset: SECOND / 2,
            max_clients: 7,
            client_ttl: 0,
            forget_keep: 60 * SECOND,
        };
        let from = Settings::from(&rules);
        assert_eq!(from.changes(&from), "");
        let to = Settings::from(&Rules { max_clients: 9, client_ttl: 5 * SECOND, ..rules });
        assert_eq!(from.changes(&to), "max_clients from 7 to 9, client_ttl_s from 0 to 5");
        let to = Settings { max_clock_offset: 2.0, forget_keep_s: 1, ..from.clone() };
        let expected = "max_clock_offset from 0.5 to 2, forget_keep_s from 60 to 1";
        assert_eq!(from.changes(&to), expected);
    }
}
