//! Tests of the loader as a whole, and the fixtures that all tests share.

mod files;
mod nodes;
mod properties;
mod sections;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::limits;
use crate::message_log::Format;

/// The configuration of the original server, unchanged.
const ORIGINAL: &str = r#"api_key: "API_KEY"

ports:
  Bailey: 10099
  Bona: 10044
  Campbell: 10022
  Clark: 10211
  Jaquez: 10194

neighbors:
  Bailey: ["Bona", "Campbell"]
  Bona: ["Bailey", "Clark", "Campbell"]
  Campbell: ["Bailey", "Bona", "Jaquez"]
  Clark: ["Jaquez", "Bona"]
  Jaquez: ["Clark", "Campbell"]

benchmark:
  num_clients: 5
  test_duration: 5
  timeout: 2

logging:
  level: "INFO"
  filename: "benchmark.log"
  format: "%(asctime)s - %(levelname)s - %(message)s"
"#;

/// Two nodes with an edge. Lines that a test appends begin at line 3.
const PAIR: &str = "ports: {Bona: 1001, Clark: 1002}\nneighbors: {Bona: [Clark]}\n";

fn load_with(yaml: &str, environment: &[(&str, &str)]) -> Result<Config, Error> {
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    let variable = |name: &str| environment.get(name).map(OsString::from);
    Config::from_bytes(Path::new("herd.yml"), yaml.as_bytes(), &variable)
}

fn load(yaml: &str) -> Config {
    load_with(yaml, &[]).unwrap()
}

/// Loads the pair followed by `lines`.
fn pair(lines: &str) -> Config {
    load(&format!("{PAIR}{lines}"))
}

/// Returns the error in a file, without the file name.
fn error_in(yaml: &str) -> String {
    let error = load_with(yaml, &[]).unwrap_err().to_string();
    error.strip_prefix("herd.yml:").expect(&error).to_owned()
}

/// Returns the error in the pair followed by `lines`.
fn error_in_pair(lines: &str) -> String {
    error_in(&format!("{PAIR}{lines}"))
}

fn neighbors(config: &Config) -> Vec<&[usize]> {
    config.nodes.iter().map(|node| node.neighbors.as_slice()).collect()
}

fn key(config: &Config) -> Option<&[u8]> {
    match &config.places.provider {
        ProviderConfig::Google { key, .. } | ProviderConfig::GoogleLegacy { key, .. } => {
            Some(key.expose())
        }
        ProviderConfig::Offline { .. } | ProviderConfig::Overpass { .. } => None,
    }
}

/// A temporary directory with a configuration and the files that it refers to.
struct TempDir(PathBuf);

impl TempDir {
    fn with(files: &[(&str, &[u8])]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory =
            Self(std::env::temp_dir().join(format!("herd-config-{}-{number}", std::process::id())));
        fs::create_dir(&directory.0).unwrap();
        for (name, content) in files {
            fs::write(directory.0.join(name), content).unwrap();
        }
        directory
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment: HashMap<_, _> = environment.iter().copied().collect();
        let variable = |name: &str| environment.get(name).map(OsString::from);
        Config::load(&self.0.join("herd.yml"), &variable)
            .map_err(|error| error.to_string().replace(&format!("{}/", self.0.display()), ""))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_original_configuration_loads_unchanged() {
    let config = load(ORIGINAL);
    let names: Vec<_> = config.nodes.iter().map(|node| (node.name.as_str(), node.port)).collect();
    assert_eq!(
        names,
        [
            ("Bailey", 10099),
            ("Bona", 10044),
            ("Campbell", 10022),
            ("Clark", 10211),
            ("Jaquez", 10194)
        ]
    );
    assert_eq!(neighbors(&config), [&[1, 2][..], &[0, 2, 3], &[0, 1, 4], &[1, 4], &[2, 3]]);
    assert!(config.nodes.iter().all(|node| node.listen == Host::LOOPBACK));
    assert!(config.nodes.iter().all(|node| node.dial == Host::LOOPBACK && !node.seed_compatible));
    assert!(matches!(config.places.provider, ProviderConfig::Offline { file: None }), "no key");
    assert_eq!(config.benchmark.num_clients, 5);
    assert_eq!(config.benchmark.test_duration, Duration::from_secs(5));
    assert_eq!(config.benchmark.timeout, Duration::from_secs(2));
    assert_eq!(config.logging.level, log::LevelFilter::Info);
    assert_eq!(config.logging.format, Format::default());
    assert_eq!(config.logging.benchmark_filename, Some("benchmark.log".into()));
    assert_eq!(config.logging.directory, Path::new("logs"));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.peers.max_clock_offset, Duration::from_secs(5));
    assert!(config.peers.secret.is_none() && config.peers.tls.is_none());
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.node("Clark"), Some(3));
    assert_eq!(config.node("clark"), None);
}

