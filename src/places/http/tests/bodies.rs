//! Framing: lengths, chunks, trailers, the end of the stream, and limits.

use super::*;
use crate::places::limits::{
    MAX_CHUNK_EXTENSION_BYTES, MAX_CHUNK_LINE_BYTES, MAX_HEADERS, MAX_TRAILER_BYTES,
};

#[test]
fn valid_responses_are_accepted() {
    check_all(&valid());
}

pub(super) fn valid() -> Vec<Case> {
    let mut cases = Vec::new();
    for status in
        [200u16, 201, 206, 226, 299, 300, 301, 308, 400, 403, 404, 408, 429, 500, 503, 504, 599]
    {
        for (version, connection, keeps) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "connection: Keep-Alive\r\n", true),
            ("1.1", "Connection: keep-alive, Close\r\n", false),
            ("1.1", "Connection: x\r\nConnection: CLOSE\r\n", false),
            ("1.1", "Connection: close, keep-alive\r\n", false),
            ("1.1", "Connection: close\r\nConnection: x\r\n", false),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: keep-alive, close\r\n", false),
        ] {
            let name = format!("{status} HTTP/{version} {connection:?}");
            let head = format!("HTTP/{version} {status} Reason here\r\nDate: x\r\n{connection}");
            let length = format!("{head}Content-Length: 5\r\n\r\nhello");
            cases.push(case(
                format!("{name} length"),
                length,
                End::Open,
                complete(status, b"hello", keeps),
            ));
            if version == "1.1" {
                let chunked =
                    format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
                cases.push(case(
                    format!("{name} chunked"),
                    chunked,
                    End::Open,
                    complete(status, b"hello", keeps),
                ));
            }
        }
        let close = format!("HTTP/1.1 {status} \r\n\r\nhello");
        cases.push(case(
            format!("{status} until close"),
            close,
            End::Clean,
            complete(status, b"hello", false),
        ));
    }
    for (name, head) in [
        ("empty by length", "Content-Length: 0\r\n\r\n"),
        ("empty by length with zeros", "Content-Length: 000\r\n\r\n"),
        ("empty by chunk", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ] {
        cases.push(case(
            name,
            format!("HTTP/1.1 200 OK\r\n{head}"),
            End::Open,
            complete(200, b"", true),
        ));
    }
    let surplus = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    for extra in ["x", "\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "\0", " "] {
        cases.push(case(
            format!("surplus {extra:?}"),
            format!("{surplus}{extra}"),
            End::Open,
            complete(200, b"hello", false),
        ));
        let chunked =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        cases.push(case(
            format!("chunked surplus {extra:?}"),
            format!("{chunked}{extra}"),
            End::Open,
            complete(200, b"hello", false),
        ));
    }
    cases.push(case(
        "empty until close",
        "HTTP/1.0 200 OK\r\n\r\n",
        End::Clean,
        complete(200, b"", false),
    ));
    cases.push(case(
        "a body of line ends",
        "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n\r\n\r\n\n\n\r\r",
        End::Open,
        complete(200, b"\r\n\r\n\n\n\r\r", true),
    ));
    cases.push(case(
        "a body of every byte",
        {
            let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n".to_vec();
            bytes.extend(0..=255u8);
            bytes
        },
        End::Open,
        complete(200, &(0..=255).collect::<Vec<u8>>(), true),
    ));
    cases
}

#[test]
fn lengths_are_accepted_or_rejected() {
    check_all(&lengths());
}

/// Values that are not a plain number.
const NOT_A_LENGTH: &[&str] = &[
    "",
    " ",
    "+5",
    "-5",
    "-0",
    "5,5",
    "5, 5",
    "5,",
    ",5",
    "5;5",
    "5 5",
    "5\t5",
    "0x5",
    "5h",
    "5.0",
    "5e0",
    "5_0",
    "five",
    "\"5\"",
    "５",
    "\u{660}",
    "5\u{a0}",
    "NaN",
    "inf",
    "∞",
    "5,6",
    "1 000",
    "'5'",
    "5\u{200b}",
    "--5",
    "5-",
    "5+",
];

