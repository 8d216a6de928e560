//! The ports of the sections `http` and `devices`, which must not clash with those of the nodes.

use std::collections::HashMap;

use super::NodeConfig;
use super::document::{Entry, Field};
use super::error::{Error, shown};
use super::suggest::did_you_mean;
use crate::endpoint::Host;

/// The ports that are taken on each machine.
pub(super) struct Ports<'a> {
    nodes: &'a [NodeConfig],
    /// The owner of each port. Nodes with the same `dial` address are on the same machine and cannot
    /// share a port.
    taken: HashMap<(&'a Host, u16), String>,
}

impl<'a> Ports<'a> {
    /// The ports of the nodes for clients and peers.
    pub fn new(nodes: &'a [NodeConfig]) -> Self {
        let owner = |node: &'a NodeConfig| {
            ((&node.dial, node.port), format!("the node port of {}", node.name))
        };
        Self { nodes, taken: nodes.iter().map(owner).collect() }
    }

    /// Reads a mapping of node name to port; `purpose` describes these ports in messages. Returns the
    /// port of each node, in the order of the nodes.
    pub fn read(&mut self, field: &Field, purpose: &str) -> Result<Vec<Option<u16>>, Error> {
        let mut ports = vec![None; self.nodes.len()];
        for Entry { name, key, field } in field.entries()? {
            let Some(at) = self.nodes.iter().position(|node| node.name == *name) else {
                let hint = did_you_mean(name, self.nodes.iter().map(|node| node.name.as_str()));
                let fix = "; add it to the top-level `ports` or correct the name";
                return Err(key.error(format!("there is no node `{}`{fix}{hint}", shown(name))));
            };
            let in_range = |number| u16::try_from(number).is_ok_and(|port| port != 0);
            let port = field.integer(in_range, "from 1 to 65535")? as u16;
            let owner = format!("the {purpose} port of {name}");
            if let Some(other) = self.taken.insert((&self.nodes[at].dial, port), owner) {
                return Err(field.error(format!("port {port} is already {other}; choose another")));
            }
            ports[at] = Some(port);
        }
        Ok(ports)
    }
}
