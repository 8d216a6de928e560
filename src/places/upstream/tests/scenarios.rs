//! Scenarios of questions: sharing, the cache, deadlines and limits.

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
