//! Shared by all black-box tests: starts real nodes on free ports and communicates with them over
//! TCP. Nothing here uses the library; expectations come from the protocol specification.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a different part of this module"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test helpers report errors by failing the test"
)]

pub mod certificates;
mod client;
pub mod faults;
mod herd;
mod process;
mod protocol;
pub mod redis;

use std::thread;
use std::time::{Duration, Instant};

pub use client::Client;
pub use herd::Herd;
pub use process::{binary, free_port, run};
pub use protocol::{
    At, DELTA, Key, Whatsat, assert_bytes, find, key, lines, refused, seconds, show, wall_ns,
};

/// Timeout for any expected event. It is far longer than any promised latency, so that a loaded
/// machine does not fail a test.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The nodes of the default configuration and their neighbors.
pub const FIVE: [(&str, &[&str]); 5] = [
    ("Bailey", &["Bona", "Campbell"]),
    ("Bona", &["Bailey", "Clark", "Campbell"]),
    ("Campbell", &["Bailey", "Bona", "Jaquez"]),
    ("Clark", &["Jaquez", "Bona"]),
    ("Jaquez", &["Clark", "Campbell"]),
];

/// Calls `probe` until it returns a value; fails the test after `deadline`.
pub fn eventually<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(start.elapsed() < deadline, "timed out after {deadline:?}: {what}");
        thread::sleep(Duration::from_millis(2)); // polling interval
    }
}
