//! The client protocol of one node, checked byte for byte: IAMAT, invalid commands, white space,
//! framing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

mod common;

use std::collections::BTreeSet;

use common::{At, Herd, Whatsat, assert_bytes, lines, refused, seconds, show, wall_ns};

/// The six white space bytes of the protocol.
const WHITE_SPACE: &[u8] = b" \t\r\n\x0c\x0b";

/// The latest valid time in seconds: the end of the year 9999.
const LAST_SECOND: &str = "253402300799";

/// The value of a valid time field in nanoseconds, truncated to nine decimals.
fn nanoseconds(time: &str) -> i128 {
    let (sign, digits) = match time.as_bytes()[0] {
        b'-' => (-1, &time[1..]),
        b'+' => (1, &time[1..]),
        _ => (1, time),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = format!("{fraction:0<9}");
    sign * format!("0{whole}{}", &fraction[..9]).parse::<i128>().unwrap()
}

// IAMAT

#[test]
fn every_valid_location_is_copied_verbatim() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let many_zeros = "0".repeat(300);
    let locations = [
        "+34.068930-118.445127",
        "+34.068930-118.445127/",
        "+12-118",
        "+12-118/",
        "-12+118",
        "+12.-118.",
        "+12.-118./",
        "+.5-.5",
        "-.0+.0/",
        "+0+0",
        "-0-0",
        "+000000000000000000000000000000001-0000000000000000000000000000000118",
        "+90+180",
        "-90-180",
        "+90.+180.",
        "-90.000000000000000000000-180.00000000000000000000000000/",
        "+89.99999999999999999999999999999999999-179.99999999999999999999999999999999",
        &format!("+90.{many_zeros}-180.{many_zeros}"),
        &format!("+{many_zeros}90-{many_zeros}180"),
        &format!("+1.{}-2.{}", "3".repeat(500), "7".repeat(500)),
    ];
    for location in locations {
        let before = wall_ns();
        let line = client.iamat("kiwi", location, "1621464827.959498503");
        let received = nanoseconds("1621464827.959498503") + At::parse(&line).diff_ns;
        assert!(before <= received && received <= wall_ns(), "{}", show(&line));
        assert!(line.starts_with(b"AT Solo +"), "{}", show(&line));
    }
}

#[test]
fn every_invalid_location_is_refused() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let zeros = "0".repeat(300);
    let locations = [
        "34.068930-118.445127", // no sign
        "+34.068930118.445127",
        "34.068930,-118.445127",
        "+34",
        "+34-",
        "+-118",
        "-",
        "+",
        "/",
        "+/",
        "+.-118",
        "+12-.",
        "+.-.",
        "++12-118",
        "+12--118",
        "+12+-118",
        "+12-118//",
        "+12/-118",
        "/+12-118",
        "+12-118/x",
        "+12-118x",
        "x+12-118",
        "+12-118+5", // altitude
        "+12-118+5/",
        "+12-118-5.5/",
        "+12.5.5-118",
        "+12..5-118",
        "+12-118.5.",
        "+1e1-118",
        "+12-1E2",
        "+1_2-118",
        "+1,2-118",
        "+0xC-118",
        "+nan-118",
        "+12+inf",
        "+12-infinity",
        "+NaN+NaN",
        "+3404.13-11826.7", // degrees and minutes
        "+340408-1182642/",
        "+91+0",
        "-91+0",
        "+90.00000000000000000000000000000000000000000000000001+0",
        "-90.1+0",
        "+0+181",
        "+0-181",
        "+0+180.00000000000000000000000000000000000000000000000001",
        "-0-180.1",
        &format!("+90.{zeros}1+0"),
        &format!("+0+180.{zeros}1"),
        "+18446744073709551616+0", // 2^64, which a wrapping parser reads as zero
        "+0+340282366920938463463374607431768211456", // 2^128
        "+99999999999999999999999999999999999999999999999999999999999999+0",
        "\u{ff0b}12-118",
        "+\u{0661}\u{0662}-118",
        "+12\u{2212}118",
        "+12-118\u{a0}",
        "+12-118\0",
    ];
    for location in locations {
        let command = format!("IAMAT bad {location} 1621464827");
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
    assert_eq!(client.held(b"bad"), None);
}

