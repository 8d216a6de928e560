//! Status lines, fields, line ends, interim responses.

use super::*;

#[test]
fn status_lines_are_accepted_or_rejected() {
    check_all(&status_lines());
}

/// Malformed status lines that start with `HTTP/`.
const BAD_STATUS_LINES: &[&str] = &[
    "HTTP/",
    "HTTP/1.1",
    "HTTP/1.1 ",
    "HTTP/2 200 OK",
    "HTTP/2.0 200 OK",
    "HTTP/0.9 200 OK",
    "HTTP/11 200 OK",
    "HTTP/1.10 200 OK",
    "HTTP/1.20 200 OK",
    "HTTP/1.x 200 OK",
    "HTTP/1.: 200 OK",
    "HTTP/1./ 200 OK",
    "HTTP/2.2 200 OK",
    "HTTP/12 200 OK",
    "HTTP/1,1 200 OK",
    "HTTP/1.1200 OK",
    "HTTP/1.1  200 OK",
    "HTTP/1.1\t200 OK",
    "HTTP/1.1 20 OK",
    "HTTP/1.1 2000 OK",
    "HTTP/1.1 2OO OK",
    "HTTP/1.1 +200 OK",
    "HTTP/1.1 -20 OK",
    "HTTP/1.1 200\tOK",
    "HTTP/1.1 200OK",
    "HTTP/1.1 0x8 OK",
    "HTTP/1.1 OK",
    "HTTP/1.1 200 O\0K",
    "HTTP/1.1 200 O\rK",
    "HTTP/1.1 200 O\u{1b}[31mK",
    "HTTP/1.1 200 O\u{7f}K",
    "HTTP/1.1 ２００ OK",
];

/// First lines of other protocols, and other bytes.
const NOT_HTTP: &[&str] = &[
    "",
    " ",
    "\r\nHTTP/1.1 200 OK",
    " HTTP/1.1 200 OK",
    "http/1.1 200 OK",
    "Http/1.1 200 OK",
    "HTP/1.1 200 OK",
    "ICY 200 OK",
    "SSH-2.0-OpenSSH_9.9",
    "220 mail.example ESMTP",
    "+OK",
    "-ERR unknown command",
    "<html>",
    "\u{feff}HTTP/1.1 200 OK",
    "\u{15}\u{3}\u{1}\0\u{2}\u{2}P",
    "200 OK",
    "GET / HTTP/1.1",
    "{}",
    "HTTP 1.1 200 OK",
    "\0",
    "\nHTTP/1.1 200 OK",
];

pub(super) fn status_lines() -> Vec<Case> {
    let mut cases = Vec::new();
    let rest = "\r\nContent-Length: 2\r\n\r\nok";
    for line in [
        "HTTP/1.1 200",
        "HTTP/1.1 200 ",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 a b\tc",
        "HTTP/1.1 200 caf\u{e9}",
        "HTTP/1.2 200 OK",
        "HTTP/1.9 200 OK",
    ] {
        cases.push(case(line, format!("{line}{rest}"), End::Open, complete(200, b"ok", true)));
    }
    cases.push(case(
        "latin-1 reason",
        [b"HTTP/1.1 200 caf\xe9", rest.as_bytes()].concat(),
        End::Open,
        complete(200, b"ok", true),
    ));
    for &line in NOT_HTTP {
        cases.push(case(
            format!("not HTTP: {line:?}"),
            format!("{line}{rest}"),
            End::Open,
            Want::Bad(HttpError::NotHttp),
        ));
    }
    for &line in BAD_STATUS_LINES {
        cases.push(case(
            format!("status line {line:?}"),
            format!("{line}{rest}"),
            End::Open,
            Want::Malformed,
        ));
    }
    for code in ["000", "001", "099", "600", "700", "999"] {
        cases.push(case(
            format!("code {code}"),
            format!("HTTP/1.1 {code} x{rest}"),
            End::Open,
            Want::Bad(HttpError::StatusCode),
        ));
    }
    for piece in [
        "",
        "H",
        "HTTP",
        "HTTP/1.1 200 OK",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n",
        "HTTP/1.1 200 OK\r\n\r",
    ] {
        cases.push(case(format!("unfinished {piece:?}"), piece, End::Open, Want::Pending));
    }
    cases
}

#[test]
fn fields_are_accepted_or_rejected() {
    check_all(&fields());
}

