//! The measurement plan, from the command line and the configuration.

use std::ffi::OsString;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use getopts::{Matches, Options};

use super::clients::{AREA_M, MAX_CLIENTS, Range};
use super::limits::{
    DEFAULT_CONNECTIONS, MAX_CONNECTIONS, MAX_PIPELINE, MAX_PROPAGATION_NODES, MAX_RATE,
    OPEN_LOOP_PIPELINE,
};
use super::wire::{Protocol, Wire};
use crate::cli::{CONFIG_HELP, CommandError, Program, default_config, no_such_node};
use crate::config::{BenchmarkConfig, Config, no_secrets};
use crate::protocol::command::{Command, MAX_RADIUS_KM, MAX_RESULTS};

/// The program with its help texts.
pub const PROGRAM: Program = Program {
    name: "herd-bench",
    usage: "\
Usage: herd-bench [-c FILE] [OPTIONS] [NAME...]
       herd-bench --protocol PROTOCOL [OPTIONS] HOST:PORT...",
    about: "
NAME is a node of the configuration; by default, all nodes are driven.
Every reply is checked; wrong, missing and late replies count as errors.

Exit status:
    0   success
    1   some replies were wrong, or an error occurred
    2   invalid command line
",
};

/// A server to be measured.
#[derive(Debug, Clone)]
pub struct ServerUnderTest {
    /// The node's name, or the server's address if it speaks another protocol.
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// Start of its AT lines; empty for other protocols.
    pub prefix: Vec<u8>,
}

/// The pacing of requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pacing {
    /// Each connection sends a request when a reply has arrived.
    ClosedLoop,
    /// This many requests per second, independent of the replies.
    OpenLoop(f64),
}

/// Format of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// Tables for a terminal.
    Text,
    /// One JSON object.
    Json,
}

/// A complete description of a measurement.
#[derive(Debug)]
pub struct Plan {
    /// The servers to be measured.
    pub servers: Vec<ServerUnderTest>,
    /// Their wire format, and the parameters of WHATSATs.
    pub wire: Wire,
    /// Number of simulated clients.
    pub clients: u32,
    /// Number of connections that carry requests, distributed over the servers round-robin.
    pub connections: usize,
    /// Number of additional idle connections.
    pub idle: usize,
    /// Most outstanding requests per connection.
    pub pipeline: usize,
    /// Closed or open loop.
    pub pacing: Pacing,
    /// Percentage of WHATSATs among the requests.
    pub whatsat_percent: u64,
    /// Time under load before the measurement.
    pub warmup: Duration,
    /// Length of the measurement.
    pub duration: Duration,
    /// Time after which a reply counts as missing.
    pub timeout: Duration,
    /// Records per second to be followed from node to node, if propagation is measured.
    pub probes: Option<f64>,
    /// Processes whose CPU time is measured; if empty, those that listen on the servers' ports.
    pub pids: Vec<u32>,
    /// Poll for events without sleeping.
    pub busy_poll: bool,
    /// Format of the report.
    pub format: OutputFormat,
}

/// The action that a command line requests.
pub enum Invocation {
    /// Print this text.
    Print(String),
    /// Take a measurement.
    Measure(Box<Plan>),
}

