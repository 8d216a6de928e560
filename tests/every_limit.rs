//! For each limit, names a test that fails if the limit is not enforced. A limit without a test, and
//! a test that does not exist, are errors.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proxy_herd::limits;

const UPSTREAM: &str = "src/places/upstream/tests/scenarios.rs";

/// The key of a limit, the file that tests it, and the test.
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
    ("limits.line_timeout_s", "tests/limits.rs", "a_line_that_arrives_byte_by_byte_times_out"),
    (
        "limits.idle_timeout_s",
        "tests/limits.rs",
        "an_idle_client_is_closed_and_the_reason_is_logged",
    ),
    (
        "limits.write_timeout_s",
        "tests/limits.rs",
        "clients_that_never_read_are_closed_and_use_bounded_memory",
    ),
    ("limits.tcp_keepalive_s", "tests/hostile/kernel.rs", "tcp_keepalive_probes_a_silent_client"),
    (
        "limits.max_pending_whatsat_per_connection",
        "tests/limits.rs",
        "pending_whatsats_per_connection_are_limited",
    ),
    (
        "limits.max_pending_whatsat",
        "tests/limits.rs",
        "pending_whatsats_of_one_client_delay_only_whatsats_of_others",
    ),
    (
        "limits.new_clients_per_second_per_address",
        "src/node/tests.rs",
        "new_clients_per_address_and_second_are_limited",
    ),
    ("limits.max_clients", "tests/hostile/ids.rs", "a_full_directory_keeps_the_newest_clients"),
    ("limits.client_ttl_s", "tests/recovery.rs", "expired_records_are_removed_and_not_sent"),
    (
        "limits.forget_keep_s",
        "tests/peers/settings.rs",
        "a_peer_with_different_settings_is_refused_and_both_sides_log_the_reason",
    ),
    (
        "limits.max_log_lines_per_second",
        "tests/log.rs",
        "repeated_diagnostics_are_suppressed_and_counted",
    ),
    ("limits.log_max_bytes", "tests/log.rs", "the_log_is_rotated_and_the_oldest_file_is_deleted"),
    ("limits.log_keep", "tests/log.rs", "the_log_is_rotated_and_the_oldest_file_is_deleted"),
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
    ("storage.sync_interval_ms", "tests/storage/main.rs", "schedules_keep_what_was_promised"),
    (
        "storage.max_bytes",
        "tests/storage/size.rs",
        "the_folder_stays_within_its_bound_and_is_rarely_compacted",
    ),
    (
        "devices.max_accuracy_m",
        "tests/devices/apps.rs",
        "positions_that_are_of_no_use_are_confirmed_and_counted",
    ),
    ("devices.max_body", "tests/devices/connections.rs", "a_body_over_the_limit_is_refused"),
];

/// Fixed limits on the work of a turn: the declaration, the file that tests it, and the test.
const FIXED: &[(&str, &str, &str)] = &[
    (
        "src/node/mod.rs: CLIENT_BYTES_PER_TURN",
        "src/node/tests.rs",
        "a_pipeline_is_answered_in_shares",
    ),
    (
        "src/node/mod.rs: CLIENT_BYTES_PER_TURN",
        "tests/hostile/machine.rs",
        "the_bytes_sent_to_one_client_per_turn_are_limited",
    ),
    (
        "src/net/limits.rs: TURN_BYTES",
        "tests/hostile/machine.rs",
        "the_bytes_sent_to_all_clients_per_turn_are_limited",
    ),
];

#[test]
fn each_configurable_limit_has_a_test() {
    let rows: BTreeSet<String> =
        limits::all().map(|limit| format!("{}.{}", limit.section, limit.key)).collect();
    let tested: BTreeSet<String> = TESTED.iter().map(|(key, ..)| (*key).to_owned()).collect();
    let untested: Vec<_> = rows.difference(&tested).collect();
    assert!(untested.is_empty(), "no test is listed for {untested:?}");
    let gone: Vec<_> = tested.difference(&rows).collect();
    assert!(gone.is_empty(), "there are no limits {gone:?}");
}

#[test]
fn each_fixed_limit_exists() {
    for (declaration, ..) in FIXED {
        let (file, name) = declaration.split_once(": ").unwrap();
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(text.contains(&format!("pub const {name}: ")), "{file} does not declare {name}");
    }
}

#[test]
fn each_listed_test_exists() {
    for (key, file, test) in TESTED.iter().chain(FIXED) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let text = fs::read_to_string(&path).unwrap();
        let found = text.split_once(&format!("#[test]\nfn {test}() {{"));
        assert!(found.is_some(), "{key}: there is no test {test} in {file}");
    }
}
