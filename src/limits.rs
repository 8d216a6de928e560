//! Configurable limits live here, one `settings!` row each; fixed limits live in the module they
//! bound, in its `limits.rs` if there are several.
//!
//! A row is the only description of its setting: the field with its documentation, the key in the
//! file, the range check, and the output of `--check` and `--limits` are derived from it. A duration
//! is a whole number in the file, with its unit in the key (`_s`, `_ms`), and a [`Duration`] in the
//! code. A limit that 0 switches off is an [`Option`].
//!
//! The few constants here bound the configuration itself, which more than one module relies on.

mod setting;

use std::fmt::Write as _;
use std::time::Duration;

pub use setting::{Limit, Setting, Unit};
use setting::{Quantity, settings};

/// Largest configuration file, in bytes. A herd of [`MAX_NODES`] nodes with hosts and neighbors needs
/// a tenth of it; a path that names a huge file by mistake must not exhaust memory.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

/// Most nodes in a herd: larger herds have not been simulated, and the list of a node's neighbors
/// fits on one line of the link protocol.
pub const MAX_NODES: usize = 1000;

/// Longest node name, in bytes. Every record carries the name of the node that received it, so this
/// bounds the length of an AT line between nodes.
pub const MAX_NODE_NAME: usize = 64;

/// Longest API key or secret, in bytes, and the largest file that holds one. Keys have about 40
/// bytes; a larger file is probably not the intended one.
pub const MAX_SECRET_BYTES: usize = 4096;

settings! {
    /// Limits on clients: the section `limits`.
    Limits in "limits" {
        max_line: usize = 4096, 64..=32_768 Bytes,
            "Longest line of a client, without its LF",
            "Commands have under 200 bytes; the rest leaves room for long client names";
        max_connections: usize = 16_384, 1..=1_000_000 Count,
            "Client connections",
            "The tests hold 15,000 connections; reduced at start-up if the process may open fewer files";
        max_connections_per_address: Option<usize> = 0 ("no limit"), 1..=1_000_000 Count,
            "Client connections from one address",
            "Whole fleets may share one NAT address, so no default is safe";
        accepts_per_turn: usize = 64, 1..=65_536 Count,
            "Connections accepted per turn of the event loop",
            "A connection storm delays existing connections by less than a millisecond per turn";
        reserved_descriptors: usize = 64, 16..=65_536 Count,
            "File descriptors that are not available to clients",
            "Peers, the log and the places provider keep working when clients use all others";
        max_input_buffer: usize = 65_536, 36_864..=1_048_576 Bytes,
            "Bytes read from one client that have not been executed",
            "One read from the kernel: a deep pipeline needs one system call, and a client whose commands must wait is no longer read";
        max_output_buffer: usize = 262_144, 65_536..=1_073_741_824 Bytes,
            "Unsent reply bytes at which the node stops reading from a client",
            "Fifty of the longest WHATSAT replies";
        send_buffer: usize = 65_536, 4_096..=16_777_216 Bytes,
            "SO_SNDBUF of a client's socket; Linux reserves twice this",
            "Without a limit, a client that does not read occupies up to 4 MiB of kernel memory; this still allows 640 kB/s at a round-trip time of 100 ms";
        receive_buffer: usize = 65_536, 4_096..=16_777_216 Bytes,
            "SO_RCVBUF of a client's socket; Linux reserves twice this",
            "The initial size on Linux; without a limit, it grows to 6 MiB or more for a client that the node does not read from";
        line_timeout: Duration = 60, 1..=86_400 Seconds,
            "Time from the first byte of a line to its end",
            "Longer than a person needs to type a line; closes clients that send one byte at a time";
        idle_timeout: Option<Duration> = 0 ("off"), 1..=31_536_000 Seconds,
            "Time without a command after which a client is closed",
            "Interactive clients and slow fleets stay connected; TCP keepalive detects dead ones";
        write_timeout: Duration = 30, 1..=86_400 Seconds,
            "Time without progress in sending replies after which a client is closed",
            "Enough to bridge a loss of radio coverage; frees the memory of clients that never read";
        tcp_keepalive: Duration = 60, 1..=32_767 Seconds,
            "Idle time after which the kernel probes a client's connection",
            "Mobile networks drop idle connections after some minutes; 32,767 is the maximum on Linux";
        max_pending_whatsat_per_connection: usize = 1_024, 1..=65_536 Count,
            "Pending WHATSATs at which the node stops reading from a connection",
            "A quarter of the limit for all connections; identical questions of a pipeline share one request";
        max_pending_whatsat: usize = 4_096, 1..=1_000_000 Count,
            "Pending WHATSATs of all connections at which further ones wait",
            "Four connections at their own limit; about 50 MB if all are answered out of order";
        new_clients_per_second_per_address: Option<u32> = 0 ("no limit"), 1..=1_000_000 Count,
            "New client names per second from one address",
            "After a restart, a fleet behind one NAT address reports all its vehicles at once";
        max_clients: usize = 1_000_000, 1..=100_000_000 Count,
            "Clients that a node stores; the oldest records are evicted first",
            "About 150 MB; must be identical on all nodes";
        client_ttl: Option<Duration> = 0 ("never"), 1..=3_153_600_000 Seconds,
            "Age at which a client's record expires",
            "The original server never expired records; must be identical on all nodes";
        forget_keep: Duration = 604_800, 1..=3_153_600_000 Seconds,
            "Time for which a node remembers that a client was removed",
            "A node that was away for up to a week does not bring removed clients back; must be identical on all nodes";
        max_log_lines_per_second: u32 = 10, 1..=1_000_000 Count,
            "Diagnostic lines of one kind per second; further ones are counted",
            "A repeated error must not fill the disk";
        log_max_bytes: Option<u64> = 268_435_456 ("no rotation"), 65_536..=1_099_511_627_776 Bytes,
            "Size at which the log is rotated",
            "One day at ten commands per second";
        log_keep: u32 = 4, 0..=1_000 Count,
            "Rotated log files to keep",
            "Together with the default size, the logs of a node take up to 1.25 GiB";
    }
}

