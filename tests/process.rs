//! The node as a process: its configuration, its start and end, signals, and its log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod common;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use common::{
    At, Client, DEADLINE, FIVE, Herd, assert_bytes, binary, eventually, lines, run, show,
};

/// The promise: a node that is told to end has ended this long after.
const PROMISED_END: Duration = Duration::from_secs(2);

/// What the tests allow for it, since a loaded machine is no fault of the product.
const END: Duration = DEADLINE;

/// The configuration as the seed ships it.
const SEED: &str = r#"api_key: "API_KEY"
ports: {Bailey: 10099, Bona: 10044, Campbell: 10022, Clark: 10211, Jaquez: 10194}
neighbors:
  Bailey: ["Bona", "Campbell"]
  Bona: ["Bailey", "Clark", "Campbell"]
  Campbell: ["Bailey", "Bona", "Jaquez"]
  Clark: ["Jaquez", "Bona"]
  Jaquez: ["Clark", "Campbell"]
benchmark: {num_clients: 5, test_duration: 5, timeout: 2}
logging: {level: "INFO", filename: "benchmark.log", format: "%(asctime)s - %(levelname)s - %(message)s"}
"#;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

// Configuration

#[test]
fn the_seeds_configuration_loads_unchanged() {
    let herd = Herd::new(&FIVE, ""); // for its directory
    fs::write(herd.directory().join("seed.yml"), SEED).unwrap();
    let check = run(binary(herd.directory(), &["-c", "seed.yml", "--check"]));
    assert_eq!(check.status.code(), Some(0), "{}", text(&check.stderr));
    let shown = text(&check.stdout);
    for (name, port) in [
        ("Bailey", "10099"),
        ("Bona", "10044"),
        ("Campbell", "10022"),
        ("Clark", "10211"),
        ("Jaquez", "10194"),
    ] {
        assert!(shown.contains(name) && shown.contains(port), "{name} {port} in {shown}");
    }
}

#[test]
fn json_is_yaml() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    let json = serde_json::json!({
        "ports": {"Solo": herd.port("Solo")},
        "neighbors": {"Solo": []},
        "logging": {"level": "INFO", "directory": herd.directory().join("logs")},
    });
    fs::write(herd.config(), json.to_string()).unwrap();
    herd.start("Solo");
    assert_bytes(&herd.client("Solo").ask(b"hello"), b"? hello\n");
}

#[test]
fn an_error_in_the_configuration_names_file_line_and_field() {
    let herd = Herd::new(&FIVE, "");
    let broken = SEED.replace(r#"Clark: ["Jaquez", "Bona"]"#, r#"Clark: ["Jaquez", "Bono"]"#);
    fs::write(herd.directory().join("broken.yml"), broken).unwrap();
    for arguments in [&["-c", "broken.yml", "--check"][..], &["-c", "broken.yml", "Clark"]] {
        let output = run(binary(herd.directory(), arguments));
        assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}", output.status);
        let stderr = text(&output.stderr);
        for part in ["broken.yml", "7", "neighbors", "Clark", "Bono"] {
            assert!(stderr.contains(part), "{part} in {stderr}");
        }
    }
    let output = run(binary(herd.directory(), &["-c", "missing.yml", "Clark"]));
    assert!(matches!(output.status.code(), Some(1 | 2)), "{:?}", output.status);
    assert!(text(&output.stderr).contains("missing.yml"));
}

// Start

#[test]
fn a_port_in_use_is_one_clear_line_and_exit_1() {
    let mut herd = Herd::solo();
    let output = herd.run(&["Solo"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&herd.port("Solo").to_string()), "{stderr}");
    assert!(herd.is_running("Solo"), "the one that has the port is not disturbed");
    assert_bytes(&herd.client("Solo").ask(b"hello"), b"? hello\n");
}

