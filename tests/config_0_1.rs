//! Configurations of release 0.1 load unchanged: its `conf/config.yml` and the examples of its documents,
//! copied byte by byte into `tests/config_0_1`.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, helpers are part of them")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::{Client, DEADLINE, binary, eventually, free_port, run};

/// The files, and how many nodes and edges each has.
const FILES: [(&str, &str); 6] = [
    ("config.yml", "5 nodes, 6 edges"),
    ("containers.yml", "5 nodes, 6 edges"),
    ("deployment.yml", "3 nodes, 3 edges"),
    ("machines.yml", "3 nodes, 3 edges"),
    ("reference.yml", "3 nodes, 3 edges"),
    ("sections.yml", "3 nodes, 2 edges"),
];

/// A node, killed when it is dropped.
struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn originals() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config_0_1")
}

/// Creates an empty folder for the test `test`, with the secret that some of the files name.
fn folder(test: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("config_0_1-{test}"));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    for name in ["secret", "herd.secret"] {
        fs::write(folder.join(name), "0123456789abcdef0123456789abcdef\n").unwrap();
    }
    folder
}

/// Returns whether a line of the shipped file is an optional setting: `#key:` or `#  key:`; prose is `# `.
fn is_setting(line: &str) -> bool {
    let Some(rest) = line.strip_prefix('#') else { return false };
    let is_key = |key: &str| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_')
    };
    let is_prose = rest.starts_with(' ') && !rest.starts_with("  ");
    !is_prose && rest.trim_start().split_once(':').is_some_and(|(key, _)| is_key(key))
}

/// Runs `--check` on a configuration in `folder`, and returns the summary.
fn check(folder: &Path, file: &str) -> String {
    let output = run(binary(folder, &["-c", file, "--check"]));
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    let is_warning = |line: &str| line.starts_with("proxy-herd: warning: ");
    assert!(output.status.success() && err.lines().all(is_warning), "{file}: {out}{err}");
    out
}

#[test]
fn every_configuration_passes_the_check() {
    let folder = folder("check");
    for (file, nodes) in FILES {
        fs::copy(originals().join(file), folder.join(file)).unwrap();
        let summary = check(&folder, file);
        assert!(summary.starts_with(&format!("{file}: {nodes}\n")), "{summary}");
        assert!(summary.contains("\nStorage: off\n"), "{summary}");
    }
    assert_eq!(fs::read_dir(originals()).unwrap().count(), FILES.len(), "a file is not listed");
}

#[test]
fn every_optional_setting_of_the_shipped_file_is_still_known() {
    let folder = folder("optional");
    let text = fs::read_to_string(originals().join("config.yml")).unwrap();
    let settings = text.lines().filter(|line| is_setting(line)).count();
    assert!(settings > 50, "{settings}");
    let all: String = text
        .lines()
        .map(|line| if is_setting(line) { &line[1..] } else { line })
        .fold(String::new(), |all, line| all + line + "\n");
    fs::write(folder.join("all.yml"), all).unwrap();
    let summary = check(&folder, "all.yml");
    assert!(summary.contains("\nLimits: all at their defaults\n"), "{summary}");
}

#[test]
fn the_shipped_configuration_starts_a_herd() {
    let folder = folder("start");
    let mut text = fs::read_to_string(originals().join("config.yml")).unwrap();
    let mut port_of = |name: &str, port: &str| {
        let free = free_port();
        let (before, after) = (format!("{name}: {port}\n"), format!("{name}: {free}\n"));
        assert!(text.contains(&before), "{before}");
        text = text.replace(&before, &after);
        free
    };
    let mut ports = Vec::new();
    for (name, port, http) in [
        ("Bailey", "10099", "8099"),
        ("Bona", "10044", "8044"),
        ("Campbell", "10022", "8022"),
        ("Clark", "10211", "8211"),
        ("Jaquez", "10194", "8194"),
    ] {
        ports.push((name, port_of(name, port)));
        port_of(name, http);
    }
    fs::write(folder.join("config.yml"), text).unwrap();
    let _nodes: Vec<Node> = ports
        .iter()
        .map(|(name, _)| {
            let mut command = binary(&folder, &["-c", "config.yml", name]);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            Node(command.spawn().unwrap())
        })
        .collect();
    let client = |index: usize| -> Client {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports[index].1));
        eventually("the node listens", DEADLINE, || TcpStream::connect(address).ok());
        Client::connect(address)
    };
    let line = client(0).iamat("kiwi", "+34.068930-118.445127", "1621464827.959498503");
    assert!(line.starts_with(b"AT Bailey +"), "{}", line.escape_ascii());
    // From Bailey to Jaquez, over two links.
    let mut last = client(4);
    eventually("the record arrives", DEADLINE, || last.held(b"kiwi").filter(|held| *held == line));
    assert!(!folder.join("data").exists(), "release 0.1 kept nothing on the disk");
}
