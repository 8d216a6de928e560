//! Shared by all black-box tests: starts real nodes on free ports and communicates with them over
//! TCP. Nothing here uses the library; expectations come from the protocol specification.

#![allow(dead_code, reason = "each test binary uses a different part of this module")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Timeout for any expected event. It is far longer than any promised latency, so that a loaded
/// machine does not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The nodes of the default configuration and their neighbors.
pub const FIVE: [(&str, &[&str]); 5] = [
    ("Bailey", &["Bona", "Campbell"]),
    ("Bona", &["Bailey", "Clark", "Campbell"]),
    ("Campbell", &["Bailey", "Bona", "Jaquez"]),
    ("Clark", &["Jaquez", "Bona"]),
    ("Jaquez", &["Clark", "Campbell"]),
];

/// Calls `probe` until it returns a value; fails the test after `deadline`.
pub fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < deadline, "timed out after {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(2)); // polling interval
    }
}

/// The wall clock in nanoseconds since the epoch.
pub fn wall_ns() -> i128 {
    i128::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Formats nanoseconds as the decimal seconds of a time field.
pub fn seconds(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// A herd of real processes with its own configuration in a temporary directory. Dropping it kills
/// the processes that still run. If the test fails, the directory and the logs in it are kept.
pub struct Herd {
    dir: PathBuf,
    ports: BTreeMap<String, u16>,
    running: BTreeMap<String, Child>,
    environment: Vec<(String, OsString)>,
    /// Address and launcher command of the nodes for which [`Herd::set_host`] was called.
    hosts: BTreeMap<String, (Ipv4Addr, Vec<String>)>,
}

impl Herd {
    /// Writes the configuration of a herd of `nodes` (name and neighbors) without starting any
    /// node. `extra` is appended to the configuration file.
    pub fn new(nodes: &[(&str, &[&str])], extra: &str) -> Self {
        Self::with_level(nodes, "INFO", extra)
    }

    /// Like [`Herd::new`], with the given `logging.level`.
    pub fn with_level(nodes: &[(&str, &[&str])], level: &str, extra: &str) -> Self {
        let ports = nodes.iter().map(|&(name, _)| (name.to_owned(), free_port())).collect();
        let (dir, running, environment) = (new_directory(), BTreeMap::new(), Vec::new());
        let herd = Self { dir, ports, running, environment, hosts: BTreeMap::new() };
        fs::write(herd.config(), herd.configuration(nodes, level, extra)).unwrap();
        herd
    }

    fn configuration(&self, nodes: &[(&str, &[&str])], level: &str, extra: &str) -> String {
        let mut text = String::from("ports:\n");
        for (name, port) in &self.ports {
            let _ = writeln!(text, "  {name}: {port}");
        }
        text += "neighbors:\n";
        for (name, neighbors) in nodes {
            let _ = writeln!(text, "  {name}: {neighbors:?}");
        }
        let logs = self.dir.join("logs");
        let logs = logs.display();
        let _ = writeln!(text, "logging: {{level: {level}, directory: \"{logs}\"}}\n{extra}");
        text
    }

    /// Starts a herd of one node named `Solo`.
    pub fn solo() -> Self {
        Self::solo_with("")
    }

    /// Like [`Herd::solo`], with `extra` appended to the configuration file.
    pub fn solo_with(extra: &str) -> Self {
        let mut herd = Self::new(&[("Solo", &[])], extra);
        herd.start("Solo");
        herd
    }

    /// Starts the five nodes of the default topology and waits until they are linked.
    pub fn five() -> Self {
        let mut herd = Self::new(&FIVE, "");
        herd.start_all();
        herd.wait_until_connected(&herd.names());
        herd
    }

    /// Runs a node on a host of its own: clients reach it at `address`, `launcher` runs its
    /// command, and `extra` is appended to the configuration of this node only.
    pub fn set_host(&mut self, name: &str, address: Ipv4Addr, launcher: &[&str], extra: &str) {
        let config = fs::read_to_string(self.config()).unwrap() + extra;
        fs::write(self.dir.join(format!("{name}.yml")), config).unwrap();
        let launcher = launcher.iter().map(|&word| word.to_owned()).collect();
        self.hosts.insert(name.to_owned(), (address, launcher));
    }

    pub fn start_all(&mut self) {
        for name in self.names() {
            self.spawn(&name);
        }
        for name in self.names() {
            self.wait_until_accepting(&name);
        }
    }

    /// Starts a node, waits until it accepts connections, and returns how long that took.
    pub fn start(&mut self, name: &str) -> Duration {
        let start = Instant::now();
        self.spawn(name);
        self.wait_until_accepting(name);
        start.elapsed()
    }

    /// Starts a node without waiting until it accepts connections.
    pub fn spawn(&mut self, name: &str) {
        let open = |path| File::options().create(true).append(true).open(path).unwrap();
        let stdout = open(self.dir.join(format!("{name}.stdout")));
        let stderr = open(self.stderr_path(name));
        let mut command = match self.hosts.get(name) {
            None => self.command(&[name]),
            Some((_, launcher)) => {
                launched(launcher, self.command_with(&format!("{name}.yml"), &[name]))
            }
        };
        let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn();
        let earlier = self.running.insert(name.to_owned(), child.unwrap());
        assert!(earlier.is_none(), "{name} is already running");
    }

    fn wait_until_accepting(&mut self, name: &str) {
        let start = Instant::now();
        while TcpStream::connect(self.address(name)).is_err() {
            if let Some(status) = self.running.get_mut(name).unwrap().try_wait().unwrap() {
                panic!("{name} exited with {status} during startup: {}", self.stderr(name));
            }
            assert!(
                start.elapsed() < DEADLINE,
                "{name} does not accept connections: {}",
                self.stderr(name)
            );
            thread::sleep(Duration::from_millis(1)); // polling interval
        }
    }

    /// Sets an environment variable of all processes started from now on.
    pub fn set_environment(&mut self, variable: &str, value: impl Into<OsString>) {
        self.environment.push((variable.to_owned(), value.into()));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_with("config.yml", arguments)
    }

    fn command_with(&self, config: &str, arguments: &[&str]) -> Command {
        let mut command = binary(&self.dir, &[&["-c", config], arguments].concat());
        command.envs(self.environment.iter().map(|(variable, value)| (variable, value)));
        command
    }

    /// Runs the binary with this herd's configuration until it exits.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(self.command(arguments))
    }

    /// Kills a node with SIGKILL, as in a crash.
    pub fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal by its short name (`TERM`, `HUP`, …) to a node.
    pub fn signal(&self, name: &str, signal: &str) {
        let kill = format!("kill -s {signal} {}", self.pid(name)); // a builtin of sh
        assert!(Command::new("sh").arg("-c").arg(kill).status().unwrap().success());
    }

    /// Waits until a node exits.
    pub fn wait(&mut self, name: &str, deadline: Duration) -> ExitStatus {
        let child = self.running.get_mut(name).unwrap();
        let status = wait_for_exit(child, deadline);
        let status = status.unwrap_or_else(|| panic!("{name} did not exit within {deadline:?}"));
        self.running.remove(name);
        status
    }

    pub fn is_running(&mut self, name: &str) -> bool {
        self.running.get_mut(name).is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn names(&self) -> Vec<String> {
        self.ports.keys().cloned().collect()
    }

    pub fn pid(&self, name: &str) -> u32 {
        self.running[name].id()
    }

    pub fn port(&self, name: &str) -> u16 {
        self.ports[name]
    }

    pub fn address(&self, name: &str) -> SocketAddr {
        let address = self.hosts.get(name).map_or(Ipv4Addr::LOCALHOST, |host| host.0);
        (address, self.port(name)).into()
    }

    pub fn client(&self, name: &str) -> Client {
        Client::connect(self.address(name))
    }

    /// Sends `input` on a new connection, half-closes it, and returns all replies.
    pub fn exchange(&self, name: &str, input: &[u8]) -> Vec<u8> {
        self.client(name).exchange(input)
    }

    /// The AT line that a node stores for a client.
    pub fn held(&self, name: &str, client: &str) -> Option<Vec<u8>> {
        self.client(name).held(client.as_bytes())
    }

    /// Waits until every node of `names` stores exactly `line` for `client`.
    pub fn wait_until_held(&self, names: &[String], client: &str, line: &[u8]) {
        for name in names {
            let what = format!("{name} stores {}", line.escape_ascii());
            eventually(&what, DEADLINE, || {
                (self.held(name, client).as_deref() == Some(line)).then_some(())
            });
        }
    }

    /// Waits until an update sent to any node of `names` reaches all the others. Each attempt sends
    /// a new update, because one sent before the links were up may arrive late. One connection per
    /// node is used throughout: a node may accept a connection before it notices that the previous
    /// one has closed, which could exceed a low connection limit.
    pub fn wait_until_connected(&self, names: &[String]) {
        let mut clients: Vec<Client> = names.iter().map(|name| self.client(name)).collect();
        for sender in 0..names.len() {
            let what = format!("an update on {} reaches {names:?}", names[sender]);
            let probe = format!("probe-{}", names[sender]);
            eventually(&what, DEADLINE, || {
                let line = clients[sender].iamat(&probe, "+0+0", &seconds(wall_ns()));
                let arrived = |client: &mut Client| {
                    let start = Instant::now();
                    while start.elapsed() < Duration::from_millis(200) {
                        if client.held(probe.as_bytes()).as_deref() == Some(&line) {
                            return true;
                        }
                        thread::sleep(Duration::from_millis(1)); // polling interval
                    }
                    false
                };
                clients.iter_mut().all(arrived).then_some(())
            });
        }
    }

    /// Connects `count` clients that are served and remain connected, which fills the node.
    pub fn crowd(&self, name: &str, count: usize) -> Vec<Client> {
        let mut crowd = Vec::new();
        eventually("the node is full", DEADLINE, || {
            let mut client = self.client(name); // a connection that has just closed may still be counted
            client.send(b"hello\n");
            if client.line() == b"? hello\n" {
                crowd.push(client);
            }
            (crowd.len() == count).then_some(())
        });
        crowd
    }

    pub fn config(&self) -> PathBuf {
        self.dir.join("config.yml")
    }

    pub fn directory(&self) -> &Path {
        &self.dir
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// The current content of the node's log; empty if there is no log yet.
    pub fn log(&self, name: &str) -> Vec<u8> {
        fs::read(self.log_path(name)).unwrap_or_default()
    }

    /// Waits for a log line that contains all of `parts`, ignoring case, and returns it.
    pub fn wait_for_log(&self, name: &str, parts: &[&str]) -> String {
        let what = format!("a line with {parts:?} in {}", self.log_path(name).display());
        eventually(&what, DEADLINE, || {
            let log = String::from_utf8_lossy(&self.log(name)).into_owned();
            log.lines().find(|line| contains_all(line, parts)).map(str::to_owned)
        })
    }

    /// The complete lines of the log.
    pub fn log_lines(&self, name: &str) -> Vec<String> {
        let log = String::from_utf8_lossy(&self.log(name)).into_owned();
        log.split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'))
            .map(str::to_owned)
            .collect()
    }

    /// The current value of a counter, obtained with SIGUSR1.
    pub fn counter(&self, name: &str, counter: &str) -> u64 {
        let reports = || {
            let is_report = |line: &String| line.contains(" counters: ");
            self.log_lines(name).into_iter().filter(is_report).collect::<Vec<_>>()
        };
        let before = reports().len();
        self.signal(name, "USR1");
        let report = eventually(&format!("{name} logs its counters"), DEADLINE, || {
            reports().into_iter().nth(before)
        });
        let prefix = format!("{counter}=");
        let value = report.split(' ').find_map(|word| word.strip_prefix(&prefix));
        value.unwrap_or_else(|| panic!("no {counter} in {report}")).parse().unwrap()
    }

    fn stderr_path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.stderr"))
    }

    pub fn stderr(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.stderr_path(name)).unwrap_or_default()).into_owned()
    }

    /// The processor time that a node has used, in units of 10 ms; zero if it cannot be determined.
    pub fn cpu_time(&self, name: &str) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid(name)));
        // See proc(5): utime and stime are fields 14 and 15, in ticks of 10 ms on Linux. Fields are
        // counted from the last ')', because the command name in field 2 may contain anything.
        let fields = stat.as_deref().ok().and_then(|stat| stat.rsplit_once(')'));
        let fields = fields.map_or("", |(_, fields)| fields).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(10 * ticks)
    }

    /// Resident memory of a node in KiB.
    #[cfg(target_os = "linux")]
    pub fn resident_kib(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid(name))).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Herd {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill(); // it may have exited already
            let _ = child.wait();
        }
        if thread::panicking() {
            eprintln!("configuration and logs: {}", self.dir.display());
        } else {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// A connection to a node. Reads time out, so that a missing reply fails the test.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).unwrap())
    }

    fn from_stream(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, received: Vec::new() }
    }

    /// Connects with the smallest receive buffer that the kernel allows.
    pub fn connect_narrow(address: SocketAddr) -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(1).unwrap();
        socket.connect(&address.into()).unwrap();
        Self::from_stream(socket.into())
    }

    /// The local address, which identifies the connection in the node's log.
    pub fn address(&self) -> String {
        self.stream.local_addr().unwrap().to_string()
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends from another thread and ignores errors, because the node may close the connection.
    pub fn send_in_background(&self, bytes: Vec<u8>) -> thread::JoinHandle<()> {
        let mut stream = self.stream.try_clone().unwrap();
        thread::spawn(move || {
            let _ = stream.write_all(&bytes);
        })
    }

    /// Like [`Client::send_in_background`], and half-closes the connection afterwards.
    pub fn send_and_half_close_in_background(&self, bytes: Vec<u8>) -> thread::JoinHandle<()> {
        let mut stream = self.stream.try_clone().unwrap();
        thread::spawn(move || {
            let _ = stream.write_all(&bytes);
            let _ = stream.shutdown(Shutdown::Write);
        })
    }

    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Makes dropping this connection send a reset instead of an orderly close.
    pub fn reset_when_dropped(&self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// Reads the next line, including its LF.
    pub fn line(&mut self) -> Vec<u8> {
        self.until(b"\n")
    }

    /// Reads up to and including `end`.
    pub fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.received[searched..], end) {
                return self.received.drain(..searched + at + end.len()).collect();
            }
            searched = self.received.len().saturating_sub(end.len() - 1);
            let more = self.read();
            assert!(more > 0, "end of stream instead of a reply; received: {}", self.seen());
        }
    }

    /// Reads the next `count` bytes.
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.received.len() < count {
            assert!(
                self.read() > 0,
                "end of stream instead of {count} bytes; received: {}",
                self.seen()
            );
        }
        self.received.drain(..count).collect()
    }

    /// Reads until the node closes the connection; a reset fails the test.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.read() > 0 {}
        std::mem::take(&mut self.received)
    }

    fn read(&mut self) -> usize {
        let mut chunk = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(count) => {
                    self.received.extend_from_slice(&chunk[..count]);
                    return count;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error} instead of a reply; received: {}", self.seen()),
            }
        }
    }

    fn seen(&self) -> String {
        let tail = &self.received[self.received.len().saturating_sub(300)..];
        format!("{} unread bytes …{}", self.received.len(), tail.escape_ascii())
    }

    /// Sends `command` followed by LF and returns the next line.
    pub fn ask(&mut self, command: &[u8]) -> Vec<u8> {
        self.send(&[command, b"\n"].concat());
        self.line()
    }

    /// Sends an IAMAT and returns its AT line, including LF.
    pub fn iamat(&mut self, client: &str, location: &str, time: &str) -> Vec<u8> {
        let line = self.ask(format!("IAMAT {client} {location} {time}").as_bytes());
        let own = format!(" {client} {location} {time}\n");
        assert!(line.starts_with(b"AT ") && line.ends_with(own.as_bytes()), "{}", show(&line));
        line
    }

    /// Sends a valid WHATSAT for a known client and returns the reply.
    pub fn whatsat(&mut self, client: &str, radius: &str, max: &str) -> Whatsat {
        self.send(format!("WHATSAT {client} {radius} {max}\n").as_bytes());
        Whatsat::parse(&self.until(b"\n\n"))
    }

    /// The AT line that the node stores for a client, queried without places.
    pub fn held(&mut self, client: &[u8]) -> Option<Vec<u8>> {
        let command = [b"WHATSAT ", client, b" 0 0"].concat();
        let line = self.ask(&command);
        if line.starts_with(b"? ") {
            assert_bytes(&line, &[b"? ", &command[..], b"\n"].concat());
            return None;
        }
        self.until(b"\n\n");
        At::parse(&line);
        Some(line)
    }

    /// Sends `input`, half-closes the connection, and returns all replies.
    pub fn exchange(mut self, input: &[u8]) -> Vec<u8> {
        self.send(input);
        self.half_close();
        self.rest()
    }
}

