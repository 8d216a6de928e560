//! What a [`Client`](super::Client) is told at its birth.

use crate::endpoint::Url;
use crate::limits::PlacesLimits;
use crate::places::key::ApiKey;
use crate::places::provider::Provider;

/// Whom to ask, and within which limits.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The provider.
    pub provider: Provider,
    /// Where it is.
    pub url: Url,
    /// The key, for the providers that want one.
    pub key: Option<ApiKey>,
    /// How much and how long.
    pub limits: PlacesLimits,
    /// Varies the pauses of the circuit breaker; to differ between nodes.
    pub seed: u64,
}
