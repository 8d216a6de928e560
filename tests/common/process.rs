//! Child processes and ports.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::DEADLINE;

/// The binary with `arguments`, in directory `dir`, without the environment variables that it
/// reads.
pub fn binary(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-herd"));
    command.args(arguments).current_dir(dir);
    for variable in ["GOOGLE_PLACES_API_KEY", "HERD_SECRET", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// The command, prefixed with `launcher` unless that is empty.
pub fn launched(launcher: &[String], command: Command) -> Command {
    let Some((program, arguments)) = launcher.split_first() else { return command };
    let mut launched = Command::new(program);
    launched.args(arguments).arg(command.get_program()).args(command.get_args());
    launched.current_dir(command.get_current_dir().unwrap());
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => launched.env(variable, value),
            None => launched.env_remove(variable),
        };
    }
    launched
}

/// Runs a command until it exits, and fails the test if it does not.
pub fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if wait_for_exit(&mut child, DEADLINE).is_none() {
        child.kill().unwrap();
        panic!("did not exit within {DEADLINE:?}: {:?}", child.wait_with_output().unwrap());
    }
    child.wait_with_output().unwrap()
}

/// Waits until a child exits, or returns `None` after `deadline`.
pub fn wait_for_exit(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(1)); // polling interval
    }
}

/// The ports of all TCP sockets of a process, local and remote, as `lsof` reads them from proc(5).
#[cfg(target_os = "linux")]
pub fn ports_of(pid: u32) -> BTreeSet<u16> {
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok()?;
        Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let inodes: BTreeSet<String> = descriptors.filter_map(|entry| inode(entry.unwrap())).collect();
    let table = |name| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let mut ports = BTreeSet::new();
    for row in (table("tcp") + &table("tcp6")).lines() {
        let fields: Vec<&str> = row.split_whitespace().collect();
        if fields.len() > 9 && inodes.contains(fields[9]) {
            let port = |address: &str| {
                u16::from_str_radix(address.rsplit_once(':').unwrap().1, 16).unwrap()
            };
            ports.extend([port(fields[1]), port(fields[2])]);
        }
    }
    ports
}

/// A port on which no process listens. It is below the kernel's ephemeral range, so that an
/// outgoing connection cannot take it before the node does.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + ((std::process::id().wrapping_mul(37) + step) % 20_000) as u16;
        let free_4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let free_6 = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::AddrInUse, // the machine may not have IPv6
        };
        if free_4 && free_6 {
            return port;
        }
    }
}
