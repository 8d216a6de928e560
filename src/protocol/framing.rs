//! Splitting a byte stream into lines.

/// The start of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// A complete line without its LF, and the number of bytes that it consumes.
    Line(&'a [u8], usize),
    /// A line longer than the limit, as far as it has been received. Nothing after it is processed.
    Overlong(&'a [u8]),
    /// An incomplete line: call again with these bytes and more.
    Partial,
}

/// Finds line ends. The caller buffers unconsumed input, at most `max_line` bytes, and passes it
/// again together with the bytes that follow.
#[derive(Clone, Debug)]
pub struct Framing {
    max_line: usize,
    /// Length of the partial line that has been searched, so that no byte is searched twice.
    searched: usize,
}

impl Framing {
    /// Creates a framer with a limit of `max_line` bytes per line, not counting LF.
    #[must_use]
    pub const fn new(max_line: usize) -> Self {
        Self { max_line, searched: 0 }
    }

    /// Changes the limit: lines of links may be longer than those of clients.
    pub const fn set_max_line(&mut self, max_line: usize) {
        self.max_line = max_line;
    }

    /// Returns the line at the start of `input`. If `end` is true, the stream ends after `input`,
    /// and the last line may lack its LF.
    #[must_use]
    pub fn next<'a>(&mut self, input: &'a [u8], end: bool) -> Framed<'a> {
        let searched = self.searched.min(input.len());
        if let Some(found) = memchr::memchr(b'\n', &input[searched..]) {
            return self.next_known(input, searched + found);
        }
        if input.len() > self.max_line {
            return Framed::Overlong(input);
        }
        if end && !input.is_empty() {
            self.searched = 0;
            return Framed::Line(input, input.len());
        }
        self.searched = input.len();
        Framed::Partial
    }

    /// As [`Framing::next`], if the first LF is known to be at `length`.
    #[must_use]
    #[inline]
    pub const fn next_known<'a>(&mut self, input: &'a [u8], length: usize) -> Framed<'a> {
        self.searched = 0;
        let (line, _) = input.split_at(length);
        if length > self.max_line {
            return Framed::Overlong(line);
        }
        Framed::Line(line, length + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq)]
    enum Seen {
        Line(Vec<u8>),
        Overlong(Vec<u8>),
    }

    /// Feeds `chunks` like a connection does: unconsumed bytes are kept and passed again.
    fn run(max_line: usize, chunks: &[&[u8]]) -> Vec<Seen> {
        let mut framing = Framing::new(max_line);
        let mut seen = Vec::new();
        let mut held = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            held.extend_from_slice(chunk);
            let end = i + 1 == chunks.len();
            let mut at = 0;
            loop {
                match framing.next(&held[at..], end) {
                    Framed::Line(line, taken) => {
                        seen.push(Seen::Line(line.to_vec()));
                        at += taken;
                    }
                    Framed::Overlong(start) => {
                        seen.push(Seen::Overlong(start[..max_line].to_vec()));
                        return seen;
                    }
                    Framed::Partial => break,
                }
            }
            held.drain(..at);
            assert!(held.len() <= max_line, "held {} bytes", held.len());
        }
        seen
    }

    #[test]
    fn the_limit_counts_bytes_before_lf() {
        assert_eq!(run(4, &[b"abcd\n"]), [Seen::Line(b"abcd".to_vec())]);
        assert_eq!(run(4, &[b"abcde\n"]), [Seen::Overlong(b"abcd".to_vec())]);
        assert_eq!(run(4, &[b"abcd", b"e"]), [Seen::Overlong(b"abcd".to_vec())]);
        assert_eq!(run(4, &[b"ab", b"cd"]), [Seen::Line(b"abcd".to_vec())]);
        assert_eq!(run(4, &[b"a\n"]), [Seen::Line(b"a".to_vec())]);
    }

    proptest! {
        #[test]
        fn any_split_yields_the_same_lines(
            input in proptest::collection::vec(prop_oneof![3 => Just(b'a'), 1 => Just(b'\n'), 1 => any::<u8>()], 0..40),
        ) {
            let expected = run(6, &[&input]);
            for cut in 0..=input.len() {
                prop_assert_eq!(&run(6, &[&input[..cut], &input[cut..]]), &expected);
            }
            let bytes: Vec<&[u8]> = input.chunks(1).collect();
            if !bytes.is_empty() {
                prop_assert_eq!(&run(6, &bytes), &expected);
            }
        }
    }
}
