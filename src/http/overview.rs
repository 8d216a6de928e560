//! `/api/herd`: the state of this node, and of the herd as this node sees it.

use serde::{Deserialize, Serialize};

use super::settings::{Next, Settings};
use super::{Server, Shell};
use crate::herd::digest::Branch;
use crate::herd::handshake::VERSION;
use crate::herd::link::{Established, Link};
use crate::herd::routes;
use crate::ids::{LinkId, NodeId};
use crate::node::Node;
use crate::places::Places;
use crate::time::Now;

/// The document that `/api/herd` returns. `--status` and the page read it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// Name of this node.
    pub node: String,
    /// Version of the program.
    pub version: String,
    /// Version of the peer protocol.
    pub protocol: String,
    /// Where clients and peers reach the node.
    #[serde(default)] // nodes of earlier releases do not send it
    pub address: Address,
    /// Wall clock of the node, in seconds since the Unix epoch.
    pub time: f64,
    /// Seconds since the node started.
    pub uptime: f64,
    /// Clients held.
    pub clients: u32,
    /// Digest of all records; equal on two nodes that hold the same records.
    pub digest: String,
    /// Open connections of clients and browsers.
    pub connections: usize,
    /// Subscribers of `/events` among them.
    pub subscribers: usize,
    /// All nodes of the herd: those of the configuration, and others that are reachable.
    pub nodes: Vec<Member>,
    /// Links of this node.
    pub links: Vec<Edge>,
    /// Source of the places for WHATSAT.
    pub places: Provider,
    /// Delivery to an engine; `null` without a section `feed`.
    #[serde(default)] // nodes of earlier releases do not send it
    pub feed: Option<Feed>,
    /// Counters since start-up.
    pub counters: Counts,
    /// Map tiles for the page.
    pub tiles: Option<Tiles>,
    /// Settings in force that must be identical on all nodes.
    #[serde(default)] // nodes of earlier releases do not send it
    pub settings: Settings,
    /// Settings that the node announces in `limits.next`; `null` if it announces none.
    #[serde(default)]
    pub next: Option<Next>,
    /// The fences; `null` if the configuration has no section `fences`.
    #[serde(default)]
    pub fences: Option<Fences>,
    /// Problems, as sentences; empty if the node is healthy.
    pub problems: Vec<String>,
}

/// Where clients and peers reach a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Host name or IP address, as in `hosts`.
    pub host: String,
    /// Port, as in `ports`.
    pub port: u16,
}

/// A node of the herd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Name of the node.
    pub name: String,
    /// True if a path of established links leads to it.
    pub reachable: bool,
    /// Names of the nodes it is linked to, as far as this node knows.
    pub links: Vec<String>,
}

/// A link of this node. Durations are in seconds; unknown values are `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// Name of the neighbor.
    pub peer: String,
    /// True if the link is established.
    pub up: bool,
    /// True if the neighbor is the original server, which has no digests and does not answer pings.
    pub seed_compatible: bool,
    /// Time since the link was established.
    pub since: Option<f64>,
    /// Time since the last line from the neighbor.
    pub silence: Option<f64>,
    /// Round-trip time of the last ping.
    pub round_trip: Option<f64>,
    /// Records queued for the neighbor.
    pub backlog: usize,
    /// True if the last comparison of digests found equal records. Records in transit count as a
    /// difference.
    pub digests_equal: Option<bool>,
    /// True if the peer's clock differs by more than half of `max_clock_offset`.
    pub clock_is_off: bool,
}

/// State of the feed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feed {
    /// True if entries are being delivered, or would be if there were any.
    pub connected: bool,
    /// Entries that are not delivered.
    pub backlog: u64,
    /// Reason why entries are not being delivered; `null` if there is none.
    pub last_error: Option<String>,
}

/// State of the places provider.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Name, as in `places.provider`.
    pub provider: String,
    /// True if it is queried; false while the circuit breaker is open.
    pub available: bool,
}

/// Counters that the page plots. `/metrics` has all counters.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Valid IAMATs.
    pub iamat: u64,
    /// IAMATs that were stored.
    pub iamat_stored: u64,
    /// Valid WHATSATs for a known client.
    pub whatsat: u64,
    /// Lines that are not a valid command.
    pub unknown: u64,
    /// Records flooded to peers.
    pub flooded: u64,
    /// Records received from peers.
    pub received: u64,
    /// Records recovered by a periodic comparison of digests.
    pub repaired: u64,
    /// Events sent to subscribers.
    pub events: u64,
}

/// The fences of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fences {
    /// Number of fences.
    pub count: usize,
    /// Hash of everything that determines who is inside; equal on nodes with the same fences.
    pub hash: String,
}

/// A server of map tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tiles {
    /// URL template with `{z}`, `{x}` and `{y}`.
    pub url: String,
    /// Attribution to display on the map.
    pub attribution: String,
}

