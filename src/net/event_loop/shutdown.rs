//! Graceful shutdown.

use sd_notify::NotifyState;

use super::EventLoop;
use crate::ids::LinkId;
use crate::net::connection::{Connection, Stage};
use crate::net::limits::{GIVE_UP_BEFORE_END, SHUTDOWN_TIMEOUT};
use crate::net::notify_supervisor;
use crate::node::Next;
use crate::storage::Condition;
use crate::time::Now;

/// The close reason of all connections at the end of the node.
const STOPPING: &str = "the node is stopping";

impl EventLoop {
    /// Begins the shutdown: no new connection and no further command; pending replies are sent.
    pub(super) fn stop(&mut self, now: &Now) {
        log::info!("stopping: {} clients are connected", self.admissions.clients());
        notify_supervisor(NotifyState::Stopping);
        self.listeners.clear();
        self.accept_at = None;
        self.stop_at = Some(now.instant + SHUTDOWN_TIMEOUT);
        for token in self.tokens() {
            let Some(connection) = self.get(token) else { continue };
            // Nothing is pending, not even the end of a stream, and no unread input could turn into
            // a reset.
            let is_silent = connection.is_settled()
                && connection.next == Next::NeedInput
                && !connection.readiness.readable
                && connection.input.is_empty();
            match &connection.stage {
                Stage::Dialing(_) => self.close(token, now, STOPPING),
                Stage::Open(session) if session.link().is_some() => {}
                Stage::Open(_) if is_silent => self.close(token, now, STOPPING),
                Stage::Open(_) => self.begin_shutdown(token, STOPPING, now),
                Stage::Draining => {}
            }
        }
    }

    /// Returns true once everything has been sent, or the time for it has passed.
    pub(super) fn shutdown_complete(&mut self, now: &Now) -> bool {
        let Some(stop_at) = self.stop_at else { return false };
        if stop_at <= now.instant + GIVE_UP_BEFORE_END {
            while let Some(answer) = self.node.give_up() {
                self.handle_answer(&answer, now);
            }
        }
        if stop_at <= now.instant {
            return true;
        }
        let is_pending = |connection: &Connection| match &connection.stage {
            Stage::Open(session) => session.link().is_none() || connection.has_unsent(),
            _ => false,
        };
        let mut links = (0..self.node.herd.links().len()).map(LinkId);
        if self.connections.iter().any(|(_, connection)| is_pending(connection))
            || links.any(|link| self.node.herd.has_output(link))
        {
            return false;
        }
        // Clients have their replies and peers the updates: links may close.
        for token in self.tokens() {
            if let Some(connection) = self.get(token).filter(|it| it.link().is_some()) {
                connection.close_reason = Some(STOPPING);
                self.drain(token, now);
            }
        }
        self.connections.is_empty() && self.storage_is_synced(now) && self.feed_is_saved(now)
    }

    /// Closes everything at the end of the node, and writes the log.
    pub(super) fn finish(&mut self) {
        let now = self.clock.now();
        for token in self.tokens() {
            self.close(token, &now, "the node has stopped");
        }
        if let Some(store) = &self.node.store
            && store.storage.problem().is_some_and(|it| it.condition == Condition::Behind)
        {
            log::error!(
                "storage {}: the node stops, and the disk lacks records; neighbors restore them",
                store.folder
            );
        }
        self.write_log(now.instant);
        self.report(now.instant);
        log::logger().flush();
    }
}
