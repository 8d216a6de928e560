//! The fixed limits of places, with their units and reasons. Configurable limits are in
//! [`crate::limits`].

use std::time::Duration;

/// Bytes of one response head: status line and header fields. Google sends about 1 KiB; servers
/// commonly allow 8 KiB, to which proxies may add.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Fields of one head or one trailer. Google sends about 20.
pub const MAX_HEADERS: usize = 64;

/// Interim (1xx) responses before the final one. None is requested; a server may send one or two
/// early hints, but an endless series must not keep an exchange alive.
pub const MAX_INTERIM_RESPONSES: u32 = 8;

/// Bytes of one chunk-size line, including extensions, excluding the CRLF. A size has at most sixteen
/// hexadecimal digits, and no known provider sends extensions.
pub const MAX_CHUNK_LINE_BYTES: usize = 256;

/// Bytes of all chunk extensions of one response. They are ignored, and the limit for bodies does not
/// include them.
pub const MAX_CHUNK_EXTENSION_BYTES: usize = 4 * 1024;

/// Bytes of the trailer after a chunked body, which is read and dropped.
pub const MAX_TRAILER_BYTES: usize = 4 * 1024;

/// Bytes of one response body. Twenty places from Google take 10 to 60 KiB, a thousand places from
/// Overpass about 500 KiB, or more if they include towns with names in all languages.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of one indented document. Indentation may multiply the size of a body, so the document has
/// its own limit.
pub const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// Levels of nesting in a provider's document. Google's documents have six; the size of the
/// indentation grows with the square of the depth.
pub const MAX_JSON_DEPTH: usize = 32;

/// Members of the top-level object of a provider's document. Google's have four.
pub const MAX_JSON_MEMBERS: usize = 64;

/// Places requested and kept: the maximum of Nearby Search and of WHATSAT.
pub const MAX_RESULTS: usize = 20;

/// Elements read from one Overpass response before the nearest twenty are selected.
pub const MAX_OVERPASS_ELEMENTS: usize = 1000;

/// Bytes of a provider's own explanation in an `error_message`, which a person reads on a terminal.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 400;

/// Questions that wait for an answer, including identical ones. Each takes about 100 bytes, so at most
/// 6 MiB in total.
pub const MAX_WAITERS: usize = 64 * 1024;

/// Bytes of documents in the cache: about four thousand with twenty places from Google each.
pub const MAX_CACHE_BYTES: usize = 64 * 1024 * 1024;

/// The time limit for establishing a connection: name look-up, TCP and TLS together, for all
/// addresses. A handshake around the world takes less than one second. Eight addresses are started at
/// intervals of a quarter of a second, so three seconds leave more than one for the last. After a
/// failure, the next connection starts with another address.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// The idle timeout of a connection. Most servers close idle connections after 60 s or more; one that
/// does so earlier costs a retry.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Consecutive failures after which the circuit breaker opens. One or two may be coincidence; five
/// questions that each ran into their deadline are enough.
pub const BREAKER_THRESHOLD: u32 = 5;

/// The first pause of the circuit breaker; each consecutive one is twice as long.
pub const BREAKER_MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause that doubling leads to, and so the longest time until a recovery of the provider
/// is noticed.
pub const BREAKER_MAX_PAUSE: Duration = Duration::from_mins(1);

/// The longest pause that a `Retry-After` of the provider can impose.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Bytes of a places file: about [`MAX_PLACES`] places as GeoJSON.
pub const MAX_PLACES_FILE_BYTES: usize = 64 << 20;

/// Places in a file. This many take about 30 MB and nearly a second to read.
pub const MAX_PLACES: usize = 500_000;

/// Bytes of a name, kind or vicinity in a places file. This limits a document of 20 places to 100 kB
/// even if every character has to be escaped.
pub const MAX_PLACE_TEXT: usize = 256;

// The cache must hold at least one document, and a body may be longer than a head.
const _: () = assert!(MAX_DOCUMENT_BYTES <= MAX_CACHE_BYTES);
const _: () = assert!(MAX_HEAD_BYTES < MAX_BODY_BYTES);
const _: () = assert!(MAX_RESULTS <= MAX_OVERPASS_ELEMENTS);

// Offsets into the text of all places have 32 bits, and lengths 16.
const _: () = assert!(MAX_PLACES_FILE_BYTES < u32::MAX as usize);
const _: () = assert!(MAX_PLACE_TEXT < u16::MAX as usize);