impl Invocation {
    /// Parses `arguments`, which exclude the program name, and loads the configuration.
    ///
    /// # Errors
    ///
    /// An option is unknown or out of range, the configuration is missing or invalid, or a server's
    /// address cannot be resolved.
    pub fn parse(arguments: &[OsString]) -> Result<Self, CommandError> {
        let options = options();
        let matches = options.parse(arguments).map_err(usage_error)?;
        if let Some(text) = PROGRAM.information(&options, &matches) {
            return Ok(Self::Print(text));
        }
        let protocol = protocol(&matches)?;
        // Servers of other protocols need no configuration, so only -c makes one required.
        let default = (protocol == Protocol::Herd).then(|| default_config().to_owned());
        let path = matches.opt_str("config").or(default);
        let config = path.map(|path| Config::load(Path::new(&path), &no_secrets)).transpose();
        let plan = plan(&matches, protocol, config.map_err(CommandError::failure)?.as_ref())?;
        Ok(Self::Measure(Box::new(plan)))
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .optopt("c", "config", CONFIG_HELP, "FILE")
        .optopt("", "clients", "simulate N clients (default: benchmark.num_clients)", "N")
        .optopt("", "duration", "measure for S seconds (default: benchmark.test_duration)", "S")
        .optopt("", "timeout", "wait S seconds for a reply (default: benchmark.timeout)", "S")
        .optopt("", "warmup", "apply the load for S seconds before measuring (default: 0)", "S")
        .optopt(
            "",
            "connections",
            &format!("use N connections (default: one per client, at most {DEFAULT_CONNECTIONS})"),
            "N",
        )
        .optopt(
            "",
            "pipeline",
            &format!(
                "requests in flight per connection (default: 1, or {OPEN_LOOP_PIPELINE} with --rate)"
            ),
            "N",
        )
        .optopt(
            "",
            "rate",
            "open loop: send N requests per second regardless of replies; \
            latency counts from when a request is due",
            "N",
        )
        .optopt("", "range", "keep each client within a square of N meters (default: 37000)", "N")
        .optopt("", "whatsat-percent", "percentage of WHATSATs (default: 30)", "N")
        .optopt("", "radius", "radius of a WHATSAT in kilometers (default: 10)", "KM")
        .optopt("", "results", "results requested by a WHATSAT (default: 5)", "N")
        .optflag("", "propagation", "also measure propagation from each node to all others")
        .optopt("", "probes", "records per second that --propagation follows (default: 100)", "N")
        .optopt("", "idle", "keep N additional idle connections open", "N")
        .optmulti(
            "",
            "pid",
            "measure the CPU time of this process instead of the processes \
            listening on the ports; may be repeated",
            "PID",
        )
        .optopt(
            "",
            "protocol",
            "herd (default), or for comparison: echo, memcached, redis-set, redis-geo",
            "NAME",
        )
        .optflag(
            "",
            "busy-poll",
            "never sleep; on a dedicated core, this keeps wake-ups of the benchmark out of the \
            servers' CPU time",
        )
        .optflag("", "json", "print the report as JSON")
        .optflag("h", "help", "print this help")
        .optflag("V", "version", "print the version");
    options
}

/// Creates the error of an invalid command line: the problem and the usage.
fn usage_error(problem: impl fmt::Display) -> CommandError {
    PROGRAM.usage_error(problem, "")
}

fn protocol(matches: &Matches) -> Result<Protocol, CommandError> {
    let Some(name) = matches.opt_str("protocol") else { return Ok(Protocol::Herd) };
    let found = Protocol::NAMES.iter().find(|(known, _)| *known == name);
    found.map(|&(_, protocol)| protocol).ok_or_else(|| {
        let known = Protocol::NAMES.map(|(name, _)| name).join(", ");
        let name = name.escape_debug();
        usage_error(format!("--protocol must be one of {known}, not `{name}`"))
    })
}

fn plan(
    matches: &Matches,
    protocol: Protocol,
    config: Option<&Config>,
) -> Result<Plan, CommandError> {
    let is_herd = protocol == Protocol::Herd;
    let benchmark = config.map_or_else(BenchmarkConfig::default, |config| config.benchmark.clone());
    let servers = match config.filter(|_| is_herd) {
        Some(config) => nodes(matches, config)?,
        None => other_servers(matches)?,
    };
    let clients = number(matches, "clients", benchmark.num_clients, 1, MAX_CLIENTS)?;
    let pacing = pacing(matches)?;
    let pipeline = if pacing == Pacing::ClosedLoop { 1 } else { OPEN_LOOP_PIPELINE };
    Ok(Plan {
        wire: wire(matches, protocol, config)?,
        connections: connections(matches, clients, servers.len())?,
        probes: probes(matches, protocol, servers.len())?,
        servers,
        clients,
        idle: number(matches, "idle", 0, 0, MAX_CONNECTIONS)?,
        pipeline: number(matches, "pipeline", pipeline, 1, MAX_PIPELINE)?,
        pacing,
        whatsat_percent: if is_herd { number(matches, "whatsat-percent", 30, 0, 100)? } else { 0 },
        warmup: seconds(matches, "warmup", Duration::ZERO, 0.0)?,
        duration: seconds(matches, "duration", benchmark.test_duration, 0.001)?,
        timeout: seconds(matches, "timeout", benchmark.timeout, 0.001)?,
        pids: pids(matches)?,
        busy_poll: matches.opt_present("busy-poll"),
        format: if matches.opt_present("json") { OutputFormat::Json } else { OutputFormat::Text },
    })
}

fn connections(matches: &Matches, clients: u32, servers: usize) -> Result<usize, CommandError> {
    let default = (clients as usize).min(DEFAULT_CONNECTIONS).max(servers);
    let connections = number(matches, "connections", default, 1, MAX_CONNECTIONS)?;
    if connections < servers {
        let message = format!("--connections must be at least {servers}, the number of servers");
        return Err(usage_error(message));
    }
    Ok(connections)
}

fn pacing(matches: &Matches) -> Result<Pacing, CommandError> {
    if matches.opt_present("rate") {
        Ok(Pacing::OpenLoop(number(matches, "rate", 1.0, 0.1, MAX_RATE)?))
    } else {
        Ok(Pacing::ClosedLoop)
    }
}

/// Records per second to be followed, if `--propagation` or `--probes` is given.
fn probes(
    matches: &Matches,
    protocol: Protocol,
    servers: usize,
) -> Result<Option<f64>, CommandError> {
    if !matches.opt_present("propagation") && !matches.opt_present("probes") {
        return Ok(None);
    }
    if protocol != Protocol::Herd || !(2..=MAX_PROPAGATION_NODES).contains(&servers) {
        let message =
            format!("--propagation requires 2 to {MAX_PROPAGATION_NODES} nodes of a herd");
        return Err(usage_error(message));
    }
    number(matches, "probes", 100.0, 0.1, 10_000.0).map(Some)
}

fn wire(
    matches: &Matches,
    protocol: Protocol,
    config: Option<&Config>,
) -> Result<Wire, CommandError> {
    let radius = matches.opt_str("radius").unwrap_or_else(|| "10".to_owned());
    // The node's own parser decides which radius is valid.
    let query = format!("WHATSAT x {radius} 0");
    if !matches!(Command::parse(query.as_bytes()), Command::Whatsat(_)) {
        let message = format!("--radius must be a decimal number from 0 to {MAX_RADIUS_KM}");
        return Err(usage_error(message));
    }
    let results = number(matches, "results", 5, 0, MAX_RESULTS)?;
    let nodes = config.into_iter().flat_map(|config| &config.nodes);
    let names = nodes.map(|node| node.name.clone().into_bytes()).collect();
    let range = Range::of_meters(number(matches, "range", AREA_M, 1, AREA_M)?);
    Ok(Wire::new(protocol, &radius, results, names).with_range(range))
}

fn pids(matches: &Matches) -> Result<Vec<u32>, CommandError> {
    let pids = matches.opt_strs("pid");
    let pids = pids.iter().map(|pid| pid.parse()).collect::<Result<_, _>>();
    pids.map_err(|_| usage_error("--pid must be a process id"))
}

/// The value of the option `key` in seconds, from `min` to one day, or `default`.
fn seconds(
    matches: &Matches,
    key: &str,
    default: Duration,
    min: f64,
) -> Result<Duration, CommandError> {
    const DAY: f64 = 86_400.0;
    number(matches, key, default.as_secs_f64(), min, DAY).map(Duration::from_secs_f64)
}

/// The value of the option `key`, a number from `min` to `max`, or `default`.
fn number<T>(matches: &Matches, key: &str, default: T, min: T, max: T) -> Result<T, CommandError>
where
    T: FromStr + PartialOrd + fmt::Display + Copy,
{
    let Some(text) = matches.opt_str(key) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|number| (min..=max).contains(number))
        .ok_or_else(|| usage_error(format!("--{key} must be a number from {min} to {max}")))
}

