//! Rules that hold for every dialect: tokens, limits, long batches, the disk.

use std::time::Duration;

use proxy_herd::devices::Settings;
use proxy_herd::limits::Limits;
use proxy_herd::node::store::Store;
use proxy_herd::node::{Handled, Next};
use proxy_herd::rng::Rng;
use proxy_herd::storage::{self, Failed, Recovery, Storage, SyncMode};
use proxy_herd::testing::disk::Disk;

use crate::harness::{Connection, Listener, settings, tokens};

const POSITION: &str = "id=a&lat=48.8584&lon=2.2945&timestamp=1795824000";

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n").into_bytes()
}

fn post(target: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}").into()
}

/// Sends a request on a connection of its own. Returns the status, and the head.
fn exchange(listener: &mut Listener, request: &[u8]) -> (String, String) {
    exchange_from(listener, 7, false, request)
}

fn exchange_from(
    listener: &mut Listener,
    address: u64,
    is_local: bool,
    request: &[u8],
) -> (String, String) {
    let mut connection = listener.connect_from(address, is_local);
    connection.receive(listener, request, false);
    let sent = String::from_utf8(connection.close(listener)).unwrap();
    (sent[9..12].to_owned(), sent)
}

fn with_tokens() -> Listener {
    Listener::new(Settings { tokens: Some(tokens()), ..settings() })
}

#[test]
fn ten_wrong_tokens_within_a_minute_block_an_address_for_a_minute() {
    let mut listener = with_tokens();
    let wrong = post("/t/CANARY-van1-000009", POSITION);
    let right = post("/t/CANARY-van1-000000", POSITION);
    for _ in 0..9 {
        assert_eq!(exchange(&mut listener, &wrong).0, "401");
    }
    assert_eq!(exchange(&mut listener, &right).0, "200");
    // A page that the owner of the address looks at does not count.
    let page = get("/t/wrong", "Sec-Fetch-Site: cross-site\r\n");
    assert_eq!(exchange(&mut listener, &page).0, "403");
    assert_eq!(exchange(&mut listener, &get("/", "")).0, "401", "none is as bad as a wrong one");
    for request in [&wrong, &right] {
        let (status, head) = exchange(&mut listener, request);
        assert_eq!(status, "429");
        assert!(head.contains("\r\nRetry-After: 61\r\n") && head.contains("Connection: close"));
    }
    assert_eq!(exchange_from(&mut listener, 8, false, &right).0, "200", "another address");
    listener.advance(Duration::from_secs(59));
    assert_eq!(exchange(&mut listener, &right).0, "429");
    listener.advance(Duration::from_secs(1));
    assert_eq!(exchange(&mut listener, &right).0, "200");
    let counters = listener.counters();
    assert!(counters.contains(&"requests unknown unauthorized 10".to_owned()), "{counters:?}");
    assert!(counters.contains(&"requests unknown limited 3".to_owned()), "{counters:?}");
}

#[test]
fn a_proxy_on_this_machine_names_the_address() {
    let mut listener = with_tokens();
    let request = |token: &str, forwarded: &str| {
        get(&format!("/t/{token}"), &format!("X-Forwarded-For: {forwarded}\r\n"))
    };
    for _ in 0..10 {
        let wrong = request("wrong", "198.51.100.1, 203.0.113.9");
        assert_eq!(exchange_from(&mut listener, 7, true, &wrong).0, "401");
    }
    let status = |listener: &mut Listener, address, is_local, forwarded| {
        let right = request("CANARY-van1-000000", forwarded);
        exchange_from(listener, address, is_local, &right).0
    };
    assert_eq!(status(&mut listener, 7, true, "203.0.113.9"), "429");
    assert_eq!(status(&mut listener, 7, true, "203.0.113.9, 198.51.100.1"), "200");
    assert_eq!(status(&mut listener, 7, true, ""), "200", "the proxy itself");
    assert_eq!(status(&mut listener, 9, false, "203.0.113.9"), "200", "not a proxy");
    assert_eq!(status(&mut listener, 7, true, "203.0.113.9:4711"), "429", "with a port");
}

