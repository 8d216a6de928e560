//! Peer connections: authentication by handshake and secret, TLS between nodes, settings that must
//! agree, clock differences, and peers that do not read.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod clocks;
mod deaf;
mod digest_key;
mod handshake;
mod link_port;
mod peer;
mod settings;
mod tls;

/// Two nodes whose edge is listed by one end only.
const PAIR: [(&str, &[&str]); 2] = [("Left", &["Right"]), ("Right", &[])];

/// The secret of the herds.
const SECRET: &str = "correct horse battery staple";
