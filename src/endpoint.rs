//! Hosts and URLs: the addresses that nodes listen on and connect to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// An IP address, or a name that has yet to be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A name, in lower case, without a trailing dot.
    Name(String),
}

impl Host {
    /// The default address of a node: not reachable from other machines.
    pub const LOOPBACK: Self = Self::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// Returns true if this is the local machine, without a DNS look-up. `localhost` and its
    /// subdomains are loopback by RFC 6761, section 6.3.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Returns true for the wildcard address, which can be listened on but not dialed.
    pub fn is_unspecified(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_unspecified())
    }
}

/// The form used before `:port`: an IPv6 address is in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Returns the network that one customer of a provider has: an IPv4 address, or the first 64 bits of an
/// IPv6 address.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Returns the network of an address as reverse proxies write it: some add the port, and some put IPv6
/// addresses in brackets. `None` if it is not an address.
#[must_use]
pub fn network_of_forwarded(text: &str) -> Option<IpAddr> {
    let with_port = text.parse::<SocketAddr>().map(|address| address.ip());
    let in_brackets = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = with_port.or_else(|_| in_brackets.unwrap_or(text).parse());
    Some(network(address.ok()?))
}

/// The error of parsing a [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidHost;

impl fmt::Display for InvalidHost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("is not a valid host; use an IPv4 or IPv6 address or a host name")
    }
}

impl FromStr for Host {
    type Err = InvalidHost;

    /// Parses an IPv4 address, an IPv6 address with or without brackets, or a name as defined by
    /// RFC 1123, section 2.1 (plus the underscore, which container networks use).
    fn from_str(text: &str) -> Result<Self, InvalidHost> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(InvalidHost)?;
            return inner.parse().map(|v6| Self::Address(IpAddr::V6(v6))).map_err(|_| InvalidHost);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // A name whose last label is a number is a mistyped address, such as 127.0.0.256.
        let is_numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
        let is_name = name.len() <= 253
            && name.split('.').all(is_label)
            && !name.rsplit('.').next().is_some_and(is_numeric);
        if is_name { Ok(Self::Name(name.to_ascii_lowercase())) } else { Err(InvalidHost) }
    }
}

/// `http://` or `https://`, a host, an optional port and an optional path prefix (RFC 3986
/// without query, fragment and user information).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// True if the scheme is `https`.
    pub tls: bool,
    /// The host to connect to, which its certificate must name.
    pub host: Host,
    /// The port; the default of the scheme if the text has none.
    pub port: u16,
    /// The prefix of every request path: empty, or `/…` without a trailing `/`.
    pub prefix: String,
}

impl Url {
    /// An `https://` URL with the default port.
    pub fn https(host: &str, prefix: &str) -> Self {
        Self { tls: true, host: Host::Name(host.to_owned()), port: 443, prefix: prefix.to_owned() }
    }

    /// The value of a `Host` header (RFC 9110, section 7.2): the port is omitted if it is the
    /// default of the scheme.
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

/// The error of parsing a [`Url`]. It does not repeat the text, which may contain a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidUrl(&'static str);

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl FromStr for Url {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(InvalidUrl("has no valid scheme; start it with https:// or http://")),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidUrl(
                "contains a character that is not allowed in a URL; percent-encode it",
            ));
        }
        if rest.contains(['?', '#']) {
            return Err(InvalidUrl("has a query or fragment; remove it"));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(InvalidUrl(
                "has a user name; remove everything before the host, including the @",
            ));
        }
        // The colon before the port follows the closing bracket of an IPv6 address.
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
                _ => return Err(InvalidUrl("has no valid port; use a number from 1 to 65535")),
            },
        };
        let host = host.parse().map_err(|_| NO_HOST)?;
        Ok(Self { tls, host, port, prefix: path.trim_end_matches('/').to_owned() })
    }
}

const NO_HOST: InvalidUrl = InvalidUrl(
    "has no valid host; use an address or a host name, and put an IPv6 address in brackets",
);

const fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_customer_are_one_network() {
        for (text, expected) in [
            ("203.0.113.9", Some("203.0.113.9")),
            ("203.0.113.9:4711", Some("203.0.113.9")),
            ("::ffff:203.0.113.9", Some("203.0.113.9")),
            ("2001:db8:1:2:3::4", Some("2001:db8:1:2::")),
            ("[2001:db8:1:2:3::4]", Some("2001:db8:1:2::")),
            ("[2001:db8:1:2:3::4]:4711", Some("2001:db8:1:2::")),
            ("unknown", None),
            ("_hidden", None),
            ("[203.0.113.9", None),
            ("", None),
        ] {
            let network = network_of_forwarded(text).map(|network| network.to_string());
            assert_eq!(network.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn hosts_print_in_the_form_used_before_a_port() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("Bona.Example.", "bona.example"),
            ("bona", "bona"),
            ("herd_bona-1", "herd_bona-1"),
            ("3com.example", "3com.example"),
        ] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn invalid_hosts_are_rejected() {
        let long = "a.".repeat(127) + "a";
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a-",
            "a b",
            "a:1",
            "[::1",
            "[127.0.0.1]",
            "127.0.0.256",
            "1.2.3",
            "1234",
            "http://a",
            "a/b",
            "ü.example",
            "a\n",
            "fe80::1%eth0",
            &long,
            &"a".repeat(64),
        ] {
            assert_eq!(text.parse::<Host>(), Err(InvalidHost), "{text:?}");
        }
    }

    #[test]
    fn loopback_and_wildcard_addresses_are_recognized() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        for text in
            ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "LocalHost", "a.localhost"]
        {
            assert!(host(text).is_loopback(), "{text}");
        }
        for text in ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "notlocalhost"] {
            assert!(!host(text).is_loopback(), "{text}");
        }
        assert!(host("0.0.0.0").is_unspecified() && host("::").is_unspecified());
        assert!(!host("127.0.0.1").is_unspecified() && !host("a").is_unspecified());
    }

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_is_parsed_and_printed() {
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
    fn invalid_urls_are_rejected() {
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