impl Overview {
    /// Returns the current state.
    #[must_use]
    pub fn new(node: &Node, http: &Server, shell: &dyn Shell, now: &Now) -> Self {
        let (herd, directory) = (&node.herd, &node.herd.directory);
        let identity = herd.identity();
        let name = |id: NodeId| String::from_utf8_lossy(identity.name(id)).into_owned();
        Self {
            node: name(identity.me),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: String::from_utf8_lossy(VERSION).into_owned(),
            address: http.settings.address.clone(),
            time: now.wall.nanos() as f64 / 1e9,
            uptime: now.instant.uptime().as_secs_f64(),
            clients: directory.clients(),
            digest: format!("{:016x}", directory.sums().of(Branch::ROOT)),
            connections: shell.connections(),
            subscribers: http.events.subscribers(),
            nodes: members(node),
            links: herd.links().iter().map(|link| edge(node, link, now)).collect(),
            places: Provider {
                provider: http.settings.provider.clone(),
                available: is_available(&node.places, now),
            },
            feed: shell.feed(node),
            counters: Counts {
                iamat: node.counters.iamat,
                iamat_stored: node.counters.iamat_stored,
                whatsat: node.counters.whatsat,
                unknown: node.counters.unknown,
                flooded: herd.counters.floods_sent,
                received: herd.counters.floods_received,
                repaired: herd.counters.antientropy_repairs,
                events: http.events.counters.sent,
            },
            tiles: http.settings.tiles.clone(),
            settings: Settings::from(&herd.offer().rules),
            next: Next::of(herd),
            fences: directory.fences().map(|fences| Fences {
                count: fences.set().fences().len(),
                hash: fences.set().hash(),
            }),
            problems: [problems(node, now), shell.problems(node, now)].concat(),
        }
    }
}

fn members(node: &Node) -> Vec<Member> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let members = node.herd.routes().members().into_iter();
    let member = |member: routes::Member<'_>| Member {
        name: text(member.name),
        reachable: member.reachable,
        links: member.links.into_iter().map(text).collect(),
    };
    members.map(member).collect()
}

fn edge(node: &Node, link: &Link, now: &Now) -> Edge {
    let up = link.up.as_ref();
    let ago = |then| now.instant.since(then).as_secs_f64();
    Edge {
        peer: String::from_utf8_lossy(node.herd.identity().name(link.peer)).into_owned(),
        up: up.is_some(),
        seed_compatible: link.is_legacy(),
        since: up.map(|up| ago(up.since())),
        silence: up.filter(|_| !link.is_legacy()).map(|up| ago(up.last_received())),
        round_trip: up.and_then(Established::round_trip).map(|trip| trip.as_secs_f64()),
        backlog: up.map_or(0, Established::backlog),
        digests_equal: up.and_then(|up| up.anti_entropy.is_equal()),
        clock_is_off: up.is_some_and(Established::clock_is_off),
    }
}

/// Returns whether the places provider is queried. Offline places are always available.
fn is_available(places: &Places, now: &Now) -> bool {
    match places {
        Places::Offline(_) => true,
        Places::Upstream(client) => !client.gauges(now.instant).breaker_open,
    }
}

/// Returns the problems of a node, as sentences.
fn problems(node: &Node, now: &Now) -> Vec<String> {
    let mut problems = Vec::new();
    for (id, link) in node.herd.links().iter().enumerate() {
        let peer = String::from_utf8_lossy(node.herd.identity().name(link.peer)).into_owned();
        match &link.up {
            None => problems.push(match node.link_failure(LinkId(id)) {
                Some(reason) => format!("the link to {peer} is down: {reason}"),
                None => format!("the link to {peer} is down"),
            }),
            Some(up) if up.clock_is_off() => {
                problems.push(format!(
                    "the clock of {peer} differs by more than half of max_clock_offset"
                ));
            }
            Some(up) => {
                if let Some(boot) = up.rival(now.instant) {
                    problems.push(format!(
                        "two processes are named {peer}; one is linked, and the one with boot id \
                         {:x} is refused. Stop one of them",
                        boot.0
                    ));
                }
            }
        }
    }
    if let Some(boot) = node.herd.other_self(now.instant) {
        problems.push(format!(
            "another process, with boot id {:x}, is part of the herd under the name of this node. \
             Stop one of them",
            boot.0
        ));
    }
    if let Some(store) = &node.store
        && let Some(problem) = store.storage.problem()
    {
        problems.push(format!("storage {}: {problem}", store.folder));
    }
    if !is_available(&node.places, now) {
        problems.push("the places provider is failing; circuit breaker open".to_owned());
    }
    problems
}

/// Returns the reason why the node is not ready to accept updates, or `None` if it is. One neighbor
/// that is down does not make a node unready: otherwise one node that stops would take its neighbors
/// out of service. A failing places provider does not either: it fails for all nodes, so a load
/// balancer would take every node out of service.
#[must_use]
pub fn unready(node: &Node) -> Option<&'static str> {
    let links = node.herd.links();
    let is_alone = !links.is_empty() && links.iter().all(|link| link.up.is_none());
    is_alone.then_some("no neighbor is linked; updates from clients are not replicated")
}
