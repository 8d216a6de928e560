//! Reading RESP2, the protocol of Redis, from bytes that arrive in any pieces.

use core::fmt;

/// Longest line: an error, a status or a number. Those of Redis are much shorter.
pub const MAX_LINE: usize = 4096;

/// Bytes of a string that are kept. Of a longer one, such as the last entry of a stream of another
/// program, the rest is skipped.
pub const MAX_KEPT: usize = 256;

/// Longest string, as in Redis.
const MAX_BULK: usize = 512 << 20;

/// Longest array.
const MAX_ARRAY: usize = 1 << 20;

/// A part of a reply. The elements of an array follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A status, such as `OK`.
    Simple(&'a [u8]),
    /// An error.
    Error(&'a [u8]),
    /// An integer.
    Integer(i64),
    /// The first [`MAX_KEPT`] bytes of a string.
    Bulk(&'a [u8]),
    /// A null string or array.
    Null,
    /// An array of this length.
    Array(usize),
}

/// What is not RESP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// A reply begins with another byte.
    Type,
    /// A line is longer than [`MAX_LINE`], or does not end in CR LF.
    Line,
    /// A number is not valid, or too large.
    Number,
    /// A string does not end where it should.
    BulkEnd,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Type => "the server does not speak the protocol of Redis",
            Self::Line => "a line of the server is too long or not complete",
            Self::Number => "the server has sent a number that is not valid",
            Self::BulkEnd => "the server has sent a string that does not end where it should",
        })
    }
}

/// The reader. Memory is bounded by [`MAX_LINE`].
#[derive(Debug, Default)]
pub struct Reader {
    /// The current line, or what is kept of the current string.
    held: Vec<u8>,
    state: State,
    /// True if `held` was returned with the last token.
    is_returned: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Line,
    /// A string of which this many bytes are left, CR LF included.
    Bulk(usize),
}

impl Reader {
    /// Returns the next token of `input`, which is advanced, or `None` if it is not complete: `input` is
    /// empty then.
    ///
    /// # Errors
    ///
    /// If the input is not RESP2. The connection cannot be used any more.
    pub fn next<'s>(&'s mut self, input: &mut &[u8]) -> Result<Option<Token<'s>>, Malformed> {
        if core::mem::take(&mut self.is_returned) {
            self.held.clear();
        }
        if self.state == State::Line {
            if !self.fill_line(input)? {
                return Ok(None);
            }
            if self.held.first() != Some(&b'$') {
                self.is_returned = true;
                return token(&self.held).map(Some);
            }
            let length = length(&self.held[1..], MAX_BULK)?;
            self.held.clear();
            let Some(length) = length else { return Ok(Some(Token::Null)) };
            self.state = State::Bulk(length + 2);
        }
        if !self.fill_bulk(input)? {
            return Ok(None);
        }
        self.state = State::Line;
        self.is_returned = true;
        Ok(Some(Token::Bulk(&self.held)))
    }

    /// Skips `status`, a complete status, if the input begins with it. Returns false if it does not, or if
    /// a token is being read.
    pub fn skip_status(&self, input: &mut &[u8], status: &[u8]) -> bool {
        let rest = if self.is_between() { input.strip_prefix(status) } else { None };
        *input = rest.unwrap_or(input);
        rest.is_some()
    }

    /// Skips a complete string of 10 to 99 bytes, if the input begins with one. Returns false if it does
    /// not, or if a token is being read.
    pub fn skip_string(&self, input: &mut &[u8]) -> bool {
        let [b'$', tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', rest @ ..] = *input else {
            return false;
        };
        let length = usize::from(tens - b'0') * 10 + usize::from(ones - b'0');
        let is_complete = rest.get(length..length + 2) == Some(b"\r\n") && self.is_between();
        if is_complete {
            *input = &rest[length + 2..];
        }
        is_complete
    }

    /// Whether the next byte begins a token.
    const fn is_between(&self) -> bool {
        matches!(self.state, State::Line) && (self.held.is_empty() || self.is_returned)
    }

    /// Moves bytes to the line. Returns true once it is complete; it is kept without CR LF.
    fn fill_line(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        // Checked with the first byte: the server of another protocol may then wait for more.
        if self.held.is_empty()
            && input.first().is_some_and(|first| !matches!(first, b'+' | b'-' | b':' | b'$' | b'*'))
        {
            return Err(Malformed::Type);
        }
        let end = memchr::memchr(b'\n', input);
        let taken = end.map_or(input.len(), |end| end + 1);
        if self.held.len() + taken > MAX_LINE {
            return Err(Malformed::Line);
        }
        self.held.extend_from_slice(&input[..taken]);
        *input = &input[taken..];
        if end.is_none() {
            return Ok(false);
        }
        let Some(line) = self.held.strip_suffix(b"\r\n") else { return Err(Malformed::Line) };
        self.held.truncate(line.len());
        Ok(true)
    }

    /// Moves bytes to the string. Returns true once it is complete.
    fn fill_bulk(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        let State::Bulk(left) = &mut self.state else { return Ok(true) };
        let content = left.saturating_sub(2).min(input.len());
        let kept = content.min(MAX_KEPT - self.held.len());
        self.held.extend_from_slice(&input[..kept]);
        *input = &input[content..];
        *left -= content;
        while *left <= 2 && *left > 0 {
            let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
            if byte != if *left == 2 { b'\r' } else { b'\n' } {
                return Err(Malformed::BulkEnd);
            }
            *input = rest;
            *left -= 1;
        }
        Ok(*left == 0)
    }
}

