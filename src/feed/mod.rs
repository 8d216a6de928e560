//! The feed: delivery of the history of a node to an engine. Pure; the shell owns the connection, the
//! thread and the files.
//!
//! The log of the storage is the outbox, and the feed is a cursor in it. ARCHITECTURE.md explains the
//! design, docs/feed.md what is guaranteed.
//!
//! ```text
//!            loop                                          thread
//! engine ⇄ Feed  ── Job: Load, Resume, Cut, Save ──►  Worker ── reads the log, cuts batches
//!                ◄────────────── Done ──────────────
//! ```
//!
//! # A turn
//!
//! | in | when |
//! |---|---|
//! | [`Feed::handle_job_done`] | the thread has finished a job |
//! | [`Feed::handle_connected`], [`Feed::handle_input`], [`Feed::handle_eof`], [`Feed::handle_failed`] | the connection |
//! | [`Feed::handle_timeout`] | the time of [`Feed::poll_timeout`] has come |
//!
//! | out | meaning |
//! |---|---|
//! | [`Feed::poll_close`], [`Feed::poll_connect`], [`Feed::poll_output`] | for the connection |
//! | [`Feed::poll_job`] | a job for the thread, which has one at a time |
//! | [`Feed::poll_keep`] | the first segment that the storage must keep |
//! | [`Feed::poll_event`] | an event for the log |
//! | [`Feed::poll_timeout`] | the next deadline, after everything else |
//!
//! Promises:
//!
//! - One batch is in flight and one is ready, so memory is bounded however long the engine is away.
//! - Every connection and every reply has a deadline.
//! - Nothing is sent on a connection before the place from which to continue has been decided.

pub mod batch;
mod connection;
pub mod cutter;
pub mod entry;
pub mod form;
pub mod http;
pub mod id;
pub mod machine;
pub mod memo;
pub mod redis;
pub mod resp;
pub mod shown;
pub mod worker;
pub mod xadd;

pub use machine::Feed;

use crate::counters::counters;
use id::Id;

/// The engine and how to reach it.
#[derive(Clone, Debug)]
pub enum Settings {
    /// Redis, or a server that speaks its protocol.
    Redis(redis::Settings),
    /// An HTTP collector.
    Http(http::Settings),
}

/// An event for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Entries are being delivered, at first or again.
    Connected,
    /// Entries are not being delivered, for this reason. Not repeated for the same reason.
    Failed(String),
    /// The engine has lost entries that it had accepted; they are sent again as far as they are held.
    Older,
    /// Entries were lost before they could be delivered, and a gap has reported this number.
    Gap(u64),
    /// The stream contained this id, which is greater than those of the next entries; theirs were raised.
    Raised(Id),
    /// The memory could not be read, for this reason.
    Forgotten(String),
    /// The memory could not be saved, for this reason.
    NotSaved(String),
}

counters! {
    /// Monotonic counters of the feed since start-up.
    Counters {
        feed_entries_total: "Entries of the feed, by what happened to them." {
            delivered (result = "delivered"): "Accepted by the engine.",
            retried (result = "retried"): "Sent without an answer, or refused, so that they are sent again.",
            dropped (result = "dropped"): "Lost before they were delivered, and reported by a gap.",
        }
    }
}
