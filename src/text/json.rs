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
    let mut rest = string.as_bytes();
    while let Some(at) = first_escaped(rest) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            byte => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&hex::digits(byte));
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Returns the position of the first byte that must be escaped.
fn first_escaped(bytes: &[u8]) -> Option<usize> {
    // Not 0 if the byte must be escaped. Nearly all bytes are plain. Without branches, the bytes of a chunk
    // are compared by a few vector instructions.
    let escaped =
        |byte: u8| u8::from(byte < b' ') | u8::from(byte == b'"') | u8::from(byte == b'\\');
    let is_plain = |chunk: &[u8; 16]| chunk.iter().fold(0, |any, &byte| any | escaped(byte)) == 0;
    let (chunks, _) = bytes.as_chunks();
    let plain = 16 * chunks.iter().take_while(|chunk| is_plain(chunk)).count();
    let at = bytes[plain..].iter().position(|&byte| escaped(byte) != 0)?;
    Some(plain + at)
}

/// Appends a JSON string. Bytes that are not UTF-8, which JSON cannot represent, become U+FFFD.
pub fn push_text(out: &mut Vec<u8>, bytes: &[u8]) {
    // Much faster than chunks, and nearly all text is valid.
    if let Ok(string) = str::from_utf8(bytes) {
        return push_string(out, string);
    }
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
        fn strings_match_serde_json(string in "([a-z\u{e4}]{0,40}[\\x00-\\x7f]){0,4}[a-z\u{20ac}]{0,40}") {
            prop_assert_eq!(written(&string), serde_json::to_string(&string).unwrap());
        }
    }
}
