//! The manifest: which files make up the storage of a node.
//!
//! ```text
//! proxy-herd storage 1
//! node Clark
//! boot 3
//! key -
//! clean no
//! file 0000000007.snap 91750231
//! file 0000000007.log 8388641
//! file 0000000008.log
//! held 0000000006.log 8388702
//! aside 0000000005.log 8388650
//! until 1764327374
//! crc d3bf49a3
//! ```
//!
//! The first and the last line are the same in all versions of the format. The last is the CRC-32 of
//! everything before it.

use core::fmt::Write as _;

use super::damage::Refusal;
use super::file::FileName;
use crate::text::hex;

/// The version of the format that this program writes, and the highest that it reads.
pub const VERSION: u64 = 1;

/// Largest manifest. It has a line of less than fifty bytes per file.
pub const MAX_MANIFEST: usize = 4 << 20;

const MAGIC: &str = "proxy-herd storage ";

/// The content of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Name of the node.
    pub node: String,
    /// How often the node has started.
    pub boot: u64,
    /// Key material of the node, which must outlive the process; reserved.
    pub key: Option<[u8; 16]>,
    /// True if the node has stopped after everything in the files was durable.
    pub clean: bool,
    /// The files.
    pub files: Vec<Entry>,
    /// The time until which files that are set aside are kept, in POSIX seconds.
    pub aside_until: Option<u64>,
}

/// A file in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file.
    pub file: FileName,
    /// Length of its content; `None` for a segment that is still being written.
    pub length: Option<u64>,
    /// What it is for.
    pub usage: Usage,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It is loaded.
    Load,
    /// It is only kept for a cursor.
    Hold,
    /// It is too old to be loaded, and kept for a while.
    Aside,
}

impl Usage {
    const ALL: [(Self, &str); 3] =
        [(Self::Load, "file"), (Self::Hold, "held"), (Self::Aside, "aside")];

    const fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, its_word)| *its_word == word).map(|(usage, _)| *usage)
    }
}

impl Manifest {
    /// Returns the text of the manifest.
    pub fn to_text(&self) -> Vec<u8> {
        let mut text = String::new();
        let Self { node, boot, .. } = self;
        let key = self.key.map_or_else(|| "-".to_owned(), |key| digits(&key));
        let clean = if self.clean { "yes" } else { "no" };
        // Writing to a string cannot fail.
        let _ = write!(text, "{MAGIC}{VERSION}\nnode {node}\nboot {boot}\n");
        let _ = write!(text, "key {key}\nclean {clean}\n");
        for entry in &self.files {
            let word = entry.usage.word();
            let _ = match entry.length {
                Some(length) => writeln!(text, "{word} {} {length}", entry.file),
                None => writeln!(text, "{word} {}", entry.file),
            };
        }
        if let Some(until) = self.aside_until {
            let _ = writeln!(text, "until {until}");
        }
        let checksum = crc32fast::hash(text.as_bytes());
        let _ = writeln!(text, "crc {checksum:08x}");
        text.into_bytes()
    }

    /// Parses a manifest. Returns `None` if it is damaged.
    ///
    /// # Errors
    ///
    /// If it is intact and of a newer version.
    pub fn parse(text: &[u8]) -> Result<Option<Self>, Refusal> {
        let Some(content) = checked(text) else { return Ok(None) };
        let mut lines = content.lines();
        let version = lines.next().and_then(|line| line.strip_prefix(MAGIC)).and_then(number);
        match version {
            Some(VERSION) => Ok(Self::parse_lines(lines)),
            Some(version) if version > VERSION => Err(Refusal::NewerFormat(version)),
            _ => Ok(None),
        }
    }

    /// Returns the highest number of a file in it.
    pub(super) fn newest(&self) -> Option<u64> {
        self.files.iter().filter_map(|entry| entry.file.number()).max()
    }

