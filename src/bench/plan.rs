//! What is to be measured: the command line and the configuration together.

use std::ffi::OsString;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use getopts::{Matches, Options};

use super::clients::MAX_CLIENTS;
use super::limits::{
    DEFAULT_CONNECTIONS, MAX_CONNECTIONS, MAX_PIPELINE, MAX_PROPAGATION_NODES, MAX_RATE,
    OPEN_LOOP_PIPELINE,
};
use super::wire::{Protocol, Wire};
use crate::cli::{DEFAULT_CONFIG, EXIT_FAILURE, EXIT_USAGE, no_such_node};
use crate::config::{Benchmark, Config, no_secrets};
use crate::protocol::command::{Command, MAX_RESULTS};

const BRIEF: &str = "\
Usage: herd-bench [-c FILE] [OPTIONS] [NAME…]
       herd-bench --protocol PROTOCOL [OPTIONS] HOST:PORT…";

const ABOUT: &str = "
NAME is a node of the configuration; without one, the whole herd is driven.
Every reply is checked; what is wrong, missing or late is counted as an error.

Exit status:
    0   all replies were right
    1   some were not, or it could not be done
    2   the command line is wrong
";

/// A server that is driven.
#[derive(Debug, Clone)]
pub struct Server {
    /// The node's name, or the address where the protocol is another.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// How its AT lines begin.
    pub prefix: Vec<u8>,
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// When replies have come.
    Closed,
    /// So many a second, whatever comes back.
    Open(f64),
}

/// What is to be measured.
#[derive(Debug)]
pub struct Plan {
    /// Who is driven.
    pub servers: Vec<Server>,
    /// What is spoken, and what WHATSATs ask.
    pub wire: Wire,
    /// Clients that are played.
    pub clients: u32,
    /// Connections over which they speak, dealt out to the servers in turn.
    pub connections: usize,
    /// Connections to be held open beside them, which say nothing.
    pub idle: usize,
    /// Most requests of a connection that wait for replies.
    pub pipeline: usize,
    /// When requests are sent.
    pub pace: Pace,
    /// How many in a hundred requests are WHATSATs.
    pub whatsat_percent: u64,
    /// How long the load runs before it is measured.
    pub warmup: Duration,
    /// How long it is measured.
    pub duration: Duration,
    /// After which a reply counts as missing.
    pub timeout: Duration,
    /// How many records a second are followed from node to node.
    pub probes: Option<f64>,
    /// Processes whose processor time is taken, instead of those that listen.
    pub pids: Vec<u32>,
    /// Whether it never sleeps while it waits.
    pub busy_poll: bool,
    /// Whether the report is JSON.
    pub json: bool,
}

/// What a command line asks for.
pub enum Request {
    /// This text.
    Print(String),
    /// A measurement.
    Measure(Box<Plan>),
}

/// Why it is not done, and the exit code for it.
pub struct Refusal {
    /// [`EXIT_FAILURE`] or [`EXIT_USAGE`].
    pub code: u8,
    /// For people.
    pub message: String,
}

impl Refusal {
    fn failure(message: impl fmt::Display) -> Self {
        Self { code: EXIT_FAILURE, message: message.to_string() }
    }

    fn usage(wrong: impl fmt::Display) -> Self {
        let message = format!("{wrong}\n{BRIEF}\nherd-bench --help tells more");
        Self { code: EXIT_USAGE, message }
    }
}