/// The promise is 50 ms for a release build on an idle machine; here it is printed, and only what
/// no build and no machine excuses is a failure.
#[test]
fn a_node_accepts_soon_after_its_start() {
    let mut times: Vec<Duration> = (0..11)
        .map(|_| {
            let mut herd = Herd::new(&[("Solo", &[])], "");
            herd.start("Solo")
        })
        .collect();
    times.sort();
    println!("start to accepting: fastest {:?}, median {:?}", times[0], times[times.len() / 2]);
    assert!(times[0] < Duration::from_millis(500), "{times:?}");
}

#[test]
fn a_node_may_be_started_again_at_once() {
    let mut herd = Herd::solo();
    for round in 0..5 {
        let mut client = herd.client("Solo");
        client.iamat("kiwi", "+1+1", "1");
        herd.signal("Solo", "TERM"); // the node closes first: its port is left in TIME_WAIT
        assert_bytes(&client.rest(), b"");
        assert_eq!(herd.wait("Solo", END).code(), Some(0));
        herd.start("Solo");
        assert_eq!(herd.held("Solo", "kiwi"), None, "a node that starts is empty, round {round}");
    }
}

// Signals

#[test]
fn term_and_int_end_a_node_with_exit_0() {
    let mut quickest = END;
    for signal in ["TERM", "INT"] {
        let mut herd = Herd::solo();
        let mut idle = herd.client("Solo");
        assert_bytes(&idle.ask(b"hello"), b"? hello\n");
        let mut half = herd.client("Solo");
        half.send(b"IAMAT half +1+1 1");
        assert_bytes(&herd.client("Solo").ask(b"fence"), b"? fence\n");
        let sent = Instant::now();
        herd.signal("Solo", signal);
        let status = herd.wait("Solo", END);
        println!("{signal}: ended {:?} later", sent.elapsed());
        quickest = quickest.min(sent.elapsed());
        assert_eq!(status.code(), Some(0), "{}", herd.stderr("Solo"));
        assert_bytes(&idle.rest(), b""); // an orderly end, not a reset
    }
    assert!(quickest < PROMISED_END, "{quickest:?}");
}

#[test]
fn all_of_a_herd_ends() {
    let mut herd = Herd::five();
    let _idle: Vec<Client> = herd.names().iter().map(|name| herd.client(name)).collect();
    for name in herd.names() {
        herd.signal(&name, "TERM");
    }
    for name in herd.names() {
        assert_eq!(herd.wait(&name, END).code(), Some(0), "{name}: {}", herd.stderr(&name));
    }
}

/// The kernel takes so little of a client's replies that the node itself has to hold the rest.
const SHALLOW: &str = "limits: {send_buffer: 4096}";

/// More replies than the kernel takes for a client that has not read yet, all of them executed.
fn owe_replies(herd: &Herd) -> (Client, Vec<String>) {
    let name = "n".repeat(70);
    let own: Vec<String> = (0..1800).map(|i| format!("{name}{i} +1+1 {i}")).collect();
    let mut client = Client::connect_narrow(herd.address("Solo"));
    client.send(&lines(own.iter().map(|own| format!("IAMAT {own}"))));
    eventually("the last command is executed", DEADLINE, || {
        herd.held("Solo", &format!("{name}{}", own.len() - 1))
    });
    (client, own)
}

#[test]
fn replies_that_are_owed_arrive_before_the_end() {
    for signal in ["TERM", "INT"] {
        let mut herd = Herd::solo_with(SHALLOW);
        let (mut client, own) = owe_replies(&herd);
        herd.signal("Solo", signal);
        for own in own {
            assert_bytes(&At::parse(&client.line()).own, own.as_bytes());
        }
        assert_bytes(&client.rest(), b"");
        assert_eq!(herd.wait("Solo", END).code(), Some(0));
    }
}

#[test]
fn a_client_that_never_reads_does_not_hold_up_the_end() {
    let end = || {
        let mut herd = Herd::solo_with(SHALLOW);
        let (client, _) = owe_replies(&herd);
        let more = client.send_in_background(b"hello\n".repeat(1 << 20));
        let sent = Instant::now();
        herd.signal("Solo", "TERM");
        let status = herd.wait("Solo", END);
        let took = sent.elapsed();
        println!("ended {took:?} later");
        assert_eq!(status.code(), Some(0));
        more.join().unwrap();
        took
    };
    // Each of them keeps the promise; a loaded machine may break it, but not three times.
    assert!((0..3).any(|_| end() < PROMISED_END));
}

