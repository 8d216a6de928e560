//! Error replies.

/// Number of bytes of an overlong line that are echoed.
const OVERLONG_ECHO: usize = 64;

/// The only line sent to a connection that is refused because of a limit.
pub const TOO_MANY_CONNECTIONS: &[u8] = b"? too many connections\n";

/// Appends `? `, the line and LF. `line` must be trimmed.
pub fn push_unknown(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"? ");
    out.extend_from_slice(line);
    out.push(b'\n');
}

/// Appends the reply to a line over the limit: `? `, its first 64 bytes, `...` and LF.
pub fn push_overlong(out: &mut Vec<u8>, line: &[u8]) {
    out.extend_from_slice(b"? ");
    out.extend_from_slice(&line[..line.len().min(OVERLONG_ECHO)]);
    out.extend_from_slice(b"...\n");
}
