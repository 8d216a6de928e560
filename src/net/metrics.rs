//! `/metrics`: everything that is counted, under the names that Prometheus knows it by.

use core::time::Duration;
use std::fs;

use super::counters::Counters;
use super::log_file::Log;
use crate::herd::Herd;
use crate::herd::link::Link;
use crate::histogram::Histogram;
use crate::http::metrics::Writer;
use crate::http::{Server, Shell};
use crate::node::{Node, Now};
use crate::places::Places;
use crate::places::upstream::Client;

/// What the loop knows of itself.
pub struct Vitals<'a> {
    /// What it has counted.
    pub counters: &'a Counters,
    /// Connections of clients and browsers.
    pub clients: usize,
    /// How long its turns took.
    pub turns: &'a Histogram,
    /// The log.
    pub log: &'a Log,
}

impl Shell for Vitals<'_> {
    fn push_metrics(&self, node: &Node, http: &Server, now: &Now, out: &mut Vec<u8>) {
        let mut w = Writer::default();
        let name = String::from_utf8_lossy(node.name());
        let labels = [("version", env!("CARGO_PKG_VERSION")), ("node", &name)];
        w.gauge("build_info", "Always 1; what runs here.").sample(&labels, 1_u64);
        self.clients(http, &mut w);
        commands(node, &mut w);
        updates(node, &mut w);
        peers(node, &mut w);
        w.gauge("clients", "Clients held.").value(u64::from(node.herd.directory.len()));
        w.counter("clients_evicted_total", "Clients that gave way to newer ones at the cap.")
            .value(node.herd.directory.evicted);
        w.counter("clients_expired_total", "Clients forgotten at the end of their time to live.")
            .value(node.herd.directory.expired);
        if let Places::Upstream(client) = &node.places {
            places(client, now.elapsed, &mut w);
        }
        w.histogram(
            "places_wait_seconds",
            "How long replies waited for places; those that did not wait are not in it.",
            &node.counters.places_wait,
        );
        http_side(http, &mut w);
        self.process(&mut w);
        out.extend_from_slice(&w.finish());
    }

    fn connections(&self) -> usize {
        self.clients
    }
}

impl Vitals<'_> {
    fn clients(&self, http: &Server, w: &mut Writer) {
        let c = self.counters;
        w.gauge("connections", "Connections open, by what is spoken on them; peers not counted.")
            .sample(&[("kind", "client")], self.clients.saturating_sub(http.connections))
            .sample(&[("kind", "http")], http.connections);
        w.counter("connections_accepted_total", "Connections taken.").value(c.accepted);
        w.counter("connections_refused_total", "Connections refused for a limit.").value(c.refused);
        w.counter("connections_shed_total", "Connections closed unheard for lack of descriptors.")
            .value(c.shed);
        w.counter("connection_errors_total", "Connections that broke.").value(c.connection_errors);
        w.counter("accept_errors_total", "Connections that could not be taken.")
            .value(c.accept_errors);
        w.counter("accept_pauses_total", "Times that taking connections paused for it.")
            .value(c.accept_pauses);
        w.counter("timeouts_total", "Connections closed at a deadline, by which.")
            .sample(&[("deadline", "line")], c.line_timeouts)
            .sample(&[("deadline", "idle")], c.idle_timeouts)
            .sample(&[("deadline", "write")], c.write_timeouts)
            .sample(&[("deadline", "handshake")], c.handshake_timeouts);
        w.counter("stalls_total", "Times that a client was not read from, by why.")
            .sample(&[("reason", "output")], c.output_stalls)
            .sample(&[("reason", "whatsat")], c.whatsat_stalls);
        w.counter("received_bytes_total", "Bytes from clients, peers and browsers.")
            .value(c.received_bytes);
        w.counter("sent_bytes_total", "Bytes to clients, peers and browsers.").value(c.sent_bytes);
        w.counter("dials_failed_total", "Neighbours dialled and not reached.")
            .value(c.dials_failed);
    }

    fn process(&self, w: &mut Writer) {
        w.histogram("loop_turn_seconds", "How long the turns of the event loop took.", self.turns);
        let log = self.log.stats();
        w.counter("log_lines_suppressed_total", "Diagnostic lines left out for their number.")
            .value(log.lines_suppressed);
        w.counter("log_write_errors_total", "Writes and openings of the log that failed.")
            .value(log.write_errors);
        w.counter("log_lost_bytes_total", "Bytes that could not be written to the log.")
            .value(log.bytes_lost);
        w.counter("log_rotations_total", "Times that the log was rotated.").value(log.rotations);
        // Where there is no /proc, nothing is said of it.
        if let Some(bytes) = resident_bytes() {
            w.gauge("resident_memory_bytes", "Memory of the process.").value(bytes);
        }
        if let Some(files) = open_files() {
            w.gauge("open_fds", "Descriptors open.").value(files);
        }
        if let Ok((soft, _)) = rlimit::Resource::NOFILE.get() {
            w.gauge("max_fds", "Descriptors that may be open.").value(soft);
        }
    }
}