#[test]
fn every_valid_time_is_copied_and_its_clock_difference_is_signed_and_exact() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let zeros = "0".repeat(300);
    let times = [
        "1621464827.959498503",
        "1621464827",
        "1621464827.",
        "1621464827.9",
        ".5",
        "+.5",
        "-.5",
        "-1.5",
        "+1.5",
        "0",
        "-0",
        "+0",
        "-0.",
        ".0",
        "0.000000001",
        "-0.000000001",
        "000000000000000000000000000000000000000000001621464827",
        LAST_SECOND,
        "-253402300799",
        "+253402300799.",
        "253402300798.999999999999999999999",
        "-253402300798.999999999",
        "253402300799.000000000000000000000000000000",
        "1621464827.9594985031",
        "1621464827.9594985039999999999999999999999999999999999999",
        "-1621464827.9594985039",
        "-0.0000000009",
        &format!("{zeros}{LAST_SECOND}.{zeros}"),
        &format!("1621464827.{}", "9".repeat(1000)),
    ];
    for time in times {
        let before = wall_ns();
        let line = client.iamat("kiwi", "+1+1", time);
        let received = nanoseconds(time) + At::parse(&line).diff_ns;
        let after = wall_ns();
        assert!(
            before <= received && received <= after,
            "{}: received {} ns after it was sent and {} ns before the reply arrived",
            show(&line),
            received - before,
            after - received
        );
    }
    for _ in 0..20 {
        let line = client.iamat("ahead", "+1+1", &seconds(wall_ns() + 60_000_000_000));
        let diff = At::parse(&line).diff;
        assert!(diff.starts_with("-5") && diff.len() == "-59.000000000".len(), "{diff}");
    }
}

#[test]
fn every_invalid_time_is_refused() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let zeros = "0".repeat(300);
    let times = [
        "253402300800",
        "-253402300800",
        "253402300799.000000001",
        "-253402300799.000000001",
        "253402300799.00000000000000000000000000000000001", // the bound is exact to any number of decimals
        "-253402300799.9999999999",
        &format!("253402300799.{zeros}1"),
        "18446744073709551616",
        "340282366920938463463374607431768211456",
        "9999999999999999999999999999999999999999999999999999999999999999999999",
        "+",
        "-",
        ".",
        "+.",
        "-.",
        "1621464827..",
        "1.2.3",
        "--1",
        "++1",
        "+-1",
        "-+1",
        "1-",
        "1+",
        "1e9",
        "1E9",
        "1_000",
        "1,5",
        "0x10",
        "1.5s",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "infinity",
        "1\u{a0}",
        "\u{0661}",
        "1/",
        "2021-05-19T22:53:47Z",
    ];
    for time in times {
        let command = format!("IAMAT bad +1+1 {time}");
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
    assert_eq!(client.held(b"bad"), None);
}

/// Floating point is coarse at these magnitudes: seconds in steps of at least 2⁻²² s, nanoseconds
/// in steps of at least 32. If a float were involved, nearly every difference would be such a
/// multiple.
#[test]
fn clock_differences_are_exact_to_the_nanosecond_for_times_of_any_magnitude() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let times: Vec<String> = (0..2000_i128)
        .map(|i| match i % 5 {
            0 => format!("1621464827.{:09}", i * 499_979),
            1 => format!("-{}.{:09}", 253_402_300_798 - i, 999_999_999 - i * 401_987),
            2 => format!("{}.{:09}", 253_402_300_798 - i, i * 497_993),
            3 => format!(".{i:09}"),
            _ => format!("-{}.{:09}", i * 7_919_777, 999_999_999 - i),
        })
        .collect();
    let input = lines(times.iter().map(|time| format!("IAMAT c +1+1 {time}")));
    let before = wall_ns();
    let sender = client.send_in_background(input);
    let mut last = before;
    let mut coarse_differences = 0;
    for time in &times {
        let at = At::parse(&client.line());
        let received = nanoseconds(time) + at.diff_ns;
        assert_bytes(&at.own, format!("c +1+1 {time}").as_bytes());
        assert!(
            last <= received,
            "{time} with {}: the clock went back by {} ns",
            at.diff,
            last - received
        );
        last = received;
        coarse_differences += usize::from(is_coarse(at.diff_ns));
    }
    assert!(last <= wall_ns());
    sender.join().unwrap();
    // Expected by chance: one in twenty.
    assert!(coarse_differences < times.len() / 4, "{coarse_differences} differences");
}

