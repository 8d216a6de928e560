//! Tokens of the poll: which connection an event is about.
//!
//! A connection's token holds its key in the slab and a generation, so that an event for a
//! connection that has closed is not taken for one of its successor under the same key. The core
//! knows a connection by the same number, as a [`ConnectionId`].

use mio::Token;

use crate::ids::ConnectionId;

/// The listener for browsers and tools.
pub const HTTP_LISTENER: Token = Token(usize::MAX - 4);
/// The listener for links only.
pub const LINK_LISTENER: Token = Token(usize::MAX - 5);
/// The listener for phones and trackers.
pub const DEVICE_LISTENER: Token = Token(usize::MAX - 6);
/// The waker of the threads that look names up.
pub const WAKER: Token = Token(usize::MAX - 3);
/// The descriptor that signals arrive on.
pub const SIGNALS: Token = Token(usize::MAX - 2);
/// The listener for clients and peers.
pub const LISTENER: Token = Token(usize::MAX - 1);

/// Largest generation. One bit less than there is room for, so that no connection's token is one of
/// those above.
const MAX_GENERATION: u32 = u32::MAX >> 1;

/// The generation after `generation`.
pub const fn next_generation(generation: u32) -> u32 {
    (generation + 1) & MAX_GENERATION
}

/// The token of the connection at `key` in the slab.
pub const fn token(key: usize, generation: u32) -> Token {
    Token((generation as usize) << 32 | key)
}

/// The key in the slab and the generation in a connection's token.
pub const fn key(token: Token) -> (usize, u32) {
    (token.0 & u32::MAX as usize, (token.0 >> 32) as u32)
}

/// The core's name for the connection.
pub const fn id_of(token: Token) -> ConnectionId {
    ConnectionId(token.0 as u64)
}

/// The token of the connection that the core knows as `id`.
pub const fn token_of(id: ConnectionId) -> Token {
    Token(id.0 as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_holds_key_and_generation() {
        for pair in [(0, 0), (7, 1), (u32::MAX as usize, MAX_GENERATION)] {
            let token = token(pair.0, pair.1);
            assert_eq!(key(token), pair);
            assert_eq!(token_of(id_of(token)), token);
        }
        assert_ne!(token(7, 1), token(7, 2), "a successor under the same key");
    }

    #[test]
    fn generations_wrap_around_and_no_token_is_reserved() {
        assert_eq!(next_generation(0), 1);
        assert_eq!(next_generation(MAX_GENERATION), 0);
        let greatest = token(u32::MAX as usize, MAX_GENERATION);
        for reserved in [DEVICE_LISTENER, LINK_LISTENER, HTTP_LISTENER, WAKER, SIGNALS, LISTENER] {
            assert!(greatest < reserved);
        }
        assert_eq!(crate::net::upstream::Owner::of(greatest), None);
    }
}
