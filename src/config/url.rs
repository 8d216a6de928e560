//! The address of a provider of places.

use std::fmt;
use std::str::FromStr;

use super::host::Host;

/// `http://` or `https://`, a host, an optional port and an optional path prefix: all that a
/// request needs to be sent somewhere (RFC 3986 without query, fragment and user).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether the scheme is `https`.
    pub tls: bool,
    /// Whom to connect to, and whose certificate to expect.
    pub host: Host,
    /// The port, by the scheme where the text has none.
    pub port: u16,
    /// What goes before the API's own path: empty, or `/…` without a `/` at its end.
    pub prefix: String,
}

impl Url {
    /// `https://` to a host by name, at the usual port.
    pub(super) fn https(host: &str, prefix: &str) -> Self {
        Self { tls: true, host: Host::Name(host.to_owned()), port: 443, prefix: prefix.to_owned() }
    }

    /// The value of a `Host` header (RFC 9110, section 7.2): the port only where the scheme
    /// does not imply it.
    pub fn authority(&self) -> String {
        if self.port == default_port(self.tls) {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

/// Why a text is no [`Url`]. The text is not repeated: it may hold a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAUrl(&'static str);

impl fmt::Display for NotAUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl FromStr for Url {
    type Err = NotAUrl;

    fn from_str(text: &str) -> Result<Self, NotAUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(NotAUrl("has no scheme; begin with https:// or http://")),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAUrl("holds a character that no URL has; percent-encode it"));
        }
        if rest.contains(['?', '#']) {
            return Err(NotAUrl("has a query or fragment; end it with the path"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(NotAUrl("has a user name; remove all up to the @"));
        }
        // The colon of the port is behind the bracket of an IPv6 address.
        let bracket =
            if authority.starts_with('[') { authority.find(']').ok_or(NO_HOST)? + 1 } else { 0 };
        let (host, port) = match authority[bracket..].split_once(':') {
            Some((before, port)) => (&authority[..bracket + before.len()], Some(port)),
            None => (authority, None),
        };
        let port = match port {
            None => default_port(tls),
            Some(port) => match port.parse() {
                Ok(number) if number > 0 && !port.starts_with('+') => number,
                _ => return Err(NotAUrl("has no valid port; write one from 1 to 65535")),
            },
        };
        let host = host.parse().map_err(|_| NO_HOST)?;
        Ok(Self { tls, host, port, prefix: path.trim_end_matches('/').to_owned() })
    }
}

const NO_HOST: NotAUrl =
    NotAUrl("has no valid host; write an address or a name, an IPv6 address in brackets");

const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn parts_are_found_and_printed_again() {
        let google = url("https://places.googleapis.com");
        assert_eq!(google.host.to_string(), "places.googleapis.com");
        assert_eq!((google.tls, google.port, google.prefix.as_str()), (true, 443, ""));
        let emulator = url("HTTP://[::1]:8080/emulator/v2/");
        assert_eq!((emulator.tls, emulator.port), (false, 8080));
        assert_eq!(emulator.prefix, "/emulator/v2");
        assert_eq!(emulator.authority(), "[::1]:8080");
        for text in ["https://a.example", "http://a:8080/x", "https://[::1]/p", "http://10.0.0.1"] {
            assert_eq!(url(text).to_string(), text);
            assert_eq!(url(&url(text).to_string()), url(text));
        }
        assert_eq!(url("https://a:443/").to_string(), "https://a");
        assert_eq!(url("http://a:443").authority(), "a:443");
    }

    #[test]
    fn what_is_no_url() {
        for (text, reason) in [
            ("", "scheme"),
            ("places.googleapis.com", "scheme"),
            ("ftp://a", "scheme"),
            ("https:/a", "scheme"),
            ("https://", "host"),
            ("https:///path", "host"),
            ("https://:80", "host"),
            ("https://::1", "port"),
            ("https://[::1", "host"),
            ("https://[::1]x:1", "host"),
            ("https://a:", "port"),
            ("https://a:0", "port"),
            ("https://a:65536", "port"),
            ("https://a:+80", "port"),
            ("https://a:80x", "port"),
            ("https://me:canary@a", "user name"),
            ("https://a/?key=canary", "query"),
            ("https://a#b", "query"),
            ("https://a/b c", "character"),
            ("https://a/\r\nX: y", "character"),
            ("https://a/ü", "character"),
        ] {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
            assert!(!error.contains("canary"));
        }
    }
}
