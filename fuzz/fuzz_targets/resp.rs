//! Replies of Redis. The first byte of the input is the number of entries in a batch.
//!
//! - The tokens do not depend on how the input is split into reads, and nor does what they mean.
//! - The memory of the reader is bounded.
//! - Errors are printable, and do not contain the password.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proxy_herd::feed::resp::{MAX_KEPT, MAX_LINE, Malformed, Reader, Token};
use proxy_herd::testing::redis::outcomes;
use proxy_herd_fuzz::cuts;

fuzz_target!(|input: &[u8]| {
    let Some((&count, replies)) = input.split_first() else { return };
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in cuts(replies) {
        pieces.push(&replies[start..end]);
        start = end;
    }
    pieces.push(&replies[start..]);
    assert_eq!(tokens(&[replies]), tokens(&pieces));
    let found = outcomes(&[replies], usize::from(count));
    for error in found.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert!(!error.contains("canary") && !error.chars().any(char::is_control), "{error}");
    }
    assert_eq!(found, outcomes(&pieces, usize::from(count)));
});

fn tokens(pieces: &[&[u8]]) -> (Vec<String>, Option<Malformed>) {
    let (mut reader, mut tokens) = (Reader::default(), Vec::new());
    for mut piece in pieces.iter().copied() {
        loop {
            match reader.next(&mut piece) {
                Ok(Some(token)) => {
                    match token {
                        Token::Bulk(text) => assert!(text.len() <= MAX_KEPT),
                        Token::Simple(text) | Token::Error(text) => assert!(text.len() < MAX_LINE),
                        _ => {}
                    }
                    tokens.push(format!("{token:?}"));
                }
                Ok(None) => break,
                Err(error) => return (tokens, Some(error)),
            }
        }
        assert!(piece.is_empty());
    }
    (tokens, None)
}
