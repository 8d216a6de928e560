use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::limits;
use crate::message_log::Format;

/// The file as the seed ships it.
const SEED: &str = r#"api_key: "API_KEY"

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

/// Two nodes with an edge, to which a test adds its own lines. The next line is the third.
const PAIR: &str = "ports: {Bona: 1001, Clark: 1002}\nneighbors: {Bona: [Clark]}\n";

fn load_with(yaml: &str, environment: &[(&str, &str)]) -> Result<Config, Error> {
    let environment: HashMap<_, _> = environment.iter().copied().collect();
    let variable = |name: &str| environment.get(name).map(OsString::from);
    Config::from_bytes(Path::new("herd.yml"), yaml.as_bytes(), &variable)
}

fn load(yaml: &str) -> Config {
    load_with(yaml, &[]).unwrap()
}

/// The pair with more lines behind it.
fn pair(lines: &str) -> Config {
    load(&format!("{PAIR}{lines}"))
}

/// What is wrong with a file, without its name in front.
fn wrong(yaml: &str) -> String {
    let error = load_with(yaml, &[]).unwrap_err().to_string();
    error.strip_prefix("herd.yml:").expect(&error).to_owned()
}

/// What is wrong with lines behind the pair.
fn wrong_pair(lines: &str) -> String {
    wrong(&format!("{PAIR}{lines}"))
}

fn neighbors(config: &Config) -> Vec<&[usize]> {
    config.nodes.iter().map(|node| node.neighbors.as_slice()).collect()
}

fn key(config: &Config) -> Option<&[u8]> {
    match &config.places.provider {
        Provider::Google { key, .. } | Provider::GoogleLegacy { key, .. } => Some(key.expose()),
        Provider::Offline { .. } | Provider::Overpass { .. } => None,
    }
}

/// A folder with a configuration and the files it names, removed again at the end.
struct Folder(PathBuf);

impl Folder {
    fn with(files: &[(&str, &[u8])]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            Self(std::env::temp_dir().join(format!("herd-config-{}-{number}", std::process::id())));
        fs::create_dir(&folder.0).unwrap();
        for (name, content) in files {
            fs::write(folder.0.join(name), content).unwrap();
        }
        folder
    }

    fn load(&self, environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment: HashMap<_, _> = environment.iter().copied().collect();
        let variable = |name: &str| environment.get(name).map(OsString::from);
        Config::load(&self.0.join("herd.yml"), &variable)
            .map_err(|error| error.to_string().replace(&format!("{}/", self.0.display()), ""))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_seeds_file_loads_as_it_is() {
    let config = load(SEED);
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
    assert!(matches!(config.places.provider, Provider::Offline { file: None }), "no key");
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
        wrong("{\n  \"ports\": {\n    \"Bona\": 0\n  }\n}"),
        "3: field `ports.Bona`: 0 is out of range; write one from 1 to 65535"
    );
}

#[test]
fn what_is_commented_out_is_at_its_default() {
    let config = pair(
        "api_key:\nhosts:\n  # Bona: x\nplaces:\nlimits:\n  max_line:\nlogging:\npeers:\nbenchmark:\n",
    );
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.nodes[0].dial, Host::LOOPBACK);
}

#[test]
fn the_shape_of_the_file() {
    for (yaml, error) in [
        (
            "",
            "1: field `ports`: is missing; list the nodes under it: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        (
            "\n# nothing\n",
            "1: field `ports`: is missing; list the nodes under it: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        (
            "\nports:\n",
            "2: field `ports`: names no node; list the nodes under it: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        (
            "\nports: {}\n",
            "2: field `ports`: names no node; list the nodes under it: `ports: {Bailey: 10099, Bona: 10044}`",
        ),
        ("- a\n", "1: is a list, not a mapping; write `key: value` pairs"),
        ("hello\n", "1: is text, not a mapping; write `key: value` pairs"),
        ("ports: [1]\n", "1: field `ports`: is a list, not a mapping; write `key: value` pairs"),
        (
            "ports:\n  Bona: 1\n  Bona: 2\n",
            "3: field `ports.Bona`: is already on line 2; remove one of the two",
        ),
        (
            "ports: {A: 1}\n\nports: {B: 1}\n",
            "3: field `ports`: is already on line 1; remove one of the two",
        ),
        (
            "ports: {A: 1}\n\nneighbours: {}\n",
            "3: field `neighbours`: is unknown; did you mean `neighbors`?",
        ),
        (
            "ports: {A: 1}\nweb: {}\n",
            "2: field `web`: is unknown; remove it, known here are api_key, api_key_file, ports, hosts, neighbors, places, limits, logging, peers, http, benchmark",
        ),
        (
            "ports: {A: 1}\n\nAIzaCanary: 1\n",
            "3: has an unknown key; remove it, known here are api_key, api_key_file, ports, hosts, neighbors, places, limits, logging, peers, http, benchmark",
        ),
        (
            "ports: {A: 1}\nlogging:\n  \"1\": 1\n",
            "3: field `logging`: has an unknown key; remove it, known here are level, filename, format, directory",
        ),
        ("ports: {A: 1}\n---\nports: {B: 1}\n", "3: holds more than one document; keep one"),
        ("ports: {A: 1\n", "1: is not valid YAML: unclosed bracket '{'"),
        ("a:\n  b: c: d\n", "2: is not valid YAML: mapping values are not allowed in this context"),
        ("ports: {~: 1}\n", "1: has a key that is no text; put it in quotes"),
        ("ports: {A: 1}\n? [a]\n: 1\n", "2: has a key that is no text; put it in quotes"),
        ("ports: {A: !port 1}\n", "1: is not valid YAML: unsupported tag `!port`"),
    ] {
        assert_eq!(wrong(yaml), error, "{yaml:?}");
    }
}

