//! Text of a server, made printable.

/// Most characters shown of a string that a server has sent. The sentences of a node are shorter.
const MAX_SHOWN: usize = 1_000;

/// Returns the start of `text`, with everything escaped that is not visible as itself: control
/// characters, ANSI escape sequences, line breaks, and characters that change the direction of text.
pub(super) fn escaped(text: &str) -> String {
    let mut shown = String::new();
    for (index, c) in text.chars().enumerate() {
        if index == MAX_SHOWN {
            shown.push('…');
            break;
        }
        match c {
            '"' | '\'' => shown.push(c),
            _ => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_strings_cannot_forge_the_output() {
        assert_eq!(escaped("it's \"Ñandú\" 10 µs → x"), "it's \"Ñandú\" 10 µs → x");
        assert_eq!(escaped("a\u{1b}[2Jb\r\nc\td\0"), "a\\u{1b}[2Jb\\r\\nc\\td\\0");
        for hidden in
            ['\u{9b}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{61c}', '\u{200b}', '\u{2028}']
        {
            let shown = escaped(&format!("a{hidden}b"));
            assert_eq!(shown, format!("a\\u{{{:x}}}b", u32::from(hidden)));
        }
        assert_eq!(escaped(&"x".repeat(5_000)).chars().count(), MAX_SHOWN + 1);
    }
}
