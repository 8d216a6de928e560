//! `--status`: queries the nodes over HTTP.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use super::table::table;
use crate::config::Config;
use crate::http::overview::Overview;

/// Time allowed for one node to answer: a healthy one answers within milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Largest response, in bytes: a full mesh of [`MAX_NODES`](crate::limits::MAX_NODES) nodes needs
/// most of it.
const MAX_RESPONSE_BYTES: usize = 64 << 20;

/// Number of times that nodes with different records are queried again.
const RETRIES: usize = 3;

/// Pause before nodes are queried again: records are in transit for less.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The status of the herd.
pub struct Status {
    /// A table with a row for each node.
    pub table: String,
    /// The problems found; empty if all nodes are healthy.
    pub problems: Vec<String>,
}

/// Queries `nodes`, which are indices in [`Config::nodes`].
///
/// # Errors
///
/// None of the nodes has an HTTP port.
pub fn status(config: &Config, nodes: &[usize]) -> Result<Status, String> {
    let Some(http) = &config.http else {
        return Err("--status queries nodes over HTTP, but the configuration has no section \
                    `http`; see conf/config.yml for an example"
            .to_owned());
    };
    let queried: Vec<(&str, String)> = nodes
        .iter()
        .filter_map(|&node| {
            let (port, node) = (http.ports[node]?, &config.nodes[node]);
            // A node that listens on all addresses is queried at the address its peers dial.
            let host = if http.listen.is_unspecified() { &node.dial } else { &http.listen };
            Some((node.name.as_str(), format!("{host}:{port}")))
        })
        .collect();
    if queried.is_empty() {
        return Err("none of these nodes has an HTTP port; add one under http.ports".to_owned());
    }
    let mut answers = query_all(&queried);
    let mut agreement = agreement(&answers, None);
    // If the difference is due to records in transit, the next query finds other digests, or equal
    // ones.
    for _ in 0..RETRIES {
        if agreement != Agreement::Different {
            break;
        }
        thread::sleep(RETRY_PAUSE);
        let again = query_all(&queried);
        agreement = self::agreement(&again, Some(&answers));
        answers = again;
    }
    let names: Vec<&str> = queried.iter().map(|(name, _)| *name).collect();
    let mut problems = problems(&names, &answers);
    let without_port = nodes.iter().filter(|&&node| http.ports[node].is_none());
    problems.extend(without_port.map(|&node| {
        format!("{} cannot be queried: it has no port under http.ports", config.nodes[node].name)
    }));
    if agreement == Agreement::Different {
        problems.push("the nodes do not hold the same records, and none are in transit".into());
    }
    Ok(Status { table: status_table(&names, &answers, agreement), problems })
}

/// A node's overview, or the reason that there is none, with the node as its subject.
type Answer = Result<Overview, String>;

const NOT_A_NODE: &str = "the server at this address is not a proxy-herd node";

/// Queries `nodes`, which are names and addresses, in parallel.
fn query_all(nodes: &[(&str, String)]) -> Vec<Answer> {
    thread::scope(|scope| {
        let queries: Vec<_> =
            nodes.iter().map(|(name, address)| scope.spawn(move || query(name, address))).collect();
        queries
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|_| Err("cannot be queried".into())))
            .collect()
    })
}

fn query(name: &str, address: &str) -> Answer {
    let overview: Overview = fetch(address)
        .and_then(|body| serde_json::from_slice(&body).map_err(|_| NOT_A_NODE.to_owned()))
        .map_err(|why| format!("cannot be queried at http://{address}/: {why}"))?;
    if overview.node != name {
        return Err(format!("is not at http://{address}/; that is {}", overview.node));
    }
    Ok(overview)
}

/// Returns the body of `/api/herd`.
fn fetch(address: &str) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + TIMEOUT;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let text = |error: std::io::Error| error.to_string();
    let resolved =
        address.to_socket_addrs().map_err(text)?.next().ok_or("the host has no address")?;
    let mut stream = TcpStream::connect_timeout(&resolved, left()).map_err(text)?;
    stream.set_write_timeout(Some(left())).map_err(text)?;
    stream.write_all(b"GET /api/herd HTTP/1.0\r\nHost: localhost\r\n\r\n").map_err(text)?;
    let (mut response, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    while response.len() < MAX_RESPONSE_BYTES && Instant::now() < deadline {
        stream.set_read_timeout(Some(left())).map_err(text)?;
        let read = stream.read(&mut chunk).map_err(text)?;
        if read == 0 {
            break;
        }
        response.extend_from_slice(&chunk[..read]);
    }
    let end = memchr::memmem::find(&response, b"\r\n\r\n");
    match end {
        Some(end) if response.starts_with(b"HTTP/1.1 200 ") => Ok(response.split_off(end + 4)),
        Some(end) => Err(refusal(&response[end + 4..]).unwrap_or_else(|| NOT_A_NODE.to_owned())),
        None => Err(NOT_A_NODE.to_owned()),
    }
}

/// Returns the reason in an error response of a node, printable.
fn refusal(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let reason = body.get("error")?.as_str()?;
    Some(format!("it answers: {}", reason.escape_debug()))
}

/// Result of comparing the digests of the nodes' records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Equal,
    /// The digests differ, but have changed since the previous query.
    Changing,
    Different,
}

fn agreement(answers: &[Answer], before: Option<&[Answer]>) -> Agreement {
    let digests = |answers: &[Answer]| -> Vec<String> {
        answers.iter().flatten().map(|node| node.digest.clone()).collect()
    };
    let now = digests(answers);
    match before {
        _ if now.windows(2).all(|pair| pair[0] == pair[1]) => Agreement::Equal,
        Some(before) if digests(before) != now => Agreement::Changing,
        _ => Agreement::Different,
    }
}

fn problems(names: &[&str], answers: &[Answer]) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, answer) in names.iter().zip(answers) {
        match answer {
            Err(why) => problems.push(format!("{name} {why}")),
            Ok(node) => {
                problems.extend(node.problems.iter().map(|problem| format!("{name}: {problem}")));
            }
        }
    }
    problems
}

fn status_table(names: &[&str], answers: &[Answer], agreement: Agreement) -> String {
    let header = [
        "Node",
        "State",
        "Version",
        "Up",
        "Clients",
        "Connections",
        "Links",
        "Round trip",
        "Backlog",
        "Records",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (name, answer) in names.iter().zip(answers) {
        let Ok(node) = answer else {
            rows.push(vec![(*name).to_owned(), "unreachable".to_owned()]);
            continue;
        };
        let up = node.links.iter().filter(|link| link.up).count();
        let trip = node.links.iter().filter_map(|link| link.round_trip).reduce(f64::max);
        let records = match agreement {
            Agreement::Equal => "equal",
            Agreement::Changing => "changing",
            Agreement::Different => "different",
        };
        rows.push(vec![
            (*name).to_owned(),
            if node.problems.is_empty() { "healthy" } else { "unhealthy" }.to_owned(),
            node.version.clone(),
            duration(node.uptime),
            node.clients.to_string(),
            node.connections.to_string(),
            format!("{up}/{}", node.links.len()),
            trip.map_or_else(|| "-".to_owned(), |trip| format!("{:.1} ms", trip * 1e3)),
            node.links.iter().map(|link| link.backlog).sum::<usize>().to_string(),
            records.to_owned(),
        ]);
    }
    table(&rows)
}

/// Formats a number of seconds with a suitable unit.
fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