/// The fields of an AT line.
pub struct At {
    pub server: String,
    /// The clock difference as received.
    pub diff: String,
    /// The clock difference in nanoseconds.
    pub diff_ns: i128,
    /// The bytes copied from the IAMAT: client, location and time.
    pub own: Vec<u8>,
}

impl At {
    /// Parses an AT line and checks its fields against the specification.
    pub fn parse(line: &[u8]) -> Self {
        let body = line.strip_suffix(b"\n").expect("an AT line ends with LF");
        let fields: Vec<&[u8]> = body.splitn(4, |&byte| byte == b' ').collect();
        assert!(fields.len() == 4 && fields[0] == b"AT", "not an AT line: {}", show(line));
        let diff = str::from_utf8(fields[2]).expect("the difference is ASCII").to_owned();
        let digits = diff.strip_prefix(['+', '-']).unwrap_or_else(|| panic!("no sign: {diff}"));
        let (whole, fraction) =
            digits.split_once('.').unwrap_or_else(|| panic!("no decimal point: {diff}"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        assert!(all_digits(whole) && all_digits(fraction), "not a decimal: {diff}");
        assert!(fraction.len() == 9, "not nine decimals: {diff}");
        assert!(whole == "0" || !whole.starts_with('0'), "leading zeros: {diff}");
        let size: i128 = format!("{whole}{fraction}").parse().unwrap();
        assert!(diff != "-0.000000000", "negative zero: {diff}");
        let diff_ns = if diff.starts_with('-') { -size } else { size };
        let server = str::from_utf8(fields[1]).unwrap().to_owned();
        Self { server, diff, diff_ns, own: fields[3].to_vec() }
    }
}

/// A reply to WHATSAT.
pub struct Whatsat {
    /// The AT line, including LF.
    pub at: Vec<u8>,
    pub document: serde_json::Value,
}

impl Whatsat {
    /// Parses a reply and checks its format against the specification.
    pub fn parse(reply: &[u8]) -> Self {
        let body = reply.strip_suffix(b"\n\n").expect("the reply ends with two LFs");
        let end =
            body.iter().position(|&byte| byte == b'\n').expect("a document after the AT line");
        let (at, json) = (&body[..=end], &body[end + 1..]);
        At::parse(at);
        assert!(!json.ends_with(b"\n") && !json.starts_with(b"\n"), "{}", show(reply));
        assert!(
            find(json, b"\n\n").is_none(),
            "an empty line within the document: {}",
            show(reply)
        );
        let blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace);
        assert!(
            !json.split(|&b| b == b'\n').any(blank),
            "a blank line within the document: {}",
            show(reply)
        );
        assert!(json.contains(&b'\n'), "not pretty-printed: {}", show(reply));
        let document: serde_json::Value = serde_json::from_slice(json)
            .unwrap_or_else(|error| panic!("{error} in {}", show(reply)));
        assert!(document["html_attributions"].is_array(), "{document}");
        assert!(document["results"].is_array(), "{document}");
        assert!(document["status"].is_string(), "{document}");
        Self { at: at.to_vec(), document }
    }

    pub fn status(&self) -> &str {
        self.document["status"].as_str().unwrap()
    }

    pub fn results(&self) -> &[serde_json::Value] {
        self.document["results"].as_array().unwrap()
    }

    pub fn names(&self) -> Vec<&str> {
        self.results().iter().map(|place| place["name"].as_str().unwrap()).collect()
    }
}

/// The default of `max_clock_offset` (Δ) in nanoseconds.
pub const DELTA: i128 = 5_000_000_000;

/// The key by which records are ordered; the greater record is the newer one.
pub type Key = (i128, i128, i128, String, Vec<u8>);

/// The key of an AT line with the client time `time_ns`.
pub fn key(line: &[u8], time_ns: i128) -> Key {
    let at = At::parse(line);
    let received = time_ns + at.diff_ns;
    (time_ns.min(received + DELTA), time_ns, received, at.server, line.to_vec())
}

/// The reply to an invalid command; `line` must be trimmed.
pub fn refused(line: &[u8]) -> Vec<u8> {
    [b"? ", line, b"\n"].concat()
}

/// Joins commands, each terminated by LF.
pub fn lines(commands: impl IntoIterator<Item = String>) -> Vec<u8> {
    commands.into_iter().flat_map(|command| (command + "\n").into_bytes()).collect()
}

/// Escapes bytes for messages.
pub fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Asserts that byte strings are equal; escapes them in the failure message.
#[track_caller]
pub fn assert_bytes(got: &[u8], expected: &[u8]) {
    assert!(got == expected, "\n     got: {}\nexpected: {}", show(got), show(expected));
}

/// The position of `needle` in `haystack`.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

fn contains_all(line: &str, parts: &[&str]) -> bool {
    let line = line.to_lowercase();
    parts.iter().all(|part| line.contains(&part.to_lowercase()))
}

fn wait_for_exit(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() >= deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(1)); // polling interval
    }
}

