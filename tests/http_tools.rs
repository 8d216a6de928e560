//! The HTTP side with its tools: Prometheus, Grafana, `--status`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows it in tests, helpers are part of them"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{Client, DEADLINE, Herd, binary, eventually, free_port, show, wall_ns};

/// Returns the section `http` for these nodes, and their ports.
fn section(nodes: &[&str]) -> (String, BTreeMap<String, u16>) {
    let ports: BTreeMap<String, u16> =
        nodes.iter().map(|&name| (name.to_owned(), free_port())).collect();
    let mut text = String::from("http:\n  ports:\n");
    for (name, port) in &ports {
        let _ = writeln!(text, "    {name}: {port}");
    }
    (text, ports)
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Returns the body of a response to a request on a new connection.
fn get(port: u16, target: &str) -> String {
    let address = local(port);
    eventually("the node accepts", DEADLINE, || TcpStream::connect(address).ok());
    let request = format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let response = Client::connect(address).exchange(request.as_bytes());
    let response =
        String::from_utf8(response).unwrap_or_else(|it| panic!("{}", show(it.as_bytes())));
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

/// Returns `/metrics` of a node that has all metrics: it has a peer, a places provider, fences, a feed, and a
/// name that needs escapes.
fn metrics() -> String {
    let (http, ports) = section(&["Solo\"\\"]);
    let http = http.replace("Solo\"\\", "'Solo\"\\'");
    let extra = format!(
        "{http}\nplaces: {{provider: overpass, url: \"http://127.0.0.1:9/\"}}\n\
         fences: {{file: fences.geojson}}\n"
    );
    let mut herd = Herd::new(&[("Solo\"\\", &["Other"]), ("Other", &[])], &extra);
    let fences = herd.directory().join("fences.geojson");
    fs::write(fences, "{\"type\": \"FeatureCollection\", \"features\": []}").unwrap();
    let text = fs::read_to_string(herd.config()).unwrap();
    let text = text.replacen("\n  Solo\"\\:", "\n  'Solo\"\\':", 2);
    let data = herd.directory().join("data");
    let feed = format!(
        "storage: {{directory: '{}'}}\nfeed: {{url: 'redis://127.0.0.1:9'}}\n",
        data.display()
    );
    fs::write(herd.config(), text + &feed).unwrap();
    herd.start("Solo\"\\");
    let mut client = herd.client("Solo\"\\");
    client.iamat("kiwi", "+34.0-118.0", "1621464827");
    client.ask(b"nonsense");
    client.whatsat("kiwi", "10", "5"); // the provider is down
    get(ports["Solo\"\\"], "/metrics")
}

#[test]
fn metrics_follow_the_prometheus_text_format() {
    let text = metrics();
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let mut samples: BTreeMap<&str, f64> = BTreeMap::new();
    let (mut helped, mut family) = ("", "");
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').unwrap().0;
            assert!(help.len() > helped.len() + 5, "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped, "HELP comes before TYPE");
            assert!(families.insert(name, kind).is_none(), "{name} is not unique");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            family = name;
        } else {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split_once('{').map_or(sample, |(name, _)| name);
            let suffixes: &[&str] = match families[family] {
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            let stem = name.strip_prefix(family);
            assert!(stem.is_some_and(|stem| suffixes.contains(&stem)), "{line} under {family}");
            assert!(
                samples.insert(sample, value.parse().unwrap()).is_none(),
                "{line} is not unique"
            );
        }
    }
    let is_named = |name: &&str| ["proxy_herd_", "process_"].iter().any(|it| name.starts_with(it));
    assert!(text.ends_with('\n') && families.keys().all(is_named));
    let value = |sample: &str| samples[sample];
    for (sample, expected) in [
        ("proxy_herd_commands_total{command=\"iamat\",result=\"stored\"}", 1.0),
        ("proxy_herd_commands_total{command=\"whatsat\",result=\"asked\"}", 1.0),
        ("proxy_herd_commands_total{command=\"unknown\",result=\"refused\"}", 1.0),
        ("proxy_herd_clients", 1.0),
        ("proxy_herd_peer_up{peer=\"Other\"}", 0.0),
        ("proxy_herd_places_answers_total{status=\"unknown_error\"}", 1.0),
        ("proxy_herd_places_wait_seconds_count", 1.0),
    ] {
        assert!((value(sample) - expected).abs() < 1e-9, "{sample} is {}", value(sample));
    }
    let build = "proxy_herd_build_info{version=\"";
    let node = ",node=\"Solo\\\"\\\\\"}";
    assert!(samples.keys().any(|name| name.starts_with(build) && name.ends_with(node)), "{text}");
    for sample in ["resident_memory_bytes", "open_fds", "received_bytes_total", "sent_bytes_total"]
    {
        assert!(value(&format!("proxy_herd_{sample}")) > 1.0, "{sample}");
    }
    for (standard, own) in [
        ("process_resident_memory_bytes", "proxy_herd_resident_memory_bytes"),
        ("process_open_fds", "proxy_herd_open_fds"),
        ("process_max_fds", "proxy_herd_max_fds"),
    ] {
        assert!((value(standard) - value(own)).abs() < 1e-9, "{standard}");
    }
    assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
    let age = wall_ns() as f64 / 1e9 - value("process_start_time_seconds");
    assert!((0.0..60.0).contains(&age), "the node was started {age} s ago");
    assert!((0.0..60.0).contains(&value("process_cpu_seconds_total")));
    assert_eq!(families["process_cpu_seconds_total"], "counter");
    for (histogram, kind) in &families {
        if *kind != "histogram" {
            continue;
        }
        let buckets = text.lines().filter_map(|line| {
            line.strip_prefix(&format!("{histogram}_bucket{{le=\""))?.split_once("\"} ")
        });
        let buckets: Vec<(f64, f64)> = buckets
            .map(|(bound, count)| {
                (bound.replace("+Inf", "inf").parse().unwrap(), count.parse().unwrap())
            })
            .collect();
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
        let (last, count) = (buckets.last().unwrap(), value(&format!("{histogram}_count")));
        assert!(last.0.is_infinite() && (last.1 - count).abs() < 1e-9, "{histogram}");
    }
    assert!(value("proxy_herd_loop_turn_seconds_count") > 1.0);
    assert!(value("proxy_herd_loop_turn_seconds_sum") > 0.0);
}

#[test]
fn the_documented_metrics_are_those_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let document = fs::read_to_string(path).unwrap();
    let mut others = String::from("| Metric | Type | Meaning |\n|---|---|---|\n");
    let (counters, mut help) = (proxy_herd::net::counters_markdown(), "");
    for line in metrics().lines() {
        if let Some(text) = line.strip_prefix("# HELP ") {
            help = text.split_once(' ').unwrap().1;
        } else if let Some(text) = line.strip_prefix("# TYPE ") {
            let (name, kind) = text.split_once(' ').unwrap();
            let own = name.strip_prefix("proxy_herd_");
            if kind != "counter" || own.is_none() {
                let name = own.unwrap_or(name);
                let _ = writeln!(others, "| `{name}` | {kind} | {help} |");
            }
        } else if line.starts_with("process_") {
            // Its family is in the other table.
        } else if let Some((name, _)) = line.rsplit_once(' ')
            && name.split('{').next().is_some_and(|family| family.ends_with("_total"))
        {
            let name = name.strip_prefix("proxy_herd_").unwrap();
            assert!(counters.contains(&format!("| `{name}` | ")), "{name} is not in the table");
        }
    }
    for (mark, actual) in [("counters", counters), ("gauges", others)] {
        let (_, rest) = document.split_once(&format!("<!-- {mark} -->\n\n")).unwrap();
        let (table, _) = rest.split_once(&format!("\n<!-- /{mark} -->")).unwrap();
        assert!(table == actual, "the table of {mark} in docs/metrics.md must read:\n\n{actual}");
    }
}

/// Uses promtool or the Python client, whichever is installed.
#[test]
fn other_parsers_accept_the_metrics() {
    let text = metrics();
    let python = "import sys, prometheus_client.parser as p; \
                  print(sum(len(f.samples) for f in p.text_string_to_metric_families(sys.stdin.read())))";
    let has = |program: &str, arguments: &[&str]| {
        let status = Command::new(program)
            .args(arguments)
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    };
    let mut read = 0;
    if has("promtool", &["--version"]) {
        let output = pipe(Command::new("promtool").args(["check", "metrics"]), &text);
        assert!(output.status.success(), "{}", show(&output.stdout));
        read += 1;
    }
    if has("python3", &["-c", "import prometheus_client.parser"]) {
        let output = pipe(Command::new("python3").args(["-c", python]), &text);
        assert!(output.status.success(), "{}", show(&output.stderr));
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), samples.to_string());
        read += 1;
    }
    if read == 0 {
        eprintln!("NOT TESTED: neither promtool nor python3 with prometheus_client is installed");
    }
}

