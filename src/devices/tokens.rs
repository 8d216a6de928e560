//! Tokens, and the clients that each of them may report.

use core::fmt;
use core::hint::black_box;
use std::collections::HashSet;
use std::sync::Arc;

use ring::digest::{SHA256, digest};

use crate::protocol::is_space;

/// Shortest token, in characters: 16 random characters cannot be guessed.
pub const MIN_TOKEN: usize = 16;

/// Longest token, in characters: it must fit into a URL that is typed or scanned.
pub const MAX_TOKEN: usize = 256;

/// Most tokens in a file. All of them are compared with each token that arrives, which takes some
/// microseconds; a larger fleet shares tokens that end in `*`.
pub const MAX_TOKENS: usize = 10_000;

/// Longest client name or prefix, in bytes, so that a record of it fits on a line.
pub const MAX_NAME: usize = 1024;

/// The tokens of a file. Only their hashes are kept.
pub struct Tokens {
    hashes: Vec<Hash>,
    grants: Vec<Grant>,
}

/// SHA-256 of a token. Comparing hashes reveals nothing about a token through timing.
type Hash = [u64; 4];

/// The clients that a token may report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// This client, regardless of the name of the device.
    Client(Arc<[u8]>),
    /// Every client with this prefix; the device's name is the rest.
    Prefix(Arc<[u8]>),
}

/// A token that a request carries, and what it permits. It has no debug output.
#[derive(Clone)]
pub struct Login {
    /// The clients.
    pub grant: Grant,
    /// The token itself.
    pub token: Box<[u8]>,
}

/// The reason that a file is not valid. It contains no part of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokensError {
    /// Line of the file, from 1.
    pub line: usize,
    /// The problem.
    pub kind: TokensErrorKind,
}

/// A problem on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensErrorKind {
    /// The client is missing.
    NoClient,
    /// There is a field after the client.
    TooManyFields,
    /// The token has fewer than [`MIN_TOKEN`] characters.
    TooShort,
    /// The token has more than [`MAX_TOKEN`] characters.
    TooLong,
    /// The token contains a character that an Authorization field cannot contain.
    BadCharacter,
    /// The client has more than [`MAX_NAME`] bytes.
    NameTooLong,
    /// The token is on an earlier line as well.
    Duplicate,
    /// The file has more than [`MAX_TOKENS`] tokens.
    TooMany,
}

impl Tokens {
    /// Parses a file: lines `TOKEN CLIENT` or `TOKEN PREFIX*`, blank lines, and comments that begin
    /// with `#`.
    ///
    /// # Errors
    ///
    /// The first line that is not valid.
    pub fn parse(file: &[u8]) -> Result<Self, TokensError> {
        let (mut hashes, mut grants) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (at, line) in file.split(|&byte| byte == b'\n').enumerate() {
            let error = |kind| TokensError { line: at + 1, kind };
            let Some((token, grant)) = parse_line(line).map_err(error)? else { continue };
            let hash = hash(token);
            if !seen.insert(hash) {
                return Err(error(TokensErrorKind::Duplicate));
            }
            if hashes.len() == MAX_TOKENS {
                return Err(error(TokensErrorKind::TooMany));
            }
            hashes.push(hash);
            grants.push(grant);
        }
        Ok(Self { hashes, grants })
    }

    /// Returns what `token` permits. The time depends neither on its content nor on that of the file.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<&Grant> {
        let wanted = hash(token);
        let mut found = None;
        for (at, held) in self.hashes.iter().enumerate() {
            let difference = held.iter().zip(wanted).fold(0, |sum, (a, b)| sum | (a ^ b));
            if black_box(difference) == 0 {
                found = Some(at);
            }
        }
        self.grants.get(found?)
    }

    /// The clients and prefixes of all tokens, in the order of the file.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter()
    }
}

/// Shows the number of tokens only.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("count", &self.hashes.len()).finish_non_exhaustive()
    }
}

impl fmt::Display for TokensError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.kind)
    }
}

impl fmt::Display for TokensErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoClient => {
                f.write_str("there is no client; write TOKEN CLIENT or TOKEN PREFIX*")
            }
            Self::TooManyFields => {
                f.write_str("there is text after the client; write TOKEN CLIENT or TOKEN PREFIX*")
            }
            Self::TooShort => {
                write!(f, "the token has fewer than {MIN_TOKEN} characters; use --invite")
            }
            Self::TooLong => {
                write!(f, "the token has more than {MAX_TOKEN} characters; use --invite")
            }
            Self::BadCharacter => {
                f.write_str("a token may contain letters, digits, and -._~+/= only; use --invite")
            }
            Self::NameTooLong => write!(f, "the client has more than {MAX_NAME} bytes"),
            Self::Duplicate => {
                f.write_str("an earlier line has the same token; remove one of them")
            }
            Self::TooMany => {
                write!(f, "the file has more than {MAX_TOKENS} tokens; share tokens that end in *")
            }
        }
    }
}

