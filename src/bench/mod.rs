//! The benchmark: plays clients of a herd, checks every reply, and tells how long they took.
//!
//! One thread and one readiness queue, as in a node, but nothing of the node's event loop: what is
//! measured must not be measured with itself.

mod clients;
mod clock;
mod connection;
mod fault;
mod in_flight;
mod limits;
mod load;
mod plan;
mod process;
mod progress;
mod propagation;
mod report;
mod source;
mod tally;
mod wire;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use crate::cli::EXIT_FAILURE;
use load::Load;
use plan::{Plan, Refusal, Request};
use report::Report;

/// Descriptors of the process itself: standard streams, the readiness queue, /proc.
const OWN_DESCRIPTORS: u64 = 16;

/// Does what `arguments` ask for, without the program's own name among them.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let outcome = match Request::parse(&arguments) {
        Ok(Request::Print(text)) => print(&text).map(|()| false),
        Ok(Request::Measure(plan)) => measure(&plan).and_then(|report| {
            print(&if plan.json { report.json() } else { report.text() })?;
            Ok(report.has_errors())
        }),
        Err(Refusal { code, message }) => {
            complain(&message);
            return ExitCode::from(code);
        }
    };
    match outcome {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::from(EXIT_FAILURE),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn measure(plan: &Plan) -> io::Result<Report> {
    let wanted = (plan.connections + plan.idle + plan.servers.len()) as u64 + OWN_DESCRIPTORS;
    // What the system does not give, connecting will tell.
    let _ = rlimit::increase_nofile_limit(wanted);
    let mut load = Load::connect(plan)?;
    let mut before = load.introduce()?.faults();
    if !plan.warmup.is_zero() {
        before.merge(&load.mix("warming up", plan.warmup)?.faults());
    }
    let addresses: Vec<SocketAddr> = plan.servers.iter().map(|server| server.address).collect();
    let pids = match plan.pids.as_slice() {
        [] => process::listeners(&addresses),
        named => named.iter().copied().map(Some).collect(),
    };
    let used = || pids.iter().map(|pid| pid.and_then(process::cpu_time)).collect::<Vec<_>>();
    let at_first = used();
    let measured = load.mix("measuring", plan.duration)?;
    let cpu =
        used().into_iter().zip(at_first).map(|(end, start)| Some(end?.saturating_sub(start?)));
    let cpu: Vec<_> = cpu.collect();
    let prober = load.into_prober();
    let found = prober.as_ref().map(|prober| &prober.found);
    Ok(Report::new(plan, &before, &measured, &cpu, found))
}

/// Writes to standard output. A reader that has gone away, such as `head`, has what it wanted.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes to standard error. If that fails, there is nobody left to tell.
fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "herd-bench: {message}");
}