/// Returns whether `ns` is a multiple of 2⁻²² s, rounded to nanoseconds, or of 32 ns.
fn is_coarse(ns: i128) -> bool {
    let remainder = (ns << 22).rem_euclid(1_000_000_000);
    remainder.min(1_000_000_000 - remainder) <= 1 << 22 || ns % 32 == 0
}

/// The clock behind the differences has the resolution of the system clock, which is 1 ns on Linux.
#[cfg(target_os = "linux")]
#[test]
fn the_clock_has_nanosecond_resolution() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let whole_microseconds = (0..100)
        .filter(|i| At::parse(&client.iamat("c", "+1+1", &i.to_string())).diff_ns % 1000 == 0)
        .count();
    assert!(whole_microseconds < 50, "{whole_microseconds} of 100");
}

#[test]
fn iamat_with_a_wrong_number_of_fields_is_refused() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for command in [
        "IAMAT",
        "IAMAT kiwi",
        "IAMAT kiwi +1+1",
        "IAMAT +1+1 1",
        "IAMAT kiwi +1+1 1 1",
        "IAMAT kiwi +1 +1 1",
        "IAMAT kiwi +1+1 1 /",
        "IAMATkiwi +1+1 1",
        "AMAT kiwi +1+1 1",
        "IAMAT, kiwi +1+1 1",
    ] {
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
    assert_eq!(client.held(b"kiwi"), None);
}

#[test]
fn commands_are_case_sensitive() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.iamat("kiwi", "+1+1", "1");
    for command in [
        "iamat kiwi +1+1 2",
        "Iamat kiwi +1+1 2",
        "IAMAt kiwi +1+1 2",
        "whatsat kiwi 10 5",
        "WhatsAt kiwi 10 5",
        "WHATSAt kiwi 10 5",
    ] {
        assert_bytes(&client.ask(command.as_bytes()), &refused(command.as_bytes()));
    }
    assert_eq!(client.held(b"KIWI"), None, "client names are case-sensitive");
}

#[test]
fn the_newest_record_is_kept_and_a_stale_update_is_still_answered() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let newest = client.iamat("kiwi", "+1+1", "10");
    assert_eq!(client.held(b"kiwi"), Some(newest.clone()));
    for (location, time) in [("+2+2", "9.999999999"), ("+3+3", "-10"), ("+4+4", "0")] {
        client.iamat("kiwi", location, time);
        assert_eq!(client.held(b"kiwi"), Some(newest.clone()), "{time} is older");
    }
    let newer = client.iamat("kiwi", "+5+5", "10.000000001");
    assert_eq!(client.held(b"kiwi"), Some(newer));
    let negative = client.iamat("past", "+1+1", "-1.5");
    client.iamat("past", "+2+2", "-1.500000001");
    assert_eq!(client.held(b"past"), Some(negative));
    let newer = client.iamat("past", "+2+2", "-1.499999999");
    assert_eq!(client.held(b"past"), Some(newer));
}

#[test]
fn an_exact_repeat_is_answered_and_changes_nothing() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let first = client.iamat("kiwi", "+1+1", "10");
    for _ in 0..3 {
        let repeat = client.iamat("kiwi", "+1+1", "10");
        assert!(
            At::parse(&repeat).diff_ns > At::parse(&first).diff_ns,
            "the reply has its own clock difference"
        );
        assert_eq!(client.held(b"kiwi"), Some(first.clone()));
    }
}

/// Among updates with the same time, the one received later is newer, unless it is an exact repeat.
/// Repeats are recognized by comparing bytes, not numbers.
#[test]
fn among_equal_times_the_later_arrival_is_kept() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for (location, time) in [
        ("+1+1", "10"),
        ("+2+2", "10"),
        ("+2+2/", "10"),
        ("+2+2/", "10."),
        ("+2+2/", "+10.0"),
        ("+2+2/", "10.0000000009"), // the tenth decimal does not affect the order
        ("+2+2/", "10.0000000001"),
        ("+1+1", "10"),
    ] {
        let line = client.iamat("kiwi", location, time);
        assert_eq!(client.held(b"kiwi"), Some(line), "{location} {time}");
    }
}

