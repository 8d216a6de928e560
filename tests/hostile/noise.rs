//! Input that does not follow the protocol.

use std::thread;

use proxy_herd::rng::Rng;

use crate::common::{At, Client, Herd, assert_bytes, show};
use crate::size;

/// The expected replies to input without valid commands: every non-blank line, trimmed and preceded
/// by a question mark, up to and including the first overlong line.
fn echo(input: &[u8]) -> Vec<u8> {
    let is_white = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c);
    let mut replies = Vec::new();
    for line in input.split(|&byte| byte == b'\n') {
        if line.len() > 4096 {
            replies.extend_from_slice(&[b"? ", &line[..64], b"...\n"].concat());
            return replies;
        }
        let start = line.iter().position(|byte| !is_white(byte)).unwrap_or(line.len());
        let end = line.iter().rposition(|byte| !is_white(byte)).map_or(start, |last| last + 1);
        if start < end {
            replies.extend_from_slice(&[b"? ", &line[start..end], b"\n"].concat());
        }
    }
    replies
}

/// Sends `input`, half-closes the connection, and checks the replies.
fn assert_echoed(herd: &Herd, input: &[u8]) {
    let mut client = herd.client("Solo");
    let sender = client.send_and_half_close_in_background(input.to_vec());
    let got = client.rest();
    sender.join().unwrap();
    assert_bytes(&got, &echo(input));
}

#[test]
fn other_protocols_are_answered_with_question_marks() {
    let herd = Herd::solo();
    let hello: &[u8] = b"\x16\x03\x01\x00\xc5\x01\x00\x00\xc1\x03\x03\n\r\n \xff\x00\x20\x13\x02\
        \x00\x00\x00\x0e\x00\x0c\x00\x00\x09localhost\x00\x0b\x00\x04\x03\x00\x01\x02";
    for input in [
        hello,
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n",
        b"PING\r\nCONFIG SET dir /tmp\r\nSLAVEOF 10.0.0.1 6379\r\nEVAL \"return 1\" 0\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"EHLO mail.example\r\nMAIL FROM:<a@b.example>\r\n",
        b"set key 0 0 5\r\nvalue\r\nstats\r\n",
        b"\x00\x00\x00\x2f\xffSMB\x72\x00\x00\x00\x00\x18\x53\xc8",
        b"\x10\x16\x00\x04MQTT\x04\x02\x00\x3c\x00\x0aclient-123",
        b"PRI * HTTP/2.0x\r\n\r\nSM\r\n\r\n",
        b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47\r\n",
        b"' OR 1=1; --\n${jndi:ldap://a.example/x}\n../../etc/passwd\n%s%n%x\n",
    ] {
        assert_echoed(&herd, input);
    }
    for request in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.0\r\n\r\nIAMAT a +1+1 1\n"]
    {
        let line = request.split("\r\n").next().unwrap();
        let replies = herd.exchange("Solo", request.as_bytes());
        assert_bytes(&replies, format!("? {line}\n").as_bytes());
    }
    assert_eq!(herd.held("Solo", "a"), None);
    assert_eq!(herd.counter("Solo", r#"commands_total{command="http",result="refused"}"#), 2);
}

/// Random bytes, a function of `seed`.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    std::iter::repeat_with(|| rng.bits().to_be_bytes()).flatten().take(length).collect()
}

#[test]
fn binary_noise_is_echoed_byte_for_byte() {
    let mut herd = Herd::with_level(&[("Solo", &[])], "WARNING", "");
    herd.start("Solo");
    let mut healthy = herd.client("Solo");
    let connections = size(2_000, 40);
    thread::scope(|scope| {
        for part in 0..2 {
            let herd = &herd;
            scope.spawn(move || {
                for seed in (part..connections).step_by(2) {
                    assert_echoed(herd, &noise(seed as u64 + 1, 32 * 1024));
                }
            });
        }
        for i in 0..200 {
            healthy.iamat("healthy", "+1+1", &i.to_string());
        }
    });
    assert_eq!(herd.counter("Solo", "clients"), 1);
    assert_eq!(herd.counter("Solo", "connection_errors_total"), 0);
}

#[test]
fn numbers_of_any_length_are_parsed_exactly_or_rejected() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let zeros = "0".repeat(1_300);
    let nines = "9".repeat(1_300);
    for (location, time) in [
        (format!("+{zeros}90.{zeros}-180.{zeros}"), "1".to_owned()),
        (format!("+0.{nines}-0.{nines}"), "1".to_owned()),
        ("+1+1".to_owned(), format!("{zeros}253402300799.{zeros}")),
        ("+1+1".to_owned(), format!("-{zeros}1.{nines}")),
    ] {
        let own = format!("kiwi {location} {time}");
        assert_bytes(&At::parse(&client.iamat("kiwi", &location, &time)).own, own.as_bytes());
    }
    let huge = "9".repeat(4_000);
    let just_over = format!("90.{}1", "0".repeat(3_000));
    for line in [
        format!("IAMAT kiwi +{huge}+1 1"),
        format!("IAMAT kiwi +{just_over}+1 1"),
        format!("IAMAT kiwi +1+1 {huge}"),
        format!("IAMAT kiwi +1+1 253402300799.{}1", "0".repeat(3_000)),
        "IAMAT kiwi +1+1 1e999".to_owned(),
        "IAMAT kiwi +1+1 nan".to_owned(),
        "IAMAT kiwi +inf+1 1".to_owned(),
        "IAMAT kiwi +1+1 0x10".to_owned(),
        format!("WHATSAT kiwi {huge} 1"),
        format!("WHATSAT kiwi 50.{}1 1", "0".repeat(3_000)),
        format!("WHATSAT kiwi 10 {huge}"),
        "WHATSAT kiwi 10 18446744073709551617".to_owned(),
        "WHATSAT kiwi 10 4294967297".to_owned(),
        "WHATSAT kiwi -1 1".to_owned(),
    ] {
        assert_bytes(&client.ask(line.as_bytes()), format!("? {line}\n").as_bytes());
    }
    assert_eq!(
        client.whatsat("kiwi", &format!("{}.5", "0".repeat(3_000)), "+1").results().len(),
        0
    );
}

