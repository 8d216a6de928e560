//! Whom a question goes to.

use std::fmt;
use std::time::Duration;

use super::key::ApiKey;
use crate::endpoint::Url;

/// Who is asked over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Google's Nearby Search (New).
    Google,
    /// Google's older Nearby Search.
    GoogleLegacy,
    /// OpenStreetMap's Overpass API.
    Overpass,
}

/// Who is asked, where, with what key, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub(super) provider: Provider,
    pub(super) url: &'a Url,
    pub(super) key: Option<&'a ApiKey>,
    pub(super) deadline: Duration,
}

impl Provider {
    /// The name of its API.
    pub(super) fn api(self) -> &'static str {
        match self {
            Self::Google => "the Places API (New)",
            Self::GoogleLegacy => "the Places API",
            Self::Overpass => "the Overpass API",
        }
    }
}

impl fmt::Display for Provider {
    /// Its name in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Google => "google",
            Self::GoogleLegacy => "google_legacy",
            Self::Overpass => "overpass",
        })
    }
}
