//! Phones and trackers: requests as apps send them, over HTTP and HTTPS, to real nodes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod admission;
mod apps;
mod connections;
mod fleet;
mod invite;
mod phone;