/// As without a proxy, an IPv6 address counts with its whole network.
#[test]
fn a_proxy_names_addresses_of_one_network() {
    let mut listener = with_tokens();
    let mut status = |token: &str, forwarded: &str| {
        let field = format!("X-Forwarded-For: {forwarded}\r\n");
        exchange_from(&mut listener, 7, true, &get(&format!("/t/{token}"), &field)).0
    };
    for host in 0..10 {
        assert_eq!(status("wrong", &format!("2001:db8:1:2::{host:x}")), "401");
    }
    let right = "CANARY-van1-000000";
    for blocked in ["2001:db8:1:2:ffff::1", "[2001:db8:1:2::77]", "[2001:db8:1:2::77]:4711"] {
        assert_eq!(status(right, blocked), "429", "{blocked}");
    }
    for other in ["2001:db8:1:3::1", "unknown"] {
        assert_eq!(status(right, other), "200", "{other}");
    }
}

#[test]
fn a_new_file_of_tokens_holds_for_open_connections() {
    let mut listener = with_tokens();
    let request = post("/t/CANARY-van1-000000", POSITION);
    let mut connection = listener.connect();
    connection.receive(&mut listener, &request, false);
    assert!(connection.sent.starts_with(b"HTTP/1.1 200 "));
    listener.devices.set_tokens(Some(
        proxy_herd::devices::tokens::Tokens::parse(b"another-token-0000 van1").unwrap(),
    ));
    connection.receive(&mut listener, &request, false);
    let sent = String::from_utf8(connection.sent.clone()).unwrap();
    assert!(sent.contains("HTTP/1.1 401 "), "{sent}");
}

/// The harness checks the log of every request, and the corpus the responses.
#[test]
fn no_output_contains_a_token() {
    let with = Settings { tokens: Some(tokens()), ..settings() };
    let shown = format!("{with:?} {:#?} {:?}", with, with.tokens.as_ref().unwrap());
    assert!(!shown.contains("CANARY") && shown.contains("count: 2"), "{shown}");
    let (mut listener, token) = (Listener::new(with), "CANARY-fleet-00000");
    // `x:CANARY-fleet-00000`, `CANARY-fleet-00000:` and `CANARY-fleet-00000:x`, in base64.
    let logins = [
        "eDpDQU5BUlktZmxlZXQtMDAwMDA=",
        "Q0FOQVJZLWZsZWV0LTAwMDAwOg==",
        "Q0FOQVJZLWZsZWV0LTAwMDAwOng=",
    ];
    let long = "x".repeat(9000);
    let mut requests = Vec::new();
    for (at, position) in
        ["", &format!("?{POSITION}"), "?lat=1&lon=2", "?lat=x&lon=1"].iter().enumerate()
    {
        for version in ["1.1", "1.0", "2.0"] {
            let head = format!("HTTP/{version}\r\nHost: h\r\n");
            requests.push(format!("GET /t/{token}{position} {head}\r\n"));
            requests.push(format!("GET /{position}&token={token} {head}\r\n"));
            requests.push(format!("GET /{position} {head}Authorization: Bearer {token}\r\n\r\n"));
            requests.push(format!("GET /{position} {head}Authorization: Basic {token}:\r\n\r\n"));
            let name = token;
            requests.push(format!("GET /t/{token}?id={name}&lat=1&lon=2 {head}\r\n"));
            // The URL was entered as the name.
            requests.push(format!("GET /t/{token}?id=http://h/t/{name}/&lat=1&lon=2 {head}\r\n"));
            requests.push(format!("GET /t/{token}?lat=1&lon=2 {head}X-Limit-D: {name}\r\n\r\n"));
            for login in logins {
                requests
                    .push(format!("GET /{position} {head}Authorization: Basic {login}\r\n\r\n"));
                // The login must not become the name of the device either.
                let body = format!("lat=1&lon={at}");
                let length = format!("Content-Length: {}\r\n", body.len());
                requests.push(format!(
                    "POST /t/{token} {head}Authorization: Basic {login}\r\n{length}\r\n{body}"
                ));
            }
            requests.push(format!("GET /t/{token} {head}Origin: x\r\n\r\n"));
            requests.push(format!("OPTIONS /t/{token} {head}\r\n"));
            requests.push(format!("GET /t/{token}/{long} {head}\r\n"));
            requests.push(format!("GET /t/{token} {head}Content-Length: x\r\n\r\n"));
            requests.push(format!("POST /t/{token} {head}Content-Length: 99999999\r\n\r\n"));
            requests.push(format!("POST /t/{token} {head}Expect: {token}\r\n\r\n"));
            requests.push(format!(
                "POST /t/{token} {head}Transfer-Encoding: chunked\r\n\r\n{token}\r\n"
            ));
            requests.push(format!("{token} /t/{token} {head}\r\n"));
            requests.push(format!("GET /t/{token}x {head}\r\n"));
        }
    }
    let mut stored = 0;
    for (at, request) in requests.iter().enumerate() {
        let (_, sent) = exchange_from(&mut listener, at as u64, false, request.as_bytes());
        assert!(!sent.contains("CANARY"), "{request}: {sent}");
        stored += listener.take_reports().len();
        assert!(!listener.counters().join(" ").contains("CANARY"));
    }
    assert!(stored > 10, "{stored}");
    // It does not matter if the token names the client.
    let request =
        get("/t/CANARY-van1-000000?id=CANARY-van1-000000&lat=1&lon=2&timestamp=1795824000", "");
    assert_eq!(exchange(&mut listener, &request).0, "200");
    assert_eq!(listener.take_reports(), ["= van1 +1+2 1795824000"]);
}

