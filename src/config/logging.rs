//! The section `logging`, in the terms of Python's `logging` module.

use std::path::PathBuf;

use super::document::{Field, Section};
use super::error::Error;
use crate::message_log::Format;

/// The settings of the log.
#[derive(Debug, Clone)]
pub struct LoggingConfig {
    /// Least severe level that is logged.
    pub level: log::LevelFilter,
    /// Format of a line.
    pub format: Format,
    /// Directory of the file `NAME.log` of each node, relative to the working directory.
    pub directory: PathBuf,
    /// Log file of the original server's benchmark. A node does not write it.
    pub benchmark_filename: Option<PathBuf>,
}

impl LoggingConfig {
    pub(super) const KEYS: &[&str] = &["level", "filename", "format", "directory"];

    pub(super) fn read(section: &Section) -> Result<Self, Error> {
        let parsed = |key| section.get(key).map(Field::parse::<Format>).transpose();
        let path = |key| section.get(key).map(path).transpose();
        Ok(Self {
            level: section.get("level").map_or(Ok(log::LevelFilter::Info), level)?,
            format: parsed("format")?.unwrap_or_default(),
            directory: path("directory")?.unwrap_or_else(|| "logs".into()),
            benchmark_filename: path("filename")?,
        })
    }
}

/// Parses Python's name of a level. A node logs nothing more severe than an error, so CRITICAL is
/// the same as ERROR.
fn level(field: &Field) -> Result<log::LevelFilter, Error> {
    Ok(match field.text()?.to_ascii_uppercase().as_str() {
        "DEBUG" => log::LevelFilter::Debug,
        "INFO" => log::LevelFilter::Info,
        "WARNING" | "WARN" => log::LevelFilter::Warn,
        "ERROR" | "CRITICAL" => log::LevelFilter::Error,
        _ => {
            let message = "is not a valid level; use DEBUG, INFO, WARNING, ERROR or CRITICAL";
            return Err(field.error(message));
        }
    })
}

pub(super) fn path(field: &Field) -> Result<PathBuf, Error> {
    match field.text()? {
        "" => Err(field.error("is empty; enter a path or remove the line")),
        path if path.contains('\0') => {
            Err(field.error("contains a NUL character; correct the path"))
        }
        path => Ok(path.into()),
    }
}
