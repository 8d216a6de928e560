//! Everything that is counted, by its name in the log and in metrics.

use core::time::Duration;

use super::connection::Deadline;
use super::log_file::LogStats;
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
    /// Times that taking connections paused for it.
    pub accept_pauses: u64,
    /// Connections taken and closed unheard, so that they do not wait for a descriptor in vain.
    pub shed: u64,
    /// Connections that broke: reset, or another error of the socket.
    pub connection_errors: u64,
    /// Times that a client was not read from because it was owed too much.
    pub output_stalls: u64,
    /// Times that a client was not read from because too many WHATSATs waited.
    pub whatsat_stalls: u64,
    /// Clients closed because a line took too long.
    pub line_timeouts: u64,
    /// Clients closed because they were idle.
    pub idle_timeouts: u64,
    /// Clients closed because they did not read their replies.
    pub write_timeouts: u64,
    /// Connections closed because a handshake took too long.
    pub handshake_timeouts: u64,
    /// Bytes read from clients, peers and browsers.
    pub received_bytes: u64,
    /// Bytes sent to them.
    pub sent_bytes: u64,
    /// Neighbours that were dialled and could not be reached.
    pub dials_failed: u64,
}

impl Counters {
    /// A connection has missed a deadline.
    pub const fn count_deadline(&mut self, deadline: Deadline) {
        let count = match deadline {
            Deadline::Line => &mut self.line_timeouts,
            Deadline::Idle => &mut self.idle_timeouts,
            Deadline::Write => &mut self.write_timeouts,
            Deadline::Handshake | Deadline::TlsHandshake => &mut self.handshake_timeouts,
            // Counted as what they are: a dial that failed, a refusal, an end that was decided on.
            Deadline::Dial | Deadline::Probation | Deadline::Drain => return,
        };
        *count += 1;
    }

    /// All counters of this node by name. Names that end in `_total` only grow, the others are how
    /// things stand now. Everything that is refused, shed, repaired or suppressed is among them.
    #[must_use]
    pub fn list(
        &self,
        node: &Node,
        clients: usize,
        log: &LogStats,
        now: Duration,
    ) -> Vec<(&'static str, u64)> {
        let (herd, directory, of_node) =
            (&node.herd.counters, &node.herd.directory, &node.counters);
        let mut list = vec![
            ("connections", clients as u64),
            ("connections_accepted_total", self.accepted),
            ("connections_refused_total", self.refused),
            ("connections_shed_total", self.shed),
            ("received_bytes_total", self.received_bytes),
            ("sent_bytes_total", self.sent_bytes),
            ("connection_errors_total", self.connection_errors),
            ("accept_errors_total", self.accept_errors),
            ("accept_pauses_total", self.accept_pauses),
            ("line_timeouts_total", self.line_timeouts),
            ("idle_timeouts_total", self.idle_timeouts),
            ("write_timeouts_total", self.write_timeouts),
            ("handshake_timeouts_total", self.handshake_timeouts),
            ("output_stalls_total", self.output_stalls),
            ("whatsat_stalls_total", self.whatsat_stalls),
            ("commands_iamat_total", of_node.iamat),
            ("commands_iamat_stored_total", of_node.iamat_stored),
            ("commands_iamat_stale_total", of_node.iamat_stale),
            ("commands_iamat_repeat_total", of_node.iamat_repeat),
            ("commands_iamat_over_cap_total", of_node.iamat_over_cap),
            ("commands_iamat_expired_total", of_node.iamat_expired),
            ("newcomers_refused_total", of_node.newcomers_refused),
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
            ("link_errors_total", of_node.link_errors),
            ("dials_failed_total", self.dials_failed),
            ("clock_offset_warnings_total", herd.clock_offset_warnings),
            ("log_lines_suppressed_total", log.lines_suppressed),
            ("log_write_errors_total", log.write_errors),
            ("log_bytes_lost_total", log.bytes_lost),
            ("log_rotations_total", log.rotations),
        ];
        if let Places::Upstream(client) = &node.places {
            list.extend(places(client, now));
        }
        list
    }

    /// As [`Counters::list`], as `name=value` separated by spaces: what the log shows.
    #[must_use]
    pub fn report(&self, node: &Node, clients: usize, log: &LogStats, now: Duration) -> String {
        let list = self.list(node, clients, log, now);
        let words: Vec<String> =
            list.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.join(" ")
    }
}

/// What the client of a places provider counts. Without a provider there is nothing to count, and
/// no line is made longer by zeros.
fn places(client: &Client, now: Duration) -> Vec<(&'static str, u64)> {
    let (stats, gauges) = (client.stats(), client.gauges(now));
    vec![
        ("places_questions_total", stats.questions),
        ("places_answered_total", stats.answered),
        ("places_over_query_limit_total", stats.over_query_limit),
        ("places_request_denied_total", stats.request_denied),
        ("places_unknown_error_total", stats.unknown_error),
        ("places_refused_total", stats.refused),
        ("places_refused_by_breaker_total", stats.refused_by_breaker),
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
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PlacesLimits;
    use crate::places::provider::Provider;
    use crate::places::upstream::Settings;

    #[test]
    fn the_counters_of_a_provider_are_explained() {
        let (provider, limits) = (Provider::Overpass, PlacesLimits::default());
        let url = "https://a.example".parse().unwrap();
        let client = Client::new(Settings { provider, url, key: None, limits, seed: 0 });
        let explained = include_str!("../../docs/places.md");
        for (name, _) in places(&client, Duration::ZERO) {
            assert!(
                explained.contains(&format!("`{name}`")),
                "docs/places.md says nothing of {name}"
            );
        }
    }
}
