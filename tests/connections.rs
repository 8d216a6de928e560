//! Connections to one node: pipelining, the line limit, HTTP, closing, many connections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::net::Shutdown;

use common::{At, Client, DEADLINE, Herd, Whatsat, assert_bytes, eventually, lines, refused, show};

// Pipelining

#[test]
fn pipelined_commands_are_answered_in_order() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let mut commands = Vec::new();
    for i in 0..500 {
        commands.push(format!("IAMAT c{} +34.07-118.45 {i}", i % 7));
        commands.push(format!("what {i}"));
        if i % 10 == 0 {
            commands.push(format!("WHATSAT c{} 10 5", i % 7));
            commands.push(format!("WHATSAT unknown{i} 10 5"));
        }
    }
    let sender = client.send_in_background(lines(commands));
    for i in 0..500 {
        let own = format!("c{} +34.07-118.45 {i}", i % 7);
        let line = client.line();
        assert_bytes(&At::parse(&line).own, own.as_bytes());
        assert_bytes(&client.line(), format!("? what {i}\n").as_bytes());
        if i % 10 == 0 {
            let reply = Whatsat::parse(&client.until(b"\n\n"));
            assert_bytes(&reply.at, &line);
            assert_eq!(reply.status(), "OK");
            assert_eq!(reply.results().len(), 5);
            assert_bytes(&client.line(), format!("? WHATSAT unknown{i} 10 5\n").as_bytes());
        }
    }
    sender.join().unwrap();
    client.half_close();
    assert_bytes(&client.rest(), b"");
}

/// Replaces the clock differences, which vary between runs, by `DIFF`.
fn mask_differences(replies: &[u8]) -> Vec<u8> {
    let mut masked = Vec::new();
    for line in replies.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"AT ") {
            let at = At::parse(line);
            masked.extend_from_slice(format!("AT {} DIFF ", at.server).as_bytes());
            masked.extend_from_slice(&at.own);
            masked.push(b'\n');
        } else {
            masked.extend_from_slice(line);
        }
    }
    masked
}

/// A session with every kind of reply, whose outcome does not depend on the clock.
const SESSION: &[u8] = b"IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1621464827.959498503\n\
    WHATSAT kiwi.cs.ucla.edu 10 5\n\
    \r\n \t \n\
    hello  there \r\n\
    IAMAT bad +91+0 1\n\
    IAMAT \xa0\x1c\xff +1-1/ -.5\x0b\n\
    \x0cWHATSAT\t\xa0\x1c\xff  0 20\n\
    WHATSAT unknown 1 1\n\
    GET / HTTP/1.1\r\n\
    IAMAT kiwi.cs.ucla.edu +34.068930-118.445127 1621464827\n\
    WHATSAT kiwi.cs.ucla.edu 50 0\n\
    last line";

#[test]
fn input_sent_one_byte_at_a_time_gets_the_same_replies() {
    let expected = Herd::solo().exchange("Solo", SESSION);
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for byte in SESSION {
        client.send(&[*byte]);
    }
    client.half_close();
    assert_bytes(&mask_differences(&client.rest()), &mask_differences(&expected));
    assert!(expected.ends_with(b"\n? last line\n"), "{}", show(&expected));
}

/// At the end of each line the replies to the first half are awaited before the second half is
/// sent, so that the node cannot receive both in one read.
#[test]
fn every_split_into_two_writes_gets_the_same_replies() {
    let herd = Herd::solo();
    let expected = mask_differences(&herd.exchange("Solo", SESSION));
    for at in 0..=SESSION.len() {
        let mut client = herd.client("Solo");
        client.send(&SESSION[..at]);
        client.send(&SESSION[at..]);
        client.half_close();
        assert_bytes(&mask_differences(&client.rest()), &expected);
    }
    for end in SESSION.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(i, _)| i + 1) {
        let mut client = herd.client("Solo");
        client.send(&SESSION[..end]);
        client.send(b"fence\n");
        let first = client.until(b"? fence\n");
        client.send(&SESSION[end..]);
        client.half_close();
        let replies = [&first[..first.len() - b"? fence\n".len()], &client.rest()].concat();
        assert_bytes(&mask_differences(&replies), &expected);
    }
}

// The line limit

fn truncated(line: &[u8]) -> Vec<u8> {
    [b"? ", &line[..64], b"...\n"].concat()
}

