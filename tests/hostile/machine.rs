//! System failures: no free descriptors, kernel errors, clock steps, signals, a full listen queue.
//! `faults.c` injects those that cannot be provoked otherwise.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rlimit::Resource;

use crate::common::faults::Faults;
use crate::common::{
    At, Client, DEADLINE, Herd, assert_bytes, eventually, free_port, seconds, wall_ns,
};
use crate::is_full;

/// The fields of the faults of `faults.c`, in order.
#[derive(Clone, Copy)]
enum Fault {
    /// Offset of the wall clock in seconds.
    ClockStep,
    /// Error number of failing accepts.
    AcceptErrno,
    /// Number of accepts that still fail.
    AcceptTimes,
    /// Maximum number of connections accepted between two calls of `epoll_wait`.
    AcceptedInTurn,
    /// Error number of failing reads and writes.
    IoErrno,
    /// Number of socket reads and writes that still fail.
    IoTimes,
    /// Maximum number of bytes sent between two calls of `epoll_wait`.
    SentInTurn,
}

/// A herd whose first node runs with fault injection.
struct Machine {
    herd: Herd,
    faults: Faults,
}

impl Machine {
    fn start(nodes: &[(&str, &[&str])], extra: &str) -> Self {
        let mut herd = Herd::new(nodes, extra);
        for (node, _) in nodes.iter().skip(1) {
            herd.start(node);
        }
        let faults = Faults::inject(&mut herd, "hostile/faults.c");
        herd.start(nodes[0].0);
        Self { herd, faults }
    }

    fn set(&self, fault: Fault, value: i64) {
        self.faults.set(fault as usize, value);
    }

    fn get(&self, fault: Fault) -> i64 {
        self.faults.get(fault as usize)
    }

    /// Makes the next `times` accepts fail with `errno`.
    fn fail_accepts(&self, errno: i64, times: i64) {
        self.set(Fault::AcceptErrno, errno);
        self.set(Fault::AcceptTimes, times);
    }
}

const SOLO: &[(&str, &[&str])] = &[("Solo", &[])];
const PAIR: &[(&str, &[&str])] = &[("Left", &["Right"]), ("Right", &[])];

// Accepting

/// accept(2) also returns network errors of the connection being accepted. They do not
/// affect other connections.
#[test]
fn a_failed_accept_does_not_delay_the_next_connection() {
    const EINTR: i64 = 4;
    const EPROTO: i64 = 71;
    const ENETDOWN: i64 = 100;
    const ENETUNREACH: i64 = 101;
    const ECONNABORTED: i64 = 103;
    const ECONNRESET: i64 = 104;
    const ETIMEDOUT: i64 = 110;
    const EHOSTUNREACH: i64 = 113;
    let machine = Machine::start(SOLO, "");
    for errno in
        [EINTR, EPROTO, ENETDOWN, ENETUNREACH, ECONNABORTED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH]
    {
        machine.fail_accepts(errno, 20);
        assert_bytes(&machine.herd.client("Solo").ask(b"hello"), b"? hello\n");
        assert_eq!(machine.get(Fault::AcceptTimes), 0, "errno {errno}");
    }
    assert_eq!(machine.herd.counter("Solo", "accept_errors_total"), 0);
    assert_eq!(machine.herd.counter("Solo", "accept_pauses_total"), 0);
}

#[test]
fn accepting_pauses_while_the_system_is_out_of_resources_and_resumes() {
    const ENOMEM: i64 = 12;
    const ENFILE: i64 = 23;
    const ENOBUFS: i64 = 105;
    let machine = Machine::start(SOLO, "");
    let mut steady = machine.herd.client("Solo");
    // The reply shows that this connection has been accepted, so it cannot be the one that is shed.
    assert_bytes(&steady.ask(b"hello"), b"? hello\n");
    for errno in [ENOMEM, ENFILE, ENOBUFS] {
        machine.fail_accepts(errno, 3);
        let _pending = machine.herd.client("Solo"); // served, or shed before it is read
        eventually("all injected failures have occurred", DEADLINE, || {
            assert_bytes(&steady.ask(b"hello"), b"? hello\n");
            (machine.get(Fault::AcceptTimes) == 0).then_some(())
        });
        assert_bytes(&machine.herd.client("Solo").ask(b"hello"), b"? hello\n");
    }
    assert!(machine.herd.counter("Solo", "accept_pauses_total") >= 3);
    machine.herd.wait_for_log("Solo", &["cannot accept a connection", "ulimit -n"]);
}

