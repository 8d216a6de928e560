//! Tests of the `herd-bench` binary: it measures correct nodes without an error, and counts every
//! error of a faulty server.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows these in tests; the helpers belong to the tests"
)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use common::{DEADLINE, Herd, eventually};
use serde_json::Value;

/// Reply timeout in seconds: long enough for a loaded machine to send all but the missing reply.
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
fn a_correct_node_causes_no_errors() {
    let herd = Herd::solo();
    for arguments in [
        &["--clients", "100", "--warmup", "0.1"][..],
        &["--connections", "3", "--pipeline", "32", "--whatsat-percent", "0", "Solo"],
        &["--connections", "1", "--busy-poll"],
        &["--clients", "20", "--idle", "7", "--whatsat-percent", "100", "--results", "0"],
    ] {
        let common = ["--duration", "0.5", "--timeout", "10", "--json"];
        let output = herd_bench(&herd.config(), &[arguments, &common].concat());
        let report = json(&output);
        assert_eq!((output.status.code(), &report["errors"]), (Some(0), &0.into()), "{report:#}");
        assert!(report["requests"].as_u64().unwrap() > 0, "{report:#}");
        // The value may be 0, since CPU time is counted in hundredths of a second.
        assert!(report["cpu_us_per_request"].is_number(), "{report:#}");
    }
}

#[test]
fn the_report_has_a_row_for_each_node_and_command() {
    let herd = Herd::five();
    let arguments = ["--clients", "50", "--duration", "1", "--timeout", "10", "--warmup", "0.2"];
    let output = herd_bench(&herd.config(), &arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\nErrors               0\n"), "{text}");
    for start in ["Requests  ", "Requests per second  ", "Average latency  ", "Server CPU  "] {
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
    assert!(text.contains('#'), "the histogram has a bar: {text}");
}

#[test]
fn propagation_to_every_other_node_is_measured_during_an_open_loop() {
    let herd = Herd::five();
    let output = herd_bench(
        &herd.config(),
        &["--rate", "200", "--duration", "2", "--propagation", "--timeout", "10", "--json"],
    );
    let report = json(&output);
    assert_eq!(output.status.code(), Some(0), "{report:#}");
    assert_eq!(report["requests"], 400, "every due request is sent: {report:#}");
    let pairs = report["propagation"]["pairs"].as_array().unwrap();
    assert_eq!(pairs.len(), 20);
    for pair in pairs {
        assert!(pair["records_seen"].as_u64().unwrap() > 0, "{pair}");
    }
    assert!(report["propagation"]["resolution_us"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_record_that_does_not_propagate_is_an_error() {
    let mut herd = Herd::new(&[("Bona", &[]), ("Clark", &[])], "");
    herd.start_all();
    let arguments = ["--probes", "1", "--duration", "0.5", "--timeout", "10", "--json"];
    let output = herd_bench(&herd.config(), &[&arguments[..], &["--rate", "1"]].concat());
    let report = json(&output);
    assert_eq!(output.status.code(), Some(1), "{report:#}");
    assert_eq!(report["errors_by_kind"]["not spread"], 1, "{report:#}");
}

#[test]
fn an_invalid_command_line_exits_with_2_and_an_unreachable_herd_with_1() {
    let herd = Herd::new(&[("Bona", &[])], "");
    for (arguments, code, message) in [
        (&["Bonna"][..], 2, "there is no node `Bonna`; did you mean `Bona`?"),
        (&["--bogus"], 2, "Unrecognized option: 'bogus'"),
        (&["--pipeline", "0"], 2, "--pipeline must be a number from 1 to 1024"),
        (&["--radius", "51"], 2, "--radius must be a decimal number from 0 to 50"),
        (&["--propagation"], 2, "--propagation requires 2 to 16 nodes of a herd"),
        (&["--protocol", "http"], 2, "--protocol must be one of herd, echo, memcached"),
        (&["--protocol", "echo"], 2, "--protocol requires a server address: HOST:PORT"),
        (&[], 1, "Bona does not accept connections on 127.0.0.1:"),
    ] {
        let output = herd_bench(&herd.config(), arguments);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{err}");
        assert!(err.starts_with("herd-bench: ") && err.contains(message), "{err}");
        assert_eq!(err.contains("Usage: herd-bench"), code == 2, "{err}");
    }
}

/// The reaction of a faulty server to one command. It answers all others correctly.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Replace(&'static str, &'static str),
    Repeat,
    SwapWithNext,
    SkipReply,
    StopReplying,
    Disconnect,
    Stall(Duration),
}

/// Starts a server called `Faulty` that applies `fault` to command `nth` of its first connection.
/// Returns the path of its configuration.
fn faulty_server(name: &str, nth: usize, fault: Fault) -> PathBuf {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("faulty-{name}.yml"));
    fs::write(&config, format!("ports: {{Faulty: {port}}}\n")).unwrap();
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let fault = (index == 0).then_some((nth, fault));
            thread::spawn(move || serve(&stream.unwrap(), fault));
        }
    });
    config
}

