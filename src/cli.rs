//! The command line of proxy-herd.

mod announced;
mod escaped;
mod program;
mod status;
mod summary;
mod table;

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use getopts::Options;

pub use program::{CommandError, EXIT_FAILURE, Program, print};
pub use summary::summary;

use crate::config::suggest::did_you_mean;
use crate::config::{Config, Environment, no_secrets};
use crate::limits;

/// Path of the configuration unless `-c` is given, relative to the working directory.
const DEFAULT_CONFIG: &str = "conf/config.yml";

/// Path of the configuration if there is none at [`DEFAULT_CONFIG`]: that of the package.
const SYSTEM_CONFIG: &str = "/etc/proxy-herd/config.yml";

/// Help text of the option `-c`.
pub const CONFIG_HELP: &str =
    "read FILE instead of conf/config.yml or, if that does not exist, /etc/proxy-herd/config.yml";

/// Returns the path of the configuration for a command line without `-c`.
pub fn default_config() -> &'static str {
    first_existing(DEFAULT_CONFIG, SYSTEM_CONFIG)
}

/// Returns `first` unless only `second` exists. A file that cannot be examined counts as existing, so
/// that the error is reported instead of another file read.
fn first_existing<'p>(first: &'p str, second: &'p str) -> &'p str {
    let exists = |path: &str| !matches!(fs::symlink_metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound);
    if !exists(first) && exists(second) { second } else { first }
}

const PROGRAM: Program = Program {
    name: "proxy-herd",
    usage: "\
Usage: proxy-herd [-c FILE] NAME
       proxy-herd [-c FILE] --check
       proxy-herd [-c FILE] --status [NAME...]
       proxy-herd [-c FILE] --forget CLIENT [NAME]
       proxy-herd [-c FILE] --invite CLIENT|PREFIX* [NAME]",
    about: "
NAME is a node of the configuration. It runs until SIGTERM or SIGINT.

Environment:
    GOOGLE_PLACES_API_KEY   API key; takes precedence over the configuration
    HERD_SECRET             secret of the herd; takes precedence over the configuration
    HERD_FEED_PASSWORD      password of the feed's engine; takes precedence over the configuration
    RUST_LOG                log level; takes precedence over the configuration

Exit status:
    0   success
    1   error (invalid configuration, port in use, ...), --status found a problem, or
        the client of --forget is not known
    2   invalid command line
",
};

/// White space of the line protocol.
const WHITE_SPACE: [char; 6] = [' ', '\t', '\n', '\x0b', '\x0c', '\r'];

/// Runs `proxy-herd` with `arguments`, which exclude the program name.
///
/// `check` tries to read the files that a node of the herd would read, and returns warnings. `forget`
/// asks the first of some nodes that answers to erase a client, and returns its index and whether it
/// held the client. `invite` admits a device to a node, or to any, and returns what to print. `serve`
/// runs a node until it is shut down.
pub fn main<E: fmt::Display>(
    arguments: impl Iterator<Item = OsString>,
    environment: Environment,
    (check, forget, invite, serve): (
        impl FnOnce(&Config) -> Result<Vec<String>, E>,
        impl FnOnce(&Config, &[u8], &[usize]) -> Result<(usize, bool), String>,
        impl FnOnce(&Config, &str, Option<usize>) -> Result<String, String>,
        impl FnOnce(&Config, usize) -> Result<(), E>,
    ),
) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let invocation = Invocation::parse(&arguments, environment);
    let outcome = invocation.and_then(|invocation| match invocation {
        Invocation::Print(text) => print(&text),
        Invocation::Check(config) => {
            warn(&config.warnings);
            warn(&check(&config).map_err(CommandError::failure)?);
            print(&summary(&config))
        }
        Invocation::Status(config, nodes) => print_status(&config, &nodes),
        Invocation::Forget(config, client, nodes) => {
            let outcome = forget(&config, client.as_bytes(), &nodes);
            match outcome.map_err(CommandError::failure)? {
                (_, true) => print(&format!("forgotten: {client}\n")),
                (node, false) => Err(CommandError::failure(format!(
                    "{} does not know the client {client}",
                    config.nodes[node].name
                ))),
            }
        }
        Invocation::Invite(config, name, node) => {
            print(&invite(&config, &name, node).map_err(CommandError::failure)?)
        }
        Invocation::Serve(config, node) => {
            warn(&config.warnings);
            serve(&config, node).map_err(CommandError::failure)
        }
    });
    PROGRAM.exit(outcome.map(|()| ExitCode::SUCCESS))
}

