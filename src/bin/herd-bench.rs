//! herd-bench: measures a herd.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    proxy_herd::bench::main(env::args_os().skip(1))
}
