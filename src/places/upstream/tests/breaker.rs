//! Scenarios of the circuit breaker.

use super::*;

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

/// The log gets one line when the provider begins to fail and one when it has recovered, however many
/// probes fail in between.
#[test]
fn an_opening_and_a_closing_are_events_without_repetition() {
    let mut shell = Shell::new(limits());
    let events =
        |shell: &mut Shell| std::iter::from_fn(|| shell.client.poll_event()).collect::<Vec<_>>();
    shell.served(1);
    for round in 0..2 {
        for place in 0..BREAKER_THRESHOLD {
            assert_eq!(events(&mut shell), []);
            shell.ask(100 + place, 1);
            shell.connect();
            shell.reply(100 + place, &status(500));
        }
        let opened = events(&mut shell);
        let [Event::BreakerOpened { reason }] = opened.as_slice() else { panic!("{opened:?}") };
        assert!(reason.contains("500") && !reason.contains("circuit breaker"), "{reason}");
        for _ in 0..3 {
            shell.pass(Duration::from_mins(1));
            shell.ask(200, 1); // the probe
            shell.connect();
            shell.reply(200, &status(500));
            assert_eq!(events(&mut shell), [], "a failed probe is not another opening");
        }
        shell.pass(Duration::from_mins(1));
        // A provider that rejects the question has recovered as well.
        shell.ask(300, 1);
        shell.connect();
        shell.reply(300, &if round == 0 { places(300, 1) } else { bad_question() });
        assert_eq!(events(&mut shell), [Event::BreakerClosed]);
        shell.served(400);
        assert_eq!(events(&mut shell), []);
    }
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
