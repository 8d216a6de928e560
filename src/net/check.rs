//! `--check`: what a node would find when it starts, and settings that are valid but dangerous.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::clock::wall;
use super::device_tls::{self, DeviceTlsConfig};
use super::feed::load_tls;
use super::peer_tls::{Credentials, Flaw, PeerTlsConfig};
use super::upstream::{ServerTls, Upstream};
use super::{assemble, fences, recovery, regular_file, tokens_file};
use super::{random, word};
use crate::config::{Config, ProviderConfig, Secret};
use crate::storage::LOCK;
use crate::time::Wall;

/// Length in bytes below which a secret is reported as short. Twelve random letters and digits have
/// 71 bits. A shorter secret can be found by brute force from one recorded handshake.
const MIN_SECRET_BYTES: usize = 12;

/// Permission of all users to read a file.
const READABLE_BY_ALL: u32 = 0o004;

/// Permission of the group or of all users to read a file.
const READABLE_BY_OTHERS: u32 = 0o044;

/// Reads the files that the nodes of this herd read when they start. Returns warnings about nodes
/// that cannot start on this machine and about settings that expose the herd.
///
/// # Errors
///
/// If a file would keep a node from starting. The message names the file and the fix.
pub fn check(config: &Config) -> io::Result<Vec<String>> {
    let (_, upstream) = assemble::places(config, word(&random()?, 24))?;
    let mut warnings = Vec::new();
    let now = wall();
    check_links(config, now, &mut warnings)?;
    let authorities = upstream.as_ref().and_then(Upstream::tls).and_then(ServerTls::dates);
    warnings.extend(authorities.and_then(|dates| dates.describe(now)));
    if let Some(set) = fences::load(config)? {
        warnings.extend(fences::warnings(&set));
    }
    check_feed(config, now, &mut warnings)?;
    check_secrets(config, &mut warnings);
    check_devices(config, now, &mut warnings)?;
    check_http(config, &mut warnings);
    check_log_directory(config, &mut warnings);
    check_storage(config, &mut warnings)?;
    Ok(warnings)
}

/// Verifies the certificates on this machine as the neighbors of their nodes would, and the keys. A
/// key may be readable by the node only, so a certificate is verified without its key as well.
fn check_links(config: &Config, now: Wall, warnings: &mut Vec<String>) -> io::Result<()> {
    let Some(files) = &config.peers.tls else { return Ok(()) };
    let (mut keys, mut elsewhere, mut nameless) = (Vec::new(), Vec::new(), Vec::new());
    // An original server presents no certificate.
    for node in config.nodes.iter().filter(|node| !node.seed_compatible) {
        let (certificate, key) = (files.certificate_of(&node.name), files.key_of(&node.name));
        let credentials = if key.exists() {
            if !keys.contains(&key) {
                warn_if_readable_by_all("peers.tls.key", &key, warnings);
                keys.push(key);
            }
            PeerTlsConfig::load(files, &node.name)?.credentials
        } else {
            let missing = key.display();
            elsewhere.push(format!(
                "{} cannot start on this machine: {missing} does not exist",
                node.name
            ));
            if !certificate.exists() {
                continue;
            }
            Credentials::read(files, &node.name)?
        };
        let verified = credentials.verify_dates(now).and_then(|()| credentials.verify());
        match verified {
            Err(flaw) if !flaw.is_name => return Err(io::Error::other(flaw.text)),
            verified => nameless.push((certificate, verified.err())),
        }
        for file in credentials.files() {
            let warning = file.dates.describe(now);
            warnings.extend(warning.filter(|warning| !warnings.contains(warning)));
        }
    }
    warnings.extend(elsewhere);
    check_names(&nameless, warnings)
}

/// Reads the authorities for the engine of the feed.
fn check_feed(config: &Config, now: Wall, warnings: &mut Vec<String>) -> io::Result<()> {
    let Some(feed) = &config.feed else { return Ok(()) };
    let tls = load_tls(feed)?;
    warnings.extend(tls.dates().and_then(|dates| dates.describe(now)));
    Ok(())
}

