//! Configuration of a [`Client`](super::Client).

use crate::endpoint::Url;
use crate::limits::PlacesLimits;
use crate::places::providers::ApiKey;
use crate::places::providers::Provider;

/// The provider to query, and the limits to respect.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The provider.
    pub provider: Provider,
    /// The base URL of its API.
    pub url: Url,
    /// The API key, for providers that require one.
    pub key: Option<ApiKey>,
    /// Time limits, rate limits, and the sizes of the pool, the queue and the cache.
    pub limits: PlacesLimits,
    /// Randomizes the pauses of the circuit breaker; must differ between nodes.
    pub seed: u64,
}