fn pipe(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_dashboard_uses_existing_metrics_only() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grafana.json");
    let dashboard: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let text = metrics();
    let existing: BTreeSet<&str> = text
        .lines()
        .map(|line| line.strip_prefix("# TYPE ").unwrap_or(line)) // a peer that is down has few samples
        .map(|line| line.split(['{', ' ']).next().unwrap())
        .collect();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut shown = BTreeSet::new();
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
        let names = expression.split(|it| !is_name(it)).filter(|it| it.starts_with("proxy_herd_"));
        shown.extend(names);
    }
    assert!(shown.len() > 20, "{shown:?}");
    let missing: Vec<_> = shown.difference(&existing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn status_exits_with_0_if_all_nodes_are_healthy_and_lists_problems_otherwise() {
    let nodes = ["Bailey", "Bona", "Clark"];
    let (http, ports) = section(&nodes);
    let mut herd = Herd::new(&[("Bailey", &["Bona"]), ("Bona", &["Clark"]), ("Clark", &[])], &http);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    herd.client("Clark").iamat("kiwi", "+34.0-118.0", "1621464827");
    let status = |herd: &Herd, arguments: &[&str]| {
        let output = herd.run(&[&["--status"], arguments].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (table, _) = eventually("all is well", DEADLINE, || {
        let (code, out, err) = status(&herd, &[]);
        (code == Some(0)).then_some((out, err))
    });
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 4, "{table}");
    for (line, node) in lines[1..].iter().zip(nodes) {
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(
            (words[0], words[1], *words.last().unwrap()),
            (node, "healthy", "equal"),
            "{table}"
        );
    }
    assert!(lines[2].contains("2/2"), "{table}");
    // The overview of a node includes what it knows of the others.
    let overview = eventually("Bailey advertises its link", DEADLINE, || {
        let overview: serde_json::Value =
            serde_json::from_str(&get(ports["Bona"], "/api/herd")).unwrap();
        (overview["nodes"][0]["links"] == serde_json::json!(["Bona"])).then_some(overview)
    });
    assert_eq!(overview["links"][1]["peer"], "Clark");
    assert_eq!(overview["problems"], serde_json::json!([]));
    eventually("both ends of a link compare equal", DEADLINE, || {
        let equal = |port: u16| {
            let overview: serde_json::Value =
                serde_json::from_str(&get(port, "/api/herd")).unwrap();
            overview["links"][0]["digests_equal"] == true
        };
        (equal(ports["Bailey"]) && equal(ports["Clark"])).then_some(())
    });

    herd.kill("Clark");
    let (out, err) = eventually("Bona has noticed", DEADLINE, || {
        let (code, out, err) = status(&herd, &[]);
        (code == Some(1) && err.contains("Bona: the link to Clark is down")).then_some((out, err))
    });
    assert!(out.contains("\nClark   unreachable\n"), "{out}");
    eventually("Bona gives the reason", DEADLINE, || {
        let (_, _, err) = status(&herd, &[]);
        err.contains("Bona: the link to Clark is down: Connection refused").then_some(())
    });
    assert!(err.starts_with("proxy-herd: problems found:\n"), "{err}");
    assert!(err.contains("Clark cannot be queried at http://127.0.0.1:"), "{err}");
    // Bailey is not a neighbor of Clark, so it stays healthy.
    assert_eq!(status(&herd, &["Bailey"]).0, Some(0));
    let (code, _, err) = status(&herd, &["Clerk"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("there is no node `Clerk`; did you mean `Clark`?"), "{err}");
}

/// An operator without access to the key files can run `--status`, and nodes without an HTTP port
/// are reported rather than skipped.
#[test]
fn status_needs_no_secrets_and_reports_nodes_it_cannot_query() {
    let (http, _) = section(&["Bailey"]);
    let secrets = "peers: {secret_file: away}\nplaces: {provider: google}\napi_key_file: away";
    let mut herd = Herd::new(&[("Bailey", &["Bona"]), ("Bona", &[])], &http);
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let ask = |herd: &Herd| {
        let output = herd.run(&["--status"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let expected = "proxy-herd: problems found:\n\
                    Bona cannot be queried: it has no port under http.ports\n";
    eventually("Bailey is well", DEADLINE, || (ask(&herd).1 == expected).then_some(()));
    let config = fs::read_to_string(herd.config()).unwrap();
    fs::write(herd.config(), format!("{config}\n{secrets}\n")).unwrap();
    assert_eq!(ask(&herd), (Some(1), expected.to_owned()));
}

#[test]
fn status_needs_an_http_section() {
    let herd = Herd::solo();
    let output = herd.run(&["--status"]);
    assert_eq!(output.status.code(), Some(1));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.contains("no section `http`"), "{err}");
}

/// A server that answers in place of a node cannot forge what `--status` prints.
#[test]
fn status_escapes_what_a_server_sends() {
    let (http, ports) = section(&["Solo"]);
    let mut herd = Herd::new(&[("Solo", &[])], &http);
    herd.start("Solo");
    let genuine = get(ports["Solo"], "/api/herd");
    herd.kill("Solo");
    let listener = TcpListener::bind(local(ports["Solo"])).unwrap();
    for (from, to) in [
        ("\"problems\": []", "\"problems\": [\"a\\u001b[2J\\r\\nSolo is healthy \\u202e b\"]"),
        ("\"version\": \"", "\"version\": \"\\u001b]0;x\\u0007\\n"),
        ("\"node\": \"Solo", "\"node\": \"So\\u2066lo\\u009b1m"),
    ] {
        let body = genuine.replace(from, to);
        assert_ne!(body, genuine);
        let mut child = binary(herd.directory(), &["-c", "config.yml", "--status"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stream = listener.accept().unwrap().0;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        write!(stream, "HTTP/1.1 200 OK\r\n\r\n{body}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        child.wait().unwrap();
        let raw = |c: char| c != '\n' && (c.is_control() || "\u{202e}\u{2066}".contains(c));
        assert!(!out.contains(raw) && !err.contains(raw), "{out:?} {err:?}");
        assert_eq!(out.lines().count(), 2, "{out:?}");
        assert!(!err.contains("\nSolo is healthy"), "{err:?}");
        assert!(out.contains("\\u{") || err.contains("\\u{"), "{out:?} {err:?}");
    }
}
