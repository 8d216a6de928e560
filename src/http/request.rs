//! Parsing of one HTTP/1.1 request (RFC 9112) from the input of a connection. Pure functions.
//!
//! [`Head`] is what every listener that speaks HTTP needs; [`Request`] is a request to the read-only
//! side.

use std::borrow::Cow;

use super::limits::{MAX_HEAD, MAX_HEADER_FIELDS};
use super::response::{ResponseOptions, Status};

/// The start of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<R> {
    /// An incomplete head.
    Partial,
    /// A request, and the number of bytes that its head occupies.
    Complete(R, usize),
    /// Not a request that is answered. The rest of the input cannot be interpreted.
    Rejected(Rejection),
}

/// The status and reason with which a request is rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Status of the response.
    pub status: Status,
    /// Description of the problem, for the body of the response.
    pub reason: Cow<'static, str>,
}

/// A request line and the header fields, as they were sent.
pub struct Head<'h, 'i> {
    /// The method.
    pub method: &'i str,
    /// The target, still percent-encoded.
    pub target: &'i str,
    /// True if the version is 1.1, not 1.0.
    pub is_1_1: bool,
    /// The header fields.
    pub fields: &'h [httparse::Header<'i>],
}

/// The resource that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resource<'a> {
    /// Host with or without a port. Only HTTP/1.0 may omit it.
    pub host: Option<&'a str>,
    /// Target up to a `?`, still percent-encoded. Begins with `/`.
    pub path: &'a str,
    /// Target after the `?`, or empty.
    pub query: &'a str,
}

/// A GET or HEAD request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The method is HEAD.
    pub head_only: bool,
    /// Target up to a `?`, still percent-encoded. Begins with `/`.
    pub path: &'a str,
    /// Target after the `?`, or empty.
    pub query: &'a str,
    /// Host that the request is for, with or without a port. Only HTTP/1.0 may omit it.
    pub host: Option<&'a str>,
    /// True if the version is 1.1, which allows chunks.
    pub is_1_1: bool,
    /// True if the connection stays open after the response.
    pub keep_alive: bool,
    /// True if the response may be compressed with gzip.
    pub gzip: bool,
    /// Entity tags of the versions that the browser has.
    pub if_none_match: Option<&'a str>,
    /// Id of the last event that an `EventSource` received.
    pub last_event_id: Option<&'a str>,
    /// True if a page of another site makes the request (Fetch Metadata, `Sec-Fetch-Site`).
    pub is_cross_site: bool,
    /// Origin of the page that makes the request, in CORS requests.
    pub origin: Option<&'a str>,
}

impl<R> Parsed<R> {
    /// Parses the head at the start of `input`, of which `read` makes a request.
    #[must_use]
    pub fn parse<'i>(
        input: &'i [u8],
        read: impl FnOnce(&Head<'_, 'i>) -> Result<R, Rejection>,
    ) -> Self {
        // Empty lines before a request are ignored (RFC 9112, section 2.2).
        let start = input.iter().position(|&b| b != b'\r' && b != b'\n').unwrap_or(input.len());
        let head = &input[start..];
        let Some(length) = memchr::memmem::find(head, b"\r\n\r\n").map(|at| at + 4) else {
            return match has_bare_line_feed(head) {
                _ if input.len() > MAX_HEAD => Self::Rejected(Rejection::too_long()),
                true => Self::Rejected(Rejection::bare_line_feed()),
                false => Self::Partial,
            };
        };
        if length > MAX_HEAD {
            return Self::Rejected(Rejection::too_long());
        }
        match parse_head(&head[..length], read) {
            Ok(request) => Self::Complete(request, start + length),
            Err(rejection) => Self::Rejected(rejection),
        }
    }
}

/// Parses a complete head.
fn parse_head<'i, R>(
    head: &'i [u8],
    read: impl FnOnce(&Head<'_, 'i>) -> Result<R, Rejection>,
) -> Result<R, Rejection> {
    if has_bare_line_feed(head) {
        return Err(Rejection::bare_line_feed());
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEADER_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Rejection::too_many_fields()),
        Ok(httparse::Status::Partial) | Err(_) => {
            return Err(Rejection::bad("not a valid HTTP request"));
        }
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Rejection::bad("not a valid HTTP request"));
    };
    read(&Head { method, target, is_1_1: version == 1, fields: parsed.headers })
}

