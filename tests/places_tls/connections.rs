//! The connection pool: reuse, TLS session resumption, and retries on stale connections.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::common::{
    Client, DEADLINE, Herd, Whatsat, assert_bytes, eventually, free_port, lines, seconds, wall_ns,
};
use crate::servers::{Server, counters, places, scatter, solo};

#[test]
fn sessions_are_resumed() {
    for version in ["1.2", "1.3"] {
        let emulator = Server::emulator(&["--tls", version, "--mode", "close"]);
        let herd = solo("google", emulator.url(), "");
        let mut client = herd.client("Solo");
        scatter(&mut client, 4);
        for i in 0..4 {
            assert_eq!(client.whatsat(&format!("p{i}"), "5", "3").status(), "OK");
        }
        let tls = &emulator.stats()["tls"];
        assert_eq!((&tls["handshakes"], &tls["resumed"]), (&4.into(), &3.into()), "{tls}");
        let only = format!("TLSv{version}");
        assert_eq!(tls["versions"], serde_json::json!({ only: 4 }), "{tls}");
    }
}

#[test]
fn a_connection_is_reused_for_the_next_question() {
    let emulator = Server::emulator(&[]);
    let herd = solo("google_legacy", emulator.url(), "");
    let mut client = herd.client("Solo");
    scatter(&mut client, 20);
    for i in 0..20 {
        assert_eq!(client.whatsat(&format!("p{i}"), "5", "3").status(), "OK");
    }
    let stats = emulator.stats();
    assert_eq!(stats["connections"]["accepted"], 1, "{stats}");
    assert_eq!(stats["requests"]["on_reused_connection"], 19, "{stats}");
}

