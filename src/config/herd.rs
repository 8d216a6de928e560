//! The nodes of the herd: `ports`, `hosts`, `neighbors` and `peers.seed_compatible`.

use std::collections::HashMap;

use super::NodeConfig;
use super::document::{Field, Section};
use super::error::{Error, shown};
use super::suggest::did_you_mean;
use crate::endpoint::Host;
use crate::limits::{MAX_NODE_NAME, MAX_NODES};

/// Reads the nodes, in the order of `ports`.
pub(super) fn nodes(
    root: &Field,
    file: &Section,
    peers: &Section,
) -> Result<Vec<NodeConfig>, Error> {
    let mut topology = ports(root, file)?;
    hosts(file, &mut topology)?;
    reject_shared_addresses(&topology)?;
    neighbors(file, &mut topology)?;
    for entry in peers.get("seed_compatible").map_or(Ok(Vec::new()), Field::list)? {
        let node = topology.find(&entry, entry.text()?)?;
        topology.nodes[node].seed_compatible = true;
    }
    Ok(topology.nodes)
}

/// The nodes read so far.
struct Topology<'a> {
    nodes: Vec<NodeConfig>,
    /// The field with the port of each node.
    ports: Vec<Field<'a>>,
    /// Indices of the nodes by name.
    index: HashMap<&'a str, usize>,
}

impl Topology<'_> {
    /// Returns the index of the node `name`, which is the value or key of `field`.
    fn find(&self, field: &Field, name: &str) -> Result<usize, Error> {
        self.index.get(name).copied().ok_or_else(|| {
            let hint = did_you_mean(name, self.nodes.iter().map(|node| node.name.as_str()));
            let fix = "; add it to `ports` or correct the name";
            field.error(format!("there is no node `{}`{fix}{hint}", shown(name)))
        })
    }
}

fn ports<'a>(root: &Field, file: &Section<'a>) -> Result<Topology<'a>, Error> {
    const EXAMPLE: &str = "list the nodes: `ports: {Bailey: 10099, Bona: 10044}`";
    let ports = file.find("ports").ok_or_else(|| root.missing("ports", EXAMPLE))?;
    let entries = ports.entries()?;
    if entries.is_empty() {
        return Err(ports.error(format!("contains no nodes; {EXAMPLE}")));
    }
    if entries.len() > MAX_NODES {
        let message = format!("lists {} nodes; a herd has at most {MAX_NODES}", entries.len());
        return Err(ports.error(message));
    }
    let mut topology = Topology { nodes: Vec::new(), ports: Vec::new(), index: HashMap::new() };
    for entry in entries {
        check_name(&entry.key, entry.name)?;
        let port = |number| u16::try_from(number).is_ok_and(|port| port != 0);
        topology.index.insert(entry.name, topology.nodes.len());
        topology.nodes.push(NodeConfig {
            name: entry.name.to_owned(),
            port: entry.field.integer(port, "from 1 to 65535")? as u16,
            listen: Host::LOOPBACK,
            dial: Host::LOOPBACK,
            neighbors: Vec::new(),
            seed_compatible: false,
        });
        topology.ports.push(entry.field);
    }
    Ok(topology)
}

/// Checks a node name, which is a field of AT lines and the name of a log file.
fn check_name(field: &Field, name: &str) -> Result<(), Error> {
    let wrong = if name.is_empty() {
        "is empty; enter a node name".to_owned()
    } else if name.len() > MAX_NODE_NAME {
        format!("is {} bytes long; a node name has at most {MAX_NODE_NAME}", name.len())
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        "contains white space or a control character; a node name is a single field of AT lines"
            .to_owned()
    } else if name == "-" {
        "is not a node name, but that of an administrator; choose another one".to_owned()
    } else if name.contains('/') {
        "contains a `/`; a node name is also the name of a log file".to_owned()
    } else {
        return Ok(());
    };
    Err(field.error(wrong))
}

fn hosts(file: &Section, topology: &mut Topology) -> Result<(), Error> {
    let Some(hosts) = file.get("hosts") else { return Ok(()) };
    for entry in hosts.entries()? {
        let node = topology.find(&entry.key, entry.name)?;
        let (listen, dial) = if entry.field.is_mapping() {
            let pair = entry.field.section(&["listen", "dial"])?;
            let host = |key| pair.get(key).map(Field::parse::<Host>).transpose();
            let (listen, dial) = (host("listen")?, host("dial")?);
            let Some(either) = listen.as_ref().or(dial.as_ref()).cloned() else { continue };
            (listen.unwrap_or_else(|| either.clone()), dial.unwrap_or(either))
        } else {
            let host: Host = entry.field.parse()?;
            (host.clone(), host)
        };
        if dial.is_unspecified() {
            return Err(entry.field.error(format!(
                "peers cannot connect to {dial}; write {{listen: {dial}, dial: ADDRESS}} with the \
                 address at which they reach this node"
            )));
        }
        topology.nodes[node].listen = listen;
        topology.nodes[node].dial = dial;
    }
    Ok(())
}

/// Rejects nodes that peers would reach at the same address and port. Nodes on different machines may
/// have the same port.
fn reject_shared_addresses(topology: &Topology) -> Result<(), Error> {
    let mut taken = HashMap::new();
    for (node, field) in topology.nodes.iter().zip(&topology.ports) {
        if let Some(other) = taken.insert((&node.dial, node.port), &node.name) {
            return Err(field.error(format!(
                "port {} on {} is already used by {other}; choose another port, \
                 or set the address of each machine under `hosts`",
                node.port, node.dial
            )));
        }
    }
    Ok(())
}

/// Reads the edges. It suffices that one of the two ends lists an edge.
fn neighbors(file: &Section, topology: &mut Topology) -> Result<(), Error> {
    let Some(neighbors) = file.get("neighbors") else { return Ok(()) };
    for entry in neighbors.entries()? {
        let node = topology.find(&entry.key, entry.name)?;
        if entry.field.is_null() {
            continue;
        }
        for neighbor in entry.field.list()? {
            let other = topology.find(&neighbor, neighbor.text()?)?;
            if other == node {
                let message = format!("{} is listed as its own neighbor; remove it", entry.name);
                return Err(neighbor.error(message));
            }
            topology.nodes[node].neighbors.push(other);
            topology.nodes[other].neighbors.push(node);
        }
    }
    for node in &mut topology.nodes {
        node.neighbors.sort_unstable();
        node.neighbors.dedup();
    }
    Ok(())
}
