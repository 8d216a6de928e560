//! The benchmark: simulates clients of a herd, checks every reply and reports latencies.
//!
//! Like a node it runs one thread on one readiness queue, but it shares no code with the node's
//! event loop, so that the code under test is not part of the measuring instrument.
//!
//! `plan` turns the command line into a `Plan`; `load` drives the connections; `wire` encodes
//! requests and checks replies; `prober` measures propagation; `report` prints the results.

mod clients;
mod clock;
mod connection;
mod error;
mod in_flight;
mod limits;
mod load;
mod plan;
mod prober;
mod process;
mod progress;
mod report;
mod request_source;
mod stats;
mod wire;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::cli::{CommandError, EXIT_FAILURE, print};
use load::LoadGenerator;
use plan::{Invocation, OutputFormat, PROGRAM, Plan};
use report::Report;

/// Descriptors of the process itself: standard streams, the readiness queue, /proc.
const OWN_DESCRIPTORS: u64 = 16;

/// Runs `herd-bench` with `arguments`, which exclude the program name.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let outcome = Invocation::parse(&arguments).and_then(|invocation| match invocation {
        Invocation::Print(text) => print(&text).map(|()| ExitCode::SUCCESS),
        Invocation::Measure(plan) => {
            let report = measure(&plan).map_err(CommandError::failure)?;
            print(&match plan.format {
                OutputFormat::Text => report.text(),
                OutputFormat::Json => report.json(),
            })?;
            let failed = report.has_errors();
            Ok(if failed { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
        }
    });
    PROGRAM.exit(outcome)
}

fn measure(plan: &Plan) -> io::Result<Report> {
    let descriptors = (plan.connections + plan.idle + plan.servers.len()) as u64 + OWN_DESCRIPTORS;
    // If the system grants fewer descriptors, connecting fails with a clear error.
    let _ = rlimit::increase_nofile_limit(descriptors);
    let interrupted = interruption()?;
    let mut load = LoadGenerator::connect(plan, Arc::clone(&interrupted))?;
    let mut earlier_errors = load.preload()?.errors();
    if !plan.warmup.is_zero() {
        earlier_errors.merge(&load.drive("warming up", plan.warmup)?.errors());
    }
    if interrupted.load(Ordering::Relaxed) {
        return Err(io::Error::other("interrupted before the measurement; there is no report"));
    }
    let pids = server_pids(plan);
    let cpu_before = cpu_times(&pids);
    let measured = load.drive("measuring", plan.duration)?;
    let cpu: Vec<Option<Duration>> = cpu_times(&pids)
        .into_iter()
        .zip(cpu_before)
        .map(|(after, before)| Some(after?.saturating_sub(before?)))
        .collect();
    let propagation = load.into_propagation();
    Ok(Report::new(plan, &earlier_errors, &measured, &cpu, propagation.as_ref()))
}

/// Returns a flag that SIGINT and SIGTERM set. The second signal ends the process at once.
fn interruption() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The exit status of a process that a signal has ended, as shells report it.
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&interrupted))?;
        flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// The processes whose CPU time is measured: those named with `--pid`, or the listeners on the
/// servers' ports.
fn server_pids(plan: &Plan) -> Vec<Option<u32>> {
    if !plan.pids.is_empty() {
        return plan.pids.iter().copied().map(Some).collect();
    }
    let addresses: Vec<SocketAddr> = plan.servers.iter().map(|server| server.address).collect();
    process::listeners(&addresses)
}

fn cpu_times(pids: &[Option<u32>]) -> Vec<Option<Duration>> {
    pids.iter().map(|pid| pid.and_then(process::cpu_time)).collect()
}