#[test]
fn head_changes_nothing_and_has_no_body() {
    let mut listener = Listener::new(settings());
    let mut connection = listener.connect();
    let request = format!("HEAD /?{POSITION} HTTP/1.1\r\nHost: h\r\n\r\n");
    connection.receive(&mut listener, request.repeat(2).as_bytes(), false);
    let sent = String::from_utf8(connection.sent.clone()).unwrap();
    assert_eq!(sent.matches("HTTP/1.1 200 OK\r\n").count(), 2, "{sent}");
    assert!(sent.ends_with("\r\n\r\n") && sent.contains("Content-Length: 2\r\n"), "{sent}");
    assert!(listener.take_reports().is_empty());
}

#[test]
fn the_interim_response_comes_before_the_body_and_only_then() {
    let mut listener = Listener::new(settings());
    let request = post("/", POSITION);
    let request = String::from_utf8(request).unwrap();
    let request = request.replacen("Host: h", "Host: h\r\nExpect: 100-continue", 1);
    let (head, body) = request.split_at(request.find("\r\n\r\n").unwrap() + 4);
    let mut connection = listener.connect();
    connection.receive(&mut listener, head.as_bytes(), false);
    assert_eq!(connection.sent, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.receive(&mut listener, body.as_bytes(), false);
    assert!(connection.sent[25..].starts_with(b"HTTP/1.1 200 OK\r\n"));
    for refused in
        [head.replace("Content-Length: 4", "Content-Length: 999999999"), head.replace("1.1", "1.0")]
    {
        let mut connection = listener.connect();
        connection.receive(&mut listener, refused.as_bytes(), false);
        let sent = String::from_utf8(connection.sent.clone()).unwrap();
        assert!(!sent.contains("100 Continue"), "{sent}");
    }
    let mut listener = with_tokens();
    assert_eq!(exchange(&mut listener, head.as_bytes()).0, "401", "before the body");
}

fn feature(second: usize, device: &str) -> String {
    format!(
        "{{\"type\":\"Feature\",\"geometry\":{{\"type\":\"Point\",\"coordinates\":[2.{second:06},48.{second:06}]}},\
         \"properties\":{{\"timestamp\":{},\"speed\":3,\"horizontal_accuracy\":12,\"motion\":[\"driving\"],\
         \"battery_state\":\"unplugged\",\"device_id\":\"{device}\"}}}}",
        1_795_800_000 + second
    )
}

#[test]
fn a_long_batch_is_executed_in_slices_and_delays_no_other_connection() {
    const COUNT: usize = 10_000;
    let limits = Limits::default();
    let mut listener = Listener::new(Settings { max_body: 8 << 20, ..settings() });
    // The newest first: all of them become records only if they are sorted.
    let features: Vec<_> = (0..COUNT).rev().map(|second| feature(second, "van1")).collect();
    let body = format!("{{\"locations\":[{}]}}", features.join(","));
    let request = post("/", &body);
    let mut connection = listener.connect();
    let (mut turns, mut at, mut reports, mut others) = (0, 0, Vec::new(), 0);
    let next = loop {
        if connection.next == Next::NeedInput {
            let end = request.len().min(at + limits.max_input_buffer);
            let piece = &request[std::mem::replace(&mut at, end)..end];
            connection.feed(piece);
        }
        listener.devices.begin_turn(listener.now.wall);
        let mut out = Vec::new();
        let Handled { next, .. } = connection.call(&mut listener, false, &mut out);
        connection.sent.extend_from_slice(&out);
        let new = listener.take_reports();
        assert!(new.len() <= 256, "{} positions in a turn", new.len());
        reports.extend(new);
        turns += 1;
        if next == Next::Yielded && turns % 16 == 0 {
            // Another device in the same turn.
            let mut other = listener.connect();
            other.feed(&post("/", POSITION));
            other.call(&mut listener, false, &mut Vec::new());
            others += listener.take_reports().len();
        }
        if !connection.sent.is_empty() {
            break next;
        }
    };
    assert_eq!(next, Next::NeedInput);
    assert!(connection.sent.ends_with(b"{\"result\":\"ok\"}"));
    assert_eq!(reports.len(), COUNT);
    let expected =
        |second: usize| format!("= van1 +48.{second:06}+2.{second:06} {}", 1_795_800_000 + second);
    assert!((0..COUNT).all(|second| reports[second] == expected(second)));
    assert!(turns > 2 * COUNT / 256 && others >= 4, "{turns} turns, {others} others");
    let sent = connection.sent.len();
    connection.receive(&mut listener, &get("/", ""), false);
    assert!(connection.sent[sent..].starts_with(b"HTTP/1.1 200 "), "the connection goes on");
}

#[test]
fn bodies_are_bounded_over_all_connections_and_freed_with_them() {
    let mut listener = Listener::new(settings());
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1f0000\r\n";
    let piece = vec![b'x'; 64 << 10];
    let open = |listener: &mut Listener| {
        let mut connection = listener.connect();
        connection.receive(listener, head, false);
        for _ in 0..31 {
            connection.receive(listener, &piece, false);
        }
        connection
    };
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let connection = open(&mut listener);
        if !connection.sent.is_empty() {
            assert!(connection.sent.starts_with(b"HTTP/1.1 503 "));
            connection.close(&mut listener);
            break;
        }
        connections.push(connection);
    }
    assert!((30..=40).contains(&connections.len()), "{}", connections.len());
    assert!(connections.iter().all(|connection| connection.held() == 0));
    for connection in connections {
        connection.close(&mut listener);
    }
    for _ in 0..100 {
        let connection = open(&mut listener);
        assert!(connection.sent.is_empty(), "the memory is free again");
        connection.close(&mut listener);
    }
    assert_eq!(listener.devices.connections, 0);
}