/// A name may contain any byte except white space: NUL, control characters, DEL, invalid UTF-8.
#[test]
fn a_client_name_is_any_sequence_of_bytes_without_white_space() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let mut names: Vec<Vec<u8>> = (0..=255)
        .filter(|byte| !WHITE_SPACE.contains(byte))
        .flat_map(|byte| [vec![byte], vec![b'x', byte, b'y'], vec![byte; 3]])
        .collect();
    names.extend([
        "\u{a0}".as_bytes().to_vec(), // no-break space
        "\u{85}".as_bytes().to_vec(), // next line
        "a\u{2003}b\u{3000}c".into(), // em space, ideographic space
        "\u{feff}kiwi".into(),        // byte order mark
        "\u{1f95d}".into(),
        b"\x1c\x1d\x1e\x1f".to_vec(), // white space in some libraries, but not in the protocol
        b"\xff\xfe\x80\xc0\xaf".to_vec(),
        b"\x1b[31mred\x1b[0m".to_vec(),
        vec![b'n'; 3000],
        b"IAMAT".to_vec(),
        b"+1+1".to_vec(),
        b"%s%n{}\\n\"'".to_vec(),
    ]);
    assert_eq!(
        names.iter().collect::<BTreeSet<_>>().len(),
        names.len(),
        "duplicate names in the table"
    );
    let mut lines = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let own = [name, format!(" +1+1 {index}").as_bytes()].concat();
        let line = client.ask(&[b"IAMAT ", &own[..]].concat());
        assert_bytes(&At::parse(&line).own, &own);
        lines.push(line);
    }
    for (name, line) in names.iter().zip(&lines) {
        let stored = client.held(name).unwrap_or_else(|| panic!("{} is not stored", show(name)));
        assert_bytes(&stored, line);
    }
}

// Lines and white space

#[test]
fn fields_are_separated_by_any_run_of_the_six_white_space_bytes() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    for separator in [
        &b" "[..],
        b"\t",
        b"\r",
        b"\x0c",
        b"\x0b",
        b"  ",
        b" \t\r\x0c\x0b",
        b"\r\r",
        b"\x0b\x0b\x0b",
    ] {
        let fields = [&b"IAMAT"[..], b"kiwi", b"+1+1", b"7"];
        for command in [
            fields.join(separator),
            [separator, &fields.join(separator)].concat(),
            [&fields.join(separator), separator].concat(),
            [separator, &fields.join(separator), separator].concat(),
        ] {
            let line = client.ask(&command);
            assert!(line.starts_with(b"AT Solo +"), "{} for {}", show(&line), show(&command));
            assert_bytes(&At::parse(&line).own, b"kiwi +1+1 7");
        }
        let question = [&b"WHATSAT"[..], b"kiwi", b"0", b"0"].join(separator);
        client.send(&[separator, &question, separator, b"\n"].concat());
        let reply = Whatsat::parse(&client.until(b"\n\n"));
        assert_bytes(&At::parse(&reply.at).own, b"kiwi +1+1 7");
    }
}

#[test]
fn no_other_byte_separates_fields() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let others = [
        &b"\0"[..],
        b"\x08",
        b"\x0e",
        b"\x1c",
        b"\x1d",
        b"\x1e",
        b"\x1f",
        b"\x7f",
        b"\x85",
        b"\xa0",
        b"\xc2\xa0",
        b"\xc2\x85",
        b"\xe2\x80\x83",
        b"\xe2\x80\xa8",
        b"\xe3\x80\x80",
        b"_",
        b",",
    ];
    for other in others {
        for command in [
            [&b"IAMAT"[..], other, b"kiwi +1+1 7"].concat(),
            [&b"IAMAT kiwi"[..], other, b"+1+1 7"].concat(),
            [&b"IAMAT kiwi +1+1"[..], other, b"7"].concat(),
            [other, &b"IAMAT kiwi +1+1 7"[..]].concat(),
            [&b"IAMAT kiwi +1+1 7"[..], other].concat(),
        ] {
            assert_bytes(&client.ask(&command), &refused(&command));
        }
        // At either end of a line such a byte is not trimmed, so it is echoed.
        let command = [other, &b"hello"[..], other].concat();
        assert_bytes(&client.ask(&command), &refused(&command));
    }
    assert_eq!(client.held(b"kiwi"), None);
}

