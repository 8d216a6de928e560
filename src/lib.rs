//! An in-memory location service: a herd of nodes that receive the locations of clients, replicate
//! them to each other, and answer queries for a client and the places near it. The README describes
//! its use, and ARCHITECTURE.md the reasons for its design.
//!
//! This library belongs to the programs `proxy-herd` and `herd-bench`, and to the tests. It makes no
//! promise of API stability.
//!
//! # Map
//!
//! ```text
//!           cli, bench        the two programs
//!              │
//!             net             event loop, sockets, TLS, files; assembles the core from `config`
//!              │
//! ┄┄┄┄┄┄┄┄┄┄┄┄┄┼┄┄┄┄┄┄┄┄┄┄┄┄┄ below: pure; no sockets, files, threads, clocks, logger or randomness
//!        http, devices        the HTTP side: requests, listings, events; phones and trackers
//!              │
//!             node            sessions of the line protocol, replies in order
//!            ╱    ╲
//!      storage     │          the log of records
//!         │        │
//!         herd    places      records and links; places near a client
//!        ╱   ╲    ╱
//!   fences  protocol          clients in areas; lines, commands, records and their order
//!
//!   leaves: ids, time, endpoint, text, rng, geo, counters, histogram, limits, message_log
//!   spatial: the nearest clients, for http; shapes, for fences
//! ```
//!
//! # Reading order
//!
//! 1. [`protocol::record`]: a record is its AT line, and which of two is newer.
//! 2. [`herd::directory`], then [`herd`]: keeping the newest record per client, and flooding it.
//! 3. [`node`]: a session, from bytes received to replies.
//! 4. The event loop in `net/event_loop.rs`: the phases of a turn.
//! 5. [`places::upstream`]: the same calling convention for the client of a places provider.
//!
//! docs/tour.md follows one command through these files.

pub mod bench;
pub mod cli;
pub mod config;
pub mod counters;
pub mod devices;
pub mod endpoint;
pub mod feed;
pub mod fences;
pub mod geo;
pub mod herd;
pub mod histogram;
pub mod http;
pub mod ids;
pub mod limits;
pub mod message_log;
pub mod net;
pub mod node;
pub mod places;
pub mod protocol;
pub mod rng;
pub mod spatial;
pub mod storage;
pub mod testing;
pub mod text;
pub mod time;