/// A process without free descriptors does not spin and keeps its links. New connections
/// are served once descriptors are free again.
#[test]
fn without_free_descriptors_the_node_stays_idle_and_keeps_its_links() {
    let mut herd = Herd::new(PAIR, "");
    herd.start_all();
    herd.wait_until_connected(&herd.names());
    let mut clients: Vec<Client> = (0..50).map(|_| herd.client("Left")).collect();
    for client in &mut clients {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
    }
    let pid = herd.pid("Left");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    rlimit::prlimit(pid as i32, Resource::NOFILE, Some((open, open)), None).unwrap();
    let waiting: Vec<Client> = (0..10).map(|_| herd.client("Left")).collect();
    herd.wait_for_log("Left", &["cannot accept a connection", "open files"]);

    let (start, before) = (Instant::now(), herd.cpu_time("Left"));
    let pauses = herd.counter("Left", "accept_pauses_total");
    while start.elapsed() < Duration::from_secs(2) {
        assert_bytes(&clients[0].ask(b"hello"), b"? hello\n");
        thread::sleep(Duration::from_millis(100)); // request interval of this client
    }
    let used = herd.cpu_time("Left").saturating_sub(before);
    println!("2 s without descriptors took {used:?} of processor time");
    assert!(used < Duration::from_millis(200), "{used:?}: the node spins");
    let paused = herd.counter("Left", "accept_pauses_total") - pauses;
    assert!(paused < 200, "{paused} attempts");
    let line = clients[0].iamat("meanwhile", "+1+1", "1");
    herd.wait_until_held(&["Right".to_owned()], "meanwhile", &line);
    assert_eq!(herd.counter("Left", "links_lost_total"), 0);

    drop(waiting);
    clients.truncate(40);
    let freed = Instant::now();
    let mut fresh = eventually("a new connection is served", DEADLINE, || {
        let client = herd.client("Left");
        let _ = client.send_in_background(b"hello\n".to_vec()).join();
        let mut first = [0];
        // A connection that was shed to make room in the listen queue receives nothing.
        matches!(client.stream().peek(&mut first), Ok(1)).then_some(client)
    });
    let took = freed.elapsed();
    println!("served {took:?} after descriptors became free");
    assert!(!is_full() || took < Duration::from_millis(100), "{took:?}");
    assert_bytes(&fresh.line(), b"? hello\n");
    let counters = ["connections_shed_total", "accept_errors_total"];
    assert!(counters.iter().all(|counter| herd.counter("Left", counter) > 0));
}

/// Descriptors are reserved for peers, the log and places, under any limit of the process.
#[test]
fn clients_cannot_use_reserved_descriptors() {
    let mut herd = Herd::new(PAIR, "limits: {reserved_descriptors: 100}");
    let limited = ["sh", "-c", "ulimit -n 364 && exec \"$0\" \"$@\""];
    herd.set_host("Left", Ipv4Addr::LOCALHOST, &limited, "");
    herd.start("Left");
    // 364 - 100, minus 192 for connections that are being refused or not proven to be links.
    herd.wait_for_log(
        "Left",
        &["the limit on open files is 364", "limits.max_connections is lowered to 72 from"],
    );
    let mut clients: Vec<Client> = Vec::new();
    eventually("the node is full", DEADLINE, || {
        let mut client = herd.client("Left"); // a connection that has just closed may still be counted
        client.send(b"hello\n");
        let line = client.line();
        if line == b"? hello\n" {
            clients.push(client);
            return None;
        }
        assert_bytes(&line, b"? too many connections\n");
        (clients.len() == 72).then_some(())
    });
    let open = fs::read_dir(format!("/proc/{}/fd", herd.pid("Left"))).unwrap().count();
    assert!(open <= 364 - 100, "{open} descriptors are open");
    herd.start("Right");
    eventually("the neighbor is linked", DEADLINE, || {
        let line = herd.client("Right").iamat("probe", "+0+0", &seconds(wall_ns()));
        (clients[0].held(b"probe") == Some(line)).then_some(())
    });
}

