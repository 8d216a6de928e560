//! The replies of a Redis server to a feed.

use crate::feed::redis::{Outcome, Session, Settings};

/// The settings of a feed whose password must not appear in any output.
#[must_use]
pub fn settings() -> Settings {
    Settings {
        user: None,
        password: Some(b"canary"[..].into()),
        database: 2,
        key: b"herd:A"[..].into(),
    }
}

/// The outcomes of replies, which arrive in pieces, to a greeting and a batch of `count` entries.
#[must_use]
pub fn outcomes(pieces: &[&[u8]], count: usize) -> Vec<Result<Outcome, String>> {
    let (mut session, settings) = (Session::default(), settings());
    session.greet(&settings, &mut Vec::new());
    session.expect_batch(count);
    let mut outcomes = Vec::new();
    for mut piece in pieces.iter().copied() {
        loop {
            match session.handle_input(&settings, &mut piece) {
                Ok(Some(outcome)) => outcomes.push(Ok(outcome)),
                Ok(None) => break,
                Err(error) => {
                    outcomes.push(Err(error));
                    return outcomes;
                }
            }
        }
    }
    outcomes
}
