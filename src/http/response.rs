//! Heads of responses, and responses that are known at once.

use super::Server;
use crate::limits::WEB_RESPONSE_WORK;
use crate::text::digits::push_digits;
use crate::text::{hex, json::push_string};

/// A status code and its reason phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(u16, &'static str);

impl Status {
    /// 200.
    pub const OK: Self = Self(200, "OK");
    /// 304.
    pub const NOT_MODIFIED: Self = Self(304, "Not Modified");
    /// 400.
    pub const BAD_REQUEST: Self = Self(400, "Bad Request");
    /// 404.
    pub const NOT_FOUND: Self = Self(404, "Not Found");
    /// 405.
    pub const METHOD_NOT_ALLOWED: Self = Self(405, "Method Not Allowed");
    /// 413.
    pub const CONTENT_TOO_LARGE: Self = Self(413, "Content Too Large");
    /// 421: the request was meant for somebody else.
    pub const MISDIRECTED: Self = Self(421, "Misdirected Request");
    /// 431.
    pub const HEADERS_TOO_LARGE: Self = Self(431, "Request Header Fields Too Large");
    /// 503.
    pub const UNAVAILABLE: Self = Self(503, "Service Unavailable");

    /// The number.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }
}

/// Media types.
pub mod media {
    /// For people.
    pub const TEXT: &str = "text/plain; charset=utf-8";
    /// For programs.
    pub const JSON: &str = "application/json";
    /// RFC 7946.
    pub const GEOJSON: &str = "application/geo+json";
    /// The Prometheus text format.
    pub const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
    /// Server-Sent Events.
    pub const EVENTS: &str = "text/event-stream";
}

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Known(usize),
    /// It is not known: the body is chunked, or ends with the connection.
    Unknown,
    /// There is none, whatever the request was.
    Empty,
}

/// What a response to one request goes by.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The head alone is wanted.
    pub head_only: bool,
    /// A body of unknown length is chunked; it ends with the connection otherwise.
    pub chunked: bool,
    /// The connection is used again.
    pub keep_alive: bool,
}

impl Answer {
    /// How something is answered that is no request: nothing behind it is understood.
    #[must_use]
    pub const fn refusal() -> Self {
        Self { head_only: false, chunked: false, keep_alive: false }
    }

    /// Appends a head. `more` are fields with their CR LF.
    pub fn head(
        &mut self,
        out: &mut Vec<u8>,
        http: &mut Server,
        status: Status,
        media: &str,
        length: Length,
        more: &[&str],
    ) {
        http.counters.count(status);
        http.work = http.work.saturating_sub(WEB_RESPONSE_WORK);
        out.extend_from_slice(b"HTTP/1.1 ");
        push_digits(out, status.code().into(), 3);
        for part in [" ", status.1, "\r\n"].iter().chain(more) {
            out.extend_from_slice(part.as_bytes());
        }
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
        out.extend_from_slice(http.settings.fields.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// Appends a whole response. What nodes say is of the moment, so nobody is to keep it.
    pub fn whole(
        &mut self,
        out: &mut Vec<u8>,
        http: &mut Server,
        status: Status,
        media: &str,
        body: &[u8],
    ) {
        let more: &[&str] = match status {
            Status::METHOD_NOT_ALLOWED => &[NO_STORE, "Allow: GET, HEAD\r\n"],
            Status::UNAVAILABLE => &[NO_STORE, "Retry-After: 1\r\n"],
            _ => &[NO_STORE],
        };
        self.head(out, http, status, media, Length::Known(body.len()), more);
        if !self.head_only {
            out.extend_from_slice(body);
        }
    }

    /// Appends an error: what is wrong, for programs and people.
    pub fn error(&mut self, out: &mut Vec<u8>, http: &mut Server, status: Status, why: &str) {
        let mut body = b"{\"error\": ".to_vec();
        push_string(&mut body, why);
        body.extend_from_slice(b"}\n");
        self.whole(out, http, status, media::JSON, &body);
    }
}

/// For what is of the moment.
pub const NO_STORE: &str = "Cache-Control: no-store\r\n";

fn field(out: &mut Vec<u8>, name: &str, value: &str) {
    for part in [name, ": ", value, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A chunk of a chunked body (RFC 9112, section 7.1) that is put together in place.
pub struct Chunk {
    start: usize,
}

/// Eight digits and CR LF: room for the size of any chunk.
const CHUNK_HEAD: &[u8] = b"00000000\r\n";

impl Chunk {
    /// Begins a chunk at the end of `out`.
    pub fn begin(out: &mut Vec<u8>) -> Self {
        let start = out.len();
        out.extend_from_slice(CHUNK_HEAD);
        Self { start }
    }

    /// Ends it. An empty one would end the body, so that is taken back.
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

    /// Ends the body.
    pub fn last(out: &mut Vec<u8>) {
        out.extend_from_slice(b"0\r\n\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        let mut out = b"head".to_vec();
        Chunk::begin(&mut out).end(&mut out);
        let chunk = Chunk::begin(&mut out);
        out.extend_from_slice(&[b'x'; 300]);
        chunk.end(&mut out);
        Chunk::last(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, format!("head0000012c\r\n{}\r\n0\r\n\r\n", "x".repeat(300)));
    }
}
