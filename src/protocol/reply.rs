//! Replies that carry the client's own bytes back.

/// How many bytes of an overlong line its reply shows.
const SHOWN_OF_OVERLONG: usize = 64;

/// The one line a connection gets that is refused for a limit.
pub const TOO_MANY_CONNECTIONS: &[u8] = b"? too many connections\n";

/// Appends `? `, the line and LF. `line` is trimmed already.
pub fn push_unknown(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"? ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// Appends the reply to a line over the limit: `? `, its first 64 bytes, `...` and LF.
pub fn push_overlong(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"? ");
    out.extend_from_slice(&line[..line.len().min(SHOWN_OF_OVERLONG)]);
    out.extend_from_slice(b"...\n");
}
