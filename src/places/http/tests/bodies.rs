//! Bodies that are valid, truncated or too large.

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
