//! The section `places`: who knows what is near, and what may be asked of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Field, Section};
use super::error::Error;
use super::secret::Secret;
use super::suggest::did_you_mean;
use super::{keys_with, readable_file, settings};
use crate::endpoint::Url;
use crate::limits::PlacesLimits;

/// Who answers WHATSAT, within which limits.
#[derive(Debug, Clone)]
pub struct Places {
    /// Who is asked.
    pub provider: Provider,
    /// How much and how long.
    pub limits: PlacesLimits,
}

/// Who knows what is near.
#[derive(Debug, Clone)]
pub enum Provider {
    /// The gazetteer built into the binary, or a file of one's own places.
    Offline {
        /// The places file: GeoJSON, CSV or TSV.
        file: Option<PathBuf>,
    },
    /// Google's Nearby Search (New).
    Google {
        /// The API key.
        key: Secret,
        /// Where the API is.
        server: Server,
    },
    /// Google's Nearby Search of before, whose documents the seed passed on.
    GoogleLegacy {
        /// The API key.
        key: Secret,
        /// Where the API is.
        server: Server,
    },
    /// OpenStreetMap's Overpass API.
    Overpass {
        /// Where the API is; the prefix of the URL is its whole path.
        server: Server,
    },
}

impl Provider {
    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Offline { .. } => "offline",
            Self::Google { .. } => "google",
            Self::GoogleLegacy { .. } => "google_legacy",
            Self::Overpass { .. } => "overpass",
        }
    }

    /// The server it is reached at, if it is one.
    pub fn server(&self) -> Option<&Server> {
        match self {
            Self::Offline { .. } => None,
            Self::Google { server, .. }
            | Self::GoogleLegacy { server, .. }
            | Self::Overpass { server } => Some(server),
        }
    }

    /// The provider that `field` names.
    fn read(
        field: &Field,
        key: Option<Secret>,
        section: &Section,
        folder: &Path,
    ) -> Result<Self, Error> {
        let server = |api| server(section, api, folder);
        Ok(match (field.text()?, key) {
            ("offline", _) => Self::Offline { file: file(section, folder)? },
            ("google", Some(key)) => Self::Google { key, server: server(&GOOGLE)? },
            ("google_legacy", Some(key)) => {
                Self::GoogleLegacy { key, server: server(&GOOGLE_LEGACY)? }
            }
            ("overpass", _) => Self::Overpass { server: server(&OVERPASS)? },
            ("google" | "google_legacy", None) => {
                return Err(field.error(
                    "needs an API key; set GOOGLE_PLACES_API_KEY in the environment, \
                     `api_key_file` or `api_key`, or choose offline or overpass",
                ));
            }
            (name, _) => {
                let hint = did_you_mean(name, ["offline", "google", "google_legacy", "overpass"]);
                return Err(field.error(format!(
                    "is no provider; write offline, google, google_legacy or overpass{hint}"
                )));
            }
        })
    }
}

/// An HTTP server and whom to believe that it is the right one.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its address.
    pub url: Url,
    /// Certificates in PEM that are trusted beside Mozilla's.
    pub ca_file: Option<PathBuf>,
}

impl Places {
    pub(super) fn keys() -> Vec<&'static str> {
        keys_with(PlacesLimits::TABLE, &["provider", "url", "ca_file", "file"])
    }

    pub(super) fn read(
        section: &Section,
        key: Option<Secret>,
        folder: &Path,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let provider = match (section.get("provider"), key) {
            (Some(field), key) => Provider::read(field, key, section, folder)?,
            (None, Some(key)) => {
                Provider::Google { key, server: server(section, &GOOGLE, folder)? }
            }
            (None, None) => Provider::Offline { file: file(section, folder)? },
        };
        warn_of_idle_keys(section, &provider, warnings);
        let mut limits: PlacesLimits = settings(section, PlacesLimits::TABLE)?;
        if matches!(provider, Provider::Overpass { .. }) && section.get("cache_ttl_s").is_none() {
            limits.cache_ttl = Some(OVERPASS_CACHE_TTL);
        }
        if matches!(provider, Provider::Overpass { .. }) && section.get("pool_size").is_none() {
            limits.pool_size = OVERPASS_POOL_SIZE;
        }
        if let Some(in_flight) = limits.max_in_flight.filter(|&it| it > limits.pool_size)
            && let Some(field) = section.get("max_in_flight")
        {
            let what = format!(
                "{in_flight} requests need as many connections, pool_size is {}, and so are they; \
                 raise pool_size or lower this",
                limits.pool_size
            );
            warnings.push(field.error(what).to_string());
        }
        Ok(Self { provider, limits })
    }
}

/// Overpass asks its users for nothing in parallel.
const OVERPASS_POOL_SIZE: usize = 1;

/// Overpass asks its users not to repeat themselves, and the map does not change by the hour.
const OVERPASS_CACHE_TTL: Duration = Duration::from_hours(1);

/// Where an API is by default, and whether a key is sent to it.
struct Api {
    host: &'static str,
    prefix: &'static str,
    has_key: bool,
}

const GOOGLE: Api = Api { host: "places.googleapis.com", prefix: "", has_key: true };
const GOOGLE_LEGACY: Api = Api { host: "maps.googleapis.com", prefix: "", has_key: true };
const OVERPASS: Api = Api { host: "overpass-api.de", prefix: "/api/interpreter", has_key: false };

/// The server of an API: where the file says, or where it is by default.
fn server(section: &Section, api: &Api, folder: &Path) -> Result<Server, Error> {
    let url = match section.get("url") {
        Some(field) => {
            let url: Url = field.parse()?;
            if api.has_key && !url.tls && !url.host.is_loopback() {
                return Err(field.error(
                    "sends the API key unencrypted over the network; write https://, \
                     plain http:// is for a server on this machine",
                ));
            }
            url
        }
        None => Url::https(api.host, api.prefix),
    };
    let ca_file = section.get("ca_file").map(|it| readable_file(it, folder)).transpose()?;
    Ok(Server { url, ca_file })
}

fn file(section: &Section, folder: &Path) -> Result<Option<PathBuf>, Error> {
    section.get("file").map(|field| readable_file(field, folder)).transpose()
}

/// Keys that say something to another provider only are no error, so that one can be tried for
/// a moment, but nobody should believe that they do anything.
fn warn_of_idle_keys(section: &Section, provider: &Provider, warnings: &mut Vec<String>) {
    let idle: &[&str] = match provider {
        Provider::Offline { .. } => &["url", "ca_file"],
        _ => &["file"],
    };
    for field in idle.iter().filter_map(|key| section.get(key)) {
        let message = format!("has no effect with provider {}", provider.name());
        warnings.push(field.error(message).to_string());
    }
}