/// Connections made while the node is busy wait in the listen queue, which is longer than 128.
#[test]
fn a_burst_of_connects_waits_in_the_listen_queue() {
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let count = somaxconn.trim().parse::<usize>().unwrap().min(1000);
    let herd = Herd::solo();
    herd.signal("Solo", "STOP");
    let clients: Vec<_> =
        (0..count).map(|_| TcpStream::connect_timeout(&herd.address("Solo"), DEADLINE)).collect();
    herd.signal("Solo", "CONT");
    let refused = clients.iter().filter(|client| client.is_err()).count();
    assert_eq!(refused, 0, "of {count}");
    eventually("all connections are accepted", DEADLINE, || {
        (herd.counter("Solo", r#"connections{kind="client"}"#) >= count as u64).then_some(())
    });
}

#[test]
fn accepts_per_turn_are_limited() {
    let machine = Machine::start(SOLO, "limits: {accepts_per_turn: 7}");
    machine.herd.signal("Solo", "STOP");
    let mut clients: Vec<Client> = (0..60).map(|_| machine.herd.client("Solo")).collect();
    machine.herd.signal("Solo", "CONT");
    for client in &mut clients {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
    }
    assert_eq!(machine.get(Fault::AcceptedInTurn), 7);
}

// Budgets per turn

/// Socket buffers large enough for all replies below, so that the kernel accepts everything that is
/// produced in a turn.
const LARGE_BUFFERS: &str = "limits: {send_buffer: 16777216, receive_buffer: 16777216}";

/// Connects clients that simultaneously request 200,000 bytes of replies each, and read them.
/// Returns the length of a reply and the maximum number of bytes that the node sent in one turn.
fn max_sent_per_turn(
    machine: &Machine,
    address: SocketAddr,
    clients: usize,
    request: &[u8],
    end: &[u8],
) -> (i64, i64) {
    let mut clients: Vec<Client> = (0..clients).map(|_| Client::connect(address)).collect();
    let mut reply = 0;
    for client in &mut clients {
        client.send(request); // so that the node no longer treats the connection as new
        reply = client.until(end).len();
    }
    let count = 200_000 / reply;
    machine.herd.signal("Solo", "STOP");
    machine.set(Fault::SentInTurn, 0);
    for client in &mut clients {
        client.send(&request.repeat(count));
    }
    machine.herd.signal("Solo", "CONT");
    for client in &mut clients {
        client.take(reply * count);
    }
    let max = machine.get(Fault::SentInTurn);
    println!(
        "{} clients with {count} replies of {reply} bytes: {max} bytes per turn",
        clients.len()
    );
    (reply as i64, max)
}

/// `CLIENT_BYTES_PER_TURN`, which the last reply of a turn may exceed.
const CLIENT_BYTES: i64 = 128 * 1024;

/// A client with many pipelined requests is answered over several turns, in both protocols.
#[test]
fn the_bytes_sent_to_one_client_per_turn_are_limited() {
    let port = free_port();
    let machine =
        Machine::start(SOLO, &format!("{LARGE_BUFFERS}\nhttp: {{ports: {{Solo: {port}}}}}"));
    let herd = &machine.herd;
    herd.client("Solo").iamat("kiwi", "+1+1", "1");
    let http = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    drop(eventually("the HTTP port accepts", DEADLINE, || TcpStream::connect(http).ok()));
    let head: &[u8] = b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // An HTTP response also uses a work budget, so fewer bytes may be sent per turn.
    for (address, request, end, min) in [
        (herd.address("Solo"), &b"WHATSAT kiwi 0 0\n"[..], &b"\n\n"[..], CLIENT_BYTES / 2),
        (http, head, b"\r\n\r\n", 0),
    ] {
        let (reply, max) = max_sent_per_turn(&machine, address, 1, request, end);
        assert!(max <= CLIENT_BYTES + reply, "{max} bytes in a turn");
        assert!(max > min, "{max} bytes in a turn: nothing was counted");
    }
}

/// With any number of clients, a turn is short enough for neighbors, deadlines and the log.
#[test]
fn the_bytes_sent_to_all_clients_per_turn_are_limited() {
    const TURN_BYTES: i64 = 1 << 20;
    let machine = Machine::start(SOLO, LARGE_BUFFERS);
    machine.herd.client("Solo").iamat("kiwi", "+1+1", "1");
    let address = machine.herd.address("Solo");
    let (reply, max) = max_sent_per_turn(&machine, address, 80, b"WHATSAT kiwi 0 0\n", b"\n\n");
    // One budget for new input and one for leftovers, each exceeded by the share of the last
    // client.
    assert!(max <= 2 * (TURN_BYTES + CLIENT_BYTES + reply), "{max} bytes in a turn");
    assert!(max > TURN_BYTES / 2, "{max} bytes in a turn: the requests were not simultaneous");
}

// Reading, writing and waiting

#[test]
fn interrupted_reads_and_writes_are_retried() {
    const EINTR: i64 = 4;
    let machine = Machine::start(SOLO, "");
    let mut client = machine.herd.client("Solo");
    for i in 0..100 {
        machine.set(Fault::IoErrno, EINTR);
        machine.set(Fault::IoTimes, 3);
        client.iamat("kiwi", "+1+1", &i.to_string());
        assert_eq!(machine.get(Fault::IoTimes), 0);
    }
    assert_eq!(machine.herd.counter("Solo", "connection_errors_total"), 0);
}

/// ENOBUFS and EPIPE close the connection on which they occur and no other.
#[test]
fn a_socket_error_closes_only_its_connection() {
    const EPIPE: i64 = 32;
    const ENOBUFS: i64 = 105;
    let machine = Machine::start(PAIR, "");
    let herd = &machine.herd;
    herd.wait_for_log("Left", &["linked with Right"]);
    let mut steady = herd.client("Right");
    for errno in [ENOBUFS, EPIPE] {
        machine.set(Fault::IoErrno, errno);
        machine.set(Fault::IoTimes, 1);
        let victim = herd.client("Left");
        let _ = victim.send_in_background(b"hello\n".to_vec()).join();
        eventually("the injected error has occurred", DEADLINE, || {
            assert_bytes(&steady.ask(b"hello"), b"? hello\n");
            (machine.get(Fault::IoTimes) == 0).then_some(())
        });
        assert_bytes(&herd.client("Left").ask(b"hello"), b"? hello\n");
    }
    let broken = ["connection_errors_total", "links_lost_total"];
    let broken: u64 = broken.iter().map(|counter| herd.counter("Left", counter)).sum();
    assert!(broken >= 2, "each error closes the link or a client");
    herd.wait_until_connected(&herd.names());
}

#[test]
fn signals_at_any_time_interrupt_no_request() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let pid = herd.pid("Solo");
    let storm = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do for j in 1 2 3 4 5 6 7 8 9 10; do \
         kill -s HUP {pid}; kill -s USR1 {pid}; kill -s PIPE {pid}; done; done"
    );
    let mut signals = Command::new("sh").arg("-c").arg(storm).spawn().unwrap();
    let mut count = 0;
    while signals.try_wait().unwrap().is_none() || count < 300 {
        client.iamat("kiwi", "+1+1", &count.to_string());
        count += 1;
    }
    assert!(client.held(b"kiwi").is_some());
    assert_eq!(herd.counter("Solo", "connection_errors_total"), 0);
    // The log is complete, although it was reopened many times.
    herd.wait_for_log("Solo", &[&format!("< IAMAT kiwi +1+1 {}", count - 1)]);
    let log = herd.log_lines("Solo");
    assert_eq!(log.iter().filter(|line| line.contains("< IAMAT kiwi")).count(), count);
}

