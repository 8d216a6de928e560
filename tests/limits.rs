//! Limits and deadlines as clients meet them: who waits, who is closed, who is told why, and that
//! nobody else has to pay for it. One test for each fault that was found and fixed.

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

/// A provider of places that takes connections and never says a word. Dropping it ends them.
struct Stalled {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Stalled {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let accept = move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                held.push(stream.unwrap());
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
            }
        };
        Self { address, over, thread: Some(thread::spawn(accept)) }
    }

    /// The part of a configuration that makes it the provider of places.
    fn configuration(&self, deadline_ms: u64) -> String {
        format!(
            "api_key: X\nplaces: {{provider: google, url: \"http://{}\", deadline_ms: {deadline_ms}}}",
            self.address
        )
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address)); // wakes the thread, unless that has failed
        let _ = self.thread.take().unwrap().join();
    }
}

/// A node with a provider that stalls, and a client that it knows.
fn stalled_solo(provider: &Stalled, deadline_ms: u64, limits: &str) -> Herd {
    let extra = format!("{}\nlimits: {{{limits}}}", provider.configuration(deadline_ms));
    let herd = Herd::solo_with(&extra);
    herd.client("Solo").iamat("kiwi", "+34.07-118.45", "1");
    herd
}

/// Whether a reply, or the end, has come without being waited for.
fn has_something(client: &Client) -> bool {
    client.stream().set_nonblocking(true).unwrap();
    let peeked = client.stream().peek(&mut [0]);
    client.stream().set_nonblocking(false).unwrap();
    !matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// Waits until clients have been left unread so many times in all because too many WHATSATs wait.
fn wait_for_stalls(herd: &Herd, times: u64) {
    eventually(&format!("{times} stalls"), DEADLINE, || {
        let stalls = herd.counter("Solo", r#"stalls_total{reason="whatsat"}"#);
        assert!(stalls <= times, "{stalls} stalls");
        (stalls == times).then_some(())
    });
}

/// A document that says that the provider did not answer.
fn assert_in_vain(reply: &[u8]) {
    let reply = Whatsat::parse(reply);
    assert_eq!(reply.status(), "UNKNOWN_ERROR", "{}", reply.document);
    assert!(reply.document["error_message"].is_string(), "{}", reply.document);
}

// WHATSATs that wait

/// One client's WHATSATs take every place there is: other commands of others are answered at once,
/// their WHATSATs wait their turn, and nothing is refused.
#[test]
fn whatsats_of_one_client_delay_no_other_command_of_another() {
    let provider = Stalled::start();
    let herd = stalled_solo(&provider, 60_000, EIGHT_PLACES);
    let mut greedy = herd.client("Solo");
    greedy.send(&b"WHATSAT kiwi 10 5\n".repeat(20));
    greedy.send(b"after them\n");
    let mut other = herd.client("Solo");
    wait_for_stalls(&herd, 1); // it has all places
    for i in 0..100 {
        other.iamat("emu", "+1+1", &i.to_string());
        assert_bytes(&other.ask(b"hello"), b"? hello\n");
    }
    other.send(b"WHATSAT kiwi 0 0\nIAMAT emu +2+2 101\n");
    let mut third = herd.client("Solo");
    third.iamat("gnu", "+1+1", "1");
    third.send(b"WHATSAT gnu 10 5\n");
    assert!(!has_something(&greedy), "no WHATSAT has been answered, yet all the others were");
    assert!(!has_something(&other), "its WHATSAT and what stands behind it wait for a place");

    drop(provider);
    let reply = Whatsat::parse(&other.until(b"\n\n"));
    assert_eq!(reply.status(), "ZERO_RESULTS");
    assert!(other.line().ends_with(b" emu +2+2 101\n"));
    for _ in 0..20 {
        assert_in_vain(&greedy.until(b"\n\n"));
    }
    assert_bytes(&greedy.line(), b"? after them\n");
    assert_in_vain(&third.until(b"\n\n"));
}

/// One client alone cannot take the places of all: it is not read for a while, and that is all.
#[test]
fn one_connection_takes_no_more_than_its_share_of_the_places() {
    let provider = Stalled::start();
    let limits = "max_pending_whatsat: 8, max_pending_whatsat_per_connection: 2";
    let herd = stalled_solo(&provider, 60_000, limits);
    let mut greedy = herd.client("Solo");
    greedy.send(&b"WHATSAT kiwi 10 5\n".repeat(20));
    wait_for_stalls(&herd, 1);
    let mut other = herd.client("Solo");
    assert_eq!(other.whatsat("kiwi", "0", "0").status(), "ZERO_RESULTS");
    assert!(!has_something(&greedy), "it is neither answered nor closed");
}

/// Who holds all places and is gone holds them no longer: no answer has to come first.
#[test]
fn places_of_a_client_that_resets_are_free_at_once() {
    let provider = Stalled::start();
    let herd = stalled_solo(&provider, 60_000, EIGHT_PLACES);
    for round in 0..3 {
        let mut greedy = herd.client("Solo");
        greedy.send(&b"WHATSAT kiwi 10 5\n".repeat(8));
        wait_for_stalls(&herd, 2 * round + 1); // it has all places
        let mut waiting = herd.client("Solo");
        waiting.send(b"WHATSAT kiwi 0 0\n");
        wait_for_stalls(&herd, 2 * round + 2);
        assert!(!has_something(&waiting), "there was a place for it");
        greedy.reset_when_dropped();
        drop(greedy);
        assert_eq!(Whatsat::parse(&waiting.until(b"\n\n")).status(), "ZERO_RESULTS");
    }
}

// The deadline of a line

/// Every read ends inside a line, but no line takes long.
#[test]
fn a_line_is_timed_from_its_own_first_byte() {
    let herd = Herd::solo_with("limits: {line_timeout_s: 5}");
    let mut client = herd.client("Solo");
    let start = Instant::now();
    client.send(b"hel");
    while start.elapsed() < Duration::from_millis(5_500) {
        thread::sleep(Duration::from_millis(125)); // the pace of this client
        client.send(b"lo\nhel");
        assert_bytes(&client.line(), b"? hello\n");
    }
    client.send(b"lo\n");
    assert_bytes(&client.line(), b"? hello\n");
}

#[test]
fn a_line_that_drips_is_closed_however_many_bytes_come() {
    let herd = Herd::solo_with("limits: {line_timeout_s: 1}");
    let client = herd.client("Solo");
    let start = Instant::now();
    while !has_something(&client) {
        let _ = client.stream().write_all(b"a"); // it may be closed by now
        thread::sleep(Duration::from_millis(50)); // the pace of this client
        assert!(start.elapsed() < DEADLINE, "it still drips");
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "closed after {:?}", start.elapsed());
    assert_eq!(client.stream().peek(&mut [0]).unwrap(), 0, "a line without an end gets no reply");
    herd.wait_for_log("Solo", &[&client.address(), "closed", "its line took too long"]);
}

#[test]
fn what_is_owed_when_a_line_takes_too_long_is_still_sent() {
    let provider = Stalled::start();
    let herd = stalled_solo(&provider, 2_500, "line_timeout_s: 1");
    let mut client = herd.client("Solo");
    client.send(b"hello\nWHATSAT kiwi 10 5\nIAMAT emu +1+1 1\nthis line has no e");
    assert_bytes(&client.line(), b"? hello\n");
    assert_in_vain(&client.until(b"\n\n"));
    assert!(client.line().ends_with(b" emu +1+1 1\n"));
    assert_bytes(&client.rest(), b"");
    herd.wait_for_log("Solo", &[&client.address(), "closed", "its line took too long"]);
}

// Idleness

#[test]
fn an_idle_client_is_closed_and_the_log_says_why() {
    let herd = Herd::solo_with("limits: {idle_timeout_s: 5}");
    let start = Instant::now();
    let mut silent = herd.client("Solo");
    let mut lively = herd.client("Solo");
    while !has_something(&silent) {
        thread::sleep(Duration::from_millis(100)); // the pace of this client
        assert_bytes(&lively.ask(b"hello"), b"? hello\n");
        assert!(start.elapsed() < 2 * DEADLINE, "it is still connected");
    }
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    assert_bytes(&silent.rest(), b"");
    herd.wait_for_log("Solo", &[&silent.address(), "closed", "it was idle"]);
    assert_eq!(herd.counter("Solo", r#"timeouts_total{deadline="idle"}"#), 1);
    assert_bytes(&lively.ask(b"hello"), b"? hello\n");
}

/// A client that waits is not idle: neither while the provider is asked, nor while there is no
/// place to ask it, nor at the moment in which the answer comes.
#[test]
fn a_client_that_waits_for_an_answer_is_not_idle() {
    let provider = Stalled::start();
    let herd = stalled_solo(
        &provider,
        7_000,
        "idle_timeout_s: 4, max_pending_whatsat: 2, max_pending_whatsat_per_connection: 2",
    );
    let mut asking = [herd.client("Solo"), herd.client("Solo")];
    for client in &mut asking {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
        client.send(b"hello\nWHATSAT kiwi 10 5\n"); // one each, so that they are still read from
        assert_bytes(&client.line(), b"? hello\n"); // so both have been executed
    }
    let mut waiting = herd.client("Solo");
    waiting.send(b"WHATSAT kiwi 0 0\n");
    wait_for_stalls(&herd, 1); // both places are taken
    for client in &mut asking {
        assert_in_vain(&client.until(b"\n\n"));
        assert_bytes(&client.ask(b"still here"), b"? still here\n");
    }
    assert_eq!(Whatsat::parse(&waiting.until(b"\n\n")).status(), "ZERO_RESULTS");
    assert_bytes(&waiting.ask(b"still here"), b"? still here\n");
}

// Clients that do not read

/// Each is closed at its deadline and costs a bounded amount until then; others notice nothing.
#[test]
fn clients_that_never_read_are_closed_and_cost_little() {
    const DEAF: u16 = 16;
    let limits = "limits: {write_timeout_s: 1, send_buffer: 4096, max_output_buffer: 65536}";
    let herd = Herd::solo_with(limits);
    let mut healthy = herd.client("Solo");
    healthy.iamat("kiwi", "+1+1", "1");
    #[cfg(target_os = "linux")]
    let before = herd.resident_kib("Solo");
    let deaf: Vec<Client> =
        (0..DEAF).map(|_| Client::connect_narrow(herd.address("Solo"))).collect();
    let questions = b"WHATSAT kiwi 0 0\n".repeat(1 << 16);
    let senders: Vec<_> =
        deaf.iter().map(|client| client.send_in_background(questions.clone())).collect();
    #[cfg(target_os = "linux")]
    let mut most = 0;
    eventually("all of them are closed", DEADLINE, || {
        assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
        #[cfg(target_os = "linux")]
        {
            most = most.max(herd.resident_kib("Solo"));
        }
        (herd.counter("Solo", r#"timeouts_total{deadline="write"}"#) == u64::from(DEAF))
            .then_some(())
    });
    #[cfg(target_os = "linux")]
    {
        let grown = most.saturating_sub(before);
        println!("{DEAF} clients that never read cost {grown} KiB");
        // Each may be owed 64 KiB and hold a read of as much, in buffers that grow by doubling;
        // all replies to one of them are 8 MiB.
        assert!(grown < u64::from(DEAF) * 512, "{grown} KiB");
    }
    for client in &deaf {
        herd.wait_for_log("Solo", &[&client.address(), "closed", "did not read"]);
    }
    for sender in senders {
        sender.join().unwrap();
    }
    assert_bytes(&healthy.ask(b"hello"), b"? hello\n");
}

// The end

/// The provider may take longer than the node has: the client still gets its AT line, a document
/// that says what happened, and an orderly end.
#[test]
fn a_whatsat_that_waits_is_answered_before_the_end() {
    let provider = Stalled::start();
    let mut herd = stalled_solo(&provider, 60_000, "");
    let mut client = herd.client("Solo");
    assert_bytes(&client.ask(b"hello"), b"? hello\n");
    client.send(b"hello\nWHATSAT kiwi 10 5\n");
    assert_bytes(&client.line(), b"? hello\n"); // so both have been executed
    herd.signal("Solo", "TERM");
    assert_in_vain(&client.until(b"\n\n"));
    assert_bytes(&client.rest(), b"");
    assert_eq!(herd.wait("Solo", DEADLINE).code(), Some(0));
}

// The log

/// Each connection that was opened has a line for its end, with the reason; in the node's last
/// life, since one that is killed writes no more.
fn assert_all_closed(herd: &Herd, name: &str) {
    let mut log = herd.log_lines(name);
    let start = log.iter().rposition(|line| line.contains(" listens on ")).unwrap();
    log.drain(..start);
    let opened: Vec<String> = log
        .iter()
        .filter_map(|line| line.strip_suffix(" opened"))
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert!(!opened.is_empty(), "{name} has been connected to");
    for label in opened {
        let start = format!(" {label} closed");
        let closed: Vec<_> = log.iter().filter(|line| line.contains(&start)).collect();
        assert!(!closed.is_empty(), "{name} does not say what became of {label}: {log:#?}");
        for line in closed {
            let (_, reason) = line.split_once(&start).unwrap();
            let reason = reason.rsplit(": ").next().unwrap_or_default();
            assert!(!reason.trim().is_empty(), "no reason in {line}");
        }
    }
}

#[test]
fn links_and_every_close_are_in_the_log_with_the_reason() {
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
    herd.wait_for_log("Left", &[&format!(" {label} closed: "), "the other end"]);

    herd.kill("Right");
    herd.wait_for_log("Left", &["closed, the link with Right: "]);
    let links = |herd: &Herd| {
        herd.log_lines("Left").iter().filter(|line| line.contains(" linked with Right")).count()
    };
    let before = links(&herd);
    herd.start("Right");
    eventually("the new link is in the log", DEADLINE, || (links(&herd) > before).then_some(()));

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

// The limit on connections

/// Nobody is waited for when all neighbours are linked: who is one too many is told so at once.
#[test]
fn one_too_many_is_told_so_at_once_when_all_neighbours_are_linked() {
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
    // The quickest of them: the others had to share the machine.
    let quickest = (0..20).map(|_| refuse()).min().unwrap();
    println!("the quickest was refused after {quickest:?}");
    assert!(quickest < Duration::from_millis(100), "{quickest:?}");
    for client in &mut served {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
    }
    assert!(herd.counter("Left", "connections_refused_total") >= 20);
}

/// A place over the limit is kept for a neighbour that is not linked. Clients that take it get
/// their line as well, are counted and logged, and nothing of what they say is executed.
#[test]
fn a_neighbour_is_let_in_when_clients_have_taken_all_places() {
    let mut herd = Herd::new(&PAIR, "limits: {max_connections: 4}");
    herd.start("Left");
    let mut served = herd.crowd("Left", 4);
    let before = herd.counter("Left", "connections_refused_total");
    let connected = Instant::now();
    let mut silent = herd.client("Left");
    assert_bytes(&silent.rest(), b"? too many connections\n");
    let heard = connected.elapsed();
    assert!(heard > Duration::from_millis(150), "{heard:?} to say that it is a peer");
    let mut hasty = herd.client("Left");
    hasty.send(b"IAMAT refused +1+1 1\nIAMAT refused +1+1 2\n");
    assert_bytes(&hasty.rest(), b"? too many connections\n");
    for refused in [&silent, &hasty] {
        herd.wait_for_log("Left", &[&refused.address(), "refused", "max_connections"]);
    }
    assert_eq!(served[0].held(b"refused"), None);
    let too_long = [b"HERD ", &[b'x'; 8192][..], b"\n"].concat();
    for (hopeless, input) in [("says nothing", &b""[..]), ("begins with too much", &too_long)] {
        let line = herd.client("Left").exchange(input);
        assert_eq!(show(&line), "? too many connections\\n", "who {hopeless}");
    }
    assert_eq!(herd.counter("Left", "connections_refused_total"), before + 4);
    assert!(herd.counter("Left", "dials_failed_total") > 0, "Right is dialled, and away");

    herd.start("Right");
    eventually("the neighbour is heard", DEADLINE, || {
        let line = herd.client("Right").iamat("probe", "+0+0", &seconds(wall_ns()));
        (served[0].held(b"probe") == Some(line)).then_some(())
    });
    for client in &mut served {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
    }
}