/// For any input of clients, every line of the log starts with the node's own time stamp and is
/// printable ASCII.
#[test]
fn no_input_can_forge_a_log_line() {
    let mut herd = Herd::solo();
    let forged = "2026-01-01 00:00:00,000 - INFO - forged";
    let mut inputs: Vec<Vec<u8>> = [
        "\x1b[2J\x1b[H\x1b]0;owned\x07",
        "\x1b]8;;http://a.example\x1b\\click\x1b]8;;\x1b\\",
        "\u{202e}gnp.exe \u{2028}\u{85}",
        "\x08\x08\x08\x08\x7f",
        "%(asctime)s %s {} {0} ${x} \\n \\x0a",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec();
    for separator in ["\r", "\x0b", "\x0c", "\0", "\u{85}", "\\n", "\u{2028}"] {
        inputs.push(format!("x{separator}{forged}").into_bytes());
        inputs.push(format!("IAMAT x{separator}{} +1+1 1", forged.replace(' ', "_")).into_bytes());
    }
    inputs.extend((1..20).map(|seed| noise(seed, 3_000)));
    inputs.push(vec![b'\x1b'; 5_000]);
    for input in &inputs {
        let client: Client = herd.client("Solo");
        client.exchange(input);
    }
    herd.signal("Solo", "TERM");
    assert!(herd.wait("Solo", crate::common::DEADLINE).success());
    let log = herd.log("Solo");
    let mut lines: Vec<&[u8]> = log.split(|&byte| byte == b'\n').collect();
    assert_eq!(lines.pop(), Some(&b""[..]), "the last line is terminated");
    for line in lines {
        assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~')), "{}", show(line));
        let own = line.get(23..26) == Some(b" - ") && !line.starts_with(b"2026-01-01 00:00:00,000");
        assert!(own, "{}", show(line));
    }
}