#[test]
fn the_nodes() {
    let long = format!("ports: {{{}: 1}}\n", "x".repeat(65));
    for (yaml, error) in [
        (
            "ports:\n  A:\n",
            "2: field `ports.A`: is nothing, not a whole number; write one from 1 to 65535",
        ),
        (
            "ports:\n  A: 65536\n",
            "2: field `ports.A`: 65536 is out of range; write one from 1 to 65535",
        ),
        (
            "ports:\n  A:\n    -1\n",
            "3: field `ports.A`: -1 is out of range; write one from 1 to 65535",
        ),
        (
            "ports:\n  A: 99999999999999999999999999999999999999999\n",
            "2: field `ports.A`: is a decimal number, not a whole number; write one from 1 to 65535",
        ),
        (
            "ports:\n  A: 1.5\n",
            "2: field `ports.A`: is a decimal number, not a whole number; write one from 1 to 65535",
        ),
        (
            "ports:\n  A: \"80\"\n",
            "2: field `ports.A`: is text, not a whole number; write one from 1 to 65535, without quotes",
        ),
        (
            "ports:\n  A: true\n",
            "2: field `ports.A`: is a truth value, not a whole number; write one from 1 to 65535",
        ),
        (
            "ports:\n  A: [80]\n",
            "2: field `ports.A`: is a list, not a whole number; write one from 1 to 65535",
        ),
        ("ports: {\"\": 1}\n", "1: field `ports.`: is empty; a node needs a name"),
        (
            "ports: {a b: 1}\n",
            "1: field `ports.a b`: holds white space or a control character; a node's name is one field of AT lines",
        ),
        (
            "ports: {\"a\\u00a0b\": 1}\n",
            "1: field `ports.a\\u{a0}b`: holds white space or a control character; a node's name is one field of AT lines",
        ),
        (
            "ports: {\"a\\e\": 1}\n",
            "1: field `ports.a\\u{1b}`: holds white space or a control character; a node's name is one field of AT lines",
        ),
        (
            "ports: {../a: 1}\n",
            "1: field `ports.../a`: holds a /; a node's name is the name of its log file",
        ),
        (
            &long,
            &format!(
                "1: field `ports.{}`: is 65 bytes long; a node's name has at most 64",
                "x".repeat(65)
            ),
        ),
        (
            "ports:\n  A: 80\n  B: 80\n",
            "3: field `ports.B`: port 80 of 127.0.0.1 is also that of A; give each node its own, or name their machines under `hosts`",
        ),
        (
            "ports: {A: 80, B: 80}\nhosts: {A: \"::1\", B: \"[0:0::1]\"}\n",
            "1: field `ports.B`: port 80 of [::1] is also that of A; give each node its own, or name their machines under `hosts`",
        ),
    ] {
        assert_eq!(wrong(yaml), error, "{yaml:?}");
    }
    let herd = |nodes: usize| {
        (0..nodes)
            .fold("ports:\n".to_owned(), |yaml, node| yaml + &format!("  n{node}: {}\n", node + 1))
    };
    assert_eq!(load(&herd(1000)).nodes.len(), 1000);
    assert_eq!(wrong(&herd(1001)), "1: field `ports`: names 1001 nodes; a herd has at most 1000");
}

#[test]
fn unusual_names_are_names() {
    let config = load("ports: {No: 1, 007: 2, \"1\": 3, Ñandú: 4}\nneighbors: {No: [007, \"1\", Ñandú, \"No\"]}\n".replace(", \"No\"]", "]").as_str());
    let names: Vec<_> = config.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["No", "007", "1", "Ñandú"]);
    assert_eq!(config.nodes[0].neighbors, [1, 2, 3]);
    let longest = "x".repeat(64);
    assert_eq!(load(&format!("ports: {{{longest}: 1}}")).nodes[0].name, longest);
}

#[test]
fn the_edges() {
    let ports = "ports: {A: 1, Bona: 2, C: 3}\n";
    let config = load(&format!("{ports}neighbors:\n  C: [Bona, A, A]\n  Bona: [C]\n  A:\n"));
    assert_eq!(neighbors(&config), [&[2][..], &[2], &[0, 1]], "symmetric, sorted, once");
    for (lines, error) in [
        (
            "neighbors:\n  A: [bona]\n",
            "3: field `neighbors.A[0]`: there is no node `bona`; give it a port under `ports` or correct the name; did you mean `Bona`?",
        ),
        (
            "neighbors:\n  A: [\n    C,\n    Goloman]\n",
            "5: field `neighbors.A[1]`: there is no node `Goloman`; give it a port under `ports` or correct the name",
        ),
        (
            "neighbors:\n  Holiday: [A]\n",
            "3: field `neighbors.Holiday`: there is no node `Holiday`; give it a port under `ports` or correct the name",
        ),
        (
            "neighbors:\n  C: [A, C]\n",
            "3: field `neighbors.C[1]`: C is its own neighbour; remove it",
        ),
        (
            "neighbors:\n  A: Bona\n",
            "3: field `neighbors.A`: is text, not a list; write its items in brackets: [a, b]",
        ),
        (
            "neighbors:\n  A: [1]\n",
            "3: field `neighbors.A[0]`: is a whole number, not text; put it in quotes",
        ),
        (
            "neighbors:\n  A: [~]\n",
            "3: field `neighbors.A[0]`: is nothing, not text; write one value",
        ),
        (
            "neighbors: [A]\n",
            "2: field `neighbors`: is a list, not a mapping; write `key: value` pairs",
        ),
        (
            "neighbors:\n  A: [C]\n  A: [Bona]\n",
            "4: field `neighbors.A`: is already on line 3; remove one of the two",
        ),
    ] {
        assert_eq!(wrong(&format!("{ports}{lines}")), error, "{lines:?}");
    }
}

