//! The section `fences`.

use std::path::{Path, PathBuf};

use super::document::Section;
use super::error::Error;
use super::readable_file;

/// The fences that clients enter and leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencesConfig {
    /// The GeoJSON file.
    pub file: PathBuf,
}

impl FencesConfig {
    pub(super) const KEYS: &[&str] = &["file"];

    /// Reads the section; `None` if it is absent or empty.
    pub(super) fn read(file: &Section, directory: &Path) -> Result<Option<Self>, Error> {
        let Some(field) = file.get("fences") else { return Ok(None) };
        let section = field.section(Self::KEYS)?;
        let Some(path) = section.get("file") else {
            return Err(field.missing("file", "name the GeoJSON file: fences.geojson"));
        };
        Ok(Some(Self { file: readable_file(path, directory)? }))
    }
}
