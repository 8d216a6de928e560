//! One HTTP/1.1 request (RFC 9112) out of the bytes of a connection: a pure function.

use super::response::{Answer, Status};
use crate::limits::{WEB_MAX_FIELDS, WEB_MAX_HEAD};

/// What stands at the start of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// No whole head yet.
    Partial,
    /// A request, and how many bytes it takes.
    Whole(Request<'a>, usize),
    /// Nothing that is answered otherwise than with this, and nothing behind it is read.
    Bad(Status, &'static str),
}

/// A GET or HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// HEAD: the head of the response alone is wanted.
    pub head_only: bool,
    /// The target up to a `?`, still percent-encoded. Begins with `/`.
    pub path: &'a str,
    /// What is behind the `?`, or nothing.
    pub query: &'a str,
    /// Whom the request is for, with a port or without. Only HTTP/1.0 may leave it out.
    pub host: Option<&'a str>,
    /// Whether the response may be chunked and the connection used again.
    pub is_1_1: bool,
    /// Whether the connection is to be used again.
    pub keep_alive: bool,
    /// Whether the response may be compressed.
    pub gzip: bool,
    /// The versions that the other end has already.
    pub if_none_match: Option<&'a str>,
    /// The last event that an `EventSource` has seen.
    pub last_event_id: Option<&'a str>,
}

impl Request<'_> {
    /// What the response goes by.
    #[must_use]
    pub const fn answer(&self) -> Answer {
        let Self { head_only, is_1_1: chunked, keep_alive, .. } = *self;
        Answer { head_only, chunked, keep_alive }
    }
}

impl Parsed<'_> {
    /// The request at the start of `input`.
    #[must_use]
    pub fn parse(input: &[u8]) -> Parsed<'_> {
        // An empty line in front is ignored (RFC 9112, section 2.2).
        let start = input.iter().position(|&b| b != b'\r' && b != b'\n').unwrap_or(input.len());
        let head = &input[start..];
        let Some(length) = memchr::memmem::find(head, b"\r\n\r\n").map(|at| at + 4) else {
            return match bare_line_feed(head) {
                _ if input.len() > WEB_MAX_HEAD => too_large(),
                true => Parsed::Bad(Status::BAD_REQUEST, "lines end with CR LF"),
                false => Parsed::Partial,
            };
        };
        if length > WEB_MAX_HEAD {
            return too_large();
        }
        match request(&head[..length]) {
            Ok(request) => Parsed::Whole(request, start + length),
            Err((status, why)) => Parsed::Bad(status, why),
        }
    }
}

fn too_large() -> Parsed<'static> {
    Parsed::Bad(Status::HEADERS_TOO_LARGE, "the head of a request has at most 8192 bytes")
}

fn bare_line_feed(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

fn request(head: &[u8]) -> Result<Request<'_>, (Status, &'static str)> {
    let bad = |why| (Status::BAD_REQUEST, why);
    if bare_line_feed(head) {
        return Err(bad("lines end with CR LF"));
    }
    let mut fields = [httparse::EMPTY_HEADER; WEB_MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err((Status::HEADERS_TOO_LARGE, "a request has at most 64 header fields"));
        }
        Ok(httparse::Status::Partial) | Err(_) => return Err(bad("this is no HTTP request")),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(bad("this is no HTTP request"));
    };
    let mut request = Request {
        head_only: method == "HEAD",
        path: "",
        query: "",
        host: None,
        is_1_1: version == 1,
        keep_alive: version == 1,
        gzip: false,
        if_none_match: None,
        last_event_id: None,
    };
    if !matches!(method, "GET" | "HEAD") {
        return Err((Status::METHOD_NOT_ALLOWED, "there is nothing here but GET and HEAD"));
    }
    let mut codings = Codings::default();
    for field in parsed.headers.iter() {
        read_field(&mut request, &mut codings, field.name, field.value)?;
    }
    request.gzip = codings.gzip.or(codings.any).unwrap_or(false);
    let (scheme, rest) = target.split_at_checked("http://".len()).unwrap_or(("", ""));
    let is_absolute = scheme.eq_ignore_ascii_case("http://");
    let target = if is_absolute {
        // The absolute form; it goes before the Host field (RFC 9112, section 3.2.2).
        let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        request.host = Some(host);
        target
    } else {
        target
    };
    (request.path, request.query) = target.split_once('?').unwrap_or((target, ""));
    if is_absolute && request.path.is_empty() {
        request.path = "/";
    }
    if !request.path.starts_with('/') {
        return Err(bad("a target begins with /"));
    }
    if request.host.is_none() && request.is_1_1 {
        return Err(bad("there is no Host field"));
    }
    Ok(request)
}

/// What Accept-Encoding says of gzip, and of codings that it does not name.
#[derive(Default)]
struct Codings {
    gzip: Option<bool>,
    any: Option<bool>,
}

