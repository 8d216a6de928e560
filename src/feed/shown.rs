//! Text of an engine, as people see it.

use std::ascii;

use crate::text::percent::decode_any;

/// Characters that are shown.
const MAX_SHOWN: usize = 200;

/// Returns bytes that an engine has chosen, such as an error or an address, as the log, `/api/herd` and
/// `--status` may show them: printable, not long, and without the secret, which an engine may repeat.
#[must_use]
pub fn shown(bytes: &[u8], secret: Option<&[u8]>) -> String {
    let mut text = String::new();
    for &byte in bytes {
        match byte {
            b' '..=b'[' | b']'..=b'~' => text.push(char::from(byte)),
            _ => text.extend(ascii::escape_default(byte).map(char::from)),
        }
    }
    if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
        let reveals = |it: &[u8]| memchr::memmem::find(it, secret).is_some();
        // An escape consists of digits, which may be a part of the secret; in an address, the secret may
        // be encoded.
        if reveals(bytes) || reveals(text.as_bytes()) || reveals(&decode_any(bytes)) {
            return "…".to_owned();
        }
    }
    text.chars().take(MAX_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_printable_and_not_long() {
        assert_eq!(
            shown(b"ERR it's \"bad\" \x1b[2J\\\xff\n", None),
            "ERR it's \"bad\" \\x1b[2J\\\\\\xff\\n"
        );
        assert_eq!(shown(&[b'x'; 1000], None).len(), MAX_SHOWN);
        assert_eq!(shown(b"x", Some(b"")), "x");
    }

    #[test]
    fn no_form_of_the_secret_is_shown() {
        let end = [&[b'x'; 1000][..], b"canary"].concat();
        for (text, secret) in [
            (&b"bad canary"[..], &b"canary"[..]),
            (&end, b"canary"),
            (b"\xc9anary", b"9anary"),
            (b"/?token=c%61nary%2b", b"canary+"),
            (b"a\"b\\c", b"\"b\\c"),
            (b"p\xff\n", b"p\xff\n"),
        ] {
            assert_eq!(shown(text, Some(secret)), "…", "{}", text.escape_ascii());
        }
        assert_eq!(shown(b"can ary", Some(b"canary")), "can ary");
    }
}