#[test]
fn json_is_yaml() {
    let config = load(
        r#"{
  "api_key": "API_KEY",
  "ports": {"Bailey": 10099, "B\u006fna": 10044},
  "neighbors": {"Bona": ["Bailey"]},
	"benchmark": {"num_clients": 7, "test_duration": 1.5, "timeout": 2}
}"#,
    );
    assert_eq!(config.nodes[1].name, "Bona");
    assert_eq!(neighbors(&config), [[1], [0]]);
    assert_eq!(config.benchmark.num_clients, 7);
    assert_eq!(config.benchmark.test_duration, Duration::from_millis(1500));
    assert_eq!(
        error_in("{\n  \"ports\": {\n    \"Bona\": 0\n  }\n}"),
        "3: field `ports.Bona`: 0 is out of range; use a number from 1 to 65535"
    );
}

#[test]
fn keys_without_a_value_have_their_defaults() {
    let config = pair(
        "api_key:\nhosts:\n  # Bona: x\nplaces:\nlimits:\n  max_line:\nlogging:\npeers:\nbenchmark:\n",
    );
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.nodes[0].dial, Host::LOOPBACK);
}

#[test]
fn malformed_files_are_rejected() {
    for (yaml, error) in [
        ("", "1: field `ports`: is missing; list the nodes: `ports: {Bailey: 10099, Bona: 10044}`"),
        (
            "\n# nothing\n",
            "1: field `ports`: is missing; list the nodes: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        (
            "\nports:\n",
            "2: field `ports`: contains no nodes; list the nodes: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        (
            "\nports: {}\n",
            "2: field `ports`: contains no nodes; list the nodes: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        ("- a\n", "1: is a list, not a mapping; write `key: value` pairs"),
        ("hello\n", "1: is a string, not a mapping; write `key: value` pairs"),
        ("ports: [1]\n", "1: field `ports`: is a list, not a mapping; write `key: value` pairs"),
        (
            "ports:\n  Bona: 1\n  Bona: 2\n",
            "3: field `ports.Bona`: is already set on line 2; remove one of the two",
        ),
        (
            "ports: {A: 1}\n\nports: {B: 1}\n",
            "3: field `ports`: is already set on line 1; remove one of the two",
        ),
        (
            "ports: {A: 1}\n\nneighbers: {}\n",
            "3: field `neighbers`: is unknown; did you mean `neighbors`?",
        ),
        (
            "ports: {A: 1}\nweb: {}\n",
            "2: field `web`: is unknown; remove it or use one of api_key, api_key_file, ports, hosts, neighbors, places, limits, logging, peers, http, devices, storage, fences, feed, benchmark",
        ),
        (
            "ports: {A: 1}\n\nAIzaCanary: 1\n",
            "3: has an unknown key; remove it or use one of api_key, api_key_file, ports, hosts, neighbors, places, limits, logging, peers, http, devices, storage, fences, feed, benchmark",
        ),
        (
            "ports: {A: 1}\nlogging:\n  \"1\": 1\n",
            "3: field `logging`: has an unknown key; remove it or use one of level, filename, format, directory",
        ),
        ("ports: {A: 1}\n---\nports: {B: 1}\n", "3: contains more than one document; keep one"),
        ("ports: {A: 1\n", "1: is not valid YAML: unclosed bracket '{'"),
        ("a:\n  b: c: d\n", "2: is not valid YAML: mapping values are not allowed in this context"),
        ("ports: {~: 1}\n", "1: has a key that is not a string; put it in quotes"),
        ("ports: {A: 1}\n? [a]\n: 1\n", "2: has a key that is not a string; put it in quotes"),
        (
            "ports: {A: !port 1}\n",
            "1: contains a tag that is not supported; remove it, or put the value in quotes",
        ),
    ] {
        assert_eq!(error_in(yaml), error, "{yaml:?}");
    }
}

#[test]
fn an_unreadable_configuration_is_an_error() {
    let directory = TempDir::with(&[]);
    assert_eq!(
        directory.load(&[]).unwrap_err(),
        "herd.yml: does not exist; specify the configuration with -c FILE"
    );
    let directory = TempDir::with(&[("herd.yml", b"ports: {A: 1}\n\n# caf\xe9\n")]);
    assert_eq!(
        directory.load(&[]).unwrap_err(),
        "herd.yml:3: is not valid UTF-8; save the file in that encoding"
    );
    let mut largest = b"ports: {A: 1}\n#".to_vec();
    largest.resize(MAX_CONFIG_BYTES, b'x');
    let directory = TempDir::with(&[("herd.yml", &largest)]);
    assert_eq!(directory.load(&[]).unwrap().nodes.len(), 1);
    largest.push(b'x');
    let directory = TempDir::with(&[("herd.yml", &largest)]);
    assert_eq!(
        directory.load(&[]).unwrap_err(),
        "herd.yml: is larger than 1048576 bytes, too large for a configuration; \
         specify the configuration with -c FILE"
    );
    let directory = TempDir::with(&[]);
    fs::create_dir(directory.0.join("herd.yml")).unwrap();
    assert_eq!(
        directory.load(&[]).unwrap_err(),
        "herd.yml: cannot be read: is a directory; specify the configuration with -c FILE"
    );
}

#[test]
fn nesting_and_repetition_are_bounded() {
    let simplify = "is nested too deeply or repeats too much; simplify it";
    assert_eq!(error_in(&("{a: ".repeat(50) + &"}".repeat(50))), format!("1: {simplify}"));
    assert_eq!(error_in(&"- ".repeat(50)), format!("1: {simplify}"));
    let parser = "is not valid YAML: recursion limit exceeded";
    assert_eq!(error_in(&"[".repeat(50_000)), format!("1: {parser}"));
    // The "billion laughs" attack: every line repeats the previous one nine times.
    let laugh = |n: u32| format!("l{n}: &l{n} [{}]\n", format!("*l{},", n - 1).repeat(9));
    let laughs = (1..12).map(laugh).collect::<Vec<_>>().concat();
    assert!(error_in(&format!("l0: &l0 [ha]\n{laughs}")).ends_with(simplify));
}

#[test]
fn the_shipped_configuration_describes_the_original_herd() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/config.yml");
    let shipped = Config::load(&shipped, &|_| None).unwrap();
    assert_eq!(shipped.nodes, load(ORIGINAL).nodes);
    assert_eq!(shipped.warnings, [""; 0]);
}

