//! The shell: sockets, clocks and files around the pure core.

mod assemble;
mod certificates;
mod check;
mod clock;
mod connect;
mod connection;
mod counters;
mod device_tls;
mod diagnostics;
mod disk;
mod event_loop;
mod feed;
mod fences;
mod folder;
mod forget;
mod invite;
pub mod limits;
mod listener;
mod log_file;
mod metrics;
mod peer_tls;
mod process;
mod prometheus;
mod recovery;
mod regular_file;
mod reload;
mod resolver;
mod session;
mod signals;
mod timers;
mod tls;
mod token;
mod tokens_file;
mod upstream;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use crate::config::Config;
use crate::endpoint::Host;
use crate::fences::Fences;
use crate::http::Server;
use crate::limits::Limits;
use crate::message_log::MessageLog;
use crate::net::limits::{
    FEED_DESCRIPTORS, MAX_AT_LINK_PORT, MAX_PROBATIONS, MAX_REFUSALS, MAX_RESERVE, OWN_DESCRIPTORS,
    STORAGE_DESCRIPTORS,
};
use crate::node::Node;
pub use check::check;
use diagnostics::Diagnostics;
use event_loop::{EventLoop, Neighbor, Outbound};
use feed::Prepared;
use folder::Folder;
pub use forget::forget;
pub use invite::invite;
use listener::Listener;
use log_file::Log;
pub use metrics::markdown as counters_markdown;
use peer_tls::PeerTlsConfig;
use process::Process;
use sd_notify::NotifyState;
use upstream::Upstream;

/// Runs the node at `node` in [`Config::nodes`] until a signal ends it.
///
/// # Errors
///
/// If the node cannot start, for example because a port is in use. The message names the setting and
/// the fix.
pub fn run(config: &Config, node: usize) -> io::Result<()> {
    let started = clock::wall();
    let me = &config.nodes[node];
    let address = listen_address(&me.listen, me.port)?;
    let log = Log::open(&config.logging, &config.limits, &me.name)?;
    let messages = Diagnostics::install(&log, &config.logging, &config.limits, &me.name);
    let limits = within_descriptors(config, me.neighbors.len());
    let (random, nonce_key, digest_seed) = (random()?, random()?, random()?);

    let message_log = MessageLog::new(messages, config.logging.format.clone(), &me.name);
    let (places, upstream) = assemble::places(config, word(&random, 24))?;
    let feed = config.feed.as_ref().map(|feed| Prepared::new(feed, &me.name, &random));
    let feed = feed.transpose()?;
    let peer_tls =
        config.peers.tls.as_ref().map(|files| PeerTlsConfig::load(files, &me.name)).transpose()?;
    let http = Server::new(assemble::http_settings(config, node, &limits), word(&random, 0));
    let mut herd = assemble::herd(config, node, &random, &digest_seed);
    let fences = fences::load(config)?;
    let web = config.http.as_ref().and_then(|http| Some((&http.listen, http.ports[node]?)));
    let web = web.map(|(host, port)| listen_address(host, port)).transpose()?;
    let reports = config.devices.as_ref().and_then(|devices| {
        let port = devices.ports[node]?;
        let address = listen_address(&devices.listen, port);
        Some(address.and_then(|it| Ok((it, assemble::devices(devices, &me.name, &limits)?))))
    });
    let reports = reports.transpose()?;
    let device_address = reports.as_ref().map(|(address, _)| *address);
    let storage = config.storage.as_ref();
    let folder = storage.map(|it| Folder::open(&it.directory.join(&me.name))).transpose()?;
    // Before files change, as each start adds one; and so that the error names the port for clients first.
    expect_free(&me.name, address, web, device_address, &limits)?;
    let store = storage.zip(folder.as_ref()).map(|(storage, folder)| {
        recovery::load(storage, feed.is_some(), &me.name, folder, &mut herd.directory)
    });
    let store = store.transpose()?;
    if let Some(set) = &fences {
        for warning in fences::warnings(set) {
            log::warn!("{warning}");
        }
        herd.directory.set_fences(Fences::new(Arc::clone(set), started));
        herd.directory.evaluate_fences(&mut { usize::MAX });
    }
    let mut core = Node::new(herd, places, message_log, limits.clone(), &nonce_key);
    core.store = store;
    let neighbor = |&link: &usize| {
        let peer = &config.nodes[link];
        Neighbor::new(peer.dial.clone(), peer.port, config.peers.requires_tls())
    };
    let neighbors = assemble::sorted_neighbors(config, node).iter().map(neighbor).collect();
    let link_buffer = config.peers.limits.max_send_buffer;
    let devices = reports.as_ref().map(|(_, devices)| devices);
    let tls = [upstream.as_ref().and_then(Upstream::tls), feed.as_ref().and_then(Prepared::tls)];
    let mut sets = assemble::file_sets(config, &me.name, peer_tls.as_ref(), devices, tls);
    let fence_file = fences.as_ref().and_then(|set| fences::file_set(config, set));
    sets.extend(fence_file.map(|set| (set, Vec::new())));
    let outbound = Outbound { neighbors, upstream, feed, peer_tls, link_buffer };
    let mut event_loop =
        EventLoop::new(limits, core, http, outbound, folder, log).map_err(|it| {
            let name = &me.name;
            io::Error::new(it.kind(), format!("{name} cannot start its event loop: {it}"))
        })?;
    for (set, certificates) in sets {
        if let Some(flaw) = &set.flaw {
            log::warn!("{flaw}");
        }
        event_loop.reload.add(set, certificates);
    }
    if let Some(address) = web {
        let served = event_loop.serve_http(address, Process::new(started));
        served.map_err(|error| cannot_listen(&me.name, address, "http.ports", &error))?;
    }
    if let Some((address, devices)) = reports {
        let served = event_loop.serve_devices(address, devices);
        served.map_err(|error| cannot_listen(&me.name, address, "devices.ports", &error))?;
    }
    event_loop.serve_links(address.ip(), &all_ports(config));
    // The last one: a program that can connect to it finds the others open.
    let served = event_loop.serve_lines(address);
    served.map_err(|error| cannot_listen(&me.name, address, "ports", &error))?;
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    if config.peers.secret.is_none() && config.peers.tls.is_none() {
        log::warn!(
            "no secret is set: peers are accepted from loopback addresses only (set HERD_SECRET for \
             others)"
        );
    }
    log::info!("{} listens on {address}", me.name);
    if let Some(address) = web {
        log::info!("{} serves HTTP at http://{address}/", me.name);
    }
    if let (Some(address), Some(devices)) = (device_address, &config.devices) {
        let scheme = if devices.tls.is_some() { "https" } else { "http" };
        log::info!("{} listens for devices at {scheme}://{address}/", me.name);
    }
    notify_supervisor(NotifyState::Ready);
    event_loop.run()
}

