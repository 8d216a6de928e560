//! `--forget`: a client is erased from the whole herd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Client, DEADLINE, FIVE, Herd, eventually, seconds, wall_ns};

/// The promise: time from the new link of a node that was away until no node shows the client.
const FORGOTTEN_AFTER_RELINK: Duration = Duration::from_secs(1);

const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `--forget` and asserts that the client was forgotten.
fn forget(herd: &Herd, arguments: &[&str]) {
    let output = herd.run(&[&["--forget"], arguments].concat());
    assert_eq!(stdout(&output), format!("forgotten: {}\n", arguments[0]), "{output:?}");
    assert!(output.status.success());
}

/// Runs `--forget` and asserts that it fails with one line that contains `reason`.
fn fail(herd: &Herd, arguments: &[&str], reason: &str) {
    let output = herd.run(&[&["--forget"], arguments].concat());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{error}");
    assert!(error.contains(reason) && error.trim_end().lines().count() == 1, "{error}");
}

fn wait_until_gone(herd: &Herd, names: &[String], client: &str) {
    for name in names {
        eventually(&format!("{name} forgets {client}"), DEADLINE, || {
            herd.held(name, client).is_none().then_some(())
        });
    }
}

/// Five nodes under load, of which one is killed before the command and started after it from files that
/// hold the client.
#[test]
fn a_client_is_forgotten_by_five_nodes_of_which_one_was_away() {
    let mut herd = Herd::new(&FIVE, "storage: {directory: data, sync: never}");
    herd.start_all();
    let names = herd.names();
    herd.wait_until_connected(&names);
    let load = Load::start(herd.address("Bailey"));
    // The best of some attempts, since the machine may be loaded.
    let mut fastest = Duration::MAX;
    for attempt in 1..=5 {
        let client = format!("kiwi-{attempt}");
        let old = herd.client("Bona").iamat(&client, "+12.345+6.789", &seconds(wall_ns()));
        herd.wait_until_held(&names, &client, &old);
        herd.kill("Campbell");
        forget(&herd, &[&client, "Clark"]);
        assert_eq!(herd.held("Clark", &client), None, "at once on the node that was asked");
        let others: Vec<String> =
            names.iter().filter(|name| *name != "Campbell").cloned().collect();
        wait_until_gone(&herd, &others, &client);
        fail(&herd, &[&client, "Bailey"], &format!("Bailey does not know the client {client}"));
        herd.start("Campbell");
        // It accepts clients before it is linked.
        let started = Instant::now();
        wait_until_gone(&herd, &names, &client);
        fastest = fastest.min(started.elapsed());
        if fastest < FORGOTTEN_AFTER_RELINK {
            break;
        }
    }
    assert!(fastest < FORGOTTEN_AFTER_RELINK, "{fastest:?}");
    println!("gone from all nodes {fastest:?} after the start of the one that was away");
    herd.wait_until_connected(&names);
    for name in &names {
        assert_eq!(herd.held(name, "kiwi-1"), None, "{name}");
        let stale = herd.exchange(name, b"IAMAT kiwi-1 +1+1 1000000000\n");
        assert!(stale.starts_with(b"AT "), "an older update is answered");
        assert_eq!(herd.held(name, "kiwi-1"), None, "and changes nothing on {name}");
    }
    load.stop();
    for name in &names {
        assert!(!files_with(&herd, name, "kiwi-1 +12.345+6.789").is_empty(), "{name}");
        compact(&mut herd, name);
        eventually(&format!("the files of {name} do not contain the client"), DEADLINE, || {
            files_with(&herd, name, "kiwi-1 +12.345+6.789").is_empty().then_some(())
        });
        assert_eq!(herd.held(name, "kiwi-1"), None);
    }
    herd.wait_until_connected(&names);
    let new = herd.client("Campbell").iamat("kiwi-1", "+2+2", &seconds(wall_ns()));
    herd.wait_until_held(&names, "kiwi-1", &new);
}

/// A client that sends updates of many others until it is stopped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<()>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut client = Client::connect(address);
            for step in 0_u64.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                client.iamat(&format!("van-{}", step % 100), "+1+1", &seconds(wall_ns()));
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Restarts a node so that it replaces its files by a snapshot, because it finds damage.
fn compact(herd: &mut Herd, name: &str) {
    herd.signal(name, "TERM");
    assert!(herd.wait(name, DEADLINE).success());
    std::fs::remove_file(herd.directory().join("data").join(name).join("MANIFEST")).unwrap();
    herd.start(name);
}

