//! The section `feed`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::document::{Field, Section};
use super::error::Error;
use super::secret::{Environment, Secret, from_environment, from_file};
use super::{StorageConfig, readable_file};
use crate::endpoint::{InvalidUrl, Url};
use crate::text::percent::decode;

/// The environment variable of the password, which precedes the other ways to set it.
const PASSWORD: &str = "HERD_FEED_PASSWORD";

/// Default port of Redis.
const REDIS_PORT: u16 = 6379;

/// Longest name of a stream, in bytes.
const MAX_STREAM: usize = 256;

/// Largest database number.
const MAX_DATABASE: u32 = 65_535;

/// The delivery of a node's history to an engine.
#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// The engine.
    pub engine: Engine,
    /// The entries that are delivered.
    pub entries: Entries,
    /// Name of the stream, to which the name of the node is appended.
    pub stream: String,
    /// Approximate length of the stream; 0 if it is never trimmed.
    pub max_entries: u64,
    /// The password.
    pub password: Option<Secret>,
    /// PEM file with certificates to trust in addition to Mozilla's.
    pub ca_file: Option<PathBuf>,
}

/// An engine.
#[derive(Debug, Clone)]
pub enum Engine {
    /// Redis, or a server that speaks its protocol.
    Redis {
        /// Host and port; the prefix is empty.
        server: Url,
        /// The user; `None` for the default one.
        user: Option<String>,
        /// Number of the database.
        database: u32,
    },
    /// An HTTP collector.
    Http {
        /// The URL.
        server: Url,
        /// What follows the prefix in the target of requests: a slash, a query, both or neither.
        end: String,
    },
}

impl Engine {
    /// Returns host and port.
    #[must_use]
    pub const fn server(&self) -> &Url {
        match self {
            Self::Redis { server, .. } | Self::Http { server, .. } => server,
        }
    }
}

/// The URL without a password, and without a query, which may contain one.
impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis { server, database, .. } => {
                let scheme = if server.tls { "rediss" } else { "redis" };
                write!(f, "{scheme}://{}:{}/{database}", server.host, server.port)
            }
            Self::Http { server, .. } => server.fmt(f),
        }
    }
}

/// The entries that a feed delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Entries {
    /// All.
    #[default]
    All,
    /// Records and tombstones.
    Updates,
    /// Transitions of fences.
    Fences,
}

/// The error of unknown [`Entries`].
#[derive(Debug)]
pub struct UnknownEntries;

impl fmt::Display for UnknownEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not a valid choice; use all, updates or fences")
    }
}

impl FromStr for Entries {
    type Err = UnknownEntries;

    fn from_str(text: &str) -> Result<Self, UnknownEntries> {
        match text {
            "all" => Ok(Self::All),
            "updates" => Ok(Self::Updates),
            "fences" => Ok(Self::Fences),
            _ => Err(UnknownEntries),
        }
    }
}

impl FeedConfig {
    pub(super) const KEYS: &[&str] =
        &["url", "entries", "stream", "max_entries", "password_file", "ca_file"];