    fn parse_lines<'t>(lines: impl Iterator<Item = &'t str>) -> Option<Self> {
        let mut manifest = Self::default();
        for line in lines {
            let (word, value) = line.split_once(' ')?;
            match word {
                "node" => value.clone_into(&mut manifest.node),
                "boot" => manifest.boot = number(value)?,
                "key" if value == "-" => {}
                "key" => {
                    manifest.key = Some(hex::parse(value.as_bytes())?.try_into().ok()?);
                }
                "clean" => manifest.clean = value == "yes",
                "until" => manifest.aside_until = Some(number(value)?),
                word => {
                    // Others are of a later program that still writes this version.
                    let Some(usage) = Usage::of_word(word) else { continue };
                    let (name, length) = match value.split_once(' ') {
                        Some((name, length)) => (name, Some(number(length)?)),
                        None => (value, None),
                    };
                    let file = FileName::parse(name).filter(|file| file.number().is_some())?;
                    manifest.files.push(Entry { file, length, usage });
                }
            }
        }
        (!manifest.node.is_empty()).then_some(manifest)
    }
}

/// Returns the text before the last line if that is its checksum.
fn checked(text: &[u8]) -> Option<&str> {
    let line = text.len().checked_sub("crc 00000000\n".len())?;
    let (content, last) = text.split_at(line);
    let expected = format!("crc {:08x}\n", crc32fast::hash(content));
    if last != expected.as_bytes() || !content.ends_with(b"\n") || text.len() > MAX_MANIFEST {
        return None;
    }
    str::from_utf8(content).ok()
}

/// Parses decimal digits only.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|&byte| hex::digits(byte)).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let entry = |file, length, usage| Entry { file, length, usage };
        Manifest {
            node: "Clark".to_owned(),
            boot: 3,
            key: None,
            clean: false,
            files: vec![
                entry(FileName::Snapshot(7), Some(91_750_231), Usage::Load),
                entry(FileName::Segment(7), Some(8_388_641), Usage::Load),
                entry(FileName::Segment(8), None, Usage::Load),
                entry(FileName::Segment(6), Some(8_388_702), Usage::Hold),
                entry(FileName::Segment(5), Some(8_388_650), Usage::Aside),
            ],
            aside_until: Some(1_764_327_374),
        }
    }

    #[test]
    fn the_text_is_that_of_the_documentation() {
        let text = String::from_utf8(manifest().to_text()).unwrap();
        let documented = include_str!("manifest.rs").lines().skip(3).take(12);
        let documented: Vec<_> = documented.map(|line| line.trim_start_matches("//! ")).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), documented);
    }

    #[test]
    fn a_manifest_survives_the_round_trip() {
        let with_key = Manifest { key: Some([7; 16]), clean: true, ..manifest() };
        for manifest in [manifest(), with_key] {
            assert_eq!(Manifest::parse(&manifest.to_text()), Ok(Some(manifest)));
        }
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_noticed() {
        let text = manifest().to_text();
        for length in 0..text.len() {
            assert_eq!(Manifest::parse(&text[..length]), Ok(None));
        }
        for bit in 0..8 * text.len() {
            let mut text = text.clone();
            text[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::parse(&text), Ok(None), "bit {bit}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_and_unknown_lines_are_ignored() {
        let sealed = |content: &str| {
            format!("{content}crc {:08x}\n", crc32fast::hash(content.as_bytes())).into_bytes()
        };
        let newer = sealed("proxy-herd storage 2\nanything\n");
        assert_eq!(Manifest::parse(&newer), Err(Refusal::NewerFormat(2)));
        let unknown = sealed("proxy-herd storage 1\nnode A\nboot 1\nkey -\ncolor red\n");
        assert_eq!(Manifest::parse(&unknown).unwrap().unwrap().node, "A");
        for bad in
            ["proxy-herd storage 0\nnode A\n", "proxy-herd storage 1\nnode A\nboot +1\n", "\n"]
        {
            assert_eq!(Manifest::parse(&sealed(bad)), Ok(None), "{bad}");
        }
    }
}
