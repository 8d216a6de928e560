//! The parts that the command lines of proxy-herd and herd-bench have in common.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

use getopts::{Matches, Options};

/// Exit status of an error: the configuration is invalid, the port is in use.
pub const EXIT_FAILURE: u8 = 1;

/// Exit status of an invalid command line.
const EXIT_USAGE: u8 = 2;

/// A program with its help texts. Its options include `help` and `version`.
pub struct Program {
    /// Name, as messages and `--version` show it.
    pub name: &'static str,
    /// Synopsis, which precedes the list of options.
    pub usage: &'static str,
    /// Text that follows the list of options.
    pub about: &'static str,
}

/// An error that ends the program.
pub struct CommandError {
    exit_code: u8,
    message: String,
}

impl CommandError {
    /// An error other than an invalid command line.
    pub fn failure(message: impl fmt::Display) -> Self {
        Self { exit_code: EXIT_FAILURE, message: message.to_string() }
    }
}

impl Program {
    /// Returns the text that `--help` or `--version` requests.
    pub fn information(&self, options: &Options, matches: &Matches) -> Option<String> {
        if matches.opt_present("help") {
            return Some(options.usage(self.usage) + self.about);
        }
        let version = || format!("{} {}\n", self.name, env!("CARGO_PKG_VERSION"));
        matches.opt_present("version").then(version)
    }

    /// Creates the error of an invalid command line: the problem, the usage, and a note that ends with
    /// a line break or is empty.
    pub fn usage_error(&self, problem: impl fmt::Display, note: &str) -> CommandError {
        let Self { name, usage, .. } = self;
        let message =
            format!("{problem}\n{usage}\n{note}Try '{name} --help' for more information.");
        CommandError { exit_code: EXIT_USAGE, message }
    }

    /// Writes a message to standard error. A failure to do so cannot be reported anywhere.
    pub fn print_error(&self, message: &str) {
        let _ = writeln!(io::stderr().lock(), "{}: {message}", self.name);
    }

    /// Converts the outcome into an exit status, after printing an error.
    pub fn exit(&self, outcome: Result<ExitCode, CommandError>) -> ExitCode {
        outcome.unwrap_or_else(|CommandError { exit_code, message }| {
            self.print_error(&message);
            ExitCode::from(exit_code)
        })
    }
}

/// Writes to standard output. A closed pipe is not an error: a reader such as `head` may exit early.
///
/// # Errors
///
/// The output cannot be written, for example to a full disk.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::failure(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
