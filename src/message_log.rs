//! The message log: one line for each command, reply and flooded record.
//!
//! It appends to a buffer; the event loop writes the buffer to a file. The format with its
//! timestamp is rendered once per millisecond, not per line, so that logging a line costs little
//! more than copying it.

mod format;

pub use format::{Format, FormatError, level_name, utc};

use crate::protocol::time::Nanos;
use crate::text::hex;

/// Log lines that have not been written to the file yet.
pub struct MessageLog {
    enabled: bool,
    format: Format,
    name: String,
    /// The text before and after the message, rendered for `rendered_at`.
    before: Vec<u8>,
    after: Vec<u8>,
    /// The wall clock of the rendered text, in milliseconds.
    rendered_at: Option<Nanos>,
    lines: Vec<u8>,
}

impl MessageLog {
    /// Creates the log of the node `name`. If `enabled` is false, all lines are discarded.
    #[must_use]
    pub fn new(enabled: bool, format: Format, name: &str) -> Self {
        Self {
            enabled,
            format,
            name: name.to_owned(),
            before: Vec::new(),
            after: Vec::new(),
            rendered_at: None,
            lines: Vec::new(),
        }
    }

    /// Returns whether lines are kept. Check this before building an expensive line.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    /// Sets the wall clock of the lines that follow.
    pub fn set_clock(&mut self, wall: Nanos) {
        let millisecond = wall.div_euclid(1_000_000);
        if self.enabled && self.rendered_at != Some(millisecond) {
            self.rendered_at = Some(millisecond);
            self.before.clear();
            self.after.clear();
            self.format.render(&self.name, "INFO", wall, &mut self.before, &mut self.after);
        }
    }

    /// Appends a line with the concatenation of `parts` as its message, escaped by
    /// [`push_escaped`].
    pub fn line(&mut self, parts: &[&[u8]]) {
        if self.enabled {
            self.lines.extend_from_slice(&self.before);
            for part in parts {
                push_escaped(&mut self.lines, part);
            }
            self.lines.extend_from_slice(&self.after);
            self.lines.push(b'\n');
        }
    }

    /// Returns the lines appended since the last call to [`clear`](Self::clear).
    #[must_use]
    pub fn lines(&self) -> &[u8] {
        &self.lines
    }

    /// Removes all lines, after they have been written.
    pub fn clear(&mut self) {
        self.lines.clear();
    }
}

/// Appends `bytes`, with backslashes and everything but printable ASCII escaped as `\\`, `\n`,
/// `\r`, `\t` or `\xNN`: a client can neither forge log lines nor send control sequences to the
/// terminal of a reader.
pub fn push_escaped(out: &mut Vec<u8>, mut bytes: &[u8]) {
    loop {
        let plain = plain_prefix(bytes);
        out.extend_from_slice(&bytes[..plain]);
        let Some((&byte, rest)) = bytes[plain..].split_first() else { return };
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\\' => out.extend_from_slice(b"\\\\"),
            _ => {
                out.extend_from_slice(b"\\x");
                out.extend_from_slice(&hex::digits(byte));
            }
        }
        bytes = rest;
    }
}

/// Returns the length of the prefix that needs no escaping: nearly always all of `bytes`. Each chunk
/// is checked without an early exit, so that the compiler can vectorize the loop.
fn plain_prefix(bytes: &[u8]) -> usize {
    let are_plain = |chunk: &&[u8]| chunk.iter().fold(true, |all, &byte| all & is_plain(byte));
    let chunked = 32 * bytes.chunks_exact(32).take_while(are_plain).count();
    let rest = bytes[chunked..].iter().position(|&byte| !is_plain(byte));
    rest.map_or(bytes.len(), |found| chunked + found)
}

const fn is_plain(byte: u8) -> bool {
    byte.wrapping_sub(b' ') < 0x7f - b' ' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_format_of_the_original_server() {
        let mut message_log = MessageLog::new(true, Format::default(), "Clark");
        message_log.set_clock(1_621_464_827_959_498_503);
        message_log.line(&[b"127.0.0.1:5 < ", b"IAMAT x"]);
        let line: &[u8] = b"2021-05-19 22:53:47,959 - INFO - 127.0.0.1:5 < IAMAT x\n";
        assert_eq!(message_log.lines(), line);
        message_log.clear();
        assert!(message_log.lines().is_empty());
    }

    #[test]
    fn a_disabled_log_keeps_nothing() {
        let mut message_log = MessageLog::new(false, Format::default(), "Clark");
        message_log.line(&[b"x"]);
        assert!(message_log.lines().is_empty());
    }

    #[test]
    fn unprintable_bytes_are_escaped_wherever_they_are() {
        let mut out = Vec::new();
        push_escaped(&mut out, b"a\x1b[2J\nb\\\xff\x00 c\r\t\x7f");
        let expected: &[u8] = b"a\\x1b[2J\\nb\\\\\\xff\\x00 c\\r\\t\\x7f";
        assert_eq!(out, expected);
        for byte in 0..=255u8 {
            for at in 0..70 {
                let mut bytes = [b'a'; 70];
                bytes[at] = byte;
                out.clear();
                push_escaped(&mut out, &bytes);
                assert!(out.iter().all(|b| (0x20..0x7f).contains(b)), "{byte}");
                assert!(out.len() >= 70 && out.starts_with(&bytes[..at]));
            }
        }
    }
}