impl Codings {
    fn read(&mut self, field: &str) {
        for coding in list(field) {
            let (coding, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let quality = parameters.trim().strip_prefix("q=");
            let refused = quality.is_some_and(|q| q.bytes().all(|b| matches!(b, b'0' | b'.')));
            match coding.trim() {
                "*" => self.any = Some(!refused),
                name if ["gzip", "x-gzip"].iter().any(|gzip| name.eq_ignore_ascii_case(gzip)) => {
                    self.gzip = Some(!refused);
                }
                _ => {}
            }
        }
    }
}

fn read_field<'a>(
    request: &mut Request<'a>,
    codings: &mut Codings,
    name: &str,
    value: &'a [u8],
) -> Result<(), (Status, &'static str)> {
    let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
    let text = str::from_utf8(value).ok();
    if is("Host") {
        if request.host.is_some() || text.is_none() {
            return Err((Status::BAD_REQUEST, "there must be one Host field"));
        }
        request.host = text;
    } else if is("Content-Length") {
        if value != b"0" {
            return Err((Status::CONTENT_TOO_LARGE, "no request here has a body"));
        }
    } else if is("Transfer-Encoding") {
        return Err((Status::CONTENT_TOO_LARGE, "no request here has a body"));
    } else if is("Connection") {
        for option in list(text.unwrap_or("")) {
            if option.eq_ignore_ascii_case("close") {
                request.keep_alive = false;
            }
        }
    } else if is("Accept-Encoding") {
        codings.read(text.unwrap_or(""));
    } else if is("If-None-Match") {
        request.if_none_match = text;
    } else if is("Last-Event-ID") {
        request.last_event_id = text;
    }
    Ok(())
}

/// The items of a list of a header field.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Parsed<'_> {
        Parsed::parse(text.as_bytes())
    }

    fn status(text: &str) -> u16 {
        match parse(text) {
            Parsed::Bad(status, _) => status.code(),
            Parsed::Whole(..) => 200,
            Parsed::Partial => 0,
        }
    }

    #[test]
    fn a_browsers_request() {
        let text = "GET /api/clients?bbox=1,2,3,4 HTTP/1.1\r\nHost: localhost:8099\r\n\
                    Accept-Encoding: br, gzip;q=0.5\r\nIf-None-Match: \"a\"\r\n\
                    Last-Event-ID: 1-2\r\n\r\nGET /next";
        let Parsed::Whole(request, length) = parse(text) else { panic!("{:?}", parse(text)) };
        assert_eq!(&text[length..], "GET /next");
        assert_eq!((request.path, request.query), ("/api/clients", "bbox=1,2,3,4"));
        assert_eq!(request.host, Some("localhost:8099"));
        assert!(request.gzip && request.keep_alive && request.is_1_1 && !request.head_only);
        assert_eq!((request.if_none_match, request.last_event_id), (Some("\"a\""), Some("1-2")));
    }

    #[test]
    fn what_is_answered_and_what_is_not() {
        for (text, expected) in [
            ("", 0),
            ("GET / HTTP/1.1\r\nHost: a\r\n", 0),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
            ("GET / HTTP/1.0\r\n\r\n", 200),
            ("GET http://a/b?c HTTP/1.1\r\nHost: x\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\nHost: a\n\n", 400),
            ("GET / HTTP/1.1\r\nHost: a\n\r\n\r\n", 400),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
            ("IAMAT a +1-1 1\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 405),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 200),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 413),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        ] {
            assert_eq!(status(text), expected, "{text:?}");
        }
        let filler = "x".repeat(WEB_MAX_HEAD);
        assert_eq!(status(&format!("GET /{filler}")), 431);
        assert_eq!(status(&format!("GET /{filler} HTTP/1.1\r\nHost: a\r\n\r\n")), 431);
        assert_eq!(status(&"\r\n".repeat(WEB_MAX_HEAD)), 431, "empty lines without end");
        let fields = "a: b\r\n".repeat(WEB_MAX_FIELDS + 1);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), 431);
    }

    #[test]
    fn who_takes_gzip() {
        for (value, expected) in [
            ("gzip", true),
            ("GZip", true),
            ("deflate, gzip;q=1.0", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("gzip;q=0, *;q=1", false),
            ("*, gzip;q=0", false),
            ("*;q=0, gzip", true),
            ("*;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {value}\r\n\r\n");
            let Parsed::Whole(request, _) = parse(&text) else { panic!("{value}") };
            assert_eq!(request.gzip, expected, "{value}");
        }
    }

    #[test]
    fn the_absolute_form() {
        for (target, host, path, query) in [
            ("http://a/b?c", "a", "/b", "c"),
            ("http://a:1", "a:1", "/", ""),
            ("http://a?x=/1", "a", "/", "x=/1"),
            ("HTTP://a/b", "a", "/b", ""),
            ("hTTp://a?x", "a", "/", "x"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            let Parsed::Whole(request, _) = parse(&text) else { panic!("{target}") };
            let got = (request.host, request.path, request.query);
            assert_eq!(got, (Some(host), path, query), "{target}");
        }
        for target in ["https://a/", "a/b", "?x", "http:/a"] {
            assert_eq!(
                status(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")),
                400,
                "{target}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_prefix_of_a_request_is_bad(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..100,
        ) {
            let _ = Parsed::parse(&bytes);
            let whole = b"\r\nGET /a?b=c HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let part = &whole[..cut.min(whole.len() - 1)];
            prop_assert_eq!(Parsed::parse(part), Parsed::Partial);
        }
    }
}