#[test]
fn a_line_of_4096_bytes_is_accepted() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let line = vec![b'a'; 4096];
    assert_bytes(&client.ask(&line), &refused(&line));
    let with_cr = [&line[..4095], b"\r"].concat(); // CR is one of the bytes before LF
    assert_bytes(&client.ask(&with_cr), &refused(&line[..4095]));
    let name = "n".repeat(4096 - "IAMAT  +1+1 7".len());
    assert_bytes(&At::parse(&client.iamat(&name, "+1+1", "7")).own[..5], b"nnnnn");
    assert_bytes(&herd.exchange("Solo", &line), &refused(&line)); // without LF
}

#[test]
fn an_overlong_line_is_echoed_truncated_and_closes_the_connection() {
    let herd = Herd::solo();
    let line: Vec<u8> = (0..4097).map(|i| b'a' + (i % 26) as u8).collect();
    let with_cr = [&line[..4096], b"\r"].concat();
    let with_spaces = [b"  ", &line[..4095]].concat(); // the line is truncated before it is trimmed
    let white = vec![b' '; 4097];
    for line in [&line, &with_cr, &with_spaces, &white] {
        for end in
            [&b"\n"[..], b"\r\n", b"", b"\nIAMAT after +1+1 1\n", b"more\nIAMAT after +1+1 1\n"]
        {
            let input = [line, end].concat();
            assert_bytes(&herd.exchange("Solo", &input), &truncated(line));
        }
        // The node closes although neither LF nor a half-close has been received.
        let mut client = herd.client("Solo");
        client.send(line);
        assert_bytes(&client.rest(), &truncated(line));
    }
    assert_eq!(herd.held("Solo", "after"), None);
    let binary: Vec<u8> = (0..5000_u32).map(|i| (i * 7 + 11) as u8 | 0x80).collect();
    assert_bytes(&herd.exchange("Solo", &binary), &truncated(&binary));
}

#[test]
fn commands_before_an_overlong_line_are_answered() {
    let herd = Herd::solo();
    let long = vec![b'z'; 4097];
    let input = [b"IAMAT kiwi +1+1 1\nhello\n", &long[..], b"\nbye\n"].concat();
    let mut client = herd.client("Solo");
    client.send(&input);
    assert_bytes(&At::parse(&client.line()).own, b"kiwi +1+1 1");
    assert_bytes(&client.line(), b"? hello\n");
    assert_bytes(&client.rest(), &truncated(&long));
}

#[test]
fn the_line_limit_is_configurable() {
    let herd = Herd::solo_with("limits: {max_line: 256}");
    let line = vec![b'a'; 257];
    assert_bytes(&herd.exchange("Solo", &line[..256]), &refused(&line[..256]));
    assert_bytes(&herd.exchange("Solo", &line), &truncated(&line));
    let herd = Herd::solo_with("limits: {max_line: 32768}");
    let line = vec![b'a'; 32769];
    assert_bytes(&herd.exchange("Solo", &line[..32768]), &refused(&line[..32768]));
    assert_bytes(&herd.exchange("Solo", &line), &truncated(&line));
}

#[test]
fn ten_mebibytes_without_a_newline_do_not_grow_memory() {
    let herd = Herd::solo();
    assert_bytes(&herd.exchange("Solo", b"warm\n"), b"? warm\n");
    #[cfg(target_os = "linux")]
    let before = herd.resident_kib("Solo");
    let mut client = herd.client("Solo");
    let sender = client.send_in_background(vec![b'x'; 10 << 20]);
    assert_bytes(&client.rest(), &truncated(&[b'x'; 64]));
    let mut other = herd.client("Solo");
    assert_bytes(&other.ask(b"still here"), b"? still here\n");
    #[cfg(target_os = "linux")]
    {
        let grown = herd.resident_kib("Solo").saturating_sub(before);
        assert!(grown < 2048, "{grown} KiB of growth");
    }
    let _ = client.stream().shutdown(Shutdown::Both); // unblock the sender
    sender.join().unwrap();
}

// HTTP

