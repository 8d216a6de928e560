//! HTTPS for phones and trackers: the certificate of the listener. Devices present none; they identify
//! themselves by tokens.

use core::cmp::Ordering;
use std::io;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

use super::certificates::{CertificateFile, Purpose, private_key, provider, serves_https};
use super::tls::Tls;
use crate::config::DeviceTls;
use crate::time::Wall;

const CERTIFICATE: &str = "devices.tls.certificate";
const KEY: &str = "devices.tls.key";

/// Certificate and key of the listener for devices.
pub struct DeviceTlsConfig {
    server: Arc<ServerConfig>,
    /// The certificate, with its intermediates.
    pub certificate: CertificateFile,
}

impl DeviceTlsConfig {
    /// Loads the files of the node `name`.
    ///
    /// # Errors
    ///
    /// If a file cannot be read or is not valid, or the certificate does not belong to the key; the
    /// message names the file and the fix.
    pub fn load(files: &DeviceTls, name: &str) -> io::Result<Self> {
        let certificate = read_certificate(files, name)?;
        let path = files.key_of(name);
        let provider = provider();
        let key = private_key(KEY, &path, &provider)?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_no_client_auth()
            .with_single_cert(certificate.certificates.clone(), key)
            .map_err(|error| certificate.dates.error_with_key(&path, &error))?;
        server.alpn_protocols = vec![b"http/1.1".to_vec(), b"http/1.0".to_vec()];
        // A phone that returns resumes its session, which costs a fraction of a handshake. With
        // tickets, the node remembers nothing about it.
        server.ticketer = rustls::crypto::ring::Ticketer::new().map_err(io::Error::other)?;
        Ok(Self { server: Arc::new(server), certificate })
    }

    /// The accepting side of a connection.
    ///
    /// # Errors
    ///
    /// If rustls refuses the configuration, which [`DeviceTlsConfig::load`] has validated.
    pub fn accept(&self) -> io::Result<Tls> {
        let connection =
            ServerConnection::new(Arc::clone(&self.server)).map_err(io::Error::other)?;
        Ok(Tls::new(connection))
    }
}

/// Reads the certificate of the node `name`.
///
/// # Errors
///
/// As [`CertificateFile::read`].
pub fn read_certificate(files: &DeviceTls, name: &str) -> io::Result<CertificateFile> {
    CertificateFile::read(CERTIFICATE, &files.certificate_of(name), Purpose::Identity)
}

/// Verifies what every device will: that all certificates of the file are valid now, and that the first
/// permits HTTPS. Which names it must have, and which authorities devices trust, is not known here.
///
/// # Errors
///
/// The reason why devices will reject the certificate, and the fix.
pub fn verify(certificate: &CertificateFile, now: Wall) -> io::Result<()> {
    let dates = &certificate.dates;
    if !dates.positions(now).all(|position| position == Ordering::Equal)
        && let Some(text) = dates.describe(now)
    {
        return Err(io::Error::other(text));
    }
    if certificate.certificates.first().is_some_and(|first| !serves_https(first)) {
        let why = "lacks the extended key usage serverAuth, so devices reject it; create one for a \
                   server";
        return Err(dates.error(why));
    }
    Ok(())
}