// The clock

/// The wall clock appears only in replies, records and the log. Deadlines use the monotonic clock.
#[test]
fn stepping_the_wall_clock_affects_no_deadline() {
    const HOUR: i64 = 3_600;
    let extra = "limits: {idle_timeout_s: 600, line_timeout_s: 300}\n\
                 peers: {timeout_ms: 60000, keepalive_ms: 50}";
    let machine = Machine::start(PAIR, extra);
    let herd = &machine.herd;
    herd.wait_until_connected(&herd.names());
    let mut client = herd.client("Left");
    let mut half = herd.client("Left");
    half.send(b"a line that beg");
    for step in [-HOUR, 24 * HOUR, 0] {
        machine.set(Fault::ClockStep, step);
        let name = format!("step{step}");
        let line = client.iamat(&name, "+1+1", &seconds(wall_ns()));
        let off = At::parse(&line).diff_ns - i128::from(step) * 1_000_000_000;
        assert!(off.unsigned_abs() < DEADLINE.as_nanos(), "{off} ns off");
        herd.wait_until_held(&["Right".to_owned()], &name, &line);
        eventually("the neighbor warns", DEADLINE, || {
            let warnings = herd.counter("Right", "clock_offset_warnings_total");
            (warnings >= u64::from(step != 0)).then_some(())
        });
    }
    half.send(b"ins and ends\n");
    assert_bytes(&half.line(), b"? a line that begins and ends\n");
    assert_bytes(&client.ask(b"hello"), b"? hello\n");
    for counter in [
        r#"timeouts_total{deadline="idle"}"#,
        r#"timeouts_total{deadline="line"}"#,
        "links_lost_total",
    ] {
        assert_eq!(herd.counter("Left", counter), 0, "{counter}");
    }
}

