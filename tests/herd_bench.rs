//! The benchmark, on the binary itself: it measures honest nodes without an error, and counts
//! every lie of a server that lies.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows it in tests, helpers are part of them"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use common::Herd;
use serde_json::Value;

/// Of a reply that never comes: long enough for a loaded machine to send all others.
const TIMEOUT: &str = "10";

fn herd_bench(config: &std::path::Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd-bench"));
    command.arg("-c").arg(config).args(arguments);
    for variable in ["GOOGLE_PLACES_API_KEY", "HERD_SECRET"] {
        command.env_remove(variable);
    }
    command.output().unwrap()
}

fn json(output: &Output) -> Value {
    let err = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {err}"))
}

#[test]
fn an_honest_node_makes_no_error() {
    let herd = Herd::solo();
    for arguments in [
        &["--clients", "100", "--warmup", "0.1"][..],
        &["--connections", "3", "--pipeline", "32", "--whatsat-percent", "0", "Solo"],
        &["--connections", "1", "--busy-poll"],
        &["--clients", "20", "--idle", "7", "--whatsat-percent", "100", "--results", "0"],
    ] {
        let usual = ["--duration", "0.5", "--timeout", "10", "--json"];
        let output = herd_bench(&herd.config(), &[arguments, &usual].concat());
        let report = json(&output);
        assert_eq!((output.status.code(), &report["errors"]), (Some(0), &0.into()), "{report:#}");
        assert!(report["requests"].as_u64().unwrap() > 0, "{report:#}");
        // A slow machine may have counted no whole hundredth of a second yet.
        assert!(report["cpu_us_per_request"].is_number(), "{report:#}");
    }
}

#[test]
fn the_report_tells_both_commands_of_each_node() {
    let herd = Herd::five();
    let arguments = ["--clients", "50", "--duration", "1", "--timeout", "10", "--warmup", "0.2"];
    let output = herd_bench(&herd.config(), &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\nErrors               0\n"), "{text}");
    for start in ["Requests  ", "Requests a second  ", "Average latency  ", "Server CPU  "] {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start}: {text}");
    }
    for node in herd.names().iter().map(String::as_str).chain(["all"]) {
        for command in ["IAMAT", "WHATSAT", "both"] {
            let row = |line: &&str| line.starts_with(&format!("{node:8}  {command:8}"));
            let row = text.lines().find(row).unwrap_or_else(|| panic!("{node} {command}: {text}"));
            let requests: u64 = row.split_whitespace().nth(2).unwrap().parse().unwrap();
            assert!(requests > 0, "{row}");
        }
    }
    assert!(text.contains('#'), "a bar of the histogram: {text}");
}

#[test]
fn records_are_seen_on_every_other_node_while_an_open_loop_runs() {
    let herd = Herd::five();
    let output = herd_bench(
        &herd.config(),
        &["--rate", "200", "--duration", "2", "--propagation", "--timeout", "10", "--json"],
    );
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["requests"], 400, "every request that was due: {report:#}");
    let pairs = report["propagation"]["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 20);
    for pair in pairs {
        assert!(pair["records_seen"].as_u64().unwrap() > 0, "{pair}");
    }
    assert!(report["propagation"]["resolution_us"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_node_that_does_not_hear_of_the_others_is_found() {
    let mut herd = Herd::new(&[("Bona", &[]), ("Clark", &[])], "");
    herd.start_all();
    let arguments = ["--probes", "1", "--duration", "0.5", "--timeout", "10", "--json"];
    let output = herd_bench(&herd.config(), &[&arguments[..], &["--rate", "1"]].concat());
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["errors_by_kind"]["not spread"], 1, "{report:#}");
}

#[test]
fn a_wrong_command_line_exits_2_and_a_herd_that_is_not_there_1() {
    let herd = Herd::new(&[("Bona", &[])], "");
    for (arguments, code, told) in [
        (&["Bonna"][..], 2, "there is no node `Bonna`; did you mean `Bona`?"),
        (&["--bogus"], 2, "Unrecognized option: 'bogus'"),
        (&["--pipeline", "0"], 2, "--pipeline is a number from 1 to 1024"),
        (&["--radius", "51"], 2, "--radius is a decimal number from 0 to 50"),
        (&["--propagation"], 2, "--propagation needs from 2 to 16 nodes of a herd"),
        (&["--protocol", "http"], 2, "--protocol is one of herd, echo, memcached"),
        (&["--protocol", "echo"], 2, "with --protocol, name the server: HOST:PORT"),
        (&[], 1, "Bona does not accept on 127.0.0.1:"),
    ] {
        let output = herd_bench(&herd.config(), arguments);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.starts_with("herd-bench: ") && err.contains(told), "{err}");
        assert_eq!(err.contains("Usage: herd-bench"), code == 2, "{err}");
    }
}

/// What a server does with one of the commands of a connection. The others it answers as it must.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    Replace(&'static str, &'static str),
    Repeat,
    SwapWithNext,
    SayNothing,
    SayNothingMore,
    HangUp,
    Stall(Duration),
}

