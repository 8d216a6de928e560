//! A body while it arrives, and the decoder of the chunked transfer coding (RFC 9112, section 7.1).

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

    /// Consumes the part of `data` that belongs to the body. Returns the number of bytes consumed if
    /// the body is complete, and `None` if all of `data` was consumed and it is not.
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

    /// Takes the bytes of a complete body.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Length { bytes, .. } | Self::UntilClose(bytes) => bytes,
            Self::Chunked(chunked) => &mut chunked.bytes,
        })
    }
}

/// The state of the chunked decoder.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    bytes: Vec<u8>,
    extensions: usize,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// A chunk-size line, without its LF.
    Size(Vec<u8>),
    /// The number of bytes of a chunk's data that are missing.
    Data(usize),
    /// The CR after the data of a chunk.
    DataCr,
    /// The LF after that CR.
    DataLf,
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
                    // Plus one for the CR, which the limit does not include.
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
                        self.step = Step::DataCr;
                    }
                }
                Step::DataCr if rest[0] == b'\r' => {
                    used += 1;
                    self.step = Step::DataLf;
                }
                Step::DataLf if rest[0] == b'\n' => {
                    used += 1;
                    self.step = Step::default();
                }
                Step::DataCr | Step::DataLf => return Err(HttpError::ChunkEnd),
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

    /// Parses a chunk-size line, given without its LF, and returns the next step.
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
        Ok(if size == 0 { Step::Trailer(Section::trailer()) } else { Step::Data(size as usize) })
    }
}

/// Parses one to sixteen hexadecimal digits, which cannot overflow. An empty size is an error: taken
/// for 0, it would end the body early.
fn chunk_size(digits: &[u8]) -> Option<u64> {
    if digits.len() > 16 {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Validates trailer fields, which are then dropped (RFC 9112, section 7.1.2).
fn check_trailer(bytes: &[u8]) -> Result<(), HttpError> {
    let mut headers = [EMPTY_HEADER; MAX_HEADERS];
    match httparse::parse_headers(bytes, &mut headers) {
        Ok(httparse::Status::Complete((used, _))) if used == bytes.len() => Ok(()),
        Ok(_) => Err(HttpError::Malformed(httparse::Error::HeaderName)),
        Err(error) => Err(HttpError::Malformed(error)),
    }
}
