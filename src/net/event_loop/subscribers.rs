//! The HTTP side: who listens to events is served when there are some.

use crate::node::Now;
use mio::Token;

use super::{EventLoop, Serves};

impl EventLoop {
    /// Connections wait to be taken.
    pub(super) fn handle_connects(&mut self, serves: Serves) {
        for (_, listener) in self.listeners.iter_mut().filter(|(it, _)| *it == serves) {
            listener.ready = true;
        }
    }

    /// Has those who listen to events served in the next turn, if there is something for them.
    pub(super) fn tell_listeners(&mut self, now: &Now) {
        if self.http.handle_timeout(&mut self.node.herd, now.elapsed) {
            let tokens: Vec<Token> =
                self.http.events.connections().map(|id| Token(id as usize)).collect();
            for token in tokens {
                self.enqueue(token);
            }
        }
    }
}
