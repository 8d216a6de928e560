//! Counters and gauges of the client.

use crate::counters::counters;

counters! {
    /// Monotonic counters of the client since start-up.
    Stats {
        places_questions_total: "Questions for places." { questions }
        places_answers_total: "Answers to questions for places, by status." {
            answered (status = "ok"): "Questions answered with places, or with `ZERO_RESULTS`.",
            over_query_limit (status = "over_query_limit"):
                "Questions answered with `OVER_QUERY_LIMIT`.",
            request_denied (status = "request_denied"): "Questions answered with `REQUEST_DENIED`.",
            unknown_error (status = "unknown_error"): "Questions answered with `UNKNOWN_ERROR`.",
            canceled (status = "cancelled"): "Questions canceled while they waited.",
        }
        places_refused_total:
            "Questions refused because a budget or queue of this node was used up." {
            refused
        }
        places_refused_by_breaker_total: "Questions refused because the circuit breaker was open." {
            refused_by_breaker
        }
        places_cache_hits_total: "Questions answered from the cache." { cache_hits }
        places_coalesced_total:
            "Questions that joined an identical request in flight." {
            coalesced
        }
        places_requests_total: "Requests sent to the provider, including retries." { requests }
        places_retries_total: "Requests sent again because their connection was stale." { retries }
        places_connects_total: "Connection attempts to the provider." { connects }
        places_breaker_openings_total: "Times that the circuit breaker opened." { breaker_openings }
    }
}

/// The current state of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Requests that wait for their response.
    pub in_flight: usize,
    /// Distinct questions that wait for a connection.
    pub queued: usize,
    /// Questions that wait for an answer, including identical ones.
    pub waiting: usize,
    /// Connections, including those being established.
    pub connections: usize,
    /// Listings in the cache.
    pub cached: usize,
    /// Bytes of the listings in the cache.
    pub cached_bytes: usize,
    /// True if the circuit breaker is open; false while it is half-open.
    pub breaker_open: bool,
}
