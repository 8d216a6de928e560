//! Where a node listens and where it is reached.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An IP address, or a name that is still to be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A name, in lower case, without a trailing dot.
    Name(String),
}

impl Host {
    /// Where nodes are unless the file says otherwise: nobody from outside is let in unasked.
    pub const LOOPBACK: Self = Self::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));

    /// Whether this is the machine itself, without asking a resolver. `localhost` is by
    /// RFC 6761, section 6.3.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost" || name.ends_with(".localhost"),
        }
    }

    /// Whether this is "any address", which can be listened on but not dialled.
    pub fn is_unspecified(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_unspecified())
    }
}

/// As it stands before `:port`: an IPv6 address in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Why a text is no [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHost;

impl fmt::Display for NotAHost {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("is no host; write an IPv4 address, an IPv6 address or a name")
    }
}

impl FromStr for Host {
    type Err = NotAHost;

    /// An IPv4 address, an IPv6 address with or without brackets, or a name by RFC 1123,
    /// section 2.1 (with the underscore that container networks use).
    fn from_str(text: &str) -> Result<Self, NotAHost> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(NotAHost)?;
            return inner.parse().map(|v6| Self::Address(IpAddr::V6(v6))).map_err(|_| NotAHost);
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
        // A name whose last label is a number is an address with a slip, such as 127.0.0.256.
        let is_numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
        let is_name = name.len() <= 253
            && name.split('.').all(is_label)
            && !name.rsplit('.').next().is_some_and(is_numeric);
        if is_name { Ok(Self::Name(name.to_ascii_lowercase())) } else { Err(NotAHost) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_print_as_they_stand_before_a_port() {
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
    fn what_is_no_host() {
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
            assert_eq!(text.parse::<Host>(), Err(NotAHost), "{text:?}");
        }
    }

    #[test]
    fn loopback_and_any() {
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
}
