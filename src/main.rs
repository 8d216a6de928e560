//! The node: arguments, configuration, run.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_herd::cli::main(env::args_os().skip(1), &|name| env::var_os(name), proxy_herd::net::run)
}