#[test]
fn what_ends_early_is_not_executed() {
    let mut listener = Listener::new(settings());
    let request = post("/", POSITION);
    for at in 0..request.len() {
        let mut connection = listener.connect();
        connection.receive(&mut listener, &request[..at], true);
        assert_eq!((connection.next, &connection.sent[..]), (Next::CloseWhenFlushed, &[][..]));
    }
    assert!(listener.take_reports().is_empty());
    let mut connection = listener.connect();
    connection.receive(&mut listener, &request, true);
    assert_eq!(connection.next, Next::CloseWhenFlushed);
    assert!(connection.sent.starts_with(b"HTTP/1.1 200 "));
}

#[test]
fn a_shutdown_lets_the_current_batch_end_and_begins_nothing() {
    let mut listener = Listener::new(settings());
    let features: Vec<_> = (0..1000).map(|second| feature(second, "van1")).collect();
    let batch = post("/", &format!("{{\"locations\":[{}]}}", features.join(",")));
    let mut connection = listener.connect();
    connection.feed(&batch);
    connection.feed(&post("/", POSITION));
    while !connection.session().is_waiting() {
        listener.devices.begin_turn(listener.now.wall);
        connection.call(&mut listener, false, &mut Vec::new());
    }
    assert_eq!(connection.session().received(), None);
    connection.session().begin_shutdown();
    connection.receive(&mut listener, b"", false);
    assert_eq!(connection.next, Next::ShutdownWhenFlushed);
    assert!(connection.sent.ends_with(b"{\"result\":\"ok\"}"));
    assert_eq!(listener.take_reports().len(), 1000);
}

