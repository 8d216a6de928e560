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
//!  sends the last line ───────────── MOVED ─────▶                           new one is released
//!  sends on the new one ───────────────────────── lines ──────────────────▶
//!  new one is released ◀──────────── MOVED ──────                           sends the last line
//!                      ◀───────────────────────── lines ─────────────────── sends on the new one
//!  closes the old one                                                       closes the old one
//! ```
//!
//! Each direction is one sequence of lines: everything on the old connection comes before everything on
//! the new one, whose lines are held until `MOVED` has come. The end of the old connection would not do
//! in its place: a connection may be cut in an orderly way, too, after lines have been lost.
//! The state of the link is the same throughout. If a connection breaks that the link uses in either
//! direction, the link is lost, as if it had only one.

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
        let is_moving = up.successor.is_some();
        if up.boot != boot || up.origin != origin || is_moving {
            return None;
        }
        if replaces.is_some_and(|old| old != up.connection) {
            return None;
        }
        up.successor = Some((connection, deadline));
        up.moved_due = replaces.is_some();
        if up.peer_has_moved {
            self.receive_on_next(id); // its last line on the old connection was faster
        }
        Some(id)
    }

    /// Handles `MOVED`: the peer sends on the next connection from now on.
    pub(super) fn handle_peer_moved(&mut self, link: LinkId) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        up.peer_has_moved = true;
        if up.successor.is_some() {
            self.receive_on_next(link);
        }
    }

    /// Receives on the next connection, as the peer sends on it.
    fn receive_on_next(&mut self, link: LinkId) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        let Some((next, _)) = up.successor else { return };
        let old = core::mem::replace(&mut up.receives_on, next);
        self.actions.push_back(Action::Resume(next));
        if up.connection == next {
            up.end_move();
            self.actions.push_back(Action::Close { connection: old, reason: CloseReason::Moved });
        } else {
            up.moved_due = true;
        }
    }

    /// Sends on the next connection, after `MOVED` as the last line on the present one.
    pub(super) fn send_on_next(&mut self, link: LinkId) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        up.moved_due = false;
        let Some((next, _)) = up.successor else { return };
        let old = core::mem::replace(&mut up.connection, next);
        if up.receives_on == next {
            up.end_move();
            self.actions.push_back(Action::Finish(old));
        }
    }

    /// Returns whether the lines of a connection must wait for the last line of the one that it
    /// replaces. A connection that the link does not use yet is read up to its first line, to detect
    /// its end: the peer may have abandoned the move.
    #[must_use]
    pub fn is_held(&self, link: LinkId, connection: ConnectionId, has_input: bool) -> bool {
        self.link(link).up.as_ref().is_some_and(|up| {
            let is_used = up.connection == connection;
            let is_next = up.successor() == Some(connection);
            is_next && up.receives_on != connection && (is_used || has_input)
        })
    }

    /// Gives up moving a link if the peer has not begun to use the new connection in time. A peer that
    /// moves it after all finds that connection closed, and dials again.
    pub(super) fn limit_move(&mut self, link: LinkId, now: Instant) {
        let Some(up) = &mut self.links[link.index()].up else { return };
        if up.move_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(connection) = up.successor()
        {
            up.end_move();
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
        let (receives, sends) = (up.receives_on, up.connection);
        let sends = Some(sends).filter(|&it| it != receives);
        let next = up.successor().filter(|&it| it != receives && Some(it) != sends);
        for connection in [Some(receives), sends, next].into_iter().flatten() {
            if Some(connection) != ended {
                self.actions.push_back(Action::Close { connection, reason });
            }
        }
    }
}

impl Established {
    /// Returns the connection that the link moves to.
    pub(super) fn successor(&self) -> Option<ConnectionId> {
        self.successor.map(|(connection, _)| connection)
    }

    /// Returns whether the link sends or receives on `connection`.
    pub(super) fn is_in_use(&self, connection: ConnectionId) -> bool {
        self.connection == connection || self.receives_on == connection
    }

    /// Returns the time until which one of the ends must have begun to use the next connection.
    pub(super) fn move_deadline(&self) -> Option<Instant> {
        let (_, deadline) = self.successor.filter(|&(next, _)| !self.is_in_use(next))?;
        Some(deadline)
    }