#[test]
fn an_http_request_as_the_first_line_closes_the_connection() {
    let herd = Herd::solo();
    for line in [
        "POST /x HTTP/1.1",
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "OPTIONS * HTTP/1.1",
        "GET http://localhost:10099/?q=1 HTTP/1.1",
        "PUT /a/b?c=d%20e HTTP/1.1",
    ] {
        for end in ["\r\n", "\n"] {
            let input = format!(
                "{line}{end}Host: localhost{end}Content-Type: text/plain{end}{end}\
                 IAMAT evil +1+1 1{end}WHATSAT evil 10 5{end}"
            );
            let mut client = herd.client("Solo");
            client.send(input.as_bytes());
            assert_bytes(&client.rest(), &refused(line.as_bytes()));
            assert_bytes(&herd.exchange("Solo", input.as_bytes()), &refused(line.as_bytes()));
        }
        // One byte at a time: the line is evaluated when it is complete.
        let mut client = herd.client("Solo");
        for byte in format!("{line}\r\n").bytes() {
            client.send(&[byte]);
        }
        assert_bytes(&client.rest(), &refused(line.as_bytes()));
        // A final line without LF.
        assert_bytes(&herd.exchange("Solo", line.as_bytes()), &refused(line.as_bytes()));
    }
    assert_eq!(herd.held("Solo", "evil"), None);
}

#[test]
fn a_later_http_request_line_is_an_ordinary_invalid_command() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for line in ["hello", "POST /x HTTP/1.1", "Host: localhost", "GET / HTTP/1.1"] {
        assert_bytes(&client.ask(line.as_bytes()), &refused(line.as_bytes()));
    }
    client.iamat("kiwi", "+1+1", "1");
    assert!(herd.held("Solo", "kiwi").is_some());
}

#[test]
fn a_first_line_that_only_resembles_http_keeps_the_connection_open() {
    let herd = Herd::solo();
    for line in ["POST /x", "HTTP/1.1 200 OK", "GET", "hello HTTP/1.1", "GET / HTTP/1.1 x"] {
        let mut client = herd.client("Solo");
        assert_bytes(&client.ask(line.as_bytes()), &refused(line.as_bytes()));
        assert_bytes(&client.ask(b"next"), b"? next\n");
    }
}

// Closing

#[test]
fn after_a_half_close_all_pending_replies_are_sent_before_the_node_closes() {
    let herd = Herd::solo();
    let updates = (0..3000).map(|i| format!("IAMAT c{i} +34.07-118.45 1621464827"));
    let questions = (0..50).map(|i| format!("WHATSAT c{i} 50 20"));
    let mut client = herd.client("Solo");
    let sender = client.send_and_half_close_in_background(lines(updates.chain(questions)));
    for i in 0..3000 {
        let own = format!("c{i} +34.07-118.45 1621464827");
        assert_bytes(&At::parse(&client.line()).own, own.as_bytes());
    }
    for _ in 0..50 {
        assert_eq!(Whatsat::parse(&client.until(b"\n\n")).results().len(), 20);
    }
    assert_bytes(&client.rest(), b"");
    sender.join().unwrap();
}

/// The client does not read until the node has processed the line that ends the connection. The
/// replies exceed the client's receive buffer, and the node leaves much input unread. A plain close
/// would send a reset, which discards replies in flight.
#[test]
fn pending_replies_arrive_even_if_the_node_closes_with_unread_input() {
    let herd = Herd::solo();
    let after = "IAMAT after +1+1 1\n".repeat(50_000);
    for round in 0..5 {
        let before = lines((0..500).map(|i| format!("IAMAT b{i} +1+1 {round}")));
        let long = vec![b'y'; 5000];
        let input = [&before[..], &long, b"\n", after.as_bytes()].concat();
        let mut client = Client::connect_narrow(herd.address("Solo"));
        client.send_in_background(input).join().unwrap();
        for i in 0..500 {
            assert_bytes(&At::parse(&client.line()).own, format!("b{i} +1+1 {round}").as_bytes());
        }
        assert_bytes(&client.rest(), &truncated(&long));

        let mut client = Client::connect_narrow(herd.address("Solo"));
        let input = format!("POST /x HTTP/1.1\r\nHost: a\r\n\r\n{after}");
        client.send_in_background(input.into_bytes()).join().unwrap();
        assert_bytes(&client.rest(), b"? POST /x HTTP/1.1\n");
    }
    assert_eq!(herd.held("Solo", "after"), None);
}

/// A client that sends many requests before it reads does not block others, and receives all
/// replies.
#[test]
fn a_client_that_reads_late_gets_every_reply() {
    let herd = Herd::solo();
    let mut slow = herd.client("Solo");
    slow.iamat("kiwi", "+34.07-118.45", "1");
    let questions = 2000;
    let input = "WHATSAT kiwi 50 20\n".repeat(questions) + "bye\n";
    let sender = slow.send_in_background(input.into_bytes());
    let mut other = herd.client("Solo");
    for i in 0..200 {
        other.iamat("other", "+1+1", &i.to_string());
    }
    for _ in 0..questions {
        assert_eq!(Whatsat::parse(&slow.until(b"\n\n")).results().len(), 20);
    }
    assert_bytes(&slow.line(), b"? bye\n");
    sender.join().unwrap();
}

