//! Transfer codings, chunks and trailers.

use super::*;

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
