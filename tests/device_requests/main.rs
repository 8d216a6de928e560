//! The listener for devices in memory: the requests of the apps, and hostile ones.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy.toml allows it in tests, helpers are part of them"
)]

mod corpus;
mod harness;
mod rules;
