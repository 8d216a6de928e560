//! `limits.next`: settings of the whole herd that are announced for the future.

use std::time::Duration;

use super::document::{Field, Section};
use super::error::Error;
use super::peers::{MAX_CLOCK_OFFSET_RANGE, PeersConfig};
use crate::limits::{Limits, Setting};

/// The key of `peers.max_clock_offset` in both sections.
const MAX_CLOCK_OFFSET: &str = "max_clock_offset";

/// The keys of `limits` that must be identical on all nodes.
const KEYS: &[&str] = &["max_clients", "client_ttl_s", "forget_keep_s"];

/// The settings that must be identical on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HerdSettings {
    /// `peers.max_clock_offset`.
    pub max_clock_offset: Duration,
    /// `limits.max_clients`.
    pub max_clients: usize,
    /// `limits.client_ttl_s`; `None` if records do not expire.
    pub client_ttl: Option<Duration>,
    /// `limits.forget_keep_s`.
    pub forget_keep: Duration,
}

impl HerdSettings {
    /// The settings in these sections.
    pub(super) const fn new(limits: &Limits, peers: &PeersConfig) -> Self {
        Self {
            max_clock_offset: peers.max_clock_offset,
            max_clients: limits.max_clients,
            client_ttl: limits.client_ttl,
            forget_keep: limits.forget_keep,
        }
    }
}

/// Reads the announced settings. Those that the section does not list stay as they are.
pub(super) fn read(
    section: &Section,
    limits: &Limits,
    peers: &PeersConfig,
    warnings: &mut Vec<String>,
) -> Result<Option<HerdSettings>, Error> {
    let Some(field) = section.get("next") else { return Ok(None) };
    let keys: Vec<&str> = KEYS.iter().copied().chain([MAX_CLOCK_OFFSET]).collect();
    let announced = field.section(&keys)?;
    if keys.iter().all(|key| announced.get(key).is_none()) {
        return Ok(None);
    }
    let mut next = limits.clone();
    for Setting { limit, set, .. } in Limits::TABLE.iter().filter(|it| keys.contains(&it.limit.key))
    {
        if let Some(field) = announced.get(limit.key) {
            set(&mut next, field.integer(|number| limit.allows(number), &limit.range())?);
        }
    }
    let offset = announced.get(MAX_CLOCK_OFFSET).map(read_offset).transpose()?;
    let now = HerdSettings::new(limits, peers);
    let max_clock_offset = offset.unwrap_or(now.max_clock_offset);
    let next = HerdSettings { max_clock_offset, ..HerdSettings::new(&next, peers) };
    if next == now {
        let message = "announces the settings that are configured; remove it";
        warnings.push(field.error(message).to_string());
        return Ok(None);
    }
    Ok(Some(next))
}

fn read_offset(field: &Field) -> Result<Duration, Error> {
    field.seconds(MAX_CLOCK_OFFSET_RANGE)
}