#[test]
fn hup_reopens_the_log() {
    let mut herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("before", "+1+1", "1");
    herd.wait_for_log("Solo", &["IAMAT before +1+1 1"]);
    let moved = herd.directory().join("moved.log");
    fs::rename(herd.log_path("Solo"), &moved).unwrap();
    herd.signal("Solo", "HUP");
    eventually("a new log file", DEADLINE, || herd.log_path("Solo").exists().then_some(()));
    client.iamat("after", "+1+1", "1"); // the connection outlives the signal
    herd.wait_for_log("Solo", &["IAMAT after +1+1 1"]);
    let moved = String::from_utf8(fs::read(moved).unwrap()).unwrap();
    assert!(moved.contains("IAMAT before") && !moved.contains("IAMAT after"), "{moved}");
    assert!(!text(&herd.log("Solo")).contains("IAMAT before"));
    for _ in 0..20 {
        herd.signal("Solo", "HUP"); // nothing was moved: the file goes on where it is
    }
    client.iamat("later", "+1+1", "1");
    herd.wait_for_log("Solo", &["IAMAT later +1+1 1"]);
    assert!(text(&herd.log("Solo")).contains("IAMAT after"));
    assert!(herd.is_running("Solo"));
}

// The log

#[test]
fn the_log_holds_every_command_and_reply_with_the_connections_address() {
    let mut herd = Herd::solo();
    let mut client = herd.client("Solo");
    let address = client.address();
    let commands: Vec<String> = (0..300)
        .map(|i| match i % 3 {
            0 => format!("IAMAT kiwi +34.07-118.45 {i}"),
            1 => format!("WHATSAT kiwi 10 {}", i % 20 + 1),
            _ => format!("hello {i}"),
        })
        .collect();
    let mut replies = Vec::new();
    for command in &commands {
        let mut reply = client.ask(command.as_bytes());
        if command.starts_with("WHATSAT") {
            client.until(b"\n\n");
        }
        reply.pop();
        replies.push(text(&reply));
    }
    client.half_close();
    assert_bytes(&client.rest(), b"");
    herd.signal("Solo", "TERM");
    assert_eq!(herd.wait("Solo", END).code(), Some(0)); // everything is written by its end
    let log = text(&herd.log("Solo"));
    let of_connection: Vec<&str> = log.lines().filter(|line| line.contains(&address)).collect();
    let mut rest = &of_connection[..];
    let mut next = |part: &str| {
        let at = rest.iter().position(|line| line.contains(part));
        let at = at.unwrap_or_else(|| panic!("{part} after its forerunners in {of_connection:#?}"));
        rest = &rest[at + 1..];
    };
    next("open");
    for (command, reply) in commands.iter().zip(&replies) {
        next(command);
        next(reply);
    }
    next("clos");
}

#[test]
fn a_stale_update_is_marked_in_the_log() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let address = client.address();
    client.iamat("kiwi", "+1+1", "10");
    client.iamat("kiwi", "+2+2", "11");
    client.ask(b"fence");
    herd.wait_for_log("Solo", &[&address, "fence"]);
    assert!(!text(&herd.log("Solo")).to_lowercase().contains("stale"), "both were news");
    client.iamat("kiwi", "+3+3", "9");
    herd.wait_for_log("Solo", &[&address, "stale"]);
}

