//! The summary of a configuration that `--check` prints.

use std::fmt::Write as _;
use std::time::Duration;

use super::table::table;
use crate::config::{Config, DevicesConfig, HerdSettings, ProviderConfig};
use crate::http::settings::Settings;
use crate::limits::{DeviceLimits, Limits, PeerLimits, PlacesLimits, Setting, StorageLimits};
use crate::message_log::level_name;

/// Returns a summary of `config`: the topology, the settings and the limits that are not at their
/// defaults. It contains no secrets.
pub fn summary(config: &Config) -> String {
    // Writing to a String cannot fail, so the results are ignored.
    let mut text = String::new();
    let count = |number, noun| format!("{number} {noun}{}", if number == 1 { "" } else { "s" });
    let nodes = count(config.nodes.len(), "node");
    let ends = config.nodes.iter().map(|node| node.neighbors.len()).sum::<usize>();
    let edges = count(ends / 2, "edge");
    let _ = writeln!(text, "{}: {nodes}, {edges}\n", config.source.display());
    text.push_str(&topology(config));
    let _ = writeln!(text, "\nPlaces: {}", places(config));
    let _ = writeln!(text, "HTTP: {}", http(config));
    if let Some(section) = &config.devices {
        let _ = writeln!(text, "Devices: {}", devices(config, section));
    }
    if let Some(fences) = &config.fences {
        let _ = writeln!(text, "Fences: {}", fences.file.display());
    }
    let secret = if config.peers.secret.is_some() { "shared secret" } else { "no secret" };
    let tls = match &config.peers.tls {
        None => "no TLS",
        Some(tls) if tls.accept_plain => "TLS or plain",
        Some(_) => "TLS",
    };
    let offset = config.peers.max_clock_offset.as_secs_f64();
    let _ = writeln!(text, "Peers: {secret}, {tls}, maximum clock offset {offset} s");
    if let Some(next) = &config.next {
        let [now, next] = [&config.herd_settings(), next].map(settings);
        let _ = writeln!(text, "Announced for the whole herd: {}", now.changes(&next));
    }
    let directory = config.logging.directory.display();
    let level = config.logging.level.to_level().map_or("OFF", level_name);
    let _ = writeln!(text, "Logs: {directory}/NAME.log, level {level}");
    let _ = writeln!(text, "Storage: {}", storage(config));
    if let Some(feed) = &config.feed {
        let _ = writeln!(text, "Feed: {}, stream {}:NAME", feed.engine, feed.stream);
    }
    let mut changed = changed(&config.limits, Limits::TABLE)
        + &changed(&config.places.limits, PlacesLimits::TABLE)
        + &changed(&config.peers.limits, PeerLimits::TABLE);
    if let Some(devices) = &config.devices {
        changed += &self::changed(&devices.limits, DeviceLimits::TABLE);
    }
    if let Some(storage) = &config.storage {
        changed += &self::changed(&storage.limits, StorageLimits::TABLE);
    }
    if changed.is_empty() {
        text.push_str("Limits: all at their defaults\n");
    } else {
        let _ = write!(text, "Limits not at their defaults:\n{changed}");
    }
    text
}

fn settings(settings: &HerdSettings) -> Settings {
    let seconds = |duration: Duration| duration.as_secs();
    Settings {
        max_clock_offset: settings.max_clock_offset.as_secs_f64(),
        max_clients: settings.max_clients as u32,
        client_ttl_s: settings.client_ttl.map_or(0, seconds),
        forget_keep_s: seconds(settings.forget_keep),
    }
}

/// A table of the nodes with their addresses and neighbors.
fn topology(config: &Config) -> String {
    let mut rows =
        vec![["Node", "Listens on", "Reached at", "Neighbors"].map(str::to_owned).to_vec()];
    for node in &config.nodes {
        let neighbors = node.neighbors.iter().map(|&it| config.nodes[it].name.as_str());
        let mut neighbors = neighbors.collect::<Vec<_>>().join(", ");
        if node.seed_compatible {
            neighbors.push_str(" (original server)");
        }
        rows.push(vec![
            node.name.clone(),
            format!("{}:{}", node.listen, node.port),
            format!("{}:{}", node.dial, node.port),
            neighbors,
        ]);
    }
    table(&rows)
}

fn places(config: &Config) -> String {
    let provider = &config.places.provider;
    let name = provider.name();
    match provider {
        ProviderConfig::Offline { file: None } => format!("{name}, built-in gazetteer"),
        ProviderConfig::Offline { file: Some(file) } => format!("{name}, from {}", file.display()),
        ProviderConfig::Google { server, .. }
        | ProviderConfig::GoogleLegacy { server, .. }
        | ProviderConfig::Overpass { server } => format!("{name} at {}", server.url),
    }
}

fn storage(config: &Config) -> String {
    let Some(storage) = &config.storage else { return "off".to_owned() };
    format!("{}/NAME, sync: {}", storage.directory.display(), storage.sync.name())
}

fn http(config: &Config) -> String {
    let Some(http) = &config.http else { return "off".to_owned() };
    let addresses = config.nodes.iter().zip(&http.ports).filter_map(|(node, port)| {
        let port = port.as_ref()?;
        Some(format!("{} at {}:{port}", node.name, http.listen))
    });
    listed(addresses)
}

fn devices(config: &Config, devices: &DevicesConfig) -> String {
    let scheme = if devices.tls.is_some() { "https" } else { "http" };
    let addresses = config.nodes.iter().zip(&devices.ports).filter_map(|(node, port)| {
        let port = port.as_ref()?;
        Some(format!("{} at {scheme}://{}:{port}", node.name, devices.listen))
    });
    let addresses = listed(addresses);
    match &devices.tokens_file {
        Some(file) => format!("{addresses}, tokens in {}", file.display()),
        None => format!("{addresses}, without tokens"),
    }
}

/// Where nodes listen; `ports` may be empty.
fn listed(addresses: impl Iterator<Item = String>) -> String {
    let addresses: Vec<_> = addresses.collect();
    if addresses.is_empty() { "no node".to_owned() } else { addresses.join(", ") }
}

/// A line for each limit of a section that is not at its default.
fn changed<S>(section: &S, table: &[Setting<S>]) -> String {
    let mut lines = String::new();
    for Setting { limit, get, .. } in table {
        let value = get(section);
        if value != limit.default {
            let _ = writeln!(
                lines,
                "    {}.{}: {}, default {}",
                limit.section,
                limit.key,
                limit.describe(value),
                limit.describe(limit.default)
            );
        }
    }
    lines
}
