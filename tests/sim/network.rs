//! Connections between simulated machines: bytes in order, late, cut anywhere, or gone.

use std::collections::VecDeque;

use proxy_herd::herd::LinkId;
use proxy_herd::node::LineSession;

use crate::schedule::Time;
use proxy_herd::rng::Rng;

/// One connection and its two ends. Its number is the [`proxy_herd::herd::link::ConnectionId`] of
/// both.
pub struct Wire {
    pub ends: [End; 2],
    /// `pipes[i]` leads to `ends[i]`.
    pub pipes: [Pipe; 2],
    /// All that is sent from now on vanishes.
    pub black: bool,
}

/// What a node holds for a connection.
pub struct End {
    pub host: usize,
    /// This end dials for that link and has not got through yet.
    pub dialling: Option<LinkId>,
    pub session: Option<LineSession>,
    /// Received and not consumed.
    pub input: Vec<u8>,
    /// To be sent and not taken by the network yet.
    pub out: Vec<u8>,
    /// The other end has finished.
    pub eof: bool,
    /// The session takes nothing until output has left.
    pub waiting: bool,
    /// Closed as soon as `out` is empty.
    pub ending: bool,
}

/// One direction.
#[derive(Default)]
pub struct Pipe {
    pub packets: VecDeque<(Time, Packet)>,
    /// Bytes in `packets`.
    pub bytes: usize,
    /// When the last packet arrives: none overtakes it.
    pub last: Time,
    /// The sender waits for room.
    pub full: bool,
    /// Bytes that are sent from now on vanish: none may follow a gap.
    pub broken: bool,
}

#[derive(Debug)]
pub enum Packet {
    Bytes(Vec<u8>),
    /// The sender has finished.
    Fin,
    /// The sender knows no such connection any more.
    Reset,
}

impl Wire {
    pub fn new(dialler: usize, link: LinkId, listener: usize) -> Self {
        let mut ends = [dialler, listener].map(|host| End {
            host,
            dialling: None,
            session: None,
            input: Vec::new(),
            out: Vec::new(),
            eof: false,
            waiting: false,
            ending: false,
        });
        ends[0].dialling = Some(link);
        Self { ends, pipes: [Pipe::default(), Pipe::default()], black: false }
    }
}

impl End {
    /// Whether this end knows of the connection.
    pub const fn is_open(&self) -> bool {
        self.session.is_some() || self.dialling.is_some()
    }

    /// Forgets the connection.
    pub fn forget(&mut self) -> Option<LineSession> {
        self.dialling = None;
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

    /// The next packet that has arrived at `now`.
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

    /// Of what is on its way only a part arrives.
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
