//! Bodies with a `Content-Length`.

use super::*;

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
