//! The pool of connections to the provider: a fixed number of slots.

use super::flights::FlightId;
use crate::places::http::Exchange;
use crate::time::Instant;

/// The identifier of a connection. A slot is reused after its connection is closed, but with another
/// generation, so that a late event for a closed connection is not attributed to its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId {
    slot: u16,
    generation: u32,
}

impl ConnId {
    /// The slot: a number below `places.pool_size` that no other open connection has.
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// The state of a connection.
pub(super) enum Conn {
    /// The shell resolves the host name, connects and performs the TLS handshake.
    Connecting {
        /// The time at which the attempt fails.
        deadline: Instant,
        /// True once the addresses of the host are known.
        resolved: bool,
    },
    /// It is available.
    Idle { until: Instant },
    /// A request is in flight.
    Busy(Box<Assignment>),
}

/// The request that a connection carries.
pub(super) struct Assignment {
    pub(super) flight: FlightId,
    pub(super) exchange: Exchange,
    pub(super) history: History,
    /// The bytes of the request; empty once the shell has taken them.
    pub(super) request: Vec<u8>,
}

/// The past of the connection that a request is sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum History {
    /// The connection was established for this request.
    Fresh,
    /// The connection has been idle: the server may have closed it in the meantime.
    Reused,
}

/// All connections.
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

    /// The number of connections in any state.
    pub(super) fn open(&self) -> usize {
        self.slots.iter().filter(|slot| slot.conn.is_some()).count()
    }

    /// Starts a connection, if there is a free slot.
    pub(super) fn connect(&mut self, deadline: Instant) -> Option<ConnId> {
        let slot = self.slots.iter().position(|slot| slot.conn.is_none())?;
        let free = &mut self.slots[slot];
        free.generation = free.generation.wrapping_add(1);
        free.conn = Some(Conn::Connecting { deadline, resolved: false });
        self.connecting += 1;
        Some(ConnId { slot: slot as u16, generation: free.generation })
    }

    /// The connection that has been idle for the shortest time, so that the others can expire.
    pub(super) fn idle(&self) -> Option<ConnId> {
        let idle = self.iter().filter_map(|(id, conn)| match conn {
            Conn::Idle { until } => Some((*until, id)),
            Conn::Connecting { .. } | Conn::Busy(_) => None,
        });
        idle.max().map(|(_, id)| id)
    }

    /// Returns a connection, unless it is closed.
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation)?;
        slot.conn.as_mut()
    }

    /// Changes the state of a connection. Returns its previous state, or `None` if it is closed.
    pub(super) fn replace(&mut self, id: ConnId, conn: Conn) -> Option<Conn> {
        let (connecting, busy) = weights(&conn);
        let before = std::mem::replace(self.get_mut(id)?, conn);
        self.uncount(&before);
        self.connecting += connecting;
        self.busy += busy;
        Some(before)
    }

    /// Removes a connection. Returns its last state, or `None` if it was closed already.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Conn> {
        let slot = self.slots.get_mut(id.slot()).filter(|slot| slot.generation == id.generation)?;
        let before = slot.conn.take()?;
        self.uncount(&before);
        Some(before)
    }

    fn uncount(&mut self, conn: &Conn) {
        let (connecting, busy) = weights(conn);
        self.connecting -= connecting;
        self.busy -= busy;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnId, &Conn)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = ConnId { slot: index as u16, generation: slot.generation };
            slot.conn.as_ref().map(|conn| (id, conn))
        })
    }

    /// Returns the connection that carries the request of a flight.
    pub(super) fn carrying(&self, flight: FlightId) -> Option<ConnId> {
        let mut conns = self.iter();
        let carries =
            |conn: &Conn| matches!(conn, Conn::Busy(assignment) if assignment.flight == flight);
        conns.find(|(_, conn)| carries(conn)).map(|(id, _)| id)
    }

    /// Returns true if no connection being established has an address yet.
    pub(super) fn is_awaiting_dns(&self) -> bool {
        !self.iter().any(|(_, conn)| matches!(conn, Conn::Connecting { resolved: true, .. }))
    }

    /// The next time at which a connection that is not busy must be closed.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.iter().filter_map(|(_, conn)| timeout(conn)).min()
    }

    /// Returns a connection that is not busy and whose time is up.
    pub(super) fn timed_out(&self, now: Instant) -> Option<ConnId> {
        let is_up = |conn: &Conn| timeout(conn).is_some_and(|at| at <= now);
        self.iter().find(|(_, conn)| is_up(conn)).map(|(id, _)| id)
    }
}

/// The time at which a connection must be closed. For a busy one, the deadline of its flight applies.
fn timeout(conn: &Conn) -> Option<Instant> {
    match conn {
        Conn::Connecting { deadline: at, .. } | Conn::Idle { until: at } => Some(*at),
        Conn::Busy(_) => None,
    }
}

/// The contribution of a connection to the numbers of those connecting and busy.
fn weights(conn: &Conn) -> (usize, usize) {
    match conn {
        Conn::Connecting { .. } => (1, 0),
        Conn::Idle { .. } => (0, 0),
        Conn::Busy(_) => (0, 1),
    }
}