#[test]
fn commented_settings_of_the_shipped_file_are_the_defaults() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/config.yml");
    let text = fs::read_to_string(shipped).unwrap();
    // A commented setting begins with `#key:` or `#  key:`, prose with `# `.
    let is_setting = |line: &str| {
        let rest =
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ') || rest.starts_with("  "));
        let key = rest.and_then(|rest| rest.trim_start().split_once(':')).map(|(key, _)| key);
        key.is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_'))
    };
    let uncommented: String = text
        .lines()
        // The file of the fences does not exist.
        .filter(|line| !["#fences:", "#  file: fences.geojson"].contains(line))
        .map(|line| if is_setting(line) { &line[1..] } else { line })
        .fold(String::new(), |all, line| all + line + "\n");
    assert_ne!(uncommented, text);
    let config = load(&uncommented);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.places.limits, limits::PlacesLimits::default());
    assert_eq!(config.peers.limits, limits::PeerLimits::default());
    assert_eq!(config.storage.unwrap().limits, limits::StorageLimits::default());
    assert_eq!(config.nodes, load(ORIGINAL).nodes);
    assert_eq!(config.warnings, [""; 0]);
    for limit in limits::all() {
        assert!(
            uncommented.contains(&format!("\n  {}: {}", limit.key, limit.default)),
            "{}",
            limit.key
        );
    }
}

#[test]
fn the_documentation_describes_every_key() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = fs::read_to_string(path).unwrap();
    let sections = [
        ("places", PlacesConfig::keys()),
        ("limits", keys_with(Limits::TABLE, &[])),
        ("logging", LoggingConfig::KEYS.to_vec()),
        ("peers", PeersConfig::keys()),
        ("http", HttpConfig::KEYS.to_vec()),
        ("devices", DevicesConfig::keys()),
        ("storage", StorageConfig::keys()),
        ("fences", FencesConfig::KEYS.to_vec()),
        ("feed", FeedConfig::KEYS.to_vec()),
        ("benchmark", BenchmarkConfig::KEYS.to_vec()),
    ];
    for key in KEYS {
        match sections.iter().find(|(section, _)| section == key) {
            Some((section, keys)) => {
                let undocumented =
                    keys.iter().find(|key| !text.contains(&format!("\n| `{section}.{key}` |")));
                assert_eq!(undocumented, None, "in section {section}");
            }
            None => assert!(text.contains(&format!("\n| `{key}` |")), "{key}"),
        }
    }
}
