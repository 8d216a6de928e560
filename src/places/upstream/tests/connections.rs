//! Scenarios of connections: reuse, stale connections, retries and late events.

use super::*;

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
