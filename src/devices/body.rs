//! A body while it arrives, and the decoder of the chunked transfer coding (RFC 9112, section 7.1).

use crate::devices::request::Framing;
use crate::http::limits::MAX_HEAD;
use crate::http::request::Rejection;
use crate::http::response::Status;

/// Longest line with the size of a chunk, without its CR LF. No device sends extensions.
const MAX_CHUNK_LINE: usize = 256;

/// Bytes that a buffer grows by at least, so that it is not copied for each packet.
const LEAST_GROWTH: usize = 16 * 1024;

/// A body, decoded as far as it has arrived.
pub struct Body {
    bytes: Vec<u8>,
    step: Step,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// This many bytes of a body of known length are missing.
    Length(usize),
    /// The line with the size of a chunk follows.
    Size,
    /// This many bytes of a chunk are missing.
    Data(usize),
    /// The CR LF after a chunk follows.
    DataEnd,
    /// Trailer fields follow, of which this many bytes have been read.
    Trailer(usize),
    Complete,
}

impl Body {
    /// Returns a body of which nothing has arrived, with at most `max` bytes.
    ///
    /// # Errors
    ///
    /// It is longer.
    pub fn new(framing: Framing, max: usize) -> Result<Self, Rejection> {
        let step = match framing {
            Framing::Length(length) if length > max as u64 => return Err(too_long()),
            Framing::Length(0) => Step::Complete,
            Framing::Length(length) => Step::Length(length as usize),
            Framing::Chunked => Step::Size,
        };
        Ok(Self { bytes: Vec::new(), step, max })
    }

    /// Returns true if nothing is missing.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        matches!(self.step, Step::Complete)
    }

    /// The bytes so far.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The memory that it occupies.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Consumes what belongs to the body from the start of `input`, and returns its length. What is
    /// left, if the body is not complete, must be passed again with what follows it.
    ///
    /// # Errors
    ///
    /// The body is too long, or its chunks are not valid.
    pub fn push(&mut self, input: &[u8]) -> Result<usize, Rejection> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            match self.step {
                Step::Complete => return Ok(at),
                Step::Length(left) | Step::Data(left) => {
                    let piece = &rest[..rest.len().min(left)];
                    self.reserve(piece.len(), left);
                    self.bytes.extend_from_slice(piece);
                    at += piece.len();
                    self.step = match (self.step, left - piece.len()) {
                        (Step::Length(_), 0) => Step::Complete,
                        (Step::Length(_), left) => Step::Length(left),
                        (_, 0) => Step::DataEnd,
                        (_, left) => Step::Data(left),
                    };
                    if piece.len() < left {
                        return Ok(at);
                    }
                }
                Step::DataEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        at += 2;
                        self.step = Step::Size;
                    }
                    [] | [b'\r'] => return Ok(at),
                    _ => return Err(Rejection::bad("a chunk is longer than its size")),
                },
                Step::Size => {
                    let Some(line) = line(rest, MAX_CHUNK_LINE)? else { return Ok(at) };
                    at += line.len() + 2;
                    self.step = match chunk_size(line)? {
                        0 => Step::Trailer(0),
                        size if size > (self.max - self.bytes.len()) as u64 => {
                            return Err(too_long());
                        }
                        size => Step::Data(size as usize),
                    };
                }
                Step::Trailer(read) => {
                    let Some(line) = line(rest, MAX_HEAD - read.min(MAX_HEAD))? else {
                        return Ok(at);
                    };
                    at += line.len() + 2;
                    let is_field = matches!(memchr::memchr(b':', line), Some(1..))
                        && !line[0].is_ascii_whitespace();
                    self.step = match line {
                        [] => Step::Complete,
                        _ if is_field => Step::Trailer(read + line.len() + 2),
                        _ => return Err(Rejection::bad("a trailer field is not valid")),
                    };
                }
            }
        }
    }

    /// Makes room for `more` bytes, at least doubling the buffer, but for no more than can follow.
    fn reserve(&mut self, more: usize, left: usize) {
        if self.bytes.capacity() - self.bytes.len() < more {
            let most = match self.step {
                Step::Length(_) => left,
                _ => self.max - self.bytes.len(),
            };
            let growth = self.bytes.len().max(LEAST_GROWTH).min(most);
            self.bytes.reserve_exact(growth.max(more));
        }
    }
}

/// Returns the line at the start of `rest` without its CR LF, or `None` if it is incomplete.
fn line(rest: &[u8], max: usize) -> Result<Option<&[u8]>, Rejection> {
    let Some(at) = memchr::memchr(b'\n', &rest[..rest.len().min(max + 2)]) else {
        let is_too_long = rest.len() > max + 1;
        let reason = "a line of the chunked body is too long";
        return if is_too_long { Err(Rejection::bad(reason)) } else { Ok(None) };
    };
    let line = rest[..at].strip_suffix(b"\r");
    let is_text = |line: &&[u8]| !line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t');
    match line.filter(is_text) {
        Some(line) => Ok(Some(line)),
        None => Err(Rejection::bad("a line of the chunked body does not end with CR LF")),
    }
}

