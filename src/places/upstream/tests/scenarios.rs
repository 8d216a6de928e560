//! One scenario per test.

use super::*;

#[test]
fn a_question_is_answered() {
    let mut shell = Shell::new(limits());
    let ticket = shell.ask(7, 2);
    assert_eq!((shell.connecting.len(), shell.requests.len()), (1, 0));
    shell.connect();
    assert_eq!(shell.requests, [7]);
    let response = places(7, 3);
    let (first, rest) = response.split_at(30);
    shell.reply(7, first);
    assert_eq!(shell.status(ticket), "");
    shell.reply(7, rest);
    assert_eq!(shell.names(ticket), ["7#0", "7#1"]);
}

#[test]
fn no_results_or_no_radius_need_no_request() {
    let mut shell = Shell::new(limits());
    for (place, max_results) in [(0, 20), (7, 0), (0, 0)] {
        let ticket = shell.ask(place, max_results);
        assert_eq!(shell.status(ticket), "ZERO_RESULTS");
    }
    assert!(shell.connecting.is_empty());
}

#[test]
fn identical_questions_share_a_request() {
    let mut shell = Shell::new(limits());
    let tickets: Vec<u64> = (0..5).map(|bound| shell.ask(7, bound + 1)).collect();
    shell.connect();
    let late = shell.ask(7, 20);
    shell.reply(7, &places(7, 20));
    assert_eq!(shell.requests, [7]);
    for (bound, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(shell.names(ticket).len(), bound + 1);
    }
    assert_eq!(shell.names(late).len(), 20);
    assert_eq!(shell.client.stats().coalesced, 5);
}

#[test]
fn a_thousand_questions_about_a_hundred_places_take_a_hundred_requests() {
    let limits = PlacesLimits { pool_size: 8, max_queued: 1000, ..limits() };
    let mut shell = Shell::new(limits);
    let tickets: Vec<u64> = (0..1000).map(|i| shell.ask(1 + i % 100, 1)).collect();
    shell.connect();
    while let Some((_, &place)) = shell.asked.first_key_value() {
        shell.reply(place, &places(place, 1));
    }
    assert_eq!(shell.requests.len(), 100);
    for (i, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(shell.names(ticket), [format!("{}#0", 1 + i % 100)]);
    }
}

#[test]
fn questions_queue_for_a_full_pool() {
    for (pool_size, rounds) in [(1, 64), (8, 8), (10, 7), (64, 1), (100, 1)] {
        let mut shell = Shell::new(PlacesLimits { pool_size, max_queued: 64, ..limits() });
        let tickets: Vec<u64> = (1..=64).map(|place| shell.ask(place, 1)).collect();
        shell.connect();
        let mut took = 0;
        while !shell.asked.is_empty() {
            took += 1;
            shell.pass(ms(50));
            for place in shell.asked.values().copied().collect::<Vec<_>>() {
                shell.reply(place, &places(place, 1));
            }
        }
        assert_eq!(took, rounds, "pool of {pool_size}");
        assert!(tickets.into_iter().all(|ticket| shell.status(ticket) == "OK"));
        assert!(shell.client.stats().connects <= pool_size as u64);
    }
}

#[test]
fn answers_are_cached_for_the_ttl_and_any_number_of_results() {
    let mut shell = Shell::new(PlacesLimits { cache_ttl: Some(ms(10_000)), ..limits() });
    let ticket = shell.ask(7, 2);
    shell.connect();
    shell.reply(7, &places(7, 20));
    assert_eq!(shell.names(ticket).len(), 2);
    shell.pass(ms(9_999));
    for bound in 1..=20 {
        let ticket = shell.ask(7, bound);
        assert_eq!(shell.names(ticket).len(), usize::from(bound));
    }
    assert_eq!((shell.requests.len(), shell.client.stats().cache_hits), (1, 20));
    shell.pass(ms(1));
    assert_eq!(shell.gauges().cached, 0);
    shell.ask(7, 1);
    assert_eq!(shell.requests.len(), 2);
}

#[test]
fn without_a_ttl_nothing_is_cached() {
    let mut shell = Shell::new(limits());
    shell.served(7);
    shell.served(7);
    assert_eq!((shell.requests.len(), shell.gauges().cached), (2, 0));
}

