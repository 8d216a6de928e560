//! Moving a link from one connection to another without losing a line.
//!
//! A link begins on the port for clients. If the peer has a port for links only, the end that dialed
//! opens a second connection to it, and the link moves there:
//!
//! ```text
//!  dialer                       old connection   new connection                  listener
//!  ──────                                                                        ────────
//!  dials the link port ────────────────────────── handshake ──────────────▶ new one is held
//!  new one is established ◀────────────────────── handshake ───────────────
//!  sends the rest, ends its side ──── end ───▶                              old one is read to its end
//!  sends on the new one ───────────────────────── lines ──────────────────▶ new one is released
//!  old one is read to its end ◀────── end ────                              sends the rest, closes it
//!  new one is released ◀───────────────────────── lines ─────────────────── sends on the new one
//! ```
//!
//! Each direction is one sequence of lines: everything on the old connection comes before everything on
//! the new one, whose lines are held until then. The state of the link is the same throughout. If
//! either connection breaks in between, the link is lost, as if it had only one.

use super::link::{Connected, Established, Origin};
use super::{Action, CloseReason, Herd};
use crate::ids::{ConnectionId, LinkId};
use crate::time::Instant;

impl Herd {
    /// Handles the `port` for links only that the peer of `connection` has named; 0 if it has none.
    /// Requests that the link move there if this end has dialed.
    pub fn handle_link_port(&mut self, link: LinkId, connection: ConnectionId, port: u16) {
        let up = self.link(link).up.as_ref();
        let dialed =
            up.is_some_and(|up| up.connection == connection && up.origin == Origin::Dialed);
        if dialed && port != 0 {
            self.actions.push_back(Action::Move { link, connection, port });
        }
    }

    /// Handles a connection to a port for links only whose handshake has succeeded. The dialer passes
    /// the connection that it `replaces`. Returns the link that moves to it, or `None` if the
    /// connection must be closed: the link is down, is moving already, or has come to use a connection
    /// that another process or the other end dialed.
    pub fn handle_moved(
        &mut self,
        connected: Connected,
        replaces: Option<ConnectionId>,
        now: Instant,
    ) -> Option<LinkId> {
        let Connected { connection, peer, boot, origin } = connected;
        let id = self.link_to(peer)?;
        let deadline = now + self.timing.timeout;
        let up = self.links[id.index()].herd_peer()?;
        let is_moving = up.predecessor.is_some() || up.successor.is_some();
        if up.boot != boot || up.origin != origin || is_moving {
            return None;
        }
        match replaces {
            None => up.successor = Some((connection, deadline)),
            Some(old) if old != up.connection => return None,
            Some(old) => {
                up.predecessor = Some(old);
                up.connection = connection;
                self.actions.push_back(Action::Finish(old));
            }
        }
        Some(id)
    }

    /// Returns whether the lines of a connection must wait for the end of the one that it replaces.
    #[must_use]
    pub fn is_held(&self, link: LinkId, connection: ConnectionId) -> bool {
        let up = self.link(link).up.as_ref();
        up.is_some_and(|up| up.receives_on() != connection && up.is_in_use(connection))
    }

    /// Handles the end of a connection of a link after its last line: the peer has ended it. Returns
    /// whether another connection carries the link on.
    pub fn handle_ended(&mut self, link: LinkId, connection: ConnectionId, now: Instant) -> bool {
        if let Some(up) = &mut self.links[link.index()].up
            && up.receives_on() == connection
            && let Some(next) = up.carry_on()
        {
            self.actions.push_back(Action::Resume(next));
            return true;
        }
        self.handle_disconnected(link, connection, now);
        false
    }

    /// Gives up moving a link if the peer has not ended the present connection in time. A peer that
    /// moves it after all finds the new connection closed, and dials again.
    pub(super) fn limit_move(&mut self, link: LinkId, now: Instant) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        if let Some((connection, _)) = up.successor.take_if(|(_, deadline)| *deadline <= now) {
            self.actions.push_back(Action::Close { connection, reason: CloseReason::MoveFailed });
        }
    }

    /// Closes all connections of a link except the one that has `ended`.
    pub(super) fn close_connections(
        &mut self,
        link: LinkId,
        ended: Option<ConnectionId>,
        reason: CloseReason,
    ) {
        let Some(up) = &self.links[link.index()].up else { return };
        let all = [up.predecessor, Some(up.connection), up.successor()];
        for connection in all.into_iter().flatten().filter(|&it| Some(it) != ended) {
            self.actions.push_back(Action::Close { connection, reason });
        }
    }
}

impl Established {
    /// Returns the connection whose lines are processed.
    pub(super) fn receives_on(&self) -> ConnectionId {
        self.predecessor.unwrap_or(self.connection)
    }

    /// Returns whether the link uses `connection`, be it for one direction or later.
    pub(super) fn is_in_use(&self, connection: ConnectionId) -> bool {
        [self.predecessor, Some(self.connection), self.successor()].contains(&Some(connection))
    }

    /// Returns the connection that the link moves to once the peer has ended the present one.
    pub(super) fn successor(&self) -> Option<ConnectionId> {
        self.successor.map(|(connection, _)| connection)
    }

    /// Continues on the next connection. Returns it, or `None` if there is none.
    fn carry_on(&mut self) -> Option<ConnectionId> {
        if self.predecessor.take().is_none() {
            (self.connection, _) = self.successor.take()?;
        }
        Some(self.connection)
    }
}
