//! The configuration file, read and validated into a [`Config`].
//!
//! The format is that of the original server, extended by optional sections. Every value is parsed
//! once into the type that the node works with, so a [`Config`] needs no further checks.
//!
//! The paths of files (`api_key_file`, `ca_file`, `secret_file`, `tokens_file`, places, fences,
//! certificates) are relative to the directory of the configuration file. The directories of the log
//! and of the storage are relative to the working directory.

mod devices;
mod document;
mod error;
mod feed;
mod fences;
mod herd;
mod http;
mod logging;
mod next;
mod peers;
mod places;
mod ports;
mod redaction;
mod secret;
mod storage;
pub mod suggest;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use document::{Document, Field, Section};
use ports::Ports;

pub use devices::{DeviceTls, DevicesConfig, NullIsland};
pub use error::Error;
pub use feed::{Engine, Entries, FeedConfig};
pub use fences::FencesConfig;
pub use http::{HttpConfig, TileServer};
pub use logging::LoggingConfig;
pub use next::HerdSettings;
pub use peers::{PeerTls, PeersConfig};
pub use places::{PlacesConfig, ProviderConfig, ProviderServer};
pub use secret::{Environment, Secret, no_secrets};
pub use storage::{StorageConfig, Sync};

use crate::endpoint::Host;
use crate::limits::{Limits, MAX_CONFIG_BYTES, Setting};

/// The validated configuration of a herd.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file that it was read from.
    pub source: PathBuf,
    /// The nodes, in the order of the file. There is at least one.
    pub nodes: Vec<NodeConfig>,
    /// The source of places for WHATSAT.
    pub places: PlacesConfig,
    /// Limits on clients.
    pub limits: Limits,
    /// Settings of the whole herd that this node announces for the future, if any.
    pub next: Option<HerdSettings>,
    /// The log.
    pub logging: LoggingConfig,
    /// Links between nodes.
    pub peers: PeersConfig,
    /// The HTTP interface; `None` if the file has no section `http`.
    pub http: Option<HttpConfig>,
    /// The listener for phones and trackers; `None` if the file has no section `devices`.
    pub devices: Option<DevicesConfig>,
    /// The storage of records; `None` if the file has no section `storage`.
    pub storage: Option<StorageConfig>,
    /// The fences; `None` if the file has no section `fences`.
    pub fences: Option<FencesConfig>,
    /// The feed; `None` if the file has no section `feed`.
    pub feed: Option<FeedConfig>,
    /// Defaults of the benchmark.
    pub benchmark: BenchmarkConfig,
    /// Settings that are valid but probably not intended.
    pub warnings: Vec<String>,
}

/// A node of the herd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name: a field of AT lines, at most [`crate::limits::MAX_NODE_NAME`] bytes.
    pub name: String,
    /// Port for clients and peers.
    pub port: u16,
    /// Address that the node listens on.
    pub listen: Host,
    /// Address at which peers reach the node.
    pub dial: Host,
    /// Indices in [`Config::nodes`] of the nodes that it shares an edge with, in ascending order.
    pub neighbors: Vec<usize>,
    /// True for an original Python server, which does not support the handshake.
    pub seed_compatible: bool,
}

/// The section `benchmark`: defaults of herd-bench.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchmarkConfig {
    /// Number of simulated clients.
    pub num_clients: u32,
    /// Duration of the measurement.
    pub test_duration: Duration,
    /// Time after which a reply counts as missing.
    pub timeout: Duration,
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is not valid; the error describes the first problem found.
    pub fn load(path: &Path, environment: Environment) -> Result<Self, Error> {
        let bytes = read_bounded(path, MAX_CONFIG_BYTES).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::FileTooLarge => {
                    format!(
                        "is larger than {MAX_CONFIG_BYTES} bytes, too large for a configuration"
                    )
                }
                io::ErrorKind::NotFound => "does not exist".to_owned(),
                _ => format!("cannot be read: {error}"),
            };
            Error::file(path, None, format!("{what}; specify the configuration with -c FILE"))
        })?;
        Self::from_bytes(path, &bytes, environment)
    }

    /// Validates `bytes` as the content of the file at `path`, which is not read.
    ///
    /// # Errors
    ///
    /// The content is not valid; the error describes the first problem found.
    pub fn from_bytes(path: &Path, bytes: &[u8], environment: Environment) -> Result<Self, Error> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + memchr::memchr_iter(b'\n', before).count() as u64;
            Error::file(path, Some(line), "is not valid UTF-8; save the file in that encoding")
        })?;
        let document = Document::parse(path, text)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        let redaction = document.redaction();
        let mut config = read(path, directory, &document.root(), environment)
            .map_err(|error| redaction.apply_to(error))?;
        for warning in &mut config.warnings {
            *warning = redaction.apply(warning);
        }
        Ok(config)
    }

    /// Returns the settings that must be identical on all nodes.
    pub const fn herd_settings(&self) -> HerdSettings {
        HerdSettings::new(&self.limits, &self.peers)
    }

    /// Returns the index in [`Config::nodes`] of the node `name`.
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}

