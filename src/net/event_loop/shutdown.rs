//! The end in good order.

use crate::limits::{GIVE_UP_BEFORE_END, SHUTDOWN_TIMEOUT};
use crate::net::connection::{Connection, Stage};
use crate::net::tell_supervisor;
use crate::node::Now;
use mio::Token;
use sd_notify::NotifyState;

use super::EventLoop;

impl EventLoop {
    /// Ends in good order: nobody new, no command more, what is owed is still sent.
    pub(super) fn stop(&mut self, now: &Now) {
        log::info!("stopping: {} clients are connected", self.clients);
        tell_supervisor(NotifyState::Stopping);
        self.listeners.clear();
        self.accept_at = None;
        self.stop_at = Some(now.elapsed + SHUTDOWN_TIMEOUT);
        for token in self.tokens() {
            let Some(connection) = self.get(token) else { continue };
            let settled = connection.is_settled();
            match &mut connection.stage {
                Stage::Dialling(_) => self.close(token, now, "the node is stopping"),
                Stage::Open(session) if session.link().is_none() => {
                    let silent = !connection.readable && connection.input.is_empty();
                    if silent && settled {
                        // Nothing is owed and nothing unread could turn into a reset.
                        self.close(token, now, "the node is stopping");
                        continue;
                    }
                    connection.next = session.hang_up();
                    connection.verdict = Some("the node is stopping");
                    self.enqueue(token);
                }
                Stage::Open(_) | Stage::Draining => {}
            }
        }
    }

    /// Whether everything owed has left, or the time for it is over.
    pub(super) fn is_over(&mut self, now: &Now) -> bool {
        if self.stop_at.is_some_and(|at| at <= now.elapsed + GIVE_UP_BEFORE_END) {
            while let Some((id, ticket)) = self.node.give_up() {
                self.answer(Token(id as usize), ticket, now);
            }
        }
        if self.stop_at.is_some_and(|at| at <= now.elapsed) {
            return true;
        }
        let owes = |connection: &Connection| match &connection.stage {
            Stage::Open(session) => session.link().is_none() || connection.owes(),
            _ => false,
        };
        let links = 0..self.node.herd.links().len();
        if self.connections.iter().any(|(_, connection)| owes(connection))
            || links.into_iter().any(|link| self.node.herd.has_output(link))
        {
            return false;
        }
        // Clients have been answered and peers told: links may go.
        for token in self.tokens() {
            if self.get(token).is_some_and(|connection| connection.link().is_some()) {
                self.drain(token, now, "the node is stopping");
            }
        }
        self.connections.is_empty()
    }
}
