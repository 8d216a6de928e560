//! The nodes: `ports`, `hosts`, `neighbors` and which of them are the seed's.

use std::collections::HashMap;

use super::Node;
use super::document::{Field, Section};
use super::error::{Error, shown};
use super::suggest::did_you_mean;
use crate::endpoint::Host;
use crate::limits::{MAX_NODE_NAME, MAX_NODES};

/// The herd of the file, in the order of `ports`.
pub(super) fn nodes(root: &Field, file: &Section, peers: &Section) -> Result<Vec<Node>, Error> {
    let mut herd = ports(root, file)?;
    hosts(file, &mut herd)?;
    reject_shared_addresses(&herd)?;
    neighbors(file, &mut herd)?;
    for entry in peers.get("seed_compatible").map_or(Ok(Vec::new()), Field::list)? {
        let node = herd.find(&entry, entry.text()?)?;
        herd.nodes[node].seed_compatible = true;
    }
    Ok(herd.nodes)
}

/// The nodes so far, the fields with their ports, and their places by name.
struct Herd<'a> {
    nodes: Vec<Node>,
    ports: Vec<Field<'a>>,
    index: HashMap<&'a str, usize>,
}

impl Herd<'_> {
    /// The place of the node that `field` names.
    fn find(&self, field: &Field, name: &str) -> Result<usize, Error> {
        self.index.get(name).copied().ok_or_else(|| {
            let hint = did_you_mean(name, self.nodes.iter().map(|node| node.name.as_str()));
            let fix = "; give it a port under `ports` or correct the name";
            field.error(format!("there is no node `{}`{fix}{hint}", shown(name)))
        })
    }
}

fn ports<'a>(root: &Field, file: &Section<'a>) -> Result<Herd<'a>, Error> {
    const EXAMPLE: &str = "list the nodes under it: `ports: {Bailey: 10099, Bona: 10044}`";
    let ports = file.find("ports").ok_or_else(|| root.missing("ports", EXAMPLE))?;
    let entries = ports.entries()?;
    if entries.is_empty() {
        return Err(ports.error(format!("names no node; {EXAMPLE}")));
    }
    if entries.len() > MAX_NODES {
        let message = format!("names {} nodes; a herd has at most {MAX_NODES}", entries.len());
        return Err(ports.error(message));
    }
    let mut herd = Herd { nodes: Vec::new(), ports: Vec::new(), index: HashMap::new() };
    for entry in entries {
        check_name(&entry.key, entry.name)?;
        let port = |number| u16::try_from(number).is_ok_and(|port| port != 0);
        herd.index.insert(entry.name, herd.nodes.len());
        herd.nodes.push(Node {
            name: entry.name.to_owned(),
            port: entry.field.whole(port, "from 1 to 65535")? as u16,
            listen: Host::LOOPBACK,
            dial: Host::LOOPBACK,
            neighbors: Vec::new(),
            seed_compatible: false,
        });
        herd.ports.push(entry.field);
    }
    Ok(herd)
}

/// A name is a field of AT lines and the name of a log file.
fn check_name(field: &Field, name: &str) -> Result<(), Error> {
    let wrong = if name.is_empty() {
        "is empty; a node needs a name".to_owned()
    } else if name.len() > MAX_NODE_NAME {
        format!("is {} bytes long; a node's name has at most {MAX_NODE_NAME}", name.len())
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        "holds white space or a control character; a node's name is one field of AT lines"
            .to_owned()
    } else if name.contains('/') {
        "holds a /; a node's name is the name of its log file".to_owned()
    } else {
        return Ok(());
    };
    Err(field.error(wrong))
}

fn hosts(file: &Section, herd: &mut Herd) -> Result<(), Error> {
    let Some(hosts) = file.get("hosts") else { return Ok(()) };
    for entry in hosts.entries()? {
        let node = herd.find(&entry.key, entry.name)?;
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
                "{dial} can be listened on, but not dialled; \
                 write {{listen: {dial}, dial: ADDRESS}} with the address others reach it by"
            )));
        }
        herd.nodes[node].listen = listen;
        herd.nodes[node].dial = dial;
    }
    Ok(())
}

/// Two nodes may have one port on different machines, but nobody can tell them apart if they
/// are dialled at the same address.
fn reject_shared_addresses(herd: &Herd) -> Result<(), Error> {
    let mut taken = HashMap::new();
    for (node, field) in herd.nodes.iter().zip(&herd.ports) {
        if let Some(other) = taken.insert((&node.dial, node.port), &node.name) {
            return Err(field.error(format!(
                "port {} of {} is also that of {other}; give each node its own, \
                 or name their machines under `hosts`",
                node.port, node.dial
            )));
        }
    }
    Ok(())
}

/// An edge that either end lists is an edge.
fn neighbors(file: &Section, herd: &mut Herd) -> Result<(), Error> {
    let Some(neighbors) = file.get("neighbors") else { return Ok(()) };
    for entry in neighbors.entries()? {
        let node = herd.find(&entry.key, entry.name)?;
        if entry.field.is_nothing() {
            continue;
        }
        for neighbor in entry.field.list()? {
            let other = herd.find(&neighbor, neighbor.text()?)?;
            if other == node {
                let message = format!("{} is its own neighbour; remove it", entry.name);
                return Err(neighbor.error(message));
            }
            herd.nodes[node].neighbors.push(other);
            herd.nodes[other].neighbors.push(node);
        }
    }
    for node in &mut herd.nodes {
        node.neighbors.sort_unstable();
        node.neighbors.dedup();
    }
    Ok(())
}