/// The second request on each connection fails: after the first response, the connection only seems
/// to be usable.
#[test]
fn a_stale_connection_costs_a_retry_but_no_answer() {
    for fault in ["close", "reset"] {
        let at = ["--at", "request", "--skip-requests", "1", "--then", fault];
        let server = Server::hostile(&at);
        let herd = solo("google_legacy", server.url(), "");
        let mut client = herd.client("Solo");
        scatter(&mut client, 3);
        for i in 0..3 {
            assert_eq!(client.whatsat(&format!("p{i}"), "5", "3").status(), "ZERO_RESULTS");
        }
        // Three requests on three connections, and two that were lost.
        let counters = counters(&herd, "Solo");
        let counter = |name: &str| counters[name];
        assert_eq!((counter("places_requests_total"), counter("places_retries_total")), (5, 2));
        assert_eq!(
            (
                counter("places_connects_total"),
                counter(r#"places_answers_total{status="unknown_error"}"#)
            ),
            (3, 0)
        );
        let events = server.end();
        let requests = events.iter().filter(|event| event["event"] == "request").count();
        assert_eq!(requests, 5, "{events:?}");
    }
}

#[test]
fn a_request_on_a_fresh_connection_is_not_retried() {
    for fault in ["close", "reset"] {
        let server = Server::hostile(&["--at", "request", "--then", fault]);
        let herd = solo("google_legacy", server.url(), "");
        let mut client = herd.client("Solo");
        scatter(&mut client, 1);
        assert_eq!(client.whatsat("p0", "5", "3").status(), "UNKNOWN_ERROR");
        assert_eq!(counters(&herd, "Solo")["places_requests_total"], 1);
        let events = server.end();
        let requests = events.iter().filter(|event| event["event"] == "request").count();
        assert_eq!(requests, 1, "{events:?}");
    }
}

#[test]
fn a_connection_that_was_closed_while_idle_is_replaced() {
    let emulator = Server::emulator(&["--mode", "drop"]);
    let herd = solo("google", emulator.url(), "");
    let mut client = herd.client("Solo");
    scatter(&mut client, 5);
    for i in 0..5 {
        assert_eq!(client.whatsat(&format!("p{i}"), "5", "3").status(), "OK");
    }
    let counters = counters(&herd, "Solo");
    assert_eq!(counters[r#"places_answers_total{status="unknown_error"}"#], 0);
    assert!(counters["places_connects_total"] >= 2, "{counters:?}");
}

#[test]
fn questions_of_a_reset_connection_are_canceled() {
    let emulator = Server::emulator(&["--mode", "stall"]);
    let herd = solo("google", emulator.url(), "deadline_ms: 120000, pool_size: 2");
    let mut other = herd.client("Solo");
    scatter(&mut other, 20);
    let mut client = herd.client("Solo");
    for i in 0..10 {
        client.send(format!("WHATSAT p{i} 5 3\n").as_bytes());
    }
    eventually("ten waiting questions, two of them sent", DEADLINE, || {
        let waiting = counters(&herd, "Solo")["places_waiting"];
        (waiting == 10 && emulator.in_flight() == 2).then_some(())
    });
    client.reset_when_dropped();
    drop(client);
    let after = eventually("no waiting questions", DEADLINE, || {
        Some(counters(&herd, "Solo")).filter(|counters| counters["places_waiting"] == 0)
    });
    assert_eq!(after[r#"places_answers_total{status="cancelled"}"#], 10, "{after:?}");
    // Queued questions are never sent; two requests were in flight already.
    assert_eq!((after["places_queued"], after["places_requests_total"]), (0, 2), "{after:?}");
    let at = other.iamat("p19", "+1+1", &seconds(wall_ns()));
    assert!(at.starts_with(b"AT Solo"));
}

/// A client that is not read because too many questions are pending is read again after they are
/// canceled.
#[test]
fn canceled_questions_make_room_for_others() {
    let emulator = Server::emulator(&["--mode", "stall"]);
    let more = "deadline_ms: 120000}\nlimits: {max_pending_whatsat: 4, max_pending_whatsat_per_connection: 4";
    let herd = solo("google", emulator.url(), more);
    let (mut goes, mut stays) = (herd.client("Solo"), herd.client("Solo"));
    scatter(&mut goes, 6);
    goes.send(b"WHATSAT p0 5 3\nWHATSAT p1 5 3\nWHATSAT p2 5 3\nWHATSAT p3 5 3\n");
    eventually("four waiting questions", DEADLINE, || {
        (counters(&herd, "Solo")["places_waiting"] == 4).then_some(())
    });
    stays.send(b"IAMAT p5 +1+1 9000000000\nnonsense\n");
    // Its input has arrived, but is not read: it might contain a WHATSAT.
    counters(&herd, "Solo");
    goes.reset_when_dropped();
    drop(goes);
    assert!(stays.line().ends_with(b" p5 +1+1 9000000000\n"));
    assert_bytes(&stays.line(), b"? nonsense\n");
}

/// A shared request survives the cancellation of one of its questions.
#[test]
fn a_shared_request_outlives_one_of_its_questions() {
    let emulator = Server::emulator(&["--mode", "hold"]);
    let herd = solo("google", emulator.url(), "deadline_ms: 60000");
    let (mut leaver, mut stayer) = (herd.client("Solo"), herd.client("Solo"));
    scatter(&mut stayer, 1);
    let counted = |counter: &'static str, count| {
        eventually(counter, DEADLINE, || (counters(&herd, "Solo")[counter] == count).then_some(()));
    };
    leaver.send(b"WHATSAT p0 5 3\n");
    counted("places_waiting", 1);
    stayer.send(b"WHATSAT p0 5 3\n");
    counted("places_waiting", 2);
    leaver.reset_when_dropped();
    drop(leaver);
    counted(r#"places_answers_total{status="cancelled"}"#, 1);
    emulator.set_mode("mode=ok");
    let reply = stayer.until(b"\n\n");
    assert!(Whatsat::parse(&reply).status() == "OK");
    let stats = emulator.stats();
    assert_eq!(stats["requests"]["total"], 1, "{stats}");
}

#[test]
fn a_cached_answer_serves_any_number_of_results() {
    let emulator = Server::emulator(&[]);
    let herd = solo("google", emulator.url(), "cache_ttl_s: 60");
    let mut client = herd.client("Solo");
    scatter(&mut client, 1);
    let twenty = client.whatsat("p0", "5", "20");
    for max in [1, 7, 20] {
        let fewer = client.whatsat("p0", "5", &max.to_string());
        assert_eq!(fewer.results(), &twenty.results()[..max]);
        assert_bytes(&fewer.at, &twenty.at);
    }
    assert_eq!(emulator.stats()["requests"]["total"], 1);
}

#[test]
fn failures_are_not_cached() {
    let emulator = Server::emulator(&[]);
    let herd = solo("google", emulator.url(), "cache_ttl_s: 60");
    let mut client = herd.client("Solo");
    scatter(&mut client, 1);
    for (mode, status) in [
        ("fail-400", "REQUEST_DENIED"),
        ("fail-403", "REQUEST_DENIED"),
        ("fail-429", "OVER_QUERY_LIMIT"),
        ("fail-500", "UNKNOWN_ERROR"),
    ] {
        emulator.set_mode(&format!("mode={mode}&requests=1"));
        assert_eq!(client.whatsat("p0", "5", "3").status(), status, "{mode}");
    }
    assert_eq!(client.whatsat("p0", "5", "3").status(), "OK");
}

/// A failing provider is a problem of the node, which ends after the pause even if no question comes.
/// It does not make the node unready: it accepts updates.
#[test]
fn a_failing_provider_is_a_problem_until_the_pause_is_over_and_the_node_stays_ready() {
    let emulator = Server::emulator(&["--mode", "fail-500"]);
    let section = places("google", emulator.url(), "pool_size: 1");
    let port = free_port();
    let herd = Herd::solo_with(&format!("{section}\nhttp: {{ports: {{Solo: {port}}}}}"));
    let http = |target: &str| {
        let request = format!("GET {target} HTTP/1.0\r\n\r\n");
        let reply =
            Client::connect((Ipv4Addr::LOCALHOST, port).into()).exchange(request.as_bytes());
        String::from_utf8(reply).unwrap()
    };
    let mut client = herd.client("Solo");
    scatter(&mut client, 5);
    // The first pause is at least half a second.
    client.send(&lines((0..5).map(|i| format!("WHATSAT p{i} 5 3"))));
    eventually("the node has a problem", DEADLINE, || {
        http("/api/herd").contains("the places provider is failing").then_some(())
    });
    assert!(http("/readyz").contains(" 200 "), "{}", http("/readyz"));
    eventually("the problem is over", DEADLINE, || {
        http("/api/herd").contains("\"problems\": []").then_some(())
    });
    assert!(http("/metrics").contains("places_breaker_open 0\n"));
    assert_eq!(emulator.stats()["requests"]["total"], 5, "there was another request");
}

#[test]
fn the_circuit_breaker_opens_and_closes_again() {
    let emulator = Server::emulator(&["--mode", "fail-500"]);
    let herd = solo("google", emulator.url(), "pool_size: 1");
    let mut client = herd.client("Solo");
    scatter(&mut client, 12);
    // One connection sends them one after the other, until the breaker opens and fails the queue.
    client.send(&lines((0..10).map(|i| format!("WHATSAT p{i} 5 3"))));
    for i in 0..10 {
        let reply = Whatsat::parse(&client.until(b"\n\n"));
        assert_eq!(reply.status(), "UNKNOWN_ERROR");
        let message = reply.document["error_message"].as_str().unwrap().to_owned();
        assert_eq!(i >= 5, message.contains("circuit breaker is open"), "{i}: {message}");
    }
    assert_eq!(emulator.stats()["requests"]["total"], 5);
    emulator.set_mode("mode=ok");
    eventually("the provider is queried again", Duration::from_secs(20), || {
        (client.whatsat("p11", "5", "3").status() == "OK").then_some(())
    });
}