#[test]
fn a_herd_in_parts_is_a_warning() {
    let config = load("ports: {A: 1, B: 2, C: 3, D: 4}\nneighbors:\n  B: [A]\n  C: [D]\n");
    assert_eq!(
        config.warnings,
        [
            "herd.yml:2: field `neighbors`: no path of neighbors leads from A to C, D; they will not share locations"
        ]
    );
    let config = load("ports: {A: 1, B: 2}\n");
    assert_eq!(
        config.warnings,
        ["herd.yml:1: no path of neighbors leads from A to B; they will not share locations"]
    );
    assert_eq!(load("ports: {A: 1}").warnings, [""; 0]);
}

#[test]
fn the_hosts() {
    let hosts = |lines: &str| {
        let config = pair(lines);
        let Node { listen, dial, .. } = &config.nodes[0];
        (listen.to_string(), dial.to_string())
    };
    let both = |host: &str| (host.to_owned(), host.to_owned());
    assert_eq!(hosts("hosts: {Bona: 10.0.0.1}"), both("10.0.0.1"));
    assert_eq!(hosts("hosts: {Bona: \"::1\"}"), both("[::1]"));
    assert_eq!(hosts("hosts: {Bona: \"[::1]\"}"), both("[::1]"));
    assert_eq!(hosts("hosts: {Bona: Bona.example}"), both("bona.example"));
    assert_eq!(hosts("hosts: {Bona: {dial: bona}}"), both("bona"));
    assert_eq!(hosts("hosts: {Bona: {listen: 10.0.0.1}}"), both("10.0.0.1"));
    assert_eq!(hosts("hosts: {Bona: {}}"), both("127.0.0.1"));
    assert_eq!(
        hosts("hosts: {Bona: {listen: 0.0.0.0, dial: bona}}"),
        ("0.0.0.0".to_owned(), "bona".to_owned())
    );
    for (lines, error) in [
        (
            "hosts:\n  Bona: 1.2.3\n",
            "4: field `hosts.Bona`: is not a valid host; use an IPv4 or IPv6 address or a host name",
        ),
        (
            "hosts:\n  Bona: 1.5\n",
            "4: field `hosts.Bona`: is a decimal number, not text; put it in quotes",
        ),
        (
            "hosts:\n  Bona: {listen: \"a b\"}\n",
            "4: field `hosts.Bona.listen`: is not a valid host; use an IPv4 or IPv6 address or a host name",
        ),
        (
            "hosts:\n  Bona: {lisen: a}\n",
            "4: field `hosts.Bona.lisen`: is unknown; did you mean `listen`?",
        ),
        (
            "hosts:\n  Bonna: a\n",
            "4: field `hosts.Bonna`: there is no node `Bonna`; give it a port under `ports` or correct the name; did you mean `Bona`?",
        ),
        (
            "hosts:\n  Bona: \"::\"\n",
            "4: field `hosts.Bona`: [::] can be listened on, but not dialled; write {listen: [::], dial: ADDRESS} with the address others reach it by",
        ),
        (
            "hosts:\n  Bona: {listen: 0.0.0.0}\n",
            "4: field `hosts.Bona`: 0.0.0.0 can be listened on, but not dialled; write {listen: 0.0.0.0, dial: ADDRESS} with the address others reach it by",
        ),
    ] {
        assert_eq!(wrong_pair(lines), error, "{lines:?}");
    }
    // One port on two machines is what most herds look like.
    load(
        "ports: {A: 80, B: 80}\nhosts: {A: {listen: 0.0.0.0, dial: a}, B: {listen: 0.0.0.0, dial: b}}",
    );
}

#[test]
fn links_that_will_be_refused_are_a_warning() {
    let yaml = format!("{PAIR}hosts: {{Clark: clark.example}}\n");
    let warning = "herd.yml:3: field `hosts`: Clark is at clark.example, which is not this machine, \
                   but the herd has no secret, so links with it will be refused; \
                   set HERD_SECRET in the environment, peers.secret_file or peers.tls";
    assert_eq!(load(&yaml).warnings, [warning]);
    let config = load_with(&yaml, &[("HERD_SECRET", "hush\n")]).unwrap();
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.peers.secret.unwrap().expose(), b"hush");
}

