//! `--status`: queries the nodes over HTTP.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::thread;
use std::time::{Duration, Instant};

use super::announced::announced;
use super::escaped::escaped;
use super::table::table;
use crate::config::Config;
use crate::http::overview::{Fences, Overview};

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
    /// Announced settings, as sentences.
    pub notes: Vec<String>,
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
    problems.extend(differing_fences(&answers));
    let notes = announced(&answers.iter().flatten().collect::<Vec<_>>());
    Ok(Status { table: status_table(&names, &answers, agreement), problems, notes })
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

/// Queries the node `name` at all addresses of its host.
fn query(name: &str, address: &str) -> Answer {
    let failed = |why: String| format!("cannot be queried at http://{address}/: {why}");
    let addresses: Vec<SocketAddr> =
        address.to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
    query_any(name, &addresses).map_err(|failure| match failure {
        Failure::Connect(why) | Failure::Answer(why) => failed(why),
        Failure::Name(other) => format!("is not at http://{address}/; that is {other}"),
    })
}

/// Queries the node `name` at `addresses` in turn until one answers as that node.
fn query_any(name: &str, addresses: &[SocketAddr]) -> Result<Overview, Failure> {
    let deadline = Instant::now() + TIMEOUT;
    let mut failure = Failure::Connect("the host has no address".to_owned());
    for (tried, resolved) in addresses.iter().enumerate() {
        let failed = match query_address(name, resolved, deadline, addresses.len() - tried) {
            Ok(overview) => return Ok(overview),
            Err(failed) => failed,
        };
        // An answer from another server is more informative than a failure to connect.
        if !matches!(
            (&failure, &failed),
            (Failure::Answer(_) | Failure::Name(_), Failure::Connect(_))
        ) {
            failure = failed;
        }
    }
    Err(failure)
}

/// The reason why an address has not answered as the node that was expected.
enum Failure {
    /// No connection, or no response.
    Connect(String),
    /// The response is not that of a node.
    Answer(String),
    /// This node answers there.
    Name(String),
}

/// Queries the node `name` at one address, of which `left` remain to be tried.
fn query_address(
    name: &str,
    address: &SocketAddr,
    deadline: Instant,
    left: usize,
) -> Result<Overview, Failure> {
    let remaining = deadline.saturating_duration_since(Instant::now());
    let deadline = Instant::now() + remaining / u32::try_from(left).unwrap_or(u32::MAX);
    let response = fetch(address, deadline).map_err(|error| Failure::Connect(error.to_string()))?;
    let not_a_node = || Failure::Answer(NOT_A_NODE.to_owned());
    let end = memchr::memmem::find(&response, b"\r\n\r\n").ok_or_else(not_a_node)?;
    let body = &response[end + 4..];
    if !response.starts_with(b"HTTP/1.1 200 ") {
        return Err(refusal(body).map_or_else(not_a_node, Failure::Answer));
    }
    let overview: Overview = serde_json::from_slice(body).map_err(|_| not_a_node())?;
    let overview = printable(overview);
    if overview.node != name {
        return Err(Failure::Name(overview.node));
    }
    Ok(overview)
}

/// Returns the response to a request for `/api/herd`.
fn fetch(address: &SocketAddr, deadline: Instant) -> io::Result<Vec<u8>> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let mut stream = TcpStream::connect_timeout(address, left())?;
    stream.set_write_timeout(Some(left()))?;
    stream.write_all(b"GET /api/herd HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let (mut response, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    while response.len() < MAX_RESPONSE_BYTES && Instant::now() < deadline {
        stream.set_read_timeout(Some(left()))?;
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        response.extend_from_slice(&chunk[..read]);
    }
    Ok(response)
}

/// Escapes the strings of a server, which could otherwise forge the output on a terminal.
fn printable(mut overview: Overview) -> Overview {
    let hash = overview.fences.as_mut().map(|fences| &mut fences.hash);
    let texts = [&mut overview.node, &mut overview.version].into_iter().chain(hash);
    for text in texts.chain(&mut overview.problems) {
        *text = escaped(text);
    }
    overview
}

/// Returns the reason in an error response of a node, printable.
fn refusal(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let reason = body.get("error")?.as_str()?;
    Some(format!("it answers: {}", escaped(reason)))
}

/// Describes the fences of the nodes if they differ.
fn differing_fences(answers: &[Answer]) -> Option<String> {
    let mut groups: Vec<(&Option<Fences>, Vec<&str>)> = Vec::new();
    for node in answers.iter().flatten() {
        match groups.iter_mut().find(|(fences, _)| *fences == &node.fences) {
            Some((_, names)) => names.push(&node.node),
            None => groups.push((&node.fences, vec![&node.node])),
        }
    }
    if groups.len() < 2 {
        return None;
    }
    let groups = groups.iter().map(|(fences, names)| match fences {
        Some(Fences { count, hash }) => format!("{} ({count}, hash {hash})", names.join(", ")),
        None => format!("{} (none)", names.join(", ")),
    });
    let groups = groups.collect::<Vec<_>>().join(" and ");
    Some(format!(
        "the nodes do not have the same fences: {groups}; copy fences.file to all of them, and send \
         SIGHUP"
    ))
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
        "Feed",
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
            feed(node),
            records.to_owned(),
        ]);
    }
    table(&rows)
}

/// Formats the state of a feed: the number of entries that wait.
fn feed(node: &Overview) -> String {
    match &node.feed {
        None => "-".to_owned(),
        Some(feed) if feed.connected => format!("{} waiting", feed.backlog),
        Some(feed) => format!("down, {} waiting", feed.backlog),
    }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::http::overview::Counts;
    use std::net::TcpListener;

    /// A server that answers one request with `body`.
    fn server(body: String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            write!(stream, "HTTP/1.1 200 OK\r\n\r\n{body}").unwrap();
        });
        address
    }

    /// The answer of a node of an earlier release, which announces no settings.
    fn answer(name: &str) -> serde_json::Value {
        serde_json::json!({
            "node": name, "version": "1", "protocol": "1", "time": 0.0, "uptime": 0.0,
            "clients": 0, "digest": "0", "connections": 0, "subscribers": 0, "nodes": [],
            "links": [], "places": {"provider": "offline", "available": true},
            "counters": Counts::default(), "tiles": null, "problems": [],
        })
    }

    /// The answer of a healthy node.
    pub fn overview(name: &str) -> Overview {
        serde_json::from_value(answer(name)).unwrap()
    }

    fn node(name: &str) -> SocketAddr {
        server(answer(name).to_string())
    }

    #[test]
    fn all_addresses_of_a_host_are_tried() {
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let silent = silent.local_addr().unwrap();
        let addresses = [closed, silent, server("{}".to_owned()), node("Bona"), node("Clark")];
        assert_eq!(query_any("Clark", &addresses).ok().unwrap().node, "Clark");
        let failure = query_any("Clark", &[closed, node("Bona"), closed]).err().unwrap();
        assert!(matches!(failure, Failure::Name(name) if name == "Bona"));
        let failure = query_any("Clark", &[server("x".to_owned()), closed]).err().unwrap();
        assert!(matches!(failure, Failure::Answer(_)));
        assert!(matches!(query_any("Clark", &[closed]), Err(Failure::Connect(_))));
    }
}
