//! Everything that can go wrong with a question.
//!
//! | type | meaning | found by |
//! |---|---|---|
//! | [`TransportError`] | the connection could not be established, or broke | the shell |
//! | [`HttpError`] | the bytes received are not a valid HTTP response | [`places::http`](crate::places::http) |
//! | [`RequestError`] | there is no response: one of the above, or a timeout | [`Client`](crate::places::upstream::Client) |
//! | [`ProviderError`] | the response reports an error | [`providers`](crate::places::providers) |
//! | [`Failure`] | the answer to the question: a status and a message | [`Target`](super::target::Target), from any of the above |
//! | [`Blame`] | the part of a failure that concerns the circuit breaker | [`Target`](super::target::Target) |

use std::time::Duration;

use crate::places::document::{Status, write_failure};
use crate::places::http::HttpError;

/// A failure of a connection, as reported by the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The host name could not be resolved.
    Resolve(String),
    /// No address of the host accepted a TCP connection.
    Connect(String),
    /// The TLS handshake, or the TLS stream after it, failed.
    Tls(String),
    /// The connection was reset, or could not be read or written.
    Io(String),
}

/// The reason why a question got no response.
#[derive(Clone, Copy, Debug)]
pub(in crate::places) enum RequestError<'a> {
    /// The connection failed.
    Transport(&'a TransportError),
    /// The response is not valid.
    Http(HttpError),
    /// Bytes arrived on a connection without a pending request.
    Unsolicited,
    /// The connection was closed before the end of the response.
    ClosedEarly,
    /// The host name was not resolved in time.
    ResolveTimeout,
    /// The connection was not established in time.
    ConnectTimeout,
    /// The response did not arrive in time.
    ResponseTimeout,
    /// The question was still queued at its deadline.
    QueueTimeout,
}

/// An error that a response reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::places) enum ProviderError {
    /// The API key, or this node, is not authorized.
    Unauthorized,
    /// The provider rejects this question; it may accept others.
    InvalidQuestion,
    /// The rate limit or quota is exhausted.
    RateLimited,
    /// The provider, or an intermediary, failed.
    Unavailable,
}

/// The answer to a question that gets no places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// One of the three statuses that report a failure.
    pub status: Status,
    /// Cause and remedy, for the operator. Never contains the API key.
    pub message: String,
    /// The cause, for the circuit breaker.
    pub blame: Blame,
}

/// The party that caused a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The provider, or the network path to it: other questions would fail as well.
    Provider {
        /// The pause that the provider asks for.
        retry_after: Option<Duration>,
    },
    /// The question itself: the provider is available and would answer others.
    Question,
    /// This node: the question was not sent to the provider.
    Node,
}

impl Failure {
    /// Appends the document, without a newline at its end.
    pub(in crate::places) fn write(&self, out: &mut Vec<u8>) {
        write_failure(out, self.status, &self.message);
    }
}
