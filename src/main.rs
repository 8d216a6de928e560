//! proxy-herd: runs a node of a herd.

use std::env;
use std::process::ExitCode;

use proxy_herd::net;

fn main() -> ExitCode {
    let environment = |name: &str| env::var_os(name);
    let arguments = env::args_os().skip(1);
    let actions = (net::check, net::forget, net::invite, net::run);
    proxy_herd::cli::main(arguments, &environment, actions)
}
