//! Many questions at once, and a provider that responds late or never.

use std::time::{Duration, Instant};

use crate::common::{
    At, Client, DEADLINE, Herd, Whatsat, assert_bytes, eventually, lines, seconds, wall_ns,
};
use crate::servers::{Server, counters, scatter, solo};

/// Reads `count` replies to WHATSAT.
fn replies(client: &mut Client, count: usize) -> Vec<Whatsat> {
    (0..count).map(|_| Whatsat::parse(&client.until(b"\n\n"))).collect()
}

/// The client that a reply is about.
fn about(reply: &Whatsat) -> String {
    let own = String::from_utf8(At::parse(&reply.at).own).unwrap();
    own.split(' ').next().unwrap().to_owned()
}

/// If `held`, the provider does not respond until all questions are waiting.
fn thousand_questions(held: bool, more: &str) {
    let emulator = Server::emulator(&["--mode", if held { "hold" } else { "ok" }]);
    let herd = solo("google", emulator.url(), &format!("deadline_ms: 60000{more}"));
    let mut client = herd.client("Solo");
    scatter(&mut client, 100);
    // The numbers of results differ; one request serves all of them.
    let (place, bound) = (|i: usize| i % 100, |i: usize| i % 20 + 1);
    let input = lines((0..1000).map(|i| format!("WHATSAT p{} 2 {}", place(i), bound(i))));
    let sending = client.send_in_background(input);
    if held {
        wait_for(&herd, 1000);
        emulator.set_mode("mode=ok");
    }
    for (i, reply) in replies(&mut client, 1000).iter().enumerate() {
        assert_eq!(about(reply), format!("p{}", place(i)), "reply {i}");
        assert_eq!((reply.status(), reply.results().len()), ("OK", bound(i)), "reply {i}");
    }
    sending.join().unwrap();
    let stats = emulator.stats();
    let requests = &stats["requests"];
    eprintln!("1,000 pipelined WHATSATs for 100 places: {} requests", requests["total"]);
    assert_eq!(requests["distinct"], 100, "{stats}");
    assert!(requests["total"].as_u64().unwrap() <= 100, "{stats}");
}

fn wait_for(herd: &Herd, questions: u64) {
    eventually(&format!("{questions} waiting questions"), DEADLINE, || {
        (counters(herd, "Solo")["places_waiting"] == questions).then_some(())
    });
}

#[test]
fn a_thousand_questions_about_a_hundred_places_take_a_hundred_requests() {
    thousand_questions(false, ", cache_ttl_s: 60");
}

/// The same without a cache, if all of them wait before the first response.
#[test]
fn a_thousand_waiting_questions_take_a_hundred_requests_without_a_cache() {
    thousand_questions(true, "");
}

/// Without a cache, questions share a request while it is in flight.
#[test]
fn questions_of_several_clients_share_requests() {
    let emulator = Server::emulator(&["--mode", "hold"]);
    let herd = solo("google", emulator.url(), "deadline_ms: 60000");
    let mut clients: Vec<Client> = (0..10).map(|_| herd.client("Solo")).collect();
    scatter(&mut clients[0], 8);
    for client in &mut clients {
        client.send(&lines((0..100).map(|i| format!("WHATSAT p{} 2 5", i % 8))));
    }
    wait_for(&herd, 1000);
    emulator.set_mode("mode=ok");
    for client in &mut clients {
        for (i, reply) in replies(client, 100).iter().enumerate() {
            assert_eq!((about(reply), reply.status()), (format!("p{}", i % 8), "OK"));
        }
    }
    assert_eq!(emulator.stats()["requests"]["total"], 8);
}

/// The default size of the pool.
const POOL: u32 = 8;

#[test]
fn the_whole_pool_is_used_and_no_more() {
    let emulator = Server::emulator(&["--mode", "hold"]);
    let herd = solo("google", emulator.url(), "deadline_ms: 60000");
    let mut client = herd.client("Solo");
    scatter(&mut client, 20);
    client.send(&lines((0..20).map(|i| format!("WHATSAT p{i} 2 5"))));
    eventually("all connections are in use", DEADLINE, || {
        (emulator.in_flight() == u64::from(POOL)).then_some(())
    });
    emulator.set_mode("mode=ok");
    assert!(replies(&mut client, 20).iter().all(|reply| reply.status() == "OK"));
    let stats = emulator.stats();
    assert_eq!(stats["requests"]["max_in_flight"]["total"], POOL, "{stats}");
    assert_eq!(stats["connections"]["accepted"], POOL, "{stats}");
}