#[test]
fn the_cache_is_bounded() {
    let cache_ttl = Some(ms(3_600_000));
    let mut shell = Shell::new(PlacesLimits { cache_ttl, cache_entries: 3, ..limits() });
    for place in 1..=10 {
        shell.served(place);
        assert!(shell.gauges().cached <= 3);
    }
    let before = shell.requests.len();
    let known = [8, 9, 10].map(|place| shell.ask(place, 1));
    assert!(known.into_iter().all(|ticket| shell.status(ticket) == "OK"));
    shell.ask(7, 1);
    assert_eq!(shell.requests.len(), before + 1);
    // An expired answer is not used, even if it has not been removed yet.
    let mut cache = Cache::new(Some(ms(10)), 1);
    let listing = Arc::new(Listing::build([], [], [], None).unwrap());
    cache.insert(question(1).key(), listing, at(1));
    assert!(cache.get(question(1).key(), at(10)).is_some());
    assert!(cache.get(question(1).key(), at(11)).is_none());
    let mut cache = Cache::new(cache_ttl, 1_000_000);
    let big = "x".repeat(500_000);
    let result = format!("\"{big}\"");
    for place in 1..300 {
        let listing = Listing::build([], [result.as_str()], [], None).unwrap();
        cache.insert(question(place).key(), Arc::new(listing), at(1));
        assert!(cache.bytes() <= crate::places::limits::MAX_CACHE_BYTES);
    }
    assert!(cache.len() > 100);
    cache.expire(at(3_600_001));
    assert_eq!((cache.len(), cache.bytes()), (0, 0));
}

#[test]
fn failures_are_not_cached() {
    let mut shell = Shell::new(PlacesLimits { cache_ttl: Some(ms(10_000)), ..limits() });
    let cut = "HTTP/1.1 200 OK\r\n\r\n{\"places\":[]}";
    for text in [&status(500), &bad_question(), &status(403), "junk"] {
        let ticket = shell.ask(7, 1);
        shell.connect();
        shell.reply(7, text);
        assert_ne!(shell.status(ticket), "OK");
    }
    // A body that is complete only if the end of the stream is authentic.
    let ticket = shell.ask(8, 1);
    shell.connect();
    shell.reply(8, cut);
    shell.eof(shell.carrier(8), Eof::Abrupt);
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert_eq!(shell.gauges().cached, 0);
    shell.served(8);
    let ticket = shell.ask(9, 1);
    shell.connect();
    shell.reply(9, cut);
    shell.eof(shell.carrier(9), Eof::Clean);
    assert_eq!(shell.status(ticket), "ZERO_RESULTS");
    assert_eq!(shell.gauges().cached, 2);
}

#[test]
fn a_connection_is_reused_until_the_idle_timeout() {
    let mut shell = Shell::new(limits());
    for _ in 0..5 {
        shell.served(7);
        shell.pass(before(IDLE_TIMEOUT));
    }
    assert_eq!((shell.client.stats().connects, shell.open.len()), (1, 1));
    shell.pass(ms(1));
    assert!(shell.open.is_empty());
    shell.served(7);
    assert_eq!(shell.client.stats().connects, 2);
}

#[test]
fn a_connection_that_is_not_kept_alive_is_not_reused() {
    for response in [
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n",
    ] {
        let mut shell = Shell::new(limits());
        let ticket = shell.ask(7, 1);
        shell.connect();
        shell.reply(7, response);
        assert_eq!(shell.status(ticket), "ZERO_RESULTS");
        assert!(shell.open.is_empty());
    }
    // Unsolicited bytes must not become the response to the next request.
    let mut shell = Shell::new(limits());
    shell.served(7);
    shell.input(shell.open[0], &places(8, 1));
    assert!(shell.open.is_empty());
}

