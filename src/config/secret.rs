//! API keys and secrets, which are never displayed.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::document::{Field, Section};
use super::error::Error;
use super::read_bounded;
use crate::limits::MAX_SECRET_BYTES;

/// A key or secret. Its debug output is redacted.
#[derive(Clone)]
pub struct Secret {
    bytes: Box<[u8]>,
    file: Option<PathBuf>,
}

impl Secret {
    /// Returns the bytes. The caller must not log or display them.
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the file that it was read from, if any.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Creates a secret from `bytes` without a trailing line break; `None` if nothing is left.
    pub fn new(mut bytes: Vec<u8>) -> Option<Self> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        (!bytes.is_empty()).then(|| Self { bytes: bytes.into_boxed_slice(), file: None })
    }

    /// Returns true if the secret can be part of an HTTP header field or URL without encoding. A line
    /// break, for example, would allow header injection.
    pub(super) fn is_visible_ascii(&self) -> bool {
        self.bytes.iter().all(u8::is_ascii_graphic)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Look-up of environment variables, which tests replace.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// An environment in which every variable has a placeholder value, so that no secret file is read.
/// `--status` needs only the addresses of the nodes and may run as a user who cannot read these files.
pub fn no_secrets(_: &str) -> Option<OsString> {
    Some("unread".into())
}

/// Returns the secret in the environment variable `name`, if it is set.
pub(super) fn from_environment(
    environment: Environment,
    name: &'static str,
) -> Result<Option<Secret>, Error> {
    let Some(value) = environment(name) else { return Ok(None) };
    match Secret::new(value.into_vec()) {
        Some(secret) => Ok(Some(secret)),
        None => Err(Error::environment(name, "is empty; set a value or unset it")),
    }
}

/// Reads the secret from the file whose path, relative to `directory`, is in `field`. Errors do not
/// repeat the path, which may be the secret itself, entered under the wrong key.
pub(super) fn from_file(field: &Field, directory: &Path) -> Result<Secret, Error> {
    let path = directory.join(field.text()?);
    let bytes = read_bounded(&path, MAX_SECRET_BYTES).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::FileTooLarge => {
                format!("refers to a file larger than {MAX_SECRET_BYTES} bytes")
            }
            _ => format!("refers to a file that cannot be read: {error}"),
        };
        field.error(format!("{what}; use a file that contains only the secret"))
    })?;
    let empty = || field.error("refers to an empty file; write the secret to it");
    let secret = Secret::new(bytes).ok_or_else(empty)?;
    Ok(Secret { file: Some(path), ..secret })
}

/// Returns the API key from the environment, else from `api_key_file`, else from `api_key`.
pub(super) fn api_key(
    environment: Environment,
    file: &Section,
    directory: &Path,
) -> Result<Option<Secret>, Error> {
    const VARIABLE: &str = "GOOGLE_PLACES_API_KEY";
    const NOT_A_KEY: &str = "contains a space, a line break or another character that is not valid \
         in a key; copy the key again";
    if let Some(key) = from_environment(environment, VARIABLE)? {
        if !key.is_visible_ascii() {
            return Err(Error::environment(VARIABLE, NOT_A_KEY));
        }
        return Ok(not_the_placeholder(key));
    }
    let (field, key) = if let Some(field) = file.get("api_key_file") {
        (field, from_file(field, directory)?)
    } else if let Some(field) = file.get("api_key") {
        let empty = || field.error("is empty; enter a key or remove the line");
        (field, Secret::new(field.text()?.as_bytes().to_vec()).ok_or_else(empty)?)
    } else {
        return Ok(None);
    };
    if !key.is_visible_ascii() {
        return Err(field.error(NOT_A_KEY));
    }
    Ok(not_the_placeholder(key))
}

/// Maps the placeholder `API_KEY`, which the original configuration contains, to no key.
fn not_the_placeholder(key: Secret) -> Option<Secret> {
    (key.expose() != b"API_KEY").then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_is_redacted() {
        let secret = Secret::new(b"canary".to_vec()).unwrap();
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(format!("{:#?}", Some(secret)), "Some(\n    [redacted],\n)");
    }

    #[test]
    fn one_trailing_line_break_is_removed() {
        let bytes = |given: &[u8]| Secret::new(given.to_vec()).map(|it| it.expose().to_vec());
        assert_eq!(bytes(b"key\n").unwrap(), b"key");
        assert_eq!(bytes(b"key\r\n").unwrap(), b"key");
        assert_eq!(bytes(b"key\n\n").unwrap(), b"key\n");
        assert_eq!(bytes(b" key ").unwrap(), b" key ");
        assert_eq!(bytes(b"\n"), None);
        assert_eq!(bytes(b""), None);
    }
}
