//! The section `http`.

use super::document::{Field, Section};
use super::error::{Error, shown};
use super::ports::Ports;
use crate::endpoint::{Host, Url};

/// The HTTP interface of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// HTTP port of each node, in the order of the nodes; `None` if the node has no HTTP interface.
    pub ports: Vec<Option<u16>>,
    /// Address that each node listens on.
    pub listen: Host,
    /// Host names to accept in the `Host` header, in addition to those of the nodes and loopback.
    pub hosts: Vec<Host>,
    /// Origin allowed by CORS.
    pub cors_origin: Option<String>,
    /// Tile server of the map; without one, the page draws the land itself.
    pub tiles: Option<TileServer>,
}

/// A map tile server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TileServer {
    /// `https://…/{z}/{x}/{y}.png`.
    pub url: String,
    /// Origin of `url`, from which the page may load images.
    pub origin: String,
    /// Attribution that the page shows.
    pub attribution: String,
}

impl HttpConfig {
    pub(super) const KEYS: &[&str] = &["ports", "listen", "hosts", "cors_origin", "tiles"];

    /// Reads the section; `None` if it is absent or empty.
    pub(super) fn read(file: &Section, taken: &mut Ports) -> Result<Option<Self>, Error> {
        let Some(field) = file.get("http") else { return Ok(None) };
        let section = field.section(Self::KEYS)?;
        let listen =
            section.get("listen").map(Field::parse::<Host>).transpose()?.unwrap_or(Host::LOOPBACK);
        let Some(given) = section.get("ports") else {
            return Err(field.missing("ports", "list the HTTP port of each node: {Bailey: 8099}"));
        };
        let mut hosts = Vec::new();
        for host in section.get("hosts").map_or(Ok(Vec::new()), Field::list)? {
            hosts.push(host.parse()?);
        }
        Ok(Some(Self {
            ports: taken.read(given, "HTTP")?,
            listen,
            hosts,
            cors_origin: section.get("cors_origin").map(origin).transpose()?,
            tiles: section.get("tiles").map(tiles).transpose()?,
        }))
    }
}

/// Parses an origin as browsers send it, `https://map.example`, or `*` for any origin.
fn origin(field: &Field) -> Result<String, Error> {
    let text = field.text()?;
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url: Url = field.parse()?;
    if !url.prefix.is_empty() {
        return Err(field.error("has a path; an origin consists of scheme, host and port"));
    }
    Ok(url.to_string())
}

/// Returns the first part of a tile URL that begins with a brace and is not a known placeholder.
fn unknown_placeholder(url: &str) -> Option<&str> {
    let mut rest = url;
    while let Some(start) = rest.find(['{', '}']) {
        rest = &rest[start..];
        let known = ["{z}", "{x}", "{y}", "{r}"].into_iter().find(|known| rest.starts_with(known));
        let Some(known) = known else {
            return Some(&rest[..rest.find('}').map_or(rest.len(), |end| end + 1)]);
        };
        rest = &rest[known.len()..];
    }
    None
}

fn tiles(field: &Field) -> Result<TileServer, Error> {
    let section = field.section(&["url", "attribution"])?;
    let Some(url) = section.get("url") else {
        return Err(field.missing("url", "use https://HOST/{z}/{x}/{y}.png"));
    };
    let text = url.text()?;
    if let Some(unknown) = unknown_placeholder(text) {
        return Err(url.error(format!(
            "`{}` is not a placeholder of tile URLs; use {{z}}, {{x}}, {{y}} and {{r}}, and write \
             everything else, such as a key or a subdomain, literally",
            shown(unknown)
        )));
    }
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\<>;,".contains(&byte);
    let has_all_parts = ["{z}", "{x}", "{y}"].iter().all(|part| text.contains(part));
    if !has_all_parts || !text.bytes().all(is_plain) {
        return Err(url.error("is not a valid tile URL; use https://HOST/{z}/{x}/{y}.png"));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let (host, _) = rest.split_once('/').unwrap_or_default();
    let origin = format!("{scheme}://{host}");
    origin.parse::<Url>().map_err(|error| url.error(error.to_string()))?;
    let attribution = section.get("attribution").map_or(Ok(""), Field::text)?.to_owned();
    Ok(TileServer { url: text.to_owned(), origin, attribution })
}