pub(super) fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello");
    for value in ["5", " 5", "5 ", "\t5\t", "   5   ", "05", "0000000000000000000000000000000005"] {
        cases.push(case(
            format!("length {value:?}"),
            with(&format!("Content-Length:{value}")),
            End::Open,
            complete(200, b"hello", true),
        ));
        cases.push(case(
            format!("LENGTH {value:?}"),
            with(&format!("CONTENT-LENGTH:{value}")),
            End::Open,
            complete(200, b"hello", true),
        ));
    }
    for &value in NOT_A_LENGTH {
        cases.push(case(
            format!("length {value:?}"),
            with(&format!("Content-Length: {value}")),
            End::Clean,
            Want::Bad(HttpError::ContentLength),
        ));
    }
    for value in [
        "4194305",
        "99999999",
        "2147483648",
        "4294967296",
        "4294967301",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999999999999999999999999",
    ] {
        cases.push(case(
            format!("length {value}"),
            with(&format!("Content-Length: {value}")),
            End::Clean,
            Want::Bad(HttpError::BodyTooLong),
        ));
    }
    for (one, two) in
        [("5", "5"), ("5", "6"), ("6", "5"), ("5", "05"), ("0", "5"), ("5", "0"), ("5", "x")]
    {
        let fields = format!("Content-Length: {one}\r\nX: y\r\ncontent-length: {two}");
        cases.push(case(
            format!("lengths {one} and {two}"),
            with(&fields),
            End::Clean,
            Want::Bad(HttpError::ContentLength),
        ));
    }
    cases.push(case(
        "shorter than its length",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        End::Clean,
        Want::Bad(HttpError::Truncated),
    ));
    cases.push(case(
        "incomplete",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
        End::Open,
        Want::Pending,
    ));
    cases
}

#[test]
fn transfer_codings_are_accepted_or_rejected() {
    check_all(&encodings());
}

pub(super) fn encodings() -> Vec<Case> {
    let mut cases = Vec::new();
    let body = "5\r\nhello\r\n0\r\n\r\n";
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}");
    for value in ["chunked", "Chunked", "CHUNKED", " chunked ", "\tchunked"] {
        cases.push(case(
            format!("coding {value:?}"),
            with(&format!("Transfer-Encoding:{value}")),
            End::Open,
            complete(200, b"hello", true),
        ));
    }
    for value in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "\"chunked\"",
        "xchunked",
        "chunkedx",
        "chunk",
        "x",
        "chun ked",
        "deflate",
        "identity, chunked",
        "chunked, identity",
        "'chunked'",
        "\u{b}chunked",
        "chunKed\u{e9}",
    ] {
        let want = if value.contains('\u{b}') {
            Want::Malformed
        } else {
            Want::Bad(HttpError::TransferEncoding)
        };
        cases.push(case(
            format!("coding {value:?}"),
            with(&format!("Transfer-Encoding: {value}")),
            End::Clean,
            want,
        ));
    }
    for fields in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding:\r\nTransfer-Encoding: chunked",
    ] {
        cases.push(case(fields, with(fields), End::Clean, Want::Bad(HttpError::TransferEncoding)));
    }
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: 15",
        "Content-Length: 0\r\nX: y\r\nTransfer-Encoding: CHUNKED",
    ] {
        cases.push(case(fields, with(fields), End::Clean, Want::Bad(HttpError::LengthAndEncoding)));
    }
    let old = with("Transfer-Encoding: chunked").replace("HTTP/1.1", "HTTP/1.0");
    cases.push(case(
        "chunked in HTTP/1.0",
        old,
        End::Clean,
        Want::Bad(HttpError::TransferEncoding),
    ));
    cases
}

#[test]
fn chunks_are_accepted_or_rejected() {
    check_all(&chunks());
}

/// Lines that do not start with a size.
const NOT_A_SIZE: &[&str] = &[
    "",
    " ",
    "\t",
    ";",
    ";a",
    " 5",
    "\t5",
    "+5",
    "-5",
    "0x5",
    "5h",
    "g",
    "5 5",
    "5 a",
    "5,",
    "5.",
    "5\"",
    "5 ",
    "5\t",
    "５",
    "00000000000000005",
    "fffffffffffffffff",
    "10000000000000005",
    "5\r",
    "\0",
    "5\0",
    "x5",
    "5 \r",
    "five",
    "5:a",
    "_5",
    "5_0",
    "\u{feff}5",
];

