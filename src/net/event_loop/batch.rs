//! The buffers of the phases of a turn.

use core::ops::Range;

use mio::Token;

use crate::limits::Limits;
use crate::net::limits::BATCH_BYTES;
use crate::node::store::Gated;

/// Connections that are served together: their input, and the replies to it.
///
/// One buffer of each kind serves all connections, so an idle connection holds none, and a command
/// in steady state allocates nothing.
#[derive(Default)]
pub struct Batch {
    /// Input of all entries, one after the other.
    pub inbound: Vec<u8>,
    /// Replies of the entries that have been executed and not been sent.
    pub outbound: Vec<u8>,
    /// The connections, in the order in which they are executed.
    pub entries: Vec<Entry>,
    /// Bytes of `inbound` in use.
    used: usize,
    /// Most bytes that one connection needs.
    most: usize,
}

/// One connection of a batch.
pub struct Entry {
    /// The connection.
    pub token: Token,
    /// Its input in [`Batch::inbound`]; `None` if there is nothing to execute.
    pub input: Option<Range<usize>>,
    /// Its replies in [`Batch::outbound`].
    pub output: Range<usize>,
    /// The part of the replies that waits for the disk.
    pub gated: Option<Gated>,
}

impl Batch {
    /// An empty batch. `most` is the most bytes of input that one connection needs.
    #[must_use]
    pub fn new(limits: &Limits, link: usize) -> Self {
        let most = limits.max_input_buffer.max(link);
        Self { inbound: vec![0; most.max(BATCH_BYTES)], most, ..Self::default() }
    }

    /// Returns true if there may be no room for another connection until the batch is executed.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.inbound.len() - self.used < self.most
    }

    /// The part of `inbound` that is free.
    pub fn free(&mut self) -> &mut [u8] {
        &mut self.inbound[self.used..]
    }

    /// Adds a connection whose input is the first `length` bytes of [`Batch::free`].
    pub fn push(&mut self, token: Token, length: usize) {
        let end = self.used + length;
        self.entries.push(Entry { token, input: Some(self.used..end), output: 0..0, gated: None });
        self.used = end;
    }

    /// Adds a connection that has nothing to execute.
    pub fn push_idle(&mut self, token: Token) {
        self.entries.push(Entry { token, input: None, output: 0..0, gated: None });
    }

    /// Returns true if `token` is the connection that was added last.
    #[must_use]
    pub fn contains_last(&self, token: Token) -> bool {
        self.entries.last().is_some_and(|entry| entry.token == token)
    }

    /// Empties the batch.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.outbound.clear();
        self.used = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::limits::READ_CHUNK;

    fn limits(max_input_buffer: usize) -> Limits {
        Limits { max_input_buffer, ..Limits::default() }
    }

    #[test]
    fn inputs_follow_one_another() {
        let mut batch = Batch::new(&limits(1), 1);
        for (token, input) in [(1, &b"one"[..]), (2, b""), (3, b"three")] {
            batch.free()[..input.len()].copy_from_slice(input);
            batch.push(Token(token), input.len());
        }
        batch.push_idle(Token(4));
        let inputs = batch.entries.iter().map(|entry| entry.input.clone());
        let inputs: Vec<_> = inputs.map(|range| range.map(|range| &batch.inbound[range])).collect();
        assert_eq!(inputs, [Some(&b"one"[..]), Some(b""), Some(b"three"), None]);
        let room = batch.inbound.len();
        batch.clear();
        assert!(batch.entries.is_empty());
        assert_eq!(batch.free().len(), room);
    }

    /// A connection may fill what it needs as long as the batch is not full.
    #[test]
    fn there_is_room_for_one_more_connection_until_the_batch_is_full() {
        for (client, link) in [(1 << 20, READ_CHUNK), (36_864, 2 * READ_CHUNK)] {
            let most = client.max(link);
            let mut batch = Batch::new(&limits(client), link);
            let mut connections = 0;
            while !batch.is_full() {
                assert!(batch.free().len() >= most);
                batch.push(Token(0), most);
                connections += 1;
            }
            assert_eq!(connections, (BATCH_BYTES / most).max(1));
        }
    }
}
