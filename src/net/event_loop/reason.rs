//! Reasons for which connections end and neighbors are not linked.

use std::borrow::Cow;
use std::io;
use std::mem::{Discriminant, discriminant};

use rustls::{AlertDescription, CertificateError};

/// Most reasons that are remembered for a neighbor. There are fewer of its own; the texts of a peer
/// that refuses a handshake are not limited.
const MAX_REPORTED: usize = 32;

/// A reason: its text, and its kind. The text may contain a time or a number, which differ each time.
pub(super) struct Reason {
    kind: Kind,
    text: Cow<'static, str>,
}

/// The common part of two reasons whose texts differ only in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A reason of this node, which has one text.
    Fixed(&'static str),
    /// The name of a neighbor is not resolved.
    Lookup(io::ErrorKind),
    /// A socket error. Many have the same error kind and differ by the number of the system.
    Io(io::ErrorKind, Option<i32>),
    /// A TLS error, with the details of an invalid certificate and of an alert.
    Tls(
        Discriminant<rustls::Error>,
        Option<Discriminant<CertificateError>>,
        Option<AlertDescription>,
    ),
    /// A handshake is refused. The words of the reason, without numbers and quoted lines.
    Handshake(String),
}

impl Reason {
    /// The reason that the name of a neighbor is not resolved.
    pub fn lookup(error: &io::Error) -> Self {
        let text = format!("the name cannot be resolved: {error}").into();
        Self { kind: Kind::Lookup(error.kind()), text }
    }

    /// The reason that a handshake is refused by one of the two nodes.
    pub fn handshake(text: &str) -> Self {
        Self { kind: Kind::Handshake(words(text)), text: text.to_owned().into() }
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<&'static str> for Reason {
    fn from(text: &'static str) -> Self {
        Self { kind: Kind::Fixed(text), text: text.into() }
    }
}

impl From<&io::Error> for Reason {
    fn from(error: &io::Error) -> Self {
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let kind = match tls {
            None => Kind::Io(error.kind(), error.raw_os_error()),
            Some(tls) => {
                let (certificate, alert) = match tls {
                    rustls::Error::InvalidCertificate(error) => (Some(discriminant(error)), None),
                    rustls::Error::AlertReceived(alert) => (None, Some(*alert)),
                    _ => (None, None),
                };
                Kind::Tls(discriminant(tls), certificate, alert)
            }
        };
        Self { kind, text: error.to_string().into() }
    }
}

/// The kinds of reasons that have been logged for a neighbor since it was last linked.
#[derive(Default)]
pub struct Reported(Vec<Kind>);

impl Reported {
    /// Returns true if no reason of this kind has been logged, and remembers it.
    pub(super) fn is_new(&mut self, reason: &Reason) -> bool {
        if self.0.contains(&reason.kind) || self.0.len() >= MAX_REPORTED {
            return false;
        }
        self.0.push(reason.kind.clone());
        true
    }

    /// Forgets all reasons, after the neighbor has been linked.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Returns the letters and spaces of `text`. A quoted text counts if it is a single word: a name is
/// part of the reason, the line of a peer is not.
fn words(text: &str) -> String {
    let parts = text.split('"').enumerate();
    let relevant = parts.filter(|(index, part)| index % 2 == 0 || !part.contains(' '));
    let chars = relevant.flat_map(|(_, part)| part.chars());
    chars.filter(|c| c.is_alphabetic() || *c == ' ').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;
    use std::time::Duration;

    fn tls(error: rustls::Error) -> Reason {
        Reason::from(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn expired(at: u64) -> Reason {
        let time = UnixTime::since_unix_epoch(Duration::from_secs(at));
        let not_after = UnixTime::since_unix_epoch(Duration::from_secs(5));
        let error = CertificateError::ExpiredContext { time, not_after };
        tls(rustls::Error::InvalidCertificate(error))
    }

    #[test]
    fn reasons_that_differ_by_a_time_or_number_are_of_one_kind() {
        assert_ne!(expired(10).text(), expired(12).text());
        assert_eq!(expired(10).kind, expired(12).kind);
        let refused = |text| Reason::handshake(text).kind;
        assert_eq!(
            refused("its max_clients is 5, here it is 7; make them the same"),
            refused("its max_clients is 6, here it is 7; make them the same")
        );
        assert_eq!(refused("it answered \"? HERD 2 a\""), refused("it answered \"? HERD 2 b\""));
        assert_ne!(
            refused("\"A\" answers at its address"),
            refused("\"B\" answers at its address")
        );
        assert_ne!(refused("its max_clients is 5"), refused("its client_ttl is 5"));
    }

    #[test]
    fn different_failures_are_of_different_kinds() {
        let alert = |alert| tls(rustls::Error::AlertReceived(alert));
        let invalid = |error| tls(rustls::Error::InvalidCertificate(error));
        let reasons = [
            Reason::from("connect timeout"),
            Reason::from("TLS handshake timeout"),
            Reason::from(&io::Error::from_raw_os_error(111)),
            Reason::from(&io::Error::from_raw_os_error(113)),
            Reason::lookup(&io::Error::other("x")),
            Reason::from(&io::Error::other("x")),
            alert(AlertDescription::UnknownCA),
            alert(AlertDescription::CertificateExpired),
            invalid(CertificateError::Revoked),
            expired(10),
        ];
        let mut reported = Reported::default();
        assert!(reasons.iter().all(|reason| reported.is_new(reason)));
        assert!(!reasons.iter().any(|reason| reported.is_new(reason)), "in any order");
        reported.clear();
        assert!(reported.is_new(&expired(11)));
    }

    #[test]
    fn the_number_of_remembered_reasons_is_bounded() {
        let mut reported = Reported::default();
        let new = (0..1_000).filter(|n| reported.is_new(&Reason::handshake(&"x".repeat(*n))));
        assert_eq!(new.count(), MAX_REPORTED);
    }
}
