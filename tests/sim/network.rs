//! Connections between simulated machines: bytes arrive in order, late, split anywhere, or never.

use std::collections::VecDeque;

use proxy_herd::ids::{ConnectionId, LinkId};
use proxy_herd::node::LineSession;

use crate::schedule::Time;
use proxy_herd::rng::Rng;

/// A connection and its two ends. Its index is the [`proxy_herd::ids::ConnectionId`] of
/// both.
pub struct Wire {
    pub ends: [End; 2],
    /// `pipes[i]` leads to `ends[i]`.
    pub pipes: [Pipe; 2],
    /// The connection whose link moves to this one, if it was dialed for that.
    pub replaces: Option<ConnectionId>,
    /// Everything sent from now on is lost.
    pub black: bool,
}

/// One end of a connection.
pub struct End {
    pub host: usize,
    /// The link that this end dials for, until the connection is established.
    pub dialing: Option<LinkId>,
    pub session: Option<LineSession>,
    /// Received, but not consumed.
    pub input: Vec<u8>,
    /// Not yet accepted by the network.
    pub out: Vec<u8>,
    /// The other end has closed its side.
    pub eof: bool,
    /// The session accepts no input until output has been sent.
    pub waiting: bool,
    /// Closed once `out` is empty.
    pub ending: bool,
}

/// One direction of a connection.
#[derive(Default)]
pub struct Pipe {
    pub packets: VecDeque<(Time, Packet)>,
    /// Bytes in `packets`.
    pub bytes: usize,
    /// Arrival of the last packet. Later packets do not overtake it.
    pub last: Time,
    /// The sender waits until there is room.
    pub full: bool,
    /// Bytes sent from now on are lost, because bytes before them were.
    pub broken: bool,
}

#[derive(Debug)]
pub enum Packet {
    Bytes(Vec<u8>),
    /// The sender has closed its side.
    Fin,
    /// The sender no longer knows the connection.
    Reset,
}

impl Wire {
    pub fn new(
        dialer: usize,
        link: LinkId,
        listener: usize,
        replaces: Option<ConnectionId>,
    ) -> Self {
        let mut wire = Self::from_original(dialer, listener, Vec::new());
        wire.ends[0].dialing = Some(link);
        Self { replaces, ..wire }
    }

    /// A connection that an original server opens to send `line`.
    pub fn from_original(dialer: usize, listener: usize, line: Vec<u8>) -> Self {
        let mut ends = [dialer, listener].map(|host| End {
            host,
            dialing: None,
            session: None,
            input: Vec::new(),
            out: Vec::new(),
            eof: false,
            waiting: false,
            ending: false,
        });
        ends[0].out = line;
        Self { ends, pipes: [Pipe::default(), Pipe::default()], replaces: None, black: false }
    }
}

impl End {
    /// Returns whether this end of the connection is open.
    pub const fn is_open(&self) -> bool {
        self.session.is_some() || self.dialing.is_some()
    }

    /// Drops the state of this end.
    pub fn forget(&mut self) -> Option<LineSession> {
        self.dialing = None;
        (self.input, self.out) = (Vec::new(), Vec::new());
        self.session.take()
    }
}

impl Pipe {
    pub fn push(&mut self, at: Time, packet: Packet) -> Time {
        if let Packet::Bytes(bytes) = &packet {
            if self.broken {
                return at;
            }
            self.bytes += bytes.len();
        }
        self.last = self.last.max(at);
        self.packets.push_back((self.last, packet));
        self.last
    }

    /// Removes the next packet that has arrived at `now`.
    pub fn pop(&mut self, now: Time) -> Option<Packet> {
        if self.packets.front()?.0 > now {
            return None;
        }
        let (_, packet) = self.packets.pop_front()?;
        if let Packet::Bytes(bytes) = &packet {
            self.bytes -= bytes.len();
        }
        Some(packet)
    }

    /// Drops a random number of the last bytes in transit.
    pub fn cut_short(&mut self, rng: &mut Rng) {
        self.packets.truncate(rng.index(self.packets.len() + 1));
        if let Some((_, Packet::Bytes(bytes))) = self.packets.back_mut() {
            bytes.truncate(rng.index(bytes.len() + 1));
        }
        let length =
            |packet: &Packet| if let Packet::Bytes(bytes) = packet { bytes.len() } else { 0 };
        self.bytes = self.packets.iter().map(|(_, packet)| length(packet)).sum();
    }

    pub fn clear(&mut self) {
        self.packets.clear();
        self.bytes = 0;
    }
}