/// A server called `Liar` that answers the `nth` command of its first connection with a lie, and
/// the configuration of its herd.
fn liar(name: &str, nth: usize, lie: Lie) -> PathBuf {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("liar-{name}.yml"));
    fs::write(&config, format!("ports: {{Liar: {port}}}\n")).unwrap();
    thread::spawn(move || {
        for (place, stream) in listener.incoming().enumerate() {
            let lie = (place == 0).then_some((nth, lie));
            thread::spawn(move || serve(&stream.unwrap(), lie));
        }
    });
    config
}

fn serve(mut stream: &TcpStream, lie: Option<(usize, Lie)>) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    let mut record = String::new();
    let mut held_back = String::new();
    for (place, line) in BufReader::new(stream).lines().enumerate() {
        let line = line.ok()?;
        let mut reply = match line.split_once(' ')? {
            ("IAMAT", said) => {
                record = format!("AT Liar +0.000000001 {said}\n");
                record.clone()
            }
            _ => record.clone() + FOUND,
        };
        let lie = lie.filter(|&(nth, _)| nth == place).map(|(_, lie)| lie);
        match lie {
            None => {}
            Some(Lie::Replace(what, with)) => {
                assert!(reply.contains(what), "{what} is not in {reply}");
                reply = reply.replacen(what, with, 1);
            }
            Some(Lie::Repeat) => reply = reply.repeat(2),
            Some(Lie::SwapWithNext) => {
                held_back = reply;
                continue;
            }
            Some(Lie::SayNothing) => continue,
            Some(Lie::SayNothingMore) => break,
            Some(Lie::HangUp) => return None,
            Some(Lie::Stall(pause)) => thread::sleep(pause),
        }
        stream.write_all((reply + &std::mem::take(&mut held_back)).as_bytes()).ok()?;
    }
    // Holds the connection open without a word until the other end closes it.
    std::io::copy(&mut stream, &mut std::io::sink()).ok().map(|_| ())
}

const FOUND: &str = r#"{
  "html_attributions": [],
  "results": [{"name": "a", "vicinity": "b"}],
  "status": "OK"
}

"#;

/// Runs the benchmark with one client on one connection against a lie, and gives its errors.
fn errors(name: &str, nth: usize, lie: Lie, arguments: &[&str]) -> (Option<i32>, Value) {
    let config = liar(name, nth, lie);
    let usual = ["--clients", "1", "--duration", "0.5", "--timeout", TIMEOUT, "--json"].as_slice();
    let output = herd_bench(&config, &[usual, arguments].concat());
    let report = json(&output);
    assert!(report["cpu_us_per_request"].is_number(), "of this very process: {report:#}");
    (output.status.code(), report["errors_by_kind"].clone())
}

const IAMAT: [&str; 2] = ["--whatsat-percent", "0"];
const WHATSAT: [&str; 2] = ["--whatsat-percent", "100"];

#[test]
fn a_server_that_does_not_lie_makes_no_error() {
    let lie = Lie::Replace("AT Liar", "AT Liar");
    for (name, kind) in [("honest-iamat", IAMAT), ("honest-whatsat", WHATSAT)] {
        assert_eq!(errors(name, 5, lie, &kind), (Some(0), serde_json::json!({})));
    }
}

