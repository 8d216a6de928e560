//! JSON strings (RFC 8259, section 7).

use super::hex;

/// Appends `string` as a JSON string. Line ends are escaped, so the output is on one line.
pub fn push_string(out: &mut Vec<u8>, string: &str) {
    out.push(b'"');
    push_escaped(out, string);
    out.push(b'"');
}

/// Appends the contents of a JSON string: `string` with its escapes, without the quotes.
pub fn push_escaped(out: &mut Vec<u8>, string: &str) {
    let bytes = string.as_bytes();
    let mut plain = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        if byte >= b' ' && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[plain..index]);
        plain = index + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&hex::digits(byte));
            }
        }
    }
    out.extend_from_slice(&bytes[plain..]);
}

/// Appends a JSON string. Bytes that are not UTF-8, which JSON cannot represent, become U+FFFD.
pub fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        push_escaped(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{fffd}".as_bytes());
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(string: &str) -> String {
        let mut out = Vec::new();
        push_string(&mut out, string);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn control_characters_quotes_and_backslashes_are_escaped() {
        for byte in 0..=127u8 {
            let string = char::from(byte).to_string();
            assert_eq!(written(&string), serde_json::to_string(&string).unwrap());
        }
    }

    proptest! {
        #[test]
        fn strings_match_serde_json(string: String) {
            prop_assert_eq!(written(&string), serde_json::to_string(&string).unwrap());
        }
    }
}
