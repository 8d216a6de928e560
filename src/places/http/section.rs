//! A section of header or trailer fields while it arrives: lines up to and including an empty one,
//! without line folding.

use memchr::memchr;

use super::HttpError;

/// The bytes of an incomplete section, of which only the ends and starts of lines have been examined.
#[derive(Debug)]
pub(super) struct Section {
    bytes: Vec<u8>,
    line: usize,
    /// The number of complete lines that must precede a line that continues a field.
    before_folded: usize,
}

impl Section {
    /// The head of a response: a status line, then fields.
    pub(super) fn head() -> Self {
        Self { bytes: Vec::new(), line: 0, before_folded: 2 }
    }

    /// The trailer of a chunked body: fields only.
    pub(super) fn trailer() -> Self {
        Self { before_folded: 1, ..Self::head() }
    }

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
                if self.before_folded > 0 {
                    self.before_folded -= 1;
                } else if matches!(line[0], b' ' | b'\t') {
                    self.unfold();
                }
                self.line = self.bytes.len();
            }
        }
        Ok(None)
    }

    /// Joins the last line, which starts with white space, to the one before it. RFC 9112, section 5.2,
    /// requires that a client replace each such line folding by spaces.
    fn unfold(&mut self) {
        if let Some(line_end) = self.bytes.get_mut(self.line - 2..self.line) {
            line_end.fill(b' ');
        }
    }

    /// Returns true if the section, continued by `data`, may start with `magic`.
    pub(super) fn may_start_with(&self, magic: &[u8], data: &[u8]) -> bool {
        let Some(rest) = magic.get(self.bytes.len()..) else { return true };
        let common = rest.len().min(data.len());
        rest[..common] == data[..common]
    }

    /// The bytes that have arrived.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
