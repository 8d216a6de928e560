//! The certificates of a node, verified as its neighbors will verify them.

use core::cmp::Ordering;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, ExtendedKeyPurpose, RootCertStore};

use super::server_name;
use crate::config::PeerTls;
use crate::net::certificates::{CertificateFile, Purpose, provider, seconds};
use crate::time::Wall;

/// The certificate of a node with its intermediates, and the authorities of the herd.
pub struct Credentials {
    /// Name of the node.
    name: String,
    pub(super) own: CertificateFile,
    pub(super) ca: CertificateFile,
}

/// The reason why other nodes will reject a certificate.
#[derive(Debug)]
pub struct Flaw {
    /// True if the certificate is valid, but for other names.
    pub is_name: bool,
    /// Setting, file, reason and fix.
    pub text: String,
}

impl From<io::Error> for Flaw {
    fn from(error: io::Error) -> Self {
        Self { is_name: false, text: error.to_string() }
    }
}

impl Credentials {
    /// Reads the certificates of the node `name`.
    ///
    /// # Errors
    ///
    /// As [`CertificateFile::read`].
    pub fn read(files: &PeerTls, name: &str) -> io::Result<Self> {
        let certificate = files.certificate_of(name);
        let own = CertificateFile::read("peers.tls.certificate", &certificate, Purpose::Identity)?;
        let ca = CertificateFile::read("peers.tls.ca", &files.ca, Purpose::Trust)?;
        Ok(Self { name: name.to_owned(), own, ca })
    }

    /// The files that were read.
    pub fn files(&self) -> [&CertificateFile; 2] {
        [&self.own, &self.ca]
    }

    /// Verifies the dates: every certificate of this node must be valid now, and the authority that it
    /// leads to as well.
    ///
    /// # Errors
    ///
    /// The first certificate that is not valid now.
    pub fn verify_dates(&self, now: Wall) -> Result<(), Flaw> {
        let dates = &self.own.dates;
        let is_valid = |position| position == Ordering::Equal;
        if !dates.positions(now).all(is_valid)
            && let Some(text) = dates.describe(now)
        {
            return Err(Flaw { is_name: false, text });
        }
        let at = seconds(now);
        let current = self.ca.authorities(|validity| is_valid(validity.position(at)))?;
        if self.leads_to(current, at).is_ok() || self.leads_to(self.authorities()?, at).is_err() {
            return Ok(()); // in the second case, the dates are not the reason
        }
        let text = self.ca.dates.describe(now).unwrap_or_default();
        Err(Flaw { is_name: false, text: format!("{text}; it issued {}", dates.path.display()) })
    }

    /// Verifies everything except the dates, as the neighbors do: the name, the usages and the
    /// authority. A node is the server of one link and the client of another.
    ///
    /// # Errors
    ///
    /// The first reason for which neighbors will reject the certificate.
    pub fn verify(&self) -> Result<(), Flaw> {
        // All certificates of the file are valid then, if they ever are.
        let at = self.own.dates.expiry();
        self.leads_to(self.authorities()?, at).map_err(|error| self.flaw(&error))
    }

    pub(super) fn authorities(&self) -> io::Result<RootCertStore> {
        self.ca.authorities(|_| true)
    }

    /// Verifies the certificate at the moment `at`, in seconds since the Unix epoch.
    fn leads_to(&self, roots: RootCertStore, at: i64) -> Result<(), rustls::Error> {
        let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).unwrap_or(0)));
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let [leaf, intermediates @ ..] = &self.own.certificates[..] else { return Err(unknown()) };
        let (roots, provider) = (Arc::new(roots), provider());
        let as_server =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        // The only error is that there are no authorities.
        let as_server = as_server.build().map_err(|_| unknown())?;
        let as_client = WebPkiClientVerifier::builder_with_provider(roots, provider);
        let as_client = as_client.build().map_err(|_| unknown())?;
        let name = server_name(self.name.as_bytes())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        as_server.verify_server_cert(leaf, intermediates, &name, &[], at)?;
        as_client.verify_client_cert(leaf, intermediates, at)?;
        Ok(())
    }

    /// Explains why the certificate is rejected.
    fn flaw(&self, error: &rustls::Error) -> Flaw {
        use CertificateError as E;
        let ca = self.ca.dates.path.display();
        let name = &self.name;
        let rustls::Error::InvalidCertificate(reason) = error else {
            return Flaw { is_name: true, text: error.to_string() };
        };
        let why = match reason {
            // Different authorities may have the same name.
            E::UnknownIssuer | E::BadSignature => format!(
                "was not issued by an authority in {ca}; name that authority in peers.tls.ca, and \
                 append intermediate certificates, if there are any, to this file"
            ),
            E::NotValidForNameContext { presented, .. } => {
                let names = match &presented[..] {
                    [] => "has no subject alternative name".to_owned(),
                    names => {
                        let names: Vec<String> = names.iter().map(|name| host(name)).collect();
                        format!("is for {}, not for {name}", names.join(", "))
                    }
                };
                format!("{names}; create one with the subject alternative name DNS:{name}")
            }
            E::InvalidPurposeContext { required, .. } => {
                let usage = match required {
                    ExtendedKeyPurpose::ClientAuth => "clientAuth",
                    ExtendedKeyPurpose::ServerAuth => "serverAuth",
                    ExtendedKeyPurpose::Other(_) => "that links require",
                };
                format!(
                    "lacks the extended key usage {usage}; create one with both serverAuth and \
                     clientAuth, since a node is both ends of links"
                )
            }
            // The type of the inner error is not public.
            E::Other(reason) if reason.to_string().contains("CaUsedAsEndEntity") => {
                "is the certificate of an authority; name one that it has issued for this node"
                    .to_owned()
            }
            _ => format!("is rejected by other nodes: {error}; create it again"),
        };
        let is_name = matches!(reason, E::NotValidForNameContext { .. });
        Flaw { is_name, text: self.own.dates.error(&why).to_string() }
    }

    /// A copy of the certificates of this node, to be presented to others.
    pub(super) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.own.certificates.clone()
    }
}

/// Returns the host in a subject alternative name, which rustls describes as `DnsName("host")`.
fn host(name: &str) -> String {
    let host = name.split_once('(').and_then(|(_, host)| host.strip_suffix(')')).unwrap_or(name);
    host.trim_matches('"').escape_debug().to_string()
}