#[test]
fn each_wrong_reply_is_counted() {
    for (name, lie, arguments, kind) in [
        ("server", Lie::Replace("AT Liar", "AT Lyar"), IAMAT, "wrong"),
        ("difference", Lie::Replace("+0.0000", "+0.000"), IAMAT, "wrong"),
        ("location", Lie::Replace("+33.", "+34."), IAMAT, "wrong"),
        ("refused", Lie::Replace("AT Liar +0.000000001", "? IAMAT"), IAMAT, "wrong"),
        ("noise", Lie::Replace("AT", "\n"), IAMAT, "wrong"),
        ("other-client", Lie::Replace("client0000", "client0001"), WHATSAT, "wrong"),
        ("whatsat-place", Lie::Replace("-118.", "-119."), WHATSAT, "wrong"),
        ("json", Lie::Replace("results\": [", "results\": "), WHATSAT, "wrong"),
        ("status", Lie::Replace("OK", "ZERO_RESULTS"), WHATSAT, "wrong"),
        ("denied", Lie::Replace("OK", "REQUEST_DENIED"), WHATSAT, "wrong"),
    ] {
        let (code, found) = errors(name, 3, lie, &arguments);
        assert_eq!((code, found), (Some(1), serde_json::json!({kind: 1})), "{name}");
    }
}

#[test]
fn replies_in_another_order_are_counted() {
    let arguments = [&IAMAT[..], &["--pipeline", "8"]].concat();
    let found = errors("swapped", 3, Lie::SwapWithNext, &arguments);
    assert_eq!(found, (Some(1), serde_json::json!({"out of order": 1})));
}

#[test]
fn a_reply_that_is_missing_is_counted() {
    let arguments = [&IAMAT[..], &["--pipeline", "8"]].concat();
    let found = errors("skipped", 3, Lie::SayNothing, &arguments);
    assert_eq!(found, (Some(1), serde_json::json!({"missing": 1})));
}

#[test]
fn all_that_wait_for_a_silent_server_are_missing() {
    let arguments = [&IAMAT[..], &["--pipeline", "4"]].concat();
    let found = errors("silent", 7, Lie::SayNothingMore, &arguments);
    assert_eq!(found, (Some(1), serde_json::json!({"missing": 4})));
}

#[test]
fn a_lost_connection_is_counted_and_dialled_again() {
    let config = liar("hangs-up", 3, Lie::HangUp);
    let output =
        herd_bench(&config, &["--clients", "1", "--duration", "1", "--timeout", TIMEOUT, "--json"]);
    let report = json(&output);
    let expected = serde_json::json!({"missing": 1, "connections lost": 1});
    assert_eq!((output.status.code(), &report["errors_by_kind"]), (Some(1), &expected));
    assert!(report["requests"].as_u64().unwrap() > 3, "over the second connection: {report:#}");
}

#[test]
fn a_reply_that_nobody_asked_for_is_counted() {
    let found = errors("repeated", 3, Lie::Repeat, &IAMAT);
    assert_eq!(found, (Some(1), serde_json::json!({"unasked": 1, "connections lost": 1})));
}

/// Requests that fall due while the server stalls have waited since then, though a closed loop
/// would have sent none of them.
#[test]
fn an_open_loop_omits_nothing() {
    let config = liar("stalls", 50, Lie::Stall(Duration::from_secs(1)));
    let usual = ["--clients", "1", "--duration", "2", "--timeout", "20", "--json", "--pipeline"];
    let output = herd_bench(&config, &[&usual[..], &["1", "--rate", "100"]].concat());
    let report = json(&output);
    assert_eq!((output.status.code(), &report["requests"]), (Some(0), &200.into()), "{report:#}");
    let latency = &report["rows"][2]["latency_us"];
    // About half of all were due during that second, evenly spread over it.
    assert!(latency["p90"].as_f64().unwrap() > 500_000.0, "{report:#}");
}
