//! One HTTP/1.1 exchange as a state machine: response bytes in, in any pieces; a [`Response`] or
//! the reason why there is none out.
//!
//! Call order: [`Exchange::new`] when the request is handed to the connection;
//! [`Exchange::handle_input`] for every run of bytes until it answers [`Progress::Done`] or fails;
//! [`Exchange::handle_eof`] when the peer has closed before that. An exchange that is done or has
//! failed takes no more calls.
//!
//! The framing follows RFC 9112, read strictly: where the RFC lets a recipient either repair or
//! reject, this one rejects, because a client that guesses where a response ends hands the next
//! question a stranger's answer. Heads are parsed by httparse, once, when their end has arrived;
//! what httparse lets pass (bare LF, repeated lengths, length beside an encoding) is checked here.

mod body;
mod head;
mod request;
mod section;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

use body::Body;
use head::{Follows, Head};
pub use request::{Method, RequestWriter};
use section::Section;

use super::limits::{MAX_HEAD_BYTES, MAX_INTERIM_RESPONSES};

/// A whole response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The final status code, 200 to 599.
    pub status: u16,
    /// The body, decoded from its framing; never cut short.
    pub body: Vec<u8>,
    /// Whether the connection may carry another request.
    pub reusable: bool,
    /// The server's `Retry-After`, where it is given in seconds.
    pub retry_after: Option<Duration>,
    /// The `Location` of a redirect, where it is text. Redirects are not followed.
    pub location: Option<String>,
}

/// The way in which the peer ended the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// The peer announced the end: a FIN on plain TCP, a `close_notify` on TLS.
    Clean,
    /// TLS without a `close_notify`: anybody on the path may have truncated the stream.
    Abrupt,
}

/// The result of a piece of input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The response is not whole yet.
    Pending,
    /// The response is whole.
    Done(Response),
}

/// Why a response is none. A response that is broken is never shown, cached or repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The first bytes are not `HTTP/`.
    NotHttp,
    /// The status line, a header or a trailer field is malformed.
    Malformed(httparse::Error),
    /// A line of a head or a trailer ends in LF without CR.
    BareLf,
    /// The head is longer than [`MAX_HEAD_BYTES`].
    HeadTooLong,
    /// The status code is outside 100 to 599.
    StatusCode,
    /// 101: nobody asked to switch protocols.
    SwitchingProtocols,
    /// More interim responses than [`MAX_INTERIM_RESPONSES`].
    TooManyInterim,
    /// `Content-Length` is not one plain number.
    ContentLength,
    /// `Transfer-Encoding` is anything but one `chunked`, or is in an HTTP/1.0 response.
    TransferEncoding,
    /// `Content-Length` and `Transfer-Encoding` in one response.
    LengthAndEncoding,
    /// `Content-Encoding` is not `identity`, though that is all that was asked for.
    ContentEncoding,
    /// The body is longer than [`MAX_BODY_BYTES`](super::limits::MAX_BODY_BYTES).
    BodyTooLong,
    /// A chunk-size line does not begin with a hexadecimal size.
    ChunkSize,
    /// Chunk extensions are malformed or too many.
    ChunkExtension,
    /// A chunk's data is not followed by CRLF.
    ChunkEnd,
    /// The trailer is longer than [`MAX_TRAILER_BYTES`](super::limits::MAX_TRAILER_BYTES).
    TrailerTooLong,
    /// The peer closed without a byte of response.
    NoResponse,
    /// The peer closed before the end of the response.
    Truncated,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp => "it did not begin with HTTP/",
            Self::Malformed(error) => {
                return write!(f, "its head or trailer is malformed: {error}");
            }
            Self::BareLf => "a line of its head ended without CR",
            Self::HeadTooLong => "its head is too long",
            Self::StatusCode => "its status code is out of range",
            Self::SwitchingProtocols => "it switched protocols unasked",
            Self::TooManyInterim => "it sent too many interim responses",
            Self::ContentLength => "its Content-Length is not one number",
            Self::TransferEncoding => "its Transfer-Encoding is not understood",
            Self::LengthAndEncoding => "it has both Content-Length and Transfer-Encoding",
            Self::ContentEncoding => "its body is compressed, though that was not asked for",
            Self::BodyTooLong => "its body is too long",
            Self::ChunkSize => "the size of a chunk is malformed",
            Self::ChunkExtension => "the extensions of a chunk are malformed or too long",
            Self::ChunkEnd => "a chunk did not end where its size said",
            Self::TrailerTooLong => "its trailer is too long",
            Self::NoResponse => "the connection was closed without a response",
            Self::Truncated => "the connection was closed in the middle of it",
        })
    }
}

