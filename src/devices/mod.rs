//! The listener for phones and trackers. Pure.
//!
//! The shell keeps a [`DeviceSession`] per connection and feeds it like an
//! [`HttpSession`](crate::http::HttpSession). It calls [`Devices::begin_turn`] once per turn, and
//! [`Devices::begin_queue`] before it serves the connections that have yielded.

mod batch;
mod body;
pub mod counters;
mod dialect;
mod failures;
mod fix;
mod members;
mod number;
mod request;
mod response;
mod session;
mod time;
pub mod tokens;

pub use session::{DeviceInfo, DeviceSession};

use crate::node::Node;
use crate::time::{Now, Wall};
use batch::Batch;
use counters::Counters;
use failures::Failures;
use tokens::Tokens;

/// Work of all connections in one turn, in positions that are read or reported; half of it is for
/// connections that have waited since the turn before. Each takes some microseconds, so a turn takes
/// some milliseconds.
const WORK_PER_TURN: usize = 1024;

/// Share of one connection, so that a long batch does not keep others from the turn.
const SESSION_WORK: usize = 256;

/// Longest body, in bytes, that is executed at once and without a copy, if it has arrived in one
/// piece. It has a few hundred positions at most.
const IN_PLACE: usize = 16 * 1024;

/// Memory for bodies that have not arrived completely or are being executed, in bytes, over all
/// connections: 32 of the longest, or a hundred batches of a thousand positions. Devices that find it
/// full retry.
const MAX_BODIES: usize = 64 << 20;

/// State that a session works with while it is called.
pub struct Context<'a> {
    /// State shared by all connections of devices.
    pub devices: &'a mut Devices,
    /// The node that receives the positions.
    pub node: &'a mut Node,
    /// Current time.
    pub now: &'a Now,
}

/// Configuration of [`Devices`].
#[derive(Debug)]
pub struct Settings {
    /// The tokens; `None` if every request is accepted.
    pub tokens: Option<Tokens>,
    /// Positions with a greater accuracy radius, in meters, are not stored.
    pub max_accuracy_m: Option<u32>,
    /// Positions at exactly 0, 0 without an accuracy.
    pub null_island: NullIsland,
    /// Longest body of a request, in bytes.
    pub max_body: usize,
    /// Unsent output, in bytes, at which no more requests are answered.
    pub max_output: usize,
}

/// The treatment of positions at exactly 0, 0 without an accuracy: nearly always a failed fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullIsland {
    /// They are not stored.
    Drop,
    /// They are positions like any other.
    Keep,
}

/// State shared by all connections of devices.
pub struct Devices {
    settings: Settings,
    /// Monotonic counters since start-up.
    pub counters: Counters,
    /// Open connections.
    pub connections: usize,
    /// Failed logins.
    failures: Failures,
    /// Memory of bodies, which [`MAX_BODIES`] limits.
    bodies: usize,
    /// A batch for requests that are executed at once.
    scratch: Batch,
    /// Buffers for the IAMAT of a position and for its AT line.
    buffers: (Vec<u8>, Vec<u8>),
    /// Work that may still be done in this turn.
    work: usize,
    /// Wall clock at the beginning of this turn.
    wall: Wall,
}

impl Devices {
    /// Returns the state of a listener without connections.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            counters: Counters::default(),
            connections: 0,
            failures: Failures::default(),
            bodies: 0,
            scratch: Batch::default(),
            buffers: (Vec::new(), Vec::new()),
            work: 0,
            wall: Wall::default(),
        }
    }

    /// Replaces the tokens, for all requests from now on.
    pub fn set_tokens(&mut self, tokens: Option<Tokens>) {
        self.settings.tokens = tokens;
    }

    /// Begins a turn of the event loop with half of the budget for new requests. `wall` is the date of its
    /// responses.
    pub const fn begin_turn(&mut self, wall: Wall) {
        self.work = WORK_PER_TURN / 2;
        self.wall = wall;
    }

    /// Adds the budget for connections that wait since the previous turn.
    pub const fn begin_queue(&mut self) {
        self.work += WORK_PER_TURN / 2;
    }
}
