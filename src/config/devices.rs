//! The section `devices`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::document::{Field, Section};
use super::error::Error;
use super::logging::path;
use super::peers::{NAME_IN_PATH, with_name};
use super::ports::Ports;
use super::{keys_with, readable_file, settings};
use crate::endpoint::Host;
use crate::limits::DeviceLimits;

/// The listener for phones and trackers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevicesConfig {
    /// Port of each node, in the order of the nodes; `None` if the node does not listen for devices.
    pub ports: Vec<Option<u16>>,
    /// Address that each node listens on.
    pub listen: Host,
    /// File of the tokens. Without one, everyone who can connect is admitted, so `listen` is a loopback
    /// address then.
    pub tokens_file: Option<PathBuf>,
    /// Certificate for HTTPS.
    pub tls: Option<DeviceTls>,
    /// Positions at exactly 0,0 without an accuracy.
    pub null_island: NullIsland,
    /// Sizes and accuracy.
    pub limits: DeviceLimits,
}

/// PEM files for HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceTls {
    certificate: PathBuf,
    key: PathBuf,
}

impl DeviceTls {
    /// Returns the path of the certificate chain of the node `name`.
    pub fn certificate_of(&self, name: &str) -> PathBuf {
        with_name(&self.certificate, name)
    }

    /// Returns the path of the private key of the node `name`.
    pub fn key_of(&self, name: &str) -> PathBuf {
        with_name(&self.key, name)
    }
}

/// The treatment of positions at exactly 0,0 without an accuracy: nearly always a failed fix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NullIsland {
    /// They are accepted and not stored.
    #[default]
    Drop,
    /// They are positions like any other.
    Keep,
}

impl NullIsland {
    /// Returns the value in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Keep => "keep",
        }
    }
}

/// The error of an unknown [`NullIsland`].
#[derive(Debug)]
pub struct UnknownNullIsland;

impl fmt::Display for UnknownNullIsland {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not a valid choice; use drop or keep")
    }
}

impl FromStr for NullIsland {
    type Err = UnknownNullIsland;

    fn from_str(text: &str) -> Result<Self, UnknownNullIsland> {
        [Self::Drop, Self::Keep].into_iter().find(|it| it.name() == text).ok_or(UnknownNullIsland)
    }
}

impl DevicesConfig {
    pub(super) fn keys() -> Vec<&'static str> {
        let others = ["ports", "listen", "tokens_file", "tls", "null_island"];
        keys_with(DeviceLimits::TABLE, &others)
    }

    /// Reads the section; `None` if it is absent or empty. The tokens are not read: `--invite` creates
    /// their file, and only a node may be permitted to read it.
    pub(super) fn read(
        file: &Section,
        directory: &Path,
        taken: &mut Ports,
    ) -> Result<Option<Self>, Error> {
        let Some(field) = file.get("devices") else { return Ok(None) };
        let section = field.section(&Self::keys())?;
        let Some(ports) = section.get("ports") else {
            let fix = "list the port for devices of each node: {Bailey: 5055}";
            return Err(field.missing("ports", fix));
        };
        let ports = taken.read(ports, "device")?;
        let listen =
            section.get("listen").map(Field::parse::<Host>).transpose()?.unwrap_or(Host::LOOPBACK);
        let tokens_file = section.get("tokens_file").map(path).transpose()?;
        if let (None, Some(field), false) =
            (&tokens_file, section.get("listen"), listen.is_loopback())
        {
            return Err(field.error(format!(
                "{listen} can be reached from other machines, so every device needs a token; set \
                 devices.tokens_file, and add tokens with `proxy-herd --invite CLIENT`"
            )));
        }
        Ok(Some(Self {
            ports,
            listen,
            tokens_file: tokens_file.map(|file| directory.join(file)),
            tls: section.get("tls").map(|field| tls(field, directory)).transpose()?,
            null_island: section
                .get("null_island")
                .map(Field::parse)
                .transpose()?
                .unwrap_or_default(),
            limits: settings(&section, DeviceLimits::TABLE)?,
        }))
    }
}

fn tls(field: &Field, directory: &Path) -> Result<DeviceTls, Error> {
    let files = field.section(&["certificate", "key"])?;
    let file = |key| match files.get(key) {
        // Which file this is depends on the node that starts.
        Some(field) if field.text()?.contains(NAME_IN_PATH) => Ok(directory.join(field.text()?)),
        Some(field) => readable_file(field, directory),
        None => Err(field.missing(key, "certificate and key are both required")),
    };
    Ok(DeviceTls { certificate: file("certificate")?, key: file("key")? })
}
