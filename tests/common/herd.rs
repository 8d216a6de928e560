//! A herd of real processes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::Client;
#[cfg(target_os = "linux")]
use super::process::ports_of;
use super::process::{binary, free_port, launched, run, wait_for_exit};
use super::protocol::{seconds, wall_ns};
use super::{DEADLINE, FIVE, eventually};

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

    /// The running nodes that `lsof -ti:PORT` lists for the port of `name`.
    #[cfg(target_os = "linux")]
    pub fn listed_at(&mut self, name: &str) -> Vec<String> {
        let port = self.port(name);
        let names = self.names();
        let running: Vec<_> = names.into_iter().filter(|name| self.is_running(name)).collect();
        running.into_iter().filter(|name| ports_of(self.pid(name)).contains(&port)).collect()
    }

    /// Waits until `lsof -ti:PORT` lists each node at its own port only, if no client is connected.
    #[cfg(target_os = "linux")]
    pub fn wait_until_listed_alone(&mut self) {
        for name in self.names() {
            eventually(&format!("only {name} is listed at its port"), DEADLINE, || {
                (self.listed_at(&name) == [name.as_str()]).then_some(())
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

fn contains_all(line: &str, parts: &[&str]) -> bool {
    let line = line.to_lowercase();
    parts.iter().all(|part| line.contains(&part.to_lowercase()))
}

fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("herd-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).unwrap();
    dir
}
