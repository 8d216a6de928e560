//! Fences: areas that clients enter and leave. Pure.
//!
//! A [`FenceSet`] is the content of a fence file, with an index. [`Fences`] is the state machine: it
//! sees every record that the directory stores or removes, and knows which clients are inside which
//! fences. [`Transitions`] is the log of what has changed.

pub mod coordinates;
pub mod file;
mod inside;
pub mod limits;
pub mod machine;
mod members;
mod pending;
pub mod set;
#[cfg(test)]
mod tests;
mod tracker;
pub mod transitions;

pub use file::Error;
pub use machine::Fences;
pub use set::{Fence, FenceId, FenceSet};
pub use transitions::{Counters, Reason, Transition, Transitions};
