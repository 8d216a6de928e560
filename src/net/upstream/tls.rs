//! TLS with a server that the node connects to as a client.

use core::cmp::Ordering;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::net::certificates::{CertificateFile, Dates, Purpose};
use crate::time::Wall;

/// TLS settings for connections to a server: Mozilla's certificate authorities, and those of
/// `ca_file`. Certificates are always verified; no setting turns that off. Sessions are resumed
/// (RFC 8446, section 2.2) from rustls's bounded store of tickets.
pub struct ServerTls {
    config: Arc<ClientConfig>,
    dates: Option<Dates>,
}

impl ServerTls {
    /// Loads `ca_file`, if there is one, which `setting` names. `protocol` is that of ALPN; empty if there
    /// is none.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or contains no certificate; the message names the file and the fix.
    pub fn load(
        setting: &'static str,
        ca_file: Option<&Path>,
        protocol: &[u8],
    ) -> io::Result<Self> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut dates = None;
        if let Some(path) = ca_file {
            let file = CertificateFile::read(setting, path, Purpose::Trust)?;
            roots.roots.extend(file.authorities(|_| true)?.roots);
            dates = Some(file.dates);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !protocol.is_empty() {
            config.alpn_protocols = vec![protocol.to_vec()];
        }
        Ok(Self { config: Arc::new(config), dates })
    }

    /// Verifies that one of the certificates in `ca_file` has not expired. The others may be of use:
    /// the file can contain any number of authorities.
    ///
    /// # Errors
    ///
    /// If all have expired; the message names the file and the fix.
    pub fn verify(&self, now: Wall) -> io::Result<()> {
        let Some(dates) = &self.dates else { return Ok(()) };
        let all_expired = dates.positions(now).all(|position| position == Ordering::Greater);
        match dates.describe(now).filter(|_| all_expired) {
            Some(text) => Err(io::Error::other(text)),
            None => Ok(()),
        }
    }

    /// The settings for a new connection.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The dates of the certificates in `ca_file`.
    #[must_use]
    pub const fn dates(&self) -> Option<&Dates> {
        self.dates.as_ref()
    }
}
