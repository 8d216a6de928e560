//! A response body while it arrives, and the chunked transfer coding (RFC 9112, section 7.1).

use httparse::EMPTY_HEADER;
use memchr::memchr;

use super::HttpError;
use super::head::Framing;
use super::section::Section;
use crate::places::limits::{
    MAX_BODY_BYTES, MAX_CHUNK_EXTENSION_BYTES, MAX_CHUNK_LINE_BYTES, MAX_HEADERS, MAX_TRAILER_BYTES,
};

/// A body, decoded as far as it has arrived.
#[derive(Debug)]
pub(super) enum Body {
    Length { left: usize, bytes: Vec<u8> },
    Chunked(Chunked),
    UntilClose(Vec<u8>),
}

impl Body {
    pub(super) fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(left) => Self::Length { left, bytes: Vec::new() },
            Framing::Chunked => Self::Chunked(Chunked::default()),
            Framing::UntilClose => Self::UntilClose(Vec::new()),
        }
    }

    /// Takes the body's part of `data`. `Some` with the number of bytes used when the body is
    /// whole, `None` when all of `data` was used and more must come.
    pub(super) fn push(&mut self, data: &[u8]) -> Result<Option<usize>, HttpError> {
        match self {
            Self::Length { left, bytes } => {
                let used = data.len().min(*left);
                bytes.extend_from_slice(&data[..used]);
                *left -= used;
                Ok((*left == 0).then_some(used))
            }
            Self::Chunked(chunked) => chunked.push(data),
            Self::UntilClose(bytes) => {
                if data.len() > MAX_BODY_BYTES - bytes.len() {
                    return Err(HttpError::BodyTooLong);
                }
                bytes.extend_from_slice(data);
                Ok(None)
            }
        }
    }

    /// The bytes of a body that is whole.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Length { bytes, .. } | Self::UntilClose(bytes) => bytes,
            Self::Chunked(chunked) => &mut chunked.bytes,
        })
    }
}

/// The decoder of chunks.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    bytes: Vec<u8>,
    extensions: usize,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// A chunk-size line, so far without its LF.
    Size(Vec<u8>),
    /// This many bytes of a chunk's data are still to come.
    Data(usize),
    /// The CRLF behind a chunk's data; `true` once CR is there.
    DataEnd(bool),
    Trailer(Section),
}

impl Default for Step {
    fn default() -> Self {
        Self::Size(Vec::new())
    }
}

impl Chunked {
    fn push(&mut self, data: &[u8]) -> Result<Option<usize>, HttpError> {
        let mut used = 0;
        while used < data.len() {
            let rest = &data[used..];
            match &mut self.step {
                Step::Size(line) => {
                    let newline = memchr(b'\n', rest);
                    let piece = &rest[..newline.unwrap_or(rest.len())];
                    // One more for the CR, which is not counted.
                    if line.len() + piece.len() > MAX_CHUNK_LINE_BYTES + 1 {
                        return Err(HttpError::ChunkExtension);
                    }
                    line.extend_from_slice(piece);
                    used += piece.len();
                    if newline.is_some() {
                        used += 1;
                        let line = std::mem::take(line);
                        self.step = self.begin(&line)?;
                    }
                }
                Step::Data(left) => {
                    let piece = &rest[..rest.len().min(*left)];
                    self.bytes.extend_from_slice(piece);
                    used += piece.len();
                    *left -= piece.len();
                    if *left == 0 {
                        self.step = Step::DataEnd(false);
                    }
                }
                Step::DataEnd(cr) => {
                    let expected = if *cr { b'\n' } else { b'\r' };
                    if rest[0] != expected {
                        return Err(HttpError::ChunkEnd);
                    }
                    used += 1;
                    self.step = if *cr { Step::default() } else { Step::DataEnd(true) };
                }
                Step::Trailer(section) => {
                    let Some(end) =
                        section.push(rest, MAX_TRAILER_BYTES, HttpError::TrailerTooLong)?
                    else {
                        return Ok(None);
                    };
                    check_trailer(section.bytes())?;
                    return Ok(Some(used + end));
                }
            }
        }
        Ok(None)
    }

    /// What follows a chunk-size line, given without its LF.
    fn begin(&mut self, line: &[u8]) -> Result<Step, HttpError> {
        let line = line.strip_suffix(b"\r").ok_or(HttpError::ChunkSize)?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        let size = chunk_size(size).ok_or(HttpError::ChunkSize)?;
        if !extension.is_empty() {
            // chunk-ext = *( BWS ";" BWS chunk-ext-name … )
            match extension.trim_ascii_start().first() {
                Some(b';') => {}
                _ => return Err(HttpError::ChunkSize),
            }
            self.extensions += extension.len();
            let control = |&b: &u8| b.is_ascii_control() && b != b'\t';
            if extension.iter().any(control) || self.extensions > MAX_CHUNK_EXTENSION_BYTES {
                return Err(HttpError::ChunkExtension);
            }
        }
        if size > (MAX_BODY_BYTES - self.bytes.len()) as u64 {
            return Err(HttpError::BodyTooLong);
        }
        Ok(if size == 0 { Step::Trailer(Section::default()) } else { Step::Data(size as usize) })
    }
}

/// One to sixteen hexadecimal digits, so that nothing overflows. No digits are no size: taken for
/// 0 they would end the body early.
fn chunk_size(digits: &[u8]) -> Option<u64> {
    if digits.len() > 16 {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Trailer fields are dropped (RFC 9112, section 7.1.2), but they must be fields.
fn check_trailer(bytes: &[u8]) -> Result<(), HttpError> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete((used, _))) if used == bytes.len() => Ok(()),
        Ok(_) => Err(HttpError::Malformed(httparse::Error::HeaderName)),
        Err(error) => Err(HttpError::Malformed(error)),
    }
}
