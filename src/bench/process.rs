//! Server processes on this machine: finds the process that listens on a port and reads its CPU time.
//!
//! Uses /proc and therefore works on Linux only; elsewhere all results are `None`.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Unit of CPU time in proc(5): `USER_HZ` is 100 on all common architectures.
const TICK: Duration = Duration::from_millis(10);

/// The processes that listen on `addresses`. `None` for an address of another machine and for a
/// process that this user may not inspect.
pub fn listeners(addresses: &[SocketAddr]) -> Vec<Option<u32>> {
    let inodes: Vec<Option<String>> = addresses.iter().map(listening_inode).collect();
    if inodes.iter().all(Option::is_none) {
        return vec![None; addresses.len()];
    }
    let owners = owners();
    let owner = |inode: &Option<String>| {
        inode.as_ref().and_then(|inode| owners.get(&format!("socket:[{inode}]"))).copied()
    };
    inodes.iter().map(owner).collect()
}

/// CPU time used by a process, in user and kernel mode.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // utime and stime are fields 14 and 15. Field 2, the command in parentheses, may contain spaces
    // and parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    Some(TICK * (fields.next()?.ok()? + fields.next()?.ok()?))
}

/// The inode of the socket that accepts connections to `address`.
fn listening_inode(address: &SocketAddr) -> Option<String> {
    if !address.ip().to_canonical().is_loopback() {
        return None; // the address may belong to another machine
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables: Vec<String> = tables.iter().filter_map(|it| fs::read_to_string(it).ok()).collect();
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let listening = rows.filter_map(|row| {
        let mut fields = row.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (host, port) = local.split_once(':')?;
        let is_match = u16::from_str_radix(port, 16) == Ok(address.port()) && state == LISTEN;
        is_match.then_some((host, fields.nth(5)?))
    });
    // A socket bound to this address takes precedence over one bound to all addresses.
    let host_of_address = hexadecimal(address.ip());
    let (exact, others): (Vec<_>, Vec<_>) =
        listening.partition(|(host, _)| *host == host_of_address);
    let unspecified = |host: &str| host.bytes().all(|digit| digit == b'0');
    let any = others.into_iter().filter(|(host, _)| unspecified(host));
    exact.into_iter().chain(any).next().map(|(_, inode)| inode.to_owned())
}

/// State of a listening socket in the tables.
const LISTEN: &str = "0A";

/// An address in the format of the tables: hexadecimal 32-bit words in native byte order.
fn hexadecimal(address: IpAddr) -> String {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let words = bytes
        .chunks_exact(4)
        .map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap_or_default())));
    words.collect()
}

/// Processes by the names of the sockets that they have open.
fn owners() -> HashMap<String, u32> {
    let mut owners = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        for descriptor in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            if let Some(socket) = socket_name(&descriptor.path()) {
                owners.insert(socket, pid);
            }
        }
    }
    owners
}

fn socket_name(descriptor: &Path) -> Option<String> {
    let target = fs::read_link(descriptor).ok()?.into_os_string().into_string().ok()?;
    target.starts_with("socket:[").then_some(target)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::process;

    #[test]
    fn this_process_is_found_by_its_port_and_uses_cpu_time() {
        let exact = TcpListener::bind("127.0.0.1:0").unwrap();
        let any = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = any.local_addr().unwrap().port();
        let elsewhere = "192.0.2.1:80".parse().unwrap();
        let addresses = [exact.local_addr().unwrap(), ([127, 0, 0, 1], port).into(), elsewhere];
        let me = Some(process::id());
        assert_eq!(listeners(&addresses), [me, me, None]);

        let start = cpu_time(process::id()).unwrap();
        let mut n = 0u64;
        while cpu_time(process::id()).unwrap() == start {
            n = std::hint::black_box(n + 1);
        }
        assert_eq!(cpu_time(u32::MAX), None);
    }
}