impl std::error::Error for TokensError {}

/// Returns the token of a line and what it permits, or `None` if there is neither.
fn parse_line(line: &[u8]) -> Result<Option<(&[u8], Grant)>, TokensErrorKind> {
    use TokensErrorKind as Kind;
    let mut fields = line.split(|&byte| is_space(byte)).filter(|field| !field.is_empty());
    let Some(token) = fields.next().filter(|token| token[0] != b'#') else { return Ok(None) };
    // A field that begins with `#` is a comment, not a client.
    let client = fields.next().filter(|client| client[0] != b'#').ok_or(Kind::NoClient)?;
    if fields.next().is_some_and(|field| field[0] != b'#') {
        return Err(Kind::TooManyFields);
    }
    if !token.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte)) {
        return Err(Kind::BadCharacter);
    }
    match token.len() {
        ..MIN_TOKEN => return Err(Kind::TooShort),
        MIN_TOKEN..=MAX_TOKEN => {}
        _ => return Err(Kind::TooLong),
    }
    if client.len() > MAX_NAME {
        return Err(Kind::NameTooLong);
    }
    let grant = match client.strip_suffix(b"*") {
        Some(prefix) => Grant::Prefix(prefix.into()),
        None => Grant::Client(client.into()),
    };
    Ok(Some((token, grant)))
}

fn hash(token: &[u8]) -> Hash {
    let digest = digest(&SHA256, token);
    let (words, _) = digest.as_ref().as_chunks::<8>();
    let mut hash = Hash::default();
    for (word, bytes) in hash.iter_mut().zip(words) {
        *word = u64::from_le_bytes(*bytes);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_permits_a_client_or_a_prefix() {
        let file = b"# fleet\n\n  0123456789abcdef van1  # the old one\r\n\
                     ABCDEFGHIJKLMNOP-._~+/=\tfleet/*\nanother_token_is_bad? x";
        let error = Tokens::parse(file).unwrap_err();
        assert_eq!(error, TokensError { line: 5, kind: TokensErrorKind::BadCharacter });
        let end = file.iter().rposition(|&byte| byte == b'\n').unwrap();
        let tokens = Tokens::parse(&file[..end]).unwrap();
        let client = |name: &[u8]| Grant::Client(name.into());
        assert_eq!(tokens.find(b"0123456789abcdef"), Some(&client(b"van1")));
        let prefix = Grant::Prefix((*b"fleet/").into());
        assert_eq!(tokens.find(b"ABCDEFGHIJKLMNOP-._~+/="), Some(&prefix));
        for other in [&b""[..], b"0123456789abcdeF", b"0123456789abcde", b"0123456789abcdef "] {
            assert_eq!(tokens.find(other), None);
        }
        assert_eq!(tokens.grants().count(), 2);
    }

    #[test]
    fn errors_name_the_line_and_nothing_of_the_token() {
        use TokensErrorKind as Kind;
        let long = "x".repeat(MAX_TOKEN + 1);
        let name = "n".repeat(MAX_NAME + 1);
        for (line, kind) in [
            ("CANARYCANARYCANARY".to_owned(), Kind::NoClient),
            ("CANARYCANARYCANARY #a".to_owned(), Kind::NoClient),
            ("CANARYCANARYCANARY a b".to_owned(), Kind::TooManyFields),
            ("CANARY a".to_owned(), Kind::TooShort),
            (format!("{long} a"), Kind::TooLong),
            ("CANARYCANARYCANARY! a".to_owned(), Kind::BadCharacter),
            (format!("CANARYCANARYCANARY {name}"), Kind::NameTooLong),
            ("0000000000000000 b".to_owned(), Kind::Duplicate),
        ] {
            let error = Tokens::parse(format!("0000000000000000 a\n{line}\n").as_bytes());
            let error = error.unwrap_err();
            assert_eq!(error, TokensError { line: 2, kind });
            let shown = format!("{error} {error:?}");
            assert!(shown.starts_with("line 2: ") && !shown.contains("CANARY"), "{shown}");
        }
        let many: Vec<_> = (0..=MAX_TOKENS).map(|n| format!("{n:016} a")).collect();
        let error = Tokens::parse(many.join("\n").as_bytes()).unwrap_err();
        assert_eq!(error, TokensError { line: MAX_TOKENS + 1, kind: Kind::TooMany });
    }

    #[test]
    fn debug_output_shows_the_number_of_tokens_only() {
        let tokens = Tokens::parse(b"CANARYCANARYCANARY a").unwrap();
        assert_eq!(format!("{tokens:?}"), "Tokens { count: 1, .. }");
    }
}
