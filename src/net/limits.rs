//! Fixed limits of the event loop, the log and the sockets.

use std::time::Duration;

/// Events taken from the kernel in one turn of the loop. Further events wait for the next turn.
pub const EVENTS_PER_TURN: usize = 1024;

/// Bytes requested from the kernel in one read. All connections share one buffer of this size, so it
/// is large enough to read many records in one system call.
pub const READ_CHUNK: usize = 64 * 1024;

/// Bytes of input that are executed together, and bytes of replies that are sent together: both stay
/// in the processor's cache between the phases of a turn.
pub const BATCH_BYTES: usize = 256 * 1024;

/// Budget, in bytes of commands and replies, of all clients together: in one turn, once for new
/// input and once for connections whose own budget ran out in the previous turn. This is some
/// milliseconds of work, after which neighbors, deadlines and the log have their turn.
pub const TURN_BYTES: usize = 1 << 20;

/// What the beginning of a TLS handshake of a device counts against [`TURN_BYTES`]: with an RSA key of
/// 2,048 bits it takes most of a millisecond, so 32 of them are a turn.
pub const HANDSHAKE_BYTES: usize = TURN_BYTES / 32;

/// Bytes of a request that a device must send within `limits.line_timeout_s`. A batch of some hundred
/// kilobytes may take minutes on a slow mobile network.
pub const REQUEST_STEP: usize = 16 * 1024;

/// Bytes that a connection which is being closed may discard in one turn.
pub const DISCARD_BYTES_PER_TURN: usize = 256 * 1024;

/// Bytes assembled for a peer before they are written, which is also the memory that a peer which
/// does not read occupies in this process.
pub const LINK_BUFFER: usize = 64 * 1024;

/// Bytes sent to one peer in one turn.
pub const LINK_BYTES_PER_TURN: usize = 1 << 20;

/// Connections in the kernel's accept queue; the kernel lowers this to `net.core.somaxconn`. The 128
/// of the standard library fill up in 13 ms at 10,000 connections per second, and a client whose
/// connection is dropped retries a second later.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Pause before accepting is retried when descriptors have run out.
pub const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Files of the storage that are open for writing at the same time: those that are written, and segments
/// that are full and not synced yet.
pub const OPEN_FILES: usize = 16;

/// Descriptors of the storage: also its folder, its lock, and a file being opened by each thread.
pub const STORAGE_DESCRIPTORS: usize = OPEN_FILES + 5;

/// Descriptors of a feed: its connection, which tries several addresses, a segment, and its memory.
pub const FEED_DESCRIPTORS: usize = MAX_ATTEMPTS + 2;

/// Descriptors of the process itself: standard streams, log, listeners, readiness queue, signals.
pub const OWN_DESCRIPTORS: usize = 24;

/// Largest file of tokens: some hundred thousand lines. A larger one is probably not the intended file.
pub const MAX_TOKENS_FILE_BYTES: usize = 16 << 20;

/// Time on probation: how long a connection over the limit is kept if it may be a neighbor that is
/// not linked. A peer sends its first line immediately.
pub const PROBATION: Duration = Duration::from_millis(200);

/// Connections on probation at the same time; a further one ends the probation of the oldest. At
/// 10,000 connections per second each has several milliseconds, and a peer on the same machine needs
/// less than one.
pub const MAX_PROBATIONS: usize = 64;

/// Connections to the port for links whose handshake has not succeeded; a further one ends the oldest.
/// They come from this machine only and shake hands immediately.
pub const MAX_AT_LINK_PORT: usize = 64;

/// Ports that are tried for the listener for links. The largest herd has 2,000 ports, which are 7 % of
/// those that Linux chooses from.
pub const LINK_PORT_ATTEMPTS: usize = 16;

/// HTTP connections over the limit at the same time, each of which may make one health check; a
/// further one ends the oldest. As many as are accepted in a turn by default, so that each is read
/// once before others end it; a probe sends its request immediately.
pub const MAX_RESERVE: usize = 64;

/// Time for which an HTTP connection over the limit is kept. A probe sends its request immediately,
/// and the longest round trip is a third of a second.
pub const RESERVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Refused connections that are being sent the reason at the same time; further ones are closed
/// without a reason.
pub const MAX_REFUSALS: usize = 64;

/// Time for which the node keeps reading from a connection that it closes. Unread input would cause
/// a connection reset, which could discard the last reply.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Time from the signal to the end of a graceful shutdown. Output that is unsent by then belongs to
/// clients that do not read.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(1300);

/// Time before the end of [`SHUTDOWN_TIMEOUT`] at which pending WHATSATs are answered without places,
/// so that their replies can still be sent.
pub const GIVE_UP_BEFORE_END: Duration = Duration::from_millis(500);

/// Bytes of log lines that are buffered before they are written.
pub const LOG_BUFFER: usize = 64 * 1024;

/// Longest time for which a log line is buffered.
pub const LOG_FLUSH: Duration = Duration::from_millis(100);

/// Pause before a log that could not be written is reopened.
pub const LOG_RETRY: Duration = Duration::from_secs(1);

/// Reads of one connection to a provider in one turn.
pub const UPSTREAM_READS_PER_TURN: u32 = 16;

/// Head start of each address of a provider over the next one (RFC 8305, section 5).
pub const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Addresses of a provider that are tried for one connection.
pub const MAX_ATTEMPTS: usize = 8;

/// Host names that one neighbor or the client of a provider can have waiting for the resolver: they
/// request another look-up only after giving up on the previous one.
pub const LOOKUPS_EACH: usize = 2;

/// Time before the expiry of a certificate at which a node begins to warn: enough to renew it by hand.
pub const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// Time after which a node reports that the files it reads again at SIGHUP have not been read.
pub const RELOAD_PATIENCE: Duration = Duration::from_secs(10);

/// Largest certificate or key file, in bytes. All authorities of an operating system together are a
/// quarter of that.
pub const MAX_CERTIFICATE_FILE_BYTES: usize = 1 << 20;