impl<'i> Head<'_, 'i> {
    /// Returns the resource that the request is for. The host of a target in absolute form takes
    /// precedence over the Host field (RFC 9112, section 3.2.2).
    ///
    /// # Errors
    ///
    /// There is no valid host, or more than one, or the target has another form.
    pub fn resource(&self) -> Result<Resource<'i>, Rejection> {
        let mut host = None;
        for &httparse::Header { name, value } in self.fields {
            if name.eq_ignore_ascii_case("Host")
                && (host.replace(str::from_utf8(value).ok()).is_some()
                    || str::from_utf8(value).is_err())
            {
                return Err(Rejection::bad("there must be exactly one valid Host field"));
            }
        }
        let mut host = host.flatten();
        let absolute = ["http://", "https://"].into_iter().find_map(|scheme| {
            let (start, rest) = self.target.split_at_checked(scheme.len())?;
            start.eq_ignore_ascii_case(scheme).then_some(rest)
        });
        let is_absolute = absolute.is_some();
        let target = if let Some(rest) = absolute {
            let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            host = Some(authority);
            target
        } else {
            self.target
        };
        let (mut path, query) = target.split_once('?').unwrap_or((target, ""));
        if is_absolute && path.is_empty() {
            path = "/";
        }
        if !path.starts_with('/') {
            return Err(Rejection::bad("the request target must begin with /"));
        }
        if host.is_none() && self.is_1_1 {
            return Err(Rejection::bad("the Host field is missing"));
        }
        Ok(Resource { host, path, query })
    }

    /// Returns whether the connection stays open after the response.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        let closes = |field: &httparse::Header<'_>| {
            field.name.eq_ignore_ascii_case("Connection")
                && list(str::from_utf8(field.value).unwrap_or(""))
                    .any(|option| option.eq_ignore_ascii_case("close"))
        };
        self.is_1_1 && !self.fields.iter().any(closes)
    }
}

impl Rejection {
    /// Returns a rejection with a fixed reason.
    #[must_use]
    pub fn new(status: Status, reason: &'static str) -> Self {
        Self { status, reason: reason.into() }
    }

    /// Returns the rejection of a request that is not valid.
    #[must_use]
    pub fn bad(reason: &'static str) -> Self {
        Self::new(Status::BAD_REQUEST, reason)
    }

    fn bare_line_feed() -> Self {
        Self::bad("lines must end with CR LF")
    }

    fn too_long() -> Self {
        let reason = format!("the head of a request may have at most {MAX_HEAD} bytes");
        Self { status: Status::HEADERS_TOO_LARGE, reason: reason.into() }
    }

    fn too_many_fields() -> Self {
        let reason = format!("a request may have at most {MAX_HEADER_FIELDS} header fields");
        Self { status: Status::HEADERS_TOO_LARGE, reason: reason.into() }
    }

    fn body() -> Self {
        Self::new(Status::CONTENT_TOO_LARGE, "requests with a body are not supported")
    }
}

impl<'a> Request<'a> {
    /// Returns the options of the response.
    #[must_use]
    pub const fn options(&self) -> ResponseOptions {
        let Self { head_only, is_1_1: chunked, keep_alive, .. } = *self;
        ResponseOptions { head_only, chunked, keep_alive }
    }

    /// Parses the request at the start of `input`.
    #[must_use]
    pub fn parse(input: &'a [u8]) -> Parsed<Self> {
        Parsed::parse(input, Self::read)
    }

    fn read(head: &Head<'_, 'a>) -> Result<Self, Rejection> {
        if !matches!(head.method, "GET" | "HEAD") {
            let reason = "only GET and HEAD are supported";
            return Err(Rejection::new(Status::METHOD_NOT_ALLOWED, reason));
        }
        let Resource { host, path, query } = head.resource()?;
        let mut request = Self {
            head_only: head.method == "HEAD",
            path,
            query,
            host,
            is_1_1: head.is_1_1,
            keep_alive: head.keeps_alive(),
            gzip: false,
            if_none_match: None,
            last_event_id: None,
            is_cross_site: false,
            origin: None,
        };
        request.read_fields(head.fields)?;
        Ok(request)
    }

    /// Returns whether the browser has the version with this entity tag.
    #[must_use]
    pub fn holds(&self, tag: &str) -> bool {
        let matches = |held: &str| held == "*" || held.trim_start_matches("W/") == tag;
        self.if_none_match.is_some_and(|tags| list(tags).any(matches))
    }

    fn read_fields(&mut self, fields: &[httparse::Header<'a>]) -> Result<(), Rejection> {
        let mut codings = Codings::default();
        for &httparse::Header { name, value } in fields {
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            let text = str::from_utf8(value).ok();
            if is("Content-Length") && value != b"0" || is("Transfer-Encoding") {
                return Err(Rejection::body());
            } else if is("Accept-Encoding") {
                codings.read(text.unwrap_or(""));
            } else if is("If-None-Match") {
                self.if_none_match = text;
            } else if is("Last-Event-ID") {
                self.last_event_id = text;
            } else if is("Sec-Fetch-Site") {
                self.is_cross_site |= text.is_some_and(|site| {
                    list(site).any(|site| site.eq_ignore_ascii_case("cross-site"))
                });
            } else if is("Origin") {
                self.origin = text;
            }
        }
        self.gzip = codings.gzip.or(codings.any).unwrap_or(false);
        Ok(())
    }
}

fn has_bare_line_feed(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).any(|at| at == 0 || head[at - 1] != b'\r')
}

