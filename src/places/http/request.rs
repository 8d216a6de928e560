//! Writing the request to a provider.

use crate::endpoint::Url;
use crate::text::percent::push_encoded;

/// The user agent. Overpass rejects clients without a distinctive one
/// (<https://github.com/drolbr/Overpass-API/issues/791>).
const USER_AGENT: &str = concat!("proxy-herd/", env!("CARGO_PKG_VERSION"));

/// The request method. Neither changes the state of a provider, so requests may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// GET
    Get,
    /// POST
    Post,
}

/// Writes one request. Call order: [`new`](Self::new), [`query`](Self::query) for each parameter,
/// [`header`](Self::header) for each further field, then [`end`](Self::end) or
/// [`body`](Self::body).
#[derive(Debug)]
pub struct RequestWriter<'a> {
    out: &'a mut Vec<u8>,
    url: &'a Url,
    part: Part,
}

#[derive(Debug, PartialEq)]
enum Part {
    Path,
    Query,
    Fields,
}

impl<'a> RequestWriter<'a> {
    /// Starts a request for `path`, which follows the prefix of the provider's URL.
    pub fn new(out: &'a mut Vec<u8>, method: Method, url: &'a Url, path: &str) -> Self {
        out.extend_from_slice(match method {
            Method::Get => b"GET ",
            Method::Post => b"POST ",
        });
        out.extend_from_slice(url.prefix.as_bytes());
        out.extend_from_slice(path.as_bytes());
        if url.prefix.is_empty() && path.is_empty() {
            out.push(b'/');
        }
        Self { out, url, part: Part::Path }
    }

    /// Adds a query parameter; the value is percent-encoded.
    #[must_use]
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.out.push(if self.part == Part::Path { b'?' } else { b'&' });
        self.part = Part::Query;
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'=');
        push_encoded(self.out, value.as_bytes());
        self
    }

    /// Adds a header field. Names and values are constants, or were validated when they were read:
    /// neither can contain a line end.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.fields();
        self.field(name, value);
        self
    }

    /// Ends a request that has no body.
    pub fn end(mut self) {
        self.fields();
        self.out.extend_from_slice(b"\r\n");
    }

    /// Ends a request with a body.
    pub fn body(mut self, content_type: &str, body: &[u8]) {
        self.fields();
        self.field("Content-Type", content_type);
        self.field("Content-Length", &body.len().to_string());
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
    }

    /// Ends the request line and writes the fields of every request.
    fn fields(&mut self) {
        if self.part == Part::Fields {
            return;
        }
        self.part = Part::Fields;
        self.out.extend_from_slice(b" HTTP/1.1\r\n");
        self.field("Host", &self.url.authority());
        self.field("User-Agent", USER_AGENT);
        self.field("Accept", "application/json");
        // Documents are small, and decompression would be exposed to zip bombs.
        self.field("Accept-Encoding", "identity");
    }

    fn field(&mut self, name: &str, value: &str) {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        self.out.extend_from_slice(value.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }
}
