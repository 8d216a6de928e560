//! The providers that can be configured.

use std::fmt;

/// An API that is queried over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Google's Nearby Search (New).
    Google,
    /// Google's older Nearby Search.
    GoogleLegacy,
    /// OpenStreetMap's Overpass API.
    Overpass,
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