const KEYS: &[&str] = &[
    "api_key",
    "api_key_file",
    "ports",
    "hosts",
    "neighbors",
    "places",
    "limits",
    "logging",
    "peers",
    "http",
    "devices",
    "storage",
    "fences",
    "feed",
    "benchmark",
];

fn read(
    source: &Path,
    directory: &Path,
    root: &Field,
    environment: Environment,
) -> Result<Config, Error> {
    let file = root.section(KEYS)?;
    let limits_section = file.section("limits", &keys_with(Limits::TABLE, &["next"]))?;
    let places_section = file.section("places", &PlacesConfig::keys())?;
    let peers_section = file.section("peers", &PeersConfig::keys())?;
    let logging_section = file.section("logging", LoggingConfig::KEYS)?;
    let mut warnings = Vec::new();

    let nodes = herd::nodes(root, &file, &peers_section)?;
    if let Some(warning) = disconnection(&nodes) {
        warnings.push(file.get("neighbors").unwrap_or(root).error(warning).to_string());
    }
    let limits = settings(&limits_section, Limits::TABLE)?;
    let key = secret::api_key(environment, &file, directory)?;
    let places = PlacesConfig::read(&places_section, key, directory, &mut warnings)?;
    let peers = PeersConfig::read(&peers_section, directory, environment, &mut warnings)?;
    if let Some(warning) = peers.unreachable(&nodes) {
        warnings.push(file.get("hosts").unwrap_or(root).error(warning).to_string());
    }
    let next = next::read(&limits_section, &limits, &peers, &mut warnings)?;
    let mut ports = Ports::new(&nodes);
    let http = HttpConfig::read(&file, &mut ports)?;
    let devices = DevicesConfig::read(&file, directory, &mut ports)?;
    let storage = StorageConfig::read(&file, &nodes)?;
    let feed = FeedConfig::read(&file, storage.as_ref(), directory, environment, &mut warnings)?;
    Ok(Config {
        source: source.to_owned(),
        nodes,
        places,
        limits,
        next,
        logging: LoggingConfig::read(&logging_section)?,
        peers,
        http,
        devices,
        fences: FencesConfig::read(&file, directory)?,
        storage,
        feed,
        benchmark: BenchmarkConfig::read(&file)?,
        warnings,
    })
}

impl Default for BenchmarkConfig {
    fn default() -> Self {
        let [test_duration, timeout] = [5, 2].map(Duration::from_secs);
        Self { num_clients: 5, test_duration, timeout }
    }
}

impl BenchmarkConfig {
    const KEYS: &[&str] = &["num_clients", "test_duration", "timeout"];

    fn read(file: &Section) -> Result<Self, Error> {
        let section = file.section("benchmark", Self::KEYS)?;
        let clients = |number| (1..=1_000_000).contains(&number);
        let mut benchmark = Self::default();
        if let Some(field) = section.get("num_clients") {
            benchmark.num_clients = field.integer(clients, "from 1 to 1000000")? as u32;
        }
        for (key, duration) in
            [("test_duration", &mut benchmark.test_duration), ("timeout", &mut benchmark.timeout)]
        {
            if let Some(field) = section.get(key) {
                *duration = field.seconds(0.001..=86_400.0)?;
            }
        }
        Ok(benchmark)
    }
}

/// Returns the keys of a section: `others`, and those of its table of limits.
fn keys_with<S>(table: &[Setting<S>], others: &[&'static str]) -> Vec<&'static str> {
    others.iter().copied().chain(table.iter().map(|setting| setting.limit.key)).collect()
}

/// Reads the limits of a section; those that it does not set have their defaults.
fn settings<S: Default>(section: &Section, table: &[Setting<S>]) -> Result<S, Error> {
    let mut settings = S::default();
    for Setting { limit, set, .. } in table {
        if let Some(field) = section.get(limit.key) {
            set(&mut settings, field.integer(|number| limit.allows(number), &limit.range())?);
        }
    }
    Ok(settings)
}

/// Returns a warning if the topology is not connected: without a path of edges between them, nodes
/// never learn of each other's clients.
fn disconnection(nodes: &[NodeConfig]) -> Option<String> {
    let mut reached = vec![false; nodes.len()];
    let mut to_visit = vec![0];
    while let Some(node) = to_visit.pop() {
        if !std::mem::replace(&mut reached[node], true) {
            to_visit.extend(&nodes[node].neighbors);
        }
    }
    let unreached = nodes.iter().zip(&reached).filter(|(_, reached)| !**reached);
    let names = unreached.map(|(node, _)| node.name.as_str()).collect::<Vec<_>>();
    (!names.is_empty()).then(|| {
        format!(
            "no path connects {} to {}, so they will not share locations; add an edge",
            nodes[0].name,
            names.join(", ")
        )
    })
}

/// Returns the path in `field`, relative to `directory`, after checking that the file can be opened.
fn readable_file(field: &Field, directory: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(field.text()?);
    match open_file(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(field.error(format!(
            "cannot read {}: {error}; correct the path, which is relative to the configuration",
            path.display()
        ))),
    }
}

/// Reads the file at `path`, which may have at most `limit` bytes.
fn read_bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Opens a file, and rejects a directory, which would fail only when it is read.
fn open_file(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    File::open(path)
}

#[cfg(test)]
mod tests;