#[test]
fn a_line_of_only_white_space_gets_no_reply() {
    let herd = Herd::solo();
    let spaces = vec![b' '; 4096];
    let input = [
        &b"\n\r\n \n\t\n\x0b\n\x0c\n \t\r\x0b\x0c \n\n\n\r\r\r\n"[..],
        &spaces,
        b"\nfirst\n\n \r\n\n\x0c\nsecond\n\n \t\x0b\x0c\r",
    ]
    .concat();
    assert_bytes(&herd.exchange("Solo", &input), b"? first\n? second\n");
    assert_bytes(&herd.exchange("Solo", b""), b"");
    assert_bytes(&herd.exchange("Solo", b"\n"), b"");
    assert_bytes(&herd.exchange("Solo", b" \t "), b"");
    assert_bytes(&herd.exchange("Solo", b"\0\n\x1c\n\x85\n"), b"? \0\n? \x1c\n? \x85\n");
}

#[test]
fn an_invalid_line_is_echoed_trimmed_and_otherwise_unchanged() {
    let herd = Herd::solo();
    let table: [(&[u8], &[u8]); 12] = [
        (b"hello", b"hello"),
        (b"  hello  ", b"hello"),
        (
            b"\x0b \t\r\x0chello \x0c  there\x0b\t\tyou\r \x0c\t\x0b \r",
            b"hello \x0c  there\x0b\t\tyou",
        ),
        (b"a\rb\r", b"a\rb"),
        (b"?", b"?"),
        (b"? ? ?", b"? ? ?"),
        (b"\0", b"\0"),
        (b"\xa0hello\xc2\x85", b"\xa0hello\xc2\x85"),
        (b" \x1c \x1f ", b"\x1c \x1f"),
        (b"\x1b[2J%d\\n{}", b"\x1b[2J%d\\n{}"),
        (b"IAMAT   kiwi\t+1+1   x ", b"IAMAT   kiwi\t+1+1   x"),
        (b" WHATSAT  unknown  10  5 ", b"WHATSAT  unknown  10  5"),
    ];
    let mut client = herd.client("Solo");
    for (line, echoed) in table {
        assert_bytes(&client.ask(line), &refused(echoed));
    }
    let every_byte: Vec<u8> = (0..=255).filter(|&byte| byte != b'\n').collect();
    let line = [b"x", &every_byte[..], b"x"].concat();
    assert_bytes(&client.ask(&line), &refused(&line));
}

#[test]
fn a_final_line_without_lf_is_executed() {
    let herd = Herd::solo();
    let reply = herd.exchange("Solo", b"IAMAT kiwi +1+1 7");
    assert_bytes(&At::parse(&reply).own, b"kiwi +1+1 7");
    let reply = herd.exchange("Solo", b"IAMAT kiwi +1+1 7\r");
    assert_bytes(&At::parse(&reply).own, b"kiwi +1+1 7");
    assert_bytes(&herd.exchange("Solo", b"hello"), b"? hello\n");
    assert_bytes(&herd.exchange("Solo", b"hello\n  there "), b"? hello\n? there\n");
    let reply = herd.exchange("Solo", b"WHATSAT kiwi 0 0");
    assert_bytes(&At::parse(&Whatsat::parse(&reply).at).own, b"kiwi +1+1 7");
}

/// Without LF or a half-close an incomplete line is not executed, while complete lines before it
/// are answered.
#[test]
fn a_line_is_executed_only_when_complete() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    client.send(b"IAMAT early +1+1 1\nIAMAT late +1+1 1");
    assert_bytes(&At::parse(&client.line()).own, b"early +1+1 1");
    assert_eq!(herd.held("Solo", "late"), None);
    client.send(b"2");
    assert_eq!(herd.held("Solo", "late"), None);
    client.send(b"\n");
    assert_bytes(&At::parse(&client.line()).own, b"late +1+1 12");
    assert!(herd.held("Solo", "late").is_some());
}

// Peers and clients

#[test]
fn an_at_line_from_a_client_is_an_invalid_command() {
    let herd = Herd::solo();
    let mut client = herd.client("Solo");
    let known = client.iamat("known", "+1+1", "1");
    for line in [
        "AT Solo +0.263873386 evil +34.068930-118.445127 1621464827.959498503",
        "AT Bailey +0.263873386 evil +34.068930-118.445127 1621464827.959498503",
        "AT Solo +0.263873386 known +9+9 1621464827.959498503",
        "AT",
        "AT Solo",
    ] {
        assert_bytes(&client.ask(line.as_bytes()), &refused(line.as_bytes()));
        // As the first line of a new connection.
        assert_bytes(&herd.exchange("Solo", line.as_bytes()), &refused(line.as_bytes()));
    }
    assert_eq!(client.held(b"evil"), None);
    assert_eq!(client.held(b"known"), Some(known));
}
