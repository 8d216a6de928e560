//! The composition root: turns the configuration into the settings of the core.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;

use super::certificates::Dates;
use super::clock::wall;
use super::device_tls::{self, DeviceTlsConfig};
use super::event_loop::DeviceSide;
use super::feed::load_tls;
use super::peer_tls::PeerTlsConfig;
use super::reload::{FileSet, Fresh};
use super::tokens_file;
use super::upstream::{Owner, ServerTls, Upstream};
use super::word;
use crate::config::{
    Config, DevicesConfig, HerdSettings, NullIsland, PlacesConfig, ProviderConfig,
};
use crate::devices::{self, Devices};
use crate::herd::digest_key::{DigestKey, Seeds};
use crate::herd::directory::Rules;
use crate::herd::handshake::Identity;
use crate::herd::{Herd, Timing};
use crate::http::{self, overview::Address, overview::Tiles};
use crate::ids::{BootId, NodeId};
use crate::limits::Limits;
use crate::places::Places;
use crate::places::limits::MAX_PLACES_FILE_BYTES;
use crate::places::offline::Offline;
use crate::places::offline::places_file::{self, Format};
use crate::places::providers::Provider;
use crate::places::upstream::{ApiKey, Client, KeyError, Settings};
use crate::time::Instant;

/// Returns the source of places, and the sockets to the provider if it is a remote one. `seed`
/// varies the pauses of the circuit breaker.
///
/// # Errors
///
/// A file that the configuration names cannot be read or is not valid; the message says which,
/// what is wrong and what to do.
pub(super) fn places(config: &Config, seed: u64) -> io::Result<(Places, Option<Upstream<Client>>)> {
    let settings = client_settings(&config.places, seed).map_err(io::Error::other)?;
    if let (Some(settings), Some(server)) = (settings, config.places.provider.server()) {
        let client = Places::Upstream(Box::new(Client::new(settings)));
        let load = || provider_tls(server.ca_file.as_deref());
        return Ok((client, Some(Upstream::new(Owner::Places, server.url.clone(), load)?)));
    }
    let offline = match &config.places.provider {
        ProviderConfig::Offline { file: Some(path) } => places_of_file(path).map_err(|why| {
            io::Error::other(format!("the places file {}: {why}", path.display()))
        })?,
        _ => Offline::gazetteer().map_err(io::Error::other)?,
    };
    Ok((Places::Offline(offline), None))
}

