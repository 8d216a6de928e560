//! The head of a response: the framing of its body and the fate of its connection.

use std::time::Duration;

use httparse::EMPTY_HEADER;

use super::{HttpError, Response};
use crate::places::limits::{MAX_BODY_BYTES, MAX_HEADERS, MAX_RETRY_AFTER};

/// The framing of a body (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Framing {
    /// This many bytes; 0 for statuses that never have a body.
    Length(usize),
    /// The chunked transfer coding.
    Chunked,
    /// The end of the stream.
    #[default]
    UntilClose,
}

/// The input after a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Nothing,
    /// More bytes, although there was no further request.
    Surplus,
    /// The end of the stream.
    Eof,
}

/// The relevant contents of a head.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// True for an interim response (1xx), which precedes the final one.
    pub(super) interim: bool,
    pub(super) framing: Framing,
    status: u16,
    keep_alive: bool,
    retry_after: Option<Duration>,
    location: Option<String>,
}

impl Head {
    /// Parses a complete head, including its empty line.
    pub(super) fn parse(bytes: &mut [u8]) -> Result<Self, HttpError> {
        // A higher minor version is processed as the highest known one (RFC 9110, section 2.5).
        if let Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'2'..=b'9']) =
            bytes.first_chunk_mut()
        {
            *minor = b'1';
        }
        let mut headers = [EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(bytes) {
            Ok(httparse::Status::Complete(used)) if used == bytes.len() => {}
            // The section ends with an empty line, so anything but a complete head is malformed.
            Ok(_) => return Err(HttpError::Malformed(httparse::Error::Status)),
            Err(error) => return Err(HttpError::Malformed(error)),
        }
        let status = response.code.unwrap_or_default();
        match status {
            101 => return Err(HttpError::SwitchingProtocols),
            // An interim response has no body, even if it claims a framing.
            100..=199 => return Ok(Self { interim: true, status, ..Self::default() }),
            200..=599 => {}
            _ => return Err(HttpError::StatusCode),
        }
        let fields = Fields::read(response.headers)?;
        let http_1_1 = response.version == Some(1);
        if fields.chunked && !http_1_1 {
            return Err(HttpError::TransferEncoding);
        }
        let framing = match (fields.chunked, fields.length) {
            (true, Some(_)) => return Err(HttpError::LengthAndEncoding),
            _ if matches!(status, 204 | 304) => Framing::Length(0),
            (true, None) => Framing::Chunked,
            (false, Some(length)) if length > MAX_BODY_BYTES => return Err(HttpError::BodyTooLong),
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        // A server that announces a body in a 204 or 304 may also send it: do not reuse the connection.
        let announced = fields.chunked || fields.length.is_some_and(|length| length > 0);
        let may_send_body = matches!(status, 204 | 304) && announced;
        Ok(Self {
            interim: false,
            framing,
            status,
            keep_alive: !fields.close && (http_1_1 || fields.keep_alive) && !may_send_body,
            retry_after: fields.retry_after,
            location: fields.location,
        })
    }

    /// Returns the response, given its complete body.
    pub(super) fn finish(self, body: Vec<u8>, follows: Follows) -> Response {
        Response {
            status: self.status,
            body,
            reusable: follows == Follows::Nothing && self.keep_alive,
            retry_after: self.retry_after,
            location: self.location,
        }
    }
}

/// The relevant header fields.
#[derive(Default)]
struct Fields {
    length: Option<usize>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    retry_after: Option<Duration>,
    location: Option<String>,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Self, HttpError> {
        let mut fields = Self::default();
        for header in headers {
            let value = header.value;
            if header.name.eq_ignore_ascii_case("content-length") {
                // RFC 9110, section 8.6: repeated values may be rejected even if they agree.
                if fields.length.is_some() {
                    return Err(HttpError::ContentLength);
                }
                fields.length = Some(number(value).ok_or(HttpError::ContentLength)?);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if fields.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(HttpError::TransferEncoding);
                }
                fields.chunked = true;
            } else if header.name.eq_ignore_ascii_case("content-encoding") {
                // A list, in which elements may be empty (RFC 9110, section 5.6.1).
                let mut codings = value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
                if !codings.all(|it| it.is_empty() || it.eq_ignore_ascii_case(b"identity")) {
                    return Err(HttpError::ContentEncoding);
                }
            } else if header.name.eq_ignore_ascii_case("connection") {
                for token in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    fields.close |= token.eq_ignore_ascii_case(b"close");
                    fields.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if header.name.eq_ignore_ascii_case("retry-after") {
                // Only delay-seconds (RFC 9110, section 10.2.3). The date form would require the wall
                // clock; the pauses of the circuit breaker apply instead.
                fields.retry_after = number(value)
                    .map(|seconds| Duration::from_secs(seconds as u64).min(MAX_RETRY_AFTER));
            } else if header.name.eq_ignore_ascii_case("location") {
                fields.location = std::str::from_utf8(value).ok().map(str::to_owned);
            }
        }
        Ok(fields)
    }
}

/// Parses `1*DIGIT`: no sign, no list, no white space. Saturates, since any such number exceeds the
/// limit for bodies.
fn number(value: &[u8]) -> Option<usize> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0usize, |sum, digit| {
        sum.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
    }))
}