#[test]
fn an_incomplete_request_reports_its_progress() {
    let mut listener = Listener::new(settings());
    let request = post("/", POSITION);
    let mut connection = listener.connect();
    connection.receive(&mut listener, &request[..10], false);
    assert_eq!((connection.session().received(), connection.held()), (None, 10));
    connection.receive(&mut listener, &request[10..request.len() - 1], false);
    assert_eq!(connection.session().received(), Some(request.len() - 1));
    connection.receive(&mut listener, &request[request.len() - 1..], false);
    assert_eq!(connection.session().received(), None);
}

#[test]
fn names_have_the_limits_of_the_line_protocol() {
    let limits = Limits { max_line: 100, ..Limits::default() };
    let mut listener = Listener::with_limits(settings(), limits);
    // IAMAT, three spaces and the other fields take 33 bytes.
    for (length, expected) in [(67, 1), (68, 0)] {
        let name = "n".repeat(length);
        let target = format!("/?id={name}&lat=48.8584&lon=2.2945&timestamp=1795824000");
        assert_eq!(exchange(&mut listener, &get(&target, "")).0, "200");
        assert_eq!(listener.take_reports().len(), expected, "{length}");
    }
}

#[test]
fn too_many_new_clients_are_asked_to_come_back() {
    let limits = Limits { new_clients_per_second_per_address: Some(1), ..Limits::default() };
    let mut listener = Listener::with_limits(settings(), limits);
    let body = format!("{{\"locations\":[{},{}]}}", feature(0, "a"), feature(1, "b"));
    let request = post("/", &body);
    let (status, sent) = exchange(&mut listener, &request);
    assert!(status == "503" && sent.contains("\r\nRetry-After: 1\r\n"), "{sent}");
    listener.advance(Duration::from_secs(1));
    assert_eq!(exchange(&mut listener, &request).0, "200");
}

/// A listener whose node stores records with `sync: always`.
fn with_disk() -> (Listener, Disk, Rng) {
    let (mut disk, mut rng) = (Disk::default(), Rng::new(1));
    let recovered = Recovery::new("Bailey", [], None).unwrap().finish();
    let settings_of_storage = storage::Settings {
        node: "Bailey".into(),
        sync: SyncMode::Always,
        max_bytes: 1 << 30,
        key: None,
        keeps_segments: false,
    };
    let mut listener = Listener::new(settings());
    let mut storage = Storage::new(settings_of_storage, recovered, listener.now.instant);
    while !storage.is_ready() {
        run_tasks(&mut storage, &listener, &mut disk, &mut rng);
    }
    listener.node.store = Some(Store::new(storage, "folder".into(), true));
    (listener, disk, rng)
}

fn run_tasks(storage: &mut Storage, listener: &Listener, disk: &mut Disk, rng: &mut Rng) {
    let now = listener.now.instant;
    while let Some(task) = storage.poll_task() {
        let failed =
            task.ops.iter().enumerate().find_map(|(at, op)| {
                disk.execute(op, rng).err().map(|error| Failed { op: at, error })
            });
        storage.handle_task_done(task, failed.map_or(Ok(()), Err), now);
    }
}

/// The rest of a turn: what was appended is written, and synced.
fn sync(listener: &mut Listener, disk: &mut Disk, rng: &mut Rng) {
    let now = listener.now.instant;
    let mut store = listener.node.store.take().unwrap();
    if store.storage.poll_timeout().is_some_and(|at| at <= now) {
        store.storage.handle_timeout(now);
    }
    while let Some(write) = store.storage.poll_write() {
        let result = disk.write(&write, rng);
        store.storage.handle_written(result, now);
    }
    store.storage.handle_directory(&listener.node.herd.directory, now);
    run_tasks(&mut store.storage, listener, disk, rng);
    listener.node.store = Some(store);
}