#[test]
fn a_request_on_a_stale_connection_is_retried_on_a_fresh_one() {
    for how in ["eof", "unclean eof", "reset", "408"] {
        let mut shell = Shell::new(limits());
        shell.served(7);
        let ticket = shell.ask(8, 1);
        let stale = shell.carrier(8);
        match how {
            "eof" => shell.eof(stale, Eof::Clean),
            "unclean eof" => shell.eof(stale, Eof::Abrupt),
            "reset" => shell.fail(stale),
            _ => shell.input(stale, "HTTP/1.1 408 x\r\nConnection: close\r\n\r\n"),
        }
        if how == "408" {
            shell.eof(stale, Eof::Clean);
        }
        assert_eq!((shell.status(ticket).as_str(), shell.connecting.len()), ("", 1), "{how}");
        shell.connect();
        shell.reply(8, &places(8, 1));
        assert_eq!(shell.status(ticket), "OK", "{how}");
        assert_eq!(shell.client.stats().retries, 1);
        // A fresh connection that fails in the same way is not stale.
        let ticket = shell.ask(9, 1);
        shell.fail(shell.carrier(9));
        shell.connect();
        shell.fail(shell.carrier(9));
        assert_eq!(shell.status(ticket), "UNKNOWN_ERROR", "{how}");
        assert!(shell.message(ticket).contains("reset by [api key]"), "{}", shell.message(ticket));
    }
}

#[test]
fn a_retry_never_uses_an_idle_connection() {
    let mut shell = Shell::new(PlacesLimits { pool_size: 3, ..limits() });
    let tickets: Vec<u64> = (1..=3).map(|place| shell.ask(place, 1)).collect();
    shell.connect();
    for place in 1..=3 {
        shell.reply(place, &places(place, 1));
    }
    assert!(tickets.into_iter().all(|ticket| shell.status(ticket) == "OK"));
    let ticket = shell.ask(9, 1);
    shell.fail(shell.carrier(9));
    // Two more are idle, but the retry waits for the one being established.
    assert_eq!((shell.open.len(), shell.connecting.len(), shell.asked.len()), (2, 1, 0));
    // Other questions use the idle ones in the meantime.
    shell.ask(10, 1);
    shell.ask(11, 1);
    assert_eq!(shell.asked.len(), 2);
    shell.connect();
    shell.reply(9, &places(9, 1));
    assert_eq!(shell.status(ticket), "OK");
}

#[test]
fn a_retry_gets_a_connection_in_a_full_pool() {
    let mut shell = Shell::new(limits());
    let first = shell.ask(1, 1);
    shell.ask(2, 1);
    shell.connect();
    shell.reply(1, &places(1, 1));
    shell.reply(2, &places(2, 1));
    assert_eq!(shell.status(first), "OK");
    shell.ask(3, 1);
    shell.ask(4, 1);
    let last = shell.ask(5, 1);
    // Both connections are stale: two requests are retried, and one waits for them.
    shell.fail(shell.carrier(3));
    shell.fail(shell.carrier(4));
    shell.connect();
    shell.reply(3, &places(3, 1));
    shell.reply(4, &places(4, 1));
    shell.reply(5, &places(5, 1));
    assert_eq!(shell.status(last), "OK");
}

#[test]
fn a_request_is_not_retried_after_the_start_of_its_response() {
    let mut shell = Shell::new(limits());
    shell.served(7);
    let ticket = shell.ask(8, 1);
    shell.reply(8, "HTTP/1.1 200 OK\r\nContent-Len");
    shell.eof(shell.carrier(8), Eof::Clean);
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert_eq!(shell.client.stats().retries, 0);
}