/// Returns the settings of the HTTP side of the node `me` with `limits`.
pub(super) fn http_settings(config: &Config, me: usize, limits: &Limits) -> http::Settings {
    let own = &config.nodes[me];
    let mut settings = http::Settings {
        address: Address { host: own.dial.to_string(), port: own.port },
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

/// Returns the listener for devices of the node `name` with `limits`.
///
/// # Errors
///
/// If a file cannot be read or is not valid; the message names the file and the fix.
pub(super) fn devices(
    devices: &DevicesConfig,
    name: &str,
    limits: &Limits,
) -> io::Result<DeviceSide> {
    let load = |files| DeviceTlsConfig::load(files, name);
    let settings = devices::Settings {
        tokens: devices.tokens_file.as_deref().map(tokens_file::load).transpose()?,
        max_accuracy_m: devices.limits.max_accuracy_m,
        null_island: match devices.null_island {
            NullIsland::Drop => devices::NullIsland::Drop,
            NullIsland::Keep => devices::NullIsland::Keep,
        },
        max_body: devices.limits.max_body,
        max_output: limits.max_output_buffer,
    };
    let tls = devices.tls.as_ref().map(load).transpose()?;
    Ok(DeviceSide { shared: Devices::new(settings), tls })
}

/// Returns the settings of the provider's client, or `None` if no provider is queried over the
/// network.
fn client_settings(places: &PlacesConfig, seed: u64) -> Result<Option<Settings>, KeyError> {
    let (provider, server, key) = match &places.provider {
        ProviderConfig::Offline { .. } => return Ok(None),
        ProviderConfig::Google { key, server } => (Provider::Google, server, Some(key)),
        ProviderConfig::GoogleLegacy { key, server } => (Provider::GoogleLegacy, server, Some(key)),
        ProviderConfig::Overpass { server } => (Provider::Overpass, server, None),
    };
    let key = key.map(|key| ApiKey::parse(key.expose())).transpose()?;
    let (url, limits) = (server.url.clone(), places.limits.clone());
    Ok(Some(Settings { provider, url, key, limits, seed }))
}

/// Loads the TLS settings for a places provider.
pub(super) fn provider_tls(ca_file: Option<&Path>) -> io::Result<ServerTls> {
    ServerTls::load("places.ca_file", ca_file, b"http/1.1")
}

fn places_of_file(path: &Path) -> Result<Offline, String> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that an oversized file is detected without reading all of it.
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

/// Returns the files that SIGHUP reloads, with the dates of the certificates that have been read from
/// them. A file that would not be accepted then is accepted at the start, as far as the node can run
/// with it: clients need it even if its neighbors reject its certificate.
pub(super) fn file_sets(
    config: &Config,
    name: &str,
    links: Option<&PeerTlsConfig>,
    devices: Option<&DeviceSide>,
    [provider, feed]: [Option<&ServerTls>; 2],
) -> Vec<(FileSet, Vec<Dates>)> {
    let mut sets = Vec::new();
    if let (Some(files), Some(tls)) = (&config.peers.tls, links) {
        let flaw = tls.credentials.verify().err().map(|flaw| flaw.text);
        let dates = tls.credentials.files().map(|file| file.dates.clone()).into();
        let (files, name) = (files.clone(), name.to_owned());
        let load = move || {
            let tls = PeerTlsConfig::load(&files, &name)?;
            let verified = tls.credentials.verify_dates(wall());
            let verified = verified.and_then(|()| tls.credentials.verify());
            verified.map_err(|flaw| io::Error::other(flaw.text))?;
            Ok(Fresh::Links(Box::new(tls)))
        };
        sets.push((FileSet { name: "peers.tls", load: Arc::new(load), flaw }, dates));
    }
    if let (Some(configured), Some(devices)) = (&config.devices, devices) {
        sets.extend(device_sets(configured, name, devices));
    }
    let server = config.places.provider.server();
    let ca_file = server.and_then(|server| server.ca_file.clone());
    if let (Some(path), Some(tls)) = (ca_file, provider) {
        let dates = tls.dates().cloned().into_iter().collect();
        let load = move || {
            let tls = provider_tls(Some(&path))?;
            tls.verify(wall())?;
            Ok(Fresh::Provider(tls))
        };
        let (name, load) = ("places.ca_file", Arc::new(load));
        sets.push((FileSet { name, load, flaw: None }, dates));
    }
    if let (Some(config), Some(tls)) = (&config.feed, feed)
        && config.ca_file.is_some()
    {
        let dates = tls.dates().cloned().into_iter().collect();
        let config = config.clone();
        let load = move || {
            let tls = load_tls(&config)?;
            tls.verify(wall())?;
            Ok(Fresh::Feed(tls))
        };
        let (name, load) = ("feed.ca_file", Arc::new(load));
        sets.push((FileSet { name, load, flaw: None }, dates));
    }
    sets
}

/// Returns the files of the listener for devices: the certificate and its key, and the tokens.
fn device_sets(
    configured: &DevicesConfig,
    name: &str,
    devices: &DeviceSide,
) -> Vec<(FileSet, Vec<Dates>)> {
    let mut sets = Vec::new();
    if let (Some(files), Some(tls)) = (&configured.tls, &devices.tls) {
        let flaw = device_tls::verify(&tls.certificate, wall()).err();
        let dates = vec![tls.certificate.dates.clone()];
        let (files, name) = (files.clone(), name.to_owned());
        let load = move || {
            let tls = DeviceTlsConfig::load(&files, &name)?;
            device_tls::verify(&tls.certificate, wall())?;
            Ok(Fresh::Devices(Box::new(tls)))
        };
        let flaw = flaw.map(|flaw| flaw.to_string());
        sets.push((FileSet { name: "devices.tls", load: Arc::new(load), flaw }, dates));
    }
    if let Some(path) = configured.tokens_file.clone() {
        let load = move || Ok(Fresh::Tokens(Box::new(tokens_file::load(&path)?)));
        let (name, load) = ("devices.tokens_file", Arc::new(load));
        sets.push((FileSet { name, load, flaw: None }, Vec::new()));
    }
    sets
}

/// Returns the neighbors of `node` in the order of their names, which is the order of links.
pub(super) fn sorted_neighbors(config: &Config, node: usize) -> Vec<usize> {
    let mut neighbors = config.nodes[node].neighbors.clone();
    neighbors.sort_by(|&a, &b| config.nodes[a].name.cmp(&config.nodes[b].name));
    neighbors
}

/// Returns the settings of the whole herd in the form of the core.
pub fn rules(settings: &HerdSettings) -> Rules {
    let nanos = |duration: Duration| duration.as_nanos() as i128;
    Rules {
        max_clock_offset: nanos(settings.max_clock_offset),
        max_clients: settings.max_clients as u32,
        client_ttl: settings.client_ttl.map_or(0, nanos),
        forget_keep: nanos(settings.forget_keep),
    }
}

/// Returns the identity of `node`. `random` seeds the boot id.
pub(super) fn identity(config: &Config, node: usize, random: &[u8; 32]) -> Identity {
    let mut names: Vec<Box<[u8]>> =
        config.nodes.iter().map(|node| node.name.as_bytes().into()).collect();
    names.sort_unstable();
    let neighbors = sorted_neighbors(config, node);
    let secret = config.peers.secret.as_ref();
    Identity {
        me: id(&names, config, node),
        neighbors: neighbors.iter().map(|&n| id(&names, config, n)).collect(),
        rules: rules(&config.herd_settings()),
        next: config.next.as_ref().map(rules),
        link_port: 0,
        secret: secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose())),
        tls: config.peers.requires_tls(),
        boot: BootId(word(random, 0)),
        names,
    }
}