    /// Ends the move of the link, be it complete or given up.
    pub(super) const fn end_move(&mut self) {
        self.successor = None;
        self.moved_due = false;
        self.peer_has_moved = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::time::SECOND;
    use crate::testing::{connected, herd, identity};
    use crate::time::{Now, Wall};

    const LINK: LinkId = LinkId(0);
    const OLD: ConnectionId = ConnectionId(1);
    const NEW: ConnectionId = ConnectionId(2);
    const NOW: Now = Now { instant: Instant::START, wall: Wall(5 * SECOND) };

    /// A node whose link with its only neighbor has a connection of the given origin.
    fn linked(origin: Origin) -> Herd {
        let mut herd = herd(identity(&["A", "B"], 0, &[1]));
        herd.handle_connected(connected(OLD.0, 1, 7, origin), NOW.instant);
        while herd.poll_action().is_some() {}
        herd
    }

    fn begin_move(herd: &mut Herd, origin: Origin) {
        let replaces = (origin == Origin::Dialed).then_some(OLD);
        let link = herd.handle_moved(connected(NEW.0, 1, 7, origin), replaces, NOW.instant);
        assert_eq!(link, Some(LINK));
    }

    fn receive(herd: &mut Herd, connection: ConnectionId, line: &str) {
        herd.handle_line(LINK, connection, line.as_bytes(), &NOW, &mut ()).unwrap();
    }

    /// The last line of what is sent on `connection`, if the link sends there.
    fn sent(herd: &mut Herd, connection: ConnectionId) -> Option<String> {
        let mut out = Vec::new();
        while herd.link(LINK).up.as_ref()?.connection == connection && herd.has_output(LINK) {
            herd.poll_transmit(LINK, &NOW, &mut out, usize::MAX, &mut ());
        }
        String::from_utf8(out).unwrap().lines().last().map(str::to_owned)
    }

    fn connections(herd: &Herd) -> Option<[ConnectionId; 2]> {
        herd.link(LINK).up.as_ref().map(|up| [up.connection, up.receives_on])
    }

    fn actions(herd: &mut Herd) -> Vec<Action> {
        core::iter::from_fn(|| herd.poll_action()).collect()
    }

    #[test]
    fn the_dialer_says_where_its_last_line_is_and_waits_for_that_of_the_listener() {
        let mut a = linked(Origin::Dialed);
        begin_move(&mut a, Origin::Dialed);
        assert_eq!(sent(&mut a, OLD).as_deref(), Some("MOVED"));
        assert_eq!(connections(&a), Some([NEW, OLD]));
        assert!(a.is_held(LINK, NEW, false));
        receive(&mut a, OLD, "MOVED");
        assert_eq!(connections(&a), Some([NEW, NEW]));
        let close = Action::Close { connection: OLD, reason: CloseReason::Moved };
        assert_eq!(actions(&mut a), [Action::Resume(NEW), close]);
        a.handle_disconnected(LINK, OLD, NOW.instant);
        assert_eq!(connections(&a), Some([NEW, NEW]));
    }

    #[test]
    fn the_listener_answers_the_last_line_of_the_dialer_also_if_it_overtakes_the_handshake() {
        for overtakes in [false, true] {
            let mut a = linked(Origin::Accepted);
            if !overtakes {
                begin_move(&mut a, Origin::Accepted);
                assert_ne!(sent(&mut a, OLD).as_deref(), Some("MOVED"));
            }
            receive(&mut a, OLD, "MOVED");
            if overtakes {
                begin_move(&mut a, Origin::Accepted);
            }
            assert_eq!(connections(&a), Some([OLD, NEW]));
            assert_eq!(sent(&mut a, OLD).as_deref(), Some("MOVED"));
            assert_eq!(connections(&a), Some([NEW, NEW]));
            assert_eq!(actions(&mut a), [Action::Resume(NEW), Action::Finish(OLD)]);
        }
    }

    /// What cuts the old connection, in an orderly way too, may have lost lines before the cut.
    #[test]
    fn a_connection_that_ends_without_its_last_line_ends_the_link() {
        for origin in [Origin::Dialed, Origin::Accepted] {
            let mut a = linked(origin);
            begin_move(&mut a, origin);
            sent(&mut a, OLD);
            a.handle_disconnected(LINK, OLD, NOW.instant);
            assert_eq!(connections(&a), None);
            let close = Action::Close { connection: NEW, reason: CloseReason::MoveFailed };
            assert_eq!(actions(&mut a), [close]);
        }
    }

    /// The listener still has lines to send on the old connection when the new one breaks.
    #[test]
    fn both_connections_of_a_half_moved_link_are_read_and_end_together() {
        let mut a = linked(Origin::Accepted);
        begin_move(&mut a, Origin::Accepted);
        receive(&mut a, OLD, "MOVED");
        assert!(![OLD, NEW].iter().any(|&it| a.is_held(LINK, it, true)));
        actions(&mut a);
        a.handle_disconnected(LINK, NEW, NOW.instant);
        assert_eq!(connections(&a), None);
        let close = Action::Close { connection: OLD, reason: CloseReason::MoveFailed };
        assert_eq!(actions(&mut a), [close]);
    }

    #[test]
    fn a_move_that_the_dialer_abandons_or_does_not_continue_leaves_the_link_where_it_is() {
        let mut a = linked(Origin::Accepted);
        begin_move(&mut a, Origin::Accepted);
        assert!(!a.is_held(LINK, NEW, false), "its end is noticed");
        assert!(a.is_held(LINK, NEW, true));
        a.handle_disconnected(LINK, NEW, NOW.instant);
        assert_eq!(connections(&a), Some([OLD, OLD]));
        begin_move(&mut a, Origin::Accepted);
        let deadline = a.link(LINK).up.as_ref().unwrap().move_deadline().unwrap();
        a.limit_move(LINK, deadline);
        let close = Action::Close { connection: NEW, reason: CloseReason::MoveFailed };
        assert_eq!(actions(&mut a), [close]);
        assert_eq!(connections(&a), Some([OLD, OLD]));
        begin_move(&mut a, Origin::Accepted);
    }
}
