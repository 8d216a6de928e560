//! Limits and deadlines, observed by clients and in the log: a client that reaches a limit waits or is
//! closed with a reason, and no other client is affected.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

mod common;

use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{Client, DEADLINE, Herd, Whatsat, assert_bytes, eventually, seconds, show, wall_ns};

const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

const EIGHT_PLACES: &str = "max_pending_whatsat: 8, max_pending_whatsat_per_connection: 8";

/// A places provider that accepts connections and never answers. Dropping it closes them.
struct Stalled {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalled {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stopped);
        let accept = move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                held.push(stream.unwrap());
                if is_stopped.load(Ordering::SeqCst) {
                    return;
                }
            }
        };
        Self { address, stopped, thread: Some(thread::spawn(accept)) }
    }

    /// Returns the configuration that makes this the places provider.
    fn configuration(&self, deadline_ms: u64) -> String {
        format!(
            "api_key: X\nplaces: {{provider: google, url: \"http://{}\", deadline_ms: {deadline_ms}}}",
            self.address
        )
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address)); // wakes the thread if it is still running
        let _ = self.thread.take().unwrap().join();
    }
}

/// Starts a node with `provider` that knows the client `kiwi`.
fn stalled_solo(provider: &Stalled, deadline_ms: u64, limits: &str) -> Herd {
    let extra = format!("{}\nlimits: {{{limits}}}", provider.configuration(deadline_ms));
    let herd = Herd::solo_with(&extra);
    herd.client("Solo").iamat("kiwi", "+34.07-118.45", "1");
    herd
}

