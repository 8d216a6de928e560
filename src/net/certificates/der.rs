//! A reader of the binary form DER (X.690), as far as the fields of certificates need it.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// The tag of the version of a certificate, which those of version 1 lack.
pub(super) const VERSION: u8 = 0xa0;
/// The tag of the extensions of a certificate.
pub(super) const EXTENSIONS: u8 = 0xa3;

/// DER elements that have not been read yet.
pub(super) struct Der<'d>(pub &'d [u8]);

impl<'d> Der<'d> {
    /// Reads an element. Returns its tag and its content.
    pub fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match *first {
            short @ ..=0x7f => (usize::from(short), rest),
            // Four bytes suffice for any file that is read.
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// Reads an element with the tag `tag`. Returns its content.
    pub fn content(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}
