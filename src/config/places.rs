//! The section `places`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Field, Section};
use super::error::Error;
use super::secret::Secret;
use super::suggest::did_you_mean;
use super::{keys_with, readable_file, settings};
use crate::endpoint::Url;
use crate::limits::PlacesLimits;

/// The source of places for WHATSAT.
#[derive(Debug, Clone)]
pub struct PlacesConfig {
    /// The provider.
    pub provider: ProviderConfig,
    /// Limits on requests to the provider.
    pub limits: PlacesLimits,
}

/// A provider of places.
#[derive(Debug, Clone)]
pub enum ProviderConfig {
    /// The built-in gazetteer or a places file.
    Offline {
        /// The places file (GeoJSON, CSV or TSV); `None` for the gazetteer.
        file: Option<PathBuf>,
    },
    /// Google's Nearby Search (New).
    Google {
        /// The API key.
        key: Secret,
        /// The server of the API.
        server: ProviderServer,
    },
    /// Google's Nearby Search (Legacy), whose documents the original server passed on.
    GoogleLegacy {
        /// The API key.
        key: Secret,
        /// The server of the API.
        server: ProviderServer,
    },
    /// OpenStreetMap's Overpass API.
    Overpass {
        /// The server of the API; the prefix of its URL is the complete path.
        server: ProviderServer,
    },
}

impl ProviderConfig {
    /// Returns the name used in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "offline",
            Self::Google { .. } => "google",
            Self::GoogleLegacy { .. } => "google_legacy",
            Self::Overpass { .. } => "overpass",
        }
    }

    /// Returns the server of a remote provider.
    pub fn server(&self) -> Option<&ProviderServer> {
        match self {
            Self::Offline { .. } => None,
            Self::Google { server, .. }
            | Self::GoogleLegacy { server, .. }
            | Self::Overpass { server } => Some(server),
        }
    }

    /// Reads the provider that `field` selects.
    fn read(
        field: &Field,
        key: Option<Secret>,
        section: &Section,
        directory: &Path,
    ) -> Result<Self, Error> {
        let server = |api| server(section, api, directory);
        Ok(match (field.text()?, key) {
            ("offline", _) => Self::Offline { file: file(section, directory)? },
            ("google", Some(key)) => Self::Google { key, server: server(&GOOGLE)? },
            ("google_legacy", Some(key)) => {
                Self::GoogleLegacy { key, server: server(&GOOGLE_LEGACY)? }
            }
            ("overpass", _) => Self::Overpass { server: server(&OVERPASS)? },
            ("google" | "google_legacy", None) => {
                return Err(field.error(
                    "requires an API key; set the environment variable GOOGLE_PLACES_API_KEY, \
                     `api_key_file` or `api_key`, or use offline or overpass",
                ));
            }
            (name, _) => {
                let hint = did_you_mean(name, ["offline", "google", "google_legacy", "overpass"]);
                return Err(field.error(format!(
                    "is not a valid provider; use offline, google, google_legacy or overpass{hint}"
                )));
            }
        })
    }
}

/// An HTTP server and the certificates to trust for it.
#[derive(Debug, Clone)]
pub struct ProviderServer {
    /// Base URL.
    pub url: Url,
    /// PEM file with certificates to trust in addition to Mozilla's.
    pub ca_file: Option<PathBuf>,
}

impl PlacesConfig {
    pub(super) fn keys() -> Vec<&'static str> {
        keys_with(PlacesLimits::TABLE, &["provider", "url", "ca_file", "file"])
    }

    pub(super) fn read(
        section: &Section,
        key: Option<Secret>,
        directory: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let provider = match (section.get("provider"), key) {
            (Some(field), key) => ProviderConfig::read(field, key, section, directory)?,
            (None, Some(key)) => {
                ProviderConfig::Google { key, server: server(section, &GOOGLE, directory)? }
            }
            (None, None) => ProviderConfig::Offline { file: file(section, directory)? },
        };
        warn_of_unused_keys(section, &provider, warnings);
        let mut limits: PlacesLimits = settings(section, PlacesLimits::TABLE)?;
        if matches!(provider, ProviderConfig::Overpass { .. })
            && section.get("cache_ttl_s").is_none()
        {
            limits.cache_ttl = Some(OVERPASS_CACHE_TTL);
        }
        if matches!(provider, ProviderConfig::Overpass { .. }) && section.get("pool_size").is_none()
        {
            limits.pool_size = OVERPASS_POOL_SIZE;
        }
        if let Some(in_flight) = limits.max_in_flight.filter(|&it| it > limits.pool_size)
            && let Some(field) = section.get("max_in_flight")
        {
            let warning = format!(
                "{in_flight} exceeds the {} connections of pool_size, each of which carries one \
                 request; raise pool_size or lower this",
                limits.pool_size
            );
            warnings.push(field.error(warning).to_string());
        }
        Ok(Self { provider, limits })
    }
}

/// Default of `pool_size` for Overpass, whose usage policy discourages parallel requests.
const OVERPASS_POOL_SIZE: usize = 1;

/// Default of `cache_ttl_s` for Overpass, whose usage policy discourages repeated requests. The map
/// does not change within an hour.
const OVERPASS_CACHE_TTL: Duration = Duration::from_hours(1);

/// The default server of an API.
struct Api {
    host: &'static str,
    prefix: &'static str,
    /// True if the API key is sent to the server.
    has_key: bool,
}

const GOOGLE: Api = Api { host: "places.googleapis.com", prefix: "", has_key: true };
const GOOGLE_LEGACY: Api = Api { host: "maps.googleapis.com", prefix: "", has_key: true };
const OVERPASS: Api = Api { host: "overpass-api.de", prefix: "/api/interpreter", has_key: false };

/// Returns the server of an API: the configured one or the default.
fn server(section: &Section, api: &Api, directory: &Path) -> Result<ProviderServer, Error> {
    let url = match section.get("url") {
        Some(field) => {
            let url: Url = field.parse()?;
            if api.has_key && !url.tls && !url.host.is_loopback() {
                return Err(field.error(
                    "would send the API key over the network unencrypted; use https:// (plain \
                     http:// is accepted for loopback addresses only)",
                ));
            }
            url
        }
        None => Url::https(api.host, api.prefix),
    };
    let ca_file = section.get("ca_file").map(|it| readable_file(it, directory)).transpose()?;
    Ok(ProviderServer { url, ca_file })
}

fn file(section: &Section, directory: &Path) -> Result<Option<PathBuf>, Error> {
    section.get("file").map(|field| readable_file(field, directory)).transpose()
}

/// Warns of keys that the provider does not use. They are not an error, so that switching between
/// providers requires one change only.
fn warn_of_unused_keys(section: &Section, provider: &ProviderConfig, warnings: &mut Vec<String>) {
    let unused: &[&str] = match provider {
        ProviderConfig::Offline { .. } => &["url", "ca_file"],
        _ => &["file"],
    };
    for field in unused.iter().filter_map(|key| section.get(key)) {
        let message = format!("has no effect with provider {}", provider.name());
        warnings.push(field.error(message).to_string());
    }
}