#[test]
fn every_number_is_taken_and_its_range_kept() {
    for limit in limits::all() {
        let limits::Limit { section, key, min, max, .. } = limit;
        let lines = |value: u64| {
            let companion = match *key {
                "max_in_flight" => "\n  pool_size: 256",
                "keepalive_ms" => "\n  timeout_ms: 600000",
                "timeout_ms" => "\n  keepalive_ms: 50",
                "max_pending_whatsat" => "\n  max_pending_whatsat_per_connection: 1",
                "max_pending_whatsat_per_connection" => "\n  max_pending_whatsat: 1000000",
                _ => "",
            };
            format!("{section}:\n  {key}: {value}{companion}\n")
        };
        pair(&lines(*min));
        pair(&lines(*max));
        let refused = |value: u64| {
            let range = limit.range();
            format!("4: field `{section}.{key}`: {value} is out of range; write one {range}")
        };
        assert_eq!(wrong_pair(&lines(max + 1)), refused(max + 1));
        if limit.allows(0) {
            pair(&lines(0));
        } else {
            assert_eq!(wrong_pair(&lines(min - 1)), refused(min - 1));
        }
    }
    let config = pair("limits: {max_line: 512, idle_timeout_s: 90}\npeers: {redial_max_ms: 500}\n");
    assert_eq!(config.limits.max_line, 512);
    assert_eq!(config.limits.idle_timeout, Some(Duration::from_secs(90)));
    assert_eq!(config.peers.limits.redial_max, Duration::from_millis(500));
}

#[test]
fn limits_that_void_each_other() {
    let idle = "timeout_ms must be at least twice keepalive_ms, or links break that are merely idle; raise the one or lower the other";
    for (lines, error) in [
        ("peers:\n  timeout_ms: 1999\n", format!("4: field `peers.timeout_ms`: {idle}")),
        ("peers:\n  keepalive_ms: 2501\n", format!("4: field `peers.keepalive_ms`: {idle}")),
    ] {
        assert_eq!(wrong_pair(lines), error, "{lines:?}");
    }
    let over = pair("places:\n  max_in_flight: 9\n");
    let told = "4: field `places.max_in_flight`: 9 requests need as many connections, pool_size is 8, and so are they; raise pool_size or lower this";
    assert!(over.warnings.iter().any(|warning| warning.ends_with(told)), "{:?}", over.warnings);
    pair(
        "peers: {timeout_ms: 2000}\nlimits: {max_pending_whatsat: 128}\nplaces: {max_in_flight: 8}\n",
    );
}

#[test]
fn the_log() {
    let config = pair(
        "logging: {level: warn, directory: /var/log/herd, format: \"%(name)s %(message)s\"}\n",
    );
    assert_eq!(config.logging.level, log::LevelFilter::Warn);
    assert_eq!(config.logging.directory, Path::new("/var/log/herd"));
    assert_eq!(Ok(config.logging.format), "%(name)s %(message)s".parse());
    for (name, level) in [
        ("DEBUG", log::LevelFilter::Debug),
        ("Info", log::LevelFilter::Info),
        ("warning", log::LevelFilter::Warn),
        ("ERROR", log::LevelFilter::Error),
        ("CRITICAL", log::LevelFilter::Error),
    ] {
        assert_eq!(pair(&format!("logging: {{level: {name}}}")).logging.level, level);
    }
    for (lines, error) in [
        (
            "logging:\n  level: TRACE\n",
            "4: field `logging.level`: is not a valid level; use DEBUG, INFO, WARNING, ERROR or CRITICAL",
        ),
        (
            "logging:\n  level: 20\n",
            "4: field `logging.level`: is a whole number, not text; put it in quotes",
        ),
        (
            "logging:\n  format: \"%(lineno)d\"\n",
            "4: field `logging.format`: `%(lineno)d` is not a supported field; use %(asctime)s, %(levelname)s, %(name)s, %(message)s, or %% for a percent sign",
        ),
        (
            "logging:\n  format: \"%(name)s\"\n",
            "4: field `logging.format`: does not contain %(message)s; add it",
        ),
        (
            "logging:\n  directory: \"\"\n",
            "4: field `logging.directory`: is empty; enter a path or remove the line",
        ),
        (
            "logging:\n  directory: \"a\\0\"\n",
            "4: field `logging.directory`: contains a NUL character; correct the path",
        ),
        (
            "logging:\n  filenam: x\n",
            "4: field `logging.filenam`: is unknown; did you mean `filename`?",
        ),
    ] {
        assert_eq!(wrong_pair(lines), error, "{lines:?}");
    }
}

#[test]
fn the_benchmark_and_the_clock() {
    let config = pair("peers: {max_clock_offset: 0.25}\nbenchmark: {timeout: 0.5}\n");
    assert_eq!(config.peers.max_clock_offset, Duration::from_millis(250));
    assert_eq!(config.benchmark.timeout, Duration::from_millis(500));
    assert_eq!(pair("peers: {max_clock_offset: 0}").peers.max_clock_offset, Duration::ZERO);
    for (lines, error) in [
        (
            "peers:\n  max_clock_offset: -1\n",
            "4: field `peers.max_clock_offset`: -1 is out of range; write seconds from 0 to 86400",
        ),
        (
            "peers:\n  max_clock_offset: 5s\n",
            "4: field `peers.max_clock_offset`: is text, not a number; write seconds from 0 to 86400",
        ),
        (
            "peers:\n  max_clock_offset: 1e999\n",
            "4: is not valid YAML: non-finite float `1e999` rejected by the configured policy",
        ),
        (
            "benchmark:\n  timeout: 0\n",
            "4: field `benchmark.timeout`: 0 is out of range; write seconds from 0.001 to 86400",
        ),
        (
            "benchmark:\n  num_clients: 0\n",
            "4: field `benchmark.num_clients`: 0 is out of range; write one from 1 to 1000000",
        ),
        (
            "benchmark:\n  num_client: 0\n",
            "4: field `benchmark.num_client`: is unknown; did you mean `num_clients`?",
        ),
    ] {
        assert_eq!(wrong_pair(lines), error, "{lines:?}");
    }
}

