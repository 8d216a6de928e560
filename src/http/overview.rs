//! `/api/herd`: how this node is, and the herd as it sees it.

use serde::{Deserialize, Serialize};

use super::{Server, Shell};
use crate::herd::digest::Branch;
use crate::herd::handshake::VERSION;
use crate::herd::link::Link;
use crate::herd::routes::NodeId;
use crate::node::{Node, Now};
use crate::places::Places;

/// The document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// The node that speaks.
    pub node: String,
    /// Of the program.
    pub version: String,
    /// Of the protocol between nodes.
    pub protocol: String,
    /// POSIX seconds by the node's clock.
    pub time: f64,
    /// Seconds since it started.
    pub uptime: f64,
    /// Clients held.
    pub clients: u32,
    /// Of all their records: equal on two nodes that hold the same.
    pub digest: String,
    /// Connections of clients and browsers.
    pub connections: usize,
    /// Those among them that listen to `/events`.
    pub subscribers: usize,
    /// All nodes of the herd.
    pub nodes: Vec<Member>,
    /// This node's own edges.
    pub links: Vec<Edge>,
    /// Who answers WHATSAT.
    pub places: Provider,
    /// What has happened since it started.
    pub counters: Counts,
    /// The tiles that the page is to show.
    pub tiles: Option<Tiles>,
    /// What is not as it should be, for people; empty when all is well.
    pub problems: Vec<String>,
}

/// A node of the herd.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Whether a path of links leads there.
    pub reachable: bool,
    /// The nodes that it is linked with, as far as this node knows.
    pub links: Vec<String>,
}

/// An edge of this node. Durations are in seconds; what is not known is `null`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The neighbour.
    pub peer: String,
    /// Whether the link stands.
    pub up: bool,
    /// Whether the neighbour is the seed's server, which has no digests and answers no pings.
    pub seed_compatible: bool,
    /// For how long it has stood.
    pub since: Option<f64>,
    /// For how long nothing has come.
    pub silence: Option<f64>,
    /// Of the last ping.
    pub round_trip: Option<f64>,
    /// Records that wait to be sent.
    pub backlog: usize,
    /// Whether both ends held the same when they last compared. What is on its way makes a
    /// difference.
    pub digests_equal: Option<bool>,
    /// Whether the peer's clock is too far off.
    pub clock_is_off: bool,
}

/// A provider of places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// As `places.provider` names it.
    pub provider: String,
    /// Whether it is asked; it is left alone for a while after failures.
    pub available: bool,
}

/// Counters for the plots of the page. `/metrics` has all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// IAMATs.
    pub iamat: u64,
    /// Those that were stored.
    pub iamat_stored: u64,
    /// WHATSATs.
    pub whatsat: u64,
    /// Lines that were no command.
    pub unknown: u64,
    /// Records sent to peers.
    pub flooded: u64,
    /// Records received from peers.
    pub received: u64,
    /// Records that a comparison of digests brought.
    pub repaired: u64,
    /// Events sent to subscribers.
    pub events: u64,
}

/// A server of map tiles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tiles {
    /// With `{z}`, `{x}` and `{y}`.
    pub url: String,
    /// Whom they are by.
    pub attribution: String,
}

impl Overview {
    /// How things are now.
    #[must_use]
    pub fn new(node: &Node, http: &Server, shell: &dyn Shell, now: &Now) -> Self {
        let (herd, directory) = (&node.herd, &node.herd.directory);
        let identity = herd.identity();
        let name = |id: NodeId| String::from_utf8_lossy(identity.name(id)).into_owned();
        Self {
            node: name(identity.me),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: String::from_utf8_lossy(VERSION).into_owned(),
            time: now.clock as f64 / 1e9,
            uptime: now.elapsed.as_secs_f64(),
            clients: directory.len(),
            digest: format!("{:016x}", directory.sums().of(Branch::ROOT)),
            connections: shell.connections(),
            subscribers: http.events.subscribers(),
            nodes: members(node),
            links: herd.links().iter().map(|link| edge(node, link, now)).collect(),
            places: Provider {
                provider: http.settings.provider.clone(),
                available: is_available(&node.places, now),
            },
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
            problems: problems(node, now),
        }
    }
}

fn members(node: &Node) -> Vec<Member> {
    let identity = node.herd.identity();
    let name = |id: &NodeId| String::from_utf8_lossy(identity.name(*id)).into_owned();
    let edges = node.herd.routes().edges();
    let mut reachable = vec![false; edges.len()];
    let mut waiting = vec![identity.me];
    while let Some(at) = waiting.pop() {
        if !std::mem::replace(&mut reachable[usize::from(at)], true) {
            waiting.extend(&edges[usize::from(at)]);
        }
    }
    let member = |((at, links), reachable): ((NodeId, Vec<NodeId>), bool)| Member {
        name: name(&at),
        reachable,
        links: links.iter().map(name).collect(),
    };
    (0..).zip(edges).zip(reachable).map(member).collect()
}

fn edge(node: &Node, link: &Link, now: &Now) -> Edge {
    let up = link.up.as_ref();
    let ago = |then| now.elapsed.saturating_sub(then).as_secs_f64();
    Edge {
        peer: String::from_utf8_lossy(node.herd.identity().name(link.peer)).into_owned(),
        up: up.is_some(),
        seed_compatible: link.seed_compatible,
        since: up.map(|up| ago(up.since)),
        silence: up.filter(|_| !link.seed_compatible).map(|up| ago(up.heard)),
        round_trip: up.and_then(|up| up.round_trip).map(|trip| trip.as_secs_f64()),
        backlog: up.map_or(0, |up| up.flood.len()),
        digests_equal: up.and_then(|up| up.exchange.is_equal()),
        clock_is_off: up.is_some_and(|up| up.clock_is_off),
    }
}

/// Whether places are asked for at all.
fn is_available(places: &Places, now: &Now) -> bool {
    match places {
        Places::Offline(_) => true,
        Places::Upstream(client) => !client.gauges(now.elapsed).breaker_open,
    }
}

/// What is not as it should be.
fn problems(node: &Node, now: &Now) -> Vec<String> {
    let mut problems = Vec::new();
    for link in node.herd.links() {
        let peer = String::from_utf8_lossy(node.herd.identity().name(link.peer)).into_owned();
        match &link.up {
            None => problems.push(format!("{peer} is not linked")),
            Some(up) if up.clock_is_off => {
                problems.push(format!("the clock of {peer} is too far off"));
            }
            Some(_) => {}
        }
    }
    if !is_available(&node.places, now) {
        problems.push("the places provider has failed and is left alone for a while".to_owned());
    }
    problems
}

/// Why the node cannot do its work; `None` if it can. One neighbour that is away does not keep it
/// from that, or one node that stops would take its neighbours with it.
#[must_use]
pub fn unready(node: &Node, now: &Now) -> Option<&'static str> {
    let links = node.herd.links();
    if !links.is_empty() && links.iter().all(|link| link.up.is_none()) {
        return Some("no neighbour is linked; what clients say here is not shared");
    }
    (!is_available(&node.places, now))
        .then_some("the places provider has failed and is left alone for a while")
}