/// Descriptors open. Linux says it as the size of `/proc/self/fd` since 6.2, and 0 before that; to
/// read the directory instead takes the loop a moment for each thousand of them.
fn open_files() -> Option<u64> {
    fs::metadata("/proc/self/fd").ok().map(|files| files.len()).filter(|&files| files > 0)
}

/// Resident memory by `/proc/self/status`, which has it in KiB.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

fn commands(node: &Node, w: &mut Writer) {
    let c = &node.counters;
    w.counter("commands_total", "Commands of clients, by kind and by what became of them.");
    for (command, result, count) in [
        ("iamat", "stored", c.iamat_stored),
        ("iamat", "stale", c.iamat_stale),
        ("iamat", "repeat", c.iamat_repeat),
        ("iamat", "over_cap", c.iamat_over_cap),
        ("iamat", "expired", c.iamat_expired),
        ("iamat", "newcomer_refused", c.newcomers_refused),
        ("whatsat", "asked", c.whatsat),
        ("unknown", "refused", c.unknown),
        ("overlong", "refused", c.overlong),
        ("http", "refused", c.http_requests),
    ] {
        w.sample(&[("command", command), ("result", result)], count);
    }
    w.counter("handshakes_refused_total", "Peers that were not let in.")
        .value(c.handshakes_refused);
}

fn updates(node: &Node, w: &mut Writer) {
    let (c, h) = (&node.counters, &node.herd.counters);
    w.counter("updates_received_total", "Records that came, by from whom.")
        .sample(&[("source", "client")], c.iamat)
        .sample(&[("source", "peer")], h.floods_received);
    w.counter("updates_stored_total", "Records that were news, by from whom.")
        .sample(&[("source", "client")], c.iamat_stored)
        .sample(&[("source", "peer")], h.floods_received - h.floods_duplicate);
    w.counter("updates_stale_total", "Records that were no news, by from whom.")
        .sample(&[("source", "client")], c.iamat - c.iamat_stored)
        .sample(&[("source", "peer")], h.floods_duplicate);
    w.counter("updates_flooded_total", "Records sent to peers because they were news.")
        .value(h.floods_sent);
    w.counter("updates_repaired_total", "Records that only a comparison of digests brought.")
        .sample(&[("round", "check")], h.antientropy_repairs)
        .sample(&[("round", "sync")], h.link_sync_records);
}

