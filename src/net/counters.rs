//! Everything that is counted, by its name in the log and in metrics.

use core::fmt::Write as _;

use crate::node::Node;
use crate::places::Places;
use crate::places::upstream::Client;

/// What the shell counts. The core counts what it does itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Connections taken.
    pub accepted: u64,
    /// Connections refused for a limit.
    pub refused: u64,
    /// Connections that could not be taken for lack of descriptors or memory.
    pub accept_errors: u64,
    /// Connections closed at a deadline.
    pub timed_out: u64,
}

impl Counters {
    /// All counters of this node as `name=value`, separated by spaces.
    #[must_use]
    pub fn report(&self, node: &Node, clients: usize) -> String {
        let (herd, directory, of_node) =
            (&node.herd.counters, &node.herd.directory, &node.counters);
        let mut report = String::new();
        for (name, value) in [
            ("connections", clients as u64),
            ("connections_accepted_total", self.accepted),
            ("connections_refused_total", self.refused),
            ("accept_errors_total", self.accept_errors),
            ("connections_timed_out_total", self.timed_out),
            ("commands_iamat_total", of_node.iamat),
            ("commands_iamat_stored_total", of_node.iamat_stored),
            ("newcomers_turned_away_total", node.newcomers_turned_away()),
            ("commands_whatsat_total", of_node.whatsat),
            ("commands_unknown_total", of_node.unknown),
            ("lines_overlong_total", of_node.overlong),
            ("http_requests_total", of_node.http_requests),
            ("handshakes_refused_total", of_node.handshakes_refused),
            ("clients", directory.len().into()),
            ("clients_evicted_total", directory.evicted),
            ("clients_expired_total", directory.expired),
            ("floods_sent_total", herd.floods_sent),
            ("floods_received_total", herd.floods_received),
            ("floods_duplicate_total", herd.floods_duplicate),
            ("antientropy_repairs", herd.antientropy_repairs),
            ("link_sync_records_total", herd.link_sync_records),
            ("links_established_total", herd.links_established),
            ("links_lost_total", herd.links_lost),
            ("links_timed_out_total", herd.links_timed_out),
            ("clock_offset_warnings_total", herd.clock_offset_warnings),
        ] {
            append(&mut report, name, value);
        }
        if let Places::Upstream(client) = &node.places {
            report_places(&mut report, client);
        }
        report
    }
}

/// What the client of a places provider counts. Without a provider there is nothing to count, and
/// no line is made longer by zeros.
fn report_places(report: &mut String, client: &Client) {
    let (stats, gauges) = (client.stats(), client.gauges());
    for (name, value) in [
        ("places_questions_total", stats.questions),
        ("places_answered_total", stats.answered),
        ("places_over_query_limit_total", stats.over_query_limit),
        ("places_request_denied_total", stats.request_denied),
        ("places_unknown_error_total", stats.unknown_error),
        ("places_cancelled_total", stats.cancelled),
        ("places_cache_hits_total", stats.cache_hits),
        ("places_coalesced_total", stats.coalesced),
        ("places_requests_total", stats.requests),
        ("places_retries_total", stats.retries),
        ("places_connects_total", stats.connects),
        ("places_breaker_openings_total", stats.breaker_openings),
        ("places_breaker_open", gauges.breaker_open.into()),
        ("places_waiting", gauges.waiting as u64),
        ("places_queued", gauges.queued as u64),
        ("places_in_flight", gauges.in_flight as u64),
        ("places_connections", gauges.connections as u64),
        ("places_cached", gauges.cached as u64),
        ("places_cached_bytes", gauges.cached_bytes as u64),
    ] {
        append(report, name, value);
    }
}

fn append(report: &mut String, name: &str, value: u64) {
    let space = if report.is_empty() { "" } else { " " };
    // Writing to a String cannot fail.
    let _ = write!(report, "{space}{name}={value}");
}
