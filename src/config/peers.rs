//! The section `peers`: how nodes meet and trust each other.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::Section;
use super::error::Error;
use super::secret::{self, Environment, Secret};
use super::{Node, keys_with, readable_file, settings};
use crate::limits::PeerLimits;

/// How nodes link up.
#[derive(Debug, Clone)]
pub struct Peers {
    /// Δ, how far ahead of the receiving node a client's clock counts. The same in the whole
    /// herd.
    pub max_clock_offset: Duration,
    /// What nodes of this herd know and others do not. Without one, peers are let in from
    /// loopback only.
    pub secret: Option<Secret>,
    /// Certificates for links that are encrypted.
    pub tls: Option<PeerTls>,
    /// How patient a link is and what it may cost.
    pub limits: PeerLimits,
}

/// The PEM files with which a node proves to its peers who it is, and checks who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    certificate: PathBuf,
    key: PathBuf,
    /// The authority that signs the certificates of this herd.
    pub ca: PathBuf,
}

/// What stands for the node's name in the paths of its certificate and key, so that one
/// configuration serves the whole herd.
const NAME_IN_PATH: &str = "{name}";

impl PeerTls {
    /// The certificate of the node `name`, and those between it and the authority.
    pub fn certificate_of(&self, name: &str) -> PathBuf {
        with_name(&self.certificate, name)
    }

    /// The certificate's private key.
    pub fn key_of(&self, name: &str) -> PathBuf {
        with_name(&self.key, name)
    }
}

fn with_name(path: &Path, name: &str) -> PathBuf {
    match path.to_str() {
        Some(text) => text.replace(NAME_IN_PATH, name).into(),
        None => path.to_owned(),
    }
}

/// The seed's course: a client's clock may be off by seconds, not minutes.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(5);

impl Peers {
    pub(super) fn keys() -> Vec<&'static str> {
        let others = ["max_clock_offset", "secret_file", "seed_compatible", "tls"];
        keys_with(PeerLimits::TABLE, &others)
    }

    pub(super) fn read(
        section: &Section,
        folder: &Path,
        environment: Environment,
    ) -> Result<Self, Error> {
        let max_clock_offset = section
            .get("max_clock_offset")
            .map_or(Ok(MAX_CLOCK_OFFSET), |field| field.seconds(0.0..=86_400.0))?;
        let secret = match (
            secret::from_environment(environment, "HERD_SECRET")?,
            section.get("secret_file"),
        ) {
            (None, Some(field)) => Some(secret::from_file(field, folder)?),
            (given, _) => given,
        };
        let limits: PeerLimits = settings(section, PeerLimits::TABLE)?;
        // One of the two is in the file, since the defaults are in order.
        if limits.timeout < 2 * limits.keepalive
            && let Some(field) = section.get("timeout_ms").or(section.get("keepalive_ms"))
        {
            return Err(field.error(
                "timeout_ms must be at least twice keepalive_ms, or links break that are \
                 merely idle; raise the one or lower the other",
            ));
        }
        Ok(Self { max_clock_offset, secret, tls: tls(section, folder)?, limits })
    }

    /// A warning where links are going to be refused: a node is not on this machine, and there is
    /// neither a secret nor a certificate by which it could be known.
    pub(super) fn unreachable(&self, nodes: &[Node]) -> Option<String> {
        let far = |node: &&Node| !node.neighbors.is_empty() && !node.dial.is_loopback();
        let node =
            nodes.iter().find(far).filter(|_| self.secret.is_none() && self.tls.is_none())?;
        Some(format!(
            "{} is at {}, which is not this machine, but the herd has no secret, so links with \
             it will be refused; set HERD_SECRET in the environment, peers.secret_file or peers.tls",
            node.name, node.dial
        ))
    }
}

fn tls(section: &Section, folder: &Path) -> Result<Option<PeerTls>, Error> {
    let Some(field) = section.get("tls") else { return Ok(None) };
    let files = field.section(&["certificate", "key", "ca"])?;
    let file = |key| match files.get(key) {
        // Whose file it is, is known when a node starts.
        Some(field) if field.text()?.contains(NAME_IN_PATH) => Ok(folder.join(field.text()?)),
        Some(field) => readable_file(field, folder),
        None => Err(field.missing(key, "certificate, key and ca are all needed")),
    };
    Ok(Some(PeerTls { certificate: file("certificate")?, key: file("key")?, ca: file("ca")? }))
}