/// Lines that are not valid fields.
const BAD_FIELDS: &[&str] = &[
    ":",
    ": a",
    " X: a",
    "\tX: a",
    "X : a",
    "X\t: a",
    "X",
    "X a",
    "X a: b",
    "X(: a",
    "X@: a",
    "X[: a",
    "X/: a",
    "X\": a",
    "X,: a",
    "X;: a",
    "X{: a",
    "X=: a",
    "\u{e9}: a",
    "X: a\r b",
    "X: a\rb: c",
    " folded: onto the status line",
    "\t",
    "X\r\n : a",
    "X\r\n Y: a",
    "X: a\r\n b\rc",
    "Content-Length : 2",
    "X: a\r\r",
    "HTTP/1.1 200 OK",
];

/// Fields without effect.
const GOOD_FIELDS: &[&str] = &[
    "X:",
    "X: ",
    "X:\t",
    "X: a",
    "X:a",
    "X:  a  ",
    "X: a b",
    "X: \u{e9}",
    "X: a\tb",
    "X-_.!#$%&'*+^`|~0aZ: y",
    "X: :",
    "X: \"\\\"\"",
    "Transfer-Encodings: gzip",
    "Content-Length-X: 9",
    "Keep-Alive: timeout=5, max=100",
    "Set-Cookie: a=b; c",
    "Trailer: Content-Length",
    "Content-Encoding: identity",
    "Content-Encoding: Identity",
    "Retry-After: soon",
    "Upgrade: h2c",
    "Alt-Svc: h3=\":443\"; ma=2592000",
    "Content-Type: application/json; charset=UTF-8",
    "Connection:",
    "Connection: ,,",
    "Location: /x",
    "Content-Encoding:",
    "Content-Encoding: ",
    "Content-Encoding: identity,",
    "Content-Encoding: , identity ,IDENTITY",
    "A: b\r\n folded",
    "A: b\r\n\tfolded \r\n twice: Content-Length: 7",
    "A:\r\n b",
    "A: b\r\n ",
    "A: b\r\n\t \r\n ",
    "Content-Encoding:\r\n identity",
    "Connection:\r\n keep-alive",
];

/// Folded fields on which the framing depends.
pub(super) fn folded() -> Vec<Case> {
    let with = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}");
    let bad_length = Want::Bad(HttpError::ContentLength);
    let bad_coding = Want::Bad(HttpError::TransferEncoding);
    let chunks = "2\r\nok\r\n0\r\n";
    [
        ("Content-Length:\r\n 2", "ok".to_owned(), complete(200, b"ok", true)),
        ("Content-Length: 2\r\n\t", "ok".to_owned(), complete(200, b"ok", true)),
        ("Content-Length: 2\r\n 0", "ok".to_owned(), bad_length.clone()),
        ("Content-Length: 2\r\n , 2", "ok".to_owned(), bad_length),
        ("Transfer-Encoding:\r\n\tchunked", format!("{chunks}\r\n"), complete(200, b"ok", true)),
        ("Transfer-Encoding: chun\r\n ked", format!("{chunks}\r\n"), bad_coding),
        ("A: b\r\n Content-Length: 9", "ok".to_owned(), complete(200, b"ok", false)),
        ("Connection: a,\r\n close\r\nContent-Length: 2", "ok".into(), complete(200, b"ok", false)),
    ]
    .into_iter()
    .map(|(fields, body, want)| {
        let end = if fields.starts_with("A: b") { End::Clean } else { End::Open };
        case(format!("folded {fields:?}"), with(fields, &body), end, want)
    })
    .collect()
}

#[test]
fn folded_lines_are_unfolded() {
    check_all(&folded());
    let location = "HTTP/1.1 302 Found\r\nLocation: /a\r\n\tb\r\nContent-Length: 0\r\n\r\n";
    let Got::Complete(response) = feed([location.as_bytes()], End::Open) else {
        panic!("not complete");
    };
    assert_eq!(response.location.as_deref(), Some("/a  \tb"));
}

pub(super) fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    let with =
        |field: &[u8]| [b"HTTP/1.1 200 OK\r\n", field, b"\r\nContent-Length: 2\r\n\r\nok"].concat();
    for &field in GOOD_FIELDS {
        cases.push(case(
            format!("field {field:?}"),
            with(field.as_bytes()),
            End::Open,
            complete(200, b"ok", true),
        ));
    }
    for &field in BAD_FIELDS {
        cases.push(case(
            format!("field {field:?}"),
            with(field.as_bytes()),
            End::Open,
            Want::Malformed,
        ));
    }
    for byte in (0..32).chain([127]) {
        let inside = [b"X: a", &[byte][..], b"b"].concat();
        let name = format!("byte {byte:#04x} in a value");
        let want = match byte {
            b'\t' => complete(200, b"ok", true),
            b'\n' => Want::Bad(HttpError::BareLf),
            _ => Want::Malformed,
        };
        cases.push(case(name, with(&inside), End::Open, want));
        let inside = [b"X", &[byte][..], b"Y: b"].concat();
        let want = if byte == b'\n' { Want::Bad(HttpError::BareLf) } else { Want::Malformed };
        cases.push(case(format!("byte {byte:#04x} in a name"), with(&inside), End::Open, want));
    }
    for coding in [
        "gzip",
        "x-gzip",
        "deflate",
        "br",
        "zstd",
        "identity, gzip",
        "gzip, identity",
        "identity gzip",
        ",gzip",
        "compress",
    ] {
        let field = format!("Content-Encoding: {coding}");
        cases.push(case(
            field.clone(),
            with(field.as_bytes()),
            End::Open,
            Want::Bad(HttpError::ContentEncoding),
        ));
    }
    cases.push(case(
        "two codings",
        with(b"Content-Encoding: identity\r\nContent-Encoding: gzip"),
        End::Open,
        Want::Bad(HttpError::ContentEncoding),
    ));
    cases
}