/// The action that a command line requests. Nodes are indices in [`Config::nodes`].
enum Invocation {
    Print(String),
    Check(Box<Config>),
    Status(Box<Config>, Vec<usize>),
    /// The client, and the nodes to ask.
    Forget(Box<Config>, String, Vec<usize>),
    /// The client or prefix to admit, and the node whose URL is shown.
    Invite(Box<Config>, String, Option<usize>),
    Serve(Box<Config>, usize),
}

impl Invocation {
    fn parse(arguments: &[OsString], environment: Environment) -> Result<Self, CommandError> {
        let options = options();
        let matches = options.parse(arguments).map_err(|fail| {
            let config = Config::load(Path::new(config_path(arguments)), environment).ok();
            usage_error(fail, config.as_ref())
        })?;
        if let Some(text) = PROGRAM.information(&options, &matches) {
            return Ok(Self::Print(text));
        }
        if matches.opt_present("limits") {
            return Ok(Self::Print(limits::markdown()));
        }
        let path = matches.opt_str("config").unwrap_or_else(|| default_config().to_owned());
        let load = |environment| {
            Config::load(Path::new(&path), environment).map(Box::new).map_err(CommandError::failure)
        };
        if matches.opt_present("status") && !matches.opt_present("check") {
            return Self::status(load(&no_secrets)?, &matches.free);
        }
        if let Some(name) = matches.opt_str("invite").filter(|_| !matches.opt_present("check")) {
            return Self::invite(load(&no_secrets)?, &name, &matches.free);
        }
        let config = load(environment)?;
        if let Some(client) = matches.opt_str("forget").filter(|_| !matches.opt_present("check")) {
            return Self::forget(config, &client, &matches.free);
        }
        let wrong = match (matches.opt_present("check"), matches.free.as_slice()) {
            (true, []) => return Ok(Self::Check(config)),
            (true, _) => "--check validates the whole configuration; omit the name".to_owned(),
            (false, []) => "missing node name".to_owned(),
            (false, [name]) => match config.node(name) {
                Some(node) => return Ok(Self::Serve(config, node)),
                None => no_such_node(&config, name),
            },
            (false, _) => "more than one node name; each process runs one node".to_owned(),
        };
        Err(usage_error(wrong, Some(&config)))
    }

    /// Parses what follows `--forget CLIENT`: at most one node.
    fn forget(config: Box<Config>, client: &str, names: &[String]) -> Result<Self, CommandError> {
        let wrong = match names {
            _ if client.is_empty() || client.contains(WHITE_SPACE) => {
                "the name of a client is one field, without white space".to_owned()
            }
            [] => {
                let speaks = |&node: &usize| !config.nodes[node].seed_compatible;
                let nodes = (0..config.nodes.len()).filter(speaks).collect();
                return Ok(Self::Forget(config, client.to_owned(), nodes));
            }
            [name] => match config.node(name) {
                Some(node) if config.nodes[node].seed_compatible => {
                    format!("{name} is an original server, which cannot forget a client")
                }
                Some(node) => return Ok(Self::Forget(config, client.to_owned(), vec![node])),
                None => no_such_node(&config, name),
            },
            _ => "more than one node name; one node forgets the client, and tells the others"
                .to_owned(),
        };
        Err(usage_error(wrong, Some(&config)))
    }

