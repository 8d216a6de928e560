//! WHATSAT through the real binary and real TLS, with independent servers: the emulator of Google's
//! APIs and of Overpass, and a server that misbehaves on demand. Both use Python's `ssl` module, with
//! certificates generated for these tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod answers;
mod connections;
mod faults;
mod key;
mod names;
mod overload;
mod servers;