/// The nodes named on the command line, or all nodes.
fn nodes(matches: &Matches, config: &Config) -> Result<Vec<ServerUnderTest>, CommandError> {
    let mut chosen = Vec::new();
    for name in &matches.free {
        let node = config.node(name);
        let node = node.ok_or_else(|| usage_error(no_such_node(config, name)))?;
        if chosen.contains(&node) {
            return Err(usage_error(format!("{name} is given twice")));
        }
        chosen.push(node);
    }
    if chosen.is_empty() {
        chosen = (0..config.nodes.len()).collect();
    }
    chosen
        .iter()
        .map(|&node| &config.nodes[node])
        .map(|node| {
            let address = resolve(&format!("{}:{}", node.dial, node.port))?;
            let prefix = format!("AT {} ", node.name).into_bytes();
            Ok(ServerUnderTest { name: node.name.clone(), address, prefix })
        })
        .collect()
}

/// Servers named on the command line by address.
fn other_servers(matches: &Matches) -> Result<Vec<ServerUnderTest>, CommandError> {
    if matches.free.is_empty() {
        return Err(usage_error("--protocol requires a server address: HOST:PORT"));
    }
    matches
        .free
        .iter()
        .map(|name| {
            let address = resolve(name)?;
            Ok(ServerUnderTest { name: name.clone(), address, prefix: Vec::new() })
        })
        .collect()
}

fn resolve(name: &str) -> Result<SocketAddr, CommandError> {
    let shown = name.escape_debug();
    let mut addresses = name
        .to_socket_addrs()
        .map_err(|error| CommandError::failure(format!("cannot resolve {shown}: {error}")))?;
    addresses.next().ok_or_else(|| CommandError::failure(format!("{shown} has no address")))
}
