//! Configurable limits live here, one `settings!` row each; fixed limits live next to the state
//! machine they bound.
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

/// Bytes asked of the kernel in one read of a link. One such buffer serves all connections of the
/// loop, so it is large enough to take many records in one system call.
pub const READ_CHUNK: usize = 64 * 1024;

/// Events taken from the kernel in one turn of the loop. More wait for the next turn.
pub const EVENTS_PER_TURN: usize = 1024;

/// Reads of one connection in one turn: a client that always has more to say shares the loop.
pub const READS_PER_TURN: u32 = 4;

/// Bytes of commands and replies that one client has of a turn; one reply may go over it. A pipeline
/// of 256 IAMATs with long names is answered in one go, as are twenty of the longest WHATSATs, some
/// hundreds of microseconds of work. Commands count, since an empty line has no reply.
pub const CLIENT_BYTES_PER_TURN: usize = 128 * 1024;

/// Bytes of commands and replies that all clients together have of a turn, twice: for what is new,
/// and for those that had more to say. Some milliseconds of work, and then neighbours, deadlines and
/// the log have their turn, however many clients there are.
pub const TURN_BYTES: usize = 1 << 20;

/// Bytes put together for a peer before they are written; also what a peer that does not read
/// costs in this process.
pub const LINK_BUFFER: usize = 64 * 1024;

/// Bytes sent to one peer in one turn.
pub const LINK_BYTES_PER_TURN: usize = 1 << 20;

/// How long a connection over the limit is heard, if it may be a neighbour that is not linked:
/// a peer speaks at once.
pub const PROBATION: Duration = Duration::from_millis(200);

/// Connections over the limit that are heard at the same time. One more ends the time of the
/// oldest: in a storm of 10,000 connections a second each still has several milliseconds, and a
/// peer on the same machine needs less than one.
pub const MAX_PROBATIONS: usize = 64;

/// Connections that the kernel holds until they are taken; it lowers this to its own
/// `net.core.somaxconn`. The 128 of the standard library are full after 13 ms of 10,000 connects a
/// second, and who finds no room tries again a second later.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Descriptors of the process itself: standard streams, log, listener, readiness queue, signals.
pub const OWN_DESCRIPTORS: usize = 24;

/// Before the end of [`SHUTDOWN_TIMEOUT`], WHATSATs that still wait are told that they wait in
/// vain, so that there is time to send that.
pub const GIVE_UP_BEFORE_END: Duration = Duration::from_millis(500);

/// Refused connections that are being told so at the same time; one more is closed without a word.
pub const MAX_REFUSALS: usize = 64;

/// How long a connection that the node ends is read on, so that unread input does not turn into a
/// reset that eats the last reply.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// From the signal to the end: what is owed then is owed to somebody who does not read.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1300);

/// Pause before accepting is tried again when descriptors have run out.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Bytes of the log that wait to be written.
pub const LOG_BUFFER: usize = 64 * 1024;

/// Longest time that a line of the log waits to be written.
pub const LOG_FLUSH: Duration = Duration::from_millis(100);

/// Pause before a log that could not be written is opened again.
pub const LOG_RETRY: Duration = Duration::from_secs(1);

/// Reads of one connection to a provider in one turn.
pub const UPSTREAM_READS_PER_TURN: u32 = 16;

/// Head start of each address of a provider over the next (RFC 8305, section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of a provider that are tried for one connection.
pub const MAX_ATTEMPTS: usize = 8;

/// Names that each neighbour, or the client of a provider, can have waiting to be resolved: it asks
/// again only when it has given up on the answer.
pub const LOOKUPS_EACH: usize = 2;

