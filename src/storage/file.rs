//! Names of the files in a node's folder.

use core::fmt;

/// The name of the lock file. The shell holds a lock on it while the node runs; it is never deleted.
pub const LOCK: &str = "LOCK";

/// Largest number of a file that is considered, unless the manifest says that the node has counted so
/// far. Another one was not given by a node, which counts from 1, and would leave no room for the next.
pub const MAX_NUMBER: u64 = 9_000_000_000;

/// Number of digits in the name of a segment or snapshot.
const DIGITS: usize = 10;

/// A file in the folder of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// `MANIFEST`, the list of the files to load.
    Manifest,
    /// `MANIFEST.tmp`, which becomes the manifest when it is complete.
    NewManifest,
    /// `NNNNNNNNNN.snap`: the records before the segment of the same number.
    Snapshot(u64),
    /// `NNNNNNNNNN.log`: a segment of the log.
    Segment(u64),
}

impl FileName {
    /// Parses a file name. Returns `None` for the name of a file that is not the storage's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "MANIFEST" => return Some(Self::Manifest),
            "MANIFEST.tmp" => return Some(Self::NewManifest),
            _ => {}
        }
        let (digits, extension) = name.split_once('.')?;
        if digits.len() != DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let number = digits.parse().ok().filter(|number| *number > 0)?;
        match extension {
            "snap" => Some(Self::Snapshot(number)),
            "log" => Some(Self::Segment(number)),
            _ => None,
        }
    }

    /// Returns the number of a segment or snapshot.
    #[must_use]
    pub const fn number(self) -> Option<u64> {
        match self {
            Self::Manifest | Self::NewManifest => None,
            Self::Snapshot(number) | Self::Segment(number) => Some(number),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest => f.write_str("MANIFEST"),
            Self::NewManifest => f.write_str("MANIFEST.tmp"),
            Self::Snapshot(number) => write!(f, "{number:0DIGITS$}.snap"),
            Self::Segment(number) => write!(f, "{number:0DIGITS$}.log"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_as_they_are_printed_and_others_are_ignored() {
        for name in ["MANIFEST", "MANIFEST.tmp", "0000000001.log", "9999999999.snap"] {
            assert_eq!(FileName::parse(name).unwrap().to_string(), name);
        }
        for name in [
            "LOCK",
            "",
            "1.log",
            "0000000000.log",
            "00000000001.log",
            "0000000001.log.bak",
            "0000000001.LOG",
            "+000000001.log",
            "10000000000.log",
            "0000000001",
        ] {
            assert_eq!(FileName::parse(name), None, "{name}");
        }
    }
}