#[test]
fn a_response_waits_until_every_record_is_durable() {
    let (mut listener, mut disk, mut rng) = with_disk();
    let mut connection = listener.connect();
    let mut out = Vec::new();
    // One that has nothing to wait for comes before it.
    connection.feed(&get("/", ""));
    connection.feed(&post("/", POSITION));
    connection.feed(&get("/", ""));
    listener.devices.begin_turn(listener.now.wall);
    connection.call(&mut listener, false, &mut out);
    let gated = connection.session().take_gated().unwrap();
    assert!(gated.is_update && !gated.is_refused);
    let (free, waiting) = out.split_at(gated.from);
    assert!(free.ends_with(b"[]") && waiting.starts_with(b"HTTP/1.1 200 OK\r\n"));
    sync(&mut listener, &mut disk, &mut rng);
    let store = listener.node.store.as_ref().unwrap();
    assert_eq!(store.storage.gate(gated.position), storage::Gate::Open);
    // The same again: it is durable.
    connection.receive(&mut listener, &post("/", POSITION), false);
    assert_eq!(connection.session().take_gated(), None);
}

#[test]
fn a_batch_over_several_turns_waits_for_all_of_its_records() {
    let (mut listener, mut disk, mut rng) = with_disk();
    let features: Vec<_> = (0..1000).map(|second| feature(second, "van1")).collect();
    let batch = post("/", &format!("{{\"locations\":[{}]}}", features.join(",")));
    for fails_at in [None, Some(6)] {
        let mut connection = listener.connect();
        connection.feed(&batch);
        let mut turn = 0;
        while connection.sent.is_empty() {
            listener.devices.begin_turn(listener.now.wall);
            let mut out = Vec::new();
            connection.call(&mut listener, false, &mut out);
            connection.sent.extend_from_slice(&out);
            let gated = connection.session().take_gated();
            assert_eq!(gated.is_some(), !out.is_empty() && fails_at.is_none());
            turn += 1;
            // The disk fails while the batch is reported, and recovers before its end.
            disk.failing_ops = if fails_at == Some(turn) { 100 } else { 0 };
            sync(&mut listener, &mut disk, &mut rng);
        }
        let expected: &[u8] = if fails_at.is_some() { b"HTTP/1.1 503 " } else { b"HTTP/1.1 200 " };
        assert!(connection.sent.starts_with(expected), "{fails_at:?}");
        connection.close(&mut listener);
        // The second run has new positions.
        listener.advance(Duration::from_secs(1));
        listener.node.herd.directory = Listener::new(settings()).node.herd.directory;
    }
}

#[test]
fn a_record_that_the_disk_refuses_makes_the_device_try_again() {
    let (mut listener, mut disk, mut rng) = with_disk();
    let mut connection = listener.connect();
    listener.devices.begin_turn(listener.now.wall);
    connection.feed(&post("/", POSITION));
    connection.call(&mut listener, false, &mut Vec::new());
    let gated = connection.session().take_gated().unwrap();
    disk.failing_ops = 100;
    sync(&mut listener, &mut disk, &mut rng);
    let store = listener.node.store.as_ref().unwrap();
    assert_eq!(store.storage.gate(gated.position), storage::Gate::Refused);
    // The shell drops the response and asks for another one.
    let mut out = Vec::new();
    connection.session_and_devices(&mut listener, |session, devices| {
        session.handle_refused(devices, &mut out);
    });
    assert!(out.starts_with(b"HTTP/1.1 503 Service Unavailable\r\n"));
    assert_eq!(connection.call(&mut listener, false, &mut out).next, Next::ShutdownWhenFlushed);
    // While it is known to be refused, the response says so at once. Other devices go on.
    for _ in 0..2 {
        let mut connection = listener.connect();
        connection.receive(&mut listener, &post("/", POSITION), false);
        assert!(connection.sent.starts_with(b"HTTP/1.1 503 "));
        assert!(!connection.sent.windows(5).any(|it| it == b"close"));
        assert_eq!(connection.session().take_gated(), None);
    }
}
