//! Limits of fences.

/// Largest fence file, in bytes: 100,000 fences of 100 vertices each with ten decimals.
pub const MAX_FILE_BYTES: usize = 256 << 20;

/// Most fences: ten times as many as the largest deployments that are known use. With its index, each
/// takes a few hundred bytes.
pub const MAX_FENCES: usize = 1_000_000;

/// Most vertices of all fences together: with their index, they take 160 MB.
pub const MAX_VERTICES: usize = 4_000_000;

/// Longest name of a fence, in bytes. It is part of every event.
pub const MAX_NAME: usize = 128;

/// Transitions that are kept for subscribers that are slow or reconnect: about 12 MB.
pub const MAX_TRANSITIONS: usize = 1 << 16;

/// Largest buffer of a transition that the next one uses again, in bytes: a line that is longer than nearly
/// all others does not occupy memory for good.
pub const REUSED_TEXT: usize = 256;

/// Changes that may come into effect at once because their dwell time has passed: some hundreds of
/// microseconds.
pub const TIMERS_PER_TURN: usize = 512;