/// On a line of three, the clock of the middle node is hours ahead of a time to live, or days behind: it
/// keeps no record of its neighbors, and forwards each. Once its clock is right, it has them too.
#[test]
fn a_node_whose_clock_is_off_forwards_what_it_does_not_keep() {
    const HOUR: i64 = 3600;
    let line = [("Middle", &["Left", "Right"][..]), ("Left", &[]), ("Right", &[])];
    for step in [6 * HOUR, -48 * HOUR] {
        let extra = "limits: {client_ttl_s: 3600}\npeers: {antientropy_interval_s: 1}";
        let machine = Machine::start(&line, extra);
        let herd = &machine.herd;
        machine.set(Fault::ClockStep, step);
        for neighbor in ["Left", "Right"] {
            herd.wait_for_log("Middle", &["linked with", neighbor]);
        }
        let mut held = Vec::new();
        for i in 0..10 {
            let (from, to) = [("Left", "Right"), ("Right", "Left")][i % 2];
            let client = format!("kiwi{i}");
            let line = herd.client(from).iamat(&client, "+34.07-118.45", &seconds(wall_ns()));
            herd.wait_until_held(&[to.to_owned()], &client, &line);
            assert_eq!(
                herd.held("Middle", &client),
                None,
                "alive by a clock that is off by {step} s"
            );
            held.push((client, line));
        }
        assert!(herd.counter("Middle", "updates_relayed_total") >= 10);
        machine.set(Fault::ClockStep, 0);
        for (client, line) in &held {
            herd.wait_until_held(&["Middle".to_owned()], client, line);
        }
    }
}
