//! The configuration file, read and validated into a [`Config`].
//!
//! It is the seed's file, with optional sections of our own. Everything is parsed once into the
//! types that the node works with; whoever holds a [`Config`] has nothing left to check.
//!
//! Paths of files that the configuration names (`api_key_file`, `ca_file`, `secret_file`, the
//! places file, certificates) are relative to the folder of the configuration file. The
//! directory of the logs is relative to the working directory.

mod document;
mod error;
mod herd;
mod http;
mod logging;
mod peers;
mod places;
mod secret;
pub mod suggest;

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use document::{Document, Field, Section};

pub use error::Error;
pub use http::{Http, Tiles};
pub use logging::Logging;
pub use peers::{PeerTls, Peers};
pub use places::{Places, Provider, Server};
pub use secret::{Environment, Secret, no_secrets};

use crate::endpoint::Host;
use crate::limits::{Limits, MAX_CONFIG_BYTES, Setting};

/// A herd: its nodes and what they go by.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub source: PathBuf,
    /// The nodes, in the order of the file. There is at least one.
    pub nodes: Vec<Node>,
    /// Who answers WHATSAT.
    pub places: Places,
    /// What clients may ask of a node.
    pub limits: Limits,
    /// What is logged, and where.
    pub logging: Logging,
    /// How nodes link up.
    pub peers: Peers,
    /// What people and their tools look at; `None` where the file has no section `http`.
    pub http: Option<Http>,
    /// What the benchmark does.
    pub benchmark: Benchmark,
    /// What is allowed, but probably not meant.
    pub warnings: Vec<String>,
}

/// A node of the herd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name: one field of AT lines, at most [`crate::limits::MAX_NODE_NAME`] bytes.
    pub name: String,
    /// Its port, for clients and peers alike.
    pub port: u16,
    /// Where it listens.
    pub listen: Host,
    /// Where its peers reach it.
    pub dial: Host,
    /// The nodes it shares an edge with, as places in [`Config::nodes`], in ascending order.
    pub neighbors: Vec<usize>,
    /// Whether it is the seed's Python server, which knows no handshake.
    pub seed_compatible: bool,
}

/// What the benchmark does: the seed's section `benchmark`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Benchmark {
    /// How many clients it plays.
    pub num_clients: u32,
    /// How long it runs.
    pub test_duration: Duration,
    /// How long it waits for a reply.
    pub timeout: Duration,
}

impl Config {
    /// Reads and validates the file at `path`.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its place and what to do.
    pub fn load(path: &Path, environment: Environment) -> Result<Self, Error> {
        let bytes = read_bounded(path, MAX_CONFIG_BYTES).map_err(|error| {
            let what = match error.kind() {
                io::ErrorKind::FileTooLarge => {
                    format!("is larger than {MAX_CONFIG_BYTES} bytes, so it is no configuration")
                }
                io::ErrorKind::NotFound => "there is no such file".to_owned(),
                _ => format!("cannot be read: {error}"),
            };
            Error::file(path, None, format!("{what}; name the configuration with -c FILE"))
        })?;
        Self::from_bytes(path, &bytes, environment)
    }

    /// Validates the content of the file at `path`, without reading that file.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its place and what to do.
    pub fn from_bytes(path: &Path, bytes: &[u8], environment: Environment) -> Result<Self, Error> {
        let text = str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + memchr::memchr_iter(b'\n', before).count() as u64;
            Error::file(path, Some(line), "is not UTF-8; save the file with that encoding")
        })?;
        let document = Document::parse(path, text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        read(path, folder, &document.root(), environment)
    }

    /// The node called `name`, as its place in [`Config::nodes`].
    pub fn node(&self, name: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.name == name)
    }
}

