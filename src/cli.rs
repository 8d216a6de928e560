//! The command line: what it asks for, and what is printed for it.

mod status;

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use getopts::Options;

use crate::config::suggest::did_you_mean;
use crate::config::{Config, Environment, Provider, no_secrets};
use crate::limits::{self, Limits, PeerLimits, PlacesLimits, Setting};
use crate::message_log::level_name;

/// The configuration that is read unless `-c` names another.
pub const DEFAULT_CONFIG: &str = "conf/config.yml";

/// It could not be done: the configuration is invalid, the port is in use.
pub const EXIT_FAILURE: u8 = 1;

/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;

const BRIEF: &str = "\
Usage: proxy-herd [-c FILE] NAME
       proxy-herd [-c FILE] --check
       proxy-herd [-c FILE] --status [NAME...]";

const ABOUT: &str = "
NAME is a node of the configuration; it runs until SIGTERM or SIGINT.

Environment:
    GOOGLE_PLACES_API_KEY   API key, instead of that in the configuration
    HERD_SECRET             secret of the herd, instead of that in the configuration
    RUST_LOG                level of diagnostics, instead of that in the configuration

Exit status:
    0   all went well
    1   it could not be done: the configuration is invalid, the port is in use;
        --status: not all is well
    2   the command line is wrong
";

/// Does what `arguments` ask for, without the program's own name among them. `check` tries what a
/// node of the herd would read beside the configuration, and gives warnings; `serve` runs one and
/// returns when it is told to stop.
pub fn main<E: fmt::Display>(
    arguments: impl Iterator<Item = OsString>,
    environment: Environment,
    check: impl FnOnce(&Config) -> Result<Vec<String>, E>,
    serve: impl FnOnce(&Config, usize) -> Result<(), E>,
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let done = match Request::parse(&arguments, environment) {
        Ok(Request::Print(text)) => print(&text),
        Ok(Request::Check(config)) => {
            warn(&config.warnings);
            check(&config).map_err(Refusal::failure).and_then(|warnings| {
                warn(&warnings);
                print(&summary(&config))
            })
        }
        Ok(Request::Status(config, nodes)) => show_status(&config, &nodes),
        Ok(Request::Serve(config, node)) => {
            warn(&config.warnings);
            serve(&config, node).map_err(Refusal::failure)
        }
        Err(refusal) => Err(refusal),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Refusal { code, message }) => {
            complain(&message);
            ExitCode::from(code)
        }
    }
}

/// Something that can be done.
enum Request {
    Print(String),
    Check(Box<Config>),
    Status(Box<Config>, Vec<usize>),
    Serve(Box<Config>, usize),
}

/// Why it is not done.
struct Refusal {
    code: u8,
    message: String,
}

impl Refusal {
    fn failure(message: impl fmt::Display) -> Self {
        Self { code: EXIT_FAILURE, message: message.to_string() }
    }

    /// What is wrong, how it is done, and which names there are, if that is known.
    fn usage(wrong: impl fmt::Display, config: Option<&Config>) -> Self {
        let mut message = format!("{wrong}\n{BRIEF}\n");
        if let Some(config) = config {
            let names = config.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>();
            let _ = writeln!(message, "Nodes of {}: {}", config.source.display(), names.join(", "));
        }
        message.push_str("proxy-herd --help tells more");
        Self { code: EXIT_USAGE, message }
    }
}

impl Request {
    fn parse(arguments: &[OsString], environment: Environment) -> Result<Self, Refusal> {
        let options = options();
        let matches = options.parse(arguments).map_err(|fail| {
            let config = Config::load(Path::new(named_config(arguments)), environment).ok();
            Refusal::usage(fail, config.as_ref())
        })?;
        if matches.opt_present("help") {
            return Ok(Self::Print(options.usage(BRIEF) + ABOUT));
        }
        if matches.opt_present("version") {
            return Ok(Self::Print(format!("proxy-herd {}\n", env!("CARGO_PKG_VERSION"))));
        }
        if matches.opt_present("limits") {
            return Ok(Self::Print(limits::markdown()));
        }
        let path = matches.opt_str("config").unwrap_or_else(|| DEFAULT_CONFIG.to_owned());
        let load = |environment| Config::load(Path::new(&path), environment).map(Box::new);
        if matches.opt_present("status") && !matches.opt_present("check") {
            return Self::status(load(&no_secrets).map_err(Refusal::failure)?, &matches.free);
        }
        let config = load(environment).map_err(Refusal::failure)?;
        let wrong = match (matches.opt_present("check"), matches.free.as_slice()) {
            (true, []) => return Ok(Self::Check(config)),
            (true, _) => "--check is about the whole herd; leave out the name".to_owned(),
            (false, []) => "there is no name; which node is to run?".to_owned(),
            (false, [name]) => match config.node(name) {
                Some(node) => return Ok(Self::Serve(config, node)),
                None => no_such_node(&config, name),
            },
            (false, _) => "there is more than one name; each node is a process".to_owned(),
        };
        Err(Refusal::usage(wrong, Some(&config)))
    }

    /// The nodes called `names`, or all.
    fn status(config: Box<Config>, names: &[String]) -> Result<Self, Refusal> {
        let find = |name: &String| {
            let wrong = || Refusal::usage(no_such_node(&config, name), Some(&config));
            config.node(name).ok_or_else(wrong)
        };
        let nodes = match names {
            [] => (0..config.nodes.len()).collect(),
            names => names.iter().map(find).collect::<Result<_, _>>()?,
        };
        Ok(Self::Status(config, nodes))
    }
}