/// Parses a complete line other than that of a string.
fn token(line: &[u8]) -> Result<Token<'_>, Malformed> {
    let (&kind, rest) = line.split_first().ok_or(Malformed::Line)?;
    Ok(match kind {
        b'+' => Token::Simple(rest),
        b'-' => Token::Error(rest),
        b':' => {
            let text = str::from_utf8(rest).map_err(|_| Malformed::Number)?;
            Token::Integer(text.parse().map_err(|_| Malformed::Number)?)
        }
        b'*' => length(rest, MAX_ARRAY)?.map_or(Token::Null, Token::Array),
        _ => return Err(Malformed::Type),
    })
}

/// Parses a length; `None` for that of a null.
fn length(text: &[u8], most: usize) -> Result<Option<usize>, Malformed> {
    if text == b"-1" {
        return Ok(None);
    }
    let text = str::from_utf8(text).map_err(|_| Malformed::Number)?;
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|&number| is_plain && number <= most);
    number.map(Some).ok_or(Malformed::Number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens of a stream that arrives in pieces, as text.
    fn read(pieces: &[&[u8]]) -> Result<Vec<String>, Malformed> {
        let (mut reader, mut tokens) = (Reader::default(), Vec::new());
        for mut piece in pieces.iter().copied() {
            while let Some(token) = reader.next(&mut piece)? {
                tokens.push(match token {
                    Token::Simple(text) => format!("+{}", text.escape_ascii()),
                    Token::Error(text) => format!("-{}", text.escape_ascii()),
                    Token::Bulk(text) => format!("${}", text.escape_ascii()),
                    other => format!("{other:?}"),
                });
            }
            assert!(piece.is_empty(), "everything is consumed");
        }
        Ok(tokens)
    }

    const REPLIES: &[u8] =
        b"+OK\r\n-ERR no\r\n:-12\r\n$5\r\na\r\nb\xff\r\n$0\r\n\r\n$-1\r\n*-1\r\n\
        *2\r\n$1\r\na\r\n*1\r\n:7\r\n+\r\n";

    #[test]
    fn every_split_gives_the_same_tokens() {
        let whole = read(&[REPLIES]).unwrap();
        let expected = [
            "+OK",
            "-ERR no",
            "Integer(-12)",
            "$a\\r\\nb\\xff",
            "$",
            "Null",
            "Null",
            "Array(2)",
            "$a",
            "Array(1)",
            "Integer(7)",
            "+",
        ];
        assert_eq!(whole, expected);
        for first in 0..=REPLIES.len() {
            for second in first..=REPLIES.len() {
                let pieces = [&REPLIES[..first], &REPLIES[first..second], &REPLIES[second..]];
                assert_eq!(read(&pieces).unwrap(), whole, "{first} {second}");
            }
        }
        let bytes: Vec<&[u8]> = REPLIES.chunks(1).collect();
        assert_eq!(read(&bytes).unwrap(), whole);
    }

    #[test]
    fn only_what_is_complete_and_begins_here_is_skipped() {
        let status = b"+QUEUED\r\n";
        let string = b"$12\r\n123456789-12\r\n";
        let mut reader = Reader::default();
        for length in 0..string.len() {
            assert!(!reader.skip_string(&mut &string[..length]));
            assert!(!reader.skip_status(&mut &status[..length.min(8)], status));
        }
        let mut input = &[&status[..], string, b":1\r\n"].concat()[..];
        assert!(reader.skip_status(&mut input, status) && reader.skip_string(&mut input));
        assert!(!reader.skip_string(&mut input) && !reader.skip_status(&mut input, status));
        assert_eq!(reader.next(&mut input), Ok(Some(Token::Integer(1))));
        assert!(reader.skip_status(&mut &status[..], status), "a token was returned");
        assert_eq!(reader.next(&mut &b"$40\r\n1"[..]), Ok(None));
        assert!(!reader.skip_string(&mut &string[..]), "they are part of a string");
        assert!(!reader.skip_status(&mut &status[..], status));
        let (mut reader, ends) = (Reader::default(), b"$12\r\n123456789-1234");
        assert!(!reader.skip_string(&mut &ends[..]), "it does not end where it should");
        assert_eq!(reader.next(&mut &ends[..]), Err(Malformed::BulkEnd));
    }

    #[test]
    fn a_long_string_is_skipped_in_bounded_memory() {
        let mut reader = Reader::default();
        let head = format!("${}\r\n", 10 << 20);
        let mut input = head.as_bytes();
        assert_eq!(reader.next(&mut input), Ok(None));
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..10 {
            assert_eq!(reader.next(&mut &piece[..]), Ok(None));
            assert!(reader.held.capacity() <= 2 * MAX_KEPT);
        }
        let mut end = &b"\r\n:1\r\n"[..];
        assert_eq!(reader.next(&mut end), Ok(Some(Token::Bulk(&[b'x'; MAX_KEPT]))));
        assert_eq!(reader.next(&mut end), Ok(Some(Token::Integer(1))));
    }

    #[test]
    fn what_is_not_resp_is_rejected() {
        for (input, error) in [
            (&b"HTTP/1.1"[..], Malformed::Type),
            (b"\x15\x03", Malformed::Type),
            (b"+OK\n", Malformed::Line),
            (b":1x\r\n", Malformed::Number),
            (b":\r\n", Malformed::Number),
            (b"$-2\r\n", Malformed::Number),
            (b"$+1\r\n", Malformed::Number),
            (b"$536870913\r\n", Malformed::Number),
            (b"*1048577\r\n", Malformed::Number),
            (b"*99999999999999999999\r\n", Malformed::Number),
            (b"$1\r\nab\r\n", Malformed::BulkEnd),
            (b"$1\r\na\n\n", Malformed::BulkEnd),
        ] {
            assert_eq!(read(&[input]), Err(error), "{}", input.escape_ascii());
        }
        let long = [b"+".as_slice(), &[b'x'; MAX_LINE]].concat();
        assert_eq!(read(&[&long]), Err(Malformed::Line));
    }
}
