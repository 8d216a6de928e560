//! Reading the frames of one file, over damage.

use super::damage::{Damage, DamageKind};
use super::file::FileName;
use super::frame::{Kind, Parsed, Salt, parse_frame};

/// A reader of one file, which is fed with its content.
pub struct Reader {
    file: FileName,
    salt: Salt,
    /// The length that the manifest states. Nothing after it counts.
    listed: Option<u64>,
    /// Offset of the first byte that has not been consumed.
    offset: u64,
    /// Offset after the last intact frame.
    intact: u64,
    /// Offset after the last byte of a damaged place that is not zero.
    nonzero: u64,
    /// Bytes after the length that the manifest states.
    excess: u64,
    /// True until the end of a damaged line has been found.
    skipping: bool,
}

impl Reader {
    /// A reader at the beginning of `file`, whose content ends at `listed` if that is known.
    pub fn new(file: FileName, listed: Option<u64>) -> Self {
        let salt = Salt::of(file);
        Self { file, salt, listed, offset: 0, intact: 0, nonzero: 0, excess: 0, skipping: false }
    }

    /// Offset after the last intact frame so far.
    pub const fn intact(&self) -> u64 {
        self.intact
    }

    /// Number of bytes consumed so far.
    pub const fn consumed(&self) -> u64 {
        self.offset + self.excess
    }

    /// Calls `frame` for each intact frame in the next bytes of the file, and `damaged` for each
    /// damaged place that an intact frame follows. Returns the number of bytes consumed: all if the
    /// file ends after `input`.
    pub fn read<'i>(
        &mut self,
        input: &'i [u8],
        ended: bool,
        mut frame: impl FnMut(Kind, &'i [u8]),
        mut damaged: impl FnMut(Damage),
    ) -> usize {
        let left = self.listed.map_or(u64::MAX, |listed| listed.saturating_sub(self.offset));
        let cut = (input.len() as u64) >= left;
        let bytes = if cut { &input[..left as usize] } else { input };
        let ended = ended || cut;
        let start = self.offset;
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            if self.skipping {
                at += self.skip(rest);
                self.offset = start + at as u64;
                continue;
            }
            match parse_frame(rest, &self.salt) {
                Parsed::Partial if !ended => break,
                Parsed::Frame(_, _, length) if length > rest.len() && !ended => break,
                Parsed::Frame(kind, payload, length) => {
                    if self.intact < self.offset {
                        damaged(self.damage(self.offset, DamageKind::Corrupt));
                    }
                    frame(kind, payload);
                    at += length.min(rest.len());
                    self.offset = start + at as u64;
                    self.intact = self.offset;
                }
                Parsed::Partial | Parsed::Damaged => self.skipping = true,
            }
        }
        self.excess += (input.len() - bytes.len()) as u64;
        if cut { input.len() } else { at }
    }

    /// Skips bytes of a damaged line. Returns their number.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let line_end = memchr::memchr(b'\n', bytes);
        self.skipping = line_end.is_none();
        let skipped = line_end.map_or(bytes.len(), |end| end + 1);
        if let Some(last) = bytes[..skipped].iter().rposition(|&byte| byte != 0) {
            self.nonzero = self.offset + last as u64 + 1;
        }
        skipped
    }

    /// Returns the damage at the end of the file, after all of it has been read.
    ///
    /// A segment that was being written when the node died ends anywhere. Zeros at its end were
    /// reserved for further frames.
    pub fn finish(&self) -> Option<Damage> {
        match self.listed {
            Some(listed) if self.offset < listed => Some(self.damage(listed, DamageKind::Missing)),
            Some(listed) => {
                (self.intact < listed).then(|| self.damage(listed, DamageKind::Corrupt))
            }
            None => (self.intact < self.nonzero)
                .then(|| self.damage(self.nonzero, DamageKind::TornTail)),
        }
    }

    /// The damage from the last intact frame to `end`.
    pub const fn damage(&self, end: u64, kind: DamageKind) -> Damage {
        Damage { file: self.file, offset: self.intact, length: end - self.intact, kind }
    }
}