impl std::error::Error for HttpError {}

/// The response side of one exchange.
pub struct Exchange {
    state: State,
    interim: u32,
    started: bool,
}

enum State {
    Head(Section),
    Body(Head, Body),
    Over,
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Exchange {
    /// An exchange whose request has just been handed to the connection.
    pub fn new() -> Self {
        Self { state: State::Head(Section::default()), interim: 0, started: false }
    }

    /// Whether any byte of the response has arrived. A kept-alive connection that closes before
    /// that was stale, and the request may be sent again on another.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Takes the next bytes of the response.
    ///
    /// Bytes behind the end of the response were not asked for: the response stands, but the
    /// connection is not reusable.
    ///
    /// # Errors
    /// [`HttpError`], as soon as the bytes cannot be the beginning of a sound response.
    pub fn handle_input(&mut self, data: &[u8]) -> Result<Progress, HttpError> {
        self.started |= !data.is_empty();
        let result = self.advance(data);
        if !matches!(result, Ok(Progress::Pending)) {
            self.state = State::Over;
        }
        result
    }

    /// Takes the end of the stream, which ends a body without a length.
    ///
    /// # Errors
    /// [`HttpError`], unless the response is one that ends with the stream, and the stream ended
    /// cleanly.
    pub fn handle_eof(&mut self, eof: Eof) -> Result<Response, HttpError> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Body(head, Body::UntilClose(bytes)) if eof == Eof::Clean => {
                Ok(head.finish(bytes, Follows::Eof))
            }
            _ if self.started => Err(HttpError::Truncated),
            _ => Err(HttpError::NoResponse),
        }
    }

    fn advance(&mut self, mut data: &[u8]) -> Result<Progress, HttpError> {
        loop {
            match &mut self.state {
                State::Head(section) => {
                    // At once, so that a server of another protocol that waits for us to speak does
                    // not cost a deadline.
                    if !section.may_begin(b"HTTP/", data) {
                        return Err(HttpError::NotHttp);
                    }
                    let Some(used) = section.push(data, MAX_HEAD_BYTES, HttpError::HeadTooLong)?
                    else {
                        return Ok(Progress::Pending);
                    };
                    let head = Head::parse(section.bytes())?;
                    data = &data[used..];
                    if head.interim {
                        self.interim += 1;
                        if self.interim > MAX_INTERIM_RESPONSES {
                            return Err(HttpError::TooManyInterim);
                        }
                        self.state = State::Head(Section::default());
                    } else {
                        let body = Body::new(head.framing);
                        self.state = State::Body(head, body);
                    }
                }
                State::Body(head, body) => {
                    let Some(used) = body.push(data)? else { return Ok(Progress::Pending) };
                    let follows =
                        if used < data.len() { Follows::Surplus } else { Follows::Nothing };
                    let head = std::mem::take(head);
                    return Ok(Progress::Done(head.finish(body.take(), follows)));
                }
                State::Over => return Ok(Progress::Pending),
            }
        }
    }
}

impl fmt::Debug for Exchange {
    /// Without the bytes: a provider may have repeated the key in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("started", &self.started).finish_non_exhaustive()
    }
}
