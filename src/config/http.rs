//! The section `http`: what people and their tools look at.

use std::collections::HashMap;

use super::Node;
use super::document::{Entry, Field, Section};
use super::error::{Error, shown};
use super::suggest::did_you_mean;
use crate::endpoint::{Host, Url};

/// The HTTP side of the herd's nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The port of each node, in the order of the nodes; `None`: that node has no HTTP side.
    pub ports: Vec<Option<u16>>,
    /// The address that each node listens on, on its own machine.
    pub listen: Host,
    /// Names by which browsers may come, besides those of the machine itself and of the nodes.
    pub hosts: Vec<Host>,
    /// The site whose pages may read what a node says.
    pub cors_origin: Option<String>,
    /// Where the page has its tiles from; without, it draws outlines of its own.
    pub tiles: Option<Tiles>,
}

/// A server of map tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiles {
    /// `https://…/{z}/{x}/{y}.png`.
    pub url: String,
    /// The scheme and host of `url`: what the page is allowed to load images from.
    pub origin: String,
    /// Whom the tiles are by, as the page shows it.
    pub attribution: String,
}

impl Http {
    const KEYS: &[&str] = &["ports", "listen", "hosts", "cors_origin", "tiles"];

    /// `None` where the file has no section, or nothing in it.
    pub(super) fn read(file: &Section, nodes: &[Node]) -> Result<Option<Self>, Error> {
        let Some(field) = file.get("http") else { return Ok(None) };
        let section = field.section(Self::KEYS)?;
        let listen =
            section.get("listen").map(Field::parse::<Host>).transpose()?.unwrap_or(Host::LOOPBACK);
        let Some(given) = section.get("ports") else {
            return Err(field.missing("ports", "name the port of each node: {Bailey: 8099}"));
        };
        let mut hosts = Vec::new();
        for host in section.get("hosts").map_or(Ok(Vec::new()), Field::list)? {
            hosts.push(host.parse()?);
        }
        Ok(Some(Self {
            ports: ports(&given.entries()?, nodes)?,
            listen,
            hosts,
            cors_origin: section.get("cors_origin").map(origin).transpose()?,
            tiles: section.get("tiles").map(tiles).transpose()?,
        }))
    }
}

fn ports(entries: &[Entry], nodes: &[Node]) -> Result<Vec<Option<u16>>, Error> {
    let mut ports = vec![None; nodes.len()];
    let mut taken: HashMap<(&Host, u16), String> = HashMap::new();
    for node in nodes {
        taken.insert((&node.dial, node.port), format!("the port of {} itself", node.name));
    }
    for Entry { name, key, field } in entries {
        let Some(at) = nodes.iter().position(|node| node.name == *name) else {
            let hint = did_you_mean(name, nodes.iter().map(|node| node.name.as_str()));
            let fix = "; give it a port under the other `ports` or correct the name";
            return Err(key.error(format!("there is no node `{}`{fix}{hint}", shown(name))));
        };
        let in_range = |number| u16::try_from(number).is_ok_and(|port| port != 0);
        let port = field.whole(in_range, "from 1 to 65535")? as u16;
        // Nodes of one machine share its addresses; a node is where its peers reach it.
        let whose = format!("that of {name}");
        if let Some(other) = taken.insert((&nodes[at].dial, port), whose) {
            return Err(field.error(format!("port {port} is also {other}; choose another")));
        }
        ports[at] = Some(port);
    }
    Ok(ports)
}

/// An origin as a browser sends it: `https://map.example`, or `*` for every site.
fn origin(field: &Field) -> Result<String, Error> {
    let text = field.text()?;
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url: Url = field.parse()?;
    if !url.prefix.is_empty() {
        return Err(field.error("is more than an origin; write scheme and host alone"));
    }
    Ok(url.to_string())
}

fn tiles(field: &Field) -> Result<Tiles, Error> {
    let section = field.section(&["url", "attribution"])?;
    let Some(url) = section.get("url") else {
        return Err(field.missing("url", "write https://HOST/{z}/{x}/{y}.png"));
    };
    let text = url.text()?;
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\<>;,".contains(&byte);
    let whole = ["{z}", "{x}", "{y}"].iter().all(|part| text.contains(part));
    if !whole || !text.bytes().all(is_plain) {
        return Err(url.error("is no address of tiles; write https://HOST/{z}/{x}/{y}.png"));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (host, _) = rest.split_once('/').unwrap_or_default();
    let origin = format!("{scheme}://{host}");
    origin.parse::<Url>().map_err(|error| url.error(error.to_string()))?;
    let attribution = section.get("attribution").map_or(Ok(""), Field::text)?.to_owned();
    Ok(Tiles { url: text.to_owned(), origin, attribution })
}