#[test]
fn the_deadline_applies_to_every_phase() {
    // Connecting.
    let deadline = limits().deadline;
    let mut shell = Shell::new(PlacesLimits { deadline: ms(2_000), ..limits() });
    let ticket = shell.ask(7, 1);
    shell.pass(ms(1_999));
    assert_eq!(shell.status(ticket), "");
    shell.pass(ms(1));
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert!(shell.message(ticket).contains("cannot be reached in time"));
    // Connecting has a shorter time limit of its own.
    let mut shell = Shell::new(limits());
    let ticket = shell.ask(7, 1);
    shell.pass(CONNECT_DEADLINE);
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert!(shell.connecting.is_empty());
    assert!(shell.message(ticket).contains("cannot be reached in time"));
    // The name look-up, with either time limit.
    for limits in [limits(), PlacesLimits { deadline: ms(2_000), ..limits() }] {
        let mut shell = Shell::new(limits.clone());
        shell.has_address = false;
        let ticket = shell.ask(7, 1);
        shell.pass(CONNECT_DEADLINE.min(limits.deadline));
        assert!(shell.message(ticket).contains("cannot be resolved in time"));
    }
    // Waiting for the response, and in the queue.
    let mut shell = Shell::new(limits());
    let tickets: Vec<u64> = (1..=4).map(|place| shell.ask(place, 1)).collect();
    shell.connect();
    shell.reply(1, "HTTP/1.1 200 OK\r\n");
    shell.pass(before(deadline));
    assert!(shell.answers.is_empty());
    shell.pass(ms(1));
    assert!(tickets.iter().all(|&ticket| shell.status(ticket) == "UNKNOWN_ERROR"));
    assert!(shell.message(tickets[0]).contains("did not respond within 5000 ms"));
    assert!(shell.asked.is_empty() && shell.open.is_empty());
}

/// A question that joins a request in flight has its own deadline.
#[test]
fn late_joiners_have_their_own_deadline() {
    let deadline = limits().deadline;
    let join = |shell: &mut Shell, joiners: u64| {
        let first = shell.ask(5, 1);
        shell.connect();
        shell.pass(before(deadline));
        let late: Vec<u64> = (0..joiners).map(|_| shell.ask(5, 1)).collect();
        shell.pass(ms(1));
        assert!(shell.message(first).contains("did not respond within 5000 ms"));
        late
    };
    // The request is repeated once for all of them, and answered.
    let mut shell = Shell::new(limits());
    let late = join(&mut shell, 3);
    shell.connect();
    shell.reply(5, &places(5, 1));
    assert!(late.iter().all(|&ticket| shell.status(ticket) == "OK"));
    assert_eq!(shell.requests, [5, 5]);
    // It is not answered, and their deadline precedes that of the second request.
    let mut shell = Shell::new(limits());
    let late = join(&mut shell, 3);
    shell.connect();
    shell.pass(deadline.saturating_sub(ms(2)));
    assert!(late.iter().all(|&ticket| shell.status(ticket).is_empty()));
    shell.pass(ms(1));
    assert!(late.iter().all(|&ticket| shell.message(ticket).contains("within 5000 ms")));
    assert_eq!((shell.gauges().waiting, shell.gauges().in_flight), (0, 1));
    shell.pass(ms(1));
    assert_eq!((shell.gauges().in_flight, shell.requests.len()), (0, 2));
    // A request is not sent once nothing waits for it.
    let mut shell = Shell::new(limits());
    join(&mut shell, 1);
    shell.pass(deadline);
    shell.connect();
    assert_eq!((shell.gauges().queued, shell.requests.len()), (0, 1));
    // The second request is subject to the budgets and to the circuit breaker.
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(1), ..limits() });
    let late = join(&mut shell, 1);
    assert_eq!(shell.status(late[0]), "OVER_QUERY_LIMIT");
    let mut shell = Shell::new(limits());
    for place in 1..BREAKER_THRESHOLD {
        shell.ask(place, 1);
        shell.connect();
        shell.reply(place, &status(500));
    }
    let late = join(&mut shell, 1);
    assert!(shell.message(late[0]).contains("circuit breaker"));
}

#[test]
fn a_question_that_never_left_the_queue_has_its_own_message() {
    let mut shell = Shell::new(PlacesLimits { pool_size: 1, ..limits() });
    let [first, second] = [1, 2].map(|place| shell.ask(place, 1));
    shell.connect();
    shell.pass(limits().deadline);
    assert!(shell.message(first).contains("did not respond within 5000 ms"));
    assert!(shell.message(second).contains("busy with other questions for 5000 ms"));
}

#[test]
fn failures_to_connect_are_reported_to_queued_questions() {
    for error in [
        TransportError::Resolve("no such host".into()),
        TransportError::Connect("refused".into()),
        TransportError::Tls("certificate has expired".into()),
    ] {
        let mut shell = Shell::new(limits());
        let ticket = shell.ask(7, 1);
        let id = shell.connecting[0];
        shell.forget(id);
        shell.client.handle_failed(id, &error, shell.now);
        shell.poll();
        assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
        let (TransportError::Resolve(why)
        | TransportError::Connect(why)
        | TransportError::Tls(why)
        | TransportError::Io(why)) = error;
        assert!(shell.message(ticket).contains(&why));
    }
}

