//! Each row of the table of limits has tests that fail when the limit is gone. Which ones stands
//! here; a row without a test, and a test that is not there, fail this one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proxy_herd::limits;

const UPSTREAM: &str = "src/places/upstream/tests/scenarios.rs";

/// A key of the configuration, the file that tests it, and the test.
const TESTED: &[(&str, &str, &str)] = &[
    ("limits.max_line", "tests/connections.rs", "the_line_limit_is_configurable"),
    (
        "limits.max_connections",
        "tests/connections.rs",
        "a_connection_over_the_limit_is_refused_with_a_message",
    ),
    (
        "limits.max_connections_per_address",
        "tests/connections.rs",
        "a_connection_over_the_limit_is_refused_with_a_message",
    ),
    ("limits.accepts_per_turn", "tests/hostile/machine.rs", "accepts_per_turn_are_limited"),
    (
        "limits.reserved_descriptors",
        "tests/hostile/machine.rs",
        "clients_cannot_use_reserved_descriptors",
    ),
    (
        "limits.max_input_buffer",
        "tests/hostile/kernel.rs",
        "reading_stops_while_too_many_replies_are_pending",
    ),
    (
        "limits.max_output_buffer",
        "tests/hostile/kernel.rs",
        "max_output_buffer_bounds_the_replies_to_a_client_that_does_not_read",
    ),
    (
        "limits.send_buffer",
        "tests/hostile/kernel.rs",
        "the_kernel_buffers_of_a_client_that_never_reads_are_bounded",
    ),
    (
        "limits.receive_buffer",
        "tests/hostile/kernel.rs",
        "the_kernel_buffers_of_a_client_that_never_reads_are_bounded",
    ),
    (
        "limits.line_timeout_s",
        "tests/limits.rs",
        "a_line_that_drips_is_closed_however_many_bytes_come",
    ),
    ("limits.idle_timeout_s", "tests/limits.rs", "an_idle_client_is_closed_and_the_log_says_why"),
    (
        "limits.write_timeout_s",
        "tests/limits.rs",
        "clients_that_never_read_are_closed_and_cost_little",
    ),
    ("limits.tcp_keepalive_s", "tests/hostile/kernel.rs", "tcp_keepalive_probes_a_silent_client"),
    (
        "limits.max_pending_whatsat_per_connection",
        "tests/limits.rs",
        "one_connection_takes_no_more_than_its_share_of_the_places",
    ),
    (
        "limits.max_pending_whatsat",
        "tests/limits.rs",
        "whatsats_of_one_client_delay_no_other_command_of_another",
    ),
    (
        "limits.new_clients_per_second_per_address",
        "src/node/tests.rs",
        "an_address_brings_so_many_new_clients_a_second",
    ),
    ("limits.max_clients", "tests/hostile/ids.rs", "a_full_directory_keeps_the_newest_clients"),
    ("limits.client_ttl_s", "tests/recovery.rs", "expired_records_are_removed_and_not_sent"),
    (
        "limits.max_log_lines_per_second",
        "tests/log.rs",
        "diagnostics_of_one_kind_are_counted_rather_than_repeated",
    ),
    ("limits.log_max_bytes", "tests/log.rs", "the_log_is_rotated_and_the_oldest_goes"),
    ("limits.log_keep", "tests/log.rs", "the_log_is_rotated_and_the_oldest_goes"),
    ("places.deadline_ms", UPSTREAM, "the_deadline_applies_to_every_phase"),
    ("places.pool_size", UPSTREAM, "questions_queue_for_a_full_pool"),
    ("places.cache_ttl_s", UPSTREAM, "answers_are_cached_for_the_ttl_and_any_number_of_results"),
    ("places.cache_entries", UPSTREAM, "the_cache_is_bounded"),
    ("places.max_in_flight", UPSTREAM, "requests_in_flight_are_bounded"),
    ("places.max_queued", UPSTREAM, "the_queue_is_bounded"),
    ("places.requests_per_second", UPSTREAM, "questions_over_budget_are_refused_immediately"),
    ("places.requests_per_day", UPSTREAM, "questions_over_budget_are_refused_immediately"),
    (
        "peers.keepalive_ms",
        "tests/link_limits.rs",
        "an_idle_link_sends_a_ping_per_keepalive_interval",
    ),
    ("peers.timeout_ms", "tests/link_limits.rs", "the_link_to_a_silent_peer_times_out"),
    (
        "peers.redial_max_ms",
        "tests/link_limits.rs",
        "the_pause_between_redials_is_at_most_redial_max",
    ),
    (
        "peers.antientropy_interval_s",
        "tests/link_limits.rs",
        "digests_are_compared_once_per_interval",
    ),
    (
        "peers.max_send_buffer",
        "tests/hostile/peers.rs",
        "a_peer_that_does_not_read_stays_within_its_buffer_limit",
    ),
];

/// Caps on what a turn gives, which no configuration changes, in the same form.
const FIXED: &[(&str, &str, &str)] = &[
    ("CLIENT_BYTES_PER_TURN", "src/node/tests.rs", "a_pipeline_is_answered_in_shares"),
    (
        "CLIENT_BYTES_PER_TURN",
        "tests/hostile/machine.rs",
        "the_bytes_sent_to_one_client_per_turn_are_limited",
    ),
    (
        "TURN_BYTES",
        "tests/hostile/machine.rs",
        "the_bytes_sent_to_all_clients_per_turn_are_limited",
    ),
];

#[test]
fn each_row_of_the_table_has_a_test() {
    let rows: BTreeSet<String> =
        limits::all().map(|limit| format!("{}.{}", limit.section, limit.key)).collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|(key, ..)| (*key).to_owned()).collect();
    let untested: Vec<_> = rows.difference(&tested).collect();
    assert!(untested.is_empty(), "no test is named for {untested:?}");
    let gone: Vec<_> = tested.difference(&rows).collect();
    assert!(gone.is_empty(), "there is no limit {gone:?} any more");
}

#[test]
fn each_fixed_cap_is_there() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/limits.rs");
    let text = fs::read_to_string(path).unwrap();
    for (name, ..) in FIXED {
        assert!(text.contains(&format!("pub const {name}: ")), "there is no cap {name} any more");
    }
}

#[test]
fn each_test_that_is_named_is_there() {
    for (key, file, test) in TESTED.iter().chain(FIXED) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(&path).unwrap();
        let found = text.split_once(&format!("#[test]\nfn {test}() {{"));
        assert!(found.is_some(), "{key}: there is no test {test} in {file}");
    }
}