#[test]
fn line_ends_other_than_crlf_are_rejected() {
    check_all(&line_ends());
}

pub(super) fn line_ends() -> Vec<Case> {
    let head = "HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\n";
    let mut cases = Vec::new();
    for (at, _) in head.match_indices("\r\n") {
        let with = |end: &str| format!("{}{end}{}ok", &head[..at], &head[at + 2..]);
        let name = |end: &str| format!("{end:?} at {at}");
        cases.push(case(name("\n"), with("\n"), End::Open, Want::Bad(HttpError::BareLf)));
        cases.push(case(name("\n\r"), with("\n\r"), End::Open, Want::Bad(HttpError::BareLf)));
        // Without an empty line the head has not ended, and nothing is examined before its end.
        let cr = if at + 4 >= head.len() { Want::Pending } else { Want::Malformed };
        cases.push(case(name("\r"), with("\r"), End::Open, cr));
        let two = if at + 2 == head.len() { Want::Pending } else { Want::Malformed };
        cases.push(case(name("\r\r\n"), with("\r\r\n"), End::Open, two));
    }
    let bare = head.replace("\r\n", "\n") + "ok";
    cases.push(case("LF throughout", bare, End::Open, Want::Bad(HttpError::BareLf)));
    let nel = head.replace("\r\n", "\u{85}");
    cases.push(case("NEL throughout", nel, End::Abrupt, Want::Bad(HttpError::Truncated)));
    cases
}

#[test]
fn interim_responses_and_responses_without_a_body_are_accepted() {
    check_all(&interim());
}

pub(super) fn interim() -> Vec<Case> {
    let mut cases = Vec::new();
    let last = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for first in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 102 Processing\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
        "HTTP/1.1 199 x\r\n\r\n",
        "HTTP/1.1 100\r\n\r\n",
        // These have no body, even if they claim one (RFC 9112, section 6.3).
        "HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 100 x\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 100 x\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 100 x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.0 100 x\r\n\r\n",
    ] {
        for times in [1, 2, 8] {
            cases.push(case(
                format!("{times} × {first:?}"),
                first.repeat(times) + last,
                End::Open,
                complete(200, b"ok", true),
            ));
        }
        cases.push(case(
            format!("9 × {first:?}"),
            first.repeat(9) + last,
            End::Open,
            Want::Bad(HttpError::TooManyInterim),
        ));
        cases.push(case(
            format!("{first:?} and no more"),
            first,
            End::Clean,
            Want::Bad(HttpError::Truncated),
        ));
    }
    cases.push(case(
        "101",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        End::Open,
        Want::Bad(HttpError::SwitchingProtocols),
    ));
    cases.push(case(
        "a body after 100",
        format!("HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\nhello{last}"),
        End::Open,
        Want::Bad(HttpError::NotHttp),
    ));
    for status in [204, 304] {
        let head = format!("HTTP/1.1 {status} x\r\n");
        for (fields, keeps) in [
            ("", true),
            ("Content-Length: 0\r\n", true),
            ("Content-Length: 5\r\n", false),
            ("Transfer-Encoding: chunked\r\n", false),
            ("Connection: close\r\n", false),
        ] {
            cases.push(case(
                format!("{status} {fields:?}"),
                format!("{head}{fields}\r\n"),
                End::Open,
                complete(status, b"", keeps),
            ));
        }
        cases.push(case(
            format!("{status} with a body"),
            format!("{head}Content-Length: 5\r\n\r\nhello"),
            End::Open,
            complete(status, b"", false),
        ));
        cases.push(case(
            format!("{status} with surplus"),
            format!("{head}\r\nhello"),
            End::Open,
            complete(status, b"", false),
        ));
    }
    cases
}
