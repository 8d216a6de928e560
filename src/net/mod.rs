//! The shell: sockets, clocks and files around the pure core.

mod assemble;
mod connection;
mod counters;
mod event_loop;
mod listener;
mod log_file;
mod metrics;
mod peer_tls;
mod prometheus;
mod resolver;
mod session;
mod signals;
mod timers;
mod tls;
mod upstream;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use crate::config::{Config, Node as ConfiguredNode};
use crate::endpoint::Host;
use crate::herd::directory::{Keys, Rules};
use crate::herd::handshake::Identity;
use crate::herd::routes::NodeId;
use crate::herd::{Herd, Timing};
use crate::http::Server;
use crate::limits::{Limits, MAX_PROBATIONS, MAX_REFUSALS, OWN_DESCRIPTORS};
use crate::message_log::MessageLog;
use crate::node::Node;
use event_loop::{EventLoop, Neighbour, Outbound};
use log_file::{Diagnostics, Log};
pub use metrics::markdown as counters_markdown;
use peer_tls::PeerTlsConfig;
use sd_notify::NotifyState;

/// Runs the node at `node` in [`Config::nodes`] until it is told to stop.
///
/// # Errors
///
/// What keeps it from running, such as a port in use: what, where and what to do.
pub fn run(config: &Config, node: usize) -> io::Result<()> {
    let me = &config.nodes[node];
    let address = listen_address(&me.listen, me.port)?;
    let log = Log::open(&config.logging, &config.limits, &me.name)?;
    let messages = Diagnostics::install(&log, &config.logging, &config.limits, &me.name);
    let limits = within_descriptors(config, me.neighbors.len());
    let (random, nonce_key) = (random()?, random()?);

    let message_log = MessageLog::new(messages, config.logging.format.clone(), &me.name);
    let (places, upstream) = assemble::places(config, word(&random, 24))?;
    let peer_tls =
        config.peers.tls.as_ref().map(|files| PeerTlsConfig::load(files, &me.name)).transpose()?;
    let http = Server::new(assemble::http_settings(config, &limits), word(&random, 0));
    let core =
        Node::new(herd(config, node, &random), places, message_log, limits.clone(), &nonce_key);
    let neighbour = |&link: &usize| {
        let peer = &config.nodes[link];
        Neighbour::new(peer.dial.clone(), peer.port)
    };
    let neighbours = sorted_neighbours(config, node).iter().map(neighbour).collect();
    let link_buffer = config.peers.limits.max_send_buffer;
    let outbound = Outbound { neighbours, upstream, peer_tls, link_buffer };
    let mut event_loop = EventLoop::new(limits, core, http, outbound, address, log)
        .map_err(|error| cannot_listen(&me.name, address, "ports", &error))?;
    let http = config.http.as_ref().and_then(|http| Some((&http.listen, http.ports[node]?)));
    let http = http.map(|(host, port)| listen_address(host, port)).transpose()?;
    if let Some(address) = http {
        let served = event_loop.serve_http(address);
        served.map_err(|error| cannot_listen(&me.name, address, "http.ports", &error))?;
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    if config.peers.secret.is_none() && config.peers.tls.is_none() {
        log::warn!(
            "no secret is set: peers are taken from loopback only (set HERD_SECRET for others)"
        );
    }
    log::info!("{} listens on {address}", me.name);
    if let Some(address) = http {
        log::info!("{} shows itself at http://{address}/", me.name);
    }
    tell_supervisor(NotifyState::Ready);
    event_loop.run()
}

/// Reads the files that nodes of this herd would read when they start, as they would. The
/// certificates of other machines' nodes need not be on this one; which are not is told.
///
/// # Errors
///
/// What would keep a node from starting: what, where and what to do.
pub fn check(config: &Config) -> io::Result<Vec<String>> {
    assemble::places(config, word(&random()?, 24))?;
    let Some(files) = &config.peers.tls else { return Ok(Vec::new()) };
    let (here, elsewhere): (Vec<&ConfiguredNode>, _) =
        config.nodes.iter().partition(|node| files.key_of(&node.name).exists());
    for node in here {
        PeerTlsConfig::load(files, &node.name)?;
    }
    let warning = |node: &ConfiguredNode| {
        let path = files.key_of(&node.name);
        format!("{} cannot start here: there is no {}", node.name, path.display())
    };
    Ok(elsewhere.into_iter().map(warning).collect())
}

/// Tells systemd, or whoever started the node and set `NOTIFY_SOCKET`, what has become of it. Nobody
/// there, or nobody listening, is no reason not to serve.
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("NOTIFY_SOCKET is set, and nobody is told: {error}");
    }
}

