//! The end of a connection that carries HTTP, of a browser or a device.

use crate::node::{Handled, Input, Next};

/// Decides whether and how a connection ends between two responses.
#[derive(Debug, Default)]
pub struct Ending(Option<Next>);

impl Ending {
    /// Begins a graceful shutdown: no further requests are answered, and the session returns
    /// [`Next::ShutdownWhenFlushed`] once the current response is complete.
    pub const fn begin_shutdown(&mut self) {
        self.0 = Some(Next::ShutdownWhenFlushed);
    }

    /// Notes that a response is complete, after which the connection is kept open or not.
    pub const fn responded(&mut self, keep_alive: bool) {
        if !keep_alive {
            self.begin_shutdown();
        }
    }

    /// Notes that the other end has half-closed and that no complete request is left.
    pub const fn half_closed(&mut self) {
        if self.0.is_none() {
            self.0 = Some(Next::CloseWhenFlushed);
        }
    }

    /// Returns how the connection ends now, if it does. A response that waits is completed first.
    #[must_use]
    pub const fn due(&self, is_waiting: bool) -> Option<Next> {
        if is_waiting { None } else { self.0 }
    }

    /// Returns the result of a call of `handle_input`. Once a connection ends, requests that have not
    /// been consumed are dropped.
    #[must_use]
    pub const fn handled(next: Next, consumed: usize, input: Input<'_>) -> Handled {
        let consumed = if next.is_end() { input.bytes.len() } else { consumed };
        Handled { consumed, next }
    }
}
