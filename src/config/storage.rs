//! The section `storage`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::document::{Field, Section};
use super::error::Error;
use super::logging::path;
use super::{NodeConfig, keys_with, settings};
use crate::limits::StorageLimits;

/// The storage of records on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// Directory that contains a directory of each node, relative to the working directory.
    pub directory: PathBuf,
    /// The point at which a record counts as durable.
    pub sync: Sync,
    /// Interval and size.
    pub limits: StorageLimits,
}

/// The point at which a record is safe from a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// Before its AT line is sent.
    Always,
    /// Within [`StorageLimits::sync_interval`].
    #[default]
    Interval,
    /// When the kernel decides.
    Never,
}

impl Sync {
    /// Returns the value in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::Interval => "interval",
            Self::Never => "never",
        }
    }
}

/// The error of an unknown [`Sync`].
#[derive(Debug)]
pub struct UnknownSync;

impl fmt::Display for UnknownSync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not a valid mode; use always, interval or never")
    }
}

impl FromStr for Sync {
    type Err = UnknownSync;

    fn from_str(text: &str) -> Result<Self, UnknownSync> {
        let modes = [Self::Always, Self::Interval, Self::Never];
        modes.into_iter().find(|mode| mode.name() == text).ok_or(UnknownSync)
    }
}

impl StorageConfig {
    pub(super) fn keys() -> Vec<&'static str> {
        keys_with(StorageLimits::TABLE, &["directory", "sync"])
    }

    /// Reads the section; `None` if it is absent.
    pub(super) fn read(file: &Section, nodes: &[NodeConfig]) -> Result<Option<Self>, Error> {
        let Some(field) = file.get("storage") else { return Ok(None) };
        let section = field.section(&Self::keys())?;
        if let Some(node) = nodes.iter().find(|node| matches!(&*node.name, "." | "..")) {
            let name = &node.name;
            return Err(field.error(format!(
                "the node `{name}` cannot have a directory of its name; rename the node"
            )));
        }
        let Some(directory) = section.get("directory") else {
            let fix = "name the directory in which the nodes store their records: data";
            return Err(field.missing("directory", fix));
        };
        Ok(Some(Self {
            directory: path(directory)?,
            sync: section.get("sync").map(Field::parse).transpose()?.unwrap_or_default(),
            limits: settings(&section, StorageLimits::TABLE)?,
        }))
    }
}