/// Returns true if a reply or the end of the stream has already arrived.
fn has_input(client: &Client) -> bool {
    client.stream().set_nonblocking(true).unwrap();
    let peeked = client.stream().peek(&mut [0]);
    client.stream().set_nonblocking(false).unwrap();
    !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Waits until the node has stopped reading from clients `times` times in total because of pending
/// WHATSATs.
fn wait_for_stalls(herd: &Herd, times: u64) {
    eventually(&format!("{times} stalls"), DEADLINE, || {
        let stalls = herd.counter("Solo", r#"stalls_total{reason="whatsat"}"#);
        assert!(stalls <= times, "{stalls} stalls");
        (stalls == times).then_some(())
    });
}

/// Asserts that the document reports that the provider did not answer.
fn assert_unanswered(reply: &[u8]) {
    let reply = Whatsat::parse(reply);
    assert_eq!(reply.status(), "UNKNOWN_ERROR", "{}", reply.document);
    assert!(reply.document["error_message"].is_string(), "{}", reply.document);
}

// Pending WHATSATs

/// If the WHATSATs of one client reach the limit for all connections, other commands of other clients
/// are answered immediately, their WHATSATs wait, and nothing is refused.
#[test]
fn pending_whatsats_of_one_client_delay_only_whatsats_of_others() {
    let provider = Stalled::start();
    let herd = stalled_solo(&provider, 60_000, EIGHT_PLACES);
    let mut greedy = herd.client("Solo");
    greedy.send(&b"WHATSAT kiwi 10 5\n".repeat(20));
    greedy.send(b"after them\n");
    let mut other = herd.client("Solo");
    wait_for_stalls(&herd, 1); // the limit is reached
    for i in 0..100 {
        other.iamat("emu", "+1+1", &i.to_string());
        assert_bytes(&other.ask(b"hello"), b"? hello\n");
    }
    other.send(b"WHATSAT kiwi 0 0\nIAMAT emu +2+2 101\n");
    let mut third = herd.client("Solo");
    third.iamat("gnu", "+1+1", "1");
    third.send(b"WHATSAT gnu 10 5\n");
    assert!(!has_input(&greedy), "a WHATSAT was answered");
    assert!(!has_input(&other), "the WHATSAT and the commands after it must wait");

    drop(provider);
    let reply = Whatsat::parse(&other.until(b"\n\n"));
    assert_eq!(reply.status(), "ZERO_RESULTS");
    assert!(other.line().ends_with(b" emu +2+2 101\n"));
    for _ in 0..20 {
        assert_unanswered(&greedy.until(b"\n\n"));
    }
    assert_bytes(&greedy.line(), b"? after them\n");
    assert_unanswered(&third.until(b"\n\n"));
}

/// A single client cannot use up the limit for all connections: the node stops reading from it, and
/// other clients are not affected.
#[test]
fn pending_whatsats_per_connection_are_limited() {
    let provider = Stalled::start();
    let limits = "max_pending_whatsat: 8, max_pending_whatsat_per_connection: 2";
    let herd = stalled_solo(&provider, 60_000, limits);
    let mut greedy = herd.client("Solo");
    greedy.send(&b"WHATSAT kiwi 10 5\n".repeat(20));
    wait_for_stalls(&herd, 1);
    let mut other = herd.client("Solo");
    assert_eq!(other.whatsat("kiwi", "0", "0").status(), "ZERO_RESULTS");
    assert!(!has_input(&greedy), "the connection is neither answered nor closed");
}

/// The pending WHATSATs of a client that resets its connection are released immediately, without
/// waiting for their answers.
#[test]
fn pending_whatsats_of_a_reset_connection_are_released() {
    let provider = Stalled::start();
    let herd = stalled_solo(&provider, 60_000, EIGHT_PLACES);
    for round in 0..3 {
        let mut greedy = herd.client("Solo");
        greedy.send(&b"WHATSAT kiwi 10 5\n".repeat(8));
        wait_for_stalls(&herd, 2 * round + 1); // the limit is reached
        let mut waiting = herd.client("Solo");
        waiting.send(b"WHATSAT kiwi 0 0\n");
        wait_for_stalls(&herd, 2 * round + 2);
        assert!(!has_input(&waiting), "the WHATSAT did not have to wait");
        greedy.reset_when_dropped();
        drop(greedy);
        assert_eq!(Whatsat::parse(&waiting.until(b"\n\n")).status(), "ZERO_RESULTS");
    }
}

// The deadline of a line

/// Every read ends within a line, but no line takes long.
#[test]
fn the_deadline_of_a_line_starts_with_its_first_byte() {
    let herd = Herd::solo_with("limits: {line_timeout_s: 5}");
    let mut client = herd.client("Solo");
    let start = Instant::now();
    client.send(b"hel");
    while start.elapsed() < Duration::from_millis(5_500) {
        thread::sleep(Duration::from_millis(125)); // pace of the client
        client.send(b"lo\nhel");
        assert_bytes(&client.line(), b"? hello\n");
    }
    client.send(b"lo\n");
    assert_bytes(&client.line(), b"? hello\n");
}

#[test]
fn a_line_that_arrives_byte_by_byte_times_out() {
    let herd = Herd::solo_with("limits: {line_timeout_s: 1}");
    let client = herd.client("Solo");
    let start = Instant::now();
    while !has_input(&client) {
        let _ = client.stream().write_all(b"a"); // the connection may be closed already
        thread::sleep(Duration::from_millis(50)); // pace of the client
        assert!(start.elapsed() < DEADLINE, "the connection is still open");
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "closed after {:?}", start.elapsed());
    assert_eq!(client.stream().peek(&mut [0]).unwrap(), 0, "an incomplete line gets no reply");
    herd.wait_for_log("Solo", &[&client.address(), "closed", "line timeout"]);
}

#[test]
fn pending_replies_are_sent_when_a_line_times_out() {
    let provider = Stalled::start();
    let herd = stalled_solo(&provider, 2_500, "line_timeout_s: 1");
    let mut client = herd.client("Solo");
    client.send(b"hello\nWHATSAT kiwi 10 5\nIAMAT emu +1+1 1\nthis line has no e");
    assert_bytes(&client.line(), b"? hello\n");
    assert_unanswered(&client.until(b"\n\n"));
    assert!(client.line().ends_with(b" emu +1+1 1\n"));
    assert_bytes(&client.rest(), b"");
    herd.wait_for_log("Solo", &[&client.address(), "closed", "line timeout"]);
}

// Idle connections

#[test]
fn an_idle_client_is_closed_and_the_reason_is_logged() {
    let herd = Herd::solo_with("limits: {idle_timeout_s: 5}");
    let start = Instant::now();
    let mut silent = herd.client("Solo");
    let mut lively = herd.client("Solo");
    while !has_input(&silent) {
        thread::sleep(Duration::from_millis(100)); // pace of the client
        assert_bytes(&lively.ask(b"hello"), b"? hello\n");
        assert!(start.elapsed() < 2 * DEADLINE, "the client is still connected");
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    assert_bytes(&silent.rest(), b"");
    herd.wait_for_log("Solo", &[&silent.address(), "closed", "idle timeout"]);
    assert_eq!(herd.counter("Solo", r#"timeouts_total{deadline="idle"}"#), 1);
    assert_bytes(&lively.ask(b"hello"), b"? hello\n");
}

/// A client with a pending WHATSAT is not idle: neither while the provider is queried, nor while the
/// limit is reached, nor at the moment when the answer arrives.
#[test]
fn a_client_with_a_pending_whatsat_is_not_idle() {
    let provider = Stalled::start();
    let herd = stalled_solo(
        &provider,
        7_000,
        "idle_timeout_s: 4, max_pending_whatsat: 2, max_pending_whatsat_per_connection: 2",
    );
    let mut asking = [herd.client("Solo"), herd.client("Solo")];
    for client in &mut asking {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
        client.send(b"hello\nWHATSAT kiwi 10 5\n"); // one each, so that the node keeps reading
        assert_bytes(&client.line(), b"? hello\n"); // both have been executed
    }
    let mut waiting = herd.client("Solo");
    waiting.send(b"WHATSAT kiwi 0 0\n");
    wait_for_stalls(&herd, 1); // the limit is reached
    for client in &mut asking {
        assert_unanswered(&client.until(b"\n\n"));
        assert_bytes(&client.ask(b"still here"), b"? still here\n");
    }
    assert_eq!(Whatsat::parse(&waiting.until(b"\n\n")).status(), "ZERO_RESULTS");
    assert_bytes(&waiting.ask(b"still here"), b"? still here\n");
}

// Clients that do not read

/// Each is closed at its deadline and uses a bounded amount of memory until then. Other clients are
/// not affected.
#[test]
fn clients_that_never_read_are_closed_and_use_bounded_memory() {
    const CLIENTS: u16 = 16;
    let limits = "limits: {write_timeout_s: 1, send_buffer: 4096, max_output_buffer: 65536}";
    let herd = Herd::solo_with(limits);
    let mut healthy = herd.client("Solo");
    healthy.iamat("kiwi", "+1+1", "1");
    #[cfg(target_os = "linux")]
    let before = herd.resident_kib("Solo");
    let clients: Vec<Client> =
        (0..CLIENTS).map(|_| Client::connect_narrow(herd.address("Solo"))).collect();
    let questions = b"WHATSAT kiwi 0 0\n".repeat(1 << 16);
    let senders: Vec<_> =
        clients.iter().map(|client| client.send_in_background(questions.clone())).collect();
    #[cfg(target_os = "linux")]
    let mut most = 0;
    eventually("all of them are closed", DEADLINE, || {
        assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
        #[cfg(target_os = "linux")]
        {
            most = most.max(herd.resident_kib("Solo"));
        }
        (herd.counter("Solo", r#"timeouts_total{deadline="write"}"#) == u64::from(CLIENTS))
            .then_some(())
    });
    #[cfg(target_os = "linux")]
    {
        let grown = most.saturating_sub(before);
        println!("{CLIENTS} clients that never read use {grown} KiB");
        // Each may have 64 KiB of unsent replies and as much unexecuted input, in buffers that grow
        // by doubling. All replies to one of them would be 8 MiB.
        assert!(grown < u64::from(CLIENTS) * 512, "{grown} KiB");
    }
    for client in &clients {
        herd.wait_for_log("Solo", &[&client.address(), "closed", "write timeout"]);
    }
    for sender in senders {
        sender.join().unwrap();
    }
    assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
}

// Shutdown

/// If the provider does not answer before the node shuts down, the client still gets its AT line, a
/// document with the reason, and an orderly close.
#[test]
fn a_pending_whatsat_is_answered_before_shutdown() {
    let provider = Stalled::start();
    let mut herd = stalled_solo(&provider, 60_000, "");
    let mut client = herd.client("Solo");
    assert_bytes(&client.ask(b"hello"), b"? hello\n");
    client.send(b"hello\nWHATSAT kiwi 10 5\n");
    assert_bytes(&client.line(), b"? hello\n"); // both have been executed
    herd.signal("Solo", "TERM");
    assert_unanswered(&client.until(b"\n\n"));
    assert_bytes(&client.rest(), b"");
    assert_eq!(herd.wait("Solo", DEADLINE).code(), Some(0));
}

// The log

/// Asserts that the log contains, for each connection opened since the node last started, a line that
/// it was closed, with a reason.
fn assert_all_closed(herd: &Herd, name: &str) {
    let mut log = herd.log_lines(name);
    let start = log.iter().rposition(|line| line.contains(" listens on ")).unwrap();
    log.drain(..start);
    let opened: Vec<String> = log
        .iter()
        .filter_map(|line| line.strip_suffix(" opened"))
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert!(!opened.is_empty(), "no connection to {name} was logged");
    for label in opened {
        let start = format!(" {label} closed");
        let closed: Vec<_> = log.iter().filter(|line| line.contains(&start)).collect();
        assert!(!closed.is_empty(), "{name} did not log that {label} was closed: {log:#?}");
        for line in closed {
            let (_, reason) = line.split_once(&start).unwrap();
            let reason = reason.rsplit(": ").next().unwrap_or_default();
            assert!(!reason.trim().is_empty(), "no reason in {line}");
        }
    }
}

#[test]
fn links_and_closed_connections_are_logged_with_the_reason() {
    let mut herd = Herd::new(&PAIR, "limits: {max_connections: 3}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    herd.wait_for_log("Left", &["linked with Right"]);
    herd.wait_for_log("Right", &["linked with Left"]);

    let mut clients = herd.crowd("Left", 3);
    let mut refused = herd.client("Left");
    assert_bytes(&refused.rest(), b"? too many connections\n");
    herd.wait_for_log("Left", &[&refused.address(), "refused", "max_connections"]);

    let reset = clients.pop().unwrap();
    reset.reset_when_dropped();
    let label = reset.address();
    drop(reset);
    herd.wait_for_log("Left", &[&format!(" {label} closed: "), "reset"]);
    let ended = clients.pop().unwrap();
    let label = ended.address();
    assert_bytes(&ended.exchange(b""), b"");
    herd.wait_for_log("Left", &[&format!(" {label} closed: "), "by the peer"]);

    herd.kill("Right");
    herd.wait_for_log("Left", &["closed, the link with Right: "]);
    let links = |herd: &Herd| {
        herd.log_lines("Left").iter().filter(|line| line.contains(" linked with Right")).count()
    };
    let before = links(&herd);
    herd.start("Right");
    eventually("the new link is logged", DEADLINE, || (links(&herd) > before).then_some(()));

    let mut open = clients.pop().unwrap();
    herd.signal("Left", "TERM");
    assert_bytes(&open.rest(), b"");
    assert_eq!(herd.wait("Left", DEADLINE).code(), Some(0));
    let end = format!(" {} closed: the node", open.address());
    assert!(herd.log_lines("Left").iter().any(|line| line.contains(&end)), "{end}");
    assert_all_closed(&herd, "Left");
    herd.signal("Right", "TERM");
    assert_eq!(herd.wait("Right", DEADLINE).code(), Some(0));
    assert_all_closed(&herd, "Right");
}

// The connection limit

/// There is no probation when all neighbors are linked: a connection over the limit is refused
/// immediately.
#[test]
fn a_connection_over_the_limit_is_refused_immediately_if_all_neighbors_are_linked() {
    let mut herd = Herd::new(&PAIR, "limits: {max_connections: 4}");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let mut served = herd.crowd("Left", 4);
    let refuse = || {
        let start = Instant::now();
        let mut refused = herd.client("Left");
        assert_bytes(&refused.rest(), b"? too many connections\n");
        start.elapsed()
    };
    // Only the fastest counts, since the machine may be busy.
    let fastest = (0..20).map(|_| refuse()).min().unwrap();
    println!("fastest refusal: {fastest:?}");
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
    for client in &mut served {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
    }
    assert!(herd.counter("Left", "connections_refused_total") >= 20);
}

/// In a storm, connections on probation make room for newer ones without being drained. They are
/// refused, counted and logged like all others.
#[test]
fn every_connection_of_a_storm_over_the_limit_is_counted_as_refused() {
    const STORM: usize = 300;
    let mut herd = Herd::new(&PAIR, "limits: {max_connections: 4}");
    herd.start("Left");
    let _served = herd.crowd("Left", 4);
    let before = herd.counter("Left", "connections_refused_total");
    let storm: Vec<_> = (0..STORM).map(|_| herd.client("Left")).collect();
    eventually("all are refused", DEADLINE, || {
        let refused = herd.counter("Left", "connections_refused_total") - before;
        (refused == STORM as u64).then_some(())
    });
    drop(storm);
}

/// A connection over the limit is on probation while a neighbor is not linked. If it turns out to be a
/// client, it is refused, counted and logged, and none of its commands is executed.
#[test]
fn a_neighbor_is_accepted_when_clients_have_reached_the_limit() {
    let mut herd = Herd::new(&PAIR, "limits: {max_connections: 4}");
    herd.start("Left");
    let mut served = herd.crowd("Left", 4);
    let before = herd.counter("Left", "connections_refused_total");
    let connected = Instant::now();
    let mut silent = herd.client("Left");
    assert_bytes(&silent.rest(), b"? too many connections\n");
    let probation = connected.elapsed();
    assert!(probation > Duration::from_millis(150), "{probation:?} to identify itself as a peer");
    let mut hasty = herd.client("Left");
    hasty.send(b"IAMAT refused +1+1 1\nIAMAT refused +1+1 2\n");
    assert_bytes(&hasty.rest(), b"? too many connections\n");
    for refused in [&silent, &hasty] {
        herd.wait_for_log("Left", &[&refused.address(), "refused", "max_connections"]);
    }
    assert_eq!(served[0].held(b"refused"), None);
    let too_long = [b"HERD ", &[b'x'; 8192][..], b"\n"].concat();
    for (case, input) in [("no input", &b""[..]), ("a line that is too long", &too_long)] {
        let line = herd.client("Left").exchange(input);
        assert_eq!(show(&line), "? too many connections\\n", "{case}");
    }
    assert_eq!(herd.counter("Left", "connections_refused_total"), before + 4);
    assert!(herd.counter("Left", "dials_failed_total") > 0, "Right is dialed while it is down");

    herd.start("Right");
    eventually("a record of the neighbor arrives", DEADLINE, || {
        let line = herd.client("Right").iamat("probe", "+0+0", &seconds(wall_ns()));
        (served[0].held(b"probe") == Some(line)).then_some(())
    });
    for client in &mut served {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
    }
}