    /// Parses what follows `--invite CLIENT`: at most one node.
    fn invite(config: Box<Config>, name: &str, nodes: &[String]) -> Result<Self, CommandError> {
        let wrong = match nodes {
            _ if name.is_empty() || name.contains(WHITE_SPACE) => {
                "the name of a client or its prefix is one field, without white space".to_owned()
            }
            [] => return Ok(Self::Invite(config, name.to_owned(), None)),
            [node] => match config.node(node) {
                Some(node) => return Ok(Self::Invite(config, name.to_owned(), Some(node))),
                None => no_such_node(&config, node),
            },
            _ => "more than one node name; a token is valid on every node that has the file"
                .to_owned(),
        };
        Err(usage_error(wrong, Some(&config)))
    }

    fn status(config: Box<Config>, names: &[String]) -> Result<Self, CommandError> {
        let find = |name: &String| {
            let unknown = || usage_error(no_such_node(&config, name), Some(&config));
            config.node(name).ok_or_else(unknown)
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
        .optopt("c", "config", CONFIG_HELP, "FILE")
        .optflag("", "check", "validate the configuration, print a summary and exit")
        .optflag("", "status", "show the status of running nodes; exit with 1 if any is unhealthy")
        .optopt("", "forget", "erase CLIENT on all nodes; NAME is the node to ask", "CLIENT")
        .optopt(
            "",
            "invite",
            "admit a device: add a token for CLIENT, or for all names that begin with PREFIX, and \
             print what to enter in its app",
            "CLIENT|PREFIX*",
        )
        .optflag("", "limits", "print all limits with their defaults and reasons, as Markdown")
        .optflag("h", "help", "print this help")
        .optflag("V", "version", "print the version");
    options
}

/// Finds the configuration in a command line that cannot be parsed, so that the error can list the
/// nodes.
fn config_path(arguments: &[OsString]) -> &str {
    let mut arguments = arguments.iter().filter_map(|argument| argument.to_str());
    while let Some(argument) = arguments.next() {
        let path = match argument {
            "-c" | "--config" => arguments.next(),
            _ => argument.strip_prefix("--config=").or(argument.strip_prefix("-c")),
        };
        if let Some(path) = path {
            return path;
        }
    }
    default_config()
}

/// Creates the error of an invalid command line: the problem, the usage and the names of the nodes.
fn usage_error(problem: impl fmt::Display, config: Option<&Config>) -> CommandError {
    let nodes = config.map_or_else(String::new, |config| {
        let names = config.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>();
        format!("Nodes of {}: {}\n", config.source.display(), names.join(", "))
    });
    PROGRAM.usage_error(problem, &nodes)
}

/// Returns the message that there is no node `name`, with a suggestion.
pub(crate) fn no_such_node(config: &Config, name: &str) -> String {
    let names = config.nodes.iter().map(|node| node.name.as_str());
    format!("there is no node `{}`{}", name.escape_debug(), did_you_mean(name, names))
}

fn print_status(config: &Config, nodes: &[usize]) -> Result<(), CommandError> {
    let status = status::status(config, nodes).map_err(CommandError::failure)?;
    print(&status.table)?;
    for note in &status.notes {
        print(&format!("{note}\n"))?;
    }
    if status.problems.is_empty() {
        return Ok(());
    }
    Err(CommandError::failure(format!("problems found:\n{}", status.problems.join("\n"))))
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        PROGRAM.print_error(&format!("warning: {warning}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_in_the_working_directory_takes_precedence() {
        let directory = std::env::temp_dir().join(format!("herd-cli-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let [here, system] = ["here", "system"].map(|name| directory.join(name));
        let (here, system) = (here.to_str().unwrap(), system.to_str().unwrap());
        assert_eq!(first_existing(here, system), here, "the error names the usual file");
        fs::write(system, "").unwrap();
        assert_eq!(first_existing(here, system), system);
        std::os::unix::fs::symlink("nowhere", here).unwrap();
        assert_eq!(first_existing(here, system), here, "a dangling link is a mistake to report");
        fs::remove_file(here).unwrap();
        fs::write(here, "").unwrap();
        assert_eq!(first_existing(here, system), here);
        fs::remove_dir_all(&directory).unwrap();
    }
}
