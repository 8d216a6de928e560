//! Certificate files: reading them, and the period in which they are valid.

mod der;
mod pem;
mod usages;
mod validity;
mod watch;

use core::cmp::Ordering;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self as pem_files, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use usages::serves_https;
pub use validity::Validity;
pub use watch::Watch;

use crate::message_log::utc;
use crate::net::limits::{EXPIRES_SOON, MAX_CERTIFICATE_FILE_BYTES};
use crate::net::regular_file;
use crate::protocol::time::SECOND;
use crate::time::Wall;

/// The purpose of the certificates in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// They prove the name of this node: its certificate, and those of intermediate authorities.
    Identity,
    /// Others are verified with them: certificate authorities.
    Trust,
}

/// A certificate file.
pub struct CertificateFile {
    /// The certificates, in the order of the file. There is at least one.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Setting, path and dates.
    pub dates: Dates,
}

/// The dates of the certificates in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dates {
    /// The setting that names the file, such as `peers.tls.ca`.
    pub setting: &'static str,
    /// Path of the file.
    pub path: PathBuf,
    purpose: Purpose,
    /// Dates of each certificate.
    each: Vec<Validity>,
}

/// The relation of the dates in a file to the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// All certificates are valid, and remain so for longer than [`EXPIRES_SOON`].
    Valid,
    /// A certificate is not valid yet.
    NotYetValid,
    /// The first certificate expires within [`EXPIRES_SOON`].
    ExpiresSoon,
    /// A certificate has expired.
    Expired,
}

impl CertificateFile {
    /// Reads the PEM file at `path`, which `setting` names.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or contains no certificate, or one that is damaged. The message
    /// names the setting, the file and the fix.
    pub fn read(setting: &'static str, path: &Path, purpose: Purpose) -> io::Result<Self> {
        let located = |why: &str| located(setting, path, why);
        let bytes = read(setting, path)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let certificates = found.map_err(|error: pem_files::Error| {
            located(&format!("is damaged: {error}; copy or create it again"))
        })?;
        if certificates.is_empty() {
            return Err(located(pem::describe_certificate(&bytes)));
        }
        let dates = |(at, certificate): (usize, &CertificateDer<'_>)| {
            let which = which(at, certificates.len());
            let damaged = || located(&format!("{which}is damaged; copy or create it again"));
            Validity::of(certificate).ok_or_else(damaged)
        };
        let each = certificates.iter().enumerate().map(dates).collect::<io::Result<_>>()?;
        let dates = Dates { setting, path: path.to_owned(), purpose, each };
        Ok(Self { certificates, dates })
    }

    /// The certificates as authorities, without those for whose dates `keep` returns false.
    ///
    /// # Errors
    ///
    /// If one of them cannot be used as an authority.
    pub fn authorities(&self, keep: impl Fn(&Validity) -> bool) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for (certificate, validity) in self.certificates.iter().zip(&self.dates.each) {
            if keep(validity) {
                let usable = roots.add(certificate.clone());
                usable.map_err(|error| {
                    self.dates.error(&format!("{error}; name a PEM file of certificates"))
                })?;
            }
        }
        Ok(roots)
    }
}

impl Dates {
    /// The second in which the first certificate of the file expires, since the Unix epoch.
    #[must_use]
    pub fn expiry(&self) -> i64 {
        self.each.iter().map(|validity| validity.not_after).min().unwrap_or(i64::MAX)
    }

    /// Compares `now` with the dates of each certificate, as [`Validity::position`].
    pub fn positions(&self, now: Wall) -> impl Iterator<Item = Ordering> {
        let now = seconds(now);
        self.each.iter().map(move |validity| validity.position(now))
    }

    /// The relation of the file to `now`.
    #[must_use]
    pub fn phase(&self, now: Wall) -> Phase {
        let any = |sought| self.positions(now).any(|position| position == sought);
        if any(Ordering::Greater) {
            Phase::Expired
        } else if any(Ordering::Less) {
            Phase::NotYetValid
        } else if self.expiry() <= seconds(now).saturating_add(EXPIRES_SOON.as_secs() as i64) {
            Phase::ExpiresSoon
        } else {
            Phase::Valid
        }
    }

    /// The next second in which [`Dates::phase`] may change, since the Unix epoch.
    #[must_use]
    pub fn next_change(&self, now: Wall) -> Option<i64> {
        let now = seconds(now);
        let changes = |Validity { not_before, not_after }: &Validity| {
            [*not_before, *not_after - EXPIRES_SOON.as_secs() as i64, *not_after + 1]
        };
        self.each.iter().flat_map(changes).filter(|&change| change > now).min()
    }

