//! Responses: status lines, header fields and chunks.

use super::Server;
use super::date::push_date;
use super::limits::WORK_PER_RESPONSE;
use crate::text::digits::push_digits;
use crate::text::{hex, json::push_string};

/// A status code and its reason phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u16, &'static str);

impl Status {
    /// Success.
    pub const OK: Self = Self(200, "OK");
    /// The browser's copy is current.
    pub const NOT_MODIFIED: Self = Self(304, "Not Modified");
    /// The request or a parameter is not valid.
    pub const BAD_REQUEST: Self = Self(400, "Bad Request");
    /// The credentials are wrong or missing.
    pub const UNAUTHORIZED: Self = Self(401, "Unauthorized");
    /// The request was caused by a page of another site.
    pub const FORBIDDEN: Self = Self(403, "Forbidden");
    /// The page or client does not exist.
    pub const NOT_FOUND: Self = Self(404, "Not Found");
    /// The method is not supported.
    pub const METHOD_NOT_ALLOWED: Self = Self(405, "Method Not Allowed");
    /// The request has a body, or one that is too long.
    pub const CONTENT_TOO_LARGE: Self = Self(413, "Content Too Large");
    /// The `Expect` field asks for something unknown.
    pub const EXPECTATION_FAILED: Self = Self(417, "Expectation Failed");
    /// The `Host` field does not name this node.
    pub const MISDIRECTED: Self = Self(421, "Misdirected Request");
    /// The address has sent too many wrong credentials.
    pub const TOO_MANY_REQUESTS: Self = Self(429, "Too Many Requests");
    /// The head is too long or has too many fields.
    pub const HEADERS_TOO_LARGE: Self = Self(431, "Request Header Fields Too Large");
    /// The node is not ready or overloaded.
    pub const UNAVAILABLE: Self = Self(503, "Service Unavailable");

    /// The numeric code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Appends the status line.
    pub fn push_line(self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 ");
        push_digits(out, self.0.into(), 3);
        for part in [" ", self.1, "\r\n"] {
            out.extend_from_slice(part.as_bytes());
        }
    }
}

/// Media types.
pub mod media {
    /// Plain text.
    pub const TEXT: &str = "text/plain; charset=utf-8";
    /// JSON (RFC 8259).
    pub const JSON: &str = "application/json";
    /// GeoJSON (RFC 7946).
    pub const GEOJSON: &str = "application/geo+json";
    /// The Prometheus text format.
    pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    /// Server-Sent Events.
    pub const EVENTS: &str = "text/event-stream";
}

/// Length of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Length in bytes.
    Known(usize),
    /// Not known in advance: the body is chunked, or ends with the connection.
    Unknown,
    /// The status allows no body.
    Empty,
}

/// Options of a response, which follow from the request.
#[derive(Clone, Copy, Debug)]
pub struct ResponseOptions {
    /// Send no body: the method is HEAD.
    pub head_only: bool,
    /// Send a body of unknown length in chunks. Otherwise it ends with the connection.
    pub chunked: bool,
    /// Keep the connection open for the next request.
    pub keep_alive: bool,
}

impl ResponseOptions {
    /// Options for input that is not a valid request. The connection is closed, since the start of
    /// the next request is unknown.
    pub const CLOSE: Self = Self { head_only: false, chunked: false, keep_alive: false };

    /// Appends a head. `fields` are further header fields with their CR LF. Clears `keep_alive` if
    /// the body can only end with the connection.
    pub fn send_head(
        &mut self,
        out: &mut Vec<u8>,
        http: &mut Server,
        status: Status,
        media: &str,
        length: Length,
        fields: &[&str],
    ) {
        http.counters.count(status);
        http.work = http.work.saturating_sub(WORK_PER_RESPONSE);
        status.push_line(out);
        for part in fields {
            out.extend_from_slice(part.as_bytes());
        }
        push_date(out, http.wall);
        if length != Length::Empty {
            field(out, "Content-Type", media);
        }
        match length {
            Length::Known(length) => {
                out.extend_from_slice(b"Content-Length: ");
                push_digits(out, length as u64, 1);
                out.extend_from_slice(b"\r\n");
            }
            Length::Unknown if self.chunked => field(out, "Transfer-Encoding", "chunked"),
            Length::Unknown => self.keep_alive = false,
            Length::Empty => {}
        }
        if !self.keep_alive {
            field(out, "Connection", "close");
        }
        out.extend_from_slice(http.security_fields.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Appends a complete response. It must not be cached, since it describes the current state.
    pub fn send(
        mut self,
        out: &mut Vec<u8>,
        http: &mut Server,
        status: Status,
        media: &str,
        body: &[u8],
    ) {
        let fields: &[&str] = match status {
            Status::METHOD_NOT_ALLOWED => &[NO_STORE, "Allow: GET, HEAD\r\n"],
            Status::UNAVAILABLE => &[NO_STORE, "Retry-After: 1\r\n"],
            _ => &[NO_STORE],
        };
        self.send_head(out, http, status, media, Length::Known(body.len()), fields);
        if !self.head_only {
            out.extend_from_slice(body);
        }
    }

    /// Appends an error response, whose body is `{"error": REASON}`.
    pub fn send_error(self, out: &mut Vec<u8>, http: &mut Server, status: Status, reason: &str) {
        let mut body = b"{\"error\": ".to_vec();
        push_string(&mut body, reason);
        body.extend_from_slice(b"}\n");
        self.send(out, http, status, media::JSON, &body);
    }
}

/// Header field of responses that describe the current state.
pub const NO_STORE: &str = "Cache-Control: no-store\r\n";

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A chunk of a chunked body (RFC 9112, section 7.1), built in place.
pub struct Chunk {
    start: usize,
}

/// Placeholder for the size of a chunk: eight hex digits and CR LF.
const CHUNK_HEAD: &[u8] = b"00000000\r\n";

impl Chunk {
    /// Begins a chunk at the end of `out`.
    pub fn begin(out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(CHUNK_HEAD);
        Self { start }
    }

    /// Ends the chunk and fills in its size. An empty chunk would end the body, so it is removed.
    pub fn end(self, out: &mut Vec<u8>) {
        let length = out.len() - self.start - CHUNK_HEAD.len();
        if length == 0 {
            out.truncate(self.start);
            return;
        }
        for (at, digit) in out[self.start..self.start + 8].iter_mut().enumerate() {
            *digit = hex::digit((length >> (4 * (7 - at))) as u8);
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends the empty chunk that ends the body.
    pub fn push_last(out: &mut Vec<u8>) {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_chunks_are_removed() {
        let mut out = b"head".to_vec();
        Chunk::begin(&mut out).end(&mut out);
        let chunk = Chunk::begin(&mut out);
        out.extend_from_slice(&[b'x'; 300]);
        chunk.end(&mut out);
        Chunk::push_last(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("head0000012c\r\n{}\r\n0\r\n\r\n", "x".repeat(300)));
    }
}