/// A path without `{name}` may be that of a different file on each machine, so it suffices that the
/// certificate names one of the nodes; those that it does not name run elsewhere.
fn check_names(verified: &[(PathBuf, Option<Flaw>)], warnings: &mut Vec<String>) -> io::Result<()> {
    for (path, flaw) in verified {
        let Some(flaw) = flaw else { continue };
        if !verified.iter().any(|(other, flaw)| other == path && flaw.is_none()) {
            return Err(io::Error::other(flaw.text.clone()));
        }
        warnings.push(flaw.text.clone());
    }
    Ok(())
}

/// Reads the tokens of devices, and the certificates of the listener that are on this machine.
fn check_devices(config: &Config, now: Wall, warnings: &mut Vec<String>) -> io::Result<()> {
    let Some(devices) = &config.devices else { return Ok(()) };
    if let Some(path) = &devices.tokens_file {
        let tokens = tokens_file::load(path)?;
        warn_if_readable_by_others("devices.tokens_file", path, warnings);
        if tokens.grants().next().is_none() {
            warnings.push(format!(
                "devices.tokens_file {} contains no token, so no device is admitted; add one with \
                 `proxy-herd --invite CLIENT`",
                path.display()
            ));
        }
    }
    let Some(files) = &devices.tls else { return Ok(()) };
    let (mut keys, mut certificates) = (Vec::new(), Vec::new());
    let listening = config.nodes.iter().zip(&devices.ports).filter(|(_, port)| port.is_some());
    for (node, _) in listening {
        let (certificate, key) = (files.certificate_of(&node.name), files.key_of(&node.name));
        if key.exists() {
            if !keys.contains(&key) {
                warn_if_readable_by_all("devices.tls.key", &key, warnings);
                keys.push(key);
            }
        } else {
            warnings.push(format!(
                "{} cannot start on this machine: {} does not exist",
                node.name,
                key.display()
            ));
        }
        if certificates.contains(&certificate) || !certificate.exists() {
            continue;
        }
        let read = if files.key_of(&node.name).exists() {
            DeviceTlsConfig::load(files, &node.name)?.certificate
        } else {
            device_tls::read_certificate(files, &node.name)?
        };
        device_tls::verify(&read, now)?;
        warnings.extend(read.dates.describe(now));
        certificates.push(certificate);
    }
    Ok(())
}

fn check_secrets(config: &Config, warnings: &mut Vec<String>) {
    if let Some(secret) = &config.peers.secret {
        let bytes = secret.expose();
        let what = if bytes.len() < MIN_SECRET_BYTES {
            let plural = if bytes.len() == 1 { "" } else { "s" };
            Some(format!("has only {} byte{plural}", bytes.len()))
        } else if bytes.iter().all(|byte| *byte == bytes[0]) {
            Some("repeats one byte".to_owned())
        } else {
            None
        };
        if let Some(what) = what {
            warnings.push(format!(
                "the secret of the herd {what} and can be guessed; use a random one, for example from \
                 `openssl rand -hex 32`"
            ));
        }
    }
    let api_key = match &config.places.provider {
        ProviderConfig::Google { key, .. } | ProviderConfig::GoogleLegacy { key, .. } => Some(key),
        ProviderConfig::Offline { .. } | ProviderConfig::Overpass { .. } => None,
    };
    let feed = config.feed.as_ref().and_then(|feed| feed.password.as_ref());
    for (setting, secret) in [
        ("peers.secret_file", config.peers.secret.as_ref()),
        ("api_key_file", api_key),
        ("feed.password_file", feed),
    ] {
        if let Some(path) = secret.and_then(Secret::file) {
            warn_if_readable_by_all(setting, path, warnings);
        }
    }
}

fn warn_if_readable_by_all(setting: &str, path: &Path, warnings: &mut Vec<String>) {
    let readable = |found: fs::Metadata| found.permissions().mode() & READABLE_BY_ALL != 0;
    if fs::metadata(path).is_ok_and(readable) {
        warnings.push(format!(
            "{setting} {} can be read by every user of this machine; restrict it with `chmod o= FILE`",
            path.display()
        ));
    }
}

/// A token is all that a device needs, so its file is for the nodes alone.
fn warn_if_readable_by_others(setting: &str, path: &Path, warnings: &mut Vec<String>) {
    let readable = |found: fs::Metadata| found.permissions().mode() & READABLE_BY_OTHERS != 0;
    if fs::metadata(path).is_ok_and(readable) {
        warnings.push(format!(
            "{setting} {} can be read by other users of this machine; restrict it with `chmod go= FILE`",
            path.display()
        ));
    }
}