#[test]
fn the_first_node_that_answers_is_asked() {
    let mut herd = Herd::new(&PAIR, "");
    fail(&herd, &["k"], "Left cannot be reached");
    herd.start("Right");
    herd.client("Right").iamat("k", "+1+1", "5");
    forget(&herd, &["k"]);
    fail(&herd, &["k"], "Right does not know the client k");
    fail(&herd, &["k", "Left"], "Left cannot be reached");
    // An IAMAT with this name would be longer than a line, and so would the command be.
    fail(&herd, &[&"x".repeat(4090)], "no client has a name of more than 4089 bytes");
    fail(&herd, &[&"x".repeat(4089)], "Right does not know the client x");
    for (arguments, reason) in [
        (&["k", "Nobody"][..], "there is no node `Nobody`"),
        (&["a b"], "one field"),
        (&[""], "one field"),
        (&["k", "Left", "Right"], "more than one node"),
    ] {
        let output = herd.run(&[&["--forget"], arguments].concat());
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains(reason), "{output:?}");
    }
    let log = herd.wait_for_log("Right", &["> FORGOTTEN k"]);
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn only_an_administrator_that_knows_the_secret_can_forget() {
    let mut herd = Herd::new(&PAIR, "");
    herd.set_environment("HERD_SECRET", "correct horse");
    herd.start_all();
    herd.client("Left").iamat("k", "+1+1", "5");
    assert_eq!(herd.exchange("Left", b"FORGET k\n"), b"? FORGET k\n");
    assert_eq!(
        herd.exchange("Left", b"IAMAT x +1+1 1\nFORGET k\n").split(|&b| b == b'\n').nth(1),
        Some(&b"? FORGET k"[..])
    );
    // Without a proof, the command is taken for a wrong one.
    let hello = format!("HERD 2 - Left 0 {} secret 0 1 0 0 0 -\nFORGET k\n", "0".repeat(32));
    let answer = herd.exchange("Left", hello.as_bytes());
    assert!(answer.starts_with(b"HERD 2 Left - "), "{}", answer.escape_ascii());
    assert!(!answer.windows(9).any(|at| at == b"FORGOTTEN"));
    herd.wait_for_log("Left", &["refused as an administrator: its proof is wrong"]);
    herd.set_environment("HERD_SECRET", "battery staple");
    fail(&herd, &["k", "Left"], "Left does not answer");
    let config = herd.config();
    let mut command = Command::new(env!("CARGO_BIN_EXE_proxy-herd"));
    command.arg("-c").arg(&config).args(["--forget", "k", "Left"]).env_remove("HERD_SECRET");
    let error = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(error.contains("this node has a secret"), "{error}");
    assert!(herd.held("Left", "k").is_some());
    herd.set_environment("HERD_SECRET", "correct horse");
    forget(&herd, &["k", "Left"]);
    assert_eq!(herd.held("Left", "k"), None);
}

#[test]
fn a_certificate_of_any_node_admits_an_administrator() {
    let mut herd = Herd::new(&PAIR, "");
    let directory = create_certificates(&herd, &["Left", "Right"]);
    let path = directory.display();
    let tls = format!(
        "peers: {{tls: {{certificate: \"{path}/{{name}}.pem\", key: \"{path}/{{name}}.key\", \
         ca: \"{path}/ca.pem\"}}}}\n"
    );
    let config = std::fs::read_to_string(herd.config()).unwrap();
    std::fs::write(herd.config(), config.clone() + &tls).unwrap();
    herd.start_all();
    herd.client("Left").iamat("k", "+1+1", "5");
    forget(&herd, &["k", "Left"]);
    assert_eq!(herd.held("Left", "k"), None);
    herd.client("Left").iamat("k", "+1+1", &seconds(wall_ns()));
    // The certificate of the other node suffices, and no certificate does not.
    std::fs::rename(directory.join("Left.key"), directory.join("away")).unwrap();
    forget(&herd, &["k", "Left"]);
    herd.client("Left").iamat("k", "+1+1", &seconds(wall_ns()));
    std::fs::write(herd.config(), config).unwrap();
    fail(&herd, &["k", "Left"], "it does not speak TLS");
    assert!(herd.held("Left", "k").is_some());
}

/// The files of a node that contain this text.
fn files_with(herd: &Herd, name: &str, text: &str) -> Vec<PathBuf> {
    let folder = herd.directory().join("data").join(name);
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let contains = |path: &PathBuf| {
        let content = std::fs::read(path).unwrap_or_default();
        content.windows(text.len()).any(|window| window == text.as_bytes())
    };
    files.filter(contains).collect()
}