#[test]
fn the_queue_is_bounded() {
    let mut shell = Shell::new(limits());
    let tickets: Vec<u64> = (1..=6).map(|place| shell.ask(place, 1)).collect();
    let over = shell.ask(7, 1);
    assert_eq!(shell.status(over), "OVER_QUERY_LIMIT");
    assert!(shell.message(over).contains("places.max_queued"));
    // A request in flight can still be joined.
    let joins = shell.ask(3, 1);
    assert!(
        shell.status(joins).is_empty() && tickets.iter().all(|&it| shell.status(it).is_empty())
    );
}

#[test]
fn requests_in_flight_are_bounded() {
    let mut shell = Shell::new(PlacesLimits { pool_size: 4, max_in_flight: Some(2), ..limits() });
    for place in 1..=6 {
        shell.ask(place, 1);
    }
    shell.connect();
    assert_eq!((shell.asked.len(), shell.client.stats().connects), (2, 2));
    let over = shell.ask(7, 1);
    assert_eq!(shell.status(over), "OVER_QUERY_LIMIT");
}

#[test]
fn questions_over_budget_are_refused_immediately() {
    let mut shell = Shell::new(PlacesLimits { requests_per_second: Some(2), ..limits() });
    let tickets: Vec<u64> = (1..=3).map(|place| shell.ask(place, 1)).collect();
    assert_eq!(shell.status(tickets[1]), "");
    assert_eq!(shell.status(tickets[2]), "OVER_QUERY_LIMIT");
    assert!(shell.message(tickets[2]).contains("places.requests_per_second"));
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(2), ..limits() });
    shell.served(1);
    shell.served(1);
    let over = shell.ask(1, 1);
    assert!(shell.message(over).contains("places.requests_per_day"));
    shell.pass(Duration::from_hours(26));
    shell.served(1);
    // Requests that are never sent are not charged.
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(1), ..limits() });
    for _ in 0..10 {
        let ticket = shell.ask(1, 1);
        assert_eq!(shell.status(ticket), "");
        shell.client.cancel(Ticket(ticket));
    }
}

#[test]
fn a_retry_is_charged_to_the_budget() {
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(2), ..limits() });
    shell.served(1);
    let ticket = shell.ask(2, 1);
    shell.fail(shell.carrier(2));
    shell.connect();
    assert_eq!(shell.status(ticket), "OVER_QUERY_LIMIT");
    assert_eq!(shell.requests.len(), 2);
}

#[test]
fn the_circuit_breaker_opens_and_a_probe_closes_it() {
    let mut shell = Shell::new(limits());
    for i in 0..BREAKER_THRESHOLD {
        assert!(!shell.gauges().breaker_open);
        let ticket = shell.ask(1 + i, 1);
        shell.connect();
        shell.reply(1 + i, &status(500));
        assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    }
    let before = shell.requests.len();
    for place in 1..100 {
        let ticket = shell.ask(place, 1);
        assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
        assert!(shell.message(ticket).contains("circuit breaker"));
    }
    assert_eq!(shell.requests.len(), before);
    assert!(shell.gauges().breaker_open);
    shell.pass(ms(1_000));
    assert!(!shell.gauges().breaker_open, "the pause is over, even without a probe");
    let probe = shell.ask(1, 1);
    let other = shell.ask(2, 1);
    let same = shell.ask(1, 1);
    assert_eq!(shell.status(other), "UNKNOWN_ERROR");
    shell.connect();
    shell.reply(1, &places(1, 1));
    assert_eq!((shell.status(probe).as_str(), shell.status(same).as_str()), ("OK", "OK"));
    assert!(!shell.gauges().breaker_open);
    shell.served(3);
    assert_eq!(shell.client.stats().breaker_openings, 1);
}