settings! {
    /// What clients may ask of a node: the section `limits`.
    Limits in "limits" {
        max_line: usize = 4096, 64..=32_768 Bytes,
            "Longest command line, without its LF",
            "A command is under 200 bytes; the rest is room for long client names";
        max_connections: usize = 16_384, 1..=1_000_000 Count,
            "Client connections in all",
            "15,000 held connections are part of the tests; lowered at the start where the process may open fewer files";
        max_connections_per_address: Option<usize> = 0 ("no limit"), 1..=1_000_000 Count,
            "Client connections from one address",
            "Whole fleets sit behind one NAT, so there is no good number to presume";
        accepts_per_turn: usize = 64, 1..=65_536 Count,
            "New connections taken in one turn of the event loop",
            "A storm of connects may cost those already served less than a millisecond a turn";
        reserved_descriptors: usize = 64, 16..=65_536 Count,
            "File descriptors that clients cannot use up",
            "Peers, the log and Places go on when clients have taken all the others";
        max_input_buffer: usize = 65_536, 36_864..=1_048_576 Bytes,
            "What was read from one client and not executed yet",
            "One read of the kernel: a deep pipeline takes one system call, and one that has to wait stops here";
        max_output_buffer: usize = 262_144, 65_536..=1_073_741_824 Bytes,
            "Replies waiting for one client before it is not read any more",
            "Fifty of the longest WHATSAT replies; a client that does not read stops here";
        send_buffer: usize = 65_536, 4_096..=16_777_216 Bytes,
            "SO_SNDBUF of a client's socket; Linux reserves twice this",
            "Unbounded, the kernel lets one deaf client hold 4 MiB; this still carries 640 kB/s over a round trip of 100 ms";
        receive_buffer: usize = 65_536, 4_096..=16_777_216 Bytes,
            "SO_RCVBUF of a client's socket; Linux reserves twice this",
            "What Linux begins with; unbounded, it would let one client that is not read from hold 6 MiB or more";
        line_timeout: Duration = 60, 1..=86_400 Seconds,
            "Time from the first byte of a line to its end",
            "Slower than any person types, short enough that dripping clients are gone in a minute";
        idle_timeout: Option<Duration> = 0 ("off"), 1..=31_536_000 Seconds,
            "Time without a command after which a client is closed",
            "People on telnet and slow fleets are welcome; TCP keepalive finds the dead";
        write_timeout: Duration = 30, 1..=86_400 Seconds,
            "Time that a client may leave replies unread before it is closed",
            "A phone comes out of a tunnel in less; a client that never reads costs memory no longer";
        tcp_keepalive: Duration = 60, 1..=32_767 Seconds,
            "Silence after which the kernel probes a client",
            "Mobile networks forget idle connections after some minutes; Linux takes no more than 32,767";
        max_pending_whatsat_per_connection: usize = 1_024, 1..=65_536 Count,
            "WHATSATs of one connection waiting for places before it is not read for a while",
            "A thousand questions in one pipeline meet, and the identical ones are asked once; a quarter of what all may have";
        max_pending_whatsat: usize = 4_096, 1..=1_000_000 Count,
            "WHATSATs of all connections waiting for places before none is read for a while",
            "Four connections at their own limit; about 50 MB when all are answered out of order";
        new_clients_per_second_per_address: Option<u32> = 0 ("no limit"), 1..=1_000_000 Count,
            "Client names not known before that one address may introduce in a second",
            "A fleet behind one NAT introduces all its vehicles at once after a restart";
        max_clients: usize = 1_000_000, 1..=100_000_000 Count,
            "Clients that a node holds; the oldest go first, on all nodes alike",
            "About 200 MB; must be the same in the whole herd";
        client_ttl: Option<Duration> = 0 ("never"), 1..=3_153_600_000 Seconds,
            "Age after which a client's record is forgotten",
            "The seed never forgets; must be the same in the whole herd";
        max_log_lines_per_second: u32 = 10, 1..=1_000_000 Count,
            "Diagnostic lines of one kind in a second; the others are counted",
            "Whoever causes an error a million times must not fill the disk with it";
        log_max_bytes: Option<u64> = 268_435_456 ("no rotation"), 65_536..=1_099_511_627_776 Bytes,
            "Size at which a node's log is rotated",
            "A day of ten commands a second";
        log_keep: u32 = 4, 0..=1_000 Count,
            "Rotated logs kept beside the current one",
            "With the default size a node's logs stay under 1.25 GiB";
    }
}

