//! Keys and secrets: where they come from, and that they are never shown.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;

use super::document::{Field, Section};
use super::error::Error;
use super::read_bounded;
use crate::limits::MAX_SECRET_BYTES;

/// Bytes that appear in no log, message or debug output.
#[derive(Clone)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// The bytes themselves. Whoever calls this keeps them out of sight.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// A secret of these bytes, less a trailing line end; `None` if nothing is left.
    pub fn new(mut bytes: Vec<u8>) -> Option<Self> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        (!bytes.is_empty()).then(|| Self(bytes.into_boxed_slice()))
    }

    /// Whether the secret can be part of an HTTP header or URL as it is: visible ASCII only.
    /// A line end in a key would let it add headers of its own.
    fn is_visible_ascii(&self) -> bool {
        self.0.iter().all(u8::is_ascii_graphic)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The process's environment, or a test's.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The environment of whoever only asks where the nodes are: secrets are given, so that none is
/// looked for in a file which only the service may read.
pub fn no_secrets(_: &str) -> Option<OsString> {
    Some("unread".into())
}

/// The secret in the environment variable `name`, if it is set.
pub(super) fn from_environment(
    environment: Environment,
    name: &'static str,
) -> Result<Option<Secret>, Error> {
    let Some(value) = environment(name) else { return Ok(None) };
    match Secret::new(value.into_vec()) {
        Some(secret) => Ok(Some(secret)),
        None => Err(Error::environment(name, "is empty; give it a value or unset it")),
    }
}

/// The secret in the file that `field` names, relative to `folder`. Errors do not repeat the
/// path, since it may be the secret itself, written in the wrong place.
pub(super) fn from_file(field: &Field, folder: &Path) -> Result<Secret, Error> {
    let path = folder.join(field.text()?);
    let bytes = read_bounded(&path, MAX_SECRET_BYTES).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::FileTooLarge => {
                format!("names a file of more than {MAX_SECRET_BYTES} bytes")
            }
            _ => format!("names a file that cannot be read: {error}"),
        };
        field.error(format!("{what}; name one that holds only the secret"))
    })?;
    let empty = || field.error("names an empty file; write the secret into it");
    Secret::new(bytes).ok_or_else(empty)
}

/// The API key: that of the environment, else that of `api_key_file`, else `api_key`.
pub(super) fn api_key(
    environment: Environment,
    file: &Section,
    folder: &Path,
) -> Result<Option<Secret>, Error> {
    const VARIABLE: &str = "GOOGLE_PLACES_API_KEY";
    const NOT_A_KEY: &str = "holds a space, a line end or another character that no key has; \
         copy the key again";
    if let Some(key) = from_environment(environment, VARIABLE)? {
        if !key.is_visible_ascii() {
            return Err(Error::environment(VARIABLE, NOT_A_KEY));
        }
        return Ok(not_the_placeholder(key));
    }
    let (field, key) = if let Some(field) = file.get("api_key_file") {
        (field, from_file(field, folder)?)
    } else if let Some(field) = file.get("api_key") {
        let empty = || field.error("is empty; give a key or remove the line");
        (field, Secret::new(field.text()?.as_bytes().to_vec()).ok_or_else(empty)?)
    } else {
        return Ok(None);
    };
    if !key.is_visible_ascii() {
        return Err(field.error(NOT_A_KEY));
    }
    Ok(not_the_placeholder(key))
}

/// The seed ships `api_key: "API_KEY"`, which is nobody's key.
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
    fn one_trailing_line_end_is_not_part_of_it() {
        let bytes = |given: &[u8]| Secret::new(given.to_vec()).map(|it| it.expose().to_vec());
        assert_eq!(bytes(b"key\n").unwrap(), b"key");
        assert_eq!(bytes(b"key\r\n").unwrap(), b"key");
        assert_eq!(bytes(b"key\n\n").unwrap(), b"key\n");
        assert_eq!(bytes(b" key ").unwrap(), b" key ");
        assert_eq!(bytes(b"\n"), None);
        assert_eq!(bytes(b""), None);
    }
}