fn serve(mut stream: &TcpStream, fault: Option<(usize, Fault)>) -> Option<()> {
    stream.set_nodelay(true).unwrap();
    let mut record = String::new();
    let mut held_back = String::new();
    for (index, line) in BufReader::new(stream).lines().enumerate() {
        let line = line.ok()?;
        let mut reply = match line.split_once(' ')? {
            ("IAMAT", fields) => {
                record = format!("AT Faulty +0.000000001 {fields}\n");
                record.clone()
            }
            _ => record.clone() + FOUND,
        };
        let fault = fault.filter(|&(nth, _)| nth == index).map(|(_, fault)| fault);
        match fault {
            None => {}
            Some(Fault::Replace(what, with)) => {
                assert!(reply.contains(what), "{what} is not in {reply}");
                reply = reply.replacen(what, with, 1);
            }
            Some(Fault::Repeat) => reply = reply.repeat(2),
            Some(Fault::SwapWithNext) => {
                held_back = reply;
                continue;
            }
            Some(Fault::SkipReply) => continue,
            Some(Fault::StopReplying) => break,
            Some(Fault::Disconnect) => return None,
            Some(Fault::Stall(pause)) => thread::sleep(pause),
        }
        stream.write_all((reply + &std::mem::take(&mut held_back)).as_bytes()).ok()?;
    }
    // Keeps the connection open without sending until the peer closes it.
    std::io::copy(&mut stream, &mut std::io::sink()).ok().map(|_| ())
}

const FOUND: &str = r#"{
  "html_attributions": [],
  "results": [{"name": "a", "vicinity": "b"}],
  "status": "OK"
}

"#;

/// Runs the benchmark with one client on one connection against a faulty server. Returns the exit
/// code and the errors by kind.
fn errors(name: &str, nth: usize, fault: Fault, arguments: &[&str]) -> (Option<i32>, Value) {
    let config = faulty_server(name, nth, fault);
    let common = ["--clients", "1", "--duration", "0.5", "--timeout", TIMEOUT, "--json"].as_slice();
    let output = herd_bench(&config, &[common, arguments].concat());
    let report = json(&output);
    assert!(report["cpu_us_per_request"].is_number(), "CPU time of this process: {report:#}");
    (output.status.code(), report["errors_by_kind"].clone())
}

const IAMAT: [&str; 2] = ["--whatsat-percent", "0"];
const WHATSAT: [&str; 2] = ["--whatsat-percent", "100"];

#[test]
fn a_faultless_server_causes_no_errors() {
    let fault = Fault::Replace("AT Faulty", "AT Faulty");
    for (name, kind) in [("correct-iamat", IAMAT), ("correct-whatsat", WHATSAT)] {
        assert_eq!(errors(name, 5, fault, &kind), (Some(0), serde_json::json!({})));
    }
}

#[test]
fn a_wrong_reply_is_counted() {
    for (name, fault, arguments, kind) in [
        ("server", Fault::Replace("AT Faulty", "AT Faolty"), IAMAT, "wrong"),
        ("difference", Fault::Replace("+0.0000", "+0.000"), IAMAT, "wrong"),
        ("location", Fault::Replace("+33.", "+34."), IAMAT, "wrong"),
        ("refused", Fault::Replace("AT Faulty +0.000000001", "? IAMAT"), IAMAT, "wrong"),
        ("noise", Fault::Replace("AT", "\n"), IAMAT, "wrong"),
        ("other-client", Fault::Replace("client0000", "client0001"), WHATSAT, "wrong"),
        ("whatsat-place", Fault::Replace("-118.", "-119."), WHATSAT, "wrong"),
        ("json", Fault::Replace("results\": [", "results\": "), WHATSAT, "wrong"),
        ("status", Fault::Replace("OK", "ZERO_RESULTS"), WHATSAT, "wrong"),
        ("denied", Fault::Replace("OK", "REQUEST_DENIED"), WHATSAT, "wrong"),
    ] {
        let (code, found) = errors(name, 3, fault, &arguments);
        assert_eq!((code, found), (Some(1), serde_json::json!({kind: 1})), "{name}");
    }
}

#[test]
fn a_reply_out_of_order_is_counted() {
    let arguments = [&IAMAT[..], &["--pipeline", "8"]].concat();
    let found = errors("swapped", 3, Fault::SwapWithNext, &arguments);
    assert_eq!(found, (Some(1), serde_json::json!({"out of order": 1})));
}

#[test]
fn a_missing_reply_is_counted() {
    let arguments = [&IAMAT[..], &["--pipeline", "8"]].concat();
    let found = errors("skipped", 3, Fault::SkipReply, &arguments);
    assert_eq!(found, (Some(1), serde_json::json!({"missing": 1})));
}