/// Returns the id of a node, an index in the sorted `names`. Every name is in the list.
fn id(names: &[Box<[u8]>], config: &Config, node: usize) -> NodeId {
    let name = config.nodes[node].name.as_bytes();
    NodeId(names.binary_search_by(|held| (**held).cmp(name)).unwrap_or_default() as u16)
}

/// Returns the herd as `node` sees it. `random` is for the boot id and the key of the index,
/// `digest_seed` for the key of the digests that the node proposes.
pub(super) fn herd(
    config: &Config,
    node: usize,
    random: &[u8; 32],
    digest_seed: &[u8; 32],
) -> Herd {
    let identity = identity(config, node, random);
    let legacy_nodes: Vec<NodeId> = (0..config.nodes.len())
        .filter(|&n| config.nodes[n].seed_compatible)
        .map(|n| id(&identity.names, config, n))
        .collect();
    let peers = &config.peers.limits;
    let timing = Timing {
        keepalive: peers.keepalive,
        timeout: peers.timeout,
        redial_max: peers.redial_max,
        antientropy_interval: peers.antientropy_interval,
    };
    let born = u64::try_from(wall().nanos()).unwrap_or(0);
    let random_bits = u128::from(word(digest_seed, 0)) << 64 | u128::from(word(digest_seed, 8));
    let digest = DigestKey { born, random: random_bits };
    let seeds = Seeds { index: (word(random, 8), word(random, 16)), digest };
    Herd::new(identity, &legacy_nodes, timing, seeds, Instant::START)
}