    /// Describes what is wrong with the dates, or soon will be, and what to do. `None` if the file is
    /// [`Phase::Valid`].
    #[must_use]
    pub fn describe(&self, now: Wall) -> Option<String> {
        let first = |date: fn(&Validity) -> i64| {
            self.each.iter().enumerate().min_by_key(|(_, validity)| date(validity))
        };
        let expiring = first(|validity| validity.not_after);
        let phase = self.phase(now);
        let (at, validity) = match phase {
            Phase::Valid => return None,
            Phase::NotYetValid => first(|validity| -validity.not_before)?,
            Phase::ExpiresSoon | Phase::Expired => expiring?,
        };
        let renew = match self.purpose {
            Purpose::Identity => "renew it",
            Purpose::Trust => "replace it, or remove it if nothing uses it",
        };
        let when = match phase {
            Phase::NotYetValid => {
                let from = utc(validity.not_before);
                format!("is not valid before {from}; correct the clock, or replace it")
            }
            Phase::Expired => format!("expired on {}; {renew}", utc(validity.not_after)),
            Phase::ExpiresSoon | Phase::Valid => {
                let left = duration(validity.not_after - seconds(now));
                format!("expires on {}, in {left}; {renew}", utc(validity.not_after))
            }
        };
        let which = which(at, self.each.len());
        Some(format!("{} {}: {which}{when}", self.setting, self.path.display()))
    }

    /// The error that the certificate cannot be used with the private key at `key`.
    #[must_use]
    pub fn error_with_key(&self, key: &Path, error: &rustls::Error) -> io::Error {
        self.error(&match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "does not belong to the key {}; name a certificate and a key that were created \
                 together",
                key.display()
            ),
            other => format!("{other}; name a PEM file"),
        })
    }

    /// The error that the file cannot be used; `why` includes what to do.
    #[must_use]
    pub fn error(&self, why: &str) -> io::Error {
        located(self.setting, &self.path, why)
    }
}

/// Reads the private key at `path`, which `setting` names.
///
/// # Errors
///
/// If the file cannot be read or is not a private key in PEM form that `provider` supports. The message
/// names the setting, the file and the fix.
pub fn private_key(
    setting: &str,
    path: &Path,
    provider: &CryptoProvider,
) -> io::Result<PrivateKeyDer<'static>> {
    let bytes = read(setting, path)?;
    let key = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| located(setting, path, pem::describe_key(&bytes)))?;
    // Before its certificate is used, which is then known to be the cause of an error.
    provider.key_provider.load_private_key(key.clone_key()).map_err(|_| {
        let why = "uses an algorithm that is not supported; create an ECDSA (P-256 or P-384), \
                   Ed25519 or RSA key";
        located(setting, path, why)
    })?;
    Ok(key)
}

/// The cryptography of all TLS.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The error that the file at `path`, which `setting` names, cannot be used; `why` includes what to
/// do.
#[must_use]
pub fn located(setting: &str, path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("{setting} {}: {why}", path.display()))
}

/// The wall clock in whole seconds since the Unix epoch, as certificates state times.
#[must_use]
pub fn seconds(wall: Wall) -> i64 {
    i64::try_from(wall.nanos().div_euclid(SECOND)).unwrap_or(i64::MAX)
}

/// Reads a regular file.
fn read(setting: &str, path: &Path) -> io::Result<Vec<u8>> {
    let located = |why: &str| located(setting, path, why);
    let unreadable =
        |error: io::Error| located(&format!("cannot be read: {error}; name a PEM file"));
    let mut bytes = Vec::new();
    let limit = MAX_CERTIFICATE_FILE_BYTES;
    let file = regular_file::open(path).map_err(unreadable)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > limit {
        return Err(located(&format!("is larger than {limit} bytes; name a PEM file")));
    }
    Ok(bytes)
}

/// Names a certificate in a file that contains several.
fn which(at: usize, count: usize) -> String {
    if count == 1 { String::new() } else { format!("certificate {} of {count} ", at + 1) }
}

/// Formats a number of seconds with a suitable unit.
fn duration(seconds: i64) -> String {
    let (number, unit) = match seconds {
        172_800.. => (seconds / 86_400, "day"),
        7_200.. => (seconds / 3_600, "hour"),
        120.. => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}