/// The binary with `arguments`, in directory `dir`, without the environment variables that it
/// reads.
pub fn binary(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-herd"));
    command.args(arguments).current_dir(dir);
    for variable in ["GOOGLE_PLACES_API_KEY", "HERD_SECRET", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command
}

/// The command, prefixed with `launcher` unless that is empty.
fn launched(launcher: &[String], command: Command) -> Command {
    let Some((program, arguments)) = launcher.split_first() else { return command };
    let mut launched = Command::new(program);
    launched.args(arguments).arg(command.get_program()).args(command.get_args());
    launched.current_dir(command.get_current_dir().unwrap());
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => launched.env(variable, value),
            None => launched.env_remove(variable),
        };
    }
    launched
}

/// Runs a command until it exits, and fails the test if it does not.
pub fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    if wait_for_exit(&mut child, DEADLINE).is_none() {
        child.kill().unwrap();
        panic!("did not exit within {DEADLINE:?}: {:?}", child.wait_with_output().unwrap());
    }
    child.wait_with_output().unwrap()
}

/// A port on which no process listens. It is below the kernel's ephemeral range, so that an
/// outgoing connection cannot take it before the node does.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 12_000 + ((std::process::id().wrapping_mul(37) + step) % 20_000) as u16;
        let free_4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let free_6 = match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(_) => true,
            Err(error) => error.kind() != io::ErrorKind::AddrInUse, // the machine may not have IPv6
        };
        if free_4 && free_6 {
            return port;
        }
    }
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("herd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}