#[test]
fn an_erased_client_leaves_the_files_and_does_not_return_from_them() {
    let storage = "storage: {directory: data, sync: never}";
    let mut herd = Herd::new(&PAIR, storage);
    herd.start_all();
    let names = herd.names();
    herd.wait_until_connected(&names);
    let old = herd.client("Left").iamat("kiwi", "+12.345+6.789", &seconds(wall_ns()));
    herd.wait_until_held(&names, "kiwi", &old);
    let place = "kiwi +12.345+6.789";
    assert!(names.iter().all(|name| !files_with(&herd, name, place).is_empty()));
    // One node is killed before the command, the other one after it.
    herd.kill("Right");
    forget(&herd, &["kiwi", "Left"]);
    herd.kill("Left");
    herd.start("Left");
    assert_eq!(herd.held("Left", "kiwi"), None, "the tombstone is in the files");
    herd.start("Right");
    wait_until_gone(&herd, &names, "kiwi");
    herd.wait_until_connected(&names);
    wait_until_gone(&herd, &names, "kiwi");
    for name in &names {
        compact(&mut herd, name);
        eventually(&format!("the files of {name} do not contain the client"), DEADLINE, || {
            files_with(&herd, name, place).is_empty().then_some(())
        });
        assert_eq!(herd.held(name, "kiwi"), None);
    }
    herd.wait_until_connected(&names);
    let new = herd.client("Right").iamat("kiwi", "+2+2", &seconds(wall_ns()));
    herd.wait_until_held(&names, "kiwi", &new);
}

/// A node marks its files with the time. One that was down for longer than tombstones live starts
/// empty.
#[test]
fn a_node_with_old_files_starts_empty_and_logs_it() {
    let config = "storage: {directory: data, sync: never}\nlimits: {forget_keep_s: 1}";
    let mut herd = Herd::solo_with(config);
    herd.client("Solo").iamat("kiwi", "+1+1", "5");
    eventually("a mark of the wall clock is written", DEADLINE, || {
        (!files_with(&herd, "Solo", " T 1").is_empty()).then_some(())
    });
    herd.signal("Solo", "TERM");
    assert!(herd.wait("Solo", DEADLINE).success());
    thread::sleep(Duration::from_millis(1100)); // the time that is too long
    herd.start("Solo");
    herd.wait_for_log("Solo", &["limits.forget_keep_s", "starts empty"]);
    assert_eq!(herd.held("Solo", "kiwi"), None);
    // They are set aside for as long as tombstones live, and a day at most.
    eventually("the old files are deleted", DEADLINE, || {
        files_with(&herd, "Solo", "kiwi").is_empty().then_some(())
    });
}

#[test]
fn an_erased_client_is_gone_from_the_http_side_and_subscribers_are_informed() {
    let port = common::free_port();
    let http = format!("http: {{ports: {{Right: {port}}}}}");
    let mut herd = Herd::new(&PAIR, &http);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let old = herd.client("Left").iamat("kiwi", "+1+1", &seconds(wall_ns()));
    herd.wait_until_held(&herd.names(), "kiwi", &old);
    let get = |path: &str| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let read = |path: &str| {
        let mut response = String::new();
        get(path).read_to_string(&mut response).unwrap();
        response
    };
    assert!(read("/api/clients/kiwi").starts_with("HTTP/1.1 200"));
    let mut events = BufReader::new(get("/events")).lines().map(Result::unwrap);
    assert!(events.any(|line| line == "event: ready"));
    forget(&herd, &["kiwi", "Left"]);
    assert!(events.any(|line| line == "event: forget"));
    assert!(events.next().unwrap().starts_with("id: "));
    assert_eq!(events.next().unwrap(), "data: {\"id\":\"kiwi\"}");
    assert!(read("/api/clients/kiwi").starts_with("HTTP/1.1 404"));
    for listing in ["/api/clients", "/api/clients?bbox=0,0,2,2"] {
        assert!(!read(listing).contains("kiwi"), "{listing}");
    }
    let metrics = read("/metrics");
    for sample in ["proxy_herd_tombstones 1\n", "proxy_herd_clients 2\n"] {
        assert!(metrics.contains(sample), "{sample}");
    }
}

/// Creates a certificate authority and certificates for these nodes.
fn create_certificates(herd: &Herd, names: &[&str]) -> PathBuf {
    let directory = herd.directory().join("certificates");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/mint_certs.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(&directory).arg("--herd").args(names);
    let output = command.output().expect("these tests require python3 and openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    directory
}
