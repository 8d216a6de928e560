//! `--invite`: admits a device. Creates a token, appends it to the file of the tokens, and explains
//! what to enter in the apps.

mod apps;
mod qr;

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};

use super::{regular_file, tokens_file};
use crate::config::{Config, DevicesConfig};
use crate::devices::tokens::Tokens;
use crate::endpoint::Host;

/// Bytes of randomness in a token: 144 bits, which are 24 characters.
const TOKEN_BYTES: usize = 18;

/// The characters of a token, which need no encoding in a URL: the alphabet of base64url.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Adds a token for `name`, a client or a prefix followed by `*`, and returns what to print. `node` is
/// the index in [`Config::nodes`] of the node whose URL is shown: by default the first that listens for
/// devices.
///
/// # Errors
///
/// One line with the reason and the fix.
pub fn invite(config: &Config, name: &str, node: Option<usize>) -> Result<String, String> {
    let devices = config.devices.as_ref().ok_or(
        "the configuration has no section `devices`; add it with ports and tokens_file, and restart \
         the nodes",
    )?;
    let path = devices.tokens_file.as_ref().ok_or(
        "devices.tokens_file is not set, so devices need no token; set it, and restart the nodes",
    )?;
    let (node, port) = listening(config, devices, node)?;
    let token = random_token().map_err(|error| error.to_string())?;
    let added = append(path, &token, name)?;
    let host = host(config, devices, node);
    let scheme = if devices.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{host}:{port}/t/{token}");
    let reach = describe_reach(host, devices);
    let code = qr::draw(&url, io::stdout().is_terminal());
    let description = describe(&added, path, name);
    let instructions = apps::instructions(&url, name);
    Ok(format!("{description}\nURL: {url}\n{reach}\n{code}\n{instructions}"))
}

/// Returns a node that listens for devices, and its port.
fn listening(
    config: &Config,
    devices: &DevicesConfig,
    node: Option<usize>,
) -> Result<(usize, u16), String> {
    let port = |node: usize| Some((node, devices.ports[node]?));
    match node {
        None => (0..config.nodes.len()).find_map(port).ok_or_else(|| {
            "devices.ports is empty, so no node listens for devices; add a port".to_owned()
        }),
        Some(node) => port(node).ok_or_else(|| {
            let name = &config.nodes[node].name;
            format!("{name} does not listen for devices; add it to devices.ports")
        }),
    }
}

fn random_token() -> io::Result<String> {
    let mut random = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system's random number generator failed"))?;
    let characters = random.chunks(3).flat_map(|bytes| {
        let bits = bytes.iter().fold(0, |bits, &byte| bits << 8 | usize::from(byte));
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[bits >> shift & 63]))
    });
    Ok(characters.collect())
}

/// The result of adding a token.
struct Added {
    /// True if the file did not exist.
    is_new: bool,
    /// Tokens for the same name that were there before, and remain valid.
    others: usize,
}

/// Appends a line to the file of the tokens, which is created if it does not exist. A lock keeps two
/// programs from writing at the same time; a node that reads meanwhile sees the line or does not.
fn append(path: &Path, token: &str, name: &str) -> Result<Added, String> {
    let cannot = |error: io::Error| {
        format!("devices.tokens_file {}: cannot be written: {error}", path.display())
    };
    let is_new = !path.exists();
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    let mut file = regular_file::open_with(&mut options, path).map_err(cannot)?;
    file.lock().map_err(cannot)?;
    let before = tokens_file::read_from(&file, path).map_err(|error| error.to_string())?;
    tokens_file::parse(&before, path).map_err(|error| error.to_string())?;
    let break_line = if before.last().is_some_and(|&last| last != b'\n') { "\n" } else { "" };
    let line = format!("{break_line}{token} {name}\n");
    if Tokens::parse(&[&before, line.as_bytes()].concat()).is_err() {
        return Err(format!(
            "`{}` cannot be the name of a client; use letters, digits and punctuation, without white \
             space and `#`",
            name.escape_debug()
        ));
    }
    file.write_all(line.as_bytes()).and_then(|()| file.sync_all()).map_err(cannot)?;
    let is_same = |line: &&[u8]| {
        let mut fields = line.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
        fields.next().is_some_and(|token| !token.starts_with(b"#"))
            && fields.next() == Some(name.as_bytes())
    };
    let others = before.split(|&byte| byte == b'\n').filter(is_same).count();
    Ok(Added { is_new, others })
}

