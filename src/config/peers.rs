//! The section `peers`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::{Field, Section};
use super::error::Error;
use super::secret::{self, Environment, Secret};
use super::{NodeConfig, keys_with, readable_file, settings};
use crate::limits::PeerLimits;

/// Links between nodes.
#[derive(Debug, Clone)]
pub struct PeersConfig {
    /// Δ, the most that a client's time may be ahead of the receiving node's clock. Must be the same
    /// on all nodes.
    pub max_clock_offset: Duration,
    /// Shared secret with which nodes authenticate each other. With neither this nor TLS, only peers
    /// on loopback addresses are accepted.
    pub secret: Option<Secret>,
    /// Certificates for links over TLS.
    pub tls: Option<PeerTls>,
    /// Timeouts and memory of a link.
    pub limits: PeerLimits,
}

/// PEM files for mutual TLS authentication of nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    certificate: PathBuf,
    key: PathBuf,
    /// Certificate authority that signs the certificates of the herd.
    pub ca: PathBuf,
    /// True while links without TLS are established as well: a herd changes to TLS node by node.
    pub accept_plain: bool,
}

/// Placeholder for the node name in the paths of the certificate and key, so that all nodes can use
/// the same configuration.
pub(super) const NAME_IN_PATH: &str = "{name}";

impl PeerTls {
    /// Returns the path of the certificate chain of the node `name`.
    pub fn certificate_of(&self, name: &str) -> PathBuf {
        with_name(&self.certificate, name)
    }

    /// Returns the path of the private key of the node `name`.
    pub fn key_of(&self, name: &str) -> PathBuf {
        with_name(&self.key, name)
    }
}

pub(super) fn with_name(path: &Path, name: &str) -> PathBuf {
    match path.to_str() {
        Some(text) => text.replace(NAME_IN_PATH, name).into(),
        None => path.to_owned(),
    }
}

/// Range of [`PeersConfig::max_clock_offset`], in seconds.
pub(super) const MAX_CLOCK_OFFSET_RANGE: RangeInclusive<f64> = 0.0..=86_400.0;

/// Default of [`PeersConfig::max_clock_offset`]: a client's clock may be off by seconds, not minutes.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(5);

impl PeersConfig {
    pub(super) fn keys() -> Vec<&'static str> {
        let others = ["max_clock_offset", "secret_file", "seed_compatible", "tls"];
        keys_with(PeerLimits::TABLE, &others)
    }

    pub(super) fn read(
        section: &Section,
        directory: &Path,
        environment: Environment,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let max_clock_offset = section
            .get("max_clock_offset")
            .map_or(Ok(MAX_CLOCK_OFFSET), |field| field.seconds(MAX_CLOCK_OFFSET_RANGE))?;
        let secret = match (
            secret::from_environment(environment, "HERD_SECRET")?,
            section.get("secret_file"),
        ) {
            (None, Some(field)) => Some(secret::from_file(field, directory)?),
            (given, _) => given,
        };
        let limits: PeerLimits = settings(section, PeerLimits::TABLE)?;
        // At least one of the two is in the file, since the defaults are consistent.
        if limits.timeout < 2 * limits.keepalive
            && let Some(field) = section.get("timeout_ms").or(section.get("keepalive_ms"))
        {
            return Err(field.error(
                "timeout_ms must be at least twice keepalive_ms, or idle links time out; \
                 raise timeout_ms or lower keepalive_ms",
            ));
        }
        Ok(Self { max_clock_offset, secret, tls: tls(section, directory, warnings)?, limits })
    }

    /// Returns true if links are established over TLS only.
    pub fn requires_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.accept_plain)
    }

    /// Returns a warning if links will be refused: a node is not on a loopback address, and without a
    /// secret or TLS it cannot be authenticated.
    pub(super) fn unreachable(&self, nodes: &[NodeConfig]) -> Option<String> {
        let far = |node: &&NodeConfig| !node.neighbors.is_empty() && !node.dial.is_loopback();
        let node =
            nodes.iter().find(far).filter(|_| self.secret.is_none() && self.tls.is_none())?;
        Some(format!(
            "{} is at {}, which is not a loopback address, but neither a secret nor TLS is \
             configured, so links to it will be refused; set the environment variable HERD_SECRET, \
             peers.secret_file or peers.tls",
            node.name, node.dial
        ))
    }
}

fn tls(
    section: &Section,
    directory: &Path,
    warnings: &mut Vec<String>,
) -> Result<Option<PeerTls>, Error> {
    let Some(field) = section.get("tls") else { return Ok(None) };
    let files = field.section(&["certificate", "key", "ca", "accept_plain"])?;
    let file = |key| match files.get(key) {
        // Which file this is depends on the node that starts.
        Some(field) if field.text()?.contains(NAME_IN_PATH) => Ok(directory.join(field.text()?)),
        Some(field) => readable_file(field, directory),
        None => Err(field.missing(key, "certificate, key and ca are all required")),
    };
    let accept_plain = files.get("accept_plain").map_or(Ok(false), Field::boolean)?;
    if let Some(field) = files.get("accept_plain").filter(|_| accept_plain) {
        let warning =
            "links without TLS are established too; remove it when all nodes have peers.tls";
        warnings.push(field.error(warning).to_string());
    }
    let (certificate, key, ca) = (file("certificate")?, file("key")?, file("ca")?);
    Ok(Some(PeerTls { certificate, key, ca, accept_plain }))
}
