//! The connections to the provider: a fixed number of places for them.

use std::time::Duration;

use super::flights::FlightId;
use crate::places::http::Exchange;

/// A connection. Its place is given out again when it is closed, but never under the same
/// generation, so that an event about a connection that is gone cannot be taken for one about its
/// successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    slot: u16,
    generation: u32,
}

impl ConnId {
    /// A small number, below `places.pool_size`, that no other open connection has.
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// What a connection is doing.
pub(super) enum Conn {
    /// The shell resolves, connects and shakes hands.
    Connecting {
        /// When it is given up.
        deadline: Duration,
        /// The host's addresses are known.
        resolved: bool,
    },
    /// It waits for a question.
    Idle { until: Duration },
    /// It carries a question.
    Busy(Box<Errand>),
}

/// A question on a connection.
pub(super) struct Errand {
    pub(super) flight: FlightId,
    pub(super) exchange: Exchange,
    /// The connection was idle before: it may have been closed while nobody looked.
    pub(super) reused: bool,
    /// The request, until the shell has taken it.
    pub(super) request: Vec<u8>,
}

/// The places for connections.
pub(super) struct Pool {
    slots: Vec<Slot>,
    connecting: usize,
    busy: usize,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    conn: Option<Conn>,
}

impl Pool {
    pub(super) fn new(size: usize) -> Self {
        let size = size.clamp(1, usize::from(u16::MAX));
        Self { slots: (0..size).map(|_| Slot::default()).collect(), connecting: 0, busy: 0 }
    }

    pub(super) fn size(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn connecting(&self) -> usize {
        self.connecting
    }

    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// How many connections there are, in any state.
    pub(super) fn open(&self) -> usize {
        self.slots.iter().filter(|slot| slot.conn.is_some()).count()
    }

    /// Begins a connection, if there is a place for it.
    pub(super) fn connect(&mut self, deadline: Duration) -> Option<ConnId> {
        let slot = self.slots.iter().position(|slot| slot.conn.is_none())?;
        let place = &mut self.slots[slot];
        place.generation = place.generation.wrapping_add(1);
        place.conn = Some(Conn::Connecting { deadline, resolved: false });
        self.connecting += 1;
        Some(ConnId { slot: slot as u16, generation: place.generation })
    }

    /// The idle connection that has been idle for the shortest time: the others may be let go.
    pub(super) fn idle(&self) -> Option<ConnId> {
        let idle = self.iter().filter_map(|(id, conn)| match conn {
            Conn::Idle { until } => Some((*until, id)),
            Conn::Connecting { .. } | Conn::Busy(_) => None,
        });
        idle.max().map(|(_, id)| id)
    }

    /// The connection, if it is still there.
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation)?;
        slot.conn.as_mut()
    }

    /// Puts a connection into another state. What it was doing, if it is still there.
    pub(super) fn replace(&mut self, id: ConnId, conn: Conn) -> Option<Conn> {
        let (connecting, busy) = weights(&conn);
        let before = std::mem::replace(self.get_mut(id)?, conn);
        self.forget(&before);
        self.connecting += connecting;
        self.busy += busy;
        Some(before)
    }

    /// Removes a connection. What it was doing, if it was still there.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation)?;
        let before = slot.conn.take()?;
        self.forget(&before);
        Some(before)
    }

    fn forget(&mut self, conn: &Conn) {
        let (connecting, busy) = weights(conn);
        self.connecting -= connecting;
        self.busy -= busy;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            let id = ConnId { slot: slot as u16, generation: place.generation };
            place.conn.as_ref().map(|conn| (id, conn))
        })
    }

    /// The connection that carries a flight.
    pub(super) fn carrying(&self, flight: FlightId) -> Option<ConnId> {
        let mut conns = self.iter();
        let carries = |conn: &Conn| matches!(conn, Conn::Busy(errand) if errand.flight == flight);
        conns.find(|(_, conn)| carries(conn)).map(|(id, _)| id)
    }

    /// Whether no connection that is being made has an address yet.
    pub(super) fn is_nameless(&self) -> bool {
        !self.iter().any(|(_, conn)| matches!(conn, Conn::Connecting { resolved: true, .. }))
    }

    /// The next moment at which a connection that is not busy is to be closed.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        self.iter().filter_map(|(_, conn)| timeout(conn)).min()
    }

    /// A connection that is not busy and whose time is up.
    pub(super) fn timed_out(&self, now: Duration) -> Option<ConnId> {
        let up = |conn: &Conn| timeout(conn).is_some_and(|at| at <= now);
        self.iter().find(|(_, conn)| up(conn)).map(|(id, _)| id)
    }
}

/// When a connection is to be closed; a busy one goes by the deadline of its question.
fn timeout(conn: &Conn) -> Option<Duration> {
    match conn {
        Conn::Connecting { deadline: at, .. } | Conn::Idle { until: at } => Some(*at),
        Conn::Busy(_) => None,
    }
}

/// What a connection counts as: connecting, busy.
fn weights(conn: &Conn) -> (usize, usize) {
    match conn {
        Conn::Connecting { .. } => (1, 0),
        Conn::Idle { .. } => (0, 0),
        Conn::Busy(_) => (0, 1),
    }
}
