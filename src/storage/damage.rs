//! What recovery reports of a folder: damaged places, and the reasons not to start.

use core::fmt;

use super::file::FileName;
use super::task::DiskError;

/// A damaged place in a file, which was skipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: FileName,
    /// Offset of the first damaged byte.
    pub offset: u64,
    /// Number of damaged bytes.
    pub length: u64,
    /// What was found.
    pub kind: DamageKind,
}

/// The kind of a damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// The end of a segment that was being written when the node died. It is truncated.
    TornTail,
    /// Bytes that are not intact.
    Corrupt,
    /// The file is shorter than the manifest states, or does not exist.
    Missing,
    /// The file cannot be read from here on.
    Unreadable(DiskError),
}

/// The sentence for the log. It does not name the folder; the shell does.
impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, length, kind } = self;
        match kind {
            DamageKind::TornTail => {
                return write!(
                    f,
                    "{file} ends in a half-written record at offset {offset}, length {length}; it was \
                     truncated"
                );
            }
            DamageKind::Corrupt => write!(
                f,
                "{file} is damaged at offset {offset}, length {length}; the rest was loaded"
            )?,
            DamageKind::Missing if *file == FileName::Manifest => {
                return write!(f, "{file} is missing (offset 0, length 0); all files were loaded");
            }
            DamageKind::Missing => {
                write!(f, "{file} ends at offset {offset}, and {length} bytes are missing")?;
            }
            DamageKind::Unreadable(error) => {
                write!(f, "{file} cannot be read from offset {offset}, length {length}: {error}")?;
            }
        }
        f.write_str("; neighbors restore the records that were lost")
    }
}

/// The reason not to start with a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The folder belongs to another node.
    OtherNode(Box<str>),
    /// The folder was written in a newer format.
    NewerFormat(u64),
}

/// The part of the message that follows the name of the folder.
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherNode(node) => write!(
                f,
                "it belongs to the node {}; correct storage.directory, or move the folder away",
                node.escape_debug()
            ),
            Self::NewerFormat(version) => write!(
                f,
                "it was written by a newer release (format {version}); run that release, or move the \
                 folder away: the neighbors have the records"
            ),
        }
    }
}

impl core::error::Error for Refusal {}