fn options() -> Options {
    let mut options = Options::new();
    options
        .optopt("c", "config", &format!("read FILE instead of {DEFAULT_CONFIG}"), "FILE")
        .optflag("", "check", "validate the configuration, print the herd and exit")
        .optflag("", "status", "ask running nodes how they are, and say whether all is well")
        .optflag("", "limits", "print every limit with its default and reason, as Markdown")
        .optflag("h", "help", "print this help")
        .optflag("V", "version", "print the version");
    options
}

/// The configuration that a command line means which as a whole cannot be parsed.
fn named_config(arguments: &[OsString]) -> &str {
    let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
    while let Some(argument) = arguments.next() {
        let value = match argument {
            "-c" | "--config" => arguments.next(),
            _ => argument.strip_prefix("--config=").or(argument.strip_prefix("-c")),
        };
        if let Some(path) = value {
            return path;
        }
    }
    DEFAULT_CONFIG
}

/// There is no node `name`, and which one may be meant.
pub(crate) fn no_such_node(config: &Config, name: &str) -> String {
    let names = config.nodes.iter().map(|node| node.name.as_str());
    format!("there is no node `{}`{}", name.escape_debug(), did_you_mean(name, names))
}

fn show_status(config: &Config, nodes: &[usize]) -> Result<(), Refusal> {
    let status = status::status(config, nodes).map_err(Refusal::failure)?;
    print(&status.table)?;
    if status.problems.is_empty() {
        return Ok(());
    }
    Err(Refusal::failure(format!("not all is well\n{}", status.problems.join("\n"))))
}

/// The herd as `--check` shows it.
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    let count = |number, thing| format!("{number} {thing}{}", if number == 1 { "" } else { "s" });
    let nodes = count(config.nodes.len(), "node");
    let ends = config.nodes.iter().map(|node| node.neighbors.len()).sum::<usize>();
    let edges = count(ends / 2, "edge");
    let _ = writeln!(text, "{}: {nodes}, {edges}\n", config.source.display());
    text.push_str(&herd_table(config));

    let places = &config.places;
    let _ = write!(text, "\nPlaces: {}", places.provider.name());
    let _ = match &places.provider {
        Provider::Offline { file: None } => write!(text, ", built in"),
        Provider::Offline { file: Some(file) } => write!(text, ", from {}", file.display()),
        Provider::Google { server, .. }
        | Provider::GoogleLegacy { server, .. }
        | Provider::Overpass { server } => write!(text, " at {}", server.url),
    };
    let _ = write!(text, "\nHTTP: {}", http(config));
    let secret = if config.peers.secret.is_some() { "a secret" } else { "no secret" };
    let tls = if config.peers.tls.is_some() { "TLS" } else { "no TLS" };
    let offset = config.peers.max_clock_offset.as_secs_f64();
    let _ = writeln!(text, "\nPeers: {secret}, {tls}, clocks ahead count for at most {offset} s");
    let directory = config.logging.directory.display();
    let level = config.logging.level.to_level().map_or("OFF", level_name);
    let _ = writeln!(text, "Logs: {directory}/NAME.log, level {level}");

    let changed = changed(&config.limits, Limits::TABLE)
        + &changed(&places.limits, PlacesLimits::TABLE)
        + &changed(&config.peers.limits, PeerLimits::TABLE);
    if changed.is_empty() {
        text.push_str("Limits: all at their defaults\n");
    } else {
        let _ = write!(text, "Limits that differ from their defaults:\n{changed}");
    }
    text
}

/// Where the nodes show themselves.
fn http(config: &Config) -> String {
    let Some(http) = &config.http else { return "off".to_owned() };
    let shown = config.nodes.iter().zip(&http.ports).filter_map(|(node, port)| {
        let port = port.as_ref()?;
        Some(format!("{} at {}:{port}", node.name, http.listen))
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// A line for each node: where it listens, where it is reached, and who its neighbours are.
fn herd_table(config: &Config) -> String {
    let header = ["Node", "Listens on", "Reached at", "Neighbors"].map(str::to_owned);
    let rows = config.nodes.iter().map(|node| {
        let neighbors = node.neighbors.iter().map(|&it| config.nodes[it].name.as_str());
        let mut neighbors = neighbors.collect::<Vec<_>>().join(", ");
        if node.seed_compatible {
            neighbors.push_str(" (the seed's server)");
        }
        [
            node.name.clone(),
            format!("{}:{}", node.listen, node.port),
            format!("{}:{}", node.dial, node.port),
            neighbors,
        ]
    });
    let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths = [0, 1, 2].map(|column| width(column).unwrap_or(0));
    let mut table = String::new();
    for [name, listen, dial, neighbors] in &rows {
        let [first, second, third] = widths;
        let row = format!("{name:first$}  {listen:second$}  {dial:third$}  {neighbors}");
        let _ = writeln!(table, "{}", row.trim_end());
    }
    table
}

/// A line for each number of a section that is not at its default.
fn changed<S>(section: &S, table: &[Setting<S>]) -> String {
    let mut lines = String::new();
    for Setting { limit, get, .. } in table {
        let value = get(section);
        if value != limit.default {
            let _ = writeln!(
                lines,
                "    {}.{}: {}, not {}",
                limit.section,
                limit.key,
                limit.describe(value),
                limit.describe(limit.default)
            );
        }
    }
    lines
}

/// Writes to standard output. A reader that has gone away, such as `head`, has what it wanted.
fn print(text: &str) -> Result<(), Refusal> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Refusal::failure(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        complain(&format!("warning: {warning}"));
    }
}

/// Writes to standard error. If that fails, there is nobody left to tell.
fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "proxy-herd: {message}");
}