#[test]
fn the_seeds_among_the_nodes() {
    let config = pair("peers: {seed_compatible: [Clark]}\n");
    assert_eq!(config.nodes.iter().map(|it| it.seed_compatible).collect::<Vec<_>>(), [false, true]);
    assert_eq!(
        wrong_pair("peers:\n  seed_compatible: [Bona, clark]\n"),
        "4: field `peers.seed_compatible[1]`: there is no node `clark`; give it a port under `ports` or correct the name; did you mean `Clark`?"
    );
}

#[test]
fn who_knows_the_places() {
    let provider = |lines: &str, environment: &[(&str, &str)]| {
        let config = load_with(&format!("{PAIR}{lines}"), environment).unwrap();
        let url = config.places.provider.server().map(|server| server.url.to_string());
        (config.places.provider.name(), url.unwrap_or_default())
    };
    let env = &[("GOOGLE_PLACES_API_KEY", "k")][..];
    let google = "https://places.googleapis.com".to_owned();
    assert_eq!(provider("", &[]), ("offline", String::new()));
    assert_eq!(provider("", env), ("google", google.clone()));
    assert_eq!(provider("api_key: k", &[]), ("google", google.clone()));
    assert_eq!(provider("places: {provider: offline}", env), ("offline", String::new()));
    assert_eq!(provider("places: {provider: google}", env), ("google", google));
    assert_eq!(
        provider("places: {provider: google_legacy}", env),
        ("google_legacy", "https://maps.googleapis.com".to_owned())
    );
    assert_eq!(
        provider("places: {provider: overpass}", &[]),
        ("overpass", "https://overpass-api.de/api/interpreter".to_owned())
    );
    let emulator = "places: {provider: google, url: \"http://127.0.0.1:8080/emulator/\"}";
    assert_eq!(provider(emulator, env), ("google", "http://127.0.0.1:8080/emulator".to_owned()));
    for (lines, error) in [
        (
            "places:\n  provider: google\n",
            "4: field `places.provider`: needs an API key; set GOOGLE_PLACES_API_KEY in the environment, `api_key_file` or `api_key`, or choose offline or overpass",
        ),
        (
            "api_key: API_KEY\nplaces:\n  provider: google_legacy\n",
            "5: field `places.provider`: needs an API key; set GOOGLE_PLACES_API_KEY in the environment, `api_key_file` or `api_key`, or choose offline or overpass",
        ),
        (
            "places:\n  provider: overpas\n",
            "4: field `places.provider`: is no provider; write offline, google, google_legacy or overpass; did you mean `overpass`?",
        ),
        (
            "api_key: k\nplaces:\n  url: http://proxy.example\n",
            "5: field `places.url`: sends the API key unencrypted over the network; write https://, plain http:// is for a server on this machine",
        ),
        (
            "api_key: k\nplaces:\n  url: proxy.example\n",
            "5: field `places.url`: has no valid scheme; start it with https:// or http://",
        ),
        (
            "places:\n  keys: k\n",
            "4: field `places.keys`: is unknown; remove it, known here are provider, url, ca_file, file, deadline_ms, pool_size, cache_ttl_s, cache_entries, max_in_flight, max_queued, requests_per_second, requests_per_day",
        ),
    ] {
        assert_eq!(wrong_pair(lines), error, "{lines:?}");
    }
    // No key is sent there.
    pair("places: {provider: overpass, url: \"http://overpass.example/api/interpreter\"}\n");
}

#[test]
fn answers_are_kept_by_provider() {
    let ttl = |lines: &str| pair(lines).places.limits.cache_ttl;
    assert_eq!(ttl("api_key: k"), None);
    assert_eq!(ttl("api_key: k\nplaces: {cache_ttl_s: 30}"), Some(Duration::from_secs(30)));
    assert_eq!(ttl("places: {provider: overpass}"), Some(Duration::from_hours(1)));
    assert_eq!(ttl("places: {provider: overpass, cache_ttl_s: 0}"), None);
}