settings! {
    /// What a node may ask of a provider of places: the numbers of the section `places`.
    PlacesLimits in "places" {
        deadline: Duration = 5_000, 50..=300_000 Milliseconds,
            "Time a WHATSAT may wait for places",
            "Google answers in a fraction of a second; a person waits five";
        pool_size: usize = 8, 1..=256 Count,
            "Connections to the provider",
            "At 100 ms an answer these carry 80 requests a second; with overpass the default is 1, it asks for nothing in parallel";
        cache_ttl: Option<Duration> = 0 ("off"), 1..=2_592_000 Seconds,
            "Time an answer is used again",
            "Google's terms forbid to store its places; with overpass the default is 3600, its data changes by the day";
        cache_entries: usize = 4_096, 1..=1_000_000 Count,
            "Answers held for use again",
            "About 20 MB when every answer holds 20 places";
        max_in_flight: Option<usize> = 0 ("as many as pool_size"), 1..=256 Count,
            "Requests sent and not answered",
            "A connection carries one request at a time";
        max_queued: usize = 1_024, 1..=1_000_000 Count,
            "Requests waiting for a connection; more are refused at once",
            "Twice what the pool can answer within the deadline at 100 ms an answer";
        requests_per_second: Option<u32> = 0 ("no limit"), 1..=1_000_000 Count,
            "Requests to the provider in a second",
            "What is affordable only the operator knows";
        requests_per_day: Option<u32> = 0 ("no limit"), 1..=1_000_000_000 Count,
            "Requests to the provider in any 24 hours",
            "What is affordable only the operator knows";
    }
}

settings! {
    /// What links between nodes may cost and how patient they are: the numbers of the section
    /// `peers`.
    PeerLimits in "peers" {
        keepalive: Duration = 1_000, 50..=60_000 Milliseconds,
            "Silence on a link after which something is sent on it",
            "One small message a second and link";
        timeout: Duration = 5_000, 100..=600_000 Milliseconds,
            "Silence of a peer after which its link is closed",
            "Five keepalives: a peer may stall for a few seconds without a relink";
        redial_max: Duration = 2_000, 50..=600_000 Milliseconds,
            "Longest pause between attempts to reach a neighbour",
            "A neighbour that comes back dials at once itself; this is for one that is reached again without a restart";
        antientropy_interval: Duration = 10, 1..=86_400 Seconds,
            "Pause between comparisons of digests on a link",
            "A few dozen bytes a time while nothing differs";
        max_send_buffer: usize = 1_048_576, 65_536..=1_073_741_824 Bytes,
            "Memory toward one peer, the kernel's included",
            "Ten thousand records in flight; what waits beyond costs a slot each, not its bytes";
    }
}

/// Every [`Limit`] that the configuration file can set, section by section.
pub fn all() -> impl Iterator<Item = &'static Limit> {
    let limits = Limits::TABLE.iter().map(|setting| &setting.limit);
    let places = PlacesLimits::TABLE.iter().map(|setting| &setting.limit);
    let peers = PeerLimits::TABLE.iter().map(|setting| &setting.limit);
    limits.chain(places).chain(peers)
}

/// The table of [`all`] limits in Markdown, as the README and `--limits` show it.
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
    fn a_setting_keeps_what_it_is_given() {
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
    }

    #[test]
    fn zero_switches_off_and_units_are_in_the_key() {
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
    fn ranges_include_their_ends_and_a_zero_that_means_something() {
        let limit = |key| *all().find(|limit| limit.key == key).unwrap();
        let line = limit("max_line");
        assert!(line.allows(64) && line.allows(1 << 15));
        assert!(!line.allows(63) && !line.allows((1 << 15) + 1) && !line.allows(0));
        assert!(limit("idle_timeout_s").allows(0));
        assert_eq!(limit("idle_timeout_s").range(), "from 1 to 31536000 s, or 0 (off)");
    }

    #[test]
    fn what_a_limit_lets_in_fits_where_it_has_to_go() {
        let limit = |key| *all().find(|limit| limit.key == key).unwrap();
        // The reply to the longest line, and the longest record on its way to a peer.
        assert!(2 * limit("max_line").max <= limit("max_output_buffer").min);
        // A line that is not whole leaves room for a byte more.
        assert!(limit("max_line").max < limit("max_input_buffer").min);
        assert!(2 * limit("max_line").max <= limit("max_send_buffer").min);
        assert!(limit("pool_size").max <= limit("reserved_descriptors").max);
    }

    #[test]
    fn the_markdown_table_has_a_row_for_each_limit() {
        let table = markdown();
        assert_eq!(table.lines().count(), 2 + all().count());
        assert!(table.contains("| `limits.max_line` | 4096 bytes | from 64 to 32768 bytes |"));
        assert!(table.lines().all(|row| row.matches('|').count() == 6), "a cell holds a |");
    }
}
