//! TLS between nodes, mutually authenticated: each side presents a certificate that the herd's own
//! authority issued for its name.

mod pem;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self as pem_files, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::tls::Tls;
use crate::config::PeerTls;

/// The first byte of every TLS connection: the type of a handshake record (RFC 8446, section 5.1).
/// No command begins with it.
pub const FIRST_BYTE: u8 = 0x16;

/// Certificate, key and authority for TLS with other nodes.
pub struct PeerTlsConfig {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl PeerTlsConfig {
    /// Loads the files of the node `name`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is not valid; the message names the file and the fix.
    pub fn load(files: &PeerTls, name: &str) -> io::Result<Self> {
        let (certificate, key) = (files.certificate_of(name), files.key_of(name));
        let chain = || certificates("certificate", &certificate);
        let private = || private_key(&key);
        let mut roots = RootCertStore::empty();
        for authority in certificates("ca", &files.ca)? {
            roots.add(authority).map_err(|error| located("ca", &files.ca, &foreign(&error)))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        // The key before the certificate, which is then known to be the cause of an error.
        provider.key_provider.load_private_key(private()?).map_err(|_| {
            let why = "uses an algorithm that is not supported; create an ECDSA (P-256 or P-384), \
                       Ed25519 or RSA key";
            located("key", &key, why)
        })?;
        let mismatch = |error: rustls::Error| {
            let why = match error {
                rustls::Error::InconsistentKeys(_) => format!(
                    "does not belong to the key {}; name a certificate and a key that were created \
                     together",
                    key.display()
                ),
                other => foreign(&other),
            };
            located("certificate", &certificate, &why)
        };
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .build()
                .map_err(|error| located("ca", &files.ca, &foreign(&error)))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain()?, private()?)
            .map_err(mismatch)?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain()?, private()?)
            .map_err(mismatch)?;
        Ok(Self { client: Arc::new(client), server: Arc::new(server) })
    }

    /// The dialing side of a link with the node `name`, whose certificate must be for that name.
    ///
    /// # Errors
    ///
    /// If the name is not valid in a certificate.
    pub fn dial(&self, name: &[u8]) -> io::Result<Tls> {
        let name = server_name(name)?;
        let connection =
            ClientConnection::new(Arc::clone(&self.client), name).map_err(io::Error::other)?;
        Ok(Tls::new(connection))
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

/// Reads the private key at `path`.
fn private_key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let bytes = read("key", path)?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| located("key", path, pem::describe_key(&bytes)))
}

/// Reads the certificates at `path`, of which there is at least one.
fn certificates(key: &str, path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(key, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error: pem_files::Error| {
        located(key, path, &format!("is damaged: {error}; copy or create it again"))
    })?;
    if found.is_empty() {
        return Err(located(key, path, pem::describe_certificate(&bytes)));
    }
    Ok(found)
}

fn read(key: &str, path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
        .map_err(|error| located(key, path, &format!("cannot be read: {error}; name a PEM file")))
}

fn foreign(error: &impl std::fmt::Display) -> String {
    format!("{error}; name a PEM file")
}

/// The error that the file of `peers.tls.KEY` is not usable; `why` includes what to do.
fn located(key: &str, path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("peers.tls.{key} {}: {why}", path.display()))
}