#[test]
fn pipelined_questions_are_sent_in_parallel() {
    const QUESTIONS: u32 = 64;
    const ANSWER: Duration = Duration::from_millis(100);
    let emulator = Server::emulator(&["--latency-ms", &ANSWER.as_millis().to_string()]);
    let herd = solo("google", emulator.url(), "deadline_ms: 60000");
    let mut client = herd.client("Solo");
    scatter(&mut client, QUESTIONS as usize);
    let start = Instant::now();
    client.send(&lines((0..QUESTIONS).map(|i| format!("WHATSAT p{i} 2 5"))));
    let replies = replies(&mut client, QUESTIONS as usize);
    let took = start.elapsed();
    for (i, reply) in replies.iter().enumerate() {
        assert_eq!((about(reply), reply.status()), (format!("p{i}"), "OK"));
    }
    eprintln!("{QUESTIONS} pipelined WHATSATs, pool of {POOL}, upstream {ANSWER:?}: {took:?}");
    let at_best = ANSWER * QUESTIONS.div_ceil(POOL);
    // Sequential requests would take longer, even on a loaded machine.
    assert!((at_best..ANSWER * QUESTIONS).contains(&took), "{took:?}, {at_best:?} at best");
}

/// The sorted response times of `count` sequential IAMATs.
fn updates(client: &mut Client, count: usize) -> Vec<Duration> {
    let mut times = Vec::with_capacity(count);
    for i in 0..count {
        let command = format!("IAMAT mover +1.{i}+2 {}", seconds(wall_ns()));
        let start = Instant::now();
        assert!(client.ask(command.as_bytes()).starts_with(b"AT Solo "));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times
}

#[test]
fn a_stalled_provider_delays_no_other_client() {
    const STALLED: usize = 16;
    let emulator = Server::emulator(&["--mode", "stall"]);
    let herd = solo("google", emulator.url(), "deadline_ms: 5000");
    let (mut client, mut mover) = (herd.client("Solo"), herd.client("Solo"));
    scatter(&mut client, STALLED);
    let quiet = updates(&mut mover, 2000);
    let start = Instant::now();
    let questions = |i: usize| format!("WHATSAT p{i} 2 5\nIAMAT next +1+{i} 1600000000.{i}");
    client.send(&lines((0..STALLED).map(questions)));
    let mut busy = Vec::new();
    // As many as fit well before the deadline, but at least some.
    while busy.is_empty() || (busy.len() < 2000 && start.elapsed() < Duration::from_secs(3)) {
        busy.extend(updates(&mut mover, 10));
    }
    busy.sort_unstable();
    assert!(start.elapsed() < Duration::from_secs(5), "updates waited for the stalled provider");
    for (which, times) in [("quiet", &quiet), ("stalled", &busy)] {
        let at = |share: f64| times[(times.len() as f64 * share) as usize];
        eprintln!("IAMAT, {which}: p50 {:?} p99 {:?} of {}", at(0.5), at(0.99), times.len());
    }
    for i in 0..STALLED {
        let reply = Whatsat::parse(&client.until(b"\n\n"));
        assert_eq!((about(&reply), reply.status()), (format!("p{i}"), "UNKNOWN_ERROR"));
        let message = reply.document["error_message"].as_str().unwrap();
        assert!(message.contains("5000 ms") && message.contains("places.deadline_ms"), "{message}");
        let next = client.line();
        let own = format!(" next +1+{i} 1600000000.{i}\n");
        assert!(next.ends_with(own.as_bytes()), "in order: {}", next.escape_ascii());
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(5), "an answer before the deadline: {took:?}");
}

#[test]
fn replies_after_a_question_wait_for_it_and_are_unchanged() {
    let emulator = Server::emulator(&["--latency-ms", "300"]);
    let herd = solo("google", emulator.url(), "deadline_ms: 30000");
    let mut client = herd.client("Solo");
    scatter(&mut client, 1);
    client.send(b"WHATSAT p0 2 5\nnonsense \x00\xff\nWHATSAT p0 2 0\nIAMAT b +1+1 1\n");
    assert_eq!(Whatsat::parse(&client.until(b"\n\n")).status(), "OK");
    assert_bytes(&client.line(), b"? nonsense \x00\xff\n");
    assert_eq!(Whatsat::parse(&client.until(b"\n\n")).status(), "ZERO_RESULTS");
    assert!(client.line().ends_with(b" b +1+1 1\n"));
}

#[test]
fn questions_over_budget_are_refused_immediately() {
    let emulator = Server::emulator(&[]);
    let herd = solo("google", emulator.url(), "requests_per_day: 3");
    let mut client = herd.client("Solo");
    scatter(&mut client, 5);
    for i in 0..3 {
        assert_eq!(client.whatsat(&format!("p{i}"), "2", "5").status(), "OK");
    }
    let reply = client.whatsat("p3", "2", "5");
    assert_eq!(reply.status(), "OVER_QUERY_LIMIT");
    let message = reply.document["error_message"].as_str().unwrap();
    assert!(message.contains("places.requests_per_day"), "{message}");
    assert_eq!(emulator.stats()["requests"]["total"], 3);
}