pub(super) fn chunks() -> Vec<Case> {
    let mut cases = Vec::new();
    let good = |body: &str, want: &[u8]| {
        case(
            format!("chunks {body:?}"),
            format!("{CHUNKED}{body}"),
            End::Open,
            complete(200, want, true),
        )
    };
    for size in [
        "5",
        "05",
        "0000000000000005",
        "5;a",
        "5;a=b",
        "5; a=\"b\"",
        "5 ;a",
        "5\t;\ta",
        "5;",
        "5;;",
        "5;a;b=c;d=\"e f\"",
    ] {
        cases.push(good(&format!("{size}\r\nhello\r\n0\r\n\r\n"), b"hello"));
    }
    for zero in ["0", "00", "0000000000000000", "0;a=b", "0 ; x"] {
        cases.push(good(&format!("5\r\nhello\r\n{zero}\r\n\r\n"), b"hello"));
    }
    cases.push(good("1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"));
    cases.push(good("a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"));
    cases.push(good("A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"));
    cases.push(good("10\r\n0123456789abcdef\r\n0\r\n\r\n", b"0123456789abcdef"));
    cases.push(good("4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"));
    cases.push(good("5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"));
    for &size in NOT_A_SIZE {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(case(
            format!("chunk size {size:?}"),
            format!("{CHUNKED}{body}"),
            End::Clean,
            Want::Bad(HttpError::ChunkSize),
        ));
    }
    for size in [
        "400001",
        "ffffffff",
        "100000005",
        "7fffffffffffffff",
        "8000000000000000",
        "ffffffffffffffff",
        "fffffffffffffffb",
    ] {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(case(
            format!("chunk size {size}"),
            format!("{CHUNKED}{body}"),
            End::Clean,
            Want::Bad(HttpError::BodyTooLong),
        ));
    }
    for extension in ["a\0", "a\rb", "a\u{1b}[0m", "a=\u{7f}", "\u{1}", "\u{b}"] {
        let body = format!("5;{extension}\r\nhello\r\n0\r\n\r\n");
        cases.push(case(
            format!("extension {extension:?}"),
            format!("{CHUNKED}{body}"),
            End::Clean,
            Want::Bad(HttpError::ChunkExtension),
        ));
    }
    for (name, body, want) in [
        ("LF after a size", "5\nhello\r\n0\r\n\r\n", HttpError::ChunkSize),
        ("LF in an extension", "5;a\nhello\r\n0\r\n\r\n", HttpError::ChunkSize),
        ("LF after data", "5\r\nhello\n0\r\n\r\n", HttpError::ChunkEnd),
        ("another byte for the CR after data", "5\r\nhello!\n0\r\n\r\n", HttpError::ChunkEnd),
        ("CR after data", "5\r\nhello\r0\r\n\r\n", HttpError::ChunkEnd),
        ("nothing after data", "5\r\nhello0\r\n\r\n", HttpError::ChunkEnd),
        ("more data than its size", "4\r\nhello\r\n0\r\n\r\n", HttpError::ChunkEnd),
        ("less data than its size", "6\r\nhello\r\n0\r\n\r\n", HttpError::ChunkEnd),
        ("LFCR after data", "5\r\nhello\n\r0\r\n\r\n", HttpError::ChunkEnd),
        ("LF after the last size", "5\r\nhello\r\n0\n\r\n", HttpError::ChunkSize),
        ("LF instead of the trailer", "5\r\nhello\r\n0\r\n\n", HttpError::BareLf),
        ("a body that is not chunked", "hello", HttpError::Truncated),
        ("no last chunk", "5\r\nhello\r\n", HttpError::Truncated),
        ("a last chunk without its end", "5\r\nhello\r\n0\r\n", HttpError::Truncated),
        ("an empty line between chunks", "5\r\nhello\r\n\r\n0\r\n\r\n", HttpError::ChunkSize),
    ] {
        cases.push(case(name, format!("{CHUNKED}{body}"), End::Clean, Want::Bad(want)));
    }
    cases
}

#[test]
fn trailers_are_accepted_or_rejected() {
    check_all(&trailers());
}

pub(super) fn trailers() -> Vec<Case> {
    let mut cases = Vec::new();
    let with = |trailer: &str| format!("{CHUNKED}5\r\nhello\r\n0\r\n{trailer}\r\n");
    for trailer in [
        "",
        "A: b\r\n",
        "A: b\r\nC:\r\n",
        "A: b\r\n c\r\n\t\r\nD: e\r\n",
        "Content-Length: 9\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Connection: close\r\n",
        "Content-Encoding: br\r\n",
    ] {
        cases.push(case(
            format!("trailer {trailer:?}"),
            with(trailer),
            End::Open,
            complete(200, b"hello", true),
        ));
    }
    for trailer in [
        "A\r\n",
        ": b\r\n",
        "A : b\r\n",
        "A: b\0\r\n",
        " A: b\r\n",
        " \r\n",
        "A: \r b\r\n",
        "HTTP/1.1 200 OK\r\n",
    ] {
        cases.push(case(
            format!("trailer {trailer:?}"),
            with(trailer),
            End::Clean,
            Want::Malformed,
        ));
    }
    for trailer in ["A: b\n", "\n", "A\nB: c\r\n"] {
        cases.push(case(
            format!("trailer {trailer:?}"),
            with(trailer),
            End::Clean,
            Want::Bad(HttpError::BareLf),
        ));
    }
    cases
}

#[test]
fn truncated_responses_are_rejected() {
    check_all(&truncated());
}

