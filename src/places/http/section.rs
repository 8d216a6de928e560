//! A head or a trailer while it arrives: lines up to and including an empty one.

use memchr::memchr;

use super::HttpError;

/// Bytes of a section so far. Nothing but line ends is looked at before the last one is there.
#[derive(Debug, Default)]
pub(super) struct Section {
    bytes: Vec<u8>,
    line: usize,
}

impl Section {
    /// Appends the section's part of `data`. `Some` with the number of bytes used when the empty
    /// line has arrived, `None` when all of `data` was used and more must come.
    pub(super) fn push(
        &mut self,
        data: &[u8],
        max: usize,
        too_long: HttpError,
    ) -> Result<Option<usize>, HttpError> {
        let mut used = 0;
        while used < data.len() {
            let rest = &data[used..];
            let newline = memchr(b'\n', rest);
            let piece = &rest[..newline.map_or(rest.len(), |at| at + 1)];
            let room = max - self.bytes.len();
            self.bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                return Err(too_long);
            }
            used += piece.len();
            if newline.is_some() {
                let line = &self.bytes[self.line..];
                if !line.ends_with(b"\r\n") {
                    return Err(HttpError::BareLf);
                }
                if line.len() == 2 {
                    return Ok(Some(used));
                }
                self.line = self.bytes.len();
            }
        }
        Ok(None)
    }

    /// Whether the section can still begin with `magic`, now that `data` follows what is there.
    pub(super) fn may_begin(&self, magic: &[u8], data: &[u8]) -> bool {
        let Some(rest) = magic.get(self.bytes.len()..) else { return true };
        let common = rest.len().min(data.len());
        rest[..common] == data[..common]
    }

    /// The section as far as it has arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