fn peers(node: &Node, w: &mut Writer) {
    let (h, c) = (&node.herd.counters, &node.counters);
    w.counter("links_established_total", "Links established.").value(h.links_established);
    w.counter("links_lost_total", "Links lost.").value(h.links_lost);
    w.counter("links_timed_out_total", "Links closed for silence.").value(h.links_timed_out);
    w.counter("link_errors_total", "Links closed for what the peer said.").value(c.link_errors);
    w.counter("clock_offset_warnings_total", "Times a peer's clock was found too far off.")
        .value(h.clock_offset_warnings);
    w.gauge("peer_up", "Whether the link to a neighbour stands.");
    each_peer(&node.herd, |peer, link| {
        w.sample(&[("peer", peer)], link.up.is_some());
    });
    w.gauge("peer_round_trip_seconds", "Of the last ping that a neighbour answered.");
    each_peer(&node.herd, |peer, link| {
        if let Some(trip) = link.up.as_ref().and_then(|up| up.round_trip) {
            w.sample(&[("peer", peer)], trip.as_secs_f64());
        }
    });
    w.gauge("peer_backlog_records", "Records that wait to be sent to a neighbour.");
    each_peer(&node.herd, |peer, link| {
        w.sample(&[("peer", peer)], link.up.as_ref().map_or(0, |up| up.flood.len()));
    });
    w.gauge("peer_digests_equal", "Whether both ends held the same when they last compared.");
    each_peer(&node.herd, |peer, link| {
        if let Some(equal) = link.up.as_ref().and_then(|up| up.exchange.is_equal()) {
            w.sample(&[("peer", peer)], equal);
        }
    });
}

fn each_peer(herd: &Herd, mut each: impl FnMut(&str, &Link)) {
    for link in herd.links() {
        each(&String::from_utf8_lossy(herd.identity().name(link.peer)), link);
    }
}

fn places(client: &Client, now: Duration, w: &mut Writer) {
    let (s, g) = (client.stats(), client.gauges(now));
    w.counter("places_questions_total", "Questions for places.").value(s.questions);
    w.counter("places_answers_total", "Answers to them, by status.")
        .sample(&[("status", "ok")], s.answered)
        .sample(&[("status", "over_query_limit")], s.over_query_limit)
        .sample(&[("status", "request_denied")], s.request_denied)
        .sample(&[("status", "unknown_error")], s.unknown_error)
        .sample(&[("status", "cancelled")], s.cancelled);
    w.counter("places_refused_total", "Questions that were not passed on.").value(s.refused);
    w.counter("places_cache_hits_total", "Questions answered from the cache.").value(s.cache_hits);
    w.counter("places_coalesced_total", "Questions that joined another.").value(s.coalesced);
    w.counter("places_requests_total", "Requests sent to the provider.").value(s.requests);
    w.counter("places_retries_total", "Requests sent again.").value(s.retries);
    w.counter("places_connects_total", "Connections begun.").value(s.connects);
    w.counter("places_breaker_openings_total", "Times the provider was given a rest.")
        .value(s.breaker_openings);
    w.gauge("places_breaker_open", "Whether it has one now.").value(g.breaker_open);
    w.gauge("places_waiting", "Questions that wait.").value(g.waiting);
    w.gauge("places_queued", "Different questions that wait for a connection.").value(g.queued);
    w.gauge("places_in_flight", "Requests that are not answered yet.").value(g.in_flight);
    w.gauge("places_connections", "Connections to the provider.").value(g.connections);
    w.gauge("places_cached", "Answers in the cache.").value(g.cached);
    w.gauge("places_cached_bytes", "Bytes in the cache.").value(g.cached_bytes);
}

fn http_side(http: &Server, w: &mut Writer) {
    w.counter("http_responses_total", "Responses of the HTTP side, by class of status.");
    for (class, label) in [(2, "2xx"), (3, "3xx"), (4, "4xx"), (5, "5xx")] {
        w.sample(&[("code", label)], http.counters.responses[class]);
    }
    w.gauge("event_subscribers", "Connections that listen to events.")
        .value(http.events.subscribers());
    w.counter("events_sent_total", "Events sent, each subscriber counted.").value(http.events.sent);
    w.counter("event_resets_total", "Times a subscriber was sent all clients.")
        .value(http.events.resets);
}