#[test]
fn all_outstanding_replies_of_a_silent_server_are_missing() {
    let arguments = [&IAMAT[..], &["--pipeline", "4"]].concat();
    let found = errors("silent", 7, Fault::StopReplying, &arguments);
    assert_eq!(found, (Some(1), serde_json::json!({"missing": 4})));
}

#[test]
fn a_lost_connection_is_counted_and_reconnected() {
    let config = faulty_server("hangs-up", 3, Fault::Disconnect);
    let output =
        herd_bench(&config, &["--clients", "1", "--duration", "1", "--timeout", TIMEOUT, "--json"]);
    let report = json(&output);
    let expected = serde_json::json!({"missing": 1, "connections lost": 1});
    assert_eq!((output.status.code(), &report["errors_by_kind"]), (Some(1), &expected));
    assert!(report["requests"].as_u64().unwrap() > 3, "the second connection is used: {report:#}");
}

#[test]
fn an_unsolicited_reply_is_counted() {
    let found = errors("repeated", 3, Fault::Repeat, &IAMAT);
    assert_eq!(found, (Some(1), serde_json::json!({"unasked": 1, "connections lost": 1})));
}

/// Requests that are due while the server stalls count from then on. A closed loop would not send them
/// and would omit the stall from the latencies (coordinated omission).
#[test]
fn an_open_loop_avoids_coordinated_omission() {
    let config = faulty_server("stalls", 50, Fault::Stall(Duration::from_secs(1)));
    let common = ["--clients", "1", "--duration", "2", "--timeout", "20", "--json", "--pipeline"];
    let output = herd_bench(&config, &[&common[..], &["1", "--rate", "100"]].concat());
    let report = json(&output);
    assert_eq!((output.status.code(), &report["requests"]), (Some(0), &200.into()), "{report:#}");
    let latency = &report["rows"][2]["latency_us"];
    // About half of the requests were due during that second, evenly distributed.
    assert!(latency["p90"].as_f64().unwrap() > 500_000.0, "{report:#}");
}

/// Starts the benchmark, and waits until `node` has received some updates of the measurement.
fn running(herd: &Herd, arguments: &[&str], node: &str) -> Child {
    let updates = || herd.counter(node, "updates_received_total{source=\"client\"}");
    let before = updates();
    let mut command = Command::new(env!("CARGO_BIN_EXE_herd-bench"));
    command.arg("-c").arg(herd.config()).args(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("the measurement has begun", DEADLINE, || (updates() > before + 20).then_some(()));
    child
}

/// Every request of an open loop is sent to the node at which it is due, or is an error of that node.
/// The other node is not given more to do.
#[test]
fn what_is_due_at_a_node_that_is_down_or_stalled_counts_there() {
    for stall in [false, true] {
        let mut herd = Herd::new(&[("Bona", &[]), ("Clark", &[])], "");
        herd.start_all();
        let arguments = [
            "--rate",
            "200",
            "--duration",
            "3",
            "--warmup",
            "0",
            "--connections",
            "4",
            "--clients",
            "4",
            "--whatsat-percent",
            "0",
            "--timeout",
            "1",
            "--json",
        ];
        let child = running(&herd, &arguments, "Clark");
        if stall {
            herd.signal("Clark", "STOP");
        } else {
            herd.kill("Clark");
        }
        let report = json(&child.wait_with_output().unwrap());
        let row = |node: &str| {
            let rows = report["rows"].as_array().unwrap();
            let row = rows.iter().find(|row| row["node"] == node).unwrap();
            (row["requests"].as_u64().unwrap(), row["errors"].as_u64().unwrap())
        };
        let lost = report["errors_by_kind"]["connections lost"].as_u64().unwrap_or(0);
        assert_eq!(lost, if stall { 0 } else { 2 }, "each connection is lost once: {report:#}");
        let (bona, clark) = (row("Bona"), row("Clark"));
        assert_eq!(bona.0 + bona.1, 300, "{report:#}");
        assert_eq!(clark.0 + clark.1 - lost, 300, "{report:#}");
        assert!(clark.1 > 100, "{report:#}");
        if stall {
            herd.signal("Clark", "CONT");
        }
    }
}

#[test]
fn an_interrupted_measurement_ends_with_a_report() {
    let herd = Herd::solo();
    for (signal, pacing) in [("INT", &["--rate", "100"][..]), ("TERM", &[])] {
        let arguments =
            [pacing, &["--duration", "600", "--warmup", "0", "--json", "Solo"]].concat();
        let child = running(&herd, &arguments, "Solo");
        let kill = format!("kill -s {signal} {}", child.id());
        assert!(Command::new("sh").arg("-c").arg(kill).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let report = json(&output);
        assert_eq!((output.status.code(), &report["errors"]), (Some(0), &0.into()), "{report:#}");
        assert!(report["requests"].as_u64().unwrap() > 0, "{report:#}");
        let seconds = report["seconds"].as_f64().unwrap();
        assert!(seconds > 0.0 && seconds < 60.0, "{report:#}");
    }
}
