//! A section of header or trailer fields while it arrives: lines up to and including an empty one.

use memchr::memchr;

use super::HttpError;

/// The bytes of an incomplete section, of which only the line ends have been examined.
#[derive(Debug, Default)]
pub(super) struct Section {
    bytes: Vec<u8>,
    line: usize,
}

impl Section {
    /// Consumes the part of `data` that belongs to the section. Returns the number of bytes consumed
    /// if the section is complete, and `None` if all of `data` was consumed and it is not.
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

    /// Returns true if the section, continued by `data`, may start with `magic`.
    pub(super) fn may_start_with(&self, magic: &[u8], data: &[u8]) -> bool {
        let Some(rest) = magic.get(self.bytes.len()..) else { return true };
        let common = rest.len().min(data.len());
        rest[..common] == data[..common]
    }

    /// The bytes that have arrived.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}