#[test]
fn an_open_breaker_answers_with_the_status_of_the_cause() {
    for (code, expected) in
        [(403, "REQUEST_DENIED"), (429, "OVER_QUERY_LIMIT"), (503, "UNKNOWN_ERROR")]
    {
        let mut shell = Shell::new(limits());
        for place in 1..=20 {
            let ticket = shell.ask(place, 1);
            shell.connect();
            if shell.asked.contains_key(&shell.open[0]) {
                shell.reply(place, &status(code));
            }
            assert_eq!(shell.status(ticket), expected);
        }
        assert_eq!(shell.requests.len(), BREAKER_THRESHOLD as usize);
    }
    // Invalid questions do not open the breaker.
    let mut shell = Shell::new(limits());
    for place in 1..=20 {
        let ticket = shell.ask(place, 1);
        shell.connect();
        shell.reply(place, &bad_question());
        assert_eq!(shell.status(ticket), "REQUEST_DENIED");
    }
    shell.served(30);
}

#[test]
fn queued_questions_fail_when_the_breaker_opens() {
    let mut shell = Shell::new(PlacesLimits { max_queued: 20, pool_size: 1, ..limits() });
    let tickets: Vec<u64> = (1..=20).map(|place| shell.ask(place, 1)).collect();
    for _ in 0..BREAKER_THRESHOLD {
        let id = shell.connecting[0];
        shell.fail(id);
    }
    assert!(tickets.iter().all(|&ticket| shell.status(ticket) == "UNKNOWN_ERROR"));
    assert!(shell.connecting.is_empty());
}

#[test]
fn a_canceled_probe_is_replaced_by_the_next_question() {
    let mut shell = Shell::new(limits());
    for _ in 0..BREAKER_THRESHOLD {
        shell.ask(1, 1);
        shell.fail(shell.connecting[0]);
    }
    shell.pass(ms(1_000));
    let probe = shell.ask(1, 1);
    assert_eq!(shell.status(probe), "");
    shell.client.cancel(Ticket(probe));
    let next = shell.ask(2, 1);
    assert_eq!(shell.status(next), "");
    shell.connect();
    shell.reply(2, &places(2, 1));
    assert_eq!(shell.status(next), "OK");
}

#[test]
fn canceled_questions_are_not_answered() {
    let mut shell = Shell::new(PlacesLimits { cache_ttl: Some(ms(10_000)), ..limits() });
    let tickets: Vec<u64> = (1..=4).map(|place| shell.ask(place, 1)).collect();
    shell.connect();
    for &ticket in &tickets {
        shell.client.cancel(Ticket(ticket));
    }
    shell.poll();
    let gauges = shell.gauges();
    assert_eq!((gauges.waiting, gauges.queued, gauges.in_flight), (0, 0, 2));
    // Requests in flight continue, for the cache.
    shell.reply(1, &places(1, 1));
    shell.reply(2, &places(2, 1));
    assert!(shell.answers.is_empty());
    let ticket = shell.ask(1, 1);
    assert_eq!(shell.status(ticket), "OK");
    assert_eq!(shell.requests, [1, 2]);
    // One of two tickets that share a request, and one whose answer is available.
    let [stays, goes] = [5, 5].map(|place| shell.ask(place, 1));
    shell.client.cancel(Ticket(goes));
    let id = shell.carrier(5);
    shell.asked.remove(&id);
    shell.client.handle_input(id, places(5, 1).as_bytes(), shell.now);
    let mut out = Vec::new();
    shell.client.cancel(Ticket(999));
    assert_eq!(shell.client.poll_answer(&mut out), Some(Ticket(stays)));
    let late = shell.ask(6, 1);
    let id = shell.carrier(6);
    shell.asked.remove(&id);
    shell.client.handle_input(id, places(6, 1).as_bytes(), shell.now);
    shell.client.cancel(Ticket(late));
    assert_eq!(shell.client.poll_answer(&mut out), None);
}