settings! {
    /// Limits on requests to a provider of places: part of the section `places`.
    PlacesLimits in "places" {
        deadline: Duration = 5_000, 50..=300_000 Milliseconds,
            "Longest time that a WHATSAT waits for places",
            "Google answers in a fraction of a second; people wait up to five";
        pool_size: usize = 8, 1..=256 Count,
            "Connections to the provider",
            "80 requests per second at a response time of 100 ms; 1 with overpass, whose usage policy discourages parallel requests";
        cache_ttl: Option<Duration> = 0 ("off"), 1..=2_592_000 Seconds,
            "Time for which an answer is reused",
            "Google's terms forbid storing its places; 3600 with overpass, whose data changes by the day";
        cache_entries: usize = 4_096, 1..=1_000_000 Count,
            "Answers in the cache",
            "About 20 MB if every answer contains 20 places";
        max_in_flight: Option<usize> = 0 ("as many as pool_size"), 1..=256 Count,
            "Requests in flight",
            "A connection carries one request at a time";
        max_queued: usize = 1_024, 1..=1_000_000 Count,
            "Requests waiting for a connection; further ones are rejected immediately",
            "Twice the number that the pool can answer within the deadline at a response time of 100 ms";
        requests_per_second: Option<u32> = 0 ("no limit"), 1..=1_000_000 Count,
            "Requests to the provider per second",
            "Depends on your budget";
        requests_per_day: Option<u32> = 0 ("no limit"), 1..=1_000_000_000 Count,
            "Requests to the provider in any 24 hours",
            "Depends on your budget";
    }
}

settings! {
    /// Timeouts and memory of links between nodes: part of the section `peers`.
    PeerLimits in "peers" {
        keepalive: Duration = 1_000, 50..=60_000 Milliseconds,
            "Idle time after which a node sends a keepalive on a link",
            "One small message per second and link";
        timeout: Duration = 5_000, 100..=600_000 Milliseconds,
            "Silence of a peer after which the link is closed",
            "Five keepalives: a peer may stall for a few seconds without losing the link";
        redial_max: Duration = 2_000, 50..=600_000 Milliseconds,
            "Longest pause between attempts to connect to a neighbor",
            "Matters after a network failure; a neighbor that restarts dials immediately";
        antientropy_interval: Duration = 10, 1..=86_400 Seconds,
            "Interval between digest comparisons on a link",
            "A few dozen bytes each, if nothing differs";
        max_send_buffer: usize = 1_048_576, 65_536..=1_073_741_824 Bytes,
            "Memory for output to one peer, including kernel buffers",
            "Ten thousand records in flight; further ones are queued as slot numbers";
    }
}

settings! {
    /// Interval and size of the storage: part of the section `storage`.
    StorageLimits in "storage" {
        sync_interval: Duration = 1_000, 10..=3_600_000 Milliseconds,
            "Longest time until a record is on the disk, with `sync: interval`",
            "A power cut loses at most one second; a sync per second costs a disk little";
        max_bytes: u64 = 4_294_967_296, 67_108_864..=1_125_899_906_842_624 Bytes,
            "Size of the directory of one node",
            "Ten million clients; compaction keeps it at about three times the live records";
    }
}