/// In a line of nodes each record is sent once over each edge, and never back.
#[test]
fn the_log_names_peers_and_holds_every_flood_sent_and_received() {
    let mut herd = Herd::new(&[("Left", &["Middle"]), ("Middle", &["Right"]), ("Right", &[])], "");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let line = herd.client("Left").iamat("kiwi", "+1+1", "5");
    herd.wait_until_held(&herd.names(), "kiwi", &line);
    let record = text(line.trim_ascii_end());
    herd.wait_for_log("Left", &["Middle", &record]);
    herd.wait_for_log("Middle", &["Right", &record]);
    herd.wait_for_log("Right", &["Middle", &record]);
    // A later record is everywhere: what an echo of the first would have left is in the logs.
    let fence = herd.client("Right").iamat("fence", "+1+1", "5");
    herd.wait_until_held(&herd.names(), "fence", &fence);
    for name in herd.names() {
        herd.wait_for_log(&name, &[&text(fence.trim_ascii_end())]);
    }
    for (name, floods) in [("Left", 1), ("Middle", 2), ("Right", 1)] {
        let log = text(&herd.log(name));
        // Lines about clients carry the record as well, as replies; they have an address.
        let of_peers = |line: &&str| line.contains(&record) && !line.contains("127.0.0.1:");
        let lines: Vec<&str> = log.lines().filter(of_peers).collect();
        assert_eq!(lines.len(), floods, "{name}: {lines:#?}");
    }
    let before = herd.log("Middle").len();
    herd.kill("Right");
    eventually("the end of the link is in the log", DEADLINE, || {
        let log = herd.log("Middle");
        text(&log[before..]).lines().any(|line| line.contains("Right")).then_some(())
    });
}

#[test]
fn bytes_outside_printable_ascii_are_escaped_in_the_log() {
    let mut herd = Herd::solo();
    let mut client = herd.client("Solo");
    let every_byte: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').collect();
    client.ask(&[b"x", &every_byte[..], b"x"].concat());
    client.ask(b"\x1b[2J\x1b]0;title\x07");
    client.ask(b"forged\r2020-01-01 00:00:00 INFO 127.0.0.1:1 IAMAT evil +1+1 1");
    client.ask("IAMAT caf\u{e9}\u{85}\u{2028} +1+1 1".as_bytes());
    client.ask(b"\xff\xfe \x80");
    client.send(&vec![0xee; 5000]);
    client.rest();
    herd.signal("Solo", "TERM");
    assert_eq!(herd.wait("Solo", END).code(), Some(0));
    let log = herd.log("Solo");
    assert!(common::find(&log, b"IAMAT caf").is_some(), "{}", show(&log));
    for line in log.split(|&byte| byte == b'\n') {
        assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')), "{}", show(line));
        assert!(!line.starts_with(b"2020-01-01 00:00:00"), "{}", show(line));
    }
}

#[test]
fn each_level_holds_what_it_should() {
    for (level, holds_commands) in
        [("DEBUG", true), ("INFO", true), ("WARNING", false), ("ERROR", false), ("CRITICAL", false)]
    {
        let mut herd = Herd::with_level(&[("Solo", &[])], level, "");
        herd.start("Solo");
        let mut client = herd.client("Solo");
        client.iamat("kiwi", "+1+1", "5");
        client.ask(b"hello");
        assert!(client.held(b"kiwi").is_some());
        herd.signal("Solo", "TERM");
        assert_eq!(herd.wait("Solo", END).code(), Some(0));
        let log = text(&herd.log("Solo"));
        for part in ["IAMAT kiwi +1+1 5", "AT Solo +", "? hello", "WHATSAT kiwi 0 0"] {
            assert_eq!(log.contains(part), holds_commands, "{part} at level {level}: {log}");
        }
    }
}

#[test]
fn a_supervisor_is_told_when_it_is_ready_and_when_it_stops() {
    let mut herd = Herd::new(&[("Solo", &[])], "");
    let path = herd.directory().join("notify");
    let supervisor = UnixDatagram::bind(&path).unwrap();
    supervisor.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = || {
        let mut message = [0; 64];
        let length = supervisor.recv(&mut message).unwrap();
        text(&message[..length])
    };
    herd.set_environment("NOTIFY_SOCKET", &path);
    herd.spawn("Solo");
    assert_eq!(heard().trim(), "READY=1");
    assert_bytes(&herd.exchange("Solo", b"there?\n"), b"? there?\n");
    herd.signal("Solo", "TERM");
    assert_eq!(heard().trim(), "STOPPING=1");
    assert_eq!(herd.wait("Solo", END).code(), Some(0));
}
