//! What is to happen, one story at a time.

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
fn nothing_is_asked_for_nothing() {
    let mut shell = Shell::new(limits());
    for (place, max_results) in [(0, 20), (7, 0), (0, 0)] {
        let ticket = shell.ask(place, max_results);
        assert_eq!(shell.status(ticket), "ZERO_RESULTS");
    }
    assert!(shell.connecting.is_empty());
}

#[test]
fn identical_questions_are_one_request() {
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
fn a_thousand_questions_for_a_hundred_places_are_a_hundred_requests() {
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
fn a_full_pool_takes_as_many_rounds_as_it_must() {
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
fn answers_are_cached_for_their_time_and_for_any_bound() {
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
fn without_a_time_to_live_nothing_is_kept() {
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
    // An answer is not used beyond its time, even if the timer that removes it is late.
    let mut cache = Cache::new(Some(ms(10)), 1);
    let listing = Arc::new(Listing::build([], [], [], None).unwrap());
    cache.insert(question(1).key(), listing, ms(1));
    assert!(cache.get(question(1).key(), ms(10)).is_some());
    assert!(cache.get(question(1).key(), ms(11)).is_none());
    let mut cache = Cache::new(cache_ttl, 1_000_000);
    let big = "x".repeat(500_000);
    let result = format!("\"{big}\"");
    for place in 1..300 {
        let listing = Listing::build([], [result.as_str()], [], None).unwrap();
        cache.insert(question(place).key(), Arc::new(listing), ms(1));
        assert!(cache.bytes() <= crate::places::limits::MAX_CACHE_BYTES);
    }
    assert!(cache.len() > 100);
    cache.expire(ms(3_600_001));
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
    // A body that is whole only if the end of the stream is to be trusted.
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
fn a_connection_is_used_again_until_it_has_been_idle_for_long() {
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
fn a_connection_that_the_server_ends_is_not_used_again() {
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
    // Bytes that nobody asked for must not become somebody's answer.
    let mut shell = Shell::new(limits());
    shell.served(7);
    shell.input(shell.open[0], &places(8, 1));
    assert!(shell.open.is_empty());
}

#[test]
fn a_stale_connection_costs_one_retry_on_a_fresh_one() {
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
        // A fresh connection that does the same is no stale one.
        let ticket = shell.ask(9, 1);
        shell.fail(shell.carrier(9));
        shell.connect();
        shell.fail(shell.carrier(9));
        assert_eq!(shell.status(ticket), "UNKNOWN_ERROR", "{how}");
        assert!(shell.message(ticket).contains("reset by [api key]"), "{}", shell.message(ticket));
    }
}

#[test]
fn a_retry_never_meets_another_connection_that_was_idle() {
    let mut shell = Shell::new(PlacesLimits { pool_size: 3, ..limits() });
    let tickets: Vec<u64> = (1..=3).map(|place| shell.ask(place, 1)).collect();
    shell.connect();
    for place in 1..=3 {
        shell.reply(place, &places(place, 1));
    }
    assert!(tickets.into_iter().all(|ticket| shell.status(ticket) == "OK"));
    let ticket = shell.ask(9, 1);
    shell.fail(shell.carrier(9));
    // Two more are idle, but the question waits for the one that is being made.
    assert_eq!((shell.open.len(), shell.connecting.len(), shell.asked.len()), (2, 1, 0));
    // Others take the idle ones meanwhile.
    shell.ask(10, 1);
    shell.ask(11, 1);
    assert_eq!(shell.asked.len(), 2);
    shell.connect();
    shell.reply(9, &places(9, 1));
    assert_eq!(shell.status(ticket), "OK");
}

#[test]
fn a_retry_gets_room_in_a_pool_that_is_full() {
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
    // Both connections are stale: two repeat, one waits behind them.
    shell.fail(shell.carrier(3));
    shell.fail(shell.carrier(4));
    shell.connect();
    shell.reply(3, &places(3, 1));
    shell.reply(4, &places(4, 1));
    shell.reply(5, &places(5, 1));
    assert_eq!(shell.status(last), "OK");
}

#[test]
fn a_response_that_has_begun_is_not_repeated() {
    let mut shell = Shell::new(limits());
    shell.served(7);
    let ticket = shell.ask(8, 1);
    shell.reply(8, "HTTP/1.1 200 OK\r\nContent-Len");
    shell.eof(shell.carrier(8), Eof::Clean);
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert_eq!(shell.client.stats().retries, 0);
}

#[test]
fn the_deadline_is_kept_by_whatever_stalls() {
    // The connection.
    let deadline = limits().deadline;
    let mut shell = Shell::new(PlacesLimits { deadline: ms(2_000), ..limits() });
    let ticket = shell.ask(7, 1);
    shell.pass(ms(1_999));
    assert_eq!(shell.status(ticket), "");
    shell.pass(ms(1));
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert!(shell.message(ticket).contains("cannot be reached in time"));
    // A connection that takes too long is given up before that.
    let mut shell = Shell::new(limits());
    let ticket = shell.ask(7, 1);
    shell.pass(CONNECT_DEADLINE);
    assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
    assert!(shell.connecting.is_empty());
    assert!(shell.message(ticket).contains("cannot be reached in time"));
    // The look-up before it, by either deadline.
    for limits in [limits(), PlacesLimits { deadline: ms(2_000), ..limits() }] {
        let mut shell = Shell::new(limits.clone());
        shell.has_address = false;
        let ticket = shell.ask(7, 1);
        shell.pass(CONNECT_DEADLINE.min(limits.deadline));
        assert!(shell.message(ticket).contains("cannot be resolved in time"));
    }
    // The response, and the queue behind it.
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

/// Who joins a question that has been under way for long does not inherit its deadline.
#[test]
fn who_joins_late_has_time_of_their_own() {
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
    // It is asked anew, once for all of them, and answered.
    let mut shell = Shell::new(limits());
    let late = join(&mut shell, 3);
    shell.connect();
    shell.reply(5, &places(5, 1));
    assert!(late.iter().all(|&ticket| shell.status(ticket) == "OK"));
    assert_eq!(shell.requests, [5, 5]);
    // Or not, and their time is up before that of the second request.
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
    // What was not sent before nobody waited any more is not sent.
    let mut shell = Shell::new(limits());
    join(&mut shell, 1);
    shell.pass(deadline);
    shell.connect();
    assert_eq!((shell.gauges().queued, shell.requests.len()), (0, 1));
    // A request has its price, and a provider that keeps failing is not asked anew.
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
fn a_question_that_only_waited_says_so() {
    let mut shell = Shell::new(PlacesLimits { pool_size: 1, ..limits() });
    let [first, second] = [1, 2].map(|place| shell.ask(place, 1));
    shell.connect();
    shell.pass(limits().deadline);
    assert!(shell.message(first).contains("did not respond within 5000 ms"));
    assert!(shell.message(second).contains("busy with other questions for 5000 ms"));
}

#[test]
fn connections_that_fail_answer_those_that_wait() {
    for trouble in [
        TransportError::Resolve("no such host".into()),
        TransportError::Connect("refused".into()),
        TransportError::Tls("certificate has expired".into()),
    ] {
        let mut shell = Shell::new(limits());
        let ticket = shell.ask(7, 1);
        let id = shell.connecting[0];
        shell.forget(id);
        shell.client.handle_failed(id, &trouble, shell.now);
        shell.poll();
        assert_eq!(shell.status(ticket), "UNKNOWN_ERROR");
        let (TransportError::Resolve(why)
        | TransportError::Connect(why)
        | TransportError::Tls(why)
        | TransportError::Io(why)) = trouble;
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
    // One that is on its way already may be joined.
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
fn budgets_refuse_at_once() {
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
    // What was never sent costs nothing.
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(1), ..limits() });
    for _ in 0..10 {
        let ticket = shell.ask(1, 1);
        assert_eq!(shell.status(ticket), "");
        shell.client.cancel(Ticket(ticket));
    }
}

#[test]
fn a_retry_is_paid_for() {
    let mut shell = Shell::new(PlacesLimits { requests_per_day: Some(2), ..limits() });
    shell.served(1);
    let ticket = shell.ask(2, 1);
    shell.fail(shell.carrier(2));
    shell.connect();
    assert_eq!(shell.status(ticket), "OVER_QUERY_LIMIT");
    assert_eq!(shell.requests.len(), 2);
}

#[test]
fn a_provider_that_keeps_failing_is_left_alone_and_probed() {
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
    assert!(!shell.gauges().breaker_open, "the pause is over, asked or not");
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
fn what_the_breaker_refuses_has_the_status_of_its_cause() {
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
    // A question that is wrong in itself does not take the others with it.
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
fn when_the_breaker_opens_the_queue_is_answered() {
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
fn a_probe_that_is_cancelled_makes_room_for_the_next() {
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
fn who_hangs_up_is_forgotten() {
    let mut shell = Shell::new(PlacesLimits { cache_ttl: Some(ms(10_000)), ..limits() });
    let tickets: Vec<u64> = (1..=4).map(|place| shell.ask(place, 1)).collect();
    shell.connect();
    for &ticket in &tickets {
        shell.client.cancel(Ticket(ticket));
    }
    shell.poll();
    let gauges = shell.gauges();
    assert_eq!((gauges.waiting, gauges.queued, gauges.in_flight), (0, 0, 2));
    // What was sent goes on, for the cache.
    shell.reply(1, &places(1, 1));
    shell.reply(2, &places(2, 1));
    assert!(shell.answers.is_empty());
    let ticket = shell.ask(1, 1);
    assert_eq!(shell.status(ticket), "OK");
    assert_eq!(shell.requests, [1, 2]);
    // One of several that wait for the same, and one whose answer is there already.
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
fn a_probe_that_proves_nothing_leaves_room_for_the_next() {
    // The provider does not like the question, but it is back.
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
    // The budget is used up by a retry just before the probe's turn.
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
fn failures_count_only_in_a_row() {
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
fn a_shell_that_is_slow_to_poll_is_not_misled() {
    // A connection that is given up before anybody has heard of it.
    let mut shell = Shell::new(limits());
    let mut out = Vec::new();
    shell.client.ask(Ticket(1), question(1), 1, shell.now, &mut out);
    shell.client.handle_timeout(shell.now + CONNECT_DEADLINE);
    assert_eq!((shell.client.poll_connect(), shell.client.poll_close()), (None, None));
    assert_eq!(shell.client.poll_answer(&mut out), Some(Ticket(1)));
    // Bytes that come before the request has been taken cannot be its answer.
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
fn a_ticket_that_asks_again_forgets_what_it_asked_before() {
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
fn events_of_the_past_are_ignored() {
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
fn debug_output_is_free_of_the_key() {
    let mut shell = Shell::new(limits());
    shell.ask(1, 1);
    let id = shell.connecting.remove(0);
    shell.open.push(id);
    shell.client.handle_connected(id, shell.now);
    let shown = format!("{:?}{:#?}", shell.client, shell.client);
    // Neither as text nor as the numbers of its bytes.
    assert!(!shown.contains("canary") && !shown.contains("99, 97, 110, 97, 114, 121"), "{shown}");
    shell.poll();
}
