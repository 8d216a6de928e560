//! Every cap of places, of those in a file and of those that a provider is asked for: its unit and
//! its reason. What the configuration can set is in [`crate::limits`].

use std::time::Duration;

/// Bytes of one response head, status line and header fields. Google sends about 1 KiB; servers
/// commonly allow 8 KiB, proxies on the way may add to it.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Header fields in one head, and in one trailer. Google sends about 20.
pub const MAX_HEADERS: usize = 64;

/// Interim (1xx) responses before the final one. We ask for none; a server may send an early hint
/// or two, and an endless series of them must not keep an exchange alive.
pub const MAX_INTERIM_RESPONSES: u32 = 8;

/// Bytes of one chunk-size line, its extensions included and its CRLF not. Sixteen hexadecimal
/// digits are a size; nobody who answers us sends extensions at all.
pub const MAX_CHUNK_LINE_BYTES: usize = 256;

/// Bytes of chunk extensions in one response, all chunks together: they carry nothing for us, and
/// a server must not be able to send megabytes that no body limit counts.
pub const MAX_CHUNK_EXTENSION_BYTES: usize = 4 * 1024;

/// Bytes of the trailer behind a chunked body. It is read and dropped.
pub const MAX_TRAILER_BYTES: usize = 4 * 1024;

/// Bytes of one response body. Twenty places from Google are 10 to 60 KiB, a thousand nodes from
/// Overpass are about 500 KiB, more where towns carry their names in all languages.
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of one rendered document. Indentation may multiply what arrived, so what is kept has a
/// bound of its own.
pub const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// Depth of nesting in a provider's document. Google's documents are six deep; indentation grows
/// with the square of the depth.
pub const MAX_JSON_DEPTH: usize = 32;

/// Members of the top-level object of a provider's document. Google's have four.
pub const MAX_JSON_MEMBERS: usize = 64;

/// Places asked for and kept: what Nearby Search gives at most, and the largest bound of WHATSAT.
pub const MAX_RESULTS: usize = 20;

/// Nodes taken from one Overpass answer before the nearest twenty are picked.
pub const MAX_OVERPASS_ELEMENTS: usize = 1000;

/// Bytes of a provider's own words that are passed on in an `error_message`: a reply is read by a
/// person on a terminal.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 400;

/// Questions that wait for answers, identical ones counted each: about 100 bytes of bookkeeping
/// for each, so 6 MiB at the most.
pub const MAX_WAITERS: usize = 64 * 1024;

/// Bytes of documents kept in the cache. Four thousand answers of twenty places from Google are
/// about this much.
pub const MAX_CACHE_BYTES: usize = 64 * 1024 * 1024;

/// How long a connection may take to come about: name, TCP and TLS together, at whichever address.
/// A handshake around the world takes under one second; in three the last of eight addresses, a
/// quarter of a second after each other, has more than one. Whoever waits is told then, and the next
/// connection begins at another address.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(3);

/// How long an idle connection is kept for the next question. Most servers give up after 60 s or
/// more; the ones that do so earlier cost one retry.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// Failures in a row after which the provider is left alone for a while. One or two are chance;
/// five questions that each cost a client its deadline are enough.
pub const BREAKER_THRESHOLD: u32 = 5;

/// The first pause of the circuit breaker; each further one is twice as long.
pub const BREAKER_MIN_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause of the circuit breaker that doubling leads to: how late at most the return
/// of a provider is noticed.
pub const BREAKER_MAX_PAUSE: Duration = Duration::from_mins(1);

/// The longest pause that a provider's own `Retry-After` can impose. Beyond it we ask again.
pub const MAX_RETRY_AFTER: Duration = Duration::from_mins(10);

/// Largest places file that is read, in bytes. [`MAX_PLACES`] places of GeoJSON are about as much.
pub const MAX_PLACES_FILE_BYTES: usize = 64 << 20;

/// Most places in a file. They take about 30 MB, and the better part of a second to read.
pub const MAX_PLACES: usize = 500_000;

/// Longest name, kind or vicinity of an own place, in bytes. With the 20 places that a WHATSAT may
/// ask for this bounds a document: 100 kB if every character has to be escaped.
pub const MAX_PLACE_TEXT: usize = 256;

// A cache that cannot hold one document, or a body smaller than a head, would be a contradiction.
const _: () = assert!(MAX_DOCUMENT_BYTES <= MAX_CACHE_BYTES);
const _: () = assert!(MAX_HEAD_BYTES < MAX_BODY_BYTES);
const _: () = assert!(MAX_RESULTS <= MAX_OVERPASS_ELEMENTS);

// The text of all places is addressed by 32 bits, and a piece of it by 16.
const _: () = assert!(MAX_PLACES_FILE_BYTES < u32::MAX as usize);
const _: () = assert!(MAX_PLACE_TEXT < u16::MAX as usize);
