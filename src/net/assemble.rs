//! The composition root: turns the configuration into the settings of the core.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use super::upstream::Upstream;
use crate::config::{self, Config};
use crate::http::{self, overview::Tiles};
use crate::limits::Limits;
use crate::places::Places;

use crate::places::limits::MAX_PLACES_FILE_BYTES;
use crate::places::offline::Offline;
use crate::places::offline::places_file::{self, Format};
use crate::places::providers::Provider;
use crate::places::upstream::{ApiKey, Client, KeyError, Settings};

/// Returns the source of places, and the sockets to the provider if it is a remote one. `seed`
/// varies the pauses of the circuit breaker.
///
/// # Errors
///
/// A file that the configuration names cannot be read or is not valid; the message says which,
/// what is wrong and what to do.
pub(super) fn places(config: &Config, seed: u64) -> io::Result<(Places, Option<Upstream>)> {
    let settings = client_settings(&config.places, seed).map_err(io::Error::other)?;
    if let (Some(settings), Some(server)) = (settings, config.places.provider.server()) {
        let client = Places::Upstream(Box::new(Client::new(settings)));
        return Ok((client, Some(Upstream::new(server)?)));
    }
    let offline = match &config.places.provider {
        config::Provider::Offline { file: Some(path) } => places_of_file(path).map_err(|why| {
            io::Error::other(format!("the places file {}: {why}", path.display()))
        })?,
        _ => Offline::gazetteer().map_err(io::Error::other)?,
    };
    Ok((Places::Offline(offline), None))
}

/// Returns the settings of the HTTP side of a node with `limits`.
pub(super) fn http_settings(config: &Config, limits: &Limits) -> http::Settings {
    let mut settings = http::Settings {
        max_output: limits.max_output_buffer,
        provider: config.places.provider.name().to_owned(),
        ..http::Settings::default()
    };
    let Some(http) = &config.http else { return settings };
    settings.hosts.clone_from(&http.hosts);
    settings.hosts.push(http.listen.clone());
    for node in &config.nodes {
        settings.hosts.extend([node.listen.clone(), node.dial.clone()]);
    }
    settings.any_address = http.listen.is_unspecified();
    settings.cors_origin.clone_from(&http.cors_origin);
    if let Some(tiles) = &http.tiles {
        settings.tile_origin = Some(tiles.origin.clone());
        let (url, attribution) = (tiles.url.clone(), tiles.attribution.clone());
        settings.tiles = Some(Tiles { url, attribution });
    }
    settings
}

/// Returns the settings of the provider's client, or `None` if no provider is queried over the
/// network.
fn client_settings(places: &config::Places, seed: u64) -> Result<Option<Settings>, KeyError> {
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
    Ok(Some(Settings { provider, url, key, limits, seed }))
}

fn places_of_file(path: &Path) -> Result<Offline, String> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file that is too large is noticed without reading it.
    let read = File::open(path)
        .and_then(|file| file.take(MAX_PLACES_FILE_BYTES as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("cannot be read: {error}; correct `places.file`"))?;
    if bytes.len() > MAX_PLACES_FILE_BYTES {
        return Err(format!("is larger than {MAX_PLACES_FILE_BYTES} bytes; use a smaller file"));
    }
    let format = Format::of(&path.to_string_lossy(), &bytes);
    let places = places_file::parse(&bytes, format).map_err(|error| error.to_string())?;
    Ok(Offline::own(places))
}
