//! proxy-herd: runs a node of a herd.

use std::env;
use std::process::ExitCode;

use proxy_herd::net;

fn main() -> ExitCode {
    proxy_herd::cli::main(env::args_os().skip(1), &|name| env::var_os(name), net::check, net::run)
}
