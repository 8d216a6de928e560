//! TLS with a places provider.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use crate::net::certificates::{CertificateFile, Dates, Purpose};

/// TLS settings for connections to a provider: Mozilla's certificate authorities, and those of
/// `ca_file`. Certificates are always verified; no setting turns that off. Sessions are resumed
/// (RFC 8446, section 2.2) from rustls's bounded store of tickets.
pub struct ProviderTls {
    config: Arc<ClientConfig>,
    dates: Option<Dates>,
}

impl ProviderTls {
    /// Loads `ca_file`, if there is one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or contains no certificate; the message names the file and the fix.
    pub fn load(ca_file: Option<&Path>) -> io::Result<Self> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        let mut dates = None;
        if let Some(path) = ca_file {
            let file = CertificateFile::read("places.ca_file", path, Purpose::Trust)?;
            roots.roots.extend(file.authorities(|_| true)?.roots);
            dates = Some(file.dates);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), dates })
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