fn describe(added: &Added, path: &Path, name: &str) -> String {
    let path = path.display();
    let created = if added.is_new {
        format!("Created {path}, which only you can read: run the nodes as the same user.\n")
    } else {
        String::new()
    };
    let others = match added.others {
        0 => String::new(),
        1 => format!("An earlier token remains valid for {name}; to revoke it, remove its line.\n"),
        n => {
            format!("{n} earlier tokens remain valid for {name}; to revoke one, remove its line.\n")
        }
    };
    format!(
        "{created}Added a token for {name} to {path}.\n{others}Running nodes accept it after SIGHUP: \
         systemctl reload 'proxy-herd@*', or kill -HUP PID.\n"
    )
}

/// The host that a device reports to.
fn host<'c>(config: &'c Config, devices: &'c DevicesConfig, node: usize) -> &'c Host {
    if devices.listen.is_unspecified() { &config.nodes[node].dial } else { &devices.listen }
}

/// Returns a line that says who can use a URL with this host, if that is not everyone.
fn describe_reach(host: &Host, devices: &DevicesConfig) -> String {
    if !host.is_loopback() {
        return String::new();
    }
    let fix = if devices.listen.is_loopback() {
        "set devices.listen, or use the address of the reverse proxy in the URL"
    } else {
        "use the name or address of this machine in the URL, or set it under `hosts` and repeat this"
    };
    format!("Only programs on this machine can reach {host}. For phones, {fix}.\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;

    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("herd-invite-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    #[test]
    fn a_token_is_long_random_and_safe_in_a_url() {
        let tokens: Vec<String> = (0..100).map(|_| random_token().unwrap()).collect();
        for token in &tokens {
            assert_eq!(token.len(), 24);
            assert!(token.bytes().all(|byte| ALPHABET.contains(&byte)), "{token}");
        }
        let mut distinct = tokens.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), tokens.len());
    }

    #[test]
    fn the_file_is_private_and_every_token_gets_a_line_of_its_own() {
        let folder = folder("lines");
        let path = folder.0.join("tokens");
        let token = random_token().unwrap();
        let added = append(&path, &token, "van1").unwrap();
        assert!(added.is_new && added.others == 0);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{token} van1\n"));

        // A line without its end is completed first.
        fs::write(&path, format!("# ours\n{token} van1")).unwrap();
        let other = random_token().unwrap();
        let added = append(&path, &other, "van1").unwrap();
        assert!(!added.is_new && added.others == 1);
        let content = fs::read_to_string(&path).unwrap();
        assert_eq!(content, format!("# ours\n{token} van1\n{other} van1\n"));
    }

    #[test]
    fn a_fifo_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let folder = folder("fifo");
        let path = folder.0.join("tokens");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = append(&path, &random_token().unwrap(), "van1").err().unwrap();
        assert!(error.contains("it is not a regular file"), "{error}");
    }

    #[test]
    fn a_damaged_file_is_not_appended_to_and_no_token_is_shown() {
        let folder = folder("damaged");
        let path = folder.0.join("tokens");
        fs::write(&path, "# ours\ncanary-canary-canary\n").unwrap();
        let error = append(&path, &random_token().unwrap(), "van1").err().unwrap();
        let place = format!("devices.tokens_file {}:2: ", path.display());
        assert!(error.starts_with(&place) && !error.contains("canary"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "# ours\ncanary-canary-canary\n");
    }
}