/// Returns the size in the line of a chunk. An empty size is an error: taken for 0, it would end the
/// body early.
fn chunk_size(line: &[u8]) -> Result<u64, Rejection> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at(digits);
    let is_extension = matches!(extension.trim_ascii_start(), [] | [b';', ..]);
    let size = str::from_utf8(size).ok().filter(|size| size.len() <= 16 && is_extension);
    size.and_then(|size| u64::from_str_radix(size, 16).ok())
        .ok_or_else(|| Rejection::bad("the size of a chunk is not valid"))
}

fn too_long() -> Rejection {
    Rejection::new(Status::CONTENT_TOO_LARGE, "the body is too long; see devices.max_body")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Write as _;

    /// A body and the bytes after it; `Ok(None)` if it is incomplete, or the status of its rejection.
    type Decoded = Result<Option<(Vec<u8>, Vec<u8>)>, u16>;

    /// Decodes `input`, which arrives in pieces of `step` bytes.
    fn decode(framing: Framing, max: usize, input: &[u8], step: usize) -> Decoded {
        let mut body = Body::new(framing, max).map_err(|it| it.status.code())?;
        let (mut held, mut at) = (Vec::new(), 0);
        loop {
            let consumed = body.push(&held).map_err(|it| it.status.code())?;
            held.drain(..consumed);
            assert!(body.capacity() <= max.max(LEAST_GROWTH), "{}", body.capacity());
            assert!(held.len() <= MAX_HEAD + 2 || body.is_complete());
            if body.is_complete() {
                held.extend_from_slice(&input[at..]);
                return Ok(Some((body.bytes().to_vec(), held)));
            }
            if at == input.len() {
                return Ok(None);
            }
            let end = input.len().min(at + step);
            held.extend_from_slice(&input[at..end]);
            at = end;
        }
    }

    fn chunked(input: &[u8]) -> Decoded {
        let all = decode(Framing::Chunked, 100, input, input.len().max(1));
        for step in [1, 2, 3, 7] {
            assert_eq!(decode(Framing::Chunked, 100, input, step), all, "in pieces of {step}");
        }
        all
    }

    #[test]
    fn chunks_are_decoded_strictly() {
        let some = |body: &[u8], rest: &[u8]| Ok(Some((body.to_vec(), rest.to_vec())));
        assert_eq!(chunked(b"3\r\nabc\r\n0\r\n\r\nGET"), some(b"abc", b"GET"));
        assert_eq!(
            chunked(b"03\r\nabc\r\nA \t;x=\"y\"\r\n0123456789\r\n000\r\nX: y\r\n\r\n"),
            some(b"abc0123456789", b"")
        );
        assert_eq!(chunked(b"0\r\n\r\n"), some(b"", b""));
        for partial in [
            &b""[..],
            b"3",
            b"3\r",
            b"3\r\n",
            b"3\r\nabc",
            b"3\r\nabc\r",
            b"0\r\n",
            b"0\r\n\r",
            b"0\r\nX: y\r\n",
        ] {
            assert_eq!(chunked(partial), Ok(None), "{}", partial.escape_ascii());
        }
        for bad in [
            &b"\r\n"[..],
            b"3\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc",
            b"3 x\r\n",
            b"+3\r\n",
            b"0x3\r\n",
            b"-1\r\n",
            b"g\r\n",
            b"3\r\nabcd\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"00000000000000003\r\n",
            b"3;\x01\r\n",
            b"0\r\n:\r\n",
            b"0\r\n x: y\r\n",
            b"0\r\nno field\r\n",
            b"0\r\nX: y\n\r\n",
        ] {
            assert_eq!(chunked(bad), Err(400), "{}", bad.escape_ascii());
        }
        assert_eq!(chunked(b"65\r\n"), Err(413));
        assert_eq!(chunked(b"1\r\nx\r\n64\r\n"), Err(413));
        assert_eq!(chunked(b"ffffffffffffffff\r\n"), Err(413));
        assert_eq!(chunked(&[b'0'; MAX_CHUNK_LINE + 2]), Err(400));
        let trailer = [&b"0\r\n"[..], &b"X: y\r\n".repeat(MAX_HEAD / 6 + 1)].concat();
        assert_eq!(chunked(&trailer), Err(400));
    }

    #[test]
    fn a_body_of_known_length_ends_there() {
        let decode = |length, input: &[u8]| decode(Framing::Length(length), 5, input, 2);
        assert_eq!(decode(3, b"abcd"), Ok(Some((b"abc".to_vec(), b"d".to_vec()))));
        assert_eq!(decode(0, b"x"), Ok(Some((Vec::new(), b"x".to_vec()))));
        assert_eq!(decode(5, b"abcd"), Ok(None));
        assert_eq!(decode(6, b""), Err(413));
        assert_eq!(decode(u64::MAX, b""), Err(413));
    }

    proptest! {
        #[test]
        fn chunks_are_the_body(parts in proptest::collection::vec("[a-z]{1,40}", 0..5)) {
            let mut sent = String::new();
            for part in &parts {
                write!(sent, "{:x}\r\n{part}\r\n", part.len()).unwrap();
            }
            sent += "0\r\n\r\n";
            for step in [1, 5, 1000] {
                let decoded = decode(Framing::Chunked, 1000, sent.as_bytes(), step);
                prop_assert_eq!(decoded, Ok(Some((parts.concat().into_bytes(), Vec::new()))));
            }
        }

        #[test]
        fn any_bytes_are_chunks_or_not(input in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'1'), any::<u8>()], 0..40)) {
            let _ = chunked(&input);
        }
    }
}