#[test]
fn a_probe_without_an_outcome_is_replaced_by_the_next_question() {
    // A provider that rejects the question has recovered.
    let mut shell = Shell::new(limits());
    let open = |shell: &mut Shell| {
        for place in 0..BREAKER_THRESHOLD {
            shell.ask(100 + place, 1);
            shell.fail(shell.connecting[0]);
        }
        assert!(shell.gauges().breaker_open);
        shell.pass(ms(1_000));
    };
    open(&mut shell);
    shell.ask(1, 1);
    shell.connect();
    shell.reply(1, &bad_question());
    assert!(!shell.gauges().breaker_open);
    shell.served(2);
    // A retry exhausts the budget before the probe is sent.
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(3), ..limits() });
    shell.served(1);
    shell.ask(2, 1);
    open(&mut shell);
    let probe = shell.ask(3, 1);
    shell.fail(shell.carrier(2));
    shell.connect();
    assert_eq!(
        (shell.requests.as_slice(), shell.status(probe).as_str()),
        (&[1, 2, 2][..], "OVER_QUERY_LIMIT")
    );
    shell.pass(Duration::from_hours(26));
    shell.served(4);
}

#[test]
fn only_consecutive_failures_count() {
    let mut shell = Shell::new(limits());
    for round in 0..10 {
        for place in 1..BREAKER_THRESHOLD {
            shell.ask(place, 1);
            shell.connect();
            shell.reply(place, &status(500));
        }
        shell.ask(100, 1);
        shell.connect();
        shell.reply(100, &if round % 2 == 0 { places(100, 1) } else { bad_question() });
    }
    assert_eq!(shell.client.stats().breaker_openings, 0);
}

#[test]
fn a_shell_may_poll_late() {
    // A connection that times out before the shell knows it.
    let mut shell = Shell::new(limits());
    let mut out = Vec::new();
    shell.client.ask(Ticket(1), question(1), 1, shell.now, &mut out);
    shell.client.handle_timeout(shell.now + CONNECT_DEADLINE);
    assert_eq!((shell.client.poll_connect(), shell.client.poll_close()), (None, None));
    assert_eq!(shell.client.poll_answer(&mut out), Some(Ticket(1)));
    // Bytes that arrive before the shell has taken the request cannot be its response.
    let mut shell = Shell::new(limits());
    shell.served(1);
    let id = shell.open[0];
    shell.client.ask(Ticket(77), question(2), 1, shell.now, &mut out);
    shell.client.handle_input(id, places(99, 1).as_bytes(), shell.now);
    shell.poll();
    assert!(shell.open.is_empty() && !shell.answers.contains_key(&77));
    shell.connect();
    shell.reply(2, &places(2, 1));
    assert_eq!(shell.names(77), ["2#0"]);
}

#[test]
fn reusing_a_ticket_cancels_its_question() {
    let mut shell = Shell::new(limits());
    let ticket = shell.ask(1, 1);
    shell.next_ticket -= 1;
    assert_eq!(shell.ask(2, 1), ticket);
    shell.connect();
    assert_eq!(shell.requests, [2]);
    shell.reply(2, &places(2, 1));
    assert_eq!(shell.names(ticket), ["2#0"]);
    assert_eq!(shell.gauges().waiting, 0);
}

#[test]
fn events_of_closed_connections_are_ignored() {
    let mut shell = Shell::new(limits());
    let ticket = shell.ask(1, 1);
    shell.connect();
    let old = shell.carrier(1);
    shell.fail(old);
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    let ticket = shell.ask(2, 1);
    shell.connect();
    let new = shell.carrier(2);
    assert_eq!(old.slot(), new.slot());
    shell.client.handle_input(old, places(2, 1).as_bytes(), shell.now);
    shell.client.handle_eof(old, Eof::Clean, shell.now);
    shell.client.handle_failed(old, &TransportError::Io("late".into()), shell.now);
    shell.client.handle_connected(old, shell.now);
    shell.poll();
    assert_eq!(shell.status(ticket), "");
    shell.reply(2, &places(2, 1));
    assert_eq!(shell.status(ticket), "OK");
}

#[test]
fn debug_output_does_not_contain_the_key() {
    let mut shell = Shell::new(limits());
    shell.ask(1, 1);
    let id = shell.connecting.remove(0);
    shell.open.push(id);
    shell.client.handle_connected(id, shell.now);
    let shown = format!("{:?}{:#?}", shell.client, shell.client);
    // Neither as text nor as byte values.
    assert!(!shown.contains("canary") && !shown.contains("99, 97, 110, 97, 114, 121"), "{shown}");
    shell.poll();
}
