//! `--status`: how the herd is, asked of the nodes over HTTP.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

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

/// The state of the herd.
pub struct Status {
    /// A row for each node.
    pub table: String,
    /// What is not well; empty if all is.
    pub problems: Vec<String>,
}

/// Asks `nodes`, by their places in [`Config::nodes`], how they are.
///
/// # Errors
///
/// Where there is nobody to ask.
pub fn status(config: &Config, nodes: &[usize]) -> Result<Status, String> {
    let Some(http) = &config.http else {
        return Err("nodes tell how they are over HTTP, and the configuration has no section \
                    `http`; see conf/config.yml for one"
            .to_owned());
    };
    let asked: Vec<(&str, String)> = nodes
        .iter()
        .filter_map(|&node| {
            let (port, node) = (http.ports[node]?, &config.nodes[node]);
            // What listens everywhere is reached as a peer reaches the node.
            let host = if http.listen.is_unspecified() { &node.dial } else { &http.listen };
            Some((node.name.as_str(), format!("{host}:{port}")))
        })
        .collect();
    if asked.is_empty() {
        return Err("none of these nodes has a port under http.ports".to_owned());
    }
    let mut answers = ask(&asked);
    let mut agreement = agreement(&answers, None);
    // Records may be on their way: then the next look finds other sums, or the same everywhere.
    for _ in 0..RETRIES {
        if agreement != Agreement::Differ {
            break;
        }
        thread::sleep(RETRY_PAUSE);
        let again = ask(&asked);
        agreement = self::agreement(&again, Some(&answers));
        answers = again;
    }
    let names: Vec<&str> = asked.iter().map(|(name, _)| *name).collect();
    let mut problems = problems(&names, &answers);
    let silent = nodes.iter().filter(|&&node| http.ports[node].is_none());
    problems.extend(silent.map(|&node| {
        format!("{} cannot be asked: it has no port under http.ports", config.nodes[node].name)
    }));
    if agreement == Agreement::Differ {
        problems.push("the nodes do not hold the same records, and none are on their way".into());
    }
    Ok(Status { table: table(&names, &answers, agreement), problems })
}

type Answer = Result<Overview, String>;

fn ask(nodes: &[(&str, String)]) -> Vec<Answer> {
    thread::scope(|scope| {
        let asked: Vec<_> = nodes
            .iter()
            .map(|(name, address)| scope.spawn(move || overview(name, address)))
            .collect();
        asked
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|_| Err("could not be asked".into())))
            .collect()
    })
}

fn overview(name: &str, address: &str) -> Answer {
    let overview: Overview = fetch(address)
        .and_then(|body| serde_json::from_slice(&body).map_err(|_| "no node of ours".to_owned()))
        .map_err(|why| format!("is not reached at http://{address}/: {why}"))?;
    if overview.node != name {
        return Err(format!("is not at http://{address}/, {} is", overview.node));
    }
    Ok(overview)
}

/// The body of `/api/herd`.
fn fetch(address: &str) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + TIMEOUT;
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let text = |error: std::io::Error| error.to_string();
    let resolved = address.to_socket_addrs().map_err(text)?.next().ok_or("no such host")?;
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
        _ => Err("what answers there is no node of ours".to_owned()),
    }
}

/// Whether nodes hold the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Equal,
    /// They differ, and records come in.
    Moving,
    Differ,
}

fn agreement(answers: &[Answer], before: Option<&[Answer]>) -> Agreement {
    let digests = |answers: &[Answer]| -> Vec<String> {
        answers.iter().flatten().map(|node| node.digest.clone()).collect()
    };
    let now = digests(answers);
    match before {
        _ if now.windows(2).all(|pair| pair[0] == pair[1]) => Agreement::Equal,
        Some(before) if digests(before) != now => Agreement::Moving,
        _ => Agreement::Differ,
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

fn table(names: &[&str], answers: &[Answer], agreement: Agreement) -> String {
    let header =
        ["Node", "State", "Version", "Up", "Clients", "Connections", "Links", "Round trip"];
    let header: Vec<String> =
        header.into_iter().chain(["Backlog", "Records"]).map(str::to_owned).collect();
    let mut rows = vec![header];
    for (name, answer) in names.iter().zip(answers) {
        let Ok(node) = answer else {
            rows.push(vec![(*name).to_owned(), "not reached".to_owned()]);
            continue;
        };
        let up = node.links.iter().filter(|link| link.up).count();
        let trip = node.links.iter().filter_map(|link| link.round_trip).reduce(f64::max);
        let records = match agreement {
            Agreement::Equal => "equal",
            Agreement::Moving => "moving",
            Agreement::Differ => "differ",
        };
        rows.push(vec![
            (*name).to_owned(),
            if node.problems.is_empty() { "well" } else { "not well" }.to_owned(),
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
    let columns = rows[0].len();
    let width =
        |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut table = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{}", line.trim_end());
    }
    table
}

/// Seconds as people read them.
fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