#[test]
fn keys_without_effect_are_a_warning() {
    assert_eq!(
        pair("places:\n  url: https://a.example\n").warnings,
        ["herd.yml:4: field `places.url`: has no effect with provider offline"]
    );
    assert_eq!(
        pair("places:\n  provider: overpass\n  file: own.csv\n").warnings,
        ["herd.yml:5: field `places.file`: has no effect with provider overpass"]
    );
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_value() {
    let yaml = format!("{PAIR}api_key: from-value\napi_key_file: key.txt\n");
    let folder = Folder::with(&[("herd.yml", yaml.as_bytes()), ("key.txt", b"from-file\r\n")]);
    let env = &[("GOOGLE_PLACES_API_KEY", "from-environment")];
    assert_eq!(key(&folder.load(env).unwrap()).unwrap(), b"from-environment");
    assert_eq!(key(&folder.load(&[]).unwrap()).unwrap(), b"from-file");
    assert_eq!(key(&pair("api_key: from-value")).unwrap(), b"from-value");

    let yaml = format!("{PAIR}peers: {{secret_file: secret}}\n");
    let folder = Folder::with(&[("herd.yml", yaml.as_bytes()), ("secret", b"\x00\xff\n")]);
    let secret = |environment| folder.load(environment).unwrap().peers.secret.unwrap();
    assert_eq!(secret(&[]).expose(), b"\x00\xff");
    assert_eq!(secret(&[("HERD_SECRET", "hush")]).expose(), b"hush");
}

#[test]
fn the_placeholder_is_no_key_wherever_it_stands() {
    assert_eq!(key(&pair("api_key: API_KEY")), None);
    let config = load_with(PAIR, &[("GOOGLE_PLACES_API_KEY", "API_KEY")]).unwrap();
    assert_eq!(config.places.provider.name(), "offline");
}

#[test]
fn keys_and_secrets_that_are_none() {
    let not_a_key =
        "holds a space, a line end or another character that no key has; copy the key again";
    for (lines, error) in [
        (
            "api_key: \"\"\n",
            "3: field `api_key`: is empty; give a key or remove the line".to_owned(),
        ),
        (
            "api_key: 123\n",
            "3: field `api_key`: is a whole number, not text; put it in quotes".to_owned(),
        ),
        ("api_key: \"canary\\r\\nHost: x\"\n", format!("3: field `api_key`: {not_a_key}")),
        ("api_key: \"canary \"\n", format!("3: field `api_key`: {not_a_key}")),
        ("api_key: canäry\n", format!("3: field `api_key`: {not_a_key}")),
    ] {
        assert_eq!(wrong_pair(lines), error, "{lines:?}");
    }
    let env = |name, value| load_with(PAIR, &[(name, value)]).unwrap_err().to_string();
    assert_eq!(
        env("GOOGLE_PLACES_API_KEY", "canary\nx"),
        format!("environment variable GOOGLE_PLACES_API_KEY: {not_a_key}")
    );
    for name in ["GOOGLE_PLACES_API_KEY", "HERD_SECRET"] {
        let error = format!("environment variable {name}: is empty; give it a value or unset it");
        assert_eq!(env(name, ""), error);
        assert_eq!(env(name, "\n"), error);
    }
}

#[test]
fn files_are_found_beside_the_configuration() {
    let yaml = format!(
        "{PAIR}places: {{provider: overpass, ca_file: ca.pem}}\n\
         peers: {{tls: {{certificate: ca.pem, key: ca.pem, ca: ca.pem}}}}\n"
    );
    let folder = Folder::with(&[("herd.yml", yaml.as_bytes()), ("ca.pem", b"-")]);
    let config = folder.load(&[]).unwrap();
    let pem = folder.0.join("ca.pem");
    assert_eq!(config.places.provider.server().unwrap().ca_file.as_ref(), Some(&pem));
    assert_eq!(config.peers.tls.unwrap().key_of("Bona"), pem);

    let yaml = format!("{PAIR}places: {{file: own.csv}}\n");
    let folder = Folder::with(&[("herd.yml", yaml.as_bytes()), ("own.csv", b"-")]);
    match folder.load(&[]).unwrap().places.provider {
        Provider::Offline { file } => assert_eq!(file, Some(folder.0.join("own.csv"))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_that_cannot_be_used() {
    let missing = "cannot be read: No such file or directory (os error 2); correct the path, it is relative to the configuration";
    let secret = "name one that holds only the secret";
    for (lines, error) in [
        ("places: {provider: overpass, ca_file: no.pem}\n", format!("`places.ca_file`: no.pem {missing}")),
        ("places: {file: no.csv}\n", format!("`places.file`: no.csv {missing}")),
        ("places: {file: .}\n", "`places.file`: . cannot be read: is a directory; correct the path, it is relative to the configuration".to_owned()),
        ("peers: {tls: {certificate: no, key: no, ca: no}}\n", format!("`peers.tls.certificate`: no {missing}")),
        ("peers: {tls: {certificate: empty, key: empty}}\n", "`peers.tls.ca`: is missing; certificate, key and ca are all needed".to_owned()),
        ("api_key_file: canary\n", format!("`api_key_file`: names a file that cannot be read: No such file or directory (os error 2); {secret}")),
        ("api_key_file: empty\n", "`api_key_file`: names an empty file; write the secret into it".to_owned()),
        ("peers: {secret_file: empty}\n", "`peers.secret_file`: names an empty file; write the secret into it".to_owned()),
        ("peers: {secret_file: large}\n", format!("`peers.secret_file`: names a file of more than 4096 bytes; {secret}")),
        ("api_key_file: lines\n", "`api_key_file`: holds a space, a line end or another character that no key has; copy the key again".to_owned()),
    ] {
        let yaml = format!("{PAIR}{lines}");
        let folder = Folder::with(&[
            ("herd.yml", yaml.as_bytes()),
            ("empty", b"\n"),
            ("large", &[b'x'; 4097]),
            ("lines", b"canary\nX-Header: x\n"),
        ]);
        let said = folder.load(&[]).unwrap_err();
        assert_eq!(said, format!("herd.yml:3: field {error}"), "{lines:?}");
        assert!(!said.contains("canary"));
    }
}

#[test]
fn the_file_itself() {
    let folder = Folder::with(&[]);
    assert_eq!(
        folder.load(&[]).unwrap_err(),
        "herd.yml: there is no such file; name the configuration with -c FILE"
    );
    let folder = Folder::with(&[("herd.yml", b"ports: {A: 1}\n\n# caf\xe9\n")]);
    assert_eq!(
        folder.load(&[]).unwrap_err(),
        "herd.yml:3: is not UTF-8; save the file with that encoding"
    );
    let mut largest = b"ports: {A: 1}\n#".to_vec();
    largest.resize(MAX_CONFIG_BYTES, b'x');
    let folder = Folder::with(&[("herd.yml", &largest)]);
    assert_eq!(folder.load(&[]).unwrap().nodes.len(), 1);
    largest.push(b'x');
    let folder = Folder::with(&[("herd.yml", &largest)]);
    assert_eq!(
        folder.load(&[]).unwrap_err(),
        "herd.yml: is larger than 1048576 bytes, so it is no configuration; \
         name the configuration with -c FILE"
    );
    let folder = Folder::with(&[]);
    fs::create_dir(folder.0.join("herd.yml")).unwrap();
    assert_eq!(
        folder.load(&[]).unwrap_err(),
        "herd.yml: cannot be read: is a directory; name the configuration with -c FILE"
    );
}

#[test]
fn nesting_and_repetition_are_bounded() {
    let simplify = "nests deeper or repeats more than a configuration needs; simplify it";
    assert_eq!(wrong(&("{a: ".repeat(50) + &"}".repeat(50))), format!("1: {simplify}"));
    assert_eq!(wrong(&"- ".repeat(50)), format!("1: {simplify}"));
    let parser = "is not valid YAML: recursion limit exceeded";
    assert_eq!(wrong(&"[".repeat(50_000)), format!("1: {parser}"));
    // Every line repeats the line before nine times.
    let laugh = |n: u32| format!("l{n}: &l{n} [{}]\n", format!("*l{},", n - 1).repeat(9));
    let laughs = (1..12).map(laugh).collect::<Vec<_>>().concat();
    assert!(wrong(&format!("l0: &l0 [ha]\n{laughs}")).ends_with(simplify));
}

#[test]
fn the_shipped_configuration_loads_and_is_the_seeds_herd() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/config.yml");
    let shipped = Config::load(&shipped, &|_| None).unwrap();
    assert_eq!(shipped.nodes, load(SEED).nodes);
    assert_eq!(shipped.warnings, [""; 0]);
}

/// What is commented out in the shipped file are the defaults, and it can be put to use by
/// taking away the `#`.
#[test]
fn the_shipped_comments_are_valid_and_the_defaults() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/config.yml");
    let text = fs::read_to_string(shipped).unwrap();
    // A commented setting is `#key:` with no space between; prose is `# like this`.
    let uncommented: String = text
        .lines()
        .map(|line| match line.trim_start().strip_prefix('#') {
            Some(setting) if !setting.starts_with([' ', '#']) && !setting.is_empty() => {
                line.replacen('#', "", 1) + "\n"
            }
            _ => line.to_owned() + "\n",
        })
        .collect();
    assert_ne!(uncommented, text);
    let config = load(&uncommented);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.places.limits, limits::PlacesLimits::default());
    assert_eq!(config.peers.limits, limits::PeerLimits::default());
    assert_eq!(config.nodes, load(SEED).nodes);
    assert_eq!(config.warnings, [""; 0]);
    for limit in limits::all() {
        assert!(
            uncommented.contains(&format!("  {}: {}", limit.key, limit.default)),
            "{}",
            limit.key
        );
    }
}

#[test]
fn http_is_off_unless_ports_are_named() {
    assert_eq!(load(SEED).http, None);
    assert_eq!(pair("http:\n").http, None);
    let http = pair("http: {ports: {Clark: 8001}}\n").http.unwrap();
    assert_eq!((http.ports.as_slice(), &http.listen), (&[None, Some(8001)][..], &Host::LOOPBACK));
    assert_eq!((http.cors_origin, http.tiles), (None, None));
    let all = "http: {ports: {Bona: 8000}, listen: \"::\", hosts: [Map.example, 10.0.0.1], \
               cors_origin: \"https://b.example\", \
               tiles: {url: \"https://t.example:8/{z}/{x}/{y}.png\", attribution: \"© T\"}}\n";
    let http = pair(all).http.unwrap();
    assert!(http.listen.is_unspecified());
    assert_eq!(http.hosts, ["map.example", "10.0.0.1"].map(|host| host.parse::<Host>().unwrap()));
    assert_eq!(http.cors_origin.as_deref(), Some("https://b.example"));
    let tiles = http.tiles.unwrap();
    assert_eq!((tiles.origin.as_str(), tiles.attribution.as_str()), ("https://t.example:8", "© T"));
}

#[test]
fn what_is_wrong_with_http() {
    for (http, expected) in [
        ("{}", "field `http.ports`: is missing; name the port of each node: {Bailey: 8099}"),
        ("{ports: {Clerk: 1}}", "field `http.ports.Clerk`: there is no node `Clerk`"),
        ("{ports: {Bona: 0}}", "field `http.ports.Bona`: 0 is out of range"),
        ("{ports: {Bona: 1001}}", "port 1001 is also the port of Bona itself; choose another"),
        ("{ports: {Bona: 1002}}", "port 1002 is also the port of Clark itself; choose another"),
        ("{ports: {Bona: 80, Clark: 80}}", "port 80 is also that of Bona; choose another"),
        ("{ports: {Bona: 80}, hosts: [\"a:1\"]}", "field `http.hosts[0]`: is not a valid host"),
        ("{ports: {Bona: 80}, cors_origin: \"https://a/b\"}", "is more than an origin"),
        ("{ports: {Bona: 80}, cors_origin: a.example}", "has no valid scheme"),
        ("{ports: {Bona: 80}, tiles: {url: \"https://a/{z}/{x}.png\"}}", "is no address of tiles"),
        ("{ports: {Bona: 80}, tiles: {url: \"https://a;/{z}/{x}/{y}\"}}", "is no address of tiles"),
        ("{ports: {Bona: 80}, tiles: {}}", "field `http.tiles.url`: is missing"),
        ("{port: {Bona: 80}}", "did you mean `ports`?"),
    ] {
        let error = wrong(&format!("{PAIR}http: {http}\n"));
        assert!(error.starts_with("3: ") && error.contains(expected), "{http}: {error}");
    }
    // Different machines have their own ports.
    let hosts = "hosts: {Bona: 10.0.0.1, Clark: 10.0.0.2}\npeers: {secret_file: }\n";
    assert!(pair(&format!("{hosts}http: {{ports: {{Bona: 80, Clark: 80}}}}\n")).http.is_some());
}

/// What a quote makes part of a name is not shown with it.
#[test]
fn a_name_that_swallows_a_secret_does_not_tell_it() {
    let swallowed = "B: 2}\nplaces: {url: https://canary:x@a.example}\nhosts: {C";
    for text in [
        format!("ports: {{A: 1, '{swallowed}': 3}}\n"),
        format!("ports: {{A: 1}}\nneighbors: {{'{swallowed}': [A]}}\n"),
        format!("ports: {{A: 1}}\nneighbors: {{A: ['{swallowed}']}}\n"),
        format!("ports: {{A: 1}}\nhttp: {{ports: {{'{swallowed}': 3}}}}\n"),
    ] {
        let error = Config::from_bytes(Path::new("f"), text.as_bytes(), &|_| None).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("B…") && !error.contains("canary"), "{error}");
    }
}

