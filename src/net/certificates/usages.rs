//! The extended key usages of an X.509 certificate (RFC 5280, section 4.2.1.12).

use super::der::{Der, EXTENSIONS, INTEGER, OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, VERSION};

/// The object identifier of the extension, 2.5.29.37.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// The object identifiers of the usages that permit a server, `serverAuth` and `anyExtendedKeyUsage`.
const SERVER: [&[u8]; 2] =
    [&[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x01], &[0x55, 0x1d, 0x25, 0x00]];

/// Returns false if `certificate`, in the binary form DER, lists usages that exclude HTTPS. Without a
/// list, every usage is permitted. Whether it is valid otherwise is not examined.
#[must_use]
pub fn serves_https(certificate: &[u8]) -> bool {
    usages(certificate).is_none_or(|usages| usages.iter().any(|usage| SERVER.contains(usage)))
}

/// Returns the usages that a certificate lists, or `None` if it has no such list.
fn usages(certificate: &[u8]) -> Option<Vec<&[u8]>> {
    let signed = Der(certificate).content(SEQUENCE)?;
    let mut fields = Der(Der(signed).content(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.content(VERSION)?;
    }
    fields.content(INTEGER)?; // serial number
    for _ in ["signature algorithm", "issuer", "validity", "subject", "public key"] {
        fields.content(SEQUENCE)?;
    }
    let extensions = loop {
        let (tag, content) = fields.next()?; // unique identifiers may precede the extensions
        if tag == EXTENSIONS {
            break content;
        }
    };
    let mut extensions = Der(Der(extensions).content(SEQUENCE)?);
    loop {
        let mut extension = Der(extensions.content(SEQUENCE)?);
        if extension.content(OBJECT_IDENTIFIER)? != EXTENDED_KEY_USAGE {
            continue;
        }
        let (mut tag, mut value) = extension.next()?;
        if tag != OCTET_STRING {
            (tag, value) = extension.next()?; // after the flag that it is critical
        }
        if tag != OCTET_STRING {
            return None;
        }
        let mut listed = Der(Der(value).content(SEQUENCE)?);
        let mut usages = Vec::new();
        while let Some(usage) = listed.content(OBJECT_IDENTIFIER) {
            usages.push(usage);
        }
        return Some(usages);
    }
}
