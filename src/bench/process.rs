//! The servers as processes of this machine: who listens on a port, and what processor time it has
//! used. Linux tells that under /proc; elsewhere nothing is known.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// What proc(5) counts processor time in: a hundredth of a second, wherever Linux runs.
const TICK: Duration = Duration::from_millis(10);

/// The processes that listen on `addresses`, where they are on this machine and may be looked at.
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

/// Processor time that a process has used, in user mode and in the kernel.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // utime and stime are the 14th and 15th field; the second, the command, may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u32>);
    Some(TICK * (fields.next()?.ok()? + fields.next()?.ok()?))
}

/// The inode of the socket that listens where `address` leads to.
fn listening_inode(address: &SocketAddr) -> Option<String> {
    if !address.ip().to_canonical().is_loopback() {
        return None; // it may be another machine's
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables: Vec<String> = tables.iter().filter_map(|it| fs::read_to_string(it).ok()).collect();
    let rows = tables.iter().flat_map(|table| table.lines().skip(1));
    let listening = rows.filter_map(|row| {
        let mut fields = row.split_whitespace().skip(1);
        let (local, state) = (fields.next()?, fields.nth(1)?);
        let (host, port) = local.split_once(':')?;
        let here = u16::from_str_radix(port, 16) == Ok(address.port()) && state == LISTEN;
        here.then_some((host, fields.nth(5)?))
    });
    // One that listens on this very address goes before one that listens on all.
    let exact = hexadecimal(address.ip());
    let (mine, others): (Vec<_>, Vec<_>) = listening.partition(|(host, _)| *host == exact);
    let unspecified = |host: &str| host.bytes().all(|digit| digit == b'0');
    let any = others.into_iter().filter(|(host, _)| unspecified(host));
    mine.into_iter().chain(any).next().map(|(_, inode)| inode.to_owned())
}

/// The state of a socket that listens, as the tables write it.
const LISTEN: &str = "0A";

/// An address as the tables write it: words of 32 bits in the machine's own order.
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

/// The processes that hold sockets, by the sockets' names.
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
    fn this_process_is_found_by_its_port_and_has_used_time() {
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