fn check_http(config: &Config, warnings: &mut Vec<String>) {
    let Some(http) = config.http.as_ref().filter(|http| http.ports.iter().any(Option::is_some))
    else {
        return;
    };
    if http.listen.is_unspecified() {
        warnings.push(format!(
            "http.listen is {}: everyone who can reach this machine can read the clients and their \
             locations, without authentication; listen on a loopback or internal address, or restrict \
             access with a firewall or reverse proxy",
            http.listen
        ));
    }
    if http.cors_origin.as_deref() == Some("*") {
        warnings.push(
            "http.cors_origin is `*`: every website can read the clients and their locations through \
             the browser of a visitor who can reach a node; name the one origin that needs it"
                .to_owned(),
        );
    }
}

/// Warns if a node could not write its log. The message is that of a node that starts.
fn check_log_directory(config: &Config, warnings: &mut Vec<String>) {
    let directory = &config.logging.directory;
    let problem = match can_be_created(directory) {
        Ok(true) => return,
        Ok(false) => config.nodes.iter().find_map(|node| {
            let path = directory.join(format!("{}.log", node.name));
            can_be_appended_to(&path).err().map(|error| (path, error))
        }),
        Err(error) => Some((directory.clone(), error)),
    };
    if let Some((path, error)) = problem {
        warnings.push(format!(
            "cannot write the log {}: {error}; correct logging.directory, or check as the user who \
             runs the nodes",
            path.display()
        ));
    }
}

/// Examines the folders of the nodes, which may be running. A folder that cannot be written is a warning,
/// as for logs: another user may run the nodes.
fn check_storage(config: &Config, warnings: &mut Vec<String>) -> io::Result<()> {
    let Some(storage) = &config.storage else { return Ok(()) };
    for node in config.nodes.iter().filter(|node| !node.seed_compatible) {
        let folder = storage.directory.join(&node.name);
        let problem = match can_be_created(&folder) {
            Ok(true) => continue,
            Ok(false) => {
                if let Err(error) = recovery::examine(&folder, &node.name) {
                    if error.kind() == io::ErrorKind::Other {
                        return Err(error);
                    }
                    Some(error)
                } else {
                    can_be_locked(&folder).err()
                }
            }
            Err(error) => Some(error),
        };
        let problem = problem.or_else(|| can_be_written_to(&folder).err());
        if let Some(error) = problem {
            warnings.push(format!(
                "cannot use the storage {}: {error}; correct storage.directory, or check as the user \
                 who runs the nodes",
                folder.display()
            ));
        }
    }
    Ok(())
}

/// Returns the error of a node that opens the file with which it locks `folder`.
fn can_be_locked(folder: &Path) -> io::Result<()> {
    match regular_file::open_with(OpenOptions::new().append(true), &folder.join(LOCK)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Returns the error of a node that creates a file in `folder`.
fn can_be_written_to(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!("check-{}", std::process::id()));
    File::create_new(&probe)?;
    fs::remove_file(&probe)
}

/// Returns false if `directory` exists. Otherwise creates and removes it, which returns the error that
/// a node would encounter.
fn can_be_created(directory: &Path) -> io::Result<bool> {
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => return Ok(false),
        Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        Err(_) => {}
    }
    let is_missing =
        |path: &&Path| !path.as_os_str().is_empty() && fs::symlink_metadata(path).is_err();
    let missing: Vec<&Path> = directory.ancestors().take_while(is_missing).collect();
    let created = fs::create_dir_all(directory);
    for path in missing {
        // Fails if the directory was not created, or if a node has already written to it.
        let _ = fs::remove_dir(path);
    }
    created.map(|()| true)
}

/// Returns the error of a node that opens the log at `path`. Creates no log.
fn can_be_appended_to(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => OpenOptions::new().append(true).open(path).map(|_| ()),
        Ok(_) => Ok(()), // opening a FIFO would block
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            can_be_written_to(path.parent().unwrap_or(Path::new(".")))
        }
        Err(error) => Err(error),
    }
}