impl Request {
    /// What `arguments` ask for, without the program's own name among them.
    ///
    /// # Errors
    ///
    /// What is wrong with the command line or the configuration.
    pub fn parse(arguments: &[OsString]) -> Result<Self, Refusal> {
        let options = options();
        let matches = options.parse(arguments).map_err(Refusal::usage)?;
        if matches.opt_present("help") {
            return Ok(Self::Print(options.usage(BRIEF) + ABOUT));
        }
        if matches.opt_present("version") {
            return Ok(Self::Print(format!("herd-bench {}\n", env!("CARGO_PKG_VERSION"))));
        }
        let name = matches.opt_str("protocol").unwrap_or_else(|| "herd".to_owned());
        let Some(&(_, protocol)) = Protocol::NAMES.iter().find(|(known, _)| *known == name) else {
            let known = Protocol::NAMES.map(|(name, _)| name).join(", ");
            let name = name.escape_debug();
            return Err(Refusal::usage(format!("--protocol is one of {known}, not `{name}`")));
        };
        // Servers of another protocol need no configuration.
        let path = match protocol {
            Protocol::Herd => Some(DEFAULT_CONFIG.to_owned()),
            _ => None,
        };
        let path = matches.opt_str("config").or(path);
        let config = path.map(|path| Config::load(Path::new(&path), &no_secrets)).transpose();
        let plan = plan(&matches, protocol, config.map_err(Refusal::failure)?.as_ref())?;
        Ok(Self::Measure(Box::new(plan)))
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .optopt("c", "config", &format!("read FILE instead of {DEFAULT_CONFIG}"), "FILE")
        .optopt("", "clients", "play N clients; else benchmark.num_clients", "N")
        .optopt("", "duration", "measure for S seconds; else benchmark.test_duration", "S")
        .optopt("", "timeout", "await a reply for S seconds; else benchmark.timeout", "S")
        .optopt("", "warmup", "drive the load for S seconds before it is measured", "S")
        .optopt("", "connections", "as many as there are clients, at most 50", "N")
        .optopt("", "pipeline", "requests in flight on a connection: 1, with --rate 64", "N")
        .optopt(
            "",
            "rate",
            "send N requests a second, whatever comes back; latencies count \
            from when each was due",
            "N",
        )
        .optopt("", "whatsat-percent", "how many in a hundred requests are WHATSATs: 30", "N")
        .optopt("", "radius", "kilometres in a WHATSAT: 10", "KM")
        .optopt("", "results", "results in a WHATSAT: 5", "N")
        .optflag("", "propagation", "follow records from each node to all others as well")
        .optopt("", "probes", "records a second that --propagation follows: 100", "N")
        .optopt("", "idle", "hold N more connections open, which say nothing", "N")
        .optmulti(
            "",
            "pid",
            "take the processor time of this process, instead of those that \
            listen on the ports; can be given again",
            "PID",
        )
        .optopt(
            "",
            "protocol",
            "herd, or to compare: echo, memcached, redis-set, redis-geo",
            "NAME",
        )
        .optflag(
            "",
            "busy-poll",
            "never sleep: on a core of its own, no server pays for waking the benchmark",
        )
        .optflag("", "json", "print the report as JSON")
        .optflag("h", "help", "print this help")
        .optflag("V", "version", "print the version");
    options
}

fn plan(matches: &Matches, protocol: Protocol, config: Option<&Config>) -> Result<Plan, Refusal> {
    let herd = protocol == Protocol::Herd;
    let benchmark = config.map_or_else(Benchmark::default, |config| config.benchmark.clone());
    let servers = match config.filter(|_| herd) {
        Some(config) => nodes(matches, config)?,
        None => others(matches)?,
    };
    let clients = number(matches, "clients", benchmark.num_clients, 1, MAX_CLIENTS)?;
    let connections = (clients as usize).min(DEFAULT_CONNECTIONS).max(servers.len());
    let connections = number(matches, "connections", connections, 1, MAX_CONNECTIONS)?;
    if connections < servers.len() {
        let count = servers.len();
        return Err(Refusal::usage(format!("{count} nodes need as many --connections")));
    }
    let pace = if matches.opt_present("rate") {
        Pace::Open(number(matches, "rate", 1.0, 0.1, MAX_RATE)?)
    } else {
        Pace::Closed
    };
    let pipeline = if pace == Pace::Closed { 1 } else { OPEN_LOOP_PIPELINE };
    let propagation = matches.opt_present("propagation") || matches.opt_present("probes");
    if propagation && !(herd && (2..=MAX_PROPAGATION_NODES).contains(&servers.len())) {
        let most = MAX_PROPAGATION_NODES;
        return Err(Refusal::usage(format!(
            "--propagation needs from 2 to {most} nodes of a herd"
        )));
    }
    let radius = matches.opt_str("radius").unwrap_or_else(|| "10".to_owned());
    let question = format!("WHATSAT x {radius} 0");
    if !matches!(Command::parse(question.as_bytes()), Command::Whatsat(_)) {
        return Err(Refusal::usage("--radius is a decimal number from 0 to 50"));
    }
    let results = number(matches, "results", 5, 0, MAX_RESULTS)?;
    let names = config.into_iter().flat_map(|config| &config.nodes);
    let names = names.map(|node| node.name.clone().into_bytes()).collect();
    let seconds = |key, default: Duration, least| {
        number(matches, key, default.as_secs_f64(), least, 86_400.0).map(Duration::from_secs_f64)
    };
    let pids = matches.opt_strs("pid");
    let pids = pids.iter().map(|pid| pid.parse()).collect::<Result<_, _>>();
    Ok(Plan {
        wire: Wire::new(protocol, &radius, results, names),
        servers,
        clients,
        connections,
        idle: number(matches, "idle", 0, 0, MAX_CONNECTIONS)?,
        pipeline: number(matches, "pipeline", pipeline, 1, MAX_PIPELINE)?,
        pace,
        whatsat_percent: if herd { number(matches, "whatsat-percent", 30, 0, 100)? } else { 0 },
        warmup: seconds("warmup", Duration::ZERO, 0.0)?,
        duration: seconds("duration", benchmark.test_duration, 0.001)?,
        timeout: seconds("timeout", benchmark.timeout, 0.001)?,
        probes: if propagation {
            Some(number(matches, "probes", 100.0, 0.1, 10_000.0)?)
        } else {
            None
        },
        pids: pids.map_err(|_| Refusal::usage("--pid is the number of a process"))?,
        busy_poll: matches.opt_present("busy-poll"),
        json: matches.opt_present("json"),
    })
}

/// The option `key`, a number from `least` to `most`, or `default` without it.
fn number<T>(matches: &Matches, key: &str, default: T, least: T, most: T) -> Result<T, Refusal>
where
    T: FromStr + PartialOrd + fmt::Display + Copy,
{
    let Some(text) = matches.opt_str(key) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| Refusal::usage(format!("--{key} is a number from {least} to {most}")))
}

