//! WHATSAT through the real binary and real TLS, against servers that are not the product's: the
//! emulator of Google's APIs and of Overpass, and a server that misbehaves as it is told. Both are
//! Python's ssl, with certificates minted for the occasion.

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
