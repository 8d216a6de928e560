//! Fixed limits of the HTTP side. The configurable ones are in [`crate::limits`].

use core::time::Duration;

/// Largest head of a request (request line and header fields), in bytes. A browser's is under 2
/// KiB.
pub const MAX_HEAD: usize = 8192;

/// Most header fields of a request. A browser sends about 15.
pub const MAX_HEADER_FIELDS: usize = 64;

/// Most clients of one page of a listing. Each page links to the next.
pub const MAX_LISTED: u64 = 100_000;

/// Records that all HTTP connections together may examine in one turn of the event loop: some
/// hundreds of microseconds, after which the line protocol is served.
pub const WORK_PER_TURN: usize = 4096;

/// Cost of a response besides the records that it examines, in records. `/metrics`, the most
/// expensive response, takes about as long.
pub const WORK_PER_RESPONSE: usize = 512;

/// Bytes of a response that are produced at a time. The next slice follows once these are sent.
pub const SLICE_BYTES: usize = 64 * 1024;

/// Idle timeout of a connection between two requests. Browsers and Prometheus send requests more
/// often.
pub const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// Concurrent listings of clients. Each examines all clients, and together they share
/// [`WORK_PER_TURN`]. A further one gets the seat of another or is rejected with 503.
pub const MAX_LISTINGS: usize = 64;

/// Concurrent subscribers of `/events`, which are people with a map. A further one gets the seat of
/// another or is rejected with 503.
pub const MAX_SUBSCRIBERS: usize = 1024;

/// Time for which output waits for the socket before a listing or a subscriber gives way to another
/// when all seats are taken. A reader on a slow mobile network takes a slice in less.
pub const STALL: Duration = Duration::from_secs(1);

/// Time that the positions of clients are kept up to date after the last query of what is near.
pub const POSITIONS_LINGER: Duration = Duration::from_mins(10);

/// Interval at which changes are entered into the positions if they are few. A query enters the rest itself.
pub const POSITIONS_INTERVAL: Duration = Duration::from_millis(20);

/// Changes that are entered into the positions at once. With fewer, the cache misses of a move would hardly
/// overlap with those of others, and a busy node would enter some in every turn.
pub const POSITIONS_BATCH: usize = 128;

/// Changes that are entered into the positions in one turn: at most a millisecond. A turn rarely has more.
pub const POSITIONS_PER_TURN: usize = 4096;

/// Clients that one subscriber may name in its filter.
pub const MAX_FILTER_CLIENTS: usize = 16;

/// Fences that one subscriber may name in its filter.
pub const MAX_FILTER_FENCES: usize = 16;

/// Shortest interval between two events of one client. On a map it looks smooth.
pub const EVENT_FLUSH: Duration = Duration::from_millis(200);

/// Interval of heartbeats on a silent `/events`: proxies close a connection that is silent for a
/// minute.
pub const EVENT_HEARTBEAT: Duration = Duration::from_secs(15);

/// Time that changes are still logged after the last subscriber has left, in case it reconnects.
pub const EVENT_LINGER: Duration = Duration::from_secs(30);

/// Changes kept for subscribers that are slow or reconnect: 8 MiB, or 26 s at 10,000 updates per
/// second.
pub const MAX_CHANGES: usize = 1 << 18;

/// Most changes published at once: half of those kept, so that a subscriber that is up to date
/// loses none of the next batch.
pub const MAX_CHANGES_PER_FLUSH: usize = MAX_CHANGES / 2;

/// Most bytes of rendered events that are kept for other subscribers until the next flush.
pub const MAX_RENDERED: usize = 1 << 20;
