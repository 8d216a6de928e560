//! Percent-encoding (RFC 3986, section 2.1).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

/// Everything but the unreserved characters (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Appends `bytes` with everything but unreserved characters encoded: fit for a path segment or
/// for the value of a parameter.
pub fn push_encoded(out: &mut Vec<u8>, bytes: &[u8]) {
    percent_encode(bytes, RESERVED).for_each(|piece| out.extend_from_slice(piece.as_bytes()));
}

/// Appends the id of a client, which is its name, percent-encoded. Browsers resolve the path segments
/// `.` and `..` even if they are percent-encoded, so these two names are followed by an encoded
/// space, which no name contains.
pub fn push_id(out: &mut Vec<u8>, name: &[u8]) {
    push_encoded(out, name);
    if matches!(name, b"." | b"..") {
        out.extend_from_slice(b"%20");
    }
}

/// Decodes `text`. Returns `None` if a `%` is not followed by two hexadecimal digits.
#[must_use]
pub fn decode(text: &str) -> Option<Cow<'_, [u8]>> {
    let bytes = text.as_bytes();
    if memchr::memchr(b'%', bytes).is_none() {
        return Some(bytes.into());
    }
    // The crate passes a malformed sequence through.
    let is_sound = memchr::memchr_iter(b'%', bytes).all(|at| {
        bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    is_sound.then(|| percent_decode(bytes).collect())
}

/// Decodes `bytes`. A `%` that is not followed by two hexadecimal digits remains as it is.
#[must_use]
pub fn decode_any(bytes: &[u8]) -> Vec<u8> {
    percent_decode(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn malformed_sequences_are_rejected() {
        assert_eq!(decode("a%2fb%2Fc").as_deref(), Some(&b"a/b/c"[..]));
        assert_eq!(decode("%25%").as_deref(), None);
        for bad in ["%", "%4", "%4g", "%g4", "%%41", "%+1", "%4\u{e4}"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn bytes_survive_the_round_trip(bytes: Vec<u8>) {
            let mut encoded = Vec::new();
            push_encoded(&mut encoded, &bytes);
            let text = String::from_utf8(encoded).unwrap();
            let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~%".contains(&b);
            prop_assert!(text.bytes().all(unreserved));
            prop_assert_eq!(decode(&text), Some(Cow::Owned(bytes)));
        }
    }
}