fn read(
    source: &Path,
    folder: &Path,
    root: &Field,
    environment: Environment,
) -> Result<Config, Error> {
    let file = root.section(&[
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
        "benchmark",
    ])?;
    let limits_section = file.section("limits", &keys_with(Limits::TABLE, &[]))?;
    let places_section = file.section("places", &Places::keys())?;
    let peers_section = file.section("peers", &Peers::keys())?;
    let logging_section = file.section("logging", Logging::KEYS)?;
    let mut warnings = Vec::new();

    let nodes = herd::nodes(root, &file, &peers_section)?;
    if let Some(warning) = disconnection(&nodes) {
        warnings.push(file.get("neighbors").unwrap_or(root).error(warning).to_string());
    }
    let limits = settings(&limits_section, Limits::TABLE)?;
    let key = secret::api_key(environment, &file, folder)?;
    let places = Places::read(&places_section, key, folder, &mut warnings)?;
    let peers = Peers::read(&peers_section, folder, environment)?;
    if let Some(warning) = peers.unreachable(&nodes) {
        warnings.push(file.get("hosts").unwrap_or(root).error(warning).to_string());
    }
    let http = Http::read(&file, &nodes)?;
    Ok(Config {
        source: source.to_owned(),
        nodes,
        places,
        limits,
        logging: Logging::read(&logging_section)?,
        peers,
        http,
        benchmark: Benchmark::read(&file)?,
        warnings,
    })
}

impl Default for Benchmark {
    fn default() -> Self {
        let [test_duration, timeout] = [5, 2].map(Duration::from_secs);
        Self { num_clients: 5, test_duration, timeout }
    }
}

impl Benchmark {
    fn read(file: &Section) -> Result<Self, Error> {
        let section = file.section("benchmark", &["num_clients", "test_duration", "timeout"])?;
        let clients = |number| (1..=1_000_000).contains(&number);
        let mut benchmark = Self::default();
        if let Some(field) = section.get("num_clients") {
            benchmark.num_clients = field.whole(clients, "from 1 to 1000000")? as u32;
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

/// The keys of a section: `others`, and those of its table of numbers.
fn keys_with<S>(table: &[Setting<S>], others: &[&'static str]) -> Vec<&'static str> {
    others.iter().copied().chain(table.iter().map(|setting| setting.limit.key)).collect()
}

/// The numbers that a section sets, and the defaults of those it does not.
fn settings<S: Default>(section: &Section, table: &[Setting<S>]) -> Result<S, Error> {
    let mut settings = S::default();
    for Setting { limit, set, .. } in table {
        if let Some(field) = section.get(limit.key) {
            set(&mut settings, field.whole(|number| limit.allows(number), &limit.range())?);
        }
    }
    Ok(settings)
}

/// Nodes that no path of edges joins will never hear of each other's clients.
fn disconnection(nodes: &[Node]) -> Option<String> {
    let mut reached = vec![false; nodes.len()];
    let mut waiting = vec![0];
    while let Some(node) = waiting.pop() {
        if !std::mem::replace(&mut reached[node], true) {
            waiting.extend(&nodes[node].neighbors);
        }
    }
    let alone = nodes.iter().zip(&reached).filter(|(_, reached)| !**reached);
    let names = alone.map(|(node, _)| node.name.as_str()).collect::<Vec<_>>();
    (!names.is_empty()).then(|| {
        format!(
            "no path of neighbors leads from {} to {}; they will not share locations",
            nodes[0].name,
            names.join(", ")
        )
    })
}

/// The path that `field` names, relative to `folder`, of a file that can be read now.
fn readable_file(field: &Field, folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join(field.text()?);
    match open_file(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(field.error(format!(
            "{} cannot be read: {error}; correct the path, it is relative to the configuration",
            path.display()
        ))),
    }
}

/// What the file at `path` holds, unless that is more than `limit` bytes.
fn read_bounded(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

/// Opens a file. A directory can be opened as well, but fails only when it is read.
fn open_file(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    File::open(path)
}

#[cfg(test)]
mod tests;
