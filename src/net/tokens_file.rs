//! The file of the tokens with which devices identify themselves.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use crate::devices::tokens::Tokens;
use crate::net::limits::MAX_TOKENS_FILE_BYTES;
use crate::net::regular_file;

/// Reads the tokens in the file at `path`.
///
/// # Errors
///
/// If the file cannot be read or has a line that is not valid. The message names the setting, the file,
/// the line and the fix, and contains no token.
pub fn load(path: &Path) -> io::Result<Tokens> {
    let unreadable = |error: io::Error| {
        let fix = match error.kind() {
            io::ErrorKind::NotFound => "create it with `proxy-herd --invite CLIENT`",
            io::ErrorKind::IsADirectory | io::ErrorKind::Other => "name a file of tokens",
            _ => "the user who runs the node must be able to read it",
        };
        located(path, None, &format!("cannot be read: {error}; {fix}"))
    };
    let file = regular_file::open(path).map_err(unreadable)?;
    parse(&read_from(&file, path)?, path)
}

/// Reads all of `file`, which is the one at `path`.
///
/// # Errors
///
/// As [`load`].
pub fn read_from(mut file: &File, path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = file.by_ref().take(MAX_TOKENS_FILE_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| located(path, None, &format!("cannot be read: {error}")))?;
    if bytes.len() > MAX_TOKENS_FILE_BYTES {
        let why = format!("is larger than {MAX_TOKENS_FILE_BYTES} bytes; name a file of tokens");
        return Err(located(path, None, &why));
    }
    Ok(bytes)
}

/// Parses the content of the file at `path`.
///
/// # Errors
///
/// As [`load`].
pub fn parse(bytes: &[u8], path: &Path) -> io::Result<Tokens> {
    Tokens::parse(bytes).map_err(|error| located(path, Some(error.line), &error.kind.to_string()))
}

fn located(path: &Path, line: Option<usize>, why: &str) -> io::Error {
    let path = path.display();
    let line = line.map_or(String::new(), |line| format!(":{line}"));
    io::Error::other(format!("devices.tokens_file {path}{line}: {why}"))
}
