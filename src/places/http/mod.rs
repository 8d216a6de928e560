//! HTTP/1.1 client framing as a state machine: it consumes the bytes of a response, in any pieces,
//! and produces a [`Response`] or an [`HttpError`].
//!
//! Call order: [`Exchange::new`] when the request is passed to the connection;
//! [`Exchange::handle_input`] for every piece of input until it returns [`Progress::Done`] or an
//! error; [`Exchange::handle_eof`] if the peer closes before that. An exchange that has ended must
//! not be called again.
//!
//! The framing follows RFC 9112 strictly: where the RFC permits a recipient to either repair or
//! reject a message, it is rejected, because a client that misjudges the end of a response may take
//! the rest for the response to its next request. What the RFC requires a client to accept is
//! accepted: folded lines, higher minor versions and empty list elements. httparse parses a head once it is complete; what
//! it tolerates (bare LF, repeated lengths, a length together with a transfer coding) is rejected
//! here.
//!
//! `ureq-proto`, which has the same shape, does not serve here: it represents messages with the
//! types of the `http` crate, accepts what is rejected here, and does not limit the sizes of heads,
//! chunk extensions, trailers and bodies.

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

/// A complete response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The final status code, 200 to 599.
    pub status: u16,
    /// The complete body, without its framing.
    pub body: Vec<u8>,
    /// True if the connection may carry another request.
    pub reusable: bool,
    /// The `Retry-After` field, if it is a number of seconds.
    pub retry_after: Option<Duration>,
    /// The `Location` field, if it is UTF-8. Redirects are not followed.
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
    /// The response is not complete yet.
    Pending,
    /// The response is complete.
    Done(Response),
}

/// The reason why a response is not valid. Such a response is never shown, cached or repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// The first bytes are not `HTTP/`.
    NotHttp,
    /// The status line, a header or a trailer field is malformed.
    Malformed(httparse::Error),
    /// A line of the head or the trailer ends with LF without CR.
    BareLf,
    /// The head is longer than [`MAX_HEAD_BYTES`].
    HeadTooLong,
    /// The status code is outside 100 to 599.
    StatusCode,
    /// The status is 101, although no upgrade was requested.
    SwitchingProtocols,
    /// There are more interim responses than [`MAX_INTERIM_RESPONSES`].
    TooManyInterim,
    /// `Content-Length` is repeated, or not a plain number.
    ContentLength,
    /// `Transfer-Encoding` is not exactly one `chunked`, or the response is HTTP/1.0.
    TransferEncoding,
    /// `Content-Length` and `Transfer-Encoding` are both present.
    LengthAndEncoding,
    /// `Content-Encoding` is not `identity`, the only one that the request accepts.
    ContentEncoding,
    /// The body is longer than [`MAX_BODY_BYTES`](super::limits::MAX_BODY_BYTES).
    BodyTooLong,
    /// A chunk-size line does not start with a hexadecimal number.
    ChunkSize,
    /// Chunk extensions are malformed or too long.
    ChunkExtension,
    /// The data of a chunk is not followed by CRLF.
    ChunkEnd,
    /// The trailer is longer than [`MAX_TRAILER_BYTES`](super::limits::MAX_TRAILER_BYTES).
    TrailerTooLong,
    /// The peer closed before the first byte of the response.
    NoResponse,
    /// The peer closed before the end of the response.
    Truncated,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotHttp => "it does not start with HTTP/",
            Self::Malformed(error) => {
                return write!(f, "its head or trailer is malformed: {error}");
            }
            Self::BareLf => "a line of its head ends without CR",
            Self::HeadTooLong => "its head is too long",
            Self::StatusCode => "its status code is out of range",
            Self::SwitchingProtocols => "it switches protocols without a request to do so",
            Self::TooManyInterim => "it is preceded by too many interim responses",
            Self::ContentLength => "its Content-Length is not a single number",
            Self::TransferEncoding => "its Transfer-Encoding is not supported",
            Self::LengthAndEncoding => "it has both Content-Length and Transfer-Encoding",
            Self::ContentEncoding => "its body is compressed, although no compression was accepted",
            Self::BodyTooLong => "its body is too long",
            Self::ChunkSize => "the size of a chunk is malformed",
            Self::ChunkExtension => "the extensions of a chunk are malformed or too long",
            Self::ChunkEnd => "a chunk is longer than its size",
            Self::TrailerTooLong => "its trailer is too long",
            Self::NoResponse => "the connection was closed before it began",
            Self::Truncated => "the connection was closed before its end",
        })
    }
}

impl std::error::Error for HttpError {}

/// One exchange: the state of the response to one request.
pub struct Exchange {
    state: State,
    interim: u32,
    started: bool,
}

enum State {
    Head(Section),
    Body(Head, Body),
    Done,
}

impl Default for Exchange {
    fn default() -> Self {
        Self::new()
    }
}

impl Exchange {
    /// Creates an exchange whose request is about to be sent.
    pub fn new() -> Self {
        Self { state: State::Head(Section::head()), interim: 0, started: false }
    }

    /// Returns true if any byte of the response has arrived. If a reused connection closes before
    /// that, it was stale, and the request may be retried on another.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Takes the next bytes of the response.
    ///
    /// If unsolicited bytes follow the response, it is valid, but the connection is not reusable.
    ///
    /// # Errors
    /// [`HttpError`], as soon as the bytes cannot be the start of a valid response.
    pub fn handle_input(&mut self, data: &[u8]) -> Result<Progress, HttpError> {
        self.started |= !data.is_empty();
        let result = self.advance(data);
        if !matches!(result, Ok(Progress::Pending)) {
            self.state = State::Done;
        }
        result
    }

    /// Takes the end of the stream, which ends a body without a length.
    ///
    /// # Errors
    /// [`HttpError::NoResponse`] or [`HttpError::Truncated`], unless the response ends with the
    /// stream and the end is [`Eof::Clean`].
    pub fn handle_eof(&mut self, eof: Eof) -> Result<Response, HttpError> {
        match std::mem::replace(&mut self.state, State::Done) {
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
                    // Checked with the first bytes: a server of another protocol may send a banner and
                    // then wait, which would take until the deadline.
                    if !section.may_start_with(b"HTTP/", data) {
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
                        self.state = State::Head(Section::head());
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
                State::Done => return Ok(Progress::Pending),
            }
        }
    }
}

impl fmt::Debug for Exchange {
    /// Omits the bytes, in which a provider may have echoed the API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("started", &self.started).finish_non_exhaustive()
    }
}