    /// Reads the section; `None` if it is absent.
    pub(super) fn read(
        file: &Section,
        storage: Option<&StorageConfig>,
        directory: &Path,
        environment: Environment,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Self>, Error> {
        let Some(field) = file.get("feed") else { return Ok(None) };
        let section = field.section(Self::KEYS)?;
        if storage.is_none() {
            return Err(field.error(
                "requires the section `storage`, since a feed delivers what a node has stored; add it, \
                 or remove `feed`",
            ));
        }
        let Some(url) = section.get("url") else {
            return Err(field.missing("url", "enter the engine: redis://127.0.0.1:6379/0"));
        };
        let (engine, in_url) = engine(url.text()?).map_err(|error| url.error(error.to_string()))?;
        let password_file = section.get("password_file");
        if let Some(field) = password_file.filter(|_| in_url.is_some()) {
            return Err(field.error("sets a second password; remove the one in feed.url"));
        }
        let password = match (from_environment(environment, PASSWORD)?, in_url, password_file) {
            (Some(password), ..) | (None, Some(password), _) => Some(password),
            (None, None, Some(field)) => Some(from_file(field, directory)?),
            (None, None, None) => None,
        };
        if let (Engine::Http { .. }, Some(token)) = (&engine, &password)
            && !token.is_visible_ascii()
        {
            let fix = "is not a valid token: it contains a space, a line break or another character \
                       that a header cannot contain; copy it again";
            return Err(password_file.unwrap_or(url).error(fix));
        }
        let stream = match section.get("stream") {
            None => "herd".to_owned(),
            Some(field) => match field.text()? {
                name if (1..=MAX_STREAM).contains(&name.len()) => name.to_owned(),
                _ => {
                    return Err(
                        field.error(format!("is not a valid name; use 1 to {MAX_STREAM} bytes"))
                    );
                }
            },
        };
        let max_entries = match section.get("max_entries") {
            None => 1_000_000,
            Some(field) => {
                let most = 1 << 53;
                field.integer(|number| number <= most, &format!("from 0 to {most}"))?
            }
        };
        let ca_file = section.get("ca_file").map(|it| readable_file(it, directory)).transpose()?;
        let server = engine.server();
        if password.is_some() && !server.tls && !server.host.is_loopback() {
            let warning = "sends the password unencrypted; use TLS (rediss:// or https://) unless the \
                           network is trusted";
            warnings.push(url.error(warning).to_string());
        }
        if let Some(field) = section.get("ca_file").filter(|_| !server.tls) {
            warnings.push(
                field.error("has no effect without rediss:// or https:// in feed.url").to_string(),
            );
        }
        let entries = section.get("entries").map(Field::parse).transpose()?.unwrap_or_default();
        Ok(Some(Self { engine, entries, stream, max_entries, password, ca_file }))
    }
}

/// An error of a URL, which does not repeat it: it may contain a password.
enum UrlError {
    Invalid(InvalidUrl),
    Other(&'static str),
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(error) => error.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Parses `redis[s]://[[user]:password@]host[:port][/database]` or `http[s]://host[:port][/path][?query]`.
fn engine(text: &str) -> Result<(Engine, Option<Secret>), UrlError> {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "redis" => "http",
        "rediss" => "https",
        "http" | "https" => {
            let (url, query) = text.split_at(text.find('?').unwrap_or(text.len()));
            if !query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
                return Err(UrlError::Other(
                    "contains a character that is not allowed in a URL; percent-encode it",
                ));
            }
            let server: Url = url.parse().map_err(UrlError::Invalid)?;
            let has_slash = url.ends_with('/') || server.prefix.is_empty();
            let end = format!("{}{query}", if has_slash { "/" } else { "" });
            return Ok((Engine::Http { server, end }, None));
        }
        _ => {
            return Err(UrlError::Other(
                "has no valid scheme; start it with redis://, rediss://, http:// or https://",
            ));
        }
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (account, address) = match authority.rsplit_once('@') {
        Some((account, address)) => (Some(account), address),
        None => (None, authority),
    };
    let port = address.rsplit_once(':').map(|(_, port)| port);
    let has_port = port.is_some_and(|port| !port.ends_with(']') && !port.contains(']'));
    let port = if has_port { String::new() } else { format!(":{REDIS_PORT}") };
    let server: Url = format!("{scheme}://{address}{port}").parse().map_err(UrlError::Invalid)?;
    let database = match path.strip_prefix('/').unwrap_or(path) {
        "" => Some(0),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse().ok(),
        _ => None,
    };
    let Some(database) = database.filter(|&number| number <= MAX_DATABASE) else {
        return Err(UrlError::Other(
            "does not end in the number of a database; write it like redis://127.0.0.1:6379/0",
        ));
    };
    let (user, password) = account.map(credentials).transpose()?.unzip();
    let user = user.filter(|user| !user.is_empty());
    Ok((Engine::Redis { server, user, database }, password))
}

/// Parses `[user]:password`, percent-encoded.
fn credentials(account: &str) -> Result<(String, Secret), UrlError> {
    let parse = || {
        let (user, password) = account.split_once(':')?;
        let user = String::from_utf8(decode(user)?.into_owned()).ok()?;
        Some((user, Secret::new(decode(password)?.into_owned())?))
    };
    parse().ok_or(UrlError::Other(
        "has no valid password; write it like redis://:PASSWORD@127.0.0.1:6379/0, percent-encoded, or \
         use feed.password_file",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_the_password() {
        for (text, shown, user, password) in [
            ("redis://127.0.0.1", "redis://127.0.0.1:6379/0", None, None),
            ("rediss://Redis.example:7000/3", "rediss://redis.example:7000/3", None, None),
            ("redis://:p%40ss:w%2F@[::1]:7/", "redis://[::1]:7/0", None, Some("p@ss:w/")),
            ("redis://[::1]", "redis://[::1]:6379/0", None, None),
            ("REDIS://me:canary@a/1", "redis://a:6379/1", Some("me"), Some("canary")),
            ("https://A.example/in/?key=secret", "https://a.example/in", None, None),
            ("http://127.0.0.1:8123/?query=INSERT", "http://127.0.0.1:8123", None, None),
        ] {
            let Ok((found, secret)) = engine(text) else { panic!("{text}") };
            assert_eq!(found.to_string(), shown);
            let name = if let Engine::Redis { user, .. } = &found { user.as_deref() } else { None };
            assert_eq!(name, user);
            assert_eq!(secret.as_ref().map(Secret::expose), password.map(str::as_bytes));
            assert!(!format!("{found:?} {secret:?}").contains("canary"));
        }
    }

    #[test]
    fn invalid_urls_are_explained_without_repeating_them() {
        for (text, part) in [
            ("127.0.0.1:6379", "no valid scheme"),
            ("mysql://127.0.0.1", "no valid scheme"),
            ("redis://127.0.0.1/herd", "number of a database"),
            ("redis://127.0.0.1/65536", "number of a database"),
            ("redis://127.0.0.1/0?x=canary", "number of a database"),
            ("redis://127.0.0.1:0", "no valid port"),
            ("redis://canary@127.0.0.1", "no valid password"),
            ("redis://:@127.0.0.1", "no valid password"),
            ("redis://:a%zcanary@127.0.0.1", "no valid password"),
            ("redis:///0", "no valid host"),
            ("http://me:canary@a/", "has a user name"),
            ("http://a/?x=canary y", "is not allowed in a URL"),
            ("http:///", "no valid host"),
        ] {
            let error = engine(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(part) && !error.contains("canary"), "{text}: {error}");
        }
    }
}
