//! TLS between nodes, mutually authenticated: each side presents a certificate that the herd's own
//! authority issued for its name.

mod credentials;

use std::io;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

pub use credentials::{Credentials, Flaw};

use super::certificates::{private_key, provider};
use super::tls::Tls;
use crate::config::PeerTls;

/// The first byte of every TLS connection: the type of a handshake record (RFC 8446, section 5.1).
/// No command begins with it.
pub const FIRST_BYTE: u8 = 0x16;

/// Certificate, key and authority for TLS with other nodes.
pub struct PeerTlsConfig {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// The certificates that were read.
    pub credentials: Credentials,
}

impl PeerTlsConfig {
    /// Loads the files of the node `name`. [`Credentials`] verifies what they contain.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is not valid, or the certificate does not belong to the key; the
    /// message names the file and the fix.
    pub fn load(files: &PeerTls, name: &str) -> io::Result<Self> {
        let credentials = Credentials::read(files, name)?;
        let roots = Arc::new(credentials.authorities()?);
        let path = files.key_of(name);
        let provider = provider();
        let key = private_key("peers.tls.key", &path, &provider)?;
        let mismatch = |error: rustls::Error| credentials.own.dates.error_with_key(&path, &error);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| {
                    credentials.ca.dates.error(&format!("{error}; name a PEM file"))
                })?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(credentials.chain(), key.clone_key())
            .map_err(mismatch)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(credentials.chain(), key)
            .map_err(mismatch)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), credentials })
    }

    /// The dialing side of a link with the node `name`, whose certificate must be for that name.
    ///
    /// # Errors
    ///
    /// If the name is not valid in a certificate.
    pub fn dial(&self, name: &[u8]) -> io::Result<Tls> {
        self.connection(name).map(Tls::new)
    }

    /// As [`PeerTlsConfig::dial`], for a socket that blocks.
    ///
    /// # Errors
    ///
    /// As [`PeerTlsConfig::dial`].
    pub fn connection(&self, name: &[u8]) -> io::Result<ClientConnection> {
        let name = server_name(name)?;
        ClientConnection::new(Arc::clone(&self.client), name).map_err(io::Error::other)
    }

    /// The accepting side of a link.
    ///
    /// # Errors
    ///
    /// If rustls refuses the configuration, which [`PeerTlsConfig::load`] has validated.
    pub fn accept(&self) -> io::Result<Tls> {
        let connection =
            ServerConnection::new(Arc::clone(&self.server)).map_err(io::Error::other)?;
        Ok(Tls::new(connection))
    }
}

/// The subset of `names` that the certificate of the other side is valid for.
#[must_use]
pub fn certified<'n>(tls: &Tls, names: impl Iterator<Item = &'n [u8]>) -> Vec<Vec<u8>> {
    let Some(certificate) = tls.peer_certificate() else { return Vec::new() };
    let Ok(certificate) = ParsedCertificate::try_from(certificate) else { return Vec::new() };
    let is_for = |name: &&[u8]| {
        server_name(name)
            .is_ok_and(|name| rustls::client::verify_server_name(&certificate, &name).is_ok())
    };
    names.filter(is_for).map(<[u8]>::to_vec).collect()
}

fn server_name(name: &[u8]) -> io::Result<ServerName<'static>> {
    let text = String::from_utf8_lossy(name).into_owned();
    ServerName::try_from(text.clone()).map_err(|_| {
        io::Error::other(format!(
            "{text:?} is not valid in a certificate; name the node with letters, digits and hyphens"
        ))
    })
}
