//! The Python servers: each is started by its own process id, is ready when it says so, and ends
//! with the test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{LazyLock, OnceLock};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::common::{Client, DEADLINE, Herd, seconds, wall_ns};

/// What a Python interpreter may need to start on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The key that the emulator takes.
pub const KEY: &str = "EMULATOR_KEY";

/// The interpreter itself, not a script that looks for it: the process that is started is the one
/// that is killed.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let printed = asked.expect("these tests need python3").stdout;
    PathBuf::from(str::from_utf8(&printed).unwrap().trim())
});

fn script(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The directory of certificates that `mint_certs.py` has filled. What is there from an earlier run
/// and still good is kept.
pub fn certificates() -> &'static Path {
    static MINTED: OnceLock<PathBuf> = OnceLock::new();
    MINTED.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates");
        let mut mint = Command::new(&*PYTHON);
        mint.arg(script("scripts/mint_certs.py")).arg(&directory).arg("--hostile");
        let minted = mint.output().unwrap();
        assert!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr));
        directory
    })
}

/// The authority that has signed the servers' certificates.
pub fn authority() -> PathBuf {
    certificates().join("ca.pem")
}

/// A server, from its ready line to its end.
pub struct Server {
    process: Child,
    facts: BTreeMap<String, String>,
    printed: Receiver<String>,
}

impl Server {
    /// The emulator with these options, over TLS.
    pub fn emulator(options: &[&str]) -> Self {
        let (cert, key) = (certificates().join("server.pem"), certificates().join("server.key"));
        let secured = ["--cert", cert.to_str().unwrap(), "--key", key.to_str().unwrap()];
        Self::start("scripts/emulator.py", &[&secured, options].concat())
    }

    /// The hostile server with these options, over TLS unless they say `--plain`.
    pub fn hostile(options: &[&str]) -> Self {
        let certs = ["--certs", certificates().to_str().unwrap()];
        let certs: &[&str] = if options.contains(&"--plain") { &[] } else { &certs };
        Self::start("tests/servers/hostile.py", &[certs, &["--events"], options].concat())
    }

    fn start(path: &str, options: &[&str]) -> Self {
        let mut command = Command::new(&*PYTHON);
        command.arg(script(path)).args(["--max-seconds", "120"]).args(options);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, printed) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return; // the test is over
                }
            }
        });
        let mut server = Self { process, facts: BTreeMap::new(), printed };
        let line = server.printed.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("{path} {options:?} is not ready: {error}"));
        let facts = line.strip_prefix("ready ").unwrap_or_else(|| panic!("{path}: {line}"));
        let pairs = facts.split(' ').map(|fact| fact.split_once('=').unwrap());
        server.facts = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        server
    }

    /// `https://localhost:PORT`
    pub fn url(&self) -> &str {
        &self.facts["url"]
    }

    pub fn port(&self) -> u16 {
        self.url().rsplit(':').next().unwrap().parse().unwrap()
    }

    /// The hostile server's events since it was asked last, up to the first of that name.
    pub fn events_until(&self, name: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        while events.last().is_none_or(|event| event["event"] != name) {
            let line = self.printed.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{error}, no {name} in {events:?}"));
            events.push(serde_json::from_str(&line).unwrap());
        }
        events
    }

    /// Ends the hostile server and gives all its events: it prints one before a client can see of it.
    pub fn end(mut self) -> Vec<Value> {
        let _ = self.process.kill(); // it may have ended by itself
        let events = self.printed.iter().map(|line| serde_json::from_str(&line).unwrap());
        events.collect()
    }

    /// The emulator's counts.
    pub fn stats(&self) -> Value {
        let mut stats = self.control("GET", "stats");
        stats.as_object_mut().unwrap().remove("recent"); // long, and only in the way of a message
        stats
    }

    /// How many requests the emulator has got and not answered.
    pub fn in_flight(&self) -> u64 {
        self.stats()["requests"]["in_flight"]["total"].as_u64().unwrap_or(0)
    }

    /// The last requests to the emulator, one by one.
    pub fn recent(&self) -> Value {
        self.control("GET", "stats")["recent"].take()
    }

    /// Lets the emulator behave otherwise, as in `mode=fail-429&requests=1`.
    pub fn order(&self, mode: &str) {
        self.control("POST", &format!("mode?{mode}"));
    }

    fn control(&self, method: &str, what: &str) -> Value {
        let control = self.facts["control"].strip_prefix("http://127.0.0.1:").unwrap();
        let (port, prefix) = control.split_once('/').unwrap();
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port.parse().unwrap())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0: the answer ends with the connection.
        write!(stream, "{method} /{prefix}/{what} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{method} {what}: {answer}");
        serde_json::from_str(body).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended by itself
        let _ = self.process.wait();
    }
}

/// The configuration of a provider at `url`; `more` are further keys of the section.
pub fn places(provider: &str, url: &str, more: &str) -> String {
    // Google's own path is appended by the node; Overpass's is part of the URL.
    let path = if provider == "overpass" { "/api/interpreter" } else { "" };
    let authority = authority();
    let ca = authority.display();
    format!(
        "api_key: {KEY}\nplaces: {{provider: {provider}, url: \"{url}{path}\", ca_file: \"{ca}\"{}{more}}}",
        if more.is_empty() { "" } else { ", " }
    )
}

/// One running node that asks `provider` at `url`.
pub fn solo(provider: &str, url: &str, more: &str) -> Herd {
    Herd::solo_with(&places(provider, url, more))
}

/// Tells a node of `count` clients, `p0` and on, each about a kilometre from the last.
pub fn scatter(client: &mut Client, count: usize) {
    let now = seconds(wall_ns());
    let line = |i: usize| format!("IAMAT p{i} +34.{:02}-118.{:02} {now}\n", i % 100, i / 100);
    client.send((0..count).map(line).collect::<String>().as_bytes());
    for _ in 0..count {
        assert!(client.line().starts_with(b"AT "));
    }
}

/// The node's counters by name, as they are now.
pub fn counters(herd: &Herd, name: &str) -> BTreeMap<String, u64> {
    let reports = |herd: &Herd| {
        let log = String::from_utf8(herd.log(name)).unwrap();
        // A last line without its end is still being written.
        let whole = &log[..log.rfind('\n').map_or(0, |end| end + 1)];
        let reports = whole.lines().filter_map(|line| line.split_once("counters: "));
        reports.map(|(_, report)| report.to_owned()).collect::<Vec<_>>()
    };
    let before = reports(herd).len();
    herd.signal(name, "USR1");
    let report = crate::common::eventually("a report of counters", DEADLINE, || {
        reports(herd).into_iter().nth(before)
    });
    let pairs = report.split(' ').map(|pair| pair.rsplit_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// A file in the herd's directory.
pub fn write_file(herd: &Herd, name: &str, bytes: &[u8]) -> PathBuf {
    let path = herd.directory().join(name);
    fs::write(&path, bytes).unwrap();
    path
}