fn cannot_listen(name: &str, address: SocketAddr, ports: &str, error: &io::Error) -> io::Error {
    let (taken, foreign);
    let todo = match error.kind() {
        io::ErrorKind::AddrInUse => {
            taken = format!("another process has that port; stop it, or change `{ports}`");
            taken.as_str()
        }
        io::ErrorKind::AddrNotAvailable => {
            let hosts = if ports == "ports" { "hosts" } else { "http.listen" };
            foreign = format!("that is no address of this machine; correct `{hosts}`");
            foreign.as_str()
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 take privileges",
        _ => "the system refused",
    };
    io::Error::new(error.kind(), format!("{name} cannot listen on {address}: {todo} ({error})"))
}

fn listen_address(host: &Host, port: u16) -> io::Result<SocketAddr> {
    match host {
        Host::Address(address) => Ok(SocketAddr::new(*address, port)),
        // Nothing runs yet that could be kept waiting.
        Host::Name(name) => (name.as_str(), port).to_socket_addrs()?.next().ok_or_else(|| {
            io::Error::other(format!("{name} has no address to listen on; correct `hosts`"))
        }),
    }
}

/// Randomness for nonces, or for the keys of the index and the name of this life of the node.
fn random() -> io::Result<[u8; 32]> {
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system has no randomness to give"))?;
    Ok(random)
}

/// Eight bytes of `random` as a number.
fn word(random: &[u8; 32], at: usize) -> u64 {
    random[at..at + 8].iter().fold(0, |n, &b| n << 8 | u64::from(b))
}

/// The neighbours of `node` in the order of their names, which is the order of links.
fn sorted_neighbours(config: &Config, node: usize) -> Vec<usize> {
    let mut neighbours = config.nodes[node].neighbors.clone();
    neighbours.sort_by(|&a, &b| config.nodes[a].name.cmp(&config.nodes[b].name));
    neighbours
}

fn herd(config: &Config, node: usize, random: &[u8; 32]) -> Herd {
    let mut names: Vec<Box<[u8]>> =
        config.nodes.iter().map(|node| node.name.as_bytes().into()).collect();
    names.sort_unstable();
    // Every name is in the list it was made from.
    let id = |node: usize| {
        let name = config.nodes[node].name.as_bytes();
        names.binary_search_by(|held| (**held).cmp(name)).unwrap_or_default() as NodeId
    };
    let nanos = |duration: Duration| duration.as_nanos() as i128;
    let neighbours = sorted_neighbours(config, node);
    let seed_compatible: Vec<NodeId> =
        neighbours.iter().filter(|&&n| config.nodes[n].seed_compatible).map(|&n| id(n)).collect();
    let secret = config.peers.secret.as_ref();
    let secret = secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose()));
    // Digests are compared between nodes, so their key is the herd's: nobody outside can aim at
    // one leaf. A herd without a secret has nothing to make a key of.
    let digest = secret.as_ref().map_or((0, 0), |secret| {
        let tag = hmac::sign(secret, b"digest key");
        let word =
            |at: usize| tag.as_ref()[at..at + 8].iter().fold(0, |n, &b| n << 8 | u64::from(b));
        (word(0), word(8))
    });
    let identity = Identity {
        me: id(node),
        neighbours: neighbours.iter().map(|&n| id(n)).collect(),
        rules: Rules {
            max_clock_offset: nanos(config.peers.max_clock_offset),
            max_clients: config.limits.max_clients as u32,
            client_ttl: config.limits.client_ttl.map_or(0, nanos),
        },
        secret,
        tls: config.peers.tls.is_some(),
        boot: word(random, 0),
        names,
    };
    let peers = &config.peers.limits;
    let timing = Timing {
        keepalive: peers.keepalive,
        timeout: peers.timeout,
        redial_max: peers.redial_max,
        antientropy_interval: peers.antientropy_interval,
    };
    let keys = Keys { index: (word(random, 8), word(random, 16)), digest };
    Herd::new(identity, &seed_compatible, timing, keys, Duration::ZERO)
}

/// Raises the limit on open files as far as it goes, and lowers the limit on connections to what
/// is left after the descriptors that clients must not use up.
fn within_descriptors(config: &Config, neighbours: usize) -> Limits {
    let mut limits = config.limits.clone();
    // Each neighbour may dial while it is dialled; a connection to a provider tries two addresses.
    let needed = OWN_DESCRIPTORS + 2 * neighbours + 2 * config.places.limits.pool_size;
    let reserved = limits.reserved_descriptors.max(needed) + MAX_PROBATIONS + MAX_REFUSALS;
    let wanted = (limits.max_connections + reserved) as u64;
    let granted = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    let room = usize::try_from(granted).unwrap_or(usize::MAX).saturating_sub(reserved).max(1);
    if room < limits.max_connections {
        log::warn!(
            "this process may open {granted} files: limits.max_connections is {room} instead of {}; \
             raise the limit (ulimit -n) for more",
            limits.max_connections
        );
        limits.max_connections = room;
    }
    limits
}
