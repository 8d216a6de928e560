//! Who is a peer, and what becomes of those who say so and are not: the handshake and its secret,
//! TLS between nodes, settings that must agree, clocks that do not, and peers that do not read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests report by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod deaf;
mod handshake;
mod peer;
mod settings;
mod tls;

/// Two nodes, the edge listed by one end only.
const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

/// What the herd of a test knows.
const SECRET: &str = "correct horse battery staple";
