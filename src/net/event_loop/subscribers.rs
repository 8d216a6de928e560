//! Subscribers of events.

use super::EventLoop;
use crate::net::token::token_of;
use crate::time::Now;

impl EventLoop {
    /// Closes the connections that have lost their seat to another one.
    pub(super) fn close_evicted(&mut self, now: &Now) {
        for connection in self.http.take_evicted() {
            self.close(token_of(connection), now, "another connection has its seat");
        }
    }

    /// Queues the subscribers of events if there is something for them.
    pub(super) fn wake_subscribers(&mut self, now: &Now) {
        if self.http.handle_timeout(&mut self.node.herd, now.instant) {
            let tokens: Vec<_> = self.http.events.connections().map(token_of).collect();
            for token in tokens {
                self.enqueue(token);
            }
        }
    }
}