settings! {
    /// Limits on phones and trackers: part of the section `devices`.
    DeviceLimits in "devices" {
        max_accuracy_m: Option<u32> = 0 ("no limit"), 1..=1_000_000 Count,
            "Radius of uncertainty, in meters, above which a position is not stored",
            "What is too inaccurate depends on the use; positions without an accuracy are stored";
        max_body: usize = 2_097_152, 1_048_576..=67_108_864 Bytes,
            "Largest body of a request",
            "An Overland batch of 1,000 positions has about 600 kB";
    }
}

/// Returns all configurable limits, section by section.
pub fn all() -> impl Iterator<Item = &'static Limit> {
    let limits = Limits::TABLE.iter().map(|setting| &setting.limit);
    let places = PlacesLimits::TABLE.iter().map(|setting| &setting.limit);
    let peers = PeerLimits::TABLE.iter().map(|setting| &setting.limit);
    let storage = StorageLimits::TABLE.iter().map(|setting| &setting.limit);
    let devices = DeviceLimits::TABLE.iter().map(|setting| &setting.limit);
    limits.chain(places).chain(peers).chain(storage).chain(devices)
}

/// Returns the Markdown table of [`all`] limits, which `--limits` and docs/configuration.md show.
pub fn markdown() -> String {
    let mut table =
        String::from("| Key | Default | Range | Limits | Reason |\n|---|---|---|---|---|\n");
    for limit in all() {
        let _ = writeln!(
            table,
            "| `{}.{}` | {} | {} | {} | {} |",
            limit.section,
            limit.key,
            limit.describe(limit.default),
            limit.range(),
            limit.what,
            limit.why,
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_stores_the_values_of_its_range() {
        fn check<S: Default>(table: &'static [Setting<S>]) {
            for Setting { limit, get, set } in table {
                let mut section = S::default();
                assert_eq!(get(&section), limit.default, "{}", limit.key);
                for value in [limit.min, limit.max] {
                    set(&mut section, value);
                    assert_eq!(get(&section), value, "{}", limit.key);
                }
            }
        }
        check(Limits::TABLE);
        check(PlacesLimits::TABLE);
        check(PeerLimits::TABLE);
        check(StorageLimits::TABLE);
        check(DeviceLimits::TABLE);
    }

    #[test]
    fn zero_disables_a_limit_and_keys_end_with_the_unit() {
        let limits = Limits::default();
        assert_eq!(limits.idle_timeout, None);
        assert_eq!(limits.line_timeout, Duration::from_mins(1));
        assert_eq!(PeerLimits::default().keepalive, Duration::from_secs(1));
        let keys: Vec<_> = all().map(|limit| limit.key).collect();
        assert!(keys.contains(&"line_timeout_s"));
        assert!(keys.contains(&"keepalive_ms"));
        assert!(keys.contains(&"max_line"));
    }

    #[test]
    fn ranges_include_both_ends_and_a_meaningful_zero() {
        let limit = |key| *all().find(|limit| limit.key == key).unwrap();
        let line = limit("max_line");
        assert!(line.allows(64) && line.allows(1 << 15));
        assert!(!line.allows(63) && !line.allows((1 << 15) + 1) && !line.allows(0));
        assert!(limit("idle_timeout_s").allows(0));
        assert_eq!(limit("idle_timeout_s").range(), "from 1 to 31536000 s, or 0 (off)");
    }

    #[test]
    fn limits_that_depend_on_each_other_are_consistent() {
        let limit = |key| *all().find(|limit| limit.key == key).unwrap();
        // The reply to the longest line, and the longest record in a peer's send buffer.
        assert!(2 * limit("max_line").max <= limit("max_output_buffer").min);
        // An incomplete line leaves room for another byte.
        assert!(limit("max_line").max < limit("max_input_buffer").min);
        assert!(2 * limit("max_line").max <= limit("max_send_buffer").min);
        assert!(limit("pool_size").max <= limit("reserved_descriptors").max);
    }

    #[test]
    fn the_markdown_table_has_a_row_for_each_limit() {
        let table = markdown();
        assert_eq!(table.lines().count(), 2 + all().count());
        assert!(table.contains("| `limits.max_line` | 4096 bytes | from 64 to 32768 bytes |"));
        assert!(table.lines().all(|row| row.matches('|').count() == 6), "a cell contains a `|`");
    }
}