/// A file with every section, for mutation.
const FULL: &str = r#"api_key: "canary-key"
ports: {Bailey: 10099, Bona: 10044, Clark: 10211}
neighbors: {Bailey: [Bona], Clark: ["Bona", Bailey]}
hosts: {Bona: {listen: 0.0.0.0, dial: bona.example}, Clark: "[::1]"}
places: {provider: google, url: "https://canary-user:x@a.example/p", deadline_ms: 100}
limits: &l {max_line: 0x200, idle_timeout_s: 1}
logging: {level: INFO, format: "%(asctime)s %(message)s"}
peers: {max_clock_offset: 1.5, seed_compatible: [Clark], timeout_ms: 9000}
http: {ports: {Bona: 8044}, listen: 0.0.0.0, hosts: [a.example], cors_origin: "https://b.example"}
benchmark: {num_clients: 5, test_duration: 5, timeout: 2}
"#;

proptest! {
    #[test]
    fn no_bytes_make_the_loader_panic(
        bytes in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..512),
            "[ -~\t\n]{0,200}".prop_map(String::into_bytes),
        ],
    ) {
        let _ = Config::from_bytes(Path::new("f"), &bytes, &|_| None);
    }

    #[test]
    fn no_slip_makes_the_loader_panic_or_tell_a_secret(
        edits in proptest::collection::vec(
            (0..FULL.len(), 0..8_usize, "[\\[\\]{}:,#&*!|>'\"%@`~ \t\na0.<?-]{0,4}"),
            1..6,
        ),
    ) {
        let mut text = FULL.to_owned();
        for (at, removed, inserted) in edits {
            let start = at.min(text.len());
            let end = (start + removed).min(text.len());
            text.replace_range(start..end, &inserted);
        }
        match Config::from_bytes(Path::new("f"), text.as_bytes(), &|_| None) {
            Err(error) => prop_assert!(!error.to_string().contains("canary"), "{}", error),
            Ok(config) => {
                let shown = format!("{config:?}");
                prop_assert!(!shown.contains("canary-key"), "{}", shown);
            }
        }
    }

    #[test]
    fn edges_have_two_ends(
        lists in proptest::collection::vec(proptest::collection::vec(0..8_usize, 0..8), 8),
    ) {
        let mut yaml = String::from("ports: {n0: 1, n1: 2, n2: 3, n3: 4, n4: 5, n5: 6, n6: 7, n7: 8}\nneighbors:\n");
        for (node, list) in lists.iter().enumerate() {
            let names: Vec<_> = list.iter().filter(|&&it| it != node).map(|it| format!("n{it}")).collect();
            let _ = writeln!(yaml, "  n{node}: [{}]", names.join(", "));
        }
        let config = load(&yaml);
        for (a, node) in config.nodes.iter().enumerate() {
            prop_assert!(node.neighbors.is_sorted_by(|x, y| x < y));
            for b in 0..8 {
                let listed = a != b && (lists[a].contains(&b) || lists[b].contains(&a));
                prop_assert_eq!(node.neighbors.contains(&b), listed);
            }
        }
    }
}