/// Reports `state` to systemd, or to another supervisor that has set `NOTIFY_SOCKET`. A failure is
/// logged: the node can serve without a supervisor.
fn notify_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("cannot notify the supervisor at NOTIFY_SOCKET: {error}");
    }
}

/// Returns an error if the node `name` cannot listen on `lines`, on `http` for browsers, or on
/// `devices` for devices.
fn expect_free(
    name: &str,
    lines: SocketAddr,
    http: Option<SocketAddr>,
    devices: Option<SocketAddr>,
    limits: &Limits,
) -> io::Result<()> {
    for (address, ports) in
        [(Some(lines), "ports"), (http, "http.ports"), (devices, "devices.ports")]
    {
        let Some(address) = address else { continue };
        Listener::bind_only(address, limits)
            .map_err(|error| cannot_listen(name, address, ports, &error))?;
    }
    Ok(())
}

fn cannot_listen(name: &str, address: SocketAddr, ports: &str, error: &io::Error) -> io::Error {
    let (taken, foreign);
    let todo = match error.kind() {
        io::ErrorKind::AddrInUse => {
            taken = format!("another process uses that port; stop it, or change `{ports}`");
            taken.as_str()
        }
        io::ErrorKind::AddrNotAvailable => {
            let hosts = match ports {
                "ports" => "hosts",
                "http.ports" => "http.listen",
                _ => "devices.listen",
            };
            foreign = format!("that is not an address of this machine; correct `{hosts}`");
            foreign.as_str()
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 require privileges",
        _ => "the system refused",
    };
    io::Error::new(error.kind(), format!("{name} cannot listen on {address}: {todo} ({error})"))
}

/// Returns the ports of all nodes, those for HTTP and for devices included.
fn all_ports(config: &Config) -> Vec<u16> {
    let http = config.http.iter().flat_map(|http| http.ports.iter().copied().flatten());
    let devices = config.devices.iter().flat_map(|it| it.ports.iter().copied().flatten());
    config.nodes.iter().map(|node| node.port).chain(http).chain(devices).collect()
}

fn listen_address(host: &Host, port: u16) -> io::Result<SocketAddr> {
    match host {
        Host::Address(address) => Ok(SocketAddr::new(*address, port)),
        // The loop does not run yet, so nothing is delayed.
        Host::Name(name) => (name.as_str(), port).to_socket_addrs()?.next().ok_or_else(|| {
            io::Error::other(format!("{name} has no address to listen on; correct `hosts`"))
        }),
    }
}

/// Random bytes for nonces, for the keys of the index and of the digests, and for the boot id.
fn random() -> io::Result<[u8; 32]> {
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system's random number generator failed"))?;
    Ok(random)
}

/// Eight bytes of `random` as a big-endian number.
fn word(random: &[u8; 32], at: usize) -> u64 {
    random[at..at + 8].iter().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// Raises the limit on open files as far as possible, and lowers the limit on connections to what
/// remains after the descriptors that clients must not use up.
fn within_descriptors(config: &Config, neighbors: usize) -> Limits {
    let mut limits = config.limits.clone();
    // A neighbor may dial while it is being dialed, and one of the two links may be moving; a connection
    // to a provider tries two addresses.
    let storage = if config.storage.is_some() { STORAGE_DESCRIPTORS } else { 0 };
    let feed = if config.feed.is_some() { FEED_DESCRIPTORS } else { 0 };
    let needed =
        OWN_DESCRIPTORS + storage + feed + 3 * neighbors + 2 * config.places.limits.pool_size;
    // In the reserve, a new connection may come before the one that it ends has closed.
    let http = if config.http.is_some() { 2 * MAX_RESERVE } else { 0 };
    let unproven = MAX_PROBATIONS + MAX_REFUSALS + MAX_AT_LINK_PORT;
    let reserved = limits.reserved_descriptors.max(needed) + unproven + http;
    let wanted = (limits.max_connections + reserved) as u64;
    let granted = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    let room = usize::try_from(granted).unwrap_or(usize::MAX).saturating_sub(reserved).max(1);
    if room < limits.max_connections {
        log::warn!(
            "the limit on open files is {granted}: limits.max_connections is lowered to {room} from \
             {}; raise the limit (ulimit -n) for more",
            limits.max_connections
        );
        limits.max_connections = room;
    }
    limits
}