/// Codings in Accept-Encoding: `Some(true)` if allowed, `Some(false)` if excluded.
#[derive(Default)]
struct Codings {
    gzip: Option<bool>,
    any: Option<bool>,
}

impl Codings {
    fn read(&mut self, field: &str) {
        for coding in list(field) {
            let (coding, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let allowed = Some(!is_zero_quality(parameters));
            match coding.trim() {
                "*" => self.any = allowed,
                name if ["gzip", "x-gzip"].iter().any(|gzip| name.eq_ignore_ascii_case(gzip)) => {
                    self.gzip = allowed;
                }
                _ => {}
            }
        }
    }
}

/// Returns whether the parameters of a coding contain `q=0`, which excludes it (RFC 9110, section
/// 12.4.2). The name of the parameter is case-insensitive.
fn is_zero_quality(parameters: &str) -> bool {
    let quality = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then_some(value.trim())
    });
    quality.is_some_and(|value| value.bytes().all(|byte| matches!(byte, b'0' | b'.')))
}

/// Returns the items of a comma-separated header field.
pub fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Parsed<Request<'_>> {
        Request::parse(text.as_bytes())
    }

    fn status(text: &str) -> u16 {
        match parse(text) {
            Parsed::Rejected(rejection) => rejection.status.code(),
            Parsed::Complete(..) => 200,
            Parsed::Partial => 0,
        }
    }

    #[test]
    fn the_request_of_a_browser_is_parsed() {
        let text = "GET /api/clients?bbox=1,2,3,4 HTTP/1.1\r\nHost: localhost:8099\r\n\
                    Accept-Encoding: br, gzip;q=0.5\r\nIf-None-Match: \"a\"\r\n\
                    Last-Event-ID: 1-2\r\n\r\nGET /next";
        let Parsed::Complete(request, length) = parse(text) else { panic!("{:?}", parse(text)) };
        assert_eq!(&text[length..], "GET /next");
        assert_eq!((request.path, request.query), ("/api/clients", "bbox=1,2,3,4"));
        assert_eq!(request.host, Some("localhost:8099"));
        assert!(request.gzip && request.keep_alive && request.is_1_1 && !request.head_only);
        assert_eq!((request.if_none_match, request.last_event_id), (Some("\"a\""), Some("1-2")));
    }

    #[test]
    fn requests_are_accepted_or_rejected_with_a_status() {
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
        let filler = "x".repeat(MAX_HEAD);
        assert_eq!(status(&format!("GET /{filler}")), 431);
        assert_eq!(status(&format!("GET /{filler} HTTP/1.1\r\nHost: a\r\n\r\n")), 431);
        assert_eq!(status(&"\r\n".repeat(MAX_HEAD)), 431, "endless empty lines");
        let fields = "a: b\r\n".repeat(MAX_HEADER_FIELDS + 1);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), 431);
    }

    #[test]
    fn gzip_is_used_only_if_it_is_accepted() {
        for (value, expected) in [
            ("gzip", true),
            ("GZip", true),
            ("deflate, gzip;q=1.0", true),
            ("*", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("gzip;Q=0", false),
            ("gzip; level=9; q = 0", false),
            ("gzip;q=0.001", true),
            ("gzip;q=0, *;q=1", false),
            ("*, gzip;q=0", false),
            ("*;q=0, gzip", true),
            ("*;q=0", false),
            ("identity", false),
            ("", false),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {value}\r\n\r\n");
            let Parsed::Complete(request, _) = parse(&text) else { panic!("{value}") };
            assert_eq!(request.gzip, expected, "{value}");
        }
    }

    #[test]
    fn the_absolute_form_takes_precedence_over_the_host_field() {
        for (target, host, path, query) in [
            ("http://a/b?c", "a", "/b", "c"),
            ("http://a:1", "a:1", "/", ""),
            ("HTTPS://a/b?c", "a", "/b", "c"),
            ("http://a?x=/1", "a", "/", "x=/1"),
            ("HTTP://a/b", "a", "/b", ""),
            ("hTTp://a?x", "a", "/", "x"),
        ] {
            let text = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            let Parsed::Complete(request, _) = parse(&text) else { panic!("{target}") };
            let got = (request.host, request.path, request.query);
            assert_eq!(got, (Some(host), path, query), "{target}");
        }
        for target in ["ftp://a/", "a/b", "?x", "http:/a"] {
            assert_eq!(
                status(&format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n")),
                400,
                "{target}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_input_panics_and_no_prefix_of_a_request_is_rejected(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..100,
        ) {
            let _ = Request::parse(&bytes);
            let complete = b"\r\nGET /a?b=c HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let part = &complete[..cut.min(complete.len() - 1)];
            prop_assert_eq!(Request::parse(part), Parsed::Partial);
        }
    }
}
