//! What an operator wants to know about the client.

/// What has happened so far. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Questions asked.
    pub questions: u64,
    /// Questions answered from the cache.
    pub cache_hits: u64,
    /// Questions that joined another that was on its way.
    pub coalesced: u64,
    /// Questions that were cancelled while they waited.
    pub cancelled: u64,
    /// Questions answered with places, or with `ZERO_RESULTS`.
    pub answered: u64,
    /// Questions answered with `OVER_QUERY_LIMIT`.
    pub over_query_limit: u64,
    /// Questions answered with `REQUEST_DENIED`.
    pub request_denied: u64,
    /// Questions answered with `UNKNOWN_ERROR`.
    pub unknown_error: u64,
    /// Questions that were not asked, because a budget or a queue of this node is used up.
    pub refused: u64,
    /// Questions that were not asked, because the circuit breaker was open.
    pub refused_by_breaker: u64,
    /// Requests sent to the provider, repeated ones included.
    pub requests: u64,
    /// Requests sent again because a connection was stale.
    pub retries: u64,
    /// Connections begun.
    pub connects: u64,
    /// Times the circuit breaker opened.
    pub breaker_openings: u64,
}

/// How things stand now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Requests sent and not answered.
    pub in_flight: usize,
    /// Different questions that wait for a connection.
    pub queued: usize,
    /// Questions that wait for an answer, identical ones counted each.
    pub waiting: usize,
    /// Connections, the ones that are being made included.
    pub connections: usize,
    /// Answers in the cache.
    pub cached: usize,
    /// Bytes in the cache.
    pub cached_bytes: usize,
    /// Whether the circuit breaker leaves the provider alone: not while it lets a question probe.
    pub breaker_open: bool,
}