// Many connections

#[test]
fn two_hundred_simultaneous_connections_are_all_served() {
    let herd = Herd::solo(); // default limits; all clients have the same address
    let mut clients: Vec<Client> = (0..200).map(|_| herd.client("Solo")).collect();
    for (i, client) in clients.iter_mut().enumerate() {
        client.send(format!("IAMAT c{i} +1+1 1\n").as_bytes());
    }
    for (i, client) in clients.iter_mut().enumerate().rev() {
        assert_bytes(&At::parse(&client.line()).own, format!("c{i} +1+1 1").as_bytes());
    }
    for (i, client) in clients.iter_mut().enumerate() {
        assert_bytes(&client.ask(b"hello"), b"? hello\n");
        assert!(client.held(format!("c{i}").as_bytes()).is_some());
    }
}

#[test]
fn a_connection_over_the_limit_is_refused_with_a_message() {
    for limit in ["max_connections: 5", "max_connections_per_address: 5"] {
        let herd = Herd::solo_with(&format!("limits: {{{limit}}}"));
        let mut served: Vec<Client> = Vec::new();
        eventually("five clients are served", DEADLINE, || {
            let mut client = herd.client("Solo"); // a connection that has just closed may still be counted
            client.send(b"hello\n");
            if client.line() == b"? hello\n" {
                served.push(client);
            }
            (served.len() == 5).then_some(())
        });
        for _ in 0..20 {
            let mut refused = herd.client("Solo");
            let _ = refused.send_in_background(b"IAMAT refused +1+1 1\n".repeat(10)).join();
            assert_bytes(&refused.rest(), b"? too many connections\n");
        }
        for client in &mut served {
            assert_bytes(&client.ask(b"still here"), b"? still here\n");
        }
        assert_eq!(served[0].held(b"refused"), None, "a refused connection executes nothing");
        served.pop();
        eventually("a new client is served after another has left", DEADLINE, || {
            let mut client = herd.client("Solo");
            client.send(b"hello\n");
            (client.line() == b"? hello\n").then_some(())
        });
    }
}

#[test]
fn fifty_clients_from_one_address_are_served_concurrently() {
    let herd = Herd::solo();
    std::thread::scope(|scope| {
        for c in 0..50 {
            let mut client = herd.client("Solo");
            scope.spawn(move || {
                for i in 0..100 {
                    client.iamat(&format!("c{c}"), "+1+1", &i.to_string());
                }
                let stored = client.held(format!("c{c}").as_bytes()).unwrap();
                assert_bytes(&At::parse(&stored).own, format!("c{c} +1+1 99").as_bytes());
            });
        }
    });
}

#[test]
fn replies_to_a_closed_connection_reach_no_other_client() {
    let herd = Herd::solo();
    let mut steady = herd.client("Solo");
    for i in 0..200 {
        let mut gone = herd.client("Solo");
        gone.reset_when_dropped();
        gone.send(b"IAMAT gone +1+1 1\ngone\n");
        drop(gone);
        let mine = format!("mine {i}");
        assert_bytes(&steady.ask(mine.as_bytes()), &refused(mine.as_bytes()));
    }
}

#[test]
fn clients_that_reset_immediately_leave_no_descriptors_behind() {
    let mut herd = Herd::solo();
    let mut steady = herd.client("Solo");
    for i in 0..300 {
        let mut client = herd.client("Solo");
        client.reset_when_dropped();
        match i % 4 {
            0 => {}
            1 => client.send(b"IAMAT half +1+1 "),
            2 => client.send(b"IAMAT whole +1+1 1\nhello\n"),
            _ => client.send(&[b'x'; 5000]),
        }
        drop(client);
        if i % 10 == 0 {
            steady.iamat("steady", "+1+1", &i.to_string());
        }
    }
    assert!(herd.is_running("Solo"));
    let mut fresh = herd.client("Solo");
    assert_bytes(&fresh.ask(b"hello"), b"? hello\n");
    eventually("the descriptors of the reset connections are closed", DEADLINE, || {
        open_descriptors(&herd).is_none_or(|count| count < 40).then_some(())
    });
}

/// The number of open descriptors of the node, if the system reports it.
fn open_descriptors(herd: &Herd) -> Option<usize> {
    Some(std::fs::read_dir(format!("/proc/{}/fd", herd.pid("Solo"))).ok()?.count())
}