/// The nodes that the command line names, or all.
fn nodes(matches: &Matches, config: &Config) -> Result<Vec<Server>, Refusal> {
    let mut chosen = Vec::new();
    for name in &matches.free {
        let node = config.node(name);
        let node = node.ok_or_else(|| Refusal::usage(no_such_node(config, name)))?;
        if chosen.contains(&node) {
            return Err(Refusal::usage(format!("{name} is named twice")));
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
            Ok(Server { name: node.name.clone(), address, prefix })
        })
        .collect()
}

/// The servers of another protocol.
fn others(matches: &Matches) -> Result<Vec<Server>, Refusal> {
    if matches.free.is_empty() {
        return Err(Refusal::usage("with --protocol, name the server: HOST:PORT"));
    }
    matches
        .free
        .iter()
        .map(|name| Ok(Server { name: name.clone(), address: resolve(name)?, prefix: Vec::new() }))
        .collect()
}

fn resolve(name: &str) -> Result<SocketAddr, Refusal> {
    let shown = name.escape_debug();
    let addresses = name.to_socket_addrs().map_err(|error| {
        Refusal::failure(format!("{shown} is no address that can be reached: {error}"))
    })?;
    addresses.into_iter().next().ok_or_else(|| Refusal::failure(format!("{shown} has no address")))
}