pub(super) fn truncated() -> Vec<Case> {
    let mut cases = Vec::new();
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!",
    ] {
        for at in 0..response.len() {
            for end in [End::Clean, End::Abrupt] {
                let want =
                    Want::Bad(if at == 0 { HttpError::NoResponse } else { HttpError::Truncated });
                cases.push(case(
                    format!("cut at {at} of {response:?}"),
                    &response[..at],
                    end,
                    want,
                ));
            }
        }
    }
    let until_close = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\nhello";
    let body = until_close.len() - 5;
    for at in 1..=until_close.len() {
        let part = &until_close[..at];
        cases.push(case(
            format!("torn at {at}"),
            part,
            End::Abrupt,
            Want::Bad(HttpError::Truncated),
        ));
        let want = if at < body {
            Want::Bad(HttpError::Truncated)
        } else {
            complete(200, &part.as_bytes()[body..], false)
        };
        cases.push(case(format!("closed at {at}"), part, End::Clean, want));
    }
    cases
}

#[test]
fn limits_are_enforced() {
    check_all(&limits());
}

pub(super) fn limits() -> Vec<Case> {
    let mut cases = Vec::new();
    let tail = "Content-Length: 2\r\n\r\n";
    let head = |bytes: usize| {
        let rest = "HTTP/1.1 200 OK\r\nX: ";
        let fill = "x".repeat(bytes - rest.len() - 2 - tail.len());
        format!("{rest}{fill}\r\n{tail}ok")
    };
    cases.push(case(
        "the longest head",
        head(MAX_HEAD_BYTES),
        End::Open,
        complete(200, b"ok", true),
    ));
    cases.push(case(
        "too long a head",
        head(MAX_HEAD_BYTES + 1),
        End::Open,
        Want::Bad(HttpError::HeadTooLong),
    ));
    cases.push(case(
        "a head without end",
        format!("HTTP/1.1 200 {}", "x".repeat(40_000)),
        End::Open,
        Want::Bad(HttpError::HeadTooLong),
    ));
    let fields =
        |count: usize| format!("HTTP/1.1 200 OK\r\n{}{tail}ok", "A: b\r\n".repeat(count - 1));
    cases.push(case("the most fields", fields(MAX_HEADERS), End::Open, complete(200, b"ok", true)));
    cases.push(case(
        "too many fields",
        fields(MAX_HEADERS + 1),
        End::Open,
        Want::Bad(HttpError::Malformed(httparse::Error::TooManyHeaders)),
    ));
    let extension =
        |bytes: usize| format!("{CHUNKED}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(bytes - 2));
    cases.push(case(
        "the longest chunk line",
        extension(MAX_CHUNK_LINE_BYTES),
        End::Open,
        complete(200, b"hello", true),
    ));
    cases.push(case(
        "too long a chunk line",
        extension(MAX_CHUNK_LINE_BYTES + 1),
        End::Open,
        Want::Bad(HttpError::ChunkExtension),
    ));
    cases.push(case(
        "a chunk line without end",
        format!("{CHUNKED}5;{}", "x".repeat(10_000)),
        End::Open,
        Want::Bad(HttpError::ChunkExtension),
    ));
    let many = |count: usize| {
        format!("{CHUNKED}{}0\r\n\r\n", format!("1;{}\r\nh\r\n", "x".repeat(127)).repeat(count))
    };
    let most = MAX_CHUNK_EXTENSION_BYTES / 128;
    cases.push(case(
        "the most extensions",
        many(most),
        End::Open,
        complete(200, "h".repeat(most).as_bytes(), true),
    ));
    cases.push(case(
        "too many extensions",
        many(most + 1),
        End::Open,
        Want::Bad(HttpError::ChunkExtension),
    ));
    let trailer = |bytes: usize| format!("{CHUNKED}0\r\nX: {}\r\n\r\n", "x".repeat(bytes - 7));
    cases.push(case(
        "the longest trailer",
        trailer(MAX_TRAILER_BYTES),
        End::Open,
        complete(200, b"", true),
    ));
    cases.push(case(
        "too long a trailer",
        trailer(MAX_TRAILER_BYTES + 1),
        End::Open,
        Want::Bad(HttpError::TrailerTooLong),
    ));
    let fields = |count: usize| format!("{CHUNKED}0\r\n{}\r\n", "A: b\r\n".repeat(count));
    cases.push(case(
        "the most trailer fields",
        fields(MAX_HEADERS),
        End::Open,
        complete(200, b"", true),
    ));
    cases.push(case(
        "too many trailer fields",
        fields(MAX_HEADERS + 1),
        End::Open,
        Want::Malformed,
    ));
    cases
}
