//! What a [`Client`](super::Client) is told at its birth.

use crate::config;
use crate::endpoint::Url;
use crate::limits::PlacesLimits;
use crate::places::key::{ApiKey, KeyError};
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

impl Settings {
    /// The settings that the configuration asks for; `None` if places are not asked for over the
    /// network.
    ///
    /// # Errors
    /// [`KeyError`] if the key cannot be sent. A configuration that was read from a file has
    /// made sure that it can.
    pub fn from_config(places: &config::Places, seed: u64) -> Result<Option<Self>, KeyError> {
        let (provider, server, key) = match &places.provider {
            config::Provider::Offline { .. } => return Ok(None),
            config::Provider::Google { key, server } => (Provider::Google, server, Some(key)),
            config::Provider::GoogleLegacy { key, server } => {
                (Provider::GoogleLegacy, server, Some(key))
            }
            config::Provider::Overpass { server } => (Provider::Overpass, server, None),
        };
        let key = key.map(|key| ApiKey::parse(key.expose())).transpose()?;
        let (url, limits) = (server.url.clone(), places.limits.clone());
        Ok(Some(Self { provider, url, key, limits, seed }))
    }
}
