//! Fixed limits of the benchmark.

use std::time::Duration;

/// Default number of connections; with fewer clients, one connection per client.
pub const DEFAULT_CONNECTIONS: usize = 50;

/// Most connections: about as many as one address has ports to dial from.
pub const MAX_CONNECTIONS: usize = 60_000;

/// Most requests in flight on a connection: some 100 KB of commands, which the socket buffers of
/// the two ends hold.
pub const MAX_PIPELINE: usize = 1024;

/// Default requests in flight on a connection of an open-loop run: room to catch up with a server
/// that answers within milliseconds. Also the least for the preload.
pub const OPEN_LOOP_PIPELINE: usize = 64;

/// Highest rate, in requests per second: more than one thread can send.
pub const MAX_RATE: f64 = 10_000_000.0;

/// Most nodes between which propagation is measured: each pair has a histogram of 250 KB.
pub const MAX_PROPAGATION_NODES: usize = 16;

/// Longest reply, in bytes: ten times the longest WHATSAT reply.
pub const MAX_REPLY: usize = 256 * 1024;

/// Failed requests that a connection remembers in order to recognize late replies.
pub const MAX_FAILED: usize = 1024;

/// Longest latency that the histograms distinguish from longer ones.
pub const MAX_LATENCY: Duration = Duration::from_secs(100);

/// Pause between two checks for overdue replies.
pub const TICK_INTERVAL: Duration = Duration::from_millis(20);

/// Pause before a lost connection is reconnected.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(100);

/// Pause between two updates of the progress line.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Events taken from the kernel at a time. Further events wait for the next call.
pub const EVENTS_PER_TURN: usize = 1024;

/// Bytes requested from the kernel in one read.
pub const READ_CHUNK: usize = 64 * 1024;
